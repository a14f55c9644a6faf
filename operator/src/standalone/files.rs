//! Files that are written whole or not at all.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Makes a directory that only its user can enter. An existing one is left as it is.
pub(super) fn private_directory(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    if path.is_dir() {
        return Ok(());
    }
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| about(path, error))
}

/// Writes a file beside its place and moves it there: a reader sees the old or the new content, never a part.
///
/// # Errors
/// When the file cannot be written; the error names it.
pub fn write_atomically(path: &Path, content: &[u8]) -> io::Result<()> {
    let beside = beside(path);
    fs::write(&beside, content)
        .and_then(|()| fs::rename(&beside, path))
        .map_err(|error| about(path, error))
}

/// Writes a file that only its user can read, in place of any there.
///
/// # Errors
/// When the file cannot be written; the error names it.
pub fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let beside = beside(path);
    private(&beside, content)
        .and_then(|()| fs::rename(&beside, path))
        .map_err(|error| about(path, error))
}

/// Writes a file that only its user can read, unless one is there. Returns whether it was written.
///
/// # Errors
/// When the file cannot be written; the error names it.
pub(super) fn create_private(path: &Path, content: &[u8]) -> io::Result<bool> {
    let beside = beside(path);
    private(&beside, content).map_err(|error| about(path, error))?;
    // A link, unlike a rename, never replaces.
    let linked = fs::hard_link(&beside, path);
    fs::remove_file(&beside).map_err(|error| about(path, error))?;
    match linked {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(about(path, error)),
    }
}

/// Reads a small file that only its user can read; `None` if it is not there.
///
/// # Errors
/// When it cannot be read, or others can read it too.
pub fn read_private(path: &Path) -> io::Result<Option<String>> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(about(path, error)),
    };
    let mode = file.metadata()?.permissions().mode();
    if mode & 0o077 != 0 {
        let why = format!(
            "others can read it (mode {:o}): remove it, or `chmod 600` it",
            mode & 0o777
        );
        return Err(about(
            path,
            io::Error::new(io::ErrorKind::PermissionDenied, why),
        ));
    }
    let mut text = String::new();
    file.read_to_string(&mut text)
        .map_err(|error| about(path, error))?;
    Ok(Some(text))
}

fn private(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    // The mode above is for a new file only.
    file.set_permissions(Permissions::from_mode(0o600))?;
    file.write_all(content)?;
    file.sync_all()
}

fn beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}", std::process::id()))
}

pub(super) fn about(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_file_is_created_once_and_read_only_if_private() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        assert_eq!(read_private(&path).unwrap(), None);
        assert!(create_private(&path, b"one").unwrap());
        assert!(!create_private(&path, b"two").unwrap());
        assert_eq!(read_private(&path).unwrap().as_deref(), Some("one"));
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        assert!(
            read_private(&path)
                .unwrap_err()
                .to_string()
                .contains("mode 644")
        );
        write_private(&path, b"three").unwrap();
        assert_eq!(read_private(&path).unwrap().as_deref(), Some("three"));
        assert_eq!(
            fs::read_dir(directory.path()).unwrap().count(),
            1,
            "nothing is left beside"
        );
    }
}
