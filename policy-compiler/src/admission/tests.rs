use heddle_crds::Kind;
use heddle_xds_types::tap::{SECRET_ENDS, SECRET_NAMES, SECRET_WORDS, is_secret_name};
use serde_json::{Value, json};

use super::*;

fn policy(spec: Value) -> Vec<Violation> {
    violations(
        Kind::AuthPolicy,
        &json!({"metadata": {"name": "p"}, "spec": spec}),
    )
}

fn one(found: Vec<Violation>, field: &str, reason: &str) {
    assert_eq!(found.len(), 1, "{field}: {found:#?}");
    assert_eq!(found[0].field, field, "{found:#?}");
    let text = format!("{}; {}", found[0].reason, found[0].fix);
    assert!(text.contains(reason), "{found:#?}");
}

fn allow(to: Value) -> Value {
    json!({"rules": [{"to": to}]})
}

#[test]
fn objects_that_the_api_server_takes_have_no_violation() {
    for spec in [
        json!({"rules": [{"action": "Deny"}]}),
        json!({"mtls": {"mode": "Strict"}}),
        json!({"selector": {"matchLabels": {"app": "cart"}}, "rules": [{"from": {"ipBlocks": ["10.0.0.0/8"]}, "to": {"ports": [80], "methods": ["GET"], "paths": ["/a/*"], "headers": [{"name": "x", "present": true}]}}]}),
    ] {
        assert_eq!(policy(spec.clone()), [], "{spec}");
    }
    let mesh = json!({"metadata": {"name": "default"}, "spec": {"certificates": {"lifetime": "24h"}, "proxy": {"resources": {"limits": {"cpu": 1}}}, "trustDomain": null}});
    assert_eq!(violations(Kind::Mesh, &mesh), []);
    assert_eq!(
        violations(
            Kind::Mesh,
            &json!({"metadata": {"name": "default"}, "spec": {}})
        ),
        []
    );
}

#[test]
fn structural_faults_are_named_with_their_field() {
    let ports: Vec<u32> = (1..=33).collect();
    let rules: Vec<Value> = (0..65)
        .map(|n| json!({"from": {"namespaces": [format!("n{n}")]}}))
        .collect();
    one(
        policy(json!({"rules": rules})),
        "spec.rules",
        "65 items are too many; use at most 64",
    );
    one(
        policy(allow(json!({"methods": ["delete"]}))),
        "spec.rules[0].to.methods[0]",
        "does not match",
    );
    one(
        policy(allow(json!({"ports": ports}))),
        "spec.rules[0].to.ports",
        "33 items",
    );
    one(
        policy(allow(json!({"ports": [0]}))),
        "spec.rules[0].to.ports[0]",
        "0 is too small; use at least 1",
    );
    one(
        policy(allow(json!({"ports": ["80"]}))),
        "spec.rules[0].to.ports[0]",
        "string is not integer",
    );
    one(
        policy(allow(json!({"ports": [80, 80]}))),
        "spec.rules[0].to.ports[1]",
        "twice",
    );
    one(
        policy(allow(json!({"path": ["/"], "ports": [1]}))),
        "spec.rules[0].to.path",
        "no such field",
    );
    one(
        policy(allow(json!({"methods": []}))),
        "spec.rules[0].to.methods",
        "0 items are too few; use at least 1",
    );
    one(
        policy(json!({"rules": [{"action": "deny"}]})),
        "spec.rules[0].action",
        "use one of",
    );
    one(
        policy(json!({"rules": [null]})),
        "spec.rules[0]",
        "null is not object",
    );
    one(policy(json!([])), "spec", "array is not object");
    let mut both = vec![json!({"to": {"methods": ["delete"]}})];
    both.extend((0..64).map(|n| json!({"from": {"namespaces": [format!("n{n}")]}})));
    let found = policy(json!({"rules": both}));
    let fields: Vec<&str> = found.iter().map(|v| v.field.as_str()).collect();
    assert_eq!(fields, ["spec.rules", "spec.rules[0].to.methods[0]"]);
    let long = json!({"metadata": {"name": "P_1"}, "spec": {"rules": [{"action": "Deny"}]}});
    one(
        violations(Kind::AuthPolicy, &long),
        "metadata.name",
        "is not a name",
    );
    let split = json!({"metadata": {"name": "s"}, "spec": {"service": "web"}});
    one(
        violations(Kind::TrafficSplit, &split),
        "spec.backends",
        "required",
    );
    let many = allow(json!({"paths": vec!["x"; 50]}));
    assert_eq!(policy(many).len(), MAX_VIOLATIONS);
}

/// Server-side apply makes a null of an empty spec.
#[test]
fn an_object_may_leave_out_a_spec_that_may_be_empty() {
    for kind in Kind::ALL {
        let named = json!({"metadata": {"name": "default"}});
        let mut empty = named.clone();
        empty["spec"] = json!({});
        let may_be_empty = violations(*kind, &empty).is_empty();
        assert_eq!(
            violations(*kind, &named).is_empty(),
            may_be_empty,
            "{kind:?}"
        );
        assert_eq!(may_be_empty, *kind == Kind::Mesh, "{kind:?}");
    }
}

/// The rule of the definition and the names that a tap redacts are one: of each entry of the lists, alone and as a part of a name.
#[test]
fn a_tag_of_spans_takes_no_header_that_a_tap_redacts() {
    let parts = [&SECRET_WORDS[..], &SECRET_NAMES, &SECRET_ENDS].concat();
    let names = parts.into_iter().flat_map(|part| {
        let part = part.trim_start_matches(['-', '_']);
        ["@", "x-@", "x_@", "x@", "@-x", "x-@-x", "x@x"].map(|name| name.replace('@', part))
    });
    let others = "x-tenant x-request-id accept author keyword x-code-name auth-tier sidecar";
    let others = others.split_whitespace().map(str::to_owned);
    let names: Vec<String> = names.chain(others).collect();
    let secrets = names.iter().filter(|name| is_secret_name(name)).count();
    assert!(secrets > SECRET_WORDS.len() && secrets < names.len());
    for name in names {
        let mesh = json!({"metadata": {"name": "default"}, "spec": {"telemetry": {"collector": {"address": {"host": "a"}}, "tracing": {"tags": [{"name": "a", "requestHeader": name}]}}}});
        let refused = !violations(Kind::Mesh, &mesh).is_empty();
        assert_eq!(refused, is_secret_name(&name), "{name}");
    }
}

/// Each rule of the definitions with a value for which it fails. A rule that is missing here fails the test below.
fn failing() -> Vec<(Kind, Value, &'static str)> {
    let mesh = |spec| (Kind::Mesh, spec);
    let of = |(kind, spec): (Kind, Value), field| (kind, spec, field);
    let rule = |to: Value| (Kind::AuthPolicy, json!({"rules": [to]}));
    let backend = |backend: Value| {
        (
            Kind::TrafficSplit,
            json!({"service": "web", "backends": [backend]}),
        )
    };
    let mirror = |mirror: Value| {
        let backends = json!([{"service": "a", "weight": 1}]);
        let spec = json!({"service": "web", "backends": backends, "mirrors": [mirror]});
        (Kind::TrafficSplit, spec)
    };
    let sticky = |sticky: Value| {
        let backends = json!([{"service": "a", "weight": 1}]);
        let spec = json!({"service": "web", "backends": backends, "sticky": sticky});
        (Kind::TrafficSplit, spec)
    };
    let span_tag = |tag: Value| {
        let collector = json!({"address": {"host": "a"}});
        mesh(json!({"telemetry": {"collector": collector, "tracing": {"tags": [tag]}}}))
    };
    let matching = |alternative: Value| {
        let backends = json!([{"service": "a", "weight": 1}]);
        let spec = json!({"service": "web", "matches": [alternative], "backends": backends});
        (Kind::TrafficSplit, spec)
    };
    let timeout = |field: &str, time: &str| {
        let timeouts = json!({field: time});
        let target = json!({"service": "web"});
        let spec = json!({"target": target, "timeouts": timeouts});
        (Kind::TrafficPolicy, spec)
    };
    let traffic = |groups: Value| {
        let mut spec = json!({"target": {"service": "web"}});
        spec.as_object_mut()
            .unwrap()
            .extend(groups.as_object().unwrap().clone());
        (Kind::TrafficPolicy, spec)
    };
    let targeted = |target: Value, field: &'static str| {
        let spec = json!({"target": target, "timeouts": {"request": "1s"}});
        of((Kind::TrafficPolicy, spec), field)
    };
    let (route, split) = (
        json!({"kind": "HTTPRoute", "name": "a"}),
        json!({"kind": "TrafficSplit", "name": "a", "rule": "b"}),
    );
    let named = "spec.target";
    let fault = |fault: Value| traffic(json!({"faults": [fault]}));
    let abort = json!({"status": 500, "percent": 1});
    let connections = |field: &str, time: &str| traffic(json!({"connections": {field: time}}));
    let balancing = |balancing: Value| traffic(json!({"loadBalancing": balancing}));
    let backoff = |backoff: Value| traffic(json!({"retries": {"backoff": backoff}}));
    vec![
        of(traffic(json!({})), "spec"),
        of(traffic(json!({"limits": {}})), "spec.limits"),
        of(traffic(json!({"headers": {}})), "spec.headers"),
        of(
            traffic(json!({"headers": {"response": {}}})),
            "spec.headers.response",
        ),
        of(traffic(json!({"connections": {}})), "spec.connections"),
        of(
            connections("connectTimeout", "1ms"),
            "spec.connections.connectTimeout",
        ),
        of(
            connections("idleTimeout", "1h"),
            "spec.connections.idleTimeout",
        ),
        of(
            connections("tcpKeepalive", "1s"),
            "spec.connections.tcpKeepalive",
        ),
        of(
            traffic(json!({"outlierEjection": {"interval": "0s"}})),
            "spec.outlierEjection.interval",
        ),
        of(
            traffic(json!({"outlierEjection": {"baseTime": "0s"}})),
            "spec.outlierEjection.baseTime",
        ),
        of(
            balancing(json!({"mode": "ConsistentHash"})),
            "spec.loadBalancing",
        ),
        of(
            balancing(json!({"mode": "Random", "slowStart": {"window": "1m"}})),
            "spec.loadBalancing",
        ),
        of(
            balancing(json!({"mode": "ConsistentHash", "hash": {"key": "Header"}})),
            "spec.loadBalancing.hash",
        ),
        of(
            balancing(json!({"slowStart": {"window": "2h"}})),
            "spec.loadBalancing.slowStart.window",
        ),
        of(
            traffic(json!({"retries": {"grpcCodes": ["Unavailable"]}})),
            "spec.retries",
        ),
        of(backoff(json!({"base": "0s"})), "spec.retries.backoff.base"),
        of(backoff(json!({"max": "61m"})), "spec.retries.backoff.max"),
        of(
            mesh(json!({"certificates": {"lifetime": "59s"}})),
            "spec.certificates.lifetime",
        ),
        of(
            mesh(json!({"certificates": {"lifetime": "169h"}})),
            "spec.certificates.lifetime",
        ),
        of(
            mesh(json!({"scope": {"idleAfter": "0s"}})),
            "spec.scope.idleAfter",
        ),
        of(
            (
                Kind::ExternalService,
                json!({"ports": [{"port": 443, "protocol": "TLS"}]}),
            ),
            "spec",
        ),
        of(
            (
                Kind::ExternalService,
                json!({"addresses": ["192.0.2.0/24"], "hosts": ["a.example.com"], "ports": [{"port": 443, "protocol": "TLS"}]}),
            ),
            "spec",
        ),
        of(
            (
                Kind::ExternalService,
                json!({"hosts": ["a.example.com"], "ports": [{"port": 443, "protocol": "TLS", "tls": {}}]}),
            ),
            "spec.ports[0]",
        ),
        of(
            (
                Kind::ExternalService,
                json!({"hosts": ["a.example.com"], "ports": [{"port": 443, "protocol": "TLS"}], "privateAddresses": ["10.0.0.0/8"]}),
            ),
            "spec",
        ),
        of((Kind::Telemetry, json!({})), "spec"),
        of(
            (
                Kind::Telemetry,
                json!({"accessLogs": {"percent": 10, "failures": {"percent": 9.99}}}),
            ),
            "spec.accessLogs",
        ),
        of(
            mesh(json!({"telemetry": {"tracing": {"percent": 1}}})),
            "spec.telemetry",
        ),
        of(
            mesh(json!({"rateLimits": {"server": {}}})),
            "spec.rateLimits.server",
        ),
        of(
            mesh(json!({"rateLimits": {"timeout": "11s"}})),
            "spec.rateLimits.timeout",
        ),
        of(
            mesh(json!({"telemetry": {"collector": {}}})),
            "spec.telemetry.collector",
        ),
        of(
            mesh(json!({"telemetry": {"accessLogSink": "Collector"}})),
            "spec.telemetry",
        ),
        of(
            mesh(json!({"telemetry": {
                "collector": {"address": {"host": "a"}},
                "accessLogSink": "Collector", "accessLogFormat": "Text",
            }})),
            "spec.telemetry",
        ),
        of(
            span_tag(json!({"name": "a", "literal": "a", "requestHeader": "a"})),
            "spec.telemetry.tracing.tags[0]",
        ),
        of(
            span_tag(json!({"name": "a", "requestHeader": "cookie"})),
            "spec.telemetry.tracing.tags[0]",
        ),
        of(
            span_tag(json!({"name": "http.url", "literal": "a"})),
            "spec.telemetry.tracing.tags[0]",
        ),
        of(rule(json!({"from": {}})), "spec.rules[0].from"),
        of(rule(json!({"to": {}})), "spec.rules[0].to"),
        of(
            rule(json!({"to": {"headers": [{"name": "x"}]}})),
            "spec.rules[0].to.headers[0]",
        ),
        of(
            rule(json!({"to": {"headers": [{"name": "x", "exact": "a", "prefix": "a"}]}})),
            "spec.rules[0].to.headers[0]",
        ),
        of(
            (
                Kind::AuthPolicy,
                json!({"rules": [{"action": "Deny"}], "selector": {"matchLabels": {"a": "b"}}, "target": {"service": "x"}}),
            ),
            "spec",
        ),
        of((Kind::AuthPolicy, json!({})), "spec"),
        of(backend(json!({"weight": 1})), "spec.backends[0]"),
        of(mirror(json!({"percent": 1})), "spec.mirrors[0]"),
        of(sticky(json!({})), "spec.sticky"),
        of(
            sticky(json!({"cookie": {"name": "c", "maxAge": "1s"}})),
            "spec.sticky.cookie.maxAge",
        ),
        of(matching(json!({})), "spec.matches[0]"),
        of(matching(json!({"path": {}})), "spec.matches[0].path"),
        of(
            matching(json!({"headers": [{"name": "x"}]})),
            "spec.matches[0].headers[0]",
        ),
        of(
            matching(json!({"cookies": [{"name": "x", "exact": "", "present": true}]})),
            "spec.matches[0].cookies[0]",
        ),
        of(
            matching(json!({"query": [{"name": "x"}]})),
            "spec.matches[0].query[0]",
        ),
        of(
            (
                Kind::TrafficPolicy,
                json!({"target": {"service": "web"}, "timeouts": {}}),
            ),
            "spec.timeouts",
        ),
        targeted(json!({"service": "a", "externalService": "a"}), named),
        targeted(json!({"service": "a", "route": route}), named),
        targeted(json!({"route": route, "port": 80}), named),
        targeted(json!({"externalService": "a", "namespace": "b"}), named),
        targeted(json!({"route": split}), "spec.target.route"),
        of(timeout("request", "0s"), "spec.timeouts.request"),
        of(fault(json!({})), "spec.faults[0]"),
        of(
            fault(json!({"match": {}, "abort": abort})),
            "spec.faults[0].match",
        ),
        of(
            fault(json!({"match": {"path": {}}, "abort": abort})),
            "spec.faults[0].match.path",
        ),
        of(
            fault(json!({"abort": {"percent": 1}})),
            "spec.faults[0].abort",
        ),
        of(
            fault(json!({"delay": {"percent": 1, "duration": "2h"}})),
            "spec.faults[0].delay.duration",
        ),
        of(
            traffic(json!({"rateLimits": [{"requests": 1, "per": "2h"}]})),
            "spec.rateLimits[0].per",
        ),
        of(
            traffic(json!({"rateLimits": [{"requests": 1, "per": "2m", "shared": true}]})),
            "spec.rateLimits[0]",
        ),
        of(
            traffic(json!({"rateLimits": [{"requests": 1, "burst": 2, "shared": true}]})),
            "spec.rateLimits[0]",
        ),
        of(traffic(json!({"overload": {}})), "spec.overload"),
        of(
            traffic(json!({"overload": {"concurrency": {"min": 5, "max": 4}}})),
            "spec.overload.concurrency",
        ),
        of(
            traffic(json!({"overload": {"concurrency": {"latency": "0s"}}})),
            "spec.overload.concurrency.latency",
        ),
        of(
            traffic(json!({"overload": {"admission": {"window": "11m"}}})),
            "spec.overload.admission.window",
        ),
        of(timeout("perTry", "0s"), "spec.timeouts.perTry"),
        of(timeout("idle", "8761h"), "spec.timeouts.idle"),
        of(
            backend(json!({"weight": 1, "service": "a", "labels": {"a": "b"}})),
            "spec.backends[0]",
        ),
    ]
}

#[test]
fn every_rule_of_the_definitions_runs_and_can_fail() {
    let mut failed = std::collections::BTreeSet::new();
    for (kind, spec, field) in failing() {
        let object = json!({"metadata": {"name": "default"}, "spec": spec});
        let found = violations(kind, &object);
        assert_eq!(found.len(), 1, "{object}: {found:#?}");
        assert_eq!(found[0].field, field, "{object}: {found:#?}");
        failed.insert(format!("{}{}{}", found[0].reason, cel::FIX, found[0].fix));
    }
    let mut rules = Vec::new();
    for schema in schemas().values() {
        collect(&serde_json::to_value(schema).unwrap(), &mut rules);
    }
    assert!(rules.len() > 5, "{rules:?}");
    for (rule, message) in rules {
        if !rule.contains("oldSelf") {
            assert!(
                failed.contains(cel::without_field(&message)),
                "no case fails the rule {rule}"
            );
        }
    }
}

fn collect(schema: &Value, rules: &mut Vec<(String, String)>) {
    match schema {
        Value::Object(fields) => {
            for rule in fields
                .get("x-kubernetes-validations")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
            {
                let text = |key: &str| rule[key].as_str().unwrap_or_default().to_owned();
                rules.push((text("rule"), text("message")));
            }
            fields.values().for_each(|field| collect(field, rules));
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, rules)),
        _ => {}
    }
}
