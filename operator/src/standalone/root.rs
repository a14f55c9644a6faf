//! The root in a file that only its user can read.

use std::io;
use std::path::PathBuf;

use heddle_identity::{Created, RootPem, RootStore};

use super::files::{create_private, private_directory, read_private};

/// Why the root cannot be read or kept.
#[derive(Debug, thiserror::Error)]
pub enum FileRootError {
    /// The file.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// What is in it.
    #[error("{path}: it holds no certificate with its private key")]
    Content {
        /// The file.
        path: String,
    },
}

/// Keeps the root in `<directory>/root.pem`.
#[derive(Clone, Debug)]
pub struct FileRoot(PathBuf);

impl FileRoot {
    /// A store in the directory, which is made if it is not there.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn new(directory: PathBuf) -> io::Result<Self> {
        private_directory(&directory)?;
        Ok(Self(directory.join("root.pem")))
    }
}

impl RootStore for FileRoot {
    type Error = FileRootError;

    async fn load(&self) -> Result<Option<RootPem>, FileRootError> {
        let Some(text) = read_private(&self.0)? else {
            return Ok(None);
        };
        let content = || FileRootError::Content {
            path: self.0.display().to_string(),
        };
        let (mut certificates, mut private_key) = (String::new(), String::new());
        for block in pem::parse_many(text).map_err(|_| content())? {
            let place = if block.tag() == "CERTIFICATE" {
                &mut certificates
            } else {
                &mut private_key
            };
            place.push_str(&pem::encode(&block));
        }
        if certificates.is_empty() || private_key.is_empty() {
            Err(content())
        } else {
            Ok(Some(RootPem {
                certificates,
                private_key,
            }))
        }
    }

    async fn create(&self, root: &RootPem) -> Result<Created, FileRootError> {
        let content = format!("{}{}", root.certificates, root.private_key);
        Ok(if create_private(&self.0, content.as_bytes())? {
            Created::Yes
        } else {
            Created::AlreadyThere
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[tokio::test]
    async fn the_root_is_made_once_and_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let store = FileRoot::new(directory.path().join("ca")).unwrap();
        let domain = "cluster.local".parse().unwrap();
        let first = heddle_identity::open(&store, &domain, SystemTime::now())
            .await
            .unwrap();
        let again = heddle_identity::open(&store, &domain, SystemTime::now())
            .await
            .unwrap();
        assert_eq!(first.fingerprint(), again.fingerprint());
        std::fs::write(&store.0, "rubbish").unwrap();
        let error = heddle_identity::open(&store, &domain, SystemTime::now())
            .await
            .unwrap_err();
        assert!(format!("{error:?}").contains("Content"), "{error:?}");
    }
}
