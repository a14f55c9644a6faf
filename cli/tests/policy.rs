//! `heddle policy` from outside, over files.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests may panic"
)]

mod harness;

use std::io::Write;
use std::path::Path;
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

const SUGGEST: [&str; 7] = [
    "policy",
    "suggest",
    "shop",
    "-d",
    "why.yaml",
    "--edges",
    "policy/edges.json",
];

/// The shop without its own policies.
fn open_shop() -> String {
    let shop = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/why.yaml");
    let shop = std::fs::read_to_string(shop).unwrap();
    let objects: Vec<&str> = shop
        .split("---\n")
        .filter(|object| !object.contains("kind: AuthPolicy"))
        .collect();
    objects.join("---\n")
}

/// A report as a control plane gives it.
fn edge(reporter: &str, (namespace, workload): (&str, &str), more: &Value) -> Value {
    let account = workload.split('-').next().unwrap();
    let identity = format!("spiffe://cluster.local/ns/{namespace}/sa/{account}");
    let mut edge = json!({
        "reporter": reporter, "namespace": namespace, "workload": workload, "identity": identity, "peer": "",
        "serviceNamespace": namespace, "service": "-", "backend": "", "protocol": "http",
        "responses": [0, 0, 9, 0, 0, 0], "failures": 0, "forbidden": 0,
        "durations": [9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        "connections": 0, "receivedBytes": 0, "sentBytes": 0,
    });
    let more = more.as_object().unwrap().clone();
    edge.as_object_mut().unwrap().extend(more);
    edge
}

const EVIL: &str = "spiffe://cluster.local/ns/evil/sa/a";

/// Policies for the open shop by reports, and by more objects.
fn suggest_from(edges: &[Value], objects: &str) -> Value {
    let folder = tempfile::tempdir().unwrap();
    let shop = folder.path().join("shop.yaml");
    std::fs::write(&shop, format!("{}---\n{objects}", open_shop())).unwrap();
    let report = folder.path().join("edges.json");
    let document =
        json!({"version": 1, "windowSeconds": 900, "coveredSeconds": 900, "edges": edges});
    std::fs::write(&report, document.to_string()).unwrap();
    let [shop, report] = [&shop, &report].map(|path| path.to_str().unwrap());
    let args = [
        "policy", "suggest", "shop", "-d", shop, "--edges", report, "-o", "json",
    ];
    let output = heddle(&args, "");
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{err}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The suggestion for a workload.
fn of_workload<'a>(document: &'a Value, workload: &str) -> &'a Value {
    let mut all = document["suggestions"].as_array().unwrap().iter();
    all.find(|one| one["workload"] == workload).unwrap()
}

#[test]
fn a_report_of_a_server_elsewhere_supports_no_claim() {
    let edges = [
        edge(
            "destination",
            ("evil", "x"),
            &json!({"peer": EVIL, "service": "x"}),
        ),
        edge(
            "source",
            ("evil", "a"),
            &json!({"service": "x", "backend": "out|shop/db|5432"}),
        ),
        edge(
            "source",
            ("evil", "a"),
            &json!({"service": "x", "backend": "out|shop/db|5000"}),
        ),
    ];
    let document = suggest_from(&edges, "");
    let db = of_workload(&document, "shop/db-1");
    assert_eq!(db["policy"], Value::Null, "{db}");
    let claimed = format!(
        "left out: {EVIL}, 9 times: port 5000 is a claim of the caller: no server reports it"
    );
    assert_eq!(db["notes"][0], claimed);
    let nowhere = format!("{EVIL}, 9 times: shop/db port 5432 leads to no known pod");
    assert_eq!(document["leftOut"], json!([nowhere]));
    assert!(!document.to_string().contains("evil/a\""), "{document}");
}

#[test]
fn answers_of_a_server_count_more_than_those_a_caller_claims() {
    let forbidden = json!({
        "peer": EVIL, "service": "reviews", "responses": [0, 0, 0, 0, 9, 0], "forbidden": 9,
    });
    let claim = json!({
        "serviceNamespace": "shop", "service": "reviews", "backend": "out|shop/reviews|9080",
    });
    let edges = [
        edge("destination", ("shop", "reviews-v1-1"), &forbidden),
        edge("source", ("evil", "a"), &claim),
    ];
    let document = suggest_from(&edges, "");
    let reviews = of_workload(&document, "shop/reviews-v1-1");
    assert_eq!(reviews["policy"], Value::Null, "{reviews}");
    let denied =
        format!("left out: {EVIL}, 9 times: 100.00 % of its requests were answered with 403");
    assert_eq!(reviews["notes"][0], denied);
    assert!(!document.to_string().contains("evil/a\""), "{document}");
}

#[test]
fn a_caller_that_is_denied_in_part_is_left_out() {
    let partly = json!({
        "peer": EVIL, "service": "reviews", "responses": [0, 0, 8, 0, 1, 0], "forbidden": 1,
    });
    let document = suggest_from(
        &[edge("destination", ("shop", "reviews-v1-1"), &partly)],
        "",
    );
    let reviews = of_workload(&document, "shop/reviews-v1-1");
    assert_eq!(reviews["policy"], Value::Null, "{reviews}");
    let denied =
        format!("left out: {EVIL}, 9 times: 11.11 % of its requests were answered with 403");
    assert_eq!(reviews["notes"][0], denied);
}

#[test]
fn a_claim_chooses_only_among_the_ports_that_a_server_has_reported() {
    let called = |service: &str| json!({"peer": EVIL, "service": service});
    let claim = |backend: &str| {
        let claim = json!({"serviceNamespace": "shop", "service": "reviews", "backend": backend});
        edge("source", ("evil", "a"), &claim)
    };
    // Another port of the workload, which another service leads to.
    let admin = "apiVersion: v1\nkind: Service\nmetadata: {name: admin, namespace: shop}\nspec: {clusterIP: 10.96.0.78, clusterIPs: [10.96.0.78], selector: {app: reviews}, ports: [{name: http, port: 9999}]}\n";
    let edges = [
        edge("destination", ("shop", "reviews-v1-1"), &called("reviews")),
        claim("out|shop/reviews|9999"),
        claim("out|shop/admin|9999"),
    ];
    let document = suggest_from(&edges, admin);
    let reviews = of_workload(&document, "shop/reviews-v1-1");
    assert_eq!(reviews["callers"][0]["ports"], json!([9080]), "{reviews}");
    let claimed = format!(
        "left out: {EVIL}, 9 times: port 9999 is a claim of the caller: no server reports it"
    );
    assert_eq!(reviews["notes"][0], claimed);
    let nowhere = format!("{EVIL}, 9 times: shop/reviews port 9999 leads to no known pod");
    assert_eq!(document["leftOut"], json!([nowhere]));
    // Its server has not been called.
    let other = of_workload(&document, "shop/reviews-v2-1");
    assert_eq!(other["policy"], Value::Null, "{other}");
    // A service with several ports, of which no report names one.
    let document = suggest_from(&[edge("destination", ("shop", "db-1"), &called("db"))], "");
    let db = of_workload(&document, "shop/db-1");
    assert_eq!(db["policy"], Value::Null, "{db}");
    let open = format!(
        "left out: {EVIL}, 9 times: service shop/db leads to ports 3306, 5000, and no report names one"
    );
    assert_eq!(db["notes"][0], open);
}

#[test]
fn a_connection_that_the_policies_deny_is_no_evidence() {
    let bytes = json!({"peer": EVIL, "service": "reviews", "protocol": "tcp", "responses": [0, 0, 0, 0, 0, 0], "connections": 9});
    let closed = "apiVersion: heddle.dev/v1alpha1\nkind: AuthPolicy\nmetadata: {name: closed, namespace: shop}\nspec: {target: {service: reviews}, rules: [{from: {identities: [shop/frontend]}}]}\n";
    let document = suggest_from(
        &[edge("destination", ("shop", "reviews-v1-1"), &bytes)],
        closed,
    );
    let reviews = of_workload(&document, "shop/reviews-v1-1");
    assert_eq!(reviews["policy"], Value::Null, "{reviews}");
    let denied = format!("left out: {EVIL}, 9 times: the policies of the workload deny it");
    assert_eq!(reviews["notes"][0], denied);
}

/// A pod of a ReplicaSet or another owner.
fn pod(name: &str, owner: (&str, &str), labels: &str) -> String {
    let (kind, owner) = owner;
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  namespace: shop\n  labels: {{{labels}}}\n  \
         ownerReferences: [{{apiVersion: apps/v1, kind: {kind}, name: {owner}, uid: u, controller: true}}]\nspec:\n  serviceAccountName: queue\n  \
         initContainers: [{{name: heddle-proxy, image: heddle/sidecar, restartPolicy: Always}}]\n  containers: [{{name: app, image: app, ports: [{{containerPort: 7000}}]}}]\n\
         status: {{phase: Running, podIP: 10.0.1.{}, podIPs: [{{ip: 10.0.1.{0}}}]}}\n",
        name.len() + usize::from(name.as_bytes()[name.len() - 1])
    )
}

#[test]
fn a_policy_selects_all_pods_of_its_workload_and_no_others() {
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: queue, namespace: shop}\nspec: {clusterIP: 10.96.0.79, clusterIPs: [10.96.0.79], selector: {part: queue}, ports: [{name: http, port: 7000}]}\n";
    let called = edge(
        "destination",
        ("shop", "queue"),
        &json!({"peer": EVIL, "service": "queue"}),
    );
    let set = ("StatefulSet", "queue");
    let suggested = |pods: [String; 2]| {
        let document = suggest_from(
            std::slice::from_ref(&called),
            &(service.to_owned() + &pods.concat()),
        );
        of_workload(&document, "shop/queue").clone()
    };
    // Labels of one pod and of one revision come and go; `part` stays, and others have `app`.
    let of_pod = |name: &str, revision: &str| {
        format!(
            "app: reviews, part: queue, apps.kubernetes.io/pod-index: '0', controller-revision-hash: {revision}, statefulset.kubernetes.io/pod-name: {name}, app.kubernetes.io/version: '{}'",
            revision.len()
        )
    };
    let both = suggested([
        pod("queue-0", set, &of_pod("queue-0", "r1")),
        pod("queue-1", set, &of_pod("queue-1", "r10")),
    ]);
    let labels = &both["policy"]["spec"]["selector"]["matchLabels"];
    assert_eq!(*labels, json!({"part": "queue"}), "{both}");
    // One pod has a label that the other lacks, and the rest is not theirs alone.
    let other = ("StatefulSet", "other");
    let none = suggested([
        pod("queue-0", set, "part: queue, only: here"),
        pod("queue-1", set, "part: queue") + &pod("other-2", other, "part: queue"),
    ]);
    assert_eq!(none["policy"], Value::Null, "{none}");
    let notes = none["notes"].to_string();
    assert!(
        notes.contains(
            "no policy: the labels that its pods have in common select pods of other workloads, too"
        ),
        "{notes}"
    );
    let bare = suggested([
        pod(
            "queue-0",
            set,
            "controller-revision-hash: part, part: queue, a: b",
        ),
        pod("queue-1", set, "controller-revision-hash: part"),
    ]);
    let notes = bare["notes"].to_string();
    assert!(
        notes.contains("no policy: its pods have no labels in common"),
        "{notes}"
    );
}

#[test]
fn a_file_without_the_reports_of_servers_gives_no_policy() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("edges.json");
    std::fs::write(
        &file,
        json!({"windowSeconds": 900, "complete": true, "edges": []}).to_string(),
    )
    .unwrap();
    let args = [
        "policy",
        "suggest",
        "shop",
        "-d",
        "why.yaml",
        "--edges",
        file.to_str().unwrap(),
    ];
    let output = heddle(&args, "");
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(
        err.contains("the file has no callers as servers report them; write it again"),
        "{err}"
    );
}

/// The shop without its own policies, and with the suggested ones.
fn suggested(folder: &Path) -> String {
    let output = heddle(&SUGGEST, "");
    assert_eq!(
        output.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    std::fs::write(folder.join("shop.yaml"), open_shop()).unwrap();
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
        "# shop/reviews-v1-1\n# spiffe://cluster.local/ns/shop/sa/frontend called port 9080 2813 times\n",
        "# left out: spiffe://cluster.local/ns/shop/sa/db, 900 times: 0.25 % of its requests were answered with 403\n",
        "# left out: a caller outside the mesh, 180 times: without a certificate: no policy can name the caller",
        "# left out: spiffe://cluster.local/ns/shop/sa/frontend, 90 times: port 5000 is a claim of the caller: no server reports it\n",
        "# port 5000 of spiffe://cluster.local/ns/shop/sa/reviews: only the caller names it; its service has several ports, and servers report none\n",
        "# shop/frontend-1\n# no policy: no caller to allow; what it accepts stays as it is\n",
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
