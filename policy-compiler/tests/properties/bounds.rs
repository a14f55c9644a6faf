//! The effect of a port's bounds on its rules.

use heddle_policy_compiler::authz::{
    DenyPaths, HeaderPattern, HeaderValuePattern, Operation, PathPattern, PortAuthz, RuleAction,
    decide, evaluate,
};

use super::decisions::{get, path_rule};

/// Beyond the bound the paths are not expressions any more, and the closed form denies all that the open one denies.
#[test]
fn beyond_the_bound_a_deny_rule_denies_no_less() {
    let few = path_rule(RuleAction::Deny, PathPattern::Prefix("/admin".into()));
    let mut many = few.clone();
    let more = (0..4_096).map(|n| PathPattern::Exact(format!("/other/{n}").into()));
    many.rules[0].to.paths.extend(more);
    assert_eq!(few.deny_paths(), DenyPaths::Spelled);
    assert_eq!(many.deny_paths(), DenyPaths::Plain);
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

/// The memory is that of a sidecar: on many ports the same paths are matched more coarsely, and never less is denied.
#[test]
fn ports_share_the_memory_for_paths_and_headers() {
    let on = |paths: usize, sharing| {
        let mut authz = path_rule(RuleAction::Deny, PathPattern::Prefix("/admin".into()));
        let more = (0..paths).map(|n| PathPattern::Exact(format!("/other/{n}").into()));
        authz.rules[0].to.paths.extend(more);
        authz.sharing = sharing;
        authz
    };
    for (paths, sharing, expected) in [
        (300, 4, DenyPaths::Spelled),
        (300, 16, DenyPaths::Plain),
        (4_000, 2, DenyPaths::Plain),
        (4_000, 16, DenyPaths::Any),
    ] {
        let authz = on(paths, sharing);
        assert_eq!(authz.deny_paths(), expected, "{paths} {sharing}");
        for path in [
            "/admin",
            "/;/admin",
            "/%61dmin",
            "/other/7",
            "/OTHER/7/",
            "/public",
        ] {
            let request = get(path);
            let judged = evaluate(&authz, &request, false).allowed();
            assert_eq!(
                decide(&authz, &request, false).unwrap().allow,
                judged,
                "{path}"
            );
            let denied = expected == DenyPaths::Any || path != "/public";
            assert_eq!(judged, !denied, "{paths} {sharing} {path}");
        }
    }
}

/// Beyond the bound of a port for headers, a Deny rule denies no less and an Allow rule allows no more. The first rules in the order of
/// ids keep their effect.
#[test]
fn beyond_the_bound_for_headers_rules_only_close() {
    let rule = |n: usize, action, value: &str| {
        let headers = (0..8).map(|m| HeaderPattern {
            name: format!("h{m}").into(),
            value: HeaderValuePattern::Regex(format!("{value}{n}").into()),
        });
        let to = Operation {
            headers: headers.collect(),
            ..Operation::default()
        };
        let mut rule = path_rule(action, PathPattern::Prefix("/".into()))
            .rules
            .remove(0);
        rule.id = format!("t/p/{n:03}").into();
        rule.to = to;
        rule
    };
    let request = |value: &str| {
        let mut request = get("/");
        let lines = (0..8).map(|m| (format!("h{m}"), value.to_owned()));
        request.http.as_mut().unwrap().headers = lines.collect();
        request
    };
    let authz = |action, count| PortAuthz {
        rules: (0..count).map(|n| rule(n, action, "v")).collect(),
        default_allow: true,
        sharing: 1,
    };
    let allowed = |authz: &PortAuthz, value: &str| {
        let request = request(value);
        let verdict = decide(authz, &request, false).unwrap();
        assert_eq!(verdict.allow, evaluate(authz, &request, false).allowed());
        verdict.allow
    };
    let (few, many) = (authz(RuleAction::Allow, 7), authz(RuleAction::Allow, 100));
    assert!(allowed(&few, "v6") && allowed(&many, "v6"));
    assert!(!allowed(&few, "v99") && !allowed(&many, "v99"));
    let (few, many) = (authz(RuleAction::Deny, 7), authz(RuleAction::Deny, 100));
    assert!(!allowed(&few, "v6") && !allowed(&many, "v6"));
    assert!(allowed(&few, "other") && !allowed(&many, "other"));
    // Of the rules in audit the enforced ones are held twice.
    let mut audited = authz(RuleAction::Allow, 7);
    audited.rules[0].audit = true;
    assert!(!allowed(&audited, "v6"));
}
