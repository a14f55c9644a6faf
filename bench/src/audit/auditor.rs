//! The control plane's own auditor, seen through its metrics and its log.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::operator::Scraper;

const AUDITS: &str = "heddle_audits_total";
const AUDITED: &str = "heddle_audited_proxies_total";
const MISMATCHES: &str = "heddle_audit_mismatches";
const LOOK: Duration = Duration::from_millis(500);
/// An audit that finds something while watches come back looks for ten minutes.
const AT_LAST: Duration = Duration::from_secs(900);
/// The log's texts for a proxy that is wrong, for a watch that was too old, and for a list that was interrupted.
const WRONG: &str = "audit mismatch: the proxy runs resources";
const GONE: &str = "410 Gone";
const ANEW: &str = "a list was interrupted and restarted";

/// The observed metrics of the auditor.
#[derive(Debug, Default, Clone)]
pub struct Seen {
    /// Audits made.
    pub audits: f64,
    /// Proxies looked at in them, each time.
    pub audited: f64,
    /// The most that the metric ever said.
    pub worst: f64,
    /// How often it was read.
    pub looks: usize,
}

impl Seen {
    async fn look(&mut self, scraper: &Scraper) -> Result<()> {
        let metrics = scraper.scrape().await?;
        let sum = |name| metrics.sum(name).with_context(|| format!("no {name}"));
        self.audits = sum(AUDITS)?;
        self.audited = sum(AUDITED)?;
        self.worst = self.worst.max(sum(MISMATCHES)?);
        self.looks += 1;
        Ok(())
    }

    /// Looks again and again, until it is dropped. While the control plane is cut off, it cannot check tokens for its metrics.
    pub async fn follow(&mut self, scraper: &Scraper) {
        loop {
            tokio::time::sleep(LOOK).await;
            // The next look may find it.
            let _ = self.look(scraper).await;
        }
    }

    /// Waits until an audit is over that began after now.
    ///
    /// # Errors
    /// When there is none in time.
    pub async fn at_last(&mut self, scraper: &Scraper) -> Result<()> {
        let deadline = Instant::now() + AT_LAST;
        let mut target = None;
        while Instant::now() < deadline {
            tokio::time::sleep(LOOK).await;
            if self.look(scraper).await.is_err() {
                continue;
            }
            // One may be under way.
            if self.audits >= *target.get_or_insert(self.audits + 2.0) {
                return Ok(());
            }
        }
        bail!("no audit was over within {AT_LAST:?} after the last change");
    }
}

/// The counts from the control plane's log.
#[derive(Debug, Default, Clone, Copy)]
pub struct Logged {
    /// Proxies that were found wrong.
    pub wrong: usize,
    /// Watches that were too old.
    pub gone: usize,
    /// Lists that were not whole.
    pub torn: usize,
}

/// Reads the log.
///
/// # Errors
/// When there is none.
pub fn logged(log: &Path) -> Result<Logged> {
    let text = std::fs::read_to_string(log).with_context(|| log.display().to_string())?;
    let count = |what| text.lines().filter(|line| line.contains(what)).count();
    Ok(Logged {
        wrong: count(WRONG),
        gone: count(GONE),
        torn: count(ANEW),
    })
}
