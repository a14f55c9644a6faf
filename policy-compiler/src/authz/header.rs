//! The many spellings of one header.
//!
//! A header may come in several lines, each line may list several elements, and applications differ in which of them they read. So a Deny rule
//! matches if any element of any line does, and an Allow rule only the one plain line. CGI-like servers take `_` in a name for `-`: a Deny rule
//! matches under every such name, and an Allow rule only where none but the plain name is there.
//!
//! Envoy's matchers read all lines of a header joined by commas. Every expression is for Envoy's RE2, which reads bytes (Latin-1), and for the
//! whole of that text.

use super::{HeaderPattern, HeaderValuePattern, RuleAction};

/// The most dashes and underscores in a name of a rule: each doubles the names that mean the same.
pub(crate) const MAX_DASHES: usize = 6;

/// The most that the headers of one policy may [`cost`].
pub(crate) const MAX_COST: usize = 64 * 1024;
/// The most that the headers of all rules of a port may cost: those of one policy, also where Envoy holds them twice for audit.
pub(crate) const MAX_PORT_COST: usize = 2 * MAX_COST;
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

/// Expressions for the value of a Deny rule: each must match all lines together, joined by commas. `None` if the rule asks only whether the header is there.
pub(crate) fn denied(name: &str, pattern: &HeaderValuePattern) -> Option<Vec<String>> {
    let separator = if name == "cookie" { "[,;]" } else { "," };
    let host = matches!(name, ":authority" | "host");
    // Applications compare names of hosts without case, without the port and without the dot of the root. Some take all that follows the
    // first colon for the port, and those that read a host as the beginning of a URL leave out a user, and resolve escapes: a host with
    // `%` may be any.
    let (flags, user, host_end) = if host {
        ("(?i)", "(?:[^,]*@)?", r"\.?(?::[^,]*)?")
    } else {
        ("", "", "")
    };
    let any = if host { "|[^,]*%[^,]*" } else { "" };
    let element = |inner: &str| {
        format!(r"{flags}(?:.*{separator})?[ \t]*{user}(?:{inner}{any})[ \t]*(?:{separator}.*)?")
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
            let text = without_anchors(text);
            Some(vec![element(&format!("(?:{text}){host_end}"))])
        }
        HeaderValuePattern::Present | HeaderValuePattern::Absent => None,
    }
}

/// The expression with an empty group for each anchor (`^`, `$`, `\A`, `\z`): the expression around it anchors the element, and the ends of
/// the element are not the ends of the text.
fn without_anchors(expression: &str) -> String {
    let mut out = String::new();
    let mut rest = expression;
    while let Some(character) = rest.chars().next() {
        let length = match character {
            '\\' => escape_length(rest),
            '[' => class_length(rest),
            other => other.len_utf8(),
        };
        let (item, after) = rest.split_at_checked(length).unwrap_or((rest, ""));
        let anchor = matches!(item, "^" | "$" | r"\A" | r"\z");
        out.push_str(if anchor { "(?:)" } else { item });
        rest = after;
    }
    out
}

/// The length of the escape or of the quoted text at the beginning.
fn escape_length(rest: &str) -> usize {
    if rest.starts_with(r"\Q") {
        return rest.find(r"\E").map_or(rest.len(), |end| end + 2);
    }
    let escaped = rest.chars().nth(1);
    1 + escaped.map_or(0, char::len_utf8)
}

/// The length of the class of characters at the beginning.
fn class_length(rest: &str) -> usize {
    let body = rest.strip_prefix('[').unwrap_or(rest);
    let body = body.strip_prefix('^').unwrap_or(body);
    // A bracket that comes first is a character of the class.
    let mut left = body.strip_prefix(']').unwrap_or(body);
    loop {
        let length = match left.chars().next() {
            None => return rest.len(),
            Some(']') => return rest.len() - left.len() + 1,
            Some('\\') => escape_length(left),
            Some('[') if left.starts_with("[:") => left.find(":]").map_or(1, |end| end + 2),
            Some(other) => other.len_utf8(),
        };
        left = left.split_at_checked(length).map_or("", |(_, after)| after);
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
        |port| format!(r"{host}\.?:0*{port}(?:[^0-9,][^,]*)?"),
    )
}

#[cfg(test)]
mod tests {
    use super::super::evaluate::whole;
    use super::{HeaderValuePattern, MAX_DASHES, denied, names, without_anchors};

    #[test]
    fn a_host_is_denied_in_every_spelling() {
        for (rule, host, expected) in [
            ("evil", "EVIL.", true),
            ("evil", "evil:x", true),
            ("evil", "a:b@c@evil", true),
            ("evil", "good,evil:80", true),
            ("evil", "%65vil", true),
            ("evil", "evil.good", false),
            ("evil", "evil@good", false),
            ("evil", "good:evil", false),
            ("evil:80", "evil:080x", true),
            ("evil:80", "evil:800", false),
        ] {
            let pattern = HeaderValuePattern::Exact(rule.into());
            let found = denied("host", &pattern).unwrap_or_default();
            let matched = !found.is_empty() && found.iter().all(|of| whole(of, host));
            assert_eq!(matched, expected, "{rule}: {host}");
        }
    }

    #[test]
    fn anchors_of_an_expression_are_those_of_its_element() {
        for (expression, expected) in [
            ("^evil$|^bad$", "(?:)evil(?:)|(?:)bad(?:)"),
            (r"\Aevil\z", "(?:)evil(?:)"),
            (r"a\$", r"a\$"),
            (r"\\$", r"\\(?:)"),
            ("[^$]$", "[^$](?:)"),
            ("[]^]^", "[]^](?:)"),
            ("[^]$]", "[^]$]"),
            (r"[\]$]$", r"[\]$](?:)"),
            ("[[:alpha:]$]$", "[[:alpha:]$](?:)"),
            (r"\Q^$\E$", r"\Q^$\E(?:)"),
            ("[^", "[^"),
            ("é^", "é(?:)"),
        ] {
            assert_eq!(without_anchors(expression), expected, "{expression}");
        }
    }

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
