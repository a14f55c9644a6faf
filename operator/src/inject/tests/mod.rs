mod prepared;
mod resources;

use heddle_agent::capture::CaptureSettings;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn sidecar() -> Sidecar {
    Sidecar {
        image: "heddle.dev/sidecar:dev".to_owned(),
        control_plane: "heddle.heddle-system.svc".to_owned(),
        trust_bundle: "-----BEGIN CERTIFICATE-----\n".to_owned(),
        mesh: MeshSpec::default(),
    }
}

/// A pod of one container; `change` makes it special.
fn pod(change: impl FnOnce(&mut Value)) -> Value {
    let mut pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"generateName": "cart-", "namespace": "shop"},
        "spec": {"containers": [{"name": "app", "image": "cart", "ports": [{"name": "http", "containerPort": 8080}]}]},
    });
    change(&mut pod);
    pod
}

fn injection_of(pod: &Value) -> PodInjection {
    review(&serde_json::from_value(pod.clone()).unwrap(), &sidecar()).injection
}

fn injected(pod: &Value) -> Value {
    let PodInjection::Inject(patch) = injection_of(pod) else {
        panic!("not injected: {:?}", injection_of(pod))
    };
    let mut after = pod.clone();
    json_patch::patch(&mut after, &patch).unwrap();
    after
}

fn names_of(pod: &Value, pointer: &str) -> Vec<String> {
    let list = pod
        .pointer(pointer)
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    list.iter()
        .map(|item| item["name"].as_str().unwrap().to_owned())
        .collect()
}

fn variable(container: &Value, name: &str) -> Value {
    let env = container["env"].as_array().unwrap();
    env.iter()
        .find(|variable| variable["name"] == name)
        .cloned()
        .unwrap_or_default()
}

#[test]
fn the_sidecar_comes_first_and_nothing_of_the_users_changes() {
    let before = pod(|pod| {
        pod["spec"]["initContainers"] = json!([{"name": "migrate", "image": "migrate"}]);
        pod["spec"]["volumes"] = json!([{"name": "data", "emptyDir": {}}]);
        pod["metadata"]["labels"] = json!({"app": "cart"});
    });
    let after = injected(&before);
    assert_eq!(
        names_of(&after, "/spec/initContainers"),
        ["heddle-init", "heddle-proxy", "migrate"]
    );
    assert_eq!(
        names_of(&after, "/spec/volumes"),
        ["data", "heddle-token", "heddle-runtime"]
    );
    assert_eq!(
        after["spec"]["initContainers"][2],
        before["spec"]["initContainers"][0]
    );
    assert_eq!(
        after["metadata"]["labels"],
        json!({"app": "cart", "heddle.dev/meshed": "true"})
    );
    let mut app = after["spec"]["containers"][0].clone();
    assert_eq!(
        app["lifecycle"],
        json!({"preStop": {"httpGet": {"path": "/hooks/pre-stop", "port": 15021}}})
    );
    app.as_object_mut().unwrap().remove("lifecycle");
    assert_eq!(app, before["spec"]["containers"][0]);
    // The API's own types take all of it.
    serde_json::from_value::<Pod>(after).unwrap();
}

#[test]
fn asked_again_it_changes_nothing() {
    let once = injected(&pod(|_| {}));
    let PodInjection::Inject(again) = injection_of(&once) else {
        panic!()
    };
    assert!(again.0.is_empty(), "{again}");
    // Nor when the API server has filled in defaults.
    let mut filled = once.clone();
    filled["spec"]["initContainers"][1]["imagePullPolicy"] = json!("IfNotPresent");
    filled["spec"]["initContainers"][1]["startupProbe"]["successThreshold"] = json!(1);
    let PodInjection::Inject(again) = injection_of(&filled) else {
        panic!()
    };
    assert!(again.0.is_empty(), "{again}");
}

/// The annotations after injection under a Mesh that names a reader of metrics.
fn annotated(pod: &Value) -> Value {
    let reader =
        json!({"metricsReaders": [{"namespace": "monitoring", "serviceAccount": "prometheus"}]});
    let mut sidecar = sidecar();
    sidecar.mesh.telemetry = serde_json::from_value(reader).unwrap();
    let mut after = pod.clone();
    for _ in ["first", "again"] {
        let parsed: Pod = serde_json::from_value(after.clone()).unwrap();
        let PodInjection::Inject(patch) = review(&parsed, &sidecar).injection else {
            panic!("not injected")
        };
        json_patch::patch(&mut after, &patch).unwrap();
    }
    after["metadata"]["annotations"].clone()
}

#[test]
fn scrapers_find_the_sidecar_by_annotations_and_those_of_the_application_stay() {
    let sidecars = json!({
        "prometheus.io/scrape": "true",
        "prometheus.io/port": "15020",
        "prometheus.io/path": "/stats/prometheus",
    });
    assert_eq!(annotated(&pod(|_| {})), sidecars);
    let with = |annotations: Value| pod(|pod| pod["metadata"]["annotations"] = annotations);
    let mut beside = sidecars;
    beside["team"] = json!("cart");
    assert_eq!(annotated(&with(json!({"team": "cart"}))), beside);
    for own in [
        json!({"prometheus.io/scrape": "true", "prometheus.io/port": "8080"}),
        json!({"prometheus.io/scrape": "false"}),
        json!({"prometheus.io/scheme": "https"}),
    ] {
        assert_eq!(annotated(&with(own.clone())), own);
    }
    // Without a reader, the sidecar answers no scrape.
    assert_eq!(injected(&pod(|_| {}))["metadata"].get("annotations"), None);
}

#[test]
fn the_sidecar_is_told_its_workload_as_the_compiler_finds_it() {
    let owned = |kind: &str, name: &str| {
        pod(|pod| {
            pod["metadata"]["labels"] = json!({"pod-template-hash": "5d4f8"});
            pod["metadata"]["ownerReferences"] = json!([{"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": "1", "controller": true}]);
        })
    };
    let told = |pod: &Value| {
        let after = injected(pod);
        let PodInjection::Inject(again) = injection_of(&after) else {
            panic!()
        };
        assert!(again.0.is_empty(), "{again}");
        variable(&after["spec"]["initContainers"][1], "HEDDLE_WORKLOAD")["value"].clone()
    };
    assert_eq!(told(&owned("ReplicaSet", "cart-5d4f8")), "cart");
    assert_eq!(told(&owned("StatefulSet", "db")), "db");
    assert_eq!(told(&owned("Job", "backup-29384756")), "backup");
    assert_eq!(told(&owned("Odd", "$(POD_NAME)")), "$$(POD_NAME)");
    // The agent takes the pod's name, which is not known yet.
    assert_eq!(told(&pod(|_| {})), Value::Null);
}

#[test]
fn containers_of_other_webhooks_are_included() {
    let mut pod = injected(&pod(|_| {}));
    let other =
        json!({"name": "other", "image": "other", "readinessProbe": {"tcpSocket": {"port": 9000}}});
    pod["spec"]["containers"]
        .as_array_mut()
        .unwrap()
        .push(other);
    let after = injected(&pod);
    assert_eq!(
        variable(
            &after["spec"]["initContainers"][0],
            "HEDDLE_TCP_PROBE_PORTS"
        )["value"],
        "9000"
    );
    assert_eq!(
        names_of(&after, "/spec/initContainers"),
        ["heddle-init", "heddle-proxy"]
    );
    assert_eq!(
        after["spec"]["containers"][1]["lifecycle"]["preStop"]["httpGet"]["port"],
        15021
    );
}

#[test]
fn the_sidecar_has_no_more_rights_than_it_needs() {
    let after = injected(&pod(|_| {}));
    let init = &after["spec"]["initContainers"][0];
    assert_eq!(init["args"], json!(["init"]));
    assert_eq!(
        init["securityContext"]["capabilities"],
        json!({"add": ["NET_ADMIN"], "drop": ["ALL"]})
    );
    assert_eq!(init["securityContext"]["runAsUser"], 0);
    let proxy = &after["spec"]["initContainers"][1];
    assert_eq!(proxy["restartPolicy"], "Always");
    assert_eq!(
        proxy["securityContext"]["capabilities"],
        json!({"drop": ["ALL"]})
    );
    assert_eq!(proxy["securityContext"]["runAsUser"], 1337);
    for container in [init, proxy] {
        assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
        assert_eq!(
            container["securityContext"]["allowPrivilegeEscalation"],
            false
        );
    }
    assert_eq!(
        variable(proxy, "POD_NAME")["valueFrom"]["fieldRef"]["fieldPath"],
        "metadata.name"
    );
    assert_eq!(
        variable(init, "HEDDLE_HOST_IPS")["valueFrom"]["fieldRef"]["fieldPath"],
        "status.hostIPs"
    );
    assert_eq!(
        proxy["resources"]["requests"],
        json!({"cpu": "10m", "memory": "64Mi"})
    );
    assert_eq!(
        proxy["startupProbe"]["httpGet"],
        json!({"path": "/healthz/ready", "port": 15021})
    );
    let token = &after["spec"]["volumes"][0]["projected"]["sources"][0]["serviceAccountToken"];
    assert_eq!(
        token,
        &json!({"audience": "heddle.dev", "expirationSeconds": 3600, "path": "token"})
    );
}

#[test]
fn tcp_probes_are_found_by_number_and_name() {
    let before = pod(|pod| {
        let app = &mut pod["spec"]["containers"][0];
        app["livenessProbe"] = json!({"tcpSocket": {"port": "http"}});
        app["readinessProbe"] = json!({"tcpSocket": {"port": 5432}});
        app["startupProbe"] = json!({"tcpSocket": {"port": "nowhere"}});
    });
    let after = injected(&before);
    assert_eq!(
        variable(
            &after["spec"]["initContainers"][0],
            "HEDDLE_TCP_PROBE_PORTS"
        )["value"],
        "5432,8080"
    );
    let warnings = review(&serde_json::from_value(before).unwrap(), &sidecar()).warnings;
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].contains("\"nowhere\""), "{warnings:?}");
}

#[test]
fn exclusions_reach_capture_in_one_form() {
    let before = pod(|pod| {
        pod["metadata"]["annotations"] = json!({
            "heddle.dev/exclude-inbound-ports": "22, 9100",
            "heddle.dev/exclude-outbound-cidrs": "10.1.0.0/16,fd00::/8",
        });
    });
    let init = injected(&before)["spec"]["initContainers"][0].clone();
    assert_eq!(
        variable(&init, "HEDDLE_EXCLUDE_INBOUND_PORTS")["value"],
        "22,9100"
    );
    assert_eq!(
        variable(&init, "HEDDLE_EXCLUDE_OUTBOUND_CIDRS")["value"],
        "10.1.0.0/16,fd00::/8"
    );
    assert_eq!(
        variable(&init, "HEDDLE_EXCLUDE_OUTBOUND_PORTS"),
        Value::Null
    );
}

#[test]
fn pre_stop_is_added_only_where_none_is_and_time_allows() {
    let own = json!({"preStop": {"exec": {"command": ["drain"]}}});
    let cases = [
        (
            json!({}),
            json!(null),
            json!({"preStop": {"httpGet": {"path": "/hooks/pre-stop", "port": 15021}}}),
        ),
        (json!({"lifecycle": own}), json!(null), own.clone()),
        (json!({}), json!(2), json!(null)),
        (
            json!({}),
            json!(3),
            json!({"preStop": {"httpGet": {"path": "/hooks/pre-stop", "port": 15021}}}),
        ),
    ];
    for (lifecycle, grace, expected) in cases {
        let after = injected(&pod(|pod| {
            pod["spec"]["containers"][0]
                .as_object_mut()
                .unwrap()
                .extend(lifecycle.as_object().unwrap().clone());
            if grace != Value::Null {
                pod["spec"]["terminationGracePeriodSeconds"] = grace;
            }
        }));
        assert_eq!(after["spec"]["containers"][0]["lifecycle"], expected);
    }
}

#[test]
fn pods_that_cannot_work_are_refused_with_the_field() {
    type Change = fn(&mut Value);
    let cases: [(Change, &str); 5] = [
        (
            |pod| pod["spec"]["containers"][0]["securityContext"] = json!({"runAsUser": 1337}),
            "spec.containers[app]: it runs as user 1337",
        ),
        (
            |pod| pod["spec"]["securityContext"] = json!({"runAsUser": 1337}),
            "spec.containers[app]: it runs as user 1337",
        ),
        (
            |pod| pod["spec"]["containers"][0]["ports"] = json!([{"containerPort": 15006}]),
            "port 15006 is the sidecar's own",
        ),
        (
            |pod| pod["spec"]["initContainers"] = json!([{"name": "side", "restartPolicy": "Always", "ports": [{"containerPort": 15020}]}]),
            "spec.initContainers[side].ports: port 15020",
        ),
        (
            |pod| {
                pod["metadata"]["annotations"] = json!({"heddle.dev/exclude-inbound-ports": "ssh"})
            },
            "\"ssh\" is not a port",
        ),
    ];
    for (change, expected) in cases {
        match injection_of(&pod(change)) {
            PodInjection::Refuse(reason) => assert!(reason.contains(expected), "{reason}"),
            other => panic!("{expected}: {other:?}"),
        }
    }
    let udp = pod(|pod| {
        pod["spec"]["containers"][0]["ports"] = json!([{"containerPort": 15006, "protocol": "UDP"}])
    });
    injected(&udp);
}

#[test]
fn host_network_and_windows_pods_are_skipped_with_a_reason() {
    type Change = fn(&mut Value);
    let cases: [(Change, &str); 3] = [
        (
            |pod| pod["spec"]["hostNetwork"] = json!(true),
            "hostNetwork",
        ),
        (
            |pod| pod["spec"]["os"] = json!({"name": "windows"}),
            "Windows",
        ),
        (
            |pod| pod["spec"]["nodeSelector"] = json!({"kubernetes.io/os": "windows"}),
            "Windows",
        ),
    ];
    for (change, expected) in cases {
        let mut pod = pod(change);
        let PodInjection::Skip { reason, patch } = injection_of(&pod) else {
            panic!("{expected}")
        };
        assert!(reason.contains(expected), "{reason}");
        json_patch::patch(&mut pod, &patch).unwrap();
        assert_eq!(
            pod["metadata"]["annotations"]["heddle.dev/not-injected"],
            json!(reason)
        );
        assert_eq!(names_of(&pod, "/spec/initContainers"), Vec::<String>::new());
    }
    let disabled = pod(|pod| pod["metadata"]["labels"] = json!({"heddle.dev/inject": "disabled"}));
    assert!(matches!(injection_of(&disabled), PodInjection::Leave));
}

#[test]
fn a_pod_without_search_domains_gets_the_full_name_of_the_control_plane() {
    let of = |policy: &str| {
        let after = injected(&pod(|pod| pod["spec"]["dnsPolicy"] = json!(policy)));
        variable(&after["spec"]["initContainers"][1], "HEDDLE_CONTROL_PLANE")["value"].clone()
    };
    assert_eq!(of("ClusterFirst"), "heddle.heddle-system.svc");
    assert_eq!(of("None"), "heddle.heddle-system.svc.cluster.local.");
    assert_eq!(of("Default"), "heddle.heddle-system.svc.cluster.local.");
}

proptest! {
    /// A pod with an admitted annotation starts: `heddle-agent init` reads each value that the webhook writes.
    #[test]
    fn admitted_annotations_are_taken_by_the_agent(text in "[0-9a-f:./, +]{0,40}|(10\\.[0-9]{1,2}\\.0\\.[0-9](/[0-9]{1,2})?,? ?){0,3}|([0-9]{1,5}, ?){0,4}") {
        for key in [
            names::EXCLUDE_INBOUND_PORTS,
            names::EXCLUDE_OUTBOUND_PORTS,
            names::EXCLUDE_OUTBOUND_CIDRS,
        ] {
            let pod = pod(|pod| pod["metadata"]["annotations"] = json!({key: text}));
            if let PodInjection::Refuse(_) = injection_of(&pod) {
                continue;
            }
            let init = injected(&pod)["spec"]["initContainers"][0].clone();
            let read = CaptureSettings::read(|name| {
                variable(&init, name)["value"].as_str().map(str::to_owned)
            });
            prop_assert!(read.is_ok(), "{key}: {text:?}: {read:?}");
        }
    }
}
