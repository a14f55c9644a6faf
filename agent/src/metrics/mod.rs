//! The metrics of the sidecar for Prometheus: those of Envoy, with labels in the golden metrics.
//!
//! Envoy counts the golden metrics under one tag ([`golden`]), which has nothing about the pod. Here they get the labels.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use heddle_acceptor::{Link, Protocol};
use heddle_xds_types::golden::{self, Edge, Pod};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use tokio::sync::Mutex;

use crate::admin::Admin;
use crate::socket::Server;

/// The prefix that Envoy gives its metrics for Prometheus.
const PREFIX: &str = "envoy_";
const TIMEOUT: Duration = Duration::from_secs(5);

/// The metrics of one Envoy.
pub(crate) struct Metrics {
    admin: Admin,
    pod: Pod,
    /// A text can be large: only one is made at a time.
    turn: Mutex<()>,
}

impl Metrics {
    pub(crate) fn new(admin: Admin, pod: &Pod) -> Self {
        let pod = Pod {
            namespace: escaped(&pod.namespace),
            workload: escaped(&pod.workload),
            principal: escaped(&pod.principal),
        };
        let turn = Mutex::default();
        Self { admin, pod, turn }
    }

    async fn text(&self, query: &str) -> Result<String> {
        let _turn = self.turn.lock().await;
        let mut text = Labelled::new(&self.pod);
        self.admin
            .metrics(query, &mut |line| text.take(line))
            .await?;
        Ok(text.end())
    }
}

/// Answers until the socket fails.
pub(crate) async fn serve(socket: &Path, metrics: Metrics) -> Result<()> {
    let metrics = Arc::new(metrics);
    let handler = move |_: Arc<Link>| {
        let metrics = Arc::clone(&metrics);
        service_fn(move |request| {
            let metrics = Arc::clone(&metrics);
            async move { answer(&request, &metrics).await }
        })
    };
    let server = Server {
        name: "metrics",
        protocol: Protocol::Http1,
        request: Some(TIMEOUT),
    };
    server.serve(socket, handler).await
}

async fn answer(
    request: &Request<Incoming>,
    metrics: &Metrics,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let found = match (request.method(), request.uri().path()) {
        (&Method::GET, "/stats/prometheus") => {
            metrics
                .text(request.uri().query().unwrap_or_default())
                .await
        }
        _ => return Ok(status(StatusCode::NOT_FOUND, "")),
    };
    Ok(match found {
        Ok(text) => {
            let mut response = status(StatusCode::OK, text);
            let kind = hyper::header::HeaderValue::from_static("text/plain; version=0.0.4");
            let headers = response.headers_mut();
            headers.insert(hyper::header::CONTENT_TYPE, kind);
            response
        }
        Err(error) => {
            let error = format!("{error:#}");
            tracing::warn!(error, "the metrics were not read");
            status(StatusCode::SERVICE_UNAVAILABLE, error)
        }
    })
}

fn status(status: StatusCode, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    response
}

/// The text with labels, as far as it has come.
struct Labelled<'a> {
    pod: &'a Pod,
    text: String,
    /// The golden counters by series. Several of Envoy's can have the same labels: they differ in a detail that has none.
    counters: BTreeMap<String, BTreeMap<String, u64>>,
}

impl<'a> Labelled<'a> {
    const fn new(pod: &'a Pod) -> Self {
        Self {
            pod,
            text: String::new(),
            counters: BTreeMap::new(),
        }
    }

    /// Takes one line of Envoy's.
    fn take(&mut self, line: &str) {
        match golden(line) {
            Some(Line::Type) => {}
            Some(Line::Series {
                name,
                tag,
                le,
                value,
            }) if let Some(edge) = Edge::parse(tag) => {
                let mut labels = String::new();
                for (name, value) in edge.labels(self.pod) {
                    let comma = if labels.is_empty() { "" } else { "," };
                    // The fields are escaped already. Prometheus takes an empty label for none.
                    if !value.is_empty() {
                        let _ = write!(labels, "{comma}{name}=\"{value}\"");
                    }
                }
                match value.parse::<u64>() {
                    Ok(count) if is_counter(name) => {
                        let series = self.counters.entry(name.to_owned()).or_default();
                        *series.entry(labels).or_default() += count;
                    }
                    _ => {
                        let _ = writeln!(self.text, "{name}{{{labels}{le}}} {value}");
                    }
                }
            }
            Some(Line::Series { .. }) | None => {
                self.text.push_str(line);
                self.text.push('\n');
            }
        }
    }

    /// Ends a whole text.
    fn end(mut self) -> String {
        for (name, series) in self.counters {
            let _ = writeln!(self.text, "# TYPE {name} counter");
            for (labels, count) in series {
                let _ = writeln!(self.text, "{name}{{{labels}}} {count}");
            }
        }
        self.text
    }
}

/// A text as the value of a label.
fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\\\").replace('"', "\\\"");
    text.replace('\n', "\\n")
}

/// A line about a golden metric.
enum Line<'a> {
    /// The type of a counter.
    Type,
    /// A series with its tag; `le` is the rest of its labels, with a comma.
    Series {
        name: &'a str,
        tag: &'a str,
        le: &'a str,
        value: &'a str,
    },
}

fn is_counter(name: &str) -> bool {
    let name = name.strip_prefix(PREFIX);
    name.is_some_and(|name| golden::NAMES.contains(&name))
}

fn golden(line: &str) -> Option<Line<'_>> {
    if let Some(rest) = line.strip_prefix("# TYPE ") {
        let (name, kind) = rest.split_once(' ')?;
        return (kind == "counter" && is_counter(name)).then_some(Line::Type);
    }
    let (name, rest) = line.split_once('{')?;
    let rest = rest.strip_prefix(golden::TAG)?.strip_prefix("=\"")?;
    let mut escaped = false;
    let end = rest.find(|character| {
        let ends = character == '"' && !escaped;
        escaped = character == '\\' && !escaped;
        ends
    })?;
    let (tag, rest) = rest.split_at_checked(end)?;
    let (le, value) = rest.strip_prefix('"')?.rsplit_once("} ")?;
    Some(Line::Series {
        name,
        tag,
        le,
        value,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labelled(text: &str) -> String {
        let pod = Pod {
            namespace: "shop".to_owned(),
            workload: "cart".to_owned(),
            principal: "spiffe://d/ns/shop/sa/cart".to_owned(),
        };
        let mut labelled = Labelled::new(&pod);
        text.lines().for_each(|line| labelled.take(line));
        labelled.end()
    }

    #[test]
    fn histograms_and_counters_get_labels_and_other_lines_stay() {
        let text = r#"# TYPE envoy_heddle_request_failures_total counter
envoy_heddle_request_failures_total{edge="destination;;cart;503;;x;UF;in;reset{a;b}"} 1
envoy_heddle_request_failures_total{edge="destination;;cart;503;;x;UF;in;reset{c \"d\"}"} 2
# TYPE envoy_server_live gauge
envoy_server_live{} 1
# TYPE envoy_heddle_request_duration_ms histogram
envoy_heddle_request_duration_ms_bucket{edge="source;db;api;200;14;out|db/api|80",le="0.5"} 7
envoy_heddle_request_duration_ms_sum{edge="source;db;api;200;14;out|db/api|80"} 3.5
envoy_other{edge="mine"} 1
"#;
        let own = r#"source_namespace="shop",source_workload="cart",source_principal="spiffe://d/ns/shop/sa/cart""#;
        let to = r#"destination_namespace="db",destination_service="api",upstream_cluster="out|db/api|80",protocol="http",response_code="200",grpc_status="14""#;
        let expected = format!(
            r#"# TYPE envoy_server_live gauge
envoy_server_live{{}} 1
# TYPE envoy_heddle_request_duration_ms histogram
envoy_heddle_request_duration_ms_bucket{{reporter="source",{own},{to},le="0.5"}} 7
envoy_heddle_request_duration_ms_sum{{reporter="source",{own},{to}}} 3.5
envoy_other{{edge="mine"}} 1
# TYPE envoy_heddle_request_failures_total counter
envoy_heddle_request_failures_total{{reporter="destination",source_principal="x",destination_namespace="shop",destination_workload="cart",destination_service="cart",protocol="http",response_code="503",response_flags="UF",route="in"}} 3
"#
        );
        assert_eq!(labelled(text), expected);
    }
}
