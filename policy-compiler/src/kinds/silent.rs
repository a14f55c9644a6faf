//! Values of a policy that no request ever has: identities that are never issued, blocks of addresses without callers, paths and headers that
//! no Allow rule matches.

use heddle_crds::{Action, AuthPolicySpec, AuthRule, ConditionStatus, ConditionType, reason};
use ipnet::IpNet;

use crate::authz::unmatched::{exclude, path_never_allowed, value_never_allowed};
use crate::authz::{HeaderPattern, HeaderValuePattern, PathPattern};
use crate::finding::{Finding, ObjectRef};
use crate::kinds::auth_headers::header_pattern;
use crate::kinds::headers::removed;
use crate::status::ObjectStatus;
use crate::traffic::unrouted::{TRAILERS, is_never_received};
use crate::world::mapped_block;

/// A value without a request: its field, the reason and the fix.
type Silent = (String, String, String);

/// Reports each such value, and that not every rule decides.
pub(super) fn report(
    trust_domain: &str,
    object: &ObjectRef,
    spec: &AuthPolicySpec,
    status: &mut ObjectStatus,
    findings: &mut Vec<Finding>,
) {
    let rules = spec.rules.iter().enumerate();
    for (field, message, fix) in rules.flat_map(|(index, rule)| {
        let at = format!("spec.rules[{index}]");
        let mut found = callers(trust_domain, &at, rule);
        found.extend(unseen_headers(&at, rule));
        if rule.action == Action::Allow {
            found.extend(paths(&at, rule));
            found.extend(headers(&at, rule));
        }
        found
    }) {
        not_enforced(status, reason::NEVER_MATCHES, &field, &message);
        findings.push(Finding::warning(object, field, reason::NEVER_MATCHES, message).fix(fix));
    }
}

fn callers(trust_domain: &str, at: &str, rule: &AuthRule) -> Vec<Silent> {
    let Some(from) = &rule.from else {
        return Vec::new();
    };
    let identities = from.identities.iter().enumerate();
    let identities = identities.filter_map(|(i, text)| {
        let (message, fix) = identity(trust_domain, text)?;
        Some((format!("{at}.from.identities[{i}]"), message, fix))
    });
    let blocks = from.ip_blocks.iter().enumerate();
    let blocks = blocks.filter_map(|(i, text)| {
        let (message, fix) = block(text)?;
        Some((format!("{at}.from.ipBlocks[{i}]"), message, fix))
    });
    identities.chain(blocks).collect()
}

fn paths(at: &str, rule: &AuthRule) -> Vec<Silent> {
    let paths = rule.to.iter().flat_map(|to| to.paths.iter().enumerate());
    let silent = paths.filter_map(|(index, text)| {
        let pattern = match text.strip_suffix('*') {
            Some(prefix) => PathPattern::Prefix(prefix.into()),
            None => PathPattern::Exact(text.as_str().into()),
        };
        path_never_allowed(&pattern).then(|| {
            let message = format!(
                "{text:?} never matches: Allow rules do not match paths that servers read in several ways, such as those with a segment .., escaped control characters, escapes within escapes, or characters that must be escaped"
            );
            let fix = "write the path as clients send it: without .., with %20 for a blank and %C3%BC for ü";
            (format!("{at}.to.paths[{index}]"), message, fix.to_owned())
        })
    });
    silent.collect()
}

/// The headers of a rule that can be read, with their places.
fn patterns(rule: &AuthRule) -> impl Iterator<Item = (usize, HeaderPattern)> {
    let all = rule.to.iter().flat_map(|to| to.headers.iter().enumerate());
    all.filter_map(|(index, header)| Some((index, header_pattern(header)?)))
}

fn headers(at: &str, rule: &AuthRule) -> Vec<Silent> {
    let all: Vec<(usize, HeaderPattern)> = patterns(rule).collect();
    let mut found = Vec::new();
    for (index, header) in &all {
        let (field, name) = (format!("{at}.to.headers[{index}]"), &header.name);
        if let Some(why) = value_never_allowed(&header.value) {
            let message = format!("header {name:?} never has this value: {why}");
            let fix = "write the value as applications read it, without blanks at its ends; name values with a comma by exact";
            found.push((field, message, fix.to_owned()));
            continue;
        }
        let mut earlier = all.iter().take_while(|(at, _)| at < index);
        if let Some((other, excluding)) = earlier.find(|(_, other)| exclude(other, header)) {
            let message = format!(
                "the rule never matches: {at}.to.headers[{other}] is about header {:?} and excludes this one",
                excluding.name
            );
            let fix = "remove one, or write a rule for each";
            found.push((field, message, fix.to_owned()));
        }
    }
    found
}

/// Headers that no request has where rules are asked, for Deny rules and Allow rules alike.
fn unseen_headers(at: &str, rule: &AuthRule) -> Vec<Silent> {
    let silent = patterns(rule).filter_map(|(index, header)| {
        let (message, fix) = unseen(&header)?;
        Some((format!("{at}.to.headers[{index}]"), message, fix))
    });
    silent.collect()
}

/// Why no request has this header where rules are asked, and the fix.
fn unseen(header: &HeaderPattern) -> Option<(String, String)> {
    let HeaderPattern { name, value } = header;
    if *value == HeaderValuePattern::Absent {
        return None;
    }
    if is_never_received(name) {
        let (message, fix) = removed(name);
        return Some((message, fix.to_owned()));
    }
    let (text, whole) = match value {
        HeaderValuePattern::Exact(text) => (text, true),
        HeaderValuePattern::Prefix(text) => (text, false),
        HeaderValuePattern::Regex(_) | HeaderValuePattern::Present | HeaderValuePattern::Absent => {
            return None;
        }
    };
    let fits = |of: &str| {
        if whole {
            of == &**text
        } else {
            of.starts_with(&**text)
        }
    };
    match &**name {
        "te" if !fits(TRAILERS) => {
            let message = format!("sidecars pass on no value of header \"te\" but {TRAILERS:?}");
            Some((message, format!("write {TRAILERS}")))
        }
        "host" | ":authority" if text.contains(|c| !is_of_authority(c)) => {
            let message = format!("no request has the host {text:?}: Envoy answers it with 400");
            let meant = text.split_once("://").map_or(&**text, |(_, host)| host);
            let host = meant
                .split(|c| !is_of_authority(c))
                .next()
                .unwrap_or_default();
            let fix = match host {
                "" => "write the name as clients send it, without a scheme and a path".to_owned(),
                host => format!("{host} is probably meant"),
            };
            Some((message, fix))
        }
        _ => None,
    }
}

/// Whether a character may be in the host of a request: those of an authority (RFC 3986, 3.2).
fn is_of_authority(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-._~%!$&'()*+,;=:@[]".contains(c)
}

/// Sets in the status that not every rule decides, unless that is set already.
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
    if let Some(plain) = mapped_block(&block) {
        let message =
            format!("{text:?} never matches: callers over IPv4 have plain IPv4 addresses");
        return Some((message, format!("write {plain}")));
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
