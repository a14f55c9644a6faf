//! `heddle describe` from outside, over files.
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

fn describe(args: &[&str]) -> Output {
    let files = [
        "-f",
        "why.yaml",
        "-f",
        "why/traffic.yaml",
        "-f",
        "describe.yaml",
        "--edges",
        "policy/edges.json",
    ];
    heddle(&[&["describe"], args, &files].concat())
}

struct Case {
    args: &'static [&'static str],
    /// Parts of standard output.
    says: &'static [&'static str],
}

const CASES: &[Case] = &[
    Case {
        args: &["workload", "shop/db-1"],
        says: &[
            "identity   spiffe://cluster.local/ns/shop/sa/db\n",
            "policies   AuthPolicy shop/db\n",
            "3306    tcp       Strict      AuthPolicy shop/db  -            -\n",
            "5000    tcp       Permissive  AuthPolicy shop/db  -            -\n",
            "5000    spiffe://cluster.local/ns/shop/sa/reviews  shop/reviews-v1-1, shop/reviews-v2-1  a connection  allowed by AuthPolicy shop/db, rule 0\n",
            "plain text                                 db       0.2/s\n",
        ],
    },
    Case {
        args: &["workload", "shop/frontend-1"],
        says: &[
            "others  any caller  -          -            no rule denies a request\n",
            "shop/reviews                 -        12.5/s\n",
        ],
    },
    Case {
        args: &["workload", "shop/exporter-1"],
        says: &[
            "9113    -         none: left out of capture  annotation heddle.dev/exclude-inbound-ports",
            "9113    anybody ",
        ],
    },
    Case {
        args: &["service", "shop/exporter"],
        says: &[
            "request 4s, attempt 1s",
            "session  by cookie basket",
            "cors     ",
            "https://shop.example",
            "rewrite  host other.example, path /all\n",
            "retries  2 at most, if no application has the request\n",
        ],
    },
    Case {
        args: &["workload", "legacy/cron-1"],
        says: &["identity   none: it has no sidecar\n"],
    },
    Case {
        args: &["service", "shop/reviews"],
        says: &[
            "9080  http  http      9080    2      2     TrafficPolicy shop/reviews-port, TrafficPolicy shop/reviews\n",
            "25 % shop/reviews:9080 version=v1 (1 of 1 ready), 75 % shop/reviews:9080 version=v2 (1 of 1 ready)",
            "request 10s, attempt 3s  TrafficPolicy shop/reviews, TrafficPolicy shop/reviews-port\n",
            "whole service",
            "retries  1 at most, if no application has the request, or after no response or status 502 to 504; after a failure with an idempotent method alone; wait up to 10ms, then 100ms\n",
            "fault    PUT: 5 % wait 1s, then 50 % are answered with status 503\n",
            "headers  request sets x-tier: gold, response removes server\n",
            "sticky   by cookie version",
        ],
    },
    Case {
        args: &["policy", "AuthPolicy/shop/reviews"],
        says: &[
            "in force   yes\n",
            "workloads  shop/reviews-v1-1, shop/reviews-v2-1\n",
            "Enforced      True    Enforced",
            "    identities:\n",
        ],
    },
    Case {
        args: &["policy", "shop/reviews-group-b"],
        says: &[
            "policy    TrafficSplit shop/reviews-group-b\n",
            "services  shop/reviews:9080\n",
        ],
    },
];

#[test]
fn a_description_has_the_objects_in_force() {
    for case in CASES {
        let output = describe(case.args);
        let out = String::from_utf8_lossy(&output.stdout);
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{:?}\n{out}{err}", case.args);
        for part in case.says {
            assert!(out.contains(part), "{:?}: no {part:?} in\n{out}", case.args);
        }
    }
}

#[test]
fn the_document_has_the_rules_by_precedence_with_their_backends() {
    let output = describe(&["service", "shop/reviews", "-o", "json"]);
    let service: Value = serde_json::from_slice(&output.stdout).unwrap();
    let rules = service["rules"].as_array().unwrap();
    let named = |rule: &Value| rule["rule"].as_str().unwrap().to_owned();
    let names: Vec<String> = rules.iter().map(named).collect();
    assert_eq!(names.last().unwrap(), "whole service");
    let split = &rules[names.iter().position(|of| of.contains("group-b")).unwrap()];
    assert_eq!(
        split["policies"],
        json!([
            "TrafficPolicy shop/reviews",
            "TrafficPolicy shop/reviews-port"
        ])
    );
    let backends = split["backends"].as_array().unwrap();
    let weights: Vec<&Value> = backends.iter().map(|of| &of["percent"]).collect();
    assert_eq!(weights, [&json!(25.0), &json!(75.0)]);
    assert_eq!(backends[0]["ready"], 1);
    assert_eq!(service["callersSeen"][0]["from"], "shop/frontend-1");
}

#[test]
fn the_document_has_every_setting_of_a_rule_and_the_ports_left_out_of_capture() {
    let read = |args: &[&str]| -> Value { serde_json::from_slice(&describe(args).stdout).unwrap() };
    let service = read(&["service", "shop/exporter", "-o", "json"]);
    let rule = &service["rules"][0];
    assert_eq!(rule["timeoutSeconds"]["perTry"], 1.0, "{rule}");
    assert_eq!(rule["retries"]["attempts"], 2, "{rule}");
    for setting in ["session", "cors", "headers", "faults", "sticky"] {
        assert!(rule.get(setting).is_some(), "{setting}: {rule}");
    }
    assert!(
        rule["session"].as_str().unwrap().contains("basket"),
        "{rule}"
    );
    let workload = read(&["workload", "shop/exporter-1", "-o", "json"]);
    let ports = workload["ports"].as_array().unwrap();
    let of = |port: &Value| (port["port"].clone(), port["captured"].clone());
    assert_eq!(
        ports.iter().map(of).collect::<Vec<_>>(),
        [
            (json!(8080), json!(true)),
            (json!(9113), json!(false)),
            (json!("others"), json!(true)),
        ]
    );
}

#[test]
fn the_policies_of_a_rule_are_in_the_order_of_precedence() {
    let describe = |args: &[&str]| {
        let files = ["-f", "why.yaml", "-f", "why/targets.yaml"];
        heddle(&[&["describe"], args, &files].concat())
    };
    let output = describe(&["service", "shop/search"]);
    let out = String::from_utf8_lossy(&output.stdout);
    let rows = [
        "8080  -        HTTPRoute shop/search/0  HTTPRoute shop/search            itself   timeouts.request\n",
        "8080  -        HTTPRoute shop/search/0  TrafficPolicy shop/suggest       rule     timeouts\n",
        "8080  -        HTTPRoute shop/search/0  TrafficPolicy shop/search-route  route    retries\n",
        "8080  -        HTTPRoute shop/search/0  TrafficPolicy shop/search        service  limits\n",
        "8080  -        HTTPRoute shop/search/1  TrafficPolicy shop/search-route  route    timeouts, retries\n",
        "8080  -        HTTPRoute shop/search/1  TrafficPolicy shop/search        service  limits",
    ];
    assert!(out.contains(&rows.concat()), "{out}");
    let output = describe(&["policy", "TrafficPolicy/shop/suggest"]);
    let out = String::from_utf8_lossy(&output.stdout);
    assert!(out.contains("services  shop/search:8080\n"), "{out}");
    // The status names the place where it lost.
    let output = describe(&["policy", "TrafficPolicy/shop/search"]);
    let out = String::from_utf8_lossy(&output.stdout);
    let lost = "TrafficPolicy shop/search-route wins timeouts of HTTPRoute shop/search, for it names the route; TrafficPolicy shop/suggest wins timeouts of rule suggest of HTTPRoute shop/search, for it names the rule";
    assert!(out.contains(lost), "{out}");
}

#[test]
fn unknown_names_are_errors() {
    for (args, says) in [
        (
            ["workload", "shop/nobody"],
            "shop/nobody is not a known workload",
        ),
        (
            ["service", "shop/nothing"],
            "shop/nothing is not a known service",
        ),
        (
            ["policy", "shop/nothing"],
            "shop/nothing is not a known policy; the kinds are ",
        ),
        (
            ["policy", "TrafficSplit/shop/reviews"],
            "is not a known policy",
        ),
        (
            ["workload", "reviews"],
            "\"reviews\" is not a name; write NAMESPACE/NAME",
        ),
        (["service", "a/b/c"], "\"a/b/c\" is not a name"),
    ] {
        let output = describe(&args);
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{err}");
        assert!(err.contains(says), "{err}");
    }
}
