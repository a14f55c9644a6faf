//! What becomes of the names that a proxy asked for, and what its workload learns by them.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use heddle_policy_compiler::{
    Bucket, Destination, Proxy, WorkloadRef, listener_address, on_demand_address,
};
use heddle_xds_server::{Asked, Name};

use super::{MeshSource, now};
use crate::picture::Picture;
use crate::scope::{Learned, Recent, Scopes, Seconds, Sets};

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
        let now = now();
        let mut sorter = Sorter {
            scopes: &self.scopes,
            picture,
            workload,
            learns: proxy.on_demand() && picture.compiled.tells_on_demand(),
            recent: Recent::at(Bucket::of(picture.compiled.idle_after()), now),
            now,
            sets: self.scopes.of(workload),
            learned: false,
            beyond: 0,
        };
        // A proxy that comes back shows by its listeners what is in use.
        for name in &asked.listeners {
            if let Some(destination) = listener_address(name).and_then(|at| sorter.known(at)) {
                sorter.learn(&destination);
            }
        }
        let (wanted, refused) = asked
            .names
            .iter()
            .cloned()
            .partition(|name| sorter.answers(name));
        if sorter.learned {
            sorter.sets = self.scopes.of(workload);
            self.relearned(workload);
        }
        Sorted {
            sets: sorter.sets,
            wanted,
            refused,
            passing: sorter.beyond > 0,
        }
    }
}

/// Sorts the names of one proxy.
struct Sorter<'a> {
    scopes: &'a Scopes,
    picture: &'a Picture,
    workload: &'a WorkloadRef,
    learns: bool,
    recent: Recent,
    now: Seconds,
    /// What the workload held at first.
    sets: Arc<Sets>,
    /// Whether it holds more by now.
    learned: bool,
    /// How many names are beyond what it holds.
    beyond: usize,
}

impl Sorter<'_> {
    fn known(&self, at: SocketAddr) -> Option<Destination> {
        self.picture.compiled.destination_at(at)
    }

    fn answers(&mut self, name: &Name) -> bool {
        let destination = on_demand_address(name).and_then(|at| self.known(at));
        match destination {
            Some(destination) if self.sets.held.contains(&destination) => true,
            Some(_) | None if !self.recent.has(name) => false,
            Some(destination) => self.learn(&destination) != Learned::NoRoom || self.has_room(),
            None => self.has_room(),
        }
    }

    fn learn(&mut self, destination: &Destination) -> Learned {
        if !self.learns || self.sets.held.contains(destination) {
            return Learned::Before;
        }
        let learned = self.scopes.learn(self.workload, destination, self.now);
        self.learned |= learned == Learned::Now;
        learned
    }

    /// Whether there is room for one more beyond what the workload holds.
    fn has_room(&mut self) -> bool {
        self.beyond += 1;
        self.beyond <= MAX_BEYOND
    }
}
