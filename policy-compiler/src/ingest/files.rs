//! Which files of a folder are read: one rule for `heddle compile` and the standalone control plane, much as `kubectl` has it.

use std::path::Path;

/// The use of an entry for a reader of folders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FolderEntry {
    /// It holds objects.
    Objects,
    /// It is a folder, to be read in the same way.
    Folder,
    /// It is a link to a folder. It is not followed: each file is read once, even if links lead back to their own folder.
    LinkToFolder,
    /// It is not read.
    Other,
}

impl FolderEntry {
    /// Judges an entry of a folder by its path. Links to files are files.
    #[must_use]
    pub fn of(path: &Path, is_folder: bool, is_link: bool) -> Self {
        // Editors and mounts keep hidden things beside the real ones.
        let hidden = |name: &std::ffi::OsStr| name.to_string_lossy().starts_with('.');
        if path.file_name().is_none_or(hidden) {
            return Self::Other;
        }
        if is_folder {
            return if is_link {
                Self::LinkToFolder
            } else {
                Self::Folder
            };
        }
        let extension = path.extension().and_then(|extension| extension.to_str());
        let objects = matches!(extension, Some("yaml" | "yml" | "json"));
        // A file for kustomize holds no object.
        let kustomization = path.file_stem().is_some_and(|stem| stem == "kustomization");
        if objects && !kustomization {
            Self::Objects
        } else {
            Self::Other
        }
    }
}

#[cfg(test)]
mod tests {
    use super::FolderEntry::{Folder, LinkToFolder, Objects, Other};
    use super::*;

    #[test]
    fn files_with_objects_and_folders_are_read_and_hidden_ones_are_not() {
        for (path, is_folder, is_link, expected) in [
            ("a/b.yaml", false, false, Objects),
            ("a/b.yml", false, true, Objects),
            ("a/b.json", false, false, Objects),
            ("a/b.txt", false, false, Other),
            ("a/yaml", false, false, Other),
            ("a/.b.yaml", false, false, Other),
            ("a/kustomization.yaml", false, false, Other),
            ("a/kustomization.yml", false, false, Other),
            ("a/kustomization", true, false, Folder),
            ("a/b", true, false, Folder),
            ("a/b.yaml", true, false, Folder),
            ("a/.b", true, false, Other),
            ("a/b", true, true, LinkToFolder),
            ("..", true, false, Other),
        ] {
            let got = FolderEntry::of(Path::new(path), is_folder, is_link);
            assert_eq!(got, expected, "{path}");
        }
    }
}
