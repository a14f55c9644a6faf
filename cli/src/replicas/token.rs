//! The identity of the caller towards the control plane: a token of the API server.

use std::fmt;

use anyhow::{Context, Result};
use http::{HeaderValue, Request, Response, header};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::PostParams;
use kube::client::{Body, ConfigExt};
use kube::{Api, Client, Config};
use tower::{BoxError, Layer, ServiceExt, service_fn};

use crate::cluster::{self, NAMESPACE};

/// The least that Kubernetes grants.
const SECONDS: i64 = 600;

/// The value of an `authorization` header.
#[derive(Clone)]
pub(super) struct Token(HeaderValue);

impl Token {
    pub(super) fn new(mut value: HeaderValue) -> Self {
        value.set_sensitive(true);
        Self(value)
    }

    pub(super) fn header(&self) -> HeaderValue {
        self.0.clone()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// The caller's own token; a caller without one, as with a client certificate, asks for one of an account that may do no more.
///
/// # Errors
/// The kubeconfig's credentials are not usable, or the API server grants no token of the account.
pub(super) async fn of_caller(config: &Config, client: &Client, account: &str) -> Result<Token> {
    match own(config).await? {
        Some(token) => Ok(token),
        None => issued(client, account).await.with_context(|| {
            format!("your kubeconfig holds no token, and one of ServiceAccount {NAMESPACE}/{account} could not be had")
        }),
    }
}

/// The credentials of the kubeconfig go with every request: a token, of a file, of a program, of a cloud.
async fn own(config: &Config) -> Result<Option<Token>> {
    let Some(layer) = config
        .auth_layer()
        .context("cannot use the kubeconfig's credentials")?
    else {
        return Ok(None);
    };
    let seen = service_fn(|request: Request<Body>| async move {
        Ok::<_, BoxError>(Response::new(
            request.headers().get(header::AUTHORIZATION).cloned(),
        ))
    });
    let response = layer
        .layer(seen)
        .oneshot(Request::new(Body::empty()))
        .await
        .map_err(|error| anyhow::anyhow!("cannot get the kubeconfig's token: {error}"))?;
    let bearer = |value: &HeaderValue| value.as_bytes().starts_with(b"Bearer ");
    Ok(response.into_body().filter(bearer).map(Token::new))
}

async fn issued(client: &Client, account: &str) -> Result<Token> {
    let api: Api<ServiceAccount> = Api::namespaced(client.clone(), NAMESPACE);
    let request = TokenRequest {
        spec: TokenRequestSpec {
            expiration_seconds: Some(SECONDS),
            ..TokenRequestSpec::default()
        },
        ..TokenRequest::default()
    };
    let params = PostParams::default();
    let call = api.create_token_request(account, &params, &request);
    let granted = cluster::call("ask for a token", call).await?;
    let token = granted
        .status
        .context("the API server grants no token")?
        .token;
    Ok(Token::new(HeaderValue::try_from(format!(
        "Bearer {token}"
    ))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(user: &str) -> Config {
        let mut config = Config::new(http::Uri::from_static("https://127.0.0.1:1"));
        config.auth_info = serde_json::from_str(user).unwrap();
        config
    }

    #[tokio::test]
    async fn the_kubeconfigs_token_is_the_callers() {
        let token = own(&config(r#"{"token": "abc"}"#)).await.unwrap().unwrap();
        assert_eq!(token.header(), "Bearer abc");
        assert_eq!(format!("{token:?}"), "[redacted]");
        let program = r#"{"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "echo", "interactiveMode": "Never", "args":
            ["{\"apiVersion\": \"client.authentication.k8s.io/v1\", \"kind\": \"ExecCredential\", \"status\": {\"token\": \"def\"}}"]}}"#;
        assert_eq!(
            own(&config(program)).await.unwrap().unwrap().header(),
            "Bearer def"
        );
    }

    #[tokio::test]
    async fn a_certificate_or_a_password_is_no_token() {
        for user in ["{}", r#"{"username": "u", "password": "p"}"#] {
            assert!(own(&config(user)).await.unwrap().is_none(), "{user}");
        }
    }
}
