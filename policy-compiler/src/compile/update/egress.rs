//! Hosts outside the mesh: those that the workloads of a namespace call by name.

use std::sync::Arc;

use super::Update;
use crate::compile::egress::Egress;
use crate::compile::reports::Source;
use crate::compile::units::UnitId;
use crate::dependency::Dependency;
use crate::kind::ObjectKind;
use crate::traffic::ExternalHost;
use crate::validation::inputs::Target;
use crate::world::NamespacedName;

impl Update<'_> {
    /// Compiles the hosts outside the mesh for the workloads of a namespace, or of those that no object names.
    pub(super) fn egress(&mut self, namespace: Option<&Arc<str>>) {
        let key = namespace.cloned();
        let new = self.recorded(&UnitId::Egress(key.clone()), |recorder, compiled| {
            let own = Target::Callers(key.clone());
            let named = compiled.validated.external_services.attached(&own).next();
            let bypassed = namespace.is_some_and(|of| compiled.settings.bypasses(of));
            // Workloads of a bypassed namespace have no policies, whether an object names the namespace or not.
            if named.is_none() && !bypassed {
                return None;
            }
            if key.is_some() {
                recorder.record_for_all_callers(ObjectKind::ExternalService);
            }
            let mut hosts = compiled.validated.external_hosts(namespace).peekable();
            hosts.peek()?;
            let addresses_at = |port| {
                recorder.record_port(port);
                let all = compiled.service_addresses.get(&port);
                all.into_iter().flatten().map(|(ip, _)| *ip).collect()
            };
            let policy_of = |host: &ExternalHost| {
                if bypassed {
                    return None;
                }
                recorder.record_of_external(ObjectKind::TrafficPolicy, &host.object);
                let target = Target::External(NamespacedName::of(&host.object));
                let policies = &compiled.validated.traffic_policies;
                policies.attached(&target).find_map(|of| of.of_host(host))
            };
            let settings = &compiled.settings;
            Some(Egress::new(hosts, settings, addresses_at, policy_of))
        });
        let old = self.old.egress.get(&key);
        if old.map(|old| &**old) == new.as_ref() {
            return;
        }
        let findings = new.as_ref().map(|new| new.findings(key.as_ref()));
        self.new
            .set_findings(Source::Egress(key.clone()), &findings.unwrap_or_default());
        match new {
            Some(new) => _ = self.new.egress.insert(key.clone(), Arc::new(new)),
            None => _ = self.new.egress.remove(&key),
        }
        self.touch(Dependency::Egress(key));
    }
}
