//! How much memory the container may have.

use std::fs;

/// In a container the limits of its own group are at the top: of version 2, of version 1.
const LIMITS: [&str; 2] = [
    "/sys/fs/cgroup/memory.max",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
];
/// Version 1 stands for "no limit" by a number near the largest.
const NO_LIMIT: u64 = 1 << 60;

/// The limit in bytes; none where there is none, or none to be seen.
pub(crate) fn limit() -> Option<u64> {
    LIMITS
        .iter()
        .find_map(|path| fs::read_to_string(path).ok())
        .and_then(|text| parse(&text))
}

fn parse(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|limit| *limit < NO_LIMIT)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn no_limit_is_said_in_two_ways() {
        assert_eq!(parse("268435456\n"), Some(268_435_456));
        assert_eq!(parse("max\n"), None);
        assert_eq!(parse("9223372036854771712\n"), None);
        assert_eq!(parse(""), None);
    }
}
