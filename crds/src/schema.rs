//! Schemas of fields for which the derive has no words: patterns and lengths of the items of a list or map.

use schemars::{Schema, SchemaGenerator, json_schema};

use crate::{HeaderMatch, Operation, Source};

/// A name as Kubernetes writes a DNS label.
const DNS_LABEL: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";
/// The full name of a host in lower case: two labels or more, the last one no number, so that no address is a name.
/// With `*.` before it, all names below.
const HOST: &str =
    r"^(\*\.)?([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?\.)+[a-z]([-a-z0-9]{0,61}[a-z0-9])?$";
/// A name as Kubernetes writes a DNS label, or `*`.
const DNS_LABEL_OR_ALL: &str = r"^(\*|[a-z0-9]([-a-z0-9]*[a-z0-9])?)$";
/// `namespace/service-account`, or a SPIFFE id with a trust domain and a path.
const IDENTITY: &str = "^(spiffe://[a-z0-9._-]+(/[A-Za-z0-9._-]+)+|[a-z0-9]([-a-z0-9]*[a-z0-9])?/[a-z0-9]([-.a-z0-9]*[a-z0-9])?)$";
/// Only the alphabet and the prefix length; the compiler parses it. (`isCIDR` of CEL is younger than Kubernetes 1.30.)
const IP_BLOCK: &str = "^[0-9A-Fa-f:.]+/[0-9]{1,3}$";
/// Capitals, for methods are compared by case and almost all are in capitals.
const METHOD: &str = "^[A-Z][A-Z0-9_-]*$";
/// The name of a header.
const TOKEN: &str = "^[A-Za-z0-9!#$%&'*+.^_`|~-]+$";
/// From the root, without query and fragment, `*` only at the end.
const PATH: &str = r"^/[^*?#]*\*?$";

/// A label's value.
const LABEL_VALUE: &str = "^([A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?)?$";
/// A quantity of Kubernetes that is not negative, such as `50m`, `64Mi` or `1`.
const QUANTITY: &str = r"^([0-9]+|[0-9]+\.[0-9]+)(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$";

pub(crate) fn quantity(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"x-kubernetes-int-or-string": true, "pattern": QUANTITY, "maxLength": 32})
}

pub(crate) fn labels(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "minProperties": 1,
        "maxProperties": 16,
        "additionalProperties": {"type": "string", "maxLength": 63, "pattern": LABEL_VALUE}
    })
}

pub(crate) fn identities(_: &mut SchemaGenerator) -> Schema {
    strings(Source::MAX_IDENTITIES, 2048, IDENTITY)
}

pub(crate) fn namespaces(_: &mut SchemaGenerator) -> Schema {
    strings(64, 63, DNS_LABEL)
}

pub(crate) fn namespaces_or_all(_: &mut SchemaGenerator) -> Schema {
    strings(64, 63, DNS_LABEL_OR_ALL)
}

pub(crate) fn hosts(_: &mut SchemaGenerator) -> Schema {
    strings(32, 253, HOST)
}

pub(crate) fn ip_blocks(_: &mut SchemaGenerator) -> Schema {
    strings(64, 49, IP_BLOCK)
}

pub(crate) fn methods(_: &mut SchemaGenerator) -> Schema {
    strings(Operation::MAX_METHODS, Operation::MAX_METHOD_LENGTH, METHOD)
}

pub(crate) fn header_names(_: &mut SchemaGenerator) -> Schema {
    strings(16, 256, TOKEN)
}

pub(crate) fn paths(_: &mut SchemaGenerator) -> Schema {
    strings(64, 1024, PATH)
}

pub(crate) fn ports(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "minItems": 1,
        "maxItems": 32,
        "items": {"type": "integer", "format": "int32", "minimum": 1, "maximum": 65535},
        "x-kubernetes-list-type": "set"
    })
}

pub(crate) fn status_codes(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "minItems": 1,
        "maxItems": 16,
        "items": {"type": "integer", "format": "int32", "minimum": 400, "maximum": 599},
        "x-kubernetes-list-type": "set"
    })
}

pub(crate) fn headers(generator: &mut SchemaGenerator) -> Schema {
    let items = generator.subschema_for::<HeaderMatch>();
    json_schema!({
        "type": "array",
        "minItems": 1,
        "maxItems": 16,
        "items": items,
        "x-kubernetes-list-type": "atomic"
    })
}

fn strings(max_items: usize, max_length: usize, pattern: &str) -> Schema {
    json_schema!({
        "type": "array",
        "minItems": 1,
        "maxItems": max_items,
        "items": {"type": "string", "minLength": 1, "maxLength": max_length, "pattern": pattern},
        "x-kubernetes-list-type": "set"
    })
}
