//! Pods that should have a sidecar and have none.

use std::collections::BTreeSet;

use anyhow::Result;
use heddle_policy_compiler::injection::{InjectionDecision, decide};
use heddle_xds_types::edges::Losses;
use k8s_openapi::api::core::v1::{Namespace, Pod, PodSpec};
use kube::api::{DynamicObject, ListParams};
use kube::{Api, Client};
use serde_json::Value;

use super::Outcome;
use crate::cluster::{self, ClusterArgs, explain};
use crate::edges::graph::Graph;
use crate::edges::live::Source;
use crate::findings::plural;
use crate::proxy::state::{ProxyState, SyncSummary as _};

const INJECT: &str = heddle_policy_compiler::ingest::INJECT_LABEL;
const PROXY: &str = heddle_policy_compiler::ingest::PROXY_CONTAINER;
/// So many are named; a namespace labelled after the fact may have hundreds.
const NAMED: usize = 10;
/// The seconds of traffic to read, the shortest time: the losses are those since the start.
const LOOK_BACK: u64 = 5;

pub(super) async fn all(client: &Client, args: &ClusterArgs) -> Vec<Outcome> {
    let mut outcomes = vec![
        Outcome::of(unmeshed(client).await, "pods without a sidecar"),
        bootstraps(crate::proxy::states(args).await),
        edges(Source::Cluster(args.clone()).read(LOOK_BACK).await),
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

/// The traffic that is in no edge or series, by the counts since the start of the replicas.
fn edges(asked: Result<Graph>) -> Outcome {
    let graph = match asked {
        Ok(graph) if graph.is_answered() => graph,
        Ok(_) => return unknown_edges("no replica of the control plane could be asked"),
        Err(error) => return unknown_edges(&explain(&error)),
    };
    let partial = match graph.complete {
        true => "",
        false => ", as far as replicas answered",
    };
    let Losses {
        by_agents,
        evicted,
        refused,
        last_seconds_ago: _,
    } = graph.losses;
    if !graph.losses.is_some() {
        return Outcome::Ok(format!(
            "the series and edges of all sidecars found room{partial}"
        ));
    }
    let (mut lost, mut fixes) = (Vec::new(), Vec::new());
    if by_agents > 0 {
        lost.push(format!("{by_agents} requests or connections of sidecars that have more series or edges than they may have"));
        fixes.push("find these sidecars by their metric envoy_server_stats_overflow_histogram: a port of theirs answers with very many statuses, or very many services or identities call it (docs/telemetry.md#limits)");
    }
    if evicted > 0 || refused > 0 {
        lost.push(format!("{evicted} idle edges that made room for others, and {refused} edges that found no room in the control plane"));
        fixes.push("look for workloads with very many edges by heddle edges (docs/live-graph.md)");
    }
    Outcome::Note(
        format!(
            "traffic is missing in metrics and the live graph since the start of the control plane{partial}: {}",
            lost.join("; ")
        ),
        fixes.join("; "),
    )
}

fn unknown_edges(reason: &str) -> Outcome {
    Outcome::Note(
        format!("series and edges of the sidecars: {reason}"),
        "heddle edges".to_owned(),
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

/// The first names, and the number of the others.
pub(super) fn named(names: &[&str]) -> String {
    let first: Vec<&str> = names.iter().take(NAMED).copied().collect();
    let more = match names.len().saturating_sub(NAMED) {
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
    use heddle_xds_types::edges::EdgesReport;

    use super::*;
    use crate::replicas::Replica;

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

    /// The answers of two replicas, of which the second may be away.
    fn graph(losses: Losses, complete: bool) -> Graph {
        let report = EdgesReport {
            losses,
            ..EdgesReport::default()
        };
        let second = match complete {
            true => Ok(EdgesReport::default()),
            false => Err("no answer".to_owned()),
        };
        let replica = |name: &str, answer| Replica {
            name: name.to_owned(),
            answer,
        };
        Graph::of(vec![replica("a", Ok(report)), replica("b", second)])
    }

    #[test]
    fn traffic_without_a_series_or_an_edge_is_a_note_with_the_count_and_the_fix() {
        let none = Losses::default();
        for (complete, end) in [
            (true, " found room"),
            (false, "as far as replicas answered"),
        ] {
            match edges(Ok(graph(none, complete))) {
                Outcome::Ok(text) => assert!(text.ends_with(end), "{text}"),
                Outcome::Note(text, _) | Outcome::Fail(text, _) => panic!("{text}"),
            }
        }
        let agents = "7 requests or connections of sidecars";
        let store = "1 idle edges that made room for others, and 2 edges that found no room";
        for ((by_agents, evicted, refused), says, fix) in [
            (
                (7, 0, 0),
                [agents, ""],
                "envoy_server_stats_overflow_histogram",
            ),
            ((0, 1, 2), [store, ""], "heddle edges"),
            ((7, 1, 2), [agents, store], "; look for workloads"),
        ] {
            let losses = Losses {
                by_agents,
                evicted,
                refused,
                last_seconds_ago: None,
            };
            match edges(Ok(graph(losses, true))) {
                Outcome::Note(text, fixes) => {
                    assert!(says.iter().all(|part| text.contains(part)), "{text}");
                    assert!(fixes.contains(fix), "{fixes}");
                }
                Outcome::Ok(text) | Outcome::Fail(text, _) => panic!("{text}"),
            }
        }
        for unknown in [Ok(Graph::of(Vec::new())), Err(anyhow::anyhow!("away"))] {
            assert!(matches!(edges(unknown), Outcome::Note(_, fix) if fix == "heddle edges"));
        }
    }
}
