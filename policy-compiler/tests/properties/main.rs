//! Properties of every world, not only of the goldens.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod bounds;
mod decisions;
mod gate;
#[path = "../harness/mod.rs"]
mod harness;
mod samples;
mod spellings;

use std::collections::BTreeSet;
use std::net::IpAddr;

use heddle_policy_compiler::authz::{
    HttpRequest, Operation, PathPattern, PortAuthz, Request, Rule, RuleAction, Source, could_admit,
    decide, evaluate,
};
use heddle_policy_compiler::world::SpiffeId;
use heddle_policy_compiler::{KubeObject, ObjectKind, compile, ingest};
use proptest::prelude::*;
use serde_json::{Value, json};

fn base() -> Vec<KubeObject> {
    harness::base().unwrap()
}

fn parse(value: Value) -> Vec<KubeObject> {
    ingest::parse_json("test", value).0
}

/// JSON with the field names of our kinds and values that are right, almost right and wrong.
fn words() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        prop_oneof![Just(0), Just(80), Just(9080), Just(70_000), Just(-1)].prop_map(Value::from),
        prop_oneof![
            "[a-z/*.:{}%-]{0,8}",
            Just("reviews".to_owned()),
            Just("reviews-v1".to_owned()),
            Just("db".to_owned()),
            Just("Deny".to_owned()),
            Just("Strict".to_owned()),
            Just("10.0.0.0/8".to_owned()),
            Just("shop/frontend".to_owned()),
            Just("/a/*".to_owned()),
        ]
        .prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        let key = prop::sample::select(vec![
            "service",
            "port",
            "backends",
            "labels",
            "weight",
            "selector",
            "matchLabels",
            "target",
            "mode",
            "mtls",
            "ports",
            "rules",
            "action",
            "from",
            "to",
            "identities",
            "namespaces",
            "ipBlocks",
            "methods",
            "paths",
            "headers",
            "name",
            "exact",
            "regex",
            "app",
            "clusterIP",
            "containers",
            "targetPort",
            "httpGet",
            "readinessProbe",
            "path",
            "status",
            "endpoints",
            "addresses",
        ]);
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(key.prop_map(str::to_owned), inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn policies() -> impl Strategy<Value = (String, &'static str)> {
    let kinds = ObjectKind::watched().filter(|(kind, _)| kind.is_policy());
    let kinds = kinds.map(|(kind, resource)| (resource.api_version(), kind.api_kind()));
    prop::sample::select(kinds.collect::<Vec<_>>())
}

fn arbitrary_object() -> impl Strategy<Value = Value> {
    let mut kinds: Vec<(String, &str)> = ObjectKind::watched()
        .map(|(kind, resource)| (resource.api_version(), kind.api_kind()))
        .collect();
    kinds.push(("apps/v1".to_owned(), "Deployment"));
    let kind = prop::sample::select(kinds);
    let name = prop::sample::select(vec!["default", "a", "b", "reviews"]);
    (kind, name, words(), words(), 0..3_i64).prop_map(|((version, kind), name, spec, status, generation)| {
        json!({"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": "shop", "generation": generation}, "spec": spec, "status": status})
    })
}

fn request() -> impl Strategy<Value = Request> {
    let peer = prop::sample::select(vec![
        None,
        Some("shop/frontend"),
        Some("shop/db"),
        Some("legacy/x"),
    ]);
    let path = prop::sample::select(vec![
        "/",
        "/a",
        "/a/b",
        "//a",
        "/%61",
        "/a;x=1",
        "/x/../a",
        "/a%2f..%2fb",
        "/admin",
        "/admin/x?q=/a",
    ]);
    let http = prop::option::weighted(0.8, (prop::sample::select(vec!["GET", "POST"]), path));
    let source = prop::sample::select(vec!["10.1.2.3", "192.0.2.1", "fd00::1"]);
    (peer, http, source).prop_map(|(peer, http, source)| Request {
        peer: peer
            .and_then(|p| p.split_once('/'))
            .map(|(ns, sa)| SpiffeId::new("cluster.local", ns, sa)),
        source: source.parse::<IpAddr>().unwrap(),
        port: None,
        http: http.map(|(method, path)| HttpRequest {
            method: method.to_owned(),
            path: path.to_owned(),
            headers: Vec::new(),
        }),
    })
}

fn rule() -> impl Strategy<Value = Rule> {
    let identities = prop::sample::subsequence(vec!["frontend", "db"], 0..=2);
    let namespaces = prop::sample::subsequence(vec!["shop", "legacy"], 0..=1);
    let blocks = prop::sample::subsequence(vec!["10.0.0.0/8", "fd00::/8"], 0..=2);
    let methods = prop::sample::subsequence(vec!["GET", "POST"], 0..=2);
    let paths = prop::sample::subsequence(
        vec![
            PathPattern::Exact("/a".into()),
            PathPattern::Prefix("/a/".into()),
            PathPattern::Prefix("/".into()),
            PathPattern::Exact("/admin".into()),
        ],
        0..=2,
    );
    (
        any::<bool>(),
        any::<bool>(),
        (identities, namespaces),
        blocks,
        methods,
        paths,
        0..1000_u32,
    )
        .prop_map(
            |(deny, audit, (identities, namespaces), blocks, methods, paths, id)| Rule {
                id: format!("shop/p/{id}").into(),
                action: if deny {
                    RuleAction::Deny
                } else {
                    RuleAction::Allow
                },
                audit,
                from: Source {
                    identities: identities
                        .into_iter()
                        .map(|sa| SpiffeId::new("cluster.local", "shop", sa))
                        .collect(),
                    identity_prefixes: namespaces
                        .into_iter()
                        .map(|ns| format!("spiffe://cluster.local/ns/{ns}/").into())
                        .collect(),
                    blocks: blocks.into_iter().map(|b| b.parse().unwrap()).collect(),
                },
                to: Operation {
                    methods: methods.into_iter().map(Into::into).collect(),
                    paths,
                    ..Operation::default()
                },
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// The compile is total and ignores the order, with any content of the objects.
    #[test]
    fn any_objects_compile_the_same_in_any_order(objects in prop::collection::vec(arbitrary_object(), 1..5)) {
        let mut seen = BTreeSet::new();
        // The same name twice is one object in a cluster: the later one replaces the earlier.
        let objects: Vec<KubeObject> = objects.into_iter().filter(|o| seen.insert((o["kind"].to_string(), o["metadata"]["name"].to_string()))).flat_map(parse).collect();
        let all: Vec<KubeObject> = base().into_iter().filter(|o| !matches!(o, KubeObject::Service(s) if s.metadata.name.as_deref() == Some("reviews"))).chain(objects).collect();
        let one = compile(&harness::world(all.clone()).0);
        let other = compile(&harness::world(all.into_iter().rev()).0);
        prop_assert_eq!(harness::views(&one), harness::views(&other));
        prop_assert_eq!(one.statuses, other.statuses);
        prop_assert_eq!(one.findings, other.findings);
    }

    /// A policy or split of a namespace without workloads changes nothing but its own status.
    #[test]
    fn objects_without_pods_change_no_view(spec in words(), (version, kind) in policies()) {
        let object = json!({"apiVersion": version, "kind": kind, "metadata": {"name": "x", "namespace": "empty"}, "spec": spec});
        let before = compile(&harness::world(base()).0);
        let after = compile(&harness::world(base().into_iter().chain(parse(object))).0);
        prop_assert_eq!(harness::views(&before), harness::views(&after));
        prop_assert_eq!(after.statuses.len(), 1);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// Where an Allow rule is needed anyway, one more never takes access away.
    #[test]
    fn another_allow_rule_never_removes_access(rules in prop::collection::vec(rule(), 0..5), mut more in rule(), default_allow: bool, request in request()) {
        more.action = RuleAction::Allow;
        more.audit = false;
        let before = PortAuthz { rules, default_allow, sharing: 1 };
        let needed = !default_allow || before.rules.iter().any(|r| r.action == RuleAction::Allow && !r.audit);
        let mut after = before.clone();
        after.rules.push(more);
        prop_assume!(needed);
        prop_assert!(!evaluate(&before, &request, false).allowed() || evaluate(&after, &request, false).allowed());
    }

    /// One more Deny rule never gives access.
    #[test]
    fn another_deny_rule_never_adds_access(rules in prop::collection::vec(rule(), 0..5), mut more in rule(), default_allow: bool, request in request()) {
        more.action = RuleAction::Deny;
        let before = PortAuthz { rules, default_allow, sharing: 1 };
        let mut after = before.clone();
        after.rules.push(more);
        prop_assert!(evaluate(&before, &request, false).allowed() || !evaluate(&after, &request, false).allowed());
    }

    /// If scope leaves a caller out, every request of the caller would be denied.
    #[test]
    fn callers_without_admission_are_always_denied(rules in prop::collection::vec(rule(), 0..6), default_allow: bool, request in request()) {
        let authz = PortAuthz { rules, default_allow, sharing: 1 };
        if let Some(peer) = &request.peer
            && !could_admit(&authz, peer)
        {
            prop_assert!(!evaluate(&authz, &request, false).allowed());
        }
    }

    /// The decision list decides as the rules do, in any order of its tests.
    #[test]
    fn the_decision_list_judges_as_the_rules(rules in prop::collection::vec(rule(), 0..12), default_allow: bool, request in request(), audited: bool) {
        let authz = PortAuthz { rules, default_allow, sharing: 1 };
        let verdict = decide(&authz, &request, audited).unwrap();
        prop_assert_eq!(verdict.allow, evaluate(&authz, &request, audited).allowed());
    }

    /// Rules in audit change no verdict.
    #[test]
    fn audit_changes_no_verdict(rules in prop::collection::vec(rule(), 0..6), default_allow: bool, request in request()) {
        let all = PortAuthz { rules, default_allow, sharing: 1 };
        let enforced = PortAuthz { rules: all.rules.iter().filter(|r| !r.audit).cloned().collect(), default_allow, sharing: 1 };
        prop_assert_eq!(evaluate(&all, &request, false), evaluate(&enforced, &request, false));
    }
}
