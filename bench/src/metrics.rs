//! Prometheus' text, as far as sums over all labels go.

use std::collections::BTreeMap;

/// Units recompiled since the start.
pub const RECOMPILED: &str = "heddle_recompiled_units_total";
/// Seconds spent in compiling since the start.
pub const COMPILE_SECONDS: &str = "heddle_compile_seconds_sum";
/// Compiles since the start.
pub const COMPILES: &str = "heddle_compile_seconds_count";

/// Metrics at one moment.
#[derive(Debug, Clone, Default)]
pub struct Metrics(BTreeMap<String, f64>);

impl Metrics {
    /// Reads the text. Lines that are not samples are left out.
    pub fn read(text: &str) -> Self {
        let mut sums = BTreeMap::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((name, rest)) = line.split_once(['{', ' ']) else {
                continue;
            };
            // After the labels, if there are any, comes the value, then perhaps a time.
            let after = rest.rsplit_once('}').map_or(rest, |(_, after)| after);
            let value = after.split_whitespace().next().map(str::parse::<f64>);
            if let Some(Ok(value)) = value {
                *sums.entry(name.to_owned()).or_insert(0.0) += value;
            }
        }
        Self(sums)
    }

    /// The sum over all labels; none if there is no such metric.
    pub fn sum(&self, name: &str) -> Option<f64> {
        self.0.get(name).copied()
    }

    /// By how much a metric has grown since an earlier moment.
    pub fn since(&self, before: &Self, name: &str) -> Option<f64> {
        Some(self.sum(name)? - before.sum(name)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_summed_up() {
        let before =
            Metrics::read("# HELP a b\na_total{x=\"1\"} 2\na_total{x=\"} 9\"} 3 17\nb 1.5\n");
        assert_eq!(before.sum("a_total"), Some(5.0));
        assert_eq!((before.sum("b"), before.sum("c")), (Some(1.5), None));
        let after = Metrics::read("b 4\n");
        assert_eq!(after.since(&before, "b"), Some(2.5));
        assert_eq!(after.since(&before, "a_total"), None);
    }
}
