//! Embeds `config/`, so that `heddle install` applies what `kubectl apply -k config/default` would.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

/// The folders that `config/default` is made of.
const FOLDERS: [&str; 3] = ["crd", "default", "rbac"];

fn main() -> io::Result<()> {
    let config = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../config")
        .canonicalize()?;
    let mut table = String::from("&[\n");
    for folder in FOLDERS {
        let folder = config.join(folder);
        println!("cargo::rerun-if-changed={}", folder.display());
        for file in yaml_files(&folder)? {
            let name = file
                .strip_prefix(&config)
                .unwrap_or(&file)
                .display()
                .to_string();
            // Writing to a String cannot fail.
            let _ = writeln!(
                table,
                "    ({name:?}, include_str!({:?})),",
                file.display().to_string()
            );
        }
    }
    table.push_str("]\n");
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    fs::write(out.join("config.rs"), table)
}

fn yaml_files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "yaml")
        {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
