//! `Mesh`: settings of the whole.

use heddle_crds::{
    AccessLogFormat, AccessLogSink, Action, ConditionType, FailureMode, LastGood, MESH_NAME,
    MeshMode, MeshSpec, MetricLabel, ProxySettings, reason,
};
use heddle_xds_types::golden;
use heddle_xds_types::tap::is_secret_name;

use crate::finding::{Finding, ObjectRef};
use crate::injection::Quantities;
use crate::kinds::called_servers::{self, collector, rate_limit_server};
use crate::kinds::salvage::{bypassed, closed, in_words, salvage};
use crate::kinds::telemetry::{access_logs, span_tags};
use crate::kinds::{ValidationError, validate_spec};
pub(crate) use crate::settings::Settings;
use crate::status::ObjectStatus;
use crate::telemetry::LineFormat;
use crate::traffic::Questions;
use crate::traffic::unrouted::CLIENT_CERTIFICATE;
use crate::validation::ValidationReport;
use crate::world::{Declared, DeclaredDestination, NamespacedName, SpiffeId, World};

/// Judges every `Mesh` and returns the settings, and the spec that they are read from.
pub(crate) fn settings(world: &World) -> (Settings, MeshSpec, ValidationReport) {
    let mut report = ValidationReport::default();
    let mut counting = None;
    for (name, declared) in &world.declared.meshes {
        let (spec, mut status) = judge_one(world, declared, &mut report.findings);
        if *name.name == *MESH_NAME {
            counting = Some((spec, declared.object.clone()));
        } else {
            status.set(
                ConditionType::Accepted,
                false,
                reason::NOT_THE_MESH,
                format!("only the Mesh named {MESH_NAME} counts"),
            );
            status.in_force = None;
        }
        report.statuses.insert(declared.object.clone(), status);
    }
    let (spec, origin) = counting.map_or_else(
        || (MeshSpec::default(), None),
        |(spec, object)| (spec, Some(object)),
    );
    let spec = in_trust_domain(spec, world, origin.as_ref(), &mut report);
    let left_out = origin.iter().flat_map(|object| secret_tags(&spec, object));
    report.findings.extend(left_out);
    let above = origin.iter();
    let above = above.flat_map(|object| requests_above_limits(&spec.proxy, object));
    report.findings.extend(above);
    (read(&spec, origin), spec, report)
}

/// The spec in the trust domain of the mesh's root. Certificates of running sidecars are of that domain, so another one in the `Mesh` would end
/// every mTLS call: it is rejected, with the way that works.
fn in_trust_domain(
    spec: MeshSpec,
    world: &World,
    origin: Option<&ObjectRef>,
    report: &mut ValidationReport,
) -> MeshSpec {
    let fixed = world.trust_domain.as_deref();
    let Some(fixed) = fixed.filter(|fixed| *fixed != spec.trust_domain) else {
        return spec;
    };
    if let Some(object) = origin {
        let message = format!(
            "spec.trustDomain: {:?} is not the trust domain of the mesh's root, {fixed:?}, which stays in force",
            spec.trust_domain
        );
        let fix = "write that one; for a new trust domain make a new root by `heddle ca reset` and restart every pod of the mesh";
        report.findings.push(
            Finding::error(
                object,
                "spec.trustDomain",
                reason::TRUST_DOMAIN_FIXED,
                message.clone(),
            )
            .fix(fix),
        );
        if let Some(status) = report.statuses.get_mut(object) {
            let text = format!("{message}; {fix}");
            status.set(
                ConditionType::Accepted,
                false,
                reason::TRUST_DOMAIN_FIXED,
                text,
            );
        }
    }
    MeshSpec {
        trust_domain: fixed.to_owned(),
        ..spec
    }
}

/// Returns the spec in force of one `Mesh`, and its status. A namespace is bypassed only while the object itself lists it in a readable
/// element: the last good spec brings none back.
fn judge_one(
    world: &World,
    declared: &Declared<MeshSpec>,
    findings: &mut Vec<Finding>,
) -> (MeshSpec, ObjectStatus) {
    let (mut spec, status) = in_force(world, declared, findings);
    let written = match &declared.spec {
        Ok(written) => written.bypassed_namespaces.clone(),
        Err(_) => bypassed(&declared.raw_spec),
    };
    spec.bypassed_namespaces.retain(|of| written.contains(of));
    (spec, status)
}

/// The same, as far as the last good spec may replace unreadable fields. An unreadable field never becomes the open default.
fn in_force(
    world: &World,
    declared: &Declared<MeshSpec>,
    findings: &mut Vec<Finding>,
) -> (MeshSpec, ObjectStatus) {
    let history = world.history(&declared.object);
    let mut judged = validate_spec(declared, history, check, |_, _| false, findings);
    judged
        .status
        .conditions
        .retain(|c| c.kind != ConditionType::ResolvedRefs);
    let accepted = ConditionType::Accepted;
    let rejected = history
        .rejection
        .is_some_and(|r| r.generation == declared.generation);
    if judged.reason.is_none() || rejected {
        let of_access = || of_access(declared.spec.clone().unwrap_or_else(|_| closed()));
        return (judged.spec.unwrap_or_else(of_access), judged.status);
    }
    let written = match &declared.spec {
        Ok(spec) => serde_json::to_value(spec).unwrap_or_default(),
        Err(_) => declared.raw_spec.clone(),
    };
    // One that a newer version wrote has fields of its own.
    let last = history.last_good();
    let last = last.map(|last| salvage(&last.spec, None, check).spec);
    let salvaged = salvage(&written, last.as_ref(), check);
    let words = in_words(&salvaged.spec);
    if salvaged.replaced.is_empty() {
        let unknown = salvaged.unknown.join(", ");
        let message =
            format!("valid, and without unknown fields ({unknown}), which are ignored: {words}");
        judged.status.set(accepted, true, reason::ACCEPTED, message);
    } else {
        let source = if last.is_some() {
            "the last good spec"
        } else {
            "the closed values"
        };
        let replaced = salvaged.replaced.join(", ");
        let instead = format!("in force: {words}; taken from {source}: {replaced}");
        let reason = judged.reason.unwrap_or_default();
        let message = format!("{reason} ({instead})");
        findings.push(
            Finding::error(&declared.object, "spec", reason::INVALID, instead).fix("mend the spec"),
        );
        judged.status.set(accepted, false, reason::INVALID, message);
    }
    judged.status.in_force = LastGood::of(declared.generation, &salvaged.spec).ok();
    (salvaged.spec, judged.status)
}

/// The fields about access, and defaults for the others: for a spec that Envoy rejects and that has no last good one.
fn of_access(written: MeshSpec) -> MeshSpec {
    MeshSpec {
        trust_domain: written.trust_domain,
        cluster_domain: written.cluster_domain,
        mode: written.mode,
        default_action: written.default_action,
        outbound: written.outbound,
        outbound_namespaces: written.outbound_namespaces,
        plain_destinations: written.plain_destinations,
        scope: written.scope,
        ..MeshSpec::default()
    }
}

fn read(spec: &MeshSpec, origin: Option<ObjectRef>) -> Settings {
    let reader = |r: &heddle_crds::ServiceAccountRef| {
        SpiffeId::new(&spec.trust_domain, &r.namespace, &r.service_account)
    };
    let mut metrics_readers: Vec<SpiffeId> =
        spec.telemetry.metrics_readers.iter().map(reader).collect();
    metrics_readers.sort();
    metrics_readers.dedup();
    let tracing = spec.telemetry.tracing.as_ref();
    Settings {
        trust_domain: spec.trust_domain.as_str().into(),
        cluster_domain: spec.cluster_domain.as_str().into(),
        mode: spec.mode,
        default_allow: spec.default_action == Action::Allow,
        pass_unknown: spec.outbound == Action::Allow,
        pass_unknown_of: spec
            .outbound_namespaces
            .iter()
            .map(|of| (of.namespace.as_str().into(), of.outbound == Action::Allow))
            .collect(),
        bypassed: spec
            .bypassed_namespaces
            .iter()
            .map(|of| of.namespace.as_str().into())
            .collect(),
        on_demand: spec.scope.on_demand,
        idle_after: spec.scope.idle_after.get(),
        metrics_readers,
        plain: plain(spec),
        max_connection_age: spec.certificates.lifetime.get() / 2,
        access_logs: spec.telemetry.access_logs.as_ref().map(access_logs),
        line_format: line_format(&spec.telemetry),
        collector: spec.telemetry.collector.as_ref().and_then(collector),
        traced: tracing
            .and_then(|tracing| tracing.percent)
            .map(heddle_crds::Percent::of_ten_thousand),
        limiter: spec.rate_limits.server.as_ref().and_then(rate_limit_server),
        questions: Questions {
            timeout: spec.rate_limits.timeout.get(),
            closed: spec.rate_limits.failure_mode == FailureMode::Closed,
        },
        span_tags: span_tags(tracing.map_or(&[][..], |tracing| &tracing.tags)),
        labels_left_out: labels_left_out(&spec.telemetry.omit_metric_labels),
        origin,
    }
}

fn labels_left_out(labels: &[MetricLabel]) -> u32 {
    let names: Vec<&str> = labels.iter().map(|label| label.as_str()).collect();
    golden::left_out(&names)
}

/// The form of lines. The standard output takes them where there is no collector, which the schema refuses.
const fn line_format(of: &heddle_crds::MeshTelemetry) -> LineFormat {
    match (of.access_log_sink, of.access_log_format) {
        (AccessLogSink::Collector, _) if of.collector.is_some() => LineFormat::Record,
        (_, AccessLogFormat::Json) => LineFormat::Json,
        (_, AccessLogFormat::Text) => LineFormat::Text,
    }
}

fn plain(spec: &MeshSpec) -> Option<Vec<DeclaredDestination>> {
    if (spec.mode, spec.outbound) != (MeshMode::Strict, Action::Deny) {
        return None;
    }
    let entry = |entry: &heddle_crds::PlainDestination| match entry.service.as_str() {
        "*" => DeclaredDestination::Namespace(entry.namespace.as_str().into()),
        name => {
            let name = NamespacedName::new(&entry.namespace, name);
            DeclaredDestination::Service(name, None)
        }
    };
    Some(spec.plain_destinations.iter().map(entry).collect())
}

/// The API server has checked the rest by the schema; a file has not been there.
pub(super) fn check(spec: &MeshSpec) -> Vec<ValidationError> {
    let clean = |text: &str| {
        !text.is_empty()
            && text
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b))
    };
    let mut problems: Vec<ValidationError> = called_servers::faults(spec).collect();
    problems.extend(unusable_tags(spec));
    if !clean(&spec.trust_domain) {
        problems.push(ValidationError::invalid(
            "spec.trustDomain",
            format!("{:?} is not a trust domain", spec.trust_domain),
            "use lower-case letters, digits, dots and dashes",
        ));
    }
    problems
}

/// The tags of spans that are left out, because headers of such names may carry credentials. The definition refuses them too; that of an
/// earlier version did not, and for a tag alone a Mesh must not close.
fn secret_tags(spec: &MeshSpec, object: &ObjectRef) -> Vec<Finding> {
    let tags = spec.telemetry.tracing.iter().flat_map(|of| &of.tags);
    let left_out = tags.enumerate().filter_map(|(index, tag)| {
        let name = tag.request_header.as_deref()?;
        let field = format!("spec.telemetry.tracing.tags[{index}].requestHeader");
        let message = format!("{name:?} may carry credentials, so that spans have no tag of it");
        let finding = || Finding::error(object, field, "SecretHeader", message);
        is_secret_name(name).then(|| finding().fix("name a header that carries none"))
    });
    left_out.collect()
}

/// The requests of the two containers that are above their limits. An API server refuses every pod with such a container, so that the limit
/// counts. The definition cannot refuse them: a Mesh that is stored already must stay one.
fn requests_above_limits(proxy: &ProxySettings, object: &ObjectRef) -> Vec<Finding> {
    let of = [
        ("resources", Quantities::of_proxy(proxy)),
        ("initResources", Quantities::of_init(proxy)),
    ];
    let above = of.into_iter().flat_map(|(of, quantities)| {
        let above = quantities.above_limits();
        above.map(move |(resource, request, limit)| {
            let field = format!("spec.proxy.{of}.requests.{resource}");
            let message = format!(
                "{request} is more than spec.proxy.{of}.limits.{resource}, {limit}: Kubernetes refuses such pods, so the containers request {limit} instead"
            );
            let finding = Finding::error(object, field, reason::INVALID, message);
            finding.fix("lower the request or raise the limit")
        })
    });
    above.collect()
}

/// The tags of spans with a header that would be code in an expression, or with credentials.
fn unusable_tags(spec: &MeshSpec) -> impl Iterator<Item = ValidationError> {
    let tags = spec.telemetry.tracing.iter().flat_map(|of| &of.tags);
    tags.enumerate().filter_map(|(index, tag)| {
        let name = tag.request_header.as_deref()?;
        let known = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-".contains(&b);
        let (problem, fix) = match name {
            "authorization" | "proxy-authorization" | "cookie" | CLIENT_CERTIFICATE => {
                ("has credentials", "name a header that carries none")
            }
            name if !name.is_empty() && name.bytes().all(known) => return None,
            _ => (
                "is not the name of a header",
                "use lower-case letters, digits, - and _",
            ),
        };
        Some(ValidationError::invalid(
            format!("spec.telemetry.tracing.tags[{index}].requestHeader"),
            format!("{name:?} {problem}"),
            fix,
        ))
    })
}
