use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

mod pod_resources;

fn decided(change: impl FnOnce(&mut Value)) -> Injection {
    let mut pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "cart", "namespace": "shop"},
        "spec": {"containers": [{"name": "app", "image": "cart", "ports": [{"name": "http", "containerPort": 8080}]}]},
    });
    change(&mut pod);
    let pod: Pod = serde_json::from_value(pod).unwrap();
    decide(&pod.metadata, pod.spec.as_ref())
}

fn annotated(key: &str, value: &str) -> Injection {
    decided(|pod| pod["metadata"]["annotations"] = json!({key: value}))
}

fn sidecar(injection: Injection) -> SidecarSettings {
    match injection.decision {
        InjectionDecision::Inject(settings) => *settings,
        other => panic!("{other:?}"),
    }
}

#[test]
fn exclusions_are_normalized_for_the_agent() {
    let blocks = |text: &str| {
        let found = sidecar(annotated(names::EXCLUDE_OUTBOUND_CIDRS, text)).exclusions;
        let found = found.outbound_cidrs.iter().map(ToString::to_string);
        found.collect::<Vec<_>>()
    };
    assert_eq!(blocks("10.0.0.1"), ["10.0.0.1/32"]);
    assert_eq!(
        blocks("fd00::1, 10.1.2.3/8,,"),
        ["10.1.2.3/8", "fd00::1/128"]
    );
    let ports = annotated(names::EXCLUDE_INBOUND_PORTS, " +22 , 022,9100,");
    assert_eq!(sidecar(ports).exclusions.inbound_ports, [22, 9100].into());
}

#[test]
fn annotations_that_mean_less_than_they_seem_to_are_warnings() {
    for (key, value, warning) in [
        (
            names::EXCLUDE_OUTBOUND_CIDRS,
            "10.1.0.0/16, ::ffff:10.0.0.0/104",
            "excludes nothing: connections over IPv4 have plain IPv4 addresses; write 10.0.0.0/8",
        ),
        (
            names::PROXY_RESOURCES,
            "limits.memory=1G,limits.cpu=1,limits.memory=2G",
            "limits.memory stands twice, and the last value counts",
        ),
    ] {
        let injection = annotated(key, value);
        let warned = injection.warnings.iter().any(|of| of.contains(warning));
        assert!(warned, "{value}: {:?}", injection.warnings);
        sidecar(injection);
    }
}

#[test]
fn annotations_that_cannot_work_are_refused_with_their_name() {
    let many: Vec<String> = (1..=1001).map(|port: u16| port.to_string()).collect();
    let cases = [
        (names::EXCLUDE_INBOUND_PORTS, "ssh", "\"ssh\" is not a port"),
        (names::EXCLUDE_OUTBOUND_PORTS, "0", "\"0\" is not a port"),
        (
            names::EXCLUDE_INBOUND_PORTS,
            "15006",
            "port 15006 is the sidecar's own",
        ),
        (
            names::EXCLUDE_OUTBOUND_CIDRS,
            "10.0.0.0/33",
            "is not an address block",
        ),
        (
            names::EXCLUDE_OUTBOUND_CIDRS,
            "10.0.0",
            "is not an address block",
        ),
        (
            names::EXCLUDE_OUTBOUND_PORTS,
            &many.join(","),
            "1001 entries",
        ),
        (
            names::PROXY_RESOURCES,
            "cpu=1",
            "\"cpu=1\" is not a resource",
        ),
        (names::INIT_RESOURCES, "limits.cpu=-1", "is not a resource"),
        (names::INIT_RESOURCES, "limits.cpu=1ki", "is not a resource"),
        (names::INIT_RESOURCES, "limits.gpu=1", "is not a resource"),
        (
            names::INIT_RESOURCES,
            "requests.cpu=101m,limits.cpu=0.1",
            "requests.cpu=101m is more than limits.cpu=0.1",
        ),
        (
            names::PROXY_RESOURCES,
            "limits.memory=1G,requests.memory=1Gi",
            "requests.memory=1Gi is more than limits.memory=1G",
        ),
    ];
    for (key, value, expected) in cases {
        match annotated(key, value).decision {
            InjectionDecision::Refuse(reason) => assert!(
                reason.contains(expected) && reason.contains(key),
                "{reason}"
            ),
            other => panic!("{key}: {value}: {other:?}"),
        }
    }
}

#[test]
fn resources_of_a_pod_are_read() {
    let text = "requests.cpu=100m, limits.cpu=0.1 ,limits.memory=1Gi,";
    let found = sidecar(annotated(names::INIT_RESOURCES, text)).init;
    assert_eq!(found.get("requests", "cpu"), Some("100m"));
    assert_eq!(found.get("limits", "cpu"), Some("0.1"));
    assert_eq!(found.get("limits", "memory"), Some("1Gi"));
    assert_eq!(found.get("requests", "memory"), None);
}

#[test]
fn quantities_are_compared_exactly() {
    let more = [
        ("1", "999m"),
        ("1.5Gi", "1535Mi"),
        ("1Ei", "1E"),
        ("99999999999999999999999999999E", "1"),
    ];
    for (one, other) in more {
        assert!(is_more(one, other), "{one} and {other}");
        assert!(!is_more(other, one), "{other} and {one}");
    }
    for (one, other) in [
        ("0.3", "300m"),
        ("1024Mi", "1Gi"),
        ("1000k", "1M"),
        ("2.50", "2.5"),
        ("x", "1"),
    ] {
        assert!(
            !is_more(one, other) && !is_more(other, one),
            "{one} and {other}"
        );
    }
}

#[test]
fn pods_that_only_windows_nodes_may_run_are_skipped() {
    let linux_or_windows = |terms: Value| {
        decided(|pod| {
            pod["spec"]["affinity"] = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}});
        })
        .decision
    };
    let os = |operator: &str, values: Value| json!({"key": "kubernetes.io/os", "operator": operator, "values": values});
    let zone = json!({"key": "zone", "operator": "In", "values": ["windows"]});
    let windows = [
        json!([{"matchExpressions": [os("In", json!(["windows"]))]}]),
        json!([{"matchExpressions": [zone, os("In", json!(["Windows"]))]}]),
        json!([{"matchExpressions": [os("NotIn", json!(["linux"]))]}, {}]),
        json!([{"matchExpressions": [{"key": "beta.kubernetes.io/os", "operator": "In", "values": ["windows"]}]}]),
    ];
    for terms in windows {
        let decision = linux_or_windows(terms.clone());
        assert!(matches!(decision, InjectionDecision::Skip(_)), "{terms}");
    }
    let others = [
        json!([]),
        json!([{}]),
        json!([{"matchExpressions": [zone]}]),
        json!([{"matchExpressions": [os("In", json!(["windows", "linux"]))]}]),
        json!([{"matchExpressions": [os("NotIn", json!(["windows"]))]}]),
        json!([{"matchExpressions": [os("In", json!(["windows"]))]}, {"matchExpressions": [zone]}]),
        json!([{"matchExpressions": [os("In", json!(["windows"]))]}, {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n"]}]}]),
    ];
    for terms in others {
        let decision = linux_or_windows(terms.clone());
        assert!(matches!(decision, InjectionDecision::Inject(_)), "{terms}");
    }
    let old =
        decided(|pod| pod["spec"]["nodeSelector"] = json!({"beta.kubernetes.io/os": "windows"}));
    assert!(matches!(old.decision, InjectionDecision::Skip(_)));
}

#[test]
fn probes_and_hooks_of_the_sidecars_ports_are_refused() {
    let cases = [
        ("livenessProbe", json!({"httpGet": {"port": 15006}}), true),
        (
            "readinessProbe",
            json!({"tcpSocket": {"port": 15020}}),
            true,
        ),
        ("startupProbe", json!({"grpc": {"port": 15001}}), true),
        (
            "lifecycle",
            json!({"preStop": {"httpGet": {"port": 15007}}}),
            true,
        ),
        ("readinessProbe", json!({"httpGet": {"port": 15021}}), false),
        (
            "readinessProbe",
            json!({"httpGet": {"port": "http"}}),
            false,
        ),
        // Sent to another host.
        (
            "livenessProbe",
            json!({"httpGet": {"port": 15006, "host": "10.0.0.1"}}),
            false,
        ),
    ];
    for (field, probe, refused) in cases {
        let decided = decided(|pod| pod["spec"]["containers"][0][field] = probe.clone());
        match decided.decision {
            InjectionDecision::Refuse(reason) => {
                assert!(
                    refused && reason.starts_with(&format!("spec.containers[app].{field}")),
                    "{reason}"
                );
            }
            other => assert!(!refused, "{probe}: {other:?}"),
        }
    }
}

#[test]
fn names_of_the_sidecar_are_refused_where_injection_cannot_replace_them() {
    type Change = fn(&mut Value);
    let cases: [(Change, &str); 4] = [
        (
            |pod| pod["spec"]["containers"][0]["name"] = json!("heddle-proxy"),
            "spec.containers[heddle-proxy]: the name is the sidecar's own",
        ),
        (
            |pod| pod["spec"]["containers"][0]["name"] = json!("heddle-init"),
            "spec.containers[heddle-init]: the name is the sidecar's own",
        ),
        (
            |pod| {
                pod["spec"]["containers"][0]["volumeMounts"] =
                    json!([{"name": "heddle-runtime", "mountPath": "/x"}])
            },
            "the volume heddle-runtime is the sidecar's own",
        ),
        (
            |pod| pod["spec"]["initContainers"] = json!([{"name": "x", "volumeMounts": [{"name": "heddle-token", "mountPath": "/x"}]}]),
            "spec.initContainers[x].volumeMounts: the volume heddle-token",
        ),
    ];
    for (change, expected) in cases {
        match decided(change).decision {
            InjectionDecision::Refuse(reason) => assert!(reason.contains(expected), "{reason}"),
            other => panic!("{expected}: {other:?}"),
        }
    }
}

#[test]
fn misspelt_labels_and_annotations_are_warned_of() {
    let labels = [
        ("heddle.dev/inject", "false", "write disabled"),
        ("heddle.dev/inject", "Disabled", "write disabled"),
        ("heddle.dev/inject", "true", "write enabled"),
        ("heddle.dev/injct", "disabled", "means heddle.dev/inject"),
        ("hedle.dev/inject", "disabled", "means heddle.dev/inject"),
        (
            "heddle.dev/exclude-inbound-ports",
            "22",
            "write it as annotation",
        ),
        ("heddle.dev/color", "red", "remove it"),
        (
            "sidecar.heddle.dev/inject",
            "true",
            "means heddle.dev/inject",
        ),
        ("heddle-injection", "enabled", "means heddle.dev/inject"),
        ("proxy.heddle.dev/color", "red", "remove it"),
    ];
    let annotations = [
        ("heddle.dev/inject", "enabled", "write it as label"),
        (
            "heddle.dev/exclude-inbound-port",
            "22",
            "means heddle.dev/exclude-inbound-ports",
        ),
        (
            "heddle.dev/destination",
            "a/b",
            "means heddle.dev/destinations",
        ),
    ];
    let all = labels.map(|case| ("labels", case)).into_iter();
    for (kind, (key, value, expected)) in all.chain(annotations.map(|case| ("annotations", case))) {
        let warnings = decided(|pod| pod["metadata"][kind] = json!({key: value})).warnings;
        assert_eq!(warnings.len(), 1, "{key}: {value}: {warnings:?}");
        assert!(warnings[0].contains(expected), "{warnings:?}");
    }
    let sound = decided(|pod| {
        pod["metadata"]["labels"] = json!({"app": "cart", "helm.sh/chart": "cart", "heddle.dev/inject": "enabled", "heddle.dev/meshed": "true"});
        pod["metadata"]["annotations"] =
            json!({"heddle.dev/destinations": "shop/cart", "heritage": "x"});
    });
    assert_eq!(sound.warnings, Vec::<String>::new());
}

#[test]
fn a_namespace_with_a_key_that_is_not_read_there_is_warned_of() {
    let warnings = |kind: &str, key: &str, value: &str| {
        let all = Some(BTreeMap::from([(key.to_owned(), value.to_owned())]));
        let mut metadata = ObjectMeta::default();
        match kind {
            "label" => metadata.labels = all,
            _ => metadata.annotations = all,
        }
        namespace_warnings(&metadata).join("\n")
    };
    for (kind, key, value, expected) in [
        ("label", "heddle.dev/inject", "true", "write enabled"),
        (
            "label",
            "heddle.dev/injection",
            "enabled",
            "probably means heddle.dev/inject",
        ),
        (
            "label",
            "heddle-injection",
            "enabled",
            "probably means heddle.dev/inject",
        ),
        (
            "label",
            "sidecar.heddle.dev/inject",
            "true",
            "probably means heddle.dev/inject",
        ),
        (
            "label",
            "heddle.dev/exclude-inbound-ports",
            "80",
            "reads no such label",
        ),
        (
            "annotation",
            "heddle.dev/inject",
            "enabled",
            "as label only",
        ),
        (
            "annotation",
            "heddle.dev/exclude-inbound-ports",
            "80",
            "reads no such annotation",
        ),
    ] {
        let text = warnings(kind, key, value);
        assert!(text.contains(expected), "{kind} {key}: {text}");
    }
    for (kind, key, value) in [
        ("label", "heddle.dev/inject", "enabled"),
        ("label", "kubernetes.io/metadata.name", "shop"),
        ("label", "helm.sh/chart", "shop"),
        ("annotation", "linkerd.io/inject", "enabled"),
    ] {
        assert_eq!(warnings(kind, key, value), "");
    }
}

#[test]
fn keys_of_a_hostile_review_cost_little() {
    let long = |prefix: &str| format!("{prefix}{}", "x".repeat(2_000_000));
    let far = || (0..100_000).map(|n| format!("hx{n:015}"));
    let cases: [(Vec<String>, usize); 4] = [
        (vec![long("heddle.dev/"), long("h")], 0),
        // Ours, and too many to warn of each.
        (
            (0..200_000).map(|n| format!("heddle.dev/{n}")).collect(),
            16,
        ),
        (vec!["hyddle.dev/inject".to_owned()], 2),
        // Behind keys of the same length, that one is not compared any more.
        (far().chain(["hyddle.dev/inject".to_owned()]).collect(), 0),
    ];
    for (keys, expected) in cases {
        let all: BTreeMap<_, _> = keys.into_iter().map(|key| (key, String::new())).collect();
        let metadata = ObjectMeta {
            labels: Some(all.clone()),
            annotations: Some(all),
            ..ObjectMeta::default()
        };
        assert_eq!(spelling_warnings(&metadata).len(), expected);
    }
}

#[test]
fn a_pod_without_search_domains_uses_the_full_name() {
    for (policy, expected) in [
        (json!(null), DnsLookup::SearchDomains),
        (json!("ClusterFirst"), DnsLookup::SearchDomains),
        (json!("Default"), DnsLookup::FullName),
        (json!("None"), DnsLookup::FullName),
    ] {
        let injection = decided(|pod| pod["spec"]["dnsPolicy"] = policy.clone());
        let warned = injection
            .warnings
            .iter()
            .any(|w| w.contains("spec.dnsPolicy"));
        assert_eq!(warned, expected == DnsLookup::FullName, "{policy}");
        assert_eq!(sidecar(injection).dns, expected, "{policy}");
    }
}

/// The selectors of the manifest, evaluated as the API server does.
fn webhook_selects(manifest: &Value, namespace: &str, of: [Option<&str>; 2]) -> bool {
    let holds = |selector: &Value, labels: &BTreeMap<&str, &str>| {
        let mut all = selector["matchExpressions"].as_array().unwrap().iter();
        all.all(|expression| {
            let values = expression["values"].as_array().unwrap();
            let value = labels.get(expression["key"].as_str().unwrap());
            let one_of = value.is_some_and(|value| values.contains(&json!(value)));
            match expression["operator"].as_str().unwrap() {
                "In" => one_of,
                "NotIn" => !one_of,
                other => panic!("{other}"),
            }
        })
    };
    let namespace: BTreeMap<&str, &str> = [("kubernetes.io/metadata.name", namespace)]
        .into_iter()
        .chain(of[0].map(|value| (INJECT_LABEL, value)))
        .collect();
    let pod: BTreeMap<&str, &str> = of[1]
        .map(|value| (INJECT_LABEL, value))
        .into_iter()
        .collect();
    let webhooks = manifest["webhooks"].as_array().unwrap().iter();
    let selected = webhooks.filter(|w| {
        holds(&w["namespaceSelector"], &namespace) && holds(&w["objectSelector"], &pod)
    });
    selected.count() > 0
}

#[test]
fn selection_equals_the_selectors_of_the_installed_webhooks() {
    let text = include_str!("../../../config/default/webhook.yaml");
    let manifest: Value = serde_saphyr::from_str(text).unwrap();
    let values = [
        None,
        Some("enabled"),
        Some("disabled"),
        Some("true"),
        Some("Enabled"),
        Some(""),
    ];
    for namespace in ["shop", "kube-system", "heddle-system", "default"] {
        for of_namespace in values {
            for of_pod in values {
                assert_eq!(
                    is_selected(namespace, of_namespace, of_pod),
                    webhook_selects(&manifest, namespace, [of_namespace, of_pod]),
                    "{namespace}: {of_namespace:?} {of_pod:?}"
                );
            }
        }
    }
}

proptest! {
    /// No text panics, and an admitted text reads as itself after normalization.
    #[test]
    fn admitted_exclusions_are_stable(text in "[0-9a-f:./, +x]{0,40}") {
        for key in [names::EXCLUDE_INBOUND_PORTS, names::EXCLUDE_OUTBOUND_PORTS, names::EXCLUDE_OUTBOUND_CIDRS] {
            if let InjectionDecision::Inject(first) = annotated(key, &text).decision {
                let e = &first.exclusions;
                let ports = e.inbound_ports.iter().chain(&e.outbound_ports).map(ToString::to_string);
                let all: Vec<String> = ports.chain(e.outbound_cidrs.iter().map(ToString::to_string)).collect();
                prop_assert_eq!(sidecar(annotated(key, &all.join(","))), *first);
            }
        }
    }
}
