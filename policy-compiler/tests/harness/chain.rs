//! A chain of workloads that call each other, and a collector that is one of them: real Envoys with real mTLS on loopback.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::TcpStream;

use anyhow::{Context, Result, ensure};

use super::running::{Envoy, Trust, http, http_with, request, serve, start, status};

pub const HTTP: u16 = 8411;
pub const OTLP: u16 = 4317;
/// A chain: each calls the next.
pub const WORKLOADS: [&str; 5] = ["client", "a", "b", "c", "d"];
/// The spans of a call: one at each end of a hop.
pub const SPANS: usize = 2 * (WORKLOADS.len() - 1);
/// The documents of a workload: a service with one pod that calls these upstreams. Its sidecar has `<net>.<index>.1`, the application
/// `<net>.<index>.2`.
pub fn workload(net: &str, index: usize, name: &str, port: u16, upstreams: &str) -> String {
    format!(
        "---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: shop}}
spec: {{clusterIP: 10.96.0.{index}, selector: {{app: {name}}}, ports: [{{name: http, port: {port}}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}-1, namespace: shop, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: IPv4
ports: [{{name: http, port: {port}}}]
endpoints: [{{addresses: [{net}.{index}.1], conditions: {{ready: true}}, targetRef: {{kind: Pod, name: {name}, namespace: shop}}}}]
---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: shop, labels: {{app: {name}}}, annotations: {{heddle.dev/standalone-app: {net}.{index}.2, heddle.dev/standalone-upstreams: \"{upstreams}\"}}}}
spec: {{serviceAccountName: {name}, containers: [{{name: app}}]}}
status: {{podIPs: [{{ip: {net}.{index}.1}}]}}
"
    )
}

/// The settings of the mesh.
pub fn mesh(collector: &str, telemetry: &str) -> String {
    format!(
        "---
apiVersion: heddle.dev/v1alpha1
kind: Mesh
metadata: {{name: default}}
spec: {{telemetry: {{collector: {{{collector}}}, {telemetry}}}}}
"
    )
}

/// The line of a header in the head of a request.
pub fn line<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = head.lines();
    lines.find(|line| line.to_lowercase().starts_with(&format!("{name}:")))
}

/// Answers with the head of the request, after those of the applications that it calls.
pub fn application(stream: &mut TcpStream, next: Option<&str>) {
    let Some(head) = request(stream) else { return };
    let mut head = String::from_utf8_lossy(&head).into_owned();
    if let Some(next) = next {
        // As instrumented applications do it.
        let context = ["traceparent", "tracestate", "x-request-id"];
        let lines = context.iter().filter_map(|name| line(&head, name));
        let headers: String = lines.map(|line| format!("{line}\r\n")).collect();
        head = http(next, "GET", "/next?token=SECRET", &headers).unwrap_or_default() + &head;
    }
    let length = head.len();
    let _ = write!(
        stream,
        "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{head}"
    );
}

/// The sidecars of a chain of workloads and of a collector that is one of them.
pub struct Chain {
    net: String,
    _folder: tempfile::TempDir,
    _envoys: Vec<Envoy>,
}

impl Chain {
    /// The address of the collector, which is to listen before the chain starts.
    pub fn collector(net: u8) -> String {
        format!("127.{net}.{}.2:{OTLP}", WORKLOADS.len())
    }

    /// Starts it on a loopback network of its own, with these settings of telemetry.
    pub fn start(net: u8, telemetry: &str) -> Result<Self> {
        let net = format!("127.{net}");
        let upstream = |index: usize| format!("{net}.{index}.3:{HTTP}");
        let next = |index: usize| WORKLOADS.get(index + 1);
        let mut world = String::new();
        for (index, name) in WORKLOADS.into_iter().enumerate() {
            let upstreams =
                next(index).map(|next| format!("shop/{next}:{HTTP}={}", upstream(index)));
            world += &workload(&net, index, name, HTTP, &upstreams.unwrap_or_default());
        }
        world += &workload(&net, WORKLOADS.len(), "otel", OTLP, "");
        world += &mesh("service: {namespace: shop, name: otel}", telemetry);
        let (compiled, trust) = (super::compiled(&world), Trust::new()?);
        ensure!(compiled.findings.is_empty(), "{:#?}", compiled.findings);
        let (folder, none) = (tempfile::tempdir()?, BTreeSet::new());
        let mut envoys = Vec::new();
        for (index, name) in WORKLOADS.into_iter().chain(["otel"]).enumerate() {
            let to = next(index).map(|_| upstream(index));
            if name != "otel" {
                let answer = move |stream: &mut TcpStream| application(stream, to.as_deref());
                serve(format!("{net}.{index}.2:{HTTP}"), answer)?;
            }
            let admin = format!("{net}.{index}.9:9901");
            let pod = (name, &none);
            envoys.push(start(
                &compiled,
                pod,
                &trust,
                folder.path(),
                &admin,
                |_| {},
            )?);
        }
        let chain = Self {
            net,
            _folder: folder,
            _envoys: envoys,
        };
        chain.set("tracing.opentelemetry.min_flush_spans=1")?;
        Ok(chain)
    }

    /// Sets runtime values of all sidecars, as RTDS does.
    pub fn set(&self, values: &str) -> Result<()> {
        for index in 0..=WORKLOADS.len() {
            let admin = format!("{}.{index}.9:9901", self.net);
            let answer = http(&admin, "POST", &format!("/runtime_modify?{values}"), "")?;
            ensure!(answer.contains("200 OK"), "{answer}");
        }
        Ok(())
    }

    /// Calls over all hops. Returns the heads that the applications got, the last one first.
    pub fn call(&self, headers: &str) -> Result<String> {
        self.call_with(headers.as_bytes())
    }

    /// The same, with headers of any bytes.
    pub fn call_with(&self, headers: &[u8]) -> Result<String> {
        let at = format!("{}.0.3:{HTTP}", self.net);
        let answer = http_with(&at, "GET", "/first?token=SECRET", headers)?;
        ensure!(status(&answer) == 200, "{answer}");
        let (_, heads) = answer.split_once("\r\n\r\n").context("no heads")?;
        Ok(heads.to_owned())
    }
}
