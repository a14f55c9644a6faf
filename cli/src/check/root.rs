//! The root of the mesh, and the sidecars that trust another one.

use std::time::SystemTime;

use anyhow::Result;
use heddle_identity::{CaError, fingerprint_of};
use heddle_policy_compiler::injection::{names, trust_bundle};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::ListParams;
use kube::{Api, Client};
use time::OffsetDateTime;

use super::Outcome;
use crate::ca;
use crate::cluster::{self, NAMESPACE, explain};
use crate::findings::plural;

/// Below this many days the end of the root is a failure, not a date in the distance.
const DAYS_LEFT: u64 = 30;
/// So many pods are named.
const NAMED: usize = 10;
/// The fix for a root that has ended, or of which no copy is left.
const RESET: &str =
    "heddle ca reset --yes makes a new one, and every pod of the mesh must be restarted";

async fn secret(client: &Client) -> Result<Option<Secret>> {
    let api: Api<Secret> = Api::namespaced(client.clone(), NAMESPACE);
    cluster::find("get the root", api.get(ca::SECRET)).await
}

/// Whether the root is there, is the one that the mesh remembers, and lasts.
///
/// # Errors
/// The API server does not answer, or refuses the Secret, the ConfigMap or the webhook.
pub(super) async fn root(client: &Client) -> Result<Outcome> {
    let remembered = ca::remembered(client).await?;
    let Some(secret) = secret(client).await? else {
        return Ok(match remembered {
            Some(known) => Outcome::Fail(
                format!(
                    "the root (SHA-256 {known}) is lost: Secret {NAMESPACE}/{} is not there",
                    ca::SECRET
                ),
                format!("heddle ca restore FILE; without a backup {RESET}"),
            ),
            None => Outcome::Fail(
                format!("Secret {NAMESPACE}/{} is not there", ca::SECRET),
                format!("kubectl -n {NAMESPACE} logs deploy/heddle-operator"),
            ),
        });
    };
    let root = match ca::authority(&secret) {
        Ok(root) => root,
        Err(error) => return Ok(unusable(&error)),
    };
    if let Some(known) = remembered.filter(|known| known != root.fingerprint()) {
        return Ok(Outcome::Fail(
            format!(
                "Secret {NAMESPACE}/{} holds the root {}, but this mesh uses {known}",
                ca::SECRET,
                root.fingerprint()
            ),
            "delete that Secret, then heddle ca restore FILE".to_owned(),
        ));
    }
    let left = root.not_after().duration_since(SystemTime::now());
    let days = left.map_or(0, |left| left.as_secs() / 86_400);
    Ok(if days < DAYS_LEFT {
        Outcome::Fail(
            format!("the root certificate ends in {days} days"),
            RESET.to_owned(),
        )
    } else {
        Outcome::Ok(format!(
            "the root certificate (SHA-256 {:.16}) is good for {days} days",
            root.fingerprint()
        ))
    })
}

/// The failure for a Secret without a usable root.
fn unusable(error: &anyhow::Error) -> Outcome {
    let now = OffsetDateTime::now_utc();
    let fix = match error.downcast_ref::<CaError>() {
        Some(CaError::NotValidNow { not_after, .. }) if *not_after <= now => RESET.to_owned(),
        Some(CaError::NotValidNow { .. }) => "correct the clock of this machine".to_owned(),
        _ => format!(
            "kubectl -n {NAMESPACE} delete secret {0}, then heddle ca restore FILE; without a backup {RESET}",
            ca::SECRET
        ),
    };
    let text = format!(
        "Secret {NAMESPACE}/{} has no usable root: {}",
        ca::SECRET,
        explain(error)
    );
    Outcome::Fail(text, fix)
}

/// Whether every sidecar trusts the root.
///
/// # Errors
/// The API server does not answer, or refuses the Secret or the list of pods.
pub(super) async fn trust(client: &Client) -> Result<Outcome> {
    let secret = secret(client).await?;
    let Some(root) = secret.and_then(|secret| ca::authority(&secret).ok()) else {
        return Ok(Outcome::Note(
            "without a root the trust of the sidecars is not known".to_owned(),
            "mend the root first".to_owned(),
        ));
    };
    let strangers = strangers(client, Some(root.fingerprint())).await?;
    Ok(verdict(&strangers))
}

fn verdict(strangers: &[String]) -> Outcome {
    if strangers.is_empty() {
        return Outcome::Ok("every sidecar trusts the root of the mesh".to_owned());
    }
    let named: Vec<&str> = strangers.iter().take(NAMED).map(String::as_str).collect();
    let more = strangers.len() - named.len();
    let more = if more == 0 {
        String::new()
    } else {
        format!(" and {more} more")
    };
    Outcome::Fail(
        format!(
            "{} with the root of an earlier mesh: {}{more}",
            plural(strangers.len(), "sidecar"),
            named.join(", ")
        ),
        "restart these pods (kubectl rollout restart); until then mutual TLS with them fails"
            .to_owned(),
    )
}

/// Returns the pods that were injected with another root than this one; without a root, all pods with a sidecar.
///
/// # Errors
/// When pods cannot be listed.
pub async fn strangers(client: &Client, root: Option<&str>) -> Result<Vec<String>> {
    let api: Api<Pod> = Api::all(client.clone());
    let params = ListParams::default().labels(names::MESHED);
    let pods = cluster::call("list the pods of the mesh", api.list(&params)).await?;
    let mut strangers: Vec<String> = pods
        .items
        .iter()
        .filter(|pod| trusts(pod).is_some_and(|trusted| root != Some(trusted.as_str())))
        .map(|pod| {
            let (namespace, name) = (&pod.metadata.namespace, &pod.metadata.name);
            let text = |part: &Option<String>| part.clone().unwrap_or_default();
            format!("{}/{}", text(namespace), text(name))
        })
        .collect();
    strangers.sort();
    Ok(strangers)
}

/// The fingerprint of the root with which a pod's sidecar was injected. `None`: the pod has no sidecar, or has ended.
fn trusts(pod: &Pod) -> Option<String> {
    fingerprint_of(trust_bundle(pod)?.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use heddle_identity::{Ca, RootPem};
    use k8s_openapi::ByteString;
    use serde_json::{Value, json};

    use super::*;
    use crate::cluster::WEBHOOK;
    use crate::fake::Server;

    const SECRET: &str = "/api/v1/namespaces/heddle-system/secrets/heddle-ca";

    fn encoded(text: &str) -> ByteString {
        ByteString(text.as_bytes().to_vec())
    }

    /// The text and the fix for a Secret with this root.
    async fn failure(root: &RootPem) -> (String, String) {
        let data =
            json!({"ca.crt": encoded(&root.certificates), "ca.key": encoded(&root.private_key)});
        let server = Server::with([(SECRET, json!({"data": data}))]);
        let client = server.client();
        assert!(matches!(trust(&client).await.unwrap(), Outcome::Note(..)));
        match super::root(&client).await.unwrap() {
            Outcome::Fail(text, fix) => (text, fix),
            Outcome::Ok(text) | Outcome::Note(text, _) => panic!("{text}"),
        }
    }

    #[tokio::test]
    async fn a_root_that_is_unusable_or_over_is_a_failure_with_its_own_fix() {
        let years = Duration::from_secs(11 * 365 * 24 * 3600);
        let domain = "a".parse().unwrap();
        let (_, root) = Ca::create(&domain, SystemTime::now()).unwrap();
        let (_, over) = Ca::create(&domain, SystemTime::now() - years).unwrap();
        let (_, later) = Ca::create(&domain, SystemTime::now() + years).unwrap();

        let (text, fix) = failure(&over).await;
        assert!(
            text.contains("is valid from") && text.contains(ca::SECRET),
            "{text}"
        );
        assert!(fix.starts_with("heddle ca reset"), "{fix}");
        let (text, fix) = failure(&later).await;
        assert!(
            text.contains("is valid from") && fix.contains("clock"),
            "{text}: {fix}"
        );
        let broken = [
            RootPem {
                private_key: over.private_key.clone(),
                ..root.clone()
            },
            RootPem {
                certificates: "none".to_owned(),
                ..root
            },
        ];
        for broken in broken {
            let (text, fix) = failure(&broken).await;
            assert!(text.contains("has no usable root"), "{text}");
            let parts = [
                "delete secret heddle-ca",
                "heddle ca restore FILE",
                "heddle ca reset",
            ];
            assert!(parts.iter().all(|part| fix.contains(part)), "{fix}");
        }
    }

    #[tokio::test]
    async fn a_root_that_only_the_webhook_remembers_is_lost() {
        let (ca, _) = Ca::create(&"a".parse().unwrap(), SystemTime::now()).unwrap();
        let path = format!(
            "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/{WEBHOOK}"
        );
        let webhook = |bundle: Value| json!({"metadata": {"name": WEBHOOK}, "webhooks": [{"name": "a", "clientConfig": {"caBundle": bundle}}]});
        let server = Server::with([(&path, webhook(json!(encoded(ca.trust_bundle()))))]);
        let Outcome::Fail(text, fix) = super::root(&server.client()).await.unwrap() else {
            panic!("a lost root is a failure");
        };
        assert!(
            text.contains(ca.fingerprint()) && text.contains("is lost"),
            "{text}"
        );
        assert!(fix.starts_with("heddle ca restore FILE"), "{fix}");
        let server = Server::with([(&path, webhook(Value::Null))]);
        let Outcome::Fail(text, fix) = super::root(&server.client()).await.unwrap() else {
            panic!("a missing root is a failure");
        };
        assert!(
            !text.contains("is lost") && fix.contains("logs"),
            "{text}: {fix}"
        );
    }

    fn pod(bundle: &str, phase: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"namespace": "shop", "name": "cart"},
            "spec": {
                "initContainers": [{"name": names::PROXY, "env": [{"name": "HEDDLE_TRUST_BUNDLE", "value": bundle}]}],
                "containers": [{"name": "app"}],
            },
            "status": {"phase": phase},
        }))
        .unwrap()
    }

    #[test]
    fn the_root_that_a_sidecar_trusts_is_read_from_its_pod() {
        let (ca, _) = Ca::create(&"a".parse().unwrap(), SystemTime::now()).unwrap();
        let running = pod(ca.trust_bundle(), "Running");
        assert_eq!(trusts(&running).as_deref(), Some(ca.fingerprint()));
        assert_eq!(trusts(&pod(ca.trust_bundle(), "Succeeded")), None);
        assert_eq!(trusts(&pod("none", "Running")), None);
        assert_eq!(trusts(&Pod::default()), None);
    }

    #[test]
    fn many_strangers_are_named_in_part() {
        let strangers: Vec<String> = (0..12).map(|n| format!("shop/{n}")).collect();
        let Outcome::Fail(text, _) = verdict(&strangers) else {
            panic!("strangers are a failure");
        };
        assert!(
            text.starts_with("12 sidecars") && text.ends_with("and 2 more"),
            "{text}"
        );
    }
}
