//! The resources that a proxy would have by another snapshot than the newest one.

use std::collections::BTreeMap;
use std::sync::Arc;

use heddle_xds_server as xds;
use heddle_xds_server::Name;

use super::{MeshSource, ServedView};
use crate::snapshot::Snapshot;

impl MeshSource {
    /// Returns the versions of the resources that a proxy would have by this snapshot instead of the newest one, for its
    /// current requests.
    #[must_use]
    pub fn versions_by(
        &self,
        snapshot: &Snapshot,
        who: &Name,
    ) -> Option<BTreeMap<xds::ResourceKey, Arc<str>>> {
        let view = self.view_by(snapshot, who)?;
        let resources = view
            .wire
            .parts
            .iter()
            .flat_map(|part| part.resources.iter());
        Some(
            resources
                .map(|resource| (resource.key.clone(), Arc::clone(&resource.version)))
                .collect(),
        )
    }

    /// Returns a resource as a proxy would have it by this snapshot, for its current requests; `None` if the
    /// proxy would not have it.
    #[must_use]
    pub fn resource_by(
        &self,
        snapshot: &Snapshot,
        who: &Name,
        key: &xds::ResourceKey,
    ) -> Option<Arc<heddle_policy_compiler::Resource>> {
        let view = self.view_by(snapshot, who)?;
        let mut resources = view.parts.iter().flat_map(|part| &part.policy.resources);
        resources.find(|resource| resource.key == *key).cloned()
    }

    /// Returns the view of a proxy by this snapshot, for its current requests.
    fn view_by(&self, snapshot: &Snapshot, who: &Name) -> Option<ServedView> {
        let request = self.lock().all.get(who)?.request();
        let proxy = snapshot.compiled.proxies.get(&request.pod)?;
        self.compute(snapshot, proxy, &proxy.workload(), &request, None)
    }
}
