//! Objects with a past: their last good spec, and the weights that their last status has.

use std::collections::BTreeMap;
use std::sync::Arc;

use heddle_policy_compiler::{KubeObject, ObjectKind, ObjectRef, Remembered};
use serde_json::{Map, Value, json};

use crate::cluster;
use crate::pool::reference;

/// Where an object of another project's kind has its past in this test: a source takes it from a store of its own.
const PAST: &str = "past";

/// One object as the compiler reads it, with its past.
pub fn object(mut value: Value) -> KubeObject {
    let past = value.as_object_mut().unwrap().remove(PAST);
    let mut object = cluster::object(value);
    if let (KubeObject::Declared(declared), Some(Value::Object(mut past))) = (&mut object, past) {
        let last_good = past.remove("lastGood");
        Arc::make_mut(declared).remembered = Remembered {
            last_good: last_good.map(|good| serde_json::from_value(good).unwrap()),
            in_force: past,
        };
    }
    object
}

/// More versions of the declared objects of a pool: each with the spec of another version as its last good one, readable and not, with a last
/// good spec that is not good either, and of splits with weights in force.
pub fn with_past(pool: &[Value]) -> Vec<Value> {
    let mut versions = BTreeMap::<ObjectRef, Vec<&Value>>::new();
    for value in pool {
        let object = reference(value);
        if object.kind.is_declared() {
            versions.entry(object).or_default().push(value);
        }
    }
    let mut past = Vec::new();
    for (object, versions) in &versions {
        let kind = object.kind;
        // One version in several, so that the pool does not consist of pasts.
        for (index, version) in versions.iter().enumerate().step_by(5) {
            let other = versions[(index + 1) % versions.len()];
            let good = json!({"generation": 1, "spec": other["spec"], "selected": {"app": "a"}});
            past.push(with(kind, version, "lastGood", good.clone()));
            let mut unreadable = with(kind, version, "lastGood", good);
            unreadable["spec"]["later"] = json!(true);
            past.push(unreadable);
        }
        let mut bad = versions[0].clone();
        bad["spec"]["later"] = json!(true);
        let good = json!({"generation": 1, "spec": bad["spec"]});
        past.push(with(kind, &bad, "lastGood", good));
        past.extend(versions.iter().flat_map(|value| weights(kind, value)));
    }
    past
}

/// The same object with a field of its past.
fn with(kind: ObjectKind, value: &Value, field: &str, content: Value) -> Value {
    let mut value = value.clone();
    value["metadata"]["generation"] = json!(2);
    let place = match kind.status_inputs().contains(&field) {
        true => "status",
        false => PAST,
    };
    let past = value
        .as_object_mut()
        .unwrap()
        .entry(place)
        .or_insert_with(|| Map::new().into());
    past[field] = content;
    value
}

/// The same split with weights in force: all for one backend, those of another list, and a text in place of weights.
fn weights(kind: ObjectKind, value: &Value) -> Vec<Value> {
    let splits = [ObjectKind::TrafficSplit, ObjectKind::SmiTrafficSplit].contains(&kind);
    let backends = value["spec"]["backends"].as_array().filter(|_| splits);
    let names = backends.into_iter().flatten().map(|backend| {
        let labels = backend["labels"].as_object().into_iter().flatten();
        let labels = labels.map(|(key, value)| format!("{key}={}", value.as_str().unwrap()));
        let service = backend["service"].as_str().map(str::to_owned);
        let parts: Vec<String> = service.into_iter().chain(labels).collect();
        parts.join(",")
    });
    let names: Vec<String> = names.collect();
    if names.len() < 2 {
        return Vec::new();
    }
    let all_for = |only: usize| -> Value {
        let weights = names.iter().enumerate();
        let weights = weights.map(|(index, name)| {
            let weight = if index == only { 7 } else { 0 };
            json!({"backend": name, "weight": weight})
        });
        weights.collect()
    };
    let others = json!([{"backend": names[0], "weight": 3}, {"backend": "gone", "weight": 4}]);
    let all = [all_for(0), all_for(names.len() - 1), others, json!("none")];
    all.map(|weights| with(kind, value, "weights", weights))
        .into()
}
