//! Pods that have containers and volumes under our names before injection.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{PodInjection, injected, injection_of, pod};

/// A container that somebody prepared under our names would carry the label of meshed pods and capture nothing.
#[test]
fn containers_prepared_by_hand_are_replaced() {
    let fresh = injected(&pod(|_| {}));
    type Change = fn(&mut Value);
    let changes: [Change; 9] = [
        |init| init[0]["command"] = json!(["/bin/true"]),
        |init| init[1]["command"] = json!(["/bin/true"]),
        |init| init[0]["args"] = json!(["init", "--dry-run"]),
        |init| {
            let env = init[0]["env"].as_array_mut().unwrap();
            env.push(json!({"name": "HEDDLE_EXCLUDE_INBOUND_PORTS", "value": "8080"}));
        },
        |init| init[1]["envFrom"] = json!([{"configMapRef": {"name": "other"}}]),
        |init| init[0]["image"] = json!("other"),
        |init| init[0]["securityContext"]["capabilities"] = json!({"add": ["NET_ADMIN"]}),
        |init| init.as_array_mut().unwrap().swap(0, 1),
        |init| {
            init.as_array_mut()
                .unwrap()
                .insert(0, json!({"name": "early", "image": "early"}))
        },
    ];
    for (index, change) in changes.into_iter().enumerate() {
        let mut prepared = fresh.clone();
        change(&mut prepared["spec"]["initContainers"]);
        let after = injected(&prepared);
        let both = |pod: &Value| pod["spec"]["initContainers"].as_array().unwrap()[..2].to_vec();
        assert_eq!(both(&after), both(&fresh), "{index}");
        let PodInjection::Inject(again) = injection_of(&after) else {
            panic!()
        };
        assert!(again.0.is_empty(), "{index}: {again}");
    }
    let lone = pod(|pod| {
        pod["spec"]["initContainers"] = json!([{"name": "heddle-proxy", "image": "mine"}])
    });
    assert_eq!(
        injected(&lone)["spec"]["initContainers"],
        fresh["spec"]["initContainers"]
    );
}

/// Every field of a container, with a value that injection never writes. A new field of Kubernetes needs a line here.
fn foreign_values() -> BTreeMap<&'static str, Value> {
    let probe = json!({"exec": {"command": ["true"]}});
    BTreeMap::from([
        ("args", json!(["other"])),
        ("command", json!(["other"])),
        ("env", json!([{"name": "OTHER", "value": "x"}])),
        ("envFrom", json!([{"configMapRef": {"name": "other"}}])),
        ("image", json!("other")),
        ("imagePullPolicy", json!("Never")),
        (
            "lifecycle",
            json!({"preStop": {"exec": {"command": ["true"]}}}),
        ),
        ("livenessProbe", probe.clone()),
        ("ports", json!([{"containerPort": 1, "hostPort": 1}])),
        ("readinessProbe", probe.clone()),
        (
            "resizePolicy",
            json!([{"resourceName": "cpu", "restartPolicy": "NotRequired"}]),
        ),
        ("resources", json!({"claims": [{"name": "other"}]})),
        ("restartPolicy", json!("OnFailure")),
        ("restartPolicyRules", json!([{"action": "Restart"}])),
        ("securityContext", json!({"privileged": true})),
        ("startupProbe", probe),
        ("stdin", json!(true)),
        ("stdinOnce", json!(true)),
        ("terminationMessagePath", json!("/etc/other")),
        ("terminationMessagePolicy", json!("FallbackToLogsOnError")),
        ("tty", json!(true)),
        (
            "volumeDevices",
            json!([{"name": "other", "devicePath": "/dev/other"}]),
        ),
        (
            "volumeMounts",
            json!([{"name": "other", "mountPath": SERVICE_ACCOUNT, "readOnly": true}]),
        ),
        ("workingDir", json!("/other")),
    ])
}

const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

#[test]
fn every_field_of_our_containers_is_compared() {
    let schema = schemars::schema_for!(k8s_openapi::api::core::v1::Container);
    let fields = schema.as_value()["properties"].as_object().unwrap();
    let fields = fields.keys().map(String::as_str);
    // The name decides whether a container is ours.
    let fields: Vec<&str> = fields.filter(|field| *field != "name").collect();
    let values = foreign_values();
    assert_eq!(fields, values.keys().copied().collect::<Vec<_>>());
    let fresh = injected(&pod(|_| {}));
    for (field, value) in values {
        for at in 0..2 {
            let mut prepared = fresh.clone();
            let container = &mut prepared["spec"]["initContainers"][at];
            match (&value, &mut container[field]) {
                (Value::Array(more), Value::Array(list)) => list.extend(more.iter().cloned()),
                (_, present) => *present = value.clone(),
            }
            let after = injected(&prepared);
            let both = |pod: &Value| pod["spec"]["initContainers"].clone();
            assert_eq!(both(&after), both(&fresh), "{field} of container {at}");
        }
    }
}

#[test]
fn volumes_prepared_by_hand_are_replaced() {
    let fresh = injected(&pod(|_| {}));
    let prepared = pod(|pod| {
        pod["spec"]["volumes"] = json!([{"name": "heddle-token", "secret": {"secretName": "mine"}}, {"name": "heddle-runtime", "emptyDir": {}}]);
    });
    assert_eq!(
        injected(&prepared)["spec"]["volumes"],
        fresh["spec"]["volumes"]
    );
}

#[test]
fn additions_of_the_api_server_are_not_mistaken_for_changes() {
    let mut filled = injected(&pod(|_| {}));
    for at in 0..2 {
        let container = &mut filled["spec"]["initContainers"][at];
        container["terminationMessagePath"] = json!("/dev/termination-log");
        container["terminationMessagePolicy"] = json!("File");
        container["resources"]["limits"]["cpu"] = json!("1");
        let token =
            json!({"name": "kube-api-access-x", "mountPath": SERVICE_ACCOUNT, "readOnly": true});
        match container["volumeMounts"].as_array_mut() {
            Some(mounts) => mounts.push(token),
            None => container["volumeMounts"] = json!([token]),
        }
        for variable in container["env"].as_array_mut().unwrap() {
            if let Some(field) = variable.pointer_mut("/valueFrom/fieldRef") {
                field["apiVersion"] = json!("v1");
            }
        }
    }
    filled["spec"]["initContainers"][1]["readinessProbe"]["successThreshold"] = json!(1);
    filled["spec"]["initContainers"][1]["readinessProbe"]["httpGet"]["scheme"] = json!("HTTP");
    filled["spec"]["volumes"][0]["projected"]["defaultMode"] = json!(420);
    let token = json!({"name": "kube-api-access-x", "projected": {"defaultMode": 420, "sources": [
        {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}}]}});
    let volumes = filled["spec"]["volumes"].as_array_mut().unwrap();
    volumes.push(token);
    let PodInjection::Inject(again) = injection_of(&filled) else {
        panic!()
    };
    assert!(again.0.is_empty(), "{again}");
}
