//! Sticky assignment: the requests of one user get the same backend.
//!
//! Each user has a place in the whole, and the shares of the backends lie in the whole one after another, in the order of the rule. So a
//! share that grows takes over places of its neighbors, and gives none away.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::matcher::{CookieMatcher, ValueMatcher};

/// The part of a request by which its user is known.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sticky {
    /// A header, in lower case: a hash of its value is the place. A request without it has a random place.
    Header(Arc<str>),
    /// A cookie that contains the place. A request without it gets one.
    Cookie(StickyCookie),
}

impl Sticky {
    /// The number of alternatives for which one of a sticky rule counts: a route of Envoy has a cluster for each place of a cookie.
    #[must_use]
    pub const fn alternatives_each(&self) -> usize {
        match self {
            Self::Cookie(_) => StickyCookie::PLACES as usize,
            Self::Header(_) => 1,
        }
    }
}

impl fmt::Display for Sticky {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(name) => write!(f, "header {name}"),
            Self::Cookie(cookie) => write!(f, "cookie {}", cookie.name),
        }
    }
}

/// A cookie that contains the place of its user in the whole.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StickyCookie {
    /// The name of the cookie.
    pub name: Arc<str>,
    /// How long clients keep it. None: until their session ends.
    pub max_age: Option<Duration>,
}

impl StickyCookie {
    /// The number of places in the whole: one for each percent.
    pub const PLACES: u32 = 100;

    /// The value of `Set-Cookie` for a place.
    #[must_use]
    pub fn line(&self, place: u32) -> String {
        let name = &self.name;
        let age = self.max_age.map(|age| age.as_secs());
        let age = age.map_or_else(String::new, |age| format!("; Max-Age={age}"));
        format!("{name}={place:02}; Path=/{age}; HttpOnly; SameSite=Lax")
    }

    /// The cookie of users with one of some places, of which there is at least one.
    #[must_use]
    pub fn matcher(&self, places: &Range<u32>) -> CookieMatcher {
        let last = places.end.saturating_sub(1);
        let tens = (places.start / 10)..=(last / 10);
        let of_ten = tens.map(|ten| {
            let first = places.start.max(ten * 10) % 10;
            let last = last.min(ten * 10 + 9) % 10;
            format!("{ten}[{first}-{last}]")
        });
        let expression = of_ten.collect::<Vec<_>>().join("|");
        CookieMatcher {
            name: Arc::clone(&self.name),
            value: ValueMatcher::Regex(expression.into()),
        }
    }
}

/// Divides a whole among weights above zero, in their order. Each has at least one place.
#[must_use]
pub fn places(weights: &[u32], whole: u32) -> Vec<Range<u32>> {
    let sum: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
    let (mut before, mut start, mut places) = (0_u64, 0, Vec::new());
    for (index, weight) in weights.iter().enumerate() {
        before += u64::from(*weight);
        let rounded = (before * u64::from(whole) + sum / 2) / sum.max(1);
        let others = u32::try_from(weights.len() - index - 1).unwrap_or(u32::MAX);
        let end = u32::try_from(rounded).unwrap_or(whole);
        let end = end.min(whole.saturating_sub(others)).max(start + 1);
        places.push(start..end);
        start = end;
    }
    places
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use regex::Regex;

    use super::*;

    proptest! {
        #[test]
        fn places_cover_the_whole_and_each_weight_has_one(weights in proptest::collection::vec(1..=1_000_000_u32, 1..=32)) {
            for whole in [StickyCookie::PLACES, 1_000_000_000] {
                let places = places(&weights, whole);
                prop_assert_eq!(places.len(), weights.len());
                prop_assert_eq!(places[0].start, 0);
                prop_assert_eq!(places.last().unwrap().end, whole);
                prop_assert!(places.windows(2).all(|pair| pair[0].end == pair[1].start));
                prop_assert!(places.iter().all(|places| !places.is_empty()));
            }
        }

        #[test]
        fn of_two_neighbors_the_growing_one_keeps_its_places(
            before in proptest::collection::vec(1..=1000_u32, 0..4), (left, right) in (2..=1000_u32, 1..=1000_u32),
            moved in 1..1000_u32, after in proptest::collection::vec(1..=1000_u32, 0..4),
        ) {
            let moved = moved.min(left - 1);
            let weights = |left, right| {
                let weights = before.iter().copied().chain([left, right]);
                weights.chain(after.iter().copied()).collect::<Vec<u32>>()
            };
            let whole = 1_000_000_000;
            let old = places(&weights(left, right), whole);
            let new = places(&weights(left - moved, right + moved), whole);
            let grows = before.len() + 1;
            for (index, (old, new)) in old.iter().zip(&new).enumerate() {
                match index {
                    _ if index + 1 == grows => prop_assert!(new.start == old.start && new.end <= old.end),
                    _ if index == grows => prop_assert!(new.start <= old.start && new.end == old.end),
                    _ => prop_assert_eq!(new, old),
                }
            }
        }

        #[test]
        fn the_cookie_of_some_places_is_that_of_no_other(start in 0..100_u32, length in 1..=100_u32) {
            let end = (start + length).min(100);
            let cookie = StickyCookie { name: "c".into(), max_age: None };
            let ValueMatcher::Regex(text) = cookie.matcher(&(start..end)).value else {
                return Err(TestCaseError::fail("not an expression"));
            };
            let expression = Regex::new(&format!("^(?:{text})$")).unwrap();
            for place in 0..100 {
                let line = cookie.line(place);
                let value = line.strip_prefix("c=").unwrap().split(';').next().unwrap();
                prop_assert_eq!(expression.is_match(value), (start..end).contains(&place), "{}", place);
            }
        }
    }
}
