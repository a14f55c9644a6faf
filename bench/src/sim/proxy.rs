//! A proxy's requests on a delta-ADS stream, as a state machine without I/O: Envoy's order of asking, also after a
//! broken stream.

use std::collections::{BTreeSet, HashMap};

use anyhow::{Context, Result};
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;

use super::response::{
    CLUSTER, ENDPOINTS, EXTENSION, LISTENER, ROUTE, Response, endpoints_of, named_by,
};

/// The step of Envoy's start that the proxy has reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Clusters are asked for.
    Clusters,
    /// Clusters are there, their endpoints are not all there yet.
    Endpoints,
    /// Listeners are asked for.
    Listeners,
    /// Everything of the start is there.
    Started,
}

/// The responses on a proxy's streams so far.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    /// Responses.
    pub responses: u64,
    /// Message bytes: before HTTP/2 framing and TLS.
    pub bytes: u64,
    /// Resources in them.
    pub resources: u64,
    /// Resources that it held in this very version.
    pub unchanged: u64,
    /// Bytes of these.
    pub unchanged_bytes: u64,
}

/// One proxy's side of a stream, and the resources that it holds from one stream to the next.
#[derive(Debug)]
pub struct Proxy {
    node: Node,
    introduced: bool,
    on_demand: BTreeSet<String>,
    /// Those of them that have been asked for.
    demanded: BTreeSet<String>,
    phase: Phase,
    kinds: [Kind; 5],
    refused: BTreeSet<String>,
    tally: Tally,
}

/// A type, and a name of it.
type Name = (&'static str, String);

/// A proxy's state of one type.
#[derive(Debug)]
struct Kind {
    url: &'static str,
    /// Versions by name.
    held: HashMap<Box<str>, Box<str>>,
    /// Endpoints, routes and extensions are asked for by name.
    asked: BTreeSet<String>,
    /// Which of those names each cluster or listener refers to.
    refers: HashMap<Box<str>, Vec<Name>>,
}

impl Kind {
    fn new(url: &'static str) -> Self {
        Self {
            url,
            held: HashMap::new(),
            asked: BTreeSet::new(),
            refers: HashMap::new(),
        }
    }

    fn has_all(&self) -> bool {
        self.asked
            .iter()
            .all(|name| self.held.contains_key(name.as_str()))
    }
}

/// The names that the proxy wants or gives up after a response.
#[derive(Debug, Default)]
struct Wants {
    new: Vec<Name>,
    gone: Vec<Name>,
}

impl Proxy {
    /// A proxy of a node id that asks for everything of its own, and besides for some clusters on demand.
    pub fn new(node_id: &str, cluster: &str, on_demand: impl IntoIterator<Item = String>) -> Self {
        let node = Node {
            id: node_id.to_owned(),
            cluster: cluster.to_owned(),
            user_agent_name: "envoy".to_owned(),
            ..Node::default()
        };
        Self {
            node,
            introduced: false,
            on_demand: on_demand.into_iter().collect(),
            demanded: BTreeSet::new(),
            phase: Phase::Clusters,
            kinds: [CLUSTER, ENDPOINTS, LISTENER, ROUTE, EXTENSION].map(Kind::new),
            refused: BTreeSet::new(),
            tally: Tally::default(),
        }
    }

    /// The requests that open a stream: all clusters, with the node. On a later stream also the held versions, of every type.
    pub fn open(&mut self) -> Vec<DeltaDiscoveryRequest> {
        self.introduced = false;
        if self.phase == Phase::Clusters {
            return vec![self.request(CLUSTER)];
        }
        let listeners = matches!(self.phase, Phase::Listeners | Phase::Started);
        let urls = [CLUSTER, ENDPOINTS, LISTENER, ROUTE, EXTENSION];
        urls.into_iter()
            .filter(|url| *url != LISTENER || listeners)
            .filter_map(|url| self.again(url))
            .collect()
    }

    /// Takes a response in: returns its ACK, and Envoy's requests in consequence.
    ///
    /// # Errors
    /// When a resource does not have its type. A real Envoy would reject it; here it ends the measurement.
    pub fn receive(
        &mut self,
        response: &Response<'_>,
        out: &mut Vec<DeltaDiscoveryRequest>,
    ) -> Result<()> {
        out.push(DeltaDiscoveryRequest {
            response_nonce: response.nonce.to_owned(),
            ..self.request(response.type_url)
        });
        let wants = self.remember(response)?;
        match response.type_url {
            CLUSTER => {
                self.ask(ENDPOINTS, &wants, out);
                if self.phase == Phase::Clusters {
                    self.phase = Phase::Endpoints;
                }
            }
            LISTENER => {
                self.ask(ROUTE, &wants, out);
                self.ask(EXTENSION, &wants, out);
                if self.phase == Phase::Listeners {
                    self.phase = Phase::Started;
                    self.demand(out);
                }
            }
            _ => {}
        }
        // Envoy starts its listeners when every cluster of the first answer has its endpoints.
        if self.phase == Phase::Endpoints && self.kind(ENDPOINTS).is_some_and(Kind::has_all) {
            self.phase = Phase::Listeners;
            out.push(self.request(LISTENER));
        }
        Ok(())
    }

    /// Whether the start is over, every name asked for is there or refused, and every destination can be reached.
    pub fn synced(&self) -> bool {
        let all = |url| self.kind(url).is_some_and(Kind::has_all);
        self.phase == Phase::Started
            && all(ENDPOINTS)
            && all(ROUTE)
            && all(EXTENSION)
            && self.on_demand.iter().all(|name| self.reaches(name))
    }

    /// The held resources of a type: names and versions.
    pub fn held(&self, url: &str) -> impl Iterator<Item = (&str, &str)> {
        let held = self.kind(url).into_iter().flat_map(|kind| &kind.held);
        held.map(|(name, version)| (&**name, &**version))
    }

    /// How many resources it holds.
    pub fn resources(&self) -> usize {
        self.kinds.iter().map(|kind| kind.held.len()).sum()
    }

    /// Names asked for on demand that the server refused.
    pub fn refused(&self) -> usize {
        self.refused.len()
    }

    /// The responses so far.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    fn kind(&self, url: &str) -> Option<&Kind> {
        self.kinds.iter().find(|kind| kind.url == url)
    }

    fn kind_mut(&mut self, url: &str) -> Option<&mut Kind> {
        self.kinds.iter_mut().find(|kind| kind.url == url)
    }

    fn holds(&self, url: &str, name: &str) -> bool {
        self.kind(url)
            .is_some_and(|kind| kind.held.contains_key(name))
    }

    fn reaches(&self, name: &str) -> bool {
        self.holds(CLUSTER, name) || self.refused.contains(name) || self.listens(name)
    }

    /// Whether a listener takes this destination's connections, so that Envoy would not ask for the name at all.
    fn listens(&self, name: &str) -> bool {
        listener_of(name).is_some_and(|listener| self.holds(LISTENER, listener))
    }

    fn request(&mut self, type_url: &str) -> DeltaDiscoveryRequest {
        // Envoy sends its node in the first request of a stream only.
        let node = (!std::mem::replace(&mut self.introduced, true)).then(|| self.node.clone());
        DeltaDiscoveryRequest {
            node,
            type_url: type_url.to_owned(),
            ..Default::default()
        }
    }

    /// The first request of a type on a later stream.
    fn again(&mut self, url: &'static str) -> Option<DeltaDiscoveryRequest> {
        let demanded = &self.demanded;
        let kind = self.kinds.iter().find(|kind| kind.url == url)?;
        let names: Vec<String> = match url {
            // Together with names the wildcard has to be spelled out.
            CLUSTER if !demanded.is_empty() => ["*".to_owned()]
                .into_iter()
                .chain(demanded.iter().cloned())
                .collect(),
            _ => kind.asked.iter().cloned().collect(),
        };
        if names.is_empty() && matches!(url, ENDPOINTS | ROUTE | EXTENSION) {
            return None;
        }
        let held = kind.held.iter();
        let held = held.map(|(name, version)| (name.to_string(), version.to_string()));
        let held = held.collect();
        Some(DeltaDiscoveryRequest {
            resource_names_subscribe: names,
            initial_resource_versions: held,
            ..self.request(url)
        })
    }

    /// The destinations that it calls first of all, but those that its workload's scope holds already.
    fn demand(&mut self, out: &mut Vec<DeltaDiscoveryRequest>) {
        let unknown = self.on_demand.iter().filter(|name| !self.reaches(name));
        let names: Vec<String> = unknown.cloned().collect();
        if names.is_empty() {
            return;
        }
        self.demanded.extend(names.iter().cloned());
        out.push(DeltaDiscoveryRequest {
            resource_names_subscribe: names,
            ..self.request(CLUSTER)
        });
    }

    /// One request with the names that are new or gone, as Envoy sends it after it has taken a whole response in.
    fn ask(&mut self, url: &'static str, wants: &Wants, out: &mut Vec<DeltaDiscoveryRequest>) {
        let Some(kind) = self.kind_mut(url) else {
            return;
        };
        let of_kind = |names: &[Name]| -> Vec<String> {
            let names = names.iter().filter(|(of, _)| *of == url);
            names.map(|(_, name)| name.clone()).collect()
        };
        let (mut new, mut gone) = (of_kind(&wants.new), of_kind(&wants.gone));
        new.retain(|name| kind.asked.insert(name.clone()));
        gone.retain(|name| kind.asked.remove(name));
        for name in &gone {
            kind.held.remove(name.as_str());
        }
        if new.is_empty() && gone.is_empty() {
            return;
        }
        out.push(DeltaDiscoveryRequest {
            resource_names_subscribe: new,
            resource_names_unsubscribe: gone,
            ..self.request(url)
        });
    }

    /// Notes names and versions; gives the names that are wanted in consequence, and no more.
    fn remember(&mut self, response: &Response<'_>) -> Result<Wants> {
        self.tally.responses += 1;
        self.tally.bytes += response.size as u64;
        self.tally.resources += response.resources.len() as u64;
        let (mut wants, mut tally) = (Wants::default(), self.tally);
        let Some(kind) = self.kind_mut(response.type_url) else {
            return Ok(wants);
        };
        for resource in &response.resources {
            match kind.held.get_mut(resource.name) {
                Some(version) if **version == *resource.version => {
                    tally.unchanged += 1;
                    tally.unchanged_bytes += resource.size as u64;
                }
                Some(version) => *version = resource.version.into(),
                None => {
                    kind.held
                        .insert(resource.name.into(), resource.version.into());
                }
            }
            let referred = referred(kind.url, resource.body)
                .with_context(|| format!("{} {}", kind.url, resource.name))?;
            kind.refer(resource.name, referred, &mut wants);
        }
        for name in &response.removed {
            kind.held.remove(*name);
            kind.refer(name, Vec::new(), &mut wants);
        }
        self.tally = tally;
        if response.type_url == CLUSTER {
            self.note_refusals(response);
        }
        Ok(wants)
    }

    fn note_refusals(&mut self, response: &Response<'_>) {
        for resource in &response.resources {
            self.refused.remove(resource.name);
        }
        for name in &response.removed {
            if self.on_demand.contains(*name) {
                self.refused.insert((*name).to_owned());
            }
        }
    }
}

impl Kind {
    /// A cluster or listener refers to these names now.
    fn refer(&mut self, name: &str, to: Vec<Name>, wants: &mut Wants) {
        let before = if to.is_empty() {
            self.refers.remove(name)
        } else {
            wants.new.extend(to.iter().cloned());
            self.refers.insert(name.into(), to)
        };
        for old in before.into_iter().flatten() {
            if !self.refers.values().flatten().any(|still| *still == old) {
                wants.gone.push(old);
            }
        }
    }
}

fn referred(url: &str, body: &[u8]) -> Result<Vec<Name>> {
    let mut names = Vec::new();
    match url {
        CLUSTER => names.extend(endpoints_of(body)?.map(|name| (ENDPOINTS, name.to_owned()))),
        LISTENER => named_by(body, &mut |of, name| names.push((of, name.to_owned())))?,
        _ => {}
    }
    Ok(names)
}

/// The listener of an on-demand name `dst|<address>|<hour>`.
fn listener_of(name: &str) -> Option<&str> {
    let (listener, _) = name.rsplit_once('|')?;
    listener.starts_with("dst|").then_some(listener)
}

#[cfg(test)]
pub(crate) mod samples;
#[cfg(test)]
mod tests;
