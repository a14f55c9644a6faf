//! Shared rate limits: real Envoys, and the rate limit service of the Envoy project as a service of the mesh.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod harness;

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use harness::running::{Envoy, Trust, http, mirror, serve, start, status};
use harness::shop;
use heddle_policy_compiler::{Call, Compiled, NamespacedName, ResourceKind};

/// The sidecars of the servers, and the applications behind them.
const SERVERS: [&str; 2] = ["127.119.0.2", "127.119.0.3"];
const APPLICATIONS: [&str; 2] = ["127.119.0.4", "127.119.0.5"];
/// The sidecar of the rate limit service, and the service itself.
const LIMITER_SIDECAR: &str = "127.119.0.6";
const LIMITER: &str = "127.119.0.7";
/// The addresses where the callers' own sidecars listen for calls of each server.
const CALLERS: [[&str; 2]; 2] = [
    ["127.119.0.8", "127.119.0.9"],
    ["127.119.0.10", "127.119.0.11"],
];
const ADMIN: [&str; 2] = ["127.119.0.12:9901", "127.119.0.13:9901"];
const TOGETHER: u16 = 8001;
const EACH: u16 = 8002;
const GRPC: u16 = 8081;

/// The rate limit service, which ends with the test.
struct Limiter(Child);

impl Drop for Limiter {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Limiter {
    /// Starts it with its one configuration, and waits until it answers.
    fn start(folder: &Path) -> Result<Self> {
        let program = std::env::var_os("HEDDLE_RATELIMIT").map_or_else(
            || Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache/ratelimit/ratelimit"),
            PathBuf::from,
        );
        ensure!(
            program.is_file(),
            "no rate limit service at {}: run `make ratelimit`, or set HEDDLE_RATELIMIT",
            program.display()
        );
        fs::create_dir_all(folder.join("config"))?;
        fs::write(folder.join("config/heddle.yaml"), "domain: heddle\n")?;
        let log = fs::File::create(folder.join("ratelimit.log"))?;
        let child = Command::new(program)
            .env_clear()
            .envs([("HOST", LIMITER), ("GRPC_HOST", LIMITER)])
            .envs([("DEBUG_HOST", LIMITER), ("USE_STATSD", "false")])
            .envs([("USE_PROMETHEUS", "true"), ("STATS_FLUSH_INTERVAL", "50ms")])
            .env("PROMETHEUS_ADDR", format!("{LIMITER}:9090"))
            .envs([
                ("RUNTIME_SUBDIRECTORY", ""),
                ("RUNTIME_WATCH_ROOT", "false"),
            ])
            .env("RUNTIME_ROOT", folder)
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let mut limiter = Self(child);
        let deadline = Instant::now() + Duration::from_secs(60);
        while TcpStream::connect((LIMITER, GRPC)).is_err() {
            let log = || fs::read_to_string(folder.join("ratelimit.log"));
            ensure!(limiter.0.try_wait()?.is_none(), "ended: {}", log()?);
            ensure!(Instant::now() < deadline, "not ready: {}", log()?);
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(limiter)
    }
}

/// The documents of a workload with pods that have a sidecar.
fn workload(name: &str, ports: &str, pods: &[(&str, &str, &str)]) -> String {
    let mut text = format!(
        "---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: shop}}
spec: {{clusterIP: 10.96.0.1, selector: {{app: {name}}}, ports: [{ports}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}-1, namespace: shop, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: IPv4
ports: [{ports}]
endpoints:
"
    );
    for (pod, sidecar, _) in pods {
        text += &format!(
            "- {{addresses: [{sidecar}], targetRef: {{kind: Pod, name: {pod}, namespace: shop}}}}\n"
        );
    }
    for (pod, sidecar, application) in pods {
        text += &format!(
            "---
apiVersion: v1
kind: Pod
metadata: {{name: {pod}, namespace: shop, labels: {{app: {name}}}, annotations: {{heddle.dev/standalone-app: {application}}}}}
spec: {{serviceAccountName: {name}, containers: [{{name: app}}]}}
status: {{podIPs: [{{ip: {sidecar}}}]}}
"
        );
    }
    text
}

/// Two pods of the service `api`, each a service of its own too, so that calls choose the pod; the rate limit service; two callers.
fn world(failure_mode: &str, limits: &str) -> String {
    let ports = format!("{{name: http-a, port: {TOGETHER}}}, {{name: http-b, port: {EACH}}}");
    let pods = [0, 1].map(|index| {
        (
            ["api-0", "api-1"][index],
            SERVERS[index],
            APPLICATIONS[index],
        )
    });
    let mut text = workload("api", &ports, &pods);
    for (pod, sidecar, _) in &pods {
        text += &format!(
            "---
apiVersion: v1
kind: Service
metadata: {{name: only-{pod}, namespace: shop}}
spec: {{clusterIP: 10.96.0.3, ports: [{ports}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: only-{pod}-1, namespace: shop, labels: {{kubernetes.io/service-name: only-{pod}}}}}
addressType: IPv4
ports: [{ports}]
endpoints: [{{addresses: [{sidecar}], targetRef: {{kind: Pod, name: {pod}, namespace: shop}}}}]
"
        );
    }
    let grpc = format!("{{name: grpc, port: {GRPC}}}");
    text += &workload("limiter", &grpc, &[("limiter", LIMITER_SIDECAR, LIMITER)]);
    for (index, addresses) in CALLERS.into_iter().enumerate() {
        let upstreams = [(0, TOGETHER), (0, EACH), (1, TOGETHER), (1, EACH)]
            .map(|(pod, port)| format!("shop/only-api-{pod}:{port}={}:{port}", addresses[pod]));
        let client = shop::client(&format!("127.119.{}", index + 1), &upstreams);
        text += &client.replace("client", &format!("client-{index}"));
    }
    text + &format!(
        "---
apiVersion: heddle.dev/v1alpha1
kind: Mesh
metadata: {{name: default}}
spec:
  telemetry: {{accessLogs: {{percent: 100}}}}
  rateLimits: {{server: {{service: {{namespace: shop, name: limiter}}}}, timeout: 5s, failureMode: {failure_mode}}}
{limits}"
    )
}

const LIMITS: &str = "---
apiVersion: heddle.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: together, namespace: shop}
spec:
  target: {service: api, port: 8001}
  rateLimits: [{requests: 5, per: 1h, shared: true}]
---
apiVersion: heddle.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: each, namespace: shop}
spec:
  target: {service: api, port: 8002}
  rateLimits:
  - {requests: 1000, per: 1h}
  - {match: {path: {prefix: /each}}, requests: 3, per: 1h, perCaller: true, shared: true}
";

fn compiled(failure_mode: &str, limits: &str) -> Result<Compiled> {
    let compiled = harness::compiled(&world(failure_mode, limits));
    ensure!(compiled.findings.is_empty(), "{:#?}", compiled.findings);
    Ok(compiled)
}

/// The statuses of requests of a caller to the pods in turn.
fn statuses(count: usize, caller: usize, port: u16, path: &str) -> Result<Vec<u16>> {
    let call = |index| {
        let at = format!("{}:{port}", CALLERS[caller][index % 2]);
        Ok(status(&http(&at, "GET", path, "")?))
    };
    (0..count).map(call).collect()
}

/// Runs a scenario again if the hour has changed, in which all counts began from 0.
fn in_one_hour(scenario: impl Fn() -> Result<()>) -> Result<()> {
    let hour = || {
        SystemTime::UNIX_EPOCH
            .elapsed()
            .map(|of| of.as_secs() / 3600)
    };
    loop {
        let (begin, result) = (hour()?, scenario());
        if hour()? == begin {
            return result;
        }
    }
}

struct Running {
    folder: tempfile::TempDir,
    trust: Trust,
    limiter: Limiter,
    limiter_sidecar: Option<Envoy>,
    servers: Vec<Envoy>,
    _clients: Vec<Envoy>,
}

impl Running {
    fn start() -> Result<Self> {
        let compiled = compiled("Open", LIMITS)?;
        let (trust, folder) = (Trust::new()?, tempfile::tempdir()?);
        let run = |pod: &str, admin: &str| sidecar(&compiled, &trust, folder.path(), pod, admin);
        Ok(Self {
            limiter: Limiter::start(folder.path())?,
            limiter_sidecar: Some(run("limiter", "127.119.0.14:9901")?),
            servers: vec![run("api-0", ADMIN[0])?, run("api-1", ADMIN[1])?],
            _clients: vec![
                run("client-0", "127.119.0.15:9901")?,
                run("client-1", "127.119.0.16:9901")?,
            ],
            trust,
            folder,
        })
    }

    /// Waits until the access log of a pod has a line with these texts.
    fn logs(&self, pod: &str, texts: &[&str]) -> Result<()> {
        let file = self.folder.path().join(format!("{pod}.out"));
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let log = fs::read_to_string(&file)?;
            let mut lines = log.lines();
            if lines.any(|line| texts.iter().all(|text| line.contains(text))) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{texts:?}: {log}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn sidecar(
    compiled: &Compiled,
    trust: &Trust,
    folder: &Path,
    pod: &str,
    admin: &str,
) -> Result<Envoy> {
    let none = BTreeSet::new();
    start(compiled, (pod, &none), trust, folder, admin, |_| {})
}

/// The value of a counter of a sidecar.
fn counter(admin: &str, name: &str) -> Result<u64> {
    let text = http(admin, "GET", &format!("/stats?filter={name}$"), "")?;
    let value = text.split(&format!("{name}: ")).nth(1);
    let value = value.and_then(|rest| rest.lines().next());
    Ok(value.context(text.clone())?.parse()?)
}

#[test]
fn pods_share_a_limit_and_without_the_service_requests_pass_or_are_refused() -> Result<()> {
    for at in APPLICATIONS {
        for port in [TOGETHER, EACH] {
            serve(format!("{at}:{port}"), mirror)?;
        }
    }
    in_one_hour(|| {
        let mut running = Running::start()?;

        // Five of all callers to both pods.
        let mut seen = statuses(4, 0, TOGETHER, "/")?;
        seen.extend(statuses(4, 1, TOGETHER, "/")?);
        ensure!(seen == [200, 200, 200, 200, 200, 429, 429, 429], "{seen:?}");
        let answer = http(&format!("{}:{TOGETHER}", CALLERS[0][0]), "GET", "/", "")?;
        ensure!(answer.contains("retry-after: "), "{answer}");
        let grpc = "content-type: application/grpc\r\n";
        let answer = http(&format!("{}:{TOGETHER}", CALLERS[0][0]), "POST", "/", grpc)?;
        ensure!(answer.contains("grpc-status: 8"), "{answer}");
        running.logs("api-0", &["\"RL\"", "\"request_rate_limited\""])?;

        // Three of each caller, and of those without an identity together.
        for caller in [0, 1] {
            let seen = statuses(4, caller, EACH, "/each/a?q=1")?;
            ensure!(seen == [200, 200, 200, 429], "{caller}: {seen:?}");
            let seen = statuses(4, caller, EACH, "/eachother")?;
            ensure!(seen == [200; 4], "{caller}: {seen:?}");
        }
        let plain = |index: usize| {
            http(
                &format!("{}:{EACH}", SERVERS[index % 2]),
                "GET",
                "/each",
                "",
            )
        };
        let plain: Result<Vec<u16>> = (0..4).map(|index| Ok(status(&plain(index)?))).collect();
        ensure!(
            plain.as_ref().is_ok_and(|of| *of == [200, 200, 200, 429]),
            "{plain:?}"
        );

        // The service counts by the names of the policies.
        let over = "over_limit{domain=\"heddle\",key1=\"policy_shop/together/0\"} 5";
        let deadline = Instant::now() + Duration::from_secs(20);
        while !http(&format!("{LIMITER}:9090"), "GET", "/metrics", "")?.contains(over) {
            ensure!(Instant::now() < deadline, "no {over}");
            std::thread::sleep(Duration::from_millis(20));
        }

        without_the_service(&mut running)
    })
}

/// The service is gone, and then its sidecar too.
fn without_the_service(running: &mut Running) -> Result<()> {
    running.limiter.0.kill()?;
    running.limiter.0.wait()?;
    let seen = statuses(8, 0, TOGETHER, "/")?;
    ensure!(seen == [200; 8], "{seen:?}");
    drop(running.limiter_sidecar.take());
    let seen = statuses(8, 0, TOGETHER, "/")?;
    ensure!(seen == [200; 8], "{seen:?}");
    for admin in ADMIN {
        let unanswered = counter(admin, "cluster.ratelimit.upstream_rq_503")?;
        ensure!(unanswered == 4, "{unanswered}");
    }

    let compiled = compiled("Closed", LIMITS)?;
    let folder = running.folder.path();
    running.servers.clear();
    for (pod, admin) in [("api-0", ADMIN[0]), ("api-1", ADMIN[1])] {
        let envoy = sidecar(&compiled, &running.trust, folder, pod, admin)?;
        running.servers.push(envoy);
    }
    let seen = statuses(4, 0, TOGETHER, "/")?;
    ensure!(seen == [503; 4], "{seen:?}");
    let grpc = "content-type: application/grpc\r\n";
    let answer = http(&format!("{}:{TOGETHER}", CALLERS[0][0]), "POST", "/", grpc)?;
    ensure!(answer.contains("grpc-status: 14"), "{answer}");
    running.logs("api-0", &["\"RLSE\"", "\"rate_limiter_error\""])?;
    // Requests that count for no shared limit ask nothing.
    let seen = statuses(4, 1, EACH, "/eachother")?;
    ensure!(seen == [200; 4], "{seen:?}");
    Ok(())
}

#[test]
fn no_listener_and_no_other_proxy_changes_with_a_shared_limit() -> Result<()> {
    let (with, without) = (compiled("Open", LIMITS)?, compiled("Open", "")?);
    let pods = ["api-0", "api-1", "limiter", "client-0", "client-1"];
    for pod in pods.map(|name| NamespacedName::new("shop", name)) {
        let listeners = |of: &Compiled| harness::listeners(of, &pod);
        ensure!(!listeners(&with).is_empty());
        ensure!(listeners(&with) == listeners(&without), "{pod}");
        let has = |of: &Compiled| -> Result<bool> {
            let view = harness::view(of, &pod, &BTreeSet::new()).context("no view")?;
            let mut all = view.parts.iter().flat_map(|part| &part.resources);
            Ok(all.any(|of| of.key.kind == ResourceKind::Cluster && &*of.key.name == "ratelimit"))
        };
        let asks = pod.name.starts_with("api");
        ensure!(has(&with)? == asks && !has(&without)?, "{pod}");
    }
    // `heddle why` names the count.
    let explanation = with.explain(&Call {
        from: NamespacedName::new("shop", "client-0"),
        host: "only-api-0.shop".to_owned(),
        port: EACH,
        tls: false,
        method: "GET".to_owned(),
        path: "/each".to_owned(),
        headers: Vec::new(),
    })?;
    let servers = explanation.backends.iter().flat_map(|of| &of.servers);
    let limits = servers.flat_map(|of| &of.limits);
    let counts: Vec<_> = limits.map(|of| of.shared.as_deref()).collect();
    ensure!(counts == [None, Some("shop/each/1")], "{counts:?}");
    Ok(())
}
