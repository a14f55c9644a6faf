//! `cargo xtask new-kind`: the skeleton of a kind compiles and works, and a kind costs four files and two rows.

#![allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::{env, fs};

const KIND: &str = "RetryPolicy";

const FILES: [&str; 4] = [
    "config/samples/retry_policy.yaml",
    "crds/src/kinds/retry_policy.rs",
    "policy-compiler/src/kinds/policies/retry_policy.rs",
    "policy-compiler/tests/golden/ok/retry_policy/least.yaml",
];

/// The lists of kinds, with the lines of the new row.
const LISTS: [(&str, &[&str]); 2] = [
    (
        "crds/src/lib.rs",
        &["RetryPolicy: Namespaced [Accepted, ResolvedRefs, Conflicted, Programmed],"],
    ),
    (
        "policy-compiler/src/kind.rs",
        &[
            "/// Our `RetryPolicy`.",
            "RetryPolicy: Role::Policy, Namespaced, Some(KindResource::ours(\"retrypolicies\"))",
            "=> retry_policies: heddle_crds::RetryPolicySpec, [\"lastGood\"];",
        ],
    ),
];

/// The module lists, written by `gen`.
const GENERATED: [&str; 2] = [
    "crds/src/kinds/mod.rs",
    "policy-compiler/src/kinds/policies/mod.rs",
];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn run(command: &mut Command) -> Output {
    command.output().unwrap()
}

fn succeed(command: &mut Command) -> String {
    let output = run(command);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

fn git(folder: &Path, arguments: &[&str]) -> String {
    let own = ["-c", "user.name=test", "-c", "user.email=test@example.com"];
    succeed(
        Command::new("git")
            .args(own)
            .args(arguments)
            .current_dir(folder),
    )
}

fn xtask(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.arg("--repository").arg(folder).args(arguments);
    command
}

/// A copy of the repository under version control. It has the same place in every run, and a file that did not change keeps its time, so that
/// cargo compiles only the differences.
fn copy() -> PathBuf {
    let copy = Path::new(env!("CARGO_TARGET_TMPDIR")).join("new-kind");
    let source = repository();
    let listed = git(
        &source,
        &[
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ],
    );
    let mut names: BTreeSet<&str> = listed.split('\0').filter(|n| !n.is_empty()).collect();
    names.retain(|name| source.join(name).is_file());
    fs::create_dir_all(&copy).unwrap();
    git(&copy, &["init", "--quiet"]);
    for present in git(&copy, &["ls-files", "-z", "--cached", "--others"]).split('\0') {
        if !present.is_empty() && !names.contains(present) {
            fs::remove_file(copy.join(present)).ok();
        }
    }
    for name in names {
        let (from, to) = (source.join(name), copy.join(name));
        let mut text = fs::read(&from).unwrap();
        if ["Cargo.toml", "Cargo.lock"].contains(&name) {
            text = with_another_version(&text);
        }
        if fs::read(&to).ok().as_ref() != Some(&text) {
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::write(to, text).unwrap();
        }
    }
    git(&copy, &["add", "--all"]);
    git(
        &copy,
        &[
            "commit",
            "--quiet",
            "--allow-empty",
            "--message",
            "as it is",
        ],
    );
    copy
}

/// A manifest or lock file with another version of our packages: cargo distinguishes packages of two workspaces by name, version
/// and the place within the workspace, and the copy must not overwrite the artifacts of the repository in the shared target
/// folder.
fn with_another_version(file: &[u8]) -> Vec<u8> {
    let file = String::from_utf8(file.to_vec()).unwrap();
    let own = format!("version = \"{}\"", env!("CARGO_PKG_VERSION"));
    let ours = |block: &&str| block.contains(&own) && !block.contains("\nsource = ");
    let blocks = file.split("\n\n").map(|block| match ours(&block) {
        true => block.replacen(&own, "version = \"0.0.0-skeleton\"", 1),
        false => block.to_owned(),
    });
    let changed = blocks.collect::<Vec<_>>().join("\n\n");
    assert_ne!(changed, file, "{own} is not there");
    changed.into_bytes()
}

/// The files of the work tree that differ from the last commit, with their state.
fn changed(copy: &Path) -> BTreeSet<(String, String)> {
    let status = git(copy, &["status", "--porcelain", "--untracked-files=all"]);
    let lines = status.lines().map(|line| line.split_at(3));
    lines
        .map(|(state, name)| (state.trim().to_owned(), name.to_owned()))
        .collect()
}

#[test]
fn a_kind_costs_four_files_and_a_row_in_two_lists() {
    let copy = copy();
    let next = succeed(&mut xtask(&copy, &["new-kind", KIND]));
    assert!(next.contains("cargo xtask gen"), "{next}");

    let new = FILES.iter().map(|name| ("??", *name));
    let lists = LISTS.iter().map(|(name, _)| *name);
    let edited = lists.chain(GENERATED).map(|name| ("M", name));
    let expected = new.chain(edited);
    let expected = expected.map(|(state, name)| (state.to_owned(), name.to_owned()));
    assert_eq!(changed(&copy), expected.collect());
    for (name, row) in LISTS {
        let diff = git(&copy, &["diff", "--unified=0", "--", name]);
        let lines = diff.lines().filter(|line| line.starts_with(['+', '-']));
        let lines: Vec<&str> = lines.skip(2).collect();
        let added: Vec<&str> = lines
            .iter()
            .map(|line| line.strip_prefix('+').unwrap().trim())
            .collect();
        assert_eq!(added, row, "{name}");
    }

    succeed(&mut xtask(&copy, &["tidy"]));
    let formatted = [
        "fmt",
        "-p",
        "heddle-crds",
        "-p",
        "heddle-policy-compiler",
        "--check",
    ];
    succeed(cargo(&copy).args(formatted));
    let again = run(&mut xtask(&copy, &["new-kind", KIND]));
    let error = String::from_utf8_lossy(&again.stderr);
    assert!(
        !again.status.success() && error.contains("is a kind already"),
        "{error}"
    );
    compiles_and_works(&copy);
}

/// Cargo in a folder, without the variables that it sets for this test: build scripts that read them would run again, here and in the next
/// build of the repository, and all that depends on them would be compiled again.
fn cargo(folder: &Path) -> Command {
    let cargo = env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let mut command = Command::new(cargo);
    let sets = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_"];
    let own = env::vars().filter(|(name, _)| sets.iter().any(|set| name.starts_with(set)));
    for (name, _) in own {
        command.env_remove(name);
    }
    command.current_dir(folder);
    command
}

/// The lists hold for the kind: its definition, its sample, its way from text and from the API server to a status.
fn compiles_and_works(copy: &Path) {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    // The whole workspace, so that cargo finds every dependency compiled with the same features.
    let tests = [
        "every_kind",
        "the_list_agrees",
        "schemas_are",
        "samples_parse",
        "every_other_field",
    ];
    let mut command = cargo(copy);
    command
        .args(["test", "--offline", "--workspace"])
        .args(["--test", "api", "--test", "kinds"])
        .arg("--target-dir")
        .arg(target)
        .arg("--")
        .args(tests);
    let report = succeed(&mut command);
    for test in [
        "every_kind_is_read_from_text_and_from_the_api_server ... ok",
        "the_list_agrees_with_the_definitions_of_our_kinds ... ok",
        "samples_parse ... ok",
    ] {
        assert!(report.contains(test), "{report}");
    }
}

#[test]
fn a_name_that_cannot_be_a_kind_is_refused_and_nothing_is_written() {
    let folder = repository();
    for (name, reason) in [
        (
            "retryPolicy",
            "is not a name of a kind; write it in upper camel case",
        ),
        ("../Retry", "is not a name of a kind"),
        (
            "TrafficSplit",
            "TrafficSplit is a kind already; choose another name",
        ),
        ("Service", "Service is a kind already"),
        ("Match", "is a word of Rust"),
    ] {
        let refused = run(&mut xtask(&folder, &["new-kind", name]));
        let error = String::from_utf8_lossy(&refused.stderr);
        assert!(
            !refused.status.success() && error.contains(reason),
            "{name}: {error}"
        );
    }
    let help = succeed(&mut xtask(&folder, &["new-kind", "--help"]));
    assert!(help.contains("upper camel case"), "{help}");
}
