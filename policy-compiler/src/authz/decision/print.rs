//! Decision lists as text, for goldens and people.

use std::fmt::{Display, Formatter, Result};

use super::{Condition, DecisionList, Input, Pattern, Step, Test, Verdict};
use crate::authz::spelling;

impl Display for DecisionList {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        steps(f, &self.steps, 0)
    }
}

fn steps(f: &mut Formatter<'_>, list: &[Step], depth: usize) -> Result {
    list.iter().try_for_each(|one| step(f, one, depth))
}

fn step(f: &mut Formatter<'_>, step: &Step, depth: usize) -> Result {
    let indent = "  ".repeat(depth);
    let map =
        |f: &mut Formatter<'_>, name: &str, map: &std::collections::BTreeMap<_, Vec<Step>>| {
            writeln!(f, "{indent}{name}:")?;
            map.iter()
                .try_for_each(|(key, list): (&std::sync::Arc<str>, _)| {
                    writeln!(f, "{indent}  {key}:")?;
                    steps(f, list, depth + 2)
                })
        };
    match step {
        Step::Decide(verdict) => writeln!(f, "{indent}{verdict}"),
        Step::When(condition, list) => {
            writeln!(f, "{indent}when {condition}:")?;
            steps(f, list, depth + 1)
        }
        Step::ByIdentity(of) => map(f, "by identity", of),
        Step::ByNamespace(of) => map(f, "by prefix of identity", of),
        Step::ByPath(of) => map(f, "by prefix of path", of),
        Step::ByWholePath(of) => map(f, "by whole path", of),
    }
}

impl Display for Verdict {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let action = if self.allow { "allow" } else { "deny" };
        write!(f, "{action} {}", self.name)
    }
}

impl Display for Condition {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let several = |f: &mut Formatter<'_>, list: &[Self], between: &str| {
            let texts: Vec<String> = list.iter().map(ToString::to_string).collect();
            write!(f, "({})", texts.join(between))
        };
        match self {
            Self::All(all) => several(f, all, " and "),
            Self::Any(any) => several(f, any, " or "),
            Self::Not(condition) => write!(f, "not {condition}"),
            Self::Source(blocks) => {
                let blocks: Vec<String> = blocks.iter().map(ToString::to_string).collect();
                write!(f, "source in {}", blocks.join(", "))
            }
            Self::Text(input, test) => match name(input, test) {
                Some(name) => write!(f, "path is {name}"),
                None => write!(f, "{input} {test}"),
            },
        }
    }
}

/// The name of an expression that every list has.
fn name(input: &Input, test: &Test) -> Option<&'static str> {
    let known = [
        (
            Condition::plain(spelling::PLAIN_LOWER),
            "plain and lower case",
        ),
        (Condition::plain(spelling::PLAIN), "plain"),
        (Condition::path(spelling::AMBIGUOUS), "ambiguous"),
    ];
    let this = Condition::Text(input.clone(), test.clone());
    let mut known = known.into_iter();
    known
        .find(|(condition, _)| *condition == this)
        .map(|(_, name)| name)
}

impl Display for Input {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::Method => write!(f, "method"),
            Self::Path => write!(f, "path"),
            Self::Header(name) => write!(f, "header {name}"),
        }
    }
}

impl Display for Test {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let verb = match self.pattern {
            Pattern::Exact(_) => "=",
            Pattern::Prefix(_) => "begins",
            Pattern::Contains(_) => "has",
            Pattern::Regex(_) => "~",
        };
        let case = if self.ignore_case { " (any case)" } else { "" };
        write!(f, "{verb} {}{case}", self.pattern.text())
    }
}
