//! Paths that exist only on the machine of their author.

use std::fs;

use anyhow::Result;

use crate::repo::Repo;

/// Beginnings of paths of somebody's machine, in two parts so that this file is none of its own findings.
const BEGINNINGS: &[(&str, &str)] = &[
    ("/work", "/main"),
    ("/work", "/shared"),
    ("/home", "/"),
    ("/Users", "/"),
];

/// Returns a finding for each line with such a path.
///
/// # Errors
/// Git cannot list the files.
pub fn check(repo: &Repo) -> Result<Vec<String>> {
    let mut forbidden: Vec<String> = BEGINNINGS.iter().map(|(a, b)| format!("{a}{b}")).collect();
    forbidden.push(repo.root().to_string_lossy().into_owned());
    forbidden.dedup();
    let mut findings = Vec::new();
    for file in repo.files()? {
        // A file that is not text contains no readable path.
        let Ok(text) = fs::read_to_string(repo.path(&file)) else {
            continue;
        };
        for (number, line) in text.lines().enumerate() {
            if let Some(path) = forbidden.iter().find(|path| line.contains(path.as_str())) {
                findings.push(format!(
                    "{}:{}: a path of one machine: {path}",
                    file.display(),
                    number + 1
                ));
            }
        }
    }
    Ok(findings)
}
