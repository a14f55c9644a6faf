//! Sessions, as a filter before the router that asks for the endpoint of the session. An endpoint that is not there, or that is not one of
//! the cluster, is replaced by the choice of the cluster, and the response has a new token.

use envoy_types::pb::envoy::config::core::v3::TypedExtensionConfig;
use envoy_types::pb::envoy::extensions::filters::http::stateful_session::v3::StatefulSession;
use envoy_types::pb::envoy::extensions::http::stateful_session::cookie::v3::CookieBasedSessionState;
use envoy_types::pb::envoy::extensions::http::stateful_session::header::v3::HeaderBasedSessionState;
use envoy_types::pb::envoy::r#type::http::v3::{Cookie, CookieAttribute};

use super::{any, duration, extension};
use crate::traffic::{Backend, RouteRule, Session};

/// The filter for requests to a backend of a rule.
pub(super) fn filter(rule: &RouteRule, of: &Session, backend: &Backend) -> TypedExtensionConfig {
    // Envoy finds the extension by its name, and not by its type.
    let state = match of {
        Session::Cookie { max_age, .. } => {
            let attribute = CookieAttribute {
                name: "SameSite".to_owned(),
                value: "Lax".to_owned(),
            };
            let cookie = Cookie {
                name: of.cookie(&rule.id, backend).unwrap_or_default(),
                ttl: duration(max_age.unwrap_or_default()),
                path: "/".to_owned(),
                attributes: vec![attribute],
            };
            let state = CookieBasedSessionState {
                cookie: Some(cookie),
            };
            extension("envoy.http.stateful_session.cookie", any(&state))
        }
        Session::Header(name) => {
            let state = HeaderBasedSessionState {
                name: name.to_string(),
            };
            extension("envoy.http.stateful_session.header", any(&state))
        }
    };
    let config = StatefulSession {
        session_state: Some(state),
        ..Default::default()
    };
    extension("session", any(&config))
}
