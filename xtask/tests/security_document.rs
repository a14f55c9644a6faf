//! docs/security.md: each threat has an invariant and tests, and the tests that it names exist.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};

/// The golden cases, below the root.
const GOLDEN: &str = "policy-compiler/tests/golden";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The files below a folder of the repository, without those that a build writes.
fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            files(&path, found);
        } else if path.is_file() {
            found.push(path);
        }
    }
}

/// The words between backquotes.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The paragraphs that begin with a word in bold type.
fn paragraphs<'a>(section: &'a str, word: &'a str) -> impl Iterator<Item = &'a str> {
    let all = section.split("\n\n").map(str::trim);
    all.filter_map(move |paragraph| {
        let (_, text) = paragraph.split_once(&format!("**{word}.**"))?;
        Some(text)
    })
}

#[test]
fn every_threat_has_an_invariant_and_tests() {
    let text = fs::read_to_string(root().join("docs/security.md")).unwrap();
    for section in text.split("\n## ").skip(1) {
        let title = section.lines().next().unwrap();
        for word in ["Threat", "Invariant", "Test"] {
            let found = paragraphs(section, word).any(|text| text.len() > 20);
            assert!(found, "{title}: no paragraph **{word}.**");
        }
        let tests = paragraphs(section, "Test").flat_map(quoted);
        assert!(tests.count() > 0, "{title}: no test has a name");
    }
}

#[test]
fn the_named_tests_exist() {
    let mut all = Vec::new();
    files(&root(), &mut all);
    let sources = all
        .iter()
        .filter(|path| path.extension().is_some_and(|e| e == "rs"));
    let sources: String = sources
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    let is_golden = |name: &str| {
        let file = format!("{name}.yaml");
        let mut all = all.iter();
        all.any(|path| path.to_string_lossy().contains(GOLDEN) && path.ends_with(&file))
    };
    let text = fs::read_to_string(root().join("docs/security.md")).unwrap();
    let tests: Vec<&str> = paragraphs(&text, "Test").flat_map(quoted).collect();
    assert!(tests.len() > 80, "{tests:?}");
    for name in tests {
        let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        let exists = if name.contains('/') {
            name.contains('*')
                || root().join(name).exists()
                || root().join(GOLDEN).join(name).exists()
                || is_golden(name)
        } else if name.contains('_') && name.chars().all(word) {
            sources.contains(&format!("fn {name}(")) || is_golden(name)
        } else {
            true
        };
        assert!(
            exists,
            "docs/security.md names {name}, which does not exist"
        );
    }
}
