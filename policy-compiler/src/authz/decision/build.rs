//! From rules to steps.

use std::sync::Arc;

use super::arrange::{Entry, Literal, arrange};
use super::{Condition, DecisionList, Input, Pattern, Step, Verdict};
use crate::authz::{
    DenyPaths, HeaderPattern, HeaderValuePattern, Operation, PathPattern, PortAuthz, Rule,
    RuleAction, Source, header, spelling,
};

/// The most policies that the name of an implicit denial has.
const MAX_NAMED: usize = 4;
/// The most bytes of one expression. The bootstrap bounds a program of RE2 by `heddle_xds_types::bootstrap::REGEX_PROGRAM_SIZE` instructions,
/// and no expression of ours has more of them than bytes.
const MAX_EXPRESSION: usize = 32 * 1024;

pub(super) fn list(authz: &PortAuthz, audited: bool, http: bool) -> DecisionList {
    let beyond = authz.beyond_headers();
    let entries = |action| -> Vec<(Entry, &Operation)> {
        let rules = authz.rules(action, audited);
        let rules = rules.filter(|rule| http || !rule.to.needs_http());
        rules
            .filter_map(|rule| Some((entry(rule, beyond.contains(&*rule.id))?, &rule.to)))
            .collect()
    };
    let mut steps = deny(&entries(RuleAction::Deny), authz.deny_paths());
    let last = if authz.needs_allow(audited) {
        steps.extend(allow(&entries(RuleAction::Allow)));
        Verdict {
            name: no_allow(authz, audited),
            allow: false,
        }
    } else {
        Verdict {
            name: "default".into(),
            allow: true,
        }
    };
    steps.push(Step::Decide(last));
    // Steps after a verdict are never reached.
    if let Some(at) = steps.iter().position(|s| matches!(s, Step::Decide(_))) {
        steps.truncate(at + 1);
    }
    DecisionList { steps }
}

/// Returns `no-allow:` with the policies of the Allow rules that were asked.
fn no_allow(authz: &PortAuthz, audited: bool) -> Arc<str> {
    let rules = authz.rules(RuleAction::Allow, audited);
    let mut policies: Vec<&str> = rules.map(|rule| policy_of(&rule.id)).collect();
    policies.dedup();
    let more = policies.len().saturating_sub(MAX_NAMED);
    policies.truncate(MAX_NAMED);
    let mut name = "no-allow".to_owned();
    for (index, policy) in policies.iter().enumerate() {
        name.push(if index == 0 { ':' } else { ',' });
        name.push_str(policy);
    }
    if more > 0 {
        name.push_str(&format!(",+{more}"));
    }
    name.into()
}

/// `namespace/policy` of `namespace/policy/rule`.
fn policy_of(id: &str) -> &str {
    let policy = id.rsplit_once('/').map_or(id, |(policy, _)| policy);
    if policy.contains('/') { policy } else { id }
}

/// A rule without its paths. `None` if it matches nothing. If its headers are `beyond` the bound of the port, a Deny rule matches any
/// headers and an Allow rule matches nothing.
fn entry(rule: &Rule, beyond: bool) -> Option<Entry> {
    let (identities, namespaces) = callers(&rule.from)?;
    let mut conditions = Vec::new();
    if !rule.from.blocks.is_empty() {
        conditions.push(Condition::Source(rule.from.blocks.clone()));
    }
    // By HTTP/2 a method comes in any case, and some servers raise it.
    let ignore_case = rule.action == RuleAction::Deny;
    let method = |method: &Arc<str>| {
        Condition::text(
            Input::Method,
            Pattern::Exact(Arc::clone(method)),
            ignore_case,
        )
    };
    conditions.extend(Condition::any(rule.to.methods.iter().map(method).collect()));
    match rule.action {
        RuleAction::Allow if beyond => return None,
        RuleAction::Deny if beyond => {}
        RuleAction::Allow => conditions.extend(rule.to.headers.iter().flat_map(allowed_header)),
        RuleAction::Deny => conditions.extend(rule.to.headers.iter().flat_map(denied_header)),
    }
    Some(Entry {
        verdict: Verdict {
            name: Arc::clone(&rule.id),
            allow: rule.action == RuleAction::Allow,
        },
        identities,
        namespaces,
        conditions,
        paths: Vec::new(),
    })
}

/// Identities, and prefixes of identities.
type Callers = (Vec<Arc<str>>, Vec<Arc<str>>);

/// Callers of which one is enough; both lists are empty for any caller. `None` if there is no such caller.
fn callers(from: &Source) -> Option<Callers> {
    let prefixes = &from.identity_prefixes;
    let within = |id: &&str| {
        let mut prefixes = prefixes.iter();
        from.identity_prefixes.is_empty() || prefixes.any(|prefix| id.starts_with(&**prefix))
    };
    let ids = from.identities.iter().map(|id| id.as_str());
    let identities: Vec<Arc<str>> = ids.filter(within).map(Arc::from).collect();
    if from.identities.is_empty() {
        Some((Vec::new(), prefixes.clone()))
    } else {
        (!identities.is_empty()).then(|| (identities, Vec::new()))
    }
}

/// Some element of some line, under any spelling of the name.
fn denied_header(pattern: &HeaderPattern) -> Vec<Condition> {
    let names = header::names(&pattern.name);
    let under_any_name = |condition: &dyn Fn(&str) -> Condition| {
        Condition::any(names.iter().map(|name| condition(name)).collect())
    };
    let conditions: Vec<Option<Condition>> = match (
        header::denied(&pattern.name, &pattern.value),
        &pattern.value,
    ) {
        (Some(expressions), _) => {
            let of = |expression: String| {
                let expression: Arc<str> = expression.into();
                let regex =
                    |name: &str| Condition::header(name, Pattern::Regex(Arc::clone(&expression)));
                under_any_name(&regex)
            };
            expressions.into_iter().map(of).collect()
        }
        (None, HeaderValuePattern::Absent) => {
            vec![Some(Condition::not(Condition::there(&pattern.name)))]
        }
        (None, _) => vec![under_any_name(&|name| Condition::there(name))],
    };
    conditions.into_iter().flatten().collect()
}

/// The one plain line, and no other spelling of the name.
fn allowed_header(pattern: &HeaderPattern) -> Vec<Condition> {
    let of = |value: Pattern| Condition::header(&pattern.name, value);
    let one_element = || Condition::not(of(Pattern::Contains(",".into())));
    let mut conditions = match &pattern.value {
        HeaderValuePattern::Exact(text) => vec![of(Pattern::Exact(Arc::clone(text)))],
        HeaderValuePattern::Prefix(text) => {
            vec![of(Pattern::Prefix(Arc::clone(text))), one_element()]
        }
        HeaderValuePattern::Regex(text) => {
            vec![of(Pattern::Regex(Arc::clone(text))), one_element()]
        }
        HeaderValuePattern::Present => vec![Condition::there(&pattern.name)],
        HeaderValuePattern::Absent => vec![Condition::not(Condition::there(&pattern.name))],
    };
    if header::only_plain_name(&pattern.value) {
        let names = header::names(&pattern.name);
        let others = names.iter().skip(1);
        conditions.extend(others.map(|name| Condition::not(Condition::there(name))));
    }
    conditions
}

/// The entries of the rules with paths or of those without, as if they had none.
fn on_any_path(entries: &[(Entry, &Operation)], paths: bool) -> Vec<Entry> {
    let entries = entries.iter();
    entries
        .filter(|(_, to)| to.paths.is_empty() != paths)
        .map(|(entry, _)| entry.clone())
        .collect()
}

/// The entries of rules with paths, each with a condition on its path; those without are left out.
fn with_condition(
    entries: &[(Entry, &Operation)],
    condition: impl Fn(&Operation) -> Option<Condition>,
) -> Vec<Entry> {
    let entries = entries.iter().filter(|(_, to)| !to.paths.is_empty());
    let with = |(entry, to): &(Entry, &Operation)| {
        let mut entry = entry.clone();
        entry.conditions.push(condition(to)?);
        Some(entry)
    };
    entries.filter_map(with).collect()
}

/// The entries of rules with paths, each with its paths as they are spelled plainly.
fn with_literals(
    entries: &[(Entry, &Operation)],
    literal: impl Fn(&Operation, &PathPattern) -> Option<Literal>,
) -> Vec<Entry> {
    let with = |(entry, to): &(Entry, &Operation)| {
        let mut entry = entry.clone();
        entry.paths = to.paths.iter().filter_map(|p| literal(to, p)).collect();
        (!entry.paths.is_empty()).then_some(entry)
    };
    entries.iter().filter_map(with).collect()
}

fn when(condition: Condition, steps: Vec<Step>) -> Option<Step> {
    (!steps.is_empty()).then_some(Step::When(condition, steps))
}

/// Deny rules. Of those with paths, plain paths meet the texts, and only other paths meet the expressions.
fn deny(entries: &[(Entry, &Operation)], paths: DenyPaths) -> Vec<Step> {
    let mut steps = arrange(on_any_path(entries, false));
    let any_path = || arrange(on_any_path(entries, true));
    if paths == DenyPaths::Any {
        steps.extend(any_path());
        return steps;
    }
    let ignore_case = entries.iter().any(|(_, to)| to.ignore_case);
    let lower = if ignore_case {
        spelling::PLAIN_LOWER
    } else {
        spelling::PLAIN
    };
    if paths == DenyPaths::Spelled {
        let mut odd: Vec<Step> = when(Condition::path(spelling::AMBIGUOUS), any_path())
            .into_iter()
            .collect();
        odd.extend(arrange(with_condition(entries, expressions)));
        steps.extend(when(Condition::not(Condition::plain(lower)), odd));
    } else {
        let odd = Condition::not(Condition::plain(spelling::PLAIN));
        steps.extend(when(odd, any_path()));
        let in_any_case = |to: &Operation| {
            let literals = to.paths.iter().filter_map(|path| denied(path, false));
            let expressions = literals.map(|literal| literal.in_any_case());
            to.ignore_case.then(|| alternatives(expressions)).flatten()
        };
        let raised = arrange(with_condition(entries, in_any_case));
        steps.extend(when(Condition::not(Condition::plain(lower)), raised));
    }
    steps.extend(arrange(with_literals(entries, |to, path| {
        denied(path, to.ignore_case)
    })));
    steps
}

/// All spellings of a rule's paths.
fn expressions(to: &Operation) -> Option<Condition> {
    let paths = to.paths.iter();
    alternatives(paths.map(|path| spelling::denied(path, to.ignore_case)))
}

/// Alternatives for the path, in as few expressions as they fit in: one expression costs the same for any number of paths.
fn alternatives(each: impl Iterator<Item = String>) -> Option<Condition> {
    let mut conditions = Vec::new();
    let mut alternatives = String::new();
    for next in each {
        if !alternatives.is_empty() && alternatives.len() + next.len() > MAX_EXPRESSION {
            conditions.push(Condition::path(&alternatives));
            alternatives.clear();
        }
        if !alternatives.is_empty() {
            alternatives.push('|');
        }
        alternatives.push_str(&format!("(?:{next})"));
    }
    if !alternatives.is_empty() {
        conditions.push(Condition::path(&alternatives));
    }
    Condition::any(conditions)
}

/// A Deny rule's path as plain paths spell it, which may end with a separator.
fn denied(pattern: &PathPattern, lower: bool) -> Option<Literal> {
    let (mut text, open) = spelling::plain(pattern)?;
    if lower {
        text.make_ascii_lowercase();
    }
    Some(Literal {
        separator: !open && text != "/",
        text: text.into(),
        open,
        ignore_case: false,
    })
}

/// Allow rules. Those with paths take no ambiguous path.
fn allow(entries: &[(Entry, &Operation)]) -> Vec<Step> {
    let mut steps = arrange(on_any_path(entries, false));
    let literal = |to: &Operation, path: &PathPattern| {
        let (text, open) = match path {
            PathPattern::Exact(text) => (text, false),
            PathPattern::Prefix(text) => (text, true),
        };
        Some(Literal {
            text: Arc::clone(text),
            open,
            separator: false,
            ignore_case: to.ignore_case,
        })
    };
    let by_path = arrange(with_literals(entries, literal));
    let straight = Condition::not(Condition::path(spelling::AMBIGUOUS));
    steps.extend(when(straight, by_path));
    steps
}
