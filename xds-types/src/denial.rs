//! Answers that deny a request, in the words of Envoy.

/// The status with which HTTP denies.
const FORBIDDEN: &str = "403";
/// The status with which gRPC denies: `PERMISSION_DENIED`.
const PERMISSION_DENIED: &str = "7";
/// The beginning of the response code details of an answer by the filter `authz`.
const BY_AUTHZ: &str = "rbac_access_denied";

/// Returns whether an answer with these statuses denies, by the mesh or by the application. A status of gRPC is empty where there is none.
#[must_use]
pub fn denies(status: &str, grpc_status: &str) -> bool {
    status == FORBIDDEN || grpc_status == PERMISSION_DENIED
}

/// Returns whether the filter `authz` answered, by the response code details.
#[must_use]
pub fn is_by_authz(details: &str) -> bool {
    details.starts_with(BY_AUTHZ)
}

/// Returns the decision of the filter `authz` that the response code details name: a rule, or `no-allow:` with the policies that were asked.
#[must_use]
pub fn decision(details: &str) -> Option<&str> {
    let rest = details.strip_prefix(BY_AUTHZ)?;
    rest.strip_prefix("_matched_policy[")?.strip_suffix(']')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn denials_are_told_by_status_and_details() {
        assert!(denies("403", "") && denies("200", "7"));
        assert!(!denies("404", "") && !denies("200", "0"));
        assert_eq!(
            decision("rbac_access_denied_matched_policy[shop/api/0]"),
            Some("shop/api/0")
        );
        let others = ["rbac_access_denied", "via_upstream", ""];
        assert!(others.iter().all(|details| decision(details).is_none()));
        assert_eq!(
            decision("rbac_access_denied_matched_policy[shop/api/0"),
            None
        );
        assert!(is_by_authz(others[0]) && !is_by_authz(others[1]));
    }
}
