//! A `Mesh` that is not wholly readable: the fields that can be read count, and for the others the last good spec, else the closed values.

use heddle_crds::{Action, Kind, MeshMode, MeshSpec};
use serde_json::{Map, Value, json};
use serde_path_to_error::Segment;

use crate::kinds::Problem;

/// More faults than this, and nothing of the spec is read.
const MAX_FAULTS: usize = 32;

/// Fields that may be the ones meant by an unknown field, with their closed values. Where there is none, the default is closed enough.
const GUARDED: [(&str, Option<&str>); 5] = [
    ("trustDomain", None),
    ("clusterDomain", None),
    ("mode", Some("Strict")),
    ("defaultAction", Some("Deny")),
    ("outbound", Some("Deny")),
];

/// The settings in force of a spec that is not wholly readable.
#[derive(Debug)]
pub(super) struct Salvaged {
    pub(super) spec: MeshSpec,
    /// Unknown fields, which are ignored.
    pub(super) unknown: Vec<String>,
    /// Fields whose value cannot be used, or is missing beside an unknown field, with the value in force.
    pub(super) replaced: Vec<String>,
}

/// Reads as much of a spec as can be read.
///
/// # Guarantees
/// - Nothing is more open than by the fields that were read, the last good spec, or the closed values.
/// - An unknown field in a spec that has all of the guarded fields, as the API server delivers it, changes nothing.
pub(super) fn salvage(
    raw: &Value,
    last: Option<&MeshSpec>,
    check: impl Fn(&MeshSpec) -> Vec<Problem>,
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
    for (field, closed) in GUARDED {
        if value.get(field).is_some() {
            continue;
        }
        let good = last.as_ref().and_then(|last| last.get(field)).cloned();
        let instead = good.or_else(|| closed.map(Value::from));
        if let (Some(fields), Some(instead)) = (value.as_object_mut(), instead) {
            if !replaced.iter().any(|path| path == field) {
                replaced.push(field.to_owned());
            }
            fields.insert(field.to_owned(), instead);
        }
    }
    Salvaged {
        spec: serde_json::from_value(value).unwrap_or_else(|_| closed()),
        unknown,
        replaced,
    }
}

/// The settings where nothing is known of what was meant.
pub(super) fn closed() -> MeshSpec {
    MeshSpec {
        mode: MeshMode::Strict,
        default_action: Action::Deny,
        outbound: Action::Deny,
        ..MeshSpec::default()
    }
}

/// The settings that decide who may call whom, in a few words.
pub(super) fn in_words(spec: &MeshSpec) -> String {
    format!(
        "mode {:?}, defaultAction {:?}, outbound {:?}",
        spec.mode, spec.default_action, spec.outbound
    )
}

/// The place of the first field that cannot be used.
fn fault(value: &Value, check: impl Fn(&MeshSpec) -> Vec<Problem>) -> Option<Vec<Segment>> {
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
    // A value of the last good spec that does not help either is not tried twice.
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

    const CLOSED: &str = "mode Strict, defaultAction Deny, outbound Deny";

    #[test]
    fn an_unknown_field_beside_all_known_ones_changes_nothing() {
        let whole = json!({"trustDomain": "a", "clusterDomain": "b", "mode": "Permissive", "defaultAction": "Allow",
            "outbound": "Deny", "retries": {"max": 2}});
        let (words, unknown, replaced) = read(whole, Some(&strict()));
        assert_eq!(words, "mode Permissive, defaultAction Allow, outbound Deny");
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
            assert_eq!(words, "mode Strict, defaultAction Deny, outbound Allow");
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
            json!("Strict"),
            json!([]),
            json!(null),
        ] {
            let (words, _, replaced) = read(wrong.clone(), None);
            assert_eq!(words, CLOSED, "{wrong}");
            assert!(!replaced.is_empty(), "{wrong}");
            let (words, _, _) = read(wrong.clone(), Some(&strict()));
            assert_eq!(
                words, "mode Strict, defaultAction Deny, outbound Allow",
                "{wrong}"
            );
        }
    }

    #[test]
    fn fields_beside_a_faulty_one_stay() {
        let raw = json!({"trustDomain": "prod", "clusterDomain": "prod", "mode": "Permissive", "defaultAction": "Allow", "outbound": "Allow",
            "certificates": {"lifetime": "1y"}, "scope": {"idleAfter": "1h"}});
        let last = MeshSpec {
            certificates: serde_json::from_value(json!({"lifetime": "1h"})).unwrap(),
            ..strict()
        };
        let salvaged = salvage(&raw, Some(&last), super::super::mesh::check);
        assert_eq!(
            in_words(&salvaged.spec),
            "mode Permissive, defaultAction Allow, outbound Allow"
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
