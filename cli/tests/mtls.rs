//! `heddle mtls` from outside, over files.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests may panic"
)]

mod harness;

use std::path::{Path, PathBuf};
use std::process::Output;

use harness::heddle;
use serde_json::{Value, json};

fn plan(args: &[&str]) -> Output {
    heddle(&[&["mtls", "plan"], args].concat())
}

/// A file with these callers, as the reports of servers.
fn edges(folder: &Path, callers: &Value) -> PathBuf {
    let file = folder.join("edges.json");
    let document = json!({"windowSeconds": 900, "complete": true, "edges": [], "callers": callers});
    std::fs::write(&file, document.to_string()).unwrap();
    file
}

#[test]
fn callers_in_plain_text_are_named_and_decide_the_exit_code() {
    let output = plan(&["shop", "-f", "why.yaml", "--edges", "mtls/edges.json"]);
    let out = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(2), "{out}");
    for part in [
        "shop/db-1          5000    tcp       yes    AuthPolicy shop/db, spec.mtls is Permissive\n",
        "shop/reviews-v1-1  9080    http      no     Mesh default, mode is Permissive\n",
        "shop/reviews-v1-1  9080          shop/reviews  http      180    14 min ago  3 s ago  refused\n",
        "shop/db-1          3306 or 5000  shop/db       tcp       90     -           -        stays, by an AuthPolicy\n",
        "legacy/cron-1  1     10.0.0.61\n",
        "shop/gone [31m kind: Secret was called in plain text, and has no pod with a sidecar now\n",
        "callers may be missing",
        "result: Strict would refuse callers in plain text of 1 workload (shop/reviews-v1-1); those of ports that an AuthPolicy keeps open stay\n",
    ] {
        assert!(out.contains(part), "no {part:?} in\n{out}");
    }
    // A port that is closed, and a claim of a caller.
    for part in [
        "3306    tcp",
        "shop/frontend-1    9080",
        "shop/frontend-1    others    shop/",
    ] {
        assert!(!out.contains(part), "{part:?} is in\n{out}");
    }
}

fn caller(identity: &str, workload: &str, service: &str) -> Value {
    json!({"identity": identity, "workload": {"namespace": "shop", "name": workload},
        "service": {"namespace": "shop", "name": service}, "requestsPerSecond": 1.0})
}

const FRONTEND: &str = "spiffe://cluster.local/ns/shop/sa/frontend";

#[test]
fn strict_refuses_nobody_where_all_callers_of_all_workloads_have_certificates() {
    let folder = tempfile::tempdir().unwrap();
    let file = edges(
        folder.path(),
        &json!([
            caller(FRONTEND, "reviews-v1-1", "reviews"),
            caller(FRONTEND, "reviews-v2-1", "reviews"),
            caller(FRONTEND, "frontend-1", "-"),
            caller("", "db-1", "db")
        ]),
    );
    let file = file.to_str().unwrap();
    let args = ["shop", "-f", "why.yaml", "--edges", file];
    let output = plan(&[&args[..], &["-o", "json"]].concat());
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["verdict"], "refusesNobodySeen");
    assert_eq!(report["callers"][0]["underStrict"], "stays");
    assert_eq!(report["withoutReport"], json!([]));
    let out = plan(&args).stdout;
    let out = String::from_utf8_lossy(&out);
    assert!(out.contains("calls are counted at their end"), "{out}");
    assert!(
        out.ends_with("result: Strict refuses nobody seen in 900 s; those of ports that an AuthPolicy keeps open stay\n"),
        "{out}"
    );
}

#[test]
fn a_workload_that_reported_no_call_leaves_the_verdict_open() {
    let folder = tempfile::tempdir().unwrap();
    let file = edges(
        folder.path(),
        &json!([
            caller(FRONTEND, "reviews-v1-1", "reviews"),
            caller(FRONTEND, "db-1", "db"),
            {"identity": FRONTEND, "workload": {"namespace": "bank", "name": "reviews-v2-1"}},
        ]),
    );
    let file = file.to_str().unwrap();
    let args = ["shop", "-f", "why.yaml", "--edges", file];
    let output = plan(&args);
    let out = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(2), "{out}");
    for part in [
        "workloads that reported no call\nshop/frontend-1, shop/reviews-v2-1\n",
        "result: not known: 2 workloads of shop reported no call in 900 s (shop/frontend-1, shop/reviews-v2-1)",
    ] {
        assert!(out.contains(part), "no {part:?} in\n{out}");
    }
    let output = plan(&[&args[..], &["-o", "json"]].concat());
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        report["withoutReport"],
        json!(["shop/frontend-1", "shop/reviews-v2-1"])
    );
    assert_eq!(report["verdict"], "nothingSeen");
}

#[test]
fn a_workload_without_a_port_that_strict_closes_needs_no_report() {
    let folder = tempfile::tempdir().unwrap();
    let strict = "apiVersion: heddle.dev/v1alpha1\nkind: Mesh\nmetadata: {name: default}\nspec: {mode: Strict}\n";
    let mesh = folder.path().join("mesh.yaml");
    std::fs::write(&mesh, strict).unwrap();
    let file = edges(folder.path(), &json!([]));
    let [mesh, file] = [&mesh, &file].map(|path| path.to_str().unwrap());
    let output = plan(&["shop", "-f", "why.yaml", "-f", mesh, "--edges", file]);
    let out = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{out}");
    assert!(out.contains("result: Strict changes nothing here"), "{out}");
}

#[test]
fn files_without_the_flows_of_every_replica_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("edges.json");
    for complete in [json!(false), Value::Null] {
        let document = json!({"windowSeconds": 900, "complete": complete, "edges": [],
            "callers": [caller(FRONTEND, "reviews-v1-1", "reviews")]});
        let mut document = document.as_object().unwrap().clone();
        document.retain(|_, value| !value.is_null());
        std::fs::write(&file, Value::from(document).to_string()).unwrap();
        let file = file.to_str().unwrap();
        for command in [
            &["mtls", "plan", "shop", "-f", "why.yaml", "--edges", file][..],
            &[
                "policy", "suggest", "shop", "-d", "why.yaml", "--edges", file,
            ],
            &[
                "plan",
                "-f",
                "plan/change.yaml",
                "-d",
                "why.yaml",
                "--edges",
                file,
            ],
        ] {
            let output = heddle(command);
            let err = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{command:?}: {err}");
            assert!(
                err.contains("does not have the flows of every replica (complete is not true)"),
                "{command:?}: {err}"
            );
        }
    }
}

#[test]
fn silence_is_no_proof() {
    let folder = tempfile::tempdir().unwrap();
    let file = edges(folder.path(), &json!([]));
    let file = file.to_str().unwrap();
    let output = plan(&["shop", "-f", "why.yaml", "--edges", file]);
    let out = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(2), "{out}");
    assert!(
        out.ends_with("result: not known: 3 workloads of shop reported no call in 900 s (shop/frontend-1, shop/reviews-v1-1, shop/reviews-v2-1)\n"),
        "{out}"
    );
    for (args, says) in [
        (
            &["shap", "-f", "why.yaml", "--edges", file][..],
            "namespace \"shap\" has no pods",
        ),
        (
            &["shop", "-f", "why.yaml", "--edges", "plan/edges.json"],
            "has no callers as servers report them",
        ),
    ] {
        let output = plan(args);
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{err}");
        assert!(err.contains(says), "{err}");
    }
}
