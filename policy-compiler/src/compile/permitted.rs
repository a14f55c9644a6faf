//! The destinations that a proxy may have: with `scope.onDemand: Disabled` those that it declares, else all; and addresses that the mesh does
//! not know.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use heddle_crds::OnDemand;

use super::on_demand::OnDemandTarget;
use super::resolved::ResolvedDestination;
use super::{Compiled, Proxy};
use crate::finding::ObjectRef;
use crate::world::{DeclaredDestination, NamespacedName, Port};

impl Compiled {
    /// Whether the scope of a proxy may contain the destination at an address: always, except that with `onDemand: Disabled` the destination must be
    /// declared.
    #[must_use]
    pub fn may_have(&self, proxy: &Proxy, at: SocketAddr) -> bool {
        self.resolve(at)
            .is_some_and(|resolved| self.in_scope(proxy, &resolved))
    }

    /// Whether the scope of a proxy may contain a port of a service, in the same way.
    pub(super) fn may_have_service(
        &self,
        proxy: &Proxy,
        name: &NamespacedName,
        port: Port,
    ) -> bool {
        self.resolve_service(name, port)
            .is_some_and(|resolved| self.in_scope(proxy, &resolved))
    }

    /// The declared destinations: those of the annotation `heddle.dev/destinations`; without it and with `onDemand: Disabled`, the pod's own
    /// namespace.
    pub(super) fn declarations(&self, proxy: &Proxy) -> Vec<DeclaredDestination> {
        let template = &proxy.template;
        match (&template.destinations, self.settings.on_demand) {
            (Some(declared), _) => declared.clone(),
            (None, OnDemand::Enabled) => Vec::new(),
            (None, OnDemand::Disabled) => {
                vec![DeclaredDestination::Namespace(Arc::clone(
                    &template.namespace,
                ))]
            }
        }
    }

    /// Whether the scope of the proxy may contain a destination.
    pub(super) fn in_scope(&self, proxy: &Proxy, resolved: &ResolvedDestination) -> bool {
        if self.settings.on_demand == OnDemand::Enabled {
            return true;
        }
        // A pod is dialed for the sake of the services that lead there, or as one of its namespace.
        let namespace = &resolved.destination.name.namespace;
        let whole = DeclaredDestination::Namespace(Arc::clone(namespace));
        let declared = self.declarations(proxy);
        let mut services = resolved.services();
        declared.contains(&whole) || services.any(|(name, port)| is_declared(&declared, name, port))
    }

    /// Returns whether connections to an address that is neither a service's nor a pod's pass, and the object that is the reason.
    pub(super) fn unknown_address(
        &self,
        proxy: &Proxy,
        at: SocketAddr,
    ) -> (OnDemandTarget, BTreeSet<ObjectRef>) {
        let mesh = self.settings.origin.iter().cloned().collect();
        let namespace = &proxy.template.namespace;
        if self.settings.passes_unknown(namespace) {
            return (OnDemandTarget::PassThrough, mesh);
        }
        if let Some(object) = self.egress(namespace).and_then(|egress| egress.opens(at)) {
            return (
                OnDemandTarget::PassThrough,
                BTreeSet::from([object.clone()]),
            );
        }
        match self.outside_for(proxy, at) {
            Some(service) => (
                OnDemandTarget::PassThrough,
                BTreeSet::from([super::service_ref(service)]),
            ),
            None => (OnDemandTarget::Refuse, mesh),
        }
    }

    /// Whether connections to an address that is neither a service's nor a pod's are refused.
    pub(super) fn refuses_unknown(&self, proxy: &Proxy, at: SocketAddr) -> bool {
        self.unknown_address(proxy, at).0 == OnDemandTarget::Refuse
    }

    /// Returns the headless service for which a proxy may call an address outside the mesh, where unknown addresses are refused.
    fn outside_for(&self, proxy: &Proxy, at: SocketAddr) -> Option<&NamespacedName> {
        let (name, port) = self.headless_at(at)?;
        let in_scope = self.settings.on_demand == OnDemand::Enabled
            || is_declared(&self.declarations(proxy), name, port);
        (in_scope && self.settings.sends_plain(name)).then_some(name)
    }
}

fn is_declared(declared: &[DeclaredDestination], name: &NamespacedName, port: Port) -> bool {
    declared.iter().any(|entry| match entry {
        DeclaredDestination::Service(service, number) => {
            service == name && number.is_none_or(|number| number == port)
        }
        DeclaredDestination::Namespace(namespace) => *namespace == name.namespace,
    })
}
