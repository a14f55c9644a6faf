//! The module lists of the folders that have one file per kind.

use std::fs;

use anyhow::{Context, Result};

use super::Files;
use crate::repo::Repo;

/// A folder of kinds, and the rest of each line of its list.
struct Folder {
    path: &'static str,
    doc: &'static str,
    visibility: &'static str,
    reexports: bool,
}

const FOLDERS: [Folder; 2] = [
    Folder {
        path: "crds/src/kinds",
        doc: "The types of the API, one file per kind.",
        visibility: "",
        reexports: true,
    },
    Folder {
        path: "policy-compiler/src/kinds/policies",
        doc: "The policies, one file per kind.",
        visibility: "pub(crate) ",
        reexports: false,
    },
];

/// Returns the list of each folder, from the files that it has.
///
/// # Errors
/// A folder cannot be read.
pub fn files(repo: &Repo) -> Result<Files> {
    FOLDERS
        .iter()
        .map(|folder| {
            let list = format!("{}/mod.rs", folder.path);
            Ok((list, text(repo, folder)?))
        })
        .collect()
}

fn text(repo: &Repo, folder: &Folder) -> Result<String> {
    let mut names = Vec::new();
    let entries = fs::read_dir(repo.path(folder.path));
    for entry in entries.with_context(|| format!("cannot read {}", folder.path))? {
        let file = entry?.file_name().into_string().ok();
        let name = file.as_deref().and_then(|file| file.strip_suffix(".rs"));
        names.extend(name.filter(|name| *name != "mod").map(str::to_owned));
    }
    names.sort();
    let mut text = format!(
        "//! {} The list is written by `cargo xtask gen`.\n\n",
        folder.doc
    );
    for name in &names {
        text.push_str(&format!("{}mod {name};\n", folder.visibility));
    }
    if folder.reexports {
        text.push('\n');
        for name in &names {
            text.push_str(&format!("pub use {name}::*;\n"));
        }
    }
    Ok(text)
}
