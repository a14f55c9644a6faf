//! Pods with resources of their own as a whole.

use heddle_crds::ProxySettings;
use serde_json::{Value, json};

use super::{decided, sidecar};
use crate::injection::names;

/// The API server's arithmetic: init containers that stay count with all that start later, the others alone. It fills in the request of a pod
/// that has limits only: by the containers, else by the limit.
#[test]
fn a_pod_without_room_for_the_sidecar_is_refused_with_the_annotations() {
    let app = |resources: Value| json!([{"name": "app", "image": "x", "resources": resources}]);
    let requests = |cpu: &str, memory: &str| json!({"requests": {"cpu": cpu, "memory": memory}});
    let no_room = "spec.resources.requests.memory: 16Mi is less than 64Mi, which the containers and the sidecar request together; raise it to \
                   64Mi, or lower the request of the sidecar by heddle.dev/proxy-resources: requests.memory=16Mi";
    let small = json!({"requests": {"cpu": "20m", "memory": "16Mi"}, "limits": {"cpu": "50m", "memory": "32Mi"}});
    let cases = [
        (json!(null), app(requests("8", "8Gi")), json!([]), "", None),
        (small.clone(), app(json!({})), json!([]), "", Some(no_room)),
        (
            small,
            app(json!({})),
            json!([]),
            "requests.memory=16Mi",
            None,
        ),
        (
            requests("1", "128Mi"),
            app(requests("990m", "64Mi")),
            json!([]),
            "",
            None,
        ),
        (
            requests("1", "1Gi"),
            app(requests("991m", "64Mi")),
            json!([]),
            "",
            Some(
                "raise it to 1001m, or lower the request of the sidecar by heddle.dev/proxy-resources: requests.cpu=9m",
            ),
        ),
        // The limit of a container is its request.
        (
            requests("1", "1Gi"),
            app(json!({"limits": {"cpu": "1"}})),
            json!([]),
            "",
            Some("raise it to 1010m"),
        ),
        // One that ends, and one that stays.
        (
            requests("1", "1Gi"),
            app(requests("500m", "1Mi")),
            json!([{"name": "a", "resources": requests("990m", "1Mi")}]),
            "",
            None,
        ),
        (
            requests("1", "1Gi"),
            app(requests("500m", "1Mi")),
            json!([{"name": "a", "restartPolicy": "Always", "resources": requests("500m", "1Mi")}]),
            "",
            Some("1000m is less than 1010m"),
        ),
        (
            requests("1", "1Gi"),
            app(requests("10m", "1Mi")),
            json!([{"name": "a", "restartPolicy": "Always", "resources": requests("500m", "1Mi")}, {"name": "b", "resources": requests("500m", "1Mi")}]),
            "",
            Some("1000m is less than 1010m"),
        ),
        (
            json!({"limits": {"memory": "1Gi"}}),
            app(json!({})),
            json!([]),
            "",
            None,
        ),
        (
            json!({"limits": {"memory": "1Gi"}}),
            app(requests("1m", "64Mi")),
            json!([]),
            "",
            Some("1m is less than 11m"),
        ),
        (
            requests("1m", "1Mi"),
            app(json!({})),
            json!([]),
            "requests.cpu=1m,requests.memory=1Mi",
            Some("heddle.dev/init-resources: requests.cpu=1m"),
        ),
        // Asked again about its own result.
        (
            requests("20m", "128Mi"),
            app(json!({})),
            json!([{"name": "heddle-init", "resources": requests("20m", "128Mi")}, {"name": "heddle-proxy", "restartPolicy": "Always", "resources": requests("20m", "128Mi")}]),
            "",
            None,
        ),
    ];
    let mesh = ProxySettings::default();
    for (of_pod, containers, init, annotation, expected) in cases {
        let injection = decided(|pod| {
            pod["metadata"]["annotations"] = json!({names::PROXY_RESOURCES: annotation});
            pod["spec"] =
                json!({"resources": of_pod, "containers": containers, "initContainers": init});
        });
        let misfit = sidecar(injection).misfit(&mesh);
        assert_eq!(misfit.is_some(), expected.is_some(), "{of_pod}: {misfit:?}");
        let told = expected.is_none_or(|expected| misfit.as_ref().unwrap().contains(expected));
        assert!(told, "{of_pod}: {misfit:?}");
    }
}
