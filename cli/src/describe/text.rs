//! Descriptions for people: a table for each part of the document.

use heddle_acceptor::clean;
use serde_json::Value;

use crate::table;

/// So many rows of a table are printed.
const ROWS: usize = 30;
/// The longest line, in characters.
const MAX_LINE: usize = 2000;

/// The widest indent of a line.
const MAX_INDENT: usize = 80;

/// The text of a description.
#[derive(Default)]
pub struct Text(Vec<String>);

impl Text {
    /// Adds facts, a line each; those without a value are left out.
    pub fn facts(&mut self, facts: &[(&str, String)]) {
        let facts = facts.iter().filter(|(_, value)| !value.is_empty());
        let width = facts.clone().map(|(name, _)| name.len()).max().unwrap_or(0);
        let lines = facts.map(|(name, value)| format!("{name:width$}  {}", clean(value, MAX_LINE)));
        self.0.push(lines.collect::<Vec<_>>().join("\n"));
    }

    /// Adds a table of the objects in a list: a column for each pointer.
    pub fn table(&mut self, title: &str, rows: &Value, columns: &[(&str, &str)]) {
        let rows = rows.as_array().into_iter().flatten();
        let rows = rows.map(|row| {
            let cells = columns
                .iter()
                .map(|(_, pointer)| cell(row.pointer(pointer)));
            cells.collect()
        });
        let head: Vec<&str> = columns.iter().map(|(name, _)| *name).collect();
        let table = table::first(&head, rows.collect(), ROWS);
        if !table.is_empty() {
            self.0.push(format!("{title}\n{table}"));
        }
    }

    /// Adds lines.
    pub fn lines(&mut self, title: &str, lines: &[String]) {
        if !lines.is_empty() {
            let lines = lines.iter().map(|line| {
                // The indent of YAML stays.
                let text = line.trim_start_matches(' ');
                let indent = line.len() - text.len();
                format!(
                    "{}{}",
                    " ".repeat(indent.min(MAX_INDENT)),
                    clean(text, MAX_LINE)
                )
            });
            let lines: Vec<String> = lines.collect();
            self.0.push(format!("{title}\n{}", lines.join("\n")));
        }
    }

    /// Ends the text.
    pub fn end(self) -> String {
        self.0.join("\n\n")
    }
}

/// The text of a value: lists with commas, and `-` for nothing.
fn cell(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) if text.is_empty() => "-".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(all)) if all.is_empty() => "-".to_owned(),
        Some(Value::Array(all)) => {
            let all: Vec<String> = all.iter().map(|one| cell(Some(one))).collect();
            all.join(", ")
        }
        Some(Value::Bool(true)) => "yes".to_owned(),
        Some(Value::Bool(false)) => "no".to_owned(),
        Some(Value::Number(number)) if number.is_f64() => {
            format!("{:.1}/s", number.as_f64().unwrap_or_default())
        }
        Some(other) => other.to_string(),
    }
}
