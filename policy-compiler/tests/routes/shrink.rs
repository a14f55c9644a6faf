//! Smaller tables and requests on which Envoy and the evaluator still differ.

use std::sync::Arc;

use anyhow::Result;
use heddle_policy_compiler::traffic::{
    Action, Forward, HeaderPolicy, Request, RequestMatcher, Rewrite, RoutePolicy, RouteRule,
    RouteTable,
};

use crate::{Calls, TABLES, envoy, port_of};

type Case = (RouteTable, Request);

/// The smallest case that can be found from a failing one, and its difference.
pub fn shrunk(
    table: &RouteTable,
    request: &Request,
    calls: &mut Calls,
) -> Result<(RouteTable, Request, String)> {
    let (mut case, mut text) = ((table.clone(), request.clone()), String::new());
    for _ in 0..60 {
        // The case itself is the last one: a difference that only some calls show is found again, or not.
        let mut cases = smaller(&case);
        cases.truncate(TABLES);
        cases.push(case.clone());
        let tables: Vec<RouteTable> = cases.iter().map(|(table, _)| table.clone()).collect();
        let _running = envoy(&tables)?;
        let mut found = None;
        for (index, (table, request)) in cases.iter().enumerate() {
            // A table that Envoy does not take as meant ends the connection.
            if let Ok(Some(wrong)) = calls.calls(table, request, port_of(index)) {
                found = Some((index, wrong));
                break;
            }
        }
        let Some((index, wrong)) = found else { break };
        text = wrong;
        if index == cases.len() - 1 {
            break;
        }
        case = cases.swap_remove(index);
    }
    Ok((case.0, case.1, text))
}

/// Every case that has a little less than this one.
fn smaller((table, request): &Case) -> Vec<Case> {
    let mut all = Vec::new();
    for host in 0..table.hosts.len() {
        let mut less = table.clone();
        less.hosts.remove(host);
        all.push((less, request.clone()));
        for entry in 0..table.hosts[host].entries.len() {
            let mut less = table.clone();
            less.hosts[host].entries.remove(entry);
            all.push((less, request.clone()));
        }
    }
    for index in 0..request.headers.len() {
        let mut less = request.clone();
        less.headers.remove(index);
        all.push((table.clone(), less));
    }
    for edit in EDITS {
        let mut less = table.clone();
        for entry in less.hosts.iter_mut().flat_map(|host| &mut host.entries) {
            edit(Arc::make_mut(&mut entry.rule), &mut entry.matcher);
        }
        if less != *table {
            all.push((less, request.clone()));
        }
    }
    all
}

fn forward(rule: &mut RouteRule, edit: impl Fn(&mut Forward)) {
    if let Action::Forward(forward) = &mut rule.action {
        edit(forward);
    }
}

type Edit = fn(&mut RouteRule, &mut RequestMatcher);

/// The parts that every rule can do without.
const EDITS: [Edit; 14] = [
    |rule, _| rule.policy = RoutePolicy::default(),
    |rule, _| rule.policy.faults.clear(),
    |rule, _| rule.policy.faults.truncate(1),
    |rule, _| rule.policy.cors = None,
    |rule, _| rule.policy.retries = RoutePolicy::default().retries,
    |rule, _| rule.headers = HeaderPolicy::default(),
    |rule, _| {
        forward(rule, |of| {
            of.backends
                .iter_mut()
                .for_each(|of| of.headers = HeaderPolicy::default())
        })
    },
    |rule, _| forward(rule, |of| of.rewrite = Rewrite::default()),
    |rule, _| forward(rule, |of| of.mirrors.clear()),
    |rule, _| forward(rule, |of| of.sticky = None),
    |rule, _| forward(rule, |of| of.session = None),
    |rule, _| forward(rule, |of| of.backends.truncate(1)),
    |_, matcher| matcher.headers.clear(),
    |_, matcher| matcher.cookies.clear(),
];
