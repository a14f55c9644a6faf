//! Instructions of Envoys by callgrind: a bench runs itself once more, with Envoys under valgrind.

use std::ffi::OsString;
use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::harness;
use crate::harness::running::{Envoy, connect};

/// The variable of the process that runs Envoys under valgrind, with the folder of their counts.
const COUNTS: &str = "BENCH_COUNTS";
/// The requests of a connection before its requests are counted.
const WARM_UP: usize = 30;

/// The folder of the counts, in the process that runs Envoys under valgrind.
pub fn counts() -> Option<PathBuf> {
    std::env::var_os(COUNTS).map(PathBuf::from)
}

/// Runs this program once more, with Envoys under callgrind.
pub fn run() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let counted = folder.path().join("envoy");
    let envoy = fs::canonicalize(harness::envoy::binary()?)?;
    let out = folder.path().join("count.%p");
    fs::write(
        &counted,
        format!(
            "#!/bin/sh\nexec valgrind --tool=callgrind --separate-threads=yes --callgrind-out-file={} {} \"$@\"\n",
            out.display(),
            envoy.display()
        ),
    )?;
    let execute = Command::new("chmod").arg("+x").arg(&counted).status()?;
    ensure!(execute.success(), "{execute}");
    let status = Command::new(std::env::current_exe()?)
        .args(std::env::args_os().skip(1).collect::<Vec<OsString>>())
        .env(COUNTS, folder.path())
        .env("HEDDLE_ENVOY", counted)
        .status()?;
    ensure!(status.success(), "{status}");
    Ok(())
}

/// Connects and warms up. Under valgrind, the first request may take longer than an Envoy waits for the server.
pub fn warm(at: &str, mut ask: impl FnMut(&mut TcpStream) -> Result<()>) -> Result<TcpStream> {
    let mut tries = 0..10;
    loop {
        let mut stream = connect(at)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        match (0..WARM_UP).try_for_each(|_| ask(&mut stream)) {
            Ok(()) => return Ok(stream),
            Err(error) if tries.next().is_some() => println!("once more: {error}"),
            Err(error) => return Err(error),
        }
    }
}

fn control(command: &str, envoy: &Envoy) -> Result<()> {
    let told = Command::new("callgrind_control")
        .args([command, &envoy.id().to_string()])
        .output()?;
    ensure!(told.status.success(), "{told:?}");
    Ok(())
}

/// Sets the counts of an Envoy to 0.
pub fn begin(envoy: &Envoy) -> Result<()> {
    control("--zero", envoy)
}

/// The instructions of the threads but the main one since [`begin`].
pub fn end(envoy: &Envoy, folder: &Path) -> Result<u64> {
    control("--dump", envoy)?;
    let mut total = 0;
    for file in fs::read_dir(folder)? {
        let path = file?.path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if !name.starts_with(&format!("count.{}.", envoy.id())) {
            continue;
        }
        let text = fs::read_to_string(&path)?;
        let line = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
        if line("thread: ").context("no thread")?.trim() != "1" {
            total += line("totals: ")
                .context("no total")?
                .trim()
                .parse::<u64>()?;
        }
        fs::remove_file(&path)?;
    }
    Ok(total)
}
