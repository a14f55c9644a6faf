//! Compares the repository with ARCHITECTURE.md and with the rules for sources.

mod alone;
mod circles;
mod crates;
mod imports;
mod lengths;
mod paths;
mod source;
mod words;

use anyhow::{Result, bail};

use crate::repo::{Repo, packages};

/// Prints every finding; fails if crate borders, features, imports or paths are wrong, if the figures of plain words rose, and if `strict`, on lengths
/// too. `lower` writes figures of plain words that fell.
pub fn run(repo: &Repo, strict: bool, lower: bool) -> Result<()> {
    let packages = packages(repo)?;
    let mut wrong = crates::check(repo, &packages)?;
    wrong.extend(alone::check(repo, &packages)?);
    wrong.extend(paths::check(repo)?);
    wrong.extend(circles::check(repo)?);
    let words = words::check(repo, lower)?;
    wrong.extend(words.findings);
    let long = lengths::check(repo)?;
    for finding in &long.findings {
        eprintln!("tidy: {finding}");
    }
    eprintln!("tidy: {}", long.summary);
    eprintln!("tidy: {}", words.summary);
    for finding in &wrong {
        eprintln!("tidy: {finding}");
    }
    let failures = wrong.len() + if strict { long.findings.len() } else { 0 };
    if failures > 0 {
        bail!("tidy: {failures} to mend");
    }
    Ok(())
}
