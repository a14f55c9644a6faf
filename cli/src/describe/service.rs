//! A service: ports, rules with weights, policies, endpoints and traffic.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use heddle_policy_compiler::traffic::{
    Action, Backend, PathRewrite, Resend, Rewrite, RouteRule, Weight, WeightedBackend,
};
use heddle_policy_compiler::world::{Protocol, Service, ServicePort, TargetPort, selects};
use heddle_policy_compiler::{
    Compiled, DecidingRule, DescribedRule, NamespacedName, ObjectKind, ObjectRef, World,
};
use serde_json::{Value, json};

use super::Described;
use super::look::{Look, is};
use super::text::Text;
use crate::why;

/// The columns of ports.
const PORTS: [(&str, &str); 7] = [
    ("PORT", "/port"),
    ("NAME", "/name"),
    ("PROTOCOL", "/protocol"),
    ("TARGET", "/target"),
    ("READY", "/ready"),
    ("PODS", "/pods"),
    ("TRAFFIC POLICIES", "/trafficPolicies"),
];
/// The columns of rules.
const RULES: [(&str, &str); 8] = [
    ("PORT", "/port"),
    ("CALLERS", "/callers"),
    ("RULE", "/rule"),
    ("MATCH", "/match"),
    ("TO", "/to"),
    ("MIRRORS", "/mirrors"),
    ("TIMEOUTS", "/timeouts"),
    ("POLICIES", "/policies"),
];
/// The columns of the policies of rules.
const PRECEDENCE: [(&str, &str); 6] = [
    ("PORT", "/port"),
    ("CALLERS", "/callers"),
    ("RULE", "/rule"),
    ("POLICY", "/policy"),
    ("TARGET", "/target"),
    ("SETS", "/groups"),
];
/// The columns of all else that rules do.
const ALSO: [(&str, &str); 5] = [
    ("PORT", "/port"),
    ("CALLERS", "/callers"),
    ("RULE", "/rule"),
    ("SETTING", "/title"),
    ("VALUE", "/text"),
];

/// Describes a service.
///
/// # Errors
/// The service is not in the objects.
pub fn describe(look: &Look, name: &NamespacedName) -> Result<Described> {
    let (world, compiled) = (&look.outcome.world, &look.outcome.compiled);
    let service = world.services().get(name);
    let service = service.with_context(|| format!("{name} is not a known service"))?;
    let ports = service.ports.values();
    let ports = ports.map(|port| port_of(world, compiled, service, port));
    let rules = service
        .ports
        .values()
        .flat_map(|port| rules(world, compiled, name, port));
    let rules: Vec<(Value, BTreeSet<ObjectRef>)> = rules.collect();
    let own = ObjectRef::new(ObjectKind::Service, &name.namespace, &name.name);
    let about = rules.iter().flat_map(|(_, objects)| objects);
    let about: Vec<&ObjectRef> = about.chain([&own]).collect();
    let document = json!({
        "service": name.to_string(),
        "addresses": service.cluster_ips.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "headless": service.headless,
        "ports": ports.collect::<Vec<_>>(),
        "rules": rules.iter().map(|(rule, _)| rule).collect::<Vec<_>>(),
        "callersSeen": look.flows(|flow| is(&flow.destination, name) || is(flow.answering(), name)),
        "findings": look.findings(&about),
        "notes": &look.notes,
    });
    Ok(Described {
        text: text(&document),
        document,
    })
}

fn port_of(world: &World, compiled: &Compiled, service: &Service, port: &ServicePort) -> Value {
    let name = &service.name;
    let policies = compiled.traffic_policies(name, port.port);
    let (ready, plain, pods) =
        endpoints(world, compiled, &Backend::Service(name.clone(), port.port));
    let target = match &port.target {
        TargetPort::Number(number) => number.to_string(),
        TargetPort::Name(name) => name.to_string(),
    };
    json!({
        "port": port.port.get(), "name": &*port.name, "protocol": port.protocol.as_str(), "target": target,
        "trafficPolicies": policies.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "ready": ready, "readyWithoutSidecar": plain, "pods": pods,
    })
}

/// The endpoints that take calls, those of them without a sidecar, and all living pods.
fn endpoints(world: &World, compiled: &Compiled, backend: &Backend) -> (usize, usize, usize) {
    let ready = compiled.ready_endpoints(backend);
    let plain = ready.iter().filter(|of| !of.meshed).count();
    let (name, labels) = match backend {
        Backend::Service(name, _) => (name, None),
        Backend::Subset(name, _, labels) => (name, Some(labels)),
        Backend::Invalid(_) => return (0, 0, 0),
    };
    let service = world.services().get(name);
    let pods = world.pods().values().filter(|pod| pod.alive);
    let pods = pods.filter(|pod| {
        let template = &pod.template;
        template.namespace == name.namespace
            && service.is_some_and(|of| {
                !of.selector.is_empty() && selects(&of.selector, &template.labels)
            })
            && labels.is_none_or(|labels| selects(labels, &template.labels))
    });
    (ready.len(), plain, pods.count().max(ready.len()))
}

fn rules(
    world: &World,
    compiled: &Compiled,
    name: &NamespacedName,
    port: &ServicePort,
) -> Vec<(Value, BTreeSet<ObjectRef>)> {
    let of_callers = compiled.port_rules(name, port.port).into_iter();
    let all = of_callers.flat_map(|rules| {
        let callers = rules.callers.clone();
        let place = json!({"port": port.port.get(), "callers": callers.as_deref()});
        let rule = move |rule: DescribedRule<'_>| {
            let requests = port.protocol == Protocol::Http;
            let met = match requests {
                true => compiled.met_policies(name, port.port, callers.as_deref(), rule.entry),
                false => Vec::new(),
            };
            let whole = DecidingRule {
                met,
                ..rule.in_force(requests)
            };
            let value = with(rule_of(world, compiled, &rule, &whole), &place);
            (value, rule.entry.rule.origins.clone())
        };
        rules.entries.into_iter().map(rule).collect::<Vec<_>>()
    });
    all.collect()
}

fn rule_of(
    world: &World,
    compiled: &Compiled,
    rule: &DescribedRule<'_>,
    whole: &DecidingRule,
) -> Value {
    let in_force = &rule.entry.rule;
    let own = in_force.id.object();
    let policies = in_force.origins.iter();
    let policies = policies.filter(|of| of.kind != ObjectKind::Service && Some(*of) != own);
    let (backends, answer) = match &rule.declared.action {
        Action::Forward(forward) => (&*forward.backends, None),
        Action::Redirect(redirect) => (&[][..], Some(format!("status {}", redirect.status.code()))),
        Action::Respond { status, .. } => (&[][..], Some(format!("status {status}"))),
    };
    let weights = weights(backends, in_force);
    let sum: u64 = weights.iter().map(|of| u64::from(of.in_force)).sum();
    let backends = backends.iter().zip(weights);
    let backends = backends.map(|(of, weight)| backend_of(world, compiled, (of, weight), sum));
    let mirrors = in_force.mirrors().iter();
    let mirrors = mirrors.map(|of| format!("{} to {}", of.share, of.backend));
    let own = json!({
        "rule": in_force.id.to_string(),
        "match": rule.entry.matcher.to_string(),
        "answer": answer,
        "backends": backends.collect::<Vec<_>>(),
        "mirrors": mirrors.collect::<Vec<_>>(),
        "timeouts": why::timeouts(&in_force.policy.timeouts),
        "policies": policies.map(ToString::to_string).collect::<Vec<_>>(),
        "also": also(rule, whole),
    });
    with(why::deciding(whole), &own)
}

/// All else that a rule does, a title and a text each.
fn also(rule: &DescribedRule<'_>, whole: &DecidingRule) -> Vec<Value> {
    let mut all: Vec<(&str, String)> = Vec::new();
    if let Some(of) = &whole.retries {
        let resend = rule.entry.rule.policy.retries.resend;
        let limit = match (of.failures.is_empty(), resend) {
            (true, _) | (_, Resend::All) => "",
            (false, Resend::Idempotent) => "; after a failure with an idempotent method alone",
        };
        all.push(("retries", why::resending(of, limit)));
    }
    let faults = whole.faults.iter();
    all.extend(faults.map(|of| {
        let line = why::fault_line(of);
        ("fault", format!("{}: {line}", of.matcher))
    }));
    all.extend(why::changes(whole));
    if let Action::Forward(forward) = &rule.declared.action {
        all.extend(rewrite(&forward.rewrite));
        let changed = forward.backends.iter().filter(|of| !of.headers.is_empty());
        all.extend(changed.map(|of| ("headers", format!("to {}: {}", of.backend, of.headers))));
    }
    let all = all.into_iter();
    all.map(|(title, text)| json!({"title": title, "text": text}))
        .collect()
}

fn rewrite(of: &Rewrite) -> Option<(&'static str, String)> {
    let host = of.host.iter().map(|host| format!("host {host}"));
    let path = of.path.iter().map(|path| match path {
        PathRewrite::Full(path) => format!("path {path}"),
        PathRewrite::Prefix(prefix) => format!("prefix of the path {prefix}/"),
    });
    let parts: Vec<String> = host.chain(path).collect();
    (!parts.is_empty()).then(|| ("rewrite", parts.join(", ")))
}

/// A row for each element of a list of a rule. The alternatives of a rule have the same.
fn rows(rules: &[Value], list: &str) -> Value {
    let mut rows = Vec::new();
    for rule in rules {
        let all = rule.get(list).and_then(Value::as_array);
        for one in all.into_iter().flatten() {
            let place =
                json!({"port": rule["port"], "callers": rule["callers"], "rule": rule["rule"]});
            let row = with(place, one);
            if !rows.contains(&row) {
                rows.push(row);
            }
        }
    }
    rows.into()
}

/// The weights of backends: as in the table of the port where a weight is held, else as declared.
fn weights(declared: &[WeightedBackend], in_force: &RouteRule) -> Vec<Weight> {
    let declared = declared.iter().map(|of| of.weight);
    match &in_force.action {
        Action::Forward(forward) if forward.backends.iter().any(|of| of.weight.is_held()) => {
            forward.backends.iter().map(|of| of.weight).collect()
        }
        Action::Forward(_) | Action::Redirect(_) | Action::Respond { .. } => declared.collect(),
    }
}

#[allow(clippy::cast_precision_loss)]
fn backend_of(
    world: &World,
    compiled: &Compiled,
    (of, weight): (&WeightedBackend, Weight),
    sum: u64,
) -> Value {
    let (ready, plain, pods) = endpoints(world, compiled, &of.backend);
    let share = match sum {
        0 => 0.0,
        sum => 100.0 * f64::from(weight.in_force) / sum as f64,
    };
    json!({
        "backend": of.backend.to_string(), "weight": weight.in_force, "percent": share,
        "held": weight.is_held().then_some(weight.declared),
        "ready": ready, "readyWithoutSidecar": plain, "pods": pods,
    })
}

fn text(document: &Value) -> String {
    let part = |name: &str| document.get(name).unwrap_or(&Value::Null);
    let strings = |value: &Value| {
        let all = value.as_array().into_iter().flatten();
        all.filter_map(Value::as_str)
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let name = part("service").as_str().unwrap_or_default().to_owned();
    let addresses = match part("headless").as_bool() {
        Some(true) => "none: headless".to_owned(),
        _ => strings(part("addresses")).join(", "),
    };
    let mut text = Text::default();
    text.facts(&[("service", name), ("addresses", addresses)]);
    text.table("ports", part("ports"), &PORTS);
    let rules = part("rules").as_array().cloned().unwrap_or_default();
    let (also, precedence) = (rows(&rules, "also"), rows(&rules, "precedence"));
    let rules = rules.into_iter().map(|rule| {
        let backends = rule.get("backends").and_then(Value::as_array);
        let backends: Vec<String> = backends.into_iter().flatten().map(backend_text).collect();
        let answer = rule.get("answer").and_then(Value::as_str);
        let to = answer.map_or_else(|| backends.join(", "), str::to_owned);
        with(rule, &json!({"to": to}))
    });
    text.table(
        "rules, the first that matches counts",
        &rules.collect(),
        &RULES,
    );
    text.table("these rules also have", &also, &ALSO);
    let title =
        "policies of these rules by precedence, the first that sets a group of fields wins it";
    text.table(title, &precedence, &PRECEDENCE);
    let seen = [
        ("CALLER", "/from"),
        ("BACKEND", "/backend"),
        ("RATE", "/perSecond"),
    ];
    text.table("callers seen", part("callersSeen"), &seen);
    text.lines("findings", &strings(part("findings")));
    text.lines("notes", &strings(part("notes")));
    text.end()
}

/// The fields of two objects.
fn with(mut one: Value, other: &Value) -> Value {
    let fields = other.as_object().into_iter().flatten();
    if let Some(all) = one.as_object_mut() {
        all.extend(fields.map(|(name, value)| (name.clone(), value.clone())));
    }
    one
}

fn backend_text(of: &Value) -> String {
    let percent = of["percent"].as_f64().unwrap_or_default();
    let backend = of["backend"].as_str().unwrap_or_default();
    let held = match of["held"].as_u64() {
        Some(declared) => format!(", declared weight {declared} not in force"),
        None => String::new(),
    };
    format!(
        "{percent:.0} % {backend} ({} of {} ready{held})",
        of["ready"], of["pods"]
    )
}
