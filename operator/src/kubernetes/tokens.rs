//! Tokens of pods, reviewed by the API server: for our audience, and bound to an existing pod.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;
use heddle_policy_compiler::PodRef;
use k8s_openapi::api::authentication::v1::{
    TokenReview, TokenReviewSpec, TokenReviewStatus, UserInfo,
};
use kube::Client;
use kube::api::{Api, PostParams};
use sha2::{Digest, Sha256};

use super::cache::Cache;
use super::recent::Recent;
use super::reviews::Reviews;
use super::zones::Zones;
use super::{call, claims};
use crate::inject::AUDIENCE;
use crate::issuing::{Caller, TokenAuthenticator, TokenError};

/// The API server's reason may hold parts of the token; it is not repeated.
const NOT_ACCEPTED: &str = "the API server does not accept it";
/// For this time after its refusal a token is refused without a review.
const REFUSED_FOR: Duration = Duration::from_secs(60);
/// Refused tokens that are remembered.
const MAX_REFUSED: usize = 1024;

/// An accepted token is not reviewed again for so long. The pod is compared with the watch each time.
const ACCEPTED_FOR: Duration = Duration::from_secs(10);
/// Accepted tokens that are remembered.
const MAX_ACCEPTED: usize = 4096;

/// The hash of a token.
type Fingerprint = [u8; 32];

pub(super) struct Tokens {
    reviews: Api<TokenReview>,
    cache: Arc<Cache>,
    bounds: Reviews,
    refused: RefusedTokens,
    /// The pods of accepted tokens, by the hash of the token.
    accepted: Recent<Fingerprint, BoundPod>,
    zones: Zones,
}

impl Tokens {
    pub(super) fn new(client: &Client, cache: Arc<Cache>) -> Self {
        Self {
            reviews: Api::all(client.clone()),
            cache,
            bounds: Reviews::default(),
            refused: RefusedTokens::default(),
            accepted: Recent::new(ACCEPTED_FOR, MAX_ACCEPTED),
            zones: Zones::new(client),
        }
    }

    /// Refuses, without a call, a token that no API server would accept for a pod of this cluster.
    fn check_claims(&self, token: &str) -> Result<(), TokenError> {
        let claimed = claims::read(token)?;
        if self.refused.contains(token) {
            return Err(TokenError::Invalid(NOT_ACCEPTED.to_owned()));
        }
        match self.cache.pod(&claimed.pod) {
            // The watch may be behind.
            None => Err(TokenError::Unavailable(
                "its pod is not known here yet".to_owned(),
            )),
            Some((uid, _)) if uid != claimed.uid => Err(TokenError::Unavailable(
                "the pod has another uid here".to_owned(),
            )),
            Some(_) => Ok(()),
        }
    }

    async fn judge(&self, token: &str, source: IpAddr) -> Result<Caller, TokenError> {
        let bound = self.bound(token, source).await?;
        self.compare(&bound)?;
        let zone = match &bound.node {
            Some(node) => self.zones.of(node).await,
            None => None,
        };
        Ok(Caller {
            pod: bound.pod,
            service_account: bound.service_account.into(),
            zone,
        })
    }

    /// The pod to which a token is bound.
    async fn bound(&self, token: &str, source: IpAddr) -> Result<BoundPod, TokenError> {
        let hash: Fingerprint = Sha256::digest(token.as_bytes()).into();
        if let Some(bound) = self.accepted.get(&hash) {
            return Ok(bound);
        }
        let Some(_running) = self.bounds.begin(source) else {
            return Err(TokenError::TooMany(source));
        };
        let user = review(&self.reviews, token, Some(AUDIENCE)).await;
        if let Err(TokenError::Invalid(_)) = &user {
            self.refused.insert(token);
            self.bounds.refused(source);
        }
        let bound = bound_pod(&user?)?;
        self.accepted.insert(hash, bound.clone());
        Ok(bound)
    }

    /// Compares the pod of an accepted token with the watch.
    fn compare(&self, bound: &BoundPod) -> Result<(), TokenError> {
        let pod = &bound.pod;
        match self.cache.pod(pod) {
            // The watch is behind the API server's own check of the binding.
            None => Err(TokenError::Unavailable(format!(
                "the pod {pod} is not known here yet"
            ))),
            Some((uid, _)) if uid != bound.uid => Err(TokenError::Invalid(format!(
                "it belongs to an earlier pod {pod}"
            ))),
            Some((_, account)) if account != bound.service_account => Err(TokenError::Invalid(
                format!("the pod {pod} runs as another service account"),
            )),
            Some(_) => Ok(()),
        }
    }
}

impl TokenAuthenticator for Tokens {
    fn screen(&self, token: &str) -> Result<(), TokenError> {
        self.check_claims(token)
    }

    fn authenticate<'a>(
        &'a self,
        token: &'a str,
        source: IpAddr,
    ) -> BoxFuture<'a, Result<Caller, TokenError>> {
        self.judge(token, source).boxed()
    }
}

/// Tokens that the API server refused a short time ago, by their hashes.
#[derive(Default)]
struct RefusedTokens(Mutex<VecDeque<(Instant, Fingerprint)>>);

impl RefusedTokens {
    fn contains(&self, token: &str) -> bool {
        let hash: Fingerprint = Sha256::digest(token.as_bytes()).into();
        let mut refused = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while refused
            .front()
            .is_some_and(|(at, _)| at.elapsed() >= REFUSED_FOR)
        {
            refused.pop_front();
        }
        refused.iter().any(|(_, known)| *known == hash)
    }

    fn insert(&self, token: &str) {
        let hash = Sha256::digest(token.as_bytes()).into();
        let mut refused = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if refused.len() >= MAX_REFUSED {
            refused.pop_front();
        }
        refused.push_back((Instant::now(), hash));
    }
}

/// The pod of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
struct BoundPod {
    pod: PodRef,
    uid: String,
    service_account: String,
    /// The node on which it runs. Kubernetes before 1.30 does not say.
    node: Option<Arc<str>>,
}

/// Asks the API server for the user of a token.
pub(super) async fn review(
    reviews: &Api<TokenReview>,
    token: &str,
    audience: Option<&str>,
) -> Result<UserInfo, TokenError> {
    let audiences = audience.map(|audience| vec![audience.to_owned()]);
    let spec = TokenReviewSpec {
        token: Some(token.to_owned()),
        audiences,
    };
    let asked = TokenReview {
        spec,
        ..TokenReview::default()
    };
    let answer = call(reviews.create(&PostParams::default(), &asked))
        .await
        .map_err(|error| TokenError::Unavailable(error.to_string()))?;
    user(answer.status.unwrap_or_default(), audience)
}

fn user(status: TokenReviewStatus, audience: Option<&str>) -> Result<UserInfo, TokenError> {
    if status.authenticated != Some(true) {
        return Err(TokenError::Invalid(NOT_ACCEPTED.to_owned()));
    }
    // An authenticator without audiences answers without any; its answer is refused.
    if let Some(audience) = audience
        && !status.audiences.iter().flatten().any(|one| one == audience)
    {
        return Err(TokenError::Invalid(format!(
            "it is not for the audience {audience}"
        )));
    }
    status
        .user
        .ok_or_else(|| TokenError::Invalid("the token has no user".to_owned()))
}

fn bound_pod(user: &UserInfo) -> Result<BoundPod, TokenError> {
    let extra = |key: &str| {
        let values = user.extra.as_ref().and_then(|extra| extra.get(key));
        values.and_then(|values| values.first()).cloned()
    };
    let name = user
        .username
        .as_deref()
        .and_then(|name| name.strip_prefix("system:serviceaccount:"));
    let (namespace, account) = name
        .and_then(|name| name.split_once(':'))
        .ok_or_else(|| TokenError::Invalid("it is not a service account's".to_owned()))?;
    let unbound = || TokenError::Invalid("it is not bound to a pod".to_owned());
    let pod = extra("authentication.kubernetes.io/pod-name").ok_or_else(unbound)?;
    let uid = extra("authentication.kubernetes.io/pod-uid").ok_or_else(unbound)?;
    Ok(BoundPod {
        pod: PodRef::new(namespace, &pod),
        uid,
        service_account: account.to_owned(),
        node: extra("authentication.kubernetes.io/node-name").map(Into::into),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use kube::client::Body;
    use serde_json::json;

    use super::*;

    #[test]
    fn only_a_token_of_a_pod_is_taken() {
        let full = json!({
            "username": "system:serviceaccount:shop:cart",
            "extra": {"authentication.kubernetes.io/pod-name": ["cart-1"], "authentication.kubernetes.io/pod-uid": ["u"],
                "authentication.kubernetes.io/node-name": ["n"]},
        });
        let read = |value| bound_pod(&serde_json::from_value(value).unwrap());
        assert_eq!(
            read(full).unwrap(),
            BoundPod {
                pod: PodRef::new("shop", "cart-1"),
                uid: "u".to_owned(),
                service_account: "cart".to_owned(),
                node: Some("n".into()),
            }
        );
        assert!(read(json!({"username": "system:serviceaccount:shop:cart"})).is_err());
        assert!(read(json!({"username": "admin"})).is_err());
    }

    #[test]
    fn refused_tokens_are_remembered_within_a_bound() {
        let refused = RefusedTokens::default();
        assert!(!refused.contains("a"));
        refused.insert("a");
        assert!(refused.contains("a") && !refused.contains("b"));
        (0..MAX_REFUSED).for_each(|n| refused.insert(&n.to_string()));
        assert!(!refused.contains("a") && refused.contains("0"));
        assert_eq!(refused.0.lock().unwrap().len(), MAX_REFUSED);
    }

    #[tokio::test]
    async fn an_accepted_token_costs_no_second_review() {
        let calls = Arc::<AtomicUsize>::default();
        let counted = Arc::clone(&calls);
        let answer = move |_: http::Request<Body>| {
            counted.fetch_add(1, Ordering::SeqCst);
            let status = json!({"authenticated": true, "audiences": ["heddle.dev"], "user": {
                "username": "system:serviceaccount:shop:cart",
                "extra": {"authentication.kubernetes.io/pod-name": ["cart-1"], "authentication.kubernetes.io/pod-uid": ["u"]},
            }});
            let review = json!({"kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1", "metadata": {}, "spec": {}, "status": status});
            let body = Body::from(review.to_string().into_bytes());
            async { Ok::<_, std::io::Error>(http::Response::new(body)) }
        };
        let client = Client::new(tower::service_fn(answer), "heddle-system");
        let tokens = Tokens::new(&client, Arc::new(Cache::new(Arc::default())));
        for _ in 0..20 {
            let caller = tokens.judge("token", IpAddr::from([10, 0, 0, 1])).await;
            // The watch has no pod, and is asked each time.
            assert!(
                matches!(caller, Err(TokenError::Unavailable(_))),
                "{caller:?}"
            );
        }
        assert_eq!(calls.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn the_audience_counts() {
        let status = |value| user(serde_json::from_value(value).unwrap(), Some(AUDIENCE));
        assert!(status(json!({"authenticated": true, "audiences": ["heddle.dev"], "user": {"username": "a"}})).is_ok());
        assert!(
            status(
                json!({"authenticated": true, "audiences": ["other"], "user": {"username": "a"}})
            )
            .is_err()
        );
        assert!(status(json!({"authenticated": true, "user": {"username": "a"}})).is_err());
        assert!(status(json!({"authenticated": false, "audiences": ["heddle.dev"]})).is_err());
    }
}
