//! Rules with several backends under load, of an `HTTPRoute` and a `GRPCRoute`: weights, endpoints and services change in any order, and no
//! request fails while one backend is ready.
//!
//! The directory is read file by file, so that an edit may count before an earlier one. In each round one backend stays ready and has weight
//! through all edits, and the next one takes its place once all of them are in force.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::harness::{Fixture, application};
use crate::rpc::{self, Caller};
use crate::{programmed, split};

const HTTP: u16 = 9093;
const RPC: u16 = 9094;
/// `SHARES_ROUNDS` sets another number.
const ROUNDS: usize = 12;
const EDITS: usize = 12;
const PATIENCE: Duration = Duration::from_secs(20);

/// The backends: the last octet of the pod and its name. The pod of `green` has no sidecar.
const BACKENDS: [(&str, u8, &str); 4] = [
    ("blue", 21, "reviews-v1-1"),
    ("green", 22, "reviews-v2-1"),
    ("canary", 31, "canary-1"),
    ("revision", 31, "canary-1"),
];
/// Its service is deleted now and then.
const REVISION: usize = 3;

const CANARY: &str = "
apiVersion: v1
kind: Pod
metadata:
  name: canary-1
  namespace: shop
  labels: {app: canary}
  annotations:
    heddle.dev/standalone-app: NET.131
spec:
  serviceAccountName: canary
  containers: [{name: app, image: app, ports: [{name: http, containerPort: 9093}]}]
status:
  phase: Running
  podIP: NET.31
  podIPs: [{ip: NET.31}]
  conditions: [{type: Ready, status: \"True\"}]
";

fn service(name: &str, ip: usize) -> String {
    let selector = match name {
        "blue" => "{app: reviews, version: v1}",
        "green" => "{app: reviews, version: v2}",
        "turn" => "{app: turn}",
        _ => "{app: canary}",
    };
    format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: shop}}
spec:
  clusterIP: 10.96.9.{ip}
  clusterIPs: [10.96.9.{ip}]
  selector: {selector}
  ports: [{{name: http, port: {HTTP}}}, {{name: grpc, port: {RPC}}}]
"
    )
}

/// The states of the endpoint of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Endpoint {
    Ready,
    Unready,
    Ending,
    Gone,
}

fn slice(backend: usize, endpoint: Endpoint) -> String {
    let (name, host, pod) = BACKENDS[backend];
    let conditions = match endpoint {
        Endpoint::Ready => "ready: true",
        Endpoint::Unready => "ready: false, serving: false",
        Endpoint::Ending => "ready: false, serving: true, terminating: true",
        Endpoint::Gone => "",
    };
    let endpoint = match endpoint {
        Endpoint::Gone => "[]".to_owned(),
        Endpoint::Ready | Endpoint::Unready | Endpoint::Ending => format!(
            "[{{addresses: [\"NET.{host}\"], conditions: {{{conditions}}}, targetRef: {{kind: Pod, namespace: shop, name: {pod}}}}}]"
        ),
    };
    format!(
        "
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}-1, namespace: shop, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: IPv4
ports: [{{name: http, port: {HTTP}, protocol: TCP}}, {{name: grpc, port: {RPC}, protocol: TCP}}]
endpoints: {endpoint}
"
    )
}

fn route(kind: &str, port: u16, weights: [u32; 4]) -> String {
    let backends = BACKENDS.iter().zip(weights);
    let backends: Vec<String> = backends
        .map(|((name, ..), weight)| format!("{{name: {name}, port: {port}, weight: {weight}}}"))
        .collect();
    let backends = backends.join(", ");
    format!(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: {kind}
metadata: {{name: turn, namespace: shop}}
spec:
  parentRefs: [{{group: \"\", kind: Service, name: turn, port: {port}}}]
  rules: [{{backendRefs: [{backends}]}}]
"
    )
}

/// Requests without end, each after the answer to the one before, on connections that stay open.
struct Load {
    ended: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    failures: Arc<Mutex<Vec<String>>>,
    seen: Arc<Mutex<BTreeSet<String>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    fn start(http: SocketAddr, rpc: SocketAddr) -> Self {
        let mut load = Self {
            ended: Arc::default(),
            answered: Arc::default(),
            failures: Arc::default(),
            seen: Arc::default(),
            threads: Vec::new(),
        };
        for _ in 0..3 {
            let (seen, mut connection) = (Arc::clone(&load.seen), connect(http));
            load.spawn(move || {
                let answer = ask(&mut connection);
                match answer {
                    Ok(name) => _ = seen.lock().unwrap().insert(name),
                    Err(error) => {
                        connection = connect(http);
                        return Err(error);
                    }
                }
                Ok(())
            });
        }
        let mut caller = Caller::connect(rpc);
        load.spawn(move || caller.call());
        load
    }

    fn spawn(&mut self, mut request: impl FnMut() -> Result<(), String> + Send + 'static) {
        let (ended, answered) = (Arc::clone(&self.ended), Arc::clone(&self.answered));
        let failures = Arc::clone(&self.failures);
        self.threads.push(std::thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                if let Err(error) = request() {
                    failures.lock().unwrap().push(error);
                }
                answered.fetch_add(1, Ordering::Relaxed);
            }
        }));
    }

    /// Waits for so many further answers.
    fn goes_on(&self, mesh: &Fixture, answers: usize) {
        let before = self.answered.load(Ordering::Relaxed);
        mesh.eventually("requests are answered", || {
            self.answered.load(Ordering::Relaxed) >= before + answers
        });
    }

    fn has_failed(&self) -> Vec<String> {
        self.failures.lock().unwrap().clone()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn connect(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Sends a request and returns the body of the answer, which must have status 200.
fn ask(stream: &mut TcpStream) -> Result<String, String> {
    let io = |error: std::io::Error| error.to_string();
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: turn\r\n\r\n")
        .map_err(io)?;
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).map_err(io)?;
        head.extend(byte);
    }
    let head = String::from_utf8_lossy(&head).to_lowercase();
    let length = head.split_once("content-length: ");
    let length = length.and_then(|(_, rest)| rest.lines().next()?.trim().parse().ok());
    let mut body = vec![0; length.unwrap_or_default()];
    stream.read_exact(&mut body).map_err(io)?;
    let body = String::from_utf8_lossy(&body).into_owned();
    match head.starts_with("http/1.1 200") {
        true => Ok(body),
        false => Err(format!("{head}{body}")),
    }
}

/// The same numbers in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        usize::try_from(self.0 >> 33).unwrap() % bound
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }
}

struct Turns<'a> {
    mesh: &'a Fixture,
    weights: [u32; 4],
    revisions: usize,
    markers: u32,
}

impl Turns<'_> {
    fn apply_routes(&self) {
        let (http, grpc) = (
            route("HTTPRoute", HTTP, self.weights),
            route("GRPCRoute", RPC, self.weights),
        );
        self.mesh.apply("turn-http.yaml", &http);
        self.mesh.apply("turn-grpc.yaml", &grpc);
    }

    fn endpoint(&self, backend: usize, endpoint: Endpoint) {
        let file = format!("{}-1.yaml", BACKENDS[backend].0);
        self.mesh.apply(&file, &slice(backend, endpoint));
    }

    fn weigh(&mut self, backend: usize, weight: u32) {
        self.weights[backend] = weight;
        self.apply_routes();
    }

    /// Waits until all edits are in force. A reader of files that began before an edit has read the first mark, but not the second one.
    fn settle(&mut self) {
        for _ in 0..2 {
            self.markers += 1;
            let weight = self.markers;
            self.mesh.apply("split.yaml", &split(weight, 1));
            let weights = format!("{weight}/1");
            self.mesh.status("TrafficSplit", "reviews", |status| {
                status.weights == weights && programmed(status.generation)(status)
            });
        }
        self.mesh
            .until_in_sync(&["shop/frontend-1", "shop/reviews-v1-1", "shop/canary-1"]);
    }

    /// Deletes the service of the revision, which has no weight then, and brings another revision.
    fn renew(&mut self) {
        self.weigh(REVISION, 0);
        self.settle();
        for file in ["revision.yaml", "revision-1.yaml"] {
            fs::remove_file(self.mesh.path("world").join(file)).unwrap();
        }
        self.settle();
        self.revisions += 1;
        let text = service("revision", 100 + self.revisions);
        self.mesh.apply("revision.yaml", &text);
        self.endpoint(REVISION, Endpoint::Unready);
        self.weigh(REVISION, 5);
    }

    fn edit(&mut self, keeper: usize, numbers: &mut Numbers) {
        let other = (keeper + 1 + numbers.below(BACKENDS.len() - 1)) % BACKENDS.len();
        match numbers.below(8) {
            0..=1 => self.weigh(other, numbers.of(&[0, 1, 5, 20])),
            2 => self.weigh(keeper, numbers.of(&[1, 5])),
            3..=4 => self.endpoint(other, Endpoint::Ready),
            _ => {
                let states = [Endpoint::Unready, Endpoint::Ending, Endpoint::Gone];
                self.endpoint(other, numbers.of(&states));
            }
        }
    }
}

pub fn move_before_the_last_endpoint_goes(mesh: &mut Fixture) {
    mesh.apply("canary-pod.yaml", CANARY);
    mesh.token_of("shop", "canary-1");
    mesh.agent("canary-1", "canary", 31);
    for (host, name) in [(121, "blue"), (22, "green"), (131, "canary")] {
        application(mesh.address(host, HTTP), name);
        rpc::serve(mesh.address(host, RPC));
    }
    let mut turns = Turns {
        mesh,
        weights: [1, 1, 1, 1],
        revisions: 0,
        markers: 0,
    };
    mesh.apply("turn.yaml", &service("turn", 60));
    for (index, (name, ..)) in BACKENDS.iter().enumerate() {
        mesh.apply(&format!("{name}.yaml"), &service(name, 61 + index));
        turns.endpoint(index, Endpoint::Ready);
    }
    turns.apply_routes();
    turns.settle();
    let (http, rpc) = (mesh.address(56, HTTP), mesh.address(57, RPC));
    mesh.eventually("every backend answers", || {
        let all: BTreeSet<String> = (0..40)
            .filter_map(|_| ask(&mut connect(http)).ok())
            .collect();
        all.len() == 3 && Caller::connect(rpc).call().is_ok()
    });

    let load = Load::start(http, rpc);
    let mut numbers = Numbers(1);
    let rounds = std::env::var("SHARES_ROUNDS").map_or(ROUNDS, |text| text.parse().unwrap());
    for round in 0..rounds {
        let keeper = numbers.below(BACKENDS.len());
        turns.endpoint(keeper, Endpoint::Ready);
        turns.weigh(keeper, 1);
        turns.settle();
        if keeper != REVISION && round % 3 == 2 {
            turns.renew();
        }
        for _ in 0..EDITS {
            turns.edit(keeper, &mut numbers);
            load.goes_on(mesh, numbers.below(60));
        }
        turns.settle();
        let failures = load.has_failed();
        assert!(
            failures.is_empty(),
            "round {round}, {}: {failures:#?}",
            BACKENDS[keeper].0
        );
    }
    status_names_the_held_weight(&mut turns);
    let failures = load.has_failed();
    assert!(failures.is_empty(), "{failures:#?}");
    let seen = load.seen.lock().unwrap().clone();
    assert_eq!(
        seen.into_iter().collect::<Vec<_>>(),
        ["blue", "canary", "green"]
    );
}

fn status_names_the_held_weight(turns: &mut Turns<'_>) {
    let mesh = turns.mesh;
    turns.endpoint(0, Endpoint::Ready);
    turns.endpoint(1, Endpoint::Ready);
    turns.endpoint(2, Endpoint::Ready);
    turns.weights = [90, 0, 10, 0];
    turns.apply_routes();
    turns.settle();
    let held = |port: u16| {
        let text = fs::read_to_string(mesh.path("run/status.yaml")).unwrap_or_default();
        // Long lines are folded.
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        text.contains(&format!(
            "spec.rules[0]: shop/canary:{port} has no ready endpoint, so its weight 10 of 100 goes to the other backends"
        ))
    };
    assert!(!held(HTTP) && !held(RPC));
    turns.endpoint(2, Endpoint::Unready);
    mesh.eventually("the statuses name the weight", || held(HTTP) && held(RPC));
    turns.endpoint(2, Endpoint::Ready);
    mesh.eventually("the statuses name it no more", || !held(HTTP) && !held(RPC));
}
