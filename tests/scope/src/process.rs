//! Processes that end with the test.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use anyhow::{Context, Result, bail};
use nix::unistd::Pid;

/// A process of the test's own, killed when dropped.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
}

impl Process {
    /// Starts it; its output goes to the end of `log`.
    pub(crate) fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let log = File::options().create(true).append(true).open(log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("{command:?}"))?;
        Ok(Self { child })
    }

    pub(crate) fn pid(&self) -> Result<Pid> {
        Ok(Pid::from_raw(i32::try_from(self.child.id())?))
    }

    /// Fails if it has ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("it ended: {status}"),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a command to its end; its failure is an error with its words.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let Output {
        status,
        stdout,
        stderr,
    } = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{command:?}"))?;
    if !status.success() {
        bail!(
            "{command:?}: {status}: {}",
            String::from_utf8_lossy(&stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&stdout).into_owned())
}

/// A script of `ip` and the like.
pub(crate) fn sh(script: &str) -> Result<String> {
    run(Command::new("sh").args(["-euc", script]))
}

/// A binary of the workspace.
pub(crate) fn binary(name: &str) -> Result<PathBuf> {
    let directory = match std::env::var_os("HEDDLE_BIN_DIR") {
        Some(directory) => PathBuf::from(directory),
        // The test itself is in `target/<profile>/deps`.
        None => std::env::current_exe()?
            .ancestors()
            .nth(2)
            .context("the test is nowhere")?
            .to_owned(),
    };
    there(directory.join(name), "make build, or HEDDLE_BIN_DIR")
}

/// Stock Envoy.
pub(crate) fn envoy() -> Result<PathBuf> {
    let path = std::env::var_os("HEDDLE_ENVOY").map_or_else(
        || concat!(env!("CARGO_MANIFEST_DIR"), "/../../.cache/envoy/envoy").into(),
        PathBuf::from,
    );
    there(path, "make envoy, or HEDDLE_ENVOY")
}

fn there(path: PathBuf, how: &str) -> Result<PathBuf> {
    if !path.is_file() {
        bail!("{} is not there: {how}", path.display());
    }
    Ok(path.canonicalize()?)
}
