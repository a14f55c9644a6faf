//! Timeouts of a `TrafficPolicy` with a real Envoy: a client's sidecar in front of an application that never answers.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod harness;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use anyhow::{Result, anyhow, ensure};
use harness::running::{Trust, http, request, serve, start, status};
use harness::shop;
use heddle_policy_compiler::{Compiled, Severity};

/// Services with their timeouts. The applications listen on 127.80.1.11 and up, the client's sidecar on 127.80.1.21 and up.
const SERVICES: [(&str, &str); 3] = [
    ("whole", "{request: 1s}"),
    ("attempt", "{perTry: 1s}"),
    ("quiet", "{idle: 1s}"),
];

fn compiled() -> Result<Compiled> {
    let mut text = String::from(
        "
apiVersion: heddle.dev/v1alpha1
kind: TrafficSplit
metadata: {name: testers, namespace: shop}
spec:
  service: whole
  matches: [{headers: [{name: x-canary, present: true}]}]
  backends: [{service: quiet, weight: 1}]
",
    );
    let mut upstreams = Vec::new();
    for (index, (name, timeouts)) in SERVICES.into_iter().enumerate() {
        write!(
            text,
            "---
apiVersion: heddle.dev/v1alpha1
kind: TrafficPolicy
metadata: {{name: {name}, namespace: shop}}
spec: {{target: {{service: {name}}}, timeouts: {timeouts}}}
---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: shop}}
spec: {{clusterIP: 10.96.0.{index}, ports: [{{name: http, port: 8001}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}-1, namespace: shop, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: IPv4
ports: [{{name: http, port: 8001}}]
endpoints: [{{addresses: [127.80.1.{}]}}]
",
            11 + index
        )?;
        upstreams.push(format!("shop/{name}:8001=127.80.1.{}:8001", 21 + index));
    }
    write!(
        text,
        "---
apiVersion: v1
kind: Pod
metadata: {{name: client, namespace: shop, annotations: {{heddle.dev/standalone-app: 127.80.1.4, heddle.dev/standalone-upstreams: \"{}\"}}}}
spec: {{serviceAccountName: client, containers: [{{name: app}}]}}
status: {{podIPs: [{{ip: 127.80.1.3}}]}}
",
        upstreams.join(", ")
    )?;
    let compiled = harness::compiled(&text);
    let mut findings = compiled.findings.iter();
    ensure!(
        findings.all(|finding| finding.severity != Severity::Error),
        "{:#?}",
        compiled.findings
    );
    Ok(compiled)
}

/// Answers every path but `/slow`, of which it counts the requests.
fn application(slow: &Arc<AtomicUsize>) -> impl Fn(&mut TcpStream) + Send + Clone + 'static {
    let slow = Arc::clone(slow);
    move |stream| {
        let Some(seen) = request(stream) else { return };
        if seen.starts_with(b"GET /slow ") {
            slow.fetch_add(1, Ordering::Relaxed);
            while let Ok(1..) = stream.read(&mut [0; 64]) {}
        } else {
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            let _ = stream.write_all(answer);
        }
    }
}

#[test]
fn a_slow_request_is_answered_with_504_at_each_timeout_and_sent_once() -> Result<()> {
    let compiled = compiled()?;
    let (trust, folder) = (Trust::new()?, tempfile::tempdir()?);
    let slow = Arc::default();
    for index in 0..SERVICES.len() {
        let at = format!("127.80.1.{}:8001", 11 + index);
        serve(at, application(&slow))?;
    }
    let none = BTreeSet::new();
    let _envoy = start(
        &compiled,
        ("client", &none),
        &trust,
        folder.path(),
        "127.80.1.9:9901",
        |_| {},
    )?;
    for (index, (name, timeouts)) in SERVICES.into_iter().enumerate() {
        let at = format!("127.80.1.{}:8001", 21 + index);
        for headers in ["", "x-canary: yes\r\n"] {
            let answer = http(&at, "GET", "/fast", headers)?;
            ensure!(status(&answer) == 200, "{name}: {answer}");
            let sent = slow.load(Ordering::Relaxed);
            let answer = http(&at, "GET", "/slow", headers)?;
            ensure!(status(&answer) == 504, "{name} {timeouts}: {answer}");
            ensure!(slow.load(Ordering::Relaxed) == sent + 1, "{name}");
        }
    }
    Ok(())
}

/// A service of one hour, its route of one second, and one rule of the route of one hour again.
const ROUTED: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: routed, namespace: shop}
spec:
  parentRefs: [{group: '', kind: Service, name: routed}]
  rules:
  - name: patient
    matches: [{headers: [{name: x-patient, value: 'yes'}]}]
    backendRefs: [{name: routed, port: 8001}]
  - backendRefs: [{name: routed, port: 8001}]
---
apiVersion: heddle.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: patient, namespace: shop}
spec: {target: {route: {kind: HTTPRoute, name: routed, rule: patient}}, timeouts: {request: 1h}}
---
apiVersion: heddle.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: route, namespace: shop}
spec: {target: {route: {kind: HTTPRoute, name: routed}}, timeouts: {request: 1s}}
";

/// The request of the patient rule is on its way before the other one begins, and ends after it: so it outlives the timeout of the other.
#[test]
fn a_rule_has_the_timeout_of_its_own_policy_and_other_rules_that_of_the_route() -> Result<()> {
    let mut text = ROUTED.to_owned() + &shop::traffic_policy("routed", "timeouts: {request: 1h}");
    text += &shop::service("routed", 1, ("http", 8001), &["127.80.2.11"]);
    text += &shop::client(
        "127.80.2",
        &["shop/routed:8001=127.80.2.21:8001".to_owned()],
    );
    let compiled = harness::compiled(&text);
    ensure!(compiled.findings.is_empty(), "{:#?}", compiled.findings);
    let (trust, folder) = (Trust::new()?, tempfile::tempdir()?);
    let (arrived, arrivals) = mpsc::channel();
    let (open, opened) = mpsc::channel::<()>();
    let (arrived, opened) = (Arc::new(Mutex::new(arrived)), Arc::new(Mutex::new(opened)));
    serve(
        "127.80.2.11:8001".to_owned(),
        move |stream: &mut TcpStream| {
            let Some(seen) = request(stream) else { return };
            let _ = arrived.lock().unwrap().send(());
            if seen.windows(9).any(|of| of == b"x-patient") {
                let _ = opened.lock().unwrap().recv();
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                let _ = stream.write_all(answer);
            } else {
                while let Ok(1..) = stream.read(&mut [0; 64]) {}
            }
        },
    )?;
    let none = BTreeSet::new();
    let _envoy = start(
        &compiled,
        ("client", &none),
        &trust,
        folder.path(),
        "127.80.2.9:9901",
        |_| {},
    )?;
    let at = "127.80.2.21:8001";
    let patient = thread::spawn(move || http(at, "GET", "/slow", "x-patient: yes\r\n"));
    arrivals.recv()?;
    let answer = http(at, "GET", "/slow", "")?;
    ensure!(status(&answer) == 504, "{answer}");
    open.send(())?;
    let answer = patient
        .join()
        .map_err(|_| anyhow!("the caller panicked"))??;
    ensure!(status(&answer) == 200, "{answer}");
    Ok(())
}

/// The policy of a consumer for its own calls of `quick`: a request may take a second, and is sent again after a failure.
const CONSUMER: &str = "---
apiVersion: heddle.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: quick, namespace: till}
spec: {target: {service: quick, namespace: shop}, timeouts: {request: 1s}, retries: {attempts: 3, conditions: [ServerError]}}
";

/// The sidecars of two namespaces call the same address of the same service at the same time.
#[test]
fn callers_of_a_namespace_have_the_policy_of_their_own_and_others_that_of_the_service() -> Result<()>
{
    let mut text = shop::traffic_policy("quick", "timeouts: {request: 1h}, retries: {attempts: 0}");
    text += CONSUMER;
    text += &shop::service("quick", 1, ("http", 8001), &["127.80.3.11"]);
    let upstream = |index: u8| format!("shop/quick:8001=127.80.3.{index}:8001");
    text += &shop::client("127.80.3", &[upstream(21)]);
    text +=
        &shop::client("127.80.4", &[upstream(22)]).replace("namespace: shop", "namespace: till");
    let compiled = harness::compiled(&text);
    ensure!(compiled.findings.is_empty(), "{:#?}", compiled.findings);
    let (trust, folder) = (Trust::new()?, tempfile::tempdir()?);
    let (arrived, arrivals) = mpsc::channel();
    let (open, opened) = mpsc::channel::<()>();
    let (arrived, opened) = (Arc::new(Mutex::new(arrived)), Arc::new(Mutex::new(opened)));
    let failed = Arc::new(AtomicUsize::new(0));
    let failures = Arc::clone(&failed);
    serve(
        "127.80.3.11:8001".to_owned(),
        move |stream: &mut TcpStream| {
            let Some(seen) = request(stream) else { return };
            let has = |text: &[u8]| seen.windows(text.len()).any(|of| of == text);
            if has(b"GET /fail ") {
                failures.fetch_add(1, Ordering::Relaxed);
                let answer =
                    b"HTTP/1.1 500 Error\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                let _ = stream.write_all(answer);
            } else if has(b"x-owner: yes") {
                let _ = arrived.lock().unwrap().send(());
                let _ = opened.lock().unwrap().recv();
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                let _ = stream.write_all(answer);
            } else {
                while let Ok(1..) = stream.read(&mut [0; 64]) {}
            }
        },
    )?;
    let none = BTreeSet::new();
    let sidecar = |pod: &str, admin: &str, folder: &std::path::Path| {
        start(&compiled, (pod, &none), &trust, folder, admin, |_| {})
    };
    let folders = [folder.path().join("shop"), folder.path().join("till")];
    folders.iter().try_for_each(std::fs::create_dir)?;
    let _owner = sidecar("client", "127.80.3.9:9901", &folders[0])?;
    let _consumer = sidecar("till/client", "127.80.4.9:9901", &folders[1])?;
    let [owner, consumer] = ["127.80.3.21:8001", "127.80.3.22:8001"];
    // The request of the service's own namespace begins first and ends last: it outlives the timeout of the other one.
    let patient = thread::spawn(move || http(owner, "GET", "/slow", "x-owner: yes\r\n"));
    arrivals.recv()?;
    let answer = http(consumer, "GET", "/slow", "")?;
    ensure!(status(&answer) == 504, "{answer}");
    open.send(())?;
    let answer = patient
        .join()
        .map_err(|_| anyhow!("the caller panicked"))??;
    ensure!(status(&answer) == 200, "{answer}");
    for (at, again) in [(owner, false), (consumer, true)] {
        failed.store(0, Ordering::Relaxed);
        http(at, "GET", "/fail", "")?;
        let sent = failed.load(Ordering::Relaxed);
        ensure!(sent > 0 && (sent > 1) == again, "{at}: sent {sent} times");
    }
    Ok(())
}
