//! Generated files: all are computed first, then written or compared.

mod argocd;
mod chart;
mod code_map;
mod crd;
mod docs;
mod messages;
mod modules;
mod openapi;
mod rbac;
mod samples;
mod yaml;

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result, bail};

use crate::repo::Repo;

/// Paths from the top folder, with `/`, and their content.
type Files = BTreeMap<String, String>;

/// Folders in which every file is generated, so that one that no longer is gets deleted.
const OWN_FOLDERS: &[&str] = &["config/crd/", "config/argocd/", "config/helm/"];

fn generated(repo: &Repo) -> Result<Files> {
    let mut files = Files::new();
    files.extend(crd::files()?);
    files.extend(rbac::files());
    files.extend(argocd::files());
    files.extend(chart::files(repo, &files)?);
    files.extend(docs::files()?);
    files.extend(openapi::files()?);
    files.extend(messages::files()?);
    files.extend(modules::files(repo)?);
    files.extend(samples::files(repo)?);
    files.extend(code_map::files(repo)?);
    Ok(files)
}

/// Writes every generated file that is not yet as it should be, and deletes those that nothing generates any more.
///
/// # Errors
/// A source of a generated file cannot be read or is not as expected, or a file cannot be written or deleted.
pub fn write(repo: &Repo) -> Result<()> {
    let files = generated(repo)?;
    write_files(repo, &files)?;
    for name in stale(repo, &files)? {
        fs::remove_file(repo.path(&name)).with_context(|| format!("cannot delete {name}"))?;
        eprintln!("deleted {name}");
    }
    Ok(())
}

/// Writes the module lists of the folders that have one file per kind.
///
/// # Errors
/// A folder of kinds cannot be read, or its list cannot be written.
pub fn write_modules(repo: &Repo) -> Result<()> {
    write_files(repo, &modules::files(repo)?)
}

fn write_files(repo: &Repo, files: &Files) -> Result<()> {
    for (name, text) in files {
        let present = fs::read_to_string(repo.path(name));
        if !present.is_ok_and(|present| present == *text) {
            repo.write(name, text)?;
        }
    }
    Ok(())
}

/// Fails if any generated file is not as it should be.
///
/// # Errors
/// A generated file is missing, stale or different, or cannot be computed.
pub fn check(repo: &Repo) -> Result<()> {
    let files = generated(repo)?;
    let differs = |(name, text): (&String, &String)| {
        let same = fs::read_to_string(repo.path(name)).is_ok_and(|present| present == *text);
        (!same).then(|| name.clone())
    };
    let mut wrong: Vec<String> = files.iter().filter_map(differs).collect();
    wrong.extend(stale(repo, &files)?);
    if !wrong.is_empty() {
        bail!(
            "not as generated: {}\nrun `cargo xtask gen`",
            wrong.join(", ")
        );
    }
    Ok(())
}

fn stale(repo: &Repo, files: &Files) -> Result<Vec<String>> {
    let mut stale = Vec::new();
    for folder in OWN_FOLDERS {
        let mut pending = vec![repo.path(folder)];
        while let Some(folder) = pending.pop().filter(|folder| folder.is_dir()) {
            for entry in fs::read_dir(&folder)? {
                let path = entry?.path();
                if path.is_dir() {
                    pending.push(path);
                    continue;
                }
                let name = relative(repo.root(), &path)?;
                if !files.contains_key(&name) {
                    stale.push(name);
                }
            }
        }
    }
    stale.sort();
    Ok(stale)
}

fn relative(root: &Path, path: &Path) -> Result<String> {
    let name = path
        .strip_prefix(root)?
        .to_str()
        .context("a path that is not UTF-8")?;
    Ok(name.replace('\\', "/"))
}
