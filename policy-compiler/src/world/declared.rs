//! Objects of our own kinds, as they stand in the cluster: perhaps unreadable, perhaps with a last good spec.

use heddle_crds::{LastGood, WeightInForce};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::finding::{ObjectKind, ObjectRef};
use crate::ingest::Unreadable;

/// One object of ours, before any judgement.
#[derive(Clone, Debug, PartialEq)]
pub struct Declared<S> {
    /// Which.
    pub object: ObjectRef,
    /// `metadata.generation`; 0 in files.
    pub generation: i64,
    /// The spec, or why it cannot be read.
    pub spec: Result<S, String>,
    /// For unreadable objects: `spec` as it came.
    pub raw_spec: Value,
    /// `status.lastGood`.
    pub last_good: Option<LastGood>,
    /// `status.weights` of a split.
    pub weights: Vec<WeightInForce>,
}

impl<S: Clone + DeserializeOwned + Serialize> Declared<S> {
    pub(super) fn readable(
        kind: ObjectKind,
        metadata: &ObjectMeta,
        spec: &S,
        last_good: Option<&LastGood>,
    ) -> Option<Self> {
        let default_namespace = if kind == ObjectKind::Mesh {
            ""
        } else {
            "default"
        };
        let object = ObjectRef::new(
            kind,
            metadata.namespace.as_deref().unwrap_or(default_namespace),
            metadata.name.as_deref()?,
        );
        let generation = metadata.generation.unwrap_or_default();
        Some(Self {
            object,
            generation,
            spec: Ok(spec.clone()),
            raw_spec: Value::Null,
            last_good: last_good.cloned(),
            weights: Vec::new(),
        })
    }

    pub(super) fn unreadable(unreadable: &Unreadable) -> Self {
        let part = |pointer: &str| unreadable.value.pointer(pointer).cloned();
        Self {
            object: unreadable.object.clone(),
            generation: unreadable.generation,
            spec: Err(unreadable.reason.clone()),
            raw_spec: part("/spec").unwrap_or_default(),
            last_good: part("/status/lastGood")
                .and_then(|value| serde_json::from_value(value).ok()),
            weights: part("/status/weights")
                .and_then(|value| serde_json::from_value(value).ok())
                .unwrap_or_default(),
        }
    }
}
