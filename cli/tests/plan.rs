//! `heddle plan` from outside, over files.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests may panic"
)]

mod harness;

use std::process::Output;

use harness::heddle;
use serde_json::{Value, json};

/// Plans a change of the shop.
fn plan(args: &[&str]) -> Output {
    heddle(&[&["plan", "-d", "why.yaml"], args].concat())
}

fn document(args: &[&str]) -> Value {
    let output = plan(&[args, &["-o", "json"]].concat());
    serde_json::from_slice(&output.stdout).unwrap()
}

struct Case {
    args: &'static [&'static str],
    code: i32,
    /// Parts of standard output.
    says: &'static [&'static str],
    /// Parts that are not in it.
    says_not: &'static [&'static str],
}

const CASES: &[Case] = &[
    Case {
        args: &["-f", "why.yaml"],
        code: 0,
        says: &[
            "result: nothing gets worse, by all callers, for no flow is known; no effect on calls",
        ],
        says_not: &["CHANGE", "SERVER"],
    },
    Case {
        args: &["-f", "plan/change.yaml"],
        code: 2,
        says: &[
            "changed  AuthPolicy shop/reviews\n",
            "denied by the change\n",
            "shop/reviews-v1-1  9080, others  shop/frontend-1  -     POST /z  allowed by AuthPolicy shop/reviews, rule 0  denied, for no Allow rule matches\n",
            "GET /adminz  denied by AuthPolicy shop/reviews, rule 1  allowed by AuthPolicy shop/reviews, rule 0\n",
            "shop/reviews:9080  shop  -     GET /, cookie: group=b  25 % shop/reviews:9080 version=v1, 75 % shop/reviews:9080 version=v2  100 % shop/reviews:9080 version=v2\n",
            "2 of 4 sidecars get another configuration",
            "result: something gets worse, by all callers, for no flow is known; 2 denials, 2 permissions, 1 other ways",
        ],
        says_not: &["x-a: 1", "findings"],
    },
    // The frontend calls the reviews; no caller of the database was observed.
    Case {
        args: &["-f", "plan/change.yaml", "--edges", "plan/edges.json"],
        code: 2,
        says: &[
            "shop/frontend-1  12.5/s  POST /z",
            "result: something gets worse, by 1 observed flow of the last 900 s",
        ],
        says_not: &[],
    },
    Case {
        args: &["-f", "plan/closed-db.yaml", "--edges", "plan/edges.json"],
        code: 0,
        says: &[
            "shop/db-1  3306, 5000, others  shop/sa/reviews  -     a connection  allowed by AuthPolicy shop/db, rule 0",
            "denied by AuthPolicy shop/db, rule 0\n",
            "result: nothing gets worse, by 1 observed flow",
        ],
        says_not: &["reviews-v1-1  9080"],
    },
    Case {
        args: &["-f", "plan/closed-db.yaml"],
        code: 2,
        says: &["result: something gets worse, by all callers"],
        says_not: &[],
    },
    Case {
        args: &["--delete", "authpolicy/shop/db"],
        code: 0,
        says: &[
            "removed  AuthPolicy shop/db\n",
            "shop/db-1  3306          plain text                              -     a connection  refused, for mTLS is demanded ",
        ],
        says_not: &["denied by the change", "conditions"],
    },
    Case {
        args: &["--delete", "Service/shop/reviews"],
        code: 2,
        says: &[
            "error     AuthPolicy shop/reviews            spec.target.service  service shop/reviews does not exist (fix: ",
            "AuthPolicy shop/reviews            Enforced      True Enforced      False Denied",
            "reviews.shop is not a known service",
        ],
        says_not: &[],
    },
    Case {
        args: &["-f", "missing-backend.yaml"],
        code: 2,
        says: &["new findings\n", "service shop/reviews-v9 does not exist"],
        says_not: &[],
    },
];

#[test]
fn effects_are_named_and_decide_the_exit_code() {
    for case in CASES {
        let output = plan(case.args);
        let out = String::from_utf8_lossy(&output.stdout);
        let err = String::from_utf8_lossy(&output.stderr);
        let code = output.status.code();
        assert_eq!(code, Some(case.code), "{:?}\n{out}\n{err}", case.args);
        for part in case.says {
            assert!(out.contains(part), "{:?}: no {part:?} in\n{out}", case.args);
        }
        for part in case.says_not {
            assert!(
                !out.contains(part),
                "{:?}: {part:?} is in\n{out}",
                case.args
            );
        }
    }
}

#[test]
fn errors_say_what_to_do() {
    for (args, error) in [
        (
            &["--delete", "AuthPolicy/shop/none"][..],
            "AuthPolicy shop/none is not there, so it cannot be deleted",
        ),
        (&["-f", "nowhere"], "cannot read nowhere"),
        (
            &["-f", "why.yaml", "--edges", "why.yaml"],
            "why.yaml has no observed flows; write them by `heddle edges -o json`",
        ),
    ] {
        let output = plan(args);
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{err}");
        assert!(err.contains(error), "no {error:?} in {err}");
    }
    let wrong = plan(&["--delete", "Secret/shop/key"]);
    let err = String::from_utf8_lossy(&wrong.stderr);
    assert!(
        err.contains("is not an object that the mesh reads; name one of"),
        "{err}"
    );
}

/// The requests of the plan get the decisions that it claims, by `heddle why` before and after the change.
#[test]
fn why_confirms_the_requests_of_the_plan() {
    let report = document(&["-f", "plan/change.yaml"]);
    for (list, before, after) in [
        ("denied", "Passes", "Denied"),
        ("allowed", "Denied", "Passes"),
    ] {
        let of_port = report[list]
            .as_array()
            .unwrap()
            .iter()
            .find(|of| of["workload"] == "shop/reviews-v1-1");
        let permission = of_port.unwrap();
        let request = permission["request"].as_str().unwrap();
        let (method, path) = request.split_once(' ').unwrap();
        let callers = permission["callers"].as_array().unwrap();
        for caller in callers
            .iter()
            .flat_map(|caller| caller["workloads"].as_array().unwrap())
        {
            let url = format!("http://reviews.shop:9080{path}");
            let outcome = |files: &[&str]| {
                let call = [
                    "why",
                    "--from",
                    caller.as_str().unwrap(),
                    method,
                    &url,
                    "-o",
                    "json",
                ];
                let answer: Value =
                    serde_json::from_slice(&heddle(&[&call[..], files].concat()).stdout).unwrap();
                answer["outcome"].clone()
            };
            assert_eq!(
                outcome(&["-f", "why.yaml"]),
                before,
                "{list} {caller} {request}"
            );
            let files = ["-f", "why.yaml", "-f", "plan/change.yaml"];
            assert_eq!(outcome(&files), after, "{list} {caller} {request}");
        }
    }
}

#[test]
fn documents_have_the_same_content() {
    let args = ["-f", "plan/change.yaml", "--edges", "plan/edges.json"];
    let json = document(&args);
    assert_eq!(json["worse"], true);
    let flows =
        json!({"windowSeconds": 900, "coveredSeconds": 900, "flows": 1, "sufficient": true});
    assert_eq!(json["flows"], flows);
    assert_eq!(json["denied"][0]["ports"], json!([9080]));
    let caller = json!({
        "identity": "spiffe://cluster.local/ns/shop/sa/frontend",
        "workloads": ["shop/frontend-1"], "observedPerSecond": 12.5,
    });
    assert_eq!(json["denied"][0]["callers"][0], caller);
    assert_eq!(json["rerouted"][0]["cut"], false);
    assert_eq!(json["sidecars"]["changed"], 3);
    let yaml = plan(&[&args[..], &["-o", "yaml"]].concat());
    let yaml: Value = serde_saphyr::from_slice(&yaml.stdout).unwrap();
    assert_eq!(yaml, json);
}

/// The answer of the control plane itself is read, too: its edges name workloads of the caller's side and of the server's.
#[test]
fn flows_are_read_from_the_answer_of_a_control_plane() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("edges.json");
    let edge = json!({
        "reporter": "destination", "namespace": "shop", "workload": "db-1", "identity": "spiffe://cluster.local/ns/shop/sa/db",
        "peer": "spiffe://cluster.local/ns/shop/sa/reviews", "serviceNamespace": "shop", "service": "db", "backend": "", "protocol": "tcp", "connections": 90,
    });
    let report =
        json!({"version": 1, "windowSeconds": 900, "coveredSeconds": 900, "edges": [edge]});
    std::fs::write(&file, report.to_string()).unwrap();
    let json = document(&[
        "-f",
        "plan/closed-db.yaml",
        "--edges",
        file.to_str().unwrap(),
    ]);
    let callers = json["denied"][0]["callers"].as_array().unwrap();
    assert_eq!(callers[0]["observedPerSecond"], 0.1);
    assert_eq!(json["worse"], true);
}

/// The caller of the database was not observed, so that its denial counts only where no caller can be missing.
#[test]
fn too_little_evidence_counts_as_none() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("edges.json");
    let whole: Value = serde_json::from_str(include_str!("fixtures/plan/edges.json")).unwrap();
    let judged = |change: &dyn Fn(&mut Value)| {
        let mut document = whole.clone();
        change(&mut document);
        std::fs::write(&file, document.to_string()).unwrap();
        let edges = file.to_str().unwrap();
        let output = plan(&["-f", "plan/closed-db.yaml", "--edges", edges]);
        let out = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code(), out)
    };
    let (code, out) = judged(&|_| {});
    assert_eq!(code, Some(0), "{out}");
    assert!(!out.contains("all callers"), "{out}");
    type Change<'a> = &'a dyn Fn(&mut Value);
    let cases: [(Change<'_>, &str); 5] = [
        (
            &|of| of["coveredSeconds"] = json!(899),
            "callers were observed for 899 s, and 900 s are needed",
        ),
        (
            &|of| of["coveredSeconds"] = Value::Null,
            "is not known (coveredSeconds)",
        ),
        (
            &|of| of["losses"] = json!({"evicted": 1}),
            "callers may be missing",
        ),
        (&|of| of["edges"] = json!([]), "no flow was observed"),
        // The answer of a control plane that has just started.
        (
            &|of| {
                *of = json!({"version": 1, "windowSeconds": 900, "coveredSeconds": 4, "edges": []})
            },
            "callers were observed for 4 s",
        ),
    ];
    for (change, reason) in cases {
        let (code, out) = judged(change);
        assert_eq!(code, Some(2), "{reason}: {out}");
        assert!(out.contains("all callers are judged alike: "), "{out}");
        assert!(out.contains(reason), "no {reason:?} in {out}");
        assert!(
            out.contains("result: something gets worse, by all callers, for "),
            "{out}"
        );
    }
}

#[test]
fn defaults_of_the_api_server_are_no_change() {
    let (written, served) = ("plan/written.yaml", "plan/served.yaml");
    let output = heddle(&["plan", "-d", served, "-f", written, "-o", "json"]);
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["objects"], json!([]), "{document}");
    // The other way round, the services get addresses and families that they did not have.
    let output = heddle(&["plan", "-d", written, "-f", served, "-o", "json"]);
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    let changed = |object: &str| json!({"change": "changed", "object": object});
    let services = ["Service shop/peers", "Service shop/reviews"].map(changed);
    assert_eq!(document["objects"], json!(services), "{document}");
}
