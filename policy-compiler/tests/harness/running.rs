//! Real Envoys with real certificates, and stand-ins for applications and clients.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use heddle_policy_compiler::world::SpiffeId;
use heddle_policy_compiler::{Compiled, NamespacedName};
use rcgen::{CertificateParams, Issuer, KeyPair, SanType};
use serde_json::{Value, json};

/// An Envoy that ends with the test.
pub struct Envoy(Child);

impl Envoy {
    /// The id of its process.
    pub fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An authority of its own.
pub struct Trust {
    ca: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Trust {
    pub fn new() -> Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = KeyPair::generate()?;
        let ca = params.self_signed(&key)?.pem();
        Ok(Self {
            ca,
            issuer: Issuer::new(params, key),
        })
    }

    /// Its own certificate.
    pub fn ca(&self) -> &str {
        &self.ca
    }

    /// Certificate and key of an identity.
    pub fn issue(&self, id: &SpiffeId) -> Result<(String, String)> {
        self.sign(id, CertificateParams::default())
    }

    /// Certificate and key of a host.
    pub fn issue_for(&self, host: &str) -> Result<(String, String)> {
        let name = match host.parse() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(host.try_into()?),
        };
        self.sign_name(name, CertificateParams::default())
    }

    /// The same, until then.
    pub fn issue_until(&self, id: &SpiffeId, until: SystemTime) -> Result<(String, String)> {
        let mut params = CertificateParams::default();
        params.not_after = until.into();
        self.sign(id, params)
    }

    fn sign(&self, id: &SpiffeId, params: CertificateParams) -> Result<(String, String)> {
        self.sign_name(SanType::URI(id.as_str().try_into()?), params)
    }

    fn sign_name(&self, name: SanType, mut params: CertificateParams) -> Result<(String, String)> {
        // Not the name of the issuer, or it would count as its own.
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.subject_alt_names = vec![name];
        let key = KeyPair::generate()?;
        Ok((
            params.signed_by(&key, &self.issuer)?.pem(),
            key.serialize_pem(),
        ))
    }
}

/// Puts in place the secrets that the agent would send by SDS.
fn inline_secrets(value: &mut Value, ca: &str, pair: &(String, String)) {
    let text = |text: &str| json!({"inline_string": text});
    match value {
        Value::Object(map) => {
            if map.remove("tls_certificate_sds_secret_configs").is_some() {
                map.insert(
                    "tls_certificates".to_owned(),
                    json!([{"certificate_chain": text(&pair.0), "private_key": text(&pair.1)}]),
                );
            }
            if let Some(mut combined) = map.remove("combined_validation_context") {
                let mut validation = combined["default_validation_context"].take();
                validation["trusted_ca"] = text(ca);
                map.insert("validation_context".to_owned(), validation);
            }
            map.values_mut()
                .for_each(|value| inline_secrets(value, ca, pair));
        }
        Value::Array(items) => items
            .iter_mut()
            .for_each(|item| inline_secrets(item, ca, pair)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Starts the sidecar of a pod that has asked for these names, with its configuration edited. The pod is of namespace `shop`, unless its name begins
/// with another one and `/`.
pub fn start(
    compiled: &Compiled,
    (pod, wanted): (&str, &BTreeSet<Arc<str>>),
    trust: &Trust,
    folder: &Path,
    admin: &str,
    edit: impl FnOnce(&mut Value),
) -> Result<Envoy> {
    let (namespace, pod) = pod.split_once('/').unwrap_or(("shop", pod));
    let pod_ref = NamespacedName::new(namespace, pod);
    let view = super::view(compiled, &pod_ref, wanted).context("no such proxy")?;
    let mut config = super::envoy::bootstrap(&view.into());
    inline_secrets(
        &mut config,
        &trust.ca,
        &trust.issue(&compiled.proxies[&pod_ref].identity)?,
    );
    let (ip, port) = admin.split_once(':').context("admin address")?;
    config["admin"] =
        json!({"address": {"socket_address": {"address": ip, "port_value": port.parse::<u16>()?}}});
    config.as_object_mut().unwrap().remove("dynamic_resources");
    edit(&mut config);
    // As the agent does it; a name that looks like a format is not read as one.
    let workload = format!("{pod}%PROTOCOL%");
    let identity = compiled.proxies[&pod_ref].identity.as_str();
    let resource = format!("service.name={pod}");
    let environment = [
        ("NS", namespace),
        ("WL", &*workload),
        ("ID", identity),
        ("OTEL_RESOURCE_ATTRIBUTES", &*resource),
    ];
    spawn(pod, &config, &environment, folder, admin)
}

/// Starts an Envoy with a whole configuration, and waits until it is ready. Its output is in `<name>.out` and `<name>.log`.
pub fn spawn(
    name: &str,
    config: &Value,
    environment: &[(&str, &str)],
    folder: &Path,
    admin: &str,
) -> Result<Envoy> {
    let file = folder.join(format!("{name}.json"));
    fs::write(&file, config.to_string())?;
    let log = fs::File::create(folder.join(format!("{name}.log")))?;
    let out = fs::File::create(folder.join(format!("{name}.out")))?;
    let child = Command::new(super::envoy::binary()?)
        .args([
            "--disable-hot-restart",
            "--concurrency",
            "1",
            "--log-level",
            "warning",
            "--file-flush-interval-msec",
            "20",
            "-c",
        ])
        .arg(&file)
        .env_clear()
        .envs(environment.iter().copied())
        .stdout(out)
        .stderr(log)
        .spawn()?;
    let mut envoy = Envoy(child);
    // Under valgrind, and on a busy machine, the start takes minutes.
    let deadline = Instant::now() + Duration::from_secs(900);
    while !http(admin, "GET", "/ready", "").is_ok_and(|answer| answer.contains("LIVE")) {
        let log = || fs::read_to_string(folder.join(format!("{name}.log")));
        ensure!(envoy.0.try_wait()?.is_none(), "{name} ended: {}", log()?);
        ensure!(Instant::now() < deadline, "{name} is not ready: {}", log()?);
        std::thread::sleep(Duration::from_millis(50));
    }
    // An Envoy that another test left behind may have answered for this one.
    let log = fs::read_to_string(folder.join(format!("{name}.log")))?;
    ensure!(envoy.0.try_wait()?.is_none(), "{name} ended: {log}");
    Ok(envoy)
}

/// Starts the sidecar of a pod that has asked for no name, with its configuration as it is.
pub fn start_as_is(
    compiled: &Compiled,
    pod: &str,
    trust: &Trust,
    folder: &Path,
    admin: &str,
) -> Result<Envoy> {
    start(
        compiled,
        (pod, &BTreeSet::new()),
        trust,
        folder,
        admin,
        |_| (),
    )
}

pub fn serve(at: String, answer: impl Fn(&mut TcpStream) + Send + Clone + 'static) -> Result<()> {
    let listener = TcpListener::bind(at)?;
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let answer = answer.clone();
            std::thread::spawn(move || answer(&mut stream));
        }
    });
    Ok(())
}

/// The head of a request; `None` if the connection ends before it does.
pub fn request(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let (mut seen, mut buffer) = (Vec::new(), [0; 1 << 16]);
    while !seen.windows(4).any(|window| window == b"\r\n\r\n") {
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return None,
            Ok(n) => seen.extend_from_slice(&buffer[..n]),
        }
    }
    Some(seen)
}

/// Answers a request with its own bytes, so that a test sees it as the application does.
pub fn mirror(stream: &mut TcpStream) {
    mirror_as(stream, "200 OK", "");
}

/// The same, with this status and these headers.
pub fn mirror_as(stream: &mut TcpStream, status: &str, headers: &str) {
    let Some(seen) = request(stream) else { return };
    let length = seen.len();
    let _ = write!(
        stream,
        "HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n"
    );
    let _ = stream.write_all(&seen);
}

/// Sends all bytes back, to the end of the connection.
pub fn echo(stream: &mut TcpStream) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(n @ 1..) = stream.read(&mut buffer) {
        let _ = stream.write_all(&buffer[..n]);
    }
    let _ = stream.shutdown(Shutdown::Write);
}

pub fn connect(at: &str) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&at.parse::<SocketAddr>()?, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    Ok(stream)
}

/// Returns the answer to a request; nothing if the connection was closed instead.
pub fn http(at: &str, method: &str, path: &str, headers: &str) -> Result<String> {
    http_with(at, method, path, headers.as_bytes())
}

/// The same, with headers of any bytes.
pub fn http_with(at: &str, method: &str, path: &str, headers: &[u8]) -> Result<String> {
    let mut stream = connect(at)?;
    let first = format!("{method} {path} HTTP/1.1\r\nHost: api\r\n");
    let last = &b"Connection: close\r\n\r\n"[..];
    let request = [first.as_bytes(), headers, last].concat();
    // A listener that refuses bytes may reset the connection before they are written: that is not an answer, and not a failure to ask.
    let _ = stream.write_all(&request);
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    // To the end of the body and not of the connection: Envoy leaves a refused client a second to read.
    while let Ok(n @ 1..) = stream.read(&mut buffer) {
        answer.extend_from_slice(&buffer[..n]);
        let text = String::from_utf8_lossy(&answer).to_lowercase();
        let body = text.split_once("\r\n\r\n");
        let length = body.and_then(|(head, _)| {
            head.split("content-length: ")
                .nth(1)?
                .lines()
                .next()?
                .parse::<usize>()
                .ok()
        });
        if body
            .zip(length)
            .is_some_and(|((_, body), length)| body.len() >= length)
        {
            break;
        }
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

pub fn status(answer: &str) -> u16 {
    answer
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .unwrap_or_default()
}

/// Waits for a series of failed requests or of connections with fields that match an expression.
pub fn failure(admin: &str, fields: &str) -> Result<()> {
    let fields = regex::Regex::new(fields)?;
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let stats = http(admin, "GET", "/stats?filter=heddle_", "")?;
        if stats.lines().any(|line| fields.is_match(line)) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "no series has {fields}: {stats}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
