//! The control plane's own auditor, by its metrics.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use heddle_bench::metrics::Metrics;
use heddle_bench::operator::Scraper;

const AUDITS: &str = "heddle_audits_total";
const MISMATCHES: &str = "heddle_audit_mismatches_found_total";
const RELISTS: &str = "heddle_relists_total";
const POLL: Duration = Duration::from_millis(500);
/// An audit that finds something while watches come back looks for ten minutes.
const LONGEST: Duration = Duration::from_secs(900);

/// The counters of the auditor and of the watches, since the start of the control plane.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Audits made.
    pub audits: f64,
    /// Mismatches found in all of them.
    pub mismatches: f64,
    /// Watches that were answered by 410 Gone.
    pub gone: f64,
    /// Lists that were interrupted, and read once more.
    pub interrupted: f64,
}

impl Seen {
    fn of(metrics: &Metrics) -> Result<Self> {
        let sum = |name| metrics.sum(name).with_context(|| format!("no {name}"));
        let relists = |reason| {
            let label = format!("reason=\"{reason}\"");
            metrics.labeled(RELISTS, &label)
        };
        Ok(Self {
            audits: sum(AUDITS)?,
            mismatches: sum(MISMATCHES)?,
            gone: relists("gone"),
            interrupted: relists("interrupted"),
        })
    }
}

/// Waits until an audit is over that began after now, and returns the counters.
///
/// # Errors
/// When there is none in time.
pub async fn after_the_last_change(scraper: &Scraper) -> Result<Seen> {
    let deadline = Instant::now() + LONGEST;
    let mut target = None;
    while Instant::now() < deadline {
        tokio::time::sleep(POLL).await;
        // While the control plane is cut off, it cannot check tokens for its metrics.
        let Ok(metrics) = scraper.scrape().await else {
            continue;
        };
        let seen = Seen::of(&metrics)?;
        // One may be under way.
        if seen.audits >= *target.get_or_insert(seen.audits + 2.0) {
            return Ok(seen);
        }
    }
    bail!("no audit was over within {LONGEST:?} after the last change");
}
