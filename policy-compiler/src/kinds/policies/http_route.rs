//! `HTTPRoute` of Gateway API: the calls to a service, routed by path, method, headers and query. The parts of all kinds of routes are in
//! `kinds/routes/`.

mod matches;

use std::collections::BTreeSet;

use gateway_api::experimental::httproutes as api;

use crate::kinds::routes::{self, Notes, RouteSpec, Routed, Rule, duration};
use crate::traffic::{Backoff, Failure, Retries, RoutePolicy, Timeouts, WithoutBackend};

/// The most attempts of a request beside the first one, as for a `TrafficPolicy`.
const MAX_ATTEMPTS: i64 = 10;

impl RouteSpec for api::HttpRouteSpec {
    const ROUTED: Routed = Routed::Requests(WithoutBackend::InternalError);

    fn rules(&self, notes: &mut Notes) -> Vec<Rule> {
        routes::rules(self.rules.as_deref(), |field, of| rule(field, of, notes))
    }

    fn names_hosts(&self) -> bool {
        self.hostnames.is_some()
    }
}

fn rule(field: &str, of: &api::HttpRouteRules, notes: &mut Notes) -> Rule {
    let read = |field: &str, of: &_| matches::matcher(field, of, notes);
    let matchers = routes::alternatives(field, of.matches.as_deref(), read);
    let parts = (of.filters.as_ref(), of.backend_refs.as_ref());
    let mut rule = routes::rule(field, matchers, parts, notes);
    rule.policy = RoutePolicy {
        timeouts: timeouts(&format!("{field}.timeouts"), of.timeouts.as_ref(), notes),
        retries: retries(&format!("{field}.retry"), of.retry.as_ref(), notes),
        ..RoutePolicy::default()
    };
    rule.name = of.name.as_deref().map(Into::into);
    rule.keep_sessions(field, of.session_persistence.as_ref(), notes);
    rule
}

/// The retries of a rule: beside those after the named status codes, those after connections that failed. Requests with methods that are
/// not idempotent are sent again only if they provably reached no application.
fn retries(field: &str, of: Option<&api::HttpRouteRulesRetry>, notes: &mut Notes) -> Retries {
    let unsaid = Retries::default();
    let Some(of) = of else {
        return unsaid;
    };
    let attempts = of.attempts.unwrap_or(i64::from(unsaid.attempts));
    if !(0..=MAX_ATTEMPTS).contains(&attempts) {
        let message = format!("{attempts} is not from 0 to {MAX_ATTEMPTS}");
        notes.unsupported(format!("{field}.attempts"), message, "correct it");
    }
    let mut failures = BTreeSet::from([Failure::Reset]);
    for (index, code) in of.codes.iter().flatten().enumerate() {
        match u16::try_from(*code) {
            Ok(status @ 400..=599) => _ = failures.insert(Failure::Status(status)),
            Ok(_) | Err(_) => {
                let message = format!("{code} is not the status of an error");
                let fix = "use a number from 400 to 599";
                notes.unsupported(format!("{field}.codes[{index}]"), message, fix);
            }
        }
    }
    let backoff = duration(&format!("{field}.backoff"), of.backoff.as_ref(), notes);
    Retries {
        attempts: u32::try_from(attempts).unwrap_or_default(),
        // Without attempts nothing else has an effect.
        failures: match attempts {
            0 => BTreeSet::new(),
            _ => failures,
        },
        backoff: backoff
            .filter(|base| attempts > 0 && !base.is_zero())
            .map(|base| Backoff {
                base,
                max: base.saturating_mul(10),
            }),
        ..unsaid
    }
}

fn timeouts(field: &str, of: Option<&api::HttpRouteRulesTimeouts>, notes: &mut Notes) -> Timeouts {
    let Some(of) = of else {
        return Timeouts::default();
    };
    let request = duration(&format!("{field}.request"), of.request.as_ref(), notes);
    let attempt = format!("{field}.backendRequest");
    let per_try = duration(&attempt, of.backend_request.as_ref(), notes);
    if let (Some(request), Some(per_try)) = (request, per_try)
        && !request.is_zero()
        && per_try > request
    {
        let message = "the timeout of one attempt is longer than that of the request";
        let fix = "make it shorter, or leave it out";
        notes.unsupported(attempt, message, fix);
    }
    Timeouts {
        request,
        per_try,
        idle: None,
    }
}
