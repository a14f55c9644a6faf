//! Envoy's admin interface over its private Unix socket.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use heddle_xds_types::tap::RUNTIME_KEY;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use tokio::net::UnixStream;

const TIMEOUT: Duration = Duration::from_secs(2);
const MAX_ANSWER: usize = 4 * 1024 * 1024;
/// An answer that is read line by line: a logger with 256 histograms has 1 MB.
const MAX_LINES: usize = 64 * 1024 * 1024;

/// Where to ask Envoy.
#[derive(Debug, Clone)]
pub(crate) struct Admin(PathBuf);

/// The figures that readiness looks at.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Configured {
    pub(crate) clusters: bool,
    pub(crate) listeners: bool,
    pub(crate) warming: u64,
}

/// The requests and connections of callers.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Inbound {
    /// Those that began: requests that were judged, and connections with mutual TLS. The kubelet's probes are not among them.
    pub(crate) begun: u64,
    /// Requests that are being answered, probes too.
    pub(crate) active: u64,
    /// Open connections that are none of HTTP, or not yet.
    pub(crate) bytes: u64,
}

impl Admin {
    pub(crate) fn new(socket: PathBuf) -> Self {
        Self(socket)
    }

    /// Whether Envoy reports LIVE.
    pub(crate) async fn live(&self) -> Result<bool> {
        Ok(self.ask(Method::GET, "/ready").await?.0 == StatusCode::OK)
    }

    pub(crate) async fn configured(&self) -> Result<Configured> {
        let filter = r"^(cluster_manager\.cds\.update_success|listener_manager\.lds\.update_success|listener_manager\.total_listeners_warming)$";
        let mut found = Configured::default();
        for (name, value) in self.stats(filter).await? {
            match name.as_str() {
                "cluster_manager.cds.update_success" => found.clusters = value > 0,
                "listener_manager.lds.update_success" => found.listeners = value > 0,
                "listener_manager.total_listeners_warming" => found.warming = value,
                _ => {}
            }
        }
        Ok(found)
    }

    /// How many connections and requests would be cut now. An HTTP connection without a request is idle and doesn't count.
    pub(crate) async fn busy(&self) -> Result<u64> {
        let filter = r"^(listener\..*\.downstream_cx_active|http\..*\.downstream_(cx|rq)_active)$";
        Ok(busy(&self.stats(filter).await?))
    }

    pub(crate) async fn inbound(&self) -> Result<Inbound> {
        let filter = r"^(http\.inbound\.(downstream_(cx|rq)_active|rbac\..*(allowed|denied))|http\.metrics\.downstream_cx_active|listener\.inbound\.(ssl\.handshake|downstream_cx_active))$";
        Ok(inbound(&self.stats(filter).await?))
    }

    /// Asks callers to go elsewhere; connections live on, and outbound is not touched.
    pub(crate) async fn drain_inbound(&self) -> Result<()> {
        match self
            .ask(
                Method::POST,
                "/drain_listeners?inboundonly&graceful&skip_exit",
            )
            .await?
        {
            (StatusCode::OK, _) => Ok(()),
            (status, _) => bail!("Envoy answers {status} to the request to drain"),
        }
    }

    /// Sets the share of requests for taps in the place of the control plane's, in parts of 10,000; `None`: that one is in force again.
    pub(crate) async fn set_taps(&self, share: Option<u32>) -> Result<()> {
        let share = share.map_or_else(String::new, |share| share.to_string());
        let path = format!("/runtime_modify?{RUNTIME_KEY}={share}");
        match self.ask(Method::POST, &path).await? {
            (StatusCode::OK, _) => Ok(()),
            (status, _) => bail!("Envoy answers {status} to a change of a runtime value"),
        }
    }

    async fn stats(&self, filter: &str) -> Result<Vec<(String, u64)>> {
        let (status, text) = self
            .ask(
                Method::GET,
                &format!(
                    "/stats?filter={}",
                    utf8_percent_encode(filter, NON_ALPHANUMERIC)
                ),
            )
            .await?;
        if status != StatusCode::OK {
            bail!("Envoy answers {status} to the request for its figures");
        }
        Ok(text
            .lines()
            .filter_map(|l| l.rsplit_once(": "))
            .filter_map(|(n, v)| Some((n.to_owned(), v.parse().ok()?)))
            .collect())
    }

    /// Gives every line of the golden metrics, as Envoy counts them, and the count of requests beyond the bound of their series. The whole
    /// text can be large, and is not kept.
    ///
    /// # Errors
    /// When Envoy does not answer with all of them; some lines may have been given.
    pub(crate) async fn golden(&self, each: &mut (dyn FnMut(&str) + Send)) -> Result<()> {
        let filter = r"^(heddle_(request_duration_ms|tcp_)|server\.stats_overflow\.histogram$)";
        let filter = utf8_percent_encode(filter, NON_ALPHANUMERIC);
        self.metrics(&format!("usedonly&filter={filter}"), each)
            .await
    }

    /// Gives every line of the metrics that a query asks for.
    ///
    /// # Errors
    /// When Envoy does not answer with all of them; some lines may have been given.
    pub(crate) async fn metrics(
        &self,
        query: &str,
        each: &mut (dyn FnMut(&str) + Send),
    ) -> Result<()> {
        let path = format!("/stats/prometheus?{query}");
        let exchange = self.exchange(Method::GET, &path, move |body| lines(body, each));
        let (status, ()) = within(exchange).await?;
        if status != StatusCode::OK {
            bail!("Envoy answers {status} to the request for its metrics");
        }
        Ok(())
    }

    /// Reads a runtime value that is a whole number. 0: there is none.
    pub(crate) async fn runtime_number(&self, name: &str) -> Result<u32> {
        let (status, text) = self.ask(Method::GET, "/runtime").await?;
        if status != StatusCode::OK {
            bail!("Envoy answers {status} to the request for its runtime values");
        }
        let values: Value =
            serde_json::from_str(&text).context("the runtime values can't be read")?;
        let entries = values.get("entries");
        let entry = entries.and_then(|entries| entries.get(name)?.get("final_value")?.as_str());
        Ok(entry.and_then(|value| value.parse().ok()).unwrap_or(0))
    }

    async fn ask(&self, method: Method, path: &str) -> Result<(StatusCode, String)> {
        within(self.exchange(method, path, text)).await
    }

    async fn exchange<T, F: Future<Output = Result<T>>>(
        &self,
        method: Method,
        path: &str,
        read: impl FnOnce(Incoming) -> F,
    ) -> Result<(StatusCode, T)> {
        let stream = UnixStream::connect(&self.0)
            .await
            .context("Envoy's admin socket can't be reached")?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "admin")
            .body(Empty::<Bytes>::new())?;
        let exchange = async {
            let response = sender.send_request(request).await?;
            let status = response.status();
            anyhow::Ok((status, read(response.into_body()).await?))
        };
        tokio::pin!(connection);
        tokio::pin!(exchange);
        // The connection may close once the answer has been read in part: then the rest is in the body already.
        tokio::select! {
            answer = &mut exchange => answer,
            ended = &mut connection => { ended?; exchange.await }
        }
    }
}

async fn within<T>(exchange: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(TIMEOUT, exchange)
        .await
        .context("Envoy's admin socket does not answer")?
}

async fn text(body: Incoming) -> Result<String> {
    let body = Limited::new(body, MAX_ANSWER).collect().await;
    let body = body
        .map_err(|e| anyhow::anyhow!("Envoy's answer can't be read: {e}"))?
        .to_bytes();
    Ok(String::from_utf8_lossy(&body).into_owned())
}

async fn lines(mut body: Incoming, each: &mut (dyn FnMut(&str) + Send)) -> Result<()> {
    let mut rest: Vec<u8> = Vec::new();
    let mut read = 0;
    while let Some(frame) = body.frame().await.transpose()? {
        let Ok(data) = frame.into_data() else {
            continue;
        };
        read += data.len();
        if read > MAX_LINES {
            bail!("Envoy's answer is longer than {MAX_LINES} bytes");
        }
        rest.extend_from_slice(&data);
        let whole = rest.iter().rposition(|byte| *byte == b'\n');
        let whole: Vec<u8> = rest.drain(..whole.map_or(0, |at| at + 1)).collect();
        String::from_utf8_lossy(&whole).lines().for_each(&mut *each);
    }
    Ok(())
}

fn busy(stats: &[(String, u64)]) -> u64 {
    let own = |name: &str| name.starts_with("listener.admin.") || name.starts_with("http.admin.");
    let per_worker = |name: &str| name.contains(".worker_") || name.contains(".main_thread.");
    let sum = |prefix: &str, suffix: &str| -> u64 {
        let counts = |name: &str| {
            name.starts_with(prefix) && name.ends_with(suffix) && !own(name) && !per_worker(name)
        };
        stats
            .iter()
            .filter(|(name, _)| counts(name))
            .map(|(_, value)| value)
            .sum()
    };
    let tcp = sum("listener.", ".downstream_cx_active")
        .saturating_sub(sum("http.", ".downstream_cx_active"));
    tcp + sum("http.", ".downstream_rq_active")
}

fn inbound(stats: &[(String, u64)]) -> Inbound {
    let mut found = Inbound::default();
    let mut of_http = 0;
    for (name, value) in stats {
        match name.as_str() {
            "http.inbound.downstream_rq_active" => found.active += value,
            "http.inbound.downstream_cx_active" | "http.metrics.downstream_cx_active" => {
                of_http += value;
            }
            "listener.inbound.downstream_cx_active" => found.bytes += value,
            _ if name.contains(".shadow_") => {}
            _ => found.begun += value,
        }
    }
    found.bytes = found.bytes.saturating_sub(of_http);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_http_connections_keep_nobody_waiting() {
        let stats = |rows: &[(&str, u64)]| {
            rows.iter()
                .map(|(n, v)| ((*n).to_owned(), *v))
                .collect::<Vec<_>>()
        };
        assert_eq!(busy(&[]), 0);
        assert_eq!(
            busy(&stats(&[
                ("listener.admin.downstream_cx_active", 1),
                ("http.admin.downstream_cx_active", 1),
                ("http.admin.downstream_rq_active", 1),
                ("listener.0.0.0.0_15006.downstream_cx_active", 5),
                ("listener.0.0.0.0_15006.worker_0.downstream_cx_active", 5),
                ("http.in.downstream_cx_active", 3),
                ("http.in.downstream_rq_active", 1),
            ])),
            3,
            "two TCP connections and one request"
        );
    }

    #[test]
    fn requests_and_connections_of_callers_are_told_from_probes() {
        let stats = [
            ("http.inbound.downstream_cx_active", 5),
            ("http.metrics.downstream_cx_active", 1),
            ("http.inbound.downstream_rq_active", 2),
            ("http.inbound.rbac.allowed", 5),
            ("http.inbound.rbac.denied", 1),
            ("http.inbound.rbac.shadow_allowed", 7),
            ("listener.inbound.ssl.handshake", 3),
            ("listener.inbound.downstream_cx_active", 10),
        ];
        let stats: Vec<(String, u64)> = stats
            .iter()
            .map(|(name, value)| ((*name).to_owned(), *value))
            .collect();
        let expected = Inbound {
            begun: 9,
            active: 2,
            bytes: 4,
        };
        assert_eq!(inbound(&stats), expected);
    }
}
