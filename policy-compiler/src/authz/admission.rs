//! The admission of a port: the callers that it could allow, without a look at any request. It narrows the scope of callers.

use std::sync::Arc;

use super::{Operation, PortAuthz, Rule, RuleAction, Source};
use crate::world::SpiffeId;

/// Returns whether an identity could ever be allowed: false only if every request of it is denied, with any content and from any
/// address. Rules in audit do not count.
#[must_use]
pub fn could_admit(authz: &PortAuthz, caller: &SpiffeId) -> bool {
    Admission::of(authz).admits(caller)
}

/// As much of a [`PortAuthz`] as decides [`could_admit`]: ports with equal admission are one in a summary.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Admission {
    /// Callers that a Deny rule without any other condition refuses.
    denied: Vec<Callers>,
    /// Callers that an Allow rule may allow. `None`: no Allow rule is needed, or one may match any caller.
    allowed: Option<Vec<Callers>>,
}

/// Identities, by name and by prefix: a list that is not empty must have a match.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Callers {
    identities: Vec<SpiffeId>,
    prefixes: Vec<Arc<str>>,
}

impl Callers {
    fn of(source: &Source) -> Self {
        Self {
            identities: source.identities.clone(),
            prefixes: source.identity_prefixes.clone(),
        }
    }

    const fn anybody(&self) -> bool {
        self.identities.is_empty() && self.prefixes.is_empty()
    }

    fn have(&self, caller: &SpiffeId) -> bool {
        let named = || self.identities.contains(caller);
        let prefixed = || {
            let starts = |prefix: &Arc<str>| caller.as_str().starts_with(&**prefix);
            self.prefixes.iter().any(starts)
        };
        (self.identities.is_empty() || named()) && (self.prefixes.is_empty() || prefixed())
    }
}

impl Admission {
    pub(crate) fn of(authz: &PortAuthz) -> Self {
        // An address can be anything, so a condition on it never surely holds.
        let sure = |rule: &&Rule| rule.to == Operation::default() && rule.from.blocks.is_empty();
        let denied = authz.rules(RuleAction::Deny, false).filter(sure);
        let allowed = authz.rules(RuleAction::Allow, false);
        let allowed = authz
            .needs_allow(false)
            .then(|| sorted(allowed.map(|rule| Callers::of(&rule.from))))
            .filter(|callers| !callers.iter().any(Callers::anybody));
        Self {
            denied: sorted(denied.map(|rule| Callers::of(&rule.from))),
            allowed,
        }
    }

    /// Returns whether no caller is denied.
    pub(crate) const fn open(&self) -> bool {
        self.denied.is_empty() && self.allowed.is_none()
    }

    pub(crate) fn admits(&self, caller: &SpiffeId) -> bool {
        let has = |callers: &Vec<Callers>| callers.iter().any(|c| c.have(caller));
        !has(&self.denied) && self.allowed.as_ref().is_none_or(has)
    }
}

fn sorted(callers: impl Iterator<Item = Callers>) -> Vec<Callers> {
    let mut callers: Vec<Callers> = callers.collect();
    callers.sort();
    callers.dedup();
    callers
}
