//! Builds the benchmarks and lets callgrind count.

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, PoisonError},
    thread,
};

use anyhow::{Context, Result, anyhow, bail};

use super::{Counts, read};
use crate::repo::{Repo, cargo};

/// The name of the benchmark in each of the crates that are [`MEASURED`].
const BENCHMARK: &str = "instructions";
const MEASURED: [&str; 2] = ["heddle-policy-compiler", "heddle-xds-server"];

/// Crates built as for a release; generic code of others is too where these use it. A release build of everything takes
/// eleven minutes of a processor. Its counts were 1 to 20 % lower: our own code weighs the same in both.
const OPTIMISED: [&str; 4] = [
    "heddle-policy-compiler",
    "heddle-xds-server",
    "imbl",
    "sha2",
];
const AS_RELEASED: [&str; 3] = [
    "opt-level=3",
    "debug-assertions=false",
    "overflow-checks=false",
];

/// All but [`OPTIMISED`] is built by `make unit`: the same packages, so the same features, and a program, without
/// which cargo would build the dependencies of procedural macros in another way.
const SELECTION: [&str; 7] = [
    "--workspace",
    "--exclude",
    "heddle-e2e",
    "--bin",
    "xtask",
    "--bench",
    BENCHMARK,
];

struct Case {
    program: PathBuf,
    name: String,
    turns: u64,
}

/// Instructions of a turn of every case that is chosen.
///
/// # Errors
/// Valgrind is not installed, the benchmarks cannot be built, or one fails or prints no count.
pub fn all(repo: &Repo, chosen: impl Fn(&str) -> bool) -> Result<Counts> {
    // Said before the build, which takes longer.
    installed()?;
    let mut cases = Vec::new();
    for program in build(repo)? {
        let listed = read::cases(&repo.output(&program.to_string_lossy(), &[])?)?;
        let listed = listed.into_iter().filter(|(name, _)| chosen(name));
        cases.extend(listed.map(|(name, turns)| Case {
            program: program.clone(),
            name,
            turns,
        }));
    }
    count(&cases)
}

fn installed() -> Result<()> {
    let version = Command::new("valgrind")
        .arg("--version")
        .stdout(Stdio::null())
        .status();
    match version {
        Ok(status) if status.success() => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => bail!(
            "valgrind is not installed, and counts the instructions; run `apt-get install valgrind`, or install your system's package of that name"
        ),
        Ok(status) => bail!("valgrind --version: {status}"),
        Err(error) => Err(error).context("cannot run valgrind"),
    }
}

fn build(repo: &Repo) -> Result<Vec<PathBuf>> {
    let optimize =
        |name| AS_RELEASED.map(|how| format!("--config=profile.dev.package.{name}.{how}"));
    let profile: Vec<String> = OPTIMISED.into_iter().flat_map(optimize).collect();
    eprintln!(
        "== cargo build {}, with {} optimized",
        SELECTION.join(" "),
        OPTIMISED.join(", ")
    );
    let mut command = repo.command(
        &cargo(),
        &["build", "--message-format=json-render-diagnostics"],
    );
    command
        .args(SELECTION)
        .args(profile)
        .stderr(Stdio::inherit());
    let output = command.output().context("cannot run cargo")?;
    if !output.status.success() {
        bail!("cargo build: {}", output.status);
    }
    let found = read::benchmarks(&String::from_utf8_lossy(&output.stdout), BENCHMARK);
    if found.len() != MEASURED.len() {
        bail!(
            "cargo built {} benchmarks of {}",
            found.len(),
            MEASURED.len()
        );
    }
    Ok(found)
}

/// On all processors: other processes make no difference to the counts.
fn count(cases: &[Case]) -> Result<Counts> {
    let workers = thread::available_parallelism().map_or(1, usize::from);
    let (left, counts) = (Mutex::new(cases.iter()), Mutex::new(Ok(Counts::new())));
    let next = || left.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || {
        while let Some(case) = next() {
            let turn = of_a_turn(case);
            let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
            match (counts.as_mut(), turn) {
                (Ok(counts), Ok(turn)) => {
                    counts.insert(case.name.clone(), turn);
                }
                (Ok(_), Err(error)) => *counts = Err(error),
                // The first error is reported; the remaining output would only delay that.
                (Err(_), _) => return,
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(work);
        }
    });
    counts.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn of_a_turn(case: &Case) -> Result<u64> {
    let prepared = callgrind(&case.program, &case.name, 0)?;
    let all = callgrind(&case.program, &case.name, case.turns)?;
    Ok(all.saturating_sub(prepared) / case.turns)
}

/// Nothing is left behind: the profile itself goes nowhere, and there is no pipe for a debugger.
fn callgrind(program: &Path, case: &str, turns: u64) -> Result<u64> {
    let mut command = Command::new("valgrind");
    command.args([
        "--tool=callgrind",
        "--callgrind-out-file=/dev/null",
        "--vgdb=no",
    ]);
    command.arg(program).args([case, &turns.to_string()]);
    let output = command.output().context("cannot run valgrind")?;
    let told = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("{case}, {turns} turns: {}\n{told}", output.status);
    }
    read::collected(&told).ok_or_else(|| anyhow!("{case}: valgrind told no count:\n{told}"))
}
