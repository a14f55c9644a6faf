use std::sync::Arc;

use super::decisions;
use crate::authz::{
    HeaderPattern, HeaderValuePattern, Operation, PathPattern, PortAuthz, Rule, RuleAction, Source,
};
use crate::world::SpiffeId;

fn rule(id: &str, action: RuleAction, from: Source, to: Operation) -> Rule {
    Rule {
        id: id.into(),
        action,
        audit: false,
        from,
        to,
    }
}

fn callers(accounts: impl IntoIterator<Item = String>) -> Source {
    let identities = accounts.into_iter();
    let identities = identities.map(|account| SpiffeId::new("d", "shop", &account));
    Source {
        identities: identities.collect(),
        ..Source::default()
    }
}

fn get(paths: &[&str]) -> Operation {
    Operation {
        methods: vec!["GET".into()],
        paths: paths
            .iter()
            .map(|path| PathPattern::Exact((*path).into()))
            .collect(),
        ..Operation::default()
    }
}

fn printed(rules: Vec<Rule>) -> String {
    let authz = PortAuthz {
        rules,
        default_allow: true,
        sharing: 1,
    };
    decisions(&authz, false, true)
}

#[test]
fn callers_are_found_by_identity_and_each_rule_after_its_callers() {
    use RuleAction::{Allow, Deny};
    let one = |name: &str| callers([name.to_owned()]);
    let namespace = Source {
        identity_prefixes: vec!["spiffe://d/ns/legacy/".into()],
        ..Source::default()
    };
    let list = printed(vec![
        rule("shop/a/0", Allow, one("x"), Operation::default()),
        rule("shop/a/1", Allow, one("y"), get(&[])),
        rule("shop/a/2", Allow, namespace, get(&[])),
        rule("shop/b/0", Allow, Source::default(), get(&["/health"])),
        rule("shop/d/0", Deny, one("z"), Operation::default()),
    ]);
    let expected = "\
by identity:
  spiffe://d/ns/shop/sa/z:
    deny shop/d/0
by identity:
  spiffe://d/ns/shop/sa/x:
    allow shop/a/0
  spiffe://d/ns/shop/sa/y:
    when method = GET:
      allow shop/a/1
by prefix of identity:
  spiffe://d/ns/legacy/:
    when method = GET:
      allow shop/a/2
when not path is ambiguous:
  when (method = GET and (path = /health or path begins /health?)):
    allow shop/b/0
deny no-allow:shop/a,shop/b
";
    assert_eq!(list, expected);
}

#[test]
fn conditions_are_not_repeated_for_many_callers() {
    let many = || callers((0..100).map(|n| format!("w{n}")));
    let header = HeaderPattern {
        name: "tenant".into(),
        value: HeaderValuePattern::Regex("a.*".into()),
    };
    let to = Operation {
        headers: vec![header],
        ..Operation::default()
    };
    let list = printed(vec![rule("shop/d/0", RuleAction::Deny, many(), to)]);
    assert_eq!(list.matches("a.*").count(), 1, "{list}");
    assert!(list.starts_with("when header tenant ~ "), "{list}");
    // Without conditions each caller has the verdict.
    let list = printed(vec![rule(
        "shop/d/0",
        RuleAction::Deny,
        many(),
        Operation::default(),
    )]);
    assert!(list.starts_with("by identity:\n"), "{list}");
    assert_eq!(list.matches("deny shop/d/0").count(), 100, "{list}");
}

#[test]
fn plain_paths_of_deny_rules_meet_a_map_and_other_paths_one_expression() {
    let names: Vec<String> = (0..20).map(|n| format!("/Admin/{n}")).collect();
    let paths: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut to = get(&paths);
    to.methods.clear();
    to.ignore_case = true;
    let list = printed(vec![rule(
        "shop/d/0",
        RuleAction::Deny,
        Source::default(),
        to,
    )]);
    let lines: Vec<&str> = list.lines().collect();
    assert_eq!(
        lines.first(),
        Some(&"when not path is plain and lower case:")
    );
    assert_eq!(list.matches("path ~ ").count(), 1, "{list}");
    for key in ["/admin/7", "/admin/7/", "/admin/7?", "/admin/7/?"] {
        let mapped = format!("  {key}:\n    deny shop/d/0\n");
        assert!(list.contains(&mapped), "{list}");
    }
    assert!(list.contains("\nby prefix of path:\n"), "{list}");
    assert!(list.contains("\nby whole path:\n"), "{list}");
}

#[test]
fn a_rule_for_everything_is_the_only_step() {
    let any = || (Source::default(), Operation::default());
    let ((from, to), (also, too)) = (any(), any());
    let mut rules = vec![rule("shop/d/0", RuleAction::Deny, from, get(&["/a"]))];
    rules.push(rule("shop/d/1", RuleAction::Deny, also, to));
    rules.push(rule("shop/a/0", RuleAction::Allow, Source::default(), too));
    assert_eq!(printed(rules), "deny shop/d/1\n");
    assert_eq!(printed(Vec::new()), "allow default\n");
}

#[test]
fn an_implicit_denial_names_some_policies() {
    let rule = |n: usize| {
        let id: Arc<str> = format!("shop/p{n}/0").into();
        rule(&id, RuleAction::Allow, callers(["x".to_owned()]), get(&[]))
    };
    let list = printed((0..7).map(rule).collect());
    let last = list.lines().last();
    assert_eq!(
        last,
        Some("deny no-allow:shop/p0,shop/p1,shop/p2,shop/p3,+3")
    );
}

/// Ports that are not told apart lose no denial and gain no permission.
#[test]
fn rules_of_ports_judged_together_only_close() {
    let on_port = |id, action, audit| {
        let to = Operation {
            ports: vec![9018.try_into().unwrap()],
            ..Operation::default()
        };
        let from = callers(["x".to_owned()]);
        let rule = rule(id, action, from, to);
        Rule { audit, ..rule }
    };
    let closed = |rules: &[Rule], audited| {
        let mut authz = PortAuthz {
            rules: Vec::new(),
            default_allow: true,
            sharing: 1,
        };
        let rules: Vec<&Rule> = rules.iter().collect();
        authz.close(&rules);
        decisions(&authz, audited, true)
    };
    let allow = on_port("shop/a/0", RuleAction::Allow, false);
    assert_eq!(closed(&[allow], false), "deny no-allow:shop/a\n");
    let in_audit = [on_port("shop/a/0", RuleAction::Allow, true)];
    assert_eq!(closed(&in_audit, false), "allow default\n");
    assert_eq!(closed(&in_audit, true), "deny no-allow:shop/a\n");
    let denied = closed(&[on_port("shop/d/0", RuleAction::Deny, false)], false);
    assert!(denied.contains("deny shop/d/0"), "{denied}");
}
