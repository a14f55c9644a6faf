//! `heddle policy suggest`: policies by the callers that servers have reported.

use std::path::Path;

use serde_json::{Value, json};

use crate::heddle;

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
    let denied = format!(
        "left out: {EVIL}, 9 times: 100.00 % of its requests were forbidden (403, or PERMISSION_DENIED of gRPC)"
    );
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
    let denied = format!(
        "left out: {EVIL}, 9 times: 11.11 % of its requests were forbidden (403, or PERMISSION_DENIED of gRPC)"
    );
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
fn the_heading_has_the_time_in_which_every_replica_listened() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("edges.json");
    let document = include_str!("../fixtures/policy/edges.json");
    let young = document.replace("\"coveredSeconds\": 900", "\"coveredSeconds\": 30");
    std::fs::write(&file, young).unwrap();
    let file = file.to_str().unwrap();
    let args = [
        "policy", "suggest", "shop", "-d", "why.yaml", "--edges", file,
    ];
    let output = heddle(&args, "");
    let out = String::from_utf8_lossy(&output.stdout);
    for part in [
        "observed over 30 s.",
        "\n# callers were observed for 30 s, and 900 s are needed",
    ] {
        assert!(out.contains(part), "no {part:?} in\n{out}");
    }
}

#[test]
fn a_file_without_the_reports_of_servers_gives_no_policy() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("edges.json");
    std::fs::write(
        &file,
        json!({"windowSeconds": 900, "coveredSeconds": 900, "complete": true, "edges": []})
            .to_string(),
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
        "# left out: spiffe://cluster.local/ns/shop/sa/db, 900 times: 0.25 % of its requests were forbidden (403, or PERMISSION_DENIED of gRPC)\n",
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

/// A line of `heddle tap -o json`: a request of the frontend to the port for HTTP of a workload.
fn tapped(workload: &str, request: &str, more: &Value) -> String {
    let (method, path) = request.split_once(' ').unwrap();
    let mut line = json!({
        "namespace": "shop", "pod": workload, "workload": workload, "identity": "spiffe://cluster.local/ns/shop/sa/reviews",
        "timeMs": 1_700_000_000_000_u64, "reporter": "destination", "peer": "spiffe://cluster.local/ns/shop/sa/frontend",
        "service": "reviews", "backend": "in|9080", "method": method, "path": path, "status": 200,
    });
    let more = more.as_object().unwrap().clone();
    line.as_object_mut().unwrap().extend(more);
    format!("{line}\n")
}

#[test]
fn tapped_requests_name_the_methods_and_paths_of_callers() {
    let folder = tempfile::tempdir().unwrap();
    let requests = folder.path().join("requests.json");
    let none = json!({});
    let lines = [
        tapped("reviews-v1-1", "GET /reviews/17", &none),
        tapped(
            "reviews-v1-1",
            "GET /reviews/18",
            &json!({"timeMs": 1_700_000_090_500_u64}),
        ),
        tapped("reviews-v1-1", "POST /reviews", &none),
        tapped("reviews-v1-1", "GET /health", &none),
        // None of these is evidence.
        tapped(
            "reviews-v1-1",
            "DELETE /reviews/17",
            &json!({"status": 403}),
        ),
        tapped(
            "reviews-v1-1",
            "GET /claimed",
            &json!({"reporter": "source"}),
        ),
        tapped("reviews-v1-1", "GET /plain", &json!({"peer": ""})),
        tapped("reviews-v1-1", "GET /other", &json!({"namespace": "evil"})),
        tapped("reviews-v1-1", "GET /stranger", &json!({"peer": EVIL})),
        // No Allow rule can name this path.
        tapped("reviews-v2-1", "GET /x/../reviews", &none),
        tapped("reviews-v2-1", "GET /reviews", &none),
    ];
    std::fs::write(&requests, lines.concat()).unwrap();
    let with = [&SUGGEST[..], &["--requests", requests.to_str().unwrap()]].concat();
    let json = heddle(&[&with[..], &["-o", "json"]].concat(), "");
    let document: Value = serde_json::from_slice(&json.stdout).unwrap();
    let v1 = of_workload(&document, "shop/reviews-v1-1");
    let rules = json!([
        {"from": {"identities": ["shop/frontend"]}, "to": {"ports": [9080], "methods": ["GET"], "paths": ["/health", "/reviews/*"]}},
        {"from": {"identities": ["shop/frontend"]}, "to": {"ports": [9080], "methods": ["POST"], "paths": ["/reviews"]}},
    ]);
    assert_eq!(v1["policy"]["spec"]["rules"], rules, "{v1}");
    assert_eq!(v1["callers"][0]["requests"], json!({"9080": 4}));
    let v2 = of_workload(&document, "shop/reviews-v2-1");
    let rules = json!([{"from": {"identities": ["shop/frontend"]}, "to": {"ports": [9080]}}]);
    assert_eq!(v2["policy"]["spec"]["rules"], rules, "{v2}");

    let text = String::from_utf8(heddle(&with, "").stdout).unwrap();
    for part in [
        "# Methods and paths are those of 11 tapped requests, of 91 s. A busy sidecar",
        "# spiffe://cluster.local/ns/shop/sa/frontend called port 9080 2813 times; 4 requests were tapped\n",
        "# all methods and paths of port 9080 are allowed to spiffe://cluster.local/ns/shop/sa/frontend: no Allow rule can name 1 of its 2 requests",
    ] {
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }

    // By the production evaluator: all that was seen passes, and nothing else does.
    std::fs::write(folder.path().join("shop.yaml"), open_shop()).unwrap();
    std::fs::write(folder.path().join("policies.yaml"), text).unwrap();
    let (shop, policies) = (
        folder.path().join("shop.yaml"),
        folder.path().join("policies.yaml"),
    );
    let (shop, policies) = (shop.to_str().unwrap(), policies.to_str().unwrap());
    let tests = "tests:
- allow: {from: shop/frontend-1, to: shop/reviews, method: GET, path: /reviews/99}
- allow: {from: shop/frontend-1, to: shop/reviews, method: POST, path: /reviews}
- never: {from: {}, to: {workloads: [shop/reviews-v1-1], ports: [9080], methods: [DELETE]}}
- never: {from: {}, to: {workloads: [shop/reviews-v1-1], ports: [9080], paths: [/claimed, /other]}}
";
    let output = heddle(
        &["policy", "test", "-d", shop, "-d", policies, "-f", "-"],
        tests,
    );
    let out = String::from_utf8_lossy(&output.stdout);
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{out}{err}");
}

#[test]
fn a_file_that_no_tap_has_written_is_refused_with_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let requests = folder.path().join("requests.json");
    let line = tapped("reviews-v1-1", "GET /", &json!({}));
    std::fs::write(&requests, format!("{line}\n\u{1b}[31mno request\n")).unwrap();
    let with = [&SUGGEST[..], &["--requests", requests.to_str().unwrap()]].concat();
    let output = heddle(&with, "");
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{err}");
    let expected =
        "requests.json is not a request; write the file by `heddle tap NAMESPACE -o json`";
    assert!(
        err.contains("line 3 of ") && err.contains(expected),
        "{err}"
    );
    assert!(!err.contains('\u{1b}'), "{err:?}");
}
