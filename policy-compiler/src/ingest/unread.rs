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
            reason: self.reason,
        }
    }
}

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.reason)
    }
}

/// Reads a value through a type.
pub(super) fn typed<T: DeserializeOwned>(value: &Value) -> Result<T, Unread> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        Unread {
            path: if path == "." { String::new() } else { path },
            reason: error.into_inner().to_string(),
        }
    })
}

/// An object, if the value holds one that counts, with its findings.
pub(super) type Read = (Option<KubeObject>, Vec<Finding>);
