//! A `Mesh` that is not wholly readable: the fields that can be read count, and for the others the last good spec, else the most restrictive values.

use heddle_crds::{Action, Kind, MeshMode, MeshSpec, OnDemand, ScopeSettings};
use serde_json::{Map, Value, json};
use serde_path_to_error::Segment;

use crate::kinds::ValidationError;

/// More faults than this, and nothing of the spec is read.
const MAX_FAULTS: usize = 32;

/// Fields about access, which a misspelt field may have been meant to set, with their closed (most restrictive) values. A field
/// without one has a default that opens nothing.
/// `every_field_that_opens_is_closed_when_unreadable` (`tests/never_open.rs`) compares this list with the schema.
const GUARDED: [(&[&str], Option<&str>); 7] = [
    (&["trustDomain"], None),
    (&["clusterDomain"], None),
    (&["mode"], Some("Strict")),
    (&["defaultAction"], Some("Deny")),
    (&["outbound"], Some("Deny")),
    (&["plainDestinations"], None),
    (&["scope", "onDemand"], Some("Disabled")),
];

/// The settings in force of a spec that is not wholly readable.
#[derive(Debug)]
pub(super) struct Salvaged {
    pub(super) spec: MeshSpec,
    /// Unknown fields, which are ignored.
    pub(super) unknown: Vec<String>,
    /// Fields with a value that cannot be used, or that are missing beside an unknown field, with the value in force.
    pub(super) replaced: Vec<String>,
}

/// Reads as much of a spec as can be read.
///
/// # Guarantees
/// - The result allows no more than the fields that were read, the last good spec and the closed values allow.
/// - An unknown field in a spec that has all of the guarded fields, as the API server delivers it, changes nothing.
pub(super) fn salvage(
    raw: &Value,
    last: Option<&MeshSpec>,
    check: impl Fn(&MeshSpec) -> Vec<ValidationError>,
) -> Salvaged {
    let last = last.and_then(|last| serde_json::to_value(last).ok());
    let mut value = raw.clone();
    let unknown = Kind::Mesh.remove_unknown(&mut value);
    let mut replaced = Vec::new();
    if !value.is_object() {
        value = Value::Object(Map::new());
        replaced.push("spec".to_owned());
    }
    for _ in 0..MAX_FAULTS {
        let Some(fault) = fault(&value, &check) else {
            break;
        };
        let good = last
            .as_ref()
            .and_then(|last| last.pointer(&pointer(&fault)));
        replace(&mut value, &fault, good.cloned(), &mut replaced);
    }
    let faulty = fault(&value, &check).is_some();
    if faulty {
        value = last.clone().unwrap_or_else(|| json!({}));
        replaced = vec!["spec".to_owned()];
    }
    for (path, closed) in GUARDED {
        guard(&mut value, path, closed, last.as_ref(), &mut replaced);
    }
    Salvaged {
        spec: serde_json::from_value(value).unwrap_or_else(|_| closed()),
        unknown,
        replaced,
    }
}

/// Puts the value of the last good spec, else the closed value, into a field that is missing.
fn guard(
    value: &mut Value,
    path: &[&str],
    closed: Option<&str>,
    last: Option<&Value>,
    replaced: &mut Vec<String>,
) {
    let pointer: String = path.iter().map(|key| format!("/{key}")).collect();
    if value.pointer(&pointer).is_some() {
        return;
    }
    let good = last.and_then(|last| last.pointer(&pointer)).cloned();
    let Some(instead) = good.or_else(|| closed.map(Value::from)) else {
        return;
    };
    let Some((field, above)) = path.split_last() else {
        return;
    };
    let mut parent = value;
    for key in above {
        let Some(fields) = parent.as_object_mut() else {
            return;
        };
        parent = fields.entry(*key).or_insert_with(|| json!({}));
    }
    if let Some(fields) = parent.as_object_mut() {
        fields.insert((*field).to_owned(), instead);
        let name = path.join(".");
        if !replaced.contains(&name) {
            replaced.push(name);
        }
    }
}

/// The settings of a spec of which no field can be read.
pub(super) fn closed() -> MeshSpec {
    MeshSpec {
        mode: MeshMode::Strict,
        default_action: Action::Deny,
        outbound: Action::Deny,
        scope: ScopeSettings {
            on_demand: OnDemand::Disabled,
            ..ScopeSettings::default()
        },
        ..MeshSpec::default()
    }
}

/// The settings that decide about access, for a status message.
pub(super) fn in_words(spec: &MeshSpec) -> String {
    format!(
        "mode {:?}, defaultAction {:?}, outbound {:?}, scope.onDemand {:?}",
        spec.mode, spec.default_action, spec.outbound, spec.scope.on_demand
    )
}

/// The place of the first field that cannot be used.
fn fault(value: &Value, check: impl Fn(&MeshSpec) -> Vec<ValidationError>) -> Option<Vec<Segment>> {
    let key = |key: &str| Segment::Map {
        key: key.to_owned(),
    };
    match serde_path_to_error::deserialize::<_, MeshSpec>(value) {
        Ok(spec) => {
            let problem = check(&spec).into_iter().next()?;
            let path = problem
                .field
                .trim_start_matches("spec")
                .trim_start_matches('.');
            Some(path.split('.').map(key).collect())
        }
        Err(error) => {
            let path = error.path().iter();
            let named = path.take_while(|s| matches!(s, Segment::Map { .. } | Segment::Seq { .. }));
            Some(named.cloned().collect())
        }
    }
}

fn pointer(path: &[Segment]) -> String {
    path.iter().map(|segment| format!("/{segment}")).collect()
}

/// Puts a good value in the place of a faulty one, or takes the faulty one away.
fn replace(value: &mut Value, path: &[Segment], good: Option<Value>, replaced: &mut Vec<String>) {
    let name: Vec<String> = path.iter().map(ToString::to_string).collect();
    let name = name.join(".");
    // If the last good value was tried for this field already, the field is removed.
    let good = good.filter(|_| !replaced.contains(&name));
    let (Some(last), above) = (path.last(), path.get(..path.len().saturating_sub(1))) else {
        *value = Value::Object(Map::new());
        replaced.push("spec".to_owned());
        return;
    };
    let parent = value.pointer_mut(&pointer(above.unwrap_or_default()));
    match (parent, last) {
        (Some(Value::Object(fields)), Segment::Map { key }) => match good {
            Some(good) => _ = fields.insert(key.clone(), good),
            None => _ = fields.remove(key),
        },
        (Some(Value::Array(items)), Segment::Seq { index }) if *index < items.len() => {
            items.remove(*index);
        }
        _ => *value = Value::Object(Map::new()),
    }
    if !replaced.contains(&name) {
        replaced.push(name);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn read(raw: Value, last: Option<&MeshSpec>) -> (String, Vec<String>, Vec<String>) {
        let salvaged = salvage(&raw, last, super::super::mesh::check);
        (
            in_words(&salvaged.spec),
            salvaged.unknown,
            salvaged.replaced,
        )
    }

    fn strict() -> MeshSpec {
        MeshSpec {
            mode: MeshMode::Strict,
            default_action: Action::Deny,
            ..MeshSpec::default()
        }
    }

    const CLOSED: &str = "mode Strict, defaultAction Deny, outbound Deny, scope.onDemand Disabled";
    const LAST_GOOD: &str =
        "mode Strict, defaultAction Deny, outbound Allow, scope.onDemand Enabled";

    #[test]
    fn an_unknown_field_beside_all_known_ones_changes_nothing() {
        let whole = json!({"trustDomain": "a", "clusterDomain": "b", "mode": "Permissive", "defaultAction": "Allow",
            "outbound": "Deny", "plainDestinations": [], "scope": {"onDemand": "Enabled"}, "retries": {"max": 2}});
        let (words, unknown, replaced) = read(whole, Some(&strict()));
        assert_eq!(
            words,
            "mode Permissive, defaultAction Allow, outbound Deny, scope.onDemand Enabled"
        );
        assert_eq!((unknown, replaced), (vec!["retries".to_owned()], vec![]));
    }

    #[test]
    fn a_missing_field_beside_an_unknown_one_is_that_of_the_last_good_spec_or_closed() {
        for misspelt in [
            json!({"mod": "Strict"}),
            json!({"Mode": "Strict", "defaultaction": "Deny"}),
        ] {
            assert_eq!(read(misspelt.clone(), None).0, CLOSED);
            let (words, _, _) = read(misspelt, Some(&strict()));
            assert_eq!(words, LAST_GOOD);
        }
    }

    #[test]
    fn a_value_that_cannot_be_read_is_that_of_the_last_good_spec_or_closed() {
        for wrong in [
            json!({"mode": "strict"}),
            json!({"mode": 3}),
            json!({"mode": null}),
            json!({"mode": "Strict", "certificates": {"lifetime": "1y"}}),
            json!({"mode": "Strict", "certificates": "24h"}),
            json!({"mode": "Strict", "trustDomain": "NO DOMAIN"}),
            json!({"mode": "Strict", "telemetry": {"metricsReaders": [{"namespace": "m"}]}}),
            json!({"mode": "Strict", "proxy": {"concurrency": 0}}),
            json!({"mode": "Strict", "scope": {"onDemand": "disabled"}}),
            json!({"mode": "Strict", "scope": "Disabled"}),
            json!({"mode": "Strict", "scope": null}),
            json!("Strict"),
            json!([]),
            json!(null),
        ] {
            let (words, _, replaced) = read(wrong.clone(), None);
            assert_eq!(words, CLOSED, "{wrong}");
            assert!(!replaced.is_empty(), "{wrong}");
            let (words, _, _) = read(wrong.clone(), Some(&strict()));
            assert_eq!(words, LAST_GOOD, "{wrong}");
        }
    }

    #[test]
    fn fields_beside_a_faulty_one_stay() {
        let raw = json!({"trustDomain": "prod", "clusterDomain": "prod", "mode": "Permissive", "defaultAction": "Allow", "outbound": "Allow",
            "plainDestinations": [], "certificates": {"lifetime": "1y"}, "scope": {"idleAfter": "1h", "onDemand": "Enabled"}});
        let last = MeshSpec {
            certificates: serde_json::from_value(json!({"lifetime": "1h"})).unwrap(),
            ..strict()
        };
        let salvaged = salvage(&raw, Some(&last), super::super::mesh::check);
        assert_eq!(
            in_words(&salvaged.spec),
            "mode Permissive, defaultAction Allow, outbound Allow, scope.onDemand Enabled"
        );
        assert_eq!(salvaged.spec.trust_domain, "prod");
        assert_eq!(
            salvaged.spec.certificates.lifetime,
            last.certificates.lifetime
        );
        assert_eq!(
            salvaged.spec.scope.idle_after,
            serde_json::from_value(json!("1h")).unwrap()
        );
        assert_eq!(salvaged.replaced, ["certificates.lifetime"]);
    }
}
