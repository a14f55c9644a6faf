//! One question to a replica's admin port, over a stream that somebody else opened.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::token::Token;

/// The name in the control plane's certificate. No workload's certificate holds a name.
pub(super) const NAME: &str = "heddle.heddle-system.svc";
/// A hundred thousand sidecars are 50 MB.
const MAX_ANSWER: usize = 256 << 20;

/// Trusts certificates that the mesh's own root signed.
#[derive(Clone)]
pub(super) struct Trust(TlsConnector);

impl Trust {
    /// From the roots in PEM.
    ///
    /// # Errors
    /// The text is not PEM, or a root in it is not a certificate.
    pub(super) fn new(pem: &[u8]) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(pem) {
            let root = root.context("the root of the mesh is not PEM; run heddle check")?;
            roots
                .add(root)
                .context("the root of the mesh is not a certificate; run heddle check")?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        // A resumed session would not show the server's certificate again.
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Self(TlsConnector::from(Arc::new(config))))
    }

    /// Begins TLS with a replica.
    ///
    /// # Errors
    /// The replica has no certificate of the mesh's root, or the connection ends during the handshake.
    pub(super) async fn connect<S>(&self, stream: S) -> Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let name = ServerName::try_from(NAME)?;
        let tls = self.0.connect(name, stream).await;
        tls.context("no TLS with it")
    }
}

/// The body of the answer, if it is a good one.
///
/// # Errors
/// The replica has no certificate of the root, its answer is missing, ends early or is too large, or it refuses the request.
pub(super) async fn get<S>(stream: S, trust: &Trust, token: &Token, path: &str) -> Result<Bytes>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let tls = trust.connect(stream).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tls)).await?;
    let request = Request::get(path)
        .header(header::HOST, NAME)
        .header(header::AUTHORIZATION, token.header())
        .body(Empty::<Bytes>::new())?;
    let exchange = async {
        let response = sender
            .send_request(request)
            .await
            .context("no answer from it")?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER)
            .collect()
            .await
            .map_err(|error| anyhow::anyhow!("its answer broke off: {error}"))?
            .to_bytes();
        anyhow::Ok((status, body))
    };
    tokio::pin!(connection);
    tokio::pin!(exchange);
    // The connection moves the bytes of the exchange. It may end before it, with the rest in the body already, or outlive it.
    let answer = tokio::select! {
        answer = &mut exchange => answer,
        _ = &mut connection => exchange.await,
    };
    let (status, body) = answer?;
    if status == StatusCode::OK {
        return Ok(body);
    }
    let text = String::from_utf8_lossy(&body);
    let fix = match status {
        StatusCode::FORBIDDEN => "; bind yourself to ClusterRole heddle-proxy-reader",
        StatusCode::NOT_FOUND => {
            " (the control plane is of another version); upgrade it, or use the `heddle` of its version"
        }
        _ => "",
    };
    bail!("it answers {status}: {}{fix}", text.trim());
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    use rustls::ServerConfig;
    use rustls::pki_types::PrivatePkcs8KeyDer;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
    use tokio_rustls::TlsAcceptor;

    use super::*;

    type Root = CertifiedIssuer<'static, KeyPair>;

    fn root() -> Root {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    }

    /// A replica that answers one request with these bytes; it panics, and so breaks the connection, if there is no token.
    fn replica(root: &Root, name: &str, answer: &'static str) -> DuplexStream {
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let leaf = leaf.signed_by(&key, root).unwrap();
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], key.into())
            .unwrap();
        let (near, far) = tokio::io::duplex(4096);
        tokio::spawn(async move {
            let mut tls = TlsAcceptor::from(Arc::new(config))
                .accept(far)
                .await
                .unwrap();
            let mut request = vec![0; 4096];
            let length = tls.read(&mut request).await.unwrap();
            let request = String::from_utf8_lossy(&request[..length]).into_owned();
            assert!(
                request.starts_with("GET /api/v1/proxies HTTP/1.1\r\n"),
                "{request}"
            );
            assert!(
                request.contains("authorization: Bearer abc\r\n"),
                "{request}"
            );
            tls.write_all(answer.as_bytes()).await.unwrap();
            if answer.contains("keep-alive") {
                std::future::pending::<()>().await;
            }
            tls.shutdown().await.unwrap();
        });
        near
    }

    async fn ask(trusted: &Root, stream: DuplexStream) -> Result<String> {
        let trust = Trust::new(trusted.pem().as_bytes())?;
        let token = Token::new(HeaderValue::from_static("Bearer abc"));
        let body = get(stream, &trust, &token, "/api/v1/proxies").await?;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    #[tokio::test]
    async fn the_answer_comes_over_tls_of_the_meshs_root() {
        let root = root();
        for answer in [
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]",
            "HTTP/1.1 200 OK\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\n[]",
        ] {
            let body = ask(&root, replica(&root, NAME, answer)).await.unwrap();
            assert_eq!(body, "[]");
        }
    }

    #[tokio::test]
    async fn no_other_server_gets_the_token() {
        let (mine, other) = (root(), root());
        for stream in [
            replica(&other, NAME, ""),
            replica(&mine, "cart.shop.svc", ""),
        ] {
            let error = ask(&mine, stream).await.unwrap_err();
            assert!(error.to_string().contains("no TLS with it"), "{error:#}");
        }
    }

    #[tokio::test]
    async fn a_refusal_is_told_with_its_fix() {
        let root = root();
        let refusal = "HTTP/1.1 403 Forbidden\r\ncontent-length: 14\r\n\r\nno such right\n";
        let error = ask(&root, replica(&root, NAME, refusal))
            .await
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            "it answers 403 Forbidden: no such right; bind yourself to ClusterRole heddle-proxy-reader"
        );
    }

    #[tokio::test]
    async fn an_answer_that_breaks_off_is_no_answer() {
        let root = root();
        for answer in ["", "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n[]"] {
            let error = ask(&root, replica(&root, NAME, answer)).await.unwrap_err();
            assert!(
                ["no answer from it", "its answer broke off"]
                    .iter()
                    .any(|reason| error.to_string().contains(reason)),
                "{error:#}"
            );
        }
    }
}
