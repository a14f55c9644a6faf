//! Runs `heddle` in the folder of the fixtures, out of reach of any cluster.

#![allow(dead_code, reason = "each test program uses a part")]

use std::path::Path;
use std::process::{Command, Output};

/// The command, to be started.
pub fn command(args: &[&str]) -> Command {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let mut command = Command::new(env!("CARGO_BIN_EXE_heddle"));
    command
        .args(args)
        .current_dir(fixtures)
        .env("KUBECONFIG", "/does/not/exist");
    command
}

/// The output of the command.
pub fn heddle(args: &[&str]) -> Output {
    command(args).output().unwrap()
}
