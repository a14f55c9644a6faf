//! Requests and the decisions about them, in one line each.

use heddle_policy_compiler::authz::{Decision, Request};
use heddle_policy_compiler::world::Protocol;

use crate::why;

/// Whether a port of a protocol reads HTTP, or connections of bytes.
pub const fn reads(protocol: Protocol, http: bool) -> bool {
    match protocol {
        Protocol::Http => http,
        Protocol::Tcp => !http,
        Protocol::Detect => true,
    }
}

/// The request in one line.
pub fn request(request: &Request) -> String {
    let Some(http) = &request.http else {
        return "a connection".to_owned();
    };
    let headers = http.headers.iter();
    let headers: String = headers
        .map(|(name, value)| format!(", {name}: {value}"))
        .collect();
    let from = match request.source.is_unspecified() {
        true => String::new(),
        false => format!(" from {}", request.source),
    };
    format!("{} {}{headers}{from}", http.method, http.path)
}

/// The decision as people name it.
pub fn decision(decision: &Decision) -> String {
    match decision {
        Decision::AllowedBy(rule) => format!("allowed by {}", why::policy(rule)),
        Decision::AllowedByDefault => "allowed, for no Allow rule holds there".to_owned(),
        Decision::DeniedBy(rule) => format!("denied by {}", why::policy(rule)),
        Decision::NoAllowMatched => "denied, for no Allow rule matches".to_owned(),
    }
}
