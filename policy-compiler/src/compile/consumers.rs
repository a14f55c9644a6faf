//! Policies of services that lose to those of other namespaces for the callers there.

use std::collections::BTreeMap;

use super::Compiled;
use crate::finding::ObjectRef;
use crate::kinds::policies::traffic_policy::{
    ConsumedPorts, TargetPolicies, lose, lost_to_consumers,
};
use crate::status::ObjectStatus;
use crate::world::{NamespacedName, Port, Protocol};

impl<'a> ConsumedPorts<'a> for &'a Compiled {
    fn of_requests(&self, service: &NamespacedName) -> Vec<Port> {
        let service = self.world.services.get(service).into_iter();
        let ports = service.flat_map(|service| service.ports.values());
        let ports = ports.filter(|port| port.protocol == Protocol::Http);
        ports.map(|port| port.port).collect()
    }

    fn consumers(&self, service: &NamespacedName, port: Port) -> Vec<&'a TargetPolicies> {
        let validated = &self.validated;
        let consumers = validated.policy_consumers(service, port).into_iter();
        // Callers of bypassed namespaces have no policies.
        let consumers = consumers.filter(|of| !self.settings.bypasses(of));
        let policies = consumers.filter_map(|of| validated.consumer_policies(service, port, of));
        policies.collect()
    }
}

impl Compiled {
    /// Adds to the statuses of the policies of a namespace the policies of other namespaces that win for the callers there.
    pub(super) fn lose_to_consumers(
        &self,
        namespace: &str,
        statuses: &mut BTreeMap<ObjectRef, ObjectStatus>,
    ) {
        let own = self.validated.traffic_policies.of_policies(namespace);
        for (object, sentence) in lost_to_consumers(namespace, own, &self) {
            if let Some(status) = statuses.get_mut(object) {
                lose(status, &sentence);
            }
        }
    }
}
