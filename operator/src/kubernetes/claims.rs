//! The claims of a service account token, before anybody has checked its signature: enough to refuse tokens that no API
//! server would accept, without a call.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use heddle_policy_compiler::PodRef;
use serde::Deserialize;

use crate::inject::AUDIENCE;
use crate::issuing::TokenError;

/// The longest token, in bytes. A service account's token has some 1,000.
const MAX_TOKEN: usize = 16 << 10;
/// The clocks of the API server and of this process may differ by so many seconds.
const SKEW: f64 = 60.0;

/// The claims that a token of a pod has.
#[derive(Deserialize)]
struct Claims {
    aud: Audiences,
    exp: f64,
    sub: String,
    #[serde(rename = "kubernetes.io")]
    kubernetes: Binding,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audiences {
    One(String),
    Many(Vec<String>),
}

#[derive(Deserialize)]
struct Binding {
    namespace: String,
    pod: Bound,
}

#[derive(Deserialize)]
struct Bound {
    name: String,
    uid: String,
}

/// The pod that a token claims to be bound to, with the pod's uid. Nothing is proven.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Claimed {
    pub(super) pod: PodRef,
    pub(super) uid: String,
}

/// Reads the claims of a token.
///
/// # Errors
/// When the token is not one of a pod for this audience, or has expired by its own claims.
pub(super) fn read(token: &str) -> Result<Claimed, TokenError> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    read_at(token, now.as_secs_f64())
}

fn read_at(token: &str, now: f64) -> Result<Claimed, TokenError> {
    let invalid = |text: &str| Err(TokenError::Invalid(text.to_owned()));
    let Some(claims) = parse(token) else {
        return invalid("it is not a service account token of a pod");
    };
    let ours = match &claims.aud {
        Audiences::One(audience) => audience == AUDIENCE,
        Audiences::Many(all) => all.iter().any(|audience| audience == AUDIENCE),
    };
    if !ours {
        return Err(TokenError::Invalid(format!(
            "it is not for the audience {AUDIENCE}"
        )));
    }
    // A claim that is not a number is not later than anything.
    let lasts = claims.exp + SKEW > now;
    if !lasts {
        return invalid("it has expired");
    }
    if !claims.sub.starts_with("system:serviceaccount:") {
        return invalid("it is not a service account's");
    }
    let Binding { namespace, pod } = claims.kubernetes;
    Ok(Claimed {
        pod: PodRef::new(&namespace, &pod.name),
        uid: pod.uid,
    })
}

fn parse(token: &str) -> Option<Claims> {
    if token.len() > MAX_TOKEN {
        return None;
    }
    let mut parts = token.split('.');
    let (header, payload, signature) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() || header.is_empty() || signature.is_empty() {
        return None;
    }
    let payload = URL_SAFE_NO_PAD.decode(payload).ok()?;
    serde_json::from_slice(&payload).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn claims() -> Value {
        json!({
            "aud": ["heddle.dev"], "exp": 1000, "sub": "system:serviceaccount:shop:web",
            "kubernetes.io": {"namespace": "shop", "pod": {"name": "web-1", "uid": "u"}, "serviceaccount": {"name": "web"}},
        })
    }

    fn token(claims: &Value) -> String {
        format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims.to_string()))
    }

    fn with(key: &str, value: Value) -> String {
        let mut claims = claims();
        claims[key] = value;
        token(&claims)
    }

    #[test]
    fn a_token_of_a_pod_names_it() {
        let pod = || Claimed {
            pod: PodRef::new("shop", "web-1"),
            uid: "u".to_owned(),
        };
        assert_eq!(read_at(&token(&claims()), 900.0), Ok(pod()));
        assert_eq!(
            read_at(&with("aud", json!("heddle.dev")), 1050.0),
            Ok(pod())
        );
    }

    #[test]
    fn malformed_expired_and_foreign_tokens_are_refused() {
        let whole = token(&claims());
        for token in [
            String::new(),
            "garbage-1".to_owned(),
            "a.b.c".to_owned(),
            "..".to_owned(),
            whole.replace("c2ln", ""),
            format!("{whole}.more"),
            format!("{whole}{}", "x".repeat(MAX_TOKEN)),
            with("aud", json!(["https://kubernetes.default.svc"])),
            with("aud", json!("heddle.dev2")),
            with("aud", json!([])),
            with("exp", json!(900)),
            with("exp", json!("later")),
            with("exp", json!(null)),
            with("sub", json!("admin")),
            with("kubernetes.io", json!({"namespace": "shop"})),
            token(&json!({"aud": "heddle.dev"})),
            token(&json!("text")),
        ] {
            assert!(
                matches!(read_at(&token, 1000.0), Err(TokenError::Invalid(_))),
                "{token:.200}"
            );
        }
    }
}
