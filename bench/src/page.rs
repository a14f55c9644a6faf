//! Measured sections of docs/performance.md: each between two markers of its own, under its conditions. All other text
//! of the page is written by hand.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};

use crate::machine;
use crate::paths::Parts;
use crate::stats::Sample;

/// Load average up to which the machine counts as idle.
const IDLE: f64 = 0.5;

/// The conditions under which a section was measured.
#[derive(Debug)]
pub struct Conditions {
    lines: Vec<(&'static str, String)>,
    load: String,
    work: Sample,
}

impl Conditions {
    /// As they are before the measurement.
    ///
    /// # Errors
    /// When the fixed piece of work can't be done.
    pub async fn now(parts: &Parts) -> Result<Self> {
        Ok(Self {
            lines: machine::conditions(parts),
            load: machine::load_average(),
            work: work().await?,
        })
    }

    /// As Markdown, with the fixed piece of work done once more.
    ///
    /// # Errors
    /// When it can't be done.
    pub async fn markdown(&self) -> Result<String> {
        let (load, work_after) = (machine::load_average(), work().await?);
        let mut out = String::new();
        let mut line = |text: String| {
            // Writing to a String can't fail.
            let _ = writeln!(out, "- {text}");
        };
        for (name, what) in &self.lines {
            line(format!("{name}: {what}"));
        }
        line(format!(
            "load average (1, 5, 15 min): {} before, {load} after",
            self.load
        ));
        if busy(&self.load) {
            line(
                "**the machine was not idle when the run began: 99th percentiles, and differences and ratios of them, are not to be relied on**"
                    .to_owned(),
            );
        }
        line(format!(
            "{}: {} before, {} after",
            machine::WORK,
            self.work.spread(2),
            work_after.spread(2)
        ));
        line("every figure of several runs is `median (min to max)`".to_owned());
        Ok(out)
    }
}

/// The fixed piece of work, on a thread of its own: meanwhile signals are heard.
async fn work() -> Result<Sample> {
    tokio::task::spawn_blocking(|| machine::fixed_work(machine::WORK_TIMES)).await?
}

/// Puts a text between a section's markers.
///
/// # Errors
/// When the page has none.
pub fn write(page: &Path, section: &str, text: &str) -> Result<()> {
    let old = std::fs::read_to_string(page).with_context(|| page.display().to_string())?;
    std::fs::write(page, between(&old, section, text)?)?;
    Ok(())
}

fn between(page: &str, section: &str, text: &str) -> Result<String> {
    let begin = format!("<!-- begin: {section}, written by `heddle-bench` -->");
    let end = format!("<!-- end: {section} -->");
    let (head, rest) = page
        .split_once(&begin)
        .with_context(|| format!("the page has no `{begin}`"))?;
    let (_, tail) = rest
        .split_once(&end)
        .with_context(|| format!("the page has no `{end}`"))?;
    Ok(format!("{head}{begin}\n\n{}\n\n{end}{tail}", text.trim()))
}

/// A busy machine is reported as one: the work of other processes is in the figures.
fn busy(load: &str) -> bool {
    let last_minute = load
        .split(' ')
        .next()
        .and_then(|word| word.parse::<f64>().ok());
    last_minute.is_none_or(|load| load > IDLE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_machine_is_named() {
        assert!(!busy("0.40 3.00 5.00"));
        assert!(busy("2.83 4.49 6.45") && busy(""));
    }

    #[test]
    fn only_what_is_between_the_markers_changes() {
        let (begin, end) = (
            "<!-- begin: a, written by `heddle-bench` -->",
            "<!-- end: a -->",
        );
        let page = format!("# a\n{begin}\nold\n{end}\nz\n");
        let once = between(&page, "a", "new\n").unwrap();
        assert_eq!(once, format!("# a\n{begin}\n\nnew\n\n{end}\nz\n"));
        assert_eq!(between(&once, "a", "new").unwrap(), once);
        assert!(between(&page, "b", "new").is_err());
    }
}
