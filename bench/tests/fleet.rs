//! Simulated proxies against the real ADS server, without TLS.

#![allow(
    clippy::unwrap_used,
    reason = "what a test's own parts do wrong may fail it"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType};
use envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, LbEndpoint, LocalityLbEndpoints,
};
use heddle_bench::change::Change;
use heddle_bench::sim::proxy::Proxy;
use heddle_bench::sim::{Fleet, Member, Server};
use heddle_xds_server as xds;
use prost::Message;
use tokio::sync::watch;

struct Source {
    view: Mutex<Arc<xds::View>>,
    ticks: watch::Sender<u64>,
}

impl xds::ResourceSource for Source {
    fn admit(
        &self,
        _: &xds::Peer,
        node: &xds::NodeInfo,
    ) -> Result<xds::SubscriberId, xds::Refusal> {
        Ok(node.id.as_str().into())
    }

    fn view(&self, _: &xds::SubscriberId, wanted: &BTreeSet<xds::Name>) -> Option<Arc<xds::View>> {
        let view = self.view.lock().unwrap().clone();
        Some(Arc::new(xds::View {
            absent: wanted.clone(),
            ..(*view).clone()
        }))
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.ticks.subscribe()
    }
}

fn view(endpoints: usize) -> Arc<xds::View> {
    let cluster = Cluster {
        name: "a".to_owned(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into())),
        ..Cluster::default()
    };
    let locality = LocalityLbEndpoints {
        lb_endpoints: vec![LbEndpoint::default(); endpoints],
        ..LocalityLbEndpoints::default()
    };
    let assignment = ClusterLoadAssignment {
        cluster_name: "a".to_owned(),
        endpoints: vec![locality],
        ..ClusterLoadAssignment::default()
    };
    let resource = |kind, version: &str, body: Vec<u8>| {
        let key = xds::ResourceKey {
            kind,
            name: "a".into(),
        };
        (
            key.clone(),
            Arc::new(xds::Resource {
                key,
                version: version.into(),
                body: body.into(),
                requires: Vec::new(),
            }),
        )
    };
    let resources = BTreeMap::from([
        resource(xds::ResourceKind::Cluster, "1", cluster.encode_to_vec()),
        resource(
            xds::ResourceKind::Endpoints,
            &endpoints.to_string(),
            assignment.encode_to_vec(),
        ),
    ]);
    Arc::new(xds::View {
        resources,
        absent: BTreeSet::new(),
    })
}

#[tokio::test]
async fn a_change_is_seen_by_every_proxy() {
    let source = Arc::new(Source {
        view: Mutex::new(view(3)),
        ticks: watch::Sender::new(0),
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = xds::Server::new(Arc::clone(&source), xds::Options::default());
    tokio::spawn(async move {
        server
            .serve(listener, xds::Security::Plain, std::future::pending())
            .await
    });

    let proxy = |index| Proxy::new(&format!("ns/pod-{index}"), "c", ["dst|unknown".to_owned()]);
    let members = (0..20)
        .map(|index| Member {
            proxy: proxy(index),
            credentials: None,
        })
        .collect();
    let mut fleet = Fleet::start(
        &Server {
            address,
            server_name: String::new(),
        },
        members,
    );
    let within = Duration::from_secs(20);
    let synced = fleet.synced(within).await.unwrap();
    assert_eq!((synced.resources, synced.refused), (2, 20));

    let armed = fleet.observer().arm(
        Change::Endpoints {
            name: "a".to_owned(),
            healthy: 2,
        },
        20,
    );
    *source.view.lock().unwrap() = view(2);
    source.ticks.send_modify(|tick| *tick += 1);
    assert_eq!(armed.arrivals(within).await.unwrap().0.len(), 20);
    fleet.all_up().unwrap();

    let never = fleet.observer().arm(
        Change::Endpoints {
            name: "a".to_owned(),
            healthy: 9,
        },
        20,
    );
    assert!(never.arrivals(Duration::from_millis(50)).await.is_err());
}
