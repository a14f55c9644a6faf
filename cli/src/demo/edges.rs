//! Who calls whom, read from the callers' own Envoys: the golden metrics of the mesh, without a Prometheus in between.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::client;
use super::prometheus::{self, Sample};
use crate::table;

const ADMIN_TIMEOUT: Duration = Duration::from_secs(5);
const STATS: &str = "/stats/prometheus?filter=heddle_request&histogram_buckets=summary";
const REQUESTS: &str = "envoy_heddle_requests_total";
const DURATION: &str = "envoy_heddle_request_duration_ms";
/// The label that says which side reports, and the reporter whose view is shown: the caller's, whose times hold the network too.
const REPORTER: (&str, &str) = ("reporter", "source");
/// The label of the service that was called.
const SERVICE: &str = "destination_service";

/// Caller and service.
type Pair = (String, String);

/// What one caller's Envoy counted for one service.
#[derive(Debug, Clone, Default, PartialEq)]
struct Counted {
    good: f64,
    all: f64,
    p50: f64,
    p99: f64,
}

/// A sidecar whose metrics are read.
pub struct Sidecar {
    /// `frontend-1`.
    pub pod: String,
    /// Envoy's admin socket.
    pub admin: PathBuf,
}

/// One reading of all sidecars.
pub struct Reading {
    at: Instant,
    pairs: BTreeMap<Pair, Counted>,
}

/// Reads every sidecar once.
pub async fn read(sidecars: &[Sidecar]) -> Result<Reading> {
    let mut pairs = BTreeMap::new();
    for sidecar in sidecars {
        let reply = client::get_unix(&sidecar.admin, STATS, ADMIN_TIMEOUT)
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
        take(&sidecar.pod, &prometheus::parse(&reply.text()), &mut pairs);
    }
    Ok(Reading {
        at: Instant::now(),
        pairs,
    })
}

fn take(pod: &str, samples: &[Sample], pairs: &mut BTreeMap<Pair, Counted>) {
    for sample in samples
        .iter()
        .filter(|sample| sample.label(REPORTER.0) == REPORTER.1)
    {
        let counted = pairs
            .entry((pod.to_owned(), sample.label(SERVICE).to_owned()))
            .or_default();
        match (sample.name.as_str(), sample.label("quantile")) {
            (REQUESTS, _) => {
                counted.all += sample.value;
                if sample.label("response_code").starts_with('2') {
                    counted.good += sample.value;
                }
            }
            // One series per response code; the slowest speaks for all, and an empty one is no number.
            (DURATION, "0.5") if sample.value.is_finite() => {
                counted.p50 = counted.p50.max(sample.value)
            }
            (DURATION, "0.99") if sample.value.is_finite() => {
                counted.p99 = counted.p99.max(sample.value)
            }
            _ => {}
        }
    }
}

/// All edges, with rates between two readings.
pub fn table(before: &Reading, after: &Reading) -> String {
    let seconds = after.at.duration_since(before.at).as_secs_f64().max(0.001);
    let row = |((pod, service), now): (&Pair, &Counted)| {
        let earlier = before
            .pairs
            .get(&(pod.clone(), service.clone()))
            .map_or(0.0, |counted| counted.all);
        vec![
            pod.clone(),
            service.clone(),
            format!("{:.0}", now.all),
            format!("{:.0}/s", (now.all - earlier) / seconds),
            format!("{:.1} %", 100.0 * now.good / now.all.max(1.0)),
            format!("{:.1} ms", now.p50),
            format!("{:.1} ms", now.p99),
        ]
    };
    let rows: Vec<Vec<String>> = after
        .pairs
        .iter()
        .filter(|(_, counted)| counted.all > 0.0)
        .map(row)
        .collect();
    table::render(
        &[
            "CALLER", "SERVICE", "REQUESTS", "RATE", "SUCCESS", "P50", "P99",
        ],
        &rows,
    )
}

impl Reading {
    /// Requests of a caller to a service.
    pub fn requests(&self, pod: &str, service: &str) -> f64 {
        self.pairs
            .get(&(pod.to_owned(), service.to_owned()))
            .map_or(0.0, |counted| counted.all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_add_up_over_response_codes_and_only_the_callers_view_counts() {
        let text = r#"envoy_heddle_requests_total{reporter="source",destination_service="a",response_code="200"} 9
envoy_heddle_requests_total{reporter="source",destination_service="a",response_code="403"} 1
envoy_heddle_requests_total{reporter="destination",destination_service="a",response_code="200"} 70
envoy_heddle_request_duration_ms{reporter="source",destination_service="a",response_code="200",quantile="0.5"} 1.5
envoy_heddle_request_duration_ms{reporter="source",destination_service="a",response_code="403",quantile="0.5"} NaN
envoy_heddle_request_duration_ms{reporter="source",destination_service="a",response_code="200",quantile="0.99"} 4"#;
        let mut pairs = BTreeMap::new();
        take("p", &prometheus::parse(text), &mut pairs);
        let counted = pairs.get(&("p".to_owned(), "a".to_owned())).unwrap();
        assert_eq!(
            *counted,
            Counted {
                good: 9.0,
                all: 10.0,
                p50: 1.5,
                p99: 4.0
            }
        );
    }
}
