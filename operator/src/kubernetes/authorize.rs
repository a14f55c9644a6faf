//! Callers of the API of a replica, by the rights that Kubernetes gives them: to `get` a path, or to tap a namespace.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use heddle_xds_types::tap::RIGHT;
use k8s_openapi::api::authentication::v1::{TokenReview, UserInfo};
use k8s_openapi::api::authorization::v1::{
    NonResourceAttributes, ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use kube::Client;
use kube::api::{Api, PostParams};
use sha2::{Digest, Sha256};

use super::reviews::Reviews;
use super::tokens::review;
use super::{CallError, call};
use crate::issuing::TokenError;

/// A scraper asks every few seconds; a right taken away holds for no longer than this.
const KEPT: Duration = Duration::from_secs(30);
const MAX_KEPT: usize = 256;

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

type Question = ([u8; 32], Right);

pub(super) struct Authorizer {
    tokens: Api<TokenReview>,
    rights: Api<SubjectAccessReview>,
    kept: Mutex<HashMap<Question, (Instant, Access)>>,
    bounds: Reviews,
}

impl Authorizer {
    pub(super) fn new(client: &Client) -> Self {
        Self {
            tokens: Api::all(client.clone()),
            rights: Api::all(client.clone()),
            kept: Mutex::default(),
            bounds: Reviews::default(),
        }
    }

    /// Whether the bearer of the token has the right.
    pub(super) async fn judge(&self, token: &str, source: IpAddr, right: &Right) -> Access {
        let question = (Sha256::digest(token.as_bytes()).into(), right.clone());
        if let Some(known) = self.known(&question) {
            return known;
        }
        let Some(_running) = self.bounds.begin(source) else {
            return Access::Unavailable;
        };
        let access = match review(&self.tokens, token, None).await {
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
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            if kept.len() >= MAX_KEPT {
                kept.clear();
            }
            kept.insert(question, (Instant::now(), access));
        }
        access
    }

    fn known(&self, question: &Question) -> Option<Access> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.get(question)
            .filter(|(since, _)| since.elapsed() < KEPT)
            .map(|(_, access)| *access)
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
