//! Under what conditions the figures were measured, and how fast the machine was at a fixed piece of work.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;

use crate::paths::Parts;
use crate::stats::Sample;

const GIBIBYTE: usize = 1 << 30;
const BLOCK: usize = 1 << 16;

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
    let said = output(&envoy.display().to_string(), &["--version"]).unwrap_or_default();
    said.rsplit_once("version: ")
        .map_or(String::new(), |(_, version)| version.to_owned())
}

/// What the binaries were built from, as far as that is known.
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

/// Load averages and the like, as the kernel says them.
pub fn load_average() -> String {
    read_trimmed("/proc/loadavg")
        .split(' ')
        .take(3)
        .collect::<Vec<_>>()
        .join(" ")
}

/// Seconds to hash 1 GiB with SHA-256 on one core, several times over.
pub fn fixed_work(times: usize) -> Sample {
    let block = vec![0x5a_u8; BLOCK];
    Sample::new((0..times).map(|_| {
        let from = Instant::now();
        let mut hash = Sha256::new();
        for _ in 0..GIBIBYTE / BLOCK {
            hash.update(&block);
        }
        std::hint::black_box(hash.finalize());
        from.elapsed().as_secs_f64()
    }))
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
