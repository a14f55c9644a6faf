//! `AuthPolicy`: who may reach a workload, and whether mTLS is demanded.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use heddle_crds::{
    Action, AuthPolicySpec, AuthRule, ConditionType, MeshMode, MtlsMode, PolicyMode, reason,
};

use crate::authz::{Operation, PathPattern, Rule, RuleAction, Source};
use crate::compile::{Addresses, Lookup, Outcome};
use crate::finding::ObjectRef;
use crate::kinds::headers::{check_header, check_headers, header_pattern};
use crate::kinds::mesh::Settings;
use crate::kinds::{Judged, Problem, judge};
use crate::world::{
    Declared, Labels, NamespacedName, Port, Shape, SpiffeId, World, in_namespace, selects,
};

/// Which workloads of the namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Selector {
    All,
    Labels(Labels),
    /// A service that selects nothing, or that is not there.
    Nothing,
}

/// A policy that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Policy {
    pub(crate) object: ObjectRef,
    pub(crate) selector: Selector,
    pub(crate) rules: Vec<Rule>,
    pub(crate) mtls: Option<MtlsRules>,
}

/// What a policy says about mTLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MtlsRules {
    pub(crate) rest: MtlsMode,
    pub(crate) ports: BTreeMap<Port, MtlsMode>,
}

impl MtlsRules {
    /// What it says about one port; None stands for every port that nobody names.
    pub(crate) fn of(&self, port: Option<Port>) -> MtlsMode {
        port.and_then(|port| self.ports.get(&port).copied())
            .unwrap_or(self.rest)
    }
}

impl Policy {
    pub(crate) fn selects(&self, shape: &Shape) -> bool {
        *shape.namespace == *self.object.namespace
            && match &self.selector {
                Selector::All => true,
                Selector::Labels(labels) => selects(labels, &shape.labels),
                Selector::Nothing => false,
            }
    }
}

/// The policies of a namespace, judged.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct NamespacePolicies {
    /// Those that count, in the order of names.
    pub(crate) policies: Vec<Policy>,
    /// What their statuses say, as far as it does not depend on the pods they select.
    pub(crate) outcome: Outcome,
    /// The services that were looked at.
    pub(crate) services: BTreeSet<NamespacedName>,
}

/// Judges every policy of a namespace, in the order of names.
pub(crate) fn policies(
    world: &World,
    addresses: &Addresses,
    namespace: &str,
    settings: &Settings,
) -> NamespacePolicies {
    let lookup = Lookup::new(world, addresses);
    let mut outcome = Outcome::default();
    let mut policies = Vec::new();
    for (_, declared) in in_namespace(&world.policies, namespace) {
        let judged = judge(
            declared,
            lookup.refusal(&declared.object),
            |spec| check(&lookup, namespace, spec),
            &mut outcome.findings,
        );
        let Judged {
            spec,
            mut status,
            trouble,
        } = judged;
        status.set(
            ConditionType::Conflicted,
            false,
            reason::NO_CONFLICT,
            "no other policy says something else about mTLS",
        );
        let policy = match (&spec, trouble) {
            (Some(spec), _) => {
                set_enforced(&mut status, spec, settings);
                Some(read(&lookup, settings, &declared.object, spec))
            }
            (None, Some(trouble)) => faulty(&lookup, settings, declared, &trouble, &mut status),
            (None, None) => None,
        };
        policies.extend(policy);
        outcome.statuses.insert(declared.object.clone(), status);
    }
    NamespacePolicies {
        policies,
        outcome,
        services: lookup.into_services(),
    }
}

fn set_enforced(
    status: &mut crate::status::ObjectStatus,
    spec: &AuthPolicySpec,
    settings: &Settings,
) {
    let in_force = status.in_force.as_ref().map(|good| good.generation);
    let older = in_force.filter(|generation| *generation != status.observed_generation);
    let observe = "the Mesh observes: every policy only reports".to_owned();
    let audit = "spec.mode is Audit: the policy only reports".to_owned();
    let (holds, reason, message) = match older {
        _ if settings.mode == MeshMode::Observe => (false, reason::AUDIT, observe),
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

/// Unusable, and never was good: what it selects is denied, for nobody knows what its author meant to let pass.
fn faulty(
    lookup: &Lookup<'_>,
    settings: &Settings,
    declared: &Declared<AuthPolicySpec>,
    trouble: &str,
    status: &mut crate::status::ObjectStatus,
) -> Option<Policy> {
    let object = &declared.object;
    let (selector, audit) = match &declared.spec {
        Ok(spec) => (
            selector(lookup, object, spec),
            spec.mode == PolicyMode::Audit,
        ),
        Err(_) => (
            raw_selector(lookup, object, &declared.raw_spec),
            declared.raw_spec.get("mode").and_then(|m| m.as_str()) == Some("Audit"),
        ),
    };
    if audit {
        status.set(
            ConditionType::Enforced,
            false,
            reason::AUDIT,
            format!("unusable ({trouble}), and only reporting by spec.mode"),
        );
        return None;
    }
    status.set(
        ConditionType::Enforced,
        false,
        reason::DENIED,
        format!("unusable ({trouble}), so all that it selects is denied"),
    );
    let rule = Rule {
        id: format!("{}/{}/unusable", object.namespace, object.name).into(),
        action: RuleAction::Deny,
        audit: settings.mode == MeshMode::Observe,
        from: Source::default(),
        to: Operation::default(),
    };
    Some(Policy {
        object: object.clone(),
        selector,
        rules: vec![rule],
        mtls: None,
    })
}

/// As much of the selector as can be read; else the whole namespace.
fn raw_selector(lookup: &Lookup<'_>, object: &ObjectRef, spec: &serde_json::Value) -> Selector {
    let labels = spec
        .pointer("/selector/matchLabels")
        .cloned()
        .and_then(|v| serde_json::from_value::<BTreeMap<String, String>>(v).ok());
    if let Some(labels) = labels.filter(|labels| !labels.is_empty()) {
        return Selector::Labels(
            labels
                .iter()
                .map(|(k, v)| (k.as_str().into(), v.as_str().into()))
                .collect(),
        );
    }
    match spec.pointer("/target/service").and_then(|s| s.as_str()) {
        Some(service) => of_service(lookup, object, service),
        None => Selector::All,
    }
}

fn selector(lookup: &Lookup<'_>, object: &ObjectRef, spec: &AuthPolicySpec) -> Selector {
    match (&spec.selector, &spec.target) {
        (Some(selector), _) => Selector::Labels(
            selector
                .match_labels
                .iter()
                .map(|(k, v)| (k.as_str().into(), v.as_str().into()))
                .collect(),
        ),
        (None, Some(target)) => of_service(lookup, object, &target.service),
        (None, None) => Selector::All,
    }
}

fn of_service(lookup: &Lookup<'_>, object: &ObjectRef, service: &str) -> Selector {
    let name = NamespacedName {
        namespace: Arc::clone(&object.namespace),
        name: service.into(),
    };
    match lookup.service(&name) {
        Some(service) if !service.selector.is_empty() => Selector::Labels(service.selector.clone()),
        Some(_) | None => Selector::Nothing,
    }
}

fn check(lookup: &Lookup<'_>, namespace: &str, spec: &AuthPolicySpec) -> Vec<Problem> {
    let mut problems = Vec::new();
    if spec.selector.is_some() && spec.target.is_some() {
        problems.push(Problem::invalid(
            "spec",
            "selector and target exclude each other",
            "remove one",
        ));
    }
    if spec.mtls.is_none() && spec.rules.is_empty() {
        problems.push(Problem::invalid(
            "spec",
            "a policy with neither rules nor mtls does nothing",
            "add one (to deny everything: rules: [{action: Deny}])",
        ));
    }
    if let Some(target) = &spec.target
        && lookup
            .service(&NamespacedName::new(namespace, &target.service))
            .is_none()
    {
        let message = format!("service {namespace}/{} does not exist", target.service);
        problems.push(Problem::unresolved(
            reason::SERVICE_NOT_FOUND,
            "spec.target.service",
            message,
            "create it, or correct the name",
        ));
    }
    for (index, rule) in spec.rules.iter().enumerate() {
        check_rule(&format!("spec.rules[{index}]"), rule, &mut problems);
    }
    problems.extend(check_headers(spec));
    problems
}

fn check_rule(field: &str, rule: &AuthRule, problems: &mut Vec<Problem>) {
    if let Some(from) = &rule.from {
        check_from(field, from, problems);
    }
    if let Some(to) = &rule.to {
        check_to(field, to, problems);
    }
}

fn check_from(field: &str, from: &heddle_crds::Source, problems: &mut Vec<Problem>) {
    if from.identities.is_empty() && from.namespaces.is_empty() && from.ip_blocks.is_empty() {
        problems.push(Problem::invalid(
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
        problems.push(Problem::invalid(
            format!("{field}.from.identities[{index}]"),
            format!("{text:?} is no identity"),
            "write <namespace>/<service account> or spiffe://...",
        ));
    }
    for (index, text) in from
        .namespaces
        .iter()
        .enumerate()
        .filter(|(_, text)| !dns_label(text))
    {
        problems.push(Problem::invalid(
            format!("{field}.from.namespaces[{index}]"),
            format!("{text:?} is no namespace"),
            "",
        ));
    }
    for (index, text) in from
        .ip_blocks
        .iter()
        .enumerate()
        .filter(|(_, text)| text.parse::<ipnet::IpNet>().is_err())
    {
        problems.push(Problem::invalid(
            format!("{field}.from.ipBlocks[{index}]"),
            format!("{text:?} is no block of addresses"),
            "write for example 10.0.0.0/8",
        ));
    }
}

fn check_to(field: &str, to: &heddle_crds::Operation, problems: &mut Vec<Problem>) {
    if to.ports.is_empty() && !to.needs_http() {
        problems.push(Problem::invalid(
            format!("{field}.to"),
            "to is empty",
            "name ports, methods, paths or headers, or leave to out to match anything",
        ));
    }
    for (index, text) in to
        .paths
        .iter()
        .enumerate()
        .filter(|(_, text)| path(text).is_none())
    {
        problems.push(Problem::invalid(
            format!("{field}.to.paths[{index}]"),
            format!("{text:?} is no path"),
            "begin with / and use * only at the end",
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
    lookup: &Lookup<'_>,
    settings: &Settings,
    object: &ObjectRef,
    spec: &AuthPolicySpec,
) -> Policy {
    let audit = spec.mode == PolicyMode::Audit || settings.mode == MeshMode::Observe;
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
        selector: selector(lookup, object, spec),
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
        paths: sorted(to.paths.iter().filter_map(|text| path(text))),
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

fn path(text: &str) -> Option<PathPattern> {
    let (body, open) = text
        .strip_suffix('*')
        .map_or((text, false), |body| (body, true));
    // Control characters never reach a path, and in an expression they would mean something else.
    if !body.starts_with('/')
        || body
            .chars()
            .any(|c| matches!(c, '*' | '?' | '#') || c.is_control())
    {
        return None;
    }
    Some(if open {
        PathPattern::Prefix(body.into())
    } else {
        PathPattern::Exact(body.into())
    })
}
