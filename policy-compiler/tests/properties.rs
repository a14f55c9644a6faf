//! What holds for every world, not only for the goldens.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod harness;

use std::collections::BTreeSet;
use std::net::IpAddr;

use heddle_policy_compiler::authz::{
    Decision, HeaderPattern, HeaderValuePattern, HttpRequest, Operation, PathPattern, PortAuthz,
    Request, Rule, RuleAction, Source, could_admit, evaluate,
};
use heddle_policy_compiler::world::SpiffeId;
use heddle_policy_compiler::{KubeObject, compile, ingest};
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

fn arbitrary_object() -> impl Strategy<Value = Value> {
    let kind = prop::sample::select(vec![
        ("heddle.dev/v1alpha1", "Mesh"),
        ("heddle.dev/v1alpha1", "TrafficSplit"),
        ("heddle.dev/v1alpha1", "AuthPolicy"),
        ("v1", "Service"),
        ("v1", "Pod"),
        ("discovery.k8s.io/v1", "EndpointSlice"),
        ("apps/v1", "Deployment"),
    ]);
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

    /// Total, and blind to order, whatever stands in the objects.
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
    fn what_selects_nothing_changes_nothing(spec in words(), kind in prop::sample::select(vec!["TrafficSplit", "AuthPolicy"])) {
        let object = json!({"apiVersion": "heddle.dev/v1alpha1", "kind": kind, "metadata": {"name": "x", "namespace": "empty"}, "spec": spec});
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
        let before = PortAuthz { rules, default_allow };
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
        let before = PortAuthz { rules, default_allow };
        let mut after = before.clone();
        after.rules.push(more);
        prop_assert!(evaluate(&before, &request, false).allowed() || !evaluate(&after, &request, false).allowed());
    }

    /// Whom scope leaves out, every request of theirs would be denied.
    #[test]
    fn who_could_never_be_admitted_never_is(rules in prop::collection::vec(rule(), 0..6), default_allow: bool, request in request()) {
        let authz = PortAuthz { rules, default_allow };
        if let Some(peer) = &request.peer
            && !could_admit(&authz, peer)
        {
            prop_assert!(!evaluate(&authz, &request, false).allowed());
        }
    }

    /// Rules in audit change no verdict.
    #[test]
    fn audit_changes_no_verdict(rules in prop::collection::vec(rule(), 0..6), default_allow: bool, request in request()) {
        let all = PortAuthz { rules, default_allow };
        let enforced = PortAuthz { rules: all.rules.iter().filter(|r| !r.audit).cloned().collect(), default_allow };
        prop_assert_eq!(evaluate(&all, &request, false), evaluate(&enforced, &request, false));
    }
}

#[test]
fn scope_narrows_where_nothing_could_ever_pass() {
    let id = |account| SpiffeId::new("cluster.local", "shop", account);
    let rule = |action, audit, from: Source, to: Operation| Rule {
        id: "t/p/0".into(),
        action,
        audit,
        from,
        to,
    };
    let of = |account| Source {
        identities: vec![id(account)],
        ..Source::default()
    };
    let namespace = |name: &str| Source {
        identity_prefixes: vec![format!("spiffe://cluster.local/ns/{name}/").into()],
        ..Source::default()
    };
    let near = |mut source: Source| {
        source.blocks = vec!["10.0.0.0/8".parse().unwrap()];
        source
    };
    let get = || Operation {
        methods: vec!["GET".into()],
        ..Operation::default()
    };
    let any = Operation::default;
    let (allow, deny) = (RuleAction::Allow, RuleAction::Deny);
    // What the rules say, the default, and whether the identity of `a` could pass.
    let cases = [
        (vec![], true, true),
        (vec![], false, false),
        (vec![rule(allow, false, of("a"), any())], false, true),
        (vec![rule(allow, false, of("a"), get())], false, true),
        (vec![rule(allow, false, of("b"), any())], true, false),
        (vec![rule(allow, true, of("b"), any())], true, true),
        (
            vec![rule(allow, false, namespace("shop"), any())],
            false,
            true,
        ),
        (
            vec![rule(allow, false, namespace("other"), any())],
            true,
            false,
        ),
        (
            vec![rule(allow, false, near(Source::default()), any())],
            false,
            true,
        ),
        (vec![rule(deny, false, of("a"), any())], true, false),
        (
            vec![rule(deny, false, Source::default(), any())],
            true,
            false,
        ),
        (vec![rule(deny, true, of("a"), any())], true, true),
        (vec![rule(deny, false, of("a"), get())], true, true),
        (vec![rule(deny, false, near(of("a")), any())], true, true),
        (vec![rule(deny, false, of("b"), any())], true, true),
    ];
    for (rules, default_allow, expected) in cases {
        let authz = PortAuthz {
            rules,
            default_allow,
        };
        assert_eq!(could_admit(&authz, &id("a")), expected, "{authz:?}");
    }
}

fn path_rule(action: RuleAction, path: PathPattern) -> PortAuthz {
    let to = Operation {
        paths: vec![path],
        ignore_case: action == RuleAction::Deny,
        ..Operation::default()
    };
    PortAuthz {
        rules: vec![Rule {
            id: "t/p/0".into(),
            action,
            audit: false,
            from: Source::default(),
            to,
        }],
        default_allow: true,
    }
}

fn get(path: &str) -> Request {
    let http = HttpRequest {
        method: "GET".to_owned(),
        path: path.to_owned(),
        headers: Vec::new(),
    };
    Request {
        peer: None,
        source: IpAddr::from([192, 0, 2, 1]),
        port: None,
        http: Some(http),
    }
}

#[test]
fn a_deny_rule_sees_through_spellings() {
    let authz = path_rule(RuleAction::Deny, PathPattern::Exact("/admin".into()));
    for path in [
        "/admin",
        "//admin",
        "/./admin",
        "/%61dmin",
        "/%61%64min",
        "/admin;x",
        "/admin;x=1",
        "\\admin",
        "/\\admin",
        "/admin/",
        "/admin//",
        "/%2fadmin",
        "/%2Fadmin",
        "/admin%2f",
        "/admin/.",
        "/x/../admin",
        "/x/%2e%2e/admin",
        "/x/..;/admin",
        "/x/.%2E/admin",
        "/admin?x=1",
        "/;a/../admin",
        "/.;x/admin",
        "/;/admin",
        "/;x/admin",
        "/%3b/admin",
        "/%3bx//;y/admin",
        "/%20/admin",
        "/admin/;x",
        "/admin.",
        "/admin%20",
        "/admin%2e/",
        "/admin.;x/",
        "/admin%00",
        "/admin%09",
        "/admin%0a",
        "/admin%3fx",
        "/admin%23",
        "/Admin",
        "/ADMIN/",
        "/%41dmin",
        "/%2561dmin",
        "/%c0%afadmin",
        "/%c0%AEx",
        "/%e0%80%afadmin",
        "/%ef%bc%8fadmin",
        "/%ef%bd%81dmin",
        "/%u002fadmin",
        "/\u{e9}/admin",
        "/x/..%20/admin",
    ] {
        assert!(!evaluate(&authz, &get(path), false).allowed(), "{path}");
    }
    for path in [
        "/",
        "/admins",
        "/adminx",
        "/a/admin",
        "/admin.json",
        "/public",
        "/public/%20x",
        "/caf%C3%A9",
        "/%ef%bc%88x",
        "/100%25",
        "/a;y=1",
        "/api/v4/projects/a%2Fb",
        "/a..b",
        "/...",
    ] {
        assert!(evaluate(&authz, &get(path), false).allowed(), "{path}");
    }
    let prefix = path_rule(RuleAction::Deny, PathPattern::Prefix("/admin/".into()));
    for (path, denied) in [
        ("/admin/x", true),
        ("//admin//x", true),
        ("/admin;a/x", true),
        ("/%61dmin%2fx", true),
        ("/admin", false),
        ("/administer", false),
    ] {
        assert_eq!(
            !evaluate(&prefix, &get(path), false).allowed(),
            denied,
            "{path}"
        );
    }
}

fn operation_rule(action: RuleAction, to: Operation) -> PortAuthz {
    let mut authz = path_rule(action, PathPattern::Prefix("/".into()));
    authz.rules[0].to = to;
    authz
}

#[test]
fn ignore_case_decides_whether_cases_of_a_path_are_alike() {
    for (action, path, ignore_case, matched) in [
        (RuleAction::Deny, "/Admin", false, false),
        (RuleAction::Deny, "/%41dmin", false, false),
        (RuleAction::Deny, "/%61dmin", false, true),
        (RuleAction::Deny, "/aDMIN", true, true),
        (RuleAction::Allow, "/Admin", false, false),
        (RuleAction::Allow, "/Admin", true, true),
        (RuleAction::Allow, "/%61dmin", true, false),
    ] {
        let to = Operation {
            paths: vec![PathPattern::Exact("/admin".into())],
            ignore_case,
            ..Operation::default()
        };
        let authz = operation_rule(action, to);
        let allowed = evaluate(&authz, &get(path), false).allowed();
        let expected = matched == (action == RuleAction::Allow);
        assert_eq!(allowed, expected, "{action:?} {path} {ignore_case}");
    }
}

#[test]
fn a_deny_rule_matches_methods_in_any_case() {
    for (action, method, allowed) in [
        (RuleAction::Deny, "DELETE", false),
        (RuleAction::Deny, "delete", false),
        (RuleAction::Deny, "Delete", false),
        (RuleAction::Deny, "X-delete", true),
        (RuleAction::Allow, "DELETE", true),
        (RuleAction::Allow, "delete", false),
    ] {
        let to = Operation {
            methods: vec!["DELETE".into()],
            ..Operation::default()
        };
        let mut request = get("/");
        request.http.as_mut().unwrap().method = method.to_owned();
        let authz = operation_rule(action, to);
        assert_eq!(
            evaluate(&authz, &request, false).allowed(),
            allowed,
            "{action:?} {method}"
        );
    }
}

/// Rule's header, its pattern, the lines of the request, whether Deny matches, whether Allow does.
type HeaderCase = (
    &'static str,
    HeaderValuePattern,
    &'static [(&'static str, &'static str)],
    bool,
    bool,
);

#[test]
fn deny_looks_at_every_line_and_element_and_allow_at_the_only_one() {
    let exact = |text: &str| HeaderValuePattern::Exact(text.into());
    let prefix = |text: &str| HeaderValuePattern::Prefix(text.into());
    let regex = |text: &str| HeaderValuePattern::Regex(text.into());
    let cases: Vec<HeaderCase> = vec![
        ("x-t", exact("acme"), &[("x-t", "acme")], true, true),
        (
            "x-t",
            exact("acme"),
            &[("x-t", "acme"), ("x-t", "globex")],
            true,
            false,
        ),
        (
            "x-t",
            exact("acme"),
            &[("x-t", "globex"), ("x-t", "acme")],
            true,
            false,
        ),
        (
            "x-t",
            exact("acme"),
            &[("x-t", "globex, acme")],
            true,
            false,
        ),
        ("x-t", exact("acme"), &[("x-t", " acme")], true, false),
        ("x-t", exact("acme"), &[("x_t", "acme")], true, false),
        (
            "x-t",
            exact("acme"),
            &[("x-t", "acme"), ("x_t", "globex")],
            true,
            false,
        ),
        ("x-t", exact("acme"), &[("x-t", "acmes")], false, false),
        (
            "x-t",
            exact("a,b"),
            &[("x-t", "a"), ("x-t", "b")],
            true,
            false,
        ),
        ("x-t", exact("a,b"), &[("x-t", "a")], false, false),
        ("x-t", prefix("ac"), &[("x-t", "acme")], true, true),
        ("x-t", prefix("ac"), &[("x-t", "acme,globex")], true, false),
        ("x-t", prefix("ac"), &[("x-t", "globex,acme")], true, false),
        ("x-t", regex("^a.*e$"), &[("x-t", "acme")], true, true),
        (
            "x-t",
            regex("^a.*e$"),
            &[("x-t", "globex,acme")],
            true,
            false,
        ),
        ("x-t", regex("a.*"), &[("x-t", "acme,globex")], true, false),
        (
            "x-t",
            HeaderValuePattern::Present,
            &[("x_t", "")],
            true,
            false,
        ),
        (
            "x-t",
            HeaderValuePattern::Absent,
            &[("x_t", "")],
            true,
            false,
        ),
        ("x-t", HeaderValuePattern::Absent, &[], true, true),
        (
            "cookie",
            exact("a=b"),
            &[("cookie", "c=d; a=b")],
            true,
            false,
        ),
        (
            "host",
            exact("a.shop"),
            &[(":authority", "A.shop.:80")],
            true,
            false,
        ),
        (
            "host",
            exact("a.shop:80"),
            &[("host", "a.shop:81")],
            false,
            false,
        ),
        (
            ":authority",
            exact("a.shop"),
            &[("host", "a.shop")],
            true,
            true,
        ),
    ];
    for (name, value, lines, denied, allowed) in cases {
        let mut request = get("/");
        let owned = lines
            .iter()
            .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()));
        request.http.as_mut().unwrap().headers = owned.collect();
        let header = HeaderPattern {
            name: name.into(),
            value,
        };
        let to = Operation {
            headers: vec![header],
            ..Operation::default()
        };
        let deny = operation_rule(RuleAction::Deny, to.clone());
        let allow = operation_rule(RuleAction::Allow, to.clone());
        assert_eq!(
            !evaluate(&deny, &request, false).allowed(),
            denied,
            "Deny {to:?} {lines:?}"
        );
        assert_eq!(
            evaluate(&allow, &request, false).allowed(),
            allowed,
            "Allow {to:?} {lines:?}"
        );
    }
}

/// Beyond the bound the paths are no expressions any more, and the closed form denies all that the open one denies.
#[test]
fn beyond_the_bound_a_deny_rule_denies_no_less() {
    let few = path_rule(RuleAction::Deny, PathPattern::Prefix("/admin".into()));
    let mut many = few.clone();
    let more = (0..4_096).map(|n| PathPattern::Exact(format!("/other/{n}").into()));
    many.rules[0].to.paths.extend(more);
    assert!(few.spells_paths() && !many.spells_paths());
    for path in [
        "/admin",
        "/Admin/x",
        "/;/admin",
        "/%61dmin",
        "/admin.",
        "/other/7",
        "/OTHER/7/",
    ] {
        assert!(!evaluate(&many, &get(path), false).allowed(), "{path}");
    }
    for path in ["/", "/public", "/public/a.b", "/other/4096"] {
        assert!(evaluate(&many, &get(path), false).allowed(), "{path}");
    }
}

#[test]
fn an_allow_rule_takes_only_the_plain_spelling() {
    let authz = path_rule(RuleAction::Allow, PathPattern::Prefix("/api/".into()));
    for (path, allowed) in [
        ("/api/x", true),
        ("/api/a%2Fb", true),
        ("/api/x?q=../", true),
        ("/api//x", true),
        ("/api/../admin", false),
        ("/api/%2e%2e/admin", false),
        ("/api/..;/admin", false),
        ("/api/..%2fadmin", false),
        ("/api\\..\\admin", false),
        ("/API/x", false),
        ("//api/x", false),
    ] {
        assert_eq!(
            evaluate(&authz, &get(path), false).allowed(),
            allowed,
            "{path}"
        );
    }
}

#[test]
fn an_http_rule_never_matches_bytes() {
    let mut tcp = get("/");
    tcp.http = None;
    let deny = path_rule(RuleAction::Deny, PathPattern::Prefix("/".into()));
    assert_eq!(evaluate(&deny, &tcp, false), Decision::AllowedByDefault);
    let allow = path_rule(RuleAction::Allow, PathPattern::Prefix("/".into()));
    assert_eq!(evaluate(&allow, &tcp, false), Decision::NoAllowMatched);
}
