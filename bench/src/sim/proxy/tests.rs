use envoy_types::pb::envoy::config::listener::v3::{Filter, FilterChain};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::Rds;
use envoy_types::pb::envoy::service::discovery::v3::Resource;
use envoy_types::pb::google::protobuf::Any;

use super::*;

fn resource(type_url: &str, name: &str, body: Vec<u8>) -> Resource {
    let body = Any {
        type_url: type_url.to_owned(),
        value: body,
    };
    Resource {
        name: name.to_owned(),
        version: "1".to_owned(),
        resource: Some(body),
        ..Resource::default()
    }
}

fn response(type_url: &str, nonce: &str, resources: Vec<Resource>) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        type_url: type_url.to_owned(),
        nonce: nonce.to_owned(),
        resources,
        ..DeltaDiscoveryResponse::default()
    }
}

fn eds(name: &str) -> Resource {
    let cluster = Cluster {
        name: name.to_owned(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into())),
        ..Cluster::default()
    };
    resource(CLUSTER, name, cluster.encode_to_vec())
}

fn listener(name: &str, route: &str) -> Resource {
    let rds = Rds {
        route_config_name: route.to_owned(),
        ..Rds::default()
    };
    let manager = HttpConnectionManager {
        route_specifier: Some(RouteSpecifier::Rds(rds)),
        ..HttpConnectionManager::default()
    };
    let config = Any {
        type_url: "x/a.HttpConnectionManager".to_owned(),
        value: manager.encode_to_vec(),
    };
    let filter = Filter {
        config_type: Some(ConfigType::TypedConfig(config)),
        ..Filter::default()
    };
    let chain = FilterChain {
        filters: vec![filter],
        ..FilterChain::default()
    };
    let listener = Listener {
        name: name.to_owned(),
        filter_chains: vec![chain],
        ..Listener::default()
    };
    resource(LISTENER, name, listener.encode_to_vec())
}

fn said(requests: &[DeltaDiscoveryRequest]) -> Vec<String> {
    let short = |url: &str| url.rsplit('.').next().unwrap_or_default().to_owned();
    requests
        .iter()
        .map(|r| {
            format!(
                "{} {} {:?}",
                short(&r.type_url),
                r.response_nonce,
                r.resource_names_subscribe
            )
        })
        .collect()
}

#[test]
fn asks_in_envoys_order() {
    let mut proxy = Proxy::new("ns/pod", "c", ["dst|a".to_owned()]);
    let open = proxy.open();
    assert_eq!(said(&open), ["Cluster  []"]);
    assert_eq!(open[0].node.as_ref().unwrap().id, "ns/pod");

    let next = proxy
        .receive(&response(CLUSTER, "1", vec![eds("a"), eds("b")]))
        .unwrap();
    assert_eq!(
        said(&next),
        ["Cluster 1 []", r#"ClusterLoadAssignment  ["a", "b"]"#]
    );
    assert!(next.iter().all(|r| r.node.is_none()));

    let next = proxy
        .receive(&response(
            ENDPOINTS,
            "2",
            vec![resource(ENDPOINTS, "a", vec![])],
        ))
        .unwrap();
    assert_eq!(said(&next), ["ClusterLoadAssignment 2 []"]);
    let next = proxy
        .receive(&response(
            ENDPOINTS,
            "3",
            vec![resource(ENDPOINTS, "b", vec![])],
        ))
        .unwrap();
    assert_eq!(said(&next), ["ClusterLoadAssignment 3 []", "Listener  []"]);

    let next = proxy
        .receive(&response(LISTENER, "4", vec![listener("l", "r")]))
        .unwrap();
    assert_eq!(
        said(&next),
        [
            "Listener 4 []",
            r#"RouteConfiguration  ["r"]"#,
            r#"Cluster  ["dst|a"]"#
        ]
    );
    assert!(!proxy.synced());
    proxy
        .receive(&response(ROUTE, "5", vec![resource(ROUTE, "r", vec![])]))
        .unwrap();
    assert!(!proxy.synced());

    let refusal = DeltaDiscoveryResponse {
        removed_resources: vec!["dst|a".to_owned()],
        ..response(CLUSTER, "6", vec![])
    };
    proxy.receive(&refusal).unwrap();
    assert!(proxy.synced());
    assert_eq!(proxy.refused(), 1);

    let next = proxy
        .receive(&response(
            CLUSTER,
            "7",
            vec![resource(CLUSTER, "dst|a", vec![]), eds("a")],
        ))
        .unwrap();
    assert_eq!(
        said(&next),
        ["Cluster 7 []"],
        "endpoints already asked for are not asked for again"
    );
    assert_eq!((proxy.refused(), proxy.synced()), (0, true));
}

#[test]
fn an_empty_mesh_starts_too_and_strange_types_are_acked() {
    let mut proxy = Proxy::new("ns/pod", "c", []);
    proxy.open();
    let next = proxy.receive(&response(CLUSTER, "1", vec![])).unwrap();
    assert_eq!(said(&next), ["Cluster 1 []", "Listener  []"]);
    proxy.receive(&response(LISTENER, "2", vec![])).unwrap();
    assert!(proxy.synced());
    assert_eq!(
        said(&proxy.receive(&response("x/a.Secret", "3", vec![])).unwrap()),
        ["Secret 3 []"]
    );
}

#[test]
fn a_broken_resource_is_an_error() {
    let mut proxy = Proxy::new("ns/pod", "c", []);
    assert!(
        proxy
            .receive(&response(
                CLUSTER,
                "1",
                vec![resource(CLUSTER, "a", vec![0xff])]
            ))
            .is_err()
    );
}
