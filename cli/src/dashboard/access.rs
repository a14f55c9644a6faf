//! The calls that sidecars have seen, each with the decision of the policies in force about its caller.

use std::collections::BTreeMap;

use heddle_policy_compiler::authz::{Admitted, Asked, Operation, PortAuthz, admitted, difference};
use heddle_policy_compiler::world::{Port, SpiffeId};
use heddle_policy_compiler::{Compiled, NamespacedName, ObjectKind, ServedPort};
use serde::Serialize;

use crate::decisions::{decision, reads, request};
use crate::edges::graph::{End, Graph, Row};
use crate::flows::{Behind, Flows};
use crate::sources::Outcome;

/// The most calls that are decided for one answer, those with most 403s first.
const MAX_DECIDED: usize = 1000;

/// The calls of one caller to one port of a workload.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Call {
    source: End,
    /// The SPIFFE id of the caller; empty: plain text.
    identity: String,
    service: End,
    workload: String,
    port: u16,
    requests_per_second: f64,
    forbidden_percent: Option<f64>,
    /// Requests that the policies let pass.
    passes: Passes,
    /// The AuthPolicies that select the workload.
    policies: Vec<String>,
    /// A request that passes.
    allowed: Option<Example>,
    /// A request that is denied.
    denied: Option<Example>,
}

/// The share of all possible requests that passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Passes {
    All,
    Some,
    None,
    Unknown,
}

/// A request, and the rule that decides about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Example {
    request: String,
    by: String,
}

/// The calls, and the number of those that were not decided.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Access {
    calls: Vec<Call>,
    left_out: usize,
}

/// Decides about the callers of a graph.
pub fn of(graph: &Graph, outcome: &Outcome) -> Access {
    let behind = Behind::of(&outcome.world);
    let flows = Flows::of(graph);
    let mut seen = BTreeMap::<_, (f64, f64)>::new();
    for (row, flow) in graph.edges.iter().zip(&flows.all) {
        for (workload, port) in behind.of_flow(flow) {
            let key = (&row.source, &row.identity, &row.destination, workload, port);
            let (rate, forbidden) = seen.entry(key).or_default();
            *rate += flow.rate();
            *forbidden += forbidden_rate(row);
        }
    }
    let mut seen: Vec<_> = seen.into_iter().collect();
    seen.sort_by(|(_, one), (_, other)| other.1.total_cmp(&one.1));
    let left_out = seen.len().saturating_sub(MAX_DECIDED);
    seen.truncate(MAX_DECIDED);
    let ports = ports(&outcome.compiled);
    let calls = seen.into_iter().map(|(key, (rate, forbidden))| {
        let (source, identity, service, workload, port) = key;
        let served = ports.get(&(workload.clone(), port));
        let (passes, allowed, denied) = served.map_or((Passes::Unknown, None, None), |served| {
            decide(&outcome.compiled, served, identity)
        });
        Call {
            source: source.clone(),
            identity: identity.clone(),
            service: service.clone(),
            workload: workload.to_string(),
            port: port.get(),
            requests_per_second: rate,
            forbidden_percent: (rate > 0.0).then(|| (100.0 * forbidden / rate).min(100.0)),
            passes,
            policies: served.map_or_else(Vec::new, |served| policies(&outcome.compiled, served)),
            allowed,
            denied,
        }
    });
    Access {
        calls: calls.collect(),
        left_out,
    }
}

fn policies(compiled: &Compiled, port: &ServedPort<'_>) -> Vec<String> {
    let all = compiled.selecting(port.template).into_iter();
    all.filter(|of| of.kind == ObjectKind::AuthPolicy)
        .map(ToString::to_string)
        .collect()
}

fn forbidden_rate(row: &Row) -> f64 {
    let share = row.figures.forbidden_percent.unwrap_or(0.0) / 100.0;
    row.figures.requests_per_second * share
}

/// The ports of all workloads with sidecars. While a workload is rolled out, the first of its templates stands for it.
fn ports(compiled: &Compiled) -> BTreeMap<(NamespacedName, Port), ServedPort<'_>> {
    let mut ports = BTreeMap::new();
    for served in compiled.served_ports() {
        if let Some(port) = served.port {
            let key = (served.template.workload(), port);
            ports.entry(key).or_insert(served);
        }
    }
    ports
}

fn decide(
    compiled: &Compiled,
    port: &ServedPort<'_>,
    identity: &str,
) -> (Passes, Option<Example>, Option<Example>) {
    let peer = SpiffeId::parse(identity);
    if peer.is_none() && !port.plain {
        let source = compiled.mtls_source(port).policy;
        let by = source.map_or_else(
            || "Mesh default".to_owned(),
            |(policy, _)| policy.to_string(),
        );
        let denied = Example {
            request: "plain text".to_owned(),
            by: format!("refused, for {by} sets mTLS mode Strict"),
        };
        return (Passes::None, None, Some(denied));
    }
    let only = Operation::default();
    let open = PortAuthz {
        rules: Vec::new(),
        default_allow: true,
        sharing: 1,
    };
    let (mut allowed, mut denied, mut sure) = (None, None, true);
    for http in [true, false] {
        if !reads(port.protocol, http) {
            continue;
        }
        let asked = Asked {
            peer: peer.as_ref(),
            port: port.port,
            http,
            only: &only,
        };
        match admitted(port.authz, &asked) {
            Admitted::By(example, by) => {
                allowed.get_or_insert(Example {
                    request: request(&example),
                    by: decision(&by),
                });
            }
            Admitted::Never => {}
            Admitted::Undecided => sure = false,
        }
        if let Some(changed) = difference(&open, port.authz, &asked).denied {
            denied.get_or_insert(Example {
                request: request(&changed.request),
                by: decision(&changed.after),
            });
        }
    }
    let passes = match (&allowed, &denied) {
        (Some(_), None) => Passes::All,
        (Some(_), Some(_)) => Passes::Some,
        (None, _) if sure => Passes::None,
        (None, _) => Passes::Unknown,
    };
    (passes, allowed, denied)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::replicas::Replica;
    use crate::sources::Objects;

    const WORLD: [&str; 6] = [
        include_str!("../../demo/world/mesh.yaml"),
        include_str!("../../demo/world/clients.yaml"),
        include_str!("../../demo/world/reviews.yaml"),
        include_str!("../../demo/world/ratings.yaml"),
        include_str!("../../demo/steps/strict.yaml"),
        include_str!("../../demo/steps/ratings-callers.yaml"),
    ];

    fn outcome() -> Outcome {
        let folder = tempfile::tempdir().unwrap();
        for (number, text) in WORLD.iter().enumerate() {
            let text = text.replace("${NET}", "127.7.7");
            std::fs::write(folder.path().join(format!("{number}.yaml")), text).unwrap();
        }
        Objects::from_paths(&[folder.path().to_owned()])
            .unwrap()
            .compile()
    }

    /// The edges of callers of ratings, with the 403s among 100 requests of each.
    fn graph(callers: &[(&str, &str, u32)]) -> Graph {
        let edges = callers.iter().map(|(workload, identity, forbidden)| {
            json!({
                "reporter": "source", "namespace": "shop", "workload": workload, "identity": identity, "peer": "",
                "serviceNamespace": "shop", "service": "ratings", "backend": "out|shop/ratings|8080", "protocol": "http",
                "responses": [0, 0, 100 - forbidden, 0, *forbidden, 0], "failures": 0, "forbidden": forbidden,
                "durations": vec![0; 20], "connections": 0, "receivedBytes": 0, "sentBytes": 0,
            })
        });
        let report =
            json!({"version": 1, "coveredSeconds": 10, "edges": edges.collect::<Vec<Value>>()});
        Graph::of(vec![Replica {
            name: "a".to_owned(),
            answer: Ok(serde_json::from_value(report).unwrap()),
        }])
    }

    #[test]
    fn callers_are_decided_with_the_rule_and_the_refused_come_first() {
        let callers = [
            (
                "reviews-v1-1",
                "spiffe://cluster.local/ns/shop/sa/reviews",
                0,
            ),
            ("batch-1", "spiffe://cluster.local/ns/shop/sa/batch", 100),
            ("stranger", "", 0),
        ];
        let access = of(&graph(&callers), &outcome());
        let by = |example: &Option<Example>| example.as_ref().map(|of| of.by.clone());
        let found = access.calls.iter().map(|call| {
            assert_eq!((&*call.workload, call.port), ("shop/ratings-1", 8080));
            let (allowed, denied) = (by(&call.allowed), by(&call.denied));
            (&*call.source.name, call.passes, allowed, denied)
        });
        let found: Vec<_> = found.collect();
        let text = |text: &str| Some(text.to_owned());
        let none = text("denied, for no Allow rule matches");
        assert_eq!(
            found,
            [
                ("batch-1", Passes::None, None, none.clone()),
                (
                    "reviews-v1-1",
                    Passes::Some,
                    text("allowed by AuthPolicy shop/ratings-callers, rule 0"),
                    none
                ),
                (
                    "stranger",
                    Passes::None,
                    None,
                    text("refused, for AuthPolicy shop/strict sets mTLS mode Strict")
                ),
            ]
        );
        assert_eq!(access.calls[0].forbidden_percent, Some(100.0));
        assert_eq!(
            access.calls[0].policies,
            ["AuthPolicy shop/ratings-callers", "AuthPolicy shop/strict"]
        );
        assert_eq!(access.left_out, 0);
    }
}
