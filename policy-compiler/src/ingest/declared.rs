//! Objects of declared kinds: untyped as they come, read through the type of their spec when they enter the world.

use std::sync::Arc;

use heddle_crds::{Kind, reason};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::unread::{Unread, typed};
use crate::admission::default_spec;
use crate::finding::{Finding, ObjectRef};
use crate::kind::{ObjectKind, Role, with_kinds};
use crate::world::{Declared, Remembered};

/// The field of `status` with the last good spec.
const LAST_GOOD: &str = "lastGood";

/// An object of a declared kind as a file or the API server has it.
#[derive(Clone, Debug, PartialEq)]
pub struct DeclaredObject {
    /// The name of the object.
    pub object: ObjectRef,
    /// `metadata.uid`; `None` in files.
    pub uid: Option<String>,
    /// `metadata.generation`; 0 in files.
    pub generation: i64,
    /// `metadata.creationTimestamp`; `None` in files.
    pub created: Option<Time>,
    /// `spec`, or the default of its kind; null if there is neither.
    pub spec: Value,
    /// `status`; null if there is none.
    pub status: Value,
    /// The past of the object. Reading an object takes it from the status of our kinds; for the others the source sets it.
    pub remembered: Remembered,
    /// The reason for which the API server refuses this object, which is from a file. Such an object must not vanish: an unusable
    /// policy still denies the callers of the pods that it selects.
    pub refused: Option<String>,
}

impl DeclaredObject {
    /// Takes an object apart. `refused` is the reason for which the API server refuses it, which is reported already.
    pub(super) fn new(
        object: &ObjectRef,
        mut value: Value,
        refused: Option<Unread>,
        findings: &mut Vec<Finding>,
    ) -> Self {
        let mut part = |name: &str| value.get_mut(name).map(Value::take).unwrap_or_default();
        let (metadata, mut spec, status) = (part("metadata"), part("spec"), part("status"));
        if spec.is_null() {
            let kind = Kind::by_name(object.kind.as_str());
            spec = kind.and_then(default_spec).unwrap_or_default();
        }
        let (metadata, unread) = match typed::<ObjectMeta>(&metadata) {
            Ok(metadata) => (metadata, None),
            Err(unread) => (ObjectMeta::default(), Some(unread.below("metadata"))),
        };
        findings.extend(unread.as_ref().map(|unread| invalid(object, unread)));
        Self {
            object: object.clone(),
            uid: metadata.uid,
            generation: metadata.generation.unwrap_or_default(),
            created: metadata.creation_timestamp,
            spec,
            remembered: remembered(object.kind, &status),
            status,
            refused: refused.or(unread).map(|unread| unread.to_string()),
        }
    }

    /// Returns the spec with the defaults of its type, as the API server stores it; as it is if it does not fit its type.
    #[must_use]
    pub fn content(&self) -> Value {
        let typed = match self.refused {
            Some(_) => None,
            None => with_defaults(self.object.kind, &self.spec),
        };
        typed.unwrap_or_else(|| self.spec.clone())
    }

    /// Reads the spec through its type. Returns also the findings about it.
    pub(crate) fn read<S: DeserializeOwned>(&self) -> (Declared<S>, Vec<Finding>) {
        let (spec, findings) = self.spec();
        let declared = Declared {
            object: self.object.clone(),
            uid: self.uid.as_deref().map(Arc::from),
            generation: self.generation,
            created: self.created.as_ref().map(|time| time.0.as_second()),
            raw_spec: match &spec {
                Ok(_) => Value::Null,
                Err(_) => self.spec.clone(),
            },
            spec,
        };
        (declared, findings)
    }

    fn spec<S: DeserializeOwned>(&self) -> (Result<S, String>, Vec<Finding>) {
        if let Some(refused) = &self.refused {
            // The reader of the file has reported it.
            return (Err(refused.clone()), Vec::new());
        }
        let unread = match spec(&self.spec) {
            Ok(spec) => return (Ok(spec), Vec::new()),
            Err(unread) => unread,
        };
        let mut findings = self.newer_fields::<S>();
        if findings.is_empty() {
            findings.push(invalid(&self.object, &unread));
        }
        (Err(unread.to_string()), findings)
    }

    /// Returns warnings about the fields for which alone the settings of an API server do not fit: their definition is newer than this version,
    /// and ignoring them opens nothing. In a file, where no definition was asked, they are mistakes.
    fn newer_fields<S: DeserializeOwned>(&self) -> Vec<Finding> {
        let settings = self.object.kind.role() == Role::Settings && self.uid.is_some();
        let Some(kind) = Kind::by_name(self.object.kind.as_str()).filter(|_| settings) else {
            return Vec::new();
        };
        let mut known = self.spec.clone();
        let unknown = kind.remove_unknown(&mut known);
        if spec::<S>(&known).is_err() {
            return Vec::new();
        }
        let message = "this version does not know the field, and ignores it: the definition in the cluster is newer";
        let finding = |path: String| {
            let field = format!("spec.{path}");
            Finding::warning(&self.object, field, reason::UNKNOWN_FIELD, message)
                .fix("run the control plane of the definition's version")
        };
        unknown.into_iter().map(finding).collect()
    }
}

/// Returns the past of an object in the fields of its `status` that the compiler reads.
#[must_use]
pub fn remembered(kind: ObjectKind, status: &Value) -> Remembered {
    let inputs = kind
        .status_inputs()
        .iter()
        .filter(|name| **name != LAST_GOOD);
    let fields = inputs.filter_map(|name| Some(((*name).to_owned(), status.get(*name)?.clone())));
    let last_good = kind.status_inputs().contains(&LAST_GOOD);
    let last_good = status.get(LAST_GOOD).filter(|_| last_good);
    Remembered {
        last_good: last_good.and_then(|good| serde_json::from_value(good.clone()).ok()),
        in_force: fields.collect::<Map<_, _>>(),
    }
}

fn invalid(object: &ObjectRef, unread: &Unread) -> Finding {
    let (path, reason) = (unread.path.as_str(), unread.reason.as_str());
    Finding::error(object, path, "Invalid", reason).fix(&*unread.fix)
}

fn spec<S: DeserializeOwned>(value: &Value) -> Result<S, Unread> {
    if value.is_null() {
        return Err(Unread {
            path: String::new(),
            reason: "missing field `spec`".to_owned(),
            fix: "add the field".to_owned(),
        });
    }
    typed(value).map_err(|unread| unread.below("spec"))
}

fn completed<S: DeserializeOwned + Serialize>(value: &Value) -> Option<Value> {
    serde_json::to_value(spec::<S>(value).ok()?).ok()
}

macro_rules! defaults {
    ($(
        $(#[$doc:meta])*
        $kind:ident: $role:expr, $scope:ident, $resource:expr
            $(=> $field:ident: $spec:ty, [$($input:literal),*])?;
    )*) => {
        fn with_defaults(kind: ObjectKind, spec: &Value) -> Option<Value> {
            $($(if kind == ObjectKind::$kind {
                return completed::<$spec>(spec);
            })?)*
            None
        }
    };
}
with_kinds!(defaults);
