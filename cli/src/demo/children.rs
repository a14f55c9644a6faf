//! The demo's processes: each one with a log file, all of them ended, whatever happens to the demo.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

/// How long a process may take to end by itself.
const GRACE: Duration = Duration::from_secs(4);

struct Process {
    name: String,
    child: Child,
    /// Its own process group: holds an agent's Envoy too, also when the agent itself is gone.
    group: Option<Pid>,
    log: PathBuf,
}

/// All processes of one demo.
pub struct Children {
    logs: PathBuf,
    processes: Vec<Process>,
}

impl Children {
    /// Logs go to a directory, one file per process.
    pub fn new(logs: PathBuf) -> Self {
        Self {
            logs,
            processes: Vec::new(),
        }
    }

    /// Starts a process.
    pub fn start(&mut self, name: &str, mut command: Command) -> Result<()> {
        let log = self.logs.join(format!("{name}.log"));
        let out = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let err = out.try_clone()?;
        let child = command
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {:?}", command.as_std().get_program()))?;
        let group = child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .map(Pid::from_raw);
        self.processes.push(Process {
            name: name.to_owned(),
            child,
            group,
            log,
        });
        Ok(())
    }

    /// Fails with the end of the log of a process that has ended.
    pub fn all_alive(&mut self) -> Result<()> {
        for process in &mut self.processes {
            if let Some(status) = process.child.try_wait()? {
                bail!(
                    "{} ended ({status}); the end of {}:\n{}",
                    process.name,
                    process.log.display(),
                    tail(&process.log)
                );
            }
        }
        Ok(())
    }

    /// Asks every process to end, the last started first, and ends by force what is left after the grace.
    pub async fn stop(&mut self) {
        for process in self.processes.iter().rev() {
            if let Some(pid) = process.group {
                let _ = kill(pid, Signal::SIGTERM);
            }
        }
        let all = async {
            for process in &mut self.processes {
                let _ = process.child.wait().await;
            }
        };
        let _ = tokio::time::timeout(GRACE, all).await;
        self.end_by_force();
    }

    fn end_by_force(&mut self) {
        for process in self.processes.drain(..) {
            if let Some(group) = process.group {
                let _ = killpg(group, Signal::SIGKILL);
            }
        }
    }
}

impl Drop for Children {
    // Also runs when the demo unwinds from a panic.
    fn drop(&mut self) {
        self.end_by_force();
    }
}

/// The last lines of a log.
fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().rev().take(15).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}
