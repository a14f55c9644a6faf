//! A real Prometheus that scrapes the sidecars and the control plane of the test.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use crate::harness::{Fixture, Process};
use crate::queries::documented_jobs;

/// A server that ends with the test.
pub struct Prometheus {
    _process: Process,
    address: SocketAddr,
}

/// The program of that name, of `make prometheus`.
fn program(name: &str) -> PathBuf {
    let cached = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache/prometheus");
    let folder = std::env::var_os("HEDDLE_PROMETHEUS").map_or_else(cached, PathBuf::from);
    let path = folder.join(name);
    assert!(
        path.is_file(),
        "{} is not there: make prometheus, or HEDDLE_PROMETHEUS",
        path.display()
    );
    path
}

/// Passes the connections of an address on to a socket. The thread ends with the test's process.
fn relay(from: SocketAddr, to: PathBuf) {
    let listener = TcpListener::bind(from).unwrap();
    std::thread::spawn(move || {
        for near in listener.incoming().flatten() {
            let Ok(far) = UnixStream::connect(&to) else {
                continue;
            };
            let (mut near_in, mut far_in) = (near.try_clone().unwrap(), far.try_clone().unwrap());
            let (mut near_out, mut far_out) = (near, far);
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut near_in, &mut far_out);
                let _ = far_out.shutdown(Shutdown::Write);
            });
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut far_in, &mut near_out);
                let _ = near_out.shutdown(Shutdown::Write);
            });
        }
    });
}

/// A pod as the discovery of Kubernetes gives it.
fn discovered(address: SocketAddr, pod: &str, container: &str) -> Value {
    json!({
        "targets": ["127.0.0.1:1"],
        "labels": {
            "__meta_kubernetes_pod_ip": address.ip().to_string(),
            "__meta_kubernetes_pod_name": pod,
            "__meta_kubernetes_pod_container_name": container,
            "__meta_kubernetes_pod_label_app_kubernetes_io_component": container,
        },
    })
}

/// The jobs of docs/monitoring.md, but for TLS and the token: a sidecar serves its metrics by mutual TLS at an address of the pod. Without
/// capture that is the agent's socket, and so is the control plane's.
fn configuration(mesh: &Fixture, rules: &Path) -> String {
    let mut pods = Vec::new();
    for (host, pod) in [(201, "frontend-1"), (202, "reviews-v1-1")] {
        let address = mesh.address(host, 15020);
        relay(address, mesh.path(pod).join("metrics.sock"));
        pods.push(discovered(address, pod, "heddle-proxy"));
        pods.push(discovered(address, pod, "app"));
    }
    let control_plane = mesh.address(203, 15014);
    relay(control_plane, mesh.path("run/metrics.sock"));
    let replicas = vec![discovered(control_plane, "operator-1", "operator")];
    let mut jobs = documented_jobs();
    for (name, targets) in [
        ("heddle-sidecars", pods),
        ("heddle-control-plane", replicas),
    ] {
        let job = jobs.get_mut(name).and_then(Value::as_object_mut).unwrap();
        for field in [
            "kubernetes_sd_configs",
            "tls_config",
            "authorization",
            "scheme",
        ] {
            job.remove(field);
        }
        job.insert("static_configs".to_owned(), Value::from(targets));
    }
    jobs.get_mut("heddle-sidecars").unwrap()["params"] = json!({"names": ["istio"]});
    let jobs: Vec<Value> = jobs.into_values().collect();
    json!({
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [rules],
        "scrape_configs": jobs,
    })
    .to_string()
}

impl Prometheus {
    pub fn start(mesh: &Fixture, rules: &Path) -> Self {
        let configured = mesh.path("prometheus.yml");
        std::fs::write(&configured, configuration(mesh, rules)).unwrap();
        let address = mesh.address(204, 9090);
        let mut command = Command::new(program("prometheus"));
        command
            .arg(format!("--config.file={}", configured.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                mesh.path("tsdb").display()
            ))
            .arg(format!("--web.listen-address={address}"))
            .arg("--log.level=warn");
        let process = Process::start(command, &mesh.path("prometheus.log"));
        mesh.eventually("Prometheus listens", || TcpStream::connect(address).is_ok());
        Self {
            _process: process,
            address,
        }
    }

    /// Returns the values of a query that are numbers, with their labels.
    ///
    /// # Errors
    /// The answer, if it is an error.
    pub fn query(&self, query: &str) -> Result<Vec<Value>, String> {
        let answer = self.get(&format!(
            "query?query={}",
            utf8_percent_encode(query, NON_ALPHANUMERIC)
        ));
        let answer = answer.map_err(|error| error.to_string())?;
        if answer["status"] != "success" {
            return Err(answer.to_string());
        }
        let all = answer["data"]["result"].as_array().cloned();
        let number = |one: &Value| one["value"][1].as_str().is_some_and(|value| value != "NaN");
        Ok(all.unwrap_or_default().into_iter().filter(number).collect())
    }

    /// Returns the rules that are not evaluated, or have failed, with the number of all.
    pub fn unhealthy_rules(&self) -> (usize, Vec<Value>) {
        let answer = self.get("rules").unwrap_or_default();
        let groups = answer["data"]["groups"].as_array().cloned();
        let rules: Vec<Value> = groups
            .unwrap_or_default()
            .iter()
            .flat_map(|group| group["rules"].as_array().cloned().unwrap_or_default())
            .collect();
        let all = rules.len();
        let unhealthy = rules.into_iter().filter(|rule| rule["health"] != "ok");
        (all, unhealthy.collect())
    }

    fn get(&self, path: &str) -> std::io::Result<Value> {
        let mut stream = TcpStream::connect(self.address)?;
        // Version 1.0, so that the body is not in chunks.
        write!(stream, "GET /api/v1/{path} HTTP/1.0\r\nhost: x\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let (_, body) = text.split_once("\r\n\r\n").unwrap_or_default();
        Ok(serde_json::from_str(body)?)
    }
}
