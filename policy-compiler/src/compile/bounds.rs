//! Policies with rules beyond a port's bounds for memory.

use std::collections::BTreeSet;

use heddle_crds::{ConditionType, reason};

use super::report::PolicyFeedback;
use crate::authz::{DenyPaths, PortAuthz, Rule, RuleAction};
use crate::finding::Finding;
use crate::kinds::policies::auth_policy::Policy;
use crate::world::{PodTemplate, Port};

/// The most ports of a sidecar that policies name, and neither its pod nor a service nor a probe does. Each costs listener chains.
pub(super) const MAX_UNDECLARED_PORTS: usize = 16;

/// Reports the ports of a policy that are beyond the bound of ports that nothing declares.
pub(super) fn report_ports(
    policy: &Policy,
    beyond: &BTreeSet<Port>,
    template: &PodTemplate,
    feedback: &mut PolicyFeedback,
) {
    let Some(first) = policy.ports(true).find(|port| beyond.contains(port)) else {
        return;
    };
    let message = format!(
        "port {first} of {}/{} is one of more than {MAX_UNDECLARED_PORTS} that policies alone name: it is judged with all ports that nothing declares, where a Deny rule for it denies and an Allow rule for it lets nothing pass",
        template.namespace, template.owner
    );
    let mut rules = policy.rules.iter().filter(|rule| !rule.audit);
    let named = |rule: &Rule| rule.to.ports.iter().any(|port| beyond.contains(port));
    if rules.any(|rule| rule.action == RuleAction::Allow && named(rule)) {
        let (object, reason) = (&policy.object, reason::PORTS_NOT_TOLD_APART);
        feedback.condition(object, ConditionType::Enforced, false, reason, &message);
    }
    let finding = Finding::warning(
        &policy.object,
        "spec",
        reason::PORTS_NOT_TOLD_APART,
        message,
    );
    let fix = "declare the ports at the containers, or name fewer ports";
    feedback.findings.push(finding.fix(fix));
}

/// A port in words; `None`: all ports that nothing declares.
fn in_words(port: Option<Port>) -> String {
    port.map_or_else(
        || "the ports that nothing declares".to_owned(),
        |port| format!("port {port}"),
    )
}

/// Reports the rules of a policy that are beyond the bounds of ports that read HTTP.
pub(super) fn report(
    policy: &Policy,
    ports: &[(Option<Port>, &PortAuthz)],
    template: &PodTemplate,
    feedback: &mut PolicyFeedback,
) {
    report_unspelled(policy, ports, template, feedback);
    report_beyond(policy, ports, template, feedback);
}

/// Beyond the bound of a port its Deny rules also deny paths that their author did not name.
fn report_unspelled(
    policy: &Policy,
    ports: &[(Option<Port>, &PortAuthz)],
    template: &PodTemplate,
    feedback: &mut PolicyFeedback,
) {
    let own = |id: &str| policy.rules.iter().any(|rule| *rule.id == *id);
    let denies = |authz: &PortAuthz| {
        let mut rules = authz.rules.iter();
        rules.any(|r| r.action == RuleAction::Deny && !r.to.paths.is_empty() && own(&r.id))
    };
    let coarse = ports
        .iter()
        .map(|(port, authz)| (*port, authz, authz.deny_paths()));
    let mut coarse = coarse.filter(|(_, _, paths)| *paths != DenyPaths::Spelled);
    let beyond = coarse.find(|(_, authz, _)| denies(authz));
    if let Some((port, _, paths)) = beyond {
        let denied = match paths {
            DenyPaths::Any => "its Deny rules with paths deny every path",
            DenyPaths::Spelled | DenyPaths::Plain => {
                "its Deny rules also deny every path with %, ;, \\, an empty segment, or a dot at the beginning or end of a segment"
            }
        };
        let message = format!(
            "the Deny paths of {} of {}/{} take more than their share of the sidecar's memory, so {denied}",
            in_words(port),
            template.namespace,
            template.owner
        );
        let reason = reason::PATHS_NOT_SPELLED;
        let finding = Finding::warning(&policy.object, "spec.rules", reason, message);
        feedback.findings.push(
            finding.fix("use prefixes instead of many exact paths, or Allow rules for the others"),
        );
    }
}

/// Reports rules with headers beyond the bound of a port: they do not decide as their author meant.
fn report_beyond(
    policy: &Policy,
    ports: &[(Option<Port>, &PortAuthz)],
    template: &PodTemplate,
    feedback: &mut PolicyFeedback,
) {
    let beyond: Vec<_> = ports
        .iter()
        .map(|(port, authz)| (port, authz.beyond_headers()))
        .collect();
    for (index, rule) in policy.rules.iter().enumerate() {
        let mut of_rule = beyond.iter().filter(|(_, ids)| ids.contains(&*rule.id));
        let Some(&(port, _)) = of_rule.next() else {
            continue;
        };
        let effect = match rule.action {
            RuleAction::Deny => "denies whatever the headers are",
            RuleAction::Allow => "allows nothing",
        };
        let message = format!(
            "the headers of all rules for {} of {}/{} take more than their share of the sidecar's memory, so spec.rules[{index}] {effect}",
            in_words(*port),
            template.namespace,
            template.owner
        );
        let (object, reason) = (&policy.object, reason::HEADERS_NOT_MATCHED);
        feedback.condition(object, ConditionType::Enforced, false, reason, &message);
        let field = format!("spec.rules[{index}].to.headers");
        let finding = Finding::error(object, field, reason, message);
        let fix = "use fewer headers or shorter values in the policies of this port";
        feedback.findings.push(finding.fix(fix));
    }
}
