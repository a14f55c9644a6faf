//! What policies can decide: looked at again where policies, pods or services of a namespace differ.

use std::sync::Arc;

use super::Update;
use crate::compile::outcome::Remarks;
use crate::compile::reach::Reach;
use crate::compile::reports::Source;
use crate::world::{Shape, Workload, in_namespace};

impl Update<'_> {
    /// Notes the pods without a sidecar.
    pub(super) fn bystander(
        &mut self,
        old: Option<&Arc<Workload>>,
        new: Option<&Arc<Workload>>,
        pod: &Arc<str>,
    ) {
        let bare = |pod: Option<&Arc<Workload>>| -> Option<Arc<Shape>> {
            let bare = pod.filter(|pod| pod.alive && !pod.shape.meshed)?;
            Some(Arc::clone(&bare.shape))
        };
        let (old, new) = (bare(old), bare(new));
        if old == new {
            return;
        }
        if let Some(shape) = old {
            let workload = shape.workload();
            let pods = self.new.bystanders.entry(workload.clone()).or_default();
            let by_shape = Arc::make_mut(pods);
            if let Some(names) = by_shape.get_mut(&shape) {
                names.remove(pod);
                if names.is_empty() {
                    by_shape.remove(&shape);
                    self.reach.insert(Arc::clone(&workload.namespace));
                }
            }
            if by_shape.is_empty() {
                self.new.bystanders.remove(&workload);
            }
        }
        if let Some(shape) = new {
            let workload = shape.workload();
            let namespace = Arc::clone(&workload.namespace);
            let pods = self.new.bystanders.entry(workload).or_default();
            let names = Arc::make_mut(pods).entry(shape).or_default();
            if names.is_empty() {
                self.reach.insert(namespace);
            }
            names.insert(Arc::clone(pod));
        }
    }

    /// Looks at the policies of the namespaces concerned.
    pub(super) fn reach(&mut self) {
        let mut namespaces = std::mem::take(&mut self.reach);
        let services = self.definitions.iter();
        namespaces.extend(services.map(|service| Arc::clone(&service.namespace)));
        if self.all {
            namespaces.extend(self.new.policies.keys().cloned());
        }
        for namespace in namespaces {
            let new = self.reach_of(&namespace);
            let old = self.old.reached.get(&namespace);
            if old.map_or(new.is_empty(), |old| **old == new) {
                continue;
            }
            let source = Source::Reach(Arc::clone(&namespace));
            self.new.set_findings(source, &new.findings);
            self.remarked.insert(Arc::clone(&namespace));
            if new.is_empty() {
                self.new.reached.remove(&namespace);
            } else {
                self.new.reached.insert(namespace, Arc::new(new));
            }
        }
    }

    fn reach_of(&self, namespace: &Arc<str>) -> Remarks {
        let Some(judged) = self.new.policies.get(namespace) else {
            return Remarks::default();
        };
        let meshed = in_namespace(&self.new.served, namespace);
        let meshed = meshed.flat_map(|(_, shapes)| shapes.iter());
        let bare = in_namespace(&self.new.bystanders, namespace);
        let services = in_namespace(&self.world.services, namespace);
        let reach = Reach {
            meshed: meshed
                .map(|(shape, served)| (&**shape, &**served))
                .collect(),
            bare: bare
                .flat_map(|(_, shapes)| shapes.keys())
                .map(|shape| &**shape)
                .collect(),
            services: services.map(|(name, service)| (name, &**service)).collect(),
            offline: self.world.offline,
        };
        reach.of(&judged.policies)
    }
}
