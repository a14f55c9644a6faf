//! The reach of policies: computed again where policies, pods or services of a namespace differ.

use std::sync::Arc;

use super::Update;
use crate::compile::outcome::Remarks;
use crate::compile::reach::Reach;
use crate::compile::reports::Source;
use crate::validation::inputs::{Target, UnitInput};
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
            let mut gone = false;
            if let Some(names) = by_shape.get_mut(&shape) {
                names.remove(pod);
                gone = names.is_empty();
            }
            if gone {
                by_shape.remove(&shape);
            }
            if by_shape.is_empty() {
                self.new.bystanders.remove(&workload);
            }
            if gone {
                self.changed(&UnitInput::Pods(workload.namespace));
            }
        }
        if let Some(shape) = new {
            let workload = shape.workload();
            let pods = self.new.bystanders.entry(workload.clone()).or_default();
            let names = Arc::make_mut(pods).entry(shape).or_default();
            let first = names.is_empty();
            names.insert(Arc::clone(pod));
            if first {
                self.changed(&UnitInput::Pods(workload.namespace));
            }
        }
    }

    /// Compares the policies of a namespace with its pods.
    pub(super) fn reach(&mut self, namespace: &Arc<str>) {
        let new = self.reach_of(namespace);
        let old = self.old.reached.get(namespace);
        if old.map_or(new.is_empty(), |old| **old == new) {
            return;
        }
        let source = Source::Reach(Arc::clone(namespace));
        self.new.set_findings(source, &new.findings);
        self.changed(&UnitInput::Feedback(Arc::clone(namespace)));
        if new.is_empty() {
            self.new.reached.remove(namespace);
        } else {
            self.new
                .reached
                .insert(Arc::clone(namespace), Arc::new(new));
        }
    }

    fn reach_of(&self, namespace: &Arc<str>) -> Remarks {
        let target = Target::Pods(Arc::clone(namespace));
        let policies = self.new.validated.policies.attached(&target).flatten();
        let mut policies = policies.peekable();
        if policies.peek().is_none() {
            return Remarks::default();
        }
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
        reach.of(policies)
    }
}
