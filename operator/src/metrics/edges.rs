//! Metrics of the traffic that agents report.

use heddle_xds_types::edges::Losses;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::{Outcome, add, number};

/// The edges that are kept, and the losses.
#[derive(Debug, Default)]
pub struct EdgeMetrics {
    kept: Gauge,
    losses: Family<Outcome, Gauge>,
}

impl EdgeMetrics {
    pub(super) fn register(&self, r: &mut Registry) {
        add(
            r,
            "edges",
            "Edges with traffic in the last quarter of an hour; 10000 at most",
            &self.kept,
        );
        add(
            r,
            "edge_losses",
            "Requests and connections that agents could not report, idle edges that made room, edges that found none",
            &self.losses,
        );
    }

    /// Sets the number of edges that are kept, and the losses since the start.
    pub fn set(&self, kept: usize, losses: Losses) {
        self.kept.set(number(kept));
        for (reason, count) in [
            ("agent", losses.by_agents),
            ("evicted", losses.evicted),
            ("refused", losses.refused),
        ] {
            let lost = self.losses.get_or_create(&Outcome { reason });
            lost.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }
}
