//! The past of a declared object that outlives the control plane.

use std::sync::Arc;

use heddle_crds::LastGood;
use serde::Serialize;
use serde_json::{Map, Value};

use super::{ObjectRejection, World};
use crate::finding::ObjectRef;

/// The past of one object. A source reads it from the status of our kinds, and from a store of its own for the kinds of other projects.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Remembered {
    /// The last spec that was good.
    pub last_good: Option<LastGood>,
    /// The fields of the last status that describe a state in force, by name.
    pub in_force: Map<String, Value>,
}

impl Remembered {
    /// Whether nothing is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.last_good.is_none() && self.in_force.is_empty()
    }
}

/// The past of an object and its rejection by Envoy, as far as there are any.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct History<'a> {
    pub(crate) rejection: Option<&'a ObjectRejection>,
    remembered: Option<&'a Remembered>,
}

impl<'a> History<'a> {
    /// The last good spec.
    pub(crate) fn last_good(&self) -> Option<&'a LastGood> {
        self.remembered?.last_good.as_ref()
    }

    /// A field of the last status.
    pub(crate) fn in_force(&self, field: &str) -> Option<&'a Value> {
        self.remembered?.in_force.get(field)
    }
}

impl World {
    /// The history of an object.
    pub(crate) fn history(&self, object: &ObjectRef) -> History<'_> {
        History {
            rejection: self.rejections.get(object).map(Arc::as_ref),
            remembered: self.remembered.get(object).map(Arc::as_ref),
        }
    }
}
