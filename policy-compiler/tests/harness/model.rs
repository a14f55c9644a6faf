//! The traffic model as goldens print it: each entry of a table in a line, in the order in which they are tried.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use heddle_policy_compiler::traffic::{
    Action, Failure, Forward, HeaderPolicy, PathRewrite, PresentLines, Redirect, Retries, Rewrite,
    RouteEntry, RoutePolicy, RouteTable, RuleId, Timeouts,
};
use heddle_policy_compiler::{Compiled, NamespacedName};

/// The tables in which an object has a say.
pub fn tables(compiled: &Compiled) -> BTreeMap<String, Vec<String>> {
    let services = compiled.services();
    let tables = services.flat_map(|service: &NamespacedName| compiled.route_tables(service));
    let decided = |(_, table): &(Option<&Arc<str>>, &RouteTable)| {
        let mut entries = table.hosts.iter().flat_map(|host| &host.entries);
        entries.any(|entry| {
            entry.rule.id != RuleId::WholeService || entry.rule.policy != RoutePolicy::default()
        })
    };
    let lines = |(callers, table): (Option<&Arc<str>>, &RouteTable)| {
        let entries = table.hosts.iter().flat_map(|host| &host.entries);
        let lines = entries.map(|entry| line(table, entry)).collect();
        let callers = callers.map_or_else(String::new, |of| format!(" for callers of {of}"));
        (format!("{}{callers}", table.name), lines)
    };
    tables.filter(decided).map(lines).collect()
}

fn line(table: &RouteTable, entry: &RouteEntry) -> String {
    let rule = &entry.rule;
    let mut text = format!("{} -> {}:", entry.matcher, rule.id);
    text += &match &rule.action {
        Action::Forward(forward) => forwarded(table, forward),
        Action::Redirect(to) => redirect(to),
        Action::Respond { status, body } => format!(" status {status} {body:?};"),
    };
    let changes = headers(&rule.headers);
    if !changes.is_empty() {
        write!(text, "{changes};").unwrap();
    }
    text += &policy(&rule.policy);
    text.truncate(text.trim_end_matches(';').len());
    text
}

fn forwarded(table: &RouteTable, forward: &Forward) -> String {
    let Forward {
        backends,
        rewrite: Rewrite { host, path },
        mirrors,
        sticky,
        session,
        // The resources have it.
        without_backend: _,
    } = forward;
    let mut text = String::new();
    for weighted in backends {
        let upstream = table.upstream(&weighted.backend);
        let upstream = upstream.map_or("none", |upstream| &upstream.name);
        let (weight, backend) = (weighted.weight, &weighted.backend);
        let held = match weight.is_held() {
            true => format!(" (declared {})", weight.declared),
            false => String::new(),
        };
        let weight = weight.in_force;
        write!(text, " {weight}{held} to {backend} by {upstream}").unwrap();
        text += &headers(&weighted.headers);
        text.push(';');
    }
    for mirror in mirrors {
        let upstream = table.mirror(&mirror.backend);
        let upstream = upstream.map_or("none", |upstream| &upstream.name);
        let (share, backend) = (mirror.share, &mirror.backend);
        write!(text, " copies {share} to {backend} by {upstream};").unwrap();
    }
    if let Some(sticky) = sticky {
        write!(text, " sticky by {sticky};").unwrap();
    }
    if let Some(session) = session {
        write!(text, " sessions by {session};").unwrap();
    }
    if let Some(host) = host {
        write!(text, " host {host};").unwrap();
    }
    if let Some(path) = path {
        write!(text, " {};", rewrite(path)).unwrap();
    }
    text
}

fn redirect(to: &Redirect) -> String {
    let scheme = to.scheme.map_or("", |scheme| scheme.as_str());
    let host = to.host.as_deref().unwrap_or_default();
    let port = to.port.map_or(String::new(), |port| format!(":{port}"));
    let path = to.path.as_ref().map_or(String::new(), rewrite);
    let code = to.status.code();
    format!(" redirect {code} {scheme}://{host}{port} {path};")
}

fn policy(of: &RoutePolicy) -> String {
    let RoutePolicy {
        timeouts: Timeouts {
            request,
            per_try,
            idle,
        },
        retries: of_retries,
        faults,
        cors,
    } = of;
    let mut text = String::new();
    for (name, timeout) in [("request", request), ("per try", per_try), ("idle", idle)] {
        if let Some(timeout) = timeout {
            write!(text, " {name} timeout {timeout:?};").unwrap();
        }
    }
    if *of_retries != Retries::default() {
        write!(text, " {};", retries(of_retries)).unwrap();
    }
    if let Some(cors) = cors {
        write!(text, " cors for {cors}; for {} s;", cors.max_age).unwrap();
    }
    for fault in faults {
        write!(text, " fault for {}:", fault.matcher).unwrap();
        if let Some(delay) = &fault.delay {
            write!(text, " {} % wait {:?};", delay.percent, delay.time).unwrap();
        }
        if let Some(abort) = &fault.abort {
            write!(text, " {} % get {:?};", abort.percent, abort.answer).unwrap();
        }
    }
    text
}

fn rewrite(path: &PathRewrite) -> String {
    match path {
        PathRewrite::Full(path) => format!("path {path}"),
        PathRewrite::Prefix(prefix) => format!("prefix {prefix}/"),
    }
}

fn headers(of: &HeaderPolicy) -> String {
    let mut text = String::new();
    for (direction, changes) in [("request", &of.request), ("response", &of.response)] {
        for (name, change) in &changes.0 {
            match &change.present {
                PresentLines::Keep => {}
                PresentLines::Remove => write!(text, " {direction} -{name}").unwrap(),
                PresentLines::Set(value) => write!(text, " {direction} {name}={value:?}").unwrap(),
            }
            for value in &change.add {
                write!(text, " {direction} {name}+={value:?}").unwrap();
            }
        }
    }
    text
}

fn retries(of: &Retries) -> String {
    let mut text = format!("{} retries", of.attempts);
    for failure in &of.failures {
        match failure {
            Failure::Status(code) => write!(text, ", {code}").unwrap(),
            failure => write!(text, ", {failure:?}").unwrap(),
        }
    }
    if of.resends() {
        write!(text, " of requests: {:?}", of.resend).unwrap();
    }
    if let Some(backoff) = of.backoff {
        write!(text, " after {:?} to {:?}", backoff.base, backoff.max).unwrap();
    }
    text
}
