//! Building blocks of Envoy's configuration. Nothing here depends on Kubernetes or our kinds.

pub(crate) mod access_log;
mod chain_matcher;
pub(crate) mod cluster;
mod cors;
pub(crate) mod endpoint;
pub(crate) mod external;
mod faults;
pub(crate) mod gate;
mod hash;
pub(crate) mod hcm;
pub(crate) mod listener;
mod log_filter;
mod matchers;
pub(crate) mod metrics;
pub(crate) mod network;
pub(crate) mod otlp;
mod overload;
mod rate_limits;
pub(crate) mod rbac;
pub(crate) mod reporting;
mod request_match;
mod retries;
mod rewrite;
pub(crate) mod route;
pub(crate) mod runtime;
mod session;
pub(crate) mod shared_limits;
mod shares;
pub(crate) mod tap;
pub(crate) mod tls;
pub(crate) mod tracing;
pub(crate) mod trial;
mod unreached;
mod upstream_policy;
mod wildcard;
mod zone;
#[rustfmt::skip]
#[allow(clippy::all, clippy::pedantic, dead_code, deprecated, missing_docs, unused_imports)]
mod wire;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::r#type::matcher::v3 as matcher;
use envoy_types::pb::envoy::r#type::v3::FractionalPercent;
use envoy_types::pb::envoy::r#type::v3::fractional_percent::DenominatorType;
use envoy_types::pb::google::protobuf::{
    Any, BoolValue, Duration, Struct, UInt32Value, Value, value,
};
use prost::{Message, Name};

/// Larger than any real count: "no limit" where Envoy has a small default.
const UNLIMITED: u32 = 1 << 30;

/// The key and value that mark an endpoint without a sidecar.
const PLAIN_MATCH: (&str, &str) = ("heddle", "plain");

/// A share of requests.
fn fraction(numerator: u32, of: DenominatorType) -> Option<FractionalPercent> {
    Some(FractionalPercent {
        numerator,
        denominator: of.into(),
    })
}

/// `{heddle: plain}`.
fn plain_struct() -> Struct {
    text_struct(PLAIN_MATCH.0, PLAIN_MATCH.1)
}

fn any<M: Message + Name>(message: &M) -> Any {
    Any {
        type_url: M::type_url(),
        value: message.encode_to_vec(),
    }
}

/// A filter for ECDS.
pub(crate) fn extension(name: &str, config: Any) -> core::TypedExtensionConfig {
    core::TypedExtensionConfig {
        name: name.to_owned(),
        typed_config: Some(config),
    }
}

/// An `Any` of a message without content, by full name.
fn empty_any(name: &str) -> Any {
    Any {
        type_url: format!("type.googleapis.com/{name}"),
        value: Vec::new(),
    }
}

const fn seconds(seconds: i64) -> Option<Duration> {
    Some(Duration { seconds, nanos: 0 })
}

/// None where it is longer than Envoy can say.
fn duration(of: std::time::Duration) -> Option<Duration> {
    Some(Duration {
        seconds: i64::try_from(of.as_secs()).ok()?,
        nanos: i32::try_from(of.subsec_nanos()).ok()?,
    })
}

fn milliseconds(milliseconds: u16) -> Option<Duration> {
    Some(Duration {
        seconds: i64::from(milliseconds / 1000),
        nanos: i32::from(milliseconds % 1000) * 1_000_000,
    })
}

const fn number(value: u32) -> Option<UInt32Value> {
    Some(UInt32Value { value })
}

const fn truth(value: bool) -> Option<BoolValue> {
    Some(BoolValue { value })
}

fn socket_address(ip: IpAddr, port: u16) -> core::SocketAddress {
    core::SocketAddress {
        address: ip.to_string(),
        port_specifier: Some(core::socket_address::PortSpecifier::PortValue(u32::from(
            port,
        ))),
        ..Default::default()
    }
}

fn address(at: SocketAddr) -> core::Address {
    core::Address {
        address: Some(core::address::Address::SocketAddress(socket_address(
            at.ip(),
            at.port(),
        ))),
    }
}

fn inline(text: &str) -> core::DataSource {
    core::DataSource {
        specifier: Some(core::data_source::Specifier::InlineString(text.to_owned())),
        ..Default::default()
    }
}

/// `{key: text}`
fn text_struct(key: &str, text: &str) -> Struct {
    Struct {
        fields: HashMap::from([(key.to_owned(), text_value(text))]),
    }
}

fn text_value(text: &str) -> Value {
    Value {
        kind: Some(value::Kind::StringValue(text.to_owned())),
    }
}

/// The bytes of a struct with its fields in this order. A map of protobuf is a list of entries, so structs of one field each, one
/// behind the other, are one struct.
fn struct_of<'a>(fields: impl Iterator<Item = (&'a str, Value)>) -> Vec<u8> {
    let one = |(name, value): (&str, Value)| Struct {
        fields: HashMap::from([(name.to_owned(), value)]),
    };
    fields
        .flat_map(|field| one(field).encode_to_vec())
        .collect()
}

/// One entry only: the order of several would differ from run to run.
fn metadata(filter: &str, fields: Struct) -> core::Metadata {
    core::Metadata {
        filter_metadata: HashMap::from([(filter.to_owned(), fields)]),
        ..Default::default()
    }
}

/// "From the same ADS stream."
fn ads() -> core::ConfigSource {
    core::ConfigSource {
        // A proxy that waits for an answer is better off than one that goes on without: no timeout that would activate half a configuration.
        initial_fetch_timeout: seconds(0),
        resource_api_version: core::ApiVersion::V3.into(),
        config_source_specifier: Some(core::config_source::ConfigSourceSpecifier::Ads(
            core::AggregatedConfigSource::default(),
        )),
        ..Default::default()
    }
}

fn string_matcher(pattern: matcher::string_matcher::MatchPattern) -> matcher::StringMatcher {
    matcher::StringMatcher {
        match_pattern: Some(pattern),
        ignore_case: false,
    }
}

fn exact(text: impl Into<String>) -> matcher::StringMatcher {
    string_matcher(matcher::string_matcher::MatchPattern::Exact(text.into()))
}

fn prefix(text: impl Into<String>) -> matcher::StringMatcher {
    string_matcher(matcher::string_matcher::MatchPattern::Prefix(text.into()))
}

fn regex(text: impl Into<String>) -> matcher::StringMatcher {
    string_matcher(matcher::string_matcher::MatchPattern::SafeRegex(
        safe_regex(text),
    ))
}

fn safe_regex(text: impl Into<String>) -> matcher::RegexMatcher {
    matcher::RegexMatcher {
        regex: text.into(),
        ..Default::default()
    }
}
