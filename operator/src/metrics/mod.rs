//! The metrics of the control plane.

mod edges;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use heddle_policy_compiler::Recompiled;
use heddle_xds_server::{Counters, Counts, Distribution, PerKind, ResourceKind};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabelSet, EncodeMetric, NoLabelSet, text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Metric, Registry};

use crate::listen::{Listeners, Port};
pub use edges::EdgeMetrics;

/// Which of some outcomes.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Outcome {
    /// In one word.
    pub reason: &'static str,
}

/// Which kind of compiled unit.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Unit {
    unit: &'static str,
}

/// Which watch.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Watch {
    /// The kind watched.
    pub kind: &'static str,
}

/// A list of all objects of a kind that was read again, and why.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Relist {
    /// The kind.
    pub kind: &'static str,
    /// `gone`: the API server no longer has the changes since the last event. `interrupted`: the list was not complete.
    /// `not_streamed`: the API server does not stream lists, and the list is read in pages.
    pub reason: &'static str,
}

/// All metrics but those of the discovery server, which are read from it when they are asked for.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Certificates issued.
    pub issued: Counter,
    /// Requests for certificates refused, by reason.
    pub issue_refused: Family<Outcome, Counter>,
    /// Streams refused by the identity of the caller, by reason.
    pub admission_refused: Family<Outcome, Counter>,
    /// Objects read.
    pub objects: Gauge,
    /// Failures of watches on the API server.
    pub watch_errors: Family<Watch, Counter>,
    /// Lists that were read again, by kind and reason.
    pub relists: Family<Relist, Counter>,
    /// Pods that the webhook saw, by outcome.
    pub injections: Family<Outcome, Counter>,
    /// 1 while the mesh's root is lost, or another root is in its place.
    pub root_lost: Gauge,
    /// Failed writes to the API server, by kind.
    pub write_errors: Family<Watch, Counter>,
    /// The traffic that agents report.
    pub edges: EdgeMetrics,
    compile_seconds: Histogram,
    recompiled: Family<Unit, Counter>,
    findings: Gauge,
    scope_workloads: Gauge,
    scope_destinations: Gauge,
    scope_largest: Gauge,
    scope_absent: Gauge,
    scope_forgotten: Counter,
    audits: Counter,
    audited: Counter,
    audit_mismatches: Gauge,
    audit_mismatches_found: Counter,
    server: Server,
    listeners: Connections,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("heddle");
        let server = Server::default();
        let compile_seconds = Histogram::new(exponential_buckets(0.0005, 2.0, 16));
        let metrics = Self {
            issued: Counter::default(),
            issue_refused: Family::default(),
            admission_refused: Family::default(),
            objects: Gauge::default(),
            watch_errors: Family::default(),
            relists: Family::default(),
            injections: Family::default(),
            root_lost: Gauge::default(),
            write_errors: Family::default(),
            compile_seconds,
            recompiled: Family::default(),
            findings: Gauge::default(),
            scope_workloads: Gauge::default(),
            scope_destinations: Gauge::default(),
            scope_largest: Gauge::default(),
            scope_absent: Gauge::default(),
            scope_forgotten: Counter::default(),
            audits: Counter::default(),
            audited: Counter::default(),
            audit_mismatches: Gauge::default(),
            audit_mismatches_found: Counter::default(),
            edges: EdgeMetrics::default(),
            listeners: Connections(Arc::default(), server.clone()),
            server,
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
            "compile_seconds",
            "Duration of one compile",
            &m.compile_seconds,
        );
        add(
            r,
            "recompiled_units",
            "Units of the mesh that were compiled anew, by kind",
            &m.recompiled,
        );
        add(
            r,
            "scope_workloads",
            "Workloads that have learned destinations",
            &m.scope_workloads,
        );
        add(
            r,
            "scope_destinations",
            "Destinations that all workloads together have learned",
            &m.scope_destinations,
        );
        add(
            r,
            "scope_largest",
            "Destinations of the workload that has learned most",
            &m.scope_largest,
        );
        m.register_absent(r);
        add(
            r,
            "audits",
            "Audits of the resources of proxies against the API server's objects",
            &m.audits,
        );
        add(r, "audited_proxies", "Proxies audited", &m.audited);
        add(
            r,
            "audit_mismatches",
            "Resources of the proxies of the last audit that differ from the API server's objects; 0 is right",
            &m.audit_mismatches,
        );
        add(
            r,
            "audit_mismatches_found",
            "Resources of proxies that differed from the API server's objects, in all audits",
            &m.audit_mismatches_found,
        );
        m.register_doors(r);
        m.edges.register(r);
        r.register_collector(Box::new(m.server.clone()));
        r.register_collector(Box::new(m.listeners.clone()));
    }

    fn register_absent(&self, r: &mut Registry) {
        add(
            r,
            "scope_absent_workloads",
            "Workloads without pods whose scope is remembered; 4096 at most, 256 of one namespace",
            &self.scope_absent,
        );
        add(
            r,
            "scope_forgotten_workloads",
            "Workloads without pods whose scope was forgotten at a bound",
            &self.scope_forgotten,
        );
    }

    fn register_doors(&self, r: &mut Registry) {
        let m = self;
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
            "Discovery streams refused because of the caller's identity",
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
            "relists",
            "Lists of objects that were read again",
            &m.relists,
        );
        add(
            r,
            "write_errors",
            "Failed writes to the API server",
            &m.write_errors,
        );
        add(r, "injections", "Pods seen by the webhook", &m.injections);
        add(
            r,
            "root_lost",
            "1 while the root of the mesh is lost or another is in its place, so that no certificate can be issued after a restart",
            &m.root_lost,
        );
    }
}

fn add(registry: &mut Registry, name: &str, help: &str, metric: &(impl Metric + Clone)) {
    registry.register(name, help, metric.clone());
}

impl Metrics {
    /// A compile is done.
    pub fn compiled(&self, took: Duration, findings: usize, recompiled: &Recompiled) {
        self.compile_seconds.observe(took.as_secs_f64());
        self.findings.set(number(findings));
        for (unit, count) in recompiled.by_kind() {
            let counter = self.recompiled.get_or_create(&Unit { unit });
            counter.inc_by(u64::try_from(count).unwrap_or(u64::MAX));
        }
    }

    /// How many destinations each workload has learned.
    pub fn scope_sizes(&self, sizes: &[usize]) {
        self.scope_workloads.set(number(sizes.len()));
        self.scope_destinations.set(number(sizes.iter().sum()));
        self.scope_largest
            .set(number(sizes.iter().copied().max().unwrap_or(0)));
    }

    /// So many workloads without pods are remembered; some were forgotten.
    pub fn scope_absent(&self, absent: usize, forgotten: usize) {
        self.scope_absent.set(number(absent));
        let forgotten = u64::try_from(forgotten).unwrap_or(u64::MAX);
        self.scope_forgotten.inc_by(forgotten);
    }

    /// An audit is done: of so many proxies so many resources were wrong.
    pub fn audited(&self, proxies: usize, wrong: usize) {
        self.audits.inc();
        self.audited
            .inc_by(u64::try_from(proxies).unwrap_or(u64::MAX));
        self.audit_mismatches.set(number(wrong));
        let found = u64::try_from(wrong).unwrap_or(u64::MAX);
        self.audit_mismatches_found.inc_by(found);
    }

    /// A list of all objects of a kind is read again.
    pub fn relisted(&self, kind: &'static str, reason: &'static str) {
        let relist = Relist { kind, reason };
        self.relists.get_or_create(&relist).inc();
    }

    /// Adds the counts of the discovery server.
    pub fn count_server(&self, counters: Arc<Counters>) {
        // Said once; of a second server nothing would be counted.
        let _ = self.server.0.set(counters);
    }

    /// Adds the counts of the listeners.
    pub fn count_listeners(&self, listeners: Arc<Listeners>) {
        // Set once; the listeners of a second plane would not be counted.
        let _ = self.listeners.0.set(listeners);
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

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[derive(Clone, Debug, Default)]
struct Server(Arc<OnceLock<Arc<Counters>>>);

impl Collector for Server {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Some(counts) = self.0.get().map(|counters| counters.snapshot()) else {
            return Ok(());
        };
        open(&mut encoder, &counts)?;
        streams(&mut encoder, &counts)?;
        let e = &mut encoder;
        counter(
            e,
            "streams_shed",
            "Discovery streams ended so that their proxies rebalance over the replicas",
            counts.streams_shed,
        )?;
        counter(
            e,
            "load_reports",
            "Load reports of proxies",
            counts.load_reports,
        )?;
        histogram(
            e,
            "convergence_seconds",
            "From a change seen to its acknowledgement by a proxy, for each change and proxy",
            &counts.convergence,
        )?;
        histogram(
            e,
            "push_bytes",
            "Sizes of discovery responses",
            &counts.push_bytes,
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

/// Streams by outcome.
fn streams(e: &mut DescriptorEncoder<'_>, counts: &Counts) -> Encoded {
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
        "Discovery requests that cannot be decoded",
        counts.undecodable,
    )?;
    counter(
        e,
        "unknown_type_requests",
        "Requests for resource types that are not served",
        counts.unknown_types,
    )?;
    Ok(())
}

fn open(e: &mut DescriptorEncoder<'_>, counts: &Counts) -> Encoded {
    gauge(
        e,
        "connections_open",
        "Open connections of proxies",
        counts.connections.open,
    )?;
    gauge(
        e,
        "streams_open",
        "Open discovery streams",
        counts.streams_open,
    )
}

/// The connections of all listeners.
#[derive(Clone, Debug, Default)]
struct Connections(Arc<OnceLock<Arc<Listeners>>>, Server);

impl Collector for Connections {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Some(listeners) = self.0.get() else {
            return Ok(());
        };
        let discovery = self.1.0.get().map(|counters| counters.snapshot());
        let discovery = discovery.map(|counts| (Port::Discovery.name(), counts.connections));
        let all: Vec<_> = discovery.into_iter().chain(listeners.counts()).collect();
        let kind = ConstGauge::new(0i64).metric_type();
        let help = "Open connections of each server";
        let mut open = encoder.encode_descriptor("listener_connections", help, None, kind)?;
        for (server, counts) in &all {
            let labels = [("server", *server)];
            let gauge = ConstGauge::new(i64::try_from(counts.open).unwrap_or(i64::MAX));
            gauge.encode(open.encode_family(&labels)?)?;
        }
        let kind = ConstCounter::new(0u64).metric_type();
        let help = "Connections refused, displaced by newer ones, or closed at a deadline";
        let name = "listener_connections_ended_early";
        let mut ended = encoder.encode_descriptor(name, help, None, kind)?;
        for (server, counts) in &all {
            for (reason, count) in counts.ended_early() {
                let labels = [("server", *server), ("reason", reason)];
                ConstCounter::new(count).encode(ended.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
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

fn histogram(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    seen: &Distribution,
) -> Encoded {
    let mut encoder = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
    encoder.encode_histogram::<NoLabelSet>(seen.sum, seen.count, &seen.buckets, None)
}

fn per_kind(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    counts: &PerKind<u64>,
) -> Encoded {
    let kind = ConstCounter::new(0u64).metric_type();
    let mut family = encoder.encode_descriptor(name, help, None, kind)?;
    for kind in ResourceKind::ALL {
        let labels = [("type", kind.label())];
        ConstCounter::new(*counts.get(kind)).encode(family.encode_family(&labels)?)?;
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
        metrics.count_listeners(Arc::default());
        metrics.compiled(
            Duration::from_millis(3),
            2,
            &Recompiled {
                clients: 3,
                ..Recompiled::default()
            },
        );
        metrics
            .issue_refused
            .get_or_create(&Outcome { reason: "token" })
            .inc();
        let text = metrics.text().unwrap();
        for line in [
            "heddle_findings 2",
            "heddle_streams_open 0",
            "heddle_scope_absent_workloads 0",
            "heddle_listener_connections{server=\"webhook\"} 0",
            "heddle_listener_connections_ended_early_total{server=\"discovery\",reason=\"full\"} 0",
            "heddle_recompiled_units_total{unit=\"clients\"} 3",
            "heddle_convergence_seconds_count 0",
            "heddle_audit_mismatches 0",
            "heddle_nacks_total{type=\"lds\"} 0",
            "heddle_certificate_requests_refused_total{reason=\"token\"} 1",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }
}
