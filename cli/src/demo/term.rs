//! The output of the demo: numbered steps, notes, and expectations that are kept count of.

use std::time::Instant;

use crate::out;

/// Prints, and counts failed expectations.
pub struct Term {
    color: bool,
    started: Instant,
    step: u32,
    held: u32,
    failed: Vec<String>,
}

impl Term {
    /// A report that has just begun.
    pub fn new() -> Self {
        let color = out::has_colors();
        Self {
            color,
            started: Instant::now(),
            step: 0,
            held: 0,
            failed: Vec::new(),
        }
    }

    /// The title of the next step.
    pub fn step(&mut self, title: &str) {
        self.step += 1;
        let number = self.step;
        self.line(&format!(
            "\n{} {}",
            self.paint("1;36", &format!("{number}.")),
            self.paint("1", title)
        ));
    }

    /// A fact.
    pub fn note(&self, text: &str) {
        self.line(&format!("   {text}"));
    }

    /// A block of text, dimmed and indented.
    pub fn block(&self, text: &str) {
        for line in text.lines() {
            self.line(&format!("     {}", self.paint("2", line)));
        }
    }

    /// A measured expectation: `text` is printed either way, a miss is remembered.
    pub fn expect(&mut self, holds: bool, text: &str) {
        if holds {
            self.held += 1;
            self.line(&format!("   {} {text}", self.paint("32", "✓")));
        } else {
            self.line(&format!("   {} {text}", self.paint("1;31", "✗")));
            self.failed.push(text.to_owned());
        }
    }

    /// How many expectations held, and those that did not.
    pub fn verdict(&self) -> (u32, &[String]) {
        (self.held, &self.failed)
    }

    /// Seconds since the start.
    pub fn elapsed(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    /// `text` in an ANSI color where colors are wanted.
    pub fn paint(&self, code: &str, text: &str) -> String {
        if self.color {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    fn line(&self, text: &str) {
        out::text(format_args!("{text}\n"));
    }
}
