//! `never`: all requests of all callers that an assertion means, judged at the servers.
//!
//! Identities that rules cannot tell apart are one: beside those of workloads and rules, one that nothing names stands for the others of a
//! namespace, and one of a namespace that nothing names for the others of the mesh.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use heddle_policy_compiler::authz::{Admitted, Asked, Operation, admitted};
use heddle_policy_compiler::world::{Port, SpiffeId};
use heddle_policy_compiler::{Compiled, NamespacedName, ServedPort, World};

use super::assertions::{From, Never, To, name};
use super::mesh::{Mesh, OTHER, namespace_of};
use super::names;
use crate::decisions::{decision, reads, request};

/// So many counter-examples are listed.
const LISTED: usize = 5;

/// The result of an assertion.
#[derive(Debug, Default)]
pub struct Found {
    /// Requests that pass, or servers without a sidecar.
    pub passing: Vec<String>,
    /// More of them than are listed.
    pub more: usize,
    /// Callers and ports about which nothing could be proved.
    pub undecided: Vec<String>,
    /// Pairs of a caller and a port that were looked at.
    pub looked_at: usize,
}

/// Looks for requests that pass.
///
/// # Errors
/// The assertion names nothing that exists.
pub fn check(mesh: &Mesh<'_>, never: &Never) -> Result<Found> {
    let callers = callers(mesh, &never.from)?;
    let meant = Meant::of(mesh, &never.to)?;
    let (ports, bare) = (meant.served(mesh.compiled), meant.bare(mesh.world));
    anyhow::ensure!(
        !ports.is_empty() || !bare.is_empty(),
        "to names no server that exists; correct it, or leave the assertion out"
    );
    let only = never.to.operation()?;
    let mut found = Found::default();
    for name in bare {
        found.add(format!("{name}: no sidecar decides there"));
    }
    // Workloads with equal policies share their rules.
    let mut known = BTreeMap::new();
    for port in ports {
        let key = (
            std::ptr::from_ref(port.authz),
            port.port,
            port.plain,
            port.protocol,
        );
        let judged = known
            .entry(key)
            .or_insert_with(|| judge(&port, &callers, &only));
        found.looked_at += judged.looked_at;
        found.merge(mesh, &port, judged, &callers);
    }
    anyhow::ensure!(
        found.looked_at > 0 || !found.passing.is_empty(),
        "there is nothing to judge: from names no caller, or to has methods or paths and none of its ports reads HTTP; correct it"
    );
    Ok(found)
}

/// The decisions about the callers at a port.
#[derive(Default)]
struct Judged {
    /// The callers with a request that passes, as it is decided; `None`: not decided.
    open: Vec<(usize, Option<String>)>,
    /// So many callers were judged.
    looked_at: usize,
}

fn judge(port: &ServedPort<'_>, callers: &[Option<SpiffeId>], only: &Operation) -> Judged {
    let mut judged = Judged::default();
    // Bytes have neither a method nor a path.
    let any = only.methods.is_empty() && only.paths.is_empty();
    for (index, caller) in callers.iter().enumerate() {
        if caller.is_none() && !port.plain {
            judged.looked_at += 1;
            continue;
        }
        let mut is_judged = false;
        for http in [true, false] {
            if !reads(port.protocol, http) || !(http || any) {
                continue;
            }
            is_judged = true;
            let asked = Asked {
                peer: caller.as_ref(),
                port: port.port,
                http,
                only,
            };
            match admitted(port.authz, &asked) {
                Admitted::Never => {}
                Admitted::By(passing, by) => {
                    let text = format!("{}: {}", request(&passing), decision(&by));
                    judged.open.push((index, Some(text)));
                }
                Admitted::Undecided => judged.open.push((index, None)),
            }
        }
        judged.looked_at += usize::from(is_judged);
    }
    judged
}

/// The callers that an assertion means; `None`: without a certificate.
fn callers(mesh: &Mesh<'_>, from: &From) -> Result<Vec<Option<SpiffeId>>> {
    names::check(mesh, from)?;
    let named = from.identities(mesh.trust_domain())?;
    let mut callers: Vec<Option<SpiffeId>> = Vec::new();
    // Every caller can also call without its certificate.
    if !excepts_plain_text(from) {
        callers.push(None);
    }
    let listed = from.namespaces.iter();
    let unknown = listed.map(|of| SpiffeId::new(mesh.trust_domain(), of, OTHER));
    let all: Vec<SpiffeId> = named.iter().cloned().chain(unknown).collect();
    let identities = mesh.identities(&all).into_iter();
    let mut chosen = Vec::new();
    for identity in identities {
        if is_meant(mesh, from, &identity)? {
            chosen.push(Some(identity));
        }
    }
    callers.extend(chosen);
    Ok(callers)
}

fn excepts_plain_text(from: &From) -> bool {
    from.except.as_ref().is_some_and(|except| except.plain_text)
}

/// Whether an assertion means an identity.
fn is_meant(mesh: &Mesh<'_>, from: &From, identity: &SpiffeId) -> Result<bool> {
    let names = |from: &From| -> Result<bool> {
        let namespace = namespace_of(identity.as_str()).unwrap_or_default();
        let by_name = from.namespaces.iter().any(|of| of == namespace)
            || from.identities(mesh.trust_domain())?.contains(identity);
        Ok(by_name || !names::listed(mesh, from, identity)?.is_empty())
    };
    let excepted = match &from.except {
        Some(except) if names(except)? => {
            names::ensure_whole(mesh, except, identity)?;
            true
        }
        Some(_) | None => false,
    };
    Ok(!excepted && (from.is_all() || names(from)?))
}

/// The servers that an assertion means.
struct Meant {
    /// Whether no list names a server.
    all: bool,
    workloads: BTreeSet<NamespacedName>,
    namespaces: BTreeSet<String>,
    /// The workloads and ports behind services.
    of_services: BTreeSet<(NamespacedName, Port)>,
    /// Empty: all ports.
    ports: Vec<Port>,
}

impl Meant {
    fn of(mesh: &Mesh<'_>, to: &To) -> Result<Self> {
        let mut meant = Self {
            all: to.workloads.is_empty() && to.services.is_empty() && to.namespaces.is_empty(),
            workloads: BTreeSet::new(),
            namespaces: to.namespaces.iter().cloned().collect(),
            of_services: BTreeSet::new(),
            ports: to.ports()?,
        };
        let pods = mesh.world.pods().values().filter(|pod| pod.alive);
        let known: BTreeSet<NamespacedName> = pods.map(|pod| pod.template.workload()).collect();
        for text in &to.workloads {
            let workload = name("to.workloads", text)?;
            anyhow::ensure!(
                known.contains(&workload),
                "to.workloads: {workload} is not a known workload; correct it"
            );
            meant.workloads.insert(workload);
        }
        let mut namespaces = to.namespaces.iter();
        if let Some(of) = namespaces.find(|of| !known.iter().any(|own| *own.namespace == ***of)) {
            anyhow::bail!("to.namespaces: {of} has no workload; correct it");
        }
        for text in &to.services {
            let service = name("to.services", text)?;
            anyhow::ensure!(
                mesh.world.services().contains_key(&service),
                "to.services: {service} is not a known service; correct it"
            );
            meant.of_services.extend(mesh.behind.ports(&service));
        }
        Ok(meant)
    }

    /// Whether all ports of a workload are meant, as far as their numbers are.
    fn whole(&self, workload: &NamespacedName) -> bool {
        self.all
            || self.workloads.contains(workload)
            || self.namespaces.contains(&*workload.namespace)
    }

    fn port(&self, workload: &NamespacedName, port: Port) -> bool {
        let behind = || self.of_services.contains(&(workload.clone(), port));
        (self.ports.is_empty() || self.ports.contains(&port)) && (self.whole(workload) || behind())
    }

    /// The ports with rules.
    fn served<'a>(&self, compiled: &'a Compiled) -> Vec<ServedPort<'a>> {
        let served: Vec<ServedPort<'a>> = compiled.served_ports().collect();
        let place = |of: &ServedPort<'_>| Some((of.template.workload(), of.port?));
        let named: BTreeSet<(NamespacedName, Port)> = served.iter().filter_map(place).collect();
        let meant = served.into_iter().filter(|of| {
            let workload = of.template.workload();
            match of.port {
                Some(port) => self.port(&workload, port),
                // A number that nothing names is one of the other ports.
                None => {
                    let mut numbers = self.ports.iter();
                    self.whole(&workload)
                        && (self.ports.is_empty()
                            || numbers.any(|port| !named.contains(&(workload.clone(), *port))))
                }
            }
        });
        meant.collect()
    }

    /// The workloads and ports where no sidecar decides.
    fn bare(&self, world: &World) -> BTreeSet<String> {
        let behind: BTreeSet<&NamespacedName> = self
            .of_services
            .iter()
            .map(|(workload, _)| workload)
            .collect();
        let pods = world.pods().values().filter(|pod| pod.alive);
        let bare = pods.flat_map(|pod| {
            let template = &pod.template;
            let workload = template.workload();
            let ports = template.uncaptured.iter();
            let ports = ports.filter(|port| self.port(&workload, **port));
            let ports = ports.map(|port| format!("{workload} port {port}"));
            let meant = self.whole(&workload) || behind.contains(&workload);
            let whole = (!template.meshed && meant).then(|| workload.to_string());
            ports.chain(whole).collect::<Vec<_>>()
        });
        bare.collect()
    }
}

impl Found {
    fn add(&mut self, text: String) {
        match self.passing.len() {
            full if full >= LISTED => self.more += 1,
            _ => self.passing.push(text),
        }
    }

    fn merge(
        &mut self,
        mesh: &Mesh<'_>,
        port: &ServedPort<'_>,
        judged: &Judged,
        callers: &[Option<SpiffeId>],
    ) {
        let number = port.port.map_or_else(
            || "any other port".to_owned(),
            |port| format!("port {port}"),
        );
        let place = format!("{} {number}", port.template.workload());
        for (index, passing) in &judged.open {
            let peer = callers.get(*index).and_then(Option::as_ref);
            let pair = format!("{} to {place}", caller(mesh, peer));
            match passing {
                Some(passing) => self.add(format!("{pair}: {passing}")),
                None => self.undecided.push(pair),
            }
        }
    }
}

fn caller(mesh: &Mesh<'_>, peer: Option<&SpiffeId>) -> String {
    let Some(identity) = peer else {
        return "a caller without a certificate".to_owned();
    };
    let workloads = mesh.workloads.get(identity).into_iter().flatten();
    workloads
        .map(ToString::to_string)
        .next()
        .unwrap_or_else(|| identity.as_str().to_owned())
}
