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
use crate::decisions::{decision, reads, request};
use crate::flows::Behind;

/// The end of an account or namespace that no rule and no workload names.
const OTHER: &str = "any-other";
/// So many counter-examples are listed.
const LISTED: usize = 5;

/// The objects that a test looks at.
pub struct Mesh<'a> {
    /// The compile.
    pub compiled: &'a Compiled,
    /// Its input.
    pub world: &'a World,
    /// The workloads behind services.
    pub behind: Behind,
    /// The workloads of identities.
    pub workloads: BTreeMap<SpiffeId, BTreeSet<NamespacedName>>,
}

impl<'a> Mesh<'a> {
    /// Looks at all workloads.
    pub fn of(compiled: &'a Compiled, world: &'a World) -> Self {
        let mut workloads = BTreeMap::<_, BTreeSet<_>>::new();
        for proxy in compiled.proxies.values() {
            let of_identity = workloads.entry(proxy.identity.clone()).or_default();
            of_identity.insert(proxy.workload());
        }
        Self {
            compiled,
            world,
            behind: Behind::of(world),
            workloads,
        }
    }

    fn trust_domain(&self) -> &str {
        &self.compiled.mesh().trust_domain
    }

    /// All identities that have to be asked about.
    fn identities(&self, named: &[SpiffeId]) -> BTreeSet<SpiffeId> {
        let mut identities: BTreeSet<SpiffeId> = self.workloads.keys().cloned().collect();
        identities.extend(named.iter().cloned());
        let mut namespaces: BTreeSet<String> = BTreeSet::from([OTHER.to_owned()]);
        let pods = self.world.pods().keys();
        namespaces.extend(pods.map(|pod| pod.namespace.to_string()));
        for port in self.compiled.served_ports() {
            for rule in &port.authz.rules {
                identities.extend(rule.from.identities.iter().cloned());
                let prefixes = rule.from.identity_prefixes.iter();
                let named = prefixes.filter_map(|prefix| namespace_of(prefix));
                namespaces.extend(named.map(str::to_owned));
            }
        }
        let others = namespaces
            .iter()
            .map(|of| SpiffeId::new(self.trust_domain(), of, OTHER));
        identities.extend(others);
        identities
    }
}

/// The namespace of `spiffe://<trust domain>/ns/<namespace>/...`.
fn namespace_of(identity: &str) -> Option<&str> {
    identity.split_once("/ns/")?.1.split('/').next()
}

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
    let only = never.to.operation();
    let mut found = Found::default();
    for name in bare {
        found.add(format!("{name}: no sidecar decides there"));
    }
    // Workloads with equal policies share their rules.
    let mut known = BTreeMap::new();
    for port in ports {
        found.looked_at += callers.len();
        let key = (
            std::ptr::from_ref(port.authz),
            port.port,
            port.plain,
            port.protocol,
        );
        let judged = known
            .entry(key)
            .or_insert_with(|| judge(&port, &callers, &only));
        found.merge(mesh, &port, judged, &callers);
    }
    Ok(found)
}

/// The callers with a request that passes, as it is decided; `None`: not decided.
type Judged = Vec<(usize, Option<String>)>;

fn judge(port: &ServedPort<'_>, callers: &[Option<SpiffeId>], only: &Operation) -> Judged {
    let mut judged = Judged::new();
    // Bytes have neither a method nor a path.
    let any = only.methods.is_empty() && only.paths.is_empty();
    for (index, caller) in callers.iter().enumerate() {
        if caller.is_none() && !port.plain {
            continue;
        }
        for http in [true, false] {
            if !reads(port.protocol, http) || !(http || any) {
                continue;
            }
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
                    judged.push((index, Some(text)));
                }
                Admitted::Undecided => judged.push((index, None)),
            }
        }
    }
    judged
}

/// The callers that an assertion means; `None`: without a certificate.
fn callers(mesh: &Mesh<'_>, from: &From) -> Result<Vec<Option<SpiffeId>>> {
    let named = from.identities(mesh.trust_domain())?;
    let mut callers: Vec<Option<SpiffeId>> = Vec::new();
    if (from.is_all() || from.plain_text) && !excepts_plain_text(from) {
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
        let workloads = mesh.workloads.get(identity);
        let mut of_workload = false;
        for text in &from.workloads {
            let name = name("from.workloads", text)?;
            of_workload |= workloads.is_some_and(|workloads| workloads.contains(&name));
        }
        Ok(of_workload
            || from.namespaces.iter().any(|of| of == namespace)
            || from.identities(mesh.trust_domain())?.contains(identity))
    };
    let excepted = match &from.except {
        Some(except) => names(except)?,
        None => false,
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
        for (index, passing) in judged {
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
