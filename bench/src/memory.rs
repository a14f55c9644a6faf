//! Memory of running processes, by the kernel's own account.

use std::collections::VecDeque;

use anyhow::{Context, Result};

use crate::machine::field;

/// The memory of one process, in MiB.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Memory {
    /// `RssAnon` of `/proc/PID/status`: the memory it has allocated and touched, without the pages of its binary.
    pub anonymous: f64,
    /// `Private_Clean + Private_Dirty` of `smaps_rollup`: the memory that would be free if this process alone ended.
    pub private: f64,
}

/// Of one process, now.
///
/// # Errors
/// When there is no such process.
pub fn of(pid: u32) -> Result<Memory> {
    let status = format!("/proc/{pid}/status");
    let rollup = format!("/proc/{pid}/smaps_rollup");
    Ok(Memory {
        anonymous: mebibytes(&status, "RssAnon")?,
        private: mebibytes(&rollup, "Private_Clean")? + mebibytes(&rollup, "Private_Dirty")?,
    })
}

/// The most that a process ever held at once, pages of its binary included, in MiB: `VmHWM`.
///
/// # Errors
/// When there is no such process.
pub fn peak(pid: u32) -> Result<f64> {
    mebibytes(&format!("/proc/{pid}/status"), "VmHWM")
}

fn mebibytes(path: &str, name: &str) -> Result<f64> {
    let text = field(path, name).with_context(|| format!("{name} in {path}"))?;
    let number = text.trim_end_matches("kB").trim();
    Ok(number
        .parse::<f64>()
        .with_context(|| format!("{name} in {path}"))?
        / 1024.0)
}

/// The first descendant of a process with this name, such as an agent's Envoy.
///
/// # Errors
/// When there is none.
pub fn descendant(of: u32, name: &str) -> Result<u32> {
    let mut left = VecDeque::from([of]);
    while let Some(pid) = left.pop_front() {
        // Linux keeps a list of children for each thread.
        let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
            continue;
        };
        for task in tasks.flatten() {
            let children =
                std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
            for child in children
                .split_whitespace()
                .filter_map(|word| word.parse::<u32>().ok())
            {
                let called =
                    std::fs::read_to_string(format!("/proc/{child}/comm")).unwrap_or_default();
                if called.trim() == name {
                    return Ok(child);
                }
                left.push_back(child);
            }
        }
    }
    anyhow::bail!("process {of} has no descendant `{name}`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_and_children() {
        let memory = of(std::process::id()).unwrap();
        assert!(memory.anonymous > 0.0 && memory.private > 0.0);
        assert!(peak(std::process::id()).unwrap() >= memory.anonymous);
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        // Between fork and exec the child bears its parent's name.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        let mut found = None;
        while found.is_none() && std::time::Instant::now() < deadline {
            found = descendant(std::process::id(), "sleep").ok();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(found.is_some());
        assert!(descendant(std::process::id(), "no-such").is_err());
    }
}
