//! The demo's processes: each one with a log file, all of them ended, even if the demo fails.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use tokio::process::Child;

/// The hidden command behind which every process is started.
pub const CHILD: &str = "demo-child";
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
    ///
    /// # Errors
    /// The log cannot be written, or the program cannot be run.
    pub fn start(&mut self, name: &str, command: &Command) -> Result<()> {
        let log = self.logs.join(format!("{name}.log"));
        let out = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let err = out.try_clone()?;
        let child = bound_to_us(command)?
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
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

    /// Asks every process to end, the last started first, and kills the remaining ones after the grace.
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

/// The same command by way of [`become_program`], which ends with this process even if it is killed.
fn bound_to_us(command: &Command) -> Result<tokio::process::Command> {
    let own = std::env::current_exe().context("where is this binary?")?;
    let mut bound = tokio::process::Command::new(own);
    bound.arg(CHILD).arg(command.get_program());
    bound.args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => bound.env(name, value),
            None => bound.env_remove(name),
        };
    }
    Ok(bound)
}

/// Becomes another program, which the kernel ends with the demo, however that came about.
pub fn become_program(program: &Path, arguments: &[OsString]) -> anyhow::Error {
    if let Err(error) = nix::sys::prctl::set_pdeathsig(Signal::SIGTERM) {
        return anyhow::Error::new(error)
            .context("cannot ask the kernel to end this with the demo");
    }
    let error = Command::new(program).args(arguments).exec();
    anyhow::Error::new(error).context(format!("cannot start {}", program.display()))
}

/// The last lines of a log.
fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().rev().take(15).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}
