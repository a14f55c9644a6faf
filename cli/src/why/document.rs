//! An explanation for programs.

use heddle_policy_compiler::authz::Decision;
use heddle_policy_compiler::traffic::{
    Fault, FaultAnswer, Mirror, Overload, RateLimit, RoutePolicy,
};
use heddle_policy_compiler::{
    CallRetries, CalledDestination, DecidingRule, ExplainedBackend, Explanation, MetPolicy,
    NamedBy, Outcome, ServerDecision, Servers, Stopped,
};
use serde_json::{Value, json};

use super::text;

/// Returns the explanation as one document.
pub fn of(explanation: &Explanation) -> Value {
    let Explanation {
        pod,
        workload,
        identity,
        source,
        to,
        listener,
        rule,
        backends,
        stopped,
    } = explanation;
    json!({
        "from": {
            "workload": workload.to_string(), "pod": pod.to_string(),
            "identity": identity.as_ref().map(ToString::to_string), "source": source,
        },
        "to": destination(to),
        "listener": listener.as_deref(),
        "rule": rule.as_ref().map(deciding),
        "backends": backends.iter().map(backend).collect::<Vec<_>>(),
        "stopped": stopped.as_ref().map(stop),
        "outcome": outcome(explanation.outcome()),
    })
}

fn destination(to: &CalledDestination) -> Value {
    match to {
        CalledDestination::Service(name, port, protocol) => {
            json!({"kind": "Service", "name": name.to_string(), "port": port.get(), "protocol": protocol.as_str()})
        }
        CalledDestination::Pods(name, port, protocol) => {
            json!({"kind": "Pods", "name": name.to_string(), "port": port.get(), "protocol": protocol.as_str()})
        }
        CalledDestination::Unknown(ip, port) => {
            json!({"kind": "Unknown", "name": ip, "port": port})
        }
        CalledDestination::External(of) => json!({
            "kind": "External", "name": of.name, "port": of.port.get(), "host": &*of.declared,
            "object": of.object.to_string(), "protocol": protocol(of.tls),
            "tlsPort": of.dialed_by_tls.map(|port| port.get()),
        }),
        CalledDestination::Named(name, port, by) => json!({
            "kind": "Outside", "name": name, "port": port,
            "namedBy": by.iter().map(named_by).collect::<Vec<_>>(),
        }),
    }
}

fn named_by(of: &NamedBy) -> Value {
    json!({
        "object": of.object.to_string(), "port": of.port.get(), "protocol": protocol(of.tls),
        "visible": of.visible,
    })
}

const fn protocol(tls: bool) -> &'static str {
    if tls { "TLS" } else { "HTTP" }
}

/// Returns a rule, as it is in force, as one document.
pub fn deciding(rule: &DecidingRule) -> Value {
    // The faults and retries of the policy are in the rule as far as they concern the request.
    let RoutePolicy {
        timeouts,
        cors,
        faults: _,
        retries: _,
    } = &rule.policy;
    let seconds = |time: Option<std::time::Duration>| time.map(|time| time.as_secs_f64());
    json!({
        "id": rule.id.to_string(),
        "match": rule.matcher.to_string(),
        "timeoutSeconds": {
            "request": seconds(timeouts.request), "perTry": seconds(timeouts.per_try), "idle": seconds(timeouts.idle),
        },
        "faults": rule.faults.iter().map(fault).collect::<Vec<_>>(),
        "retries": rule.retries.as_ref().map(retries),
        "headers": rule.headers.to_string(),
        "cors": cors.as_ref().map(ToString::to_string),
        "sticky": rule.sticky.as_ref().map(ToString::to_string),
        "session": rule.session.as_ref().map(ToString::to_string),
        "mirrors": rule.mirrors.iter().map(mirror).collect::<Vec<_>>(),
        "objects": rule.objects.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "name": rule.id.rule_name().map(|name| &**name),
        "precedence": rule.met.iter().map(met).collect::<Vec<_>>(),
    })
}

fn met(of: &MetPolicy) -> Value {
    json!({"policy": of.object.to_string(), "target": of.target.as_str(), "groups": of.groups})
}

fn mirror(of: &Mirror) -> Value {
    json!({"backend": of.backend.to_string(), "percent": f64::from(of.share.get()) / 10_000.0})
}

fn fault(of: &Fault) -> Value {
    let delay = of.delay.as_ref();
    let abort = of.abort.as_ref().map(|abort| match abort.answer {
        FaultAnswer::Status(status) => json!({"status": status, "percent": abort.percent}),
        FaultAnswer::Grpc(code) => json!({"grpcStatus": code, "percent": abort.percent}),
    });
    json!({
        "match": of.matcher.to_string(),
        "delay": delay.map(|of| json!({"seconds": of.time.as_secs_f64(), "percent": of.percent})),
        "abort": abort,
    })
}

fn retries(of: &CallRetries) -> Value {
    let failures = of.failures.iter().map(text::failure);
    let seconds = |time: std::time::Duration| time.as_secs_f64();
    json!({
        "attempts": of.attempts, "failures": failures.collect::<Vec<_>>(), "withheld": of.withheld,
        "backoffSeconds": of.backoff.map(|of| json!({"base": seconds(of.base), "max": seconds(of.max)})),
    })
}

fn backend(of: &ExplainedBackend) -> Value {
    json!({
        "backend": of.backend.to_string(), "weight": of.weight, "headers": of.headers.to_string(),
        "retryBudget": of.retry_budget.map(|of| json!({"percent": of.percent, "minimum": of.minimum})),
        "policies": of.policies.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "servers": of.servers.iter().map(servers).collect::<Vec<_>>(),
    })
}

fn servers(of: &Servers) -> Value {
    let (decision, rule) = match &of.decision {
        ServerDecision::ByPolicies(decision) => by_policies(decision),
        ServerDecision::PlainTextRefused => ("PlainTextRefused", None),
        ServerDecision::NoSidecar => ("NoSidecar", None),
        ServerDecision::NotCaptured => ("NotCaptured", None),
        ServerDecision::NotDeclared => ("NotDeclared", None),
    };
    let audit = of.audit.as_ref().map(|audit| {
        let (decision, rule) = by_policies(audit);
        json!({"decision": decision, "rule": rule})
    });
    json!({
        "names": of.names, "port": of.port.get(), "mtls": of.mtls, "passes": of.decision.passes(),
        "decision": decision, "rule": rule, "audit": audit,
        "rateLimits": of.limits.iter().map(limit).collect::<Vec<_>>(),
        "overload": of.overload.iter().map(overload).collect::<Vec<_>>(),
        "allowRules": of.allow_rules.iter().map(|rule| &**rule).collect::<Vec<_>>(),
    })
}

fn limit(of: &RateLimit) -> Value {
    json!({
        "requests": of.requests, "periodSeconds": of.period.as_secs_f64(), "burst": of.burst,
        "perCaller": of.per_caller, "shared": of.shared.as_deref(),
    })
}

fn overload(of: &Overload) -> Value {
    let concurrency = of.concurrency.as_ref().map(|of| {
        let latency = of.latency.map(|of| of.as_secs_f64());
        json!({"latencySeconds": latency, "min": of.min, "max": of.max})
    });
    let admission = of.admission.as_ref().map(|of| {
        json!({
            "successPercent": of.success_percent, "windowSeconds": of.window.as_secs_f64(),
            "minRequestsPerSecond": of.min_rate, "maxRefusedPercent": of.max_refused_percent,
        })
    });
    json!({"concurrency": concurrency, "admission": admission})
}

fn by_policies(decision: &Decision) -> (&'static str, Option<&str>) {
    match decision {
        Decision::AllowedBy(rule) => ("AllowedBy", Some(rule)),
        Decision::AllowedByDefault => ("AllowedByDefault", None),
        Decision::DeniedBy(rule) => ("DeniedBy", Some(rule)),
        Decision::NoAllowMatched => ("NoAllowMatched", None),
    }
}

fn stop(stopped: &Stopped) -> Value {
    let (reason, status, location) = match stopped {
        Stopped::NoRule => ("NoRule", Some(404), None),
        Stopped::NoServerName => ("NoServerName", None, None),
        Stopped::Answered(status) => ("Answered", Some(*status), None),
        Stopped::Redirected(status, location) => ("Redirected", Some(*status), Some(location)),
        Stopped::Preflight(_) => ("Preflight", Some(200), None),
        Stopped::DeniedByAll => ("DeniedByAll", None, None),
        Stopped::NotDeclared => ("NotDeclared", None, None),
        Stopped::UnknownRefused => ("UnknownRefused", None, None),
        Stopped::NotHttp => ("NotHttp", Some(400), None),
        Stopped::Connect => ("Connect", Some(404), None),
        Stopped::UnknownMethod => ("UnknownMethod", Some(400), None),
    };
    json!({"reason": reason, "status": status, "location": location})
}

const fn outcome(of: Outcome) -> &'static str {
    match of {
        Outcome::Passes => "Passes",
        Outcome::Depends => "Depends",
        Outcome::Denied => "Denied",
        Outcome::Stopped => "Stopped",
        Outcome::NoEndpoint => "NoEndpoint",
        Outcome::Outside => "Outside",
    }
}
