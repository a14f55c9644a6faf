//! Streams on the ends of pods: reports reach the source, and every change of the withdrawal reaches the client.
// Clippy takes only the test functions themselves for tests, not the functions they call.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

mod support;

use std::time::Instant;

use heddle_xds_server::{Security, Withdrawal};
use heddle_xds_types::rollout::{EndReport, METHOD, WithdrawalReport};
use support::client::plain;
use support::{Fixture, Running};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Code, Request, Streaming};

async fn open(
    server: &Running,
    node: &str,
) -> (mpsc::Sender<EndReport>, Streaming<WithdrawalReport>) {
    let (reports, outgoing) = mpsc::channel(4);
    let first = EndReport {
        node: node.to_owned(),
        asked_ago_ms: Some(7),
        ..EndReport::default()
    };
    reports.send(first).await.unwrap();
    let mut client = tonic::client::Grpc::new(plain(server).await);
    client.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<EndReport, WithdrawalReport>::default();
    let path = PathAndQuery::from_static(METHOD);
    let request = Request::new(ReceiverStream::new(outgoing));
    let answer = client.streaming(request, path, codec).await;
    (reports, answer.unwrap().into_inner())
}

#[tokio::test]
async fn a_client_is_told_every_change_until_a_newer_stream_takes_its_place() {
    let source = Fixture::new();
    let server = Running::start(&source, Security::Plain, "127.0.0.1:0").await;
    let (reports, mut answers) = open(&server, "n").await;
    let first = answers.message().await.unwrap().unwrap();
    assert_eq!(first, WithdrawalReport::default());
    let withdrawal = Withdrawal {
        terminating: true,
        services: 1,
        withdrawn: Some(Instant::now()),
        total: 3,
        acknowledged: 2,
        away: 1,
        completed: None,
    };
    source.withdrawal.send_replace(withdrawal);
    let told = answers.message().await.unwrap().unwrap();
    assert!(told.withdrawn_ago_ms.is_some());
    let counts = (
        told.terminating,
        told.services,
        told.total,
        told.acknowledged,
        told.away,
    );
    assert_eq!(counts, (true, 1, 3, 2, 1));
    let released = EndReport {
        released_ago_ms: Some(0),
        ..EndReport::default()
    };
    reports.send(released.clone()).await.unwrap();
    let complete = Withdrawal {
        completed: Some(Instant::now()),
        ..withdrawal
    };
    while source.ends.lock().unwrap().len() < 2 {
        tokio::task::yield_now().await;
    }
    source.withdrawal.send_replace(complete);
    assert!(answers.message().await.unwrap().unwrap().complete);
    let taken = std::mem::take(&mut *source.ends.lock().unwrap());
    let taken: Vec<_> = taken.iter().map(|(who, of)| (who.as_str(), of)).collect();
    assert_eq!((taken[0].0, taken[0].1.asked_ago_ms), ("n", Some(7)));
    assert_eq!(taken[1], ("n", &released));

    let (_reports, mut newer) = open(&server, "n").await;
    assert!(newer.message().await.unwrap().unwrap().complete);
    assert_eq!(answers.message().await.unwrap_err().code(), Code::Aborted);
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_is_not_admitted_is_told_nothing() {
    let source = Fixture::new();
    let server = Running::start(&source, Security::Plain, "127.0.0.1:0").await;
    for (node, code) in [
        ("denied", Code::PermissionDenied),
        ("", Code::Unauthenticated),
    ] {
        let (_reports, mut answers) = open(&server, node).await;
        assert_eq!(answers.message().await.unwrap_err().code(), code);
    }
    assert!(source.ends.lock().unwrap().is_empty());
    server.stop().await;
}
