//! A workload: ports, policies, callers that may call, sidecars and traffic.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use heddle_crds::MeshMode;
use heddle_policy_compiler::authz::{Admitted, Asked, Operation, admitted};
use heddle_policy_compiler::injection::names;
use heddle_policy_compiler::world::{Pod, PodTemplate, Port, SpiffeId};
use heddle_policy_compiler::{Compiled, NamespacedName, ObjectRef, ServedPort, admits_all};
use serde_json::{Value, json};

use super::Described;
use super::look::{Look, is};
use super::text::Text;
use crate::decisions::{decision, reads, request};
use crate::proxy::SyncSummary as _;
use crate::why;

/// The columns of ports.
const PORTS: [(&str, &str); 6] = [
    ("PORT", "/port"),
    ("PROTOCOL", "/protocol"),
    ("MTLS", "/mtls"),
    ("BY", "/mtlsBy"),
    ("RATE LIMITS", "/rateLimits"),
    ("OVERLOAD", "/overload"),
];
/// The mode of a port at which connections pass by the sidecar.
const UNCAPTURED: &str = "none: left out of capture";
/// The columns of callers.
const CALLERS: [(&str, &str); 5] = [
    ("PORT", "/port"),
    ("CALLER", "/caller"),
    ("WORKLOADS", "/workloads"),
    ("FOR EXAMPLE", "/example"),
    ("BY", "/by"),
];
/// The columns of pods.
const PODS: [(&str, &str); 5] = [
    ("POD", "/pod"),
    ("READY", "/ready"),
    ("NODE", "/node"),
    ("ADDRESSES", "/addresses"),
    ("SIDECAR", "/sidecar"),
];

/// Describes a workload.
///
/// # Errors
/// No pod that is alive belongs to the workload.
pub fn describe(look: &Look, name: &NamespacedName) -> Result<Described> {
    let compiled = &look.outcome.compiled;
    let pods = look.outcome.world.pods().values().filter(|pod| pod.alive);
    let pods: Vec<&Pod> = pods
        .map(|pod| &**pod)
        .filter(|pod| pod.template.workload() == *name)
        .collect();
    let first = pods
        .first()
        .with_context(|| format!("{name} is not a known workload"))?;
    let templates: BTreeSet<_> = pods.iter().map(|pod| &*pod.template).collect();
    let policies: Vec<&ObjectRef> = compiled.selecting(&first.template);
    let origins = pods.iter().flat_map(|pod| compiled.origins(&pod.name));
    let origins: BTreeSet<&ObjectRef> = origins.collect();
    let identity = compiled
        .proxies
        .get(&first.name)
        .map(|proxy| proxy.identity.to_string());
    let ports = ports(compiled, name);
    let uncaptured = uncaptured(&templates);
    let about: Vec<&ObjectRef> = origins.iter().copied().collect();
    let document = json!({
        "workload": name.to_string(),
        "serviceAccount": &*first.template.service_account,
        "identity": identity,
        "meshMode": format!("{:?}", compiled.mesh().mode),
        "templates": templates.len(),
        "ports": by_port(
            ports.iter().map(|port| port_of(compiled, port)),
            uncaptured.iter().map(|port| uncaptured_port(*port)),
        ),
        "policies": policies.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "objects": origins.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "mayCall": by_port(
            callers(compiled, &ports),
            uncaptured.iter().map(|port| uncaptured_caller(*port)),
        ),
        "pods": pods.iter().map(|pod| pod_of(look, pod)).collect::<Vec<_>>(),
        "callersSeen": seen(look, name),
        "destinationsSeen": look.flows(|flow| is(&flow.source, name)),
        "findings": look.findings(&about),
        "notes": &look.notes,
    });
    Ok(Described {
        text: text(&document),
        document,
    })
}

/// The ports of a workload. While it is rolled out, the first of its templates stands for it.
fn ports<'a>(compiled: &'a Compiled, name: &NamespacedName) -> Vec<ServedPort<'a>> {
    let all = compiled.served_ports();
    let own = all.filter(|of| of.template.workload() == *name && of.port != Some(Port::METRICS));
    let mut ports = BTreeMap::new();
    for port in own {
        // The others come last.
        ports
            .entry((port.port.is_none(), port.port))
            .or_insert(port);
    }
    ports.into_values().collect()
}

/// The ports at which no sidecar decides, of all templates: while a workload is rolled out, a port of which only some pods are
/// captured has both rows.
fn uncaptured(templates: &BTreeSet<&PodTemplate>) -> BTreeSet<Port> {
    let meshed = templates.iter().filter(|template| template.meshed);
    meshed
        .flat_map(|template| &template.uncaptured)
        .copied()
        .collect()
}

/// The rows of two lists in the order of their ports; those of all other ports come last.
fn by_port(
    captured: impl IntoIterator<Item = Value>,
    uncaptured: impl IntoIterator<Item = Value>,
) -> Vec<Value> {
    let mut rows: Vec<Value> = captured.into_iter().chain(uncaptured).collect();
    rows.sort_by_key(|row| {
        let port = row.get("port").and_then(Value::as_u64);
        (port.is_none(), port)
    });
    rows
}

fn uncaptured_port(port: Port) -> Value {
    json!({
        "port": port.get(), "protocol": null, "captured": false, "mtls": UNCAPTURED,
        "mtlsBy": format!("annotation {}", names::EXCLUDE_INBOUND_PORTS),
        "rateLimits": [], "overload": [], "anyCaller": true,
    })
}

fn uncaptured_caller(port: Port) -> Value {
    json!({"port": port.get(), "caller": "anybody", "by": "no sidecar decides"})
}

fn port_of(compiled: &Compiled, port: &ServedPort<'_>) -> Value {
    let source = compiled.mtls_source(port);
    let by = match &source.policy {
        _ if source.bypassed => "Mesh default, which bypasses the namespace".to_owned(),
        Some((policy, _)) if source.mesh != MeshMode::Observe => policy.to_string(),
        _ => "Mesh default".to_owned(),
    };
    let by = match source.for_port {
        Some(port) if !source.bypassed => format!("{by}, for port {port} is judged with them"),
        Some(_) | None => by,
    };
    json!({
        "port": port_name(port),
        "protocol": port.protocol.as_str(),
        "captured": true,
        "mtls": if port.plain { "Permissive" } else { "Strict" },
        "mtlsBy": by,
        "rateLimits": port.traffic.limits.iter().map(why::limit).collect::<Vec<_>>(),
        "overload": port.traffic.overload.iter().map(why::overload).collect::<Vec<_>>(),
        "anyCaller": admits_all(port.authz),
    })
}

fn port_name(port: &ServedPort<'_>) -> Value {
    port.port
        .map_or_else(|| "others".into(), |port| port.get().into())
}

/// The callers that may call, each with a request that passes and the decision about it.
fn callers(compiled: &Compiled, ports: &[ServedPort<'_>]) -> Vec<Value> {
    let mut known = BTreeMap::<SpiffeId, BTreeSet<String>>::new();
    for proxy in compiled.proxies.values() {
        let workloads = known.entry(proxy.identity.clone()).or_default();
        workloads.insert(proxy.workload().to_string());
    }
    let mut found = Vec::new();
    for port in ports {
        if admits_all(port.authz) {
            let whom = if port.plain {
                "any caller"
            } else {
                "any caller of the mesh"
            };
            found.push(
                json!({"port": port_name(port), "caller": whom, "by": "no rule denies a request"}),
            );
            continue;
        }
        let rules = port.authz.rules.iter();
        let named = rules.flat_map(|rule| &rule.from.identities).cloned();
        let mut all: BTreeSet<Option<SpiffeId>> =
            named.chain(known.keys().cloned()).map(Some).collect();
        if port.plain {
            all.insert(None);
        }
        for caller in all {
            let Some((example, by)) = passing(port, caller.as_ref()) else {
                continue;
            };
            let workloads = caller.as_ref().and_then(|of| known.get(of));
            let caller = caller.as_ref().map_or("plain text", |of| of.as_str());
            found.push(json!({
                "port": port_name(port), "caller": caller,
                "workloads": workloads.into_iter().flatten().collect::<Vec<_>>(),
                "example": example, "by": by,
            }));
        }
    }
    found
}

/// A request of a caller that passes, with the decision.
fn passing(port: &ServedPort<'_>, caller: Option<&SpiffeId>) -> Option<(String, String)> {
    let any = Operation::default();
    let ways = [true, false].into_iter();
    let mut ways = ways.filter(|http| reads(port.protocol, *http));
    ways.find_map(|http| {
        let asked = Asked {
            peer: caller,
            port: port.port,
            http,
            only: &any,
        };
        match admitted(port.authz, &asked) {
            Admitted::By(example, by) => Some((request(&example), decision(&by))),
            Admitted::Undecided => Some(("not known".to_owned(), "not decided".to_owned())),
            Admitted::Never => None,
        }
    })
}

fn pod_of(look: &Look, pod: &Pod) -> Value {
    let name = pod.name.to_string();
    let states = look.proxies.iter().flatten();
    let state = states.into_iter().find(|state| state.proxy == name);
    let sidecar = match (pod.template.meshed, state) {
        (false, _) => Some("no sidecar".to_owned()),
        (true, Some(state)) => Some(state.summary(crate::proxy::now())),
        (true, None) => None,
    };
    json!({
        "pod": name, "ready": pod.ready, "node": pod.node.as_deref(),
        "addresses": pod.ips.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "sidecar": sidecar,
    })
}

/// The callers that the workload's own sidecars have seen.
fn seen(look: &Look, name: &NamespacedName) -> Vec<Value> {
    let callers = look.flows.iter().filter_map(|flows| flows.callers.as_ref());
    let own = callers
        .flatten()
        .filter(|caller| is(&caller.workload, name));
    let own = own.map(|caller| {
        let identity = match &*caller.identity {
            "" => "plain text",
            identity => identity,
        };
        json!({"from": identity, "service": caller.service.name, "perSecond": caller.rate()})
    });
    own.collect()
}

fn text(document: &Value) -> String {
    let fact = |pointer: &str| {
        let value = document.pointer(pointer).and_then(Value::as_str);
        value.unwrap_or_default().to_owned()
    };
    let list = |pointer: &str| {
        let all = document.pointer(pointer).and_then(Value::as_array);
        let all = all.into_iter().flatten().filter_map(Value::as_str);
        all.map(str::to_owned).collect::<Vec<_>>()
    };
    let part = |name: &str| document.get(name).unwrap_or(&Value::Null);
    let identity = match fact("/identity") {
        none if none.is_empty() => "none: it has no sidecar".to_owned(),
        identity => identity,
    };
    let mut text = Text::default();
    text.facts(&[
        ("workload", fact("/workload")),
        ("identity", identity),
        ("mesh mode", fact("/meshMode")),
        ("policies", list("/policies").join(", ")),
    ]);
    text.table("ports", part("ports"), &PORTS);
    text.table("callers that may call", part("mayCall"), &CALLERS);
    text.table("pods", part("pods"), &PODS);
    let seen = [
        ("CALLER", "/from"),
        ("SERVICE", "/service"),
        ("RATE", "/perSecond"),
    ];
    text.table("callers seen", part("callersSeen"), &seen);
    let seen = [
        ("DESTINATION", "/to"),
        ("BACKEND", "/backend"),
        ("RATE", "/perSecond"),
    ];
    text.table("destinations seen", part("destinationsSeen"), &seen);
    text.lines("findings", &list("/findings"));
    text.lines("notes", &list("/notes"));
    text.end()
}
