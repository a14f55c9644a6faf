//! Callers that policies name and that do not exist: service accounts that no pod has, namespaces, addresses of services.

use std::collections::BTreeSet;

use heddle_crds::{ConditionType, reason};

use super::reach::Reach;
use super::report::PolicyFeedback;
use crate::authz::Rule;
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
        for (policy, index, rule) in rules(policies) {
            let object = &policy.object;
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
    for (policy, index, rule) in rules(policies) {
        let object = &policy.object;
        let named = callers(trust_domain, rule);
        let named = named.filter(|(_, namespace)| **namespace != *object.namespace);
        let named: BTreeSet<(&str, &str)> = named.collect();
        for (field, namespace) in named {
            let Some(fix) = recorder.missing_namespace(namespace) else {
                continue;
            };
            let field = format!("spec.rules[{index}].from.{field}");
            let message = format!("namespace {namespace} does not exist, so no caller is of it");
            let finding = Finding::warning(object, field, reason::UNKNOWN_CALLER, message);
            feedback.findings.push(finding.fix(fix));
        }
    }
}

/// The rules of policies, each with its index.
fn rules<'p>(
    policies: impl Iterator<Item = &'p Policy>,
) -> impl Iterator<Item = (&'p Policy, usize, &'p Rule)> {
    policies.flat_map(|policy| {
        let rules = policy.rules.iter().enumerate();
        rules.map(move |(index, rule)| (policy, index, rule))
    })
}

/// The callers of the mesh that a rule names: the field and the namespace.
fn callers<'p>(
    trust_domain: &str,
    rule: &'p Rule,
) -> impl Iterator<Item = (&'static str, &'p str)> {
    let from = &rule.from;
    let whole = from
        .identity_prefixes
        .iter()
        .map(|of| ("namespaces", &**of));
    let single = from.identities.iter().map(|of| ("identities", of.as_str()));
    whole.chain(single).filter_map(move |(field, text)| {
        let path = text.strip_prefix("spiffe://")?.strip_prefix(trust_domain)?;
        let (namespace, _) = path.strip_prefix("/ns/")?.split_once('/')?;
        Some((field, namespace))
    })
}

/// Reports each single address that is one of a service: connections come from its pods.
pub(super) fn report_addresses<'p>(
    recorder: &Recorder<'_>,
    policies: impl Iterator<Item = &'p Policy>,
    feedback: &mut PolicyFeedback,
) {
    for (policy, index, rule) in rules(policies) {
        let blocks = rule.from.blocks.iter();
        let single = blocks.filter(|block| block.prefix_len() == block.max_prefix_len());
        for block in single {
            let Some(service) = recorder.service_at(block.addr()) else {
                continue;
            };
            let (object, field) = (&policy.object, format!("spec.rules[{index}].from.ipBlocks"));
            let message = format!(
                "{block} never matches: it is the address of service {service}, from which no connection comes"
            );
            let code = reason::NEVER_MATCHES;
            let told = format!("{field}: {message}");
            feedback.condition(object, ConditionType::Enforced, false, code, &told);
            let finding = Finding::warning(object, field, code, message);
            feedback
                .findings
                .push(finding.fix("name the identities of the pods of the service"));
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
