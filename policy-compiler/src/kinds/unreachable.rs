//! Rules that never decide, because a wider rule decides about all of their requests.

use heddle_crds::reason;

use crate::authz::{Operation, Rule, RuleAction, Source};
use crate::finding::{Finding, ObjectRef};
use crate::kinds::silent::not_enforced;
use crate::kinds::target::Selector;
use crate::validation::ValidationReport;

/// The rules of one policy, and the pods that they are for.
#[derive(Clone, Copy)]
pub(super) struct RuleSet<'a> {
    pub(super) object: &'a ObjectRef,
    pub(super) selector: &'a Selector,
    pub(super) rules: &'a [Rule],
}

/// A rule that decides about every request of every caller.
struct Wide<'a> {
    /// Among the policies.
    place: usize,
    policy: RuleSet<'a>,
    at: usize,
    rule: &'a Rule,
}

/// Reports each unreachable rule of a namespace's policies. A rule in audit decides about nothing and is left out.
pub(super) fn report(policies: &[RuleSet<'_>], report: &mut ValidationReport) {
    let wide: Vec<Wide<'_>> = policies.iter().enumerate().filter_map(widest).collect();
    for (place, policy) in policies.iter().copied().enumerate() {
        let elsewhere = wide
            .iter()
            .filter(|wide| wide.place != place && covers(wide.policy.selector, policy.selector));
        let elsewhere: Vec<&Wide<'_>> = elsewhere.collect();
        for (index, rule) in policy.rules.iter().enumerate() {
            // Of two rules that say the same, the first one decides.
            let own = policy.rules.iter().enumerate().find(|(at, other)| {
                *at != index && hides(other, rule) && (*at < index || !hides(rule, other))
            });
            let other = elsewhere.iter().find(|wide| {
                hides(wide.rule, rule) && (wide.place < place || !hides(rule, wide.rule))
            });
            let (by, rest) = match (own, other) {
                _ if rule.audit => continue,
                (Some((at, by)), _) => (by, format!("spec.rules[{at}]")),
                (None, Some(wide)) => {
                    let Wide {
                        policy, at, rule, ..
                    } = wide;
                    (*rule, format!("spec.rules[{at}] of {}", policy.object))
                }
                (None, None) => continue,
            };
            tell(policy, index, by, &rest, report);
        }
    }
}

/// The rule of a policy that leaves least to others: a Deny rule for everybody, else an Allow rule for everybody.
fn widest<'a>((place, policy): (usize, &RuleSet<'a>)) -> Option<Wide<'a>> {
    let policy = *policy;
    let rules = policy.rules.iter().enumerate();
    let wide = rules.filter(|(_, rule)| !rule.audit && everything(rule) && !stands_in(rule));
    let (at, rule) =
        wide.max_by_key(|(at, rule)| (rule.action == RuleAction::Deny, usize::MAX - at))?;
    Some(Wide {
        place,
        policy,
        at,
        rule,
    })
}

/// Whether it is the rule of an unusable policy. The status of that policy reports it.
fn stands_in(rule: &Rule) -> bool {
    rule.id.ends_with("/unusable")
}

fn everything(rule: &Rule) -> bool {
    rule.from == Source::default() && rule.to == Operation::default()
}

/// Whether a rule decides about every request that the other one matches: it has none of the other's conditions, or the same.
fn hides(rule: &Rule, other: &Rule) -> bool {
    !rule.audit
        && (rule.action == other.action || rule.action == RuleAction::Deny)
        && (rule.from == Source::default() || rule.from == other.from)
        && (rule.to == Operation::default() || rule.to == other.to)
}

/// Whether a selector selects every pod that the other one selects.
fn covers(selector: &Selector, other: &Selector) -> bool {
    match (selector, other) {
        (Selector::All, _) => true,
        (Selector::Labels(wide), Selector::Labels(narrow)) => {
            wide.iter().all(|pair| narrow.iter().any(|own| own == pair))
        }
        (Selector::Labels(_) | Selector::Nothing, _) => false,
    }
}

fn tell(policy: RuleSet<'_>, index: usize, by: &Rule, name: &str, report: &mut ValidationReport) {
    let verb = match by.action {
        RuleAction::Allow => "allows",
        RuleAction::Deny => "denies",
    };
    let all = if everything(by) {
        "every request of every caller"
    } else {
        "every request that this rule matches"
    };
    let message = format!("the rule is unreachable: {name} {verb} {all}");
    let fix = match by.action {
        RuleAction::Allow => format!("remove this rule, or narrow {name} by from or to"),
        RuleAction::Deny => {
            format!("remove this rule, or narrow {name} by from or to: Deny rules come first")
        }
    };
    let (object, field) = (policy.object, format!("spec.rules[{index}]"));
    if let Some(status) = report.statuses.get_mut(object) {
        not_enforced(status, reason::UNREACHABLE, &field, &message);
    }
    let finding = Finding::warning(object, &*field, reason::UNREACHABLE, message);
    report.findings.push(finding.fix(fix));
}
