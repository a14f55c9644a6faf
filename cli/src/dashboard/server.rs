//! The server of the page: on this machine only, under a secret path, with strict headers.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use heddle_acceptor::{
    Acceptor, Bounds, Deadlines, Http, Link, Options, Protocol, Security, clean,
};
use hyper_util::service::TowerToHyperService;
use serde::Serialize;
use serde_json::Value;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::objects::Reader;
use crate::cluster::explain;
use crate::edges::live::Source;

/// Scripts and styles of the page alone, no other content, no frames, no forms.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The files of the page, by name.
macro_rules! files {
    ($($name:literal),* $(,)?) => { [$(($name, include_str!(concat!("page/", $name)))),*] };
}

/// The files of the page. Those of `libraries` are generated: `libraries/build.mjs`.
const FILES: [(&str, &str); 15] = files![
    "index.html",
    "style.css",
    "app.js",
    "graph.js",
    "layout.js",
    "model.js",
    "panel.js",
    "parts.js",
    "placement.js",
    "state.js",
    "tables.js",
    "words.js",
    "libraries/d3.js",
    "libraries/dagre.js",
    "libraries/lit.js",
];

/// A browser opens six connections to a server.
const BOUNDS: Bounds = Bounds {
    connections: 64,
    per_source: 64,
    reserved: 0,
    displace_busy: true,
};
/// Asking all replicas takes 15 s at most, and the objects of a large cluster some more.
const DEADLINE: std::time::Duration = std::time::Duration::from_secs(60);
/// Questions that wait for their turn.
const WAITING: usize = 16;
/// The longest error, in characters.
const MAX_ERROR: usize = 2000;

/// A dashboard that listens.
pub struct Dashboard {
    listener: TcpListener,
    url: String,
    router: Router,
    reader: Reader,
    questions: mpsc::Receiver<(Question, Reply)>,
}

/// A question of the page.
enum Question {
    /// The traffic of so many seconds.
    Traffic(u64),
    /// Sidecars, certificates, objects and findings.
    Objects,
    /// The decisions about the callers of so many seconds.
    Access(u64),
    /// The rules of services.
    Routes,
    /// A subject and its name.
    Describe(String, String),
}

type Reply = oneshot::Sender<Result<Value>>;

struct Shared {
    questions: mpsc::Sender<(Question, Reply)>,
    /// Names by which a browser may call this server, so that no other site's name can lead here.
    hosts: [String; 2],
}

impl Dashboard {
    /// Listens on a port of 127.0.0.1; 0 takes a free one.
    ///
    /// # Errors
    /// When the port is taken, or there is no randomness.
    pub async fn bind(source: Source, paths: Vec<PathBuf>, port: u16) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await;
        let listener = listener.with_context(|| format!("cannot listen on 127.0.0.1:{port}"))?;
        let address = listener.local_addr()?;
        let secret = secret().await?;
        let (asking, questions) = mpsc::channel(WAITING);
        Ok(Self {
            listener,
            url: format!("http://{address}/{secret}/"),
            router: router(asking, address, &secret),
            reader: Reader::new(source, paths),
            questions,
        })
    }

    /// The address of the page, which is a secret.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Serves for ever.
    ///
    /// # Errors
    /// When the listening socket fails for good.
    pub async fn serve(self) -> Result<()> {
        let options = Options {
            name: "dashboard",
            bounds: BOUNDS,
            deadlines: Deadlines {
                request: Some(DEADLINE),
                ..Deadlines::default()
            },
            http: Http {
                protocol: Protocol::Http1,
                ..Http::default()
            },
        };
        let router = self.router;
        let handler = move |_: Arc<Link>| TowerToHyperService::new(router.clone());
        let stop = CancellationToken::new();
        let acceptor = Acceptor::new(options, Arc::default());
        tokio::select! {
            ended = acceptor.serve(self.listener, Security::Plain, handler, stop) => Ok(ended?),
            () = answer(self.reader, self.questions) => Ok(()),
        }
    }
}

/// 128 random bits.
///
/// # Errors
/// The device `/dev/urandom` cannot be read.
pub async fn secret() -> Result<String> {
    let mut bits = [0; 16];
    let mut source = tokio::fs::File::open("/dev/urandom").await?;
    source.read_exact(&mut bits).await?;
    Ok(bits.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn router(questions: mpsc::Sender<(Question, Reply)>, address: SocketAddr, secret: &str) -> Router {
    let shared = Arc::new(Shared {
        questions,
        hosts: [address.to_string(), format!("localhost:{}", address.port())],
    });
    Router::new()
        .route(&format!("/{secret}/"), get(|| async { file("index.html") }))
        .route(
            &format!("/{secret}/{{*name}}"),
            get(|Path(name): Path<String>| async move { file(&name) }),
        )
        .route(&format!("/{secret}/api/traffic"), get(traffic))
        .route(&format!("/{secret}/api/objects"), get(objects))
        .route(&format!("/{secret}/api/access"), get(access))
        .route(&format!("/{secret}/api/routes"), get(routes))
        .route(
            &format!("/{secret}/api/describe/{{subject}}/{{*name}}"),
            get(describe),
        )
        .layer(from_fn_with_state(Arc::clone(&shared), guard))
        .with_state(shared)
}

/// Refuses requests under another name, and adds the headers of every answer.
async fn guard(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST);
    let own = host.is_some_and(|host| shared.hosts.iter().any(|own| host == own.as_str()));
    let mut response = match own {
        true => next.run(request).await,
        false => StatusCode::MISDIRECTED_REQUEST.into_response(),
    };
    add_headers(response.headers_mut());
    response
}

fn add_headers(headers: &mut HeaderMap) {
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

fn file(name: &str) -> Response {
    let kind = match name.rsplit_once('.') {
        Some((_, "html")) => "text/html; charset=utf-8",
        Some((_, "css")) => "text/css",
        _ => "text/javascript; charset=utf-8",
    };
    match FILES.iter().find(|(known, _)| *known == name) {
        Some((_, text)) => ([(header::CONTENT_TYPE, kind)], *text).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn traffic(State(shared): State<Arc<Shared>>, uri: Uri) -> Response {
    shared.ask(Question::Traffic(window(&uri))).await
}

async fn access(State(shared): State<Arc<Shared>>, uri: Uri) -> Response {
    shared.ask(Question::Access(window(&uri))).await
}

/// The seconds that a question is about.
fn window(uri: &Uri) -> u64 {
    let window = uri.query().and_then(|query| query.strip_prefix("window="));
    let window = window.and_then(|seconds| seconds.parse().ok());
    window.unwrap_or(60)
}

async fn describe(
    State(shared): State<Arc<Shared>>,
    Path((subject, name)): Path<(String, String)>,
) -> Response {
    shared.ask(Question::Describe(subject, name)).await
}

async fn routes(State(shared): State<Arc<Shared>>) -> Response {
    shared.ask(Question::Routes).await
}

async fn objects(State(shared): State<Arc<Shared>>) -> Response {
    shared.ask(Question::Objects).await
}

impl Shared {
    async fn ask(&self, question: Question) -> Response {
        let (reply, answer) = oneshot::channel();
        // Full: pages ask faster than the control plane answers.
        if self.questions.try_send((question, reply)).is_err() {
            return StatusCode::TOO_MANY_REQUESTS.into_response();
        }
        match answer.await {
            Ok(Ok(value)) => Json(value).into_response(),
            Ok(Err(error)) => {
                let text = clean(&explain(&error), MAX_ERROR);
                (StatusCode::BAD_GATEWAY, text).into_response()
            }
            Err(_) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        }
    }
}

/// Answers questions one after another, so that pages cannot flood the control plane.
async fn answer(reader: Reader, mut questions: mpsc::Receiver<(Question, Reply)>) {
    while let Some((question, reply)) = questions.recv().await {
        // The page that asked is gone.
        if reply.is_closed() {
            continue;
        }
        let answer = match question {
            Question::Traffic(window) => reader.traffic(window).await.and_then(value),
            Question::Objects => reader.read().await.and_then(value),
            Question::Access(window) => reader.access(window).await.and_then(value),
            Question::Routes => reader.routes().await.and_then(value),
            Question::Describe(subject, name) => reader.describe(&subject, &name).await,
        };
        // The page may be gone.
        let _ = reply.send(answer);
    }
}

fn value(content: impl Serialize) -> Result<Value> {
    Ok(serde_json::to_value(content)?)
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    use super::*;

    async fn ask(router: &Router, host: &str, path: &str) -> (StatusCode, HeaderMap, String) {
        let request = Request::get(path).header(header::HOST, host);
        let request = request.body(Body::empty()).unwrap();
        let response = router.clone().oneshot(request).await.unwrap();
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let text = String::from_utf8_lossy(&body).into_owned();
        (head.status, head.headers, text)
    }

    #[tokio::test]
    async fn the_page_is_only_under_the_secret_and_its_own_names() {
        let folder = tempfile::tempdir().unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], 8080));
        let (asking, questions) = mpsc::channel(WAITING);
        let router = router(asking, address, "abc");
        let source = Source::Standalone(folder.path().into());
        tokio::select! {
            () = answer(Reader::new(source, Vec::new()), questions) => {}
            () = is_guarded(&router, folder.path()) => {}
        }
    }

    async fn is_guarded(router: &Router, folder: &std::path::Path) {
        let own = "127.0.0.1:8080";
        for (host, path, expected) in [
            (own, "/abc/", StatusCode::OK),
            ("localhost:8080", "/abc/app.js", StatusCode::OK),
            (own, "/", StatusCode::NOT_FOUND),
            (own, "/abd/", StatusCode::NOT_FOUND),
            (own, "/abd/api/traffic", StatusCode::NOT_FOUND),
            (own, "/abc/nothing.js", StatusCode::NOT_FOUND),
            (
                "evil.example:8080",
                "/abc/",
                StatusCode::MISDIRECTED_REQUEST,
            ),
            ("127.0.0.1:80", "/abc/", StatusCode::MISDIRECTED_REQUEST),
            (own, "/abc/libraries/lit.js", StatusCode::OK),
            (own, "/abc/api/traffic", StatusCode::BAD_GATEWAY),
            (own, "/abc/api/access", StatusCode::BAD_GATEWAY),
            (
                own,
                "/abc/api/describe/service/shop/reviews",
                StatusCode::BAD_GATEWAY,
            ),
            (
                own,
                "/abd/api/describe/service/shop/reviews",
                StatusCode::NOT_FOUND,
            ),
        ] {
            let (status, headers, _) = ask(router, host, path).await;
            assert_eq!(status, expected, "{host} {path}");
            assert_eq!(headers[header::CONTENT_SECURITY_POLICY], POLICY);
        }
        let edges = r#"{"version": 1, "coveredSeconds": 10, "edges": []}"#;
        std::fs::write(folder.join("edges.json"), edges).unwrap();
        let (status, _, text) = ask(router, own, "/abc/api/traffic?window=30").await;
        assert_eq!(status, StatusCode::OK, "{text}");
        assert!(text.contains(r#""windowSeconds":10"#), "{text}");
    }

    #[test]
    fn the_page_takes_nothing_from_elsewhere_and_writes_names_as_text() {
        let own = |name: &str| !name.starts_with("libraries/");
        for (name, text) in FILES.into_iter().filter(|(name, _)| own(name)) {
            let text = text.replace("GET http://${row.destination.name}", "");
            for forbidden in [
                "http://",
                "https://",
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "unsafe",
                "eval(",
                " style=",
                "onclick",
            ] {
                assert!(!text.contains(forbidden), "{name}: {forbidden}");
            }
        }
    }
}
