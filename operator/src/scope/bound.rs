//! The bound on scopes of workloads without pods. Owners of short-lived pods have a new name each time; their names must
//! not fill the store, and must not evict the scopes of other workloads.

use std::collections::{BTreeMap, HashSet};

use heddle_policy_compiler::WorkloadRef;

use super::{Inner, Scopes, Seconds, WorkloadScope};

/// Workloads of one namespace that are remembered without a pod.
pub const MAX_ABSENT_PER_NAMESPACE: usize = 256;

/// Workloads of all namespaces that are remembered without a pod.
pub const MAX_ABSENT: usize = 4096;

/// The workloads of a namespace without pods, the one that was used last at the front.
type Absent<'a> = Vec<(Seconds, &'a WorkloadRef)>;

impl WorkloadScope {
    fn seen(&self) -> Seconds {
        self.entries
            .values()
            .map(super::Entry::seen)
            .max()
            .unwrap_or_default()
    }
}

impl Scopes {
    /// Forgets workloads without pods beyond the bounds: the one that was unused for longest first, and always one of the
    /// namespace that has the most. Returns how many are left, and how many were forgotten.
    pub fn forget_absent(&self, present: &HashSet<WorkloadRef>) -> (usize, usize) {
        let mut inner = self.lock();
        let mut absent = BTreeMap::<&str, Absent<'_>>::new();
        for (name, workload) in &inner.workloads {
            if !present.contains(name) {
                let namespace = absent.entry(&*name.namespace).or_default();
                namespace.push((workload.seen(), name));
            }
        }
        let mut left = 0;
        for namespace in absent.values_mut() {
            // Of equal age the larger name goes first, so that every replica forgets the same.
            namespace.sort_by(|one, other| other.0.cmp(&one.0).then_with(|| one.1.cmp(other.1)));
            left += namespace.len().min(MAX_ABSENT_PER_NAMESPACE);
        }
        let share = share(absent.values().map(Vec::len));
        let forgotten: Vec<WorkloadRef> = absent
            .values()
            .flat_map(|namespace| namespace.iter().skip(share))
            .map(|(_, name)| (*name).clone())
            .collect();
        if left > MAX_ABSENT {
            left = absent
                .values()
                .map(|namespace| namespace.len().min(share))
                .sum();
        }
        inner.forget(&forgotten);
        drop(inner);
        if !forgotten.is_empty() {
            self.tick();
        }
        (left, forgotten.len())
    }

    /// Forgets a quarter of the workloads without pods that `of` selects, and at least one, the longest unused first.
    /// Returns how many.
    pub fn forget_some(
        &self,
        present: &HashSet<WorkloadRef>,
        of: impl Fn(&WorkloadRef) -> bool,
    ) -> usize {
        let mut inner = self.lock();
        let selected = inner.workloads.iter();
        let selected = selected.filter(|(name, _)| !present.contains(name) && of(name));
        let mut absent: Absent<'_> = selected.map(|(name, known)| (known.seen(), name)).collect();
        absent.sort();
        let count = absent.len().div_ceil(4);
        let forgotten: Vec<WorkloadRef> = absent
            .into_iter()
            .take(count)
            .map(|(_, name)| name.clone())
            .collect();
        inner.forget(&forgotten);
        drop(inner);
        if !forgotten.is_empty() {
            self.tick();
        }
        forgotten.len()
    }
}

impl Inner {
    fn forget(&mut self, workloads: &[WorkloadRef]) {
        for workload in workloads {
            self.workloads.remove(workload);
            self.unsaved.insert(workload.clone());
        }
    }
}

/// The largest number that each namespace may keep so that all together keep no more than [`MAX_ABSENT`].
fn share(sizes: impl Iterator<Item = usize> + Clone) -> usize {
    let kept = |share: usize| sizes.clone().map(|size| size.min(share)).sum::<usize>();
    let (mut low, mut high) = (0, MAX_ABSENT_PER_NAMESPACE);
    while low < high {
        let middle = (low + high).div_ceil(2);
        if kept(middle) <= MAX_ABSENT {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    low
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::scope::LearnResult;

    fn learn(scopes: &Scopes, workload: &WorkloadRef, now: Seconds) {
        let db = "service/shop/db:80".parse().unwrap();
        assert_eq!(scopes.learn(workload, &db, None, now), LearnResult::Now);
    }

    #[test]
    fn a_flood_of_short_lived_owners_takes_nothing_from_others() {
        let scopes = Scopes::default();
        let of = |namespace: &str, n: u64| WorkloadRef::new(namespace, &format!("w{n}"));
        // Long unused, in another namespace and without pods, and in the same namespace with pods.
        let others: Vec<_> = (0..50).map(|n| of("shop", n)).collect();
        others.iter().for_each(|other| learn(&scopes, other, 1));
        let runner = of("ci", 1_000_000);
        learn(&scopes, &runner, 1);
        let present = HashSet::from([runner.clone()]);
        for n in 0..5000 {
            learn(&scopes, &of("ci", n), 1000 + n);
        }
        let _ = scopes.unsaved();
        assert_eq!(scopes.forget_absent(&present), (256 + 50, 5000 - 256));
        let known: HashSet<_> = scopes.workloads().into_iter().collect();
        assert!(
            others
                .iter()
                .chain([&runner])
                .all(|other| known.contains(other))
        );
        // The newest of the flood are kept.
        assert!(known.contains(&of("ci", 4999)) && !known.contains(&of("ci", 4743)));
        // The store is told to forget them.
        let unsaved = scopes.unsaved();
        assert_eq!(unsaved.len(), 5000 - 256);
        assert!(unsaved.values().all(std::collections::BTreeMap::is_empty));
        assert_eq!(scopes.forget_absent(&present), (306, 0));
    }

    #[test]
    fn many_namespaces_share_the_bound() {
        let scopes = Scopes::default();
        for namespace in 0..40 {
            for n in 0..200 {
                learn(
                    &scopes,
                    &WorkloadRef::new(&format!("n{namespace}"), &format!("w{n}")),
                    n,
                );
            }
        }
        learn(&scopes, &WorkloadRef::new("small", "w"), 0);
        let (left, forgotten) = scopes.forget_absent(&HashSet::new());
        assert_eq!((left, forgotten), (40 * 102 + 1, 40 * 98));
        assert!(scopes.workloads().contains(&WorkloadRef::new("small", "w")));
    }

    #[test]
    fn a_quarter_of_the_selected_leaves_the_oldest_first() {
        let scopes = Scopes::default();
        let of = |n: u64| WorkloadRef::new("ci", &format!("w{n}"));
        (0..10).for_each(|n| learn(&scopes, &of(n), n));
        let present = HashSet::from([of(0)]);
        assert_eq!(scopes.forget_some(&present, |name| *name != of(1)), 2);
        let known: HashSet<_> = scopes.workloads().into_iter().collect();
        assert!(!known.contains(&of(2)) && !known.contains(&of(3)));
        assert_eq!(known.len(), 8);
        assert_eq!(scopes.forget_some(&present, |name| *name == of(0)), 0);
    }

    proptest! {
        #[test]
        fn the_bounds_hold(sizes in prop::collection::vec(0usize..600, 0..60)) {
            let share = share(sizes.iter().copied());
            let kept: usize = sizes.iter().map(|size| (*size).min(share)).sum();
            prop_assert!(kept <= MAX_ABSENT && share <= MAX_ABSENT_PER_NAMESPACE);
            let more: usize = sizes.iter().map(|size| (*size).min(share + 1)).sum();
            prop_assert!(share == MAX_ABSENT_PER_NAMESPACE || more > MAX_ABSENT);
        }
    }
}
