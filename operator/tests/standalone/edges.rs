//! The traffic of edges: from the Envoys by the agents to `edges.json`, and never under another pod's name.

use heddle_xds_types::edges::{
    Edge, EdgeCounts, EdgeDelta, EdgeName, EdgeReport, METHOD, Protocol, Reporter,
};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use crate::harness::Fixture;
use crate::schema;
use crate::strangers::{certificate, channel, id_in};

pub fn come_from_the_sidecars_themselves(mesh: &mut Fixture) {
    let answers = mesh.requests(60);
    let (v1, v2) = (answers.of("v1"), answers.of("v2"));
    assert!(v1 + v2 == 60 && v1 > 0, "{answers:?}");
    let frontend = "spiffe://cluster.local/ns/shop/sa/frontend";
    let of_caller = move |edge: &Edge| {
        (&*edge.workload, &*edge.identity) == ("frontend-1", frontend)
            && (edge.reporter, edge.protocol) == (Reporter::Source, Protocol::Http)
            && (&*edge.service_namespace, &*edge.service) == ("shop", "reviews")
            && edge.backend == "out|shop/reviews|9080"
            && edge.counts.responses == [0, 0, 60, 0, 0, 0]
            && edge.counts.durations.iter().sum::<u32>() == 60
            && edge.counts.failures == 0
    };
    mesh.until_edge("60 requests of the frontend", of_caller);
    let of_server = move |edge: &Edge| {
        (&*edge.workload, &*edge.peer) == ("reviews-v1-1", frontend)
            && (edge.reporter, &*edge.service) == (Reporter::Destination, "reviews")
            && edge.counts.requests() == v1 as u64
    };
    mesh.until_edge("those that v1 answered", of_server);

    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(liars(mesh));
    mesh.until_edge("a lie about itself", |edge| {
        (&*edge.workload, &*edge.service) == ("frontend-1", "treasury")
    });

    // Without a control plane requests go on; to the next one the agents report again.
    mesh.stop_control_plane();
    let answers = mesh.requests(20);
    assert_eq!(answers.of("v1") + answers.of("v2"), 20, "{answers:?}");
    mesh.start_control_plane();
    mesh.until_in_sync(&["shop/frontend-1", "shop/reviews-v1-1"]);
    mesh.requests(10);
    mesh.until_edge("traffic at the next control plane", |edge| {
        edge.workload == "frontend-1" && edge.counts.requests() >= 10
    });
    schema::file_holds("EdgesReport", &mesh.path("run/edges.json"));
    schema::file_holds("ProxyState[]", &mesh.path("run/proxies.json"));
}

/// After connections of bytes have ended.
pub fn have_connections_of_bytes(mesh: &Fixture) {
    mesh.until_edge("connections of bytes", |edge| {
        edge.workload == "frontend-1"
            && edge.protocol == Protocol::Tcp
            && edge.counts.connections > 0
            && edge.counts.sent_bytes > 0
    });
}

/// A pod cannot report under the name of another one.
async fn liars(mesh: &Fixture) {
    let id = id_in("shop", "frontend");
    let me = certificate(mesh, &mesh.token("frontend-1"), &id).await;
    for (node, expected) in [
        ("shop/reviews-v1-1", Code::PermissionDenied),
        ("bank/frontend-1", Code::PermissionDenied),
        ("", Code::PermissionDenied),
        ("shop/frontend-1", Code::Ok),
    ] {
        let mut client =
            tonic::client::Grpc::new(channel(mesh, mesh.ads, Some(me.clone())).await.unwrap());
        client.ready().await.unwrap();
        let reports = tokio_stream::once(report(node));
        let codec = ProstCodec::<EdgeReport, ()>::default();
        let path = PathAndQuery::from_static(METHOD);
        let answer = client.streaming(Request::new(reports), path, codec).await;
        let ended: Result<_, Status> = answer.unwrap().into_inner().message().await;
        let code = ended.map_or_else(|status| status.code(), |_| Code::Ok);
        assert_eq!(code, expected, "{node:?}");
    }
}

fn report(node: &str) -> EdgeReport {
    let name = EdgeName {
        service_namespace: "bank".to_owned(),
        service: "treasury".to_owned(),
        ..EdgeName::default()
    };
    let counts = EdgeCounts {
        responses: [0, 0, 1, 0, 0, 0],
        ..EdgeCounts::default()
    };
    EdgeReport {
        node: node.to_owned(),
        edges: vec![EdgeDelta::new(0, Some(name), &counts)],
        lost: 0,
    }
}
