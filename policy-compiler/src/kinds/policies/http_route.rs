//! `HTTPRoute` of Gateway API: the calls to a service, routed by path, method, headers and query. The parts of all kinds of routes are in
//! `kinds/routes/`.

mod matches;

use std::time::Duration;

use gateway_api::httproutes as api;

use crate::kinds::routes::{self, Notes, RouteSpec, Rule};
use crate::traffic::{Timeouts, WithoutBackend};

impl RouteSpec for api::HttpRouteSpec {
    const WITHOUT_BACKEND: WithoutBackend = WithoutBackend::InternalError;

    fn rules(&self, notes: &mut Notes) -> Vec<Rule> {
        // Without any, it has one without backends.
        let one = [api::HttpRouteRules::default()];
        let rules = self.rules.as_deref().filter(|rules| !rules.is_empty());
        let rules = rules.unwrap_or(&one).iter().enumerate();
        rules
            .map(|(index, of)| rule(&format!("spec.rules[{index}]"), of, notes))
            .collect()
    }

    fn names_hosts(&self) -> bool {
        self.hostnames.is_some()
    }
}

fn rule(field: &str, of: &api::HttpRouteRules, notes: &mut Notes) -> Rule {
    let matchers = matches::read(field, of.matches.as_deref().unwrap_or_default(), notes);
    let parts = (of.filters.as_ref(), of.backend_refs.as_ref());
    let mut rule = routes::rule(field, matchers, parts, notes);
    rule.timeouts = timeouts(&format!("{field}.timeouts"), of.timeouts.as_ref(), notes);
    rule
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
