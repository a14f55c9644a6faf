//! `spec.rules` of a route, read without regard to the cluster.

use std::collections::BTreeSet;
use std::time::Duration;

use gateway_api::httproutes as api;
use heddle_crds::HttpRouteSpec;

use super::backends::{self, Reference};
use super::filters::{self, Filters};
use super::matches;
use super::notes::Notes;
use crate::kinds::policy::Candidate;
use crate::traffic::{
    Action, Backend, Edits, Forward, Mirror, RequestMatcher, RoutePolicy, RouteRule, RuleId,
    Timeouts, WeightedBackend,
};
use crate::world::Port;

/// The largest weight of a backend.
const MAX_WEIGHT: i32 = 1_000_000;

/// A rule of a route.
pub(super) struct Rule {
    /// The alternatives, at least one.
    pub(super) matchers: Vec<RequestMatcher>,
    filters: Filters,
    backends: Vec<Weighted>,
    timeouts: Timeouts,
}

struct Weighted {
    reference: Reference,
    weight: u32,
    edits: Edits,
}

impl Rule {
    /// The references to backends.
    pub(super) fn references(&self) -> impl Iterator<Item = &Reference> {
        let backends = self.backends.iter().map(|weighted| &weighted.reference);
        let mirrors = self.filters.mirrors.iter().map(|mirror| &mirror.reference);
        backends.chain(mirrors)
    }

    /// The rule for a port of a parent.
    pub(super) fn route_rule(
        &self,
        policy: &Candidate<'_, HttpRouteSpec>,
        id: RuleId,
        parent: Port,
    ) -> RouteRule {
        RouteRule {
            id,
            action: match &self.filters.redirect {
                Some(answer) => Action::Redirect(answer.at(parent)),
                None => Action::Forward(self.forward(policy)),
            },
            edits: self.filters.edits.clone(),
            policy: RoutePolicy {
                timeouts: self.timeouts.clone(),
                ..RoutePolicy::default()
            },
            origins: BTreeSet::from([policy.declared.object.clone()]),
        }
    }

    fn forward(&self, policy: &Candidate<'_, HttpRouteSpec>) -> Forward {
        let resolve = |reference: &Reference| {
            let backend = backends::resolve(policy, reference);
            backend.unwrap_or_else(|error| Backend::Invalid(error.message.into()))
        };
        let weighted = self.backends.iter().map(|weighted| WeightedBackend {
            backend: resolve(&weighted.reference),
            weight: weighted.weight,
            edits: weighted.edits.clone(),
        });
        let mirrors = self.filters.mirrors.iter().map(|mirror| Mirror {
            backend: resolve(&mirror.reference),
            share: mirror.share,
        });
        Forward {
            backends: weighted.collect(),
            rewrite: self.filters.rewrite.clone(),
            mirrors: mirrors.collect(),
        }
    }
}

/// Reads the rules of a route. Without any, it has one without backends.
pub(super) fn read(route: &api::HttpRouteSpec) -> (Notes, Vec<Rule>) {
    let mut notes = Notes::default();
    let one = [api::HttpRouteRules::default()];
    let rules = route.rules.as_deref().filter(|rules| !rules.is_empty());
    let rules = rules.unwrap_or(&one).iter().enumerate();
    let rules = rules
        .map(|(index, of)| rule(&format!("spec.rules[{index}]"), of, &mut notes))
        .collect();
    (notes, rules)
}

fn rule(field: &str, of: &api::HttpRouteRules, notes: &mut Notes) -> Rule {
    let matchers = matches::read(field, of.matches.as_deref().unwrap_or_default(), notes);
    let filters = filters::of_rule(field, of.filters.as_ref(), &matchers, notes);
    let backends = of.backend_refs.iter().flatten().enumerate();
    let backends: Vec<Weighted> = backends
        .map(|(index, of)| weighted(format!("{field}.backendRefs[{index}]"), of, notes))
        .collect();
    if filters.redirect.is_some() && !backends.is_empty() {
        let message = "a rule that redirects sends nothing to backends";
        notes.unsupported(
            format!("{field}.backendRefs"),
            message,
            "remove one of the two",
        );
    }
    Rule {
        matchers,
        filters,
        backends,
        timeouts: timeouts(&format!("{field}.timeouts"), of.timeouts.as_ref(), notes),
    }
}

fn weighted(field: String, of: &api::HttpRouteRulesBackendRefs, notes: &mut Notes) -> Weighted {
    let edits = filters::of_backend(&field, of.filters.as_ref(), notes);
    let weight = of.weight.unwrap_or(1);
    if !(0..=MAX_WEIGHT).contains(&weight) {
        let message = format!("{weight} is not from 0 to {MAX_WEIGHT}");
        notes.unsupported(format!("{field}.weight"), message, "correct it");
    }
    Weighted {
        reference: Reference {
            group: of.group.clone(),
            kind: of.kind.clone(),
            namespace: of.namespace.clone(),
            name: of.name.clone(),
            port: backends::port(&field, of.port, notes),
            field,
        },
        weight: u32::try_from(weight).unwrap_or_default(),
        edits,
    }
}

fn timeouts(field: &str, of: Option<&api::HttpRouteRulesTimeouts>, notes: &mut Notes) -> Timeouts {
    let Some(of) = of else {
        return Timeouts::default();
    };
    let mut read = |name: &str, text: &Option<String>| -> Option<Duration> {
        let text = text.as_ref()?;
        let duration: Option<gateway_api::Duration> = text.parse().ok();
        if duration.is_none() {
            let message = format!("{text:?} is not a duration");
            notes.unsupported(
                format!("{field}.{name}"),
                message,
                "write for example 1m30s",
            );
        }
        duration.map(|of| Duration::new(of.as_secs(), of.subsec_nanos()))
    };
    let request = read("request", &of.request);
    let per_try = read("backendRequest", &of.backend_request);
    if let (Some(request), Some(per_try)) = (request, per_try)
        && !request.is_zero()
        && per_try > request
    {
        let message = "the timeout of one attempt is longer than that of the request";
        let fix = "make it shorter, or leave it out";
        notes.unsupported(format!("{field}.backendRequest"), message, fix);
    }
    Timeouts {
        request,
        per_try,
        idle: None,
    }
}
