//! Requests that stand for all requests of a caller to a port: to decide whether one of them passes, and to tell two sets of rules apart.
//!
//! A sample evades as many Deny rules as a request can that an Allow rule takes: a method and headers that no Deny rule names, a path
//! that goes on where the patterns of Deny rules do not. The evaluator judges every sample, so a sample that passes is a proof. That no
//! sample passes is a proof where the samples of a rule are known to be enough; [`Admitted::Undecided`] stands for the cases where they are not.

mod addresses;
mod headers;
mod paths;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use super::{
    Decision, HttpRequest, Operation, PathPattern, PortAuthz, Request, Rule, RuleAction, Source,
    evaluate,
};
use crate::traffic::unrouted;
use crate::world::{Port, SpiffeId};

/// The most requests that are tried for one rule.
const MAX_TRIED: usize = 4096;
/// The methods of most requests.
const USUAL: [&str; 5] = ["GET", "POST", "PUT", "DELETE", "OPTIONS"];

/// A caller and the port that it calls.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The identity of the caller. `None`: plain text.
    pub peer: Option<&'a SpiffeId>,
    /// The port of the workload. `None`: every port that no pod, service or policy names.
    pub port: Option<Port>,
    /// Whether the port reads HTTP; else there are connections of bytes.
    pub http: bool,
    /// Only requests with these methods and paths. The other fields do not count.
    pub only: &'a Operation,
}

/// Whether any request of a caller passes.
#[derive(Clone, Debug)]
pub enum Admitted {
    /// None does, from any address.
    Never,
    /// This one does.
    By(Request, Decision),
    /// No request was found that passes, and one may exist.
    Undecided,
}

/// A request with two decisions.
#[derive(Clone, Debug)]
pub struct Changed {
    /// The request.
    pub request: Request,
    /// The decision by the rules before.
    pub before: Decision,
    /// The decision by the rules after.
    pub after: Decision,
}

/// Requests that two sets of rules decide differently.
#[derive(Clone, Debug, Default)]
pub struct Difference {
    /// One that passes only before.
    pub denied: Option<Changed>,
    /// One that passes only after.
    pub allowed: Option<Changed>,
}

/// Looks for a request that passes. Rules in audit do not count.
#[must_use]
pub fn admitted(authz: &PortAuthz, asked: &Asked<'_>) -> Admitted {
    let samples = Samples::of(&[authz]);
    let mut complete = true;
    let by_default = Rule::any_request();
    let allowing = authz.rules(RuleAction::Allow, false);
    let allowing = allowing.chain((!authz.needs_allow(false)).then_some(&by_default));
    for rule in allowing.filter(|rule| rule.may_match(asked)) {
        let (requests, all) = samples.requests(rule, asked);
        complete &= all;
        for request in requests {
            let decision = evaluate(authz, &request, false);
            if decision.allowed() {
                return Admitted::By(request, decision);
            }
        }
    }
    match complete {
        true => Admitted::Never,
        false => Admitted::Undecided,
    }
}

/// Looks for requests that the rules before and after decide differently, at least one for each rule. Equal rules have none.
#[must_use]
pub fn difference(before: &PortAuthz, after: &PortAuthz, asked: &Asked<'_>) -> Difference {
    let mut found = Difference::default();
    if before == after {
        return found;
    }
    let samples = Samples::of(&[before, after]);
    let by_default = Rule::any_request();
    let rules = samples.rules.iter().copied().chain([&by_default]);
    for rule in rules.filter(|rule| rule.may_match(asked)) {
        for request in samples.requests(rule, asked).0 {
            let (was, is) = (
                evaluate(before, &request, false),
                evaluate(after, &request, false),
            );
            let place = match (was.allowed(), is.allowed()) {
                (true, false) => &mut found.denied,
                (false, true) => &mut found.allowed,
                (true, true) | (false, false) => continue,
            };
            place.get_or_insert(Changed {
                request,
                before: was,
                after: is,
            });
            if found.denied.is_some() && found.allowed.is_some() {
                return found;
            }
        }
    }
    found
}

impl Rule {
    /// A rule for every request: the requests that no Allow rule is needed for.
    fn any_request() -> Self {
        Self {
            id: "".into(),
            action: RuleAction::Allow,
            audit: false,
            from: Source::default(),
            to: Operation::default(),
        }
    }

    /// Whether the rule can match a request of the caller to the port.
    fn may_match(&self, asked: &Asked<'_>) -> bool {
        let Source {
            identities,
            identity_prefixes,
            blocks: _,
        } = &self.from;
        let peer = asked.peer;
        let prefixed = |peer: &SpiffeId| {
            let starts = |prefix: &Arc<str>| peer.as_str().starts_with(&**prefix);
            identity_prefixes.iter().any(starts)
        };
        (identities.is_empty() || peer.is_some_and(|peer| identities.contains(peer)))
            && (identity_prefixes.is_empty() || peer.is_some_and(prefixed))
            && self.to.covers(asked.port)
            && (asked.http || !self.to.needs_http())
    }
}

/// The rules that samples have to tell apart.
struct Samples<'a> {
    rules: Vec<&'a Rule>,
    /// Whether they are of two sets of rules.
    compared: bool,
}

impl<'a> Samples<'a> {
    fn of(all: &[&'a PortAuthz]) -> Self {
        let rules = all.iter().flat_map(|authz| &authz.rules);
        Self {
            rules: rules.filter(|rule| !rule.audit).collect(),
            compared: all.len() > 1,
        }
    }

    /// Returns requests that match a rule, and whether these are enough for all that do.
    fn requests(&self, rule: &Rule, asked: &Asked<'_>) -> (Vec<Request>, bool) {
        let (sources, mut complete) = self.sources(rule);
        let request = |source: IpAddr, http: Option<HttpRequest>| Request {
            peer: asked.peer.cloned(),
            source,
            port: asked.port,
            http,
        };
        if !asked.http {
            let requests = sources.into_iter().map(|source| request(source, None));
            return (requests.collect(), complete);
        }
        let (paths, all) = self.paths(rule, &asked.only.paths);
        complete &= all;
        let (headers, all) = self.headers(rule);
        complete &= all;
        let methods = self.methods(rule, asked.only);
        let mut requests = Vec::new();
        for method in &methods {
            for path in &paths {
                for headers in &headers {
                    for source in &sources {
                        if requests.len() >= MAX_TRIED {
                            return (requests, false);
                        }
                        let http = HttpRequest {
                            method: method.clone(),
                            path: path.clone(),
                            headers: headers.clone(),
                        };
                        requests.push(request(*source, Some(http)));
                    }
                }
            }
        }
        (requests, complete)
    }

    /// The methods of the rule; of a rule for every method one that no Deny rule names, else all.
    fn methods(&self, rule: &Rule, only: &Operation) -> Vec<String> {
        let asked = |method: &str| {
            only.methods.is_empty() || only.methods.iter().any(|own| **own == *method)
        };
        let own = match (rule.to.methods.is_empty(), only.methods.is_empty()) {
            (false, _) => &rule.to.methods,
            (true, _) => &only.methods,
        };
        if !own.is_empty() {
            let own = own.iter().filter(|method| asked(method));
            return own.map(ToString::to_string).collect();
        }
        // Over HTTP/2 a method can be any word.
        let known = USUAL.into_iter().chain(["ANY"]);
        let known = known.chain(unrouted::METHODS);
        let named = |method: &str| {
            let mut named = self.named_methods();
            named.any(|own| own.eq_ignore_ascii_case(method))
        };
        let free = known.clone().find(|method| !named(method));
        let others = self.named_methods().filter(|_| self.compared);
        let others = others.map(ToString::to_string).collect::<BTreeSet<_>>();
        let found: Vec<String> = free.map(str::to_owned).into_iter().chain(others).collect();
        match found.is_empty() {
            true => known.map(str::to_owned).collect(),
            false => found,
        }
    }

    /// The methods that a Deny rule names; where two sets of rules are compared, those of every rule.
    fn named_methods(&self) -> impl Iterator<Item = &'a Arc<str>> {
        let rules = self.rules.iter().copied();
        let rules = rules.filter(|rule| self.compared || rule.action == RuleAction::Deny);
        rules.flat_map(|rule| &rule.to.methods)
    }

    fn denying(&self) -> impl Iterator<Item = &'a Rule> {
        let rules = self.rules.iter().copied();
        rules.filter(|rule| rule.action == RuleAction::Deny)
    }

    /// The patterns of all rules for paths.
    fn patterns(&self) -> impl Iterator<Item = &'a PathPattern> {
        self.rules.iter().flat_map(|rule| &rule.to.paths)
    }

    /// Addresses of the connection.
    fn sources(&self, rule: &Rule) -> (Vec<IpAddr>, bool) {
        let blocks: Vec<_> = self
            .rules
            .iter()
            .flat_map(|rule| &rule.from.blocks)
            .collect();
        if blocks.is_empty() {
            return (vec![IpAddr::V4(Ipv4Addr::UNSPECIFIED)], true);
        }
        let mut sources = addresses::apart(&blocks);
        let own = &rule.from.blocks;
        sources.retain(|ip| own.is_empty() || own.iter().any(|block| block.contains(ip)));
        (sources, true)
    }
}

/// Returns a character with which no text goes on after `start`, in either case. `None`: there is none among letters and digits.
fn free_character<'t>(start: &str, texts: impl Iterator<Item = &'t str>) -> Option<char> {
    let start = start.to_ascii_lowercase();
    let next = texts.filter_map(|text| {
        let text = text.to_ascii_lowercase();
        text.strip_prefix(&*start)?.chars().next()
    });
    let taken: BTreeSet<char> = next.collect();
    let mut free = ('a'..='z').rev().chain('0'..='9');
    free.find(|character| !taken.contains(character))
}
