//! A `Mesh` that is not wholly readable: the fields that can be read count, and for the others the last good spec, else the most restrictive values.

use heddle_crds::{Action, BypassedNamespace, Kind, MeshMode, MeshSpec, OnDemand, ScopeSettings};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use serde_path_to_error::Segment;

use crate::kinds::ValidationError;
use crate::kinds::called_servers::FIELDS;

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

/// A name that no host has (RFC 6761, 6.4).
const NO_HOST: &str = "unreadable.invalid";

/// The list of the namespaces with another `outbound`.
const NAMESPACES: &str = "outboundNamespaces";

/// The list of the namespaces that are bypassed.
const BYPASSED: &str = "bypassedNamespaces";

/// The namespaces that a spec bypasses. An element with a field that this version does not know, such as a bound of a newer version, bypasses nothing.
pub(super) fn bypassed(raw: &Value) -> Vec<BypassedNamespace> {
    let elements = raw.get(BYPASSED).and_then(Value::as_array);
    let elements = elements.into_iter().flatten();
    elements
        .filter_map(|element| BypassedNamespace::deserialize(element).ok())
        .collect()
}

/// Takes the elements away that are not readable. None comes from the last good spec.
fn close_bypassed(value: &mut Value, replaced: &mut Vec<String>) {
    let readable = json!(bypassed(value));
    if let Some(list) = value.get_mut(BYPASSED)
        && *list != readable
    {
        *list = readable;
        replaced.push(BYPASSED.to_owned());
    }
}

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
/// - An unknown field in a spec that has all of the guarded fields, as the API server delivers it, changes nothing, unless it is in one of the
///   servers that sidecars call for the mesh itself.
pub(super) fn salvage(
    raw: &Value,
    last: Option<&MeshSpec>,
    check: impl Fn(&MeshSpec) -> Vec<ValidationError>,
) -> Salvaged {
    let last = last.and_then(|last| serde_json::to_value(last).ok());
    let mut value = raw.clone();
    let mut replaced = Vec::new();
    close_bypassed(&mut value, &mut replaced);
    let unknown = Kind::Mesh.remove_unknown(&mut value);
    if !value.is_object() {
        value = Value::Object(Map::new());
        replaced.push("spec".to_owned());
    }
    for _ in 0..MAX_FAULTS {
        let Some(fault) = fault(&value, &check) else {
            break;
        };
        let good = match closed_element(&fault) {
            Some(closed) => Some(closed),
            // Elements of lists have no names: half of one and half of another could allow more than both.
            None if fault.iter().any(|s| matches!(s, Segment::Seq { .. })) => None,
            None => last
                .as_ref()
                .and_then(|last| last.pointer(&pointer(&fault)).cloned()),
        };
        replace(&mut value, &fault, good, &mut replaced);
    }
    let faulty = fault(&value, &check).is_some();
    if faulty {
        value = last.clone().unwrap_or_else(|| json!({}));
        replaced = vec!["spec".to_owned()];
    }
    close_servers(&mut value, &unknown, last.as_ref(), &mut replaced);
    for (path, closed) in GUARDED {
        guard(&mut value, path, closed, last.as_ref(), &mut replaced);
    }
    guard_namespaces(
        &mut value,
        !unknown.is_empty(),
        last.as_ref(),
        &mut replaced,
    );
    Salvaged {
        spec: serde_json::from_value(value).unwrap_or_else(|_| closed()),
        unknown,
        replaced,
    }
}

/// Takes a server that is not wholly readable from the last good spec, else puts one in its place that nothing reaches: an unreadable part may
/// have been the TLS to it, or the authorities that count. Without a server, no shared limit would come into force, also with
/// `failureMode: Closed`.
fn close_servers(
    value: &mut Value,
    unknown: &[String],
    last: Option<&Value>,
    replaced: &mut Vec<String>,
) {
    for [group, field] in FIELDS {
        let name = format!("{group}.{field}");
        let is_inside = |path: &String| {
            let rest = path.strip_prefix(&name);
            rest.is_some_and(|rest| rest.starts_with('.'))
        };
        if !unknown.iter().chain(replaced.iter()).any(is_inside) {
            continue;
        }
        let good = last.and_then(|last| last.get(group)?.get(field)).cloned();
        if let Some(fields) = value.get_mut(group).and_then(Value::as_object_mut) {
            let none = json!({"address": {"host": NO_HOST, "tls": {}}});
            fields.insert(field.to_owned(), good.unwrap_or(none));
        }
        replaced.retain(|path| !is_inside(path));
        replaced.push(name);
    }
}

/// The closed value of a field in an element of a list.
fn closed_element(fault: &[Segment]) -> Option<Value> {
    let [
        Segment::Map { key: list },
        Segment::Seq { .. },
        Segment::Map { key: field },
    ] = fault
    else {
        return None;
    };
    (list == NAMESPACES && field == "outbound").then(|| json!("Deny"))
}

/// Closes all namespaces if it is not readable which ones have another `outbound`, unless the last good spec has the list. A list that is missing
/// beside an unknown field may be misspelt; beside none, the spec is of a version without the list.
fn guard_namespaces(
    value: &mut Value,
    may_be_misspelt: bool,
    last: Option<&Value>,
    replaced: &mut Vec<String>,
) {
    let of_list = |name: &String| name.starts_with(NAMESPACES) && !name.ends_with(".outbound");
    let Some(fields) = value.as_object_mut() else {
        return;
    };
    let missing = may_be_misspelt && !fields.contains_key(NAMESPACES);
    if !missing && !replaced.iter().any(of_list) {
        return;
    }
    match last.and_then(|last| last.get(NAMESPACES)) {
        Some(good) => _ = fields.insert(NAMESPACES.to_owned(), good.clone()),
        None => {
            fields.insert(NAMESPACES.to_owned(), json!([]));
            fields.insert("outbound".to_owned(), json!("Deny"));
            if !replaced.iter().any(|name| name == "outbound") {
                replaced.push("outbound".to_owned());
            }
        }
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
    let token = |segment: &Segment| match segment {
        Segment::Seq { index } => format!("/{index}"),
        Segment::Map { .. } | Segment::Enum { .. } | Segment::Unknown => format!("/{segment}"),
    };
    path.iter().map(token).collect()
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

    #[test]
    fn namespaces_with_an_unreadable_outbound_are_closed() {
        let of = |namespaces: Value, last: Option<&MeshSpec>| {
            let raw = json!({"outbound": "Allow", "outboundNamespaces": namespaces});
            let spec = salvage(&raw, last, super::super::mesh::check).spec;
            serde_json::to_value(spec).unwrap()
        };
        let wrong = of(
            json!([{"namespace": "a", "outbound": "deny"}, {"namespace": "b", "outbound": "Allow"}]),
            None,
        );
        assert_eq!(wrong["outboundNamespaces"][0]["outbound"], "Deny");
        assert_eq!(wrong["outboundNamespaces"][1]["outbound"], "Allow");
        assert_eq!(wrong["outbound"], "Allow");
        let last = MeshSpec {
            outbound_namespaces: vec![heddle_crds::NamespaceOutbound {
                namespace: "c".to_owned(),
                outbound: Action::Deny,
            }],
            ..MeshSpec::default()
        };
        for unreadable in [
            json!([{"name": "a", "outbound": "Deny"}]),
            json!({"a": "Deny"}),
            json!([7]),
        ] {
            let closed = of(unreadable.clone(), None);
            assert_eq!(closed["outbound"], "Deny", "{unreadable}");
            let kept = of(unreadable.clone(), Some(&last));
            assert_eq!(
                kept["outboundNamespaces"][0]["namespace"], "c",
                "{unreadable}"
            );
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
        let raw = json!({"trustDomain": "prod", "clusterDomain": "prod", "mode": "Permissive", "defaultAction": "Allow", "outbound": "Allow", "outboundNamespaces": [],
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
