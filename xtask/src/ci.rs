//! Tasks that run other tools.

use anyhow::{Context, Result, bail};

use crate::{
    generate,
    repo::{Repo, cargo},
    tidy,
};

/// All that a change must pass, the quick checks first.
///
/// # Errors
/// Cargo cannot be run, or a check or a test fails.
pub fn run(repo: &Repo) -> Result<()> {
    step(repo, &["fmt", "--all", "--check"])?;
    step(
        repo,
        &[
            "clippy",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ],
    )?;
    generate::check(repo)?;
    tidy::run(repo, false)?;
    // The end-to-end suite needs a cluster: `make e2e`. Counts of instructions need a release build: `make instructions`.
    step(repo, &["test", "--workspace", "--exclude", "heddle-e2e"])
}

/// Rewrites the compiler's golden outputs; with a filter, only those of cases with that text in their names. The golden test
/// reads both variables.
///
/// # Errors
/// Cargo cannot be run, or the test fails.
pub fn bless(repo: &Repo, filter: Option<&str>) -> Result<()> {
    // The test prints the files that it writes.
    let arguments = "test --workspace --test golden as_blessed -- --nocapture";
    let arguments: Vec<&str> = arguments.split(' ').collect();
    let mut command = repo.command(&cargo(), &arguments);
    command.env("BLESS", "1");
    if let Some(filter) = filter {
        command.env("GOLDEN_FILTER", filter);
    }
    let status = command.status().context("cannot run cargo")?;
    if !status.success() {
        bail!("the golden test failed");
    }
    Ok(())
}

/// Measures, and writes the figures into their page.
///
/// # Errors
/// Cargo cannot be run, or the benchmark fails.
pub fn bench(repo: &Repo) -> Result<()> {
    step(
        repo,
        &["run", "--release", "--package", "heddle-bench", "--", "all"],
    )
}

fn step(repo: &Repo, arguments: &[&str]) -> Result<()> {
    eprintln!("== cargo {}", arguments.join(" "));
    let status = repo
        .command(&cargo(), arguments)
        .status()
        .context("cannot run cargo")?;
    if !status.success() {
        bail!("cargo {} failed", arguments.join(" "));
    }
    Ok(())
}
