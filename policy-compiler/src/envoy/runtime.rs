//! The runtime layer of a sidecar: the values that wake parts of its listeners.

use envoy_types::pb::google::protobuf::{Value, value};
use heddle_xds_types::bootstrap::RUNTIME_LAYER;
use prost::Message;

use super::{struct_of, text_value};

/// A value of the layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum RuntimeValue {
    /// A number. Access log filters take it for a share in their own denominator.
    Number(u32),
    /// A share in parts of 10,000, where Envoy takes a number for percent.
    Share(u16),
}

/// `envoy.service.runtime.v3.Runtime`, with its struct in bytes: the maps of envoy-types have no order.
#[derive(Clone, PartialEq, Message)]
struct Runtime {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(bytes = "vec", optional, tag = "2")]
    layer: Option<Vec<u8>>,
}

/// `google.protobuf.Struct` of one field that is a struct, in bytes for the same reason.
#[derive(Clone, PartialEq, Message)]
struct Nested {
    #[prost(message, optional, tag = "1")]
    field: Option<Field>,
}

#[derive(Clone, PartialEq, Message)]
struct Field {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    value: Option<StructValue>,
}

/// `google.protobuf.Value`.
#[derive(Clone, PartialEq, Message)]
struct StructValue {
    #[prost(bytes = "vec", optional, tag = "5")]
    struct_value: Option<Vec<u8>>,
}

/// The bytes of the layer with these values, by name.
pub(crate) fn layer<'a>(values: impl Iterator<Item = (&'a str, RuntimeValue)>) -> Vec<u8> {
    let values = values.flat_map(|(name, value)| match value {
        RuntimeValue::Number(of) => struct_of([(name, number(of))].into_iter()),
        RuntimeValue::Share(of) => share(name, of),
    });
    Runtime {
        name: RUNTIME_LAYER.to_owned(),
        layer: Some(values.collect()),
    }
    .encode_to_vec()
}

fn number(of: u32) -> Value {
    Value {
        kind: Some(value::Kind::NumberValue(of.into())),
    }
}

fn share(name: &str, of: u16) -> Vec<u8> {
    let fields = [
        ("denominator", text_value("TEN_THOUSAND")),
        ("numerator", number(of.into())),
    ];
    let value = StructValue {
        struct_value: Some(struct_of(fields.into_iter())),
    };
    let field = Field {
        name: name.to_owned(),
        value: Some(value),
    };
    Nested { field: Some(field) }.encode_to_vec()
}
