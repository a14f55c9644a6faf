//! The objects of a listing, and whether the listing is complete.
//!
//! The client restarts a broken streamed list without an event, so the objects of the second attempt are added to those of
//! the first. An object of the first attempt that was deleted before the second would stay for ever.

use std::collections::{HashMap, HashSet};

/// Namespace and name.
pub(super) type Key = (Box<str>, Box<str>);

/// One listing, from its beginning to its end.
#[derive(Default)]
pub(super) struct Listing {
    /// With the resource version under which each came.
    named: HashMap<Key, Box<str>>,
    torn: bool,
}

impl Listing {
    /// It begins, with an event: pages do.
    pub(super) fn begin(&mut self) {
        *self = Self::default();
    }

    /// Adds an object. The same version twice means that the list was restarted; a change during the list has a version of
    /// its own.
    pub(super) fn name(&mut self, key: Key, version: &str) {
        let before = self.named.insert(key, version.into());
        self.torn |= before.is_some_and(|before| *before == *version);
    }

    /// The stream failed. Between listings that does not matter.
    pub(super) fn broken(&mut self) {
        self.torn |= !self.named.is_empty();
    }

    /// Ends the listing. Returns its objects, or `None` if they are of more than one attempt.
    pub(super) fn end(&mut self) -> Option<HashSet<Key>> {
        let Self { named, torn } = std::mem::take(self);
        (!torn).then(|| named.into_keys().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        ("ns".into(), name.into())
    }

    #[test]
    fn a_listing_of_two_attempts_is_discarded() {
        let mut listing = Listing::default();
        listing.broken();
        listing.name(key("a"), "1");
        listing.name(key("b"), "2");
        // Changed while the list was under way.
        listing.name(key("a"), "3");
        assert_eq!(listing.end(), Some(HashSet::from([key("a"), key("b")])));

        listing.name(key("a"), "3");
        listing.broken();
        assert_eq!(listing.end(), None, "the stream failed");

        listing.name(key("a"), "3");
        listing.name(key("gone"), "4");
        listing.name(key("a"), "3");
        assert_eq!(
            listing.end(),
            None,
            "the list was restarted without an event"
        );

        listing.name(key("a"), "3");
        listing.broken();
        listing.begin();
        assert_eq!(
            listing.end(),
            Some(HashSet::new()),
            "pages report their start"
        );
    }
}
