//! Counts the instructions of compiles and pushes, and compares them with a committed file.
//!
//! Wall-clock time on shared machines is too noisy to fail a build on. Instructions, counted by callgrind, are the same
//! from run to run to a fraction of a percent. They leave out: cache misses, waiting, and the kernel. Hashing is
//! overstated: valgrind hides the SHA instructions of the processor.

mod compare;
mod count;
mod read;

use std::{collections::BTreeMap, fs};

use anyhow::{Context, Result, bail};

use crate::repo::Repo;
use compare::Verdict;

/// The committed counts.
const FILE: &str = "xtask/instructions.json";

/// Instructions of one iteration, by case.
type Counts = BTreeMap<String, u64>;

/// The use of the counts.
#[derive(Clone, Copy)]
pub enum Purpose {
    /// They are shown.
    Show,
    /// It is an error if one is a regression.
    Check,
    /// They are written down.
    Bless,
}

/// Counts the cases, or those with `filter` in their names.
///
/// # Errors
/// The cases cannot be counted, the file of counts cannot be read or written, or, for a check, a count is out of bounds.
pub fn run(repo: &Repo, purpose: Purpose, filter: Option<&str>) -> Result<()> {
    let committed = committed(repo)?;
    let chosen = |name: &str| filter.is_none_or(|filter| name.contains(filter));
    let counted = count::all(repo, chosen)?;
    let before = committed.iter().filter(|(name, _)| chosen(name));
    let before: Counts = before.map(|(name, count)| (name.clone(), *count)).collect();
    let compared = compare::compare(&before, &counted);
    for line in &compared {
        eprintln!("instructions: {line}");
    }
    match purpose {
        Purpose::Show => Ok(()),
        Purpose::Check => check(&compared),
        Purpose::Bless => {
            let mut blessed = committed;
            blessed.retain(|name, _| !chosen(name));
            blessed.extend(counted);
            let text = serde_json::to_string_pretty(&blessed)? + "\n";
            fs::write(repo.path(FILE), text).with_context(|| format!("cannot write {FILE}"))
        }
    }
}

fn check(compared: &[compare::Line]) -> Result<()> {
    let fails = |line: &&compare::Line| line.verdict().fails();
    let wrong: Vec<String> = compared
        .iter()
        .filter(fails)
        .map(ToString::to_string)
        .collect();
    if wrong.is_empty() {
        return Ok(());
    }
    bail!(
        "{} of {} cases are not within {} % of {FILE}:\n  {}\n\
         if that is meant, `cargo xtask instructions --bless`, and explain in the commit what the extra instructions are for",
        wrong.len(),
        compared.len(),
        compare::BOUND,
        wrong.join("\n  ")
    )
}

fn committed(repo: &Repo) -> Result<Counts> {
    let path = repo.path(FILE);
    if !path.exists() {
        return Ok(Counts::new());
    }
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {FILE}"))?;
    serde_json::from_str(&text).with_context(|| format!("{FILE} is not what --bless writes"))
}

impl Verdict {
    /// Whether a build must not pass with it.
    const fn fails(self) -> bool {
        match self {
            Self::More | Self::New | Self::Gone => true,
            Self::Same | Self::Less => false,
        }
    }
}
