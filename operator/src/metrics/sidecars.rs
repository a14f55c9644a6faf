//! Metrics of the sidecars that are connected to this replica, and of the objects that are set aside: counted when they are asked for.

use std::fmt;
use std::sync::{Arc, OnceLock};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::gauge::ConstGauge;

use super::server::gauge;

/// The sidecars with a stream to this replica, and the objects that are set aside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SidecarCounts {
    /// Those that have acknowledged all resources.
    pub in_sync: usize,
    /// Those that have not answered yet, and have rejected nothing.
    pub behind: usize,
    /// Those that rejected a resource.
    pub rejected: usize,
    /// The seconds since the first of those behind has been so.
    pub longest_behind_seconds: u64,
    /// The objects that Envoy rejected.
    pub set_aside: usize,
}

type Count = Arc<dyn Fn() -> SidecarCounts + Send + Sync>;

/// The source of the counts.
#[derive(Clone, Default)]
pub(super) struct Sidecars(Arc<OnceLock<Count>>);

impl fmt::Debug for Sidecars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sidecars")
    }
}

impl Sidecars {
    /// Sets the source, once.
    pub(super) fn set(&self, count: Count) {
        let _ = self.0.set(count);
    }
}

impl Collector for Sidecars {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Some(count) = self.0.get() else {
            return Ok(());
        };
        let counts = count();
        let help = "Sidecars with a stream to this replica, by their state";
        let kind = ConstGauge::new(0i64).metric_type();
        let mut family = encoder.encode_descriptor("sidecars", help, None, kind)?;
        for (state, count) in [
            ("in_sync", counts.in_sync),
            ("behind", counts.behind),
            ("rejected", counts.rejected),
        ] {
            let gauge = ConstGauge::new(super::number(count));
            gauge.encode(family.encode_family(&[("state", state)])?)?;
        }
        gauge(
            &mut encoder,
            "sidecars_longest_behind_seconds",
            "Seconds since the first sidecar that is behind has been so; 0 if none is",
            counts.longest_behind_seconds,
        )?;
        gauge(
            &mut encoder,
            "objects_set_aside",
            "Objects that are set aside because Envoy rejected them",
            u64::try_from(counts.set_aside).unwrap_or(u64::MAX),
        )
    }
}
