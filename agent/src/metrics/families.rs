//! Metrics of the same name and their series, as Prometheus reads them.

use std::collections::BTreeMap;
use std::fmt::Write;

/// The counters and histograms of a scrape, by name and labels. Series that have the same labels are one, with the sum of their values.
#[derive(Default)]
pub(super) struct Families {
    counters: BTreeMap<String, BTreeMap<String, u64>>,
    histograms: BTreeMap<String, BTreeMap<String, Histogram>>,
}

/// One histogram.
#[derive(Default)]
struct Histogram {
    /// The upper bounds, as Envoy writes them, with the number of values up to each.
    buckets: Vec<(String, u64)>,
    sum: f64,
    count: u64,
}

/// One line of a histogram.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum OfHistogram<'a> {
    /// The number of values up to this bound.
    Bucket(&'a str, u64),
    Sum(f64),
    Count(u64),
}

/// A value of a golden metric.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Value<'a> {
    Count(u64),
    Duration(OfHistogram<'a>),
}

impl Families {
    /// Adds to a counter.
    pub(super) fn count(&mut self, name: &str, labels: String, value: u64) {
        let series = self.counters.entry(name.to_owned()).or_default();
        let count = series.entry(labels).or_default();
        *count = count.saturating_add(value);
    }

    /// Adds a line to a histogram.
    pub(super) fn add(&mut self, name: &str, labels: String, line: OfHistogram<'_>) {
        let series = self.histograms.entry(name.to_owned()).or_default();
        let histogram = series.entry(labels).or_default();
        match line {
            OfHistogram::Sum(sum) => histogram.sum += sum,
            OfHistogram::Count(count) => histogram.count = histogram.count.saturating_add(count),
            OfHistogram::Bucket(bound, count) => {
                let mut buckets = histogram.buckets.iter_mut();
                match buckets.find(|(of, _)| of == bound) {
                    Some((_, of)) => *of = of.saturating_add(count),
                    None => histogram.buckets.push((bound.to_owned(), count)),
                }
            }
        }
    }

    /// Writes all of them.
    pub(super) fn write(&self, text: &mut String) {
        for (name, series) in &self.histograms {
            let _ = writeln!(text, "# TYPE {name} histogram");
            for (labels, histogram) in series {
                let comma = if labels.is_empty() { "" } else { "," };
                for (bound, count) in &histogram.buckets {
                    let _ = writeln!(
                        text,
                        "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {count}"
                    );
                }
                let _ = writeln!(text, "{name}_sum{{{labels}}} {}", histogram.sum);
                let _ = writeln!(text, "{name}_count{{{labels}}} {}", histogram.count);
            }
        }
        for (name, series) in &self.counters {
            let _ = writeln!(text, "# TYPE {name} counter");
            for (labels, count) in series {
                let _ = writeln!(text, "{name}{{{labels}}} {count}");
            }
        }
    }
}

/// Labels as one text. The values are escaped already. Prometheus takes an empty label for none.
pub(super) fn labels<'a>(all: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let mut text = String::new();
    for (name, value) in all {
        if !value.is_empty() {
            let comma = if text.is_empty() { "" } else { "," };
            let _ = write!(text, "{comma}{name}=\"{value}\"");
        }
    }
    text
}
