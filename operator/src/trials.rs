//! Trials: an Envoy of the control plane's own validates each resource that a proxy rejected. A rejection alone counts for the
//! proxy that made it; an object is set aside for everybody only after its resource failed its trial.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use heddle_policy_compiler::{Resource, ResourceKey, trial_bootstrap};
use tokio::process::Command;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::tasks::Ended;

/// Where the operator's image has Envoy.
const IN_IMAGE: &str = "/usr/local/bin/envoy";
/// One validation takes some 50 ms of CPU; a node under load may take much longer.
const TIMEOUT: Duration = Duration::from_secs(30);
/// A trial that could not be run is tried again after this.
const RETRY: Duration = Duration::from_secs(30);
/// The start of Envoy's last line about an invalid configuration.
const INVALID: &str = "error initializing configuration";

/// The result of a trial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trial {
    /// The trial has not ended yet.
    Open,
    /// The control plane's own Envoy accepts the resource: the rejection is the proxy's own affair.
    Accepted,
    /// It rejects the resource, too, with this text.
    Rejected(Arc<str>),
    /// There is no such Envoy, or it could not be run.
    Unavailable,
    /// No policy takes part in the resource, so a trial could set nothing aside.
    Needless,
}

/// One version of one resource.
pub(crate) type ResourceVersion = (ResourceKey, Arc<str>);

/// The kind, name and version of a resource.
pub(crate) fn version_of(resource: &Resource) -> ResourceVersion {
    (resource.key.clone(), Arc::clone(&resource.version))
}

/// All trials. They run one at a time; identities take turns, so that one that rejects everything delays no other.
#[derive(Debug)]
pub struct Trials {
    envoy: Option<OwnEnvoy>,
    state: Mutex<State>,
    wake: Notify,
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    results: HashMap<ResourceVersion, Trial>,
    /// By the identity of the proxy that rejected the resources.
    waiting: BTreeMap<Arc<str>, BTreeMap<ResourceVersion, Arc<Resource>>>,
    /// The identity of the last trial.
    last: Option<Arc<str>>,
}

impl Trials {
    /// Trials by the given Envoy, else by that of the operator's image. The configurations to validate are written into the folder.
    #[must_use]
    pub fn new(envoy: Option<PathBuf>, folder: &Path) -> Self {
        let path = envoy.unwrap_or_else(|| PathBuf::from(IN_IMAGE));
        let envoy = path.is_file().then(|| OwnEnvoy {
            file: folder.join(format!("heddle-trial-{}.pb", std::process::id())),
            binary: path.clone(),
        });
        match &envoy {
            Some(_) => {
                tracing::info!(envoy = %path.display(), "rejections by proxies are verified by this Envoy")
            }
            None => {
                tracing::warn!(envoy = %path.display(), "Envoy not found: rejections by proxies cannot be verified, and no object is set aside; set HEDDLE_ENVOY")
            }
        }
        Self {
            envoy,
            state: Mutex::default(),
            wake: Notify::new(),
            changed: watch::Sender::new(0),
        }
    }

    /// The trial of a resource that a proxy of the identity rejected; begins one if there is none. Returns also whether this
    /// rejection is new.
    pub fn of(&self, identity: &str, resource: &Arc<Resource>) -> (Trial, bool) {
        let version = version_of(resource);
        let mut state = self.lock();
        let known = state.results.get(&version).cloned();
        match known {
            Some(Trial::Open | Trial::Needless) | None if self.envoy.is_some() => {
                let waiting = state.waiting.entry(identity.into()).or_default();
                let new = waiting.insert(version.clone(), Arc::clone(resource));
                state.results.insert(version, Trial::Open);
                self.wake.notify_one();
                (Trial::Open, new.is_none())
            }
            Some(trial) => (trial, false),
            None => {
                state.results.insert(version, Trial::Unavailable);
                (Trial::Unavailable, true)
            }
        }
    }

    /// Sets the result of a trial.
    #[cfg(test)]
    pub(crate) fn decide(&self, resource: &Resource, trial: Trial) {
        self.lock().results.insert(version_of(resource), trial);
    }

    /// Keeps a rejected resource from being tried; see [`Trial::Needless`]. Returns also whether this rejection is new.
    pub fn needless(&self, resource: &Resource) -> (Trial, bool) {
        let mut state = self.lock();
        let version = version_of(resource);
        // Another proxy may have the same version from a policy.
        let new = !state.results.contains_key(&version);
        let trial = state.results.entry(version).or_insert(Trial::Needless);
        (trial.clone(), new)
    }

    /// The result of a trial as far as it is known.
    #[must_use]
    pub fn result(&self, resource: &Resource) -> Trial {
        let state = self.lock();
        let known = state.results.get(&version_of(resource)).cloned();
        known.unwrap_or(match self.envoy {
            Some(_) => Trial::Open,
            None => Trial::Unavailable,
        })
    }

    /// Drops the trials of all resources but these.
    pub(crate) fn retain(&self, rejected: &HashSet<ResourceVersion>) {
        let mut state = self.lock();
        state
            .results
            .retain(|version, _| rejected.contains(version));
        for waiting in state.waiting.values_mut() {
            waiting.retain(|version, _| rejected.contains(version));
        }
        state.waiting.retain(|_, waiting| !waiting.is_empty());
    }

    /// Ticks with every result.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Runs the trials, until told to stop.
    ///
    /// # Errors
    /// None; it ends when it is told to.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) -> Ended {
        loop {
            let Some(resource) = self.next() else {
                tokio::select! {
                    () = stop.cancelled() => return Ok(()),
                    () = self.wake.notified() => {}
                    () = tokio::time::sleep(RETRY) => self.retry(),
                }
                continue;
            };
            let trial = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                trial = self.hold(&resource) => trial,
            };
            self.end(version_of(&resource), trial);
            self.changed.send_modify(|tick| *tick += 1);
        }
    }

    /// The next resource to try: that of the identity after the last one.
    fn next(&self) -> Option<Arc<Resource>> {
        let mut state = self.lock();
        let after = state.last.take();
        let later = state
            .waiting
            .keys()
            .find(|identity| Some(*identity) > after.as_ref());
        let identity = Arc::clone(later.or_else(|| state.waiting.keys().next())?);
        let waiting = state.waiting.get_mut(&identity)?;
        let (_, resource) = waiting.pop_first()?;
        if waiting.is_empty() {
            state.waiting.remove(&identity);
        }
        state.last = Some(identity);
        Some(resource)
    }

    /// Stores a result, and removes the resource from the queues of all identities.
    fn end(&self, version: ResourceVersion, trial: Trial) {
        let mut state = self.lock();
        for waiting in state.waiting.values_mut() {
            waiting.remove(&version);
        }
        state.waiting.retain(|_, waiting| !waiting.is_empty());
        state.results.insert(version, trial);
    }

    async fn hold(&self, resource: &Arc<Resource>) -> Trial {
        let Some(envoy) = &self.envoy else {
            return Trial::Unavailable;
        };
        let trial = envoy.validate(Some(resource)).await;
        let trial = match trial {
            Ok(Some(text)) => match envoy.validate(None).await {
                Ok(None) => Ok(Trial::Rejected(text.into())),
                // An Envoy that rejects everything proves nothing.
                Ok(Some(text)) => Err(io::Error::other(text)),
                Err(error) => Err(error),
            },
            Ok(None) => Ok(Trial::Accepted),
            Err(error) => Err(error),
        };
        if let Err(error) = &trial {
            tracing::error!(%error, resource = %resource.key, "a rejection could not be verified; it counts for its proxy only");
        }
        trial.unwrap_or(Trial::Unavailable)
    }

    /// Forgets trials that could not be run. A proxy that still rejects the resource starts another trial.
    fn retry(&self) {
        let mut state = self.lock();
        let before = state.results.len();
        state
            .results
            .retain(|_, trial| *trial != Trial::Unavailable);
        let again = self.envoy.is_some() && state.results.len() < before;
        drop(state);
        if again {
            self.changed.send_modify(|tick| *tick += 1);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves the maps whole: every change is a plain insert or remove.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The control plane's own Envoy. It opens no socket and connects to nothing.
#[derive(Debug)]
struct OwnEnvoy {
    binary: PathBuf,
    file: PathBuf,
}

impl OwnEnvoy {
    /// Returns Envoy's text if it rejects the resource; with no resource, the same for an empty configuration.
    async fn validate(&self, resource: Option<&Resource>) -> io::Result<Option<String>> {
        let config = trial_bootstrap(resource)
            .ok_or_else(|| io::Error::other("the resource cannot be read"))?;
        tokio::fs::write(&self.file, config).await?;
        let output = Command::new(&self.binary)
            .args([
                "--mode",
                "validate",
                "--concurrency",
                "1",
                "--log-level",
                "error",
                "--log-format",
                "%v",
                "-c",
            ])
            .arg(&self.file)
            // As in a sidecar: listeners read these.
            .env_clear()
            .envs([("NS", "trial"), ("WL", "trial"), ("ID", "trial")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(TIMEOUT, output).await;
        let _ = tokio::fs::remove_file(&self.file).await;
        let output = output.map_err(|_| io::ErrorKind::TimedOut)??;
        let text = String::from_utf8_lossy(&output.stderr);
        if output.status.success() {
            return Ok(None);
        }
        match text
            .split_once(INVALID)
            .and_then(|(_, rest)| rest.split_once("': "))
        {
            Some((_, reason)) => Ok(Some(cleaned(reason))),
            None => Err(io::Error::other(format!(
                "{}: {}",
                output.status,
                cleaned(&text)
            ))),
        }
    }
}

/// On one line.
fn cleaned(text: &str) -> String {
    let words = text.split(|c: char| c.is_control() || c == ' ');
    words
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use heddle_policy_compiler::ResourceKind;

    use super::*;

    fn resource(name: &str) -> Arc<Resource> {
        Arc::new(Resource {
            key: ResourceKey::new(ResourceKind::Route, name),
            version: "1".into(),
            body: bytes::Bytes::new(),
            requires: Vec::new(),
            empty: false,
            origins: BTreeSet::new(),
            rules: Vec::new(),
        })
    }

    fn trials(envoy: bool) -> Trials {
        Trials {
            envoy: envoy.then(|| OwnEnvoy {
                binary: PathBuf::new(),
                file: PathBuf::new(),
            }),
            state: Mutex::default(),
            wake: Notify::new(),
            changed: watch::Sender::new(0),
        }
    }

    #[test]
    fn identities_take_turns_and_each_resource_is_tried_once() {
        let trials = trials(true);
        for name in ["a", "b", "c"] {
            assert_eq!(trials.of("evil/evil", &resource(name)), (Trial::Open, true));
            assert_eq!(
                trials.of("evil/evil", &resource(name)),
                (Trial::Open, false)
            );
        }
        assert_eq!(trials.of("shop/web", &resource("z")), (Trial::Open, true));
        assert_eq!(trials.of("shop/web", &resource("c")), (Trial::Open, true));
        let mut order = Vec::new();
        while let Some(next) = trials.next() {
            order.push(next.key.name.to_string());
            trials.end(version_of(&next), Trial::Accepted);
        }
        assert_eq!(order, ["a", "c", "b", "z"]);
        let (trial, new) = trials.of("shop/web", &resource("z"));
        assert_eq!((trial, new), (Trial::Accepted, false));
    }

    #[test]
    fn a_needless_trial_waits_until_a_policy_takes_part() {
        let trials = trials(true);
        let needless = Trial::Needless;
        assert_eq!(trials.needless(&resource("a")), (needless.clone(), true));
        assert_eq!(trials.needless(&resource("a")), (needless, false));
        assert!(trials.next().is_none());
        assert_eq!(trials.of("shop/web", &resource("a")), (Trial::Open, true));
        assert_eq!(trials.needless(&resource("a")), (Trial::Open, false));
        assert!(trials.next().is_some());
    }

    #[test]
    fn results_of_resources_no_longer_rejected_are_dropped() {
        let trials = trials(true);
        for name in ["a", "b"] {
            trials.of("shop/web", &resource(name));
            trials.end(version_of(&resource(name)), Trial::Accepted);
        }
        trials.of("shop/web", &resource("c"));
        trials.retain(&HashSet::from([version_of(&resource("a"))]));
        assert_eq!(trials.result(&resource("a")), Trial::Accepted);
        assert_eq!(trials.result(&resource("b")), Trial::Open);
        assert!(trials.next().is_none());
    }

    #[test]
    fn without_an_envoy_nothing_is_verified() {
        let trials = trials(false);
        assert_eq!(
            trials.of("shop/web", &resource("a")),
            (Trial::Unavailable, true)
        );
        assert_eq!(
            trials.of("shop/api", &resource("a")),
            (Trial::Unavailable, false)
        );
        assert!(trials.next().is_none());
    }

    #[test]
    fn envoys_text_comes_on_one_line() {
        assert_eq!(
            cleaned("missing ):\n\t (gold\u{1b}[0m\n"),
            "missing ): (gold [0m"
        );
    }
}
