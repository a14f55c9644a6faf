//! The private directory of the sockets and the bootstrap.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// A directory that only this user can enter.
#[derive(Debug, Clone)]
pub(crate) struct PrivateDir(PathBuf);

/// The kernel's limit of a socket's path, without the closing zero.
const MAX_SOCKET_PATH: usize = 107;

impl PrivateDir {
    /// Makes `wanted` private. A mounted volume belongs to root: then a directory inside it is ours.
    pub(crate) fn open(wanted: &Path) -> Result<Self> {
        let dir = match claim(wanted)? {
            Claim::Ours => wanted.to_owned(),
            Claim::Others => {
                let inside = wanted.join("agent");
                match claim(&inside)? {
                    Claim::Ours => inside,
                    Claim::Others => bail!("{} belongs to another user", inside.display()),
                }
            }
        };
        let dir = Self(dir);
        for socket in [dir.sds(), dir.admin(), dir.agent(), dir.metrics()] {
            if socket.as_os_str().len() > MAX_SOCKET_PATH {
                bail!(
                    "HEDDLE_RUNTIME_DIR is too long: {} has more than {MAX_SOCKET_PATH} bytes",
                    socket.display()
                );
            }
        }
        Ok(dir)
    }

    pub(crate) fn sds(&self) -> PathBuf {
        self.0.join("sds.sock")
    }

    pub(crate) fn admin(&self) -> PathBuf {
        self.0.join("admin.sock")
    }

    pub(crate) fn agent(&self) -> PathBuf {
        self.0.join("agent.sock")
    }

    pub(crate) fn metrics(&self) -> PathBuf {
        self.0.join("metrics.sock")
    }

    pub(crate) fn bootstrap(&self) -> PathBuf {
        self.0.join("envoy.json")
    }
}

enum Claim {
    Ours,
    Others,
}

fn claim(dir: &Path) -> Result<Claim> {
    match DirBuilder::new().recursive(true).mode(0o700).create(dir) {
        Ok(()) => {}
        Err(error) => {
            return Err(error)
                .with_context(|| format!("the directory {} can't be made", dir.display()));
        }
    }
    // Not through a link: another user might have laid it.
    let found = fs::symlink_metadata(dir)?;
    if !found.is_dir() || found.uid() != nix::unistd::geteuid().as_raw() {
        return Ok(Claim::Others);
    }
    fs::set_permissions(dir, Permissions::from_mode(0o700))?;
    Ok(Claim::Ours)
}

/// Removes a file that a former run may have left.
pub(crate) fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("{} is in the way", path.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_is_private_whatever_it_was() {
        let base = tempfile::tempdir().unwrap();
        let there = base.path().join("there");
        fs::create_dir(&there).unwrap();
        fs::set_permissions(&there, Permissions::from_mode(0o777)).unwrap();
        for wanted in [there, base.path().join("new/deep")] {
            let dir = PrivateDir::open(&wanted).unwrap();
            assert_eq!(fs::metadata(&dir.0).unwrap().mode() & 0o777, 0o700);
        }
        let long = base.path().join("x".repeat(120));
        assert!(
            PrivateDir::open(&long)
                .unwrap_err()
                .to_string()
                .contains("too long")
        );
    }
}
