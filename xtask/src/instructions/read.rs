//! The output of cargo, the benchmarks and callgrind.

use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::Value;

/// The benchmarks of this name in the output of `cargo build --message-format=json`.
pub fn benchmarks(printed: &str, name: &str) -> Vec<PathBuf> {
    let messages = printed
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let executable = |message: Value| {
        let target = |key| message.pointer(key).and_then(Value::as_str) == Some(name);
        let bench = message.pointer("/target/kind/0").and_then(Value::as_str) == Some("bench");
        let path = message.get("executable").and_then(Value::as_str)?;
        (bench && target("/target/name")).then(|| path.into())
    };
    messages.filter_map(executable).collect()
}

/// The cases that a benchmark lists, each with its number of turns.
///
/// # Errors
/// A line is not a name and a number of turns above 0.
pub fn cases(printed: &str) -> Result<Vec<(String, u64)>> {
    let case = |line: &str| {
        let (name, turns) = line.split_once(' ')?;
        let turns = turns.parse().ok().filter(|turns| *turns > 0)?;
        Some((name.to_owned(), turns))
    };
    let parsed =
        |line: &str| case(line).with_context(|| format!("not a case with its turns: {line:?}"));
    printed.lines().map(parsed).collect()
}

/// The instructions that callgrind has counted.
pub fn collected(printed: &str) -> Option<u64> {
    let total = |line: &str| {
        let (process, count) = line.split_once(" Collected : ")?;
        let count = process
            .starts_with("==")
            .then(|| count.split(' ').next())??;
        count.parse().ok()
    };
    printed.lines().find_map(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn benchmarks_are_found_by_name() {
        let printed = r#"
{"reason":"compiler-artifact","target":{"kind":["lib"],"name":"instructions"},"executable":null}
{"reason":"compiler-artifact","target":{"kind":["bench"],"name":"compile"},"executable":"/t/compile-1"}
{"reason":"compiler-artifact","target":{"kind":["bin"],"name":"instructions"},"executable":"/t/other"}
{"reason":"compiler-artifact","target":{"kind":["bench"],"name":"instructions"},"executable":"/t/instructions-1"}
{"reason":"compiler-artifact","target":{"kind":["bench"],"name":"instructions"},"executable":"/t/instructions-2"}
something that a build script printed
{"reason":"build-finished","success":true}"#;
        let found = benchmarks(printed, "instructions");
        assert_eq!(
            found,
            ["/t/instructions-1", "/t/instructions-2"].map(PathBuf::from)
        );
    }

    #[test]
    fn cases_have_turns() {
        assert_eq!(
            cases("view-5 500\nview-50 100\n").unwrap(),
            [("view-5".to_owned(), 500), ("view-50".to_owned(), 100)]
        );
        for wrong in ["view-5", "view-5 0", "view-5 many", "view-5 1 2"] {
            let error = cases(wrong).unwrap_err().to_string();
            assert!(error.contains(wrong), "{error}");
        }
    }

    #[test]
    fn the_sum_is_read() {
        let printed = "something the program said: Collected : 7\n\
            ==17399== Callgrind, a call-graph generating cache profiler\n==17399== \n\
            ==17399== Events    : Ir\n==17399== Collected : 122506\n==17399== \n==17399== I   refs:      122,506\n";
        assert_eq!(collected(printed), Some(122_506));
        assert_eq!(collected("==1== Collected : 5 6 7"), Some(5));
        assert_eq!(collected("==1== Events    : Ir"), None);
    }
}
