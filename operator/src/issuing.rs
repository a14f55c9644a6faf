//! Port 15011: certificates for pods that prove their identity by a token.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Router;
use futures::future::BoxFuture;
use heddle_acceptor::{Link, LogLimit, clean};
use heddle_identity::wire::{Identity, IdentityServer, IssueRequest, IssueResponse, bearer};
use heddle_identity::{Ca, IssueError, SpiffeId, TrustDomain};
use heddle_policy_compiler::PodRef;
use heddle_xds_types::CertificateTimes;
use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

use crate::certificates::Certificates;
use crate::metrics::{Metrics, Outcome};
use crate::rate::RateLimit;
use crate::snapshot::{Snapshots, leaf_lifetime};
use crate::tasks::chain;

/// The schema's own lower bound of `certificates.lifetime`.
const SHORTEST: Duration = Duration::from_secs(60);
/// A request is about 1 kB.
const MAX_REQUEST_BYTES: usize = 64 * 1024;
/// The longest reason in a log line, in characters.
const MAX_TEXT: usize = 500;
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Requests in work at a time: each costs a review by the API server.
const MAX_IN_WORK: usize = 64;
/// A pod may ask so often in a [`WINDOW`]; an agent asks once, and once more on an error.
const MAX_PER_POD: u32 = 20;
const WINDOW: Duration = Duration::from_secs(60);

/// The reason in one word, for the metric, and the answer.
type Refused = (&'static str, Status);

/// The owner of a token: always a pod, never a service account alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The pod.
    pub pod: PodRef,
    /// The service account that it runs as.
    pub service_account: Arc<str>,
    /// The zone of the pod's node, if it is known.
    pub zone: Option<Arc<str>>,
}

/// Why a token is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The token has no owner, or another purpose.
    #[error("the token is not valid here: {0}")]
    Invalid(String),
    /// Too many tokens of the same source were refused, or are being judged.
    #[error("too many tokens from {0}: try again")]
    TooMany(IpAddr),
    /// It cannot be told at the moment.
    #[error("the token cannot be verified now: {0}")]
    Unavailable(String),
}

/// Returns the owner of a token.
pub trait TokenAuthenticator: Send + Sync + 'static {
    /// Refuses a token that cannot have an owner, at once and without a call.
    ///
    /// # Errors
    /// When the token would not be accepted.
    fn screen(&self, token: &str) -> Result<(), TokenError> {
        let _ = token;
        Ok(())
    }

    /// The pod that bears the token, which came from a source address.
    fn authenticate<'a>(
        &'a self,
        token: &'a str,
        source: IpAddr,
    ) -> BoxFuture<'a, Result<Caller, TokenError>>;
}

/// The service.
pub struct Issuer {
    ca: Arc<Ca>,
    trust_domain: TrustDomain,
    tokens: Arc<dyn TokenAuthenticator>,
    snapshots: Snapshots,
    metrics: Arc<Metrics>,
    certificates: Arc<Certificates>,
    in_work: Semaphore,
    lines: LogLimit,
    per_pod: RateLimit<PodRef>,
    /// By the hash of the token. The pod that a token claims is not proven before its review, and anybody may claim it.
    per_token: RateLimit<[u8; 32]>,
}

impl std::fmt::Debug for Issuer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issuer")
            .field("ca", &self.ca)
            .finish_non_exhaustive()
    }
}

impl Issuer {
    /// Issues from the CA to those that the authenticator accepts.
    #[must_use]
    pub fn new(
        ca: Arc<Ca>,
        trust_domain: TrustDomain,
        tokens: Arc<dyn TokenAuthenticator>,
        snapshots: Snapshots,
        metrics: Arc<Metrics>,
        certificates: Arc<Certificates>,
    ) -> Self {
        let in_work = Semaphore::new(MAX_IN_WORK);
        Self {
            ca,
            trust_domain,
            tokens,
            snapshots,
            metrics,
            certificates,
            in_work,
            lines: LogLimit::default(),
            per_pod: RateLimit::new(MAX_PER_POD, WINDOW),
            per_token: RateLimit::new(MAX_PER_POD, WINDOW),
        }
    }

    /// The gRPC service.
    pub fn router(self) -> Router {
        let service = IdentityServer::new(self).max_decoding_message_size(MAX_REQUEST_BYTES);
        Routes::new(service).prepare().into_axum_router()
    }

    async fn answer(&self, request: Request<IssueRequest>) -> Result<IssueResponse, Refused> {
        let (caller, id) = self.caller(&request).await?;
        let issued_at = SystemTime::now();
        let request = request.into_inner();
        let lifetime = self.lifetime(request.lifetime_seconds);
        let (csr, pod) = (&request.csr, &caller.pod);
        let issued = self.ca.issue(csr, &id, &pod.name, lifetime, issued_at);
        let issued = issued.map_err(|error| match error {
            IssueError::Csr(_) => ("csr", Status::invalid_argument(error.to_string())),
            IssueError::Ca(_) => {
                tracing::error!(error = chain(&error), "the CA could not sign");
                let text = "the certificate authority cannot sign now";
                ("ca", Status::unavailable(text))
            }
        })?;
        // The end-to-end suite counts rotations by this line.
        let zone = caller.zone.as_deref().unwrap_or_default();
        tracing::info!(%pod, %id, zone, "issued a certificate");
        let seconds = |time| u64::try_from(unix(time)).unwrap_or(0);
        let times = CertificateTimes {
            not_before: seconds(issued.not_before),
            not_after: seconds(issued.not_after),
        };
        self.certificates.record(pod, times);
        let der = |certificate: &CertificateDer<'_>| certificate.to_vec();
        Ok(IssueResponse {
            certificate_chain: issued.chain.iter().map(der).collect(),
            trust_bundle: self.ca.trust_bundle().to_owned(),
            not_before: unix(issued.not_before),
            issued_at: unix(issued_at),
            not_after: unix(issued.not_after),
            spiffe_id: id.to_string(),
            zone: zone.to_owned(),
        })
    }

    /// The caller, by the token alone.
    async fn caller(&self, request: &Request<IssueRequest>) -> Result<(Caller, SpiffeId), Refused> {
        let Some(token) = bearer(request.metadata()) else {
            let text = "metadata `authorization: Bearer <token>` is missing";
            return Err(("no_token", Status::unauthenticated(text)));
        };
        let refused = |error: TokenError| match error {
            TokenError::Invalid(_) => ("token", Status::unauthenticated(error.to_string())),
            TokenError::TooMany(_) => ("source", Status::resource_exhausted(error.to_string())),
            TokenError::Unavailable(_) => ("unavailable", Status::unavailable(error.to_string())),
        };
        self.tokens.screen(token).map_err(refused)?;
        let too_often = || {
            let text = "this pod asks too often: wait a minute";
            ("rate", Status::resource_exhausted(text))
        };
        let Ok(_place) = self.in_work.try_acquire() else {
            let text = "too many requests at once: try again";
            return Err(("busy", Status::resource_exhausted(text)));
        };
        // A pod has one token at a time, so that this also bounds the reviews of one pod.
        let hash = Sha256::digest(token.as_bytes()).into();
        if !self.per_token.count(hash) {
            return Err(too_often());
        }
        let link = request.extensions().get::<Arc<Link>>();
        let source = source_of(link.map(|link| &**link));
        let caller = self.tokens.authenticate(token, source).await;
        let caller = caller.map_err(refused)?;
        let (pod, account) = (&caller.pod, &caller.service_account);
        // A pod that asks without end is a fault of its own and must not become everyone's.
        if !self.per_pod.count(pod.clone()) {
            return Err(too_often());
        }
        let id = SpiffeId::new(self.trust_domain.clone(), &pod.namespace, account)
            .map_err(|error| ("name", Status::permission_denied(error.to_string())))?;
        Ok((caller, id))
    }

    fn lifetime(&self, asked: u64) -> Duration {
        let longest = leaf_lifetime(&self.snapshots).max(SHORTEST);
        if asked == 0 {
            longest
        } else {
            Duration::from_secs(asked).clamp(SHORTEST, longest)
        }
    }
}

#[tonic::async_trait]
impl Identity for Issuer {
    async fn issue(
        &self,
        request: Request<IssueRequest>,
    ) -> Result<Response<IssueResponse>, Status> {
        let link = request.extensions().get::<Arc<Link>>();
        let from = link.and_then(|link| link.peer.address);
        let answer = tokio::time::timeout(REQUEST_TIMEOUT, self.answer(request));
        let answer = answer.await.unwrap_or_else(|_| {
            let text = "the certificate could not be issued in time";
            Err(("timeout", Status::deadline_exceeded(text)))
        });
        match answer {
            Ok(response) => {
                self.metrics.issued.inc();
                Ok(Response::new(response))
            }
            Err((reason, status)) => {
                self.metrics
                    .issue_refused
                    .get_or_create(&Outcome { reason })
                    .inc();
                if let Some(suppressed) = self.lines.allow() {
                    let text = clean(status.message(), MAX_TEXT);
                    tracing::warn!(?from, reason, text, suppressed, "no certificate issued");
                }
                Err(status)
            }
        }
    }
}

/// The source address of a connection.
pub(crate) fn source_of(link: Option<&Link>) -> IpAddr {
    let address = link.and_then(|link| link.peer.address);
    let nowhere = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    address.map_or(nowhere, |address| address.ip().to_canonical())
}

fn unix(time: SystemTime) -> i64 {
    let since = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    i64::try_from(since).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use futures::FutureExt;
    use tokio::sync::watch;

    use super::*;

    /// Accepts every token, and counts the reviews.
    #[derive(Default)]
    struct Accepting(AtomicU32);

    impl TokenAuthenticator for Accepting {
        fn authenticate<'a>(
            &'a self,
            token: &'a str,
            _: IpAddr,
        ) -> BoxFuture<'a, Result<Caller, TokenError>> {
            self.0.fetch_add(1, Ordering::SeqCst);
            let caller = Caller {
                pod: PodRef::new("shop", token),
                service_account: "cart".into(),
                zone: None,
            };
            std::future::ready(Ok(caller)).boxed()
        }
    }

    #[tokio::test]
    async fn a_valid_token_is_not_reviewed_without_end() {
        let domain: TrustDomain = "cluster.local".parse().unwrap();
        let (ca, _) = Ca::create(&domain, SystemTime::now()).unwrap();
        let (tokens, (_newest, snapshots)) = (Arc::<Accepting>::default(), watch::channel(None));
        let judge: Arc<dyn TokenAuthenticator> = tokens.clone();
        let issuer = Issuer::new(
            Arc::new(ca),
            domain,
            judge,
            snapshots,
            Arc::default(),
            Arc::default(),
        );
        let ask = async |token: &str| {
            let mut request = Request::new(IssueRequest::default());
            let bearer = format!("Bearer {token}").parse().unwrap();
            request.metadata_mut().insert("authorization", bearer);
            issuer.caller(&request).await.map_err(|(reason, _)| reason)
        };
        for n in 0..10 * MAX_PER_POD {
            let expected = (n >= MAX_PER_POD).then_some("rate");
            assert_eq!(ask("cart-1").await.err(), expected, "request {n}");
        }
        assert_eq!(tokens.0.load(Ordering::SeqCst), MAX_PER_POD);
        assert!(ask("cart-2").await.is_ok());
    }
}
