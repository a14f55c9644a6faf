//! What becomes of the names that a proxy asked for, and what its workload learns by them.

use std::collections::BTreeSet;
use std::sync::Arc;

use heddle_policy_compiler::{
    Bucket, Destination, Proxy, WorkloadRef, listener_address, on_demand_address,
};
use heddle_xds_server::{Asked, Name};

use super::{MeshSource, now};
use crate::picture::Picture;
use crate::scope::{Learned, Sets, is_recent};

/// Beyond what its workload holds, a proxy is answered for so many at a time, the others are refused: each costs it memory,
/// and who calls more is scanning. These are addresses that nobody knows, and destinations that there was no room for.
const MAX_BEYOND: usize = 256;

/// The names a proxy asked for, by what becomes of them.
#[derive(Default)]
pub(super) struct Sorted {
    pub(super) sets: Arc<Sets>,
    pub(super) wanted: BTreeSet<Name>,
    pub(super) refused: BTreeSet<Name>,
    /// Whether time alone can change it: names that are answered only while they are recent.
    pub(super) passing: bool,
}

impl MeshSource {
    /// Sorts the names that a proxy asked for into those that are answered and those that are refused, and learns what it calls.
    pub(super) fn sort(
        &self,
        picture: &Picture,
        proxy: &Proxy,
        workload: &WorkloadRef,
        asked: &Asked,
    ) -> Sorted {
        let mut sorted = Sorted {
            sets: self.scopes.of(workload),
            ..Sorted::default()
        };
        let learns = proxy.on_demand() && picture.compiled.tells_on_demand();
        let bucket = Bucket::of(picture.compiled.idle_after());
        let now = now();
        let mut learned = false;
        let mut beyond = 0;
        let learn = |sets: &Sets, destination: &Destination| {
            if !learns || sets.held.contains(destination) {
                return Learned::Before;
            }
            self.scopes.learn(workload, destination, now)
        };
        // A proxy that comes back shows by its listeners what is in use.
        for name in &asked.listeners {
            let destination =
                listener_address(name).and_then(|at| picture.compiled.destination_at(at));
            if let Some(destination) = destination {
                learned |= learn(&sorted.sets, &destination) == Learned::Now;
            }
        }
        for name in &asked.names {
            let destination =
                on_demand_address(name).and_then(|at| picture.compiled.destination_at(at));
            let recent = || is_recent(bucket, name, now);
            let mut is_beyond = || {
                sorted.passing = true;
                beyond += 1;
                beyond <= MAX_BEYOND
            };
            let answered = match &destination {
                Some(destination) if sorted.sets.held.contains(destination) => true,
                Some(destination) => {
                    recent()
                        && match learn(&sorted.sets, destination) {
                            Learned::Before => true,
                            Learned::Now => {
                                learned = true;
                                true
                            }
                            Learned::NoRoom => is_beyond(),
                        }
                }
                None => is_beyond() && recent(),
            };
            let names = if answered {
                &mut sorted.wanted
            } else {
                &mut sorted.refused
            };
            names.insert(Name::clone(name));
        }
        if learned {
            sorted.sets = self.scopes.of(workload);
            self.relearned(workload);
        }
        sorted
    }
}
