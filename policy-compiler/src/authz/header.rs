//! The many spellings of one header.
//!
//! A header may come in several lines, each line may list several elements, and applications differ in which of them they read. So a Deny rule
//! matches if any element of any line does, and an Allow rule only the one plain line. CGI-like servers take `_` in a name for `-`: a Deny rule
//! matches under every such name, and an Allow rule only where none but the plain name is there.
//!
//! Every expression is for Envoy's RE2, which reads bytes (Latin-1), and for the whole value of one line.

use super::{HeaderPattern, HeaderValuePattern, RuleAction};

/// The most dashes and underscores in a name of a rule: each doubles the names that mean the same.
pub(crate) const MAX_DASHES: usize = 6;

/// The most that the headers of one policy may [`cost`].
pub(crate) const MAX_COST: usize = 64 * 1024;
/// A regular expression of a user counts for so much: RE2 lets its states grow to 8 MB where requests are made for that, so 32 are the most.
const REGEX_COST: usize = 2 * 1024;
/// The bytes that count for a name, or for the rest of an expression around a literal.
const NAME_COST: usize = 32;

/// The memory that a header of a rule takes in a sidecar, in bytes of its matchers.
pub(crate) fn cost(action: RuleAction, header: &HeaderPattern) -> usize {
    let names = names(&header.name).len();
    let value = match &header.value {
        HeaderValuePattern::Exact(text) | HeaderValuePattern::Prefix(text) => text.len(),
        HeaderValuePattern::Regex(_) => REGEX_COST,
        HeaderValuePattern::Present | HeaderValuePattern::Absent => 0,
    };
    match action {
        // Each name has the expression.
        RuleAction::Deny => names * (NAME_COST + value),
        RuleAction::Allow => names * NAME_COST + value,
    }
}

/// The plain name first, then all names that CGI-like servers take for the same.
pub(crate) fn names(name: &str) -> Vec<String> {
    let mut names = vec![String::new()];
    for character in name.chars() {
        let other = match character {
            '-' => Some('_'),
            '_' => Some('-'),
            _ => None,
        };
        let others = other.filter(|_| names.len() < (1 << MAX_DASHES));
        let others: Vec<String> = others
            .iter()
            .flat_map(|other| names.iter().map(move |name| format!("{name}{other}")))
            .collect();
        names.iter_mut().for_each(|n| n.push(character));
        names.extend(others);
    }
    names
}

/// Expressions for the value of a Deny rule: each must match some line. `None` if the rule asks only whether the header is there.
pub(crate) fn denied(name: &str, pattern: &HeaderValuePattern) -> Option<Vec<String>> {
    let separator = if name == "cookie" { "[,;]" } else { "," };
    let host = matches!(name, ":authority" | "host");
    // Applications compare names of hosts without case, without the port and without the dot of the root.
    let (flags, host_end) = if host {
        ("(?i)", r"\.?(?::[0-9]*)?")
    } else {
        ("", "")
    };
    let element = |inner: &str| {
        format!(r"{flags}(?:.*{separator})?[ \t]*(?:{inner})[ \t]*(?:{separator}.*)?")
    };
    let literals = |text: &str, open: bool| {
        let parts: Vec<&str> = text
            .split(',')
            .map(|part| part.trim_matches([' ', '\t']))
            .collect();
        let last = parts.len().saturating_sub(1);
        let parts = parts.iter().enumerate().map(|(index, part)| {
            if open && index == last {
                element(&format!("{}.*", regex::escape(part)))
            } else if host {
                element(&exact_host(part, host_end))
            } else {
                element(&regex::escape(part))
            }
        });
        parts.collect()
    };
    match pattern {
        HeaderValuePattern::Exact(text) => Some(literals(text, false)),
        HeaderValuePattern::Prefix(text) => Some(literals(text, true)),
        HeaderValuePattern::Regex(text) => {
            // The ends are anchored anyway, and here the element's ends are meant.
            let text = text.strip_prefix('^').unwrap_or(text);
            let open = text.strip_suffix('$').filter(|rest| !rest.ends_with('\\'));
            Some(vec![element(&format!(
                "(?:{}){host_end}",
                open.unwrap_or(text)
            ))])
        }
        HeaderValuePattern::Present | HeaderValuePattern::Absent => None,
    }
}

/// A demand of an Allow rule on all lines of a header together, joined by commas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Joined<'a> {
    /// Exactly this, so that there is one line.
    Is(&'a str),
    /// No comma, so that there is one line with one element.
    HasNoComma,
}

/// The demand of an Allow rule on the lines together, beside the pattern, which one line must match.
pub(crate) fn joined(pattern: &HeaderValuePattern) -> Option<Joined<'_>> {
    match pattern {
        HeaderValuePattern::Exact(text) => Some(Joined::Is(text)),
        HeaderValuePattern::Prefix(_) | HeaderValuePattern::Regex(_) => Some(Joined::HasNoComma),
        HeaderValuePattern::Present | HeaderValuePattern::Absent => None,
    }
}

/// Whether an Allow rule demands that no other spelling of the name is there.
pub(crate) const fn only_plain_name(pattern: &HeaderValuePattern) -> bool {
    !matches!(pattern, HeaderValuePattern::Present)
}

/// A host with any port, or with the one that the rule names.
fn exact_host(text: &str, any_port: &str) -> String {
    let is_port = |port: &str| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    let (host, port) = text
        .rsplit_once(':')
        .filter(|(_, port)| is_port(port))
        .map_or((text, None), |(host, port)| (host, Some(port)));
    let host = regex::escape(host.strip_suffix('.').unwrap_or(host));
    port.map_or_else(
        || format!("{host}{any_port}"),
        |port| format!(r"{host}\.?:{port}"),
    )
}

#[cfg(test)]
mod tests {
    use super::{MAX_DASHES, names};

    #[test]
    fn every_mixture_of_dashes_and_underscores_is_a_name() {
        assert_eq!(names("x-a-b"), ["x-a-b", "x_a-b", "x-a_b", "x_a_b"]);
        assert_eq!(names("x_t"), ["x_t", "x-t"]);
        assert_eq!(names("x_a-b"), ["x_a-b", "x-a-b", "x_a_b", "x-a_b"]);
        assert_eq!(names("host"), ["host"]);
        let longest = names("a-a-a-a-a-a-a");
        assert_eq!(longest.len(), 1 << MAX_DASHES);
        assert!(longest.contains(&"a_a-a_a-a_a-a".to_owned()));
    }
}
