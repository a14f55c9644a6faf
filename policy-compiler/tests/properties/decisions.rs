//! Decisions about requests, case by case.

use std::net::IpAddr;

use heddle_policy_compiler::authz::{
    Decision, HeaderPattern, HeaderValuePattern, HttpRequest, Operation, PathPattern, PortAuthz,
    Request, Rule, RuleAction, Source, could_admit, evaluate,
};
use heddle_policy_compiler::world::SpiffeId;

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
    // The rules, the default, and whether the identity of `a` could pass.
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
            sharing: 1,
        };
        assert_eq!(could_admit(&authz, &id("a")), expected, "{authz:?}");
    }
}

pub fn path_rule(action: RuleAction, path: PathPattern) -> PortAuthz {
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
        sharing: 1,
    }
}

pub fn get(path: &str) -> Request {
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
            true,
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
        (
            "x-t",
            regex("bad$|^evil$"),
            &[("x-t", "evil"), ("x-t", "z")],
            true,
            false,
        ),
        (
            "x-t",
            regex("a.*b"),
            &[("x-t", "a"), ("x-t", "b")],
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
            "host",
            exact("a.shop:80"),
            &[("host", "a.shop:0080")],
            true,
            false,
        ),
        (
            "host",
            exact("a.shop"),
            &[("host", "x:y@a.shop:")],
            true,
            false,
        ),
        (
            "host",
            exact("a.shop"),
            &[("host", "a.shop@b.shop")],
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
