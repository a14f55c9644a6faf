//! Protection from overload with a real Envoy: a busy application, and one that fails.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod harness;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Result, ensure};
use harness::running::{Envoy, Trust, failure, http, request, serve, start, status};
use heddle_policy_compiler::Compiled;

const SERVER: &str = "127.94.0.2";
const APPLICATION: &str = "127.94.0.3";
/// Ports of the service: with a bound on the requests under way, and with a share that is refused.
const BOUNDED: u16 = 8001;
const FAILING: u16 = 8002;

fn compiled() -> Result<Compiled> {
    let world = format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: api, namespace: shop}}
spec:
  clusterIP: 10.96.0.1
  selector: {{app: api}}
  ports: [{{name: http-a, port: {BOUNDED}}}, {{name: http-b, port: {FAILING}}}]
---
apiVersion: heddle.dev/v1alpha1
kind: TrafficPolicy
metadata: {{name: bounded, namespace: shop}}
spec: {{target: {{service: api, port: {BOUNDED}}}, overload: {{concurrency: {{latency: 5ms, min: 2, max: 100}}}}}}
---
apiVersion: heddle.dev/v1alpha1
kind: TrafficPolicy
metadata: {{name: failing, namespace: shop}}
spec:
  target: {{service: api, port: {FAILING}}}
  overload: {{admission: {{successPercent: 90, window: 1s, minRequestsPerSecond: 1, maxRefusedPercent: 90}}}}
---
apiVersion: v1
kind: Pod
metadata: {{name: api, namespace: shop, labels: {{app: api}}, annotations: {{heddle.dev/standalone-app: {APPLICATION}}}}}
spec: {{serviceAccountName: api, containers: [{{name: app}}]}}
status: {{podIPs: [{{ip: {SERVER}}}]}}
"
    );
    let compiled = harness::compiled(&world);
    ensure!(compiled.findings.is_empty(), "{:#?}", compiled.findings);
    Ok(compiled)
}

fn sidecar(admin: &str) -> Result<(Envoy, tempfile::TempDir)> {
    let (trust, folder) = (Trust::new()?, tempfile::tempdir()?);
    let none = BTreeSet::new();
    let pod = ("api", &none);
    let envoy = start(&compiled()?, pod, &trust, folder.path(), admin, |_| {})?;
    Ok((envoy, folder))
}

/// The application: its requests so far, and those under way.
#[derive(Clone, Default)]
struct Application {
    requests: Arc<AtomicUsize>,
    under_way: Arc<AtomicUsize>,
    most_under_way: Arc<AtomicUsize>,
}

impl Application {
    /// Paths name the status of the answer, and how long it takes in milliseconds: `/200/50`.
    fn answer(&self, stream: &mut TcpStream) {
        let Some(seen) = request(stream) else { return };
        self.requests.fetch_add(1, Relaxed);
        let under_way = self.under_way.fetch_add(1, Relaxed) + 1;
        self.most_under_way.fetch_max(under_way, Relaxed);
        let seen = String::from_utf8_lossy(&seen);
        let mut parts = seen.split([' ', '/']).filter(|part| !part.is_empty());
        let status = parts.nth(1).unwrap_or_default();
        let time: u64 = parts.next().and_then(|part| part.parse().ok()).unwrap();
        std::thread::sleep(Duration::from_millis(time));
        self.under_way.fetch_sub(1, Relaxed);
        let head = format!("HTTP/1.1 {status} x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        let _ = stream.write_all(head.as_bytes());
    }

    fn start(at: String) -> Result<Self> {
        let application = Self::default();
        let own = application.clone();
        serve(at, move |stream| own.answer(stream))?;
        Ok(application)
    }
}

/// The answers to this many requests of each of this many callers.
fn storm(callers: usize, each: usize, port: u16, path: &str) -> Result<Vec<String>> {
    let at = format!("{SERVER}:{port}");
    std::thread::scope(|scope| {
        let caller =
            || -> Result<Vec<String>> { (0..each).map(|_| http(&at, "GET", path, "")).collect() };
        let callers: Vec<_> = (0..callers).map(|_| scope.spawn(caller)).collect();
        let answers = callers.into_iter().map(|caller| caller.join().unwrap());
        let answers: Vec<Vec<String>> = answers.collect::<Result<_>>()?;
        Ok(answers.concat())
    })
}

/// Whether this many requests in a row pass, at some time within 20 s.
fn recovers(port: u16, path: &str, in_row: usize) -> Result<bool> {
    let at = format!("{SERVER}:{port}");
    let mut passed = 0;
    for _ in 0..200 {
        passed = match status(&http(&at, "GET", path, "")?) {
            200 => passed + 1,
            _ => 0,
        };
        if passed == in_row {
            return Ok(true);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(false)
}

#[test]
fn the_bound_follows_the_latency() -> Result<()> {
    let application = Application::start(format!("{APPLICATION}:{BOUNDED}"))?;
    let _sidecar = sidecar("127.94.0.8:9901")?;
    // It falls until it is far below the number of callers.
    storm(40, 10, BOUNDED, "/200/100")?;
    application.most_under_way.store(0, Relaxed);
    let answers = storm(40, 10, BOUNDED, "/200/100")?;
    let refused = answers.iter().filter(|answer| status(answer) == 503);
    let refused: Vec<_> = refused.collect();
    ensure!(refused.len() > 200, "{} of 400", refused.len());
    let named = refused
        .iter()
        .all(|of| of.contains("reached concurrency limit"));
    ensure!(named, "{refused:?}");
    let most = application.most_under_way.load(Relaxed);
    ensure!((2..=10).contains(&most), "{most} under way");
    ensure!(recovers(BOUNDED, "/200/0", 20)?, "refused while idle");
    let named = ";503;;[^;]*;[^;]*;all, TrafficPolicy shop/[^;]*;reached_concurrency_limit";
    failure("127.94.0.8:9901", named)
}

#[test]
fn a_share_is_refused_while_the_application_fails() -> Result<()> {
    let application = Application::start(format!("{APPLICATION}:{FAILING}"))?;
    let _sidecar = sidecar("127.94.0.9:9901")?;
    let answers = storm(4, 50, FAILING, "/404/1")?;
    let passed = answers.iter().all(|answer| status(answer) == 404);
    ensure!(passed, "faults of the caller count for nothing");
    application.requests.store(0, Relaxed);
    let answers = storm(4, 200, FAILING, "/500/5")?;
    let refused = answers
        .iter()
        .filter(|answer| status(answer) == 503)
        .count();
    ensure!(refused > 200, "{refused} of 800 refused");
    let seen = application.requests.load(Relaxed);
    ensure!(seen + refused == 800, "{seen} seen, {refused} refused");
    ensure!(
        seen > 40,
        "some must pass, so that a recovery is seen: {seen}"
    );
    ensure!(recovers(FAILING, "/200/0", 20)?, "refused after recovery");
    Ok(())
}
