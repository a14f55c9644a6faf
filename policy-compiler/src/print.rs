//! Resources as people read them: Envoy's canonical JSON, with every `Any` expanded.

use std::sync::OnceLock;

use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use serde_json::Value;

use crate::compile::route_configuration;
use crate::resource::Resource;
use crate::traffic::RouteTable;

/// The descriptor set of the same envoy-types with which the resources are built.
static DESCRIPTORS: &[u8] = heddle_envoy_descriptors::envoy_descriptors!();

fn pool() -> Option<&'static DescriptorPool> {
    static POOL: OnceLock<Option<DescriptorPool>> = OnceLock::new();
    POOL.get_or_init(|| DescriptorPool::decode(DESCRIPTORS).ok())
        .as_ref()
}

/// A resource as JSON, in the field names that Envoy's documentation uses. `Null` only if the bytes are not such a message, which
/// the compiler never makes.
#[must_use]
pub fn to_json(resource: &Resource) -> Value {
    decode(resource).unwrap_or_default()
}

/// A route table as the route configuration that Envoy gets.
#[must_use]
pub fn table_to_json(table: &RouteTable) -> Value {
    to_json(&route_configuration(table))
}

fn decode(resource: &Resource) -> Option<Value> {
    let descriptor = pool()?.get_message_by_name(resource.key.kind.message())?;
    let message = DynamicMessage::decode(descriptor, resource.body.clone()).ok()?;
    let options = SerializeOptions::new()
        .use_proto_field_name(true)
        .stringify_64_bit_integers(false);
    let value = message
        .serialize_with_options(serde_json::value::Serializer, &options)
        .ok()?;
    Some(sorted(value))
}

/// Sorts the keys, with any map type of serde_json.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let ordered: std::collections::BTreeMap<String, Value> = map
                .into_iter()
                .map(|(key, value)| (key, sorted(value)))
                .collect();
            Value::Object(ordered.into_iter().collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(sorted).collect()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value,
    }
}
