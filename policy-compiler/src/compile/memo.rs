//! Made once, and shared by all who need the same.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use crate::resource::{Part, Resource};

/// What all decides about a resource, and how the resource is made of it.
pub(crate) trait Recipe: PartialEq {
    fn make(&self) -> Arc<Resource>;
}

/// A resource that is made when somebody first asks for it. Equal recipes make equal resources, so comparing needs no bytes.
#[derive(Debug)]
pub(crate) struct Lazy<R> {
    recipe: R,
    made: OnceLock<Arc<Resource>>,
}

impl<R: Recipe> Lazy<R> {
    pub(crate) const fn new(recipe: R) -> Self {
        Self {
            recipe,
            made: OnceLock::new(),
        }
    }

    pub(crate) const fn recipe(&self) -> &R {
        &self.recipe
    }

    pub(crate) fn resource(&self) -> Arc<Resource> {
        Arc::clone(self.made.get_or_init(|| self.recipe.make()))
    }
}

impl<R: PartialEq> PartialEq for Lazy<R> {
    fn eq(&self, other: &Self) -> bool {
        self.recipe == other.recipe
    }
}

/// The old value, if the new one says the same: whatever was made of it stays.
pub(crate) fn kept<T: PartialEq>(old: Option<&Arc<T>>, new: T) -> Arc<T> {
    match old {
        Some(old) if **old == new => Arc::clone(old),
        Some(_) | None => Arc::new(new),
    }
}

/// Below this many entries nothing is swept.
const SMALL: usize = 64;

/// Parts by what decides their bytes, for as long as somebody holds them.
pub(crate) struct Memo<I>(Mutex<Parts<I>>);

struct Parts<I> {
    known: BTreeMap<I, Weak<Part>>,
    /// How many entries were left by the last sweep.
    swept: usize,
}

impl<I: Ord> Memo<I> {
    /// The part for this input.
    pub(crate) fn part(&self, input: I, make: impl FnOnce(&I) -> Part) -> Arc<Part> {
        // Making is pure, so a panic elsewhere cannot have left half a part behind.
        let mut parts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = parts.known.get(&input).and_then(Weak::upgrade) {
            return known;
        }
        let part = Arc::new(make(&input));
        parts.known.insert(input, Arc::downgrade(&part));
        if parts.known.len() >= SMALL.max(parts.swept.saturating_mul(2)) {
            parts.known.retain(|_, part| part.strong_count() > 0);
            parts.swept = parts.known.len();
        }
        part
    }
}

impl<I> Default for Memo<I> {
    fn default() -> Self {
        Self(Mutex::new(Parts {
            known: BTreeMap::new(),
            swept: 0,
        }))
    }
}

impl<I> fmt::Debug for Memo<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Memo")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_holds_goes() {
        let memo = Memo::default();
        let held = memo.part(0, |_| Part::default());
        for input in 1..10 * SMALL {
            memo.part(input, |_| Part::default());
        }
        let again = memo.part(0, |_| Part::default());
        assert!(Arc::ptr_eq(&held, &again));
        let parts = memo.0.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(parts.known.len() <= 2 * SMALL);
    }
}
