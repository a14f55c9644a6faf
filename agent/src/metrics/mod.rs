//! The metrics of the sidecar for Prometheus: those of Envoy, with labels in the golden metrics.
//!
//! Envoy counts the golden metrics under one tag ([`golden`]), which has nothing about the pod. Here they get the labels, but for those
//! that the Mesh leaves out, and on request also the names of Istio's standard metrics, for tools that read these.

mod connections;
mod families;
mod istio;
mod lines;

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use heddle_acceptor::{Counters, Link, Protocol};
use heddle_xds_types::golden::{self, Pod};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use tokio::sync::Mutex;

use crate::admin::Admin;
use crate::socket::Server;
use lines::Labelled;

/// The parameter of a scrape that asks for more names, and the only such set of names.
const NAMES: &str = "names=";
const ISTIO: &str = "istio";
const TIMEOUT: Duration = Duration::from_secs(5);

/// The metrics of one Envoy.
pub(crate) struct Metrics {
    admin: Admin,
    pod: Pod,
    /// Those of the port of readiness and hooks.
    connections: Arc<Counters>,
    /// A text can be large: only one is made at a time.
    turn: Mutex<()>,
}

impl Metrics {
    /// `connections`: the counters of the port of readiness and hooks.
    pub(crate) fn new(admin: Admin, pod: &Pod, connections: Arc<Counters>) -> Self {
        let pod = Pod {
            namespace: escaped(&pod.namespace),
            workload: escaped(&pod.workload),
            principal: escaped(&pod.principal),
        };
        let turn = Mutex::default();
        Self {
            admin,
            pod,
            connections,
            turn,
        }
    }

    async fn text(&self, asked: &Asked) -> Result<String> {
        let _turn = self.turn.lock().await;
        let left_out = self.admin.runtime_number(golden::LEFT_OUT).await?;
        let mut text = Labelled::new(&self.pod, left_out, asked.istio);
        self.admin
            .metrics(&asked.query, &mut |line| text.take(line))
            .await?;
        let mut text = text.end();
        if asked.is_whole() {
            connections::write(&self.connections.snapshot(), &mut text);
        }
        Ok(text)
    }
}

/// The parameters of a scrape.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    /// Those for Envoy.
    query: String,
    /// Whether the names of Istio are asked for too.
    istio: bool,
}

impl Asked {
    /// Whether no part of the metrics is asked for alone.
    fn is_whole(&self) -> bool {
        let mut parameters = self.query.split('&');
        !parameters.any(|of| of.starts_with("filter="))
    }

    /// Reads a query. `None`: it asks for names that are not known.
    fn parse(query: &str) -> Option<Self> {
        let (names, of_envoy): (Vec<&str>, Vec<&str>) =
            query.split('&').partition(|part| part.starts_with(NAMES));
        let known = names
            .iter()
            .all(|part| part.strip_prefix(NAMES) == Some(ISTIO));
        known.then(|| Self {
            query: of_envoy.join("&"),
            istio: !names.is_empty(),
        })
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
    if (request.method(), request.uri().path()) != (&Method::GET, "/stats/prometheus") {
        return Ok(status(StatusCode::NOT_FOUND, ""));
    }
    let Some(asked) = Asked::parse(request.uri().query().unwrap_or_default()) else {
        let text = "the parameter `names` is not `istio`; use this value, or leave it out\n";
        return Ok(status(StatusCode::BAD_REQUEST, text));
    };
    Ok(match metrics.text(&asked).await {
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

/// A text as the value of a label.
fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\\\").replace('"', "\\\"");
    text.replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_asked_of_the_agent_and_the_rest_of_envoy() {
        let asked = |query: &str| Asked::parse(query).map(|asked| (asked.query, asked.istio));
        let of = |query: &str, istio| Some((query.to_owned(), istio));
        assert_eq!(asked(""), of("", false));
        assert_eq!(asked("usedonly&filter=a"), of("usedonly&filter=a", false));
        assert_eq!(asked("names=istio&usedonly"), of("usedonly", true));
        assert_eq!(asked("names=linkerd"), None);
        assert_eq!(asked("names=istio&names="), None);
    }
}
