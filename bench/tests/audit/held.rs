//! The endpoints that the simulated proxies hold, by the responses sent to them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use heddle_bench::change::healthy_addresses;
use heddle_bench::sim::Watcher;
use heddle_bench::sim::proxy::Proxy;
use heddle_bench::sim::response::{ENDPOINTS, Response};

/// A resource in one version.
type Named = (Box<str>, Box<str>);

/// The endpoints that a proxy holds: the healthy addresses of each endpoints' resource.
pub type Endpoints = BTreeMap<String, BTreeSet<IpAddr>>;

/// Keeps the endpoints that were sent, and the proxies that hold them.
#[derive(Debug, Default)]
pub struct Held(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    bodies: HashMap<Named, BTreeSet<IpAddr>>,
    /// Of each proxy.
    proxies: BTreeMap<usize, Vec<Named>>,
}

impl Held {
    /// The endpoints that a proxy holds; an error names a resource that it holds and was never sent.
    pub fn by(&self, number: usize) -> Result<Endpoints, String> {
        let state = self.lock();
        let held = state.proxies.get(&number).into_iter().flatten();
        held.map(|named| {
            let body = state.bodies.get(named);
            let body = body.ok_or_else(|| format!("{} in a version never sent", named.0))?;
            Ok((named.0.to_string(), body.clone()))
        })
        .collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watcher for Held {
    fn response(&self, _proxy: usize, _at: Instant, response: &Response<'_>) {
        if response.type_url != ENDPOINTS {
            return;
        }
        let mut state = self.lock();
        for resource in &response.resources {
            let named = (resource.name.into(), resource.version.into());
            let mut addresses = BTreeSet::new();
            let read =
                healthy_addresses(resource.body, |ip| addresses.extend(ip.parse::<IpAddr>()));
            // A resource that cannot be read counts as never sent.
            if read.is_ok() {
                state.bodies.insert(named, addresses);
            }
        }
    }

    fn holds(&self, number: usize, proxy: &Proxy) {
        let held = proxy.held(ENDPOINTS);
        let held = held.map(|(name, version)| (name.into(), version.into()));
        let held = held.collect();
        self.lock().proxies.insert(number, held);
    }
}
