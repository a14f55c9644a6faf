//! Ejection, limits, connections and load balancing with a real Envoy: a client's sidecar in front of applications without sidecars.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod harness;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::running::{Trust, connect, echo, failure, http, request, serve, start, status};
use harness::shop;
use heddle_policy_compiler::ResourceKind::Cluster;
use heddle_policy_compiler::{Compiled, Severity, print};
use serde_json::Value;

/// Applications that answer with their address, and one that fails.
const GOOD: [&str; 3] = ["127.92.0.11", "127.92.0.12", "127.92.0.13"];
const FAILING: &str = "127.92.0.14";
/// Addresses where none listens.
const DEAD: [&str; 2] = ["127.92.0.15", "127.92.0.16"];
const ADMIN: &str = "127.92.0.9:9901";

/// A service.
struct Service {
    name: &'static str,
    port: &'static str,
    policy: &'static str,
    endpoints: &'static [&'static str],
}

/// The client's sidecar has 127.92.0.21 and up for them.
const SERVICES: [Service; 13] = [
    of("default", "", &[GOOD[0], DEAD[0]]),
    of("two-dead", "", &[GOOD[0], DEAD[0], DEAD[1]]),
    of("single", "", &[DEAD[0]]),
    of(
        "never",
        "outlierEjection: {failures: 0}",
        &[GOOD[0], DEAD[0]],
    ),
    of(
        "gateway",
        "outlierEjection: {gatewayErrors: 3}",
        &[GOOD[0], FAILING],
    ),
    of("limited", "limits: {requests: 2}", &[GOOD[0]]),
    of("short", "connections: {maxRequests: 2}", &[GOOD[1]]),
    of(
        "header",
        "loadBalancing: {mode: ConsistentHash, hash: {key: Header, name: X-User}}",
        &GOOD,
    ),
    of(
        "cookie",
        "loadBalancing: {mode: ConsistentHash, hash: {key: Cookie, name: user}}",
        &GOOD,
    ),
    of(
        "query",
        "loadBalancing: {mode: ConsistentHash, hash: {key: QueryParameter, name: user}}",
        &GOOD,
    ),
    of(
        "source",
        "loadBalancing: {mode: ConsistentHash, hash: {key: SourceAddress}}",
        &GOOD,
    ),
    of(
        "least",
        "loadBalancing: {mode: LeastRequest, slowStart: {window: 1s}}",
        &GOOD,
    ),
    Service {
        port: "tcp",
        ..of(
            "bytes",
            "outlierEjection: {failures: 2}, limits: {connections: 3}",
            &[GOOD[0], DEAD[0]],
        )
    },
];

const fn of(
    name: &'static str,
    policy: &'static str,
    endpoints: &'static [&'static str],
) -> Service {
    Service {
        name,
        port: "http",
        policy,
        endpoints,
    }
}

/// Applications that speak HTTP have this port, those of bytes the other one.
fn port(service: &Service) -> u16 {
    if service.port == "tcp" { 8002 } else { 8001 }
}

fn at(name: &str) -> String {
    let index = SERVICES.iter().position(|service| service.name == name);
    let index = index.unwrap();
    format!("127.92.0.{}:{}", 21 + index, port(&SERVICES[index]))
}

fn compiled() -> Result<Compiled> {
    let mut text = String::new();
    let mut upstreams = Vec::new();
    for (index, service) in SERVICES.iter().enumerate() {
        let (name, policy, number) = (service.name, service.policy, port(service));
        if !policy.is_empty() {
            text += &shop::traffic_policy(name, policy);
        }
        text += &shop::service(name, index, (service.port, number), service.endpoints);
        upstreams.push(format!("shop/{name}:{number}={}", at(name)));
    }
    text += &shop::client("127.92.0", &upstreams);
    let compiled = harness::compiled(&text);
    let mut findings = compiled.findings.iter();
    ensure!(
        findings.all(|finding| finding.severity == Severity::Info),
        "{:#?}",
        compiled.findings
    );
    Ok(compiled)
}

/// The cluster of the port of bytes of a service, which has a port of HTTP too.
fn cluster_of_bytes(policy: &str) -> Value {
    let mut text = shop::service("both", 1, ("tcp", 8002), &[GOOD[0]]);
    let http = "ports: [{name: http, port: 8001}, {name: tcp, port: 8002}]";
    text = text.replace("ports: [{name: tcp, port: 8002}]", http);
    if !policy.is_empty() {
        text += &shop::traffic_policy("both", policy);
    }
    let upstreams = ["shop/both:8002=127.92.0.20:8002".to_owned()];
    text += &shop::client("127.92.0", &upstreams);
    let views = harness::views(&harness::compiled(&text));
    let mut all = views.values().flat_map(|view| view.resources.values());
    let cluster = all.find(|of| *of.key.name == *"out|shop/both|8002" && of.key.kind == Cluster);
    print::to_json(cluster.unwrap())
}

#[test]
fn fields_of_requests_change_no_cluster_of_bytes() {
    let of_requests = "
        timeouts: {request: 5s}, retries: {attempts: 3, budget: {percent: 50}},
        limits: {requests: 5}, connections: {idleTimeout: 7s, maxRequests: 9},
        loadBalancing: {mode: ConsistentHash, hash: {key: SourceAddress}}";
    let without = cluster_of_bytes("");
    assert_eq!(cluster_of_bytes(of_requests), without);
    let some = cluster_of_bytes("outlierEjection: {failures: 2, serverErrors: 7}");
    assert_ne!(some, without);
    assert_eq!(
        cluster_of_bytes("outlierEjection: {failures: 2}, limits: {requests: 5}"),
        some
    );
}

/// The requests of each connection to an application, and how long a connection lived after its last one.
#[derive(Default)]
struct Connections {
    open: usize,
    requests: Vec<usize>,
    idle: Vec<Duration>,
}

/// Answers with its address, over connections that it keeps. `/slow` takes a while.
fn application(
    own: &'static str,
    seen: &Arc<Mutex<Connections>>,
) -> impl Fn(&mut TcpStream) + Send + Clone + 'static {
    let seen = Arc::clone(seen);
    move |stream| {
        seen.lock().unwrap().open += 1;
        let mut last = Instant::now();
        let mut count = 0;
        while let Some(head) = request(stream) {
            if head.starts_with(b"GET /slow") {
                std::thread::sleep(Duration::from_secs(3));
            }
            let code = if own == FAILING { "503 No" } else { "200 OK" };
            let length = own.len();
            let _ = write!(
                stream,
                "HTTP/1.1 {code}\r\ncontent-length: {length}\r\n\r\n{own}"
            );
            last = Instant::now();
            count += 1;
        }
        let mut seen = seen.lock().unwrap();
        seen.open -= 1;
        seen.requests.push(count);
        seen.idle.push(last.elapsed());
    }
}

/// The statuses and the addresses of these requests.
fn send(service: &str, path: &str, headers: &str, count: usize) -> Result<BTreeMap<String, usize>> {
    let mut seen = BTreeMap::new();
    for _ in 0..count {
        let answer = http(&at(service), "GET", path, headers)?;
        let body = answer.rsplit("\r\n\r\n").next().unwrap_or_default();
        let body = body.strip_prefix("127.92.0.").unwrap_or("none");
        *seen
            .entry(format!("{} {body}", status(&answer)))
            .or_default() += 1;
    }
    Ok(seen)
}

/// A statistic of a service's cluster.
fn statistic(service: &str, name: &str) -> Result<usize> {
    let filter = format!("/stats?filter=shop/{service}.8.*{name}$");
    let answer = http(ADMIN, "GET", &filter, "")?;
    let line = answer
        .lines()
        .find(|line| line.contains(name))
        .with_context(|| answer.clone())?;
    Ok(line
        .rsplit(": ")
        .next()
        .context("no value")?
        .trim()
        .parse()?)
}

/// The number of endpoints that are ejected now. A worker counts failures, and the main thread ejects some time later: a test that
/// sends more requests at once would race with it.
const EJECTED: &str = "outlier_detection.ejections_active";

/// Waits for a statistic to have a value.
fn reaches(service: &str, name: &str, value: usize) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    while statistic(service, name)? != value {
        ensure!(
            Instant::now() < deadline,
            "{service}: {name} is not {value}"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

#[test]
fn endpoints_are_chosen_bounded_and_ejected_as_the_policy_says() -> Result<()> {
    let compiled = compiled()?;
    let (trust, folder) = (Trust::new()?, tempfile::tempdir()?);
    let seen: Arc<Mutex<Connections>> = Arc::default();
    for own in [GOOD[0], GOOD[1], GOOD[2], FAILING] {
        serve(format!("{own}:8001"), application(own, &seen))?;
    }
    serve(format!("{}:8002", GOOD[0]), echo)?;
    let none = BTreeSet::new();
    let _envoy = start(
        &compiled,
        ("client", &none),
        &trust,
        folder.path(),
        ADMIN,
        |_| {},
    )?;
    ejections()?;
    bytes()?;
    limits()?;
    hashes()?;
    connections(&seen)
}

fn ejections() -> Result<()> {
    let all = [("default", 1), ("two-dead", 1), ("single", 0), ("never", 0)];
    for (service, ejected) in all {
        let answers = send(service, "/", "", 40)?;
        let good = ["200 11", "503 none"][usize::from(service == "single")];
        ensure!(answers.keys().eq([good]), "{service}: {answers:?}");
        if ejected > 0 {
            reaches(service, EJECTED, ejected)?;
        }
    }
    // The ejected endpoint gets nothing, and requests no longer wait for its refusal.
    let before = statistic("default", "upstream_cx_connect_fail")?;
    send("default", "/", "", 10)?;
    ensure!(statistic("default", "upstream_cx_connect_fail")? == before);
    let (deadline, mut failed) = (Instant::now() + Duration::from_secs(10), 0);
    while failed < 3 {
        failed += send("gateway", "/", "", 1)?.get("503 14").unwrap_or(&0);
        ensure!(Instant::now() < deadline, "{failed} requests failed");
    }
    reaches("gateway", EJECTED, 1)?;
    let then = send("gateway", "/", "", 10)?;
    ensure!(then.keys().eq(["200 11"]), "{then:?}");
    // By now the main thread has decided about all failures.
    for (service, ejected) in all {
        let active = statistic(service, EJECTED).unwrap_or(0);
        ensure!(active == ejected, "{service}: {active}");
    }
    Ok(())
}

/// An endpoint is ejected for connections of bytes too, and their number is bounded.
fn bytes() -> Result<()> {
    let echoes = || -> Result<Option<TcpStream>> {
        let mut stream = connect(&at("bytes"))?;
        let _ = stream.write_all(b"x");
        let mut back = [0];
        Ok(matches!(stream.read(&mut back), Ok(1)).then_some(stream))
    };
    // A connection counts until Envoy has seen its end.
    for _ in 0..10 {
        ensure!(echoes()?.is_some(), "a connection failed");
        reaches("bytes", "upstream_cx_active", 0)?;
    }
    reaches("bytes", EJECTED, 1)?;
    let open = [echoes()?, echoes()?, echoes()?];
    ensure!(open.iter().all(Option::is_some));
    ensure!(echoes()?.is_none(), "a fourth connection");
    failure(ADMIN, "UO;;;by TrafficPolicy shop/bytes")
}

fn limits() -> Result<()> {
    let slow = || http(&at("limited"), "GET", "/slow", "").map(|answer| status(&answer));
    let taken = [0, 1].map(|_| std::thread::spawn(slow));
    reaches("limited", "upstream_rq_active", 2)?;
    for _ in 0..4 {
        ensure!(slow()? == 503, "a third request passes");
    }
    for call in taken {
        ensure!(call.join().ok().context("a call")?? == 200);
    }
    let named =
        ";503;;[^;]*;UO;whole service, TrafficPolicy shop/limited;.*;by TrafficPolicy shop/limited";
    failure(ADMIN, named)
}

fn hashes() -> Result<()> {
    let mut places: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for user in 0..12 {
        for (service, path, headers) in [
            ("header", "/".to_owned(), format!("x-user: {user}\r\n")),
            ("cookie", "/".to_owned(), format!("cookie: user={user}\r\n")),
            ("query", format!("/?user={user}"), String::new()),
        ] {
            let answers = send(service, &path, &headers, 4)?;
            ensure!(answers.len() == 1, "{service} {user}: {answers:?}");
            places
                .entry(service)
                .or_default()
                .extend(answers.into_keys());
        }
    }
    for (service, places) in places {
        ensure!(places.len() > 1, "{service}: {places:?}");
    }
    let answers = send("source", "/", "", 12)?;
    ensure!(answers.len() == 1, "{answers:?}");
    // Without the part that is hashed, and by the other modes, to all of them.
    for service in ["header", "cookie", "least"] {
        let answers = send(service, "/", "", 40)?;
        ensure!(answers.len() == 3, "{service}: {answers:?}");
        let cookie = http(&at(service), "GET", "/", "")?;
        ensure!(!cookie.to_lowercase().contains("set-cookie"), "{cookie}");
    }
    Ok(())
}

/// Connections end before an application closes them, and after the requests that a policy allows.
fn connections(seen: &Arc<Mutex<Connections>>) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    while seen.lock().unwrap().open > 0 {
        ensure!(Instant::now() < deadline, "idle connections stay");
        std::thread::sleep(Duration::from_millis(50));
    }
    *seen.lock().unwrap() = Connections::default();
    send("short", "/", "", 10)?;
    loop {
        let seen = seen.lock().unwrap();
        if seen.requests.iter().sum::<usize>() == 10 {
            ensure!(
                seen.requests.iter().all(|count| *count <= 2),
                "{:?}",
                seen.requests
            );
            break;
        }
        ensure!(Instant::now() < deadline, "{:?}", seen.requests);
        drop(seen);
        std::thread::sleep(Duration::from_millis(50));
    }
    *seen.lock().unwrap() = Connections::default();
    send("source", "/", "", 1)?;
    while seen.lock().unwrap().idle.is_empty() {
        ensure!(Instant::now() < deadline, "an idle connection stays");
        std::thread::sleep(Duration::from_millis(50));
    }
    let idle = seen.lock().unwrap().idle[0];
    ensure!(
        (Duration::from_millis(500)..Duration::from_secs(5)).contains(&idle),
        "{idle:?}"
    );
    Ok(())
}
