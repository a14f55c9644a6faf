//! Headers that tell rules apart.

use std::collections::BTreeMap;

use super::{Samples, free_character};
use crate::authz::{HeaderPattern, HeaderValuePattern, Rule};
use crate::matching;

/// The most sets of headers for one rule.
const MAX_SETS: usize = 256;

/// The lines of a request.
type Lines = Vec<(String, String)>;

impl Samples<'_> {
    /// Returns sets of headers that match a rule, and whether these are enough for all that do. A header that the rule does not name is
    /// left out, unless a Deny rule denies requests without it.
    pub(super) fn headers(&self, rule: &Rule) -> (Vec<Lines>, bool) {
        let mut complete = true;
        let mut values: BTreeMap<&str, Vec<Option<String>>> = BTreeMap::new();
        for own in &rule.to.headers {
            let of_name = || self.all().filter(|other| other.name == own.name);
            let expression =
                |other: &HeaderPattern| matches!(other.value, HeaderValuePattern::Regex(_));
            let twice = rule
                .to
                .headers
                .iter()
                .filter(|other| other.name == own.name);
            complete &= !of_name().any(expression) && twice.count() == 1;
            let (found, all) = self.values(own);
            complete &= all;
            values.entry(&own.name).or_default().extend(found);
        }
        for other in self.denying().flat_map(|rule| &rule.to.headers) {
            let absent = other.value == HeaderValuePattern::Absent;
            if absent && !values.contains_key(&*other.name) {
                let same = self.all().filter(|one| one.name == other.name);
                complete &= !same
                    .clone()
                    .any(|one| matches!(one.value, HeaderValuePattern::Regex(_)));
                let texts = same.filter_map(|one| text(&one.value));
                let free = free_character("", texts).map(|free| free.to_string());
                complete &= free.is_some();
                values.insert(&other.name, vec![free, None]);
            }
        }
        let mut sets: Vec<Lines> = vec![Lines::new()];
        for (name, values) in values {
            let longer = sets.iter().flat_map(|set| {
                values.iter().map(|value| {
                    let line = value.clone().map(|value| (name.to_owned(), value));
                    set.iter().cloned().chain(line).collect::<Lines>()
                })
            });
            sets = longer.collect();
            complete &= sets.len() <= MAX_SETS;
            sets.truncate(MAX_SETS);
        }
        (sets, complete)
    }

    fn all(&self) -> impl Iterator<Item = &HeaderPattern> + Clone {
        self.rules.iter().flat_map(|rule| &rule.to.headers)
    }

    /// Values that match a pattern, and whether these are enough.
    fn values(&self, own: &HeaderPattern) -> (Vec<Option<String>>, bool) {
        let texts = || {
            let same = self.all().filter(|other| other.name == own.name);
            same.filter_map(|other| text(&other.value))
        };
        match &own.value {
            HeaderValuePattern::Exact(text) => (vec![Some(text.to_string())], true),
            HeaderValuePattern::Prefix(start) => {
                let free = free_character(start, texts());
                let more = format!("{start}{}", free.unwrap_or('x'));
                // A list has elements of their own.
                let complete = free.is_some() && !start.contains([',', ';']);
                (vec![Some(more), Some(start.to_string())], complete)
            }
            HeaderValuePattern::Present => {
                let free = free_character("", texts());
                (vec![Some(free.unwrap_or('x').to_string())], free.is_some())
            }
            HeaderValuePattern::Absent => (vec![None], true),
            HeaderValuePattern::Regex(expression) => {
                let text = matching::text(expression);
                (text.map(Some).into_iter().collect(), false)
            }
        }
    }
}

fn text(value: &HeaderValuePattern) -> Option<&str> {
    match value {
        HeaderValuePattern::Exact(text) | HeaderValuePattern::Prefix(text) => Some(text),
        HeaderValuePattern::Regex(_) | HeaderValuePattern::Present | HeaderValuePattern::Absent => {
            None
        }
    }
}
