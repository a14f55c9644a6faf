//! Traces of changes: from the event of the API server to the acknowledgment of each proxy and the written status.
//!
//! Off without an endpoint. Nothing waits for a trace: events go through a bounded queue, and those that find it full, or a
//! collector that does not take them, are lost and counted.

mod assembly;
mod export;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use heddle_policy_compiler::ObjectRef;
use heddle_xds_server::{Converged, SubscriberId};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;

use crate::metrics::{Metrics, Outcome};
use crate::tasks::Ended;
use assembly::{Assembly, Lost};
use export::Exporter;

/// Events that wait for the task.
const QUEUE: usize = 4096;
/// The time between two exports.
const INTERVAL: Duration = Duration::from_secs(1);
/// The objects that a trace names.
const MAX_OBJECTS: usize = 16;

/// The address of a collector: OTLP over gRPC, `http://HOST:PORT`.
#[derive(Clone, Debug)]
pub struct TraceEndpoint(Endpoint);

/// The text is not the address of a collector.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not the address of a collector; write http://HOST:PORT")]
pub struct EndpointError(String);

impl FromStr for TraceEndpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let error = || EndpointError(text.to_owned());
        let address = text.strip_prefix("http://").ok_or_else(error)?;
        let (host, port) = address.rsplit_once(':').ok_or_else(error)?;
        let is_port = port.parse::<u16>().is_ok_and(|port| port > 0);
        if host.is_empty() || !is_port {
            return Err(error());
        }
        let endpoint = Endpoint::from_shared(text.to_owned()).map_err(|_| error())?;
        Ok(Self(endpoint))
    }
}

/// A compile, with the objects that it read.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    /// The revision of the snapshot.
    pub(crate) revision: u64,
    /// The objects that had changed, at most [`MAX_OBJECTS`].
    pub(crate) objects: Vec<ObjectRef>,
    /// The number of all objects that had changed.
    pub(crate) count: usize,
    /// When the oldest event was read.
    pub(crate) seen: Instant,
    /// When the compile began.
    pub(crate) begun: Instant,
    /// When the compile ended.
    pub(crate) compiled: Instant,
    /// When it was handed to the streams that it concerns.
    pub(crate) published: Instant,
}

/// The names of changed objects, as far as a trace has them.
#[derive(Clone, Debug, Default)]
pub(crate) struct ChangedObjects {
    pub(crate) objects: Vec<ObjectRef>,
    pub(crate) count: usize,
}

impl ChangedObjects {
    /// Adds an object.
    pub(crate) fn add(&mut self, object: &ObjectRef) {
        self.count += 1;
        if self.objects.len() < MAX_OBJECTS {
            self.objects.push(object.clone());
        }
    }
}

/// An event of a change.
#[derive(Clone, Debug)]
enum Event {
    Published(Change),
    Acknowledged {
        proxy: SubscriberId,
        view: Converged,
    },
    Written {
        object: ObjectRef,
        at: Instant,
    },
}

/// Takes the events of changes. Clones share the queue.
#[derive(Clone)]
pub struct ChangeTraces {
    queue: mpsc::Sender<Event>,
    metrics: Arc<Metrics>,
}

impl fmt::Debug for ChangeTraces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ChangeTraces")
    }
}

impl ChangeTraces {
    /// Returns the queue, and the task that exports the traces until it is told to stop.
    pub fn new(
        endpoint: TraceEndpoint,
        pod: Option<String>,
        metrics: Arc<Metrics>,
        stop: CancellationToken,
    ) -> (Self, impl Future<Output = Ended> + Send + 'static) {
        // The series begins at zero, so that its first event has a rate.
        count(&metrics, Lost::Acknowledgment.reason(), 0);
        let (queue, events) = mpsc::channel(QUEUE);
        let exporter = Exporter::new(endpoint.0, pod);
        let task = run(events, exporter, Arc::clone(&metrics), stop);
        (Self { queue, metrics }, task)
    }

    /// A snapshot is about to be published: acknowledgments of its views come later.
    pub(crate) fn published(&self, change: Change) {
        self.send(Event::Published(change));
    }

    /// A proxy has acknowledged a view.
    pub(crate) fn acknowledged(&self, proxy: &SubscriberId, view: Converged) {
        let proxy = proxy.clone();
        self.send(Event::Acknowledged { proxy, view });
    }

    /// The status of an object is written.
    pub(crate) fn written(&self, object: &ObjectRef) {
        let (object, at) = (object.clone(), Instant::now());
        self.send(Event::Written { object, at });
    }

    fn send(&self, event: Event) {
        if self.queue.try_send(event).is_err() {
            count(&self.metrics, "event_lost", 1);
        }
    }
}

fn count(metrics: &Metrics, reason: &'static str, by: usize) {
    let counter = metrics.change_traces.get_or_create(&Outcome { reason });
    counter.inc_by(u64::try_from(by).unwrap_or(u64::MAX));
}

/// Takes an event, and counts it if it is in no trace.
fn take(assembly: &mut Assembly, event: Event, metrics: &Metrics) {
    if let Err(lost) = assembly.take(event) {
        count(metrics, lost.reason(), 1);
    }
}

/// Takes the events that wait, as many as the queue holds at most. They may have waited for an export, and a trace that looks quiet
/// without them is not.
fn take_waiting(events: &mut mpsc::Receiver<Event>, assembly: &mut Assembly, metrics: &Metrics) {
    for _ in 0..QUEUE {
        let Ok(event) = events.try_recv() else {
            return;
        };
        take(assembly, event, metrics);
    }
}

async fn run(
    mut events: mpsc::Receiver<Event>,
    mut exporter: Exporter,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) -> Ended {
    let mut assembly = Assembly::default();
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let stopped = tokio::select! {
            biased;
            () = stop.cancelled() => true,
            Some(event) = events.recv() => {
                take(&mut assembly, event, &metrics);
                continue;
            }
            _ = ticks.tick() => false,
        };
        take_waiting(&mut events, &mut assembly, &metrics);
        let traces = if stopped {
            assembly.end()
        } else {
            assembly.due(Instant::now())
        };
        if !traces.is_empty() {
            let (number, sent) = (traces.len(), exporter.export(traces).await);
            let reason = if sent { "exported" } else { "lost" };
            count(&metrics, reason, number);
        }
        if stopped {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use heddle_policy_compiler::ObjectKind;

    use super::*;

    #[test]
    fn a_trace_is_not_quiet_while_its_events_wait() {
        let start = Instant::now();
        let later = |seconds| start + Duration::from_secs(seconds);
        let (metrics, mut assembly) = (Metrics::default(), Assembly::default());
        let (queue, mut events) = mpsc::channel(QUEUE);
        let acknowledged = |since| Event::Acknowledged {
            proxy: SubscriberId::from("shop/cart-1"),
            view: Converged {
                since,
                begun: start,
                acknowledged: later(8),
            },
        };
        let change = Change {
            revision: 1,
            objects: vec![ObjectRef::new(ObjectKind::TrafficSplit, "shop", "reviews")],
            count: 1,
            seen: start,
            begun: start,
            compiled: start,
            published: start,
        };
        for event in [
            Event::Published(change),
            acknowledged(start),
            acknowledged(later(1)),
        ] {
            queue.try_send(event).unwrap();
        }
        take_waiting(&mut events, &mut assembly, &metrics);
        assert!(assembly.due(later(10)).is_empty());
        assert_eq!(assembly.due(later(13))[0].proxies, 1);
        let reason = Lost::Acknowledgment.reason();
        let lost = metrics.change_traces.get_or_create(&Outcome { reason });
        assert_eq!(lost.get(), 1);
    }

    #[test]
    fn an_endpoint_has_a_host_and_a_port() {
        for good in ["http://otel.observability:4317", "http://[::1]:4317"] {
            assert!(good.parse::<TraceEndpoint>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "otel:4317",
            "https://otel:4317",
            "http://otel",
            "http://:4317",
            "http://otel:0",
            "http://otel:x",
        ] {
            let error = bad.parse::<TraceEndpoint>().unwrap_err().to_string();
            assert!(error.contains("write http://HOST:PORT"), "{error}");
        }
    }
}
