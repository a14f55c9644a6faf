//! The whole way without Kubernetes: the control plane's binary, real agents, real stock Envoys, requests counted.
//!
//! Needs Envoy (`make envoy`, or `HEDDLE_ENVOY`) and the agent's binary beside the operator's (`make build`, or `HEDDLE_AGENT`).

// In a test a panic is the verdict; clippy's own exception covers only the functions marked as tests.
#![allow(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod bypass;
mod bytes;
mod changes;
#[path = "../../../policy-compiler/tests/harness/collector.rs"]
mod collector;
mod edges;
mod harness;
mod held;
mod liars;
mod logs;
mod monitoring;
mod prometheus;
mod queries;
mod rollouts;
mod rpc;
mod schema;
mod shares;
mod strangers;
mod strict;
mod suspects;
mod tap;
mod traces;
mod unreached;

use harness::{Fixture, Status};

const CALLERS: &str = "
apiVersion: heddle.dev/v1alpha1
kind: AuthPolicy
metadata: {name: callers, namespace: shop}
spec:
  selector: {matchLabels: {app: reviews}}
  rules: [{from: {identities: [shop/CALLER]}, to: {methods: [GET]HEADERS}}]
";

fn callers(caller: &str, headers: &str) -> String {
    CALLERS
        .replace("CALLER", caller)
        .replace("HEADERS", headers)
}

fn split(v1: u32, v2: u32) -> String {
    format!(
        "
apiVersion: heddle.dev/v1alpha1
kind: TrafficSplit
metadata: {{name: reviews, namespace: shop}}
spec: {{service: reviews, backends: [{{service: reviews-v1, weight: {v1}}}, {{service: reviews-v2, weight: {v2}}}]}}
"
    )
}

fn programmed(generation: i64) -> impl Fn(&Status) -> bool {
    move |status| {
        status.generation == generation
            && status.programmed == ("True".to_owned(), "Programmed".to_owned())
    }
}

#[test]
fn from_files_to_requests_and_back_to_statuses() {
    let mut mesh = Fixture::start();
    mesh.until_in_sync(&["shop/frontend-1", "shop/reviews-v1-1"]);

    an_unreadable_mesh_stays_closed(&mut mesh);

    mesh.apply("split.yaml", &split(95, 5));
    mesh.status("TrafficSplit", "reviews", programmed(1));
    let v2 = mesh.requests(400).of("v2");
    assert!((4..=44).contains(&v2), "5 % of 400 requests: {v2}");

    mesh.apply("split.yaml", &split(50, 50));
    let status = mesh.status("TrafficSplit", "reviews", programmed(2));
    assert_eq!(
        (status.proxies.as_str(), status.weights.as_str()),
        ("1/1", "50/50")
    );
    let object = "TrafficSplit shop/reviews";
    for (event, generation, weights) in [("added", 1, "95/5"), ("changed", 2, "50/50")] {
        let (event, generation) = (
            format!("object {event}"),
            format!("generation={generation}"),
        );
        assert!(mesh.has_logged(&[&event, object, &generation, weights]));
    }
    // From the first request after that status on: the old weights are gone.
    let v2 = mesh.requests(400).of("v2");
    assert!((150..=250).contains(&v2), "half of 400 requests: {v2}");

    mesh.apply("callers.yaml", &callers("frontend", ""));
    mesh.status("AuthPolicy", "callers", programmed(1));
    assert_eq!(mesh.requests(40).of("denied"), 0);

    // Behind v2 there is no sidecar, so half of the requests still pass.
    mesh.apply("callers.yaml", &callers("somebody", ""));
    mesh.status("AuthPolicy", "callers", programmed(2));
    assert!(mesh.has_logged(&["object changed", "AuthPolicy shop/callers", "generation=2"]));
    let answers = mesh.requests(100);
    assert_eq!(answers.of("v1"), 0, "{answers:?}");
    assert_eq!(answers.of("denied") + answers.of("v2"), 100, "{answers:?}");

    misspelt(&mesh);
    rejected_by_envoy(&mesh);
    suspects::only_the_faulty_one_is_set_aside(&mesh);
    strangers::are_refused(&mesh);
    mesh.until_in_sync(&["shop/frontend-1", "shop/reviews-v1-1"]);
    assert_eq!(mesh.requests(20).of("v1"), 20);

    restart(&mut mesh);
}

/// A policy for a service that is not there: of a namespace of its own, which it denies.
fn misspelt(mesh: &Fixture) {
    let policy = "apiVersion: heddle.dev/v1alpha1
kind: AuthPolicy
metadata: {name: misspelt, namespace: elsewhere}
spec: {target: {service: reviws}, rules: [{action: Deny}]}
";
    mesh.apply("misspelt.yaml", policy);
    mesh.eventually("the log has the service that is not there", || {
        mesh.has_logged(&["ServiceNotFound", "elsewhere/misspelt", "does not exist"])
    });
    mesh.remove("misspelt.yaml", "AuthPolicy", "misspelt");
}

#[test]
fn a_clients_rejections_and_streams_count_for_that_client() {
    let mesh = Fixture::start();
    liars::decide_for_themselves_only(&mesh);
}

#[test]
fn a_bypass_loses_no_request_and_enforces_nothing() {
    let mesh = Fixture::start();
    bypass::loses_no_request_and_enforces_nothing(&mesh);
}

#[test]
fn a_flip_to_strict_loses_no_request_of_a_sidecar() {
    let mesh = Fixture::start();
    strict::loses_no_request_of_a_sidecar(&mesh);
}

#[test]
fn policies_of_bytes_change_for_new_connections_only() {
    let mesh = Fixture::start();
    bytes::policies_change_for_new_connections_only(&mesh);
    edges::have_connections_of_bytes(&mesh);
}

#[test]
fn traffic_of_edges_comes_from_the_sidecars_themselves() {
    let mut mesh = Fixture::start();
    mesh.until_in_sync(&["shop/frontend-1", "shop/reviews-v1-1"]);
    edges::come_from_the_sidecars_themselves(&mut mesh);
}

#[test]
fn a_pod_ends_once_its_callers_have_acknowledged() {
    let mut mesh = Fixture::start();
    rollouts::wait_for_every_caller(&mut mesh);
    rollouts::wait_the_fixed_time_without_a_control_plane(&mut mesh);
}

#[test]
fn access_logs_are_switched_without_a_listener_change() {
    let mesh = Fixture::start();
    logs::are_switched_without_a_listener_change(&mesh);
}

#[test]
fn taps_show_live_requests_and_end_by_themselves() {
    let mut mesh = Fixture::start();
    tap::shows_live_requests_and_no_secret(&mut mesh);
}

#[test]
fn open_connections_stay_while_everything_changes() {
    let mesh = Fixture::start();
    held::connections_stay_while_everything_changes(&mesh);
}

#[test]
fn no_request_fails_while_one_backend_of_its_rule_is_ready() {
    let mut mesh = Fixture::start();
    shares::move_before_the_last_endpoint_goes(&mut mesh);
}

#[test]
fn the_share_of_traces_changes_without_a_listener_change() {
    let mesh = Fixture::start();
    traces::change_their_share_without_a_listener_change(&mesh);
}

#[test]
fn changes_are_traced_to_the_acknowledgment() {
    let mut mesh = Fixture::start();
    changes::are_traced_to_the_acknowledgment(&mut mesh);
}

#[test]
fn queries_of_dashboards_rules_and_other_tools_have_data() {
    let mesh = Fixture::start();
    monitoring::queries_have_data(&mesh);
}

fn rejected_by_envoy(mesh: &Fixture) {
    let rejected = |generation| {
        move |status: &Status| {
            status.generation == generation && status.programmed.1 == "RejectedByProxy"
        }
    };
    mesh.apply(
        "callers.yaml",
        &callers("frontend", ", headers: [{name: x-tier, regex: \"(gold\"}]"),
    );
    let status = mesh.status("AuthPolicy", "callers", rejected(3));
    assert_eq!(status.programmed.0, "False");
    assert!(
        status.message.contains("(gold"),
        "Envoy's own words: {}",
        status.message
    );
    assert_eq!(
        mesh.requests(40).of("v1"),
        0,
        "the last good generation stays in force"
    );

    // Everything else goes on, at the same sidecar and at others.
    mesh.apply("split.yaml", &split(100, 0));
    mesh.status("TrafficSplit", "reviews", programmed(3));
    assert_eq!(mesh.requests(20).of("denied"), 20);

    mesh.apply("callers.yaml", &callers("frontend", ""));
    mesh.status("AuthPolicy", "callers", programmed(4));
    assert_eq!(mesh.requests(20).of("v1"), 20);
}

const MESH: &str = "
apiVersion: heddle.dev/v1alpha1
kind: Mesh
metadata: {name: default}
spec: {mode: MODE, defaultAction: Deny, certificates: {lifetime: LIFETIME}}
";

/// Settings that cannot be read stay as they were, also over a restart: a client without an identity is refused.
fn an_unreadable_mesh_stays_closed(mesh: &mut Fixture) {
    let settings =
        |mode: &str, lifetime: &str| MESH.replace("MODE", mode).replace("LIFETIME", lifetime);
    mesh.until_anonymous("200");
    mesh.apply("mesh.yaml", &settings("Strict", "12h"));
    mesh.until_anonymous("refused");
    // Of the last good spec: nothing else of a status shows it.
    mesh.until_status_says("Strict");
    for (mode, lifetime) in [
        ("strict", "12h"),
        ("Strict", "1y"),
        ("Strict, later: 1", "12h"),
    ] {
        mesh.apply("mesh.yaml", &settings(mode, lifetime));
        mesh.until_status_says("taken from the last good spec");
        mesh.until_in_sync(&["shop/frontend-1", "shop/reviews-v1-1"]);
        assert_eq!(mesh.anonymous(), "refused", "{mode} {lifetime}");
        mesh.stop_control_plane();
        mesh.start_control_plane();
        mesh.until_in_sync(&["shop/frontend-1", "shop/reviews-v1-1"]);
        assert_eq!(
            mesh.anonymous(),
            "refused",
            "{mode} {lifetime} after a restart"
        );
    }
    mesh.remove("mesh.yaml", "Mesh", "default");
    mesh.until_anonymous("200");
    mesh.until_in_sync(&["shop/frontend-1", "shop/reviews-v1-1"]);
}

fn restart(mesh: &mut Fixture) {
    let root = mesh.trust_bundle();
    mesh.stop_control_plane();
    assert_eq!(
        mesh.requests(20).of("v1"),
        20,
        "what is known goes on without a control plane"
    );
    mesh.start_control_plane();
    mesh.until_in_sync(&["shop/frontend-1", "shop/reviews-v1-1"]);
    assert_eq!(mesh.trust_bundle(), root);
    mesh.apply("split.yaml", &split(0, 100));
    mesh.status("TrafficSplit", "reviews", |status| {
        status.weights == "0/100" && status.programmed.0 == "True"
    });
    assert_eq!(mesh.requests(20).of("v2"), 20);

    // A change while no agent runs: the control plane finds the proxies that need it before any has connected.
    mesh.stop_control_plane();
    mesh.stop_agents();
    mesh.apply("split.yaml", &split(30, 70));
    mesh.start_control_plane();
    let status = mesh.status("TrafficSplit", "reviews", |status| {
        status.weights == "30/70"
    });
    assert_eq!(
        (status.proxies.as_str(), status.programmed.1.as_str()),
        ("0/1", "Pending")
    );
    assert!(
        status.message.contains("shop/frontend-1 (not connected)"),
        "{status:?}"
    );
}
