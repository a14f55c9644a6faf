//! Policies of services that lose to those of other namespaces: their statuses and findings.

use heddle_policy_compiler::{ObjectKind, ObjectRef, World, compile};
use serde_json::{Value, json};

use crate::cluster::{apply, mesh, traffic_policy};
use crate::{base, overridden, targets};

/// The policy of the service's namespace is in force for other callers, so its status names the winners and the groups of fields that they win.
#[test]
fn the_status_of_a_policy_names_those_of_other_namespaces_that_win_for_their_own_callers() {
    let own = |name: &str, target: Value, fields: &[&str]| {
        let mut spec = json!({ "target": target });
        for field in fields {
            spec[*field] = match *field {
                "limits" => json!({"requests": 9}),
                "retries" => json!({"attempts": 1, "budget": {"percent": 5}}),
                _ => json!({"request": "3s"}),
            };
        }
        traffic_policy(name, spec)
    };
    let consumer = |namespace: &str, port: Option<u16>, fields: &[&str]| {
        let mut target = json!({"service": "a", "namespace": "shop"});
        if let Some(port) = port {
            target["port"] = json!(port);
        }
        let mut policy = own("own", target, fields);
        policy["metadata"]["namespace"] = json!(namespace);
        policy
    };
    let [of_rule, _, _, whole] = targets();
    let mut builder = World::builder();
    apply(&mut builder, base(None));
    let producers = [
        own("p", of_rule, &["timeouts"]),
        own("s", whole, &["limits", "retries"]),
    ];
    apply(&mut builder, producers);
    let without = compile(&builder.world());
    let same = (
        "NoConflict".to_owned(),
        "no other traffic policy has the same target".to_owned(),
    );
    assert_eq!(overridden(&without, "shop", "s"), same);

    let consumers = [
        consumer("bank", None, &["limits", "timeouts"]),
        consumer("till", Some(80), &["retries"]),
    ];
    apply(&mut builder, consumers);
    let with = without.update(&builder.world());
    let reason = || "Overridden".to_owned();
    let message = "TrafficPolicy bank/own wins limits; TrafficPolicy till/own wins retries, each for the callers of its own namespace";
    assert_eq!(
        overridden(&with, "shop", "s"),
        (reason(), message.to_owned())
    );
    let message = "TrafficPolicy bank/own wins timeouts, for the callers of its own namespace";
    assert_eq!(
        overridden(&with, "shop", "p"),
        (reason(), message.to_owned())
    );
    assert_eq!(overridden(&with, "bank", "own"), same, "the winner");
    assert_eq!(with.statuses, compile(&builder.world()).statuses);

    // Callers of a bypassed namespace have no policies.
    apply(
        &mut builder,
        [mesh(json!({"bypassedNamespaces": [{"namespace": "bank"}]}))],
    );
    let bypassed = with.update(&builder.world());
    let message = "TrafficPolicy till/own wins retries, for the callers of its own namespace";
    assert_eq!(
        overridden(&bypassed, "shop", "s"),
        (reason(), message.to_owned())
    );
    assert_eq!(overridden(&bypassed, "shop", "p"), same);
    apply(&mut builder, [mesh(json!({}))]);

    // However many there are, the message is short.
    let many = (0..40).map(|index| consumer(&format!("team-{index:02}"), None, &["limits"]));
    apply(&mut builder, many);
    let crowded = bypassed.update(&builder.world());
    let (_, message) = overridden(&crowded, "shop", "s");
    assert!(
        message.contains("TrafficPolicy team-00/own wins limits"),
        "{message}"
    );
    assert!(
        message.contains("34 more policies of other namespaces win some"),
        "{message}"
    );
    assert!(message.len() < 1000, "{message}");

    for namespace in ["bank".to_owned(), "till".to_owned()]
        .into_iter()
        .chain((0..40).map(|of| format!("team-{of:02}")))
    {
        builder.remove(&ObjectRef::new(
            ObjectKind::TrafficPolicy,
            &namespace,
            "own",
        ));
    }
    builder.remove(&ObjectRef::new(ObjectKind::Mesh, "", "default"));
    let restored = crowded.update(&builder.world());
    assert_eq!(restored.statuses, without.statuses);
}

#[test]
fn the_finding_about_a_budget_of_a_backend_names_those_of_other_namespaces() {
    let target = json!({"group": "", "kind": "Service", "name": "a"});
    let constraint = json!({"budget": {"percent": 50}, "minRetryRate": {"count": 100}});
    let backend = json!({"apiVersion": "gateway.networking.x-k8s.io/v1alpha1", "kind": "XBackendTrafficPolicy",
        "metadata": {"name": "b", "namespace": "shop"}, "spec": {"targetRefs": [target], "retryConstraint": constraint}});
    let target = json!({"service": "a", "namespace": "shop"});
    let retries = json!({"conditions": ["GatewayError"], "budget": {"percent": 5}});
    let mut consumer = traffic_policy("own", json!({"target": target, "retries": retries}));
    consumer["metadata"]["namespace"] = json!("till");
    let mut builder = World::builder();
    apply(&mut builder, base(None));
    apply(&mut builder, [backend]);
    let without = compile(&builder.world());
    assert!(without.findings.is_empty(), "{:?}", without.findings);
    apply(&mut builder, [consumer]);
    let with = without.update(&builder.world());
    let found: Vec<String> = with.findings.iter().map(ToString::to_string).collect();
    let text = "TrafficPolicy till/own names a budget of retries of service shop/a for the callers of its own namespace, which comes first";
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains(text), "{found:?}");
    assert_eq!(with.findings, compile(&builder.world()).findings);
    apply(
        &mut builder,
        [mesh(json!({"bypassedNamespaces": [{"namespace": "till"}]}))],
    );
    let bypassed = with.update(&builder.world());
    let of_backend =
        |of: &&heddle_policy_compiler::Finding| of.object.kind == ObjectKind::XBackendTrafficPolicy;
    assert_eq!(bypassed.findings.iter().find(of_backend), None);
}
