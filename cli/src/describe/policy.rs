//! A policy, split or route: whether it is in force, its conditions, targets and rules.

use std::collections::BTreeSet;

use anyhow::{Result, bail};
use heddle_policy_compiler::{Compiled, ObjectKind, ObjectRef, ObjectStatus, Role};
use serde_json::{Value, json};

use super::look::Look;
use super::text::Text;
use super::{Described, name};

/// Describes the policies of a name.
///
/// # Errors
/// The name is not `[KIND/]NAMESPACE/NAME`, or no policy has it.
pub fn describe(look: &Look, wanted: &str) -> Result<Described> {
    let (kind, rest) = match wanted.split('/').collect::<Vec<_>>()[..] {
        [kind, namespace, name] => (Some(kind), format!("{namespace}/{name}")),
        _ => (None, wanted.to_owned()),
    };
    let name = name(&rest)?;
    let statuses = look.outcome.compiled.statuses.iter();
    let found = statuses.filter(|(object, _)| {
        object.kind.role() == Role::Policy
            && object.namespace == name.namespace
            && object.name == name.name
            && kind.is_none_or(|kind| object.kind.as_str().eq_ignore_ascii_case(kind))
    });
    let all: Vec<Value> = found
        .map(|(object, status)| document(look, object, status))
        .collect();
    if all.is_empty() {
        let kinds = ObjectKind::watched().map(|(kind, _)| kind);
        let kinds = kinds.filter(|kind| kind.role() == Role::Policy);
        let kinds: Vec<&str> = kinds.map(ObjectKind::as_str).collect();
        bail!(
            "{wanted} is not a known policy; the kinds are {}",
            kinds.join(", ")
        );
    }
    let texts: Vec<String> = all.iter().map(text).collect();
    Ok(Described {
        text: texts.join("\n\n"),
        document: json!({"policies": all, "notes": &look.notes}),
    })
}

fn document(look: &Look, object: &ObjectRef, status: &ObjectStatus) -> Value {
    let compiled = &look.outcome.compiled;
    let conditions = status.conditions.iter().map(|of| {
        json!({"type": of.kind.as_str(), "status": of.status.as_str(), "reason": of.reason, "message": of.message})
    });
    let mut conditions: Vec<Value> = conditions.collect();
    let on_cluster = look.statuses.iter().find(|(other, _)| other == object);
    let on_cluster = on_cluster.map_or(&Value::Null, |(_, status)| status);
    conditions.extend(
        programmed_condition(on_cluster)
            .filter(|_| conditions.iter().all(|of| of["type"] != "Programmed")),
    );
    let in_force = match &status.in_force {
        None => "no: nothing of it".to_owned(),
        Some(last) if last.generation == status.observed_generation => "yes".to_owned(),
        Some(last) => format!("no: generation {} in its place", last.generation),
    };
    json!({
        "policy": object.to_string(),
        "generation": status.observed_generation,
        "inForce": in_force,
        "spec": status.in_force.as_ref().map(|last| &last.spec),
        "workloads": workloads(compiled, object),
        "services": services(look, object),
        "hosts": compiled.external_hosts_of(object),
        "conditions": conditions,
        "proxies": on_cluster.get("proxies"),
        "findings": look.findings(&[object]),
    })
}

/// The condition that only the control plane sets, for it counts acknowledgments.
fn programmed_condition(status: &Value) -> Option<Value> {
    let conditions = status.get("conditions")?.as_array()?;
    let of = conditions.iter().find(|of| of["type"] == "Programmed")?;
    Some(
        json!({"type": "Programmed", "status": of["status"], "reason": of["reason"], "message": of["message"]}),
    )
}

/// The workloads with sidecars that have it as servers.
fn workloads(compiled: &Compiled, object: &ObjectRef) -> BTreeSet<String> {
    let proxies = compiled.proxies.values();
    let with = proxies.filter(|proxy| compiled.origins(&proxy.pod).any(|of| of == object));
    with.map(|proxy| proxy.workload().to_string()).collect()
}

/// The ports of services with callers for which it decides.
fn services(look: &Look, object: &ObjectRef) -> BTreeSet<String> {
    let compiled = &look.outcome.compiled;
    let services = look.outcome.world.services().iter();
    let ports =
        services.flat_map(|(name, service)| service.ports.keys().map(move |port| (name, *port)));
    let with = ports.filter(|(name, port)| {
        let rules = compiled.port_rules(name, *port);
        let mut rules = rules.iter().flat_map(|rules| &rules.entries);
        rules.any(|rule| rule.entry.rule.origins.contains(object))
            || compiled.traffic_policies(name, *port).contains(&object)
    });
    with.map(|(name, port)| format!("{name}:{port}")).collect()
}

fn text(document: &Value) -> String {
    let strings = |name: &str| {
        let all = document[name].as_array().into_iter().flatten();
        all.filter_map(Value::as_str)
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let fact = |name: &str| document[name].as_str().unwrap_or_default().to_owned();
    let mut text = Text::default();
    text.facts(&[
        ("policy", fact("policy")),
        ("in force", fact("inForce")),
        ("workloads", strings("workloads").join(", ")),
        ("services", strings("services").join(", ")),
        ("hosts", strings("hosts").join(", ")),
        ("sidecars", fact("proxies")),
    ]);
    let columns = [
        ("CONDITION", "/type"),
        ("STATUS", "/status"),
        ("REASON", "/reason"),
        ("MESSAGE", "/message"),
    ];
    text.table("conditions", &document["conditions"], &columns);
    if !document["spec"].is_null()
        && let Ok(spec) = serde_saphyr::to_string(&document["spec"])
    {
        let lines: Vec<String> = spec.lines().map(str::to_owned).collect();
        text.lines("spec in force", &lines);
    }
    text.lines("findings", &strings("findings"));
    text.end()
}
