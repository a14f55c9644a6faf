//! Policies of several targets, and routes of connections: several versions of each name.

use serde_json::{Value, json};

use crate::cluster::{http_route, traffic_policy};

/// Routes with named rules, and policies of routes and rules. Names of rules come and go.
pub fn policies_of_routes(name: &str) -> Vec<Value> {
    let mut pool = Vec::new();
    for (service, rule) in [("a", "one"), ("b", "one"), ("a", "two")] {
        let parent = json!({"group": "", "kind": "Service", "name": service});
        let backends = json!([{"name": "b", "port": 80}]);
        let named =
            json!({"name": rule, "matches": [{"path": {"value": "/x"}}], "backendRefs": backends});
        let rules = json!([named, {"backendRefs": backends}]);
        let route = http_route(name, json!({"parentRefs": [parent], "rules": rules}));
        let mut grpc = route.clone();
        grpc["kind"] = json!("GRPCRoute");
        grpc["spec"]["rules"][0]["matches"] = json!([{"method": {"service": "x.Y"}}]);
        pool.extend([route, grpc]);
    }
    let target = |kind: &str, route: &str, rule: Option<&str>| {
        let mut route = json!({"kind": kind, "name": route});
        if let Some(rule) = rule {
            route["rule"] = json!(rule);
        }
        json!({"route": route})
    };
    for target in [
        target("HTTPRoute", "s", None),
        target("HTTPRoute", "t", Some("one")),
        target("HTTPRoute", "s", Some("two")),
        target("GRPCRoute", "s", Some("one")),
        target("TrafficSplit", "s", None),
    ] {
        for fields in [
            json!({"timeouts": {"request": "3s"}}),
            json!({"retries": {"conditions": ["GatewayError"]}}),
        ] {
            let mut spec = fields;
            spec["target"] = target.clone();
            pool.push(traffic_policy(name, spec));
        }
    }
    pool
}

/// Versions of a policy of Gateway API for services as backends.
pub fn backend_policies(name: &str) -> Vec<Value> {
    let target = |service: &str| json!({"group": "", "kind": "Service", "name": service});
    let budget = |percent: u32| json!({"budget": {"percent": percent}});
    let specs = [
        json!({"targetRefs": [target("a")], "retryConstraint": budget(30)}),
        json!({"targetRefs": [target("a"), target("b")], "retryConstraint": {"minRetryRate": {"count": 99}}}),
        json!({"targetRefs": [target("b"), target("c")], "retryConstraint": budget(101)}),
        json!({"targetRefs": [target("b")]}),
    ];
    let policy = |spec| {
        json!({"apiVersion": "gateway.networking.x-k8s.io/v1alpha1", "kind": "XBackendTrafficPolicy",
        "metadata": {"name": name, "namespace": "shop"}, "spec": spec})
    };
    specs.into_iter().map(policy).collect()
}

/// Routes for connections to ports that do not declare HTTP, by server name and without.
pub fn routes_of_connections(name: &str) -> Vec<Value> {
    let route = |kind: &str, service: &str, mut spec: Value| {
        let parent = json!({"group": "", "kind": "Service", "name": service});
        spec["parentRefs"] = json!([parent]);
        json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": kind,
            "metadata": {"name": name, "namespace": "shop"}, "spec": spec})
    };
    let rules = |weight: u32| json!([{"backendRefs": [{"name": "b", "port": 80, "weight": weight}, {"name": "gone", "port": 80}]}]);
    vec![
        route("TCPRoute", "a", json!({"rules": rules(1)})),
        route(
            "TLSRoute",
            "a",
            json!({"hostnames": ["a.example", "*.example"], "rules": rules(1)}),
        ),
        route(
            "TLSRoute",
            "a",
            json!({"hostnames": ["a.example"], "rules": rules(3)}),
        ),
        route(
            "TLSRoute",
            "b",
            json!({"hostnames": ["a.example"], "rules": [{"backendRefs": [{"name": "a", "port": 80}]}]}),
        ),
        route("TLSRoute", "a", json!({"hostnames": [], "rules": rules(1)})),
    ]
}

/// Policies for services of another namespace.
pub fn policies_of_callers(there: &str) -> Vec<Value> {
    let mut policies = Vec::new();
    for name in ["s", "t"] {
        for (service, fields) in [
            ("a", json!({"timeouts": {"request": "4s"}})),
            (
                "b",
                json!({"limits": {"requests": 4}, "timeouts": {"request": "5s"}}),
            ),
            ("a", json!({"retries": {"conditions": ["Reset"]}})),
        ] {
            let mut spec = fields;
            spec["target"] = json!({"service": service, "namespace": there});
            policies.push(traffic_policy(name, spec));
        }
    }
    policies
}

/// Routes for requests with several backends in a rule, of which some may have no ready endpoint, or be invalid.
pub fn weighted_routes(name: &str) -> Vec<Value> {
    let backend =
        |(service, weight): (&str, u32)| json!({"name": service, "port": 80, "weight": weight});
    let route = |(service, backends): (&str, [(&str, u32); 3])| {
        let parent = json!({"group": "", "kind": "Service", "name": service});
        let rules = json!([{"backendRefs": backends.map(backend)}]);
        http_route(name, json!({"parentRefs": [parent], "rules": rules}))
    };
    let (a, b) = (("a", 1), ("b", 2));
    let all = [("a", [a, b, ("c", 0)]), ("b", [a, b, ("gone", 4)])];
    all.into_iter().map(route).collect()
}
