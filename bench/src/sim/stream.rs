//! One delta-ADS stream of one simulated proxy over TCP, with TLS or without.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use prost::Message;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::http2::Http2;
use super::response::Response;
use super::server::Server;

const PATH: &str =
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
/// Of the agent's bootstrap: TCP and TLS together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const BUFFER: usize = 16 << 10;

/// The client's side of a stream.
pub(super) trait Speaker {
    /// The requests that open the stream.
    fn open(&mut self) -> Vec<DeltaDiscoveryRequest>;

    /// Takes a response that was read at this time, and returns the requests in answer to it.
    fn receive(
        &mut self,
        at: Instant,
        response: &Response<'_>,
        out: &mut Vec<DeltaDiscoveryRequest>,
    ) -> Result<()>;
}

/// Connects and speaks until the stream ends, which is always an error.
pub(super) async fn speak(
    server: &Server,
    tls: Option<&Arc<rustls::ClientConfig>>,
    speaker: &mut impl Speaker,
) -> Result<()> {
    let timeout =
        |what: &'static str| move |_| anyhow::anyhow!("{what}: not in {CONNECT_TIMEOUT:?}");
    let until = tokio::time::Instant::now() + CONNECT_TIMEOUT;
    let tcp = tokio::time::timeout_at(until, TcpStream::connect(&server.address))
        .await
        .map_err(timeout("TCP"))?
        .with_context(|| format!("the ADS server at {}", server.address))?;
    tcp.set_nodelay(true)?;
    let call = Http2::open(&server.address, PATH, tls.is_some());
    match tls {
        None => pump(tcp, call, speaker).await,
        Some(config) => {
            let name = ServerName::try_from(server.server_name.clone())?;
            let connect = TlsConnector::from(Arc::clone(config)).connect(name, tcp);
            let stream = tokio::time::timeout_at(until, connect)
                .await
                .map_err(timeout("TLS"))?
                .context("TLS")?;
            pump(stream, call, speaker).await
        }
    }
}

async fn pump<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    mut call: Http2,
    speaker: &mut impl Speaker,
) -> Result<()> {
    let (mut input, mut encoded) = (Vec::with_capacity(BUFFER), Vec::new());
    let mut requests = speaker.open();
    loop {
        for request in requests.drain(..) {
            encoded.clear();
            request.encode(&mut encoded)?;
            call.send(&encoded);
        }
        if !call.out().is_empty() {
            stream.write_all(call.out()).await?;
            stream.flush().await?;
            call.out().clear();
        }
        if stream.read_buf(&mut input).await? == 0 {
            bail!("the server has closed the connection");
        }
        let at = Instant::now();
        let used = call.take(&input, |message| {
            speaker.receive(at, &Response::read(message)?, &mut requests)
        })?;
        if used == input.len() && input.capacity() > 4 * BUFFER {
            input = Vec::with_capacity(BUFFER);
        } else {
            input.drain(..used);
        }
        // Responses for the others are read before any is answered: each real proxy has a machine of its own for that.
        tokio::task::yield_now().await;
    }
}
