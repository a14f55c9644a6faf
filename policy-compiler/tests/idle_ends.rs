//! Applications that end idle connections, as Node does after 5 s: no request may meet the end. Real Envoys; one application has a sidecar, one
//! has none, and a route leads to one at a port without a declared protocol. `HEDDLE_IDLE_REQUESTS` is the number of requests.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod harness;

use std::collections::BTreeMap;
use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::chain::{HTTP, workload};
use harness::running::{Trust, connect, request, serve, start_as_is, status};
use harness::shop;

const NET: &str = "127.116";
/// The services, by the index of their addresses.
const SERVICES: [(&str, u8); 3] = [("meshed", 1), ("plain", 2), ("routed", 3)];
/// The service of the application behind `routed`.
const UNDECLARED: &str = "undeclared";
const ROUTE: &str = "---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: routed, namespace: shop}
spec:
  parentRefs: [{group: \"\", kind: Service, name: routed}]
  rules: [{backendRefs: [{name: undeclared, port: 8411}]}]
";
/// The time after which an application ends an idle connection: that of Node and uvicorn.
const ENDS: Duration = Duration::from_secs(5);
/// The time after which a sidecar ends an idle connection to an application.
const OWN_END: Duration = Duration::from_secs(1);
/// The clients of a service. Their pauses are around the ends, half a millisecond apart.
const CLIENTS: u32 = 200;
const STEP: Duration = Duration::from_micros(500);
/// The requests of `make test`.
const REQUESTS: u32 = 1_800;

/// The requests and ends of connections at the applications.
#[derive(Default)]
struct Seen {
    /// How often each request came.
    received: Mutex<BTreeMap<String, usize>>,
    /// The connections that an application ended: each request at that moment is lost.
    ended: AtomicUsize,
}

/// Answers requests, until none has come for a while.
fn application(stream: &mut TcpStream, seen: &Seen) {
    let _ = stream.set_read_timeout(Some(ENDS));
    let mut idle = Instant::now();
    while let Some(head) = request(stream) {
        let head = String::from_utf8_lossy(&head).into_owned();
        let line = head.split(" HTTP").next().unwrap_or_default().to_owned();
        *seen.received.lock().unwrap().entry(line).or_default() += 1;
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        if stream.write_all(answer).is_err() {
            return;
        }
        idle = Instant::now();
    }
    // The wait is over, and the connection ends with this function.
    if idle.elapsed() >= ENDS {
        seen.ended.fetch_add(1, Ordering::Relaxed);
    }
}

/// Where the client's sidecar takes calls to a service.
fn upstream(index: u8) -> String {
    format!("{NET}.0.{}:{HTTP}", 2 + index)
}

/// Sends requests on one connection, with a pause around each end in turn. They may not be sent again.
fn client((name, index): (&str, u8), number: u32, turns: u32) -> Result<()> {
    let mut stream = connect(&upstream(index))?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    for turn in 0..turns {
        if turn > 0 {
            let end = if turn % 2 == 1 { ENDS } else { OWN_END };
            thread::sleep(end + STEP * number - STEP * (CLIENTS / 2));
        }
        write!(
            stream,
            "POST /{name}/{number}/{turn} HTTP/1.1\r\nhost: {name}\r\ncontent-length: 0\r\n\r\n"
        )?;
        let answer = request(&mut stream).context("the connection ended")?;
        let answer = String::from_utf8_lossy(&answer);
        ensure!(status(&answer) == 200, "/{name}/{number}/{turn}: {answer}");
    }
    Ok(())
}

fn world() -> String {
    let [meshed, plain, routed] = SERVICES;
    let upstreams = SERVICES.map(|(name, index)| format!("shop/{name}:{HTTP}={}", upstream(index)));
    let address = format!("{NET}.{}.2", plain.1);
    let of = |(name, index): (&str, u8)| workload(NET, usize::from(index), name, HTTP, "");
    let service =
        |name: &str, index: usize| shop::service(name, index, ("http", HTTP), &[&address]);
    workload(NET, 0, "client", HTTP, &upstreams.join(", "))
        + &of(meshed)
        + &of((UNDECLARED, routed.1)).replace("name: http", "name: x")
        + &service(plain.0, 8)
        + &service(routed.0, 9)
        + ROUTE
}

#[test]
fn no_request_meets_the_end_of_an_idle_connection() -> Result<()> {
    let (compiled, trust, folder) = (
        harness::compiled(&world()),
        Trust::new()?,
        tempfile::tempdir()?,
    );
    ensure!(compiled.findings.is_empty(), "{:#?}", compiled.findings);
    let seen = Arc::<Seen>::default();
    for (_, index) in SERVICES {
        let seen = Arc::clone(&seen);
        let answer = move |stream: &mut TcpStream| application(stream, &seen);
        serve(format!("{NET}.{index}.2:{HTTP}"), answer)?;
    }
    let start = |(name, index)| {
        let admin = format!("{NET}.{index}.9:9901");
        start_as_is(&compiled, name, &trust, folder.path(), &admin)
    };
    let _envoys = [
        start(("client", 0))?,
        start(SERVICES[0])?,
        start((UNDECLARED, SERVICES[2].1))?,
    ];

    let asked = std::env::var("HEDDLE_IDLE_REQUESTS").ok();
    let asked = asked.map_or(Ok(REQUESTS), |text| text.parse())?;
    let at_once = CLIENTS * u32::try_from(SERVICES.len())?;
    let turns = asked.div_ceil(at_once);
    let clients = SERVICES
        .into_iter()
        .flat_map(|service| (0..CLIENTS).map(move |number| (service, number)))
        .map(|(service, number)| thread::spawn(move || client(service, number, turns)));
    let clients: Vec<_> = clients.collect();
    let lost: Vec<anyhow::Error> = clients
        .into_iter()
        .filter_map(|client| client.join().unwrap().err())
        .collect();
    let received = seen.received.lock().unwrap();
    let ended = seen.ended.load(Ordering::Relaxed);
    println!(
        "{} requests, {} clients lost one, {ended} connections ended by an application",
        received.len(),
        lost.len()
    );
    ensure!(ended == 0, "an application ended {ended} connections");
    ensure!(lost.is_empty(), "{lost:#?}");
    let sent = usize::try_from(at_once * turns)?;
    ensure!(
        received.len() == sent,
        "{} of {sent} arrived",
        received.len()
    );
    let twice = received.iter().find(|(_, count)| **count > 1);
    ensure!(twice.is_none(), "{twice:?}");
    Ok(())
}
