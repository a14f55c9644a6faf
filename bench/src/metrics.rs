//! Prometheus' text: sums over all labels, or over the samples with one label.

use std::collections::BTreeMap;

/// Units recompiled since the start.
pub const RECOMPILED: &str = "heddle_recompiled_units_total";
/// Seconds spent in compiling since the start.
pub const COMPILE_SECONDS: &str = "heddle_compile_seconds_sum";
/// Compiles since the start.
pub const COMPILES: &str = "heddle_compile_seconds_count";

/// Metrics at one moment.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    sums: BTreeMap<String, f64>,
    /// Name, labels and value of each sample.
    samples: Vec<(String, String, f64)>,
}

impl Metrics {
    /// Reads the text. Lines that are not samples are left out.
    pub fn read(text: &str) -> Self {
        let mut metrics = Self::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((name, rest)) = line.split_once(['{', ' ']) else {
                continue;
            };
            // After the labels, if there are any, comes the value, then perhaps a time.
            let (labels, after) = rest.rsplit_once('}').unwrap_or(("", rest));
            let value = after.split_whitespace().next().map(str::parse::<f64>);
            if let Some(Ok(value)) = value {
                *metrics.sums.entry(name.to_owned()).or_insert(0.0) += value;
                let sample = (name.to_owned(), labels.to_owned(), value);
                metrics.samples.push(sample);
            }
        }
        metrics
    }

    /// The sum over all labels; none if there is no such metric.
    pub fn sum(&self, name: &str) -> Option<f64> {
        self.sums.get(name).copied()
    }

    /// The sum over the samples with this label, such as `reason="idle"`; 0 if there is none.
    pub fn labeled(&self, name: &str, label: &str) -> f64 {
        let has = |labels: &str| labels.split(',').any(|one| one == label);
        let samples = self.samples.iter();
        let samples = samples.filter(|(of, labels, _)| of == name && has(labels));
        samples.map(|(_, _, value)| value).sum()
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
    fn samples_are_chosen_by_a_label() {
        let metrics =
            Metrics::read("a{k=\"x\",r=\"1\"} 2\na{k=\"y\",r=\"1\"} 3\na{r=\"2\"} 5\na 7\n");
        assert_eq!(metrics.labeled("a", "r=\"1\""), 5.0);
        assert_eq!(metrics.labeled("a", "r=\"3\""), 0.0);
    }

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
