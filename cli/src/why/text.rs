//! An explanation for people: a line for each step, in columns.

use heddle_acceptor::clean;
use heddle_policy_compiler::authz::Decision;
use heddle_policy_compiler::traffic::{
    Failure, Fault, FaultAnswer, GrpcCode, Overload, RateLimit, Timeouts,
};
use heddle_policy_compiler::world::Protocol;
use heddle_policy_compiler::{
    Call, CallRetries, CalledDestination, DecidingRule, ExplainedBackend, Explanation, Outcome,
    OutsideHost, ServerDecision, Servers, Stopped,
};

use super::bounds::{bounds, limit, overload, time};
use super::{browsers, outside, rule};

/// So many servers are named.
const NAMED: usize = 3;
/// The longest line, in characters.
const MAX_LINE: usize = 2000;

const GREEN: &str = "32";
const RED: &str = "31";
const YELLOW: &str = "33";

/// A line: its title and its text, perhaps in a color.
struct Line {
    title: &'static str,
    text: String,
    color: Option<&'static str>,
}

/// Returns the lines of an explanation.
pub fn render(call: &Call, explanation: &Explanation, colors: bool) -> String {
    let lines = lines(call, explanation);
    let width = lines.iter().map(|line| line.title.len()).max().unwrap_or(0);
    let printed = lines.iter().map(|line| {
        let text = clean(&line.text, MAX_LINE);
        let text = match line.color.filter(|_| colors) {
            Some(color) => format!("\u{1b}[{color}m{text}\u{1b}[0m"),
            None => text,
        };
        format!("{:width$}  {text}", line.title)
    });
    printed.collect::<Vec<_>>().join("\n")
}

/// The changes of headers, the answers to browsers, and the parts of requests by which users keep their backend, and
/// sessions their endpoint.
pub fn changes(rule: &DecidingRule) -> Vec<(&'static str, String)> {
    let headers = (!rule.headers.is_empty()).then(|| ("headers", rule.headers.to_string()));
    let cors = rule.policy.cors.iter();
    let sticky = rule.sticky.iter();
    let session = rule.session.iter();
    headers
        .into_iter()
        .chain(cors.map(|of| ("cors", of.to_string())))
        .chain(sticky.map(|of| ("sticky", format!("by {of}"))))
        .chain(session.map(|of| ("session", format!("by {of}"))))
        .collect()
}

fn lines(call: &Call, explanation: &Explanation) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut say = |title, text: String| {
        lines.push(Line {
            title,
            text,
            color: None,
        });
    };
    say("from", from(explanation));
    say("to", to(explanation));
    if let Some(listener) = &explanation.listener {
        say("listener", listener.to_string());
    }
    if let Some(rule) = &explanation.rule {
        say("rule", rule::line(rule));
        let timeouts = timeouts(&rule.policy.timeouts);
        if !timeouts.is_empty() {
            say("timeouts", timeouts);
        }
        if let Some(of) = &rule.retries {
            say("retries", retries(of, &call.method));
        }
        for fault in &rule.faults {
            say("fault", fault_line(fault));
        }
        let policies = rule.objects.iter();
        let policies = policies.filter(|object| rule.id.object() != Some(object));
        let policies: Vec<String> = policies.map(ToString::to_string).collect();
        if !policies.is_empty() {
            say("policies", policies.join(", "));
        }
        if rule.met.len() > 1 {
            say("order", rule::precedence(&rule.met));
        }
        for (title, text) in changes(rule) {
            say(title, text);
        }
        for mirror in &rule.mirrors {
            say("mirror", format!("{} to {}", mirror.share, mirror.backend));
        }
    }
    let sum: u64 = explanation
        .backends
        .iter()
        .map(|of| u64::from(of.weight))
        .sum();
    for backend in &explanation.backends {
        lines.push(backend_line(backend, sum));
        lines.extend(headers(backend).map(|text| of_backend("  headers", text)));
        lines.extend(bounds(backend).map(|text| of_backend("  bounds", text)));
        for servers in &backend.servers {
            lines.push(server_line(explanation, servers));
            lines.extend(servers.limits.iter().map(limit_line));
            lines.extend(servers.overload.iter().map(overload_line));
        }
    }
    lines.push(result(call, explanation));
    lines
}

fn from(explanation: &Explanation) -> String {
    let Explanation {
        workload,
        identity,
        source,
        ..
    } = explanation;
    let identity = match identity {
        Some(identity) => format!("as {identity}"),
        None => "without a sidecar, so in plain text and without an identity".to_owned(),
    };
    let source = source.map_or_else(
        || ", from an unknown address: ipBlocks match as for 0.0.0.0".to_owned(),
        |source| format!(", from {source}"),
    );
    format!("{workload} {identity}{source}")
}

fn to(explanation: &Explanation) -> String {
    let protocol = |protocol: &Protocol| match protocol {
        Protocol::Http => "HTTP",
        Protocol::Tcp => "TCP: bytes, without rules for requests",
        Protocol::Detect => "no declared protocol: bytes, without rules for requests",
    };
    match &explanation.to {
        CalledDestination::Service(name, port, of) => {
            format!("service {name} port {port}, {}", protocol(of))
        }
        CalledDestination::Pods(name, port, of) => format!(
            "{name} port {port}, {}; called by the address of a pod, so without rules and timeouts",
            protocol(of)
        ),
        CalledDestination::Unknown(ip, port) => {
            format!("{ip} port {port}, which the mesh does not know")
        }
        CalledDestination::External(of) => outside::named(of),
        CalledDestination::Named(name, port, by) => outside::unnamed(name, *port, by),
    }
}

/// Timeouts in one line; empty without any.
pub fn timeouts(timeouts: &Timeouts) -> String {
    let Timeouts {
        request,
        per_try,
        idle,
    } = timeouts;
    let named = [("request", request), ("attempt", per_try), ("idle", idle)];
    let named = named.iter().filter_map(|(name, of)| Some((name, (**of)?)));
    let named: Vec<String> = named
        .map(|(name, of)| format!("{name} {}", time(of)))
        .collect();
    named.join(", ")
}

/// A fault in one line.
pub fn fault_line(fault: &Fault) -> String {
    let delay = fault.delay.iter();
    let delay = delay.map(|of| format!("{} % wait {}", of.percent, time(of.time)));
    let abort = fault.abort.iter().map(|of| {
        let answer = match of.answer {
            FaultAnswer::Status(status) => format!("status {status}"),
            FaultAnswer::Grpc(code) => format!("gRPC code {code}"),
        };
        format!("{} % are answered with {answer}", of.percent)
    });
    let parts: Vec<String> = delay.chain(abort).collect();
    parts.join(", then ")
}

/// `2, if no application has the request, or after status 503`.
fn retries(of: &CallRetries, method: &str) -> String {
    let withheld = match of.withheld {
        true => format!("; not after other failures, for {method} is not idempotent"),
        false => String::new(),
    };
    resending(of, &withheld)
}

/// When requests are sent again, in one line. `limit` follows the failures.
pub fn resending(of: &CallRetries, limit: &str) -> String {
    if of.attempts == 0 {
        return "none".to_owned();
    }
    let failures: Vec<String> = of.failures.iter().map(failure).collect();
    let after = match failures.is_empty() {
        true => String::new(),
        false => format!(", or after {}", failures.join(", ")),
    };
    let wait = of.backoff.map_or_else(String::new, |of| {
        format!("; wait up to {}, then {}", time(of.base), time(of.max))
    });
    format!(
        "{} at most, if no application has the request{after}{limit}{wait}",
        of.attempts
    )
}

/// A failure as people name it.
pub fn failure(of: &Failure) -> String {
    match of {
        Failure::Reset => "no response".to_owned(),
        Failure::GatewayError => "no response or status 502 to 504".to_owned(),
        Failure::ServerError => "no response or status 500 to 599".to_owned(),
        Failure::Status(status) => format!("status {status}"),
        Failure::Grpc(code) => {
            let code = match code {
                GrpcCode::Cancelled => "cancelled",
                GrpcCode::DeadlineExceeded => "deadline-exceeded",
                GrpcCode::ResourceExhausted => "resource-exhausted",
                GrpcCode::Internal => "internal",
                GrpcCode::Unavailable => "unavailable",
            };
            format!("gRPC {code}")
        }
    }
}

fn backend_line(backend: &ExplainedBackend, sum: u64) -> Line {
    let share = share(backend.weight, sum);
    let none = backend.servers.is_empty();
    let state = if none { ", no endpoint takes it" } else { "" };
    Line {
        title: "backend",
        text: format!("{share} {}{state}", backend.backend),
        color: none.then_some(YELLOW),
    }
}

fn headers(backend: &ExplainedBackend) -> Option<String> {
    (!backend.headers.is_empty()).then(|| backend.headers.to_string())
}

const fn of_backend(title: &'static str, text: String) -> Line {
    Line {
        title,
        text,
        color: None,
    }
}

/// `5 %`, or `0.05 %`.
pub fn share(weight: u32, sum: u64) -> String {
    let hundredths = (u64::from(weight) * 10_000).checked_div(sum).unwrap_or(0);
    match hundredths % 100 {
        0 => format!("{} %", hundredths / 100),
        rest => format!("{}.{rest:02} %", hundredths / 100),
    }
}

fn server_line(explanation: &Explanation, servers: &Servers) -> Line {
    let color = if servers.decision.passes() {
        GREEN
    } else {
        RED
    };
    Line {
        title: "  servers",
        text: self::servers(explanation, servers),
        color: Some(color),
    }
}

/// `5 requests in 1s, 10 at once, for each caller`, or `5 requests in 1s over all pods, for each caller, counted as shop/api/0`.
fn limit_line(of: &RateLimit) -> Line {
    Line {
        title: "  limit",
        text: limit(of),
        color: None,
    }
}

fn overload_line(of: &Overload) -> Line {
    Line {
        title: "  overload",
        text: overload(of),
        color: None,
    }
}

/// Servers and their decision in one line.
pub fn servers(explanation: &Explanation, servers: &Servers) -> String {
    let mut names: Vec<&str> = servers.names.iter().map(String::as_str).collect();
    let more = names.len().saturating_sub(NAMED);
    names.truncate(NAMED);
    let more = if more > 0 {
        format!(" and {more} more")
    } else {
        String::new()
    };
    let by = match (servers.mtls, &explanation.identity) {
        (true, _) => "mTLS",
        (false, _) => "plain text",
    };
    let decision = decision(servers);
    let audit = servers.audit.as_ref();
    let audit = audit.map(|of| format!(" (in audit: {})", by_policies(of, servers)));
    format!(
        "{}{more}, port {} by {by}: {decision}{}",
        names.join(", "),
        servers.port,
        audit.unwrap_or_default()
    )
}

fn decision(servers: &Servers) -> String {
    match &servers.decision {
        ServerDecision::ByPolicies(decision) => by_policies(decision, servers),
        ServerDecision::PlainTextRefused => "refused, for mTLS is demanded".to_owned(),
        ServerDecision::NoSidecar => "passes, for no sidecar decides there".to_owned(),
        ServerDecision::NotCaptured => {
            "passes, for the port is left out of capture and no sidecar decides".to_owned()
        }
        ServerDecision::NotDeclared => {
            "refused by the caller's sidecar, for the caller has not declared it".to_owned()
        }
    }
}

fn by_policies(decision: &Decision, servers: &Servers) -> String {
    match decision {
        Decision::AllowedBy(rule) => format!("allowed by {}", policy(rule)),
        Decision::AllowedByDefault => "allowed, for no Allow rule holds there".to_owned(),
        Decision::DeniedBy(rule) => format!("denied by {}", policy(rule)),
        Decision::NoAllowMatched if servers.allow_rules.is_empty() => {
            "denied by default, for no Allow rule holds there".to_owned()
        }
        Decision::NoAllowMatched => {
            let rules = servers.allow_rules.iter();
            let rules: Vec<String> = rules.map(|rule| policy(rule)).collect();
            format!("denied, for no Allow rule matches: {}", rules.join("; "))
        }
    }
}

/// `namespace/policy/rule` as people name it.
pub fn policy(rule: &str) -> String {
    let parts = rule.rsplit_once('/');
    match parts.filter(|(_, index)| index.bytes().all(|b| b.is_ascii_digit())) {
        Some((policy, index)) => format!("AuthPolicy {policy}, rule {index}"),
        None => rule.to_owned(),
    }
}

fn result(call: &Call, explanation: &Explanation) -> Line {
    let request = match is_http(explanation) {
        true => format!("{} {}", call.method, call.path),
        false => "the connection".to_owned(),
    };
    let (text, color) = match (&explanation.stopped, explanation.outcome()) {
        (Some(stopped), _) => (stop(stopped), RED),
        (None, Outcome::Passes) => (format!("{request} reaches the application"), GREEN),
        (None, Outcome::Outside) => (outside::leaves(&request, &explanation.to), YELLOW),
        (None, Outcome::Depends) => ("depends on the backend and server".to_owned(), YELLOW),
        (None, Outcome::Denied | Outcome::Stopped) => (denied(explanation), RED),
        (None, Outcome::NoEndpoint) => (
            "no endpoint: requests get status 503, bytes are cut".to_owned(),
            RED,
        ),
    };
    Line {
        title: "result",
        text,
        color: Some(color),
    }
}

fn denied(explanation: &Explanation) -> String {
    let mut servers = explanation.backends.iter().flat_map(|of| &of.servers);
    let plain = servers.any(|of| of.decision == ServerDecision::PlainTextRefused);
    match (plain, is_http(explanation)) {
        (true, _) => "refused: the connection is closed".to_owned(),
        (false, true) => "denied with status 403".to_owned(),
        (false, false) => "denied: the connection is closed".to_owned(),
    }
}

fn is_http(explanation: &Explanation) -> bool {
    matches!(
        &explanation.to,
        CalledDestination::Service(_, _, Protocol::Http)
            | CalledDestination::Pods(_, _, Protocol::Http)
            | CalledDestination::External(OutsideHost { tls: false, .. })
    )
}

/// The answer of the caller's sidecar as people name it.
pub fn stop(stopped: &Stopped) -> String {
    match stopped {
        Stopped::NoRule => {
            "status 404 of the caller's sidecar: no rule takes the request".to_owned()
        }
        Stopped::NoServerName => {
            "refused by the caller's sidecar: no rule takes the server name of the connection"
                .to_owned()
        }
        Stopped::Answered(status) => {
            format!("status {status} of the caller's sidecar, by the rule")
        }
        Stopped::Redirected(status, location) => {
            format!(
                "status {status} of the caller's sidecar, by the rule, with location {location}"
            )
        }
        Stopped::Preflight(allowed) => browsers::preflight(*allowed),
        Stopped::DeniedByAll => {
            "denied by the caller's sidecar: every server denies every request of this caller"
                .to_owned()
        }
        Stopped::NotDeclared => {
            "refused by the caller's sidecar: the caller has not declared the destination"
                .to_owned()
        }
        Stopped::UnknownRefused => {
            "refused by the caller's sidecar: the Mesh has outbound: Deny".to_owned()
        }
        Stopped::NotHttp => {
            "status 400 of the caller's sidecar: the port carries HTTP, and TLS is not HTTP"
                .to_owned()
        }
        Stopped::Connect => "status 404 of the caller's sidecar: no route takes CONNECT".to_owned(),
        Stopped::UnknownMethod => {
            "status 400 of the caller's sidecar: over HTTP/1 it reads only methods of RFCs"
                .to_owned()
        }
    }
}
