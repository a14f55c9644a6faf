//! The rules of a port as one decision list, from which Envoy's matchers are made. The first step with a verdict decides; a step
//! without one passes on to the next step. Deny comes before Allow, and the verdict at the end always decides.

mod arrange;
mod build;
mod evaluate;
mod gate;
mod print;
#[cfg(test)]
mod tests;
mod text;

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;

use super::{PortAuthz, Request};
pub use gate::refused_at_handshake;
pub(crate) use gate::{Gate, Peers};
pub(crate) use text::{Input, Pattern, Test};

/// The decisions of one port: those in force, or those that would be with the rules in audit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DecisionList {
    /// Never empty; the last step always decides.
    pub(crate) steps: Vec<Step>,
}

/// A verdict with its name: the rule, `default`, or `no-allow:` with the policies of the Allow rules that did not match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// How Envoy names it in response details, metadata and counters.
    pub name: Arc<str>,
    /// Whether the request passes.
    pub allow: bool,
}

/// One step. Lists in it are never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Decides.
    Decide(Verdict),
    /// Goes through the steps if the condition holds.
    When(Condition, Vec<Step>),
    /// Goes through the steps of the caller's identity.
    ByIdentity(BTreeMap<Arc<str>, Vec<Step>>),
    /// Goes through the steps of the prefixes of the caller's identity.
    ByNamespace(BTreeMap<Arc<str>, Vec<Step>>),
    /// Goes through the steps of the prefixes of the path, the longest first.
    ByPath(BTreeMap<Arc<str>, Vec<Step>>),
    /// Goes through the steps of the path, if it has no query.
    ByWholePath(BTreeMap<Arc<str>, Vec<Step>>),
}

/// A question about a request. Lists in it are never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    /// Every one holds.
    All(Vec<Condition>),
    /// One holds.
    Any(Vec<Condition>),
    /// It does not hold.
    Not(Box<Condition>),
    /// The source address of the connection is in one of the blocks.
    Source(Vec<IpNet>),
    /// A text of the request is there and matches.
    Text(Input, Test),
}

impl DecisionList {
    /// The decisions of a port; with `audited`, as if every rule in audit were enforced. Without `http`, those about connections of bytes.
    pub(crate) fn new(authz: &PortAuthz, audited: bool, http: bool) -> Self {
        build::list(authz, audited, http)
    }

    /// Whether it lets everything pass.
    pub(crate) fn is_open(&self) -> bool {
        matches!(&*self.steps, [Step::Decide(verdict)] if verdict.allow)
    }
}

/// Judges a request by the decision list: the verdict of [`evaluate`](super::evaluate) with the name that Envoy gives it, for of several rules
/// that match the list takes the one that it finds first.
#[must_use]
pub fn decide(authz: &PortAuthz, request: &Request, audited: bool) -> Option<Verdict> {
    DecisionList::new(authz, audited, request.http.is_some()).evaluate(request)
}

/// The decision list as text; with `audited`, as if every rule in audit were enforced.
#[must_use]
pub fn decisions(authz: &PortAuthz, audited: bool, http: bool) -> String {
    DecisionList::new(authz, audited, http).to_string()
}
