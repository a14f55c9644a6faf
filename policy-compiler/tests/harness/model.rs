//! The traffic model as goldens print it: each entry of a table in a line, in the order in which they are tried.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use heddle_policy_compiler::traffic::{
    Action, Edits, Failure, PathRewrite, PresentLines, Retries, Rewrite, RouteEntry, RoutePolicy,
    RouteTable, RuleId,
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
    let mut text = format!("{} -> {}:", entry.matcher, entry.rule.id);
    match &entry.rule.action {
        Action::Forward(forward) => {
            for weighted in &forward.backends {
                let upstream = table.upstream(&weighted.backend);
                let upstream = upstream.map_or("none", |upstream| &upstream.name);
                let (weight, backend) = (weighted.weight, &weighted.backend);
                write!(text, " {weight} to {backend} by {upstream}").unwrap();
                text += &edits(&weighted.edits);
                text.push(';');
            }
            for mirror in &forward.mirrors {
                let upstream = table.mirror(&mirror.backend);
                let upstream = upstream.map_or("none", |upstream| &upstream.name);
                let (share, backend) = (mirror.share, &mirror.backend);
                write!(text, " copies {share} to {backend} by {upstream};").unwrap();
            }
            if let Some(sticky) = &forward.sticky {
                write!(text, " sticky by {sticky};").unwrap();
            }
            if let Some(session) = &forward.session {
                write!(text, " sessions by {session};").unwrap();
            }
            let Rewrite { host, path } = &forward.rewrite;
            text += &host
                .iter()
                .map(|host| format!(" host {host};"))
                .collect::<String>();
            text += &path
                .iter()
                .map(|path| format!(" {};", rewrite(path)))
                .collect::<String>();
        }
        Action::Redirect(redirect) => {
            let scheme = redirect.scheme.map_or("", |scheme| scheme.as_str());
            let host = redirect.host.as_deref().unwrap_or_default();
            let port = redirect
                .port
                .map_or(String::new(), |port| format!(":{port}"));
            let path = redirect.path.as_ref().map_or(String::new(), rewrite);
            let code = redirect.status.code();
            write!(text, " redirect {code} {scheme}://{host}{port} {path};").unwrap();
        }
        Action::Respond { status, body } => write!(text, " status {status} {body:?};").unwrap(),
    }
    let changes = edits(&entry.rule.edits);
    if !changes.is_empty() {
        write!(text, "{changes};").unwrap();
    }
    let timeouts = &entry.rule.policy.timeouts;
    for (name, timeout) in [
        ("request", timeouts.request),
        ("per try", timeouts.per_try),
        ("idle", timeouts.idle),
    ] {
        if let Some(timeout) = timeout {
            write!(text, " {name} timeout {timeout:?};").unwrap();
        }
    }
    if entry.rule.policy.retries != Retries::default() {
        write!(text, " {};", retries(&entry.rule.policy.retries)).unwrap();
    }
    if let Some(cors) = &entry.rule.policy.cors {
        write!(text, " cors for {cors}; for {} s;", cors.max_age).unwrap();
    }
    for fault in &entry.rule.policy.faults {
        write!(text, " fault for {}:", fault.matcher).unwrap();
        if let Some(delay) = &fault.delay {
            write!(text, " {} % wait {:?};", delay.percent, delay.time).unwrap();
        }
        if let Some(abort) = &fault.abort {
            write!(text, " {} % get {:?};", abort.percent, abort.answer).unwrap();
        }
    }
    text.truncate(text.trim_end_matches(';').len());
    text
}

fn rewrite(path: &PathRewrite) -> String {
    match path {
        PathRewrite::Full(path) => format!("path {path}"),
        PathRewrite::Prefix(prefix) => format!("prefix {prefix}/"),
    }
}

fn edits(edits: &Edits) -> String {
    let mut text = String::new();
    for (direction, changes) in [("request", &edits.request), ("response", &edits.response)] {
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
