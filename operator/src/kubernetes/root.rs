//! The root in the Secret `heddle-ca`: created by whichever replica is first, read by all, and restored by a running one. Its fingerprint is in the
//! ConfigMap `heddle-root` too, so that a deleted Secret is told from a mesh that has no root yet.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use heddle_identity::{Ca, Created, Kept, OpenError, Opened, RootPem, RootStore, TrustDomain};
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::{ConfigMap, ObjectReference, Pod, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::runtime::events::{Event, EventType, Recorder};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::events::{recorder, shortened};
use super::strangers::Strangers;
use super::{CallError, NAMESPACE, call};
use crate::metrics::Metrics;
use crate::tasks::{Ended, chain};

const NAME: &str = "heddle-ca";
const CERTIFICATES: &str = "ca.crt";
const KEY: &str = "ca.key";
/// The ConfigMap that remembers the root.
const MEMORY: &str = "heddle-root";
const FINGERPRINT: &str = "fingerprint";
const WEBHOOK: &str = "heddle-injector";
/// Between two looks at the Secret.
const PERIOD: Duration = Duration::from_secs(10);
/// Between attempts to open the root.
const RETRY: Duration = Duration::from_secs(2);
/// A root that stays lost is logged again after so many attempts.
const REPEAT: u32 = 30;

/// Why the root cannot be read or kept.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The API server.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The content of the Secret.
    #[error("Secret {NAMESPACE}/{NAME}: `{0}` is missing or is not text")]
    Content(&'static str),
}

#[derive(Clone)]
pub(super) struct SecretRoot {
    secrets: Api<Secret>,
    memory: Api<ConfigMap>,
    webhooks: Api<MutatingWebhookConfiguration>,
    pods: Api<Pod>,
    recorder: Recorder,
}

impl SecretRoot {
    pub(super) fn new(client: &Client, pod: &str) -> Self {
        Self {
            secrets: Api::namespaced(client.clone(), NAMESPACE),
            memory: Api::namespaced(client.clone(), NAMESPACE),
            webhooks: Api::all(client.clone()),
            pods: Api::all(client.clone()),
            recorder: recorder(client.clone(), pod),
        }
    }

    /// Opens the root as soon as the API server gives it. While the mesh's root is lost, no certificate is issued, and each attempt waits for its
    /// restoration; a stored root that is unusable ends the start.
    pub(super) async fn open(
        self,
        trust_domain: &TrustDomain,
        metrics: &Metrics,
    ) -> Result<RootKeeper, OpenError<SecretError>> {
        let mut attempt = 0;
        loop {
            match heddle_identity::open(&self, trust_domain, SystemTime::now()).await {
                Err(OpenError::Store(SecretError::Call(error))) => {
                    tracing::error!(
                        error = chain(&error),
                        "reading or storing the root failed; trying again"
                    );
                }
                Err(error @ (OpenError::Lost { .. } | OpenError::Replaced { .. })) => {
                    metrics.root_lost.set(1);
                    if attempt % REPEAT == 0 {
                        self.lost(&error.to_string()).await;
                    }
                    attempt += 1;
                }
                result => {
                    metrics.root_lost.set(0);
                    let (opened, store) = (result?, self);
                    metrics.root_ends(opened.ca.not_after());
                    return Ok(RootKeeper { store, opened });
                }
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Reports a lost root in the log and as an Event of the Secret.
    async fn lost(&self, what: &str) {
        let fix = "restore it with `heddle ca restore FILE`; without a backup `heddle ca reset` makes a new one, and every pod of \
                   the mesh must be restarted";
        tracing::error!("no certificate can be issued: {what}; {fix}");
        self.publish("RootLost", format!("{what}; {fix}")).await;
    }

    /// Reports running pods with a sidecar that trusts another root than this new one, in the log and as an Event of the Secret. A failure
    /// is logged: `heddle check` reports these pods, too.
    async fn report_strangers(&self, root: &str) {
        match Strangers::list(&self.pods, root).await {
            Ok(strangers) => {
                let Some(warning) = strangers.warning(root) else {
                    return;
                };
                tracing::warn!("{warning}");
                self.publish("PodsTrustOtherRoot", warning).await;
            }
            Err(error) => tracing::warn!(
                error = chain(&error),
                "listing the pods of the mesh failed; the root certificate is new, and pods of an earlier mesh must be restarted: \
                 `heddle check` names them"
            ),
        }
    }

    /// Publishes a warning as an Event of the Secret.
    async fn publish(&self, reason: &str, note: String) {
        let event = Event {
            type_: EventType::Warning,
            reason: reason.to_owned(),
            note: Some(shortened(note)),
            action: "Issue".to_owned(),
            secondary: None,
        };
        let reference = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Secret".to_owned()),
            name: Some(NAME.to_owned()),
            namespace: Some(NAMESPACE.to_owned()),
            ..ObjectReference::default()
        };
        if let Err(error) = call(self.recorder.publish(&event, &reference)).await {
            tracing::warn!(error = chain(&error), "publishing an Event failed");
        }
    }
}

/// The root in use, and its Secret.
pub(super) struct RootKeeper {
    store: SecretRoot,
    opened: Opened,
}

impl RootKeeper {
    /// The CA of the root.
    pub(super) fn ca(&self) -> Arc<Ca> {
        Arc::clone(&self.opened.ca)
    }

    /// Restores the Secret of a running replica whenever it is gone, and reports pods of an earlier mesh if the root is new.
    pub(super) async fn run(self, metrics: Arc<Metrics>, stop: CancellationToken) -> Ended {
        let report = async {
            if self.opened.new {
                let root = self.opened.ca.fingerprint();
                stop.run_until_cancelled(self.store.report_strangers(root))
                    .await;
            }
        };
        // At the same time, because neither waits for a list of all pods.
        let (ended, ()) = tokio::join!(self.keep(&metrics, &stop), report);
        ended
    }

    async fn keep(&self, metrics: &Metrics, stop: &CancellationToken) -> Ended {
        let Self { store, opened } = self;
        let mut before = Kept::There;
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(PERIOD) => {}
            }
            let kept = match heddle_identity::keep(store, opened, SystemTime::now()).await {
                Ok(kept) => kept,
                Err(OpenError::Store(error @ SecretError::Content(_))) => {
                    Kept::Broken(error.to_string())
                }
                Err(error) => {
                    tracing::error!(
                        error = chain(&error),
                        "checking the root failed; trying again"
                    );
                    continue;
                }
            };
            metrics.root_lost.set(i64::from(matches!(
                kept,
                Kept::Replaced(_) | Kept::Broken(_)
            )));
            match &kept {
                Kept::There => {}
                Kept::Restored => tracing::warn!(
                    root = opened.ca.fingerprint(),
                    "Secret {NAMESPACE}/{NAME} was gone; restored it from memory"
                ),
                Kept::Replaced(found) if kept != before => {
                    let message = format!(
                        "Secret {NAMESPACE}/{NAME} holds another root (SHA-256 {found}) than the one in use (SHA-256 {})",
                        opened.ca.fingerprint()
                    );
                    store.lost(&message).await;
                }
                Kept::Broken(why) if kept != before => {
                    let message = format!("Secret {NAMESPACE}/{NAME} is not usable: {why}");
                    store.lost(&message).await;
                }
                Kept::Replaced(_) | Kept::Broken(_) => {}
            }
            before = kept;
        }
    }
}

impl RootStore for SecretRoot {
    type Error = SecretError;

    async fn load(&self) -> Result<Option<RootPem>, SecretError> {
        // `get`, not `list`: the right to read is for this one name.
        let secret = match call(self.secrets.get_opt(NAME)).await? {
            Some(secret) => secret,
            None => return Ok(None),
        };
        let data = secret.data.unwrap_or_default();
        let text = |key: &'static str| {
            let bytes = data.get(key).ok_or(SecretError::Content(key))?;
            String::from_utf8(bytes.0.clone()).map_err(|_| SecretError::Content(key))
        };
        Ok(Some(RootPem {
            certificates: text(CERTIFICATES)?,
            private_key: text(KEY)?,
        }))
    }

    async fn create(&self, root: &RootPem) -> Result<Created, SecretError> {
        let bytes = |text: &String| ByteString(text.clone().into_bytes());
        let data = [
            (CERTIFICATES.to_owned(), bytes(&root.certificates)),
            (KEY.to_owned(), bytes(&root.private_key)),
        ];
        let secret = Secret {
            metadata: ObjectMeta {
                name: Some(NAME.to_owned()),
                ..ObjectMeta::default()
            },
            data: Some(data.into()),
            ..Secret::default()
        };
        match call(self.secrets.create(&PostParams::default(), &secret)).await {
            Ok(_) => Ok(Created::Yes),
            Err(error) if error.code() == Some(409) => Ok(Created::AlreadyThere),
            Err(error) => Err(error.into()),
        }
    }

    /// The ConfigMap, or where that is gone too the CA bundle of the webhook, which the mesh's root signed.
    async fn remembered(&self) -> Result<Option<String>, SecretError> {
        let memory = call(self.memory.get_opt(MEMORY)).await?;
        let data = memory.and_then(|memory| memory.data).unwrap_or_default();
        if let Some(fingerprint) = data.get(FINGERPRINT) {
            return Ok(Some(fingerprint.clone()));
        }
        let webhook = call(self.webhooks.get_opt(WEBHOOK)).await?;
        let bundles = webhook
            .and_then(|webhook| webhook.webhooks)
            .unwrap_or_default();
        let mut bundles = bundles
            .iter()
            .filter_map(|webhook| webhook.client_config.ca_bundle.as_ref());
        Ok(bundles.find_map(|bundle| heddle_identity::fingerprint_of(&bundle.0)))
    }

    async fn remember(&self, ca: &Ca) -> Result<(), SecretError> {
        let body = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": MEMORY, "namespace": NAMESPACE},
            "data": {FINGERPRINT: ca.fingerprint(), CERTIFICATES: ca.trust_bundle()},
        });
        let params = PatchParams::apply("heddle-operator-root").force();
        call(self.memory.patch(MEMORY, &params, &Patch::Apply(body))).await?;
        Ok(())
    }
}

#[cfg(test)]
#[path = "root_tests.rs"]
mod tests;
