//! Converts the compiler's parts for the discovery server. One part of the compiler is one part of the server, shared by
//! all views that contain it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use heddle_policy_compiler as policy;
use heddle_policy_compiler::ObjectRef;
use heddle_xds_server as xds;

/// A part as both sides know it.
#[derive(Debug)]
pub struct Part {
    /// With the objects that each resource comes from.
    pub policy: Arc<policy::Part>,
    /// The same resources for the wire.
    pub wire: Arc<xds::Part>,
    /// The policies that its resources come from.
    pub objects: Vec<ObjectRef>,
}

/// The parts in use.
#[derive(Debug, Default)]
pub(super) struct Parts {
    /// By address: an entry that lives holds the compiler's part, so that no other can have its address.
    known: Mutex<HashMap<usize, Weak<Part>>>,
}

impl Parts {
    pub(super) fn of(&self, policy: &Arc<policy::Part>) -> Arc<Part> {
        let address = Arc::as_ptr(policy).addr();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(part) = known.get(&address).and_then(Weak::upgrade) {
            return part;
        }
        let part = Arc::new(convert(policy));
        known.insert(address, Arc::downgrade(&part));
        part
    }

    /// Drops the parts that are in no view.
    pub(super) fn prune(&self) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, part| part.strong_count() > 0);
    }
}

fn convert(policy: &Arc<policy::Part>) -> Part {
    let mut objects: Vec<ObjectRef> = policy
        .resources
        .iter()
        .flat_map(|resource| resource.origins.iter())
        .filter(|object| object.kind.is_policy())
        .cloned()
        .collect();
    objects.sort();
    objects.dedup();
    let resources = policy
        .resources
        .iter()
        .map(|resource| Arc::new(wire(resource)));
    Part {
        wire: Arc::new(xds::Part {
            resources: resources.collect(),
        }),
        policy: Arc::clone(policy),
        objects,
    }
}

fn wire(resource: &policy::Resource) -> xds::Resource {
    xds::Resource {
        key: resource.key.clone(),
        version: Arc::clone(&resource.version),
        body: resource.body.clone(),
        requires: resource.requires.clone(),
        empty: resource.empty,
    }
}
