//! Plain words: the share of comment blocks with a pronoun in the place of a noun, or a verb of persons for software, and the width of
//! Markdown prose.
//!
//! A block is a run of comment lines with the same marker (`//`, `///` or `//!`). Code in backticks and code fences does not count.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::source;
use crate::repo::Repo;

/// The committed figures.
const FILE: &str = "xtask/words.json";

/// Words that stand for a noun which a reader then has to guess, and verbs that make a person of software: it contains, reports, returns.
const WORDS: [&str; 11] = [
    "what", "who", "whoever", "whom", "whose", "whatever", "nobody", "anew", "says", "tells",
    "knows",
];

/// Columns of Markdown prose.
const COLUMNS: usize = 100;

/// Figures that may only fall.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Figures {
    /// Comment blocks with one of the words, by crate.
    unclear_comments: BTreeMap<String, usize>,
    /// Lines of Markdown prose beyond the columns.
    long_prose: usize,
}

/// The result of the check.
pub struct Words {
    /// Figures above the committed ones, with the places that are new.
    pub findings: Vec<String>,
    /// The share of each crate and of all.
    pub summary: String,
}

/// A comment block that has one of the words.
struct Place {
    file: PathBuf,
    lines: std::ops::RangeInclusive<usize>,
    word: &'static str,
}

/// Compares the figures with the committed ones. If none rose and `lower` is set, writes them.
///
/// # Errors
/// The files cannot be listed, or one of them or of the figures cannot be read or written.
pub fn check(repo: &Repo, lower: bool) -> Result<Words> {
    let found = Found::read(repo)?;
    let mut now = Figures {
        long_prose: found.prose.len(),
        ..Figures::default()
    };
    for place in &found.places {
        *now.unclear_comments
            .entry(package(&place.file))
            .or_default() += 1;
    }
    let text = fs::read_to_string(repo.path(FILE));
    let text = text.with_context(|| format!("cannot read {FILE}"))?;
    let committed: Figures =
        serde_json::from_str(&text).with_context(|| format!("cannot parse {FILE}"))?;
    let mut findings = above(&committed, &now);
    if findings.is_empty() {
        if lower {
            let text = serde_json::to_string_pretty(&now)? + "\n";
            fs::write(repo.path(FILE), text).with_context(|| format!("cannot write {FILE}"))?;
        }
    } else {
        let added = added_lines(repo).unwrap_or_default();
        findings.extend(found.places.iter().filter_map(|place| {
            let added = added.get(&place.file)?;
            let new = place.lines.clone().any(|line| added.contains(&line));
            new.then(|| place.to_string())
        }));
    }
    let prose = found.prose.into_iter();
    findings.extend(prose.filter(|_| now.long_prose > committed.long_prose));
    Ok(Words {
        findings,
        summary: summary(&found.blocks, &now),
    })
}

/// Everything that counts, in the whole repository.
#[derive(Default)]
struct Found {
    /// Comment blocks by crate.
    blocks: BTreeMap<String, usize>,
    places: Vec<Place>,
    /// Messages about long lines of prose.
    prose: Vec<String>,
}

impl Found {
    fn read(repo: &Repo) -> Result<Self> {
        let mut found = Self::default();
        for file in repo.files()? {
            let text = || fs::read_to_string(repo.path(&file));
            if source::is_rust(&file) {
                let blocks = comment_blocks(&text()?);
                *found.blocks.entry(package(&file)).or_default() += blocks.len();
                found.places.extend(blocks.into_iter().filter_map(|block| {
                    let file = file.clone();
                    let Block { lines, word } = block;
                    word.map(|word| Place { file, lines, word })
                }));
            } else if file.extension().is_some_and(|e| e == "md") {
                found
                    .prose
                    .extend(long_prose(&text()?).into_iter().map(|line| {
                        format!("{}:{line}: prose beyond {COLUMNS} columns", file.display())
                    }));
            }
        }
        Ok(found)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (file, line) = (self.file.display(), self.lines.start());
        let word = self.word;
        write!(f, "{file}:{line}: {word:?} in a comment; name the thing")
    }
}

/// The figures that rose. Of comments the sum of all crates counts, for code moves between them.
fn above(committed: &Figures, now: &Figures) -> Vec<String> {
    let mut findings = Vec::new();
    let total = |figures: &Figures| figures.unclear_comments.values().sum::<usize>();
    let (before, after) = (total(committed), total(now));
    if after > before {
        findings.push(format!(
            "{after} comment blocks with unclear words, at most {before} ({FILE})"
        ));
    }
    if now.long_prose > committed.long_prose {
        findings.push(format!(
            "{} lines of Markdown prose beyond {COLUMNS} columns, at most {} ({FILE})",
            now.long_prose, committed.long_prose
        ));
    }
    findings
}

fn summary(blocks: &BTreeMap<String, usize>, now: &Figures) -> String {
    let mut text = "comment blocks with unclear words:".to_owned();
    let (mut all, mut unclear) = (0, 0);
    for (package, count) in blocks {
        let of_package = now
            .unclear_comments
            .get(package)
            .copied()
            .unwrap_or_default();
        _ = write!(text, " {package} {},", share(of_package, *count));
        all += count;
        unclear += of_package;
    }
    _ = write!(text, " all {} ({unclear} of {all})", share(unclear, all));
    text
}

fn share(part: usize, all: usize) -> String {
    let permille = (part * 1000).checked_div(all).unwrap_or_default();
    format!("{}.{} %", permille / 10, permille % 10)
}

/// The folder of the crate that a file belongs to.
fn package(file: &Path) -> String {
    let mut parts = file.iter().map(|part| part.to_string_lossy().into_owned());
    let first = parts.next().unwrap_or_default();
    match parts.next() {
        Some(second) if first == "tests" => format!("{first}/{second}"),
        Some(_) | None => first,
    }
}

struct Block {
    lines: std::ops::RangeInclusive<usize>,
    word: Option<&'static str>,
}

fn comment_blocks(text: &str) -> Vec<Block> {
    let mut blocks: Vec<(&str, Block)> = Vec::new();
    let mut fenced = false;
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim_start();
        let Some(marker) = ["///", "//!", "//"]
            .into_iter()
            .find(|m| line.starts_with(m))
        else {
            continue;
        };
        let body = line.get(marker.len()..).unwrap_or_default();
        let last = blocks.last_mut();
        let continued =
            last.filter(|(of, block)| *of == marker && *block.lines.end() + 1 == number);
        if continued.is_none() {
            fenced = false;
        }
        let fence = body.trim_start().starts_with("```");
        fenced ^= fence;
        let word = if fenced || fence {
            None
        } else {
            unclear_word(body)
        };
        match continued {
            Some((_, block)) => {
                block.lines = *block.lines.start()..=number;
                block.word = block.word.or(word);
            }
            None => {
                let lines = number..=number;
                blocks.push((marker, Block { lines, word }));
            }
        }
    }
    blocks.into_iter().map(|(_, block)| block).collect()
}

/// The first of the words outside of backticks.
fn unclear_word(text: &str) -> Option<&'static str> {
    let prose = text.split('`').step_by(2);
    let words = prose.flat_map(|part| part.split(|c: char| !c.is_alphanumeric() && c != '_'));
    let mut found =
        words.filter_map(|word| WORDS.into_iter().find(|w| w.eq_ignore_ascii_case(word)));
    found.next()
}

/// Lines that the present branch adds to `main`, by file.
fn added_lines(repo: &Repo) -> Result<BTreeMap<PathBuf, BTreeSet<usize>>> {
    let arguments = ["diff", "--unified=0", "--merge-base", "main", "--", "*.rs"];
    let mut added: BTreeMap<PathBuf, BTreeSet<usize>> = BTreeMap::new();
    let mut file = PathBuf::new();
    for line in repo.output("git", &arguments)?.lines() {
        if let Some(name) = line.strip_prefix("+++ b/") {
            file = PathBuf::from(name);
        } else if let Some((_, hunk)) = line.split_once(" +").filter(|_| line.starts_with("@@ ")) {
            let range = hunk.split(' ').next().unwrap_or_default();
            let (first, count) = range.split_once(',').unwrap_or((range, "1"));
            let (first, count): (usize, usize) = (first.parse()?, count.parse()?);
            added
                .entry(file.clone())
                .or_default()
                .extend(first..first + count);
        }
    }
    Ok(added)
}

/// Numbers of the lines of prose beyond the columns. Tables, code, the targets of links and generated parts do not count.
fn long_prose(text: &str) -> Vec<usize> {
    let (mut long, mut fenced, mut indented) = (Vec::new(), false, false);
    let (mut blank, mut generated) = (true, text.starts_with("<!-- Generated"));
    for (number, line) in (1..).zip(text.lines()) {
        generated |= line.starts_with("<!-- begin: ");
        generated &= !line.starts_with("<!-- end: ");
        if generated {
            continue;
        }
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
            continue;
        }
        indented = line.starts_with("    ") && (blank || indented);
        blank = line.trim().is_empty();
        let exempt = fenced || indented || line.trim_start().starts_with('|');
        if !exempt && without_targets(line).chars().count() > COLUMNS {
            long.push(number);
        }
    }
    long
}

fn without_targets(line: &str) -> String {
    let mut text = String::new();
    let mut parts = line.split("](");
    text.push_str(parts.next().unwrap_or_default());
    for part in parts {
        text.push_str(part.split_once(')').map_or("", |(_, rest)| rest));
    }
    let words = text.split(' ').filter(|word| !word.contains("://"));
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unclear(text: &str) -> Vec<bool> {
        let blocks = comment_blocks(text).into_iter();
        blocks.map(|block| block.word.is_some()).collect()
    }

    #[test]
    fn a_block_is_a_run_of_lines_with_one_marker() {
        let text = "//! Module.\n//! Who calls.\n\n/// Item.\n// Reason.\n/// What holds.\nfn f() {}\n    // Inner.\n";
        assert_eq!(unclear(text), [true, false, false, true, false]);
    }

    #[test]
    fn words_count_as_a_whole_and_outside_of_code() {
        for (text, expected) in [
            ("// Whatever it is.", true),
            ("// NOBODY.", true),
            ("// The view knows it.", true),
            ("// known, tell, say", false),
            ("// somewhat, whole, whoops", false),
            ("// The field `what` names it.", false),
            ("// `a` is what `b` is.", true),
            ("/// ```\n/// let who = 1;\n/// ```", false),
            (
                "let text = \"// a\"; // what follows code is not a block",
                false,
            ),
        ] {
            let found = unclear(text).contains(&true);
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn only_figures_that_rose_are_reported() {
        let figures = |a: usize, prose: usize| Figures {
            unclear_comments: BTreeMap::from([("a".to_owned(), a)]),
            long_prose: prose,
        };
        assert!(above(&figures(3, 2), &figures(3, 2)).is_empty());
        assert!(above(&figures(3, 2), &figures(1, 0)).is_empty());
        assert_eq!(above(&figures(3, 2), &figures(4, 3)).len(), 2);
        assert_eq!(above(&Figures::default(), &figures(1, 0)).len(), 1);
        let moved = Figures {
            unclear_comments: BTreeMap::from([("a".to_owned(), 1), ("b".to_owned(), 2)]),
            long_prose: 2,
        };
        assert!(above(&figures(3, 2), &moved).is_empty());
    }

    #[test]
    fn tables_code_and_targets_of_links_are_not_prose() {
        let long = "x ".repeat(60);
        let text = format!(
            "{long}\n\n    {long}\n    {long}\n\n| {long} |\n```\n{long}\n```\n- a\n    {long}\n"
        );
        assert_eq!(long_prose(&text), [1, 11]);
        let link = format!(
            "[a]({}) b\nhttps://example.com/{}",
            "x".repeat(100),
            "x".repeat(100)
        );
        assert!(long_prose(&link).is_empty());
        let parts = format!("<!-- begin: a -->\n{long}\n<!-- end: a -->\n{long}\n");
        assert_eq!(long_prose(&parts), [4]);
        assert!(long_prose(&format!("<!-- Generated by x -->\n{long}\n")).is_empty());
    }

    #[test]
    fn shares_are_in_tenths_of_a_percent() {
        assert_eq!(share(235, 1000), "23.5 %");
        assert_eq!(share(0, 0), "0.0 %");
    }

    #[test]
    fn crates_below_tests_have_their_own_figure() {
        assert_eq!(package(Path::new("tests/scope/src/lib.rs")), "tests/scope");
        assert_eq!(package(Path::new("cli/src/main.rs")), "cli");
    }
}
