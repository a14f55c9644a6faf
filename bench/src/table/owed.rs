//! Many changes under way at once: which of them each proxy has.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::Result;

use crate::change::healthy_addresses;
use crate::mesh::{pod_index, service_of_resource};
use crate::objects::Ready;
use crate::sim::Watcher;
use crate::sim::response::{ENDPOINTS, Response};

/// A change reached a proxy.
#[derive(Debug, Clone, Copy)]
pub struct Arrival {
    /// Which.
    pub change: u32,
    /// When.
    pub at: Instant,
    /// When the API server had acknowledged it.
    pub acknowledged: Instant,
}

impl Arrival {
    /// From the one to the other.
    pub fn milliseconds(&self) -> f64 {
        let late = self.at.saturating_duration_since(self.acknowledged);
        late.as_secs_f64() * 1e3
    }
}

/// The changes that have been announced and have not arrived everywhere.
#[derive(Debug)]
pub struct Owed(Mutex<State>);

#[derive(Debug)]
struct State {
    /// Of each service, its changes in their order.
    services: Vec<Vec<OneOf>>,
    acknowledged: Vec<Option<Instant>>,
    /// By proxy and service: how many of the service's changes have arrived.
    progress: HashMap<(usize, usize), usize>,
    arrived: Vec<(u32, Instant)>,
    outstanding: usize,
    worst: usize,
}

#[derive(Debug, Clone, Copy)]
struct OneOf {
    change: u32,
    ready: Ready,
}

impl Owed {
    /// Nothing yet, of so many services.
    pub fn new(services: usize) -> Self {
        Self(Mutex::new(State {
            services: vec![Vec::new(); services],
            acknowledged: Vec::new(),
            progress: HashMap::new(),
            arrived: Vec::new(),
            outstanding: 0,
            worst: 0,
        }))
    }

    /// A change is about to be made that so many proxies must get; its number.
    pub fn announce(&self, service: usize, ready: Ready, users: usize) -> u32 {
        let mut state = self.lock();
        let change = u32::try_from(state.acknowledged.len()).unwrap_or(u32::MAX);
        state.acknowledged.push(None);
        if let Some(changes) = state.services.get_mut(service) {
            changes.push(OneOf { change, ready });
        }
        state.outstanding += users;
        state.worst = state.worst.max(state.outstanding);
        change
    }

    /// The API server has taken it.
    pub fn acknowledge(&self, change: u32, at: Instant) {
        let index = usize::try_from(change).unwrap_or(usize::MAX);
        if let Some(slot) = self.lock().acknowledged.get_mut(index) {
            *slot = Some(at);
        }
    }

    /// How many arrivals are owed now.
    pub fn outstanding(&self) -> usize {
        self.lock().outstanding
    }

    /// How many were owed at the worst moment.
    pub fn worst(&self) -> usize {
        self.lock().worst
    }

    /// All arrivals so far of changes that the API server has acknowledged.
    pub fn arrivals(&self) -> Vec<Arrival> {
        let state = self.lock();
        let arrival = |(change, at): &(u32, Instant)| {
            let index = usize::try_from(*change).ok()?;
            Some(Arrival {
                change: *change,
                at: *at,
                acknowledged: (*state.acknowledged.get(index)?)?,
            })
        };
        state.arrived.iter().filter_map(arrival).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// A proxy has the endpoints of a service in this state: it has that change, and all before it.
    fn arrive(&mut self, proxy: usize, service: usize, ready: Ready, at: Instant) {
        let Some(changes) = self.services.get(service) else {
            return;
        };
        let done = self.progress.entry((proxy, service)).or_default();
        let Some(open) = changes.get(*done..) else {
            return;
        };
        let Some(newest) = open.iter().rposition(|one| one.ready == ready) else {
            return;
        };
        let arrived = open.iter().take(newest + 1);
        self.arrived.extend(arrived.map(|one| (one.change, at)));
        *done += newest + 1;
        self.outstanding = self.outstanding.saturating_sub(newest + 1);
    }
}

impl Watcher for Owed {
    fn response(&self, proxy: usize, at: Instant, response: &Response<'_>) {
        if response.type_url != ENDPOINTS {
            return;
        }
        let mut state = self.lock();
        for resource in &response.resources {
            if let (Some(service), Ok(ready)) =
                (service_of_resource(resource.name), ready(resource.body))
            {
                state.arrive(proxy, service, ready, at);
            }
        }
    }
}

/// Which pods of a service are healthy endpoints.
fn ready(assignment: &[u8]) -> Result<Ready> {
    let mut bits = 0;
    healthy_addresses(assignment, |address| {
        bits |= pod_index(address).map_or(0, |index| 1 << index);
    })?;
    Ok(Ready::from_bits(bits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_state_stands_for_those_before_it() {
        let owed = Owed::new(3);
        let now = Instant::now();
        let first = owed.announce(1, Ready::numbered(9), 2);
        let second = owed.announce(1, Ready::numbered(8), 2);
        owed.acknowledge(first, now);
        owed.acknowledge(second, now);
        assert_eq!((owed.outstanding(), owed.worst()), (4, 4));
        owed.lock().arrive(0, 1, Ready::numbered(9), now);
        owed.lock().arrive(0, 1, Ready::numbered(9), now);
        assert_eq!(owed.outstanding(), 3);
        owed.lock().arrive(0, 1, Ready::numbered(8), now);
        // The other proxy was sent only the last.
        owed.lock().arrive(1, 1, Ready::numbered(8), now);
        owed.lock().arrive(1, 7, Ready::numbered(8), now);
        assert_eq!((owed.outstanding(), owed.arrivals().len()), (0, 4));
        let changes: Vec<u32> = owed.arrivals().iter().map(|a| a.change).collect();
        assert_eq!(changes, [first, second, first, second]);
    }
}
