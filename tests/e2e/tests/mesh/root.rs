//! The loss of the root and its restoration, on a cluster.

use std::os::unix::fs::PermissionsExt;

use anyhow::{Context, Result};
use heddle_e2e::{Echo, Kubectl, Load, Namespace, eventually};

use super::{OPERATOR, PATIENCE, heddle, replicas, run_heddle};

/// `kubectl` in the control plane's own namespace.
fn system(args: &[&str]) -> Result<String> {
    let all: Vec<&str> = ["-n", "heddle-system"]
        .iter()
        .chain(args)
        .copied()
        .collect();
    Kubectl::cluster().run(&all)
}

/// The certificate of the root that is in the Secret; `None` if there is no Secret.
fn root() -> Result<Option<String>> {
    let text = system(&[
        "get",
        "secret",
        "heddle-ca",
        "--ignore-not-found",
        "-o",
        "jsonpath={.data.ca\\.crt}",
    ])?;
    Ok(Some(text).filter(|text| !text.is_empty()))
}

fn scale_operator(replicas: usize) -> Result<()> {
    system(&[
        "scale",
        "deployment/heddle-operator",
        &format!("--replicas={replicas}"),
    ])
    .map(drop)
}

fn calls_pass(ns: &Namespace) -> Result<()> {
    let report = Load::from(&ns.kubectl, "client")
        .flag("-n=50")
        .flag("-keepalive=false")
        .run("http://server/")?;
    anyhow::ensure!(
        (report.status("200"), report.errors) == (50, 0),
        "{report:?}"
    );
    Ok(())
}

/// The root is lost while no replica runs: nothing is issued in its place until the backup is restored. Calls go on.
pub fn a_lost_root_is_told_and_restored() -> Result<()> {
    let ns = Namespace::meshed("root")?;
    Echo::new("server").deploy(&ns)?;
    Echo::new("client").deploy(&ns)?;
    calls_pass(&ns)?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("root.yaml");
    let backup = file.to_str().context("a path in UTF-8")?;
    heddle(&["ca", "backup", backup])?;
    anyhow::ensure!(
        std::fs::metadata(&file)?.permissions().mode() & 0o777 == 0o600,
        "others can read the backup"
    );
    let again = run_heddle(&["ca", "backup", backup])?;
    anyhow::ensure!(!again.status.success(), "a backup is overwritten");

    // Running replicas put it back.
    let before = root()?.context("no root")?;
    system(&["delete", "secret", "heddle-ca"])?;
    eventually("the root is put back", PATIENCE, || {
        Ok(root()?.filter(|now| *now == before))
    })?;
    heddle(&["check"])?;

    let count = replicas()?.len();
    lose_root(count)?;
    is_told()?;
    anyhow::ensure!(root()?.is_none(), "a new root was made");
    calls_pass(&ns)?;

    heddle(&["ca", "restore", backup])?;
    anyhow::ensure!(root()? == Some(before), "another root was restored");
    let ready = ["rollout", "status", "deployment/heddle-operator"];
    system(&[&ready[..], &["--timeout=120s"]].concat())?;
    // Each replica logs it, and not with every attempt.
    let times = operator_log()?.matches(LOST).count();
    anyhow::ensure!((1..=5 * count).contains(&times), "logged {times} times");
    heddle(&["check"])?;
    // Pods from before and after trust each other.
    ns.kubectl
        .run(&["rollout", "restart", "deployment/server"])?;
    Echo::new("server").rolled_out(&ns)?;
    calls_pass(&ns)
}

/// The words of a replica that has no root.
const LOST: &str = "no certificate can be issued";

fn operator_log() -> Result<String> {
    system(&["logs", "-l", OPERATOR, "--tail=-1", "--prefix"])
}

fn lose_root(replicas: usize) -> Result<()> {
    scale_operator(0)?;
    eventually("the operator has ended", PATIENCE, || {
        let pods = system(&["get", "pods", "-l", OPERATOR, "-o", "name"])?;
        Ok(pods.trim().is_empty().then_some(()))
    })?;
    system(&["delete", "secret", "heddle-ca"])?;
    scale_operator(replicas)
}

/// In the log, as an Event, and by `heddle check`, each with the fix.
fn is_told() -> Result<()> {
    let log = eventually("the loss is in the log", PATIENCE, || {
        Ok(Some(operator_log()?).filter(|log| log.contains(LOST)))
    })?;
    anyhow::ensure!(log.contains("heddle ca restore"), "{log}");
    eventually("the loss is an Event", PATIENCE, || {
        let of = "--field-selector=involvedObject.name=heddle-ca,reason=RootLost,type=Warning";
        let events = system(&["get", "events", of, "-o", "name"])?;
        Ok((!events.trim().is_empty()).then_some(()))
    })?;
    let check = run_heddle(&["check"])?;
    let output = String::from_utf8_lossy(&check.stdout).into_owned();
    anyhow::ensure!(
        !check.status.success()
            && output.contains("is lost")
            && output.contains("heddle ca restore"),
        "{output}"
    );
    Ok(())
}
