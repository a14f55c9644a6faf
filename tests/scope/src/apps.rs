//! The application behind every address: a few protocols, each of which names the pod that answered.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use rustls::ServerConfig;
use rustls::crypto::ring::default_provider;
use tokio_rustls::TlsAcceptor;

use crate::client::Answer;
use crate::net::Netns;
use crate::world::port;

/// How long the late one thinks.
const THINKS: Duration = Duration::from_millis(300);

/// An application; it ends when dropped.
#[derive(Debug)]
pub(crate) struct App {
    _tasks: JoinSet<()>,
}

impl App {
    /// Listens at all ports of these addresses.
    pub(crate) fn start(netns: &Netns, ips: &[IpAddr], name: &str) -> Result<Self> {
        let name: Arc<str> = name.into();
        let tls = tls()?;
        let mut tasks = JoinSet::new();
        for ip in ips {
            for at in [
                port::HTTP,
                port::OTHER_HTTP,
                port::GRPC,
                port::BANNER,
                port::ECHO,
                port::OTHER_ECHO,
                port::LATE,
                port::HTTPS,
            ]
            .into_iter()
            .chain(port::between())
            {
                let listener = netns.listen(SocketAddr::new(*ip, at))?;
                tasks.spawn(accept(listener, at, Arc::clone(&name), tls.clone()));
            }
        }
        Ok(Self { _tasks: tasks })
    }
}

async fn accept(listener: TcpListener, at: u16, name: Arc<str>, tls: TlsAcceptor) {
    // Connections end with the listener's task.
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        let (name, tls) = (Arc::clone(&name), tls.clone());
        connections.spawn(async move {
            // A client that goes away is not a fault of the application.
            let _ = match at {
                port::BANNER => banner(stream, &name).await,
                port::ECHO | port::OTHER_ECHO => echo(stream).await,
                port::LATE => late(stream).await,
                port::HTTPS => https(stream, &tls, name).await,
                _ => http(stream, name).await,
            };
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn banner(mut stream: TcpStream, name: &str) -> Result<()> {
    stream.write_all(format!("{name}\n").as_bytes()).await?;
    echo(stream).await
}

async fn echo(mut stream: TcpStream) -> Result<()> {
    let (mut read, mut write) = stream.split();
    tokio::io::copy(&mut read, &mut write).await?;
    Ok(write.shutdown().await?)
}

async fn late(mut stream: TcpStream) -> Result<()> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await?;
    tokio::time::sleep(THINKS).await;
    stream.write_all(&all).await?;
    Ok(stream.shutdown().await?)
}

/// TLS with a certificate of the application's own, which the sidecar does not know.
fn tls() -> Result<TlsAcceptor> {
    let own = rcgen::generate_simple_self_signed(["app".to_owned()])?;
    let key = own.signing_key.serialize_der();
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(
            vec![own.cert.der().clone()],
            key.try_into().map_err(anyhow::Error::msg)?,
        )?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn https(stream: TcpStream, tls: &TlsAcceptor, name: Arc<str>) -> Result<()> {
    http(tls.accept(stream).await?, name).await
}

async fn http(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    name: Arc<str>,
) -> Result<()> {
    let answer = service_fn(move |request| {
        let response = respond(&request, &name);
        async move { Ok::<_, Infallible>(response) }
    });
    let server = auto::Builder::new(TokioExecutor::new());
    server
        .serve_connection(TokioIo::new(stream), answer)
        .await
        .map_err(|error| anyhow::anyhow!("{error}"))
}

type Body = BoxBody<Bytes, Infallible>;

fn respond(request: &Request<Incoming>, name: &str) -> Response<Body> {
    if request.uri().path() == "/ticks" {
        return Response::new(ticks());
    }
    let header = |name: &str| {
        request
            .headers()
            .get(name)
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned)
    };
    let answer = Answer {
        app: name.to_owned(),
        path: request.uri().path().to_owned(),
        host: header(HOST.as_str())
            .or_else(|| request.uri().authority().map(ToString::to_string))
            .unwrap_or_default(),
        peer: header("x-forwarded-client-cert").unwrap_or_default(),
        version: format!("{:?}", request.version()),
    };
    let body = Full::new(Bytes::from(serde_json::to_vec(&answer).unwrap_or_default()));
    let grpc = header(CONTENT_TYPE.as_str()).filter(|kind| kind.starts_with("application/grpc"));
    let Some(kind) = grpc.and_then(|kind| HeaderValue::try_from(kind).ok()) else {
        return Response::new(body.boxed());
    };
    let trailers = HeaderMap::from_iter([(
        hyper::header::HeaderName::from_static("grpc-status"),
        HeaderValue::from_static("0"),
    )]);
    let mut response = Response::new(body.with_trailers(async { Some(Ok(trailers)) }).boxed());
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// A response without an end.
fn ticks() -> Body {
    let (sender, receiver) = tokio::sync::mpsc::channel::<Bytes>(1);
    tokio::spawn(async move {
        while sender.send(Bytes::from_static(b"tick\n")).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let frames = ReceiverStream::new(receiver).map(|tick| Ok(Frame::data(tick)));
    BodyExt::boxed(StreamBody::new(frames))
}
