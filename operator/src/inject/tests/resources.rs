//! The compute resources of the two containers.

use super::*;

/// Every container of a pod must have a limit for a quota on limits, and limits equal to requests for the class Guaranteed.
#[test]
fn resources_of_both_containers_can_be_set() {
    let mut sidecar = sidecar();
    let mesh = json!({"proxy": {"initResources": {"requests": {"cpu": "20m"}, "limits": {"cpu": "200m", "memory": "32Mi"}}}});
    sidecar.mesh = serde_json::from_value(mesh).unwrap();
    let review = |pod: &Value| {
        let reviewed = review(&serde_json::from_value(pod.clone()).unwrap(), &sidecar);
        let PodInjection::Inject(patch) = reviewed.injection else {
            panic!()
        };
        let mut after = pod.clone();
        json_patch::patch(&mut after, &patch).unwrap();
        after["spec"]["initContainers"].clone()
    };
    let by_mesh = review(&pod(|_| {}));
    assert_eq!(
        by_mesh[0]["resources"],
        json!({"requests": {"cpu": "20m", "memory": "16Mi"}, "limits": {"cpu": "200m", "memory": "32Mi"}})
    );
    let halves = review(&pod(|pod| {
        pod["metadata"]["annotations"] =
            json!({"heddle.dev/init-resources": "limits.cpu=10m, requests.memory=64Mi"});
    }));
    assert_eq!(
        halves[0]["resources"],
        json!({"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"cpu": "10m", "memory": "64Mi"}}),
        "the mesh's request or limit gives way"
    );
    let all = "requests.cpu=1, limits.cpu=1, requests.memory=1Gi, limits.memory=1Gi";
    let by_pod = review(&pod(|pod| {
        pod["metadata"]["annotations"] =
            json!({"heddle.dev/proxy-resources": all, "heddle.dev/init-resources": all});
    }));
    for container in by_pod.as_array().unwrap() {
        assert_eq!(
            container["resources"]["requests"],
            json!({"cpu": "1", "memory": "1Gi"})
        );
        assert_eq!(
            container["resources"]["requests"],
            container["resources"]["limits"]
        );
    }
}

/// No pod of the cluster could be created with a request above its limit. The quantities come from the Mesh, from the annotation, or from both.
#[test]
fn no_container_has_a_request_above_its_limit() {
    let above = json!({"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "100m", "memory": "256Mi"}});
    let annotations = [
        "",
        "requests.cpu=2",
        "limits.cpu=1m,limits.memory=1Mi",
        "requests.memory=3Gi,limits.cpu=5m",
        "requests.cpu=3,limits.cpu=4",
    ];
    for (mesh, annotation) in [json!({}), above]
        .iter()
        .flat_map(|mesh| annotations.map(|annotation| (mesh, annotation)))
    {
        let mut sidecar = sidecar();
        let proxy = json!({"proxy": {"resources": mesh, "initResources": mesh}});
        sidecar.mesh = serde_json::from_value(proxy).unwrap();
        let pod = pod(|pod| {
            pod["metadata"]["annotations"] = json!({"heddle.dev/proxy-resources": annotation, "heddle.dev/init-resources": annotation});
        });
        let reviewed = review(&serde_json::from_value(pod.clone()).unwrap(), &sidecar);
        let PodInjection::Inject(patch) = reviewed.injection else {
            panic!("{:?}", reviewed.injection)
        };
        let mut after = pod;
        json_patch::patch(&mut after, &patch).unwrap();
        for container in after["spec"]["initContainers"].as_array().unwrap() {
            for (resource, limit) in container["resources"]["limits"].as_object().unwrap() {
                let request = container["resources"]["requests"][resource]
                    .as_str()
                    .unwrap();
                let limit = limit.as_str().unwrap();
                assert!(
                    !heddle_policy_compiler::injection::is_more(request, limit),
                    "{mesh} {annotation:?}: {container}"
                );
            }
        }
    }
}

/// The resources of the Mesh and of the annotation decide.
#[test]
fn a_pod_whose_own_requests_leave_no_room_is_refused() {
    let pod = |annotation: &str| {
        pod(|pod| {
            pod["spec"]["resources"] = json!({"requests": {"memory": "32Mi"}});
            pod["metadata"]["annotations"] = json!({"heddle.dev/proxy-resources": annotation});
        })
    };
    let mut small = sidecar();
    let resources = json!({"proxy": {"resources": {"requests": {"memory": "32Mi"}}}});
    small.mesh = serde_json::from_value(resources).unwrap();
    for (sidecar, annotation, refused) in [
        (&sidecar(), "", true),
        (&sidecar(), "requests.memory=32Mi", false),
        (&small, "", false),
        (&small, "requests.memory=33Mi", true),
    ] {
        let review = review(&serde_json::from_value(pod(annotation)).unwrap(), sidecar);
        match review.injection {
            PodInjection::Refuse(reason) => assert!(
                refused && reason.starts_with("spec.resources.requests.memory: "),
                "{annotation}: {reason}"
            ),
            PodInjection::Inject(_) => assert!(!refused, "{annotation}"),
            other => panic!("{other:?}"),
        }
    }
}
