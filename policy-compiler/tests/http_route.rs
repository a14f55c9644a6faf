//! Routes of Gateway API beside the goldens: the same configuration as the equal split, the last good spec, and callers that are denied.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod cluster;
mod harness;

use std::collections::BTreeSet;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::thread;
use std::time::Duration;

use anyhow::Result;
use cluster::{apply, http_route, of_namespace, pod, policy, service, slice, split};
use gateway_api::experimental::httproutes::HttpRoute;
use harness::fields;
use harness::running::{Trust, http, mirror, request, serve, start};
use harness::shop;
use heddle_crds::{ConditionStatus, ConditionType};
use heddle_policy_compiler::traffic::{Request, evaluate};
use heddle_policy_compiler::{
    Call, Compiled, KubeObject, NamespacedName, ObjectKind, ObjectRef, ObjectStatus, Part,
    ResourceKey, ResourceKind, World, WorldBuilder, compile, print,
};
use serde_json::{Value, json};

fn route(spec: Value) -> Value {
    http_route("s", spec)
}

fn spec(rules: Value) -> Value {
    json!({"parentRefs": [{"group": "", "kind": "Service", "name": "a"}], "rules": rules})
}

fn reference() -> ObjectRef {
    ObjectRef::new(ObjectKind::HTTPRoute, "shop", "s")
}

/// Services `a`, `b` and `c` of a pod each.
fn builder() -> WorldBuilder {
    let mut builder = World::builder();
    for (index, app) in ["a", "b", "c"].into_iter().enumerate() {
        let (name, ip) = (format!("{app}-0"), format!("10.0.{index}.0"));
        let port = || json!({"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"});
        let address = format!("10.96.0.{}", index + 1);
        let objects = [
            service(app, &address, json!({"app": app}), json!([port()])),
            pod(&name, app, &ip, true, true),
            slice(
                &format!("{app}-x"),
                app,
                json!({"name": "http", "port": 8080, "protocol": "TCP"}),
                &[(&name, &ip, true)],
            ),
        ];
        apply(&mut builder, objects);
    }
    builder
}

fn compiled(object: Value) -> Compiled {
    let mut builder = builder();
    apply(&mut builder, [object]);
    compile(&builder.world())
}

/// All resources of all proxies, without the name of the kind.
fn resources(compiled: &Compiled) -> BTreeSet<String> {
    let views = harness::views(compiled);
    let all = views.values().flat_map(|view| view.resources.values());
    let text = |kind: &str| {
        all.clone()
            .map(|resource| {
                let text = format!("{} {}", resource.key, print::to_json(resource));
                text.replace(kind, "KIND")
            })
            .collect()
    };
    let all: BTreeSet<String> = text("HTTPRoute");
    all.into_iter()
        .map(|text| text.replace("TrafficSplit", "KIND"))
        .collect()
}

#[test]
fn a_route_and_the_equal_split_give_the_same_configuration_but_for_the_kind_in_the_names_of_rules()
{
    for weights in [[90, 10], [1, 0], [3, 3]] {
        let [b, c] = weights;
        let routed = compiled(route(spec(json!([{"backendRefs": [
            {"name": "b", "port": 80, "weight": b}, {"name": "c", "port": 80, "weight": c}]}]))));
        let shifted = compiled(split(
            "s",
            json!({"service": "a", "backends": [{"service": "b", "weight": b}, {"service": "c", "weight": c}]}),
        ));
        assert_eq!(resources(&routed), resources(&shifted), "{weights:?}");
    }
}

#[test]
fn matches_and_mirrors_of_a_route_and_of_a_split_give_the_same_configuration_too() {
    let compiled = |objects: Vec<Value>| {
        let mut builder = builder();
        apply(&mut builder, objects);
        compile(&builder.world())
    };
    let named = |name: &str, rule: Value| http_route(name, spec(json!([rule])));
    let routed = compiled(vec![
        named(
            "s",
            json!({
                "matches": [{
                    "path": {"type": "PathPrefix", "value": "/v2/"}, "method": "POST",
                    "headers": [{"name": "X-Tester", "value": "yes"}, {"name": "x-id", "type": "RegularExpression", "value": "[0-9]+"}],
                    "queryParams": [{"name": "q", "value": "1"}],
                }, {"path": {"type": "Exact", "value": "/about"}}],
                "filters": [{"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "c", "port": 80}, "percent": 25}}],
                "backendRefs": [{"name": "b", "port": 80}],
            }),
        ),
        named("t", json!({"backendRefs": [{"name": "a", "port": 80}]})),
    ]);
    let shifted = compiled(vec![
        split(
            "s",
            json!({
                "service": "a",
                "matches": [{
                    "path": {"prefix": "/v2"}, "method": "POST",
                    "headers": [{"name": "x-id", "regex": "[0-9]+"}, {"name": "x-tester", "exact": "yes"}],
                    "query": [{"name": "q", "exact": "1"}],
                }, {"path": {"exact": "/about"}}],
                "backends": [{"service": "b", "weight": 1}],
                "mirrors": [{"service": "c", "percent": 25}],
            }),
        ),
        split(
            "t",
            json!({"service": "a", "backends": [{"service": "a", "weight": 1}]}),
        ),
    ]);
    // A split is one rule, so its clusters name no index of a rule.
    let without_rule = |compiled: &Compiled| -> BTreeSet<String> {
        let all = resources(compiled).into_iter();
        all.map(|text| text.replace("|shop/s/0/0/mirror", "|shop/s/0/mirror"))
            .collect()
    };
    let routed = without_rule(&routed);
    assert!(
        routed
            .iter()
            .any(|text| text.contains("request_mirror_policies"))
    );
    assert_eq!(routed, without_rule(&shifted));
}

/// The object with the past of another generation.
fn with_last_good(value: Value, good: Value) -> KubeObject {
    let KubeObject::Declared(object) = cluster::object(value) else {
        panic!("not a declared object");
    };
    let mut object = Arc::unwrap_or_clone(object);
    let good = json!({"generation": 1, "spec": good});
    object.remembered.last_good = Some(serde_json::from_value(good).unwrap());
    object.generation = 2;
    KubeObject::Declared(Arc::new(object))
}

fn condition(status: &ObjectStatus, kind: ConditionType) -> (ConditionStatus, String) {
    let found = status.condition(kind).unwrap();
    (found.status, found.reason.clone())
}

/// The backend of a request without headers.
fn backend(compiled: &Compiled, path: &str) -> Option<String> {
    let name = NamespacedName::new("shop", "a");
    let (_, table) = compiled.route_tables(&name).next().unwrap();
    let request = Request {
        host: "a".to_owned(),
        method: "GET".to_owned(),
        path: path.to_owned(),
        headers: Vec::new(),
    };
    let decision = evaluate(table, &request)?;
    let shares = decision.shares();
    Some(shares.first()?.upstream?.name.to_string())
}

#[test]
fn an_unsupported_route_keeps_its_last_good_rules_at_the_parents_of_then() {
    let good = spec(json!([{"backendRefs": [{"name": "b", "port": 80}]}]));
    let mut next = spec(json!([{"later": {}, "backendRefs": [{"name": "c", "port": 80}]}]));
    next["parentRefs"][0]["name"] = json!("b");
    let mut builder = builder();
    builder.apply(with_last_good(route(next), good.clone()));
    let compiled = compile(&builder.world());
    assert_eq!(backend(&compiled, "/").as_deref(), Some("out|shop/b|80"));
    let status = &compiled.statuses[&reference()];
    assert_eq!(status.in_force.as_ref().unwrap().generation, 1);
    assert_eq!(status.in_force.as_ref().unwrap().spec, good);
    assert_eq!(
        condition(status, ConditionType::Accepted),
        (ConditionStatus::False, "UnsupportedValue".to_owned())
    );
    let parents = status.parents.iter().map(|of| of.parent.name.as_str());
    assert_eq!(
        parents.collect::<Vec<_>>(),
        ["b"],
        "those of the present spec"
    );
}

#[test]
fn a_missing_backend_is_no_reason_for_the_last_good_rules() {
    let good = spec(json!([{"backendRefs": [{"name": "b", "port": 80}]}]));
    let next = spec(
        json!([{"matches": [{"path": {"value": "/x"}}], "backendRefs": [{"name": "gone", "port": 80}]}]),
    );
    let mut builder = builder();
    builder.apply(with_last_good(route(next), good));
    let compiled = compile(&builder.world());
    let status = &compiled.statuses[&reference()];
    assert_eq!(status.in_force.as_ref().unwrap().generation, 2);
    assert_eq!(
        condition(status, ConditionType::ResolvedRefs),
        (ConditionStatus::False, "BackendNotFound".to_owned())
    );
    let name = NamespacedName::new("shop", "a");
    let (_, table) = compiled.route_tables(&name).next().unwrap();
    assert_eq!(
        table.hosts[0].entries.len(),
        1,
        "no rule for other requests"
    );
}

#[test]
fn a_backend_of_another_namespace_comes_and_goes_with_its_service() {
    let rules = json!([{"backendRefs": [{"name": "b", "namespace": "till", "port": 80}]}]);
    let mut builder = builder();
    apply(&mut builder, [route(spec(rules))]);
    let resolved = |compiled: &Compiled| {
        let status = &compiled.statuses[&reference()];
        condition(status, ConditionType::ResolvedRefs).1
    };
    let without = compile(&builder.world());
    assert_eq!(resolved(&without), "BackendNotFound");
    assert_eq!(backend(&without, "/"), None);

    let port = json!([{"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"}]);
    let there = service("b", "10.96.0.9", json!({"app": "b"}), port);
    let there = of_namespace(there, "till", 1);
    apply(&mut builder, [there.clone()]);
    let with = without.update(&builder.world());
    assert_eq!(resolved(&with), "ResolvedRefs");
    assert_eq!(backend(&with, "/").as_deref(), Some("out|till/b|80"));
    assert_eq!(resources(&with), resources(&compile(&builder.world())));

    builder.remove(&ObjectRef::new(ObjectKind::Service, "till", "b"));
    let again = with.update(&builder.world());
    assert_eq!(resolved(&again), "BackendNotFound");
    assert_eq!(resources(&again), resources(&without));
}

/// The route of a namespace for the calls to `a`, with one backend.
fn route_of(namespace: &str, backend: &str) -> Value {
    let parent = json!({"group": "", "kind": "Service", "name": "a", "namespace": "shop"});
    let backends = json!([{"name": backend, "namespace": "shop", "port": 80}]);
    let spec = json!({"parentRefs": [parent], "rules": [{"backendRefs": backends}]});
    of_namespace(http_route("s", spec), namespace, 0)
}

/// The route configuration of `a` for a pod, as text; None: it has none.
fn routes_of_a(compiled: &Compiled, pod: &str) -> Option<String> {
    let views = harness::views(compiled);
    let mut resources = views[pod].resources.values();
    let of_a = |key: &ResourceKey| key.kind == ResourceKind::Route && *key.name == *"out|shop/a|80";
    let found = resources.find(|resource| of_a(&resource.key))?;
    Some(print::to_json(found).to_string())
}

#[test]
fn a_route_of_another_namespace_replaces_that_of_the_service_for_callers_of_its_own() {
    let mut builder = builder();
    let caller = of_namespace(pod("d-0", "d", "10.0.2.7", true, true), "till", 1);
    apply(&mut builder, [caller, route_of("shop", "b")]);
    let producer = compile(&builder.world());
    let split = split(
        "s",
        json!({"service": "a", "backends": [{"service": "c", "weight": 1}]}),
    );
    let (here, there) = ("shop/b-0", "till/d-0");
    let leads_to = |compiled: &Compiled, pod: &str, service: &str| {
        let routes = routes_of_a(compiled, pod).unwrap();
        assert!(
            routes.contains(&format!("out|shop/{service}|80")),
            "{pod}: {routes}"
        );
    };
    leads_to(&producer, here, "b");
    leads_to(&producer, there, "b");

    apply(&mut builder, [route_of("till", "c")]);
    let both = producer.update(&builder.world());
    leads_to(&both, here, "b");
    leads_to(&both, there, "c");
    let name = ObjectRef::new(ObjectKind::HTTPRoute, "till", "s");
    assert!(both.statuses[&name].in_force.is_some());
    assert_eq!(resources(&both), resources(&compile(&builder.world())));

    // Without the route of the service, its split holds for the other callers.
    builder.remove(&reference());
    apply(&mut builder, [split]);
    let beside_split = both.update(&builder.world());
    leads_to(&beside_split, here, "c");
    assert!(
        routes_of_a(&beside_split, here)
            .unwrap()
            .contains("TrafficSplit")
    );
    assert!(
        !routes_of_a(&beside_split, there)
            .unwrap()
            .contains("TrafficSplit")
    );

    builder.remove(&ObjectRef::new(ObjectKind::TrafficSplit, "shop", "s"));
    builder.remove(&name);
    apply(&mut builder, [route_of("shop", "b")]);
    let again = beside_split.update(&builder.world());
    assert_eq!(
        resources(&again),
        resources(&producer),
        "the bytes from before"
    );
}

#[test]
fn a_caller_is_denied_by_the_backends_of_the_route_of_its_namespace() {
    let denying = policy(
        "p",
        json!({"selector": {"matchLabels": {"app": "c"}}, "rules": [{"action": "Deny"}]}),
    );
    for (service, denied) in [("b", false), ("c", true)] {
        let mut builder = builder();
        let caller = of_namespace(pod("d-0", "d", "10.0.2.7", true, true), "till", 1);
        let routes = [route_of("shop", "b"), route_of("till", service)];
        apply(&mut builder, [caller, denying.clone()]);
        apply(&mut builder, routes);
        let compiled = compile(&builder.world());
        assert_eq!(
            routes_of_a(&compiled, "till/d-0").is_none(),
            denied,
            "{service}"
        );
        assert!(routes_of_a(&compiled, "shop/b-0").is_some());
    }
}

#[test]
fn a_route_that_changes_no_byte_changes_no_part_and_is_explained() {
    let to = |name: &str| json!({"name": name, "port": 80});
    let idle = |edits: Value| {
        let mut idle = to("c");
        idle["weight"] = json!(0);
        idle["filters"] = edits;
        idle
    };
    let rule = |backends: Value| json!({ "backendRefs": backends });
    let with = |field: &str, value: Value| {
        let mut rule = rule(json!([to("b")]));
        rule[field] = value;
        rule
    };
    let mirror = |percent: u32| {
        let to_gone = json!({"backendRef": to("gone"), "percent": percent});
        with(
            "filters",
            json!([{"type": "RequestMirror", "requestMirror": to_gone}]),
        )
    };
    let edit =
        json!([{"type": "RequestHeaderModifier", "requestHeaderModifier": {"remove": ["x"]}}]);
    let pairs = [
        (
            rule(json!([to("gone")])),
            rule(json!([to("lost")])),
            "invalid: service shop/lost does not exist",
        ),
        (mirror(10), mirror(20), "shop/b:80"),
        (
            rule(json!([to("b"), idle(edit)])),
            rule(json!([to("b"), idle(json!([]))])),
            "shop/b:80",
        ),
        (
            with("timeouts", json!({"request": "0s"})),
            with("timeouts", json!({})),
            "shop/b:80",
        ),
    ];
    for (before, after, backend) in pairs {
        let mut builder = builder();
        apply(&mut builder, [route(spec(json!([before])))]);
        let old = compile(&builder.world());
        let parts = parts(&old);
        apply(&mut builder, [route(spec(json!([after])))]);
        let new = old.update(&builder.world());
        let same = self::parts(&new)
            .iter()
            .zip(&parts)
            .all(|(a, b)| Arc::ptr_eq(a, b));
        assert!(same, "{before} and {after}");
        let call = Call {
            from: NamespacedName::new("shop", "b-0"),
            host: "a".to_owned(),
            port: 80,
            tls: false,
            method: "GET".to_owned(),
            path: "/".to_owned(),
            headers: Vec::new(),
        };
        let explanation = new.explain(&call).unwrap();
        assert_eq!(explanation.backends[0].backend.to_string(), backend);
    }
}

/// The parts of a pod of `b`.
fn parts(compiled: &Compiled) -> Vec<Arc<Part>> {
    let wanted = compiled.destinations();
    let wanted = wanted.map(|at| Compiled::on_demand_name(at, "1")).collect();
    harness::view(compiled, &NamespacedName::new("shop", "b-0"), &wanted)
        .unwrap()
        .parts
}

/// Whether a pod of `b` has the routes of `a`: a caller that is denied by all has not.
fn has_routes_of_a(compiled: &Compiled) -> bool {
    routes_of_a(compiled, "shop/b-0").is_some()
}

#[test]
fn a_caller_that_every_backend_denies_still_gets_the_answers_of_its_own_sidecar() {
    let denying = policy(
        "p",
        json!({"selector": {"matchLabels": {"app": "c"}}, "rules": [{"action": "Deny"}]}),
    );
    let matches = json!([{"path": {"value": "/x"}}]);
    let rules = [
        (json!([{"backendRefs": [{"name": "c", "port": 80}]}]), true),
        (
            json!([{"matches": matches, "backendRefs": [{"name": "c", "port": 80}]}]),
            false,
        ),
        (
            json!([{"backendRefs": [{"name": "c", "port": 80}, {"name": "gone", "port": 80}]}]),
            false,
        ),
        (json!([{"backendRefs": []}]), false),
    ];
    for (rules, denied) in rules {
        let mut builder = builder();
        apply(&mut builder, [denying.clone(), route(spec(rules.clone()))]);
        let routed = has_routes_of_a(&compile(&builder.world()));
        assert_eq!(routed, !denied, "{rules}");
    }
}

const ROUTED: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: api, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: api}]
  rules:
  - matches: [{path: {value: /v1}}]
    filters:
    - {type: RequestMirror, requestMirror: {backendRef: {name: api-v2, port: 8001}}}
    - {type: URLRewrite, urlRewrite: {hostname: inner.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}
    - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-set, value: "100%"}], remove: [x-gone]}}
    - {type: ResponseHeaderModifier, responseHeaderModifier: {add: [{name: x-answer, value: routed}]}}
    backendRefs: [{name: api, port: 8001}]
  - matches: [{path: {value: /moved}}]
    filters: [{type: RequestRedirect, requestRedirect: {scheme: https, hostname: other.example, statusCode: 301}}]
  - matches: [{path: {value: /gone}}]
    backendRefs: [{name: gone, port: 8001}]
  - matches: [{path: {value: /off}}]
    backendRefs: [{name: api, port: 8001, weight: 0}]
"#;

/// A client's sidecar, the route, and the services `api` and `api-v2` of an address each.
fn routed() -> Compiled {
    let mut text = ROUTED.to_owned();
    for (index, name) in ["api", "api-v2"].into_iter().enumerate() {
        let ip = format!("127.92.1.{}", 11 + index);
        text += &shop::service(name, index, ("http", 8001), &[&ip]);
    }
    let upstreams = ["shop/api:8001=127.92.1.5:8001".to_owned()];
    text += &shop::client("127.92.1", &upstreams);
    harness::compiled(&text)
}

/// A mirror takes the head of a request and then stops, for a minute.
fn stalls(copies: &Sender<String>) -> impl Fn(&mut TcpStream) + Send + Clone + use<> {
    let copies = copies.clone();
    move |stream| {
        if let Some(head) = request(stream) {
            let _ = copies.send(String::from_utf8_lossy(&head).into_owned());
        }
        thread::sleep(Duration::from_secs(60));
    }
}

#[test]
fn envoy_routes_as_the_route_says_and_a_stalled_mirror_stalls_no_request() -> Result<()> {
    let (trust, folder) = (Trust::new()?, tempfile::tempdir()?);
    let (copies, copied) = std::sync::mpsc::channel();
    serve("127.92.1.11:8001".to_owned(), mirror)?;
    serve("127.92.1.12:8001".to_owned(), stalls(&copies))?;
    let none = BTreeSet::new();
    let client = ("client", &none);
    let admin = "127.92.1.9:9901";
    let _envoy = start(&routed(), client, &trust, folder.path(), admin, |_| {})?;
    let call = |path: &str| http("127.92.1.5:8001", "GET", path, "x-gone: 1\r\n");

    let answer = call("/v1/a?q=1")?;
    let (head, echoed) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("x-answer: routed"), "{answer}");
    assert!(echoed.starts_with("GET /a?q=1 "), "{answer}");
    let echoed = echoed.to_ascii_lowercase();
    for line in ["host: inner.example", "x-set: 100%"] {
        assert!(echoed.contains(line), "{line}: {answer}");
    }
    assert!(!echoed.contains("x-gone"), "{answer}");
    let copy = copied.recv_timeout(Duration::from_secs(30))?;
    assert!(copy.starts_with("GET /a?q=1 "), "{copy}");

    let answer = call("/moved/b?q=1")?;
    assert!(answer.starts_with("HTTP/1.1 301 "), "{answer}");
    let location = "location: https://other.example/moved/b?q=1\r\n";
    assert!(answer.contains(location), "{answer}");
    for (path, status) in [("/gone", 500), ("/off", 500), ("/v1a", 404), ("/", 404)] {
        let answer = call(path)?;
        let line = format!("HTTP/1.1 {status} ");
        assert!(answer.starts_with(&line), "{path}: {answer}");
    }
    Ok(())
}

/// The fields of the spec of a route, below `spec`. An object of fields stands for its fields.
const SUPPORTED: [&str; 68] = [
    "hostnames[]",
    "parentRefs[].group",
    "parentRefs[].kind",
    "parentRefs[].name",
    "parentRefs[].namespace",
    "parentRefs[].port",
    "parentRefs[].sectionName",
    // It adds Gateways as parents, which belong to other controllers.
    "useDefaultGateways",
    "rules[].name",
    "rules[].backendRefs[].group",
    "rules[].backendRefs[].kind",
    "rules[].backendRefs[].name",
    "rules[].backendRefs[].namespace",
    "rules[].backendRefs[].port",
    "rules[].backendRefs[].weight",
    "rules[].backendRefs[].filters[].type",
    "rules[].backendRefs[].filters[].requestHeaderModifier.add[].name",
    "rules[].backendRefs[].filters[].requestHeaderModifier.add[].value",
    "rules[].backendRefs[].filters[].requestHeaderModifier.remove[]",
    "rules[].backendRefs[].filters[].requestHeaderModifier.set[].name",
    "rules[].backendRefs[].filters[].requestHeaderModifier.set[].value",
    "rules[].filters[].type",
    "rules[].filters[].cors.allowCredentials",
    "rules[].filters[].cors.allowHeaders[]",
    "rules[].filters[].cors.allowMethods[]",
    "rules[].filters[].cors.allowOrigins[]",
    "rules[].filters[].cors.exposeHeaders[]",
    "rules[].filters[].cors.maxAge",
    "rules[].filters[].requestHeaderModifier.add[].name",
    "rules[].filters[].requestHeaderModifier.add[].value",
    "rules[].filters[].requestHeaderModifier.remove[]",
    "rules[].filters[].requestHeaderModifier.set[].name",
    "rules[].filters[].requestHeaderModifier.set[].value",
    "rules[].filters[].requestMirror.backendRef.group",
    "rules[].filters[].requestMirror.backendRef.kind",
    "rules[].filters[].requestMirror.backendRef.name",
    "rules[].filters[].requestMirror.backendRef.namespace",
    "rules[].filters[].requestMirror.backendRef.port",
    "rules[].filters[].requestMirror.fraction.denominator",
    "rules[].filters[].requestMirror.fraction.numerator",
    "rules[].filters[].requestMirror.percent",
    "rules[].filters[].requestRedirect.hostname",
    "rules[].filters[].requestRedirect.path.replaceFullPath",
    "rules[].filters[].requestRedirect.path.replacePrefixMatch",
    "rules[].filters[].requestRedirect.path.type",
    "rules[].filters[].requestRedirect.port",
    "rules[].filters[].requestRedirect.scheme",
    "rules[].filters[].requestRedirect.statusCode",
    "rules[].filters[].urlRewrite.hostname",
    "rules[].filters[].urlRewrite.path.replaceFullPath",
    "rules[].filters[].urlRewrite.path.replacePrefixMatch",
    "rules[].filters[].urlRewrite.path.type",
    "rules[].matches[].headers[].name",
    "rules[].matches[].headers[].type",
    "rules[].matches[].headers[].value",
    "rules[].matches[].method",
    "rules[].matches[].path.type",
    "rules[].matches[].path.value",
    "rules[].matches[].queryParams[]",
    "rules[].retry.attempts",
    "rules[].retry.backoff",
    "rules[].retry.codes[]",
    "rules[].sessionPersistence.absoluteTimeout",
    "rules[].sessionPersistence.cookieConfig.lifetimeType",
    "rules[].sessionPersistence.sessionName",
    "rules[].sessionPersistence.type",
    "rules[].timeouts.backendRequest",
    "rules[].timeouts.request",
];

/// The fields that make a route unusable, by their beginnings.
const UNSUPPORTED: [&str; 9] = [
    "rules[].sessionPersistence.idleTimeout",
    "rules[].filters[].externalAuth",
    "rules[].backendRefs[].filters[].externalAuth",
    "rules[].filters[].extensionRef",
    "rules[].backendRefs[].filters[].cors",
    "rules[].backendRefs[].filters[].extensionRef",
    "rules[].backendRefs[].filters[].requestMirror",
    "rules[].backendRefs[].filters[].requestRedirect",
    "rules[].backendRefs[].filters[].urlRewrite",
];

#[test]
fn every_field_of_the_type_is_supported_or_makes_a_route_unusable() {
    fields::check::<HttpRoute>(&SUPPORTED, &UNSUPPORTED);
    let filter = |name: &str| match name {
        "externalAuth" => {
            json!({"type": "ExternalAuth", "externalAuth": {"protocol": "HTTP", "backendRef": {"name": "b", "port": 80}}})
        }
        "cors" => json!({"type": "CORS", "cors": {}}),
        "extensionRef" => {
            json!({"type": "ExtensionRef", "extensionRef": {"group": "g", "kind": "K", "name": "n"}})
        }
        "requestMirror" => {
            json!({"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "b", "port": 80}}})
        }
        "requestRedirect" => json!({"type": "RequestRedirect", "requestRedirect": {"port": 80}}),
        "urlRewrite" => json!({"type": "URLRewrite", "urlRewrite": {"hostname": "a"}}),
        other => panic!("{other}"),
    };
    let persistent = json!([{"sessionPersistence": {"idleTimeout": "1m"}}]);
    let accepted = |rules: Value| {
        let compiled = compiled(route(spec(rules)));
        condition(&compiled.statuses[&reference()], ConditionType::Accepted)
    };
    let refused = (ConditionStatus::False, "UnsupportedValue".to_owned());
    assert_eq!(accepted(persistent), refused);
    for field in UNSUPPORTED.iter().filter(|field| field.contains("filters")) {
        let filters = json!([filter(field.rsplit('.').next().unwrap())]);
        let mut rule = json!({"backendRefs": [{"name": "b", "port": 80}]});
        match field.contains("backendRefs") {
            true => rule["backendRefs"][0]["filters"] = filters,
            false => rule["filters"] = filters,
        }
        assert_eq!(accepted(json!([rule])), refused, "{field}");
    }
}
