//! The status of the demo's objects, as the control plane writes it to `status.yaml`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::Value;

const POLL: Duration = Duration::from_millis(30);

/// One condition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Condition {
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// One word.
    pub reason: String,
    /// For people.
    pub message: String,
}

/// The status of one object.
#[derive(Debug, Clone)]
pub struct ObjectStatus(Value);

impl ObjectStatus {
    /// A condition; empty if it is not there.
    pub fn condition(&self, kind: &str) -> Condition {
        let conditions = self.0.pointer("/conditions").and_then(Value::as_array);
        let found = conditions
            .into_iter()
            .flatten()
            .find(|c| c.get("type").and_then(Value::as_str) == Some(kind));
        let text = |key: &str| {
            found
                .and_then(|c| c.get(key))
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        Condition {
            status: text("status"),
            reason: text("reason"),
            message: text("message"),
        }
    }

    /// The generation that the status is about.
    pub fn generation(&self) -> i64 {
        self.0
            .pointer("/observedGeneration")
            .and_then(Value::as_i64)
            .unwrap_or(0)
    }

    /// Sidecars that run it, `n/m`.
    pub fn proxies(&self) -> &str {
        self.0
            .pointer("/proxies")
            .and_then(Value::as_str)
            .unwrap_or("?")
    }

    /// Weights in force, `95/5`.
    pub fn weights(&self) -> &str {
        self.0
            .pointer("/weightsInForce")
            .and_then(Value::as_str)
            .unwrap_or("?")
    }
}

/// Reads the file whenever asked.
pub struct StatusFile {
    path: PathBuf,
}

impl StatusFile {
    /// The file need not be there yet.
    pub const fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// The status of an object, if there is one.
    pub fn read(&self, kind: &str, namespace: &str, name: &str) -> Option<ObjectStatus> {
        let text = std::fs::read_to_string(&self.path).ok()?;
        let documents: Vec<Value> = serde_saphyr::from_multiple(&text).ok()?;
        documents
            .iter()
            .find_map(|document| find(document, kind, namespace, name))
            .map(ObjectStatus)
    }

    /// Waits until the status of an object is as wanted; the last one seen is part of the error.
    ///
    /// # Errors
    /// The status is not as wanted in time.
    pub async fn wait(
        &self,
        (kind, namespace, name): (&str, &str, &str),
        within: Duration,
        wanted: impl Fn(&ObjectStatus) -> bool,
    ) -> Result<ObjectStatus> {
        let mut last = None;
        let found = async {
            loop {
                last = self.read(kind, namespace, name);
                if let Some(status) = last.as_ref().filter(|status| wanted(status)) {
                    return status.clone();
                }
                tokio::time::sleep(POLL).await;
            }
        };
        match tokio::time::timeout(within, found).await {
            Ok(status) => Ok(status),
            Err(_) => {
                let seen = last.map_or_else(
                    || "no status at all".to_owned(),
                    |status| status.0.to_string(),
                );
                bail!(
                    "{kind} {namespace}/{name} after {} s: {seen}",
                    within.as_secs()
                )
            }
        }
    }
}

/// An object of a list or a document of its own.
fn find(value: &Value, kind: &str, namespace: &str, name: &str) -> Option<Value> {
    match value {
        Value::Array(items) => items
            .iter()
            .find_map(|item| find(item, kind, namespace, name)),
        Value::Object(map) => {
            let text = |pointer: &str| {
                value
                    .pointer(pointer)
                    .and_then(Value::as_str)
                    .unwrap_or_default()
            };
            if text("/kind") == kind
                && text("/metadata/name") == name
                && text("/metadata/namespace") == namespace
            {
                return map.get("status").cloned();
            }
            map.get("items")
                .and_then(|items| find(items, kind, namespace, name))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}
