//! Texts of a request, and the tests for them.

use std::sync::Arc;

use super::Condition;
use crate::authz::spelling::QUERY;

/// A text of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Input {
    /// The method.
    Method,
    /// The path with its query.
    Path,
    /// All lines of a header, joined by commas.
    Header(Arc<str>),
}

/// A test of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Test {
    pub(crate) pattern: Pattern,
    /// Whether upper and lower case are alike; not for expressions.
    pub(crate) ignore_case: bool,
}

/// The pattern that a text must match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Pattern {
    /// This text.
    Exact(Arc<str>),
    /// Begins so; not empty.
    Prefix(Arc<str>),
    /// Has it somewhere.
    Contains(Arc<str>),
    /// An RE2 expression for the whole text.
    Regex(Arc<str>),
}

impl Condition {
    /// All of the conditions: `None` if there are none, so that nothing is asked.
    pub(super) fn all(mut conditions: Vec<Self>) -> Option<Self> {
        match conditions.len() {
            0 | 1 => conditions.pop(),
            _ => Some(Self::All(conditions)),
        }
    }

    /// One of the conditions: `None` if there are none, so that nothing is asked.
    pub(super) fn any(mut conditions: Vec<Self>) -> Option<Self> {
        match conditions.len() {
            0 | 1 => conditions.pop(),
            _ => Some(Self::Any(conditions)),
        }
    }

    pub(super) fn not(condition: Self) -> Self {
        Self::Not(Box::new(condition))
    }

    pub(super) fn text(input: Input, pattern: Pattern, ignore_case: bool) -> Self {
        let test = Test {
            pattern,
            ignore_case,
        };
        Self::Text(input, test)
    }

    pub(super) fn header(name: &str, pattern: Pattern) -> Self {
        Self::text(Input::Header(name.into()), pattern, false)
    }

    /// The header is there.
    pub(super) fn there(name: &str) -> Self {
        Self::header(name, Pattern::Regex("(?s:.*)".into()))
    }

    /// The path without its query matches an expression.
    pub(super) fn path(expression: &str) -> Self {
        let expression = format!("(?:{expression}){QUERY}");
        Self::text(Input::Path, Pattern::Regex(expression.into()), false)
    }

    /// The path without its query matches an expression for plain paths. A fragment makes every path other than plain.
    pub(super) fn plain(expression: &str) -> Self {
        let expression = format!(r"(?:{expression})(?:\?(?s:.*))?");
        Self::text(Input::Path, Pattern::Regex(expression.into()), false)
    }

    /// Returns whether it has an expression: the memory of an expression should not be taken twice.
    pub(super) fn has_expression(&self) -> bool {
        match self {
            Self::All(all) | Self::Any(all) => all.iter().any(Self::has_expression),
            Self::Not(condition) => condition.has_expression(),
            Self::Source(_) => false,
            Self::Text(_, test) => matches!(test.pattern, Pattern::Regex(_)),
        }
    }

    /// How large it is, in bytes of its texts and 64 for each test.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::All(all) | Self::Any(all) => all.iter().map(Self::size).sum(),
            Self::Not(condition) => condition.size(),
            Self::Source(blocks) => 64 * blocks.len(),
            Self::Text(_, test) => 64 + test.pattern.text().len(),
        }
    }
}

impl Pattern {
    pub(crate) fn text(&self) -> &str {
        match self {
            Self::Exact(text) | Self::Prefix(text) | Self::Contains(text) | Self::Regex(text) => {
                text
            }
        }
    }
}
