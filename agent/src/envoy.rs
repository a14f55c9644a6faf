//! Envoy's process, and PID 1's duty to reap all other children that end.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use tokio::signal::unix::{Signal as SignalStream, SignalKind, signal};

use crate::settings::{LogFormat, Settings};

/// How long the connections of a listener that was replaced or removed live on, in seconds; those of TCP are cut then, and run
/// the former policy until then. The control plane keeps the clusters behind a listener it removed for longer than this.
/// A pod that ends takes no new connection after it either; how long it serves those it has is `HEDDLE_DRAIN_SECONDS`.
const LISTENER_DRAIN: u32 = 30;

/// How Envoy ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    Code(i32),
    Signal(Signal),
}

impl Ended {
    /// Whether it was killed or crashed, rather than giving up by itself.
    pub(crate) const fn by_signal(self) -> bool {
        matches!(self, Self::Signal(_))
    }

    /// As a shell would say it, so that the kubelet shows the truth. Never 0: it was not asked to end.
    pub(crate) fn unexpected_exit_code(self) -> u8 {
        match self {
            Self::Code(code) => u8::try_from(code).ok().filter(|c| *c != 0).unwrap_or(1),
            Self::Signal(signal) => u8::try_from(128 + signal as i32).unwrap_or(1),
        }
    }
}

/// The running Envoy. The agent starts no other process, so one place waits for all of them.
pub(crate) struct Envoy {
    pid: Pid,
    children: SignalStream,
}

impl Envoy {
    /// Starts Envoy by way of [`exec`], so that it dies with the agent even when that is killed.
    pub(crate) fn start(settings: &Settings, config: &Path) -> Result<Self> {
        // Before the start, so that no end is missed.
        let children = signal(SignalKind::child())?;
        let agent = std::env::current_exe().context("the agent's own binary can't be found")?;
        let child = Command::new(agent)
            .arg("envoy")
            .arg(&settings.envoy)
            .args(arguments(settings, config))
            // Envoy needs nothing of the agent's environment except the workload's identity.
            .env_clear()
            .envs(settings.labels())
            .spawn()
            .with_context(|| format!("{} can't be started", settings.envoy.display()))?;
        let pid = Pid::from_raw(i32::try_from(child.id())?);
        Ok(Self { pid, children })
    }

    /// Until Envoy ends. Other children, orphans that fell to PID 1, are reaped on the way.
    pub(crate) async fn ended(&mut self) -> Result<Ended> {
        loop {
            while let Some(status) = next_ended()? {
                match status {
                    WaitStatus::Exited(pid, code) if pid == self.pid => {
                        return Ok(Ended::Code(code));
                    }
                    WaitStatus::Signaled(pid, signal, _) if pid == self.pid => {
                        return Ok(Ended::Signal(signal));
                    }
                    _ => {}
                }
            }
            self.children
                .recv()
                .await
                .context("no signals come any more")?;
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        if let Err(error) = kill(self.pid, signal) {
            tracing::debug!(%error, %signal, "Envoy is gone already");
        }
    }
}

fn next_ended() -> Result<Option<WaitStatus>> {
    match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
        Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => Ok(None),
        Ok(status) => Ok(Some(status)),
        Err(error) => Err(error).context("children can't be waited for"),
    }
}

fn arguments(settings: &Settings, config: &Path) -> Vec<OsString> {
    let mut all: Vec<OsString> = vec!["--config-path".into(), config.into()];
    let level = settings.log_level.clone();
    let concurrency = settings.concurrency.to_string();
    for (name, value) in [
        ("--log-level", level),
        ("--concurrency", concurrency),
        ("--drain-time-s", LISTENER_DRAIN.to_string()),
        // How long a line of the access log waits for others.
        ("--file-flush-interval-msec", "1000".to_owned()),
        // Callers are told at once, rather than ever more often over the drain time.
        ("--drain-strategy", "immediate".to_owned()),
    ] {
        all.extend([name.into(), value.into()]);
    }
    all.push("--disable-hot-restart".into());
    if settings.log_format == LogFormat::Text {
        all.extend([
            "--log-format".into(),
            "%Y-%m-%dT%T.%FZ %l envoy::%n %v".into(),
        ]);
    }
    all
}

/// Becomes Envoy, having asked the kernel to end it with the agent. Returns only on failure.
pub fn exec(binary: &Path, arguments: &[OsString]) -> anyhow::Error {
    let parent = nix::unistd::getppid();
    if let Err(error) = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL) {
        return anyhow::Error::new(error)
            .context("the kernel does not take the parent-death signal");
    }
    // The agent may have died before the request.
    if nix::unistd::getppid() != parent {
        return anyhow::anyhow!("the agent is gone");
    }
    let error = Command::new(binary).args(arguments).exec();
    anyhow::Error::new(error).context(format!("{} can't be started", binary.display()))
}
