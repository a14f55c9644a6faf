//! A namespace out of the way of the mesh, and back: no request is lost, no connection ends, and nothing is enforced in between.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;

use crate::bytes::{self, greeted, works};
use crate::harness::Fixture;
use crate::{programmed, split};

const PODS: [&str; 2] = ["shop/frontend-1", "shop/reviews-v1-1"];
pub const OPEN: usize = 10;
/// Requests in each state.
const REQUESTS: usize = 200;

/// Allows the frontend, and limits it to far less than the test sends.
const POLICIES: [(&str, &str, &str, &str); 3] = [
    (
        "AuthPolicy",
        "callers",
        "callers.yaml",
        "
apiVersion: heddle.dev/v1alpha1
kind: AuthPolicy
metadata: {name: callers, namespace: shop}
spec: {selector: {matchLabels: {app: reviews}}, rules: [{from: {identities: [shop/frontend]}}]}
",
    ),
    (
        "TrafficPolicy",
        "reviews",
        "traffic.yaml",
        "
apiVersion: heddle.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: reviews, namespace: shop}
spec:
  target: {service: reviews}
  faults: [{match: {headers: [{name: x-fault, exact: \"yes\"}]}, abort: {status: 418, percent: 100}}]
",
    ),
    (
        "TrafficPolicy",
        "reviews-v1",
        "limits.yaml",
        "
apiVersion: heddle.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: reviews-v1, namespace: shop}
spec:
  target: {service: reviews-v1}
  rateLimits: [{match: {headers: [{name: x-limit, exact: \"yes\"}]}, requests: 1, per: 1h}]
",
    ),
];

fn settings(mode: &str, bypassed: bool) -> String {
    let list = if bypassed { "{namespace: shop}" } else { "" };
    format!(
        "
apiVersion: heddle.dev/v1alpha1
kind: Mesh
metadata: {{name: default}}
spec: {{mode: {mode}, bypassedNamespaces: [{list}]}}
"
    )
}

/// Waits until both sidecars have acknowledged.
pub fn switch(mesh: &Fixture, mode: &str, bypassed: bool) {
    mesh.apply("mesh.yaml", &settings(mode, bypassed));
    mesh.eventually(&format!("bypassed: {bypassed}"), || {
        let text = std::fs::read_to_string(mesh.path("run/proxies.json")).unwrap_or_default();
        let all: Vec<Value> = serde_json::from_str(&text).unwrap_or_default();
        PODS.iter().all(|pod| {
            let of = all.iter().find(|one| one["proxy"] == *pod);
            of.is_some_and(|one| one["bypassed"] == bypassed && one["inSync"] == true)
        })
    });
}

/// The status of the answer to a request on a connection, which stays.
fn ask(connection: &mut TcpStream, headers: &str) -> Result<u16, String> {
    let request = format!("GET / HTTP/1.1\r\nhost: reviews\r\n{headers}\r\n");
    let sent = connection.write_all(request.as_bytes());
    sent.map_err(|error| error.to_string())?;
    let mut reader = BufReader::new(connection);
    let (mut length, mut status) = (0, 0);
    loop {
        let mut line = String::new();
        let read = reader.read_line(&mut line);
        if read.map_err(|error| error.to_string())? == 0 {
            return Err("the connection ended".to_owned());
        }
        let line = line.trim_end().to_lowercase();
        if let Some(rest) = line.strip_prefix("http/1.1 ") {
            status = rest[..3].parse().unwrap();
        } else if let Some(rest) = line.strip_prefix("content-length: ") {
            length = rest.parse().unwrap();
        } else if line.is_empty() {
            break;
        }
    }
    let read = reader.read_exact(&mut vec![0; length]);
    read.map_err(|error| error.to_string())?;
    Ok(status)
}

fn connect(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(to).unwrap();
    let patience = Some(Duration::from_secs(10));
    stream.set_read_timeout(patience).unwrap();
    stream
}

fn once(to: SocketAddr, headers: &str) -> Result<u16, String> {
    ask(&mut connect(to), headers)
}

/// Requests on one connection and on new ones, until it is stopped.
pub struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    thread: JoinHandle<Vec<String>>,
}

impl Load {
    pub fn start(to: SocketAddr) -> Self {
        let (stop, done) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let (over, count) = (Arc::clone(&stop), Arc::clone(&done));
        let thread = std::thread::spawn(move || {
            let mut kept = connect(to);
            let mut failures = Vec::new();
            while !over.load(Ordering::Relaxed) {
                for answer in [ask(&mut kept, ""), once(to, "")] {
                    if answer != Ok(200) {
                        failures.push(format!("{answer:?}"));
                    }
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
            failures
        });
        Self { stop, done, thread }
    }

    /// Waits for more requests in the present state.
    pub fn goes_on(&self, mesh: &Fixture) {
        let wanted = self.done.load(Ordering::Relaxed) + REQUESTS;
        mesh.eventually("requests go on", || {
            self.done.load(Ordering::Relaxed) >= wanted
        });
    }

    pub fn failures(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// The effects of the policies: the statuses of a request with the fault, of a second one beyond the limit, and the caller without an identity.
fn effects(mesh: &Fixture) -> (u16, u16, &'static str) {
    let (service, v1) = (mesh.address(51, 9080), mesh.address(55, 9080));
    let fault = once(service, "x-fault: yes\r\n").unwrap();
    let mut limited = 0;
    for _ in 0..3 {
        limited = once(v1, "x-limit: yes\r\n").unwrap();
    }
    (fault, limited, mesh.anonymous())
}

pub fn loses_no_request_and_enforces_nothing(mesh: &Fixture) {
    let _taken = bytes::application(mesh.address(121, 5432));
    for (.., file, text) in POLICIES {
        mesh.apply(file, text);
    }
    mesh.apply("split.yaml", &split(100, 0));
    mesh.status("TrafficSplit", "reviews", programmed(1));
    for (kind, name, ..) in POLICIES {
        mesh.status(kind, name, programmed(1));
    }
    for mode in ["Permissive", "Strict"] {
        switch(mesh, mode, false);
        assert_eq!(effects(mesh), (418, 429, "refused"), "{mode}");
        let mut open: Vec<TcpStream> = (0..OPEN)
            .map(|_| greeted(mesh.address(52, 5432)).unwrap())
            .collect();
        let listeners = PODS.map(|pod| mesh.listener_changes(pod.split('/').nth(1).unwrap()));
        let load = Load::start(mesh.address(51, 9080));
        load.goes_on(mesh);

        switch(mesh, mode, true);
        load.goes_on(mesh);
        assert_eq!(effects(mesh), (200, 200, "200"), "{mode}");
        // The split gave all to v1.
        assert!(mesh.requests(100).of("v2") > 0, "{mode}");
        let enforced = mesh.status("AuthPolicy", "callers", |status| {
            status.enforced.0 == "False" && status.enforced.1.contains("bypasses namespace shop")
        });
        assert_eq!(enforced.programmed.0, "True");

        switch(mesh, mode, false);
        load.goes_on(mesh);
        assert_eq!(effects(mesh), (418, 429, "refused"), "{mode}");
        assert_eq!(mesh.requests(50).of("v2"), 0, "{mode}");

        let failures = load.failures();
        assert!(failures.is_empty(), "{mode}: {failures:#?}");
        let working = open.iter_mut().filter_map(|s| works(s).then_some(()));
        assert_eq!(working.count(), OPEN, "{mode}: connections stay");
        if mode == "Permissive" {
            let now = PODS.map(|pod| mesh.listener_changes(pod.split('/').nth(1).unwrap()));
            assert_eq!(now, listeners, "no listener changes");
        }
    }
}
