//! Paths that tell rules apart.

use super::{Samples, free_character};
use crate::authz::spelling;
use crate::authz::{PathPattern, Rule};

impl Samples<'_> {
    /// Returns paths that match a rule and one of the patterns `only`, and whether these are enough for all that do. Of a prefix it is a
    /// path that goes on as no pattern does: a Deny rule that matches this path matches all paths of the prefix.
    pub(super) fn paths(&self, rule: &Rule, only: &[PathPattern]) -> (Vec<String>, bool) {
        let any = [PathPattern::Prefix("/".into())];
        let own = match rule.to.paths.is_empty() {
            true => &any[..],
            false => &rule.to.paths,
        };
        let fold = rule.to.ignore_case;
        let all = only.is_empty();
        let only = if all { &any[..] } else { only };
        let common = own.iter().flat_map(|own| {
            let both = only.iter().filter_map(move |only| both(own, only, fold));
            both.collect::<Vec<_>>()
        });
        let normal: Vec<String> = self.normal_patterns();
        let (mut paths, mut complete) = (Vec::new(), true);
        for pattern in common {
            let path = match &pattern {
                PathPattern::Exact(path) => path.to_string(),
                PathPattern::Prefix(start) => {
                    let texts = normal.iter().map(String::as_str);
                    let free = free_character(&plain(&pattern), texts.clone());
                    let raw = free_character(start, texts);
                    complete &= free.is_some() && free == raw && !ends_in_escape(start);
                    format!("{start}{}", free.or(raw).unwrap_or('x'))
                }
            };
            paths.push(path);
        }
        let mut denying = self.denying();
        if fold && !rule.to.paths.is_empty() && denying.any(|rule| !rule.to.ignore_case) {
            complete = false;
            let cases = paths.iter().flat_map(|path| {
                let (lower, upper) = (path.to_ascii_lowercase(), path.to_ascii_uppercase());
                [lower, upper]
            });
            let cases = cases.filter(|path| only.iter().any(|only| is_on(path, only)));
            let cases: Vec<String> = cases.collect();
            paths.extend(cases);
        }
        paths.sort();
        paths.dedup();
        // OPTIONS may ask about the server as a whole.
        if rule.to.paths.is_empty() && all {
            paths.push("*".to_owned());
        }
        (paths, complete)
    }

    /// The patterns of all rules, as written and as plain paths spell them.
    fn normal_patterns(&self) -> Vec<String> {
        let spelled = |pattern: &PathPattern| [pattern.text().to_owned(), plain(pattern)];
        self.patterns().flat_map(spelled).collect()
    }
}

/// The pattern as plain paths spell it, else as it is.
fn plain(pattern: &PathPattern) -> String {
    spelling::plain(pattern).map_or_else(|| pattern.text().to_owned(), |(path, _)| path)
}

/// The paths that match both patterns. With `fold`, upper and lower case of the first one are alike.
fn both(own: &PathPattern, only: &PathPattern, fold: bool) -> Option<PathPattern> {
    let starts = |text: &str, start: &str| {
        let begin = text.get(..start.len());
        begin.is_some_and(|begin| begin == start || (fold && begin.eq_ignore_ascii_case(start)))
    };
    // The longer text, with its beginning in the case of the second pattern.
    let longer = |a: &str, b: &str| format!("{b}{}", a.get(b.len()..).unwrap_or_default());
    match (own, only) {
        (PathPattern::Prefix(a), PathPattern::Prefix(b)) => match starts(b, a) {
            true => Some(only.clone()),
            false => starts(a, b).then(|| PathPattern::Prefix(longer(a, b).into())),
        },
        (PathPattern::Prefix(a), PathPattern::Exact(b)) => starts(b, a).then(|| only.clone()),
        (PathPattern::Exact(a), PathPattern::Prefix(b)) => {
            starts(a, b).then(|| PathPattern::Exact(longer(a, b).into()))
        }
        (PathPattern::Exact(a), PathPattern::Exact(b)) => {
            (a.len() == b.len() && starts(a, b)).then(|| only.clone())
        }
    }
}

fn is_on(path: &str, pattern: &PathPattern) -> bool {
    match pattern {
        PathPattern::Exact(text) => path == &**text,
        PathPattern::Prefix(start) => path.starts_with(&**start),
    }
}

/// Whether one more character could complete an escape.
fn ends_in_escape(start: &str) -> bool {
    let end = start.len().saturating_sub(2);
    start
        .as_bytes()
        .get(end..)
        .is_some_and(|end| end.contains(&b'%'))
}
