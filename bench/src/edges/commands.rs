//! `heddle policy suggest`, `heddle plan` and `heddle mtls plan` on many flows, from files.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use nix::sys::resource::{UsageWho, getrusage};
use serde_json::{Value, json};

/// The namespace of all workloads.
const NAMESPACE: &str = "shop";

/// The cost of a command.
#[derive(Debug)]
pub struct Cost {
    /// The command.
    pub command: &'static str,
    /// The flows.
    pub flows: usize,
    /// Its CPU time.
    pub cpu_seconds: f64,
    /// The most memory that a command up to this one took, in MB: commands run from the smallest to the largest number of flows.
    pub megabytes: f64,
}

/// Runs the commands on so many flows: each of some callers calls each of as many services.
///
/// # Errors
/// When one of them fails.
pub fn measure(program: &Path, flows: usize) -> Result<Vec<Cost>> {
    let side = flows.isqrt();
    let folder = tempfile::tempdir()?;
    let file = |name: &str, value: &Value| -> Result<String> {
        let path = folder.path().join(name);
        std::fs::write(&path, value.to_string())?;
        path.to_str()
            .map(ToOwned::to_owned)
            .context("a path that is not UTF-8")
    };
    let world = file("world.json", &world(side))?;
    let edges = file("edges.json", &edges(side))?;
    let change = file("change.json", &change())?;
    let commands: [(&'static str, Vec<&str>, &[i32]); 3] = [
        (
            "policy suggest",
            vec![
                "policy", "suggest", NAMESPACE, "-d", &world, "--edges", &edges,
            ],
            &[0],
        ),
        (
            "plan",
            vec!["plan", "-d", &world, "-f", &change, "--edges", &edges],
            &[0, 2],
        ),
        (
            "mtls plan",
            vec!["mtls", "plan", NAMESPACE, "-d", &world, "--edges", &edges],
            &[0, 2],
        ),
    ];
    let costs = commands.into_iter().map(|(command, arguments, codes)| {
        let before = usage()?.0;
        let run = Command::new(program)
            .args(arguments)
            .stdout(Stdio::null())
            .output()?;
        let (after, megabytes) = usage()?;
        let text = String::from_utf8_lossy(&run.stderr);
        let code = run.status.code().context("a signal ended it")?;
        ensure!(codes.contains(&code), "heddle {command}: {code}: {text}");
        Ok(Cost {
            command,
            flows: side * side,
            cpu_seconds: after - before,
            megabytes,
        })
    });
    costs.collect()
}

/// CPU seconds, and the largest memory in MB, of all children that have ended.
#[allow(clippy::cast_precision_loss)]
fn usage() -> Result<(f64, f64)> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let seconds =
        |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    let cpu = seconds(usage.user_time()) + seconds(usage.system_time());
    Ok((cpu, usage.max_rss() as f64 / 1024.0))
}

fn caller(number: usize) -> String {
    format!("caller-{number}")
}

fn service(number: usize) -> String {
    format!("service-{number}")
}

/// The callers and services, each with a pod.
fn world(side: usize) -> Value {
    let pod = |name: String, address: String| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": NAMESPACE, "labels": {"app": name}},
            "spec": {"serviceAccountName": name, "initContainers": [{"name": "heddle-proxy", "image": "x", "restartPolicy": "Always"}],
                "containers": [{"name": "app", "image": "x", "ports": [{"containerPort": 8080, "name": "http"}]}]},
            "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}})
    };
    let mut items = Vec::new();
    for number in 0..side {
        items.push(pod(
            caller(number),
            format!("10.0.{}.{}", number >> 8, number & 255),
        ));
        let (name, last) = (service(number), format!("{}.{}", number >> 8, number & 255));
        items.push(pod(name.clone(), format!("10.1.{last}")));
        let ip = format!("10.96.{last}");
        items.push(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": {"clusterIP": ip, "clusterIPs": [ip], "selector": {"app": name}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}}));
    }
    json!({"apiVersion": "v1", "kind": "List", "items": items})
}

/// The flows as `heddle edges -o json` writes them, with a caller in plain text at each service.
fn edges(side: usize) -> Value {
    let end = |name: String| json!({"namespace": NAMESPACE, "name": name});
    let (mut edges, mut callers) = (Vec::new(), Vec::new());
    for to in 0..side {
        for from in 0..side {
            let identity = format!("spiffe://cluster.local/ns/{NAMESPACE}/sa/{}", caller(from));
            edges.push(json!({"source": end(caller(from)), "identity": identity, "destination": end(service(to)), "backend": null,
                "port": 80, "mtls": "yes", "reporter": "source", "requestsPerSecond": 1.5}));
            callers.push(json!({"identity": identity, "workload": end(service(to)), "service": end(service(to)), "protocol": "http",
                "forbiddenPercent": 0.0, "requestsPerSecond": 1.5}));
        }
        callers.push(json!({"identity": "", "workload": end(service(to)), "service": end(service(to)), "protocol": "http", "requestsPerSecond": 0.1}));
    }
    json!({"windowSeconds": 900, "coveredSeconds": 900, "complete": true, "edges": edges, "callers": callers})
}

/// A policy for all workloads that denies one caller.
fn change() -> Value {
    let identity = format!("{NAMESPACE}/{}", caller(0));
    json!({"apiVersion": "heddle.dev/v1alpha1", "kind": "AuthPolicy", "metadata": {"name": "change", "namespace": NAMESPACE},
        "spec": {"rules": [{"action": "Deny", "from": {"identities": [identity]}}]}})
}
