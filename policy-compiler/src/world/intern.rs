//! One copy of values that many objects have in common: the strings of names and labels, and pod templates.

use std::collections::HashSet;
use std::sync::Arc;

use super::names::Labels;
use super::{NamespacedName, PodTemplate};

/// The smallest number of entries at which unused ones are removed.
const SMALL: usize = 1024;

/// Hands out shared values. Values without other references are swept out whenever the number of entries has doubled.
#[derive(Clone, Debug, Default)]
pub(crate) struct Interner {
    strings: HashSet<Arc<str>>,
    templates: HashSet<Arc<PodTemplate>>,
    /// How many entries were left by the last sweep.
    swept: usize,
}

impl Interner {
    /// The one copy of a string.
    pub(crate) fn text(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.strings.get(text) {
            return Arc::clone(known);
        }
        let new: Arc<str> = text.into();
        self.strings.insert(Arc::clone(&new));
        self.sweep();
        new
    }

    /// A name of shared strings.
    pub(crate) fn name(&mut self, namespace: &str, name: &str) -> NamespacedName {
        NamespacedName {
            namespace: self.text(namespace),
            name: self.text(name),
        }
    }

    /// Labels, or a selector.
    pub(crate) fn labels<'a>(
        &mut self,
        pairs: impl IntoIterator<Item = (&'a String, &'a String)>,
    ) -> Labels {
        pairs
            .into_iter()
            .map(|(key, value)| (self.text(key), self.text(value)))
            .collect()
    }

    /// The one copy of a template.
    pub(crate) fn template(&mut self, template: PodTemplate) -> Arc<PodTemplate> {
        if let Some(known) = self.templates.get(&template) {
            return Arc::clone(known);
        }
        let new = Arc::new(template);
        self.templates.insert(Arc::clone(&new));
        self.sweep();
        new
    }

    fn sweep(&mut self) {
        let entries = self.strings.len() + self.templates.len();
        if entries < SMALL.max(self.swept.saturating_mul(2)) {
            return;
        }
        // Shapes first: they keep strings alive.
        self.templates
            .retain(|template| Arc::strong_count(template) > 1);
        self.strings.retain(|text| Arc::strong_count(text) > 1);
        self.swept = self.strings.len() + self.templates.len();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn equal_strings_are_one_and_unused_ones_go() {
        let mut interner = Interner::default();
        let kept = interner.text("kept");
        assert!(Arc::ptr_eq(&kept, &interner.text("kept")));
        for index in 0..10 * SMALL {
            interner.text(&index.to_string());
        }
        assert!(interner.strings.len() <= SMALL);
        assert!(Arc::ptr_eq(&kept, &interner.text("kept")));
    }
}
