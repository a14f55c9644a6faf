//! Rust source as far as tidy reads it.

use std::path::Path;

/// Whether a file is Rust.
pub fn is_rust(file: &Path) -> bool {
    file.extension().is_some_and(|extension| extension == "rs")
}

/// The text before the unit tests, which stand last in a file.
pub fn without_tests(text: &str) -> &str {
    text.find("\n#[cfg(test)]\nmod tests")
        .map_or(text, |end| text.get(..=end).unwrap_or(text))
}

/// The code alone: comments and the contents of strings and characters are blanked, line breaks stay.
pub fn code(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let after_word = code
            .chars()
            .next_back()
            .is_some_and(|last| last.is_alphanumeric() || last == '_');
        let length = match literal(rest, after_word) {
            Some(length) => {
                let blank = rest.get(..length).unwrap_or(rest);
                code.extend(blank.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
                blank.len()
            }
            None => {
                code.push(first);
                first.len_utf8()
            }
        };
        rest = rest.get(length..).unwrap_or_default();
    }
    code
}

/// The contents of the strings, as they are written, with the line in which each begins.
pub fn strings(text: &str) -> Vec<(usize, &str)> {
    let mut strings = Vec::new();
    let (mut rest, mut line, mut after_word) = (text, 1, false);
    while let Some(first) = rest.chars().next() {
        let literal = literal(rest, after_word);
        let (part, next) = rest.split_at(literal.unwrap_or(first.len_utf8()));
        if literal.is_some() && part.starts_with(['"', 'r']) {
            strings.push((line, part.trim_start_matches('r').trim_matches(['#', '"'])));
        }
        line += part.matches('\n').count();
        after_word = literal.is_none() && (first.is_alphanumeric() || first == '_');
        rest = next;
    }
    strings
}

/// The length of the comment, string or character that the text begins with.
fn literal(text: &str, after_word: bool) -> Option<usize> {
    if text.starts_with("//") {
        return Some(text.find('\n').unwrap_or(text.len()));
    }
    if text.starts_with("/*") {
        return Some(block_comment(text));
    }
    if text.starts_with('"') {
        return Some(quoted(text, '"'));
    }
    if text.starts_with('\'') {
        return character(text);
    }
    if text.starts_with('r') && !after_word {
        return raw_string(text);
    }
    None
}

fn block_comment(text: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
        let step = if rest.starts_with("/*") {
            depth += 1;
            2
        } else if rest.starts_with("*/") {
            depth -= 1;
            2
        } else {
            rest.chars().next().map_or(1, char::len_utf8)
        };
        at += step;
        if depth == 0 {
            break;
        }
    }
    at
}

fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + c.len_utf8(),
            _ => {}
        }
    }
    text.len()
}

/// A character, and not a lifetime.
fn character(text: &str) -> Option<usize> {
    let mut following = text.chars().skip(1);
    let (first, second) = (following.next()?, following.next()?);
    (first == '\\' || second == '\'').then(|| quoted(text, '\''))
}

fn raw_string(text: &str) -> Option<usize> {
    let hashes = text.chars().skip(1).take_while(|c| *c == '#').count();
    let begin = 1 + hashes;
    if !text.get(begin..)?.starts_with('"') {
        return None;
    }
    let end = format!("\"{}", "#".repeat(hashes));
    let body = text.get(begin + 1..)?;
    Some(
        body.find(&end)
            .map_or(text.len(), |at| begin + 1 + at + end.len()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_remains() {
        for (text, remains) in [
            ("a // {\nb", "a     \nb"),
            ("a /* { /* */ { */ b", "a                   b"),
            (r#"let a = "\"{";"#, "let a =      ;"),
            ("let a = r#\"{\"#;", "let a =       ;"),
            ("for<'a> '{' '\\'' 'ä'", "for<'a>              "),
        ] {
            let code = code(text);
            assert_eq!(code.replace(' ', ""), remains.replace(' ', ""), "{text}");
        }
    }

    #[test]
    fn strings_are_found_with_their_lines() {
        let text = "a(\"b\"); // \"c\"\nlet r = r#\"d \"e\"\nf\"#;\nfor\"g\\\"h\" '\"' \"i\"";
        let found = strings(text);
        let expected = [(1, "b"), (2, "d \"e\"\nf"), (4, "g\\\"h"), (4, "i")];
        assert_eq!(found, expected);
    }

    #[test]
    fn tests_are_cut_off() {
        assert_eq!(
            without_tests("a\n\n#[cfg(test)]\nmod tests {\n}\n"),
            "a\n\n"
        );
    }
}
