//! Which endpoints a caller gets, and whether it speaks mTLS to them: by pods, slices and addresses in every state.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

#[path = "../cluster/mod.rs"]
mod cluster;
mod explained;

use cluster::view::{endpoints, resource, view};
use cluster::{annotated, apply, ending, pod, service, slice, split, version};
use heddle_policy_compiler::{
    Compiled, NamespacedName, ObjectKind, ObjectRef, World, WorldBuilder, compile,
};
use serde_json::{Value, json};

fn name(name: &str) -> NamespacedName {
    NamespacedName::new("shop", name)
}

fn port() -> Value {
    json!({"name": "http", "port": 8080, "protocol": "TCP"})
}

/// The service `web` with an address, and a pod `caller` that calls it.
fn shop(selector: Value) -> WorldBuilder {
    let mut builder = World::builder();
    let ports = json!([{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080}]);
    let caller = annotated(
        pod("caller", "caller", "10.0.0.9", true, true),
        "heddle.dev/destinations",
        "shop/*",
    );
    apply(
        &mut builder,
        [service("web", "10.96.0.1", selector, ports), caller],
    );
    builder
}

/// The identities that a cluster accepts.
fn identities(view: &[(String, Value)], cluster: &str) -> Vec<String> {
    let text = resource(view, &format!("Cluster {cluster}")).to_string();
    let ids = text.split('"').filter(|t| t.starts_with("spiffe://"));
    ids.map(str::to_owned).collect()
}

const WEB: &str = "out|shop/web|80";

fn web(builder: &mut WorldBuilder) -> Vec<String> {
    endpoints(&view(&compile(&builder.world()), "caller", &[]), WEB)
}

/// A slice with one endpoint, which names no pod.
fn unnamed(slice_name: &str, ip: &str) -> Value {
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": slice_name, "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
        "ports": [port()], "endpoints": [{"addresses": [ip], "conditions": {"ready": true}}]})
}

#[test]
fn an_address_without_a_target_is_resolved_by_the_pods_that_have_it() {
    let store = || pod("store", "store", "10.0.0.5", true, true);
    let plain = || pod("plain", "plain", "10.0.0.5", false, true);
    let ended = |mut pod: Value| {
        pod["status"]["phase"] = json!("Succeeded");
        pod
    };
    let elsewhere = |mut pod: Value| {
        pod["metadata"]["namespace"] = json!("other");
        pod
    };
    const MTLS: &str = "10.0.0.5:8080";
    const BARE: &str = "10.0.0.5:8080 plain";
    type Case = (&'static str, Vec<Value>, &'static [&'static str]);
    let cases: Vec<Case> = vec![
        ("nobody: outside", vec![], &[BARE]),
        ("a pod with a sidecar", vec![store()], &[MTLS]),
        ("of another namespace", vec![elsewhere(store())], &[MTLS]),
        ("a pod without", vec![plain()], &[BARE]),
        ("a terminating pod", vec![ending(store())], &[MTLS]),
        ("a pod that has ended", vec![ended(store())], &[BARE]),
        (
            "the address has moved to a pod without a sidecar",
            vec![ending(store()), plain()],
            &[BARE],
        ),
        (
            "the address has moved to a pod with a sidecar",
            vec![store(), ending(plain())],
            &[MTLS],
        ),
        ("two of them claim it", vec![store(), plain()], &[]),
        (
            "pods of the host's network share it",
            vec![plain(), pod("more", "more", "10.0.0.5", false, true)],
            &[BARE],
        ),
    ];
    for (case, pods, expected) in cases {
        let mut builder = shop(json!({}));
        apply(&mut builder, [unnamed("web-x", "10.0.0.5")]);
        let before = compile(&builder.world());
        apply(&mut builder, pods);
        let after = before.update(&builder.world());
        for compiled in [&after, &compile(&builder.world())] {
            let view = view(compiled, "caller", &[]);
            assert_eq!(endpoints(&view, WEB), expected, "{case}");
            if expected == [MTLS] {
                let namespace = if case.contains("another") {
                    "other"
                } else {
                    "shop"
                };
                let id = format!("spiffe://cluster.local/ns/{namespace}/sa/store");
                assert_eq!(identities(&view, WEB), [id], "{case}");
            }
        }
    }
}

#[test]
fn a_target_that_is_not_known_or_has_ended_gets_nothing() {
    let named = || slice("web-x", "web", port(), &[("web-0", "10.0.0.5", true)]);
    let mut builder = shop(json!({"app": "web"}));
    apply(&mut builder, [named()]);
    assert!(web(&mut builder).is_empty(), "its pod is not known yet");
    apply(&mut builder, [pod("web-0", "web", "10.0.0.5", true, true)]);
    assert_eq!(web(&mut builder), ["10.0.0.5:8080"]);
    let mut ended = pod("web-0", "web", "10.0.0.5", true, true);
    ended["status"]["phase"] = json!("Failed");
    apply(&mut builder, [ended]);
    assert!(web(&mut builder).is_empty(), "it has ended");
    // Another pod has the address now, and the slice is outdated.
    apply(&mut builder, [pod("new", "new", "10.0.0.5", true, true)]);
    assert!(web(&mut builder).is_empty());
}

#[test]
fn of_several_copies_of_an_endpoint_the_right_one_counts() {
    let copy = |slice_name: &str, ready: bool, versions: Option<&str>| {
        let copy = slice(slice_name, "web", port(), &[("web-0", "10.0.0.5", ready)]);
        match versions {
            Some(text) => version(copy, text),
            None => copy,
        }
    };
    type Case = (&'static str, bool, [Value; 2], bool);
    let cases: [Case; 6] = [
        (
            "the newer one is ready",
            false,
            [copy("a", false, Some("9")), copy("b", true, Some("10"))],
            true,
        ),
        (
            "the newer one is not ready",
            true,
            [copy("a", true, Some("9")), copy("b", false, Some("10"))],
            false,
        ),
        (
            "no versions, a ready pod",
            true,
            [copy("a", false, None), copy("b", true, None)],
            true,
        ),
        (
            "no versions, in the other order",
            true,
            [copy("a", true, None), copy("b", false, None)],
            true,
        ),
        (
            "no versions, a pod that is not ready",
            false,
            [copy("a", true, None), copy("b", false, None)],
            false,
        ),
        (
            "one version, a ready pod",
            true,
            [copy("a", false, Some("9")), copy("b", true, None)],
            true,
        ),
    ];
    for (case, ready, copies, expected) in cases {
        let mut builder = shop(json!({"app": "web"}));
        apply(&mut builder, copies);
        apply(&mut builder, [pod("web-0", "web", "10.0.0.5", true, ready)]);
        let expected: &[&str] = if expected { &["10.0.0.5:8080"] } else { &[] };
        assert_eq!(web(&mut builder), expected, "{case}");
    }
}

#[test]
fn a_pod_that_becomes_ready_decides_between_copies() {
    let mut builder = shop(json!({"app": "web"}));
    let copies = [true, false].map(|ready| {
        let name = format!("web-{ready}");
        slice(&name, "web", port(), &[("web-0", "10.0.0.5", ready)])
    });
    apply(&mut builder, copies);
    apply(&mut builder, [pod("web-0", "web", "10.0.0.5", true, false)]);
    let before = compile(&builder.world());
    assert!(endpoints(&view(&before, "caller", &[]), WEB).is_empty());
    apply(&mut builder, [pod("web-0", "web", "10.0.0.5", true, true)]);
    let after = before.update(&builder.world());
    assert_eq!(
        endpoints(&view(&after, "caller", &[]), WEB),
        ["10.0.0.5:8080"]
    );
}

/// The address of a pod that ends is another pod's already, and the old copy is still there.
#[test]
fn of_copies_that_name_different_pods_the_one_that_stays_counts() {
    for (old, new) in [("a-old", "b-new"), ("b-old", "a-new")] {
        let mut builder = shop(json!({"app": "web"}));
        apply(
            &mut builder,
            [
                slice("x", "web", port(), &[(old, "10.0.0.5", false)]),
                slice("y", "web", port(), &[(new, "10.0.0.5", true)]),
                ending(pod(old, "web", "10.0.0.5", true, false)),
                pod(new, "web", "10.0.0.5", true, true),
            ],
        );
        assert_eq!(web(&mut builder), ["10.0.0.5:8080"], "{old}");
    }
}

#[test]
fn a_terminating_pod_keeps_its_sidecar_and_its_address() {
    let stores = || {
        ["store-0", "store-1"].map(|name| {
            let ip = format!("10.0.1.{}", &name[6..]);
            pod(name, "store", &ip, true, true)
        })
    };
    let mut builder = shop(json!({"app": "web"}));
    apply(&mut builder, stores());
    let before = compile(&builder.world());
    let [first, second] = stores();
    apply(&mut builder, [ending(first.clone()), second]);
    let after = before.update(&builder.world());
    let held = ["pod/shop/store-0:8080", "service/shop/web:80"];
    assert!(after.proxies[&name("store-0")].terminating);
    let of = |compiled: &Compiled, proxy: &str| view(compiled, proxy, &held);
    for proxy in ["store-0", "store-1", "caller"] {
        assert_eq!(of(&before, proxy), of(&after, proxy), "{proxy}");
    }
    assert_eq!(
        endpoints(&of(&after, "store-1"), "pods|shop/store|http"),
        ["10.0.1.0:8080"]
    );

    // Another pod has the address, while the API still shows the old one.
    apply(
        &mut builder,
        [pod("later", "later", "10.0.1.0", true, true)],
    );
    let moved = after.update(&builder.world());
    let at = moved.destination_at("10.0.1.0:8080".parse().unwrap());
    assert_eq!(at.unwrap().to_string(), "pod/shop/later:8080");

    let mut ended = ending(first);
    ended["status"]["phase"] = json!("Succeeded");
    apply(&mut builder, [ended]);
    let gone = moved.update(&builder.world());
    assert!(!gone.proxies.contains_key(&name("store-0")));
}

/// The slice names a pod without a sidecar, at the address of a pod that has one.
#[test]
fn a_slice_that_names_another_pod_leads_no_plain_text_to_a_sidecar() {
    let store = |ip: &str| pod("store", "store", ip, true, true);
    let plain = |ip: &str| pod("plain", "plain", ip, false, true);
    let without_address = |mut pod: Value| {
        pod["status"]["podIPs"] = json!([]);
        pod
    };
    const BARE: &str = "10.0.0.5:8080 plain";
    type Case = (&'static str, Vec<Value>, &'static [&'static str], bool);
    let cases: Vec<Case> = vec![
        ("at its address", vec![plain("10.0.0.5")], &[BARE], false),
        (
            "at the address of a pod with a sidecar",
            vec![store("10.0.0.5"), plain("10.0.0.6")],
            &[],
            true,
        ),
        (
            "at an address without a pod",
            vec![plain("10.0.0.6")],
            &[],
            true,
        ),
        (
            "no address known yet",
            vec![without_address(plain(""))],
            &[],
            false,
        ),
        (
            "both have the address",
            vec![plain("10.0.0.5"), store("10.0.0.5")],
            &[],
            true,
        ),
        (
            "the address has moved, and the slice is outdated",
            vec![ending(plain("10.0.0.5")), store("10.0.0.5")],
            &[],
            true,
        ),
    ];
    for (case, pods, expected, misnamed) in cases {
        for reversed in [false, true] {
            let mut builder = shop(json!({}));
            let named = slice("web-x", "web", port(), &[("plain", "10.0.0.5", true)]);
            apply(&mut builder, [named]);
            let mut compiled = compile(&builder.world());
            let mut pods = pods.clone();
            if reversed {
                pods.reverse();
            }
            for pod in pods {
                apply(&mut builder, [pod]);
                compiled = compiled.update(&builder.world());
            }
            for compiled in [&compiled, &compile(&builder.world())] {
                let view = view(compiled, "caller", &[]);
                assert_eq!(endpoints(&view, WEB), expected, "{case}");
                let found = &compiled.findings;
                let found = found.iter().any(|f| f.code == "EndpointNamesAnotherPod");
                assert_eq!(found, misnamed, "{case}");
            }
            // The pod with the sidecar leaves.
            apply(&mut builder, [plain("10.0.0.5")]);
            builder.remove(&ObjectRef::new(ObjectKind::Pod, "shop", "store"));
            let after = compiled.update(&builder.world());
            let view = view(&after, "caller", &[]);
            assert_eq!(endpoints(&view, WEB), [BARE], "{case}");
        }
    }
}

/// A sidecar comes to the address of the named pod and leaves it, while neither the slice nor the named pod changes.
#[test]
fn a_pod_beside_the_named_one_decides_by_its_sidecar() {
    let mut builder = shop(json!({}));
    let named = slice("web-x", "web", port(), &[("plain", "10.0.0.5", true)]);
    apply(
        &mut builder,
        [named, pod("plain", "plain", "10.0.0.5", false, true)],
    );
    let mut compiled = compile(&builder.world());
    for (ip, expected) in [
        ("10.0.0.5", &[][..]),
        ("10.0.0.7", &["10.0.0.5:8080 plain"]),
        ("10.0.0.5", &[]),
    ] {
        apply(&mut builder, [pod("store", "store", ip, true, true)]);
        compiled = compiled.update(&builder.world());
        let view = view(&compiled, "caller", &[]);
        assert_eq!(endpoints(&view, WEB), expected, "{ip}");
    }
}

/// The pod ends where callers of a split have it under the name of the split service, and the last endpoint is kept.
#[test]
fn the_exposure_of_a_pod_names_every_service_with_its_endpoints() {
    let mut builder = shop(json!({"app": "web"}));
    let ports = json!([{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080}]);
    let spec = json!({"service": "web", "backends": [
        {"service": "web", "weight": 50}, {"service": "canary", "weight": 50}]});
    let canary = |ready| {
        slice(
            "canary-1",
            "canary",
            port(),
            &[("canary-1", "10.0.0.6", ready)],
        )
    };
    apply(
        &mut builder,
        [
            service("canary", "10.96.0.2", json!({"app": "canary"}), ports),
            pod("web-1", "web", "10.0.0.5", true, true),
            pod("canary-1", "canary", "10.0.0.6", true, true),
            slice("web-1", "web", port(), &[("web-1", "10.0.0.5", true)]),
            canary(true),
            split("web", spec),
        ],
    );
    let compiled = compile(&builder.world());
    let of = |compiled: &Compiled, pod: &str| {
        let exposure = compiled.exposure(&name(pod));
        let names = |all: &std::collections::BTreeSet<NamespacedName>| {
            all.iter().map(|of| of.name.to_string()).collect::<Vec<_>>()
        };
        (
            names(&exposure.services),
            names(&exposure.called),
            exposure.ready,
        )
    };
    let both = vec!["canary".to_owned(), "web".to_owned()];
    assert_eq!(
        of(&compiled, "canary-1"),
        (vec!["canary".into()], both.clone(), true)
    );
    assert_eq!(
        of(&compiled, "web-1"),
        (vec!["web".into()], vec!["web".into()], true)
    );
    assert_eq!(of(&compiled, "caller"), (vec![], vec![], false));
    // Every cluster with the pod is named after one of these services: `out|<namespace>/<service>|…`.
    let all = view(&compiled, "caller", &[]);
    let named = all
        .iter()
        .filter(|(_, value)| value.to_string().contains("10.0.0.6"));
    let named: Vec<&String> = named.map(|(key, _)| key).collect();
    assert!(named.len() >= 2, "{named:?}");
    for key in named {
        assert!(
            key.contains("out|shop/canary|") || key.contains("out|shop/web|"),
            "{key}"
        );
    }

    apply(
        &mut builder,
        [
            canary(false),
            ending(pod("canary-1", "canary", "10.0.0.6", true, true)),
        ],
    );
    let updated = compiled.update(&builder.world());
    assert_eq!(
        of(&updated, "canary-1"),
        (vec!["canary".into()], both, false)
    );
}
