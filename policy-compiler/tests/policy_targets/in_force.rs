//! Policies of a route that has its last good spec in force.

use heddle_policy_compiler::{ObjectKind, World, compile};
use serde_json::json;

use crate::cluster::{apply, traffic_policy, with_last_good};
use crate::{base, overridden, seen, timeout};

/// The route has rules that cannot be in force, so that those of its last good spec are, at the services of then.
#[test]
fn a_policy_of_a_route_is_for_the_rules_in_force_also_if_they_are_those_of_the_last_good_spec() {
    let of = |rule: &str, name: &str, seconds: u64| {
        let target = json!({"route": {"kind": "HTTPRoute", "name": "r", "rule": rule}});
        let timeouts = json!({"request": format!("{seconds}s")});
        traffic_policy(name, json!({"target": target, "timeouts": timeouts}))
    };
    let whole = json!({"target": {"service": "a"}, "timeouts": {"request": "9s"}});
    let policies = [
        of("one", "p", 7),
        of("first", "q", 5),
        traffic_policy("s", whole),
    ];
    let good = base(None).pop().unwrap()["spec"].clone();
    let mut next = base(None).pop().unwrap();
    next["spec"]["rules"][0]["name"] = json!("first");
    next["spec"]["parentRefs"][0]["name"] = json!("elsewhere");
    let mut invalid = next.clone();
    invalid["spec"]["rules"][0]["later"] = json!({});
    let mut builder = World::builder();
    apply(&mut builder, base(None));
    apply(&mut builder, policies);
    let before = compile(&builder.world());
    assert_eq!(timeout(&seen(&before)), ["7s", "9s"]);

    builder.apply(with_last_good(invalid, good.clone()));
    let after = before.update(&builder.world());
    assert_eq!(timeout(&seen(&after)), ["7s", "9s"], "as before");
    let of_policies = after.findings.iter();
    let of_policies = of_policies.filter(|of| of.object.kind == ObjectKind::TrafficPolicy);
    let found: Vec<String> = of_policies.map(ToString::to_string).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    let without = "rule first of HTTPRoute shop/r has no port with requests";
    assert!(found[0].contains(without), "{found:?}");
    let (_, message) = overridden(&after, "shop", "s");
    assert!(
        message.contains("TrafficPolicy shop/p wins timeouts of rule one"),
        "{message}"
    );
    assert!(!message.contains("shop/q"), "{message}");
    assert_eq!(after.statuses, compile(&builder.world()).statuses);

    // The corrected spec is in force: the rule has another name then.
    next["spec"]["parentRefs"][0]["name"] = json!("a");
    builder.apply(with_last_good(next, good));
    let corrected = after.update(&builder.world());
    assert_eq!(timeout(&seen(&corrected)), ["5s", "9s"]);
    let found: Vec<String> = corrected.findings.iter().map(ToString::to_string).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].contains("\"one\" is not the name of a rule"),
        "{found:?}"
    );
    assert_eq!(corrected.statuses, compile(&builder.world()).statuses);
}
