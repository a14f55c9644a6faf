//! `heddle top`: the workloads or the services with the most traffic.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use clap::{Args, ValueEnum};
use heddle_xds_types::edges::{EdgeCounts, Reporter};
use serde::Serialize;
use serde_json::{Value, json};

use crate::edges::figures::{Figures, millis, percent};
use crate::edges::graph::{End, Graph};
use crate::edges::live::{self, LiveArgs};
use crate::edges::{Health, qualified};
use crate::table;

/// Options of `heddle top`.
#[derive(Args, Debug)]
pub struct TopArgs {
    /// Rows for workloads, or for services.
    #[arg(value_enum, default_value_t = By::Workloads)]
    by: By,
    #[command(flatten)]
    live: LiveArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum By {
    /// Each workload: requests to it as its own sidecars count them, and requests that it makes.
    Workloads,
    /// Each service: requests to it as its callers count them.
    Services,
}

/// Runs the command.
///
/// # Errors
/// A replica could not be asked; while watching only if none could.
pub async fn run(args: &TopArgs) -> Result<()> {
    live::run(&args.live, &|graph| match args.by {
        By::Workloads => workloads(graph),
        By::Services => services(graph),
    })
    .await
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Workload {
    #[serde(flatten)]
    workload: End,
    /// Requests to the workload.
    inbound: Figures,
    /// Requests of the workload.
    outbound: Figures,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Service {
    #[serde(flatten)]
    service: End,
    callers: usize,
    #[serde(flatten)]
    figures: Figures,
}

const WORKLOADS: [&str; 8] = [
    "WORKLOAD", "IN", "SUCCESS", "403", "P50", "P99", "OUT", "SUCCESS",
];
const SERVICES: [&str; 8] = [
    "SERVICE", "CALLERS", "RATE", "SUCCESS", "403", "P50", "P99", "BYTES",
];

fn workloads(graph: &Graph) -> live::Page {
    let mut counts = BTreeMap::<End, [EdgeCounts; 2]>::new();
    for edge in &graph.reports {
        let end = End::new(&edge.namespace, &edge.workload);
        let [inbound, outbound] = counts.entry(end).or_default();
        match edge.reporter {
            Reporter::Destination => inbound.add(&edge.counts),
            Reporter::Source => outbound.add(&edge.counts),
        }
    }
    let of = |counts: &EdgeCounts| Figures::of(counts, graph.window_seconds);
    let all = counts.into_iter().map(|(workload, [inbound, outbound])| {
        let (inbound, outbound) = (of(&inbound), of(&outbound));
        Workload {
            workload,
            inbound,
            outbound,
        }
    });
    let mut all: Vec<Workload> = all.collect();
    all.sort_by(|one, other| {
        busier(&one.inbound, &other.inbound).then(busier(&one.outbound, &other.outbound))
    });
    let rows: Vec<Vec<String>> = all.iter().map(Workload::cells).collect();
    let health = all.iter().map(|row| match Health::of(&row.inbound) {
        Health::Good => Health::of(&row.outbound),
        worse => worse,
    });
    live::Page {
        table: live::Table {
            text: table::render(&WORKLOADS, &rows),
            health: health.collect(),
        },
        document: document(graph, "workloads", &all),
    }
}

fn services(graph: &Graph) -> live::Page {
    let mut counts = BTreeMap::<&End, (BTreeSet<&End>, EdgeCounts)>::new();
    for row in &graph.edges {
        let (callers, sum) = counts.entry(&row.destination).or_default();
        callers.insert(&row.source);
        sum.add(&row.counts);
    }
    let all = counts.into_iter().map(|(service, (callers, sum))| Service {
        service: service.clone(),
        callers: callers.len(),
        figures: Figures::of(&sum, graph.window_seconds),
    });
    let mut all: Vec<Service> = all.collect();
    all.sort_by(|one, other| busier(&one.figures, &other.figures));
    let rows: Vec<Vec<String>> = all.iter().map(Service::cells).collect();
    live::Page {
        table: live::Table {
            text: table::render(&SERVICES, &rows),
            health: all.iter().map(|row| Health::of(&row.figures)).collect(),
        },
        document: document(graph, "services", &all),
    }
}

impl Workload {
    fn cells(&self) -> Vec<String> {
        vec![
            qualified(&self.workload),
            self.inbound.rate(),
            self.inbound.success(),
            percent(self.inbound.forbidden_percent),
            millis(self.inbound.p50_ms),
            millis(self.inbound.p99_ms),
            self.outbound.rate(),
            self.outbound.success(),
        ]
    }
}

impl Service {
    fn cells(&self) -> Vec<String> {
        vec![
            qualified(&self.service),
            self.callers.to_string(),
            self.figures.rate(),
            self.figures.success(),
            percent(self.figures.forbidden_percent),
            millis(self.figures.p50_ms),
            millis(self.figures.p99_ms),
            self.figures.bytes(),
        ]
    }
}

/// The busier one first.
fn busier(one: &Figures, other: &Figures) -> Ordering {
    let rate = |figures: &Figures| figures.requests_per_second + figures.connections_per_second;
    rate(other).total_cmp(&rate(one))
}

fn document<T: Serialize>(graph: &Graph, name: &str, rows: &[T]) -> serde_json::Result<Value> {
    Ok(json!({
        "windowSeconds": graph.window_seconds,
        "complete": graph.complete,
        "replicas": serde_json::to_value(&graph.replicas)?,
        name: serde_json::to_value(rows)?,
        "losses": serde_json::to_value(graph.losses)?,
    }))
}

/// Its output for a test of all printers.
#[cfg(test)]
pub fn printed(of: &crate::hostile::Hostile) -> String {
    let pages = [workloads(&of.graph), services(&of.graph)];
    pages.map(|page| page.table.text).join("\n")
}

#[cfg(test)]
mod tests {
    use heddle_xds_types::edges::{Edge, EdgesReport, Protocol};

    use super::*;
    use crate::replicas::Replica;

    fn graph() -> Graph {
        let edge = |reporter, workload: &str, service: &str, requests, failures| Edge {
            reporter,
            namespace: "shop".into(),
            workload: workload.into(),
            identity: format!("spiffe://d/ns/shop/sa/{workload}"),
            peer: "spiffe://d/ns/shop/sa/frontend".into(),
            service_namespace: "shop".into(),
            service: service.into(),
            backend: String::new(),
            protocol: Protocol::Http,
            first_seconds_ago: None,
            last_seconds_ago: None,
            counts: EdgeCounts {
                responses: [0, 0, requests - failures, 0, 0, failures],
                failures,
                ..EdgeCounts::default()
            },
        };
        let report = EdgesReport {
            covered_seconds: 10,
            edges: vec![
                edge(Reporter::Source, "frontend", "reviews", 100, 0),
                edge(Reporter::Source, "batch", "ratings", 20, 10),
                edge(Reporter::Source, "frontend", "ratings", 20, 0),
                edge(Reporter::Destination, "reviews", "reviews", 100, 0),
            ],
            ..EdgesReport::default()
        };
        Graph::of(vec![Replica {
            name: "a".to_owned(),
            answer: Ok(report),
        }])
    }

    #[test]
    fn the_busiest_comes_first_and_its_failures_show() {
        let page = services(&graph());
        let expected = "\
SERVICE       CALLERS  RATE    SUCCESS  403    P50  P99  BYTES
shop/reviews  1        10.0/s  100 %    0.0 %  -    -    -
shop/ratings  2        4.0/s   75.0 %   0.0 %  -    -    -";
        assert_eq!(page.table.text, expected);
        assert_eq!(page.table.health, [Health::Good, Health::Bad]);
        let page = workloads(&graph());
        let lines: Vec<&str> = page.table.text.lines().collect();
        let words = |line: &str| line.split_whitespace().next().map(str::to_owned);
        let names: Vec<_> = lines.iter().filter_map(|line| words(line)).collect();
        assert_eq!(
            names,
            ["WORKLOAD", "shop/reviews", "shop/frontend", "shop/batch"]
        );
        let document = page.document.unwrap();
        assert_eq!(document["workloads"][2]["outbound"]["successPercent"], 50.0);
        assert_eq!(document["windowSeconds"], 10);
    }
}
