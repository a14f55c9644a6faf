//! Values read through a type, with the field that does not fit.

use std::fmt;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::KubeObject;
use crate::finding::Finding;

/// Why a value does not fit its type.
pub(super) struct Unread {
    /// The path of the field, without a leading dot; empty for the value as a whole.
    pub(super) path: String,
    /// The text of the reader.
    pub(super) reason: String,
    /// The instruction to fix it.
    pub(super) fix: String,
}

impl Unread {
    /// The same reason, for a value that stands at this path.
    pub(super) fn below(self, path: &str) -> Self {
        let dot = match self.path.as_str() {
            "" => "",
            below if below.starts_with('[') => "",
            _ if path.is_empty() => "",
            _ => ".",
        };
        Self {
            path: format!("{path}{dot}{}", self.path),
            ..self
        }
    }
}

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        write!(f, "{}; {}", self.reason, self.fix)
    }
}

/// Reads a value through a type.
pub(super) fn typed<T: DeserializeOwned>(value: &Value) -> Result<T, Unread> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        let reason = error.into_inner().to_string();
        // The text of a type of ours has the fix.
        let (reason, fix) = reason
            .split_once("; ")
            .unwrap_or_else(|| (&reason, fix(&reason)));
        Unread {
            path: if path == "." { String::new() } else { path },
            reason: reason.to_owned(),
            fix: fix.to_owned(),
        }
    })
}

/// The fix of a value that serde does not read, by serde's text.
fn fix(reason: &str) -> &'static str {
    if reason.starts_with("missing field") {
        "add the field"
    } else if reason.starts_with("unknown field") {
        "correct or remove the field"
    } else {
        "correct the value"
    }
}

/// An object, if the value holds one that counts, with its findings.
pub(super) type Read = (Option<KubeObject>, Vec<Finding>);
