//! The objects after a change: the result of `kubectl apply` and `kubectl delete`.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Result, bail};
use heddle_crds::LastGood;
use heddle_policy_compiler::{
    DeclaredObject, KubeObject, ObjectKind, ObjectRef, Remembered, WorldBuilder,
};
use k8s_openapi::api::core::v1::Service;
use serde_json::Value;

use crate::sources::Objects;

/// An object that a change adds, changes or removes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Touched {
    /// The effect on it.
    pub verb: Verb,
    /// Which.
    pub object: ObjectRef,
}

/// The effect of a change on an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    /// It is new.
    Added,
    /// It differs.
    Changed,
    /// It goes.
    Removed,
}

impl Verb {
    /// The verb as a word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Changed => "changed",
            Self::Removed => "removed",
        }
    }
}

/// An object as an option names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named(ObjectRef);

impl std::str::FromStr for Named {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{text:?} is not an object; write KIND/NAMESPACE/NAME, such as AuthPolicy/shop/reviews, or KIND/NAME"
            )
        };
        let mut parts = text.split('/');
        let (kind, first, second) = (parts.next(), parts.next(), parts.next());
        let (Some(kind), Some(first), None) = (kind, first, parts.next()) else {
            return Err(wrong());
        };
        let mut kinds = ObjectKind::watched();
        let kind = kinds.find(|(own, _)| own.as_str().eq_ignore_ascii_case(kind));
        let Some((kind, _)) = kind else {
            let known: Vec<&str> = ObjectKind::watched()
                .map(|(kind, _)| kind.as_str())
                .collect();
            return Err(format!(
                "{text:?} is not an object that the mesh reads; name one of {}",
                known.join(", ")
            ));
        };
        match second {
            _ if first.is_empty() || second == Some("") => Err(wrong()),
            Some(name) => Ok(Self(ObjectRef::new(kind, first, name))),
            None => Ok(Self(ObjectRef::cluster(kind, first))),
        }
    }
}

/// Returns the objects after a change, and the objects that it touches.
///
/// # Errors
/// An object to delete is not there.
pub fn apply(
    before: &Objects,
    change: &Objects,
    deleted: &[Named],
) -> Result<(Objects, Vec<Touched>)> {
    let mut named = BTreeMap::new();
    let mut nameless = Vec::new();
    for object in before.all() {
        match object.reference() {
            Some(reference) => _ = named.insert(reference, object.clone()),
            None => nameless.push(object.clone()),
        }
    }
    let mut touched = Vec::new();
    let mut touch = |verb, object| touched.push(Touched { verb, object });
    for object in change.all() {
        let Some(reference) = object.reference() else {
            nameless.push(object.clone());
            continue;
        };
        let old = named.get(&reference);
        let new = old.map_or_else(|| object.clone(), |old| merged(old, object));
        match old {
            None => touch(Verb::Added, reference.clone()),
            Some(old) if !is_same(old, &new) => touch(Verb::Changed, reference.clone()),
            Some(_) => {}
        }
        named.insert(reference, new);
    }
    for Named(object) in deleted {
        if named.remove(object).is_none() {
            bail!("{object} is not there, so it cannot be deleted; correct --delete");
        }
        touch(Verb::Removed, object.clone());
    }
    touched.sort();
    let objects = named.into_values().chain(nameless).collect();
    Ok((before.with(objects, change), touched))
}

/// The new object with the fields that only the API server sets.
fn merged(old: &KubeObject, new: &KubeObject) -> KubeObject {
    match (old, new) {
        (KubeObject::Declared(old), KubeObject::Declared(new)) => {
            let differs = i64::from(old.content() != new.content());
            let known = old.uid.is_some();
            KubeObject::Declared(Arc::new(DeclaredObject {
                uid: old.uid.clone(),
                created: old.created.clone(),
                generation: if known {
                    old.generation + differs
                } else {
                    new.generation
                },
                status: old.status.clone(),
                remembered: past(old),
                ..(**new).clone()
            }))
        }
        (KubeObject::Service(old), KubeObject::Service(new)) => {
            KubeObject::Service(Arc::new(with_addresses(old, new)))
        }
        _ => new.clone(),
    }
}

/// The past of an object that changes. A status has no last good spec where that is the spec of the object.
fn past(object: &DeclaredObject) -> Remembered {
    let mut past = object.remembered.clone();
    let good = object.status.pointer("/lastGood/generation");
    if past.last_good.is_none() && good.and_then(Value::as_i64) == Some(object.generation) {
        let selected = object.status.pointer("/lastGood/selected");
        past.last_good = Some(LastGood {
            generation: object.generation,
            spec: object.spec.clone(),
            selected: selected.and_then(|labels| serde_json::from_value(labels.clone()).ok()),
        });
    }
    past
}

/// A service keeps the addresses and families that the API server has chosen.
fn with_addresses(old: &Service, new: &Service) -> Service {
    let mut service = new.clone();
    if let (Some(old), Some(spec)) = (&old.spec, &mut service.spec)
        && spec.type_.as_deref() != Some("ExternalName")
    {
        if spec.cluster_ip.is_none() {
            spec.cluster_ip.clone_from(&old.cluster_ip);
            spec.cluster_ips.clone_from(&old.cluster_ips);
        }
        if spec.ip_families.is_none() {
            spec.ip_families.clone_from(&old.ip_families);
        }
    }
    service
}

/// Whether both have the same content for the compiler. The API server fills in defaults, such as the `protocol` of a port, and labels of its
/// own: these are not differences.
fn is_same(old: &KubeObject, new: &KubeObject) -> bool {
    match (old, new) {
        (KubeObject::Declared(old), KubeObject::Declared(new)) => {
            old.content() == new.content() && old.refused == new.refused
        }
        _ => WorldBuilder::reads_alike(old, new),
    }
}

#[cfg(test)]
mod tests {
    use heddle_policy_compiler::ingest::parse_json;
    use serde_json::json;

    use super::*;

    #[test]
    fn the_present_spec_is_the_last_good_one_if_the_status_has_its_generation() {
        let last_good = |good: Value| {
            let object = json!({
                "apiVersion": "heddle.dev/v1alpha1", "kind": "AuthPolicy", "spec": {"rules": []},
                "metadata": {"name": "a", "namespace": "shop", "uid": "u", "generation": 3},
                "status": {"lastGood": good},
            });
            match parse_json("a test", object).0.pop() {
                Some(KubeObject::Declared(object)) => past(&object).last_good,
                _ => panic!("a declared object"),
            }
        };
        let good = last_good(json!({"generation": 3, "selected": {"app": "web"}})).unwrap();
        assert_eq!((good.generation, good.spec), (3, json!({"rules": []})));
        assert_eq!(good.selected.unwrap()["app"], "web");
        assert_eq!(last_good(json!({"generation": 2})), None, "not known here");
        let of_then = last_good(json!({"generation": 2, "json": "{}"})).unwrap();
        assert_eq!((of_then.generation, of_then.spec), (2, json!({})));
    }
}
