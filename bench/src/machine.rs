//! The conditions of the measurement, and the machine's speed at a fixed piece of work.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};
use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::core::v3::address::Address as AddressKind;
use envoy_types::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use envoy_types::pb::envoy::config::core::v3::{Address, HealthStatus, SocketAddress};
use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints,
};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use prost::Message;
use sha2::{Digest, Sha256};
use time::OffsetDateTime;

use crate::mesh::PODS;
use crate::paths::Parts;
use crate::stats::Sample;

const GIBIBYTE: usize = 1 << 30;

/// The conditions, as lines of a list.
pub fn conditions(parts: &Parts) -> Vec<(&'static str, String)> {
    let cpu =
        field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown processor".to_owned());
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = field("/proc/meminfo", "MemTotal")
        .and_then(|text| text.trim_end_matches("kB").trim().parse::<f64>().ok())
        .map_or_else(
            || "unknown".to_owned(),
            |kib| format!("{:.1} GiB", kib / 1024.0 / 1024.0),
        );
    let everything = "everything on it, load client included, over loopback";
    vec![
        ("date", OffsetDateTime::now_utc().date().to_string()),
        (
            "machine",
            format!("{cores} cores ({cpu}), {memory} memory; {everything}"),
        ),
        ("kernel", read_trimmed("/proc/sys/kernel/osrelease")),
        ("Heddle", sources(parts)),
        ("Envoy", envoy_version(&parts.envoy)),
    ]
}

/// Without the path, which is of this machine alone.
fn envoy_version(envoy: &Path) -> String {
    let text = output(&envoy.display().to_string(), &["--version"]).unwrap_or_default();
    text.rsplit_once("version: ")
        .map_or(String::new(), |(_, version)| version.to_owned())
}

/// The sources of the binaries, as far as they are known.
fn sources(parts: &Parts) -> String {
    let git = |arguments: &[&str]| {
        let repo = parts.repo.display().to_string();
        output("git", &[&["-C", &repo], arguments].concat()).unwrap_or_default()
    };
    let commit = git(&["rev-parse", "--short=12", "HEAD"]);
    let changed = git(&["status", "--porcelain"]).lines().count();
    let build = if cfg!(debug_assertions) {
        "debug build: NOT comparable"
    } else {
        "release build"
    };
    if parts.built_now {
        return format!("commit {commit}, {changed} files changed since, {build}");
    }
    let written = std::fs::metadata(&parts.operator)
        .and_then(|of| of.modified())
        .map(OffsetDateTime::from);
    let written = written.map_or_else(
        |_| "at an unknown time".to_owned(),
        |at| format!("{} {:02}:{:02} UTC", at.date(), at.hour(), at.minute()),
    );
    format!(
        "{build}, not made by this run but {written}; the sources are at commit {commit} now, {changed} files changed"
    )
}

/// Load averages and the like, as the kernel reports them.
pub fn load_average() -> String {
    read_trimmed("/proc/loadavg")
        .split(' ')
        .take(3)
        .collect::<Vec<_>>()
        .join(" ")
}

/// Lets this process, and those that it starts, open as many files as the machine allows: each simulated proxy is one.
///
/// # Errors
/// When the kernel refuses.
pub fn raise_file_limit() -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("the limit of open files")
}

/// The description of the fixed piece of work.
pub const WORK: &str =
    "fixed work, encoding and hashing (SHA-256) 1 GiB of clusters of 10 endpoints on one core, s";
/// A debug build would take minutes; its figures are worth nothing anyway.
pub const WORK_TIMES: usize = if cfg!(debug_assertions) { 0 } else { 3 };

/// Seconds for the fixed piece of work, several times over.
///
/// # Errors
/// When a cluster can't be encoded.
pub fn fixed_work(times: usize) -> Result<Sample> {
    let mut seconds = Vec::new();
    let mut buffer = Vec::new();
    for _ in 0..times {
        let from = Instant::now();
        let (mut hash, mut done, mut number) = (Sha256::new(), 0, 0);
        let mut cluster = sample_cluster();
        while done < GIBIBYTE {
            number += 1;
            cluster.name = format!("out|ns-{}/svc-{number}|80", number / 10);
            buffer.clear();
            cluster.encode(&mut buffer)?;
            hash.update(&buffer);
            done += buffer.len();
        }
        std::hint::black_box(hash.finalize());
        seconds.push(from.elapsed().as_secs_f64());
    }
    Ok(Sample::new(seconds))
}

/// A cluster with its endpoints in it.
fn sample_cluster() -> Cluster {
    let endpoint = |index: usize| {
        let socket = SocketAddress {
            address: format!("10.1.0.{index}"),
            port_specifier: Some(PortSpecifier::PortValue(8080)),
            ..SocketAddress::default()
        };
        let address = Address {
            address: Some(AddressKind::SocketAddress(socket)),
        };
        let endpoint = Endpoint {
            address: Some(address),
            ..Endpoint::default()
        };
        LbEndpoint {
            host_identifier: Some(HostIdentifier::Endpoint(endpoint)),
            health_status: HealthStatus::Healthy.into(),
            ..LbEndpoint::default()
        }
    };
    let locality = LocalityLbEndpoints {
        lb_endpoints: (1..=PODS).map(endpoint).collect(),
        ..LocalityLbEndpoints::default()
    };
    let assignment = ClusterLoadAssignment {
        endpoints: vec![locality],
        ..ClusterLoadAssignment::default()
    };
    Cluster {
        load_assignment: Some(assignment),
        ..Cluster::default()
    }
}

/// The value of the first line `name : value` of a file of `/proc`.
pub(crate) fn field(path: &str, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.trim() == name)
        .map(|(_, v)| v.trim().to_owned())
}

fn read_trimmed(path: &str) -> String {
    std::fs::read_to_string(path)
        .map(|text| text.trim().to_owned())
        .unwrap_or_default()
}

fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let done = Command::new(program)
        .args(arguments)
        .output()
        .ok()
        .filter(|done| done.status.success())?;
    Some(String::from_utf8_lossy(&done.stdout).trim().to_owned())
}

/// CPU seconds a process has used so far.
///
/// # Errors
/// When there is no such process.
pub fn cpu_seconds(pid: u32) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in parentheses may hold anything; user and system time are the 14th and 15th fields of all.
    let (_, rest) = text.rsplit_once(')').context("no name in /proc/PID/stat")?;
    let ticks = |index: usize| {
        rest.split_whitespace()
            .nth(index)
            .and_then(|word| word.parse::<f64>().ok())
    };
    let (user, system) = ticks(11)
        .zip(ticks(12))
        .context("no times in /proc/PID/stat")?;
    // USER_HZ, which is 100 on every Linux that Envoy runs on.
    Ok((user + system) / 100.0)
}
