//! Workload tokens as files: a secret per meshed pod that only the user of the control plane can read.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use futures::FutureExt;
use futures::future::BoxFuture;
use heddle_policy_compiler::PodRef;
use ring::rand::{SecureRandom, SystemRandom};
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use super::files::{private_directory, read_private, write_private};
use crate::issuing::{Caller, TokenAuthenticator, TokenError};
use crate::snapshot::{Snapshot, Snapshots};
use crate::tasks::Ended;

/// 256 bits in hexadecimal.
const LENGTH: usize = 64;

type Fingerprint = [u8; 32];

/// The tokens of all meshed pods.
#[derive(Debug)]
pub struct TokenFiles {
    directory: PathBuf,
    /// By the hash of the token, so that the time of a look-up reveals nothing, and no token stays in memory.
    callers: RwLock<BTreeMap<Fingerprint, Caller>>,
}

impl TokenFiles {
    /// Tokens in a directory, which is made if it is not there.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn open(directory: PathBuf) -> io::Result<Self> {
        private_directory(&directory)?;
        Ok(Self {
            directory,
            callers: RwLock::default(),
        })
    }

    /// Keeps a token for each meshed pod, and none for others.
    ///
    /// # Errors
    /// When a token cannot be written, or the compile loop is gone.
    pub async fn follow(
        self: Arc<Self>,
        mut snapshots: Snapshots,
        stop: CancellationToken,
    ) -> Ended {
        loop {
            let newest = snapshots.borrow_and_update().clone();
            if let Some(snapshot) = newest {
                self.update(&snapshot)?;
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                changed = snapshots.changed() => changed.map_err(|_| "the compile loop is gone")?,
            }
        }
    }

    fn update(&self, snapshot: &Snapshot) -> io::Result<()> {
        let pods: BTreeSet<&PodRef> = snapshot.compiled.proxies.keys().collect();
        let known: BTreeMap<PodRef, (Fingerprint, Caller)> = {
            let callers = self.callers.read().unwrap_or_else(PoisonError::into_inner);
            callers
                .iter()
                .map(|(print, caller)| (caller.pod.clone(), (*print, caller.clone())))
                .collect()
        };
        let mut fresh = BTreeMap::new();
        for pod in &pods {
            let Some(service_account) = snapshot.service_account(pod) else {
                continue;
            };
            let print = match known.get(*pod) {
                Some((print, _)) => *print,
                None => self.token(pod)?,
            };
            fresh.insert(
                print,
                Caller {
                    pod: (*pod).clone(),
                    service_account,
                    zone: None,
                },
            );
        }
        *self.callers.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        for pod in known.keys().filter(|pod| !pods.contains(pod)) {
            std::fs::remove_file(self.path(pod)).or_else(|error| {
                if error.kind() == io::ErrorKind::NotFound {
                    Ok(())
                } else {
                    Err(error)
                }
            })?;
        }
        Ok(())
    }

    /// The pod's token of an earlier run, or a new one.
    fn token(&self, pod: &PodRef) -> io::Result<Fingerprint> {
        let path = self.path(pod);
        let old = read_private(&path).ok().flatten();
        let sound = |token: &String| {
            token.len() == LENGTH && token.bytes().all(|byte| byte.is_ascii_hexdigit())
        };
        if let Some(token) = old.filter(sound) {
            return Ok(fingerprint(&token));
        }
        let token = random()?;
        write_private(&path, token.as_bytes())?;
        Ok(fingerprint(&token))
    }

    fn path(&self, pod: &PodRef) -> PathBuf {
        // Neither part can hold a `_` or a `/`: the names come from checked objects, and are checked here again.
        let plain = |part: &str| part.replace(['/', '_', '\0'], "-");
        self.directory
            .join(format!("{}_{}", plain(&pod.namespace), plain(&pod.name)))
    }
}

impl TokenAuthenticator for TokenFiles {
    fn authenticate<'a>(
        &'a self,
        token: &'a str,
        _: IpAddr,
    ) -> BoxFuture<'a, Result<Caller, TokenError>> {
        let callers = self.callers.read().unwrap_or_else(PoisonError::into_inner);
        let caller = callers.get(&fingerprint(token)).cloned();
        std::future::ready(
            caller.ok_or_else(|| TokenError::Invalid("it is not a token of a pod".to_owned())),
        )
        .boxed()
    }
}

fn random() -> io::Result<String> {
    let mut bytes = [0u8; LENGTH / 2];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| io::Error::other("the system gives no randomness"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn fingerprint(token: &str) -> Fingerprint {
    Sha256::digest(token.trim().as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_token_is_its_pods_and_is_kept_over_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let pod = PodRef::new("shop", "cart-1");
        let tokens = TokenFiles::open(directory.path().to_owned()).unwrap();
        let print = tokens.token(&pod).unwrap();
        assert_eq!(print, tokens.token(&pod).unwrap());
        let caller = Caller {
            pod: pod.clone(),
            service_account: "cart".into(),
            zone: None,
        };
        tokens
            .callers
            .write()
            .unwrap()
            .insert(print, caller.clone());
        let text = std::fs::read_to_string(directory.path().join("shop_cart-1")).unwrap();
        let source = IpAddr::from([127, 0, 0, 1]);
        assert_eq!(tokens.authenticate(&text, source).await, Ok(caller));
        assert!(matches!(
            tokens.authenticate("0000", source).await,
            Err(TokenError::Invalid(_))
        ));
    }
}
