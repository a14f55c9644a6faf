//! What the control plane counts.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use heddle_xds_server::{Counters, Counts, PerKind, ResourceKind};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, text};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Metric, Registry};

/// Which of some outcomes.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Outcome {
    /// In one word.
    pub reason: &'static str,
}

/// Which watch.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Watch {
    /// The kind watched.
    pub kind: &'static str,
}

/// All metrics but those of the discovery server, which are read from it when they are asked for.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// From a change seen to its acknowledgement by one proxy, in seconds.
    pub convergence: Histogram,
    /// Certificates issued.
    pub issued: Counter,
    /// Requests for certificates refused, by reason.
    pub issue_refused: Family<Outcome, Counter>,
    /// Streams refused for who the caller is, by reason.
    pub admission_refused: Family<Outcome, Counter>,
    /// Objects read.
    pub objects: Gauge,
    /// Failures of watches on the API server.
    pub watch_errors: Family<Watch, Counter>,
    /// Pods that the webhook saw, by outcome.
    pub injections: Family<Outcome, Counter>,
    /// Failed writes to the API server, by kind.
    pub write_errors: Family<Watch, Counter>,
    compile_seconds: Histogram,
    findings: Gauge,
    server: Server,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("heddle");
        let convergence = Histogram::new(exponential_buckets(0.001, 2.0, 16));
        let compile_seconds = Histogram::new(exponential_buckets(0.0005, 2.0, 16));
        let metrics = Self {
            convergence,
            issued: Counter::default(),
            issue_refused: Family::default(),
            admission_refused: Family::default(),
            objects: Gauge::default(),
            watch_errors: Family::default(),
            injections: Family::default(),
            write_errors: Family::default(),
            compile_seconds,
            findings: Gauge::default(),
            server: Server::default(),
            registry: Registry::default(),
        };
        metrics.register(&mut registry);
        Self {
            registry,
            ..metrics
        }
    }
}

impl Metrics {
    fn register(&self, r: &mut Registry) {
        let m = self;
        add(
            r,
            "convergence_seconds",
            "From a change seen to its acknowledgement by a proxy",
            &m.convergence,
        );
        add(
            r,
            "compile_seconds",
            "Duration of one compile",
            &m.compile_seconds,
        );
        add(r, "certificates_issued", "Certificates issued", &m.issued);
        add(
            r,
            "certificate_requests_refused",
            "Requests for certificates refused",
            &m.issue_refused,
        );
        add(
            r,
            "streams_not_admitted",
            "Discovery streams refused for who the caller is",
            &m.admission_refused,
        );
        add(r, "objects", "Objects read", &m.objects);
        add(r, "findings", "Findings that stand", &m.findings);
        add(
            r,
            "watch_errors",
            "Failures of watches on the API server",
            &m.watch_errors,
        );
        add(
            r,
            "write_errors",
            "Failed writes to the API server",
            &m.write_errors,
        );
        add(r, "injections", "Pods seen by the webhook", &m.injections);
        r.register_collector(Box::new(m.server.clone()));
    }
}

fn add(registry: &mut Registry, name: &str, help: &str, metric: &(impl Metric + Clone)) {
    registry.register(name, help, metric.clone());
}

impl Metrics {
    /// A compile is done.
    pub fn compiled(&self, took: Duration, findings: usize) {
        self.compile_seconds.observe(took.as_secs_f64());
        self.findings
            .set(i64::try_from(findings).unwrap_or(i64::MAX));
    }

    /// Adds what the discovery server counts.
    pub fn count_server(&self, counters: Arc<Counters>) {
        // Said once; of a second server nothing would be counted.
        let _ = self.server.0.set(counters);
    }

    /// All metrics as Prometheus reads them.
    ///
    /// # Errors
    /// When a metric cannot be written as text.
    pub fn text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

#[derive(Clone, Debug, Default)]
struct Server(Arc<OnceLock<Arc<Counters>>>);

impl Collector for Server {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Some(counts) = self.0.get().map(|counters| counters.snapshot()) else {
            return Ok(());
        };
        open(&mut encoder, &counts)?;
        let e = &mut encoder;
        counter(
            e,
            "connections_refused",
            "Connections beyond the bound",
            counts.connections_refused,
        )?;
        counter(
            e,
            "handshakes_failed",
            "TLS handshakes that failed",
            counts.handshakes_failed,
        )?;
        counter(e, "streams", "Discovery streams admitted", counts.streams)?;
        counter(
            e,
            "streams_refused",
            "Discovery streams refused",
            counts.streams_refused,
        )?;
        counter(
            e,
            "response_bytes",
            "Bytes of discovery responses",
            counts.bytes,
        )?;
        counter(
            e,
            "undecodable_requests",
            "Discovery requests that are none",
            counts.undecodable,
        )?;
        counter(
            e,
            "unknown_type_requests",
            "Requests for what is not served",
            counts.unknown_types,
        )?;
        per_kind(e, "pushes", "Discovery responses sent", &counts.responses)?;
        per_kind(
            e,
            "nacks",
            "Discovery responses refused by proxies",
            &counts.nacks,
        )
    }
}

fn open(e: &mut DescriptorEncoder<'_>, counts: &Counts) -> Encoded {
    gauge(
        e,
        "connections_open",
        "Open connections of proxies",
        counts.connections_open,
    )?;
    gauge(
        e,
        "streams_open",
        "Open discovery streams",
        counts.streams_open,
    )
}

type Encoded = Result<(), std::fmt::Error>;

fn gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> Encoded {
    let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
    gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)
}

fn counter(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> Encoded {
    let counter = ConstCounter::new(value);
    counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)
}

fn per_kind(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    counts: &PerKind,
) -> Encoded {
    let kind = ConstCounter::new(0u64).metric_type();
    let mut family = encoder.encode_descriptor(name, help, None, kind)?;
    for kind in ResourceKind::ALL {
        let labels = [("type", kind.label())];
        ConstCounter::new(counts.get(kind)).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_can_be_read() {
        let metrics = Metrics::default();
        metrics.count_server(Arc::default());
        metrics.compiled(Duration::from_millis(3), 2);
        metrics
            .issue_refused
            .get_or_create(&Outcome { reason: "token" })
            .inc();
        let text = metrics.text().unwrap();
        for line in [
            "heddle_findings 2",
            "heddle_streams_open 0",
            "heddle_nacks_total{type=\"lds\"} 0",
            "heddle_certificate_requests_refused_total{reason=\"token\"} 1",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }
}
