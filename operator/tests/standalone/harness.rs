//! Processes, files and requests of the test.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use heddle_xds_types::edges::{Edge, EdgesReport};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

pub const PATIENCE: Duration = Duration::from_secs(40);
/// The tests of this process that have started.
static TESTS: AtomicU8 = AtomicU8::new(0);
pub const WORLD: &str = include_str!("world.yaml");

/// The fields of a status that the tests read.
#[derive(Clone, Debug, Default)]
pub struct Status {
    pub generation: i64,
    pub proxies: String,
    pub weights: String,
    /// Status and reason.
    pub programmed: (String, String),
    pub message: String,
    /// Status and message of `Enforced`.
    pub enforced: (String, String),
}

/// The number of answers by kind.
#[derive(Debug, Default)]
pub struct Answers(BTreeMap<String, usize>);

impl Answers {
    pub fn of(&self, what: &str) -> usize {
        self.0.get(what).copied().unwrap_or(0)
    }
}

/// A process that is ended with the test, by its own id.
pub struct Process {
    pub child: Child,
    log: PathBuf,
}

impl Process {
    pub fn start(mut command: Command, log: &Path) -> Self {
        let out = File::options().create(true).append(true).open(log).unwrap();
        let err = out.try_clone().unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn()
            .unwrap();
        Self {
            child,
            log: log.to_owned(),
        }
    }

    fn stop(&mut self) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        let _ = kill(pid, Signal::SIGTERM);
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
        if std::thread::panicking() {
            let text = fs::read_to_string(&self.log).unwrap_or_default();
            let tail: Vec<&str> = text.lines().rev().take(25).collect();
            eprintln!(
                "--- {}\n{}",
                self.log.display(),
                tail.into_iter().rev().collect::<Vec<_>>().join("\n")
            );
        }
    }
}

/// The mesh of the test: `frontend-1` calls `reviews`. The v1 of `reviews` has a sidecar, the v2 has none.
pub struct Fixture {
    // Before the directory, so that they end before it goes.
    pub agents: Vec<Process>,
    control_plane: Option<Process>,
    directory: tempfile::TempDir,
    net: [u8; 2],
    /// Further arguments of the control plane.
    options: Vec<String>,
    pub ads: SocketAddr,
    pub ca: SocketAddr,
}

impl Fixture {
    pub fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        // Loopback addresses of this process's own: two tests on one machine do not meet.
        let pid = std::process::id();
        let net = [
            60 + u8::try_from(pid / 250 % 11).unwrap(),
            u8::try_from(pid % 250).unwrap(),
        ];
        // Room for seventeen tests.
        let net = [net[0] + 11 * TESTS.fetch_add(1, Ordering::Relaxed), net[1]];
        let here = Ipv4Addr::new(127, net[0], net[1], 1);
        let mut mesh = Self {
            agents: Vec::new(),
            control_plane: None,
            directory,
            net,
            options: Vec::new(),
            ads: SocketAddr::from((here, 15010)),
            ca: SocketAddr::from((here, 15011)),
        };
        fs::create_dir(mesh.path("world")).unwrap();
        fs::write(
            mesh.path("world/world.yaml"),
            WORLD.replace("NET", &format!("127.{}.{}", net[0], net[1])),
        )
        .unwrap();
        mesh.start_control_plane();
        application(SocketAddr::new(mesh.ip(121).into(), 9080), "v1");
        application(SocketAddr::new(mesh.ip(22).into(), 9080), "v2");
        mesh.agent("frontend-1", "frontend", 11);
        mesh.agent("reviews-v1-1", "reviews", 21);
        mesh
    }

    pub fn start_control_plane(&mut self) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_heddle-operator"));
        command
            .arg("standalone")
            .arg("--dir")
            .arg(self.path("world"))
            .arg("--runtime-dir")
            .arg(self.path("run"))
            .args(&self.options)
            .env("HEDDLE_ENVOY", envoy_binary());
        command.args([
            "--ads-address",
            &self.ads.to_string(),
            "--ca-address",
            &self.ca.to_string(),
        ]);
        self.control_plane = Some(Process::start(command, &self.path("operator.log")));
        self.eventually("both tokens are there", || {
            ["frontend-1", "reviews-v1-1"]
                .into_iter()
                .all(|pod| self.token_file(pod).is_file())
        });
        self.eventually("the control plane listens", || {
            TcpStream::connect(self.ca).is_ok()
        });
    }

    /// Starts the control plane again, with further arguments.
    pub fn restart_with(&mut self, options: &[&str]) {
        self.stop_control_plane();
        self.options = options.iter().map(|option| (*option).to_owned()).collect();
        self.start_control_plane();
    }

    pub fn stop_agents(&mut self) {
        self.agents.clear();
    }

    pub fn stop_control_plane(&mut self) {
        self.control_plane = None;
    }

    /// Starts the agent of a pod, with its Envoy.
    pub fn agent(&mut self, pod: &str, account: &str, host: u8) {
        let mut command = Command::new(agent_binary());
        let runtime = self.path(pod);
        fs::create_dir(&runtime).unwrap();
        command
            .arg("run")
            .env("HEDDLE_CONTROL_PLANE", self.ads.ip().to_string())
            .env("HEDDLE_ADS_PORT", self.ads.port().to_string())
            .env("HEDDLE_CA_PORT", self.ca.port().to_string())
            .env("HEDDLE_TRUST_BUNDLE", self.trust_bundle())
            .env("HEDDLE_TRUST_DOMAIN", "cluster.local")
            .env("HEDDLE_TOKEN_FILE", self.token_file(pod))
            .env("POD_NAME", pod)
            .env("POD_NAMESPACE", "shop")
            .env("POD_SERVICE_ACCOUNT", account)
            .env("HEDDLE_ENVOY", envoy_binary())
            .env("HEDDLE_RUNTIME_DIR", &runtime)
            .env(
                "HEDDLE_READY_ADDR",
                SocketAddr::new(self.ip(host).into(), 15021).to_string(),
            )
            .env("HEDDLE_CONCURRENCY", "1")
            .env("HEDDLE_DRAIN_SECONDS", "1")
            .env("HEDDLE_GRACE_SECONDS", "3600");
        self.agents
            .push(Process::start(command, &self.path(&format!("{pod}.log"))));
    }

    /// An address of the test.
    pub fn address(&self, host: u8, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip(host).into(), port)
    }

    /// How often the Envoy of a pod has added, changed or removed a listener.
    pub fn listener_changes(&self, pod: &str) -> Vec<String> {
        let ask = || -> std::io::Result<String> {
            let mut stream = UnixStream::connect(self.path(pod).join("admin.sock"))?;
            stream.write_all(
                b"GET /stats?filter=listener_manager HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
            )?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        };
        let text = ask().unwrap();
        let counts = ["added", "modified", "removed", "in_place_updated"];
        let lines = text.lines().filter(|line| {
            let mut counts = counts.iter();
            counts.any(|count| line.contains(&format!("listener_{count}: ")))
        });
        let lines: Vec<String> = lines.map(str::to_owned).collect();
        assert_eq!(lines.len(), counts.len(), "{text}");
        lines
    }

    /// Whether the control plane has logged a line with all of some texts.
    pub fn has_logged(&self, texts: &[&str]) -> bool {
        let log = fs::read_to_string(self.path("operator.log")).unwrap();
        let mut lines = log.lines();
        lines.any(|line| texts.iter().all(|text| line.contains(text)))
    }

    /// The lines of the access log of a pod's sidecar.
    pub fn access_log(&self, pod: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.path(&format!("{pod}.log"))).unwrap_or_default();
        let objects = text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        objects
            .filter(|line: &Value| line["reporter"].is_string())
            .collect()
    }

    fn ip(&self, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(127, self.net[0], self.net[1], host)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn token_file(&self, pod: &str) -> PathBuf {
        self.path(&format!("run/tokens/shop_{pod}"))
    }

    pub fn token(&self, pod: &str) -> String {
        fs::read_to_string(self.token_file(pod)).unwrap()
    }

    /// The token of a pod that was added after the start.
    pub fn token_of(&self, namespace: &str, pod: &str) -> String {
        let file = self.path(&format!("run/tokens/{namespace}_{pod}"));
        self.eventually("the token is there", || file.is_file());
        fs::read_to_string(file).unwrap()
    }

    pub fn trust_bundle(&self) -> String {
        fs::read_to_string(self.path("run/trust-bundle.pem")).unwrap()
    }

    /// Puts a file into the directory, as tools do it.
    pub fn apply(&self, name: &str, text: &str) {
        let beside = self.path(name);
        let text = text.replace("NET", &format!("127.{}.{}", self.net[0], self.net[1]));
        fs::write(&beside, text).unwrap();
        fs::rename(beside, self.path("world").join(name)).unwrap();
    }

    /// Takes a file away, and waits until its object has no status any more.
    pub fn remove(&self, name: &str, kind: &str, object: &str) {
        fs::remove_file(self.path("world").join(name)).unwrap();
        self.eventually(&format!("{kind} {object} is gone"), || {
            self.read_status(kind, object).is_none()
        });
    }

    /// Waits for a status.
    pub fn status(&self, kind: &str, name: &str, wanted: impl Fn(&Status) -> bool) -> Status {
        let mut last = None;
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            last = self.read_status(kind, name);
            match &last {
                Some(status) if wanted(status) => return status.clone(),
                _ => std::thread::sleep(Duration::from_millis(20)),
            }
        }
        panic!("{kind} {name} is not as wanted: {last:?}");
    }

    fn read_status(&self, kind: &str, name: &str) -> Option<Status> {
        let list: Value =
            serde_saphyr::from_str(&fs::read_to_string(self.path("run/status.yaml")).ok()?).ok()?;
        let item = list["items"]
            .as_array()?
            .iter()
            .find(|item| item["kind"] == kind && item["metadata"]["name"] == name)?;
        let status = &item["status"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let conditions = status["conditions"].as_array()?;
        let find = |kind: &str| {
            conditions
                .iter()
                .find(|condition| condition["type"] == kind)
        };
        let condition = find("Programmed")?;
        let enforced = find("Enforced").map(|one| (text(&one["status"]), text(&one["message"])));
        Some(Status {
            generation: status["observedGeneration"].as_i64()?,
            proxies: text(&status["proxies"]),
            weights: text(&status["weightsInForce"]),
            programmed: (text(&condition["status"]), text(&condition["reason"])),
            message: text(&condition["message"]),
            enforced: enforced.unwrap_or_default(),
        })
    }

    /// How the sidecar of reviews v1 answers a caller without a certificate: `200` or `refused`.
    pub fn anonymous(&self) -> &'static str {
        let answer = request(SocketAddr::new(self.ip(21).into(), 9080));
        if answer == "v1" { "200" } else { "refused" }
    }

    /// Waits until a caller without a certificate is answered so.
    pub fn until_anonymous(&self, answer: &str) {
        self.eventually(&format!("anonymous callers: {answer}"), || {
            self.anonymous() == answer
        });
    }

    /// Waits until the statuses contain a text.
    pub fn until_status_says(&self, text: &str) {
        self.eventually(&format!("status.yaml says {text:?}"), || {
            let status = fs::read_to_string(self.path("run/status.yaml"));
            let words = status.unwrap_or_default();
            // YAML folds long lines.
            let words: Vec<&str> = words.split_whitespace().collect();
            words.join(" ").contains(text)
        });
    }

    /// Waits until the proxies run all that they should.
    pub fn until_in_sync(&self, proxies: &[&str]) {
        self.eventually(&format!("{proxies:?} are in sync"), || {
            let text = fs::read_to_string(self.path("run/proxies.json")).unwrap_or_default();
            let all: Vec<Value> = serde_json::from_str(&text).unwrap_or_default();
            proxies.iter().all(|proxy| {
                all.iter()
                    .any(|one| one["proxy"] == *proxy && one["inSync"] == true)
            })
        });
    }

    /// Waits until `edges.json` has an edge.
    pub fn until_edge(&self, what: &str, is: impl Fn(&Edge) -> bool) {
        let read = || -> Option<EdgesReport> {
            serde_json::from_str(&fs::read_to_string(self.path("run/edges.json")).ok()?).ok()
        };
        let last = std::cell::RefCell::new(None);
        let holds = || {
            let report = read().unwrap_or_default();
            let found = report.edges.iter().any(&is);
            *last.borrow_mut() = Some(report);
            found
        };
        self.eventually_or(what, holds, || format!("{:#?}", last.borrow()));
    }

    /// Requests of the frontend's application to `reviews`, through its sidecar.
    pub fn requests(&self, count: usize) -> Answers {
        let mut answers = Answers::default();
        for _ in 0..count {
            let answer = request(SocketAddr::new(self.ip(51).into(), 9080));
            *answers.0.entry(answer).or_default() += 1;
        }
        answers
    }

    pub fn eventually(&self, what: &str, holds: impl Fn() -> bool) {
        self.eventually_or(what, holds, String::new);
    }

    /// The same with something to print if it does not hold in time.
    pub fn eventually_or(&self, what: &str, holds: impl Fn() -> bool, print: impl Fn() -> String) {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if holds() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("not in time: {what} {}", print());
    }
}

pub fn request(to: SocketAddr) -> String {
    let answer = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(5))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"GET / HTTP/1.1\r\nhost: reviews\r\nconnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    match answer() {
        Ok(text) if text.starts_with("HTTP/1.1 200") => {
            text.rsplit("\r\n").next().unwrap_or_default().to_owned()
        }
        Ok(text) if text.starts_with("HTTP/1.1 403") => "denied".to_owned(),
        Ok(text) => text,
        Err(error) => error.to_string(),
    }
}

/// An application that answers with its name. Its thread ends with the test's process.
pub fn application(address: SocketAddr, name: &'static str) {
    let listener = TcpListener::bind(address).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || answer(stream, name));
        }
    });
}

fn answer(mut stream: TcpStream, name: &str) {
    let mut buffer = Vec::new();
    let mut chunk = [0u8; 4096];
    while let Ok(read) = stream.read(&mut chunk) {
        if read == 0 {
            return;
        }
        buffer.extend_from_slice(&chunk[..read]);
        if buffer.windows(4).any(|window| window == b"\r\n\r\n") {
            buffer.clear();
            // One write for the whole answer: after a first partial write the others would wait for its acknowledgment.
            let text = format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{name}",
                name.len()
            );
            let _ = stream.write_all(text.as_bytes());
        }
    }
}

fn agent_binary() -> PathBuf {
    let beside = || Path::new(env!("CARGO_BIN_EXE_heddle-operator")).with_file_name("heddle-agent");
    let path = std::env::var_os("HEDDLE_AGENT").map_or_else(beside, PathBuf::from);
    assert!(
        path.is_file(),
        "{} is not there: cargo build -p heddle-agent, or HEDDLE_AGENT",
        path.display()
    );
    path
}

fn envoy_binary() -> PathBuf {
    let cached = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache/envoy/envoy");
    let path = std::env::var_os("HEDDLE_ENVOY").map_or_else(cached, PathBuf::from);
    assert!(
        path.is_file(),
        "{} is not there: make envoy, or HEDDLE_ENVOY",
        path.display()
    );
    path
}
