//! The gate of a port: the decisions about connections of bytes that the peer's identity alone can make, at the end of the TLS handshake.
//!
//! Source addresses count as unknown: the gate refuses a peer only if no address would be let in. The decision list itself, at the
//! client's first byte, decides the rest.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{DecisionList, Step};
use crate::authz::PortAuthz;
use crate::world::SpiffeId;

/// The name of the verdict that refuses; `None` lets pass.
pub(crate) type RefusedBy = Option<Arc<str>>;

/// The decisions by identity: the first step that has the peer counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Gate {
    /// Lists in the steps are never empty.
    pub(crate) steps: Vec<(Peers, RefusedBy)>,
    /// For all other peers, and for those without an identity.
    pub(crate) otherwise: RefusedBy,
}

/// The peers of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Peers {
    /// These identities.
    Identities(Vec<Arc<str>>),
    /// Identities that begin so.
    Prefixes(Vec<Arc<str>>),
}

impl Gate {
    /// The gate of a port, by the rules in force.
    pub(crate) fn new(authz: &PortAuthz) -> Self {
        let list = DecisionList::new(authz, false, false);
        let mut decided = Vec::new();
        collect(&list.steps, &Peer::Any, true, &mut decided);
        let mut gate = Self {
            steps: Vec::new(),
            otherwise: None,
        };
        let mut run = Run::default();
        for (peer, refused_by) in decided {
            match peer {
                Peer::Any => {
                    gate.otherwise = refused_by;
                    break;
                }
                Peer::Identity(id) => run.add(id, refused_by),
                Peer::Prefix(prefix) => {
                    gate.steps.extend(run.end());
                    match gate.steps.last_mut() {
                        Some((Peers::Prefixes(prefixes), same)) if *same == refused_by => {
                            prefixes.push(prefix);
                        }
                        _ => {
                            let peers = Peers::Prefixes(vec![prefix]);
                            gate.steps.push((peers, refused_by));
                        }
                    }
                }
            }
        }
        gate.steps.extend(run.end());
        let same = |step: &(Peers, RefusedBy)| step.1 == gate.otherwise;
        let kept = gate.steps.iter().rposition(|step| !same(step));
        gate.steps.truncate(kept.map_or(0, |last| last + 1));
        gate
    }

    /// Whether it refuses some peer.
    pub(crate) fn refuses(&self) -> bool {
        let mut steps = self.steps.iter();
        self.otherwise.is_some() || steps.any(|(_, refused_by)| refused_by.is_some())
    }

    /// The verdict that refuses a peer.
    fn evaluate(&self, peer: Option<&str>) -> &RefusedBy {
        let has = |peers: &Peers| {
            peer.is_some_and(|peer| match peers {
                Peers::Identities(ids) => ids.iter().any(|id| **id == *peer),
                Peers::Prefixes(prefixes) => prefixes.iter().any(|p| peer.starts_with(&**p)),
            })
        };
        let mut steps = self.steps.iter();
        let step = steps.find(|(peers, _)| has(peers));
        step.map_or(&self.otherwise, |(_, refused_by)| refused_by)
    }
}

/// The name of the verdict by which the gate of a port refuses a connection of bytes at the TLS handshake, if it does.
#[must_use]
pub fn refused_at_handshake(authz: &PortAuthz, peer: Option<&SpiffeId>) -> Option<Arc<str>> {
    Gate::new(authz)
        .evaluate(peer.map(SpiffeId::as_str))
        .clone()
}

/// The peers that reach a step.
#[derive(Clone, Debug)]
enum Peer {
    Any,
    Identity(Arc<str>),
    Prefix(Arc<str>),
}

impl Peer {
    /// Those of them with an identity.
    fn with_identity(&self, id: &Arc<str>) -> Option<Self> {
        let has = match self {
            Self::Any => true,
            Self::Identity(own) => own == id,
            Self::Prefix(prefix) => id.starts_with(&**prefix),
        };
        has.then(|| Self::Identity(Arc::clone(id)))
    }

    /// Those of them with an identity that begins so.
    fn with_prefix(&self, prefix: &Arc<str>) -> Option<Self> {
        match self {
            Self::Any => Some(Self::Prefix(Arc::clone(prefix))),
            Self::Identity(id) => id.starts_with(&**prefix).then(|| self.clone()),
            Self::Prefix(own) if own.starts_with(&**prefix) => Some(self.clone()),
            Self::Prefix(own) => prefix
                .starts_with(&**own)
                .then(|| Self::Prefix(Arc::clone(prefix))),
        }
    }
}

/// Collects the decisions in their order. Under a condition that the identity does not answer (not `sure`), only those that let pass count.
fn collect(steps: &[Step], peer: &Peer, sure: bool, into: &mut Vec<(Peer, RefusedBy)>) {
    for step in steps {
        match step {
            Step::Decide(verdict) if verdict.allow => return into.push((peer.clone(), None)),
            Step::Decide(verdict) if sure => {
                return into.push((peer.clone(), Some(Arc::clone(&verdict.name))));
            }
            Step::Decide(_) => {}
            Step::When(_, steps) => collect(steps, peer, false, into),
            Step::ByIdentity(map) => {
                for (id, steps) in map {
                    if let Some(peer) = peer.with_identity(id) {
                        collect(steps, &peer, sure, into);
                    }
                }
            }
            Step::ByNamespace(map) => {
                let mut longest_first: Vec<_> = map.iter().collect();
                longest_first.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
                for (prefix, steps) in longest_first {
                    if let Some(peer) = peer.with_prefix(prefix) {
                        collect(steps, &peer, sure, into);
                    }
                }
            }
            // Bytes have no path.
            Step::ByPath(map) | Step::ByWholePath(map) => {
                for steps in map.values() {
                    collect(steps, peer, false, into);
                }
            }
        }
    }
}

/// Decisions about single identities without one about prefixes between them: each identity counts once, so their order is free.
#[derive(Default)]
struct Run {
    seen: BTreeSet<Arc<str>>,
    by_verdict: BTreeMap<RefusedBy, Vec<Arc<str>>>,
}

impl Run {
    fn add(&mut self, id: Arc<str>, refused_by: RefusedBy) {
        if self.seen.insert(Arc::clone(&id)) {
            self.by_verdict.entry(refused_by).or_default().push(id);
        }
    }

    /// The steps, by verdict.
    fn end(&mut self) -> impl Iterator<Item = (Peers, RefusedBy)> + use<> {
        let run = std::mem::take(self);
        let steps = run.by_verdict.into_iter();
        steps.map(|(refused_by, ids)| (Peers::Identities(ids), refused_by))
    }
}
