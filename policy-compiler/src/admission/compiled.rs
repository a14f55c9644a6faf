//! Texts of schemas that are compiled once: patterns and rules.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Compiled texts. `None` for one that does not compile. The texts are those of the definitions, so the table is bounded.
pub(super) struct CompiledTexts<T>(Mutex<BTreeMap<String, Option<Arc<T>>>>);

impl<T> CompiledTexts<T> {
    pub(super) const fn new() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }

    /// Returns the compiled text, and compiles it if this is its first use.
    pub(super) fn get<E>(
        &self,
        text: &str,
        compile: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<Arc<T>> {
        // An entry is inserted whole, so a panic elsewhere leaves no half of it behind.
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.get(text) {
            return known.clone();
        }
        let compiled = compile(text).ok().map(Arc::new);
        known.insert(text.to_owned(), compiled.clone());
        compiled
    }
}
