//! Metrics of the connections of all servers.

use std::sync::{Arc, OnceLock};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::Server;
use crate::listen::{Listeners, Port};

/// The connections of all listeners.
#[derive(Clone, Debug, Default)]
pub(super) struct Connections(pub(super) Arc<OnceLock<Arc<Listeners>>>, pub(super) Server);

impl Collector for Connections {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Some(listeners) = self.0.get() else {
            return Ok(());
        };
        let discovery = self.1.0.get().map(|counters| counters.snapshot());
        let discovery = discovery.map(|counts| (Port::Discovery.name(), counts.connections));
        let all: Vec<_> = discovery.into_iter().chain(listeners.counts()).collect();
        let kind = ConstGauge::new(0i64).metric_type();
        let help = "Open connections of each server";
        let mut open = encoder.encode_descriptor("listener_connections", help, None, kind)?;
        for (server, counts) in &all {
            let labels = [("server", *server)];
            let gauge = ConstGauge::new(i64::try_from(counts.open).unwrap_or(i64::MAX));
            gauge.encode(open.encode_family(&labels)?)?;
        }
        let kind = ConstCounter::new(0u64).metric_type();
        let help = "Connections refused, displaced by newer ones, or closed at a deadline";
        let name = "listener_connections_ended_early";
        let mut ended = encoder.encode_descriptor(name, help, None, kind)?;
        for (server, counts) in &all {
            for (reason, count) in counts.ended_early() {
                let labels = [("server", *server), ("reason", reason)];
                ConstCounter::new(count).encode(ended.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}
