//! `spec.sticky` of a `TrafficSplit`.

use heddle_crds::{Sticky, TrafficSplitSpec};

use crate::kinds::ValidationError;
use crate::kinds::headers::{is_token, removed};
use crate::traffic::{self, StickyCookie, unrouted};

/// The longest time for which clients keep a cookie, in seconds: a year.
const MAX_AGE: u64 = 365 * 24 * 3600;

/// How users keep their backend.
pub(super) fn sticky(spec: &TrafficSplitSpec) -> Option<traffic::Sticky> {
    let Sticky { header, cookie } = spec.sticky.as_ref()?;
    let header = header.as_ref();
    let header = header.map(|name| traffic::Sticky::Header(name.to_ascii_lowercase().into()));
    header.or_else(|| {
        let cookie = cookie.as_ref()?;
        Some(traffic::Sticky::Cookie(StickyCookie {
            name: (*cookie.name).into(),
            max_age: cookie.max_age.as_ref().map(|age| age.get()),
        }))
    })
}

pub(super) fn check(spec: &TrafficSplitSpec) -> Vec<ValidationError> {
    let Some(Sticky { header, cookie }) = &spec.sticky else {
        return Vec::new();
    };
    match (header, cookie) {
        (Some(name), None) => check_header(name).into_iter().collect(),
        (None, Some(cookie)) => {
            let of_cookie = check_cookie(cookie).into_iter();
            of_cookie.chain(check_shares(spec)).collect()
        }
        (Some(_), Some(_)) | (None, None) => vec![ValidationError::invalid(
            "spec.sticky",
            "exactly one of header and cookie names the user",
            "remove one, or add the missing one",
        )],
    }
}

fn check_header(name: &str) -> Option<ValidationError> {
    let lower = name.to_ascii_lowercase();
    let (message, fix) = if !is_token(name) {
        (
            format!("{name:?} is not the name of a header"),
            "correct the name",
        )
    } else if unrouted::is_removed(&lower) {
        removed(name)
    } else if lower == "host" {
        let message = "the header host names no user".to_owned();
        (message, "use a header of the application")
    } else {
        return None;
    };
    Some(ValidationError::invalid("spec.sticky.header", message, fix))
}

/// The beginning of the names of cookies that browsers keep only with further attributes (RFC 6265bis, 4.1.3).
const PREFIXED: &str = "__";

fn check_cookie(cookie: &heddle_crds::StickyCookie) -> Option<ValidationError> {
    if !is_token(&cookie.name) {
        let message = format!("{:?} is not the name of a cookie", cookie.name);
        let field = "spec.sticky.cookie.name";
        return Some(ValidationError::invalid(field, message, "correct the name"));
    }
    if cookie.name.starts_with(PREFIXED) {
        let message = format!(
            "browsers do not keep cookie {:?} without further attributes",
            cookie.name
        );
        let (field, fix) = ("spec.sticky.cookie.name", "use a name without __ before it");
        return Some(ValidationError::invalid(field, message, fix));
    }
    let age = cookie.max_age.as_ref()?;
    let wrong = !(60..=MAX_AGE).contains(&age.get().as_secs());
    wrong.then(|| {
        let message = format!("{age} is not from 1m to 8760h");
        let field = "spec.sticky.cookie.maxAge";
        ValidationError::invalid(field, message, "write for example 720h")
    })
}

/// A cookie has one of a hundred places.
fn check_shares(spec: &TrafficSplitSpec) -> Option<ValidationError> {
    let weights = spec.backends.iter().map(|of| u64::from(of.weight));
    let sum: u64 = weights.clone().sum();
    let places = u64::from(StickyCookie::PLACES);
    let mut weights = weights.enumerate();
    let (index, weight) = weights.find(|(_, weight)| sum > 0 && weight * places % sum != 0)?;
    let message = format!(
        "{weight} of {sum} is not a whole percentage, as the shares of users with a cookie are"
    );
    Some(ValidationError::invalid(
        format!("spec.backends[{index}].weight"),
        message,
        "use weights with the sum 100, or a header in spec.sticky",
    ))
}
