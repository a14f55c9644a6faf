//! Endpoint slices, put together to the endpoints of services.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imbl::OrdMap;

use super::{EndpointsByPort, NamespacedName};
use crate::ingest::SliceEndpoints;

/// Every slice by its own name, and what they make of each service.
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
            tidy(Arc::make_mut(&mut all));
        }
        if self.merged.get(service) != Some(&all) {
            self.merged.insert(service.clone(), all);
        }
    }
}

/// Sorts, and takes out what is there twice: while a slice is being split, an endpoint may be in two of them for a moment.
pub(crate) fn tidy(endpoints: &mut EndpointsByPort) {
    for list in endpoints.values_mut() {
        list.sort();
        list.dedup_by(|a, b| a.ip == b.ip && a.port == b.port);
        list.shrink_to_fit();
    }
}
