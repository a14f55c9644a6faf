//! `heddle policy` from outside, over files.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests may panic"
)]

#[path = "../harness/mod.rs"]
mod harness;
mod suggest;

use std::io::Write;
use std::process::{Output, Stdio};

use harness::command;
use serde_json::{Value, json};

fn heddle(args: &[&str], input: &str) -> Output {
    let mut child = command(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    child.wait_with_output().unwrap()
}

/// Holds assertions against the shop.
fn test(tests: &str, more: &[&str]) -> Output {
    let args = ["policy", "test", "-d", "why.yaml", "-f", "-"];
    heddle(&[&args, more].concat(), &format!("tests:\n{tests}\n"))
}

#[test]
fn assertions_of_a_sound_shop_hold() {
    let args = [
        "policy",
        "test",
        "-d",
        "why.yaml",
        "-f",
        "policy/tests.yaml",
    ];
    let output = heddle(&args, "");
    let out = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{out}");
    assert!(
        out.contains("ok         allow shop/frontend-1 GET shop/reviews/reviews/1\n"),
        "{out}"
    );
    assert!(
        out.contains("ok         only reviews reach the database\n"),
        "{out}"
    );
    assert!(out.ends_with("8 passed, 0 failed\n"), "{out}");
}

struct Case {
    test: &'static str,
    /// Parts of standard output.
    says: &'static [&'static str],
}

const FAILING: &[Case] = &[
    Case {
        test: "- allow: {from: shop/frontend-1, to: shop/reviews, method: DELETE}",
        says: &[
            "FAILED     allow shop/frontend-1 DELETE shop/reviews/\n",
            "shop/reviews-v1-1, shop/reviews-v2-1, port 9080 by mTLS: denied, for no Allow rule matches: AuthPolicy shop/reviews, rule 0\n",
            "0 passed, 1 failed\n",
        ],
    },
    Case {
        test: "- deny: {from: shop/frontend-1, to: shop/reviews}",
        says: &["port 9080 by mTLS: allowed by AuthPolicy shop/reviews, rule 0\n"],
    },
    Case {
        test: "- deny: {from: shop/frontend-1, to: shop/empty}",
        says: &["shop/empty:80 has no endpoint\n"],
    },
    Case {
        test: "- {name: nothing, never: {from: {namespaces: [shop]}, to: {services: [shop/reviews]}}}",
        says: &[
            "FAILED     nothing\n",
            "shop/frontend-1 to shop/reviews-v1-1 port 9080: GET /z: allowed by AuthPolicy shop/reviews, rule 0\n",
        ],
    },
    // The frontend has no policy, so that a workload of tomorrow, or plain text, gets in, too.
    Case {
        test: "- never: {from: {namespaces: [legacy]}, to: {workloads: [shop/frontend-1]}}",
        says: &[
            "spiffe://cluster.local/ns/legacy/sa/any-other to shop/frontend-1 any other port: a connection: allowed, for no Allow rule holds there\n",
        ],
    },
    Case {
        test: "- never: {from: {plainText: true}, to: {workloads: [shop/frontend-1]}}",
        says: &[
            "a caller without a certificate to shop/frontend-1 any other port: a connection: allowed",
        ],
    },
    // A workload without a sidecar calls in plain text, and others can.
    Case {
        test: "- never: {from: {workloads: [legacy/cron-1]}, to: {workloads: [shop/frontend-1]}}",
        says: &[
            "a caller without a certificate to shop/frontend-1 any other port: a connection: allowed",
        ],
    },
    Case {
        test: "- never: {from: {workloads: [shop/db-1]}, to: {workloads: [shop/frontend-1]}}",
        says: &[
            "a caller without a certificate to shop/frontend-1 any other port: a connection: allowed",
        ],
    },
    Case {
        test: "- never: {from: {}, to: {workloads: [legacy/cron-1]}}",
        says: &["legacy/cron-1: no sidecar decides there\n"],
    },
    // The second one is of a method that the rule has.
    Case {
        test: "- never: {from: {identities: [shop/frontend]}, to: {services: [shop/reviews], methods: [DELETE, POST], paths: [/reviews/*]}}",
        says: &["POST /reviews/z: allowed by AuthPolicy shop/reviews, rule 0\n"],
    },
];

#[test]
fn an_assertion_that_does_not_hold_has_a_counter_example() {
    for case in FAILING {
        let output = test(case.test, &[]);
        let out = String::from_utf8_lossy(&output.stdout);
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{}\n{out}{err}", case.test);
        for part in case.says {
            assert!(out.contains(part), "{}: no {part:?} in\n{out}", case.test);
        }
    }
}

#[test]
fn rules_that_cannot_be_told_apart_leave_an_assertion_undecided() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("policy.yaml");
    let policy = json!({
        "apiVersion": "heddle.dev/v1alpha1", "kind": "AuthPolicy", "metadata": {"name": "header", "namespace": "shop"},
        "spec": {"selector": {"matchLabels": {"app": "db"}}, "rules": [
            {"from": {"identities": ["shop/frontend"]}, "to": {"headers": [{"name": "x-a", "regex": "a+b"}]}},
            {"action": "Deny", "to": {"headers": [{"name": "x-a", "regex": "a.*"}]}},
        ]},
    });
    std::fs::write(&file, policy.to_string()).unwrap();
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\nspec: {clusterIP: 10.96.0.77, clusterIPs: [10.96.0.77], selector: {app: db}, ports: [{name: http, port: 5000}]}\n";
    std::fs::write(folder.path().join("service.yaml"), service).unwrap();
    let tests = "- never: {from: {identities: [shop/frontend]}, to: {services: [shop/web], methods: [GET]}}";
    let output = test(tests, &["-d", folder.path().to_str().unwrap()]);
    let out = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(2), "{out}");
    assert!(out.contains("UNDECIDED  never, number 1\n"), "{out}");
    assert!(out.contains("0 passed, 0 failed, 1 undecided\n"), "{out}");
}

#[test]
fn faults_of_a_file_are_named_with_their_fix() {
    for (tests, error) in [
        (
            "- {allow: {from: shop/a, to: shop/b}, deny: {from: shop/a, to: shop/b}}",
            "2 of allow, deny and never are there; write exactly one of them",
        ),
        (
            "- allow: {from: frontend, to: shop/reviews}",
            "from: \"frontend\" is not NAMESPACE/NAME; correct it",
        ),
        (
            "- allow: {from: shop/frontend-1, to: shop/none}",
            "to: shop/none is not a known service; correct it",
        ),
        (
            "- allow: {from: shop/frontend-1, to: shop/db}",
            "shop/db has ports 3306, 5000; choose one by `port`",
        ),
        (
            "- allow: {from: shop/nobody, to: shop/reviews}",
            "shop/nobody is not a known workload or pod",
        ),
        (
            "- allow: {from: shop/frontend-1, to: shop/reviews, methods: GET}",
            "unknown field",
        ),
        (
            "- never: {from: {}, to: {workloads: [shop/none]}}",
            "to.workloads: shop/none is not a known workload; correct it",
        ),
        ("- never: {from: {}, to: {ports: [70000]}}", "-f - is not"),
        (
            "- never: {from: {workloads: [shop/frontendd]}, to: {services: [shop/db]}}",
            "from.workloads: shop/frontendd is not a known workload; correct it",
        ),
        (
            "- never: {from: {namespaces: [shopp]}, to: {services: [shop/db]}}",
            "from.namespaces: shopp has no pod and no service, and no policy names it; correct it",
        ),
        (
            "- never: {from: {identities: [shop/frontendd]}, to: {services: [shop/db]}}",
            "from.identities: no pod has spiffe://cluster.local/ns/shop/sa/frontendd, and no policy names it; correct it",
        ),
        (
            "- never: {from: {except: {workloads: [shop/nobody]}}, to: {services: [shop/db]}}",
            "from.except.workloads: shop/nobody is not a known workload; correct it",
        ),
        (
            "- never: {from: {except: {workloads: [legacy/cron-1]}}, to: {services: [shop/db]}}",
            "from.except.workloads: legacy/cron-1 has no sidecar",
        ),
        (
            "- never: {from: {except: {workloads: [shop/reviews-v1-1]}}, to: {services: [shop/db]}}",
            "shop/reviews-v1-1 shares its identity spiffe://cluster.local/ns/shop/sa/reviews with shop/reviews-v2-1; name both",
        ),
        (
            "- never: {from: {namespaces: [shop], except: {plainText: true, namespaces: [shop]}}, to: {services: [shop/db]}}",
            "there is nothing to judge: from names no caller",
        ),
        (
            "- never: {from: {}, to: {namespaces: [shop, shopp]}}",
            "to.namespaces: shopp has no workload; correct it",
        ),
        (
            "- never: {from: {}, to: {services: [shop/reviews], paths: ['/*/admin']}}",
            "to.paths: \"/*/admin\" is not a path",
        ),
        (
            "- never: {from: {}, to: {services: [shop/reviews], paths: ['/a?b']}}",
            "to.paths: \"/a?b\" is not a path",
        ),
        (
            "- never: {from: {}, to: {services: [shop/reviews], paths: ['/a#b']}}",
            "to.paths: \"/a#b\" is not a path",
        ),
        (
            "- never: {from: {}, to: {services: [shop/reviews], methods: [get]}}",
            "to.methods: \"get\" is not a method; write it in capitals",
        ),
    ] {
        let output = test(tests, &[]);
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{tests}\n{err}");
        let known = err.contains(error)
            || (error == "-f - is not" && err.contains("is not a file of assertions"));
        assert!(known, "no {error:?} in {err}");
    }
}

#[test]
fn a_folder_stands_for_all_files_below() {
    let folder = tempfile::tempdir().unwrap();
    let below = folder.path().join("below");
    std::fs::create_dir(&below).unwrap();
    let denied = json!({"tests": [{"deny": {"from": "shop/db-1", "to": "shop/reviews"}}]});
    std::fs::write(below.join("a.json"), denied.to_string()).unwrap();
    std::fs::write(folder.path().join("b.yml"), denied.to_string()).unwrap();
    let path = folder.path().to_str().unwrap();
    let output = heddle(&["policy", "test", "-d", "why.yaml", "-f", path], "");
    let out = String::from_utf8_lossy(&output.stdout);
    assert!(out.ends_with("2 passed, 0 failed\n"), "{out}");
}

#[test]
fn documents_have_the_same_content() {
    let tests = "- allow: {from: shop/frontend-1, to: shop/reviews}\n- {name: '<a & \"b\"', deny: {from: shop/frontend-1, to: shop/reviews}}";
    let json = test(tests, &["-o", "json"]);
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!((&json["passed"], &json["failed"]), (&json!(1), &json!(1)));
    assert_eq!(json["tests"][1]["result"], "failed");
    let yaml = test(tests, &["-o", "yaml"]);
    let yaml: Value = serde_saphyr::from_slice(&yaml.stdout).unwrap();
    assert_eq!(yaml, json);
    let xml = test(tests, &["-o", "junit"]);
    let xml = String::from_utf8_lossy(&xml.stdout);
    assert!(
        xml.contains("<testsuite name=\"heddle policy test\" tests=\"2\" failures=\"1\">"),
        "{xml}"
    );
    assert!(xml.contains("<testcase name=\"&lt;a &amp; &quot;b&quot;\" classname=\"-\"><failure message=\"failed\">"), "{xml}");
}
