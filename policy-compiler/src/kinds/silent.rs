//! Values of a policy that no request ever has: identities that are never issued, blocks of addresses without callers.

use heddle_crds::{AuthPolicySpec, ConditionStatus, ConditionType, reason};
use ipnet::IpNet;

use crate::finding::{Finding, ObjectRef};
use crate::status::ObjectStatus;

/// Reports each such value, and that not every rule decides.
pub(super) fn report(
    trust_domain: &str,
    object: &ObjectRef,
    spec: &AuthPolicySpec,
    status: &mut ObjectStatus,
    findings: &mut Vec<Finding>,
) {
    for (index, from) in spec
        .rules
        .iter()
        .enumerate()
        .filter_map(|(i, r)| Some((i, r.from.as_ref()?)))
    {
        let identities = from.identities.iter().enumerate();
        let identities = identities.filter_map(|(i, text)| {
            let (message, fix) = identity(trust_domain, text)?;
            Some((
                format!("spec.rules[{index}].from.identities[{i}]"),
                message,
                fix,
            ))
        });
        let blocks = from.ip_blocks.iter().enumerate();
        let blocks = blocks.filter_map(|(i, text)| {
            let (message, fix) = block(text)?;
            Some((
                format!("spec.rules[{index}].from.ipBlocks[{i}]"),
                message,
                fix,
            ))
        });
        for (field, message, fix) in identities.chain(blocks) {
            not_enforced(status, reason::NEVER_MATCHES, &field, &message);
            findings.push(Finding::warning(object, field, reason::NEVER_MATCHES, message).fix(fix));
        }
    }
}

/// Says in the status that not every rule decides, unless it says so already.
pub(super) fn not_enforced(
    status: &mut ObjectStatus,
    reason: &'static str,
    field: &str,
    message: &str,
) {
    let enforced = status.condition(ConditionType::Enforced).map(|c| c.status);
    if enforced == Some(ConditionStatus::True) {
        let message = format!("{field}: {message}");
        status.set(ConditionType::Enforced, false, reason, message);
    }
}

/// Why no caller has this identity, and the identity that is probably meant.
fn identity(trust_domain: &str, text: &str) -> Option<(String, String)> {
    let (domain, path) = text.strip_prefix("spiffe://")?.split_once('/')?;
    let form = format!("spiffe://{trust_domain}/ns/<namespace>/sa/<service account>");
    if domain != trust_domain {
        let message = format!(
            "{text:?} never matches: the trust domain of this mesh is {trust_domain}, and it trusts no other"
        );
        return Some((message, format!("write {form}")));
    }
    let parts: Vec<&str> = path.split('/').collect();
    let ["ns", namespace, "sa", account] = parts[..] else {
        let message =
            format!("{text:?} never matches: it is not the identity of a service account");
        return Some((message, format!("write {form}")));
    };
    let known = |name: &str| {
        let mut bytes = name.bytes();
        bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b))
    };
    if known(namespace) && known(account) {
        return None;
    }
    let meant = format!("{namespace}/{account}").to_lowercase();
    let message = format!(
        "{text:?} never matches: names of namespaces and service accounts are in lower case"
    );
    Some((message, format!("{meant} is probably meant")))
}

/// Why no caller has an address of this block.
fn block(text: &str) -> Option<(String, String)> {
    let block: IpNet = text.parse().ok()?;
    if let IpNet::V6(mapped) = block
        && let Some(address) = mapped.addr().to_ipv4_mapped()
        && mapped.prefix_len() >= 96
    {
        let message =
            format!("{text:?} never matches: callers over IPv4 have plain IPv4 addresses");
        let meant = format!("write {address}/{}", mapped.prefix_len() - 96);
        return Some((message, meant));
    }
    let single = block.prefix_len() == block.max_prefix_len();
    if block.network().is_multicast() || (single && block.addr().is_unspecified()) {
        let message = format!("{text:?} never matches: no connection comes from there");
        return Some((message, "name the addresses of callers".to_owned()));
    }
    None
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn identities_that_nobody_gets_are_told() {
        for (text, told) in [
            ("shop/cart", None),
            ("spiffe://mesh/ns/shop/sa/cart", None),
            (
                "spiffe://mesh/ns/shop/sa/Cart",
                Some("shop/cart is probably meant"),
            ),
            (
                "spiffe://mesh/ns/Shop/sa/cart",
                Some("shop/cart is probably meant"),
            ),
            (
                "spiffe://other/ns/shop/sa/cart",
                Some("write spiffe://mesh/"),
            ),
            (
                "spiffe://mesh/ns/shop/sa/cart/more",
                Some("write spiffe://mesh/"),
            ),
            (
                "spiffe://mesh/sa/cart/ns/shop",
                Some("write spiffe://mesh/"),
            ),
        ] {
            let fix = identity("mesh", text).map(|(_, fix)| fix);
            assert_eq!(fix.is_some(), told.is_some(), "{text}: {fix:?}");
            assert!(
                told.is_none_or(|told| fix.unwrap().starts_with(told)),
                "{text}"
            );
        }
    }

    #[test]
    fn blocks_that_nobody_calls_from_are_told() {
        for (text, told) in [
            ("10.0.0.0/8", None),
            ("0.0.0.0/0", None),
            ("::/0", None),
            ("fd00::/8", None),
            ("::ffff:10.0.0.0/104", Some("write 10.0.0.0/8")),
            ("::ffff:10.1.2.3/128", Some("write 10.1.2.3/32")),
            ("224.0.0.0/4", Some("name")),
            ("ff02::/16", Some("name")),
            ("0.0.0.0/32", Some("name")),
        ] {
            let fix = block(text).map(|(_, fix)| fix);
            assert_eq!(fix.is_some(), told.is_some(), "{text}: {fix:?}");
            assert!(
                told.is_none_or(|told| fix.unwrap().starts_with(told)),
                "{text}"
            );
        }
    }
}
