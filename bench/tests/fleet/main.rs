//! Simulated proxies against a gRPC server of another project (tonic).

#![allow(
    clippy::unwrap_used,
    reason = "a mistake in a test's own parts may fail the test"
)]

mod server;

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use heddle_bench::change::Change;
use heddle_bench::children::free_addresses;
use heddle_bench::probe::Probe;
use heddle_bench::sim::proxy::Proxy;
use heddle_bench::sim::{Credentials, Fleet, Member, Retry, Server};
use heddle_identity::{Ca, SpiffeId};

use server::Plane;

const WITHIN: Duration = Duration::from_secs(30);

fn at(address: SocketAddr) -> Server {
    Server {
        address: address.to_string(),
        server_name: "localhost".to_owned(),
    }
}

fn members(count: usize, credentials: impl Fn() -> Option<Credentials>) -> Vec<Member> {
    let member = |index| Member {
        proxy: Proxy::new(&format!("ns/pod-{index}"), "c", ["dst|unknown".to_owned()]),
        credentials: credentials(),
    };
    (0..count).map(member).collect()
}

fn healthy(healthy: usize) -> Change {
    Change::Endpoints {
        name: "a".to_owned(),
        healthy,
    }
}

#[tokio::test]
async fn a_change_is_seen_by_every_proxy() {
    let (plane, [address]) = (Plane::new(3), free_addresses("127.0.0.1").unwrap());
    plane.serve(address, None);
    let mut fleet = Fleet::start(&at(address), members(20, || None), Retry::Never).unwrap();
    let synced = fleet.synced(WITHIN).await.unwrap();
    assert_eq!(
        (synced.resources, synced.refused, synced.times.len()),
        (2, 20, 20)
    );
    let probe = Probe::arm(&fleet, healthy(2), 20);
    plane.set(2);
    assert_eq!(probe.arrivals(WITHIN).await.unwrap().len(), 20);
    fleet.all_up().unwrap();
    assert!(fleet.cpu_seconds().unwrap() > 0.0);
    let never = Probe::arm(&fleet, healthy(9), 20);
    assert!(never.arrivals(Duration::from_millis(50)).await.is_err());
}

#[tokio::test]
async fn proxies_come_back_with_what_they_hold() {
    let domain = "cluster.local".parse().unwrap();
    let (ca, _) = Ca::create(&domain, SystemTime::now()).unwrap();
    let id = SpiffeId::new(domain, "ns", "sa").unwrap();
    let (plane, [address]) = (Plane::new(3), free_addresses("127.0.0.1").unwrap());
    // On a runtime of its own, for with it all its connections go.
    let first = tokio::runtime::Runtime::new().unwrap();
    let entered = first.enter();
    plane.serve(address, Some(&ca));
    drop(entered);
    let signed = || Some(Credentials::sign(&ca, &id, "proxy").unwrap());
    let mut fleet = Fleet::start(&at(address), members(5, signed), Retry::AsEnvoy).unwrap();
    fleet.synced(WITHIN).await.unwrap();
    assert!(plane.brought.lock().unwrap().is_empty());

    let before = fleet.observer().total();
    let probe = Probe::arm(&fleet, healthy(2), 5);
    // Waited for: a connection that lived a moment longer would take the change to a proxy that has not come back.
    tokio::task::spawn_blocking(move || first.shutdown_timeout(WITHIN))
        .await
        .unwrap();
    plane.set(2);
    tokio::time::sleep(Duration::from_millis(100)).await;
    plane.serve(address, Some(&ca));
    assert_eq!(probe.arrivals(WITHIN).await.unwrap().len(), 5);
    assert_eq!(fleet.observer().total().unchanged, before.unchanged);
    assert!(fleet.broken() >= 5);
    // A cluster and its endpoints each.
    assert_eq!(plane.brought.lock().unwrap().len(), 10);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named() {
    let [address] = free_addresses("127.0.0.1").unwrap();
    let mut fleet = Fleet::start(&at(address), members(1, || None), Retry::Never).unwrap();
    let error = fleet.synced(WITHIN).await.unwrap_err().to_string();
    assert!(error.contains(&address.to_string()), "{error}");
}
