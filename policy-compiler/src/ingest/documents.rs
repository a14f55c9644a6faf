//! Splits a text into YAML documents and JSON values, as `kubectl apply -f` does.

use serde::de::IgnoredAny;

/// One document of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Document {
    /// The line at which the document starts, counted from 1.
    pub(super) line: usize,
    /// The text of the document, without its border.
    pub(super) text: String,
}

impl Document {
    /// Whether the document holds only blank lines and comments.
    fn is_empty(&self) -> bool {
        self.text
            .lines()
            .all(|line| line.trim().is_empty() || line.trim_start().starts_with('#'))
    }
}

/// Returns the documents of a text that are not empty. A text without borders that holds several JSON values yields each value.
///
/// `---` at the beginning of a line is a border wherever it stands (YAML 1.2.2, section 9.1.2), and content may follow it on the same line.
/// Directives (`%YAML`, `%TAG`) stand before a border only, and are dropped.
pub(super) fn documents(text: &str) -> Vec<Document> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut found = vec![Document {
        line: 1,
        text: String::new(),
    }];
    let mut before_content = true;
    for (index, line) in text.lines().enumerate() {
        if let Some(rest) = marker(line, "---") {
            found.push(Document {
                line: index + 1,
                text: format!("   {rest}\n"),
            });
            before_content = false;
            continue;
        }
        if let Some(rest) = marker(line, "...") {
            found.push(Document {
                line: index + 1,
                text: format!("   {rest}\n"),
            });
            before_content = true;
            continue;
        }
        let directive = before_content && line.starts_with('%');
        let blank = line.trim().is_empty() || line.starts_with('#');
        before_content &= directive || blank;
        if let Some(document) = found.last_mut() {
            document.text.push_str(if directive { "" } else { line });
            document.text.push('\n');
        }
    }
    found.retain(|document| !document.is_empty());
    found.into_iter().flat_map(json_values).collect()
}

/// Returns the text after a document marker, or `None` if the line does not start with the marker.
fn marker<'a>(line: &'a str, marker: &str) -> Option<&'a str> {
    let rest = line.strip_prefix(marker)?;
    (rest.is_empty() || rest.starts_with([' ', '\t'])).then_some(rest)
}

/// Splits a document that consists of several JSON values. Any other document is returned as it is.
fn json_values(document: Document) -> Vec<Document> {
    if !document.text.trim_start().starts_with('{') {
        return vec![document];
    }
    let mut values = serde_json::Deserializer::from_str(&document.text).into_iter::<IgnoredAny>();
    let (mut found, mut start) = (Vec::new(), 0);
    while let Some(value) = values.next() {
        let end = values.byte_offset();
        let Some(text) = document.text.get(start..end).filter(|_| value.is_ok()) else {
            return vec![document];
        };
        let before = document.text.get(..start).unwrap_or_default();
        let blank = text.len() - text.trim_start().len();
        let skipped = text.get(..blank).unwrap_or_default();
        found.push(Document {
            line: document.line + before.matches('\n').count() + skipped.matches('\n').count(),
            text: text.trim_start().to_owned(),
        });
        start = end;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &str) -> Vec<(usize, String)> {
        let documents = documents(text).into_iter();
        documents
            .map(|document| (document.line, document.text.trim().to_owned()))
            .collect()
    }

    fn expected(documents: &[(usize, &str)]) -> Vec<(usize, String)> {
        let documents = documents.iter();
        documents
            .map(|(line, text)| (*line, (*text).to_owned()))
            .collect()
    }

    #[test]
    fn borders_split_documents_and_lose_no_content() {
        for (text, documents) in [
            ("a: 1\n---\nb: 2\n", vec![(1, "a: 1"), (2, "b: 2")]),
            ("a: 1\r\n---\r\nb: 2\r\n", vec![(1, "a: 1"), (2, "b: 2")]),
            ("--- {a: 1}\n--- {b: 2}", vec![(1, "{a: 1}"), (2, "{b: 2}")]),
            ("---\t{a: 1}", vec![(1, "{a: 1}")]),
            ("--- # note\na: 1", vec![(1, "# note\na: 1")]),
            ("a: 1\n...\n# end\n", vec![(1, "a: 1")]),
            ("a: 1\n... # end\n---\nb: 2", vec![(1, "a: 1"), (3, "b: 2")]),
            ("%YAML 1.2\n---\na: 1\n", vec![(2, "a: 1")]),
            ("# head\n%TAG ! tag:x,2000:\n---\na: 1", vec![(3, "a: 1")]),
            ("\u{feff}a: 1", vec![(1, "a: 1")]),
            ("a: |\n  x\n  ---\n  y", vec![(1, "a: |\n  x\n  ---\n  y")]),
            ("---a: 1", vec![(1, "---a: 1")]),
            ("---\n---\n# only a comment\n---\n", vec![]),
            ("", vec![]),
        ] {
            assert_eq!(split(text), expected(&documents), "{text:?}");
        }
    }

    #[test]
    fn json_values_in_a_row_are_documents_of_their_own() {
        for (text, documents) in [
            (
                "{\"a\": 1}{\"b\": 2}",
                vec![(1, "{\"a\": 1}"), (1, "{\"b\": 2}")],
            ),
            (
                "{\n\"a\": 1}\n\n{\"b\": 2}\n",
                vec![(1, "{\n\"a\": 1}"), (4, "{\"b\": 2}")],
            ),
            ("{a: 1}", vec![(1, "{a: 1}")]),
            ("{\"a\": 1} {b", vec![(1, "{\"a\": 1} {b")]),
        ] {
            assert_eq!(split(text), expected(&documents), "{text:?}");
        }
    }

    #[test]
    fn a_directive_after_content_stays_content() {
        assert_eq!(
            split("a: |\n%x\n"),
            expected(&[(1, "a: |\n%x")]),
            "only before a border a percent sign starts a directive"
        );
    }
}
