//! The form of messages: "X is not Y", never the form with "no" before Y.

use std::fs;

use anyhow::Result;

use super::source;
use crate::repo::Repo;

/// Returns a finding for each string of Rust source with the wrong form.
///
/// # Errors
/// The files cannot be listed, or one cannot be read.
pub fn check(repo: &Repo) -> Result<Vec<String>> {
    let mut findings = Vec::new();
    for file in repo.files()?.into_iter().filter(|f| source::is_rust(f)) {
        let text = fs::read_to_string(repo.path(&file))?;
        let strings = source::strings(&text).into_iter();
        findings.extend(strings.filter_map(|(line, string)| {
            let found = wrong_form(string)?;
            let file = file.display();
            Some(format!(
                "{file}:{line}: a message with {found:?}; write \"is not\" or \"are not\""
            ))
        }));
    }
    Ok(findings)
}

/// The first place of the wrong form. "There is no X" and "X is no longer Y" are right.
fn wrong_form(string: &str) -> Option<String> {
    // A backslash continues a string in the next line.
    let words: Vec<&str> = string.split_whitespace().filter(|w| *w != "\\").collect();
    let at = |index: usize| words.get(index).copied().unwrap_or_default();
    let verb = |word: &str| ["is", "are"].contains(&word);
    let wrong = |index: &usize| {
        let before = index.checked_sub(1).map(at).unwrap_or_default();
        let after = at(index + 2).trim_end_matches(|c: char| !c.is_alphanumeric());
        verb(at(*index))
            && at(index + 1) == "no"
            && !before.eq_ignore_ascii_case("there")
            && !["longer", "more", ""].contains(&after)
    };
    let index = (0..words.len()).find(wrong)?;
    Some(format!("{} no {}", at(index), at(index + 2)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_string_with_no_in_the_place_of_not_is_found() {
        for (words, expected) in [
            (vec!["{x:?}", "is", "no", "port"], true),
            (vec!["is", "no", "path;", "add", "/"], true),
            (vec!["lines", "are", "\\\n", "no", "text"], true),
            (vec!["{x:?}", "is", "not", "a", "port"], false),
            (vec!["There", "is", "no", "Mesh"], false),
            (vec!["it", "is", "no", "longer", "so"], false),
            (vec!["it", "is", "no", "more."], false),
            (vec!["this", "no", "port"], false),
            (vec!["the", "answer", "is", "no"], false),
        ] {
            // One string here would be found in this file.
            let string = words.join(" ");
            assert_eq!(wrong_form(&string).is_some(), expected, "{string}");
        }
        let found = wrong_form(&["a", "is", "no", "b"].join(" "));
        assert_eq!(found, Some(["is", "no", "b"].join(" ")));
    }
}
