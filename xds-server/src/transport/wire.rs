//! Responses as gRPC frames, written straight from the shared bytes of the resources.
//!
//! The generated messages would hold a copy of every body, which encoding copies once more. Here each body is copied once
//! for each stream, into the frame that is sent; nothing else but the frame is allocated.

use bytes::{BufMut, Bytes};
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};

use crate::session::{Flavor, Push, Sent};

/// The bytes before each gRPC message: whether it is compressed, and its length.
pub(crate) const FRAME_HEADER: usize = 5;

/// Field numbers of `envoy.service.discovery.v3.DeltaDiscoveryResponse`.
mod delta {
    pub const RESOURCES: u32 = 2;
    pub const TYPE_URL: u32 = 4;
    pub const NONCE: u32 = 5;
    pub const REMOVED_RESOURCES: u32 = 6;
}

/// Field numbers of `envoy.service.discovery.v3.Resource`.
mod resource {
    pub const VERSION: u32 = 1;
    pub const RESOURCE: u32 = 2;
    pub const NAME: u32 = 3;
}

/// Field numbers of `envoy.service.discovery.v3.DiscoveryResponse`.
mod sotw {
    pub const VERSION_INFO: u32 = 1;
    pub const RESOURCES: u32 = 2;
    pub const TYPE_URL: u32 = 4;
    pub const NONCE: u32 = 5;
}

/// Field numbers of `google.protobuf.Any`.
mod any {
    pub const TYPE_URL: u32 = 1;
    pub const VALUE: u32 = 2;
}

/// The frame of a response.
pub fn frame(push: &Push, flavor: Flavor) -> Bytes {
    match flavor {
        Flavor::Delta => framed(delta_len(push), |out| write_delta(push, out)),
        Flavor::Sotw => framed(sotw_len(push), |out| write_sotw(push, out)),
    }
}

/// The length of the message in it.
pub(crate) fn length(push: &Push, flavor: Flavor) -> u64 {
    let length = match flavor {
        Flavor::Delta => delta_len(push),
        Flavor::Sotw => sotw_len(push),
    };
    length as u64
}

/// A frame around a message of known length.
pub(crate) fn framed(length: usize, write: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    let mut out = Vec::with_capacity(FRAME_HEADER + length);
    out.put_u8(0);
    // A response is bounded far below 4 GiB by the session.
    out.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    write(&mut out);
    out.into()
}

fn delta_len(push: &Push) -> usize {
    let resource = |sent: &Sent| nested_len(delta::RESOURCES, resource_len(sent));
    let removed = |name: &std::sync::Arc<str>| nested_len(delta::REMOVED_RESOURCES, name.len());
    push.resources.iter().map(resource).sum::<usize>()
        + bytes_len(delta::TYPE_URL, push.kind.type_url().len())
        + bytes_len(delta::NONCE, push.nonce.len())
        + push.removed.iter().map(removed).sum::<usize>()
}

fn write_delta(push: &Push, out: &mut Vec<u8>) {
    for sent in &push.resources {
        write_header(delta::RESOURCES, resource_len(sent), out);
        write_bytes(resource::VERSION, sent.version.as_bytes(), out);
        write_header(resource::RESOURCE, any_len(sent), out);
        write_any(sent, out);
        write_bytes(resource::NAME, sent.resource.key.name.as_bytes(), out);
    }
    write_bytes(delta::TYPE_URL, push.kind.type_url().as_bytes(), out);
    write_bytes(delta::NONCE, push.nonce.as_bytes(), out);
    for name in &push.removed {
        write_header(delta::REMOVED_RESOURCES, name.len(), out);
        out.put_slice(name.as_bytes());
    }
}

fn resource_len(sent: &Sent) -> usize {
    bytes_len(resource::VERSION, sent.version.len())
        + nested_len(resource::RESOURCE, any_len(sent))
        + bytes_len(resource::NAME, sent.resource.key.name.len())
}

fn sotw_len(push: &Push) -> usize {
    let resource = |sent: &Sent| nested_len(sotw::RESOURCES, any_len(sent));
    bytes_len(sotw::VERSION_INFO, push.nonce.len())
        + push.resources.iter().map(resource).sum::<usize>()
        + bytes_len(sotw::TYPE_URL, push.kind.type_url().len())
        + bytes_len(sotw::NONCE, push.nonce.len())
}

fn write_sotw(push: &Push, out: &mut Vec<u8>) {
    // Versions are per resource here; the protocol only wants one that differs from the last.
    write_bytes(sotw::VERSION_INFO, push.nonce.as_bytes(), out);
    for sent in &push.resources {
        write_header(sotw::RESOURCES, any_len(sent), out);
        write_any(sent, out);
    }
    write_bytes(sotw::TYPE_URL, push.kind.type_url().as_bytes(), out);
    write_bytes(sotw::NONCE, push.nonce.as_bytes(), out);
}

fn any_len(sent: &Sent) -> usize {
    bytes_len(any::TYPE_URL, sent.resource.key.kind.type_url().len())
        + bytes_len(any::VALUE, sent.resource.body.len())
}

fn write_any(sent: &Sent, out: &mut Vec<u8>) {
    let type_url = sent.resource.key.kind.type_url();
    write_bytes(any::TYPE_URL, type_url.as_bytes(), out);
    write_bytes(any::VALUE, &sent.resource.body, out);
}

/// The length of a field that is there even when it is empty: a message, or an element of a list.
fn nested_len(field: u32, length: usize) -> usize {
    key_len(field) + encoded_len_varint(length as u64) + length
}

/// The length of a string or bytes, which are left out when they are empty.
fn bytes_len(field: u32, length: usize) -> usize {
    match length {
        0 => 0,
        _ => nested_len(field, length),
    }
}

fn write_header(field: u32, length: usize, out: &mut Vec<u8>) {
    encode_key(field, WireType::LengthDelimited, out);
    encode_varint(length as u64, out);
}

fn write_bytes(field: u32, bytes: &[u8], out: &mut Vec<u8>) {
    if !bytes.is_empty() {
        write_header(field, bytes.len(), out);
        out.put_slice(bytes);
    }
}

/// The same responses by the generated messages: the model client reads them, and a test compares the bytes with them.
#[cfg(test)]
pub(crate) mod reference {
    use envoy_types::pb::envoy::service::discovery::v3::{
        DeltaDiscoveryResponse, DiscoveryResponse, Resource,
    };
    use envoy_types::pb::google::protobuf::Any;

    use super::{Push, Sent};

    fn any(sent: &Sent) -> Any {
        Any {
            type_url: sent.resource.key.kind.type_url().to_owned(),
            value: sent.resource.body.to_vec(),
        }
    }

    pub fn delta(push: &Push) -> DeltaDiscoveryResponse {
        let resource = |sent: &Sent| Resource {
            name: sent.resource.key.name.to_string(),
            version: sent.version.to_string(),
            resource: Some(any(sent)),
            ..Resource::default()
        };
        DeltaDiscoveryResponse {
            type_url: push.kind.type_url().to_owned(),
            nonce: push.nonce.clone(),
            resources: push.resources.iter().map(resource).collect(),
            removed_resources: push.removed.iter().map(ToString::to_string).collect(),
            ..DeltaDiscoveryResponse::default()
        }
    }

    pub fn sotw(push: &Push) -> DiscoveryResponse {
        DiscoveryResponse {
            version_info: push.nonce.clone(),
            type_url: push.kind.type_url().to_owned(),
            nonce: push.nonce.clone(),
            resources: push.resources.iter().map(any).collect(),
            ..DiscoveryResponse::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use prost::Message;

    use super::*;
    use crate::resource::{Resource, ResourceKey, ResourceKind};

    fn sent(kind: ResourceKind) -> impl Strategy<Value = Sent> {
        let body = prop::collection::vec(any::<u8>(), 0..300);
        (".{0,20}", ".{0,20}", body).prop_map(move |(name, version, body)| Sent {
            version: version.as_str().into(),
            resource: Arc::new(Resource {
                key: ResourceKey::new(kind, name),
                version: "unmarked".into(),
                body: body.into(),
                requires: Vec::new(),
                empty: false,
            }),
        })
    }

    fn push() -> impl Strategy<Value = Push> {
        let kinds = prop::sample::select(ResourceKind::ALL.to_vec());
        kinds.prop_flat_map(|kind| {
            let resources = prop::collection::vec(sent(kind), 0..4);
            let removed = prop::collection::vec(".{0,200}", 0..4);
            (resources, removed, "[0-9]{0,3}").prop_map(move |(resources, removed, nonce)| Push {
                kind,
                nonce,
                resources,
                removed: removed.into_iter().map(Into::into).collect(),
            })
        })
    }

    proptest! {
        #[test]
        fn the_bytes_are_those_of_the_generated_messages(push in push()) {
            for (flavor, expected) in [
                (Flavor::Delta, reference::delta(&push).encode_to_vec()),
                (Flavor::Sotw, reference::sotw(&push).encode_to_vec()),
            ] {
                let frame = frame(&push, flavor);
                prop_assert_eq!(&frame[FRAME_HEADER..], &expected);
                prop_assert_eq!(&frame[1..FRAME_HEADER], &(expected.len() as u32).to_be_bytes());
                prop_assert_eq!(frame[0], 0);
            }
        }
    }
}
