//! A pod without Kubernetes: the application, the agent's process, and a caller.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Bytes;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::Semaphore;

use crate::plane::{Plane, TOKEN};
use crate::resources::{Ports, Resources, resources};

pub const DEADLINE: Duration = Duration::from_secs(40);

pub struct Pod {
    pub plane: Arc<Plane>,
    pub ports: Ports,
    pub ready: SocketAddr,
    pub dir: tempfile::TempDir,
    /// Lets a request to `/slow` end.
    pub slow: Arc<Semaphore>,
    /// Counts the requests to `/slow` that have begun.
    pub begun: Arc<Semaphore>,
    agent: Option<Child>,
}

pub fn envoy() -> PathBuf {
    let path = std::env::var_os("HEDDLE_ENVOY").map_or_else(
        || concat!(env!("CARGO_MANIFEST_DIR"), "/../.cache/envoy/envoy").into(),
        PathBuf::from,
    );
    assert!(
        path.exists(),
        "no Envoy at {}: run `make envoy`",
        path.display()
    );
    path
}

/// An address for the pod's Envoy to bind. Its IP address is one of the test process's own, and each has a port of its own.
fn free() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(20_000);
    let [_, a, b, c] = std::process::id().to_be_bytes();
    let port = NEXT.fetch_add(1, Ordering::Relaxed);
    SocketAddr::from((Ipv4Addr::new(127, 64 | a, b, c), port))
}

impl Pod {
    pub async fn new() -> Self {
        Self::with(|_| {}).await
    }

    /// A pod with these changes to the resources of its control plane.
    pub async fn with(edit: impl FnOnce(&mut Resources)) -> Self {
        let (slow, begun) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
        let app = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let ports = Ports {
            inbound: free(),
            outbound: free(),
            metrics: free(),
            app: app.local_addr().unwrap(),
        };
        tokio::spawn(serve(app, Arc::clone(&slow), Arc::clone(&begun)));
        let mut resources = resources(ports);
        edit(&mut resources);
        let plane = Plane::start(resources).await;
        let pod = Self {
            plane,
            ports,
            ready: free(),
            dir: tempfile::tempdir().unwrap(),
            slow,
            begun,
            agent: None,
        };
        pod.write_token(TOKEN);
        pod
    }

    pub fn write_token(&self, token: &str) {
        std::fs::write(self.dir.path().join("token"), token).unwrap();
    }

    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_heddle-agent"));
        command
            .env_clear()
            .env("HEDDLE_CONTROL_PLANE", "127.0.0.1")
            .env("HEDDLE_ADS_PORT", self.plane.ads.port().to_string())
            .env("HEDDLE_CA_PORT", self.plane.issuing.port().to_string())
            .env("HEDDLE_TRUST_BUNDLE", self.plane.ca.trust_bundle())
            .env("HEDDLE_TRUST_DOMAIN", "cluster.local")
            .env("HEDDLE_TOKEN_FILE", self.dir.path().join("token"))
            .env("HEDDLE_ENVOY", envoy())
            .env("HEDDLE_RUNTIME_DIR", self.dir.path().join("run"))
            .env("HEDDLE_READY_ADDR", self.ready.to_string())
            .env("HEDDLE_CONCURRENCY", "1")
            .env("HEDDLE_LOG_LEVEL", "info")
            .env("HEDDLE_DRAIN_SECONDS", "30")
            .env("POD_NAME", "cart-0")
            .env("POD_NAMESPACE", "shop")
            .env("POD_SERVICE_ACCOUNT", "cart")
            .env("HEDDLE_WORKLOAD", "cart")
            .stderr(File::create(self.dir.path().join("log")).unwrap());
        command
    }

    /// The same after a shell command.
    pub fn command_after(&self, before: &str) -> Command {
        let plain = self.command();
        let mut command = Command::new("/bin/sh");
        let environment = plain
            .get_envs()
            .filter_map(|(name, value)| Some((name, value?)));
        command
            .arg("-c")
            .arg(format!("{before}; exec \"$0\""))
            .arg(plain.get_program())
            .env_clear()
            .envs(environment)
            .stderr(File::create(self.dir.path().join("log")).unwrap());
        command
    }

    pub fn start(&mut self, command: &mut Command) {
        self.agent = Some(command.spawn().unwrap());
    }

    pub fn log(&self) -> String {
        let log = std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        // Envoy begins with a hundred lines on its built-in extensions.
        log.lines()
            .filter(|l| !l.contains("envoy::main   "))
            .map(|l| format!("{l}\n"))
            .collect()
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.agent.as_ref().unwrap().id().try_into().unwrap())
    }

    /// The agent's only child.
    pub fn envoy_pid(&self) -> Pid {
        let path = format!("/proc/{0}/task/{0}/children", self.pid());
        Pid::from_raw(
            std::fs::read_to_string(path)
                .unwrap()
                .trim()
                .parse()
                .unwrap(),
        )
    }

    /// The answer of Envoy's admin interface.
    pub async fn admin(&self, path: &str) -> String {
        let socket = self.dir.path().join("run/admin.sock");
        let stream = UnixStream::connect(socket).await.unwrap();
        ask(stream, path).await.unwrap().body
    }

    pub async fn is_ready(&self) -> bool {
        get(self.ready, "/healthz/ready")
            .await
            .is_ok_and(|a| a.status == 200)
    }

    pub async fn until_ready(&self) {
        until("the sidecar is ready", || self.is_ready(), || self.log()).await;
    }

    pub async fn ended(&mut self) -> ExitStatus {
        let end = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.agent.as_mut().unwrap().try_wait().unwrap() {
                return status;
            }
            assert!(
                Instant::now() < end,
                "the agent does not end\n{}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            let _ = agent.kill();
            let status = agent.wait();
            if std::thread::panicking() {
                eprintln!(
                    "agent: {:?}\n{}",
                    status.map(|s| (s.code(), s.signal())),
                    self.log()
                );
            }
        }
    }
}

pub fn alive(pid: Pid) -> bool {
    let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    kill(pid, None::<Signal>).is_ok() && !state.contains(") Z ")
}

pub async fn until<F: Future<Output = bool>>(
    what: &str,
    is: impl Fn() -> F,
    log: impl Fn() -> String,
) {
    let end = Instant::now() + DEADLINE;
    while !is().await {
        assert!(Instant::now() < end, "never: {what}\n{}", log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub serial: Option<String>,
    pub close: bool,
    pub body: String,
}

pub async fn get(at: SocketAddr, path: &str) -> anyhow::Result<Answer> {
    let stream = tokio::time::timeout(DEADLINE, TcpStream::connect(at)).await??;
    ask(stream, path).await
}

async fn ask(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    path: &str,
) -> anyhow::Result<Answer> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = Request::get(path)
        .header("host", "app")
        .body(Empty::<Bytes>::new())?;
    let response = tokio::time::timeout(DEADLINE, sender.send_request(request)).await??;
    let header = |name: &str| {
        response
            .headers()
            .get(name)
            .and_then(|v| v.to_str().ok())
            .map(str::to_owned)
    };
    let (status, serial, close) = (
        response.status().as_u16(),
        header("x-serial"),
        header("connection").as_deref() == Some("close"),
    );
    let body =
        String::from_utf8_lossy(&response.into_body().collect().await?.to_bytes()).into_owned();
    connection.abort();
    Ok(Answer {
        status,
        serial,
        close,
        body,
    })
}

async fn serve(listener: TcpListener, slow: Arc<Semaphore>, begun: Arc<Semaphore>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (slow, begun) = (Arc::clone(&slow), Arc::clone(&begun));
        tokio::spawn(async move {
            let answer = service_fn(|request: Request<hyper::body::Incoming>| {
                let (slow, begun) = (Arc::clone(&slow), Arc::clone(&begun));
                async move {
                    if request.uri().path() == "/slow" {
                        begun.add_permits(1);
                        slow.acquire().await.unwrap().forget();
                    }
                    anyhow::Ok(Response::new(Full::new(Bytes::from_static(b"hello"))))
                }
            });
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), answer)
                .await;
        });
    }
}
