//! Compares the counts with the committed ones.

use std::{collections::BTreeSet, fmt};

use super::Counts;

/// More than this many percent off are worth a word.
pub const BOUND: u64 = 10;

/// How a case stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Within the bound.
    Same,
    /// Above it: a regression.
    More,
    /// Below it: it can be blessed.
    Less,
    /// Nothing is committed.
    New,
    /// Only committed.
    Gone,
}

/// One case.
#[derive(Debug, PartialEq, Eq)]
pub struct Line {
    name: String,
    before: Option<u64>,
    now: Option<u64>,
}

/// Every case of either, sorted.
pub fn compare(before: &Counts, now: &Counts) -> Vec<Line> {
    let names: BTreeSet<&String> = before.keys().chain(now.keys()).collect();
    let line = |name: &String| Line {
        name: name.clone(),
        before: before.get(name).copied(),
        now: now.get(name).copied(),
    };
    names.into_iter().map(line).collect()
}

impl Line {
    /// How it stands.
    pub fn verdict(&self) -> Verdict {
        let percent = |count: u64, percent: u64| u128::from(count) * u128::from(percent);
        match (self.before, self.now) {
            (None, _) => Verdict::New,
            (Some(_), None) => Verdict::Gone,
            (Some(before), Some(now)) => {
                let hundredfold = percent(now, 100);
                if hundredfold > percent(before, 100 + BOUND) {
                    Verdict::More
                } else if hundredfold < percent(before, 100 - BOUND) {
                    Verdict::Less
                } else {
                    Verdict::Same
                }
            }
        }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.name;
        let (before, now) = (
            self.before.unwrap_or_default(),
            self.now.unwrap_or_default(),
        );
        write!(f, "{name}: ")?;
        match self.verdict() {
            Verdict::New => return write!(f, "{} a turn, nothing is committed", grouped(now)),
            Verdict::Gone => return write!(f, "no such case, {} are committed", grouped(before)),
            Verdict::Same | Verdict::More | Verdict::Less => {}
        }
        write!(f, "{} a turn, {} committed", grouped(now), grouped(before))?;
        let off = percent_off(before, now);
        match self.verdict() {
            Verdict::More => write!(f, ": {off} is a regression"),
            Verdict::Less => write!(f, ": {off} can be blessed"),
            Verdict::Same | Verdict::New | Verdict::Gone => write!(f, " ({off})"),
        }
    }
}

fn percent_off(before: u64, now: u64) -> String {
    let permille = u128::from(now.abs_diff(before)) * 1000 / u128::from(before.max(1));
    let sign = if now < before { '-' } else { '+' };
    format!("{sign}{}.{} %", permille / 10, permille % 10)
}

/// Digits in threes.
fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(before: Option<u64>, now: Option<u64>) -> Line {
        Line {
            name: "case".to_owned(),
            before,
            now,
        }
    }

    #[test]
    fn the_bound_is_ten_percent_both_ways() {
        for (before, now, verdict) in [
            (Some(1000), Some(1000), Verdict::Same),
            (Some(1000), Some(1100), Verdict::Same),
            (Some(1000), Some(1101), Verdict::More),
            (Some(1000), Some(900), Verdict::Same),
            (Some(1000), Some(899), Verdict::Less),
            (Some(0), Some(0), Verdict::Same),
            (Some(0), Some(1), Verdict::More),
            (Some(u64::MAX), Some(u64::MAX), Verdict::Same),
            (None, Some(1), Verdict::New),
            (Some(1), None, Verdict::Gone),
        ] {
            let line = line(before, now);
            assert_eq!(line.verdict(), verdict, "{line}");
        }
    }

    #[test]
    fn a_line_has_the_case_and_both_numbers() {
        for (before, now, text) in [
            (
                Some(1000),
                Some(1005),
                "case: 1,005 a turn, 1,000 committed (+0.5 %)",
            ),
            (
                Some(1_000_000),
                Some(1_234_567),
                "case: 1,234,567 a turn, 1,000,000 committed: +23.4 % is a regression",
            ),
            (
                Some(1000),
                Some(500),
                "case: 500 a turn, 1,000 committed: -50.0 % can be blessed",
            ),
            (None, Some(12), "case: 12 a turn, nothing is committed"),
            (
                Some(123_456),
                None,
                "case: no such case, 123,456 are committed",
            ),
        ] {
            assert_eq!(line(before, now).to_string(), text);
        }
    }

    #[test]
    fn cases_of_either_side_are_compared() {
        let counts = |pairs: &[(&str, u64)]| -> Counts {
            pairs
                .iter()
                .map(|(name, count)| ((*name).to_owned(), *count))
                .collect()
        };
        let lines = compare(
            &counts(&[("a", 1), ("b", 2)]),
            &counts(&[("b", 3), ("c", 4)]),
        );
        let seen: Vec<_> = lines
            .iter()
            .map(|l| (l.name.as_str(), l.before, l.now))
            .collect();
        assert_eq!(
            seen,
            [
                ("a", Some(1), None),
                ("b", Some(2), Some(3)),
                ("c", None, Some(4))
            ]
        );
    }
}
