//! Callers of the namespace of a policy: service accounts that no pod has, and that are probably slips of the pen.

use std::collections::BTreeSet;

use heddle_crds::reason;

use super::reach::Reach;
use super::report::PolicyFeedback;
use crate::finding::Finding;
use crate::kinds::policies::auth_policy::Policy;
use crate::settings::Settings;
use crate::validation::Recorder;
use crate::world::{World, is_slip};

impl Reach<'_> {
    /// Reports each identity of the namespace of a policy that no pod has and that almost equals one that pods have. Others may be those of
    /// pods that are not there at the moment.
    pub(super) fn report_callers<'p>(
        &self,
        policies: impl Iterator<Item = &'p Policy>,
        feedback: &mut PolicyFeedback,
    ) {
        // Searched for each identity: a policy names few callers of its own namespace, and a set of all accounts would be made at each change.
        let accounts = || {
            let meshed = self.meshed.iter().map(|(template, _)| *template);
            let templates = meshed.chain(self.without_sidecar.iter().copied());
            templates.map(|template| &*template.service_account)
        };
        let rules = policies.flat_map(|policy| {
            let rules = policy.rules.iter().enumerate();
            rules.map(move |(index, rule)| (&policy.object, index, rule))
        });
        for (object, index, rule) in rules {
            let namespace = &object.namespace;
            let own = rule.from.identities.iter().filter_map(|identity| {
                let (_, path) = identity.as_str().split_once("/ns/")?;
                path.strip_prefix(&**namespace)?.strip_prefix("/sa/")
            });
            for account in own.filter(|account| accounts().all(|known| known != *account)) {
                let slips = accounts().filter(|known| is_slip(known, account));
                let Some(meant) = slips.min() else { continue };
                let field = format!("spec.rules[{index}].from.identities");
                let message =
                    format!("no pod of namespace {namespace} has the service account {account:?}");
                let finding = Finding::warning(object, field, reason::UNKNOWN_CALLER, message);
                let fix = format!("pods have {namespace}/{meant}: is that meant?");
                feedback.findings.push(finding.fix(fix));
            }
        }
    }
}

/// Reports each namespace of callers that is missing: the rule cannot decide before it is created.
pub(super) fn report_namespaces<'p>(
    recorder: &Recorder<'_>,
    trust_domain: &str,
    policies: impl Iterator<Item = &'p Policy>,
    feedback: &mut PolicyFeedback,
) {
    for policy in policies {
        let object = &policy.object;
        for (index, rule) in policy.rules.iter().enumerate() {
            let from = &rule.from;
            let whole = from
                .identity_prefixes
                .iter()
                .map(|of| ("namespaces", &**of));
            let single = from.identities.iter().map(|of| ("identities", of.as_str()));
            let named = whole.chain(single).filter_map(|(field, text)| {
                let path = text.strip_prefix("spiffe://")?.strip_prefix(trust_domain)?;
                let (namespace, _) = path.strip_prefix("/ns/")?.split_once('/')?;
                (*namespace != *object.namespace).then_some((field, namespace))
            });
            let named: BTreeSet<(&str, &str)> = named.collect();
            for (field, namespace) in named {
                let Some(fix) = recorder.missing_namespace(namespace) else {
                    continue;
                };
                let field = format!("spec.rules[{index}].from.{field}");
                let message =
                    format!("namespace {namespace} does not exist, so no caller is of it");
                let finding = Finding::warning(object, field, reason::UNKNOWN_CALLER, message);
                feedback.findings.push(finding.fix(fix));
            }
        }
    }
}

/// The findings about namespaces that the Mesh names: those that are missing, so that the entry has no effect, and those that are bypassed.
pub(super) fn namespace_findings(settings: &Settings, world: &World) -> Vec<Finding> {
    let Some(mesh) = &settings.origin else {
        return Vec::new();
    };
    let missing = |name: &str, field: &str| {
        let fix = world.missing_namespace(name)?;
        let message = format!("namespace {name} does not exist, so the entry decides about nobody");
        Some(Finding::warning(mesh, field, reason::UNKNOWN_CALLER, message).fix(fix))
    };
    let outbound = settings.pass_unknown_of.keys();
    let outbound = outbound.filter_map(|name| missing(name, "spec.outboundNamespaces"));
    let bypassed = settings.bypassed.iter().map(|name| {
        let field = "spec.bypassedNamespaces";
        missing(name, field).unwrap_or_else(|| {
            let message = format!(
                "namespace {name} is bypassed: its sidecars enforce nothing, and accept plain text"
            );
            let finding = Finding::warning(mesh, field, reason::BYPASSED, message);
            finding.fix(format!("end it by `heddle mesh bypass {name} --off`"))
        })
    });
    outbound.chain(bypassed).collect()
}
