//! The past of objects at a real API server, without a kubelet: the control plane logs each change, and the last good
//! specs outlive late writes, copies, deletions and the end of all replicas. `tests/e2e/network.sh` runs it, once the API server's
//! programs and the control plane are built.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a mistake in a test's own parts may fail the test"
)]

mod built;

use std::time::{Duration, Instant};

use heddle_bench::cluster::api::{core, group};
use heddle_bench::cluster::install::{NAMESPACE, OTHER_POD};
use heddle_bench::cluster::{Api, Variant};
use heddle_bench::mesh::{ROUTED, namespace_of, service_name};
use heddle_bench::objects;
use heddle_bench::operator::{Launch, Operator};
use heddle_bench::table::stage::Ground;
use serde_json::{Value, json};

const SERVICES: usize = 10;
const PATIENCE: Duration = Duration::from_secs(60);
const PERIOD: Duration = Duration::from_millis(100);

/// A policy that selects no pod, so that its spec is good as soon as it is accepted.
fn policy(rules: &Value) -> Value {
    json!({
        "apiVersion": "heddle.dev/v1alpha1", "kind": "AuthPolicy",
        "metadata": {"name": "kept", "namespace": namespace_of(ROUTED)},
        "spec": {"selector": {"matchLabels": {"app": "later"}}, "rules": rules},
    })
}

/// More regular expressions than the policy of a sidecar may have. The definition allows them.
fn too_many() -> Value {
    let headers = (0..12).map(|n| json!({"name": format!("x-{n}"), "regex": format!("a{n}+")}));
    let headers: Vec<Value> = headers.collect();
    json!([{"to": {"headers": headers}}, {"to": {"headers": headers}}, {"to": {"headers": headers}}])
}

/// Waits until a call returns a value.
async fn until<T>(what: &str, mut call: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = call().await {
            return value;
        }
        assert!(Instant::now() < end, "{what}");
        tokio::time::sleep(PERIOD).await;
    }
}

/// Waits until a replica has logged a line with all of some texts.
async fn until_line(launch: &Launch, texts: &[&str]) {
    until(
        &format!("{texts:?} in {}", launch.log().display()),
        async || {
            let log = std::fs::read_to_string(launch.log()).unwrap_or_default();
            let mut lines = log.lines();
            lines
                .any(|line| texts.iter().all(|text| line.contains(text)))
                .then_some(())
        },
    )
    .await;
}

/// The ConfigMap with the last good spec of an object: its name and the text.
async fn stored(api: &Api, uid: &str) -> Option<(String, String)> {
    let maps = core(NAMESPACE, "configmaps");
    let list = api.get(&maps).await.ok()?;
    let mut maps = list["items"].as_array()?.iter().filter(|map| {
        let name = map["metadata"]["name"].as_str().unwrap_or_default();
        name.starts_with("heddle-lastgood-") && !name.ends_with("-copy")
    });
    maps.find_map(|map| {
        let text = map["data"][uid].as_str()?;
        Some((
            map["metadata"]["name"].as_str()?.to_owned(),
            text.to_owned(),
        ))
    })
}

/// The last good spec of a text in the store.
fn spec_of(text: &str) -> Value {
    let text: Value = serde_json::from_str(text).unwrap();
    serde_json::from_str(text["lastGood"]["json"].as_str().unwrap()).unwrap()
}

/// The path of the only rule of a spec.
fn path_of(spec: &Value) -> &str {
    spec["rules"][0]["to"]["paths"][0].as_str().unwrap()
}

/// A text of the store with another generation and path.
fn forged(text: &str, generation: i64, path: &str) -> String {
    let mut text: Value = serde_json::from_str(text).unwrap();
    let spec = policy(&json!([{"to": {"paths": [path]}}]))["spec"].clone();
    text["lastGood"] = json!({"generation": generation, "json": spec.to_string()});
    text.to_string()
}

async fn changes_are_logged(ground: &Ground, replicas: &[&Launch]) {
    let (namespace, name) = (namespace_of(ROUTED), service_name(ROUTED));
    let object = format!("{namespace}/{name}");
    let path = |plural| {
        format!(
            "{}/{name}",
            group("heddle.dev/v1alpha1", &namespace, plural)
        )
    };
    let patch = objects::split([70, 30]);
    ground
        .api
        .patch(&path("trafficsplits"), &json!({"spec": patch["spec"]}))
        .await
        .unwrap();
    let patch = objects::policy("/other");
    ground
        .api
        .patch(&path("authpolicies"), &json!({"spec": patch["spec"]}))
        .await
        .unwrap();
    for launch in replicas {
        let split = format!("TrafficSplit {object}");
        until_line(launch, &["object changed", &split, "generation=2", "70/30"]).await;
        let policy = format!("AuthPolicy {object}");
        until_line(launch, &["object changed", &policy, "generation=2"]).await;
    }
    ground.api.delete(&path("trafficsplits")).await.unwrap();
    for launch in replicas {
        until_line(
            launch,
            &["object removed", &format!("TrafficSplit {object}")],
        )
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_logged_and_the_last_good_specs_outlive_faults() {
    let (parts, operator) = built::built();
    let mut ground = Ground::prepare(&parts, &operator, SERVICES, &Variant::default())
        .await
        .unwrap();
    let (first, _) = ground.operator().await.unwrap();
    let other = ground.launch.another(OTHER_POD);
    let second = Operator::start(&other).await.unwrap();
    changes_are_logged(&ground, &[&ground.launch, &other]).await;

    let (api, launch) = (&ground.api, &ground.launch);
    let path = group("heddle.dev/v1alpha1", &namespace_of(ROUTED), "authpolicies");
    let object = format!("{path}/kept");
    let good = policy(&json!([{"to": {"paths": ["/good"]}}]));
    api.create(&path, &good).await.unwrap();
    let good = api.get(&object).await.unwrap();
    let uid = good["metadata"]["uid"].as_str().unwrap().to_owned();
    let (map, text) = until("the last good spec is stored", async || {
        stored(api, &uid).await
    })
    .await;
    assert_eq!(path_of(&spec_of(&text)), "/good");
    let map_path = format!("{}/{map}", core(NAMESPACE, "configmaps"));

    // Both replicas write it again.
    api.delete(&map_path).await.unwrap();
    let again = until("a deleted map is written again", async || {
        stored(api, &uid).await
    })
    .await;
    assert_eq!(again, (map.clone(), text.clone()));

    // A write of a replica that led before, which arrives late.
    let late = json!({"data": {&*uid: forged(&text, 0, "/late")}});
    api.patch(&map_path, &late).await.unwrap();
    until("the leader puts its newer text back", async || {
        stored(api, &uid).await.filter(|(_, now)| *now == text)
    })
    .await;

    // A copy, as of a backup.
    let metadata =
        json!({"name": format!("{map}-copy"), "labels": {"heddle.dev/lastgood": "true"}});
    let data = json!({&*uid: forged(&text, 99, "/copy")});
    let copy = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data});
    api.create(&core(NAMESPACE, "configmaps"), &copy)
        .await
        .unwrap();
    until_line(launch, &["last good specs of another one", "-copy"]).await;

    // The spec becomes faulty while no replica is there, and the status forgets.
    first.kill();
    second.kill();
    let faulty = policy(&too_many());
    api.patch(&object, &json!({"spec": faulty["spec"]}))
        .await
        .unwrap();
    let status = format!("{object}/status");
    api.patch(&status, &json!({"status": {"lastGood": null}}))
        .await
        .unwrap();
    let _restarted = Operator::start(launch).await.unwrap();
    let last_good = until("the status names the spec in force", async || {
        let status = api.get(&object).await.ok()?["status"].clone();
        (status["observedGeneration"] == json!(2)).then(|| status["lastGood"].clone())
    })
    .await;
    assert_eq!(last_good["generation"], json!(1), "{last_good}");
    let json: Value = serde_json::from_str(last_good["json"].as_str().unwrap()).unwrap();
    assert_eq!(path_of(&json), "/good");
}
