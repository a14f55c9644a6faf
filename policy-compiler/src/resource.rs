//! The output of the compiler: Envoy resources as bytes, with their version, their requirements and their origins.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
pub use heddle_xds_types::{ResourceKey, ResourceKind};
use sha2::{Digest, Sha256};

use crate::dependency::Dependency;
use crate::finding::ObjectRef;

/// One Envoy resource, ready to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Kind and name.
    pub key: ResourceKey,
    /// The first 16 hex digits of the SHA-256 of `body`: equal bytes, equal version, on every replica and after every restart.
    pub version: Arc<str>,
    /// The serialized message (not the `Any` around it).
    pub body: Bytes,
    /// The resources that the proxy must have acknowledged before this one is sent to it.
    pub requires: Vec<ResourceKey>,
    /// Endpoints without any address. A proxy that has some keeps them until its routes lead elsewhere.
    pub empty: bool,
    /// The objects that decided the content of this resource.
    pub origins: BTreeSet<ObjectRef>,
    /// The objects of each rule, where the routes of several rules are merged into the resource.
    pub rules: Vec<RuleOrigins>,
}

/// One route of a merged resource, with the objects of its rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RuleOrigins {
    /// The name of the route: the rule, and its policies.
    pub id: Arc<str>,
    /// The place of the virtual host: `VirtualHosts[0]` in a text of Envoy's.
    pub host: usize,
    /// The place of the route in it: `Routes[3]` in a text of Envoy's.
    pub route: usize,
    /// The objects that decided the rule.
    pub objects: BTreeSet<ObjectRef>,
}

impl Resource {
    pub(crate) fn new(
        kind: ResourceKind,
        name: &str,
        body: Vec<u8>,
        requires: Vec<ResourceKey>,
        origins: BTreeSet<ObjectRef>,
    ) -> Arc<Self> {
        Self::merged(kind, name, body, requires, origins, Vec::new())
    }

    /// Returns the endpoints of a cluster, which require nothing: Envoy asks for them once it has the cluster, and acknowledges the cluster once
    /// it has them.
    pub(crate) fn endpoints(
        name: &str,
        body: Vec<u8>,
        empty: bool,
        origins: BTreeSet<ObjectRef>,
    ) -> Arc<Self> {
        let (kind, requires) = (ResourceKind::Endpoints, Vec::new());
        let mut resource = Self::new(kind, name, body, requires, origins);
        Arc::make_mut(&mut resource).empty = empty;
        resource
    }

    /// Returns a resource with the routes of several rules.
    pub(crate) fn merged(
        kind: ResourceKind,
        name: &str,
        body: Vec<u8>,
        mut requires: Vec<ResourceKey>,
        origins: BTreeSet<ObjectRef>,
        rules: Vec<RuleOrigins>,
    ) -> Arc<Self> {
        requires.sort();
        requires.dedup();
        let version = version_of(&body);
        Arc::new(Self {
            key: ResourceKey::new(kind, name),
            version,
            body: body.into(),
            requires,
            empty: false,
            origins,
            rules,
        })
    }

    /// Returns the objects of the rules that a text of Envoy's names, by the name of a route or by its place; all origins of
    /// the resource if the text names no rule.
    #[must_use]
    pub fn origins_in(&self, text: &str) -> BTreeSet<&ObjectRef> {
        let (host, route) = (place(text, "VirtualHosts["), place(text, "Routes["));
        let named = self.rules.iter().filter(|rule| {
            let at_place = route == Some(rule.route) && host.unwrap_or(0) == rule.host;
            at_place || names(text, &rule.id)
        });
        let objects: BTreeSet<&ObjectRef> = named.flat_map(|rule| &rule.objects).collect();
        match objects.is_empty() {
            true => self.origins.iter().collect(),
            false => objects,
        }
    }
}

/// Returns the number after a word such as `Routes[`.
fn place(text: &str, before: &str) -> Option<usize> {
    let (_, rest) = text.split_once(before)?;
    rest.split_once(']')?.0.parse().ok()
}

/// Whether a text contains a rule's id, and not only the beginning of a longer one.
fn names(text: &str, id: &str) -> bool {
    let mut rest = text.split(id).skip(1);
    rest.any(|after| !after.starts_with(|c: char| c.is_ascii_digit()))
}

fn version_of(body: &[u8]) -> Arc<str> {
    use std::fmt::Write;
    let digest = Sha256::digest(body);
    let mut text = String::with_capacity(16);
    for byte in digest.iter().take(8) {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text.into()
}

/// Resources that stand or fall together. One that is unchanged between compiles, or shared by several proxies, is the very same `Arc`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// The resources. The same resource may be in several parts of a view; then it is the very same `Arc`.
    pub resources: Vec<Arc<Resource>>,
}

/// Everything one proxy should have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// The parts, in the order of their keys.
    pub parts: Vec<Arc<Part>>,
    /// Names that the proxy asked for and shall not get.
    pub absent: BTreeSet<Arc<str>>,
    /// The dependencies of the view: as long as none of them is touched, the view stays unchanged.
    pub depends: BTreeSet<Dependency>,
}

impl View {
    /// The resources of all parts by key.
    #[must_use]
    pub fn resources(&self) -> BTreeMap<ResourceKey, Arc<Resource>> {
        let all = self.parts.iter().flat_map(|part| &part.resources);
        all.map(|resource| (resource.key.clone(), Arc::clone(resource)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ObjectKind;

    fn object(name: &str) -> ObjectRef {
        ObjectRef::new(ObjectKind::TrafficSplit, "shop", name)
    }

    #[test]
    fn a_text_that_names_a_rule_leads_to_its_objects_alone() {
        let rule = |route: usize, name: &str, index: usize| RuleOrigins {
            id: format!("{}/{index}", object(name)).into(),
            host: 0,
            route,
            objects: BTreeSet::from([object(name)]),
        };
        let rules = vec![rule(0, "a", 1), rule(1, "b", 1), rule(2, "c", 10)];
        let origins = ["a", "b", "c", "d"].map(object).into();
        let resource = Resource::merged(ResourceKind::Route, "r", vec![], vec![], origins, rules);
        let found = |text| {
            let objects = resource.origins_in(text).into_iter();
            objects.map(|object| &*object.name).collect::<String>()
        };
        for (text, objects) in [
            ("invalid regex", "abcd"),
            ("route TrafficSplit shop/b/1: no", "b"),
            ("route TrafficSplit shop/c/10: no", "c"),
            ("route TrafficSplit shop/c/1: another rule", "abcd"),
            ("VirtualHosts[0]: failed | caused by Routes[2]: failed", "c"),
            (
                "VirtualHosts[1]: failed | caused by Routes[2]: failed",
                "abcd",
            ),
            ("Routes[9]: failed", "abcd"),
        ] {
            assert_eq!(found(text), objects, "{text}");
        }
    }
}
