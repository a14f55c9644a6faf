//! Envoy's own headers (`x-envoy-...`) in requests and responses of applications, with real Envoys: they command no sidecar.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod harness;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use harness::running::{Trust, http, request, serve, start_as_is, status};

/// A client and a server; the client's calls have a timeout of 1 s.
const WORLD: &str = "
apiVersion: heddle.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: api, namespace: shop}
spec: {target: {service: api}, timeouts: {request: 1s}}
---
apiVersion: v1
kind: Service
metadata: {name: api, namespace: shop}
spec: {clusterIP: 10.96.0.1, selector: {app: api}, ports: [{name: http, port: 8001}]}
---
apiVersion: v1
kind: Service
metadata: {name: plain, namespace: shop}
spec: {clusterIP: 10.96.0.2, ports: [{name: http, port: 8001}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: api-1, namespace: shop, labels: {kubernetes.io/service-name: api}}
addressType: IPv4
ports: [{name: http, port: 8001}]
endpoints: [{addresses: [127.87.0.2], targetRef: {kind: Pod, name: api, namespace: shop}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: plain-1, namespace: shop, labels: {kubernetes.io/service-name: plain}}
addressType: IPv4
ports: [{name: http, port: 8001}]
endpoints: [{addresses: [127.87.0.3]}]
---
apiVersion: v1
kind: Pod
metadata: {name: api, namespace: shop, labels: {app: api}, annotations: {heddle.dev/standalone-app: 127.87.0.3}}
spec: {serviceAccountName: api, containers: [{name: app}]}
status: {podIPs: [{ip: 127.87.0.2}]}
---
apiVersion: v1
kind: Pod
metadata:
  name: client
  namespace: shop
  annotations: {heddle.dev/standalone-app: 127.87.0.5, heddle.dev/standalone-upstreams: \"shop/api:8001=127.87.0.6:8001, shop/plain:8001=127.87.0.7:8001\"}
spec: {serviceAccountName: client, containers: [{name: app}]}
status: {podIPs: [{ip: 127.87.0.4}]}
";
/// The calls that have a timeout, those that have none, and the server's sidecar without a client's.
const TIMED: &str = "127.87.0.6:8001";
const UNTIMED: &str = "127.87.0.7:8001";
const SERVER: &str = "127.87.0.2:8001";

/// Never answers `/slow`, answers `/late` after half a second, `/fail` with 503, and all others with the request. It counts the requests.
fn application(count: &Arc<AtomicUsize>) -> impl Fn(&mut TcpStream) + Send + Clone + 'static {
    let count = Arc::clone(count);
    move |stream| {
        let Some(seen) = request(stream) else { return };
        count.fetch_add(1, Ordering::Relaxed);
        let code = if seen.starts_with(b"GET /fail ") {
            "503 Fail"
        } else {
            "200 OK"
        };
        if seen.starts_with(b"GET /slow ") {
            while let Ok(1..) = stream.read(&mut [0; 64]) {}
            return;
        }
        if seen.starts_with(b"GET /late ") {
            std::thread::sleep(Duration::from_millis(500));
        }
        let _ = write!(
            stream,
            "HTTP/1.1 {code}\r\n{REPORTS}content-length: {}\r\nconnection: close\r\n\r\n",
            seen.len()
        );
        let _ = stream.write_all(&seen);
    }
}

/// The addresses by which Envoy may take a caller for one of its own.
const FORWARDED: [&str; 4] = [
    "",
    "X-Forwarded-For: 10.0.0.1\r\n",
    "X-Forwarded-For: 127.0.0.1\r\n",
    "X-Forwarded-For: fd00::1\r\nX-Envoy-Internal: true\r\n",
];
/// They would end a request, or go on after a timeout of a policy.
const TIMEOUTS: [&str; 6] = [
    "grpc-timeout",
    "x-envoy-upstream-rq-timeout-ms",
    "x-envoy-upstream-rq-per-try-timeout-ms",
    "x-envoy-upstream-rq-per-try-idle-timeout-ms",
    "x-envoy-upstream-stream-duration-ms",
    "x-envoy-expected-rq-timeout-ms",
];
/// They would send a request again, name a statistic in the sidecar's memory, and mark a trace.
const COMMANDS: &str = "x-envoy-retry-on: 5xx,gateway-error,retriable-status-codes\r\n\
    x-envoy-retry-grpc-on: unavailable\r\nx-envoy-max-retries: 7\r\nx-envoy-retriable-status-codes: 503\r\n\
    x-envoy-retriable-header-names: content-length\r\nx-envoy-hedge-on-per-try-timeout: true\r\n\
    x-envoy-upstream-rq-per-try-timeout-ms: 1\r\nx-envoy-upstream-alt-stat-name: stranger\r\n\
    x-envoy-decorator-operation: stranger\r\nx-envoy-force-trace: true\r\nx-envoy-original-dst-host: 127.87.0.99:1\r\n";

/// In every response of the application. From an upstream Envoy they would mean that it wants no more requests.
const REPORTS: &str = "x-envoy-immediate-health-check-fail: true\r\nx-envoy-overloaded: true\r\nx-envoy-degraded: true\r\n\
    x-envoy-ratelimited: true\r\n";

#[test]
fn headers_that_command_envoy_command_no_sidecar() -> Result<()> {
    let (compiled, trust, folder) = (
        harness::compiled(WORLD),
        Trust::new()?,
        tempfile::tempdir()?,
    );
    let count = Arc::default();
    serve("127.87.0.3:8001".to_owned(), application(&count))?;
    let run = |pod, admin| start_as_is(&compiled, pod, &trust, folder.path(), admin);
    let admins = ["127.87.0.8:9901", "127.87.0.9:9901"];
    let (_server, _client) = (run("api", admins[0])?, run("client", admins[1])?);
    for forwarded in FORWARDED {
        let headers: String = TIMEOUTS[1..]
            .iter()
            .map(|name| format!("{name}: 60000\r\n"))
            .collect();
        let answer = http(TIMED, "GET", "/slow", &format!("{forwarded}{headers}"))?;
        ensure!(status(&answer) == 504, "{forwarded}: {answer}");
        for at in [UNTIMED, SERVER] {
            for name in TIMEOUTS {
                let value = match name {
                    "grpc-timeout" => "1m\r\ncontent-type: application/grpc",
                    _ => "1",
                };
                let header = format!("{forwarded}{name}: {value}\r\n");
                let answer = http(at, "GET", "/late", &header)?;
                ensure!(status(&answer) == 200, "{at} {header}: {answer}");
            }
            let before = count.load(Ordering::Relaxed);
            let answer = http(at, "GET", "/fail", &format!("{forwarded}{COMMANDS}"))?;
            ensure!(
                status(&answer) == 503 && answer.contains("GET /fail "),
                "{at} {forwarded}: {answer}"
            );
            let sent = count.load(Ordering::Relaxed) - before;
            ensure!(sent == 1, "{at} {forwarded}: sent {sent} times");
        }
    }
    for admin in admins {
        let statistics = http(admin, "GET", "/stats?filter=stranger", "")?;
        ensure!(status(&statistics) == 200, "{statistics}");
        ensure!(!statistics.contains("stranger"), "{admin}: {statistics}");
    }
    Ok(())
}
