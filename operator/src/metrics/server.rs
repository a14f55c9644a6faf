//! Metrics of the discovery server: connections, streams, responses.

use std::sync::{Arc, OnceLock};

use heddle_xds_server::{Counters, Counts, Distribution, PerKind, ResourceKind};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// The counters of the server, once it runs.
#[derive(Clone, Debug, Default)]
pub(super) struct Server(pub(super) Arc<OnceLock<Arc<Counters>>>);

impl Collector for Server {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Some(counts) = self.0.get().map(|counters| counters.snapshot()) else {
            return Ok(());
        };
        open(&mut encoder, &counts)?;
        streams(&mut encoder, &counts)?;
        let e = &mut encoder;
        counter(
            e,
            "streams_shed",
            "Discovery streams ended so that their proxies rebalance over the replicas",
            counts.streams_shed,
        )?;
        counter(
            e,
            "load_reports",
            "Load reports of proxies",
            counts.load_reports,
        )?;
        histogram(
            e,
            "convergence_seconds",
            "From a change seen to its acknowledgment by a proxy, for each change and proxy",
            &counts.convergence,
        )?;
        histogram(
            e,
            "push_bytes",
            "Sizes of discovery responses",
            &counts.push_bytes,
        )?;
        per_kind(e, "pushes", "Discovery responses sent", &counts.responses)?;
        per_kind(
            e,
            "nacks",
            "Discovery responses rejected by proxies",
            &counts.nacks,
        )
    }
}

/// Streams by outcome.
fn streams(e: &mut DescriptorEncoder<'_>, counts: &Counts) -> Encoded {
    counter(e, "streams", "Discovery streams admitted", counts.streams)?;
    counter(
        e,
        "streams_refused",
        "Discovery streams refused",
        counts.streams_refused,
    )?;
    counter(
        e,
        "response_bytes",
        "Bytes of discovery responses",
        counts.bytes,
    )?;
    counter(
        e,
        "undecodable_requests",
        "Discovery requests that cannot be decoded",
        counts.undecodable,
    )?;
    counter(
        e,
        "unknown_type_requests",
        "Requests for resource types that are not served",
        counts.unknown_types,
    )?;
    Ok(())
}

fn open(e: &mut DescriptorEncoder<'_>, counts: &Counts) -> Encoded {
    gauge(
        e,
        "connections_open",
        "Open connections of proxies",
        counts.connections.open,
    )?;
    gauge(
        e,
        "streams_open",
        "Open discovery streams",
        counts.streams_open,
    )
}

type Encoded = Result<(), std::fmt::Error>;

pub(super) fn gauge(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    value: u64,
) -> Encoded {
    let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
    gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)
}

fn counter(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> Encoded {
    let counter = ConstCounter::new(value);
    counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)
}

fn histogram(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    seen: &Distribution,
) -> Encoded {
    let mut encoder = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
    encoder.encode_histogram::<NoLabelSet>(seen.sum, seen.count, &seen.buckets, None)
}

fn per_kind(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    counts: &PerKind<u64>,
) -> Encoded {
    let kind = ConstCounter::new(0u64).metric_type();
    let mut family = encoder.encode_descriptor(name, help, None, kind)?;
    for kind in ResourceKind::ALL {
        let labels = [("type", kind.label())];
        ConstCounter::new(*counts.get(kind)).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}
