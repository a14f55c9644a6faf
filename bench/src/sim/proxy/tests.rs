use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryResponse, Resource};
use prost::Message;

use super::samples::{eds, listener, resource, response};
use super::*;

fn lines(requests: &[DeltaDiscoveryRequest]) -> Vec<String> {
    let short = |url: &str| url.rsplit('.').next().unwrap_or_default().to_owned();
    requests
        .iter()
        .map(|r| {
            let mut text = format!(
                "{} {} {:?}",
                short(&r.type_url),
                r.response_nonce,
                r.resource_names_subscribe
            );
            if !r.resource_names_unsubscribe.is_empty() {
                text += &format!(" without {:?}", r.resource_names_unsubscribe);
            }
            text
        })
        .collect()
}

fn receive(proxy: &mut Proxy, response: &DeltaDiscoveryResponse) -> Vec<DeltaDiscoveryRequest> {
    let bytes = response.encode_to_vec();
    let mut out = Vec::new();
    proxy
        .receive(&Response::read(&bytes).unwrap(), &mut out)
        .unwrap();
    out
}

fn tell(proxy: &mut Proxy, url: &str, nonce: &str, resources: Vec<Resource>) -> Vec<String> {
    lines(&receive(proxy, &response(url, nonce, resources, vec![])))
}

/// A proxy that holds clusters `a` and `b` with endpoints, and a listener with its route.
fn started(on_demand: &[&str]) -> Proxy {
    let mut proxy = Proxy::new("ns/pod", "c", on_demand.iter().map(|&n| n.to_owned()));
    proxy.open();
    tell(&mut proxy, CLUSTER, "1", vec![eds("a"), eds("b")]);
    let endpoints = |name| resource(ENDPOINTS, name, vec![]);
    tell(
        &mut proxy,
        ENDPOINTS,
        "2",
        vec![endpoints("a"), endpoints("b")],
    );
    tell(&mut proxy, LISTENER, "3", vec![listener("l", "r")]);
    tell(&mut proxy, ROUTE, "4", vec![resource(ROUTE, "r", vec![])]);
    proxy
}

#[test]
fn asks_in_envoys_order() {
    let mut proxy = Proxy::new("ns/pod", "c", ["dst|a".to_owned()]);
    let open = proxy.open();
    assert_eq!(lines(&open), ["Cluster  []"]);
    assert_eq!(open[0].node.as_ref().unwrap().id, "ns/pod");

    let clusters = response(CLUSTER, "1", vec![eds("a"), eds("b")], vec![]);
    let next = receive(&mut proxy, &clusters);
    assert_eq!(
        lines(&next),
        ["Cluster 1 []", r#"ClusterLoadAssignment  ["a", "b"]"#]
    );
    assert!(next.iter().all(|r| r.node.is_none()));

    let next = tell(
        &mut proxy,
        ENDPOINTS,
        "2",
        vec![resource(ENDPOINTS, "a", vec![])],
    );
    assert_eq!(next, ["ClusterLoadAssignment 2 []"]);
    let next = tell(
        &mut proxy,
        ENDPOINTS,
        "3",
        vec![resource(ENDPOINTS, "b", vec![])],
    );
    assert_eq!(next, ["ClusterLoadAssignment 3 []", "Listener  []"]);

    let next = tell(&mut proxy, LISTENER, "4", vec![listener("l", "r")]);
    assert_eq!(
        next,
        [
            "Listener 4 []",
            r#"RouteConfiguration  ["r"]"#,
            r#"Cluster  ["dst|a"]"#
        ]
    );
    assert!(!proxy.synced());
    tell(&mut proxy, ROUTE, "5", vec![resource(ROUTE, "r", vec![])]);
    assert!(!proxy.synced());

    let refusal = response(CLUSTER, "6", vec![], vec!["dst|a".to_owned()]);
    receive(&mut proxy, &refusal);
    assert!(proxy.synced());
    assert_eq!(proxy.refused(), 1);

    let now = vec![resource(CLUSTER, "dst|a", vec![]), eds("a")];
    let next = tell(&mut proxy, CLUSTER, "7", now);
    assert_eq!(
        next,
        ["Cluster 7 []"],
        "endpoints already asked for are not asked for again"
    );
    assert_eq!((proxy.refused(), proxy.synced()), (0, true));
}

#[test]
fn an_empty_mesh_starts_too_and_strange_types_are_acked() {
    let mut proxy = Proxy::new("ns/pod", "c", []);
    proxy.open();
    let next = tell(&mut proxy, CLUSTER, "1", vec![]);
    assert_eq!(next, ["Cluster 1 []", "Listener  []"]);
    tell(&mut proxy, LISTENER, "2", vec![]);
    assert!(proxy.synced());
    assert_eq!(tell(&mut proxy, "x/a.Secret", "3", vec![]), ["Secret 3 []"]);
}

#[test]
fn a_later_stream_begins_with_what_it_holds() {
    let mut proxy = started(&["dst|x|1"]);
    let again = proxy.open();
    assert_eq!(
        lines(&again),
        [
            r#"Cluster  ["*", "dst|x|1"]"#,
            r#"ClusterLoadAssignment  ["a", "b"]"#,
            "Listener  []",
            r#"RouteConfiguration  ["r"]"#
        ]
    );
    let held: Vec<usize> = again
        .iter()
        .map(|r| r.initial_resource_versions.len())
        .collect();
    assert_eq!(held, [2, 2, 1, 1]);
    assert!(again[0].node.is_some() && again[1].node.is_none());
    let before = proxy.tally();
    let mut newer = eds("b");
    newer.version = "2".to_owned();
    tell(&mut proxy, CLUSTER, "1", vec![eds("a"), newer]);
    let (tally, one) = (proxy.tally(), eds("a").encoded_len() as u64);
    assert_eq!(tally.resources - before.resources, 2);
    assert_eq!((tally.unchanged, tally.unchanged_bytes), (1, one));
}

#[test]
fn resources_without_a_reference_are_given_up() {
    let mut proxy = started(&[]);
    let gone = response(CLUSTER, "5", vec![], vec!["b".to_owned()]);
    assert_eq!(
        lines(&receive(&mut proxy, &gone)),
        ["Cluster 5 []", r#"ClusterLoadAssignment  [] without ["b"]"#]
    );
    let next = tell(&mut proxy, LISTENER, "6", vec![listener("l", "s")]);
    assert_eq!(
        next,
        [
            "Listener 6 []",
            r#"RouteConfiguration  ["s"] without ["r"]"#
        ]
    );
    assert_eq!(proxy.resources(), 3);
}

#[test]
fn a_destination_that_is_listened_for_is_not_asked_for() {
    let mut proxy = Proxy::new("ns/pod", "c", ["dst|x|1".to_owned(), "dst|y|1".to_owned()]);
    proxy.open();
    tell(&mut proxy, CLUSTER, "1", vec![]);
    let next = tell(&mut proxy, LISTENER, "2", vec![listener("dst|x", "r")]);
    assert_eq!(next.last().unwrap(), r#"Cluster  ["dst|y|1"]"#);
}

#[test]
fn a_broken_resource_is_an_error() {
    let mut proxy = Proxy::new("ns/pod", "c", []);
    let broken = response(
        CLUSTER,
        "1",
        vec![resource(CLUSTER, "a", vec![0xff])],
        vec![],
    );
    let bytes = broken.encode_to_vec();
    let response = Response::read(&bytes).unwrap();
    assert!(proxy.receive(&response, &mut Vec::new()).is_err());
}
