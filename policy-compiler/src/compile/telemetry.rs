//! The runtime values of a pod: the telemetry objects that select it, else the mesh, decide them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use heddle_crds::{ConditionType, reason};
use prost::Message;

use super::Compiled;
use super::report::PolicyFeedback;
use crate::called_server::{CalledServer, Outside};
use crate::envoy::runtime::{self, RuntimeValue};
use crate::envoy::{access_log, cluster, metrics, otlp, tap, tracing};
use crate::finding::{Finding, ObjectRef};
use crate::kinds::mesh::Settings;
use crate::kinds::policies::telemetry::TelemetryPolicy;
use crate::kinds::policy::Selector;
use crate::resource::{Part, Resource, ResourceKind};
use crate::telemetry::LineFormat;
use crate::world::{NamespacedName, PodTemplate, Port, Service, World};

/// The runtime values of a pod by name, and the objects that decide them.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RuntimeInput {
    values: BTreeMap<&'static str, RuntimeValue>,
    pub(crate) origins: BTreeSet<ObjectRef>,
    /// The objects by which the pod traces: its listeners have a tracer then.
    pub(crate) traces: Option<BTreeSet<ObjectRef>>,
    /// Whether the pod needs the cluster of the collector.
    pub(crate) reports: bool,
}

impl RuntimeInput {
    /// The values for the pods of a template. Conflicts become feedback for the statuses of the objects.
    pub(crate) fn new(
        template: &PodTemplate,
        policies: &[&TelemetryPolicy],
        services: &[&Service],
        settings: &Settings,
        feedback: &mut PolicyFeedback,
    ) -> Self {
        let selecting = policies.iter().filter(|policy| policy.selects(template));
        let selecting: Vec<&TelemetryPolicy> = selecting.copied().collect();
        let mut input = Self::default();
        if let Some(value) = metrics::runtime(settings.labels_left_out) {
            input.values.extend([value]);
            input.origins.extend(settings.origin.clone());
        }
        let with_logs = selecting
            .iter()
            .filter(|policy| policy.access_logs.is_some());
        let winner_of_logs = winner(with_logs.copied(), "spec.accessLogs", template, feedback);
        // Reports about the calls that bring reports would never end.
        let is_collector = |collector: &CalledServer| {
            let mut services = services.iter();
            services.any(|service| collector.is_service(&service.name))
        };
        let collected = settings
            .collector
            .as_ref()
            .is_some_and(|c| !is_collector(c));
        let to_collector = settings.line_format == LineFormat::Record;
        let (logs, origin) = match winner_of_logs {
            Some(policy) => (policy.access_logs, Some(&policy.object)),
            None => (settings.access_logs, settings.origin.as_ref()),
        };
        if let Some(logs) = logs.filter(|_| collected || !to_collector) {
            input.values.extend(access_log::runtime(logs));
            input.origins.extend(origin.cloned());
            input.reports = to_collector;
        }
        let traced = selecting.iter().filter(|policy| policy.traced.is_some());
        let winner = winner(traced.copied(), "spec.tracing", template, feedback);
        let (traced, origin) = match winner {
            Some(policy) => (policy.traced, Some(&policy.object)),
            None => (settings.traced, settings.origin.as_ref()),
        };
        if let Some(share) = traced.filter(|_| collected) {
            input.values.extend(tracing::runtime(share));
            input.origins.extend(origin.cloned());
            input.traces = Some(origin.cloned().into_iter().collect());
            input.reports = true;
        }
        input
    }

    /// The values while the pod is tapped. A tap is of the moment, and of no object.
    pub(crate) fn tapped(&self) -> Self {
        let mut tapped = self.clone();
        tapped.values.extend([tap::runtime()]);
        tapped
    }

    /// Whether there is a value. If not, the proxy has no layer.
    pub(crate) fn has_values(&self) -> bool {
        !self.values.is_empty()
    }
}

/// Makes the runtime layer of a pod.
pub(crate) fn runtime_layer(input: &RuntimeInput) -> Part {
    let values = input.values.iter().map(|(name, value)| (*name, *value));
    let resource = Resource::new(
        ResourceKind::Runtime,
        heddle_xds_types::bootstrap::RUNTIME_LAYER,
        runtime::layer(values),
        Vec::new(),
        input.origins.clone(),
    );
    Part {
        resources: vec![resource],
    }
}

/// The findings about a service that is named as collector and takes no reports.
pub(crate) fn collector_findings(settings: &Settings, world: &World) -> Vec<Finding> {
    let lost = match settings.line_format {
        LineFormat::Record => "all traces and access logs are lost",
        LineFormat::Json | LineFormat::Text => "all traces are lost",
    };
    let named = (
        "spec.telemetry.collector.service",
        reason::COLLECTOR_NOT_FOUND,
    );
    let collector = settings.collector.as_ref();
    let missing = missing_server(settings, world, collector, named, lost);
    let plain = plain_server(settings, collector, "spec.telemetry.collector.address");
    missing.into_iter().chain(plain).collect()
}

/// The warning about a server outside the cluster that sidecars call in plain text. An empty `tls:` may have been meant to be TLS: the API
/// server takes it away.
pub(super) fn plain_server(
    settings: &Settings,
    server: Option<&CalledServer>,
    field: &'static str,
) -> Option<Finding> {
    let (outside, mesh) = (server?.outside()?, settings.origin.as_ref()?);
    outside
        .is_readable_outside(&settings.cluster_domain)
        .then(|| {
            let host = &outside.host;
            let message =
                format!("{host} is called in plain text, which everybody on the way can read");
            Finding::warning(mesh, field, reason::CALLED_IN_PLAIN_TEXT, message)
                .fix("add tls: {} to the address")
        })
}

/// The finding about a service that the Mesh names in a field, and that cannot be called: with a reason for one that does not exist, and
/// the consequence.
pub(super) fn missing_server(
    settings: &Settings,
    world: &World,
    server: Option<&CalledServer>,
    (field, not_found): (&'static str, &'static str),
    consequence: &str,
) -> Option<Finding> {
    let ((name, port), mesh) = (server?.service()?, settings.origin.as_ref()?);
    let (reason, message, fix) = match world.services.get(name) {
        None => (
            not_found,
            format!("service {name} does not exist, so {consequence}"),
            "create it, or correct the name",
        ),
        Some(service) if service.headless => (
            reason::INVALID,
            format!("service {name} is headless, so {consequence}"),
            "name a service with a cluster IP",
        ),
        Some(service) if !service.ports.contains_key(&port) => (
            reason::PORT_NOT_FOUND,
            format!("{}, so {consequence}", service.not_a_port(port)),
            "name one of its ports",
        ),
        Some(_) => return None,
    };
    Some(Finding::error(mesh, field, reason, message).fix(fix))
}

/// A server outside the mesh, none for one that is not there, and the objects that name it.
pub(crate) type CalledHost = (Option<Outside>, BTreeSet<ObjectRef>);

impl Compiled {
    /// The service that is the collector.
    pub(super) fn collector_service(&self) -> Option<(&NamespacedName, Port)> {
        self.settings.collector.as_ref()?.service()
    }

    /// The cluster of a collector outside the mesh, or of one that is not there.
    pub(super) fn collector_host(&self) -> Arc<Part> {
        let collector = self.settings.collector.as_ref();
        let host = collector.and_then(CalledServer::outside).cloned();
        let origins = self.settings.origin.iter().cloned().collect();
        let of = |called: &CalledHost| called_host(otlp::COLLECTOR, called, cluster::reports_to);
        self.shared.collectors.of((host, origins), of)
    }
}

/// The part with the cluster of a server outside the mesh, or of one that is not there.
pub(super) fn called_host(
    name: &str,
    (to, origins): &CalledHost,
    cluster: impl FnOnce(&str, Option<&Outside>) -> Cluster,
) -> Part {
    let resource = Resource::new(
        ResourceKind::Cluster,
        name,
        cluster(name, to.as_ref()).encode_to_vec(),
        Vec::new(),
        origins.clone(),
    );
    Part {
        resources: vec![resource],
    }
}

/// The object that decides: one with a selector before one of the whole namespace, then the one with the smaller name.
fn winner<'a>(
    policies: impl Iterator<Item = &'a TelemetryPolicy>,
    field: &str,
    template: &PodTemplate,
    feedback: &mut PolicyFeedback,
) -> Option<&'a TelemetryPolicy> {
    let (of_all, of_some): (Vec<_>, Vec<_>) =
        policies.partition(|policy| policy.selector == Selector::All);
    for alike in [&of_some, &of_all] {
        if let Some((first, losers)) = alike.split_first() {
            for loser in losers {
                conflict(loser, first, field, template, feedback);
            }
        }
    }
    of_some.first().or(of_all.first()).copied()
}

fn conflict(
    loser: &TelemetryPolicy,
    winner: &TelemetryPolicy,
    field: &str,
    template: &PodTemplate,
    feedback: &mut PolicyFeedback,
) {
    let message = format!(
        "{} wins {field} for {}/{}, for its name is smaller",
        winner.object, template.namespace, template.owner
    );
    let (condition, reason) = (ConditionType::Conflicted, reason::CONFLICT);
    feedback.condition(&loser.object, condition, true, reason, &message);
    let finding = Finding::error(&loser.object, field, reason, message);
    feedback
        .findings
        .push(finding.fix("set it in one of the two, or select other pods"));
}
