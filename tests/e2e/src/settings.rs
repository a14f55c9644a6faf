//! Settings of the shared Mesh for the time of a test.

use std::time::Duration;

use anyhow::Result;
use serde_json::{Map, Value, json};

use crate::{Kubectl, eventually};

const PATIENCE: Duration = Duration::from_secs(30);

/// Fields of the Mesh, put back when dropped. Entries of lists come beside those of others, also of tests at the same time.
///
/// Not by server-side apply, for `kubectl` gives the fields of another `kubectl apply` to the manager that comes next.
#[derive(Debug)]
pub struct Settings {
    set: Value,
    before: Value,
}

impl Settings {
    /// Sets fields of the spec.
    ///
    /// # Errors
    /// There is no Mesh, or the API server refuses the fields.
    pub fn apply(set: Value) -> Result<Self> {
        let before = edit(|spec| with(&set, spec))?;
        Ok(Self { set, before })
    }
}

impl Drop for Settings {
    fn drop(&mut self) {
        let _ = edit(|spec| without(&self.set, spec, &self.before));
    }
}

/// Changes the spec by the merge patch that a function makes of it, and returns the spec before.
fn edit(patch: impl Fn(&Value) -> Value) -> Result<Value> {
    let cluster = Kubectl::cluster();
    // Another change in between is refused by the version, and looked at in the next attempt.
    eventually("the change of the Mesh", PATIENCE, || {
        let mesh = cluster.get("mesh/default")?;
        let version = mesh.pointer("/metadata/resourceVersion").cloned();
        let spec = mesh.get("spec").cloned().unwrap_or_default();
        let patch = json!({"metadata": {"resourceVersion": version}, "spec": patch(&spec)});
        let patch = patch.to_string();
        let args = ["patch", "mesh", "default", "--type=merge", "-p", &patch];
        cluster.run(&args).map(|_| Some(spec))
    })
}

/// The fields that are set, with the entries that lists have already.
fn with(set: &Value, present: &Value) -> Value {
    match (set, present) {
        (Value::Object(set), present) => each(set, |name, set| with(set, &present[name])),
        (Value::Array(set), Value::Array(present)) => {
            let others = present.iter().filter(|entry| !set.contains(entry));
            others.chain(set).cloned().collect()
        }
        (set, _) => set.clone(),
    }
}

/// The fields without those that were set: lists without the entries, all others as before, or gone.
fn without(set: &Value, present: &Value, before: &Value) -> Value {
    match (set, present) {
        (Value::Object(set), present) if before.is_object() => {
            each(set, |name, set| without(set, &present[name], &before[name]))
        }
        (Value::Array(set), Value::Array(present)) => {
            let others = present.iter().filter(|entry| !set.contains(entry));
            others.cloned().collect()
        }
        _ => before.clone(),
    }
}

fn each(fields: &Map<String, Value>, value: impl Fn(&str, &Value) -> Value) -> Value {
    let fields = fields.iter();
    let fields = fields.map(|(name, field)| (name.clone(), value(name, field)));
    Value::Object(fields.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_come_back_as_they_were_and_lists_keep_the_entries_of_others() {
        let set = json!({
            "mode": "Observe", "certificates": {"lifetime": "1m"}, "outboundNamespaces": [{"namespace": "a"}],
            "rateLimits": {"server": {"service": {"name": "a"}}}, "telemetry": {"omitMetricLabels": ["route"]},
        });
        let before = json!({
            "mode": "Strict", "certificates": {"lifetime": "24h"}, "outboundNamespaces": [{"namespace": "b"}],
            "rateLimits": {"timeout": "1s"}, "telemetry": {},
        });
        let patch = with(&set, &before);
        let entries = |names: &[&str]| -> Value {
            names
                .iter()
                .map(|name| json!({"namespace": name}))
                .collect()
        };
        let mut expected = set.clone();
        expected["outboundNamespaces"] = entries(&["b", "a"]);
        assert_eq!(patch, expected);

        let mut present = patch;
        present["outboundNamespaces"] = entries(&["b", "a", "c"]);
        let back = json!({
            "mode": "Strict", "certificates": {"lifetime": "24h"}, "outboundNamespaces": entries(&["b", "c"]),
            "rateLimits": {"server": null}, "telemetry": {"omitMetricLabels": []},
        });
        assert_eq!(without(&set, &present, &before), back);
        assert_eq!(without(&set, &Value::Null, &Value::Null), Value::Null);
    }
}
