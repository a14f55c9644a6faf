//! What an update did: whose views may be others now, and how much had to be compiled for it.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::dependency::Dependency;
use crate::resource::Part;
use crate::world::NamespacedName;

/// What differs between a compile and the one it was updated from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Anything may: there was nothing before, or the settings of the mesh changed. `touched` is empty then.
    pub all: bool,
    /// A view none of whose dependencies is here is as it was, but for parts that are replaced.
    pub touched: BTreeSet<Dependency>,
    /// Parts in the place of which others stand now, in every view that is not touched. The keys of their resources are the same.
    pub replaced: Vec<Replaced>,
    /// What it took.
    pub recompiled: Recompiled,
}

/// A service's endpoints, routes or clusters changed, and nothing else: whoever has the one part in view has the other now.
#[derive(Clone, Debug)]
pub struct Replaced {
    /// Views that have the part depend on this service.
    pub service: NamespacedName,
    /// The part as it was.
    pub old: Arc<Part>,
    /// The part as it is.
    pub new: Arc<Part>,
}

/// By identity, as parts are held.
impl PartialEq for Replaced {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.old, &other.old) && Arc::ptr_eq(&self.new, &other.new)
    }
}

impl Eq for Replaced {}

/// Units that were really compiled, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recompiled {
    /// The settings of the mesh.
    pub settings: usize,
    /// Namespaces whose splits were judged.
    pub splits: usize,
    /// Namespaces whose policies were judged.
    pub policies: usize,
    /// Shapes of pods whose server's side was compiled.
    pub inbound: usize,
    /// Services whose admission was summed up.
    pub admissions: usize,
    /// Services whose client's side was compiled.
    pub clients: usize,
    /// Proxies that came, went, or were described anew.
    pub proxies: usize,
}

impl Recompiled {
    /// Every kind with its count.
    #[must_use]
    pub const fn by_kind(&self) -> [(&'static str, usize); 7] {
        [
            ("settings", self.settings),
            ("splits", self.splits),
            ("policies", self.policies),
            ("inbound", self.inbound),
            ("admissions", self.admissions),
            ("clients", self.clients),
            ("proxies", self.proxies),
        ]
    }
}
