//! Callers of the API of a replica, by the rights that Kubernetes gives them: to `get` a path, or to tap a namespace.

use std::net::IpAddr;
use std::time::Duration;

use heddle_xds_types::tap::RIGHT;
use k8s_openapi::api::authentication::v1::{TokenReview, UserInfo};
use k8s_openapi::api::authorization::v1::{
    NonResourceAttributes, ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use kube::Client;
use kube::api::{Api, PostParams};
use sha2::{Digest, Sha256};

use super::answers::Answers;
use super::reviews::Reviews;
use super::tokens::review;
use super::{CallError, call};
use crate::issuing::TokenError;
use crate::rate::RateLimit;

/// The questions about the rights of one token in a [`WINDOW`]: a caller may tap one namespace after another.
const MAX_QUESTIONS: u32 = 60;
const WINDOW: Duration = Duration::from_secs(60);

/// The decision about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Granted,
    /// The API server does not know the caller.
    Unknown,
    /// Somebody without the right.
    Forbidden,
    /// The API server does not say, or the source asks too often.
    Unavailable,
}

/// A right that a caller needs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Right {
    /// To `get` a nonResourceURL.
    Path(String),
    /// To tap the workloads of a namespace.
    Tap(String),
}

impl std::fmt::Display for Right {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Path(path) => write!(f, "to `get` the nonResourceURL {path}"),
            Self::Tap(namespace) => {
                let (resource, verb) = RIGHT;
                write!(
                    f,
                    "to `{verb}` {resource}.{} in namespace {namespace}",
                    heddle_crds::GROUP
                )
            }
        }
    }
}

/// The hash of a token.
type Bearer = [u8; 32];

pub(super) struct Authorizer {
    tokens: Api<TokenReview>,
    rights: Api<SubjectAccessReview>,
    users: Answers<Bearer, UserInfo>,
    kept: Answers<(Bearer, Right), Access>,
    bounds: Reviews,
    questions: RateLimit<Bearer>,
}

impl Authorizer {
    pub(super) fn new(client: &Client) -> Self {
        Self {
            tokens: Api::all(client.clone()),
            rights: Api::all(client.clone()),
            users: Answers::default(),
            kept: Answers::default(),
            bounds: Reviews::default(),
            questions: RateLimit::new(MAX_QUESTIONS, WINDOW),
        }
    }

    /// Whether the bearer of the token has the right.
    pub(super) async fn judge(&self, token: &str, source: IpAddr, right: &Right) -> Access {
        let bearer: Bearer = Sha256::digest(token.as_bytes()).into();
        let question = (bearer, right.clone());
        if let Some(known) = self.kept.get(&question) {
            return known;
        }
        let Some(_running) = self.bounds.begin(source) else {
            return Access::Unavailable;
        };
        let access = match self.user(token, bearer).await {
            Ok(_) if !self.questions.count(bearer) => Access::Unavailable,
            Ok(user) => self.may(user, right).await.unwrap_or_else(|error| {
                tracing::warn!(%error, "the rights of a caller could not be checked");
                Access::Unavailable
            }),
            Err(TokenError::Invalid(_)) => {
                self.bounds.refused(source);
                Access::Unknown
            }
            Err(TokenError::Unavailable(_) | TokenError::TooMany(_)) => Access::Unavailable,
        };
        if access != Access::Unavailable {
            self.kept.keep(question, access);
        }
        access
    }

    /// The bearer of a token. The API server is asked about a valid token once in a while, for all rights together.
    async fn user(&self, token: &str, bearer: Bearer) -> Result<UserInfo, TokenError> {
        if let Some(user) = self.users.get(&bearer) {
            return Ok(user);
        }
        let user = review(&self.tokens, token, None).await?;
        self.users.keep(bearer, user.clone());
        Ok(user)
    }

    async fn may(&self, user: UserInfo, right: &Right) -> Result<Access, CallError> {
        let (mut path, mut resource) = (None, None);
        match right {
            Right::Path(of) => {
                path = Some(NonResourceAttributes {
                    path: Some(of.clone()),
                    verb: Some("get".to_owned()),
                });
            }
            Right::Tap(namespace) => {
                resource = Some(ResourceAttributes {
                    group: Some(heddle_crds::GROUP.to_owned()),
                    resource: Some(RIGHT.0.to_owned()),
                    verb: Some(RIGHT.1.to_owned()),
                    namespace: Some(namespace.clone()),
                    ..ResourceAttributes::default()
                });
            }
        }
        let spec = SubjectAccessReviewSpec {
            user: user.username,
            uid: user.uid,
            groups: user.groups,
            extra: user.extra,
            non_resource_attributes: path,
            resource_attributes: resource,
        };
        let asked = SubjectAccessReview {
            spec,
            ..SubjectAccessReview::default()
        };
        let answer = call(self.rights.create(&PostParams::default(), &asked)).await?;
        let allowed = answer.status.is_some_and(|status| status.allowed);
        Ok(if allowed {
            Access::Granted
        } else {
            Access::Forbidden
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::extract::{Request, State};
    use axum::{Json, Router};
    use serde_json::{Value, json};

    use super::*;

    /// How often the API server was asked about tokens, and about rights.
    #[derive(Default)]
    struct Asked {
        tokens: AtomicUsize,
        rights: AtomicUsize,
    }

    /// An API server that accepts every token, and gives no right.
    async fn answer(State(asked): State<Arc<Asked>>, request: Request) -> Json<Value> {
        let (of, kind, status) = match request.uri().path().ends_with("tokenreviews") {
            true => {
                let user = json!({"authenticated": true, "user": {"username": "u"}});
                (&asked.tokens, "TokenReview", user)
            }
            false => (
                &asked.rights,
                "SubjectAccessReview",
                json!({"allowed": false}),
            ),
        };
        of.fetch_add(1, Ordering::Relaxed);
        Json(json!({"kind": kind, "spec": {}, "status": status}))
    }

    #[tokio::test]
    async fn a_caller_without_rights_asks_the_api_server_for_a_bounded_number_of_times() {
        let asked = Arc::new(Asked::default());
        let router = Router::new()
            .fallback(answer)
            .with_state(Arc::clone(&asked));
        let authorizer = Authorizer::new(&Client::new(router, "default"));
        let source = IpAddr::from([127, 0, 0, 1]);
        for index in 0..200 {
            let right = Right::Tap(format!("n{index}"));
            let expected = match index {
                0..60 => Access::Forbidden,
                _ => Access::Unavailable,
            };
            assert_eq!(
                authorizer.judge("t", source, &right).await,
                expected,
                "{index}"
            );
        }
        assert_eq!(asked.tokens.load(Ordering::Relaxed), 1);
        assert_eq!(asked.rights.load(Ordering::Relaxed), 60);
        // Another caller behind the same address is none the worse.
        let right = Right::Path("/metrics".to_owned());
        assert_eq!(
            authorizer.judge("other", source, &right).await,
            Access::Forbidden
        );
    }
}
