//! The root in a file that only its user can read, beside the trust bundle. If the bundle exists and the root does not, the
//! root is lost; if both are missing, the mesh is new.

use std::io;
use std::path::{Path, PathBuf};

use heddle_identity::{Ca, Created, RootPem, RootStore, fingerprint_of};

use super::files::{about, create_private, private_directory, read_private, write_atomically};

/// Why the root cannot be read or kept.
#[derive(Debug, thiserror::Error)]
pub enum FileRootError {
    /// The file.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The content of the file is not valid.
    #[error("{path} is not {content}; {fix}")]
    Content {
        /// The file.
        path: String,
        /// The content that it should have.
        content: &'static str,
        /// The instruction that mends it.
        fix: &'static str,
    },
}

/// Keeps the root in `<runtime>/ca/root.pem`, and its certificate in `<runtime>/trust-bundle.pem`.
#[derive(Clone, Debug)]
pub struct FileRoot {
    root: PathBuf,
    bundle: PathBuf,
}

impl FileRoot {
    /// A store in the runtime directory.
    ///
    /// # Errors
    /// When the directory of the root cannot be made.
    pub fn new(runtime: &Path) -> io::Result<Self> {
        let directory = runtime.join("ca");
        private_directory(&directory)?;
        Ok(Self {
            root: directory.join("root.pem"),
            bundle: runtime.join("trust-bundle.pem"),
        })
    }
}

impl RootStore for FileRoot {
    type Error = FileRootError;

    async fn load(&self) -> Result<Option<RootPem>, FileRootError> {
        let Some(text) = read_private(&self.root)? else {
            return Ok(None);
        };
        let content = || FileRootError::Content {
            path: self.root.display().to_string(),
            content: "the certificate and the private key of the root in PEM",
            fix: "put back a copy of the file; or delete it and trust-bundle.pem: a new root is made, and all sidecars have to start again",
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
        Ok(if create_private(&self.root, content.as_bytes())? {
            Created::Yes
        } else {
            Created::AlreadyThere
        })
    }

    async fn remembered(&self) -> Result<Option<String>, FileRootError> {
        match std::fs::read(&self.bundle) {
            Ok(bundle) => match fingerprint_of(&bundle) {
                Some(fingerprint) => Ok(Some(fingerprint)),
                None => Err(FileRootError::Content {
                    path: self.bundle.display().to_string(),
                    content: "the certificate of the root in PEM",
                    fix: "put back ca/root.pem if it is missing, then delete this file: it is written again",
                }),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(about(&self.bundle, error).into()),
        }
    }

    async fn remember(&self, ca: &Ca) -> Result<(), FileRootError> {
        Ok(write_atomically(
            &self.bundle,
            ca.trust_bundle().as_bytes(),
        )?)
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use heddle_identity::{OpenError, open};

    use super::*;

    #[tokio::test]
    async fn the_root_is_made_once_and_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let store = FileRoot::new(directory.path()).unwrap();
        let (domain, now) = ("cluster.local".parse().unwrap(), SystemTime::now());
        let first = open(&store, &domain, now).await.unwrap();
        let again = open(&store, &domain, now).await.unwrap();
        assert_eq!(first.ca.fingerprint(), again.ca.fingerprint());
        std::fs::write(&store.root, "rubbish").unwrap();
        let error = open(&store, &domain, now).await.unwrap_err();
        assert!(format!("{error:?}").contains("Content"), "{error:?}");
    }

    #[tokio::test]
    async fn a_lost_root_is_told_by_the_trust_bundle() {
        let directory = tempfile::tempdir().unwrap();
        let store = FileRoot::new(directory.path()).unwrap();
        let (domain, now) = ("cluster.local".parse().unwrap(), SystemTime::now());
        open(&store, &domain, now).await.unwrap();
        std::fs::remove_file(&store.root).unwrap();
        let error = open(&store, &domain, now).await.unwrap_err();
        assert!(matches!(error, OpenError::Lost { .. }), "{error:?}");
        std::fs::write(&store.bundle, "").unwrap();
        let error = open(&store, &domain, now).await.unwrap_err();
        assert!(matches!(error, OpenError::Store(_)), "{error:?}");
        std::fs::remove_file(&store.bundle).unwrap();
        open(&store, &domain, now).await.unwrap();
    }
}
