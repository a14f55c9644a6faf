//! The time that sidecars add to calls: the durations that the caller's sidecar counts, less those that the servers' sidecars count.

use std::collections::BTreeMap;

use heddle_policy_compiler::NamespacedName;
use heddle_xds_types::edges::{Edge, EdgeCounts, Protocol, Reporter};

use crate::edges::graph::End;
use crate::edges::names::backend;

/// The calls of an identity to a service.
type Call = (String, End);

/// The time that the sidecars of each workload add to its calls.
#[derive(Debug, Default)]
pub struct Added {
    of_workload: BTreeMap<NamespacedName, (u64, f64)>,
}

impl Added {
    /// Compares the reports of callers and servers.
    pub fn of(reports: &[Edge]) -> Self {
        let mut servers = BTreeMap::<Call, EdgeCounts>::new();
        let mut callers = BTreeMap::<Call, EdgeCounts>::new();
        let mut own = Vec::new();
        for edge in reports.iter().filter(|of| of.protocol != Protocol::Tcp) {
            if edge.reporter == Reporter::Destination && !edge.peer.is_empty() {
                let service = End::new(&edge.service_namespace, &edge.service);
                let all = servers.entry((edge.peer.clone(), service)).or_default();
                all.add(&edge.counts);
            }
        }
        for edge in reports.iter().filter(|of| of.protocol != Protocol::Tcp) {
            // Without a backend the caller's own sidecar has answered.
            let Some(backend) = backend(&edge.backend) else {
                continue;
            };
            let service = End::new(&edge.service_namespace, &edge.service);
            let calls = [service, backend].map(|end| (edge.identity.clone(), end));
            let call = calls.into_iter().find(|call| servers.contains_key(call));
            if let Some(call) = call {
                callers.entry(call.clone()).or_default().add(&edge.counts);
                let workload = NamespacedName::new(&edge.namespace, &edge.workload);
                own.push((workload, call, edge.counts.requests()));
            }
        }
        let mut added = Self::default();
        for (workload, call, requests) in own {
            let both = callers.get(&call).zip(servers.get(&call));
            if let Some(ms) = both.and_then(|(caller, server)| difference(caller, server)) {
                let (all, sum) = added.of_workload.entry(workload).or_default();
                *all += requests;
                *sum += ms * weight(requests);
            }
        }
        added
    }

    /// The milliseconds that a call of a workload takes longer by sidecars and network. `None`: not known.
    pub fn ms(&self, workload: &NamespacedName) -> Option<f64> {
        let (requests, sum) = self.of_workload.get(workload)?;
        (*requests > 0).then(|| (sum / weight(*requests)).max(0.0))
    }
}

/// The difference of the mean durations. `None`: the two sides did not count the same requests, as where some servers have no sidecar.
fn difference(caller: &EdgeCounts, server: &EdgeCounts) -> Option<f64> {
    let (made, received) = (caller.requests(), server.requests());
    let same = made.abs_diff(received) <= made / 10;
    let difference = caller.mean_ms()? - server.mean_ms()?;
    same.then_some(difference)
}

#[allow(clippy::cast_precision_loss, reason = "counts of a quarter of an hour")]
fn weight(requests: u64) -> f64 {
    requests as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRONTEND: &str = "spiffe://cluster.local/ns/shop/sa/frontend";

    fn edge(reporter: Reporter, workload: &str, requests: u32, sum: u64) -> Edge {
        let source = reporter == Reporter::Source;
        let mut counts = EdgeCounts {
            responses: [0, 0, requests, 0, 0, 0],
            duration_sum_ms: sum,
            ..EdgeCounts::default()
        };
        counts.durations[2] = requests;
        Edge {
            reporter,
            namespace: "shop".to_owned(),
            workload: workload.to_owned(),
            identity: if source { FRONTEND } else { "" }.to_owned(),
            peer: if source { "" } else { FRONTEND }.to_owned(),
            service_namespace: "shop".to_owned(),
            service: "reviews".to_owned(),
            backend: if source { "out|shop/reviews|80" } else { "" }.to_owned(),
            protocol: Protocol::Http,
            first_seconds_ago: None,
            last_seconds_ago: None,
            counts,
        }
    }

    fn added(edges: &[Edge]) -> Option<f64> {
        Added::of(edges).ms(&NamespacedName::new("shop", "web"))
    }

    #[test]
    fn a_call_takes_longer_at_the_caller_than_at_its_servers() {
        let caller = edge(Reporter::Source, "web", 100, 450);
        let servers = [
            edge(Reporter::Destination, "reviews-v1", 60, 200),
            edge(Reporter::Destination, "reviews-v2", 40, 200),
        ];
        let [v1, v2] = servers;
        assert_eq!(added(&[caller.clone(), v1.clone(), v2.clone()]), Some(0.5));
        // Some servers have no sidecar, no server has one, and an agent that reports no sum.
        assert_eq!(added(&[caller.clone(), v1.clone()]), None);
        assert_eq!(added(&[caller]), None);
        let older = edge(Reporter::Source, "web", 100, 0);
        assert_eq!(added(&[older, v1, v2]), None);
    }

    #[test]
    fn a_difference_below_zero_is_none() {
        let caller = edge(Reporter::Source, "web", 100, 300);
        let server = edge(Reporter::Destination, "reviews", 100, 301);
        assert_eq!(added(&[caller, server]), Some(0.0));
    }
}
