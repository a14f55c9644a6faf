//! The binary from outside: exit codes and messages.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests may panic"
)]

mod harness;

use harness::heddle;
use serde_json::Value;

struct Case {
    args: &'static [&'static str],
    code: i32,
    out: &'static [&'static str],
    err: &'static [&'static str],
}

const CASES: &[Case] = &[
    Case {
        args: &["analyze", "-f", "shop.yaml", "-f", "sound.yaml"],
        code: 0,
        out: &[
            "conditions are as they should be (--all shows them)\n\n1 policy object, 1 sidecar: no findings",
        ],
        err: &[],
    },
    Case {
        args: &["analyze", "--all", "-f", "shop.yaml", "-f", "sound.yaml"],
        code: 0,
        out: &[
            "TrafficSplit shop/reviews  ResolvedRefs  True",
            "1 policy object, 1 sidecar: no findings",
        ],
        err: &[],
    },
    Case {
        args: &["analyze", "-f", "shop.yaml", "-f", "missing-backend.yaml"],
        code: 1,
        out: &["BackendNotFound", "1 error"],
        err: &[
            "error: TrafficSplit shop/reviews: spec.backends[1].service: service shop/reviews-v9 does not exist (fix: ",
        ],
    },
    Case {
        args: &["analyze", "-f", "shop.yaml", "-f", "unknown-field.yaml"],
        code: 1,
        out: &[
            "AuthPolicy shop/typo  Accepted   False   Invalid",
            "AuthPolicy shop/typo  Enforced   False   Denied",
            "so all that it could select is denied",
        ],
        err: &["error: AuthPolicy shop/typo: spec.rulez: the API has no such field"],
    },
    Case {
        args: &["analyze", "-f", "shop.yaml", "-f", "conflict.yaml"],
        code: 1,
        out: &["TrafficSplit shop/b-reviews  Conflicted  True    Conflict"],
        err: &[
            "error: TrafficSplit shop/b-reviews: spec.service: TrafficSplit shop/a-reviews wins",
        ],
    },
    // An unreadable document hides no readable one.
    Case {
        args: &["analyze", "-f", "shop.yaml", "-f", "not-yaml.yaml"],
        code: 1,
        out: &["conditions are as they should be"],
        err: &["error: Document not-yaml.yaml: document at line 1:"],
    },
    Case {
        args: &[
            "compile",
            "-f",
            "shop.yaml",
            "-f",
            "sound.yaml",
            "--proxy",
            "shop/reviews-v2",
        ],
        code: 0,
        out: &[
            "# shop/reviews-v2",
            "identity: spiffe://cluster.local/ns/shop/sa/reviews",
            "name: inbound",
        ],
        err: &["1 sidecar: no findings"],
    },
    Case {
        args: &["compile", "-f", "shop.yaml", "-f", "missing-backend.yaml"],
        code: 1,
        out: &["# shop/reviews-v2"],
        err: &["error: TrafficSplit shop/reviews: spec.backends[1].service:"],
    },
    Case {
        args: &["compile", "-f", "shop.yaml", "--proxy", "shop/nobody"],
        code: 1,
        out: &[],
        err: &["no sidecar shop/nobody; there are: shop/reviews-v2"],
    },
    Case {
        args: &["compile", "-f", "nowhere"],
        code: 1,
        out: &[],
        err: &["cannot read nowhere"],
    },
    Case {
        args: &["compile"],
        code: 2,
        out: &[],
        err: &["--filename"],
    },
    Case {
        args: &["analyze"],
        code: 1,
        out: &[],
        err: &["heddle: "],
    },
    Case {
        args: &["install"],
        code: 0,
        out: &[
            "kind: CustomResourceDefinition",
            "kind: Deployment",
            "trafficsplits.heddle.dev",
        ],
        err: &[],
    },
    Case {
        args: &["install", "--wait"],
        code: 2,
        out: &[],
        err: &["--apply"],
    },
    Case {
        args: &["uninstall", "--dry-run"],
        code: 0,
        out: &[
            "MutatingWebhookConfiguration heddle-injector would be deleted\nDeployment heddle-system/heddle-operator would be deleted",
        ],
        err: &[],
    },
    Case {
        args: &["proxy", "status", "--runtime-dir", "nowhere"],
        code: 1,
        out: &[],
        err: &["cannot read nowhere/proxies.json"],
    },
    Case {
        args: &["proxy", "status", "--runtime-dir", "runtime"],
        code: 1,
        out: &[
            "shop/a-1  standalone  3      4          2 kB  envoy 1.40.0  in sync",
            "shop/b-1  standalone  -      4          2 kB  envoy 1.40.0  behind by 2 of 4",
            "shop/c-1  -           -      4          0 kB  -             never connected",
            "3 sidecars, 1 in sync",
        ],
        err: &["2 sidecars are not as they should be"],
    },
    Case {
        args: &["proxy", "status", "a-1", "--runtime-dir", "runtime"],
        code: 0,
        out: &[
            "shop/a-1\n  identity   spiffe://cluster.local/ns/shop/sa/a",
            "scope      3 destinations",
        ],
        err: &[],
    },
    Case {
        args: &[
            "proxy",
            "status",
            "nobody",
            "--runtime-dir",
            "runtime",
            "-o",
            "json",
        ],
        code: 1,
        out: &["\"complete\": true"],
        err: &["no sidecar nobody is known to the control plane"],
    },
    Case {
        args: &[
            "proxy",
            "status",
            "-n",
            "shop",
            "a-1",
            "--runtime-dir",
            "runtime",
        ],
        code: 0,
        out: &["shop/a-1\n  identity"],
        err: &[],
    },
    Case {
        args: &[
            "proxy",
            "status",
            "--namespace=other",
            "--runtime-dir=runtime",
        ],
        code: 1,
        out: &[],
        err: &["no sidecar of namespace other is known to the control plane"],
    },
    Case {
        args: &[
            "proxy",
            "status",
            "-n=other",
            "shop/a-1",
            "--runtime-dir=runtime",
        ],
        code: 1,
        out: &[],
        err: &["no sidecar other/shop/a-1"],
    },
    Case {
        args: &["version"],
        code: 0,
        out: &[
            concat!("heddle ", env!("CARGO_PKG_VERSION")),
            "control plane: unknown (no cluster",
        ],
        err: &[],
    },
    Case {
        args: &["completions", "bash"],
        code: 0,
        out: &["heddle__subcmd__proxy__subcmd__status", "--runtime-dir"],
        err: &[],
    },
    Case {
        args: &["completions", "tcsh"],
        code: 2,
        out: &[],
        err: &["possible values"],
    },
    Case {
        args: &["demo", "--bin-dir", "nowhere"],
        code: 1,
        out: &[],
        err: &["nowhere/heddle-operator is not there; run cargo build --bins"],
    },
];

#[test]
fn exit_codes_and_messages() {
    for case in CASES {
        let output = heddle(case.args);
        let (out, err) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        assert_eq!(
            output.status.code(),
            Some(case.code),
            "{:?}\n{out}\n{err}",
            case.args
        );
        for part in case.out {
            assert!(
                out.contains(part),
                "{:?}: {part:?} is not in standard output:\n{out}",
                case.args
            );
        }
        for part in case.err {
            assert!(
                err.contains(part),
                "{:?}: {part:?} is not in standard error:\n{err}",
                case.args
            );
        }
    }
}

#[test]
fn compile_says_of_each_resource_what_it_is_and_whom_it_comes_from() {
    let output = heddle(&[
        "compile",
        "-f",
        "shop.yaml",
        "-f",
        "sound.yaml",
        "--outbound",
        "-o",
        "json",
    ]);
    let views: Value = serde_json::from_slice(&output.stdout).unwrap();
    let resources = views["shop/reviews-v2"]["resources"].as_array().unwrap();
    assert!(!resources.is_empty());
    for resource in resources {
        assert!(
            resource["type"]
                .as_str()
                .unwrap()
                .starts_with("envoy.config."),
            "{resource}"
        );
        assert!(!resource["resource"].is_null(), "{resource}");
        assert!(
            resource["origins"].is_array() && resource["requires"].is_array(),
            "{resource}"
        );
    }
}

#[test]
fn analyze_for_programs_is_one_json_document() {
    let output = heddle(&[
        "analyze",
        "-f",
        "shop.yaml",
        "-f",
        "missing-backend.yaml",
        "-o",
        "json",
    ]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["findings"][0]["object"], "TrafficSplit shop/reviews");
    assert_eq!(report["findings"][0]["field"], "spec.backends[1].service");
    assert_eq!(report["objects"][0]["conditions"][0]["type"], "Accepted");
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    let run = || heddle(&["compile", "-f", "shop.yaml", "-f", "sound.yaml"]).stdout;
    assert_eq!(run(), run());
}
