//! `spec.rules` of a route, read without regard to the cluster.

use std::collections::BTreeSet;
use std::time::Duration;

use gateway_api::httproutes as api;
use heddle_crds::HttpRouteSpec;

use super::backends::{self, Reference};
use super::matches;
use super::notes::Notes;
use crate::kinds::policy::Candidate;
use crate::traffic::{
    Action, Backend, Edits, Forward, RequestMatcher, RoutePolicy, RouteRule, RuleId, Timeouts,
    WeightedBackend,
};
use crate::world::Port;

/// The largest weight of a backend.
const MAX_WEIGHT: i32 = 1_000_000;

/// A rule of a route.
pub(super) struct Rule {
    /// The alternatives, at least one.
    pub(super) matchers: Vec<RequestMatcher>,
    backends: Vec<Weighted>,
    timeouts: Timeouts,
}

struct Weighted {
    reference: Reference,
    weight: u32,
}

impl Rule {
    /// The references to backends.
    pub(super) fn references(&self) -> impl Iterator<Item = &Reference> {
        self.backends.iter().map(|weighted| &weighted.reference)
    }

    /// The rule for a port of a parent.
    pub(super) fn route_rule(
        &self,
        policy: &Candidate<'_, HttpRouteSpec>,
        id: RuleId,
        _port: Port,
    ) -> RouteRule {
        let weighted = self.backends.iter().map(|weighted| {
            let backend = backends::resolve(policy, &weighted.reference);
            let backend = backend.unwrap_or_else(|error| Backend::Invalid(error.message.into()));
            WeightedBackend::new(backend, weighted.weight)
        });
        RouteRule {
            id,
            action: Action::Forward(Forward::to(weighted.collect())),
            edits: Edits::default(),
            policy: RoutePolicy {
                timeouts: self.timeouts.clone(),
                ..RoutePolicy::default()
            },
            origins: BTreeSet::from([policy.declared.object.clone()]),
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
    for index in 0..of.filters.as_ref().map_or(0, Vec::len) {
        let field = format!("{field}.filters[{index}]");
        notes.unsupported(field, "filters are not supported yet", "remove it");
    }
    let backends = of.backend_refs.iter().flatten().enumerate();
    Rule {
        matchers: matches::read(field, of.matches.as_deref().unwrap_or_default(), notes),
        backends: backends
            .map(|(index, of)| weighted(format!("{field}.backendRefs[{index}]"), of, notes))
            .collect(),
        timeouts: timeouts(&format!("{field}.timeouts"), of.timeouts.as_ref(), notes),
    }
}

fn weighted(field: String, of: &api::HttpRouteRulesBackendRefs, notes: &mut Notes) -> Weighted {
    for index in 0..of.filters.as_ref().map_or(0, Vec::len) {
        let field = format!("{field}.filters[{index}]");
        notes.unsupported(field, "filters are not supported yet", "remove it");
    }
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
