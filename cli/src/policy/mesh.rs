//! The objects that a test looks at, and the identities in them.

use std::collections::{BTreeMap, BTreeSet};

use heddle_policy_compiler::world::SpiffeId;
use heddle_policy_compiler::{Compiled, NamespacedName, World};

use crate::flows::Behind;

/// The end of an account or namespace that no rule and no workload names.
pub const OTHER: &str = "any-other";

/// The objects that a test looks at.
pub struct Mesh<'a> {
    /// The compile.
    pub compiled: &'a Compiled,
    /// Its input.
    pub world: &'a World,
    /// The workloads behind services.
    pub behind: Behind,
    /// The workloads of identities.
    pub workloads: BTreeMap<SpiffeId, BTreeSet<NamespacedName>>,
}

impl<'a> Mesh<'a> {
    /// Looks at all workloads.
    pub fn of(compiled: &'a Compiled, world: &'a World) -> Self {
        let mut workloads = BTreeMap::<_, BTreeSet<_>>::new();
        for proxy in compiled.proxies.values() {
            let of_identity = workloads.entry(proxy.identity.clone()).or_default();
            of_identity.insert(proxy.workload());
        }
        Self {
            compiled,
            world,
            behind: Behind::of(world),
            workloads,
        }
    }

    pub fn trust_domain(&self) -> &str {
        &self.compiled.mesh().trust_domain
    }

    /// All identities that have to be asked about.
    pub fn identities(&self, named: &[SpiffeId]) -> BTreeSet<SpiffeId> {
        let mut identities: BTreeSet<SpiffeId> = self.workloads.keys().cloned().collect();
        identities.extend(named.iter().cloned());
        let mut namespaces: BTreeSet<String> = BTreeSet::from([OTHER.to_owned()]);
        let pods = self.world.pods().keys();
        namespaces.extend(pods.map(|pod| pod.namespace.to_string()));
        for port in self.compiled.served_ports() {
            for rule in &port.authz.rules {
                identities.extend(rule.from.identities.iter().cloned());
                let prefixes = rule.from.identity_prefixes.iter();
                let named = prefixes.filter_map(|prefix| namespace_of(prefix));
                namespaces.extend(named.map(str::to_owned));
            }
        }
        let others = namespaces
            .iter()
            .map(|of| SpiffeId::new(self.trust_domain(), of, OTHER));
        identities.extend(others);
        identities
    }
}

/// The namespace of `spiffe://<trust domain>/ns/<namespace>/...`.
pub fn namespace_of(identity: &str) -> Option<&str> {
    identity.split_once("/ns/")?.1.split('/').next()
}
