//! The root of the mesh, and the sidecars that trust another one.

use std::time::SystemTime;

use anyhow::Result;
use heddle_identity::fingerprint_of;
use heddle_policy_compiler::injection::{names, trust_bundle};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::ListParams;
use kube::{Api, Client};

use super::Outcome;
use crate::ca;
use crate::cluster::{self, NAMESPACE};
use crate::findings::plural;

/// Below this many days the end of the root is a failure, not a date in the distance.
const DAYS_LEFT: u64 = 30;
/// So many pods are named.
const NAMED: usize = 10;

async fn secret(client: &Client) -> Result<Option<Secret>> {
    let api: Api<Secret> = Api::namespaced(client.clone(), NAMESPACE);
    cluster::find("get the root", api.get(ca::SECRET)).await
}

/// Whether the root is there, is the one that the mesh remembers, and lasts.
pub(super) async fn root(client: &Client) -> Result<Outcome> {
    let remembered = ca::remembered(client).await?;
    let Some(secret) = secret(client).await? else {
        return Ok(match remembered {
            Some(known) => Outcome::Fail(
                format!("the root (SHA-256 {known}) is lost: Secret {NAMESPACE}/{} is not there", ca::SECRET),
                "heddle ca restore FILE; without a backup `heddle ca reset` makes a new one, and every pod of the mesh must be restarted"
                    .to_owned(),
            ),
            None => Outcome::Fail(
                format!("Secret {NAMESPACE}/{} is not there", ca::SECRET),
                format!("kubectl -n {NAMESPACE} logs deploy/heddle-operator"),
            ),
        });
    };
    let root = ca::authority(&secret)?;
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
            "heddle ca reset, then restart every pod of the mesh".to_owned(),
        )
    } else {
        Outcome::Ok(format!(
            "the root certificate (SHA-256 {:.16}) is good for {days} days",
            root.fingerprint()
        ))
    })
}

/// Whether every sidecar trusts the root.
pub(super) async fn trust(client: &Client) -> Result<Outcome> {
    let Some(secret) = secret(client).await? else {
        return Ok(Outcome::Note(
            "without a root the trust of the sidecars is not known".to_owned(),
            "mend the root first".to_owned(),
        ));
    };
    let root = ca::authority(&secret)?;
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
    use heddle_identity::Ca;
    use serde_json::json;

    use super::*;

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
