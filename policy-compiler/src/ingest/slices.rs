//! Endpoint slices, put together to the endpoints of services.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imbl::OrdMap;

use super::endpoint_slice::{SliceEndpoints, tidy};
use crate::world::{Endpoint, EndpointsByPort, NamespacedName};

/// Every slice by its own name, and the endpoints of each service from its slices.
#[derive(Clone, Debug, Default)]
pub(super) struct Slices {
    slices: BTreeMap<NamespacedName, SliceEndpoints>,
    of_service: BTreeMap<NamespacedName, BTreeSet<NamespacedName>>,
    merged: OrdMap<NamespacedName, Arc<EndpointsByPort>>,
}

impl Slices {
    /// Puts a slice in the place of the one of that name, or (None) takes it away.
    pub(super) fn put(&mut self, name: &NamespacedName, slice: Option<SliceEndpoints>) {
        let old = self.slices.get(name).map(|old| old.service.clone());
        if let (Some(service), Some(new)) = (&old, &slice)
            && *service != new.service
        {
            self.put(name, None);
        }
        let Some(service) = slice.as_ref().map(|s| s.service.clone()).or(old) else {
            return;
        };
        if slice.is_some() && self.slices.get(name) == slice.as_ref() {
            return;
        }
        let names = self.of_service.entry(service.clone()).or_default();
        match slice {
            Some(slice) => {
                names.insert(name.clone());
                self.slices.insert(name.clone(), slice);
            }
            None => {
                names.remove(name);
                if names.is_empty() {
                    self.of_service.remove(&service);
                }
                self.slices.remove(name);
            }
        }
        self.merge(&service);
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.slices.is_empty()
    }

    /// The endpoints by service.
    pub(super) fn endpoints(&self) -> OrdMap<NamespacedName, Arc<EndpointsByPort>> {
        self.merged.clone()
    }

    fn merge(&mut self, service: &NamespacedName) {
        let mut parts = self
            .of_service
            .get(service)
            .into_iter()
            .flatten()
            .filter_map(|name| self.slices.get(name));
        let Some(first) = parts.next() else {
            self.merged.remove(service);
            return;
        };
        let mut all = Arc::clone(&first.by_port);
        for part in parts {
            let all = Arc::make_mut(&mut all);
            for (port, list) in &*part.by_port {
                all.entry(Arc::clone(port))
                    .or_default()
                    .extend_from_slice(list);
            }
        }
        if !Arc::ptr_eq(&all, &first.by_port) {
            let all = Arc::make_mut(&mut all);
            tidy(all);
            let slices = || self.of_service.get(service).into_iter().flatten();
            let parts: Vec<_> = slices().filter_map(|n| self.slices.get(n)).collect();
            for (port, list) in all.iter_mut() {
                drop_older_copies(list, &parts, port);
            }
        }
        if self.merged.get(service) != Some(&all) {
            self.merged.insert(service.clone(), all);
        }
    }
}

/// While a controller moves an endpoint it is in two slices, and one copy is outdated. Keeps the copy of the slice that was written last, if
/// the versions of the slices are known.
fn drop_older_copies(list: &mut Vec<Endpoint>, slices: &[&SliceEndpoints], port: &str) {
    let same = |a: &Endpoint, b: &Endpoint| a.ip == b.ip && a.port == b.port && a.pod == b.pod;
    let mut older = BTreeSet::new();
    for copies in list.chunk_by(same).filter(|copies| copies.len() > 1) {
        let written = |copy: &Endpoint| {
            let has = |slice: &&&SliceEndpoints| {
                slice.by_port.get(port).is_some_and(|l| l.contains(copy))
            };
            let versions = slices.iter().filter(has).map(|slice| slice.version);
            // One unknown version makes the order unknown.
            let versions: Vec<Option<u64>> = versions.collect();
            if versions.contains(&None) {
                return None;
            }
            versions.into_iter().flatten().max()
        };
        let all: Vec<Option<u64>> = copies.iter().map(written).collect();
        let newest = all.iter().max().copied().flatten();
        let known = !all.contains(&None) && all.iter().filter(|v| **v == newest).count() == 1;
        if known {
            let outdated = copies.iter().zip(&all).filter(|(_, v)| **v != newest);
            older.extend(outdated.map(|(copy, _)| copy.clone()));
        }
    }
    if !older.is_empty() {
        list.retain(|endpoint| !older.contains(endpoint));
    }
}
