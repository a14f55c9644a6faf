//! The spellings of paths that a Deny rule sees through.

use heddle_policy_compiler::authz::{PathPattern, RuleAction, evaluate};

use crate::decisions::{get, path_rule};

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
        // The other case of these is a letter of ASCII.
        "/adm%C4%B1n",
        "/%41DM%c4%b0N",
        "/%E2%84%AAey",
        "/%c5%bfecret",
        "/\u{e9}/admin",
        "/x/..%20/admin",
        // Servers that resolve the target against their own URL take the first segment for a host.
        "//x/admin",
        "///x/admin",
        "/\\x/admin",
        "//u@x:80/admin;y",
        "/%2fx//admin",
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
        "/sat%C4%B1c%C4%B1",
        "/%E2%84%A2",
        "/%ef%bc%88x",
        "/100%25",
        "/a;y=1",
        "//admin.x/y",
        "/x//y/admin",
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

/// Servers that resolve the target against their own URL read an empty path as the root.
#[test]
fn a_deny_rule_on_the_root_sees_through_spellings() {
    let root = path_rule(RuleAction::Deny, PathPattern::Exact("/".into()));
    for (path, denied) in [
        ("/", true),
        ("//", true),
        ("/./", true),
        ("/;a", true),
        ("//x", true),
        ("//x/", true),
        ("/\\x%3fy", true),
        ("/?a", true),
        ("/x", false),
        ("//x/y", false),
    ] {
        let decision = evaluate(&root, &get(path), false);
        assert_eq!(!decision.allowed(), denied, "{path}");
    }
}
