//! Pods that should have a sidecar and have none.

use std::collections::BTreeSet;

use anyhow::Result;
use heddle_policy_compiler::injection::{InjectionDecision, decide};
use k8s_openapi::api::core::v1::{Namespace, Pod, PodSpec};
use kube::api::{DynamicObject, ListParams};
use kube::{Api, Client};
use serde_json::Value;

use super::Outcome;
use crate::cluster::{self, ClusterArgs, explain};
use crate::findings::plural;
use crate::proxy::state::{ProxyState, SyncSummary as _};

const INJECT: &str = heddle_policy_compiler::ingest::INJECT_LABEL;
const PROXY: &str = heddle_policy_compiler::ingest::PROXY_CONTAINER;
/// So many are named; a namespace labelled after the fact may have hundreds.
const NAMED: usize = 10;

pub(super) async fn all(client: &Client, args: &ClusterArgs) -> Vec<Outcome> {
    let mut outcomes = vec![
        Outcome::of(unmeshed(client).await, "pods without a sidecar"),
        bootstraps(crate::proxy::states(args).await),
    ];
    match bypassed(client).await {
        Ok(None) => {}
        Ok(Some(outcome)) => outcomes.push(outcome),
        Err(error) => outcomes.push(Outcome::of(Err(error), "bypassed namespaces")),
    }
    outcomes
}

/// A pod keeps the bootstrap with which its sidecar started.
fn bootstraps(asked: Result<(Vec<ProxyState>, bool)>) -> Outcome {
    let (states, complete) = match asked {
        Ok(answer) => answer,
        Err(error) => {
            return Outcome::Note(
                format!("bootstraps of the sidecars: {}", explain(&error)),
                "heddle proxy status".to_owned(),
            );
        }
    };
    let connected = || states.iter().filter(|state| state.connected);
    let older: Vec<&str> = connected()
        .filter(|state| state.has_older_bootstrap() == Some(true))
        .map(|state| state.proxy.as_str())
        .collect();
    let partial = if complete {
        ""
    } else {
        ", as far as replicas answered"
    };
    if older.is_empty() {
        let count = connected().count();
        return Outcome::Ok(format!(
            "all {count} connected sidecars have the current bootstrap{partial}"
        ));
    }
    Outcome::Note(
        format!(
            "{} with an older bootstrap{partial}: {}",
            plural(older.len(), "pod"),
            named(&older)
        ),
        "restart them (kubectl rollout restart) to use features that need the current one"
            .to_owned(),
    )
}

/// The namespaces that the Mesh bypasses, as it is written; `heddle analyze` names those in force.
async fn bypassed(client: &Client) -> Result<Option<Outcome>> {
    let meshes = super::listed(client, heddle_crds::API_VERSION, "Mesh", None).await?;
    Ok(meshes
        .iter()
        .find(|mesh| mesh.metadata.name.as_deref() == Some(heddle_crds::MESH_NAME))
        .and_then(|mesh| note_bypassed(&mesh.data)))
}

fn note_bypassed(mesh: &Value) -> Option<Outcome> {
    let list = mesh.pointer("/spec/bypassedNamespaces");
    let list = list.and_then(Value::as_array)?.iter();
    let names: Vec<&str> = list
        .filter_map(|of| of.get("namespace").and_then(Value::as_str))
        .collect();
    let first = names.first()?;
    let text = format!(
        "{} bypassed, so that its sidecars enforce nothing: {}",
        plural(names.len(), "namespace"),
        named(&names)
    );
    Some(Outcome::Note(
        text,
        format!("heddle mesh bypass {first} --off"),
    ))
}

fn named(pods: &[&str]) -> String {
    let first: Vec<&str> = pods.iter().take(NAMED).copied().collect();
    let more = match pods.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("{}{more}", first.join(", "))
}

async fn unmeshed(client: &Client) -> Result<Outcome> {
    let api: Api<Namespace> = Api::all(client.clone());
    let params = ListParams::default().labels(&format!("{INJECT}=enabled"));
    let namespaces = cluster::call("list namespaces", api.list(&params)).await?;
    let namespaces: BTreeSet<String> = namespaces
        .items
        .into_iter()
        .filter_map(|namespace| namespace.metadata.name)
        .collect();
    if namespaces.is_empty() {
        let fix = format!("kubectl label namespace NAME {INJECT}=enabled, then restart its pods");
        return Ok(Outcome::Note(
            "no namespace asks for sidecars".to_owned(),
            fix,
        ));
    }
    let (mut meshed, mut without) = (0, Vec::new());
    for namespace in &namespaces {
        for pod in super::listed(client, "v1", "Pod", Some(namespace)).await? {
            match state(&pod) {
                State::Meshed => meshed += 1,
                State::Without => without.push(format!(
                    "{namespace}/{}",
                    pod.metadata.name.as_deref().unwrap_or("?")
                )),
                State::Exempt => {}
            }
        }
    }
    Ok(verdict(meshed, &without, namespaces.len()))
}

fn verdict(meshed: usize, without: &[String], namespaces: usize) -> Outcome {
    if without.is_empty() {
        return Outcome::Ok(format!(
            "all {meshed} pods of {namespaces} labelled namespaces have a sidecar"
        ));
    }
    let names: Vec<&str> = without.iter().map(String::as_str).collect();
    let text = format!(
        "{} without a sidecar: {}",
        plural(without.len(), "pod"),
        named(&names)
    );
    Outcome::Fail(
        text,
        format!("restart them (kubectl rollout restart), or label them {INJECT}=disabled"),
    )
}

enum State {
    Meshed,
    Without,
    /// Finished, or left alone by the webhook.
    Exempt,
}

fn state(pod: &DynamicObject) -> State {
    let Ok(pod) = pod.clone().try_parse::<Pod>() else {
        return State::Exempt;
    };
    let spec = pod.spec.unwrap_or_default();
    let phase = pod.status.and_then(|status| status.phase);
    let finished = matches!(phase.as_deref(), Some("Succeeded" | "Failed"));
    // Refused today means that it was created before the namespace asked for sidecars.
    let exempt = matches!(
        decide(&pod.metadata, Some(&spec)).decision,
        InjectionDecision::Leave | InjectionDecision::Skip(_)
    );
    if has_proxy(&spec) {
        State::Meshed
    } else if finished || exempt {
        State::Exempt
    } else {
        State::Without
    }
}

fn has_proxy(spec: &PodSpec) -> bool {
    spec.init_containers
        .iter()
        .flatten()
        .chain(&spec.containers)
        .any(|container| container.name == PROXY)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(proxy: &str, bootstrap: Option<u32>) -> ProxyState {
        ProxyState {
            proxy: proxy.to_owned(),
            connected: true,
            bootstrap,
            ..ProxyState::default()
        }
    }

    #[test]
    fn pods_with_an_older_bootstrap_are_named() {
        let current = Some(heddle_xds_types::bootstrap::BOOTSTRAP_VERSION);
        let states = vec![state("s/old", Some(0)), state("s/new", current)];
        match bootstraps(Ok((states, true))) {
            Outcome::Note(text, fix) => {
                assert_eq!(text, "1 pod with an older bootstrap: s/old");
                assert!(fix.starts_with("restart them"), "{fix}");
            }
            Outcome::Ok(text) | Outcome::Fail(text, _) => panic!("{text}"),
        }
        let unknown = state("s/unknown", None);
        match bootstraps(Ok((vec![unknown], false))) {
            Outcome::Ok(text) => assert!(text.ends_with("as far as replicas answered"), "{text}"),
            Outcome::Note(text, _) | Outcome::Fail(text, _) => panic!("{text}"),
        }
    }
}
