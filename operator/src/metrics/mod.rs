//! The metrics of the control plane.

mod connections;
mod edges;
mod labels;
mod server;
mod sidecars;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use heddle_policy_compiler::{ObjectKind, Recompiled};
use heddle_xds_server::Counters;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Metric, Registry};

use crate::listen::Listeners;
use connections::Connections;
pub use edges::EdgeMetrics;
use server::Server;
pub use sidecars::SidecarCounts;
use sidecars::Sidecars;

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
    root_expiry: Gauge,
    /// Failed writes to the API server, by kind.
    pub write_errors: Family<Watch, Counter>,
    /// Traces of changes, by their end.
    pub change_traces: Family<Outcome, Counter>,
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
    sidecars: Sidecars,
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
            root_expiry: Gauge::default(),
            write_errors: Family::default(),
            change_traces: Family::default(),
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
            sidecars: Sidecars::default(),
            server,
            registry: Registry::default(),
        };
        metrics.register(&mut registry);
        metrics.begin_at_zero();
        Self {
            registry,
            ..metrics
        }
    }
}

impl Metrics {
    /// Makes the series of all known labels. A series that begins with its first event has no rate for that event, and a query about
    /// it has no data before.
    fn begin_at_zero(&self) {
        for (family, reasons) in [
            (&self.issue_refused, &labels::CERTIFICATE_REFUSALS[..]),
            (&self.admission_refused, &labels::STREAM_REFUSALS),
            (&self.injections, &labels::REVIEWS),
            (&self.change_traces, &labels::CHANGE_TRACES),
        ] {
            for reason in reasons {
                drop(family.get_or_create(&Outcome { reason }));
            }
        }
        for (kind, _) in ObjectKind::watched() {
            let kind = kind.as_str();
            drop(self.watch_errors.get_or_create(&Watch { kind }));
        }
        for kind in labels::WRITTEN {
            drop(self.write_errors.get_or_create(&Watch { kind }));
        }
    }

    /// Sets the end of the root certificate.
    pub fn root_ends(&self, at: SystemTime) {
        let since = at.duration_since(SystemTime::UNIX_EPOCH);
        let seconds = since.unwrap_or_default().as_secs();
        self.root_expiry
            .set(i64::try_from(seconds).unwrap_or(i64::MAX));
    }

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
        m.register_traces_and_absent(r);
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
        r.register_collector(Box::new(m.sidecars.clone()));
    }

    fn register_traces_and_absent(&self, r: &mut Registry) {
        add(
            r,
            "change_traces",
            "Traces of changes that were exported or lost, and events that found the queue full",
            &self.change_traces,
        );
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
        add(
            r,
            "root_expiry_timestamp_seconds",
            "The end of the root certificate of the mesh, in seconds since 1970",
            &m.root_expiry,
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

    /// Adds the counts of sidecars, which are made when they are asked for.
    pub fn count_sidecars(&self, count: impl Fn() -> SidecarCounts + Send + Sync + 'static) {
        self.sidecars.set(Arc::new(count));
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
        metrics.count_sidecars(|| SidecarCounts {
            behind: 3,
            longest_behind_seconds: 7,
            ..SidecarCounts::default()
        });
        let text = metrics.text().unwrap();
        for line in [
            "heddle_sidecars{state=\"behind\"} 3",
            "heddle_sidecars_longest_behind_seconds 7",
            "heddle_objects_set_aside 0",
            "heddle_findings 2",
            "heddle_streams_open 0",
            "heddle_scope_absent_workloads 0",
            "heddle_listener_connections{server=\"webhook\"} 0",
            "heddle_listener_connections_ended_early_total{server=\"discovery\",reason=\"full\"} 0",
            "heddle_recompiled_units_total{unit=\"clients\"} 3",
            "heddle_convergence_seconds_count 0",
            "heddle_convergence_seconds_bucket{le=\"+Inf\"} 0",
            "heddle_audit_mismatches 0",
            "heddle_nacks_total{type=\"lds\"} 0",
            "heddle_certificate_requests_refused_total{reason=\"token\"} 1",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }

    /// Every series that a query may name is there, with its labels. The list has no other metrics of the control plane.
    #[test]
    fn the_list_for_queries_has_metrics_that_are_exposed() {
        use std::collections::{BTreeMap, BTreeSet};

        let metrics = Metrics::default();
        metrics.count_server(Arc::default());
        metrics.count_listeners(Arc::default());
        metrics.count_sidecars(SidecarCounts::default);
        metrics
            .edges
            .set(0, heddle_xds_types::edges::Losses::default());
        let text = metrics.text().unwrap();
        let mut exposed = BTreeMap::<&str, BTreeSet<&str>>::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (series, _) = line.rsplit_once(' ').unwrap();
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let labels = labels.trim_end_matches('}').split(',');
            let names = labels.filter_map(|label| Some(label.split_once('=')?.0));
            let name = name.strip_suffix("_bucket").unwrap_or(name);
            exposed.entry(name).or_default().extend(names);
        }
        let list: serde_json::Value =
            serde_saphyr::from_str(include_str!("../../../config/monitoring/metrics.yaml"))
                .unwrap();
        let listed = list["controlPlane"].as_object().unwrap();
        assert!(listed.len() > 20);
        for (name, labels) in listed {
            let labels: BTreeSet<&str> = labels
                .as_array()
                .unwrap()
                .iter()
                .filter_map(|of| of.as_str())
                .collect();
            assert_eq!(exposed.get(&**name), Some(&labels), "{name} in\n{text}");
        }
    }
}
