//! Pods that should have a sidecar and have none.

use std::collections::BTreeSet;

use anyhow::Result;
use heddle_policy_compiler::injection::{InjectionDecision, decide};
use k8s_openapi::api::core::v1::{Namespace, Pod, PodSpec};
use kube::api::{DynamicObject, ListParams};
use kube::{Api, Client};

use super::Outcome;
use crate::cluster;
use crate::findings::plural;

const INJECT: &str = heddle_policy_compiler::ingest::INJECT_LABEL;
const PROXY: &str = heddle_policy_compiler::ingest::PROXY_CONTAINER;
/// So many are named; a namespace labelled after the fact may have hundreds.
const NAMED: usize = 10;

pub(super) async fn all(client: &Client) -> Vec<Outcome> {
    vec![Outcome::of(
        unmeshed(client).await,
        "pods without a sidecar",
    )]
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
    let named: Vec<&str> = without.iter().take(NAMED).map(String::as_str).collect();
    let more = if without.len() > NAMED {
        format!(" and {} more", without.len() - NAMED)
    } else {
        String::new()
    };
    let text = format!(
        "{} without a sidecar: {}{more}",
        plural(without.len(), "pod"),
        named.join(", ")
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
