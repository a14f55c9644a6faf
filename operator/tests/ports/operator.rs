//! The control plane's binary as on Kubernetes, and honest callers of its ports.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use heddle_identity::wire::{IdentityClient, IssueRequest, IssueResponse, set_bearer};
use heddle_identity::{SpiffeId, WorkloadKey};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Request, Status};

use crate::api::{self, Api};
use crate::tls;

/// No wait of a test is longer.
pub const PATIENCE: Duration = Duration::from_secs(40);

/// One operator of the tests of this process.
pub struct Operator {
    child: Child,
    log: PathBuf,
    pub ip: Ipv4Addr,
    pub api: Api,
    _directory: tempfile::TempDir,
}

static NEXT: AtomicU8 = AtomicU8::new(1);

impl Operator {
    /// Starts the binary after a shell command, such as `ulimit -n 1024`, and waits until it is ready.
    pub fn start(before: &str, deadline: Duration, review_takes: Duration) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let api = Api::start(review_takes);
        let kubeconfig = directory.path().join("kubeconfig");
        let text = format!(
            "{{apiVersion: v1, kind: Config, current-context: a, contexts: [{{name: a, context: {{cluster: a, user: a}}}}],
              users: [{{name: a, user: {{}}}}], clusters: [{{name: a, cluster: {{server: 'http://{}'}}}}]}}",
            api.address
        );
        fs::write(&kubeconfig, text).unwrap();
        let pid = std::process::id();
        let ip = Ipv4Addr::new(
            127,
            20 + u8::try_from(pid / 250 % 50).unwrap(),
            u8::try_from(pid % 250).unwrap(),
            NEXT.fetch_add(1, Ordering::Relaxed),
        );
        let log = directory.path().join("operator.log");
        let file = File::create(&log).unwrap();
        let child = Command::new("sh")
            .args([
                "-c",
                &format!("{before}; exec \"$0\""),
                env!("CARGO_BIN_EXE_heddle-operator"),
            ])
            .env("KUBECONFIG", &kubeconfig)
            .env("POD_NAME", "op-0")
            .env("POD_IP", ip.to_string())
            .env("HEDDLE_SIDECAR_IMAGE", "x")
            .env("HEDDLE_LISTEN", ip.to_string())
            .env(
                "HEDDLE_CONNECTION_DEADLINE_MS",
                deadline.as_millis().to_string(),
            )
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap();
        let operator = Self {
            child,
            log,
            ip,
            api,
            _directory: directory,
        };
        operator.eventually("the control plane is ready", || {
            operator
                .health("/readyz")
                .is_some_and(|text| text.starts_with("HTTP/1.1 200"))
        });
        operator
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    pub fn eventually(&self, what: &str, holds: impl Fn() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if holds() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("not in time: {what}");
    }

    pub fn at(&self, port: u16) -> SocketAddr {
        (self.ip, port).into()
    }

    /// A plain request to 15021.
    pub fn health(&self, path: &str) -> Option<String> {
        let tcp = TcpStream::connect(self.at(15021)).ok()?;
        exchange(tcp, &get(path, "")).ok()
    }

    /// A request over TLS.
    pub fn https(&self, port: u16, request: &str) -> std::io::Result<String> {
        let tcp = TcpStream::connect(self.at(port))?;
        tcp.set_read_timeout(Some(PATIENCE))?;
        let config = Arc::new(tls::anonymous(&[b"http/1.1"]));
        let connection = ClientConnection::new(config, name()).map_err(std::io::Error::other)?;
        exchange(StreamOwned::new(connection, tcp), request)
    }

    /// The metrics, by a token that the API server accepts.
    pub fn metrics(&self) -> String {
        let token = api::token(&api::claims(), "good");
        let header = format!("authorization: Bearer {token}\r\n");
        self.https(15014, &get("/metrics", &header)).unwrap()
    }

    /// The value of one metric.
    pub fn metric(&self, name: &str) -> u64 {
        let text = self.metrics();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{name} is not in\n{text}"))
            .parse()
            .unwrap()
    }

    /// Issues a certificate for the bearer of a token.
    pub async fn issue(&self, token: &str) -> Result<(WorkloadKey, IssueResponse), Status> {
        self.issue_from(self.ip, token).await
    }

    /// The same, from another address.
    pub async fn issue_from(
        &self,
        from: Ipv4Addr,
        token: &str,
    ) -> Result<(WorkloadKey, IssueResponse), Status> {
        let id = SpiffeId::new("cluster.local".parse().unwrap(), "shop", "web").unwrap();
        let key = WorkloadKey::generate().unwrap();
        let mut request = Request::new(IssueRequest {
            csr: key.csr(&id).unwrap(),
            lifetime_seconds: 0,
        });
        set_bearer(request.metadata_mut(), token).unwrap();
        let mut client =
            IdentityClient::new(self.channel(from, 15011, tls::anonymous(&[b"h2"])).await?);
        Ok((key, client.issue(request).await?.into_inner()))
    }

    pub async fn channel(
        &self,
        from: Ipv4Addr,
        port: u16,
        tls: ClientConfig,
    ) -> Result<Channel, Status> {
        let (to, tls) = (
            self.at(port),
            tokio_rustls::TlsConnector::from(Arc::new(tls)),
        );
        let connector = tower::service_fn(move |_: Uri| {
            let tls = tls.clone();
            async move {
                let socket = tokio::net::TcpSocket::new_v4()?;
                socket.bind((from, 0).into())?;
                let tcp = socket.connect(to).await?;
                Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(
                    tls.connect(name(), tcp).await?,
                ))
            }
        });
        let endpoint = Endpoint::from_static("http://localhost").timeout(PATIENCE);
        let connecting = endpoint.connect_with_connector(connector).await;
        connecting.map_err(|error| Status::unavailable(error.to_string()))
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        let _ = kill(
            Pid::from_raw(i32::try_from(self.child.id()).unwrap()),
            Signal::SIGKILL,
        );
        let _ = self.child.wait();
        if std::thread::panicking() {
            let text = fs::read_to_string(&self.log).unwrap_or_default();
            let tail: Vec<&str> = text.lines().rev().take(25).collect();
            eprintln!("{}", tail.into_iter().rev().collect::<Vec<_>>().join("\n"));
        }
    }
}

pub fn get(path: &str, headers: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n{headers}connection: close\r\n\r\n")
}

fn exchange(mut io: impl Read + Write, request: &str) -> std::io::Result<String> {
    io.write_all(request.as_bytes())?;
    let mut text = Vec::new();
    match io.read_to_end(&mut text) {
        // TLS without a farewell, after the whole response.
        Err(error) if error.kind() != std::io::ErrorKind::UnexpectedEof => return Err(error),
        _ => {}
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

pub fn name() -> ServerName<'static> {
    ServerName::try_from("localhost").unwrap()
}

/// A client with a certificate that was issued.
pub fn mutual(key: &WorkloadKey, issued: &IssueResponse) -> ClientConfig {
    let chain = issued.certificate_chain.iter();
    let chain = chain.map(|der| CertificateDer::from(der.clone())).collect();
    tls::mutual(chain, key.private_key_der(), &[b"h2"])
}
