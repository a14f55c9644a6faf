//! The server around the sessions: admission, bad clients, bounds, and the progress that stays known of a subscriber.
// Clippy takes only the test functions themselves for tests, not the functions they call.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

mod support;

use std::time::Duration;

use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest,
};
use heddle_xds_server::{Bounds, Options, ResourceKind, Security};
use support::client::{end, next, open, plain, request, tls_config};
use support::pki::Pki;
use support::resources::{cluster, key};
use support::{Fixture, Running, runs};
use tonic::Code;
use tonic::transport::{Endpoint, Identity};

#[tokio::test]
async fn bad_clients_are_refused_and_the_server_stays_up() {
    use ResourceKind::{Cluster, Listener};
    let source = Fixture::new();
    source.put([cluster("a", 1)]);
    let options = Options {
        max_request_bytes: 4096,
        ..Options::default()
    };
    let server = Running::with(&source, Security::Plain, "127.0.0.1:0", options).await;
    let large = vec!["x".repeat(1000); 5];
    let cases = [
        ("no node", vec![request("", Cluster)], Code::Unauthenticated),
        (
            "not admitted",
            vec![request("denied", Cluster)],
            Code::PermissionDenied,
        ),
        (
            "lying later",
            vec![request("n1", Cluster), request("n2", Listener)],
            Code::InvalidArgument,
        ),
        (
            "too large",
            vec![DeltaDiscoveryRequest {
                resource_names_subscribe: large,
                ..request("n1", Cluster)
            }],
            Code::InvalidArgument,
        ),
    ];
    for (name, requests, expected) in cases {
        let (_out, answer) = open(plain(&server).await, requests).await;
        assert_eq!(end(answer).await, expected, "{name}");
    }
    // A message of another type on the stream's path.
    let mut raw = tonic::client::Grpc::new(plain(&server).await);
    raw.ready().await.unwrap();
    let garbage = DiscoveryRequest {
        response_nonce: "zzzz".into(),
        ..DiscoveryRequest::default()
    };
    let path = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
    let codec = tonic_prost::ProstCodec::<DiscoveryRequest, DeltaDiscoveryResponse>::default();
    let requests = tonic::Request::new(tokio_stream::once(garbage));
    let answer = raw.streaming(requests, path.parse().unwrap(), codec).await;
    assert_eq!(
        end(answer.map(tonic::Response::into_inner)).await,
        Code::InvalidArgument,
        "undecodable"
    );

    let counts = server.counters.snapshot();
    assert_eq!(
        (counts.streams_refused, counts.undecodable),
        (5, 2),
        "{counts:?}"
    );
    let unknown = DeltaDiscoveryRequest {
        type_url: "type.googleapis.com/x".into(),
        ..request("n1", Cluster)
    };
    let (_out, answer) = open(plain(&server).await, vec![unknown, request("", Cluster)]).await;
    let response = next(&mut answer.unwrap()).await.unwrap().unwrap();
    assert_eq!(response.resources.len(), 1);
    assert_eq!(server.counters.snapshot().unknown_types, 1);
}

#[tokio::test]
async fn text_of_clients_is_cut_and_cleaned() {
    use ResourceKind::Cluster;
    let source = Fixture::new();
    source.put([cluster("a", 1)]);
    let server = Running::start(&source, Security::Plain, "127.0.0.1:0").await;
    let mut hello = request("n1", Cluster);
    let node = hello.node.as_mut().unwrap();
    node.user_agent_name = format!("envoy\n\u{1b}[2Jshop/web-2  in sync{}", "x".repeat(70_000));
    node.cluster = "a\u{202e}b\r\nc".repeat(1000);
    let (out, answer) = open(plain(&server).await, vec![hello]).await;
    let mut stream = answer.unwrap();
    let response = next(&mut stream).await.unwrap().unwrap();
    let nack = DeltaDiscoveryRequest {
        response_nonce: response.nonce,
        error_detail: Some(envoy_types::pb::google::rpc::Status {
            message: format!(
                "a: bad\n2026 ERROR forged \u{1b}[31m{}",
                "y".repeat(1 << 20)
            ),
            ..Default::default()
        }),
        ..request("", Cluster)
    };
    out.send(nack).await.unwrap();
    let a = key(Cluster, "a");
    let rejected =
        |p: &heddle_xds_server::Progress| p.unacknowledged.get(&a).is_some_and(Option::is_some);
    let progress = server.until("n1", "rejected", rejected).await;
    let rejection = progress.unacknowledged[&a].clone().unwrap();
    let texts = [
        (&*rejection.text, heddle_xds_server::MAX_TEXT),
        (&*progress.node.user_agent, 80),
        (&*progress.node.cluster, 320),
    ];
    for (text, max) in texts {
        assert_eq!(text.chars().count(), max, "{text}");
        let unsafe_text = |c: char| c.is_control() || c == '\u{202e}';
        assert!(!text.contains(unsafe_text), "{text:?}");
    }
    assert!(rejection.text.starts_with("a: bad 2026 ERROR forged [31m"));

    // Cleaned, such an id would be that of another client.
    for id in [
        "n1\n".to_owned(),
        "n1\u{200b}".to_owned(),
        "n".repeat(4 << 20),
    ] {
        let (_out, answer) = open(plain(&server).await, vec![request(&id, Cluster)]).await;
        assert_eq!(end(answer).await, Code::PermissionDenied);
    }
}

#[tokio::test]
async fn the_progress_of_a_subscriber_is_kept_until_it_is_forgotten() {
    let source = Fixture::new();
    source.put([cluster("a", 1)]);
    let server = Running::start(&source, Security::Plain, "127.0.0.1:0").await;
    let (out, answer) = open(
        plain(&server).await,
        vec![request("n", ResourceKind::Cluster)],
    )
    .await;
    let mut stream = answer.unwrap();
    let response = next(&mut stream).await.unwrap().unwrap();
    let before = server.registry.get(&"n".into()).unwrap();
    assert!(before.connected && before.unacknowledged.len() == 1 && before.bytes > 0);
    let ack = DeltaDiscoveryRequest {
        response_nonce: response.nonce,
        ..request("", ResourceKind::Cluster)
    };
    out.send(ack).await.unwrap();
    let a = key(ResourceKind::Cluster, "a");
    server.until("n", "in sync", |p| runs(p, &a)).await;
    assert_eq!(server.registry.changed_since(before.revision).len(), 1);

    server.registry.forget(&"n".into());
    assert!(
        server.registry.get(&"n".into()).is_some(),
        "one that is connected is not forgotten"
    );
    drop((out, stream));
    let gone = server.until("n", "disconnected", |p| !p.connected).await;
    assert!(runs(&gone, &a));
    server.registry.forget(&"n".into());
    assert_eq!(server.registry.snapshot().len(), 0);
}

#[tokio::test]
async fn the_newer_stream_of_a_subscriber_speaks_for_it() {
    let source = Fixture::new();
    let server = Running::start(&source, Security::Plain, "127.0.0.1:0").await;
    let (old_out, old) = open(
        plain(&server).await,
        vec![request("n", ResourceKind::Cluster)],
    )
    .await;
    let mut old = old.unwrap();
    next(&mut old).await.unwrap();
    let (_new_out, new) = open(
        plain(&server).await,
        vec![request("n", ResourceKind::Cluster)],
    )
    .await;
    next(&mut new.unwrap()).await.unwrap();
    drop((old_out, old));
    while server.counters.snapshot().streams_open > 1 {
        tokio::task::yield_now().await;
    }
    assert!(server.registry.get(&"n".into()).unwrap().connected);
}

#[tokio::test]
async fn without_a_certificate_of_ours_nobody_gets_in() {
    let (pki, source) = (Pki::new(), Fixture::new());
    let server = Running::start(&source, pki.security(), "127.0.0.1:0").await;
    let tls = tls_config(&pki);
    let identity = |pki: &Pki| {
        let leaf = pki.leaf("client");
        Identity::from_pem(leaf.certificate, leaf.key)
    };
    for (name, tls, admitted) in [
        ("none", tls.clone(), false),
        (
            "another's",
            tls.clone().identity(identity(&Pki::new())),
            false,
        ),
        ("ours", tls.clone().identity(identity(&pki)), true),
    ] {
        let endpoint = Endpoint::from_shared(format!("https://{}", server.address)).unwrap();
        let channel = endpoint.tls_config(tls).unwrap().connect_lazy();
        let (_out, answer) = open(channel, vec![request("n", ResourceKind::Cluster)]).await;
        let got_in = match answer {
            Ok(mut stream) => next(&mut stream).await.is_ok(),
            Err(_) => false,
        };
        assert_eq!(got_in, admitted, "{name}");
    }
    assert!(server.counters.snapshot().connections.handshakes_failed >= 2);
}

#[tokio::test]
async fn connections_beyond_the_bound_are_closed() {
    let source = Fixture::new();
    let options = Options {
        bounds: Bounds {
            connections: 1,
            ..Options::default().bounds
        },
        ..Options::default()
    };
    let server = Running::with(&source, Security::Plain, "127.0.0.1:0", options).await;
    let (_out, first) = open(
        plain(&server).await,
        vec![request("n", ResourceKind::Cluster)],
    )
    .await;
    let mut first = first.unwrap();
    next(&mut first).await.unwrap();
    let endpoint = Endpoint::from_shared(format!("http://{}", server.address)).unwrap();
    let (_out, answer) = open(
        endpoint.connect_lazy(),
        vec![request("m", ResourceKind::Cluster)],
    )
    .await;
    assert_ne!(end(answer).await, Code::Ok);
    assert_eq!(server.counters.snapshot().connections.refused_full, 1);
}

#[tokio::test]
async fn a_stopping_server_sends_its_clients_elsewhere() {
    let source = Fixture::new();
    let server = Running::start(&source, Security::Plain, "127.0.0.1:0").await;
    let (_out, answer) = open(
        plain(&server).await,
        vec![request("n", ResourceKind::Cluster)],
    )
    .await;
    let mut stream = answer.unwrap();
    next(&mut stream).await.unwrap();
    let begun = std::time::Instant::now();
    server.stop().await;
    assert!(
        begun.elapsed() < Duration::from_secs(4),
        "the server had to wait for no client"
    );
    assert_eq!(end(Ok(stream)).await, Code::Unavailable);
}
