//! `scripts/fresh.sh`: empty caches, the command's exit code, and nothing left behind.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests may panic"
)]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

fn fresh(script: &str) -> Command {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/fresh.sh");
    let mut command = Command::new(path);
    command.args(["bash", "-c", script]);
    // As if it were called from the build of another folder.
    command.env("CARGO_TARGET_DIR", "/nowhere");
    command.env("XDG_CACHE_HOME", "/nowhere");
    command
}

/// A zombie has ended, too: only its parent has not read its exit code.
fn runs(process: &str) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    status
        .lines()
        .any(|line| line.starts_with("State:") && !line.contains('Z'))
}

#[test]
fn the_command_finds_a_clone_without_caches_and_leaves_nothing() {
    let script = r#"
        pwd
        find . "$HOME" -mindepth 1 -maxdepth 1 -not -name .git -printf '%f ' && echo
        echo "${CARGO_TARGET_DIR-unset} ${XDG_CACHE_HOME-unset}"
        for folder in "$CARGO_HOME" "$GOPATH" "$GOMODCACHE" "$GOCACHE" "$PIP_CACHE_DIR" "$NPM_CONFIG_CACHE" "$TMPDIR"; do
            case $folder in "${PWD%/*}"/*) ;; *) echo "outside: $folder" ;; esac
        done && echo
        sleep 1000 & echo $!
        setsid --fork env --ignore-environment PATH="$PATH" sh -c 'echo $$; exec sleep 1000'
        exit 7
    "#;
    let output = fresh(script).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(7), "{text}");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 6, "{text}");
    assert!(!Path::new(lines[0]).exists(), "{text}");
    let names: Vec<&str> = lines[1].split_whitespace().collect();
    assert!(names.contains(&"Cargo.toml"), "{text}");
    for cache in ["target", ".cache", "go", ".npm"] {
        assert!(!names.contains(&cache), "{text}");
    }
    assert_eq!(lines[2], "unset unset");
    assert_eq!(lines[3], "", "a cache is outside of the temporary folder");
    for process in &lines[4..] {
        assert!(!runs(process), "{process} still runs: {text}");
    }
}

#[test]
fn a_signal_ends_the_command_and_cleans_up() {
    let script = r#"sleep 1000 & echo "$PWD $$ $!"; wait"#;
    let mut child = fresh(script).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let words: Vec<&str> = line.split_whitespace().collect();
    assert!(runs(words[1]) && runs(words[2]), "{line}");
    let kill = Command::new("kill")
        .args(["-TERM", &child.id().to_string()])
        .status();
    assert!(kill.unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(143));
    assert!(!Path::new(words[0]).exists(), "{line}");
    assert!(!runs(words[1]) && !runs(words[2]), "{line}");
}
