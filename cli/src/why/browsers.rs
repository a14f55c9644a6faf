//! The answers to browsers for people.

/// The answer to a preflight request of an origin that is allowed, or not.
pub fn preflight(allowed: bool) -> String {
    let allows = if allowed { "allows" } else { "does not allow" };
    format!(
        "status 200 of the caller's sidecar: the rule answers preflight requests, and {allows} the origin"
    )
}
