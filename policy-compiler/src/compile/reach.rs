//! The reach of a namespace's policies: the pods that they select, the sidecars in these pods, the ports that the pods have.
//!
//! A policy without effect is not an invalid spec, but may be a mistake of its author. The policy may get an effect when other objects
//! change. So `Enforced` and warnings report it, until it no longer holds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use heddle_crds::{ConditionType, reason};

use super::inbound::is_reserved;
use super::lists::{named, workload};
use super::report::PolicyFeedback;
use super::service_targets::target;
use super::templates::CompiledTemplate;
use super::transport_reach::OtherTransports;
use crate::authz::{PortAuthz, RuleAction};
use crate::finding::{Finding, ObjectRef};
use crate::injection::INJECT_LABEL;
use crate::kinds::policies::auth_policy::{Policy, Selector};
use crate::kinds::policies::telemetry::TelemetryPolicy;
use crate::world::{Labels, NamespacedName, PodTemplate, Port, Service, is_near};

/// The pods and services of a namespace, as far as policies are concerned.
pub(crate) struct Reach<'a> {
    pub(crate) meshed: Vec<(&'a PodTemplate, &'a CompiledTemplate)>,
    /// Pods without a sidecar.
    pub(crate) without_sidecar: Vec<&'a PodTemplate>,
    pub(crate) services: BTreeMap<&'a NamespacedName, &'a Service>,
    pub(crate) other_transports: OtherTransports<'a>,
    /// Only manifests are known, and perhaps not all.
    pub(crate) offline: bool,
}

impl Reach<'_> {
    /// Returns the feedback about each policy.
    pub(crate) fn of<'p>(&self, policies: impl Iterator<Item = &'p Policy>) -> PolicyFeedback {
        let mut feedback = PolicyFeedback::default();
        for policy in policies {
            self.policy(policy, &mut feedback);
        }
        feedback
    }

    fn policy(&self, policy: &Policy, feedback: &mut PolicyFeedback) {
        if policy.selector == Selector::Nothing {
            return;
        }
        let meshed = self
            .meshed
            .iter()
            .filter(|(template, _)| policy.selects(template));
        let meshed: Vec<(&PodTemplate, &CompiledTemplate)> = meshed.copied().collect();
        let without_sidecar = self
            .without_sidecar
            .iter()
            .filter(|template| policy.selects(template));
        let without_sidecar: Vec<&PodTemplate> = without_sidecar.copied().collect();
        if meshed.is_empty() && without_sidecar.is_empty() {
            self.nothing_selected(policy, feedback);
            return;
        }
        if !without_sidecar.is_empty() {
            no_sidecar(policy, &meshed, &without_sidecar, feedback);
        }
        if meshed.is_empty() {
            return;
        }
        let known: Vec<BTreeSet<Port>> = if policy.ports(true).next().is_some() {
            let known = meshed
                .iter()
                .map(|(template, served)| self.ports(template, served));
            known.collect()
        } else {
            Vec::new()
        };
        self.ports_of_rules(policy, &meshed, &known, feedback);
        let known =
            |template: &PodTemplate, served: &CompiledTemplate| self.ports(template, served);
        self.other_transports
            .report(policy, &meshed, known, feedback);
        self.plain_text(policy, &meshed, feedback);
        self.open_ports(policy, &meshed, feedback);
    }

    fn nothing_selected(&self, policy: &Policy, feedback: &mut PolicyFeedback) {
        let namespace = &policy.object.namespace;
        let Selector::Labels(labels) = &policy.selector else {
            let message = format!("no pod of namespace {namespace} is known");
            enforced(policy, reason::NOTHING_SELECTED, &message, feedback);
            return;
        };
        let (object, field) = (&policy.object, policy.selected_by);
        let message = no_pod_has(object, field, labels);
        enforced(policy, reason::NOTHING_SELECTED, &message, feedback);
        let finding = self.selects_nothing(object, field, labels);
        feedback.findings.push(finding);
    }

    /// Reports each telemetry object with labels that no pod has.
    pub(crate) fn report_telemetry<'p>(
        &self,
        policies: impl Iterator<Item = &'p TelemetryPolicy>,
        feedback: &mut PolicyFeedback,
    ) {
        for policy in policies {
            let meshed = self.meshed.iter().map(|(template, _)| *template);
            let mut templates = meshed.chain(self.without_sidecar.iter().copied());
            if let Selector::Labels(labels) = &policy.selector
                && !templates.any(|template| policy.selects(template))
            {
                let object = &policy.object;
                let finding = self.selects_nothing(object, "spec.selector", labels);
                feedback.findings.push(finding);
            }
        }
    }

    /// The finding about labels that no pod has. Files without any workload of the namespace prove nothing: the workloads may be elsewhere.
    fn selects_nothing(&self, object: &ObjectRef, field: &'static str, labels: &Labels) -> Finding {
        if self.offline && self.meshed.is_empty() && self.without_sidecar.is_empty() {
            return not_checked(object, field);
        }
        let message = no_pod_has(object, field, labels);
        let fix = match self.meant(labels) {
            Some((found, template)) => {
                format!("{} has {found}: is that meant?", workload(template))
            }
            None => "correct the labels, or deploy the pods that they mean".to_owned(),
        };
        Finding::warning(object, field, reason::NOTHING_SELECTED, message).fix(fix)
    }

    /// Labels of a pod that differ from these only by a slip of the pen.
    fn meant(&self, labels: &Labels) -> Option<(String, &PodTemplate)> {
        let templates = self.meshed.iter().map(|(template, _)| *template);
        let mut templates = templates.chain(self.without_sidecar.iter().copied());
        templates.find_map(|template| {
            let near = |(key, value): (&Arc<str>, &Arc<str>)| {
                let mut own = template.labels.iter();
                own.find(|(k, v)| {
                    (*k == key && is_near(v, value)) || (*v == value && is_near(k, key))
                })
            };
            let found: Option<Labels> = labels
                .iter()
                .map(|pair| near(pair).map(|(k, v)| (Arc::clone(k), Arc::clone(v))))
                .collect();
            Some((pairs(&found?), template))
        })
    }

    /// The ports that pods are known to have: their own, those that services lead to, those that are probed.
    fn ports(&self, template: &PodTemplate, served: &CompiledTemplate) -> BTreeSet<Port> {
        let mut ports = self.declared(template, served);
        ports.extend(template.probes.iter().map(|p| p.port));
        ports
    }

    fn declared(&self, template: &PodTemplate, served: &CompiledTemplate) -> BTreeSet<Port> {
        let mut ports: BTreeSet<Port> = template.ports.iter().map(|p| p.port).collect();
        for service in served.services.iter().filter_map(|s| self.services.get(s)) {
            let targets = service.ports.values();
            ports.extend(targets.filter_map(|port| target(&port.target, template)));
        }
        ports
    }

    fn ports_of_rules(
        &self,
        policy: &Policy,
        meshed: &[(&PodTemplate, &CompiledTemplate)],
        known: &[BTreeSet<Port>],
        feedback: &mut PolicyFeedback,
    ) {
        let rules = policy.rules.iter().enumerate().flat_map(|(index, rule)| {
            let ports = rule.to.ports.iter();
            ports.map(move |port| (format!("spec.rules[{index}].to.ports"), *port))
        });
        let mtls = policy.mtls.iter().flat_map(|mtls| mtls.ports.keys());
        let mtls = mtls.map(|port| ("spec.mtls.ports".to_owned(), *port));
        for (field, port) in rules.chain(mtls) {
            let missing = |ports: &BTreeSet<Port>| !ports.is_empty() && !ports.contains(&port);
            let (code, (message, fix)) = if is_reserved(port) {
                let message =
                    format!("port {port} is the sidecar's own, and no policy decides there");
                let fix = "name a port of the application".to_owned();
                (reason::PORT_NOT_FOUND, (message, fix))
            } else if let Some(not_captured) =
                self.other_transports.not_captured(port, meshed, known)
            {
                (reason::NOT_CAPTURED, not_captured)
            } else if known.iter().all(missing) {
                let unknown = self.unknown_port(port, meshed, known);
                (reason::PORT_NOT_FOUND, unknown)
            } else {
                continue;
            };
            enforced(policy, code, &format!("{field}: {message}"), feedback);
            let finding = Finding::warning(&policy.object, field, code, message).fix(fix);
            feedback.findings.push(finding);
        }
    }

    /// A port that no pod declares: most often it is that of a service.
    fn unknown_port(
        &self,
        port: Port,
        meshed: &[(&PodTemplate, &CompiledTemplate)],
        known: &[BTreeSet<Port>],
    ) -> (String, String) {
        let message = format!("no pod that the policy selects has port {port}");
        for (template, served) in meshed {
            for service in served.services.iter().filter_map(|s| self.services.get(s)) {
                let meant = service.ports.get(&port);
                if let Some(meant) = meant.and_then(|meant| target(&meant.target, template)) {
                    let hint = format!(
                        "{message}: {port} is the port of service {}; its container port is {meant}",
                        service.name
                    );
                    return (
                        hint,
                        format!("write {meant}: rules name ports of containers"),
                    );
                }
            }
        }
        let declared: BTreeSet<&Port> = known.iter().flatten().collect();
        let declared = named(declared.iter().map(ToString::to_string));
        (
            message,
            format!("name a port that the pods declare ({declared}), or declare this one"),
        )
    }

    /// Allow rules that name ports close these and no others.
    fn open_ports(
        &self,
        policy: &Policy,
        meshed: &[(&PodTemplate, &CompiledTemplate)],
        feedback: &mut PolicyFeedback,
    ) {
        let mut allows = policy
            .rules
            .iter()
            .filter(|rule| rule.action == RuleAction::Allow && !rule.audit);
        let some = allows.clone().next().is_some();
        if !some || !allows.all(|rule| !rule.to.ports.is_empty()) {
            return;
        }
        let mut open = BTreeSet::new();
        for (template, served) in meshed {
            let ports = self.declared(template, served);
            let free = ports.iter().filter(|port| {
                !is_reserved(**port) && !served.config.input.authz(**port).needs_allow(false)
            });
            open.extend(free.map(|port| format!("port {port} of {}", workload(template))));
        }
        if open.is_empty() {
            return;
        }
        let message = format!(
            "the Allow rules name ports, and the others stay open: {}",
            named(open.into_iter())
        );
        let finding = Finding::info(&policy.object, "spec.rules", reason::OPEN_PORTS, message);
        feedback
            .findings
            .push(finding.fix("leave to.ports out, or add a rule for the others"));
    }

    /// A Deny rule by identity, where the same caller passes without one.
    fn plain_text(
        &self,
        policy: &Policy,
        meshed: &[(&PodTemplate, &CompiledTemplate)],
        feedback: &mut PolicyFeedback,
    ) {
        let denies = policy.rules.iter().enumerate().filter(|(_, rule)| {
            let from = &rule.from;
            let identified = !(from.identities.is_empty() && from.identity_prefixes.is_empty());
            rule.action == RuleAction::Deny && !rule.audit && identified
        });
        for (index, rule) in denies {
            let open = meshed.iter().find_map(|(template, served)| {
                let known = self.ports(template, served);
                // A port that a policy names is perhaps no port of the pod, and nothing accepts there.
                let exists = |port: Option<Port>| {
                    known.is_empty() || port.is_none_or(|port| known.contains(&port))
                };
                let input = &served.config.input;
                let rest = [(None, &input.rest)].into_iter();
                let mut ports = input
                    .ports
                    .iter()
                    .map(|(port, of)| (Some(*port), of))
                    .chain(rest);
                let (port, _) = ports.find(|(port, of)| {
                    of.plain
                        && exists(*port)
                        && rule.to.covers(*port)
                        && admits_anonymous(&of.authz)
                })?;
                Some((template, port))
            });
            let Some((template, port)) = open else {
                continue;
            };
            let port = port.map_or_else(|| "its ports".to_owned(), |port| format!("port {port}"));
            let message = format!(
                "the rule denies identities, and {port} of {} accepts plain text, in which the same caller has none and passes",
                workload(template)
            );
            let field = format!("spec.rules[{index}].from");
            enforced(
                policy,
                reason::PLAIN_TEXT,
                &format!("{field}: {message}"),
                feedback,
            );
            let finding = Finding::warning(&policy.object, field, reason::PLAIN_TEXT, message);
            feedback
                .findings
                .push(finding.fix("set mtls.mode: Strict, or name by an Allow rule who may call"));
        }
    }
}

fn enforced(policy: &Policy, reason: &'static str, message: &str, feedback: &mut PolicyFeedback) {
    feedback.condition(
        &policy.object,
        ConditionType::Enforced,
        false,
        reason,
        message,
    );
}

fn no_sidecar(
    policy: &Policy,
    meshed: &[(&PodTemplate, &CompiledTemplate)],
    without_sidecar: &[&PodTemplate],
    feedback: &mut PolicyFeedback,
) {
    let workloads: BTreeSet<String> = without_sidecar
        .iter()
        .map(|template| workload(template))
        .collect();
    let names = named(workloads.into_iter());
    let message = if meshed.is_empty() {
        format!(
            "the pods that the policy selects have no sidecar, and nothing else enforces it: {names}"
        )
    } else {
        format!(
            "some pods that the policy selects have no sidecar, and nothing else enforces it: {names}"
        )
    };
    let mistyped = without_sidecar.iter().find_map(|template| {
        let value = template.labels.get(INJECT_LABEL)?;
        let known = ["enabled", "disabled"].contains(&&**value);
        (!known)
            .then(|| format!("{INJECT_LABEL}: {value:?} is not a value; use enabled or disabled"))
    });
    let fix = mistyped.unwrap_or_else(|| {
        format!("label the namespace {INJECT_LABEL}=enabled and restart the pods; pods of the node's network cannot have one")
    });
    enforced(policy, reason::NO_SIDECAR, &message, feedback);
    let field = policy.selected_by;
    let finding = Finding::warning(&policy.object, field, reason::NO_SIDECAR, message);
    feedback.findings.push(finding.fix(fix));
}

/// Whether a caller without an identity may pass, as far as Allow rules go.
fn admits_anonymous(authz: &PortAuthz) -> bool {
    let mut allows = authz.rules(RuleAction::Allow, false);
    !authz.needs_allow(false)
        || allows
            .any(|rule| rule.from.identities.is_empty() && rule.from.identity_prefixes.is_empty())
}

/// Labels that cannot be compared with any pod.
fn not_checked(object: &ObjectRef, field: &'static str) -> Finding {
    let message = format!(
        "the files have no workload of namespace {}, so nothing was checked that depends on its pods",
        object.namespace
    );
    Finding::info(object, field, reason::NOT_CHECKED, message)
        .fix("add the files of the workloads, or ask the cluster")
}

fn no_pod_has(object: &ObjectRef, field: &str, labels: &Labels) -> String {
    let (namespace, pairs) = (&object.namespace, pairs(labels));
    format!("{field} selects no pod of namespace {namespace} ({pairs})")
}

fn pairs(labels: &Labels) -> String {
    let pairs: Vec<String> = labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    pairs.join(",")
}
