//! Lengths of files and functions, without tests.

use std::{fs, path::Path};

use anyhow::Result;

use super::source;
use crate::repo::Repo;

/// Lines of a file.
const FILE: usize = 500;
/// Lines of a function, from its name to its closing brace.
const FUNCTION: usize = 60;

pub struct Lengths {
    pub findings: Vec<String>,
    pub summary: String,
}

pub fn check(repo: &Repo) -> Result<Lengths> {
    let (mut findings, mut files, mut functions) = (Vec::new(), Vec::new(), Vec::new());
    for file in repo
        .files()?
        .iter()
        .filter(|file| source::is_rust(file) && !is_test(file))
    {
        let text = fs::read_to_string(repo.path(file))?;
        let text = source::without_tests(&text);
        let lines = text.lines().count();
        if lines > FILE {
            findings.push(format!("{}: {lines} lines, at most {FILE}", file.display()));
        }
        files.push(lines);
        for function in functions_of(&source::code(text)) {
            if function.lines > FUNCTION {
                findings.push(format!(
                    "{}:{}: fn {} has {} lines, at most {FUNCTION}",
                    file.display(),
                    function.line,
                    function.name,
                    function.lines
                ));
            }
            functions.push(function.lines);
        }
    }
    let summary = format!(
        "files {}; functions {}",
        percentiles(files),
        percentiles(functions)
    );
    Ok(Lengths { findings, summary })
}

fn is_test(file: &Path) -> bool {
    file.components().any(|part| part.as_os_str() == "tests") || file.ends_with("tests.rs")
}

fn percentiles(mut lengths: Vec<usize>) -> String {
    lengths.sort_unstable();
    let at = |percent: usize| {
        lengths
            .get(lengths.len() * percent / 100)
            .or(lengths.last())
            .copied()
            .unwrap_or(0)
    };
    format!(
        "{}: median {}, 95th percentile {}, longest {} lines",
        lengths.len(),
        at(50),
        at(95),
        at(100)
    )
}

#[derive(Debug, PartialEq, Eq)]
struct Function {
    name: String,
    line: usize,
    lines: usize,
}

/// Every function with a body, in text that holds neither comments nor strings.
fn functions_of(code: &str) -> Vec<Function> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        let (before, rest) = code.split_at(at);
        if before
            .chars()
            .next_back()
            .is_some_and(|c| c.is_alphanumeric() || c == '_')
        {
            continue;
        }
        let name: String = rest
            .chars()
            .skip(3)
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect();
        if let (false, Some(lines)) = (name.is_empty(), lines_to_end(rest)) {
            found.push(Function {
                name,
                line: before.matches('\n').count() + 1,
                lines,
            });
        }
    }
    found
}

/// Lines up to the brace that closes the body; none if a semicolon comes where the body should begin.
fn lines_to_end(rest: &str) -> Option<usize> {
    let (mut lines, mut brackets, mut braces) = (1, 0_i32, 0_i32);
    for c in rest.chars() {
        match c {
            '\n' => lines += 1,
            '(' | '[' => brackets += 1,
            ')' | ']' => brackets -= 1,
            ';' if brackets == 0 && braces == 0 => return None,
            '{' => braces += 1,
            '}' => {
                braces -= 1;
                if braces == 0 {
                    return Some(lines);
                }
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_measured() {
        let code = "trait T {\n  fn none(a: [u8; 2]);\n}\n\nfn two<T>(f: fn () -> u8) -> T {\n  { x }\n}\nlet fnord = 1;\n";
        assert_eq!(
            functions_of(code),
            [Function {
                name: "two".to_owned(),
                line: 5,
                lines: 3
            }]
        );
    }
}
