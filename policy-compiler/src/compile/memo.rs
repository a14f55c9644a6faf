//! Memo tables: equal inputs share one value, which is made once.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use crate::finding::ObjectRef;
use crate::resource::{Part, Resource, ResourceKey, RuleOrigins};

/// All inputs of a resource, and the way to make the resource from them.
pub(crate) trait Recipe: PartialEq {
    fn make(&self) -> Arc<Resource>;
}

/// A resource that is made on first use. Equal recipes make equal resources, so a comparison needs no bytes.
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

/// Returns the first old value that equals the new one, or the new one.
pub(crate) fn kept<'a, T: PartialEq + 'a>(
    mut old: impl Iterator<Item = &'a Arc<T>>,
    new: T,
) -> Arc<T> {
    let same = old.find(|old| ***old == new);
    same.map_or_else(|| Arc::new(new), Arc::clone)
}

/// Below this many entries nothing is swept.
const SMALL: usize = 64;

/// Parts (or other shared values) by all of their inputs, for as long as they are referenced elsewhere.
pub(crate) struct Memo<I, T = Part>(Mutex<MemoTable<I, T>>);

struct MemoTable<I, T> {
    all: BTreeMap<I, Weak<T>>,
    /// The number of entries after the last sweep.
    after_sweep: usize,
}

impl<I: Ord, T> Memo<I, T> {
    /// Returns the value for this input, and makes it if there is none.
    pub(crate) fn of(&self, input: I, make: impl FnOnce(&I) -> T) -> Arc<T> {
        // Making is pure, so a panic elsewhere cannot have left half of it behind.
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.all.get(&input).and_then(Weak::upgrade) {
            return known;
        }
        let made = Arc::new(make(&input));
        known.all.insert(input, Arc::downgrade(&made));
        if known.all.len() >= SMALL.max(known.after_sweep.saturating_mul(2)) {
            known.all.retain(|_, made| made.strong_count() > 0);
            known.after_sweep = known.all.len();
        }
        made
    }
}

impl<I, T> Default for Memo<I, T> {
    fn default() -> Self {
        Self(Mutex::new(MemoTable {
            all: BTreeMap::new(),
            after_sweep: 0,
        }))
    }
}

impl<I, T> fmt::Debug for Memo<I, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Memo")
    }
}

/// The content of a resource. The version, a hash, stands for the bytes.
type ContentKey = (
    ResourceKey,
    Arc<str>,
    Vec<ResourceKey>,
    BTreeSet<ObjectRef>,
    Vec<RuleOrigins>,
);

/// Parts and resources by content: equal content is one shared value, even from different inputs.
#[derive(Debug, Default)]
pub(crate) struct ContentInterner {
    parts: Memo<Vec<ContentKey>>,
    resources: Memo<ContentKey, Resource>,
}

impl ContentInterner {
    pub(crate) fn part(&self, part: &Part) -> Arc<Part> {
        let all: Vec<ContentKey> = part.resources.iter().map(|r| content_key(r)).collect();
        let resource =
            |r: &Arc<Resource>| self.resources.of(content_key(r), |_| Resource::clone(r));
        self.parts.of(all, |_| Part {
            resources: part.resources.iter().map(resource).collect(),
        })
    }
}

fn content_key(resource: &Resource) -> ContentKey {
    (
        resource.key.clone(),
        Arc::clone(&resource.version),
        resource.requires.clone(),
        resource.origins.clone(),
        resource.rules.clone(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unreferenced_entries_are_swept() {
        let memo = Memo::<_, Part>::default();
        let held = memo.of(0, |_| Part::default());
        for input in 1..10 * SMALL {
            memo.of(input, |_| Part::default());
        }
        let again = memo.of(0, |_| Part::default());
        assert!(Arc::ptr_eq(&held, &again));
        let known = memo.0.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(known.all.len() <= 2 * SMALL);
    }
}
