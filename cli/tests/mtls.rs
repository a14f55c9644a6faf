//! `heddle mtls` from outside, over files.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests may panic"
)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

fn plan(args: &[&str]) -> Output {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    Command::new(env!("CARGO_BIN_EXE_heddle"))
        .args(["mtls", "plan"])
        .args(args)
        .current_dir(fixtures)
        .env("KUBECONFIG", "/does/not/exist")
        .output()
        .unwrap()
}

/// A file with these callers, as the reports of servers.
fn edges(folder: &Path, callers: &Value) -> PathBuf {
    let file = folder.join("edges.json");
    let document = json!({"windowSeconds": 900, "edges": [], "callers": callers});
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

#[test]
fn strict_refuses_nobody_where_all_callers_have_certificates() {
    let folder = tempfile::tempdir().unwrap();
    let identity = "spiffe://cluster.local/ns/shop/sa/frontend";
    let caller = |identity: &str, workload: &str, service: &str| {
        json!({"identity": identity, "workload": {"namespace": "shop", "name": workload},
            "service": {"namespace": "shop", "name": service}, "requestsPerSecond": 1.0})
    };
    let file = edges(
        folder.path(),
        &json!([
            caller(identity, "reviews-v1-1", "reviews"),
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
    let out = plan(&args).stdout;
    let out = String::from_utf8_lossy(&out);
    assert!(
        out.ends_with("result: Strict refuses nobody seen in 900 s; those of ports that an AuthPolicy keeps open stay\n"),
        "{out}"
    );
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
        out.ends_with("result: not known: no server of shop has reported a call in 900 s\n"),
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
