//! Values of Allow rules that no request has: an Allow rule matches only the plain spelling of a path or header.

use super::evaluate::{is_ambiguous, whole};
use super::{HeaderPattern, HeaderValuePattern, PathPattern, header};

/// Whether an Allow rule matches no path by this pattern, because each such path is ambiguous.
pub(crate) fn path_never_allowed(pattern: &PathPattern) -> bool {
    match pattern {
        PathPattern::Exact(path) => is_ambiguous(path),
        // A prefix may end within an escape or a segment of dots, so that a longer path is plain.
        PathPattern::Prefix(path) => is_ambiguous(path) && is_ambiguous(&format!("{path}x")),
    }
}

/// Returns the reason why no header has the value that an Allow rule demands. Codecs take blanks away from both ends of a value.
pub(crate) fn value_never_allowed(value: &HeaderValuePattern) -> Option<&'static str> {
    let blank = [' ', '\t'];
    let control = |text: &str| text.chars().any(|c| c.is_control() && c != '\t');
    match value {
        HeaderValuePattern::Exact(text) | HeaderValuePattern::Prefix(text) if control(text) => {
            Some("no header has control characters")
        }
        HeaderValuePattern::Exact(text) if text.trim_matches(blank) != &**text => {
            Some("values of headers have no blanks at their ends")
        }
        HeaderValuePattern::Prefix(text) if text.starts_with(blank) => {
            Some("values of headers have no blanks at their ends")
        }
        HeaderValuePattern::Prefix(text) if text.contains(',') => {
            Some("by a prefix, an Allow rule matches only values without a comma")
        }
        HeaderValuePattern::Exact(_)
        | HeaderValuePattern::Prefix(_)
        | HeaderValuePattern::Regex(_)
        | HeaderValuePattern::Present
        | HeaderValuePattern::Absent => None,
    }
}

/// Whether two headers of one Allow rule exclude each other, as far as the patterns show it.
pub(crate) fn exclude(one: &HeaderPattern, other: &HeaderPattern) -> bool {
    let host = |name: &str| matches!(name, "host" | ":authority");
    if one.name == other.name || (host(&one.name) && host(&other.name)) {
        return differ(&one.value, &other.value) || differ(&other.value, &one.value);
    }
    // A rule for a value refuses the other spellings of the name, which the other header demands.
    let refuses = |a: &HeaderPattern, b: &HeaderPattern| {
        header::only_plain_name(&a.value)
            && b.value != HeaderValuePattern::Absent
            && header::names(&a.name).iter().any(|name| **name == *b.name)
    };
    refuses(one, other) || refuses(other, one)
}

fn differ(one: &HeaderValuePattern, other: &HeaderValuePattern) -> bool {
    use HeaderValuePattern::{Absent, Exact, Prefix, Present, Regex};
    match (one, other) {
        (Absent, Absent) => false,
        (Absent, Exact(_) | Prefix(_) | Regex(_) | Present) => true,
        (Exact(a), Exact(b)) => a != b,
        (Exact(a), Prefix(b)) => !a.starts_with(&**b) || a.contains(','),
        (Prefix(a), Prefix(b)) => !a.starts_with(&**b) && !b.starts_with(&**a),
        // One that cannot be read is reported as such.
        (Exact(a), Regex(b)) => a.contains(',') || (regex::Regex::new(b).is_ok() && !whole(b, a)),
        (Exact(_) | Prefix(_) | Regex(_) | Present, _) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ambiguous_paths_are_told() {
        for (path, never) in [
            ("/a/../b", true),
            ("/a/..", true),
            ("/%00", true),
            ("/ü", true),
            ("/a b", true),
            ("/%2541", true),
            ("/", false),
            ("/a..b", false),
            ("/a/./b", false),
            ("/a%20b", false),
            ("/%C3%BC", false),
        ] {
            assert_eq!(
                path_never_allowed(&PathPattern::Exact(path.into())),
                never,
                "{path}"
            );
        }
        for (prefix, never) in [
            ("/a/../", true),
            ("/a b", true),
            ("/a/..", false),
            ("/%25", false),
            ("/", false),
        ] {
            let pattern = PathPattern::Prefix(prefix.into());
            assert_eq!(path_never_allowed(&pattern), never, "{prefix}");
        }
    }

    #[test]
    fn values_that_no_header_has_are_told() {
        use HeaderValuePattern::{Exact, Prefix, Regex};
        for (value, never) in [
            (Exact(" padded ".into()), true),
            (Exact("a\n".into()), true),
            (Exact("a, b".into()), false),
            (Exact("".into()), false),
            (Prefix("a,b".into()), true),
            (Prefix(" a".into()), true),
            (Prefix("a ".into()), false),
            (Regex("a,b".into()), false),
        ] {
            assert_eq!(value_never_allowed(&value).is_some(), never, "{value:?}");
        }
    }

    #[test]
    fn headers_that_exclude_each_other_are_told() {
        use HeaderValuePattern::{Absent, Exact, Prefix, Present, Regex};
        let exact = |text: &str| Exact(text.into());
        let prefix = |text: &str| Prefix(text.into());
        let header = |name: &str, value: HeaderValuePattern| HeaderPattern {
            name: name.into(),
            value,
        };
        for (one, other, never) in [
            (("x-a", exact("a")), ("x-a", exact("b")), true),
            (("x-a", exact("a")), ("x-b", exact("b")), false),
            (("x-a", exact("ab")), ("x-a", prefix("a")), false),
            (("x-a", exact("ab")), ("x-a", prefix("b")), true),
            (("x-a", prefix("a")), ("x-a", prefix("ab")), false),
            (("x-a", prefix("a")), ("x-a", prefix("b")), true),
            (("x-a", exact("a")), ("x-a", Regex("b+".into())), true),
            (("x-a", exact("a")), ("x-a", Regex("a|b".into())), false),
            (("x-a", exact("a")), ("x-a", Regex("(a".into())), false),
            (("x-a", Absent), ("x-a", Present), true),
            (("x-a", Absent), ("x-a", exact("a")), true),
            (("x-a", Present), ("x-a", exact("a")), false),
            (("host", exact("a")), (":authority", exact("b")), true),
            (("x-a", exact("a")), ("x_a", Present), true),
            (("x-a", Absent), ("x_a", exact("a")), true),
            (("x-a", Present), ("x_a", Present), false),
            (("x-a", exact("a")), ("x_a", Absent), true),
            (("x-a", Absent), ("x_a", Absent), false),
        ] {
            let (one, other) = (header(one.0, one.1), header(other.0, other.1));
            assert_eq!(exclude(&one, &other), never, "{one:?} {other:?}");
            assert_eq!(exclude(&other, &one), never, "{other:?} {one:?}");
        }
    }
}
