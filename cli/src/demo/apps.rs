//! The demo's own services: plain HTTP, no mesh library, no TLS. They answer with the request that they received and the caller's identity.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::client::{self, HttpClient};

/// How long an application waits for another one.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// The answer of a service: its own name and the call.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Answer {
    /// The service.
    pub service: String,
    /// Its version, where there are several.
    pub version: String,
    /// `x-forwarded-client-cert` as the sidecar wrote it: the identity of the caller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// The answer of the next service in the chain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratings: Option<Box<Answer>>,
}

/// The addresses of one block `127.X.Y.0/24` that the demo's parts use.
#[derive(Debug, Clone)]
pub struct Net(String);

impl Net {
    /// The block written as its first three numbers.
    pub fn new(prefix: String) -> Self {
        Self(prefix)
    }

    /// The first three numbers, as they stand for `${NET}` in the YAML.
    pub fn prefix(&self) -> &str {
        &self.0
    }

    /// One address of the block.
    pub fn ip(&self, host: u8) -> String {
        format!("{}.{host}", self.0)
    }

    /// An address and a port of the block.
    pub fn at(&self, host: u8, port: u16) -> String {
        format!("{}.{host}:{port}", self.0)
    }
}

#[derive(Clone)]
struct App {
    version: &'static str,
    ratings: String,
    client: HttpClient,
}

/// Starts all services; they end when the set is dropped.
///
/// # Errors
/// The address of a service cannot be bound.
pub async fn start(net: &Net) -> Result<JoinSet<()>> {
    let mut tasks = JoinSet::new();
    for (host, version, ratings) in [(121, "v1", net.at(54, 8080)), (122, "v2", net.at(55, 8080))] {
        let app = App {
            version,
            ratings: format!("http://{ratings}/ratings"),
            client: client::pooled(),
        };
        let router = Router::new()
            .route("/reviews", get(reviews))
            .with_state(app);
        serve(&mut tasks, net.at(host, 9080), router).await?;
    }
    serve(
        &mut tasks,
        net.at(131, 8080),
        Router::new().route("/ratings", get(ratings)),
    )
    .await?;
    Ok(tasks)
}

async fn serve(tasks: &mut JoinSet<()>, address: String, router: Router) -> Result<()> {
    let listener = TcpListener::bind(&address)
        .await
        .with_context(|| format!("cannot listen on {address}"))?;
    tasks.spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%address, %error, "a service of the demo ended");
        }
    });
    Ok(())
}

async fn reviews(State(app): State<App>, headers: HeaderMap) -> (StatusCode, Json<Answer>) {
    let below = client::get(&app.client, &app.ratings, "ratings.shop", CALL_TIMEOUT).await;
    let ratings: Option<Answer> = below
        .ok()
        .filter(|reply| reply.status == 200)
        .and_then(|reply| reply.json());
    // A chain with a broken end is a failed request, so that the demo's count of failures covers both hops.
    let status = if ratings.is_some() {
        StatusCode::OK
    } else {
        StatusCode::BAD_GATEWAY
    };
    (
        status,
        Json(Answer {
            ratings: ratings.map(Box::new),
            ..answer("reviews", app.version, &headers)
        }),
    )
}

async fn ratings(headers: HeaderMap) -> Json<Answer> {
    Json(answer("ratings", "v1", &headers))
}

fn answer(service: &str, version: &str, headers: &HeaderMap) -> Answer {
    let peer = headers
        .get("x-forwarded-client-cert")
        .and_then(|value| value.to_str().ok())
        .map(str::to_owned);
    Answer {
        service: service.to_owned(),
        version: version.to_owned(),
        peer,
        ratings: None,
    }
}

/// A free block: its control-plane address has no listener. The second demo of a machine gets another one.
///
/// # Errors
/// The address of the control plane cannot be bound in any of 64 blocks.
pub fn free_net(seed: u64) -> Result<Net> {
    for attempt in 0..64_u64 {
        let number = seed.wrapping_add(attempt.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let [second, third, ..] = number.to_be_bytes();
        // 127.0 to 127.15 are left to others: resolvers and the like live there.
        let net = Net::new(format!("127.{}.{third}", 16 + u16::from(second) % 239));
        let ip: IpAddr = net.ip(1).parse().context("a loopback address")?;
        if std::net::TcpListener::bind(SocketAddr::new(ip, 15010)).is_ok() {
            return Ok(net);
        }
    }
    anyhow::bail!("no free block of loopback addresses in 127.0.0.0/8; is this Linux?")
}
