//! The callers in plain text that servers have reported, and the ports that let them in.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use heddle_crds::MeshMode;
use heddle_policy_compiler::world::{Port, Protocol, World};
use heddle_policy_compiler::{Compiled, KubeObject, NamespacedName, ObjectKind, ObjectRef};
use serde_json::json;
use time::OffsetDateTime;

use super::report::{Effect, OpenPort, PlainCaller, Report, Seen, Unmeshed, Verdict};
use crate::flows::{Behind, Caller, Flows};
use crate::plan::change;
use crate::sources::{Objects, Outcome};

/// The limit of a report without a refused caller.
const OPEN_CALLS: &str = "calls are counted at their end: a connection or stream in plain text that was opened before, and has not ended, is \
                          not seen (docs/mtls-plan.md)";

/// The mesh as it is and as it would be under Strict, with the observed callers.
pub struct Planner<'a> {
    before: &'a Outcome,
    after: &'a Compiled,
    flows: &'a Flows,
    callers: &'a [Caller],
    behind: Behind,
    seen: Option<Seen>,
}

impl<'a> Planner<'a> {
    /// Prepares plans. `callers` is from the reports of servers, which end `now`, if that is known.
    pub fn new(
        before: &'a Outcome,
        after: &'a Compiled,
        flows: &'a Flows,
        callers: &'a [Caller],
        now: Option<OffsetDateTime>,
    ) -> Self {
        Self {
            before,
            after,
            flows,
            callers,
            behind: Behind::of(&before.world),
            seen: now.and_then(|now| Seen::until(now, flows.window_seconds)),
        }
    }

    /// Plans the mode Strict for the workloads of a namespace.
    pub fn plan(&self, namespace: &str) -> Report {
        let (world, compiled) = (&self.before.world, &self.before.compiled);
        let flows = self.flows;
        let open = open_ports(compiled, self.after, namespace);
        let own = self.callers.iter();
        let own: Vec<&Caller> = own
            .filter(|of| of.workload.namespace == namespace)
            .collect();
        let look = Look {
            open: &open,
            named: named_ports(compiled, namespace),
            behind: &self.behind,
            seconds: flows.window_seconds,
        };
        let mut notes = notes(world, flows, namespace);
        let plain = look.plain(namespace, &own, &mut notes);
        let silent = look.silent(world, namespace, &own);
        let refused = plain.iter().any(|of| of.under_strict == Effect::Refused);
        let verdict = match refused {
            true => Verdict::RefusesCallers,
            false if !silent.is_empty() => Verdict::NothingSeen,
            false => Verdict::RefusesNobodySeen,
        };
        if verdict == Verdict::RefusesNobodySeen {
            notes.push(OPEN_CALLS.to_owned());
        }
        Report {
            namespace: namespace.to_owned(),
            window_seconds: flows.window_seconds,
            covered_seconds: flows.observed_seconds(),
            seen: self.seen.clone(),
            open_ports: open.into_iter().collect(),
            callers: plain,
            without_report: silent,
            without_sidecar: without_sidecar(world, namespace),
            notes,
            verdict,
        }
    }
}

/// Returns the objects with the mode Strict for the whole mesh.
///
/// # Errors
/// Never: only the deletion of a missing object fails, and nothing is deleted.
pub fn strict_mesh(before: &Objects) -> Result<Objects> {
    let name = ObjectRef::cluster(ObjectKind::Mesh, heddle_crds::MESH_NAME);
    let mut declared = before.all().iter().filter_map(|object| match object {
        KubeObject::Declared(declared) => Some(declared),
        _ => None,
    });
    let mesh = declared.find(|declared| declared.object == name);
    let spec = mesh.and_then(|mesh| mesh.spec.as_object().cloned());
    let mut spec = spec.unwrap_or_default();
    spec.insert("mode".to_owned(), json!(MeshMode::Strict));
    let mesh = json!({"apiVersion": heddle_crds::API_VERSION, "kind": "Mesh",
        "metadata": {"name": heddle_crds::MESH_NAME}, "spec": spec});
    Ok(change::apply(before, &Objects::one(mesh), &[])?.0)
}

/// The ports of each workload with a sidecar.
type NamedPorts = BTreeMap<NamespacedName, BTreeSet<Option<Port>>>;

struct Look<'a> {
    open: &'a BTreeSet<OpenPort>,
    named: NamedPorts,
    behind: &'a Behind,
    seconds: u64,
}

impl Look<'_> {
    /// The callers without a certificate.
    fn plain(
        &self,
        namespace: &str,
        callers: &[&Caller],
        notes: &mut Vec<String>,
    ) -> Vec<PlainCaller> {
        let mut plain = Vec::new();
        for caller in callers.iter().filter(|of| of.identity.is_empty()) {
            let workload = NamespacedName::new(namespace, &caller.workload.name);
            match self.named.contains_key(&workload) {
                true => plain.push(self.caller(&workload, caller)),
                false => notes.push(format!(
                    "{workload} was called in plain text, and has no pod with a sidecar now"
                )),
            }
        }
        if !plain.is_empty() {
            notes.push("a server counts all callers without a certificate together; its access logs have their addresses, in lines without source_principal (docs/mtls-plan.md)".to_owned());
        }
        plain
    }

    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss
    )]
    fn caller(&self, workload: &NamespacedName, caller: &Caller) -> PlainCaller {
        let service = NamespacedName::new(&caller.service.namespace, &caller.service.name);
        let led = self.behind.ports(&service).filter(|(to, _)| to == workload);
        let led: BTreeSet<Port> = led.map(|(_, port)| port).collect();
        let is_service = !matches!(&*caller.service.name, "" | "-");
        PlainCaller {
            workload: workload.to_string(),
            service: is_service.then(|| service.to_string()),
            under_strict: self.effect(workload, &led),
            ports: led.iter().map(|port| port.get()).collect(),
            protocol: caller
                .protocol
                .map_or_else(|| "-".to_owned(), |of| of.to_string()),
            count: (caller.rate() * self.seconds as f64).round() as u64,
            first_seconds_ago: caller.first_seconds_ago,
            last_seconds_ago: caller.last_seconds_ago,
        }
    }

    /// The workloads with a sidecar that have not reported a call, without those of which Strict changes no port.
    fn silent(&self, world: &World, namespace: &str, callers: &[&Caller]) -> Vec<String> {
        let reported: BTreeSet<&str> = callers.iter().map(|of| &*of.workload.name).collect();
        let pods = world.pods().values();
        let own = pods.filter(|pod| pod.proxied() && *pod.template.namespace == *namespace);
        let workloads: BTreeSet<NamespacedName> = own.map(|pod| pod.template.workload()).collect();
        let silent = workloads.iter().filter(|workload| {
            let name = workload.to_string();
            let mut open = self.open.iter();
            let changes = open.any(|of| of.workload == name && !of.stays);
            let unknown = !self.named.contains_key(*workload);
            (changes || unknown) && !reported.contains(&*workload.name)
        });
        silent.map(ToString::to_string).collect()
    }

    /// The effect on calls to one of these ports; without a port, to any port of the workload.
    fn effect(&self, workload: &NamespacedName, ports: &BTreeSet<Port>) -> Effect {
        let named = self.named.get(workload);
        let all = ports.iter().map(|port| Some(*port));
        let mut ports: BTreeSet<Option<Port>> = all.collect();
        if ports.is_empty() {
            ports.extend(named.into_iter().flatten());
        }
        // A port that the server does not name is one of its other ports.
        let at_server = |port: &Option<Port>| match named.is_some_and(|all| all.contains(port)) {
            true => port.map(Port::get),
            false => None,
        };
        let ports: BTreeSet<Option<u16>> = ports.iter().map(at_server).collect();
        let name = workload.to_string();
        let open = self.open.iter();
        let open = open.filter(|of| of.workload == name && ports.contains(&of.port));
        let stays: BTreeSet<bool> = open.map(|of| of.stays).collect();
        match (stays.contains(&false), stays.contains(&true)) {
            (true, _) => Effect::Refused,
            (false, true) => Effect::Stays,
            (false, false) => Effect::RefusedAlready,
        }
    }
}

/// The ports that accept plain text. Those that `after` does not close stay.
fn open_ports(compiled: &Compiled, after: &Compiled, namespace: &str) -> BTreeSet<OpenPort> {
    let after = after.served_ports();
    let closed = after.filter(|port| !port.plain && *port.template.namespace == *namespace);
    let closed = closed.map(|port| (port.template.workload(), port.port));
    let closed: BTreeSet<(NamespacedName, Option<Port>)> = closed.collect();
    let ports = compiled.served_ports();
    let open = ports.filter(|port| port.plain && *port.template.namespace == *namespace);
    let open = open.map(|port| {
        let source = compiled.mtls_source(&port);
        let policy = source.policy.as_ref();
        let by_policy = policy.filter(|_| source.mesh != MeshMode::Observe);
        let reason = match by_policy {
            _ if source.bypassed => "Mesh default, the namespace is bypassed".to_owned(),
            Some((policy, _)) => format!("{policy}, spec.mtls is Permissive"),
            None => format!("Mesh default, mode is {:?}", source.mesh),
        };
        OpenPort {
            workload: port.template.workload().to_string(),
            port: port.port.map(Port::get),
            protocol: match port.protocol {
                Protocol::Http => "http",
                Protocol::Tcp => "tcp",
                Protocol::Detect => "detected",
            },
            reason,
            stays: !closed.contains(&(port.template.workload(), port.port)),
        }
    });
    open.collect()
}

fn named_ports(compiled: &Compiled, namespace: &str) -> NamedPorts {
    let mut named = NamedPorts::new();
    let ports = compiled.served_ports();
    for port in ports.filter(|port| *port.template.namespace == *namespace) {
        let of_workload = named.entry(port.template.workload()).or_default();
        of_workload.insert(port.port);
    }
    named
}

/// The workloads without a sidecar, those of the namespace first.
fn without_sidecar(world: &World, namespace: &str) -> Vec<Unmeshed> {
    let mut found = BTreeMap::<(bool, NamespacedName), (usize, BTreeSet<String>)>::new();
    let pods = world.pods().values();
    for pod in pods.filter(|pod| pod.alive && !pod.template.meshed) {
        let other = *pod.template.namespace != *namespace;
        let (pods, addresses) = found.entry((other, pod.template.workload())).or_default();
        *pods += 1;
        addresses.extend(pod.ips.iter().map(ToString::to_string));
    }
    let all = found.into_iter();
    all.map(|((_, workload), (pods, addresses))| Unmeshed {
        workload: workload.to_string(),
        pods,
        addresses: addresses.into_iter().collect(),
    })
    .collect()
}

/// The limits of the reports.
fn notes(world: &World, flows: &Flows, namespace: &str) -> Vec<String> {
    let mut notes = flows.gaps();
    let pods = world.pods().values().filter(|pod| pod.alive);
    let own = pods.filter(|pod| *pod.template.namespace == *namespace);
    let mut uncaptured = BTreeMap::<String, BTreeSet<Port>>::new();
    let mut bare = BTreeSet::new();
    for pod in own {
        let workload = pod.template.workload().to_string();
        match pod.template.meshed {
            false => _ = bare.insert(workload),
            true if pod.template.uncaptured.is_empty() => {}
            true => {
                let ports = uncaptured.entry(workload).or_default();
                ports.extend(&pod.template.uncaptured);
            }
        }
    }
    for (workload, ports) in uncaptured {
        let ports: Vec<String> = ports.iter().map(ToString::to_string).collect();
        notes.push(format!(
            "port {} of {workload} is left out of capture: its callers are not seen, and Strict does not hold there",
            ports.join(", ")
        ));
    }
    if !bare.is_empty() {
        let bare: Vec<String> = bare.into_iter().collect();
        notes.push(format!(
            "{}: pods without a sidecar accept plain text in every mode, and report no caller",
            bare.join(", ")
        ));
    }
    notes
}
