//! Tokens judged by the API server: ours by audience, and bound to a pod that is there.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use heddle_policy_compiler::PodRef;
use k8s_openapi::api::authentication::v1::{
    TokenReview, TokenReviewSpec, TokenReviewStatus, UserInfo,
};
use kube::Client;
use kube::api::{Api, PostParams};

use super::cache::Cache;
use super::call;
use crate::inject::AUDIENCE;
use crate::issuing::{Caller, TokenAuthenticator, TokenError};

pub(super) struct Tokens {
    reviews: Api<TokenReview>,
    cache: Arc<Cache>,
}

impl Tokens {
    pub(super) fn new(client: &Client, cache: Arc<Cache>) -> Self {
        Self {
            reviews: Api::all(client.clone()),
            cache,
        }
    }

    async fn judge(&self, token: &str) -> Result<Caller, TokenError> {
        let user = review(&self.reviews, token, Some(AUDIENCE)).await?;
        let (pod, uid, service_account) = bound_pod(&user)?;
        match self.cache.pod(&pod) {
            // The watch is behind the API server's own check of the binding.
            None => Err(TokenError::Unavailable(format!(
                "the pod {pod} is not known here yet"
            ))),
            Some((known, _)) if known != uid => Err(TokenError::Invalid(format!(
                "it belongs to an earlier pod {pod}"
            ))),
            Some((_, account)) if account != service_account => Err(TokenError::Invalid(format!(
                "the pod {pod} runs as another service account"
            ))),
            Some(_) => Ok(Caller {
                pod,
                service_account: service_account.as_str().into(),
            }),
        }
    }
}

impl TokenAuthenticator for Tokens {
    fn authenticate<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Caller, TokenError>> {
        self.judge(token).boxed()
    }
}

/// Asks the API server whose token it is.
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
        // The API server's reason may hold parts of the token; it is not repeated.
        return Err(TokenError::Invalid(
            "the API server does not accept it".to_owned(),
        ));
    }
    // An authenticator that knows no audiences answers without any.
    if let Some(audience) = audience
        && !status.audiences.iter().flatten().any(|one| one == audience)
    {
        return Err(TokenError::Invalid(format!(
            "it is not for the audience {audience}"
        )));
    }
    status
        .user
        .ok_or_else(|| TokenError::Invalid("it is nobody's".to_owned()))
}

fn bound_pod(user: &UserInfo) -> Result<(PodRef, String, String), TokenError> {
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
    Ok((PodRef::new(namespace, &pod), uid, account.to_owned()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_a_token_of_a_pod_is_taken() {
        let full = json!({
            "username": "system:serviceaccount:shop:cart",
            "extra": {"authentication.kubernetes.io/pod-name": ["cart-1"], "authentication.kubernetes.io/pod-uid": ["u"]},
        });
        let read = |value| bound_pod(&serde_json::from_value(value).unwrap());
        assert_eq!(
            read(full).unwrap(),
            (
                PodRef::new("shop", "cart-1"),
                "u".to_owned(),
                "cart".to_owned()
            )
        );
        assert!(read(json!({"username": "system:serviceaccount:shop:cart"})).is_err());
        assert!(read(json!({"username": "admin"})).is_err());
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
