//! `AuthPolicy`: the callers that may reach a workload, and the demand for mTLS.

use std::collections::BTreeMap;
use std::sync::Arc;

use heddle_crds::{Action, AuthPolicySpec, AuthRule, ConditionType, MtlsMode, PolicyMode, reason};

use crate::authz::{Operation, PathPattern, Rule, RuleAction, Source};
use crate::finding::ObjectRef;
use crate::kinds::auth_headers::{check_header, check_headers, header_pattern, regex_findings};
use crate::kinds::mesh::Settings;
use crate::kinds::policy::{Attachments, Candidate, ObjectReport, PolicyKind};
use crate::kinds::service_rules::Rules;
pub(crate) use crate::kinds::target::Selector;
use crate::kinds::target::{Memory, Selection, raw_selector};
use crate::kinds::unreachable::{self, RuleSet};
use crate::kinds::{ValidationError, silent};
use crate::status::ObjectStatus;
use crate::validation::ValidationReport;
use crate::validation::inputs::Target;
use crate::world::{Declared, PodTemplate, Port, SpiffeId};

/// A policy that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Policy {
    pub(crate) object: ObjectRef,
    pub(crate) selector: Selector,
    /// The field with the selector.
    pub(crate) selected_by: &'static str,
    pub(crate) rules: Vec<Rule>,
    pub(crate) mtls: Option<MtlsRules>,
}

/// The mTLS modes of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MtlsRules {
    pub(crate) rest: MtlsMode,
    pub(crate) ports: BTreeMap<Port, MtlsMode>,
}

impl MtlsRules {
    /// Returns the mode of one port; `None` stands for every port that no pod, service or policy names.
    pub(crate) fn of(&self, port: Option<Port>) -> MtlsMode {
        port.and_then(|port| self.ports.get(&port).copied())
            .unwrap_or(self.rest)
    }
}

impl Policy {
    /// The ports that its mTLS and its enforced rules are about; with `audited`, also its rules in audit.
    pub(crate) fn ports(&self, audited: bool) -> impl Iterator<Item = Port> {
        let rules = self.rules.iter();
        let rules = rules.filter(move |rule| audited || !rule.audit);
        let ruled = rules.flat_map(|rule| &rule.to.ports);
        let mtls = self.mtls.iter().flat_map(|mtls| mtls.ports.keys());
        ruled.chain(mtls).copied()
    }

    fn rule_set(&self) -> RuleSet<'_> {
        RuleSet {
            object: &self.object,
            selector: &self.selector,
            rules: &self.rules,
        }
    }

    pub(crate) fn selects(&self, template: &PodTemplate) -> bool {
        *template.namespace == *self.object.namespace && self.selector.selects(&template.labels)
    }
}

impl PolicyKind for AuthPolicySpec {
    /// The policies that count, in the order of names.
    type Attachment = Vec<Policy>;

    const RULES: Option<Rules<Self::Attachment>> = None;

    const IN_CLUSTERS: bool = false;

    const IN_BYPASS: Option<&'static str> = Some("no rule of it decides");

    const NO_CONFLICT: Option<&'static str> =
        Some("no other policy says something else about mTLS");

    const FEEDBACK: bool = true;

    fn check(policy: &Candidate<'_, Self>, spec: &Self) -> Vec<ValidationError> {
        check(&selection(policy, spec), spec)
    }

    fn attach(
        policy: &Candidate<'_, Self>,
        spec: &Self,
        attachments: &mut Attachments<Self>,
        report: &mut ObjectReport<'_>,
    ) {
        let (object, settings) = (&policy.declared.object, policy.settings);
        let ObjectReport { status, findings } = report;
        set_enforced(status, spec, settings, &object.namespace);
        silent::report(&settings.trust_domain, object, spec, status, findings);
        findings.extend(regex_findings(object, spec));
        let selection = selection(policy, spec);
        selection.report(object, status, findings);
        let read = read(settings, object, spec, selection.selector());
        of_namespace(policy, attachments).push(read);
    }

    /// An unusable policy without a last good spec denies all callers of the pods that it selects, because the rules of its author are not
    /// known.
    fn attach_unusable(
        policy: &Candidate<'_, Self>,
        reason: &str,
        attachments: &mut Attachments<Self>,
        report: &mut ObjectReport<'_>,
    ) {
        let declared = policy.declared;
        let selector = match &declared.spec {
            Ok(spec) => selection(policy, spec).selector(),
            Err(_) => raw_selector(policy.lookup, declared, memory(policy).as_ref()),
        };
        let denying = denying(policy.settings, declared, selector, reason, report.status);
        of_namespace(policy, attachments).extend(denying);
    }

    fn compare(attachments: &Attachments<Self>, report: &mut ValidationReport) {
        let policies = attachments.values().flatten();
        let sets: Vec<RuleSet<'_>> = policies.map(Policy::rule_set).collect();
        unreachable::report(&sets, report);
    }

    fn differing_pods(old: Option<&Vec<Policy>>, new: Option<&Vec<Policy>>) -> Vec<Selector> {
        let (old, new) = (
            old.map_or(&[][..], |old| old),
            new.map_or(&[][..], |new| new),
        );
        let gone = old.iter().filter(|policy| !new.contains(policy));
        let come = new.iter().filter(|policy| !old.contains(policy));
        gone.chain(come)
            .map(|policy| policy.selector.clone())
            .collect()
    }
}

fn of_namespace<'a>(
    policy: &Candidate<'_, AuthPolicySpec>,
    attachments: &'a mut Attachments<AuthPolicySpec>,
) -> &'a mut Vec<Policy> {
    let target = Target::Pods(Arc::clone(policy.namespace()));
    attachments.entry(target).or_default()
}

fn selection(policy: &Candidate<'_, AuthPolicySpec>, spec: &AuthPolicySpec) -> Selection {
    let memory = memory(policy);
    Selection::of(policy.lookup, policy.namespace(), spec, memory.as_ref())
}

fn memory(policy: &Candidate<'_, AuthPolicySpec>) -> Option<Memory> {
    Memory::of(policy.history().last_good())
}

fn set_enforced(
    status: &mut ObjectStatus,
    spec: &AuthPolicySpec,
    settings: &Settings,
    namespace: &str,
) {
    let in_force = status.in_force.as_ref().map(|good| good.generation);
    let older = in_force.filter(|generation| *generation != status.observed_generation);
    let observe = "the Mesh observes: every policy only reports".to_owned();
    let audit = "spec.mode is Audit: the policy only reports".to_owned();
    let (holds, reason, message) = match older {
        _ if settings.bypasses(namespace) => (false, reason::BYPASSED, bypassed(namespace)),
        _ if settings.observes() => (false, reason::AUDIT, observe),
        _ if spec.mode == PolicyMode::Audit => (false, reason::AUDIT, audit),
        Some(generation) => {
            let message = format!(
                "the rules of generation {generation} decide, not those of this generation"
            );
            (false, reason::LAST_GOOD, message)
        }
        None => (true, reason::ENFORCED, "every rule decides".to_owned()),
    };
    status.set(ConditionType::Enforced, holds, reason, message);
}

fn bypassed(namespace: &str) -> String {
    format!("the Mesh bypasses namespace {namespace}: no rule decides there")
}

/// The policy that stands for an unusable one; none if that one only reports.
fn denying(
    settings: &Settings,
    declared: &Declared<AuthPolicySpec>,
    selector: Selector,
    reason: &str,
    status: &mut ObjectStatus,
) -> Option<Policy> {
    let object = &declared.object;
    let audit = match &declared.spec {
        Ok(spec) => spec.mode == PolicyMode::Audit,
        Err(_) => declared.raw_spec.get("mode").and_then(|m| m.as_str()) == Some("Audit"),
    };
    if audit {
        status.set(
            ConditionType::Enforced,
            false,
            reason::AUDIT,
            format!("unusable ({reason}), and only reporting by spec.mode"),
        );
        return None;
    }
    status.set(
        ConditionType::Enforced,
        false,
        reason::DENIED,
        match &selector {
            Selector::All => format!(
                "unusable ({reason}), so all that it could select is denied: every pod of namespace {}",
                object.namespace
            ),
            Selector::Labels(_) | Selector::Nothing => {
                format!("unusable ({reason}), so all that it selects is denied")
            }
        },
    );
    if settings.bypasses(&object.namespace) {
        let text = bypassed(&object.namespace);
        status.set(ConditionType::Enforced, false, reason::BYPASSED, text);
    }
    let rule = Rule {
        id: format!("{}/{}/unusable", object.namespace, object.name).into(),
        action: RuleAction::Deny,
        audit: settings.observes(),
        from: Source::default(),
        to: Operation::default(),
    };
    Some(Policy {
        object: object.clone(),
        selector,
        selected_by: "spec",
        rules: vec![rule],
        mtls: None,
    })
}

fn check(selection: &Selection, spec: &AuthPolicySpec) -> Vec<ValidationError> {
    let mut problems = Vec::new();
    if spec.mtls.is_none() && spec.rules.is_empty() {
        problems.push(ValidationError::invalid(
            "spec",
            "a policy with neither rules nor mtls does nothing",
            "add one (to deny everything: rules: [{action: Deny}])",
        ));
    }
    match selection {
        Selection::Own(_) => {}
        Selection::Target(target) => problems.extend(target.problem()),
        Selection::Both => problems.push(ValidationError::invalid(
            "spec",
            "selector and target exclude each other",
            "remove one",
        )),
    }
    for (index, rule) in spec.rules.iter().enumerate() {
        check_rule(&format!("spec.rules[{index}]"), rule, &mut problems);
    }
    problems.extend(check_headers(spec));
    problems
}

fn check_rule(field: &str, rule: &AuthRule, problems: &mut Vec<ValidationError>) {
    if let Some(from) = &rule.from {
        check_from(field, from, problems);
    }
    if let Some(to) = &rule.to {
        check_to(field, to, problems);
    }
}

fn check_from(field: &str, from: &heddle_crds::Source, problems: &mut Vec<ValidationError>) {
    if from.identities.is_empty() && from.namespaces.is_empty() && from.ip_blocks.is_empty() {
        problems.push(ValidationError::invalid(
            format!("{field}.from"),
            "from is empty",
            "name identities, namespaces or ipBlocks, or leave from out to match anybody",
        ));
    }
    for (index, text) in from
        .identities
        .iter()
        .enumerate()
        .filter(|(_, text)| identity("cluster.local", text).is_none())
    {
        problems.push(ValidationError::invalid(
            format!("{field}.from.identities[{index}]"),
            format!("{text:?} is not an identity"),
            "write <namespace>/<service account> or spiffe://...",
        ));
    }
    for (index, text) in from
        .namespaces
        .iter()
        .enumerate()
        .filter(|(_, text)| !dns_label(text))
    {
        problems.push(ValidationError::invalid(
            format!("{field}.from.namespaces[{index}]"),
            format!("{text:?} is not a namespace"),
            "use lower-case letters, digits and dashes",
        ));
    }
    for (index, text) in from
        .ip_blocks
        .iter()
        .enumerate()
        .filter(|(_, text)| text.parse::<ipnet::IpNet>().is_err())
    {
        problems.push(ValidationError::invalid(
            format!("{field}.from.ipBlocks[{index}]"),
            format!("{text:?} is not a block of addresses"),
            "write for example 10.0.0.0/8",
        ));
    }
}

fn check_to(field: &str, to: &heddle_crds::Operation, problems: &mut Vec<ValidationError>) {
    if to.ports.is_empty() && !to.needs_http() {
        problems.push(ValidationError::invalid(
            format!("{field}.to"),
            "to is empty",
            "name ports, methods, paths or headers, or leave to out to match anything",
        ));
    }
    for (index, text) in to
        .paths
        .iter()
        .enumerate()
        .filter(|(_, text)| PathPattern::parse(text).is_none())
    {
        problems.push(ValidationError::invalid(
            format!("{field}.to.paths[{index}]"),
            format!("{text:?} is not a path"),
            "start it with / and use * only at the end",
        ));
    }
    for (index, header) in to.headers.iter().enumerate() {
        problems.extend(check_header(
            &format!("{field}.to.headers[{index}]"),
            header,
        ));
    }
}

fn read(
    settings: &Settings,
    object: &ObjectRef,
    spec: &AuthPolicySpec,
    selector: Selector,
) -> Policy {
    let audit = spec.mode == PolicyMode::Audit || settings.observes();
    let rule = |(index, rule): (usize, &AuthRule)| Rule {
        id: format!("{}/{}/{index}", object.namespace, object.name).into(),
        action: rule.action.into(),
        audit,
        from: source(&settings.trust_domain, rule),
        to: operation(rule),
    };
    let mtls = spec
        .mtls
        .as_ref()
        .filter(|_| spec.mode == PolicyMode::Enforce);
    let mtls = mtls.map(|mtls| MtlsRules {
        rest: mtls.mode,
        ports: mtls.ports.iter().map(|p| (p.port.into(), p.mode)).collect(),
    });
    Policy {
        object: object.clone(),
        selector,
        selected_by: if spec.target.is_some() {
            "spec.target.service"
        } else {
            "spec.selector"
        },
        rules: spec.rules.iter().enumerate().map(rule).collect(),
        mtls,
    }
}

fn source(trust_domain: &str, rule: &AuthRule) -> Source {
    let Some(from) = &rule.from else {
        return Source::default();
    };
    Source {
        identities: sorted(
            from.identities
                .iter()
                .filter_map(|text| identity(trust_domain, text)),
        ),
        identity_prefixes: sorted(
            from.namespaces
                .iter()
                .map(|ns| format!("spiffe://{trust_domain}/ns/{ns}/").into()),
        ),
        blocks: sorted(from.ip_blocks.iter().filter_map(|text| text.parse().ok())),
    }
}

fn operation(rule: &AuthRule) -> Operation {
    let Some(to) = &rule.to else {
        return Operation::default();
    };
    Operation {
        ports: sorted(to.ports.iter().map(|port| Port::from(*port))),
        methods: sorted(to.methods.iter().map(|m| m.as_str().into())),
        paths: sorted(to.paths.iter().filter_map(|text| PathPattern::parse(text))),
        ignore_case: !to.paths.is_empty() && to.ignore_case.unwrap_or(rule.action == Action::Deny),
        headers: sorted(to.headers.iter().filter_map(header_pattern)),
    }
}

fn sorted<T: Ord>(items: impl Iterator<Item = T>) -> Vec<T> {
    let mut items: Vec<T> = items.collect();
    items.sort();
    items.dedup();
    items
}

fn identity(trust_domain: &str, text: &str) -> Option<SpiffeId> {
    if text.starts_with("spiffe://") {
        return SpiffeId::parse(text);
    }
    let (namespace, account) = text.split_once('/')?;
    let name = |text: &str| {
        !text.is_empty()
            && text
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b))
    };
    (dns_label(namespace) && name(account)).then(|| SpiffeId::new(trust_domain, namespace, account))
}

fn dns_label(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}
