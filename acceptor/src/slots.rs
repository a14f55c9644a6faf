//! The places of a server's connections: their number, and the source of each.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::counters::Counters;
use crate::options::Bounds;
use crate::reasons::Refused;

/// Displaced connections that have not closed yet; beyond this many, no connection is accepted.
const MAX_LEAVING: usize = 16;

/// The origin of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// An IP address.
    Address(IpAddr),
    /// A user of this machine.
    User(u32),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::User(user) => write!(f, "user {user}"),
        }
    }
}

/// The activity of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SlotState {
    /// No request has come.
    Silent,
    /// No request is running.
    Quiet,
    /// A request is running.
    Busy,
}

/// The places of one server.
pub(crate) struct Slots {
    bounds: Bounds,
    counters: Arc<Counters>,
    table: Mutex<Table>,
    /// A displaced connection has closed.
    left: Notify,
}

#[derive(Default)]
struct Table {
    next: u64,
    /// By age.
    open: BTreeMap<u64, Open>,
    sources: HashMap<Source, Holding>,
    ranks: BTreeSet<Rank>,
    leaving: usize,
}

struct Open {
    source: Source,
    state: SlotState,
    displaced: CancellationToken,
}

/// The connections of one source, each set by age.
#[derive(Default)]
struct Holding {
    silent: BTreeSet<u64>,
    quiet: BTreeSet<u64>,
    busy: BTreeSet<u64>,
}

/// Sources in the order in which they lose a connection; the last one is the first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    displaceable: usize,
    silent: usize,
    source: Source,
}

impl Holding {
    fn all(&self) -> usize {
        self.silent.len() + self.quiet.len() + self.busy.len()
    }

    fn set(&mut self, state: SlotState) -> &mut BTreeSet<u64> {
        match state {
            SlotState::Silent => &mut self.silent,
            SlotState::Quiet => &mut self.quiet,
            SlotState::Busy => &mut self.busy,
        }
    }

    fn rank(&self, source: Source, busy: bool) -> Rank {
        let idle = self.silent.len() + self.quiet.len();
        Rank {
            displaceable: idle + if busy { self.busy.len() } else { 0 },
            silent: self.silent.len(),
            source,
        }
    }

    /// The oldest connection, the silent ones first.
    fn oldest(&self, busy: bool) -> Option<u64> {
        let idle = self.silent.first().or_else(|| self.quiet.first());
        idle.or_else(|| self.busy.first().filter(|_| busy)).copied()
    }
}

impl Slots {
    pub fn new(bounds: Bounds, counters: Arc<Counters>) -> Arc<Self> {
        Arc::new(Self {
            bounds,
            counters,
            table: Mutex::default(),
            left: Notify::new(),
        })
    }

    /// Takes a place, if need be from another connection.
    ///
    /// # Errors
    /// When there is none.
    pub fn enter(self: &Arc<Self>, source: Source) -> Result<ConnectionSlot, Refused> {
        let mut table = self.lock();
        if let Err(refused) = table.make_room(source, &self.bounds, &self.counters) {
            self.counters.refused(refused);
            return Err(refused);
        }
        let number = table.next;
        table.next += 1;
        let displaced = CancellationToken::new();
        let open = Open {
            source,
            state: SlotState::Silent,
            displaced: displaced.clone(),
        };
        table.open.insert(number, open);
        table.change(source, self.bounds.displace_busy, |holding| {
            holding.silent.insert(number);
        });
        self.counters.opened();
        Ok(ConnectionSlot {
            number,
            slots: Arc::clone(self),
            displaced,
        })
    }

    /// Waits until most displaced connections have closed. They close by themselves, without any action of their clients.
    pub async fn settled(&self) {
        while self.lock().leaving >= MAX_LEAVING {
            self.left.notified().await;
        }
    }

    /// A panic elsewhere while the lock was held leaves the table whole.
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn make_room(
        &mut self,
        source: Source,
        bounds: &Bounds,
        counters: &Counters,
    ) -> Result<(), Refused> {
        let own = self.sources.get(&source);
        let held = own.map_or(0, Holding::all);
        if held >= bounds.per_source {
            // A caller that shares the address with silent connections gets in nevertheless.
            let victim = own.and_then(|own| own.oldest(false));
            self.displace(victim.ok_or(Refused::Source)?, bounds, counters);
            return Ok(());
        }
        let places = match held {
            0 => bounds.connections,
            _ => bounds.connections.saturating_sub(bounds.reserved),
        };
        if self.open.len() < places {
            return Ok(());
        }
        let displaceable = own.map_or(0, |own| own.rank(source, bounds.displace_busy).displaceable);
        let most = self.ranks.last().copied().ok_or(Refused::Full)?;
        let victim = if most.source != source && most.displaceable > displaceable {
            // The only connection of a source is not cut in the middle of a request.
            let busy = bounds.displace_busy && most.displaceable > 1;
            self.sources
                .get(&most.source)
                .and_then(|most| most.oldest(busy))
        } else {
            own.and_then(|own| own.oldest(false))
        };
        self.displace(victim.ok_or(Refused::Full)?, bounds, counters);
        Ok(())
    }

    fn displace(&mut self, number: u64, bounds: &Bounds, counters: &Counters) {
        if let Some(open) = self.remove(number, bounds.displace_busy) {
            open.displaced.cancel();
            self.leaving += 1;
            counters.displaced();
        }
    }

    fn remove(&mut self, number: u64, displace_busy: bool) -> Option<Open> {
        let open = self.open.remove(&number)?;
        self.change(open.source, displace_busy, |holding| {
            holding.set(open.state).remove(&number);
        });
        Some(open)
    }

    /// Changes the connections of a source, and its rank with them.
    fn change(&mut self, source: Source, displace_busy: bool, change: impl FnOnce(&mut Holding)) {
        let holding = self.sources.entry(source).or_default();
        self.ranks.remove(&holding.rank(source, displace_busy));
        change(holding);
        if holding.all() == 0 {
            self.sources.remove(&source);
        } else {
            self.ranks.insert(holding.rank(source, displace_busy));
        }
    }
}

/// The place of one connection. Dropping it frees the place.
pub(crate) struct ConnectionSlot {
    number: u64,
    slots: Arc<Slots>,
    displaced: CancellationToken,
}

impl ConnectionSlot {
    /// Waits until a newer connection takes the place.
    pub async fn displaced(&self) {
        self.displaced.cancelled().await;
    }

    /// Records the activity of the connection.
    pub fn set_state(&self, state: SlotState) {
        let mut table = self.slots.lock();
        let Some(open) = table.open.get_mut(&self.number) else {
            return;
        };
        let (source, before) = (open.source, std::mem::replace(&mut open.state, state));
        table.change(source, self.slots.bounds.displace_busy, |holding| {
            holding.set(before).remove(&self.number);
            holding.set(state).insert(self.number);
        });
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        let mut table = self.slots.lock();
        if table
            .remove(self.number, self.slots.bounds.displace_busy)
            .is_none()
        {
            table.leaving = table.leaving.saturating_sub(1);
            self.slots.left.notify_one();
        }
        self.slots.counters.closed();
    }
}

#[cfg(test)]
#[path = "slots_tests.rs"]
mod tests;
