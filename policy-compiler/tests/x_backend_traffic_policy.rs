//! `XBackendTrafficPolicy` beside the goldens and `retries.rs`: the fields of its type, and the order of precedence of retry budgets.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

mod harness;

use gateway_api::experimental::xbackendtrafficpolicies::XBackendTrafficPolicy;
use harness::{fields, shop};
use heddle_policy_compiler::{Compiled, ObjectKind, ResourceKind, print};
use serde_json::{Value, json};

fn policy(service: &str, constraint: &str) -> String {
    format!(
        "---
apiVersion: gateway.networking.x-k8s.io/v1alpha1
kind: XBackendTrafficPolicy
metadata: {{name: {service}, namespace: shop}}
spec:
  targetRefs: [{{group: '', kind: Service, name: {service}}}]
  retryConstraint: {constraint}
"
    )
}

fn route(retry: &str) -> String {
    format!(
        "---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: a, namespace: shop}}
spec:
  parentRefs: [{{group: '', kind: Service, name: a}}]
  rules: [{{backendRefs: [{{name: b, port: 80}}]{retry}}}]
"
    )
}

fn compiled(objects: &str) -> Compiled {
    let mut text = objects.to_owned();
    for (index, name) in ["a", "b"].into_iter().enumerate() {
        let ip = format!("10.0.0.{index}");
        text += &shop::service(name, index, ("http", 80), &[&ip]);
    }
    text += &shop::client("127.99.3", &["shop/a:80=127.99.3.5:80".to_owned()]);
    harness::compiled(&text)
}

/// The budget of a cluster: percent and minimum.
fn budget(compiled: &Compiled, cluster: &str) -> Option<(f64, u64)> {
    let views = harness::views(compiled);
    let mut resources = views.values().flat_map(|view| view.resources.values());
    let found = resources
        .find(|of| of.key.kind == ResourceKind::Cluster && &*of.key.name == cluster)
        .unwrap_or_else(|| panic!("{cluster} is not there"));
    let cluster = print::to_json(found);
    let of = cluster.pointer("/circuit_breakers/thresholds/0/retry_budget")?;
    let number = |name: &str| of.pointer(name).cloned().unwrap_or(json!(0));
    Some((
        number("/budget_percent/value").as_f64().unwrap(),
        number("/min_retry_concurrency").as_u64().unwrap(),
    ))
}

/// In the order of precedence: named by a TrafficPolicy, that of the backend, the default one.
#[test]
fn a_named_budget_comes_before_that_of_the_backend_which_comes_before_the_default() {
    let own = policy("a", "{budget: {percent: 50}, minRetryRate: {count: 41}}");
    let named = shop::traffic_policy("a", "retries: {budget: {percent: 7, minimum: 3}}");
    let resends = shop::traffic_policy("a", "retries: {conditions: [Reset]}");
    let other = shop::traffic_policy("a", "timeouts: {request: 1s}");
    let a = "out|shop/a|80";
    for (objects, expected) in [
        (String::new(), None),
        (own.clone(), Some((50.0, 5))),
        (policy("a", "{}"), Some((20.0, 1))),
        (resends.clone(), Some((20.0, 1))),
        (format!("{own}{resends}"), Some((50.0, 5))),
        (format!("{own}{named}"), Some((7.0, 3))),
        (format!("{own}{other}"), Some((50.0, 5))),
    ] {
        assert_eq!(budget(&compiled(&objects), a), expected, "{objects}");
    }
}

/// A policy is that of the backend, also where another service is called.
#[test]
fn the_rules_of_other_services_have_the_budget_of_the_backend() {
    let (of_a, of_b) = (
        policy("a", "{budget: {percent: 90}}"),
        policy("b", "{budget: {percent: 50}}"),
    );
    let (plain, retry) = (route(""), route(", retry: {codes: [503]}"));
    let named = shop::traffic_policy("a", "retries: {budget: {percent: 7, minimum: 3}}");
    let resends = shop::traffic_policy("a", "retries: {conditions: [Reset]}");
    let named_b = shop::traffic_policy("b", "retries: {budget: {percent: 8, minimum: 3}}");
    let own = "out|shop/b|80";
    let of_rule = "out|shop/a|80|shop/a/0/0";
    for (objects, cluster, expected) in [
        (format!("{of_a}{plain}"), own, None),
        (format!("{of_a}{of_b}{plain}"), own, Some((50.0, 1))),
        (format!("{retry}{of_a}"), of_rule, Some((20.0, 1))),
        (format!("{retry}{of_a}{of_b}"), of_rule, Some((50.0, 1))),
        // The rule has requests sent again by retries of its own.
        (format!("{retry}{of_b}{named}"), of_rule, Some((50.0, 1))),
        (format!("{plain}{of_b}{named}"), of_rule, Some((7.0, 3))),
        (format!("{plain}{of_b}{resends}"), of_rule, Some((50.0, 1))),
        // The backend has another budget by a TrafficPolicy of its own.
        (format!("{plain}{of_b}{named_b}"), own, Some((8.0, 3))),
    ] {
        assert_eq!(budget(&compiled(&objects), cluster), expected, "{objects}");
    }
}

/// `heddle describe` prints them.
#[test]
fn the_policies_of_a_port_are_listed() {
    let own = policy("a", "{}");
    let named = shop::traffic_policy("a", "retries: {budget: {percent: 7, minimum: 3}}");
    let compiled = compiled(&format!("{own}{named}"));
    let name = heddle_policy_compiler::NamespacedName::new("shop", "a");
    let port = heddle_policy_compiler::world::Port::try_from(80_i32).unwrap();
    let kinds = compiled.traffic_policies(&name, port).into_iter();
    let kinds: Vec<ObjectKind> = kinds.map(|object| object.kind).collect();
    assert_eq!(
        kinds,
        [ObjectKind::TrafficPolicy, ObjectKind::XBackendTrafficPolicy]
    );
}

#[test]
fn the_status_names_each_service_and_the_older_policy() {
    let young = policy("a", "{}").replace("name: a, namespace", "name: young, namespace");
    let young = young.replace(
        "namespace: shop}\n",
        "namespace: shop, creationTimestamp: '2026-02-01T00:00:00Z'}\n",
    );
    let old = policy("a", "{}").replace(
        "namespace: shop}\n",
        "namespace: shop, creationTimestamp: '2026-01-01T00:00:00Z'}\n",
    );
    for objects in [format!("{young}{old}"), format!("{old}{young}")] {
        let compiled = compiled(&objects);
        let accepted = |name: &str| {
            let of = compiled.statuses.iter().find(|(of, _)| &*of.name == name);
            let status = of.unwrap().1;
            let parent = &status.parents[0];
            assert_eq!(json!(parent.parent)["name"], Value::from("a"));
            let mut conditions = parent.conditions(&status.conditions);
            let accepted = conditions.next().unwrap();
            (accepted.reason.clone(), accepted.message.clone())
        };
        assert_eq!(accepted("a").0, "Accepted");
        let (reason, message) = accepted("young");
        assert_eq!(reason, "Conflicted");
        assert!(
            message.contains("XBackendTrafficPolicy shop/a"),
            "{message}"
        );
    }
}

/// The fields of the spec by their beginnings, below `spec`.
const SUPPORTED: [&str; 2] = ["targetRefs[].", "retryConstraint."];
const UNSUPPORTED: [&str; 1] = ["sessionPersistence."];

#[test]
fn every_field_of_the_type_is_listed() {
    fields::check::<XBackendTrafficPolicy>(&SUPPORTED, &UNSUPPORTED);
}
