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
    let document = json!({"windowSeconds": 900, "coveredSeconds": 900, "complete": true, "edges": [], "callers": callers});
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

fn strict(args: &[&str]) -> (Option<i32>, String, String) {
    let output = heddle(&[&["mtls", "strict"], args, &["--dry-run"]].concat());
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    (
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

/// An AuthPolicy keeps the port open.
const KEPT: &str =
    "\n  keeps plain text: shop/db-1 port 5000 (AuthPolicy shop/db, spec.mtls is Permissive)\n";
const CUT_OFF: &str = "callers in plain text of shop/reviews-v1-1 port 9080 by service shop/reviews: 180 requests, the last 3 s ago";

#[test]
fn a_flip_that_cuts_off_a_caller_is_refused_or_forced_with_its_name() {
    for target in ["shop", "--mesh"] {
        let args = [target, "-f", "why.yaml", "--edges", "mtls/edges.json"];
        let (code, out, _) = strict(&args);
        assert_eq!(code, Some(2), "{out}");
        assert!(out.starts_with("refused: "), "{out}");
        assert!(
            out.contains(&format!("\n  against it: {CUT_OFF}\n")),
            "{out}"
        );
        assert!(out.contains("nothing was changed"), "{out}");
        // An AuthPolicy keeps the port open.
        assert!(!out.contains("shop/db-1"), "{out}");
        let (code, out, _) = strict(&[&args[..], &["--force"]].concat());
        assert_eq!(code, Some(0), "{out}");
        let first = out.lines().next().unwrap();
        assert!(
            first.contains(" would become Strict except for these ports, by its "),
            "{out}"
        );
        assert!(out.contains(KEPT), "{out}");
        assert!(out.contains(&format!("\n  cut off: {CUT_OFF}\n")), "{out}");
        assert!(out.contains("\n  undo: kubectl "), "{out}");
    }
}

#[test]
fn a_flip_needs_all_callers_of_a_quarter_of_an_hour() {
    let folder = tempfile::tempdir().unwrap();
    let callers = json!([
        caller(FRONTEND, "reviews-v1-1", "reviews"),
        caller(FRONTEND, "reviews-v2-1", "reviews"),
        caller(FRONTEND, "frontend-1", "-"),
        caller("", "db-1", "db")
    ]);
    let file = edges(folder.path(), &callers);
    let document: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    let file = file.to_str().unwrap();
    let args = ["shop", "-f", "why.yaml", "--edges", file];
    let (code, out, _) = strict(&args);
    assert_eq!(code, Some(0), "{out}");
    let first = "namespace shop would become Strict except for these ports, by its AuthPolicy\n  keeps plain text: ";
    assert!(out.starts_with(first), "{out}");
    assert!(out.contains(KEPT), "{out}");
    assert_eq!(out.matches("\n  keeps plain text: ").count(), 2, "{out}");
    let last = "\n  no caller in plain text was seen that it refuses\n  undo: kubectl delete authpolicy -n shop zz-mtls-strict\n";
    assert!(out.ends_with(last), "{out}");
    let (code, out, _) = strict(&[&args[..], &["-o", "json"]].concat());
    assert_eq!(code, Some(0), "{out}");
    let flip: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(flip["outcome"], "wouldBeWritten");
    assert_eq!(flip["object"]["spec"], json!({"mtls": {"mode": "Strict"}}));
    assert_eq!(flip["plans"][0]["callers"][0]["underStrict"], "stays");
    for (field, value, code, says) in [
        // One of the replicas has listened for a minute, or the file does not tell.
        (
            "coveredSeconds",
            json!(60),
            2,
            "were observed for 60 s, and 900 s are needed",
        ),
        (
            "coveredSeconds",
            Value::Null,
            2,
            "every replica has observed callers is not known (coveredSeconds)",
        ),
        (
            "losses",
            json!({"byAgents": 1}),
            2,
            "some traffic of the last 900 s was not reported",
        ),
        (
            "callers",
            json!([callers[0].clone()]),
            2,
            "2 workloads of shop reported no call",
        ),
        (
            "complete",
            json!(false),
            1,
            "does not have the flows of every replica",
        ),
    ] {
        let mut document = document.clone();
        document[field] = value;
        std::fs::write(file, document.to_string()).unwrap();
        let (found, out, err) = strict(&args);
        assert_eq!(found, Some(code), "{field}: {out}{err}");
        assert!(format!("{out}{err}").contains(says), "{field}: {out}{err}");
        let (found, out, err) = strict(&[&args[..], &["--force"]].concat());
        assert_eq!(found, Some(0), "{field}: {out}{err}");
        assert!(out.contains(says), "{field}: {out}");
    }
    // A loss of before concerns no caller of the last quarter of an hour.
    let mut document = document;
    document["losses"] = json!({"byAgents": 1, "lastSecondsAgo": 900});
    std::fs::write(file, document.to_string()).unwrap();
    let (code, out, err) = strict(&args);
    assert_eq!(code, Some(0), "{out}{err}");
}

#[test]
fn a_flip_that_would_not_be_in_force_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let file = edges(folder.path(), &json!([]));
    let file = file.to_str().unwrap();
    for (target, spec, says) in [
        ("shop", "{mode: Observe}", "Mesh default has mode Observe"),
        (
            "--mesh",
            "{mode: Observe}",
            "Mesh default is not Permissive: it has mode Observe",
        ),
        (
            "shop",
            "{bypassedNamespaces: [{namespace: shop}]}",
            "Mesh default bypasses namespace shop",
        ),
        (
            "legacy",
            "{}",
            "label it heddle.dev/inject=enabled and restart its pods first",
        ),
    ] {
        let mesh = folder.path().join("mesh.yaml");
        let text = format!(
            "apiVersion: heddle.dev/v1alpha1\nkind: Mesh\nmetadata: {{name: default}}\nspec: {spec}\n"
        );
        std::fs::write(&mesh, text).unwrap();
        let mesh = mesh.to_str().unwrap();
        let args = [target, "-f", "why.yaml", "-f", mesh, "--edges", file];
        let forced: [&[&str]; 2] = [&[], &["--force"]];
        for force in forced {
            let (code, out, err) = strict(&[&args[..], force].concat());
            assert_eq!(code, Some(1), "{out}{err}");
            assert!(err.contains(says), "{err}");
        }
    }
    let (code, _, err) = strict(&["Shop", "-f", "why.yaml", "--edges", file]);
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains("is not the name of a namespace"), "{err}");
}

#[test]
fn a_flip_of_a_mesh_without_sidecars_is_refused_or_forced() {
    let folder = tempfile::tempdir().unwrap();
    let file = edges(folder.path(), &json!([]));
    let mesh = folder.path().join("mesh.yaml");
    let text = "apiVersion: heddle.dev/v1alpha1\nkind: Mesh\nmetadata: {name: default}\n";
    std::fs::write(&mesh, text).unwrap();
    let [mesh, file] = [&mesh, &file].map(|path| path.to_str().unwrap());
    let args = ["--mesh", "-f", mesh, "--edges", file];
    let reason =
        "\n  against it: no pod of the mesh has a sidecar, so no caller can have been seen;";
    let (code, out, err) = strict(&args);
    assert_eq!(code, Some(2), "{out}{err}");
    let first = "refused: the mesh does not become Strict\n";
    assert!(out.starts_with(first) && out.contains(reason), "{out}");
    let last = "\n  nothing was changed; repeat when nothing is against it, or with --force, which flips in any case\n";
    assert!(out.ends_with(last), "{out}");
    let (code, out, err) = strict(&[&args[..], &["--force"]].concat());
    assert_eq!(code, Some(0), "{out}{err}");
    let first = "the mesh would become Strict by its Mesh\n";
    assert!(out.starts_with(first) && out.contains(reason), "{out}");
}

#[test]
fn flows_of_a_file_do_not_decide_on_a_write() {
    let args = ["mtls", "strict", "shop", "--edges", "mtls/edges.json"];
    let output = heddle(&args);
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{err}");
    assert!(
        err.contains("required arguments") && err.contains("--dry-run"),
        "{err}"
    );
}

#[test]
fn the_undo_command_restores_the_mode_of_the_mesh() {
    let folder = tempfile::tempdir().unwrap();
    let file = edges(folder.path(), &json!([]));
    let mesh = folder.path().join("mesh.yaml");
    let [mesh, file] = [&mesh, &file].map(|path| path.to_str().unwrap());
    for (spec, mode) in [
        ("{}", "Permissive"),
        ("{mode: Permissive}", "Permissive"),
        ("{mode: Strict}", "Strict"),
    ] {
        let text = format!(
            "apiVersion: heddle.dev/v1alpha1\nkind: Mesh\nmetadata: {{name: default}}\nspec: {spec}\n"
        );
        std::fs::write(mesh, text).unwrap();
        let args = [
            "--mesh", "-f", "why.yaml", "-f", mesh, "--edges", file, "--force",
        ];
        let (code, out, err) = strict(&args);
        assert_eq!(code, Some(0), "{out}{err}");
        let undo = format!(
            "\n  undo: kubectl patch mesh default --type merge -p '{{\"spec\":{{\"mode\":\"{mode}\"}}}}'\n"
        );
        assert!(out.ends_with(&undo), "{out}");
    }
}
