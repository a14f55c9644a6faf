//! TrafficPolicies of rules, routes, ports and services together: the order of precedence, and the bytes without them.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

#[path = "../cluster/mod.rs"]
mod cluster;
mod consumers;
mod in_force;

use std::collections::BTreeSet;
use std::time::Duration;

use cluster::view::{view, view_of};
use cluster::{apply, http_route, of_namespace, pod, service, slice, traffic_policy};
use heddle_crds::{ConditionStatus, ConditionType};
use heddle_policy_compiler::traffic::RoutePolicy;
use heddle_policy_compiler::world::Port;
use heddle_policy_compiler::{
    Compiled, NamespacedName, ObjectKind, ObjectRef, PolicyTarget, World, compile,
};
use proptest::prelude::*;
use serde_json::{Value, json};

/// The groups of fields of a policy that the test sets.
#[derive(Clone, Debug, Default, PartialEq)]
struct Groups {
    /// `request` and `idle`, in seconds.
    timeouts: Option<(u64, Option<u64>)>,
    attempts: Option<u32>,
    header: Option<u8>,
    fault: Option<u32>,
}

impl Groups {
    fn names(&self) -> Vec<&'static str> {
        let all = [
            ("timeouts", self.timeouts.is_some()),
            ("retries", self.attempts.is_some()),
            ("faults", self.fault.is_some()),
            ("headers", self.header.is_some()),
        ];
        let set = all.into_iter().filter(|(_, set)| *set);
        set.map(|(name, _)| name).collect()
    }

    /// The spec of a policy. None: it sets nothing.
    fn spec(&self, target: &Value) -> Option<Value> {
        let mut spec = json!({ "target": target });
        if let Some((request, idle)) = self.timeouts {
            spec["timeouts"] = json!({"request": format!("{request}s")});
            if let Some(idle) = idle {
                spec["timeouts"]["idle"] = json!(format!("{idle}s"));
            }
        }
        if let Some(attempts) = self.attempts {
            spec["retries"] = json!({"attempts": attempts});
        }
        if let Some(value) = self.header {
            let set = json!([{"name": "x-level", "value": value.to_string()}]);
            spec["headers"] = json!({"request": {"set": set}});
        }
        if let Some(percent) = self.fault {
            spec["faults"] = json!([{"delay": {"duration": "1s", "percent": percent}}]);
        }
        (!self.names().is_empty()).then_some(spec)
    }

    /// Each group of the first one that sets it.
    fn first(levels: &[Self]) -> Self {
        Self {
            timeouts: levels.iter().find_map(|of| of.timeouts),
            attempts: levels.iter().find_map(|of| of.attempts),
            header: levels.iter().find_map(|of| of.header),
            fault: levels.iter().find_map(|of| of.fault),
        }
    }
}

fn groups() -> impl Strategy<Value = Groups> {
    let timeouts = prop::option::of((1..99_u64, prop::option::of(1..99_u64)));
    let (attempts, header) = (prop::option::of(0..=10_u32), prop::option::of(any::<u8>()));
    let fault = prop::option::of(1..=100_u32);
    (timeouts, attempts, header, fault).prop_map(|(timeouts, attempts, header, fault)| Groups {
        timeouts,
        attempts,
        header,
        fault,
    })
}

/// The closest target first.
fn targets() -> [Value; 4] {
    [
        json!({"route": {"kind": "HTTPRoute", "name": "r", "rule": "one"}}),
        json!({"route": {"kind": "HTTPRoute", "name": "r"}}),
        json!({"service": "a", "port": 80}),
        json!({"service": "a"}),
    ]
}

/// A service with a route: the rule `one`, perhaps with a timeout of its own, and another rule.
fn base(own: Option<u64>) -> Vec<Value> {
    let port = json!({"name": "http", "port": 80, "protocol": "TCP", "targetPort": "http"});
    let backends = json!([{"name": "a", "port": 80}]);
    let mut one =
        json!({"name": "one", "matches": [{"path": {"value": "/one"}}], "backendRefs": backends});
    if let Some(own) = own {
        one["timeouts"] = json!({"request": format!("{own}s")});
    }
    let parent = json!({"group": "", "kind": "Service", "name": "a"});
    let route = json!({"parentRefs": [parent], "rules": [one, {"backendRefs": backends}]});
    let endpoint = json!({"name": "http", "port": 8080, "protocol": "TCP"});
    vec![
        service("a", "10.96.0.1", json!({"app": "a"}), json!([port])),
        pod("a-0", "a", "10.0.0.1", true, true),
        slice("a-x", "a", endpoint, &[("a-0", "10.0.0.1", true)]),
        http_route("r", route),
    ]
}

fn compiled(objects: impl IntoIterator<Item = Value>) -> Compiled {
    let mut builder = World::builder();
    apply(&mut builder, objects);
    compile(&builder.world())
}

fn seen(compiled: &Compiled) -> Vec<(String, Value)> {
    view(compiled, "a-0", &["service/shop/a:80"])
}

/// The caller of another namespace.
fn seen_there(compiled: &Compiled) -> Vec<(String, Value)> {
    view_of(compiled, ("till", "d-0"), &["service/shop/a:80"])
}

fn check(policy: &RoutePolicy, headers: &str, expected: &Groups, own: Option<u64>) {
    let seconds = |of: Option<Duration>| of.map(|of| of.as_secs());
    let (request, idle) = expected.timeouts.unzip();
    assert_eq!(seconds(policy.timeouts.request), own.or(request));
    assert_eq!(seconds(policy.timeouts.idle), idle.flatten());
    assert_eq!(policy.retries.attempts, expected.attempts.unwrap_or(2));
    let percent = policy.faults.first().and_then(|of| of.delay.as_ref());
    assert_eq!(percent.map(|of| of.percent), expected.fault);
    let header = expected.header.map(|of| format!("x-level: {of}"));
    assert_eq!(headers.contains("x-level"), header.is_some());
    assert!(header.is_none_or(|header| headers.contains(&header)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn each_group_is_that_of_the_closest_target(
        levels in prop::array::uniform4(groups()),
        own in prop::option::of(1..99_u64),
        // The names decide nothing between targets that differ.
        names in Just(["p", "q", "s", "t"]).prop_shuffle(),
    ) {
        let policies = targets().into_iter().zip(&levels).zip(names);
        let policies = policies.filter_map(|((target, of), name)| {
            Some(traffic_policy(name, of.spec(&target)?))
        });
        let policies: Vec<Value> = policies.collect();
        let all: Vec<Value> = base(own).into_iter().chain(policies.clone()).collect();
        let with = compiled(all.iter().cloned());
        prop_assert!(with.findings.is_empty(), "{:?}", with.findings);
        let (name, port) = (NamespacedName::new("shop", "a"), Port::try_from(80_i32).unwrap());
        let rules = with.port_rules(&name, port);
        let entries = &rules[0].entries;
        prop_assert_eq!(entries.len(), 2);
        for entry in entries {
            let rule = &entry.entry.rule;
            let of_one = rule.id.rule_name().is_some_and(|name| &**name == "one");
            let (skipped, own) = if of_one { (0, own) } else { (1, None) };
            let headers = rule.headers.to_string();
            check(&rule.policy, &headers, &Groups::first(&levels[skipped..]), own);
            // The explanation names the winner of each group.
            let met = with.met_policies(&name, port, None, entry.entry);
            for (index, of) in levels.iter().enumerate().skip(skipped) {
                let closer = levels[skipped..index].iter().flat_map(Groups::names);
                let closer: Vec<&str> = closer.collect();
                let mut wins = of.names();
                wins.retain(|name| !closer.contains(name));
                let target = [PolicyTarget::Rule, PolicyTarget::Route, PolicyTarget::Port, PolicyTarget::Service][index];
                let found = met.iter().find(|met| met.target == target);
                let found = found.map(|met| met.groups.clone()).unwrap_or_default();
                prop_assert_eq!(found, wins);
            }
        }
        // In any order of arrival, and as an update; without the policies every byte is as before.
        let turned = compiled(all.into_iter().rev());
        prop_assert_eq!(seen(&turned), seen(&with));
        prop_assert_eq!(&turned.statuses, &with.statuses);
        let mut builder = World::builder();
        apply(&mut builder, base(own));
        let without = compile(&builder.world());
        apply(&mut builder, policies.clone());
        let updated = without.update(&builder.world());
        prop_assert_eq!(seen(&updated), seen(&with));
        prop_assert_eq!(&updated.statuses, &with.statuses);
        for policy in &policies {
            let name = policy["metadata"]["name"].as_str().unwrap();
            builder.remove(&ObjectRef::new(ObjectKind::TrafficPolicy, "shop", name));
        }
        let restored = updated.update(&builder.world());
        prop_assert_eq!(seen(&restored), seen(&without));
        prop_assert_eq!(&restored.statuses, &without.statuses);
    }
}

/// A rule that gets its name later has its policy then, and loses it with the name.
#[test]
fn a_policy_of_a_rule_follows_the_name_of_the_rule() {
    let spec = json!({"target": targets()[0], "timeouts": {"request": "7s"}});
    let mut builder = World::builder();
    apply(&mut builder, base(None));
    apply(&mut builder, [traffic_policy("p", spec)]);
    let named = compile(&builder.world());
    let timeouts = |of: &Compiled| {
        seen(of)
            .iter()
            .any(|(_, of)| of.to_string().contains("\"7s\""))
    };
    assert!(timeouts(&named) && named.findings.is_empty());
    let mut route = base(None).pop().unwrap();
    route["spec"]["rules"][0]["name"] = json!("first");
    apply(&mut builder, [route]);
    let renamed = named.update(&builder.world());
    let found: Vec<String> = renamed.findings.iter().map(ToString::to_string).collect();
    assert!(
        found[0].contains(
            "\"one\" is not the name of a rule of HTTPRoute shop/r: its rules have the names first"
        ),
        "{found:?}"
    );
    assert!(!timeouts(&renamed));
    apply(&mut builder, base(None).pop());
    let again = renamed.update(&builder.world());
    assert_eq!(seen(&again), seen(&named));
    assert!(again.findings.is_empty());
    builder.remove(&ObjectRef::new(ObjectKind::HTTPRoute, "shop", "r"));
    let gone = again.update(&builder.world());
    let found: Vec<String> = gone.findings.iter().map(ToString::to_string).collect();
    assert!(
        found[0].contains("HTTPRoute shop/r does not exist"),
        "{found:?}"
    );
}

/// The policies of the callers' namespace come before those of the service's namespace, with any targets.
#[test]
fn a_policy_of_another_namespace_holds_for_its_own_callers_and_comes_first() {
    let caller = || of_namespace(pod("d-0", "d", "10.0.2.7", true, true), "till", 1);
    let producers = targets().into_iter().zip(["p", "q", "s", "t"]).map(|(target, name)| {
        traffic_policy(name, json!({"target": target, "timeouts": {"request": "7s"}, "retries": {"attempts": 5}}))
    });
    let producers: Vec<Value> = producers.collect();
    let consumer = |fields: Value| {
        let mut spec = fields;
        spec["target"] = json!({"service": "a", "namespace": "shop"});
        let mut policy = traffic_policy("own", spec);
        policy["metadata"]["namespace"] = json!("till");
        policy
    };
    for rules in [false, true] {
        let mut objects = base(None);
        objects.push(caller());
        if !rules {
            objects.retain(|of| of["kind"] != "HTTPRoute");
        }
        objects.extend(
            producers
                .iter()
                .filter(|of| rules || of["spec"]["target"]["route"].is_null())
                .cloned(),
        );
        let mut builder = World::builder();
        apply(&mut builder, objects);
        let without = compile(&builder.world());
        assert_eq!(timeout(&seen_there(&without)), ["7s"], "{rules}");
        apply(
            &mut builder,
            [consumer(json!({"timeouts": {"request": "3s"}}))],
        );
        let with = without.update(&builder.world());
        assert!(with.findings.is_empty(), "{:?}", with.findings);
        assert_eq!(timeout(&seen_there(&with)), ["3s"], "{rules}");
        assert_eq!(
            seen(&with),
            seen(&without),
            "{rules}: others have what they had"
        );
        assert_eq!(seen_there(&with), seen_there(&compile(&builder.world())));
        // Other groups stay those of the service's namespace.
        let text = format!("{:?}", seen_there(&with));
        assert!(text.contains("num_retries"), "{text}");
        // A limit is of a cluster of these callers alone.
        apply(&mut builder, [consumer(json!({"limits": {"requests": 9}}))]);
        let limited = with.update(&builder.world());
        let limits = |of: &[(String, Value)]| {
            let clusters = of
                .iter()
                .filter(|(name, _)| name.starts_with("Cluster out|shop/a|80"));
            let with = clusters.filter(|(_, of)| of.to_string().contains("\"max_requests\":9"));
            with.map(|(name, _)| name.clone()).collect::<Vec<_>>()
        };
        let own = match rules {
            false => "Cluster out|shop/a|80|till/0",
            true => "Cluster out|shop/a|80|shop/r/0/0",
        };
        assert_eq!(limits(&seen_there(&limited)), [own]);
        let leads_there = |(name, of): &(String, Value)| {
            let cluster = own.trim_start_matches("Cluster ");
            name.starts_with("Route ") && of.to_string().contains(cluster)
        };
        assert!(seen_there(&limited).iter().any(leads_there));
        assert!(limits(&seen(&limited)).is_empty());
        assert_eq!(seen(&limited), seen(&without));
        builder.remove(&ObjectRef::new(ObjectKind::TrafficPolicy, "till", "own"));
        let restored = limited.update(&builder.world());
        assert_eq!(seen_there(&restored), seen_there(&without));
    }
}

/// The message of the condition `Conflicted` of a policy that is in force, and its reason.
fn overridden(compiled: &Compiled, namespace: &str, name: &str) -> (String, String) {
    let object = ObjectRef::new(ObjectKind::TrafficPolicy, namespace, name);
    let status = &compiled.statuses[&object];
    let condition = status.condition(ConditionType::Conflicted).unwrap();
    assert_eq!(condition.status, ConditionStatus::False);
    assert!(status.in_force.is_some());
    (condition.reason.clone(), condition.message.clone())
}

/// The timeouts of the routes of a view.
fn timeout(view: &[(String, Value)]) -> Vec<String> {
    let routes = view
        .iter()
        .filter(|(name, _)| name == "Route out|shop/a|80");
    let hosts = routes.flat_map(|(_, of)| of["virtual_hosts"].as_array().unwrap());
    let routes = hosts.flat_map(|of| of["routes"].as_array().unwrap());
    let timeouts: BTreeSet<&str> = routes
        .filter_map(|of| of["route"]["timeout"].as_str())
        .collect();
    timeouts.into_iter().map(str::to_owned).collect()
}
