//! The edges of the mesh, read from the callers' own sidecars: the golden metrics of the mesh, without a Prometheus in between.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use heddle_xds_types::prometheus::{self, Sample};

use super::client;
use crate::table;

const TIMEOUT: Duration = Duration::from_secs(5);
const STATS: &str = "/stats/prometheus?filter=heddle_request";
const REQUESTS: &str = "envoy_heddle_request_duration_ms_count";
const BUCKET: &str = "envoy_heddle_request_duration_ms_bucket";
/// The label with the side that reports, and the reporter of the values that are shown: the caller's, because its times include the network.
const REPORTER: (&str, &str) = ("reporter", "source");

/// A caller, a service, and the backend that answered.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Edge {
    caller: String,
    service: String,
    backend: String,
}

/// The counts of the caller's sidecar.
#[derive(Debug, Clone, Default, PartialEq)]
struct Counted {
    good: f64,
    all: f64,
    /// Requests up to each bound in milliseconds, as Prometheus has them.
    buckets: Vec<(f64, f64)>,
}

/// A sidecar to read metrics from.
pub struct Sidecar {
    /// `frontend-1`.
    pub pod: String,
    /// The agent's socket for readers of metrics.
    pub metrics: PathBuf,
}

/// One reading of all sidecars.
pub struct Reading {
    at: Instant,
    edges: BTreeMap<Edge, Counted>,
}

/// Reads every sidecar once.
///
/// # Errors
/// A sidecar does not answer in time, or answers with another status than 200.
pub async fn read(sidecars: &[Sidecar]) -> Result<Reading> {
    let mut edges = BTreeMap::new();
    for sidecar in sidecars {
        let reply = client::get_unix(&sidecar.metrics, STATS, TIMEOUT)
            .await
            .with_context(|| format!("metrics of {}", sidecar.pod))?;
        if reply.status != 200 {
            bail!(
                "metrics of {}: {} {}",
                sidecar.pod,
                reply.status,
                reply.text()
            );
        }
        take(&prometheus::parse(&reply.text()), &mut edges);
    }
    Ok(Reading {
        at: Instant::now(),
        edges,
    })
}

fn take(samples: &[Sample], edges: &mut BTreeMap<Edge, Counted>) {
    for sample in samples
        .iter()
        .filter(|sample| sample.label(REPORTER.0) == REPORTER.1)
    {
        let edge = Edge {
            caller: sample.label("source_workload").to_owned(),
            service: sample.label("destination_service").to_owned(),
            backend: backend(sample.label("upstream_cluster")).to_owned(),
        };
        let counted = edges.entry(edge).or_default();
        match sample.name.as_str() {
            REQUESTS => {
                counted.all += sample.value;
                if sample.label("response_code").starts_with('2') {
                    counted.good += sample.value;
                }
            }
            BUCKET => counted.bucket(sample.label("le"), sample.value),
            _ => {}
        }
    }
}

/// `out|shop/reviews-v1|9080` is the service `reviews-v1`.
fn backend(cluster: &str) -> &str {
    let service = cluster.split('|').nth(1).unwrap_or(cluster);
    service.rsplit('/').next().unwrap_or(service)
}

impl Counted {
    fn bucket(&mut self, bound: &str, count: f64) {
        let bound = bound.parse().unwrap_or(f64::INFINITY);
        match self
            .buckets
            .iter_mut()
            .find(|(known, _)| known.total_cmp(&bound).is_eq())
        {
            Some((_, sum)) => *sum += count,
            None => self.buckets.push((bound, count)),
        }
    }

    /// As `histogram_quantile` of Prometheus: linear within a bucket.
    fn quantile(&self, share: f64) -> Option<f64> {
        let mut buckets = self.buckets.clone();
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        let rank = share
            * buckets
                .last()
                .map(|(_, all)| *all)
                .filter(|all| *all > 0.0)?;
        let (mut from, mut below) = (0.0, 0.0);
        for (bound, count) in buckets {
            if count >= rank {
                let within = if count > below {
                    (rank - below) / (count - below)
                } else {
                    1.0
                };
                return Some(if bound.is_finite() {
                    from + (bound - from) * within
                } else {
                    from
                });
            }
            (from, below) = (bound, count);
        }
        None
    }
}

fn millis(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1} ms"))
}

/// All edges, with rates between two readings.
pub fn table(before: &Reading, after: &Reading) -> String {
    let seconds = after.at.duration_since(before.at).as_secs_f64().max(0.001);
    let row = |(edge, now): (&Edge, &Counted)| {
        let earlier = before.edges.get(edge).map_or(0.0, |counted| counted.all);
        vec![
            edge.caller.clone(),
            edge.service.clone(),
            edge.backend.clone(),
            format!("{:.0}", now.all),
            format!("{:.1}/s", (now.all - earlier) / seconds),
            format!("{:.1} %", 100.0 * now.good / now.all.max(1.0)),
            millis(now.quantile(0.5)),
            millis(now.quantile(0.99)),
        ]
    };
    let rows: Vec<Vec<String>> = after
        .edges
        .iter()
        .filter(|(_, counted)| counted.all > 0.0)
        .map(row)
        .collect();
    table::render(
        &[
            "CALLER", "SERVICE", "BACKEND", "REQUESTS", "RATE", "SUCCESS", "P50", "P99",
        ],
        &rows,
    )
}

impl Reading {
    /// Requests of a caller to a service, of all backends.
    pub fn requests(&self, caller: &str, service: &str) -> f64 {
        let edges = self
            .edges
            .iter()
            .filter(|(edge, _)| edge.caller == caller && edge.service == service);
        edges.map(|(_, counted)| counted.all).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_add_up_over_response_codes_and_only_the_callers_view_counts() {
        let text = r#"envoy_heddle_request_duration_ms_count{reporter="source",source_workload="p",destination_service="a",upstream_cluster="out|shop/a|80",response_code="200"} 9
envoy_heddle_request_duration_ms_count{reporter="source",source_workload="p",destination_service="a",upstream_cluster="out|shop/a|80",response_code="403"} 1
envoy_heddle_request_duration_ms_count{reporter="destination",destination_service="a",response_code="200"} 70"#;
        let mut edges = BTreeMap::new();
        take(&prometheus::parse(text), &mut edges);
        let edge = Edge {
            caller: "p".into(),
            service: "a".into(),
            backend: "a".into(),
        };
        assert_eq!(edges.len(), 1);
        assert_eq!((edges[&edge].good, edges[&edge].all), (9.0, 10.0));
    }

    #[test]
    fn quantiles_lie_within_their_bucket() {
        let mut counted = Counted::default();
        for (bound, count) in [("1", 10.0), ("5", 20.0), ("+Inf", 20.0)] {
            counted.bucket(bound, count);
        }
        assert_eq!(counted.quantile(0.25), Some(0.5));
        assert_eq!(counted.quantile(0.75), Some(3.0));
        assert_eq!(Counted::default().quantile(0.5), None);
    }
}
