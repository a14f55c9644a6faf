//! Retries with a real Envoy: a client's sidecar in front of applications that fail, and of addresses where none listens.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod harness;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::running::{Trust, http, request, serve, start, status};
use harness::shop;
use heddle_policy_compiler::Compiled;

/// The application that answers every request well, that which fails, and an address where none listens.
const GOOD: &str = "127.91.0.11";
const FAILING: &str = "127.91.0.12";
const DEAD: &str = "127.91.0.13";

/// Services with the policy, if any, and the endpoints. The client's sidecar has 127.91.0.21 and up for them.
const SERVICES: [(&str, &str, &[&str]); 12] = [
    ("default", "", &[GOOD, DEAD]),
    ("never", "{attempts: 0}", &[GOOD, DEAD]),
    (
        "gateway",
        "{conditions: [GatewayError], backoff: {base: 1ms}}",
        &[GOOD, FAILING],
    ),
    (
        "all",
        "{conditions: [ServerError], resend: All, backoff: {base: 1ms}}",
        &[GOOD, FAILING],
    ),
    (
        "codes",
        "{statusCodes: [503, 429], backoff: {base: 1ms}}",
        &[GOOD, FAILING],
    ),
    (
        "grpc",
        "{grpcCodes: [Unavailable], resend: All, backoff: {base: 1ms}}",
        &[GOOD, FAILING],
    ),
    (
        "twice",
        "{attempts: 1, conditions: [GatewayError], backoff: {base: 1ms}}",
        &[FAILING],
    ),
    (
        "budget",
        "{attempts: 1, conditions: [GatewayError], budget: {percent: 0}, backoff: {base: 300ms}}",
        &[FAILING],
    ),
    ("route", "", &[GOOD, FAILING]),
    (
        "generous",
        "{attempts: 1, conditions: [GatewayError], backoff: {base: 300ms}}",
        &[FAILING],
    ),
    (
        "bounded",
        "{attempts: 1, conditions: [GatewayError], backoff: {base: 300ms}}",
        &[FAILING],
    ),
    ("routed", "", &[GOOD]),
];

/// The budgets of `generous` and `bounded` are those of Gateway API. `routed` leads to the latter, and its rule has requests sent again.
const BUDGETS: &str = r#"---
apiVersion: gateway.networking.x-k8s.io/v1alpha1
kind: XBackendTrafficPolicy
metadata: {name: generous, namespace: shop}
spec:
  targetRefs: [{group: "", kind: Service, name: generous}]
  retryConstraint: {budget: {percent: 100}, minRetryRate: {count: 1000, interval: 1s}}
---
apiVersion: gateway.networking.x-k8s.io/v1alpha1
kind: XBackendTrafficPolicy
metadata: {name: bounded, namespace: shop}
spec:
  targetRefs: [{group: "", kind: Service, name: bounded}]
  retryConstraint: {budget: {percent: 0}, minRetryRate: {count: 10, interval: 1s}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: routed, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: routed}]
  rules:
  - retry: {codes: [503], attempts: 1, backoff: 300ms}
    backendRefs: [{name: bounded, port: 8001}]
"#;

/// The rule of the service `route` has retries of its own.
const ROUTE: &str = r#"---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: route, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: route}]
  rules:
  - retry: {codes: [429], backoff: 1ms}
    timeouts: {backendRequest: 1s}
    backendRefs: [{name: route, port: 8001}]
"#;

fn at(service: &str) -> String {
    let index = SERVICES.iter().position(|(name, ..)| *name == service);
    format!("127.91.0.{}:8001", 21 + index.unwrap())
}

fn compiled() -> Result<Compiled> {
    let mut text = format!("{ROUTE}{BUDGETS}");
    let mut upstreams = Vec::new();
    for (index, (name, retries, endpoints)) in SERVICES.into_iter().enumerate() {
        if !retries.is_empty() {
            let fields = format!("timeouts: {{perTry: 1s}}, retries: {retries}");
            text += &shop::traffic_policy(name, &fields);
        }
        text += &shop::service(name, index, ("http", 8001), endpoints);
        upstreams.push(format!("shop/{name}:8001={}", at(name)));
    }
    text += &shop::client("127.91.0", &upstreams);
    let compiled = harness::compiled(&text);
    ensure!(compiled.findings.is_empty(), "{:#?}", compiled.findings);
    Ok(compiled)
}

/// The requests that applications received, by method and path.
type Received = Arc<Mutex<BTreeMap<String, usize>>>;

/// Answers well, or fails in the way that the first element of the path names.
fn application(
    failing: bool,
    received: &Received,
) -> impl Fn(&mut TcpStream) + Send + Clone + 'static {
    let received = Arc::clone(received);
    move |stream| {
        let Some(seen) = request(stream) else { return };
        let seen = String::from_utf8_lossy(&seen).into_owned();
        let line = seen.split(" HTTP").next().unwrap_or_default().to_owned();
        *received.lock().unwrap().entry(line.clone()).or_default() += 1;
        let way = line.split('/').nth(1).unwrap_or_default();
        let answer = match way {
            _ if !failing => "200 OK",
            "503" => "503 Service Unavailable",
            "429" => "429 Too Many Requests",
            "500" => "500 Internal Server Error",
            "grpc" => "200 OK\r\ncontent-type: application/grpc\r\ngrpc-status: 14",
            "slow" => {
                std::thread::sleep(Duration::from_secs(2));
                "200 OK"
            }
            "cut" => return,
            _ => "200 OK",
        };
        let end = "content-length: 0\r\nconnection: close";
        let _ = write!(stream, "HTTP/1.1 {answer}\r\n{end}\r\n\r\n");
    }
}

/// The statuses of requests in a row, and the most times that one of them was received.
fn send(
    received: &Received,
    service: &str,
    method: &str,
    way: &str,
) -> Result<(BTreeSet<String>, usize)> {
    let mut statuses = BTreeSet::new();
    let mut most = 0;
    for number in 0..8 {
        let path = format!("/{way}/{service}/{number}");
        let length = if method == "POST" {
            "content-length: 0\r\n"
        } else {
            ""
        };
        let commands = "x-envoy-max-retries: 9\r\nx-envoy-retry-on: 5xx,reset\r\n";
        let answer = http(&at(service), method, &path, &format!("{length}{commands}"))?;
        let grpc = if answer.contains("grpc-status: 14") {
            " 14"
        } else {
            ""
        };
        statuses.insert(format!("{}{grpc}", status(&answer)));
        let received = received.lock().unwrap();
        most = most.max(
            received
                .get(&format!("{method} {path}"))
                .copied()
                .unwrap_or(0),
        );
    }
    Ok((statuses, most))
}

#[test]
fn failed_requests_are_sent_again_and_none_is_delivered_twice_that_must_not_be() -> Result<()> {
    let compiled = compiled()?;
    let (trust, folder) = (Trust::new()?, tempfile::tempdir()?);
    let received = Received::default();
    serve(format!("{GOOD}:8001"), application(false, &received))?;
    serve(format!("{FAILING}:8001"), application(true, &received))?;
    let none = BTreeSet::new();
    let admin = "127.91.0.9:9901";
    let _envoy = start(
        &compiled,
        ("client", &none),
        &trust,
        folder.path(),
        admin,
        |_| {},
    )?;
    for (service, method, way, statuses, most) in [
        // Unsent requests, with any method.
        ("default", "GET", "200", "200", 1),
        ("default", "POST", "200", "200", 1),
        ("never", "GET", "200", "200 503", 1),
        // Idempotent methods alone.
        ("gateway", "GET", "503", "200", 2),
        ("gateway", "DELETE", "cut", "200", 2),
        ("gateway", "GET", "slow", "200", 2),
        ("gateway", "GET", "500", "200 500", 1),
        ("gateway", "POST", "503", "200 503", 1),
        ("gateway", "PATCH", "503", "200 503", 1),
        ("gateway", "POST", "cut", "200 503", 1),
        ("gateway", "POST", "slow", "200 504", 1),
        ("codes", "GET", "429", "200", 2),
        ("codes", "GET", "cut", "200 503", 1),
        ("codes", "POST", "429", "200 429", 1),
        // After a reset too, as Gateway API has it.
        ("route", "GET", "429", "200", 2),
        ("route", "GET", "cut", "200", 2),
        ("route", "GET", "503", "200 503", 1),
        ("route", "POST", "429", "200 429", 1),
        ("route", "POST", "cut", "200 503", 1),
        // All methods, where that is said.
        ("all", "POST", "500", "200", 2),
        ("all", "POST", "cut", "200", 2),
        ("grpc", "POST", "grpc", "200", 2),
        ("grpc", "POST", "503", "200 503", 1),
        // As often as the policy sets it, not as the application's headers ask.
        ("twice", "GET", "503", "503", 2),
        ("twice", "POST", "503", "503", 1),
    ] {
        let seen = send(&received, service, method, way)?;
        let statuses = statuses.split(' ').map(str::to_owned).collect();
        ensure!(
            seen == (statuses, most),
            "{service} {method} {way}: {seen:?}"
        );
    }
    for service in ["budget", "bounded", "routed"] {
        let sent = at_once(&received, service)?;
        ensure!((17..=22).contains(&sent), "{service}: sent {sent} times");
    }
    // The default budget would allow few of these.
    let sent = at_once(&received, "generous")?;
    ensure!(sent == 32, "generous: sent {sent} times");
    names(admin)
}

/// How often 16 requests at the same time are sent that fail. With a budget of one retry at a time most of them are not sent again.
fn at_once(received: &Received, service: &str) -> Result<usize> {
    let one = |number: usize| {
        let (at, path) = (at(service), format!("/503/{service}/{number}"));
        move || http(&at, "GET", &path, "").map(|answer| status(&answer))
    };
    let calls: Vec<_> = (0..16)
        .map(|number| std::thread::spawn(one(number)))
        .collect();
    for call in calls {
        let code = call.join().ok().context("a call")??;
        ensure!(code == 503, "{code}");
    }
    let received = received.lock().unwrap();
    let part = format!("/{service}/");
    let sent = received.iter().filter(|(line, _)| line.contains(&part));
    Ok(sent.map(|(_, count)| count).sum())
}

/// Envoy's own view of a route names the object.
fn names(admin: &str) -> Result<()> {
    let dump = http(admin, "GET", "/config_dump?resource=static_listeners", "")?;
    ensure!(dump.contains("whole service, TrafficPolicy shop/gateway, idempotent"));
    Ok(())
}
