//! Access logs of real Envoys: the sidecars of a client and of a server, with real mTLS on loopback.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

#[path = "harness/collector.rs"]
mod collector;
mod harness;

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use collector::{Collector, Line};
use harness::running::{Envoy, Trust, connect, echo, http, mirror_as, request, serve, start};
use serde_json::{Value, json};

const HTTP: u16 = 8401;
const TCP: u16 = 8402;
/// Of bytes, with a policy that denies everything. Its service has no selector, so that the client does not know of the policy.
const DENIED: u16 = 8403;

/// A mesh of two pods, with these telemetry settings, on a loopback network of its own.
struct Mesh {
    net: u8,
    folder: tempfile::TempDir,
    _envoys: [Envoy; 2],
}

impl Mesh {
    fn start(net: u8, telemetry: &str) -> Result<Self> {
        let upstreams = [("api", HTTP), ("api", TCP), ("raw", DENIED)]
            .map(|(service, port)| format!("shop/{service}:{port}=127.{net}.0.6:{port}"));
        let world = format!(
            "---
apiVersion: v1
kind: Service
metadata: {{name: api, namespace: shop}}
spec: {{clusterIP: 10.96.0.1, selector: {{app: api}}, ports: [{{name: http, port: {HTTP}}}, {{name: tcp, port: {TCP}}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: api-1, namespace: shop, labels: {{kubernetes.io/service-name: api}}}}
addressType: IPv4
ports: [{{name: http, port: {HTTP}}}, {{name: tcp, port: {TCP}}}]
endpoints: [{{addresses: [127.{net}.0.2], conditions: {{ready: true}}, targetRef: {{kind: Pod, name: api, namespace: shop}}}}]
---
apiVersion: v1
kind: Service
metadata: {{name: raw, namespace: shop}}
spec: {{clusterIP: 10.96.0.2, ports: [{{name: tcp, port: {DENIED}}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: raw-1, namespace: shop, labels: {{kubernetes.io/service-name: raw}}}}
addressType: IPv4
ports: [{{name: tcp, port: {DENIED}}}]
endpoints: [{{addresses: [127.{net}.0.2], conditions: {{ready: true}}, targetRef: {{kind: Pod, name: api, namespace: shop}}}}]
---
apiVersion: v1
kind: Pod
metadata: {{name: api, namespace: shop, labels: {{app: api}}, annotations: {{heddle.dev/standalone-app: 127.{net}.0.3}}}}
spec: {{serviceAccountName: api, containers: [{{name: app, ports: [{{containerPort: {DENIED}}}]}}]}}
status: {{podIPs: [{{ip: 127.{net}.0.2}}]}}
---
apiVersion: v1
kind: Pod
metadata: {{name: client, namespace: shop, annotations: {{heddle.dev/standalone-app: 127.{net}.0.5, heddle.dev/standalone-upstreams: \"{}\"}}}}
spec: {{serviceAccountName: client, containers: [{{name: app}}]}}
status: {{podIPs: [{{ip: 127.{net}.0.4}}]}}
---
apiVersion: heddle.dev/v1alpha1
kind: AuthPolicy
metadata: {{name: api, namespace: shop}}
spec: {{selector: {{matchLabels: {{app: api}}}}, rules: [{{action: Deny, to: {{ports: [{HTTP}], paths: [/admin]}}}}, {{action: Deny, to: {{ports: [{DENIED}]}}}}]}}
---
apiVersion: heddle.dev/v1alpha1
kind: Mesh
metadata: {{name: default}}
spec: {{telemetry: {{{telemetry}}}}}
",
            upstreams.join(", ")
        );
        let (compiled, trust) = (harness::compiled(&world), Trust::new()?);
        ensure!(compiled.findings.is_empty(), "{:#?}", compiled.findings);
        serve(format!("127.{net}.0.3:{HTTP}"), answer)?;
        serve(format!("127.{net}.0.3:{TCP}"), echo)?;
        let (folder, none) = (tempfile::tempdir()?, BTreeSet::new());
        let sidecar = |pod: &'static str, host: u8| {
            let admin = format!("127.{net}.0.{host}:9901");
            start(
                &compiled,
                (pod, &none),
                &trust,
                folder.path(),
                &admin,
                |_| {},
            )
        };
        let envoys = [sidecar("api", 8)?, sidecar("client", 9)?];
        Ok(Self {
            net,
            folder,
            _envoys: envoys,
        })
    }

    /// Calls the application through both sidecars.
    fn call(&self, path: &str) -> Result<String> {
        let at = format!("127.{}.0.6:{HTTP}", self.net);
        let headers = "Authorization: Bearer SECRET\r\nCookie: a=SECRET\r\nX-Request-Id: id-1\r\n\
            traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n";
        http(&at, "GET", path, headers)
    }

    /// Calls the application with bytes that are not UTF-8 in the path, the host, and the other headers that lines have.
    fn foreign_bytes(&self) -> Result<()> {
        let plain = ("/odd", &b"api"[..], &b"id-2"[..]);
        for (path, host, id) in [
            (&b"/\xff\xc3("[..], plain.1, plain.2),
            (plain.0.as_bytes(), &b"a\xfe"[..], plain.2),
            (plain.0.as_bytes(), plain.1, &b"\xfd\xed\xa0\x80"[..]),
        ] {
            let mut stream = connect(&format!("127.{}.0.6:{HTTP}", self.net))?;
            let parts = [&b"GET "[..], path, b" HTTP/1.1\r\nHost: ", host];
            let more = [&b"\r\nX-Request-Id: "[..], id, b"\r\ntraceparent: ", id];
            let end = &b"\r\nConnection: close\r\n\r\n"[..];
            stream.write_all(&[parts.concat(), more.concat(), end.to_vec()].concat())?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer)?;
            ensure!(answer.starts_with(b"HTTP/1.1 "), "{answer:?}");
        }
        Ok(())
    }

    /// Sends bytes to a port, and returns the echo.
    fn bytes(&self, port: u16) -> Result<Vec<u8>> {
        let mut stream = connect(&format!("127.{}.0.6:{port}", self.net))?;
        let mut all = Vec::new();
        // A denied connection may be reset, before or after the bytes.
        let _ = stream.write_all(b"hello");
        let _ = stream.shutdown(Shutdown::Write);
        let _ = stream.read_to_end(&mut all);
        Ok(all)
    }

    /// Sets runtime values of both sidecars, as RTDS does.
    fn set(&self, values: &str) -> Result<()> {
        for host in [8, 9] {
            let admin = format!("127.{}.0.{host}:9901", self.net);
            let answer = http(&admin, "POST", &format!("/runtime_modify?{values}"), "")?;
            ensure!(answer.contains("200 OK"), "{answer}");
        }
        Ok(())
    }

    /// Whether a counter of a sidecar reaches a value within 20 s.
    fn counter_reaches(&self, host: u8, name: &str, value: u64) -> Result<bool> {
        let admin = format!("127.{}.0.{host}:9901", self.net);
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline {
            let answer = http(&admin, "GET", &format!("/stats?filter={name}"), "")?;
            let numbers = answer.lines().filter_map(|line| line.split_once(": "));
            let mut numbers = numbers.filter(|(of, _)| of.contains(name));
            let seen = numbers
                .next()
                .and_then(|(_, number)| number.parse::<u64>().ok());
            if seen >= Some(value) {
                return Ok(true);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(false)
    }

    /// The lines of the sidecar of a pod, once there are so many.
    fn lines(&self, pod: &str, count: usize) -> Result<Vec<String>> {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let lines = read(self.folder.path(), pod)?;
            if lines.len() >= count {
                ensure!(lines.len() == count, "{pod}: {lines:#?}");
                return Ok(lines);
            }
            ensure!(Instant::now() < deadline, "{pod}: {count}: {lines:#?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The lines as JSON, without the fields that differ from run to run.
    fn objects(&self, pod: &str, count: usize) -> Result<Vec<Value>> {
        let lines = self.lines(pod, count)?;
        let objects = lines.iter().map(|line| {
            let mut object: Value = serde_json::from_str(line).context(line.clone())?;
            for name in ["time", "source_address", "duration_ms"] {
                let fields = object.as_object_mut().unwrap();
                ensure!(fields.remove(name).is_some(), "{name}: {line}");
            }
            Ok(object)
        });
        objects.collect()
    }
}

fn read(folder: &Path, pod: &str) -> Result<Vec<String>> {
    let text = fs::read_to_string(folder.join(format!("{pod}.out")))?;
    // The last line may be half written.
    let whole = text.rfind('\n').map_or(0, |end| end + 1);
    Ok(text[..whole].lines().map(str::to_owned).collect())
}

/// Answers with the status that the path names.
fn answer(stream: &mut TcpStream) {
    let mut head = [0; 64];
    let Ok(read) = stream.peek(&mut head) else {
        return;
    };
    let text = String::from_utf8_lossy(&head[..read]).into_owned();
    match text.split(' ').nth(1).unwrap_or_default() {
        // No answer.
        "/reset" => drop(request(stream)),
        path => match path.trim_start_matches('/').get(..3) {
            Some(status @ ("404" | "503")) => mirror_as(stream, &format!("{status} X"), ""),
            _ => mirror_as(stream, "200 OK", ""),
        },
    }
}

#[test]
fn lines_name_both_ends_and_no_secret() -> Result<()> {
    let mesh = Mesh::start(84, "accessLogs: {}")?;
    mesh.call("/items?token=SECRET")?;
    mesh.lines("client", 1)?;
    mesh.call("/admin")?;
    mesh.lines("client", 2)?;
    ensure!(mesh.bytes(TCP)? == b"hello");
    mesh.lines("client", 3)?;
    ensure!(mesh.bytes(DENIED)?.is_empty());
    for pod in ["client", "api"] {
        let lines = mesh.lines(pod, 4)?.join("\n");
        ensure!(!lines.contains("SECRET"), "{lines}");
    }

    let client = mesh.objects("client", 4)?;
    let ends = json!({
        "reporter": "source",
        "source_namespace": "shop",
        "source_workload": "client%PROTOCOL%",
        "source_principal": "spiffe://cluster.local/ns/shop/sa/client",
        "destination_namespace": "shop",
        "destination_service": "api",
        "destination_principal": "spiffe://cluster.local/ns/shop/sa/api",
    });
    let of_request = json!({
        "method": "GET", "authority": "api", "protocol": "HTTP/1.1", "request_id": "id-1",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    });
    let called = json!({
        "path": "/items", "status": 200, "flags": "-", "details": "via_upstream", "route": "whole service",
        "bytes_received": 0, "bytes_sent": 392,
        "upstream_cluster": "out|shop/api|8401", "upstream_host": "127.84.0.2:8401",
    });
    ensure!(
        client[0] == merged([&ends, &of_request, &called]),
        "{client:#?}"
    );
    let bytes = json!({
        "bytes_received": 5, "bytes_sent": 5, "flags": "-", "attempts": 1,
        "upstream_cluster": "out|shop/api|8402", "upstream_host": "127.84.0.2:8402",
    });
    ensure!(client[2] == merged([&ends, &bytes]), "{client:#?}");

    let server = mesh.objects("api", 4)?;
    let ends = json!({
        "reporter": "destination",
        "source_principal": "spiffe://cluster.local/ns/shop/sa/client",
        "destination_namespace": "shop",
        "destination_workload": "api%PROTOCOL%",
        "destination_service": "api",
        "destination_principal": "spiffe://cluster.local/ns/shop/sa/api",
    });
    let denied = json!({
        "path": "/admin", "status": 403, "flags": "-", "route": "all",
        "details": "rbac_access_denied_matched_policy[shop/api/0]",
        "bytes_received": 0, "bytes_sent": 19, "upstream_cluster": "in|8401",
    });
    ensure!(
        server[1] == merged([&ends, &of_request, &denied]),
        "{server:#?}"
    );
    let denied = json!({
        "attempts": 0, "details": "denied:shop/api/1", "flags": "NC", "bytes_received": 0, "bytes_sent": 0,
        "destination_service": "-",
    });
    ensure!(server[3] == merged([&ends, &denied]), "{server:#?}");
    Ok(())
}

/// The logger is in the listeners from the start; runtime values wake it, and choose the failures.
#[test]
fn runtime_values_switch_the_log_and_choose_failures() -> Result<()> {
    let mesh = Mesh::start(89, "")?;
    mesh.call("/503")?;
    mesh.bytes(TCP)?;

    mesh.set("heddle.log=10000&heddle.log.others=10000&heddle.log.status=500")?;
    mesh.call("/all")?;
    ensure!(mesh.objects("client", 1)?[0]["path"] == "/all");

    // Only failures.
    mesh.set("heddle.log.others=0")?;
    mesh.call("/ok")?;
    mesh.call("/404")?;
    mesh.bytes(TCP)?;
    mesh.call("/503")?;
    ensure!(mesh.objects("client", 2)?[1]["path"] == "/503");
    // Only flags: the server's sidecar has one, and the client's sidecar gets its 503 as an answer like others.
    mesh.set("heddle.log.status=600")?;
    mesh.call("/503")?;
    mesh.call("/reset")?;
    let last = &mesh.objects("api", 3)?[2];
    ensure!(last["path"] == "/reset" && last["flags"] == "UC", "{last}");

    // A draw by the runtime's own dice: some, and not all.
    mesh.set("heddle.log=5000&heddle.log.others=10000")?;
    for _ in 0..100 {
        mesh.call("/some")?;
    }
    mesh.set("heddle.log=10000")?;
    mesh.call("/last")?;
    let deadline = Instant::now() + Duration::from_secs(20);
    let lines = loop {
        let lines = read(mesh.folder.path(), "client")?;
        if lines.last().is_some_and(|line| line.contains("/last")) {
            break lines;
        }
        ensure!(Instant::now() < deadline, "{lines:#?}");
        std::thread::sleep(Duration::from_millis(20));
    };
    let some = lines.iter().filter(|line| line.contains("/some")).count();
    ensure!((1..100).contains(&some), "{some} of 100");
    Ok(())
}

#[test]
fn text_lines_have_the_same_fields() -> Result<()> {
    let mesh = Mesh::start(92, "accessLogs: {}, accessLogFormat: Text")?;
    mesh.call("/items?token=SECRET")?;
    mesh.bytes(TCP)?;
    for pod in ["client", "api"] {
        let lines = mesh.lines(pod, 2)?;
        ensure!(lines[0].starts_with("time=20"), "{lines:#?}");
        let fields = " method=GET authority=api path=/items protocol=HTTP/1.1 status=200 ";
        ensure!(lines[0].contains(fields), "{lines:#?}");
        let principal = " source_principal=spiffe://cluster.local/ns/shop/sa/client ";
        ensure!(
            lines.iter().all(|line| line.contains(principal)),
            "{lines:#?}"
        );
        ensure!(!lines.join("").contains("SECRET"), "{lines:#?}");
    }
    let long = format!("/{}", "x".repeat(20_000));
    http(&format!("127.92.0.6:{HTTP}"), "GET", &long, "")?;
    for pod in ["client", "api"] {
        let line = mesh.lines(pod, 3)?.remove(2);
        ensure!(
            line.contains(&format!(" path={} ", &long[..1024])),
            "{line:?}"
        );
    }
    // A command to a terminal, and a mark that reorders the line.
    let odd = "X-Request-Id: a\u{9b}31m\u{202e}b\r\n";
    http(&format!("127.92.0.6:{HTTP}"), "GET", "/odd", odd)?;
    for pod in ["client", "api"] {
        let line = mesh.lines(pod, 4)?.remove(3);
        ensure!(line.is_ascii() && line.contains(" status=200 "), "{line:?}");
        ensure!(!line.contains("request_id="), "{line:?}");
    }
    Ok(())
}

/// Whether it is the line of a request with a path that is not text.
fn is_odd(line: &Line) -> bool {
    line.attribute("status") == Some("200") && line.attribute("path").is_none()
}

/// Lines go to the collector as records; a collector that is not there costs lines and no requests.
#[test]
fn the_collector_takes_lines_as_records() -> Result<()> {
    let at = ("127.95.0.11", 4317);
    let settings = format!(
        "accessLogs: {{}}, accessLogSink: Collector, collector: {{address: {{host: {}, port: {}}}}}",
        at.0, at.1
    );
    let mesh = Mesh::start(95, &settings)?;
    for _ in 0..20 {
        ensure!(mesh.call("/lost")?.contains("200 OK"));
    }
    for host in [8, 9] {
        let dropped = "access_logs.open_telemetry_access_log.logs_dropped";
        ensure!(mesh.counter_reaches(host, dropped, 20)?, "{host}");
    }
    let collector = Collector::start(&format!("{}:{}", at.0, at.1))?;
    // Each Envoy has to find the collector again.
    let deadline = Instant::now() + Duration::from_secs(20);
    while collector.services_with_lines() < 2 {
        ensure!(Instant::now() < deadline, "no line");
        mesh.call("/first")?;
        std::thread::sleep(Duration::from_millis(200));
    }
    // Text of a client that is not text: the lines of others must not be lost with it, and its own line has all other fields.
    mesh.foreign_bytes()?;
    mesh.call("/items?token=SECRET")?;
    mesh.bytes(TCP)?;
    // Lines of requests and of bytes come from different loggers, each in its own time.
    let all = collector.take_lines_once(|all| {
        let has_all = |service: &str| {
            let of = || all.iter().filter(|line| line.service == service);
            let bytes = of().any(|line| {
                line.attribute("upstream_host")
                    .is_some_and(|at| at.ends_with(&format!(":{TCP}")))
            });
            let plain = of().any(|line| line.attribute("path") == Some("/items"));
            bytes && plain && of().any(is_odd)
        };
        has_all("client") && has_all("api")
    })?;
    ensure!(!format!("{all:?}").contains("SECRET"), "{all:#?}");
    let of = |service: &str| {
        let mut lines = all.iter().filter(|line| line.service == service);
        lines.find(|line| line.attribute("path") == Some("/items"))
    };
    for (service, reporter) in [("client", "source"), ("api", "destination")] {
        let line = of(service).context(service)?;
        let principal = Some("spiffe://cluster.local/ns/shop/sa/client");
        ensure!(line.attribute("source_principal") == principal, "{line:#?}");
        ensure!(line.attribute("reporter") == Some(reporter), "{line:#?}");
        ensure!(line.attribute("status") == Some("200"), "{line:#?}");
        ensure!(line.attribute("time").is_none(), "{line:#?}");
        ensure!(line.record.time_unix_nano > 0, "{line:#?}");
    }
    let lines = [
        read(mesh.folder.path(), "client")?,
        read(mesh.folder.path(), "api")?,
    ];
    ensure!(lines.concat().is_empty(), "{lines:#?}");
    Ok(())
}

/// One object with the fields of all.
fn merged<const N: usize>(all: [&Value; N]) -> Value {
    let fields = all
        .into_iter()
        .flat_map(|one| one.as_object().unwrap().clone());
    fields.collect()
}
