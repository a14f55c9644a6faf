//! Rate limits with real Envoys: two callers' sidecars, callers without one, and the sidecar of the server that keeps the limits.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod harness;

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use harness::running::{Trust, failure, http, mirror, serve, start, status};
use harness::shop;
use heddle_policy_compiler::Compiled;

const SERVER: &str = "127.95.0.2";
const APPLICATION: &str = "127.95.0.3";
/// The addresses where the callers' own sidecars listen.
const CALLERS: [&str; 2] = ["127.95.0.6", "127.95.0.7"];

/// Ports of the service: bounded for all callers together, and for each.
const TOGETHER: u16 = 8001;
const EACH: u16 = 8002;
/// The same pods and port as [`EACH`], by another service.
const AGAIN: u16 = 8003;

fn world() -> String {
    let mut text = format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: api, namespace: shop}}
spec:
  clusterIP: 10.96.0.1
  selector: {{app: api}}
  ports: [{{name: http-a, port: {TOGETHER}}}, {{name: http-b, port: {EACH}}}]
---
apiVersion: v1
kind: Service
metadata: {{name: again, namespace: shop}}
spec: {{clusterIP: 10.96.0.2, selector: {{app: api}}, ports: [{{name: http, port: {AGAIN}, targetPort: {EACH}}}]}}
---
apiVersion: heddle.dev/v1alpha1
kind: TrafficPolicy
metadata: {{name: together, namespace: shop}}
spec: {{target: {{service: api, port: {TOGETHER}}}, rateLimits: [{{requests: 2, per: 1h, burst: 4}}]}}
---
apiVersion: heddle.dev/v1alpha1
kind: TrafficPolicy
metadata: {{name: each, namespace: shop}}
spec:
  target: {{service: api, port: {EACH}}}
  rateLimits:
  - {{match: {{path: {{prefix: /each}}}}, requests: 3, per: 1h, perCaller: true}}
---
apiVersion: heddle.dev/v1alpha1
kind: TrafficPolicy
metadata: {{name: again, namespace: shop}}
spec:
  target: {{service: again}}
  rateLimits: [{{match: {{method: POST}}, requests: 1, per: 1h}}]
---
apiVersion: v1
kind: Pod
metadata: {{name: api, namespace: shop, labels: {{app: api}}, annotations: {{heddle.dev/standalone-app: {APPLICATION}}}}}
spec: {{serviceAccountName: api, containers: [{{name: app}}]}}
status: {{podIPs: [{{ip: {SERVER}}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: api-1, namespace: shop, labels: {{kubernetes.io/service-name: api}}}}
addressType: IPv4
ports: [{{name: http-a, port: {TOGETHER}}}, {{name: http-b, port: {EACH}}}]
endpoints: [{{addresses: [{SERVER}], targetRef: {{kind: Pod, name: api, namespace: shop}}}}]
"
    );
    for (index, address) in CALLERS.into_iter().enumerate() {
        let upstreams = [TOGETHER, EACH].map(|port| format!("shop/api:{port}={address}:{port}"));
        let net = format!("127.95.{}", index + 1);
        let client = shop::client(&net, &upstreams);
        text += &client.replace("client", &format!("client-{index}"));
    }
    text
}

fn compiled() -> Result<Compiled> {
    let compiled = harness::compiled(&world());
    ensure!(compiled.findings.is_empty(), "{:#?}", compiled.findings);
    Ok(compiled)
}

/// The statuses of some requests.
fn statuses(count: usize, at: &str, port: u16, method: &str, path: &str) -> Result<Vec<u16>> {
    let at = format!("{at}:{port}");
    let call = |_| Ok(status(&http(&at, method, path, "")?));
    (0..count).map(call).collect()
}

#[test]
fn each_caller_has_its_share_and_no_more() -> Result<()> {
    let compiled = compiled()?;
    let (trust, folder) = (Trust::new()?, tempfile::tempdir()?);
    for port in [TOGETHER, EACH] {
        serve(format!("{APPLICATION}:{port}"), mirror)?;
    }
    let none = BTreeSet::new();
    let run = |pod: &str, admin: &str| {
        start(
            &compiled,
            (pod, &none),
            &trust,
            folder.path(),
            admin,
            |_| {},
        )
    };
    let _server = run("api", "127.95.0.8:9901")?;
    let _clients = [
        run("client-0", "127.95.0.9:9901")?,
        run("client-1", "127.95.0.10:9901")?,
    ];

    // Without an identity, from any address, callers share one bucket.
    let passed = [200, 200, 200, 429];
    for at in [CALLERS[0], CALLERS[1], SERVER] {
        let seen = statuses(4, at, EACH, "GET", "/each/a?q=1")?;
        ensure!(seen == passed, "{at}: {seen:?}");
        let seen = statuses(4, at, EACH, "GET", "/eachother")?;
        ensure!(seen == [200; 4], "{at}: {seen:?}");
    }
    // The limits of all services of a port hold.
    let seen = statuses(2, CALLERS[0], EACH, "POST", "/other")?;
    ensure!(seen == [200, 429], "{seen:?}");

    let answer = http(&format!("{SERVER}:{EACH}"), "GET", "/each", "")?;
    ensure!(answer.contains("retry-after: "), "{answer}");
    let grpc = "content-type: application/grpc\r\n";
    let answer = http(&format!("{SERVER}:{EACH}"), "POST", "/each", grpc)?;
    ensure!(answer.contains("grpc-status: 8"), "{answer}");

    let mut seen = statuses(3, CALLERS[0], TOGETHER, "GET", "/")?;
    seen.extend(statuses(3, CALLERS[1], TOGETHER, "GET", "/")?);
    ensure!(seen == [200, 200, 200, 200, 429, 429], "{seen:?}");
    // The metrics of a refused request name the policies of its port.
    for policies in [
        "TrafficPolicy shop/again, TrafficPolicy shop/each",
        "TrafficPolicy shop/together",
    ] {
        let details = format!(";429;;[^;]*;RL;all, {policies};local_rate_limited");
        failure("127.95.0.8:9901", &details)?;
    }
    Ok(())
}
