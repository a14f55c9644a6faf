//! The rules that policies of a kind attach to a service.

use std::collections::BTreeMap;

use crate::traffic::{Backend, Otherwise, RequestMatcher, RouteEntry};
use crate::validation::inputs::UnitInput;
use crate::world::{NamespacedName, Port};

/// The kinds of rules that policies attach to services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RuleKind {
    /// Those of routes. A port takes them of the first kind of object that has some, and answers 404 to requests that none takes.
    Route,
    /// Those of splits, for ports without routes. A port takes the split of one object. Requests that it does not take go to the whole service.
    Split,
}

impl RuleKind {
    /// The answer to requests that no rule of a port takes.
    const fn otherwise(self) -> Otherwise {
        match self {
            Self::Route => Otherwise::NotFound,
            Self::Split => Otherwise::WholeService,
        }
    }
}

/// The rules among the attachments of a kind of policy. Only attachments that are [`ServiceRules`] have some, so that each store of them can
/// be read as one of rules.
#[derive(Debug)]
pub(crate) struct Rules<A> {
    kind: RuleKind,
    of: fn(&A) -> &ServiceRules,
}

impl Rules<ServiceRules> {
    pub(crate) const fn of(kind: RuleKind) -> Self {
        Self {
            kind,
            of: |rules| rules,
        }
    }
}

impl<A> Rules<A> {
    pub(crate) const fn kind(&self) -> RuleKind {
        self.kind
    }

    /// Returns narrower inputs that differ with the rules of a service, for units that do not read all of the rules.
    pub(crate) fn narrower_inputs(
        &self,
        service: &NamespacedName,
        old: Option<&A>,
        new: Option<&A>,
    ) -> Vec<UnitInput> {
        let otherwise = self.kind.otherwise();
        if of_service(old.map(self.of), otherwise) == of_service(new.map(self.of), otherwise) {
            return Vec::new();
        }
        vec![UnitInput::Backends(service.clone())]
    }
}

/// The rules of a service by port.
pub(crate) type ServiceRules = BTreeMap<Port, PortRules>;

/// The rules of a port, in the order of the names of their objects, with their sums.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct PortRules {
    entries: Vec<RouteEntry>,
    /// The index of the first entry of each matcher, in the order of matchers.
    by_matcher: Vec<usize>,
    /// The number of rules.
    pub(super) rules: usize,
    /// The alternatives of all rules, each as often as it counts.
    pub(super) alternatives: usize,
    /// The bytes of all matchers.
    pub(super) bytes: usize,
    /// The regular expressions of all matchers.
    pub(super) expressions: usize,
}

impl PortRules {
    /// The alternatives of all rules.
    pub(crate) fn entries(&self) -> &[RouteEntry] {
        &self.entries
    }

    pub(super) fn push(&mut self, entry: RouteEntry) {
        // Each rule has one first alternative.
        self.rules += usize::from(entry.alternative == 0);
        self.alternatives += entry.rule.alternatives_each();
        self.bytes += entry.matcher.bytes();
        self.expressions += entry.matcher.expressions();
        if let Err(place) = self.place(&entry.matcher) {
            self.by_matcher.insert(place, self.entries.len());
        }
        self.entries.push(entry);
    }

    /// The first entry that has one of these matchers.
    pub(super) fn first_of(&self, matchers: &[RequestMatcher]) -> Option<&RouteEntry> {
        let indexes = matchers.iter().filter_map(|matcher| {
            let place = self.place(matcher).ok()?;
            self.by_matcher.get(place)
        });
        self.entries.get(*indexes.min()?)
    }

    /// The place of a matcher in the index, or the place that it would have.
    fn place(&self, matcher: &RequestMatcher) -> Result<usize, usize> {
        let of = |index: &usize| self.entries.get(*index).map(|entry| &entry.matcher);
        self.by_matcher
            .binary_search_by(|index| of(index).cmp(&Some(matcher)))
    }
}

/// The facts of the rules of a port that decide which callers may use it. Weights alone are none.
#[derive(PartialEq, Eq)]
struct Access<'a> {
    port: Port,
    backends: Vec<&'a Backend>,
    /// Whether requests that no rule takes go to the service as a whole.
    whole: bool,
    /// Whether the caller's sidecar answers some requests by itself.
    answers: bool,
}

/// The access that the rules of a service give. `otherwise` is for requests that no rule takes.
fn of_service(rules: Option<&ServiceRules>, otherwise: Otherwise) -> Vec<Access<'_>> {
    let ports = rules.into_iter().flatten();
    ports
        .map(|(port, of)| access(*port, of.entries(), otherwise))
        .collect()
}

fn access(port: Port, rules: &[RouteEntry], otherwise: Otherwise) -> Access<'_> {
    let all = rules.iter().any(|entry| entry.matcher.is_any());
    Access {
        port,
        backends: rules
            .iter()
            .flat_map(|entry| entry.rule.backends())
            .collect(),
        whole: !all && otherwise == Otherwise::WholeService,
        answers: rules.iter().any(|entry| entry.rule.answers())
            || (!all && otherwise == Otherwise::NotFound),
    }
}
