//! A stream's life besides the protocol: shedding, certificates, reconnects, load reports, measures.
// Clippy takes only the test functions themselves for tests, not the functions they call.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

mod support;

use std::time::{Duration, Instant};

use envoy_types::pb::envoy::config::endpoint::v3::{ClusterStats, UpstreamLocalityStats};
use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use envoy_types::pb::envoy::service::load_stats::v3::LoadStatsRequest;
use envoy_types::pb::envoy::service::load_stats::v3::load_reporting_service_client::LoadReportingServiceClient;
use heddle_xds_server::ResourceKind::{Cluster, Endpoints, Listener, Route};
use heddle_xds_server::{Load, Options, Progress, Resource, Security};
use heddle_xds_types::edges::{EdgeCounts, EdgeDelta, EdgeName, EdgeReport, METHOD};
use support::client::{end, next, node, open, plain, request, tls};
use support::pki::Pki;
use support::resources::{api_listener, cluster, endpoints, key, route};
use support::{BOUND, Fixture, Running, runs};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Code, Request, Streaming};

#[tokio::test]
async fn the_oldest_streams_are_shed_and_their_connections_close() {
    let source = Fixture::new();
    let server = Running::start(&source, Security::Plain, "127.0.0.1:0").await;
    let mut streams = Vec::new();
    for name in ["a", "b", "c"] {
        let (out, answer) = open(plain(&server).await, vec![request(name, Cluster)]).await;
        let mut stream = answer.unwrap();
        let first = next(&mut stream).await.unwrap().unwrap();
        streams.push((out, stream, first.nonce));
    }
    assert_eq!(server.server.shed(2), 2);
    let (kept_out, mut kept, response_nonce) = streams.pop().unwrap();
    for (_out, stream, _) in streams {
        assert_eq!(end(Ok(stream)).await, Code::Unavailable);
    }
    while server.counters.snapshot().connections.open > 1 {
        tokio::task::yield_now().await;
    }
    let ack = DeltaDiscoveryRequest {
        response_nonce,
        ..request("", Cluster)
    };
    kept_out.send(ack).await.unwrap();
    kept_out.send(request("", Listener)).await.unwrap();
    next(&mut kept).await.unwrap();
    assert!(server.registry.get(&"c".into()).unwrap().connected);
    assert_eq!(server.server.shed(7), 1);
    assert_eq!(server.counters.snapshot().streams_shed, 3);
}

#[tokio::test]
async fn one_subscriber_cannot_have_many_streams() {
    let source = Fixture::new();
    let server = Running::start(&source, Security::Plain, "127.0.0.1:0").await;
    let mut streams = Vec::new();
    for name in ["other", "a", "a", "a", "a", "a", "a"] {
        let (out, answer) = open(plain(&server).await, vec![request(name, Cluster)]).await;
        let mut stream = answer.unwrap();
        let first = next(&mut stream).await.unwrap().unwrap();
        streams.push((out, stream, first.nonce));
    }
    let mut kept = streams.split_off(3);
    for (_out, stream, _) in streams.drain(1..) {
        assert_eq!(end(Ok(stream)).await, Code::Unavailable);
    }
    kept.extend(streams);
    // The newer ones, and that of the other subscriber, are still answered.
    for (out, stream, nonce) in &mut kept {
        let ack = DeltaDiscoveryRequest {
            response_nonce: nonce.clone(),
            ..request("", Cluster)
        };
        out.send(ack).await.unwrap();
        out.send(request("", Listener)).await.unwrap();
        next(stream).await.unwrap().unwrap();
    }
    assert_eq!(kept.len(), 5);
}

#[tokio::test]
async fn a_stream_ends_with_the_certificate_of_its_client() {
    let (pki, source) = (Pki::new(), Fixture::new());
    let server = Running::start(&source, pki.security(), "127.0.0.1:0").await;
    let leaf = pki.leaf_for("client", time::Duration::seconds(5));
    let (_out, answer) = open(tls(&server, &pki, leaf), vec![request("n", Cluster)]).await;
    let mut stream = answer.unwrap();
    next(&mut stream).await.unwrap();
    assert_eq!(end(Ok(stream)).await, Code::Unauthenticated);
}

fn holding(kind: heddle_xds_server::ResourceKind, held: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        resource_names_subscribe: vec!["*".into()],
        initial_resource_versions: held
            .iter()
            .map(|name| ((*name).into(), "1".into()))
            .collect(),
        ..request("n", kind)
    }
}

#[tokio::test]
async fn a_client_that_reconnects_has_acknowledged_as_before_until_it_has_reported() {
    let source = Fixture::new();
    source.put([cluster("a", 1), api_listener("l", "r")]);
    let server = Running::start(&source, Security::Plain, "127.0.0.1:0").await;
    let (out, answer) = open(plain(&server).await, vec![holding(Cluster, &["a"])]).await;
    let mut stream = answer.unwrap();
    let first = server.until("n", "connected", |p| p.connected).await;
    assert!(first.view.is_none() && first.unacknowledged.is_empty());
    out.send(holding(Listener, &["l", "dst|1.2.3.4:80"]))
        .await
        .unwrap();
    let told = server.until("n", "told", |p| p.view.is_some()).await;
    assert_eq!((told.unacknowledged.len(), told.resources), (0, 3));
    // The source received the learned listeners before any of them was removed from the client.
    assert!(told.on_demand.reported_listeners.contains("dst|1.2.3.4:80"));
    assert_eq!(told.responses, 0);
    assert_eq!(
        *source.asked.lock().unwrap().last().unwrap(),
        *told.on_demand
    );
    let removal = next(&mut stream).await.unwrap().unwrap();
    assert_eq!(removal.removed_resources, ["dst|1.2.3.4:80"]);

    // A client that has lost everything has acknowledged nothing at once.
    drop((out, stream));
    server.until("n", "gone", |p| !p.connected).await;
    let (_out, answer) = open(plain(&server).await, vec![request("n", Cluster)]).await;
    next(&mut answer.unwrap()).await.unwrap();
    let progress = server.registry.get(&"n".into()).unwrap();
    assert_eq!((progress.unacknowledged.len(), progress.resources), (2, 0));
}

#[tokio::test]
async fn a_client_that_never_acknowledges_its_routes_gets_the_last_endpoints() {
    let source = Fixture::new();
    source.put(["a", "b"].map(|name| cluster(name, 1)));
    source.put(["a", "b"].map(|name| endpoints(name, 1)));
    source.put([api_listener("l", "r"), route("r", "a", "1")]);
    let server = Running::start(&source, Security::Plain, "127.0.0.1:0").await;
    let (out, answer) = open(plain(&server).await, vec![holding(Cluster, &["a", "b"])]).await;
    let mut stream = answer.unwrap();
    for (kind, names, version) in [(Endpoints, &["a", "b"][..], "1@1"), (Route, &["r"], "1")] {
        let request = DeltaDiscoveryRequest {
            resource_names_subscribe: names.iter().map(ToString::to_string).collect(),
            initial_resource_versions: names
                .iter()
                .map(|name| (name.to_string(), version.into()))
                .collect(),
            ..request("n", kind)
        };
        out.send(request).await.unwrap();
    }
    out.send(holding(Listener, &["l"])).await.unwrap();
    let in_sync = |p: &Progress| p.view.is_some() && p.unacknowledged.is_empty();
    let told = server.until("n", "told", in_sync).await;
    assert_eq!((told.resources, told.responses), (6, 0));
    let none = Resource {
        version: "none".into(),
        empty: true,
        ..endpoints("a", 1)
    };
    source.put([route("r", "b", "2"), none]);
    for kind in [Route, Endpoints] {
        let response = next(&mut stream).await.unwrap().unwrap();
        assert_eq!(response.type_url, kind.type_url());
    }
}

#[tokio::test]
async fn the_time_from_a_change_to_its_acknowledgment_is_measured() {
    let source = Fixture::new();
    source.put([cluster("a", 1)]);
    let server = Running::start(&source, Security::Plain, "127.0.0.1:0").await;
    let (out, answer) = open(plain(&server).await, vec![request("n", Cluster)]).await;
    let mut stream = answer.unwrap();
    for version in 1..=3 {
        let response = next(&mut stream).await.unwrap().unwrap();
        let ack = DeltaDiscoveryRequest {
            response_nonce: response.nonce,
            ..request("", Cluster)
        };
        let measured = server.counters.snapshot().convergence.count;
        assert_eq!(measured, u64::try_from(version).unwrap().saturating_sub(2));
        out.send(ack).await.unwrap();
        server
            .until("n", "in sync", |p| runs(p, &key(Cluster, "a")))
            .await;
        source.put([cluster("a", version + 1)]);
    }
    let counts = server.counters.snapshot();
    assert_eq!(counts.convergence.count, 2);
    assert!(counts.push_bytes.count >= 3);
    assert_eq!(counts.push_bytes.sum as u64, counts.bytes);
}

#[tokio::test]
async fn one_that_asks_for_thousands_of_names_has_its_views_made_now_and_then() {
    const BEFORE: usize = 2000;
    const MORE: usize = 500;
    /// 20 us for each name.
    const REST: Duration = Duration::from_millis(40);
    let source = Fixture::new();
    let server = Running::start(&source, Security::Plain, "127.0.0.1:0").await;
    let asking = |numbers: std::ops::Range<usize>| {
        let names = numbers.map(|number| format!("dst|10.0.0.1:{number}|7"));
        DeltaDiscoveryRequest {
            resource_names_subscribe: names.collect(),
            ..request("n", Cluster)
        }
    };
    let (out, answer) = open(plain(&server).await, vec![asking(0..BEFORE)]).await;
    let asked = |names| server.until("n", "asked", move |p| p.on_demand.clusters.len() == names);
    asked(BEFORE).await;
    let (from, made) = (Instant::now(), source.asked.lock().unwrap().len());
    for number in BEFORE..BEFORE + MORE {
        out.send(asking(number..number + 1)).await.unwrap();
    }
    asked(BEFORE + MORE).await;
    let made = source.asked.lock().unwrap().len() - made;
    let rests = from.elapsed().div_duration_f64(REST);
    assert!(made as f64 <= 2.0 + rests, "{made} views in {rests} rests");
    drop(answer);
}

#[tokio::test]
async fn load_reports_reach_the_source() {
    let source = Fixture::new();
    let options = Options {
        load_report_interval: Duration::from_millis(1500),
        ..Options::default()
    };
    let server = Running::with(&source, Security::Plain, "127.0.0.1:0", options).await;
    let (out, outgoing) = mpsc::channel(8);
    let first = LoadStatsRequest {
        node: node("n"),
        ..LoadStatsRequest::default()
    };
    out.send(first).await.unwrap();
    let mut client = LoadReportingServiceClient::new(plain(&server).await);
    let answer = client.stream_load_stats(ReceiverStream::new(outgoing));
    let mut answers = answer.await.unwrap().into_inner();
    let told = answers.message().await.unwrap().unwrap();
    let interval = told.load_reporting_interval.unwrap();
    assert!(told.send_all_clusters && told.clusters.is_empty());
    assert_eq!((interval.seconds, interval.nanos), (1, 500_000_000));
    let locality = |issued, active| UpstreamLocalityStats {
        total_issued_requests: issued,
        total_requests_in_progress: active,
        ..UpstreamLocalityStats::default()
    };
    let stats = ClusterStats {
        cluster_name: "a".into(),
        upstream_locality_stats: vec![locality(3, 1), locality(4, 0)],
        ..ClusterStats::default()
    };
    let report = LoadStatsRequest {
        cluster_stats: vec![stats],
        ..LoadStatsRequest::default()
    };
    out.send(report).await.unwrap();
    while server.counters.snapshot().load_reports == 0 {
        tokio::task::yield_now().await;
    }
    let expected = Load {
        cluster: "a".into(),
        issued: 7,
        active: 1,
    };
    assert_eq!(
        *source.loads.lock().unwrap(),
        [("n".into(), vec![expected])]
    );

    let denied = LoadStatsRequest {
        node: node("denied"),
        ..LoadStatsRequest::default()
    };
    let refused = client.stream_load_stats(tokio_stream::once(denied)).await;
    let status = refused.unwrap().into_inner().message().await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    server.stop().await;
    assert_eq!(
        answers.message().await.unwrap_err().code(),
        Code::Unavailable
    );
}

/// Opens a stream of reports on edges.
async fn edge_stream(
    server: &Running,
    reports: impl futures::Stream<Item = EdgeReport> + Send + 'static,
) -> Streaming<()> {
    let mut client = tonic::client::Grpc::new(plain(server).await);
    client.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<EdgeReport, ()>::default();
    let path = PathAndQuery::from_static(METHOD);
    let answer = client.streaming(Request::new(reports), path, codec).await;
    answer.unwrap().into_inner()
}

#[tokio::test]
async fn edges_reach_the_source_under_the_name_of_their_first_delta() {
    let source = Fixture::new();
    let server = Running::start(&source, Security::Plain, "127.0.0.1:0").await;
    let name = EdgeName {
        service: "ratings".into(),
        ..EdgeName::default()
    };
    let counts = EdgeCounts {
        responses: [0, 0, 7, 0, 0, 0],
        ..EdgeCounts::default()
    };
    let report = |name: Option<&EdgeName>, id, lost| EdgeReport {
        node: "n".into(),
        edges: vec![EdgeDelta::new(id, name.cloned(), &counts)],
        lost,
    };
    let reports = [
        report(Some(&name), 1, 0),
        report(None, 1, 9),
        report(None, 2, 0),
    ];
    let mut answers = edge_stream(&server, tokio_stream::iter(reports)).await;
    let unnamed = answers.message().await.unwrap_err();
    assert_eq!(unnamed.code(), Code::InvalidArgument);
    let taken = std::mem::take(&mut *source.edges.lock().unwrap());
    assert_eq!(taken.len(), 2);
    for ((who, traffic, lost), expected) in taken.iter().zip([0, 9]) {
        assert_eq!((who.as_str(), *lost), ("n", expected));
        assert_eq!((&*traffic[0].name, &traffic[0].counts), (&name, &counts));
    }

    let denied = EdgeReport {
        node: "denied".into(),
        ..report(Some(&name), 1, 0)
    };
    let mut answers = edge_stream(&server, tokio_stream::once(denied)).await;
    let refused = answers.message().await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    let long = EdgeName {
        service: "s".repeat(600),
        ..EdgeName::default()
    };
    let too_long = tokio_stream::once(report(Some(&long), 1, 0));
    let mut answers = edge_stream(&server, too_long).await;
    let refused = answers.message().await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(source.edges.lock().unwrap().is_empty());
    server.stop().await;
}

#[tokio::test]
async fn a_client_has_one_stream_of_edges_at_a_time() {
    let source = Fixture::new();
    let server = Running::start(&source, Security::Plain, "127.0.0.1:0").await;
    let report = |node: &str| EdgeReport {
        node: node.into(),
        ..EdgeReport::default()
    };
    let open = |node: &str| {
        let silent = futures::stream::pending();
        let reports = futures::StreamExt::chain(tokio_stream::once(report(node)), silent);
        edge_stream(&server, reports)
    };
    let mut first = open("n").await;
    let mut other = open("m").await;
    until(&source, 2).await;
    let mut second = open("n").await;
    let ended = tokio::time::timeout(BOUND, first.message()).await.unwrap();
    assert_eq!(ended.unwrap_err().code(), Code::Aborted);
    drop(first);
    for stream in [&mut other, &mut second] {
        let quiet = tokio::time::timeout(Duration::from_millis(300), stream.message()).await;
        assert!(quiet.is_err(), "{quiet:?}");
    }
    // The end of the first one has not made room for two.
    let _third = open("n").await;
    let ended = tokio::time::timeout(BOUND, second.message()).await.unwrap();
    assert_eq!(ended.unwrap_err().code(), Code::Aborted);
    server.stop().await;
}

/// Waits until the source has so many reports on edges.
async fn until(source: &Fixture, count: usize) {
    let enough = async {
        while source.edges.lock().unwrap().len() < count {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(BOUND, enough).await.unwrap();
}
