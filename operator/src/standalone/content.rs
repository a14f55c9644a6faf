//! The files of the directory, and the content of each.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use heddle_policy_compiler::ingest::{FolderEntry, Manifest, Manifests, parse_yaml};
use heddle_policy_compiler::{Finding, ObjectKind, ObjectRef, Severity};

/// Folders within folders, at most.
const MAX_DEPTH: usize = 16;
/// Files, at most.
const MAX_FILES: usize = 10_000;
/// Bytes of one file, at most.
const MAX_BYTES: u64 = 4 << 20;

/// The properties by which a file is unchanged: time of change, length, and the file itself, for a rename puts another in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    changed: (i64, i64),
    length: u64,
    inode: u64,
}

/// All files of a directory that hold objects.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// The files.
    pub(super) files: BTreeMap<PathBuf, Stamp>,
    /// The parts of the directory that are not read, and why.
    pub(super) findings: Vec<Finding>,
    /// Whether the directory could be read, so that a file that is not listed is gone.
    pub(super) whole: bool,
    /// Whether a bound cut the listing off, so that a file that is not listed may still be there.
    cut: bool,
}

impl Listing {
    /// Lists a directory.
    pub(super) fn of(path: &Path) -> Self {
        let mut listing = Self::default();
        match listing.list(path, 0) {
            Ok(()) => listing.whole = !listing.cut,
            Err(error) => listing.findings.push(unreadable(path, &error)),
        }
        listing
    }

    /// Adds the files of a folder.
    fn list(&mut self, path: &Path, depth: usize) -> io::Result<()> {
        // Sorted, so that a bound leaves out the same files each time.
        let entries: BTreeSet<PathBuf> = fs::read_dir(path)?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<io::Result<_>>()?;
        for path in entries {
            let metadata = match fs::metadata(&path) {
                Ok(metadata) => metadata,
                // It went away in this moment, or is a link to nowhere.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            match FolderEntry::of(&path, metadata.is_dir(), path.is_symlink()) {
                FolderEntry::Objects if metadata.is_file() => self.add(path, &metadata),
                FolderEntry::Folder if depth == MAX_DEPTH => {
                    self.cut = true;
                    let message = format!("folders more than {MAX_DEPTH} deep are not read");
                    self.left_out(&path, "TooDeep", message, "move the files up");
                }
                FolderEntry::Folder => self.list(&path, depth + 1)?,
                FolderEntry::LinkToFolder => {
                    let message = "a link to a folder is not followed";
                    let fix = "put the folder itself in its place";
                    self.left_out(&path, "LinkNotFollowed", message, fix);
                }
                FolderEntry::Objects | FolderEntry::Other => {}
            }
        }
        Ok(())
    }

    fn add(&mut self, path: PathBuf, metadata: &fs::Metadata) {
        if self.files.len() == MAX_FILES {
            let message = format!("more than {MAX_FILES} files are not read");
            self.cut = true;
            // One finding is enough for any number of files.
            if self
                .findings
                .iter()
                .all(|finding| finding.code != "TooMany")
            {
                self.left_out(&path, "TooMany", message, "write more objects into a file");
            }
            return;
        }
        let stamp = Stamp {
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            length: metadata.len(),
            inode: metadata.ino(),
        };
        self.files.insert(path, stamp);
    }

    fn left_out(&mut self, path: &Path, code: &'static str, message: impl Into<String>, fix: &str) {
        let object = ObjectRef::cluster(ObjectKind::Document, &path.display().to_string());
        let finding = Finding::warning(&object, "", code, message);
        self.findings.push(finding.fix(fix));
    }
}

/// The content of one file.
#[derive(Debug)]
pub(super) struct Content {
    /// The file at the time of reading.
    pub(super) stamp: Stamp,
    /// Its objects.
    pub(super) manifests: Vec<Manifest>,
    /// Its problems.
    pub(super) findings: Vec<Finding>,
}

impl Content {
    /// Reads a file. An object of the old content that cannot be read now stays as it was.
    pub(super) fn read(path: &Path, name: &str, stamp: Stamp, old: Option<Self>) -> Self {
        let Manifests {
            objects: mut manifests,
            findings,
            ..
        } = match text(path, stamp) {
            Ok(text) => parse_yaml(name, &text),
            Err(error) => Manifests {
                findings: vec![unreadable(Path::new(name), &error)],
                ..Manifests::default()
            },
        };
        let errors: Vec<&ObjectRef> = findings
            .iter()
            .filter(|finding| finding.severity == Severity::Error)
            .map(|finding| &finding.object)
            .collect();
        // A document that is not YAML may have been any of the objects that are missing now.
        let any = errors
            .iter()
            .any(|object| object.kind == ObjectKind::Document);
        for before in old.map(|old| old.manifests).unwrap_or_default() {
            let missing = !manifests
                .iter()
                .any(|now| now.reference == before.reference);
            if missing && (any || errors.contains(&&before.reference)) {
                manifests.push(before);
            }
        }
        Self {
            stamp,
            manifests,
            findings,
        }
    }
}

fn text(path: &Path, stamp: Stamp) -> io::Result<String> {
    if stamp.length > MAX_BYTES {
        let bound = MAX_BYTES >> 20;
        return Err(io::Error::other(format!(
            "the file is larger than {bound} MiB"
        )));
    }
    fs::read_to_string(path)
}

fn unreadable(path: &Path, error: &io::Error) -> Finding {
    let file = ObjectRef::cluster(ObjectKind::Document, &path.display().to_string());
    Finding::error(&file, "", "Unreadable", error.to_string())
        .fix("until the file can be read, its last content counts")
}
