//! Sends traces to a collector, by OTLP over gRPC.

use std::time::{Duration, Instant, SystemTime};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{
    AnyValue, ArrayValue, InstrumentationScope, KeyValue,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use ring::rand::{SecureRandom, SystemRandom};
use tonic::transport::{Channel, Endpoint};

use super::assembly::{Step, Trace};

const CONNECT: Duration = Duration::from_secs(2);
/// The time for one export.
const TIMEOUT: Duration = Duration::from_secs(5);
/// A sampled span without a remote parent.
const FLAGS: u32 = 0x101;

/// A collector.
pub(super) struct Exporter {
    client: TraceServiceClient<Channel>,
    pod: Option<String>,
    clock: Clock,
    random: SystemRandom,
    /// Whether the last export failed. Failures that follow are not logged.
    failing: bool,
}

/// The times of instants.
struct Clock(Instant, SystemTime);

impl Clock {
    fn nanoseconds(&self, at: Instant) -> u64 {
        let time = match at.checked_duration_since(self.0) {
            Some(after) => self.1.checked_add(after),
            None => self.1.checked_sub(self.0.duration_since(at)),
        };
        let time = time.unwrap_or(SystemTime::UNIX_EPOCH);
        let since = time.duration_since(SystemTime::UNIX_EPOCH);
        u64::try_from(since.unwrap_or_default().as_nanos()).unwrap_or(u64::MAX)
    }
}

impl Exporter {
    pub(super) fn new(endpoint: Endpoint, pod: Option<String>) -> Self {
        let endpoint = endpoint.connect_timeout(CONNECT).timeout(TIMEOUT);
        Self {
            client: TraceServiceClient::new(endpoint.connect_lazy()),
            pod,
            clock: Clock(Instant::now(), SystemTime::now()),
            random: SystemRandom::new(),
            failing: false,
        }
    }

    /// Sends traces. Returns whether the collector has taken them.
    pub(super) async fn export(&mut self, traces: Vec<Trace>) -> bool {
        let spans = traces.iter().flat_map(|trace| self.spans(trace)).collect();
        let mut attributes = vec![text("service.name", "heddle-operator")];
        attributes.extend(self.pod.iter().map(|pod| text("k8s.pod.name", pod)));
        let request = ExportTraceServiceRequest {
            resource_spans: vec![ResourceSpans {
                resource: Some(Resource {
                    attributes,
                    ..Resource::default()
                }),
                scope_spans: vec![ScopeSpans {
                    scope: Some(InstrumentationScope {
                        name: "heddle.changes".to_owned(),
                        ..InstrumentationScope::default()
                    }),
                    spans,
                    ..ScopeSpans::default()
                }],
                ..ResourceSpans::default()
            }],
        };
        let sent = tokio::time::timeout(TIMEOUT, self.client.export(request)).await;
        let error = match sent {
            Ok(Ok(_)) => None,
            Ok(Err(status)) => Some(status.code().to_string()),
            Err(_) => Some("no answer in time".to_owned()),
        };
        match &error {
            Some(error) if !self.failing => {
                tracing::warn!(
                    error,
                    "traces of changes could not be exported; trying the next ones"
                );
            }
            None if self.failing => tracing::info!("traces of changes are exported again"),
            Some(_) | None => {}
        }
        self.failing = error.is_some();
        !self.failing
    }

    /// Returns the spans of a change: the whole, and its steps below.
    fn spans(&self, trace: &Trace) -> Vec<Span> {
        let change = &trace.change;
        let (id, root) = (self.id::<16>(), self.id::<8>());
        let objects: Vec<String> = change.objects.iter().map(ToString::to_string).collect();
        let mut whole = self.span((&id, &root, &[]), "change", (change.seen, trace.end()));
        whole.attributes = vec![
            number("heddle.revision", change.revision),
            texts("heddle.objects", &objects),
            count("heddle.objects.count", change.count),
            count("heddle.proxies.count", trace.proxies),
        ];
        let step =
            |name: &str, from, to| self.span((&id, &self.id::<8>(), &root), name, (from, to));
        let named = |name: &str, key: &str, of: &Step| {
            let mut span = step(name, of.from, of.to);
            span.attributes = vec![text(key, &of.name)];
            span
        };
        let mut spans = vec![
            whole,
            step("read", change.seen, change.begun),
            step("compile", change.begun, change.compiled),
            step("publish", change.compiled, change.published),
        ];
        let pushed = trace.acknowledged.iter();
        spans.extend(pushed.map(|of| named("push and acknowledgment", "heddle.proxy", of)));
        let written = trace.written.iter();
        spans.extend(written.map(|of| named("status", "heddle.object", of)));
        spans
    }

    /// `ids` are those of the trace, the span and its parent.
    fn span(&self, ids: (&[u8], &[u8], &[u8]), name: &str, (from, to): (Instant, Instant)) -> Span {
        Span {
            trace_id: ids.0.to_vec(),
            span_id: ids.1.to_vec(),
            parent_span_id: ids.2.to_vec(),
            flags: FLAGS,
            name: name.to_owned(),
            kind: SpanKind::Internal.into(),
            start_time_unix_nano: self.clock.nanoseconds(from),
            end_time_unix_nano: self.clock.nanoseconds(to),
            ..Span::default()
        }
    }

    /// A random id. Without random bytes it is that of no span, and the collector refuses it.
    fn id<const LENGTH: usize>(&self) -> [u8; LENGTH] {
        let mut id = [0; LENGTH];
        let _ = self.random.fill(&mut id);
        id
    }
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}

fn text(key: &str, value: &str) -> KeyValue {
    attribute(key, Value::StringValue(value.to_owned()))
}

fn texts(key: &str, all: &[String]) -> KeyValue {
    let values = all.iter().map(|text| AnyValue {
        value: Some(Value::StringValue(text.clone())),
    });
    let values = values.collect();
    attribute(key, Value::ArrayValue(ArrayValue { values }))
}

fn number(key: &str, value: u64) -> KeyValue {
    attribute(
        key,
        Value::IntValue(i64::try_from(value).unwrap_or(i64::MAX)),
    )
}

fn count(key: &str, value: usize) -> KeyValue {
    number(key, u64::try_from(value).unwrap_or(u64::MAX))
}
