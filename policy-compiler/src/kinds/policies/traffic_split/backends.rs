//! The backends and mirrors of a `TrafficSplit`.

use std::collections::BTreeSet;

use heddle_crds::{Backend, BackendTarget, TrafficSplitSpec, reason};

use super::references::{References, target};
use crate::finding::{Finding, ObjectRef};
use crate::kinds::ValidationError;
use crate::settings::Settings;
use crate::traffic::{Millionths, Mirror};
use crate::validation::Recorder;
use crate::world::{NamespacedName, Port, Service, ServicePort, to_labels};

/// The most mirrors.
const MAX_MIRRORS: usize = 4;

/// Backends and mirrors by labels that no pod of the service has: not an error, for the pods may come later.
pub(super) fn without_pods(
    (lookup, settings): (&Recorder<'_>, &Settings),
    object: &ObjectRef,
    spec: &TrafficSplitSpec,
    service: &NamespacedName,
    ports: &BTreeSet<Port>,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    // A backend without weight may be prepared before its pods.
    let backends = spec.backends.iter().enumerate();
    let backends = backends.filter(|(_, backend)| backend.weight > 0);
    let backends =
        backends.map(|(index, of)| (format!("backends[{index}]"), of.target(), of.display_name()));
    let mirrors = spec.mirrors.iter().enumerate();
    let mirrors =
        mirrors.map(|(index, of)| (format!("mirrors[{index}]"), of.target(), of.display_name()));
    for (field, target, name) in backends.chain(mirrors) {
        let labels = match target {
            Some(BackendTarget::Labels(of)) => to_labels(of),
            Some(BackendTarget::Service(_)) | None => continue,
        };
        let there = |port: &Port| {
            lookup.takes_traffic(settings, service, *port, Some(&labels))
                || lookup
                    .readiness(settings, service, *port, Some(&labels))
                    .all
                    > 0
        };
        let field = format!("spec.{field}.labels");
        match lookup.has_pod(service, &labels) {
            Some(true) => continue,
            None => {
                findings.push(not_checked(object, field, service));
                continue;
            }
            Some(false) if ports.iter().any(there) => continue,
            Some(false) => {}
        }
        let message = format!("no pod of service {service} has the labels {name}");
        let finding = Finding::warning(object, field, "NoPods", message);
        findings.push(finding.fix("correct the labels, or create the pods"));
    }
    findings
}

/// Labels that cannot be compared with any pod.
fn not_checked(object: &ObjectRef, field: String, service: &NamespacedName) -> Finding {
    let message =
        format!("the files have no workload of service {service}, so the labels were not checked");
    Finding::info(object, field, reason::NOT_CHECKED, message)
        .fix("add the files of the workloads, or ask the cluster")
}

pub(super) fn check_backends(spec: &TrafficSplitSpec, problems: &mut Vec<ValidationError>) {
    if spec.backends.is_empty() || spec.backends.len() > 32 {
        problems.push(ValidationError::invalid(
            "spec.backends",
            format!("{} backends", spec.backends.len()),
            "name 1 to 32",
        ));
    }
    if spec.backends.iter().all(|b| b.weight == 0) {
        problems.push(ValidationError::invalid(
            "spec.backends",
            "all weights are zero",
            "give at least one backend a weight",
        ));
    }
    let mut seen = BTreeSet::new();
    for (index, backend) in spec.backends.iter().enumerate() {
        let field = format!("spec.backends[{index}]");
        if backend.weight > Backend::MAX_WEIGHT {
            problems.push(ValidationError::invalid(
                format!("{field}.weight"),
                format!("{} is too large", backend.weight),
                "use 0 to 1000000",
            ));
        }
        if !seen.insert(backend.display_name()) {
            problems.push(ValidationError::invalid(
                field.clone(),
                format!("{} is named twice", backend.display_name()),
                "add the weights up in one",
            ));
        }
        problems.extend(check_target(backend.target(), &field));
    }
}

pub(super) fn check_mirrors(spec: &TrafficSplitSpec, problems: &mut Vec<ValidationError>) {
    if spec.mirrors.len() > MAX_MIRRORS {
        let message = format!("{} mirrors", spec.mirrors.len());
        problems.push(ValidationError::invalid(
            "spec.mirrors",
            message,
            "name 1 to 4",
        ));
    }
    let mut seen = BTreeSet::new();
    for (index, mirror) in spec.mirrors.iter().enumerate() {
        let field = format!("spec.mirrors[{index}]");
        let name = mirror.display_name();
        if !seen.insert(name.clone()) {
            let message = format!("{name} is named twice");
            let fix = "keep one";
            problems.push(ValidationError::invalid(&*field, message, fix));
        }
        problems.extend(check_target(mirror.target(), &field));
    }
}

/// The copies of the requests to a port.
pub(super) fn mirrors(
    spec: &TrafficSplitSpec,
    references: &References,
    (service, port): (&NamespacedName, Port),
) -> Vec<Mirror> {
    let mirror = |(index, of): (usize, &heddle_crds::Mirror)| {
        references.takes_copies(index, port).then_some(())?;
        Some(Mirror {
            backend: target(service, port, of.target())?,
            share: Millionths::of(of.percent.of_ten_thousand().into(), 10_000)?,
        })
    };
    spec.mirrors.iter().enumerate().filter_map(mirror).collect()
}

/// The ports of the service to which the split applies, those without HTTP included.
pub(super) fn claimed<'a>(
    spec: &TrafficSplitSpec,
    service: Option<&'a Service>,
) -> Vec<&'a ServicePort> {
    let only = spec.port.map(Port::from);
    let all = service.into_iter().flat_map(|of| of.ports.values());
    all.filter(|port| only.is_none_or(|only| only == port.port))
        .collect()
}

/// The fault of a target that is not one of the two.
fn check_target(target: Option<BackendTarget<'_>>, field: &str) -> Option<ValidationError> {
    let fault = || {
        ValidationError::invalid(
            field,
            "exactly one of service and labels names the target",
            "remove one, or add the missing one",
        )
    };
    target.is_none().then(fault)
}
