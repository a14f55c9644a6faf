//! The runtime layer of a sidecar: the values that wake parts of its listeners.

use envoy_types::pb::google::protobuf::{Value, value};
use heddle_xds_types::bootstrap::RUNTIME_LAYER;
use prost::Message;

use super::struct_of;

/// `envoy.service.runtime.v3.Runtime`, with its struct in bytes: the maps of envoy-types have no order.
#[derive(Clone, PartialEq, Message)]
struct Runtime {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(bytes = "vec", optional, tag = "2")]
    layer: Option<Vec<u8>>,
}

/// The bytes of the layer with these values, by name.
pub(crate) fn layer<'a>(values: impl Iterator<Item = (&'a str, u32)>) -> Vec<u8> {
    let values = values.map(|(name, number)| {
        let kind = Some(value::Kind::NumberValue(number.into()));
        (name, Value { kind })
    });
    Runtime {
        name: RUNTIME_LAYER.to_owned(),
        layer: Some(struct_of(values)),
    }
    .encode_to_vec()
}
