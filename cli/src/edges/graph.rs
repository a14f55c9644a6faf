//! The edges of the whole mesh: the reports of all replicas added up, and the two sides of an edge joined.

use std::collections::{BTreeMap, BTreeSet};

use heddle_xds_types::edges::{Edge, EdgeCounts, EdgesReport, Losses, Protocol, Reporter};
use serde::{Deserialize, Serialize};

use super::figures::Figures;
pub use super::names::End;
use super::names::{backend, caller, port};
use crate::replicas::{Asked, Replica};

/// Whether the requests of an edge came by mutual TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mtls {
    /// A server of the edge has seen the certificate of the caller.
    Yes,
    /// The server has seen no certificate.
    No,
    /// No server has reported: it has no sidecar, or it does not report.
    #[default]
    Unknown,
}

/// An edge, from a workload to a service.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// The workload that calls; outside the mesh, empty.
    pub source: End,
    /// The SPIFFE id of the caller; empty if it showed none.
    pub identity: String,
    /// The service that is called, or the workload behind it where no service leads to it.
    pub destination: End,
    /// The service of the backend that answered, if that is not the destination itself.
    pub backend: Option<End>,
    /// The port of the service that answered, as far as the caller counts it.
    pub port: Option<u16>,
    /// Whether the caller's own sidecar answered: it denied the request, injected a fault, or found no route.
    pub answered_by_sidecar: bool,
    /// The protocol.
    pub protocol: Protocol,
    /// Whether it is mutual TLS.
    pub mtls: Mtls,
    /// The side that counted: the caller's, unless the caller does not report.
    pub reporter: Reporter,
    /// Rates and durations.
    #[serde(flatten)]
    pub figures: Figures,
    #[serde(skip)]
    pub counts: EdgeCounts,
}

/// A workload that answers for a service, as its own sidecars count.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Server {
    /// The service.
    pub service: End,
    /// The workload.
    pub workload: End,
    /// Rates and durations.
    #[serde(flatten)]
    pub figures: Figures,
}

/// A caller of a workload, as the workload's own sidecars count: the caller has no say in it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Caller {
    /// The SPIFFE id of the certificate that the caller showed; empty if it showed none.
    pub identity: String,
    /// The workload that was called.
    pub workload: End,
    /// A service that leads to the called port; `-` or empty if none does.
    pub service: End,
    /// The protocol.
    pub protocol: Protocol,
    /// The seconds since the first call in the window. `None`: not known.
    pub first_seconds_ago: Option<u64>,
    /// The seconds since the last call.
    pub last_seconds_ago: Option<u64>,
    /// Rates and durations.
    #[serde(flatten)]
    pub figures: Figures,
}

/// The edges of the mesh over a time.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Graph {
    /// The seconds up to now that the rates are of: those of the replica that has listened for longest.
    pub window_seconds: u64,
    /// The seconds up to now in which every replica that answered has listened.
    pub covered_seconds: u64,
    /// Whether every replica answered.
    pub complete: bool,
    /// The replicas.
    pub replicas: Vec<Asked>,
    /// The edges, sorted.
    pub edges: Vec<Row>,
    /// The workloads that answer for services, sorted.
    pub servers: Vec<Server>,
    /// The callers of workloads, sorted: all that servers have reported, also those that `edges` takes from the caller.
    pub callers: Vec<Caller>,
    /// Traffic that is missing, since the start of the replicas.
    pub losses: Losses,
    /// All reports as they are, added up over the replicas.
    #[serde(skip)]
    pub reports: Vec<Edge>,
}

impl Graph {
    /// Puts the answers of all replicas together.
    pub fn of(mut replicas: Vec<Replica<EdgesReport>>) -> Self {
        replicas.sort_by(|one, other| one.name.cmp(&other.name));
        let mut graph = Self {
            complete: true,
            ..Self::default()
        };
        let reports = replicas.iter().filter_map(|of| of.answer.as_ref().ok());
        let covered = reports.map(|report| report.covered_seconds).min();
        graph.covered_seconds = covered.unwrap_or(0);
        let mut all = BTreeMap::<Key, Edge>::new();
        for replica in replicas {
            let error = match replica.answer {
                Ok(report) => {
                    graph.add(report, &mut all);
                    None
                }
                Err(error) => Some(error),
            };
            graph.complete &= error.is_none();
            graph.replicas.push(Asked {
                replica: replica.name,
                error,
            });
        }
        graph.reports = all.into_values().collect();
        graph.edges = join(&graph.reports, graph.window_seconds);
        graph.servers = servers(&graph.reports, graph.window_seconds);
        graph.callers = callers(&graph.reports, graph.window_seconds);
        graph
    }

    fn add(&mut self, report: EdgesReport, all: &mut BTreeMap<Key, Edge>) {
        // The replica that has listened for longest: sidecars may have come from it to a younger one.
        self.window_seconds = self.window_seconds.max(report.covered_seconds);
        self.losses.add(&report.losses);
        for edge in report.edges {
            match all.get_mut(&key(&edge)) {
                Some(known) => {
                    known.counts.add(&edge.counts);
                    known.first_seconds_ago = known.first_seconds_ago.max(edge.first_seconds_ago);
                    let last = [known.last_seconds_ago, edge.last_seconds_ago];
                    known.last_seconds_ago = last.into_iter().flatten().min();
                }
                None => {
                    all.insert(key(&edge), edge);
                }
            }
        }
    }

    /// Leaves out the edges with no end in a namespace, and reports of other namespaces.
    pub fn keep(&mut self, namespace: &str) {
        self.edges.retain(|row| {
            row.source.namespace == namespace || row.destination.namespace == namespace
        });
        self.servers
            .retain(|server| server.service.namespace == namespace);
        self.callers
            .retain(|caller| caller.workload.namespace == namespace);
        self.reports.retain(|edge| edge.namespace == namespace);
    }

    /// Returns whether any replica answered.
    pub fn is_answered(&self) -> bool {
        self.replicas.iter().any(|asked| asked.error.is_none())
    }
}

type Key = (Reporter, Protocol, [String; 7]);

fn key(edge: &Edge) -> Key {
    let texts = [
        &edge.namespace,
        &edge.workload,
        &edge.service_namespace,
        &edge.service,
        &edge.backend,
        &edge.identity,
        &edge.peer,
    ];
    (edge.reporter, edge.protocol, texts.map(Clone::clone))
}

/// The callers that a server has seen: identity, and the namespace and name of the service.
type Seen<'a> = BTreeSet<(&'a str, &'a str, &'a str)>;

fn join(reports: &[Edge], window: u64) -> Vec<Row> {
    let of = |reporter| reports.iter().filter(move |edge| edge.reporter == reporter);
    let by_servers: Seen<'_> = of(Reporter::Destination)
        .map(|edge| (&*edge.peer, &*edge.service_namespace, &*edge.service))
        .collect();
    let mut by_callers = Seen::new();
    let mut rows = Vec::new();
    for edge in of(Reporter::Source) {
        let backend = backend(&edge.backend);
        let service = End::new(&edge.service_namespace, &edge.service);
        let mut ends = std::iter::once(&service).chain(&backend);
        let seen = ends.any(|end| {
            let call = (&*edge.identity, &*end.namespace, &*end.name);
            by_servers.contains(&call)
        });
        by_callers.insert((&edge.identity, &edge.service_namespace, &edge.service));
        rows.push(row(
            edge,
            (End::new(&edge.namespace, &edge.workload), &edge.identity),
            named(service, backend.as_ref(), &edge.backend),
            backend,
            if seen { Mtls::Yes } else { Mtls::Unknown },
            window,
        ));
    }
    // The service that a server names may be another one of those that select its pods.
    let calls: BTreeSet<(&str, &str)> = by_callers.iter().map(|(id, ns, _)| (*id, *ns)).collect();
    for edge in of(Reporter::Destination) {
        if !edge.peer.is_empty() && calls.contains(&(&*edge.peer, &*edge.service_namespace)) {
            continue;
        }
        let mtls = match edge.peer.is_empty() {
            true => Mtls::No,
            false => Mtls::Yes,
        };
        let service = End::new(&edge.service_namespace, &edge.service);
        let of_workload = End::new(&edge.namespace, &edge.workload);
        let to = named(service, Some(&of_workload), "");
        rows.push(row(
            edge,
            (caller(&edge.peer), &edge.peer),
            to,
            None,
            mtls,
            window,
        ));
    }
    rows.sort_by(|one, other| {
        let key = |row: &Row| {
            (
                row.source.clone(),
                row.destination.clone(),
                row.backend.clone(),
            )
        };
        key(one).cmp(&key(other))
    });
    rows
}

fn servers(reports: &[Edge], window: u64) -> Vec<Server> {
    let mut counts = BTreeMap::<(End, End), EdgeCounts>::new();
    let by_servers = reports.iter().filter(|edge| {
        edge.reporter == Reporter::Destination && !matches!(&*edge.service, "" | "-")
    });
    for edge in by_servers {
        let service = End::new(&edge.service_namespace, &edge.service);
        let workload = End::new(&edge.namespace, &edge.workload);
        counts
            .entry((service, workload))
            .or_default()
            .add(&edge.counts);
    }
    let all = counts
        .into_iter()
        .map(|((service, workload), counts)| Server {
            service,
            workload,
            figures: Figures::of(&counts, window),
        });
    all.collect()
}

fn callers(reports: &[Edge], window: u64) -> Vec<Caller> {
    let by_servers = reports
        .iter()
        .filter(|edge| edge.reporter == Reporter::Destination);
    let all = by_servers.map(|edge| Caller {
        identity: edge.peer.clone(),
        workload: End::new(&edge.namespace, &edge.workload),
        service: End::new(&edge.service_namespace, &edge.service),
        protocol: edge.protocol,
        first_seconds_ago: edge.first_seconds_ago,
        last_seconds_ago: edge.last_seconds_ago,
        figures: Figures::of(&edge.counts, window),
    });
    let mut all: Vec<Caller> = all.collect();
    all.sort_by(|one, other| {
        let key = |of: &Caller| (of.workload.clone(), of.identity.clone(), of.service.clone());
        key(one).cmp(&key(other))
    });
    all
}

fn row(
    edge: &Edge,
    (source, identity): (End, &str),
    destination: End,
    backend: Option<End>,
    mtls: Mtls,
    window: u64,
) -> Row {
    Row {
        source,
        identity: identity.to_owned(),
        backend: backend.filter(|backend| *backend != destination),
        port: port(&edge.backend),
        answered_by_sidecar: edge.reporter == Reporter::Source && edge.backend.is_empty(),
        destination,
        protocol: edge.protocol,
        mtls,
        reporter: edge.reporter,
        figures: Figures::of(&edge.counts, window),
        counts: edge.counts.clone(),
    }
}

/// The destination by its service. `-` and the empty text are not a service.
fn named(service: End, otherwise: Option<&End>, cluster: &str) -> End {
    match &*service.name {
        "" | "-" => otherwise
            .cloned()
            .unwrap_or_else(|| End::new(&service.namespace, cluster)),
        _ => service,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRONTEND: &str = "spiffe://cluster.local/ns/shop/sa/frontend";

    fn source(workload: &str, service: &str, backend: &str, requests: u32) -> Edge {
        Edge {
            reporter: Reporter::Source,
            namespace: "shop".into(),
            workload: workload.into(),
            identity: format!("spiffe://cluster.local/ns/shop/sa/{workload}"),
            peer: String::new(),
            service_namespace: "shop".into(),
            service: service.into(),
            backend: backend.into(),
            protocol: Protocol::Http,
            first_seconds_ago: None,
            last_seconds_ago: None,
            counts: EdgeCounts {
                responses: [0, 0, requests, 0, 0, 0],
                ..EdgeCounts::default()
            },
        }
    }

    fn destination(peer: &str, service: &str) -> Edge {
        Edge {
            reporter: Reporter::Destination,
            peer: peer.into(),
            backend: String::new(),
            ..source("reviews-v1", service, "", 5)
        }
    }

    fn replica(name: &str, edges: Vec<Edge>) -> Replica<EdgesReport> {
        Replica {
            name: name.to_owned(),
            answer: Ok(EdgesReport {
                window_seconds: 60,
                covered_seconds: 10,
                edges,
                losses: Losses {
                    by_agents: 1,
                    ..Losses::default()
                },
                ..EdgesReport::default()
            }),
        }
    }

    fn described(graph: &Graph) -> Vec<String> {
        let rows = graph.edges.iter().map(|row| {
            let backend = row.backend.as_ref().map_or("-", |end| &*end.name);
            let (from, to) = (&row.source.name, &row.destination.name);
            format!(
                "{from} {to} {backend} {:?} {}",
                row.mtls,
                row.counts.requests()
            )
        });
        rows.collect()
    }

    #[test]
    fn the_reports_of_replicas_add_up_and_the_sides_of_an_edge_are_one() {
        let v1 = "out|shop/reviews-v1|9080";
        let graph = Graph::of(vec![
            replica(
                "b",
                vec![
                    source("frontend", "reviews", v1, 3),
                    source("frontend", "reviews", "out|shop/reviews|9080", 1),
                ],
            ),
            replica(
                "a",
                vec![
                    source("frontend", "reviews", v1, 4),
                    destination(FRONTEND, "reviews"),
                    destination("", "reviews"),
                    destination("spiffe://cluster.local/ns/bank/sa/teller", "-"),
                    source("frontend", "-", "out|legacy|1", 2),
                ],
            ),
        ]);
        assert_eq!(
            described(&graph),
            [
                " reviews - No 5",
                "teller reviews-v1 - Yes 5",
                "frontend out|legacy|1 - Unknown 2",
                "frontend reviews - Yes 1",
                "frontend reviews reviews-v1 Yes 7",
            ]
        );
        let [server] = &*graph.servers else {
            panic!("{:?}", graph.servers);
        };
        assert_eq!(server.workload, End::new("shop", "reviews-v1"));
        assert!((server.figures.requests_per_second - 1.0).abs() < 1e-9);
        assert!(graph.complete && graph.is_answered());
        assert_eq!((graph.window_seconds, graph.losses.by_agents), (10, 2));
        assert!((graph.edges[4].figures.requests_per_second - 0.7).abs() < 1e-9);
    }

    #[test]
    fn rates_are_of_the_longest_listener_and_the_covered_time_of_the_shortest() {
        let listened = |name: &str, seconds| {
            let mut replica = replica(name, vec![source("frontend", "reviews", "", 30)]);
            if let Ok(report) = &mut replica.answer {
                report.covered_seconds = seconds;
            }
            replica
        };
        let silent = Replica {
            name: "z".to_owned(),
            answer: Err("no answer".to_owned()),
        };
        let graph = Graph::of(vec![listened("old", 915), listened("new", 30), silent]);
        assert_eq!((graph.window_seconds, graph.covered_seconds), (915, 30));
        let document = serde_json::to_value(&graph).unwrap();
        assert_eq!(document["coveredSeconds"], 30);
        assert_eq!(Graph::of(Vec::new()).covered_seconds, 0);
    }

    #[test]
    fn a_replica_that_cannot_be_asked_is_named() {
        let silent = Replica {
            name: "z".to_owned(),
            answer: Err("no answer".to_owned()),
        };
        let mut graph = Graph::of(vec![
            silent,
            replica("a", vec![source("frontend", "reviews", "", 3)]),
        ]);
        assert!(!graph.complete && graph.is_answered());
        assert_eq!(graph.replicas[1].error.as_deref(), Some("no answer"));
        graph.keep("bank");
        assert!(graph.edges.is_empty());
    }
}
