//! The rules of a suggested policy: the ports, methods and paths of each caller.

use std::collections::{BTreeMap, BTreeSet};

use heddle_crds::{AuthPolicySpec, Source};
use heddle_policy_compiler::world::{Port, Protocol, SpiffeId};
use heddle_policy_compiler::{Compiled, NamespacedName};
use heddle_xds_types::account_of;
use serde_json::{Value, json};

use super::evidence::Allowed;
use super::requests::Requests;

/// The most rules of a policy.
pub const MAX_RULES: usize = AuthPolicySpec::MAX_RULES;
/// The pattern of all paths.
const ALL: &str = "/*";

/// The callers of a workload, and how often each has called.
pub type Callers = BTreeMap<SpiffeId, Allowed>;

/// The requests that a rule allows. Empty methods or paths: all.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct To {
    ports: Vec<u16>,
    methods: Vec<String>,
    paths: Vec<String>,
}

/// The evidence about a workload.
#[derive(Clone, Copy)]
pub struct Look<'a> {
    /// The compiled objects.
    pub compiled: &'a Compiled,
    /// The workload.
    pub workload: &'a NamespacedName,
    /// Its callers.
    pub callers: &'a Callers,
    /// The tapped requests, if there are any.
    pub requests: Option<&'a Requests>,
}

impl Look<'_> {
    /// A rule for each set of callers with the same rights. Adds the reasons to look twice.
    pub fn rules(&self, notes: &mut Vec<String>) -> Vec<Value> {
        let mut open = BTreeSet::new();
        loop {
            let (mut doubts, mut needs) = (Vec::new(), BTreeMap::<SpiffeId, usize>::new());
            let rules = self.rules_by(|caller, port| {
                let is_open = open.contains(caller);
                let operations = (!is_open).then(|| self.operations(caller, port, &mut doubts));
                let operations = operations.flatten()?;
                *needs.entry(caller.clone()).or_default() += operations.len();
                Some(operations)
            });
            // The caller with most rules makes room for the others.
            let most = needs.into_iter().max_by_key(|(_, rules)| *rules);
            match most.filter(|_| rules.len() >= MAX_RULES) {
                None => {
                    notes.extend(doubts);
                    return rules;
                }
                Some((caller, _)) => {
                    notes.push(format!(
                        "all methods and paths are allowed to {}: the policy would have {} rules, and at most {MAX_RULES} are possible",
                        caller.as_str(),
                        rules.len()
                    ));
                    open.insert(caller);
                }
            }
        }
    }

    /// The tapped requests of a caller to a port.
    pub fn tapped(&self, caller: &SpiffeId, port: Port) -> u64 {
        let sent = self
            .requests
            .and_then(|all| all.of(self.workload, caller, port));
        sent.map_or(0, |sent| sent.count)
    }

    fn rules_by(
        &self,
        mut operations: impl FnMut(&SpiffeId, Port) -> Option<Vec<(Vec<String>, Vec<String>)>>,
    ) -> Vec<Value> {
        let trust_domain = &self.compiled.mesh().trust_domain;
        let mut all = BTreeMap::<To, Vec<String>>::new();
        for (identity, of) in self.callers {
            let mut open = To::default();
            let mut allow = |to: To| {
                let callers = all.entry(to).or_default();
                callers.push(short(identity, trust_domain));
            };
            for port in &of.ports {
                let Some(operations) = operations(identity, *port) else {
                    open.ports.push(port.get());
                    continue;
                };
                for (methods, mut paths) in operations {
                    if is_all(&paths) {
                        paths.clear();
                    }
                    let ports = vec![port.get()];
                    allow(To {
                        ports,
                        methods,
                        paths,
                    });
                }
            }
            if !open.ports.is_empty() {
                allow(open);
            }
        }
        let all = all.into_iter().flat_map(|(to, identities)| {
            let chunks = identities.chunks(Source::MAX_IDENTITIES);
            chunks.map(|some| to.allowed_to(some)).collect::<Vec<_>>()
        });
        all.collect()
    }

    /// The methods and paths that a caller needs at a port. `None`: all.
    fn operations(
        &self,
        caller: &SpiffeId,
        port: Port,
        doubts: &mut Vec<String>,
    ) -> Option<Vec<(Vec<String>, Vec<String>)>> {
        let requests = self.requests?;
        let mut doubt = |reason: &str| {
            let caller = caller.as_str();
            doubts.push(format!(
                "all methods and paths of port {port} are allowed to {caller}: {reason}"
            ));
        };
        match self.protocol(port) {
            Protocol::Tcp => return None,
            Protocol::Detect => {
                doubt(
                    "the port declares no protocol, so that rules about HTTP would not hold for bytes; set appProtocol at its Service",
                );
                return None;
            }
            Protocol::Http => {}
        }
        let Some(sent) = requests.of(self.workload, caller, port) else {
            doubt("the file has no request of it");
            return None;
        };
        let Some(operations) = sent.operations() else {
            doubt(&match sent.unnamable {
                0 => "it uses more methods than a rule can name".to_owned(),
                some => format!(
                    "no Allow rule can name {some} of its {} requests, by the method or by a path that servers read in several ways",
                    sent.count
                ),
            });
            return None;
        };
        let mut whole = operations.iter().filter(|(_, paths)| is_all(paths));
        if let Some((methods, _)) = whole.next() {
            doubts.push(format!(
                "all paths of port {port} are allowed to {} with {}: its paths begin with values, or with more than 32 names",
                caller.as_str(),
                methods.join(", ")
            ));
        }
        Some(operations)
    }

    /// How the sidecars of the workload treat a port; [`Protocol::Detect`] if they differ.
    fn protocol(&self, port: Port) -> Protocol {
        let ports = self.compiled.served_ports();
        let own =
            ports.filter(|of| of.port == Some(port) && of.template.workload() == *self.workload);
        let mut protocols = own.map(|of| of.protocol);
        let first = protocols.next().unwrap_or(Protocol::Detect);
        match protocols.all(|of| of == first) {
            true => first,
            false => Protocol::Detect,
        }
    }
}

fn is_all(paths: &[String]) -> bool {
    paths.iter().any(|path| path == ALL)
}

impl To {
    fn allowed_to(&self, identities: &[String]) -> Value {
        let mut to = serde_json::Map::from_iter([("ports".to_owned(), json!(self.ports))]);
        for (name, texts) in [("methods", &self.methods), ("paths", &self.paths)] {
            if !texts.is_empty() {
                to.insert(name.to_owned(), json!(texts));
            }
        }
        json!({"from": {"identities": identities}, "to": to})
    }
}

/// `namespace/account` for an identity of the mesh.
fn short(identity: &SpiffeId, trust_domain: &str) -> String {
    let text = identity.as_str();
    let is_own = text.starts_with(&format!("spiffe://{trust_domain}/ns/"));
    let parts = account_of(text).filter(|_| is_own);
    parts.map_or_else(
        || text.to_owned(),
        |(namespace, account)| format!("{namespace}/{account}"),
    )
}
