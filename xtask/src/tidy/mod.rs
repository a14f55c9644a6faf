//! Compares the repository with ARCHITECTURE.md and with the rules for sources.

mod alone;
mod circles;
mod crates;
mod errors;
mod imports;
mod lengths;
mod methods;
mod paths;
mod source;
mod words;

use anyhow::{Result, bail};

use crate::repo::{Repo, packages};

/// Prints every finding; fails if there is one: crate borders, features, imports, paths, the form of messages, lengths, and figures of plain
/// words that rose. `lower` writes figures of plain words that fell.
///
/// # Errors
/// There is a finding, the files or packages cannot be listed, or one of them cannot be read.
pub fn run(repo: &Repo, lower: bool) -> Result<()> {
    let packages = packages(repo)?;
    let mut wrong = crates::check(repo, &packages)?;
    wrong.extend(alone::check(repo, &packages)?);
    wrong.extend(paths::check(repo)?);
    wrong.extend(circles::check(repo)?);
    wrong.extend(errors::check(repo)?);
    let words = words::check(repo, lower)?;
    wrong.extend(words.findings);
    let lengths = lengths::check(repo)?;
    wrong.extend(lengths.findings);
    eprintln!("tidy: {}", lengths.summary);
    eprintln!("tidy: {}", words.summary);
    for finding in &wrong {
        eprintln!("tidy: {finding}");
    }
    if !wrong.is_empty() {
        bail!("tidy: {} to mend", wrong.len());
    }
    Ok(())
}
