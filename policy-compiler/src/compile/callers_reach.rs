//! Callers that policies name and that do not exist: service accounts that no pod has, or no pod with a sidecar, namespaces, addresses of
//! services.

use std::collections::{BTreeMap, BTreeSet};

use heddle_crds::{ConditionType, reason};

use super::Compiled;
use super::reach::Reach;
use super::report::PolicyFeedback;
use crate::authz::Rule;
use crate::finding::Finding;
use crate::injection::SYSTEM_NAMESPACES;
use crate::kinds::policies::auth_policy::Policy;
use crate::settings::Settings;
use crate::validation::Recorder;
use crate::world::{World, in_namespace, is_slip};

/// The namespace and the service account of the control plane, which has an identity without a sidecar.
const CONTROL_PLANE: (&str, &str) = ("heddle-system", "heddle-operator");

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
        let named = named.filter(|(_, namespace, _)| **namespace != *object.namespace);
        let named: BTreeSet<(&str, &str)> = named
            .map(|(field, namespace, _)| (field, namespace))
            .collect();
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

/// The callers of the mesh that a rule names: the field, the namespace, and the service account if it is not the whole namespace.
fn callers<'p>(
    trust_domain: &str,
    rule: &'p Rule,
) -> impl Iterator<Item = (&'static str, &'p str, Option<&'p str>)> {
    let from = &rule.from;
    let whole = from
        .identity_prefixes
        .iter()
        .map(|of| ("namespaces", &**of));
    let single = from.identities.iter().map(|of| ("identities", of.as_str()));
    whole.chain(single).filter_map(move |(field, text)| {
        let path = text.strip_prefix("spiffe://")?.strip_prefix(trust_domain)?;
        let (namespace, rest) = path.strip_prefix("/ns/")?.split_once('/')?;
        Some((field, namespace, rest.strip_prefix("sa/")))
    })
}

/// The service accounts of the living pods of a namespace.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ServiceAccounts<'a> {
    /// Those of pods with a sidecar.
    meshed: BTreeSet<&'a str>,
    /// Those of pods without one.
    without_sidecar: BTreeSet<&'a str>,
}

impl Compiled {
    /// Returns the service accounts of the living pods of a namespace.
    pub(super) fn service_accounts<'a>(&'a self, namespace: &'a str) -> ServiceAccounts<'a> {
        let [meshed, without_sidecar] = [&self.pods, &self.without_sidecar].map(|pods| {
            let templates = in_namespace(pods, namespace).flat_map(|(_, all)| all.keys());
            let accounts = templates.map(|template| &*template.service_account);
            accounts.collect()
        });
        ServiceAccounts {
            meshed,
            without_sidecar,
        }
    }
}

impl ServiceAccounts<'_> {
    /// If no pod of a service account, or of the whole namespace, has the identity of a caller, returns the reason and the fix. Pods that
    /// are not there yet are not known.
    fn without_identity(
        &self,
        recorder: &Recorder<'_>,
        namespace: &str,
        account: Option<&str>,
    ) -> Option<(String, String)> {
        let of_control_plane = account.is_none_or(|account| account == CONTROL_PLANE.1);
        if namespace == CONTROL_PLANE.0 && of_control_plane {
            return None;
        }
        let among = |all: &BTreeSet<&str>| match account {
            Some(account) => all.contains(account),
            None => !all.is_empty(),
        };
        if among(&self.meshed) {
            return None;
        }
        let then = match account {
            Some(_) => "no caller has this identity",
            None => "no caller has an identity of this namespace",
        };
        if SYSTEM_NAMESPACES.contains(&namespace) {
            let message = format!("pods of namespace {namespace} get no sidecar, so that {then}");
            return Some((
                message,
                "name the addresses of the callers by ipBlocks".to_owned(),
            ));
        }
        if !among(&self.without_sidecar) || !recorder.knows_namespace(namespace) {
            return None;
        }
        let pods = match account {
            Some(account) => format!("service account {namespace}/{account}"),
            None => format!("namespace {namespace}"),
        };
        let message = format!("no pod of {pods} has a sidecar, so that {then}");
        let fix = format!(
            "label the pods or namespace {namespace} heddle.dev/inject: enabled and restart the pods, or name their addresses by ipBlocks"
        );
        Some((message, fix))
    }
}

/// Reports each caller of the mesh that is there without a sidecar: it has no identity, so that the rule does not decide about it.
pub(super) fn report_without_sidecar<'p>(
    recorder: &Recorder<'_>,
    compiled: &Compiled,
    policies: impl Iterator<Item = &'p Policy>,
    feedback: &mut PolicyFeedback,
) {
    let mut known: BTreeMap<&str, ServiceAccounts<'_>> = BTreeMap::new();
    for (policy, index, rule) in rules(policies) {
        for (field, namespace, account) in callers(&compiled.settings.trust_domain, rule) {
            if field == "identities" && account.is_none() {
                // Not that of a service account.
                continue;
            }
            let accounts = known.entry(namespace).or_insert_with(|| {
                recorder.record_service_accounts(namespace);
                compiled.service_accounts(namespace)
            });
            let without = accounts.without_identity(recorder, namespace, account);
            let Some((message, fix)) = without else {
                continue;
            };
            let (object, field) = (&policy.object, format!("spec.rules[{index}].from.{field}"));
            let finding = Finding::warning(object, field, reason::UNKNOWN_CALLER, message);
            feedback.findings.push(finding.fix(fix));
        }
    }
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
