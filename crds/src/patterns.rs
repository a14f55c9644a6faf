//! The patterns of the definitions, in words. The answer of an API server has the pattern alone.

/// The form of a text that each pattern matches.
const PATTERNS: [(&str, &str); 23] = [
    (
        crate::duration::PATTERN,
        "a duration of whole numbers with units, such as 1h30m, 10s or 250ms",
    ),
    (
        "^[A-Za-z0-9!#$%&'*+.^_`|~-]+$",
        "a name of letters, digits and !#$%&'*+.^_`|~-",
    ),
    (
        "^:?[A-Za-z0-9!#$%&'*+.^_`|~-]+$",
        "the name of a header, of letters, digits and !#$%&'*+.^_`|~-, or one of :method, :path and :authority",
    ),
    (
        r"^([0-9]+|[0-9]+\.[0-9]+)(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$",
        "a quantity of Kubernetes, such as 50m, 64Mi or 1",
    ),
    (
        "^[a-z]([-a-z0-9]*[a-z0-9])?$",
        "a name of lower-case letters, digits and -, with a letter at the start",
    ),
    (
        r"^(\*|[a-z]([-a-z0-9]*[a-z0-9])?)$",
        "* or a name of lower-case letters, digits and -, with a letter at the start",
    ),
    (
        "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$",
        "a name of lower-case letters, digits and -",
    ),
    (
        r"^(\*|[a-z0-9]([-a-z0-9]*[a-z0-9])?)$",
        "* or a name of lower-case letters, digits and -",
    ),
    (
        "^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$",
        "a name of lower-case letters, digits, - and .",
    ),
    (
        "^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$",
        "a name of lower-case letters, digits, . and -",
    ),
    (
        "^[a-z0-9]([a-z0-9._-]*[a-z0-9])?$",
        "a name of lower-case letters, digits, ., _ and -",
    ),
    (
        "^[a-z0-9]([a-z0-9_-]*[a-z0-9])?$",
        "a name of lower-case letters, digits, _ and -",
    ),
    (
        "^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$",
        "a name of letters, digits, ., _ and -, with a letter or digit at both ends",
    ),
    (
        "^([A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?)?$",
        "letters, digits, -, _ and ., with a letter or digit at both ends",
    ),
    ("^[A-Z][A-Z0-9_-]*$", "a method in capitals, such as GET"),
    (
        "^[0-9A-Fa-f:.]+/[0-9]{1,3}$",
        "an address block, such as 10.0.0.0/8",
    ),
    (
        r#"^/[!-"$->@-~]*$"#,
        "a path that begins with /, without spaces, ? and #",
    ),
    (
        r#"^(/|/[!-"$->@-~]*[!-"$-.0->@-~]/?)$"#,
        "a path that begins with /, without spaces, ? and #, and with at most one / at the end",
    ),
    (
        r"^/[^*?#]*\*?$",
        "a path that begins with /, without ? and #, and with * only at the end",
    ),
    (r#"^[!-"$%'-<>-~]+$"#, "a name without spaces, #, & and ="),
    (
        "^([a-z0-9]([-a-z0-9.]*[a-z0-9])?|[0-9a-f:]*:[0-9a-f:.]*)$",
        "the name of a host in lower case, or an address",
    ),
    (
        r"^(\*\.)?([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?\.)+[a-z]([-a-z0-9]{0,61}[a-z0-9])?$",
        "the full name of a host in lower case, such as api.example.com, or *. before one for all names below",
    ),
    (
        "^(spiffe://[a-z0-9._-]+(/[A-Za-z0-9._-]+)+|[a-z0-9]([-a-z0-9]*[a-z0-9])?/[a-z0-9]([-.a-z0-9]*[a-z0-9])?)$",
        "<namespace>/<service account>, or a SPIFFE id",
    ),
];

/// Returns the form of a text that a pattern of the definitions matches; `None` for another pattern.
#[must_use]
pub fn pattern_in_words(pattern: &str) -> Option<&'static str> {
    let mut all = PATTERNS.iter();
    all.find(|(known, _)| *known == pattern)
        .map(|(_, words)| *words)
}
