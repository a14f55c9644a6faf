//! Takes a new view: the parts that differ from the view before contain the changes.

use std::collections::HashMap;
use std::sync::Arc;

use crate::resource::{Part, ResourceKey, View};

use super::Session;

impl Session {
    /// Takes a new view; nothing is sent before [`Session::poll`].
    pub fn set_view(&mut self, view: Arc<View>) {
        let old = self.view.replace(Arc::clone(&view));
        let old = old.as_ref().map_or(&[][..], |old| &old.parts);
        let (entering, leaving) = difference(old, &view.parts);
        self.views += 1;
        // Parts enter before others leave, so that a resource that moves to another part does not look removed in between.
        for resource in entering.iter().flat_map(|part| &part.resources) {
            let ResourceKey { kind, name } = &resource.key;
            if self.channels.get_mut(*kind).enter(resource) {
                self.touch(*kind, name);
                self.removals_due = true;
            }
        }
        for resource in leaving.iter().flat_map(|part| &part.resources) {
            let ResourceKey { kind, name } = &resource.key;
            if self.channels.get_mut(*kind).leave(resource) {
                self.touch(*kind, name);
                self.removals_due = true;
            }
        }
    }
}

/// The parts that only the new, and those that only the old view has. Their order means nothing.
fn difference<'a>(
    old: &'a [Arc<Part>],
    new: &'a [Arc<Part>],
) -> (Vec<&'a Arc<Part>>, Vec<&'a Arc<Part>>) {
    let (old, new) = without_common_ends(old, new);
    let mut balance: HashMap<*const Part, i64> = HashMap::new();
    for part in new {
        *balance.entry(Arc::as_ptr(part)).or_default() += 1;
    }
    for part in old {
        *balance.entry(Arc::as_ptr(part)).or_default() -= 1;
    }
    let mut take = |part: &&Arc<Part>, sign: i64| match balance.get_mut(&Arc::as_ptr(part)) {
        Some(left) if *left * sign > 0 => {
            *left -= sign;
            true
        }
        Some(_) | None => false,
    };
    let entering = new.iter().filter(|part| take(part, 1)).collect();
    let leaving = old.iter().filter(|part| take(part, -1)).collect();
    (entering, leaving)
}

/// Most often one part of many is another.
fn without_common_ends<'a>(
    old: &'a [Arc<Part>],
    new: &'a [Arc<Part>],
) -> (&'a [Arc<Part>], &'a [Arc<Part>]) {
    let same = |(old, new): &(&Arc<Part>, &Arc<Part>)| Arc::ptr_eq(old, new);
    let front = old.iter().zip(new).take_while(same).count();
    let (old, new) = (
        old.get(front..).unwrap_or_default(),
        new.get(front..).unwrap_or_default(),
    );
    let back = old
        .iter()
        .rev()
        .zip(new.iter().rev())
        .take_while(same)
        .count();
    let rest = |parts: &'a [Arc<Part>]| parts.get(..parts.len() - back).unwrap_or_default();
    (rest(old), rest(new))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_difference_of_two_lists_of_parts() {
        let parts: Vec<Arc<Part>> = (0..4).map(|_| Arc::default()).collect();
        let list = |which: &[usize]| -> Vec<Arc<Part>> {
            which.iter().map(|i| Arc::clone(&parts[*i])).collect()
        };
        for (old, new, entering, leaving) in [
            (&[0, 1, 2][..], &[0, 1, 2][..], &[][..], &[][..]),
            (&[0, 1, 2], &[2, 0, 1], &[], &[]),
            (&[0, 1, 2], &[0, 3, 2], &[3], &[1]),
            (&[], &[1, 2], &[1, 2], &[]),
            (&[0, 0, 1], &[0, 1], &[], &[0]),
            (&[0, 1], &[1, 0, 0, 0], &[0, 0], &[]),
        ] {
            let (old, new) = (list(old), list(new));
            let (entered, left) = difference(&old, &new);
            assert_eq!(entered.len(), entering.len());
            assert!(
                entered
                    .iter()
                    .zip(entering)
                    .all(|(part, i)| Arc::ptr_eq(part, &parts[*i]))
            );
            assert_eq!(left.len(), leaving.len());
            assert!(
                left.iter()
                    .zip(leaving)
                    .all(|(part, i)| Arc::ptr_eq(part, &parts[*i]))
            );
        }
    }
}
