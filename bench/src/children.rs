//! The processes of a measurement: each with a log file, each ended by its own process group.

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

/// How long a process may take to end by itself.
const GRACE: Duration = Duration::from_secs(5);
const LOG_LINES: usize = 15;

/// A running process; dropped, it ends, and all processes that it has started end with it.
#[derive(Debug)]
pub struct Running {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Starts it, with its output in `<logs>/<name>.log`.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn start(name: &str, logs: &Path, mut command: Command) -> Result<Self> {
        let log = logs.join(format!("{name}.log"));
        let out = File::create(&log).with_context(|| log.display().to_string())?;
        let err = out.try_clone()?;
        let program = command.get_program().to_owned();
        let child = command
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            log,
        })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Fails with the end of its log when it has ended.
    ///
    /// # Errors
    /// When it has ended.
    pub fn alive(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("{} ended ({status}):\n{}", self.name, self.log_end());
        }
        Ok(())
    }

    /// Ends it at once, as a crash would: it can't put anything in order.
    pub fn kill(mut self) {
        self.end();
    }

    /// The same for one that is to be followed by another of its kind.
    pub fn end(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// The last lines of its log.
    pub fn log_end(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines
            .get(lines.len().saturating_sub(LOG_LINES)..)
            .unwrap_or_default()
            .join("\n")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let Ok(id) = i32::try_from(self.child.id()) else {
            return;
        };
        let group = Pid::from_raw(id);
        // Each of these fails only where there is nothing left to end.
        let _ = kill(group, Signal::SIGTERM);
        let deadline = Instant::now() + GRACE;
        while Instant::now() < deadline && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = killpg(group, Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

/// Tries something until it works.
///
/// # Errors
/// With the last failure, when it takes too long, or at once when a process has ended.
pub async fn until<T, F>(
    what: &str,
    within: Duration,
    processes: &mut [&mut Running],
    mut attempt: F,
) -> Result<T>
where
    F: AsyncFnMut() -> Result<T>,
{
    let deadline = Instant::now() + within;
    loop {
        for process in processes.iter_mut() {
            process.alive()?;
        }
        match attempt().await {
            Ok(done) => return Ok(done),
            Err(error) if Instant::now() >= deadline => {
                let logs: Vec<String> = processes
                    .iter()
                    .map(|p| format!("{}:\n{}", p.name, p.log_end()))
                    .collect();
                return Err(
                    error.context(format!("{what}: not in {within:?}\n{}", logs.join("\n")))
                );
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Different TCP addresses of this IP that are free now.
///
/// # Errors
/// When there are too few.
pub fn free_addresses<const N: usize>(ip: &str) -> Result<[SocketAddr; N]> {
    // All are bound before one is given up, or the kernel could give it twice.
    let bind = |_| TcpListener::bind((ip, 0)).with_context(|| format!("a free port of {ip}"));
    let listeners: Vec<TcpListener> = (0..N).map(bind).collect::<Result<_>>()?;
    let addresses = listeners.iter().map(TcpListener::local_addr);
    let addresses: Vec<SocketAddr> = addresses.collect::<std::io::Result<_>>()?;
    addresses.try_into().ok().context("addresses are missing")
}
