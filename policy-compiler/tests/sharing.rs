//! Resources that several proxies need are made once, and held once.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod cluster;
mod harness;

use std::collections::BTreeSet;
use std::sync::Arc;

use cluster::{apply, pod, service};
use heddle_policy_compiler::{
    Compiled, NamespacedName, ResourceKey, ResourceKind, View, World, compile,
};
use serde_json::{Value, json};

/// Returns the view of a pod that has called the service `a`.
fn view(compiled: &Compiled, namespace: &str, name: &str) -> View {
    let a = "10.96.0.1:80".parse().unwrap();
    let wanted = BTreeSet::from([Compiled::on_demand_name(a, harness::HOUR)]);
    harness::view(compiled, &NamespacedName::new(namespace, name), &wanted).unwrap()
}

#[test]
fn workloads_of_different_namespaces_share_what_they_need_alike() {
    let of = |app: &str, ip: &str| {
        let http = json!([{"name": "http", "port": 80, "protocol": "TCP", "targetPort": "http"}]);
        service(app, ip, json!({"app": app}), http)
    };
    let moved = |mut object: Value| {
        object["metadata"]["namespace"] = json!("other");
        object
    };
    let mut builder = World::builder();
    let objects = [
        of("a", "10.96.0.1"),
        pod("a-0", "a", "10.0.0.1", true, true),
        moved(of("x", "10.96.0.2")),
    ];
    apply(&mut builder, objects);
    let before = compile(&builder.world());
    let a = view(&before, "shop", "a-0");
    // The pod is added later, and gets the existing resources.
    apply(
        &mut builder,
        [moved(pod("x-0", "x", "10.0.1.1", true, true))],
    );
    let after = before.update(&builder.world());
    let x = view(&after, "other", "x-0");
    let (a_has, x_has) = (a.resources(), x.resources());
    assert!(a_has.len() > 10 && a_has.keys().eq(x_has.keys()));
    let application = ResourceKey::new(ResourceKind::Cluster, "in|8080");
    for (key, resource) in &a_has {
        // They differ in one thing, the service that leads to the port.
        assert_eq!(
            Arc::ptr_eq(resource, &x_has[key]),
            *key != application,
            "{key}"
        );
    }
}
