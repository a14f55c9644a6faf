//! What a listing has named so far, and whether it can be believed.
//!
//! A streamed list that breaks off is begun anew by the client without a word, so what is named after that is added to what
//! was named before. An object of the first attempt that was deleted before the second would stay for ever.

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
    /// It begins, and says so: pages do.
    pub(super) fn begin(&mut self) {
        *self = Self::default();
    }

    /// An object came. The very same version twice means that the list was begun anew; a change that comes while the list
    /// is still under way has a version of its own.
    pub(super) fn name(&mut self, key: Key, version: &str) {
        let before = self.named.insert(key, version.into());
        self.torn |= before.is_some_and(|before| *before == *version);
    }

    /// The stream failed. Between listings that is no matter.
    pub(super) fn broken(&mut self) {
        self.torn |= !self.named.is_empty();
    }

    /// It is over: what it named, or nothing if that is of more than one attempt.
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
    fn a_listing_that_was_begun_twice_is_not_believed() {
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
        assert_eq!(listing.end(), None, "it was begun anew without a word");

        listing.name(key("a"), "3");
        listing.broken();
        listing.begin();
        assert_eq!(listing.end(), Some(HashSet::new()), "pages begin aloud");
    }
}
