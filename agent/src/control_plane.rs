//! The way to the control plane: its address, and the roots that its certificate must come from.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Request, Streaming};
use tonic_prost::ProstCodec;

use crate::backoff::{backoff, chance};
use crate::secrets::Secrets;
use crate::settings::Settings;

/// The time to connect, and the time for one answer.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(10);
/// A control plane that vanished without a word is noticed within two of these.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Returns `host:port` of the control plane, as a URL and an error name it.
pub(crate) fn authority(settings: &Settings, port: u16) -> String {
    match settings.control_plane_ip() {
        Some(IpAddr::V6(ip)) => format!("[{ip}]:{port}"),
        Some(IpAddr::V4(_)) | None => format!("{}:{port}", settings.control_plane),
    }
}

/// Returns TLS that trusts the roots, in PEM, for the name in the control plane's certificate.
pub(crate) fn tls(settings: &Settings, trust: &str) -> ClientTlsConfig {
    ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(trust))
        .domain_name(settings.server_name())
}

/// Returns the address of a port of the control plane.
///
/// # Errors
/// When the address is not a URL, or TLS cannot be set up.
pub(crate) fn endpoint(settings: &Settings, port: u16, tls: ClientTlsConfig) -> Result<Endpoint> {
    let url = format!("https://{}", authority(settings, port));
    Ok(Endpoint::from_shared(url)?
        .connect_timeout(TIMEOUT)
        .tls_config(tls)?)
}

/// Connects to the port of ADS by the certificate as it is now. A stream ends with its certificate, and the next one has the newer.
///
/// # Errors
/// When there is no certificate yet, or no connection.
pub(crate) async fn connect(
    settings: &Settings,
    secrets: &watch::Receiver<Secrets>,
) -> Result<Channel> {
    let pem = secrets.borrow().pem();
    let pem = pem.context("there is no certificate yet")?;
    let tls = tls(settings, &pem.trust).identity(Identity::from_pem(&pem.chain, &pem.key));
    let endpoint = endpoint(settings, settings.ads_port, tls)?
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE);
    endpoint.connect().await.with_context(|| {
        let authority = authority(settings, settings.ads_port);
        format!("the control plane {authority} can't be reached")
    })
}

/// Opens a stream of messages to the port of ADS, and returns the answers.
///
/// # Errors
/// When there is no connection, or no answer.
pub(crate) async fn stream<M, A>(
    settings: &Settings,
    secrets: &watch::Receiver<Secrets>,
    method: &'static str,
    outgoing: mpsc::Receiver<M>,
) -> Result<Streaming<A>>
where
    M: prost::Message + 'static,
    A: prost::Message + Default + 'static,
{
    let channel = connect(settings, secrets).await?;
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await?;
    let path = PathAndQuery::from_static(method);
    let request = Request::new(ReceiverStream::new(outgoing));
    let codec = ProstCodec::<M, A>::default();
    let answer = tokio::time::timeout(TIMEOUT, client.streaming(request, path, codec));
    let answers = answer
        .await
        .context("the control plane does not answer")??;
    Ok(answers.into_inner())
}

/// Logs the first failure of a row, and waits. `effect`: the consequence of the failure.
pub(crate) async fn pause(error: &anyhow::Error, effect: &str, attempt: &mut u32) {
    let error = format!("{error:#}");
    if *attempt == 0 {
        tracing::warn!(error, "{effect}; retrying");
    } else {
        tracing::debug!(error, "{effect}");
    }
    tokio::time::sleep(backoff(*attempt, chance())).await;
    *attempt = attempt.saturating_add(1);
}
