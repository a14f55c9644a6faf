//! Where the repository is, and how to run things in it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// The repository that this xtask was built from.
pub struct Repo {
    root: PathBuf,
}

impl Repo {
    /// The folder above xtask's own.
    ///
    /// # Errors
    /// The folder of xtask is the root of the file system.
    pub fn find() -> Result<Self> {
        let own = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = own
            .parent()
            .context("xtask has no parent folder")?
            .to_owned();
        Ok(Self { root })
    }

    /// The repository in a folder.
    pub fn at(root: PathBuf) -> Self {
        Self { root }
    }

    /// Writes a file, with the folders above it.
    ///
    /// # Errors
    /// The file, or a folder above it, cannot be written.
    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.path(name);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)
                .with_context(|| format!("cannot create {}", folder.display()))?;
        }
        fs::write(&path, text).with_context(|| format!("cannot write {name}"))?;
        eprintln!("wrote {name}");
        Ok(())
    }

    /// The top folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The absolute path of something in the repository.
    pub fn path(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.root.join(relative)
    }

    /// A command that runs in the top folder.
    pub fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(&self.root);
        command
    }

    /// The standard output of a command that must succeed.
    ///
    /// # Errors
    /// The program cannot be run, fails (the error has its standard error), or prints bytes that are not UTF-8.
    pub fn output(&self, program: &str, arguments: &[&str]) -> Result<String> {
        text(self.command(program, arguments))
    }

    /// Files under version control or about to be, as paths from the top folder.
    ///
    /// # Errors
    /// Git cannot be run, or the folder is not a repository.
    pub fn files(&self) -> Result<Vec<PathBuf>> {
        let listed = self.output(
            "git",
            &[
                "ls-files",
                "-z",
                "--cached",
                "--others",
                "--exclude-standard",
            ],
        )?;
        let mut files: Vec<PathBuf> = listed
            .split('\0')
            .filter(|name| !name.is_empty())
            .map(PathBuf::from)
            .collect();
        // Files that are deleted but not yet committed are listed too.
        files.retain(|file| self.path(file).is_file());
        files.sort();
        Ok(files)
    }
}

/// The standard output of a command that must succeed.
///
/// # Errors
/// The program cannot be run, fails (the error has its standard error), or prints bytes that are not UTF-8.
pub fn text(mut command: Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .output()
        .with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        let arguments: Vec<_> = command.get_args().map(|a| a.to_string_lossy()).collect();
        bail!(
            "{program} {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    String::from_utf8(output.stdout).with_context(|| format!("{program} does not print UTF-8"))
}

/// The packages of the workspace, as `cargo metadata` has them.
///
/// # Errors
/// Cargo cannot be run, `Cargo.lock` is not up to date, or the output has no packages.
pub fn packages(repo: &Repo) -> Result<Vec<Value>> {
    let arguments = ["metadata", "--format-version", "1", "--no-deps", "--locked"];
    let metadata: Value = serde_json::from_str(&repo.output(&cargo(), &arguments)?)?;
    let packages = metadata.get("packages").and_then(Value::as_array);
    packages.cloned().context("cargo metadata: packages")
}

/// The answer of cargo about the libraries under a package that is built alone, a line each: a build may unify the features of the
/// workspace, and would show those of others. `edges` are the kinds of dependencies that count.
///
/// # Errors
/// Cargo cannot be run, has no such package, or `Cargo.lock` is not up to date.
pub fn tree_alone(repo: &Repo, package: &str, edges: &str, format: &str) -> Result<String> {
    let arguments = [
        "tree", "--locked", "-p", package, "-e", edges, "--prefix", "none", "--format", format,
    ];
    let mut command = repo.command(&cargo(), &arguments);
    command.env_remove("CARGO_RESOLVER_FEATURE_UNIFICATION");
    text(command)
}

/// `cargo`, the one that runs this task if any.
pub fn cargo() -> String {
    std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned())
}
