//! `heddle why` from outside, over files.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests may panic"
)]

mod harness;

use std::path::Path;
use std::process::{Command, Output};

use harness::heddle;
use serde_json::{Value, json};

/// Runs `heddle why` over the fixture.
fn why(from: &str, args: &[&str]) -> Output {
    let files = ["why", "-f", "why.yaml", "--from", from];
    heddle(&[&files, args].concat())
}

struct Case {
    from: &'static str,
    args: &'static [&'static str],
    /// Parts of standard output, in order.
    says: &'static [&'static str],
}

const REVIEWS: &str = "http://reviews:9080/reviews/1";

const OUTSIDE: &str = "why/outside.yaml";

const CASES: &[Case] = &[
    // Hosts outside, by TLS of the sidecar, by that of the application, below a wildcard, and those that are not open to the caller.
    Case {
        from: "shop/frontend-1",
        args: &["-f", OUTSIDE, "GET", "http://api.pay.example.com/charge"],
        says: &[
            "to        api.pay.example.com port 80, outside, named by ExternalService shop/payments: HTTP, sent to port 443 by TLS of the sidecar\n",
            "listener  external|80\n",
            "result    GET /charge leaves the mesh, for port 443 of api.pay.example.com as DNS has it\n",
        ],
    },
    Case {
        from: "shop/frontend-1",
        args: &["-f", OUTSIDE, "GET", "https://a.b.storage.example.com/"],
        says: &[
            "to        a.b.storage.example.com port 443, outside, named by ExternalService shop/storage as *.storage.example.com: TLS of the application\n",
            "result    the connection leaves the mesh, for port 443 of a.b.storage.example.com as DNS has it\n",
        ],
    },
    Case {
        from: "shop/frontend-1",
        args: &[
            "-f",
            OUTSIDE,
            "GET",
            "http://203.0.113.1/",
            "-H",
            "host: api.pay.example.com",
        ],
        says: &["named by ExternalService shop/payments"],
    },
    Case {
        from: "shop/frontend-1",
        args: &["-f", OUTSIDE, "GET", "http://only.till.example.com/"],
        says: &[
            "to      only.till.example.com port 80, outside, which no ExternalService names for this call; ExternalService till/other names it at port 80 for HTTP of other namespaces\n",
            "result  refused by the caller's sidecar: the Mesh has outbound: Deny\n",
        ],
    },
    Case {
        from: "shop/frontend-1",
        args: &["-f", OUTSIDE, "GET", "http://x.storage.example.com/"],
        says: &[
            "ExternalService shop/storage names it at port 443 for TLS\n",
            "refused by the caller's sidecar",
        ],
    },
    Case {
        from: "shop/frontend-1",
        args: &["GET", REVIEWS],
        says: &[
            "from       shop/frontend-1 as spiffe://cluster.local/ns/shop/sa/frontend, from 10.0.0.21\n",
            "to         service shop/reviews port 9080, HTTP\n",
            "listener   dst|10.96.0.10:9080\n",
            "rule       none: the service as a whole\n",
            "timeouts   request 10s, attempt 3s\n",
            "retries    1 at most, if no application has the request, or after no response or status 502 to 504; wait up to 10ms, then 100ms\n",
            "policies   TrafficPolicy shop/reviews\n",
            "backend    100 % shop/reviews:9080\n",
            "  servers  shop/reviews-v1-1, shop/reviews-v2-1, port 9080 by mTLS: allowed by AuthPolicy shop/reviews, rule 0\n",
            "result     GET /reviews/1 reaches the application\n",
        ],
    },
    // Policies of the rule, its route and the service, and a timeout of the rule itself.
    Case {
        from: "shop/frontend-1",
        args: &[
            "-f",
            "why/targets.yaml",
            "GET",
            "http://search:8080/suggest",
        ],
        says: &[
            "rule       HTTPRoute shop/search/0 (suggest), for path /suggest and below\n",
            "timeouts   request 4s, idle 60s\n",
            "retries    1 at most",
            "policies   TrafficPolicy shop/search, TrafficPolicy shop/search-route, TrafficPolicy shop/suggest\n",
            "order      HTTPRoute shop/search (itself): timeouts.request; TrafficPolicy shop/suggest (rule): timeouts; TrafficPolicy shop/search-route (route): retries; TrafficPolicy shop/search (service): limits\n",
            "  headers  response sets x-served-by: search\n",
        ],
    },
    // A user without a place, and one with the last of a hundred.
    Case {
        from: "shop/frontend-1",
        args: &[
            "-f",
            "why/traffic.yaml",
            "GET",
            REVIEWS,
            "-H",
            "x-sticky: 1",
        ],
        says: &[
            "rule       TrafficSplit shop/reviews-sticky, for x-sticky present\n",
            "headers    request sets x-tier: gold, response removes server\n",
            "sticky     by cookie version\n",
            "mirror     12.5% to shop/reviews:9080 version=v2\n",
            "backend    90 % shop/reviews:9080 version=v1\n",
            "  servers  shop/reviews-v1-1, port 9080",
            "  limit    5 requests in 1s, 10 at once, for each caller\n",
            "backend    10 % shop/reviews:9080 version=v2\n",
        ],
    },
    Case {
        from: "shop/frontend-1",
        args: &[
            "-f",
            "why/traffic.yaml",
            "POST",
            REVIEWS,
            "-H",
            "x-sticky: 1",
            "-H",
            "cookie: version=99",
        ],
        says: &[
            "sticky     by cookie version\n",
            "mirror     12.5% to shop/reviews:9080 version=v2\nbackend    100 % shop/reviews:9080 version=v2\n",
            "  limit    1 request in 1s, 1 at once, for all callers\n",
        ],
    },
    // A split with matches, by the full name.
    Case {
        from: "shop/frontend-1",
        args: &[
            "GET",
            "reviews.shop.svc.cluster.local:9080",
            "-H",
            "Cookie: a=1; group=b",
        ],
        says: &[
            "rule       TrafficSplit shop/reviews-group-b, for cookie group: b\n",
            "backend    25 % shop/reviews:9080 version=v1\n",
            "  servers  shop/reviews-v1-1, port 9080",
            "backend    75 % shop/reviews:9080 version=v2\n",
            "result     GET / reaches the application\n",
        ],
    },
    // Denied for want of a rule, by a rule in another spelling, and in audit only.
    Case {
        from: "shop/frontend-1",
        args: &["DELETE", "http://10.96.0.10:9080/"],
        says: &[
            "denied, for no Allow rule matches: AuthPolicy shop/reviews, rule 0\n",
            "result     denied with status 403\n",
        ],
    },
    Case {
        from: "shop/frontend-1",
        args: &["GET", "http://reviews.shop:9080//%61dmin"],
        says: &[
            "denied by AuthPolicy shop/reviews, rule 1\n",
            "result     denied",
        ],
    },
    Case {
        from: "shop/frontend-1",
        args: &["POST", REVIEWS],
        says: &[
            "retries    1 at most, if no application has the request; not after other failures, for POST is not idempotent; wait",
            "allowed by AuthPolicy shop/reviews, rule 0 (in audit: denied by AuthPolicy shop/reviews-audit, rule 0)\n",
        ],
    },
    Case {
        from: "shop/frontend-1",
        args: &["PUT", REVIEWS],
        says: &[
            "fault      5 % wait 1s, then 50 % are answered with status 503\n",
            "result     denied with status 403\n",
        ],
    },
    // A port that declares no protocol, and one of bytes.
    Case {
        from: "shop/reviews-v1-1",
        args: &["GET", "http://db:5000/"],
        says: &[
            "to         service shop/db port 5000, no declared protocol: bytes, without rules for requests\n",
            "backend    100 % shop/db:5000\n",
            "allowed by AuthPolicy shop/db, rule 0\n",
            "result     the connection reaches the application\n",
        ],
    },
    Case {
        from: "shop/frontend-1",
        args: &["GET", "https://db:3306/"],
        says: &[
            "port 3306, TCP: bytes",
            "result     denied by the caller's sidecar: every server denies every request of this caller\n",
        ],
    },
    // A caller without a sidecar: plain text, without an identity.
    Case {
        from: "legacy/cron-1",
        args: &["GET", "http://reviews.shop:9080/"],
        says: &[
            "legacy/cron-1 without a sidecar, so in plain text and without an identity",
            "by plain text: denied, for no Allow rule matches",
            "result     denied with status 403\n",
        ],
    },
    Case {
        from: "legacy/cron-1",
        args: &["GET", "http://db.shop:3306/"],
        says: &[
            "by plain text: refused, for mTLS is demanded\n",
            "result     refused: the connection is closed\n",
        ],
    },
    Case {
        from: "shop/frontend-1",
        args: &["GET", "http://10.0.0.11:9080/"],
        says: &[
            "called by the address of a pod, so without rules and timeouts\n",
            "listener   dst|10.0.0.11:9080\n",
            "allowed by AuthPolicy shop/reviews, rule 0\n",
        ],
    },
    Case {
        from: "shop/frontend-1",
        args: &["GET", "http://203.0.113.1/"],
        says: &[
            "to      203.0.113.1 port 80, which the mesh does not know\n",
            "result  the connection leaves the mesh as it is\n",
        ],
    },
    // The caller's sidecar answers before it routes, and removes headers that command it.
    Case {
        from: "shop/frontend-1",
        args: &["CONNECT", REVIEWS],
        says: &["result    status 404 of the caller's sidecar: no route takes CONNECT\n"],
    },
    Case {
        from: "shop/frontend-1",
        args: &["PROPFINDX", REVIEWS],
        says: &["result    status 400 of the caller's sidecar: over HTTP/1"],
    },
    Case {
        from: "shop/frontend-1",
        args: &["GET", REVIEWS, "-H", "connection: x-a", "-H", "x-a: 1"],
        says: &["rule       none: the service as a whole\n"],
    },
    Case {
        from: "shop/frontend-1",
        args: &["GET", REVIEWS, "-H", "x-a: 1"],
        says: &["rule       TrafficSplit shop/reviews-a, for x-a: 1\n"],
    },
    // A headless service.
    Case {
        from: "shop/frontend-1",
        args: &["GET", "http://peers:9080/"],
        says: &["result     GET / reaches the application\n"],
    },
    Case {
        from: "shop/frontend-1",
        args: &["GET", "http://empty/"],
        says: &["no endpoint takes it", "result    no endpoint"],
    },
    Case {
        from: "shop/frontend-1",
        args: &["GET", "https://reviews:9080/"],
        says: &[
            "result    status 400 of the caller's sidecar: the port carries HTTP, and TLS is not HTTP\n",
        ],
    },
];

#[test]
fn explanations_name_each_step() {
    for case in CASES {
        let output = why(case.from, case.args);
        let out = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{:?}\n{out}", case.args);
        assert!(!out.contains('\u{1b}'), "colors without a terminal: {out}");
        let mut rest = &*out;
        for part in case.says {
            let at = rest.find(part);
            let at = at.unwrap_or_else(|| panic!("{:?}: no {part:?} in\n{out}", case.args));
            rest = &rest[at..];
        }
    }
}

#[test]
fn errors_name_the_fault_and_the_fix() {
    for (from, args, error) in [
        (
            "shop/frontend-1",
            &["GET", "http://reviewz:9080/"][..],
            "reviewz is not a known service (shop/reviewz); correct the host, or add the service: namespace shop has db, empty, peers, reviews",
        ),
        (
            "shop/frontend-1",
            &["GET", "http://reviews/"],
            "80 is not a port of service shop/reviews; call port 9080",
        ),
        (
            "shop/frontend-1",
            &["GET", "http://10.96.0.30:80/"],
            "80 is not a port of service shop/db; call port 3306 or 5000",
        ),
        (
            "shop/frontend-1",
            &["GET", "http://partner/"],
            "shop/partner is not a service of the mesh, but of type ExternalName; call an address of api.example.com by IP:PORT",
        ),
        (
            "shop/nobody",
            &["GET", REVIEWS],
            "shop/nobody is not a known workload or pod; correct --from, or add the workload: namespace shop has db-1",
        ),
        (
            "frontend",
            &["GET", REVIEWS],
            "\"frontend\" is not a workload; write --from NAMESPACE/WORKLOAD",
        ),
        (
            "shop/frontend-1",
            &["GET", REVIEWS, "-H", "nope"],
            "\"nope\" is not a header; write -H \"NAME: VALUE\"",
        ),
        (
            "shop/frontend-1",
            &["G T", REVIEWS],
            "\"G T\" is not a method; write METHOD URL",
        ),
    ] {
        let output = why(from, args);
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args:?}\n{err}");
        assert!(
            err.starts_with(&format!("heddle: {error}")),
            "{args:?}\n{err}"
        );
        assert_eq!(err.lines().count(), 1, "{err}");
    }
}

/// Names of files are printed without the sequences that command a terminal.
#[test]
fn errors_have_no_control_characters() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("world.yaml");
    let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: \"evil\\e]0;owned\\a\", namespace: shop}\nspec: {containers: [{name: app}]}\n";
    std::fs::write(&file, text).unwrap();
    let commands: [&[&str]; 3] = [
        &["why", "--from", "shop/none", "GET", "http://a/", "-f"],
        &["why", "--from", "shop/\u{1b}[31m", "GET", "http://a/", "-f"],
        &["compile", "--proxy", "shop/\u{1b}[31m", "-f"],
    ];
    for command in commands {
        let output = Command::new(env!("CARGO_BIN_EXE_heddle"))
            .args(command)
            .arg(&file)
            .output()
            .unwrap();
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{err:?}");
        let control = |c: char| c.is_control() && c != '\n';
        assert!(!err.contains(control), "{command:?}: {err:?}");
    }
}

/// The sidecar of the caller answers preflight requests of rules with CORS, so that no server gets them.
#[test]
fn preflight_requests_have_no_backend() {
    let call = |method: &str, origin: &str| {
        let line = format!(
            "-f describe.yaml {method} http://exporter:8080/ -o json -H origin:{origin} -H access-control-request-method:PUT"
        );
        let args: Vec<&str> = line.split(' ').collect();
        let output = why("shop/frontend-1", &args);
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        document
    };
    for origin in ["https://shop.example", "https://other.example"] {
        let document = call("OPTIONS", origin);
        assert_eq!(document["outcome"], "Stopped", "{document}");
        assert_eq!(document["stopped"]["reason"], "Preflight", "{document}");
        assert_eq!(document["stopped"]["status"], 200, "{document}");
        assert_eq!(document["backends"], json!([]), "{document}");
    }
    let document = call("PUT", "https://shop.example");
    assert_eq!(document["stopped"], Value::Null, "{document}");
}

#[test]
fn the_pods_of_a_headless_service_have_to_be_declared() {
    let args = ["-f", "declared.yaml", "GET", "http://peers:9080/"];
    let output = why("shop/declares-1", &args);
    let out = String::from_utf8_lossy(&output.stdout);
    for part in [
        "shop/reviews-v1-1, port 9080 by mTLS: refused by the caller's sidecar, for the caller has not declared it\n",
        "refused by the caller's sidecar: the caller has not declared the destination\n",
    ] {
        assert!(out.contains(part), "no {part:?} in\n{out}");
    }
}

#[test]
fn documents_have_the_same_content() {
    let args = ["POST", REVIEWS, "-H", "cookie: group=b", "-o"];
    let json = why("shop/frontend-1", &[&args[..], &["json"]].concat());
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["outcome"], "Passes");
    assert_eq!(json["to"]["name"], "shop/reviews");
    assert_eq!(json["rule"]["id"], "TrafficSplit shop/reviews-group-b/0");
    assert_eq!(json["rule"]["timeoutSeconds"]["request"], json!(10.0));
    assert_eq!(json["backends"][1]["weight"], 3);
    let retries = json!({
        "attempts": 1, "failures": [], "withheld": true, "backoffSeconds": {"base": 0.01, "max": 0.1},
    });
    assert_eq!(json["rule"]["retries"], retries);
    let servers = &json["backends"][1]["servers"][0];
    assert_eq!(servers["rule"], "shop/reviews/0");
    assert_eq!(servers["audit"]["rule"], "shop/reviews-audit/0");
    let yaml = why("shop/frontend-1", &[&args[..], &["yaml"]].concat());
    let yaml: Value = serde_saphyr::from_slice(&yaml.stdout).unwrap();
    assert_eq!(yaml, json);
}

#[test]
fn documents_have_the_limits_the_user_and_the_mirrors() {
    let args = [
        "-f",
        "why/traffic.yaml",
        "GET",
        REVIEWS,
        "-H",
        "x-sticky: 1",
    ];
    let json = why("shop/frontend-1", &[&args[..], &["-o", "json"]].concat());
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    let rule = &json["rule"];
    assert_eq!(rule["sticky"], "cookie version");
    assert_eq!(rule["mirrors"][0]["percent"], json!(12.5));
    assert_eq!(
        rule["headers"],
        "request sets x-tier: gold, response removes server"
    );
    let limit = json!({"requests": 5, "periodSeconds": 1.0, "burst": 10, "perCaller": true, "shared": null});
    let servers = &json["backends"][0]["servers"][0];
    assert_eq!(servers["rateLimits"], json!([limit]));
}

#[test]
fn manifests_without_pods_are_explained_by_their_templates() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let output = Command::new(env!("CARGO_BIN_EXE_heddle"))
        .args(["why", "-f", "shop.yaml", "-f", "sound.yaml", "--from"])
        .args(["shop/reviews-v2", "GET", "reviews/"])
        .current_dir(fixtures)
        .output()
        .unwrap();
    let out = String::from_utf8_lossy(&output.stdout);
    assert!(
        out.contains("TrafficSplit shop/reviews, for any request"),
        "{out}"
    );
    assert!(
        out.contains("shop/reviews-v2, port 9080 by mTLS: allowed"),
        "{out}"
    );
}
