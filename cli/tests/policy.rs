//! `heddle policy` from outside, over files.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests may panic"
)]

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

fn heddle(args: &[&str], input: &str) -> Output {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let mut child = Command::new(env!("CARGO_BIN_EXE_heddle"))
        .args(args)
        .current_dir(fixtures)
        .env("KUBECONFIG", "/does/not/exist")
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
    let args = ["policy", "test", "-d", "why.yaml", "-f", "policy"];
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
        test: "- never: {from: {namespaces: [other]}, to: {workloads: [shop/frontend-1]}}",
        says: &[
            "spiffe://cluster.local/ns/other/sa/any-other to shop/frontend-1 any other port: a connection: allowed, for no Allow rule holds there\n",
        ],
    },
    Case {
        test: "- never: {from: {plainText: true}, to: {workloads: [shop/frontend-1]}}",
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

const SUGGEST: [&str; 7] = [
    "policy",
    "suggest",
    "shop",
    "-d",
    "why.yaml",
    "--edges",
    "policy/edges.json",
];

/// The shop without its own policies, and with the suggested ones.
fn suggested(folder: &Path) -> String {
    let output = heddle(&SUGGEST, "");
    assert_eq!(
        output.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let shop = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/why.yaml");
    let shop = std::fs::read_to_string(shop).unwrap();
    let objects: Vec<&str> = shop
        .split("---\n")
        .filter(|object| !object.contains("kind: AuthPolicy"))
        .collect();
    std::fs::write(folder.join("shop.yaml"), objects.join("---\n")).unwrap();
    let policies = String::from_utf8(output.stdout).unwrap();
    std::fs::write(folder.join("policies.yaml"), &policies).unwrap();
    folder.to_str().unwrap().to_owned()
}

#[test]
fn suggested_policies_allow_exactly_the_observed_callers() {
    let folder = tempfile::tempdir().unwrap();
    let objects = suggested(folder.path());
    let analyzed = heddle(&["analyze", "-f", &objects], "");
    assert_eq!(
        analyzed.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&analyzed.stderr)
    );
    let tests = "tests:
- allow: {from: shop/frontend-1, to: shop/reviews, method: DELETE, path: /x}
- allow: {from: shop/reviews-v1-1, to: shop/db, port: 5000}
- never: {from: {except: {identities: [shop/frontend]}}, to: {workloads: [shop/reviews-v1-1, shop/reviews-v2-1], ports: [9080]}}
- never: {from: {except: {identities: [shop/reviews]}}, to: {workloads: [shop/db-1], ports: [5000]}}
- never: {from: {}, to: {workloads: [shop/db-1], ports: [3306]}}
";
    let output = heddle(&["policy", "test", "-d", &objects, "-f", "-"], tests);
    let out = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{out}");
}

#[test]
fn doubtful_callers_are_named_and_left_out() {
    let output = heddle(&SUGGEST, "");
    let out = String::from_utf8(output.stdout).unwrap();
    for part in [
        "# Callers of namespace shop, observed over 900 s. Review each rule before you apply it:\n",
        "# Left out: spiffe://cluster.local/ns/shop/sa/frontend, 900 times: shop/gone [31m kind: Secret leads to no known pod\n",
        "# shop/reviews-v1-1\n# spiffe://cluster.local/ns/shop/sa/frontend called port 9080 11250 times\n",
        "# left out: spiffe://cluster.local/ns/shop/sa/db, 900 times: every request was answered with 403\n",
        "# left out: a caller outside the mesh, 180 times: without a certificate: no policy can name the caller",
        "# left out: spiffe://cluster.local/ns/shop/sa/frontend, 90 times: a claim of the caller: no server reports its certificate\n",
        "# Allow rules of shop/reviews hold for it already; what they allow stays allowed\n",
        "# port 3306: no caller to allow, so it is closed; without the Deny rule it stays as it is\n",
        "      version: v1\n",
    ] {
        assert!(out.contains(part), "no {part:?} in\n{out}");
    }
    assert!(
        !out.contains(|c: char| c.is_control() && c != '\n'),
        "{out:?}"
    );
    assert!(!out.contains("\nkind: Secret"), "{out}");
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(err.contains("observed in 15 min at most"), "{err}");
    let json = heddle(&[&SUGGEST[..], &["--audit", "-o", "json"]].concat(), "");
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    let policy = &json["suggestions"][0]["policy"];
    assert_eq!(policy["metadata"]["name"], "observed-callers-db-1");
    assert_eq!(policy["spec"]["mode"], "Audit");
    let rules = json!([
        {"from": {"identities": ["shop/reviews"]}, "to": {"ports": [5000]}},
        {"action": "Deny", "to": {"ports": [3306]}},
    ]);
    assert_eq!(policy["spec"]["rules"], rules);
}
