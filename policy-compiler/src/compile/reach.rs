//! The reach of a namespace's policies: the pods that they select, the sidecars in these pods, the ports that the pods have.
//!
//! A policy without effect is not an invalid spec, but may be a mistake of its author. The policy may get an effect when other objects
//! change. So `Enforced` and warnings report it, until it no longer holds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use heddle_crds::{ConditionType, reason};

use super::classes::Served;
use super::inbound::{is_reserved, target};
use super::outcome::Remarks;
use crate::authz::{PortAuthz, RuleAction};
use crate::finding::Finding;
use crate::injection::INJECT_LABEL;
use crate::kinds::policies::auth_policy::{Policy, Selector};
use crate::world::{Labels, NamespacedName, Port, Service, Shape};

/// So many workloads or ports are named in a message.
const NAMED: usize = 3;

/// The pods and services of a namespace, as far as policies are concerned.
pub(crate) struct Reach<'a> {
    pub(crate) meshed: Vec<(&'a Shape, &'a Served)>,
    /// Pods without a sidecar.
    pub(crate) bare: Vec<&'a Shape>,
    pub(crate) services: BTreeMap<&'a NamespacedName, &'a Service>,
    /// Only manifests are known, and perhaps not all.
    pub(crate) offline: bool,
}

impl Reach<'_> {
    /// Returns the feedback about each policy.
    pub(crate) fn of<'p>(&self, policies: impl Iterator<Item = &'p Policy>) -> Remarks {
        let mut remarks = Remarks::default();
        for policy in policies {
            self.policy(policy, &mut remarks);
        }
        remarks
    }

    fn policy(&self, policy: &Policy, remarks: &mut Remarks) {
        if policy.selector == Selector::Nothing {
            return;
        }
        let meshed = self
            .meshed
            .iter()
            .filter(|(shape, _)| policy.selects(shape));
        let meshed: Vec<(&Shape, &Served)> = meshed.copied().collect();
        let bare = self.bare.iter().filter(|shape| policy.selects(shape));
        let bare: Vec<&Shape> = bare.copied().collect();
        if meshed.is_empty() && bare.is_empty() {
            self.nothing_selected(policy, remarks);
            return;
        }
        if !bare.is_empty() {
            no_sidecar(policy, &meshed, &bare, remarks);
        }
        if meshed.is_empty() {
            return;
        }
        let known: Vec<BTreeSet<Port>> = if policy.names_ports() {
            let known = meshed
                .iter()
                .map(|(shape, served)| self.ports(shape, served));
            known.collect()
        } else {
            Vec::new()
        };
        self.ports_of_rules(policy, &meshed, &known, remarks);
        plain_text(policy, &meshed, remarks);
        self.open_ports(policy, &meshed, remarks);
    }

    fn nothing_selected(&self, policy: &Policy, remarks: &mut Remarks) {
        let namespace = &policy.object.namespace;
        let Selector::Labels(labels) = &policy.selector else {
            let message = format!("no pod of namespace {namespace} is known");
            enforced(policy, reason::NOTHING_SELECTED, &message, remarks);
            return;
        };
        let message = format!(
            "{} selects no pod of namespace {namespace} ({})",
            policy.selected_by,
            pairs(labels)
        );
        enforced(policy, reason::NOTHING_SELECTED, &message, remarks);
        if self.offline && self.meshed.is_empty() && self.bare.is_empty() {
            // The files may simply not have the workloads.
            return;
        }
        let fix = match self.meant(labels) {
            Some((found, shape)) => format!("{} has {found}: is that meant?", workload(shape)),
            None => "correct the labels, or deploy the pods that they mean".to_owned(),
        };
        let field = policy.selected_by;
        let code = reason::NOTHING_SELECTED;
        let finding = Finding::warning(&policy.object, field, code, message).fix(fix);
        remarks.findings.push(finding);
    }

    /// Labels of a pod that differ from these only by a slip of the pen.
    fn meant(&self, labels: &Labels) -> Option<(String, &Shape)> {
        let shapes = self.meshed.iter().map(|(shape, _)| *shape);
        let mut shapes = shapes.chain(self.bare.iter().copied());
        shapes.find_map(|shape| {
            let near = |(key, value): (&Arc<str>, &Arc<str>)| {
                let mut own = shape.labels.iter();
                own.find(|(k, v)| {
                    (*k == key && is_near(v, value)) || (*v == value && is_near(k, key))
                })
            };
            let found: Option<Labels> = labels
                .iter()
                .map(|pair| near(pair).map(|(k, v)| (Arc::clone(k), Arc::clone(v))))
                .collect();
            Some((pairs(&found?), shape))
        })
    }

    /// The ports that pods are known to have: their own, those that services lead to, those that are probed.
    fn ports(&self, shape: &Shape, served: &Served) -> BTreeSet<Port> {
        let mut ports = self.declared(shape, served);
        ports.extend(shape.probes.iter().map(|p| p.port));
        ports
    }

    fn declared(&self, shape: &Shape, served: &Served) -> BTreeSet<Port> {
        let mut ports: BTreeSet<Port> = shape.ports.iter().map(|p| p.port).collect();
        for service in served.services.iter().filter_map(|s| self.services.get(s)) {
            let targets = service.ports.values();
            ports.extend(targets.filter_map(|port| target(&port.target, shape)));
        }
        ports
    }

    fn ports_of_rules(
        &self,
        policy: &Policy,
        meshed: &[(&Shape, &Served)],
        known: &[BTreeSet<Port>],
        remarks: &mut Remarks,
    ) {
        let rules = policy.rules.iter().enumerate().flat_map(|(index, rule)| {
            let ports = rule.to.ports.iter();
            ports.map(move |port| (format!("spec.rules[{index}].to.ports"), *port))
        });
        let mtls = policy.mtls.iter().flat_map(|mtls| mtls.ports.keys());
        let mtls = mtls.map(|port| ("spec.mtls.ports".to_owned(), *port));
        for (field, port) in rules.chain(mtls) {
            let (message, fix) = if is_reserved(port) {
                let message =
                    format!("port {port} is the sidecar's own, and no policy decides there");
                (message, "name a port of the application".to_owned())
            } else if known
                .iter()
                .all(|ports| !ports.is_empty() && !ports.contains(&port))
            {
                self.unknown_port(port, meshed, known)
            } else {
                continue;
            };
            enforced(
                policy,
                reason::PORT_NOT_FOUND,
                &format!("{field}: {message}"),
                remarks,
            );
            let code = reason::PORT_NOT_FOUND;
            let finding = Finding::warning(&policy.object, field, code, message).fix(fix);
            remarks.findings.push(finding);
        }
    }

    /// A port that no pod declares: most often it is that of a service.
    fn unknown_port(
        &self,
        port: Port,
        meshed: &[(&Shape, &Served)],
        known: &[BTreeSet<Port>],
    ) -> (String, String) {
        let message = format!("no pod that the policy selects has port {port}");
        for (shape, served) in meshed {
            for service in served.services.iter().filter_map(|s| self.services.get(s)) {
                let meant = service.ports.get(&port);
                if let Some(meant) = meant.and_then(|meant| target(&meant.target, shape)) {
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
    fn open_ports(&self, policy: &Policy, meshed: &[(&Shape, &Served)], remarks: &mut Remarks) {
        let mut allows = policy
            .rules
            .iter()
            .filter(|rule| rule.action == RuleAction::Allow && !rule.audit);
        let some = allows.clone().next().is_some();
        if !some || !allows.all(|rule| !rule.to.ports.is_empty()) {
            return;
        }
        let mut open = BTreeSet::new();
        for (shape, served) in meshed {
            let ports = self.declared(shape, served);
            let free = ports.iter().filter(|port| {
                !is_reserved(**port) && !served.class.input.authz(**port).needs_allow(false)
            });
            open.extend(free.map(|port| format!("port {port} of {}", workload(shape))));
        }
        if open.is_empty() {
            return;
        }
        let message = format!(
            "the Allow rules name ports, and the others stay open: {}",
            named(open.into_iter())
        );
        let finding = Finding::info(&policy.object, "spec.rules", reason::OPEN_PORTS, message);
        remarks
            .findings
            .push(finding.fix("leave to.ports out, or add a rule for the others"));
    }
}

fn enforced(policy: &Policy, reason: &'static str, message: &str, remarks: &mut Remarks) {
    remarks.condition(
        &policy.object,
        ConditionType::Enforced,
        false,
        reason,
        message,
    );
}

fn no_sidecar(
    policy: &Policy,
    meshed: &[(&Shape, &Served)],
    bare: &[&Shape],
    remarks: &mut Remarks,
) {
    let workloads: BTreeSet<String> = bare.iter().map(|shape| workload(shape)).collect();
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
    let mistyped = bare.iter().find_map(|shape| {
        let value = shape.labels.get(INJECT_LABEL)?;
        let known = ["enabled", "disabled"].contains(&&**value);
        (!known)
            .then(|| format!("{INJECT_LABEL}: {value:?} is not a value; use enabled or disabled"))
    });
    let fix = mistyped.unwrap_or_else(|| {
        format!("label the namespace {INJECT_LABEL}=enabled and restart the pods; pods of the node's network cannot have one")
    });
    enforced(policy, reason::NO_SIDECAR, &message, remarks);
    let field = policy.selected_by;
    let finding = Finding::warning(&policy.object, field, reason::NO_SIDECAR, message);
    remarks.findings.push(finding.fix(fix));
}

/// A Deny rule by identity, where the same caller passes without one.
fn plain_text(policy: &Policy, meshed: &[(&Shape, &Served)], remarks: &mut Remarks) {
    let denies = policy.rules.iter().enumerate().filter(|(_, rule)| {
        let from = &rule.from;
        let identified = !(from.identities.is_empty() && from.identity_prefixes.is_empty());
        rule.action == RuleAction::Deny && !rule.audit && identified
    });
    for (index, rule) in denies {
        let open = meshed.iter().find_map(|(shape, served)| {
            let input = &served.class.input;
            let rest = [(None, &input.rest)].into_iter();
            let mut ports = input
                .ports
                .iter()
                .map(|(port, of)| (Some(*port), of))
                .chain(rest);
            let (port, _) = ports.find(|(port, of)| {
                of.plain && rule.to.covers(*port) && admits_anonymous(&of.authz)
            })?;
            Some((shape, port))
        });
        let Some((shape, port)) = open else { continue };
        let port = port.map_or_else(|| "its ports".to_owned(), |port| format!("port {port}"));
        let message = format!(
            "the rule denies identities, and {port} of {} accepts plain text, in which the same caller has none and passes",
            workload(shape)
        );
        let field = format!("spec.rules[{index}].from");
        enforced(
            policy,
            reason::PLAIN_TEXT,
            &format!("{field}: {message}"),
            remarks,
        );
        let finding = Finding::warning(&policy.object, field, reason::PLAIN_TEXT, message);
        remarks
            .findings
            .push(finding.fix("set mtls.mode: Strict, or name by an Allow rule who may call"));
    }
}

/// Whether a caller without an identity may pass, as far as Allow rules go.
fn admits_anonymous(authz: &PortAuthz) -> bool {
    let mut allows = authz.rules(RuleAction::Allow, false);
    !authz.needs_allow(false)
        || allows
            .any(|rule| rule.from.identities.is_empty() && rule.from.identity_prefixes.is_empty())
}

fn workload(shape: &Shape) -> String {
    shape.workload().to_string()
}

fn pairs(labels: &Labels) -> String {
    let pairs: Vec<String> = labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    pairs.join(",")
}

fn named(all: impl Iterator<Item = String>) -> String {
    let all: Vec<String> = all.collect();
    let mut text = all
        .iter()
        .take(NAMED)
        .cloned()
        .collect::<Vec<_>>()
        .join(", ");
    if all.len() > NAMED {
        text.push_str(&format!(" and {} more", all.len() - NAMED));
    }
    text
}

/// Whether two words differ by one letter, or by two that changed places.
fn is_near(one: &str, other: &str) -> bool {
    let (one, other): (Vec<char>, Vec<char>) = (one.chars().collect(), other.chars().collect());
    let same = |a: &[char], b: &[char]| a.iter().zip(b).take_while(|(a, b)| a == b).count();
    let front = same(&one, &other);
    let back = one
        .iter()
        .rev()
        .zip(other.iter().rev())
        .take_while(|(a, b)| a == b)
        .count();
    let shorter = one.len().min(other.len());
    let longer = one.len().max(other.len());
    let rest = longer.saturating_sub((front + back).min(longer));
    let lowered = |text: &[char]| text.iter().collect::<String>().to_lowercase();
    let swapped = || {
        rest == 2 && one.len() == other.len() && {
            let pair = |text: &[char]| text.get(front..front + 2).map(<[char]>::to_vec);
            let mut turned = pair(&one).unwrap_or_default();
            turned.reverse();
            Some(turned) == pair(&other)
        }
    };
    shorter > 0
        && (longer - shorter <= 1 && rest <= 1 || swapped() || lowered(&one) == lowered(&other))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words_differ_by_one_slip() {
        for (one, other) in [
            ("cart", "cartt"),
            ("cart", "carr"),
            ("cart", "Cart"),
            ("cart", "catr"),
            ("api", "apii"),
            ("a", "b"),
        ] {
            assert!(is_near(one, other) && is_near(other, one), "{one} {other}");
        }
        for (one, other) in [
            ("cart", "card-s"),
            ("cart", "shop"),
            ("", "a"),
            ("cart", "xartx"),
        ] {
            assert!(!is_near(one, other), "{one} {other}");
        }
    }
}
