//! The authorization model. Only this model is compiled to Envoy's matchers and evaluated by the evaluator.

mod admission;
pub(crate) mod decision;
mod evaluate;
pub(crate) mod header;
mod received;
mod samples;
pub(crate) mod spelling;
pub(crate) mod unmatched;

use std::collections::BTreeSet;
use std::sync::Arc;

use heddle_crds::Action;
use ipnet::IpNet;

pub(crate) use admission::Admission;
pub use admission::could_admit;
pub use decision::{Verdict, decide, decisions, refused_at_handshake};
pub use evaluate::{Decision, HttpRequest, Request, evaluate, is_ambiguous};
pub use received::received;
pub use samples::{Admitted, Asked, Changed, Difference, admitted, difference};

use crate::world::{Port, SpiffeId};

/// The most bytes of Deny paths of a port that are matched in every spelling: see docs/security.md for the memory that they take.
pub(crate) const MAX_SPELLED: usize = 16 * 1024;
/// The ports of a sidecar that may take all of the memory that one port has for spellings, or for headers. More ports share it.
const FULL_PORTS: usize = 4;
/// The most bytes of Deny paths of all ports of a sidecar that are matched at all.
pub(crate) const MAX_PATHS: usize = 512 * 1024;
/// The bytes of path that the rest of an expression counts for.
const SPELLED_OVERHEAD: usize = 32;

/// One rule of one policy, with only valid values in it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// `namespace/policy/rule index`: how verdicts, statistics and response details name it.
    pub id: Arc<str>,
    /// Let pass or refuse.
    pub action: RuleAction,
    /// Only judged, not applied.
    pub audit: bool,
    /// The callers. Empty: any caller.
    pub from: Source,
    /// The operations. Empty: any operation.
    pub to: Operation,
}

/// [`Action`] with an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RuleAction {
    /// Refuse.
    Deny,
    /// Let pass.
    Allow,
}

impl From<Action> for RuleAction {
    fn from(action: Action) -> Self {
        match action {
            Action::Allow => Self::Allow,
            Action::Deny => Self::Deny,
        }
    }
}

/// The callers of a rule: every list that is not empty must have a match.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Source {
    /// Full identities.
    pub identities: Vec<SpiffeId>,
    /// Prefixes of identities, `spiffe://<trust domain>/ns/<namespace>/`.
    pub identity_prefixes: Vec<Arc<str>>,
    /// Source addresses of the connection.
    pub blocks: Vec<IpNet>,
}

impl Source {
    /// No caller: the identity does not begin with the prefix.
    fn none() -> Self {
        Self {
            identities: vec![SpiffeId::new("none", "none", "none")],
            identity_prefixes: vec!["none".into()],
            blocks: Vec::new(),
        }
    }
}

/// The operations of a rule: every list that is not empty must have a match, and all of the headers must match.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Operation {
    /// Ports of the workload.
    pub ports: Vec<Port>,
    /// Methods.
    pub methods: Vec<Arc<str>>,
    /// Paths.
    pub paths: Vec<PathPattern>,
    /// Whether upper and lower case of `paths` are alike.
    pub ignore_case: bool,
    /// Headers.
    pub headers: Vec<HeaderPattern>,
}

impl Operation {
    /// Whether only HTTP can tell.
    #[must_use]
    pub const fn needs_http(&self) -> bool {
        !(self.methods.is_empty() && self.paths.is_empty() && self.headers.is_empty())
    }

    /// Returns whether the rule covers this port. `None` stands for every port that no pod, service or policy names.
    #[must_use]
    pub fn covers(&self, port: Option<Port>) -> bool {
        self.ports.is_empty() || port.is_some_and(|port| self.ports.contains(&port))
    }
}

/// A path of a rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PathPattern {
    /// The whole path.
    Exact(Arc<str>),
    /// The beginning of the path.
    Prefix(Arc<str>),
}

impl PathPattern {
    /// Reads a path of a policy: from the root, without query and fragment, `*` only at the end. `None`: it is not one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (body, open) = text
            .strip_suffix('*')
            .map_or((text, false), |body| (body, true));
        // Control characters never reach a path, and in an expression they would mean something else.
        if !body.starts_with('/')
            || body
                .chars()
                .any(|c| matches!(c, '*' | '?' | '#') || c.is_control())
        {
            return None;
        }
        Some(if open {
            Self::Prefix(body.into())
        } else {
            Self::Exact(body.into())
        })
    }

    /// The path without the mark of a prefix.
    fn text(&self) -> &str {
        match self {
            Self::Exact(text) | Self::Prefix(text) => text,
        }
    }
}

/// A header of a rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HeaderPattern {
    /// Lower-case name.
    pub name: Arc<str>,
    /// The pattern of its value.
    pub value: HeaderValuePattern,
}

/// The pattern of a header's value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HeaderValuePattern {
    /// The whole value.
    Exact(Arc<str>),
    /// The beginning.
    Prefix(Arc<str>),
    /// An RE2 expression for the whole value.
    Regex(Arc<str>),
    /// Any value.
    Present,
    /// Not there.
    Absent,
}

/// All that decides requests to one port of one workload.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortAuthz {
    /// The rules that speak of this port, sorted by id.
    pub rules: Vec<Rule>,
    /// Whether no Allow rule is needed where no policy has one.
    pub default_allow: bool,
    /// The ports of the sidecar that share its memory for paths and headers, this one included.
    pub sharing: usize,
}

/// The paths that Deny rules with paths match. Each form denies all that the one before it denies, and takes less memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DenyPaths {
    /// Their paths in every spelling.
    Spelled,
    /// Their paths in the plain spelling, and every path that is not plain.
    Plain,
    /// Every path.
    Any,
}

impl PortAuthz {
    /// No rules, and every caller passes: for a namespace that is bypassed.
    pub(crate) const fn open() -> Self {
        Self {
            rules: Vec::new(),
            default_allow: true,
            sharing: 1,
        }
    }

    /// Whether a cost is within the bound of a port, and within the share of a port in the memory of the sidecar.
    const fn fits(&self, cost: usize, bound: usize) -> bool {
        cost <= bound && cost.saturating_mul(self.sharing) <= FULL_PORTS * bound
    }

    /// Judges ports together by the rules of some of them: their Deny rules hold for all, and their Allow rules let nothing pass.
    pub(crate) fn close(&mut self, rules: &[&Rule]) {
        self.rules.extend(rules.iter().map(|rule| {
            let mut rule = Rule::clone(rule);
            rule.to.ports = Vec::new();
            if rule.action == RuleAction::Allow {
                (rule.from, rule.to) = (Source::none(), Operation::default());
            }
            rule
        }));
        self.rules.sort_by(|a, b| a.id.cmp(&b.id));
    }

    /// Whether the rules have paths or headers, so that the port takes part in the sidecar's memory for these.
    pub(crate) fn takes_memory(&self) -> bool {
        let mut rules = self.rules.iter();
        rules.any(|rule| !rule.to.paths.is_empty() || !rule.to.headers.is_empty())
    }

    /// The enforced rules of an action; with `audited`, those in audit too.
    pub(crate) fn rules(&self, action: RuleAction, audited: bool) -> impl Iterator<Item = &Rule> {
        self.rules
            .iter()
            .filter(move |rule| rule.action == action && (audited || !rule.audit))
    }

    /// Whether anything is in audit, so that there is a second verdict to report.
    pub(crate) fn audits(&self) -> bool {
        self.rules.iter().any(|rule| rule.audit)
    }

    /// The paths that Deny rules match, so that the memory of a sidecar stays bounded and nothing passes that an expression would have
    /// denied.
    #[must_use]
    pub fn deny_paths(&self) -> DenyPaths {
        let length = |rule: &Rule| {
            let lengths = rule
                .to
                .paths
                .iter()
                .map(|path| path.text().len() + SPELLED_OVERHEAD);
            lengths.sum::<usize>()
        };
        // Where something is in audit, Envoy holds all rules a second time.
        let enforced = self.rules(RuleAction::Deny, false).map(length);
        let audited = self.rules(RuleAction::Deny, true).filter(|_| self.audits());
        let cost = enforced.chain(audited.map(length)).sum::<usize>();
        if self.fits(cost, MAX_SPELLED) {
            DenyPaths::Spelled
        } else if cost.saturating_mul(self.sharing) <= MAX_PATHS {
            DenyPaths::Plain
        } else {
            DenyPaths::Any
        }
    }

    /// Returns the rules with headers beyond the memory that a port has for headers, in the order of ids. Such a Deny rule matches any
    /// headers, and such an Allow rule matches nothing.
    pub(crate) fn beyond_headers(&self) -> BTreeSet<&str> {
        let twice = self.audits();
        let mut taken = 0_usize;
        let beyond = |rule: &&Rule| {
            let headers = rule.to.headers.iter();
            let cost = headers.map(|h| header::cost(rule.action, h)).sum::<usize>();
            // Where something is in audit, Envoy holds the enforced rules a second time.
            let cost = if twice && !rule.audit { 2 * cost } else { cost };
            let fits = self.fits(taken + cost, header::MAX_PORT_COST);
            if fits {
                taken += cost;
            }
            !fits
        };
        let rules = self.rules.iter().filter(beyond);
        rules.map(|rule| &*rule.id).collect()
    }

    /// Whether a rule, enforced or in audit, asks for something that only HTTP has.
    pub(crate) fn needs_http(&self) -> bool {
        self.rules.iter().any(|rule| rule.to.needs_http())
    }

    /// Returns whether a request must match an Allow rule. A rule that needs HTTP demands this on TCP ports too, where it can match
    /// nothing: a port that the author closed stays closed.
    pub(crate) fn needs_allow(&self, audited: bool) -> bool {
        !self.default_allow || self.rules(RuleAction::Allow, audited).next().is_some()
    }

    /// Returns whether a rule that is enforced decides about connections of bytes.
    pub(crate) fn judges_bytes(&self) -> bool {
        self.rules(RuleAction::Deny, false).next().is_some() || self.needs_allow(false)
    }
}
