//! Rates and durations of counts over a time.

use heddle_xds_types::edges::EdgeCounts;
use serde::Serialize;

/// The figures of an edge, a workload or a service.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Figures {
    /// Requests a second.
    pub requests_per_second: f64,
    /// Ended connections of bytes a second.
    pub connections_per_second: f64,
    /// The share of requests and connections that did not fail, in percent. `None`: there were none.
    pub success_percent: Option<f64>,
    /// The share of requests answered with 403, in percent.
    pub forbidden_percent: Option<f64>,
    /// The median duration in milliseconds.
    pub p50_ms: Option<f64>,
    /// The duration in milliseconds that one request of a hundred exceeds.
    pub p99_ms: Option<f64>,
    /// Bytes of ended connections a second, both ways. Requests are not in it.
    pub bytes_per_second: f64,
}

impl Figures {
    /// Returns the figures of counts over so many seconds.
    #[allow(clippy::cast_precision_loss)]
    pub fn of(counts: &EdgeCounts, seconds: u64) -> Self {
        let seconds = seconds.max(1) as f64;
        let requests = counts.requests() as f64;
        let connections = f64::from(counts.connections);
        let share = |part: u32, all: f64| (all > 0.0).then(|| 100.0 * f64::from(part) / all);
        let failed = share(counts.failures, requests + connections);
        Self {
            requests_per_second: requests / seconds,
            connections_per_second: connections / seconds,
            success_percent: failed.map(|failed| (100.0 - failed).clamp(0.0, 100.0)),
            forbidden_percent: share(counts.forbidden, requests),
            p50_ms: counts.quantile_ms(0.5),
            p99_ms: counts.quantile_ms(0.99),
            bytes_per_second: counts.received_bytes.saturating_add(counts.sent_bytes) as f64
                / seconds,
        }
    }

    /// Requests and connections a second, as a table has them.
    pub fn rate(&self) -> String {
        format!(
            "{:.1}/s",
            self.requests_per_second + self.connections_per_second
        )
    }

    /// The share of requests that did not fail, as a table has it.
    pub fn success(&self) -> String {
        percent(self.success_percent)
    }

    /// Bytes a second, as a table has them.
    pub fn bytes(&self) -> String {
        match self.bytes_per_second {
            0.0 => "-".to_owned(),
            few if few < 1e3 => format!("{few:.0} B/s"),
            some if some < 1e6 => format!("{:.1} kB/s", some / 1e3),
            many => format!("{:.1} MB/s", many / 1e6),
        }
    }
}

/// A share, as a table has it. 99.96 is not 100.
pub fn percent(share: Option<f64>) -> String {
    match share {
        None => "-".to_owned(),
        Some(all) if all >= 100.0 => "100 %".to_owned(),
        Some(share) => format!("{:.1} %", (share * 10.0).floor() / 10.0),
    }
}

/// A duration, as a table has it.
pub fn millis(duration: Option<f64>) -> String {
    match duration {
        None => "-".to_owned(),
        Some(short) if short < 10.0 => format!("{short:.1} ms"),
        Some(some) if some < 10_000.0 => format!("{some:.0} ms"),
        Some(long) => format!("{:.0} s", long / 1e3),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_of_the_time_and_one_failure_in_many_shows() {
        let mut counts = EdgeCounts {
            responses: [0, 0, 9_999, 0, 0, 1],
            failures: 1,
            connections: 0,
            received_bytes: 3_000,
            ..EdgeCounts::default()
        };
        counts.durations[0] = 10_000;
        let figures = Figures::of(&counts, 10);
        assert_eq!(
            (&*figures.rate(), &*figures.success()),
            ("1000.0/s", "99.9 %")
        );
        assert_eq!(
            (&*figures.bytes(), &*millis(figures.p50_ms)),
            ("300 B/s", "0.2 ms")
        );
        let none = Figures::of(&EdgeCounts::default(), 0);
        assert_eq!(
            (&*none.rate(), &*none.success(), &*none.bytes()),
            ("0.0/s", "-", "-")
        );
        assert_eq!(percent(Some(100.0)), "100 %");
        assert_eq!(
            (&*millis(Some(250.4)), &*millis(Some(30_000.0))),
            ("250 ms", "30 s")
        );
    }
}
