//! The exchange of agents with the control plane: protobuf, package `heddle.tap.v1`.

use serde::{Deserialize, Serialize};

use crate::edges::Reporter;

/// The side of a request that a tap wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, prost::Enumeration, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
#[repr(i32)]
pub enum Sides {
    /// Requests that the tapped workloads received.
    Server = 0,
    /// Requests that the tapped workloads made.
    Client = 1,
    /// All of them.
    Both = 2,
}

impl Sides {
    /// Whether a sidecar that reports from this side is wanted.
    #[must_use]
    pub fn has(self, reporter: Reporter) -> bool {
        matches!(
            (self, reporter),
            (Self::Both, _)
                | (Self::Server, Reporter::Destination)
                | (Self::Client, Reporter::Source)
        )
    }
}

/// The callers that a tap wants.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct TapCaller {
    /// Callers without an identity; nothing else counts then.
    #[prost(bool, tag = "1")]
    pub outside: bool,
    /// The namespace.
    #[prost(string, tag = "2")]
    pub namespace: String,
    /// The service accounts in it; empty: all.
    #[prost(string, repeated, tag = "3")]
    pub accounts: Vec<String>,
}

/// A tap, as an agent serves it.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct TapOrder {
    /// Its number at the replica.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// The sides.
    #[prost(enumeration = "Sides", tag = "2")]
    pub sides: i32,
    /// The callers; none: all.
    #[prost(message, optional, tag = "3")]
    pub from: Option<TapCaller>,
    /// The method; empty: all.
    #[prost(string, tag = "4")]
    pub method: String,
    /// The beginning of the path; empty: all.
    #[prost(string, tag = "5")]
    pub path_prefix: String,
    /// The lowest HTTP status; 0 with [`TapOrder::status_to`] 0: all.
    #[prost(uint32, tag = "6")]
    pub status_from: u32,
    /// The highest HTTP status.
    #[prost(uint32, tag = "7")]
    pub status_to: u32,
    /// The shortest duration, in milliseconds.
    #[prost(uint64, tag = "8")]
    pub min_duration_ms: u64,
    /// The headers to send, in lower case.
    #[prost(string, repeated, tag = "9")]
    pub headers: Vec<String>,
    /// Whether paths have their query.
    #[prost(bool, tag = "10")]
    pub query: bool,
    /// The rows per second, at most.
    #[prost(uint32, tag = "11")]
    pub per_second: u32,
    /// The time after which the order ends by itself, in milliseconds.
    #[prost(uint64, tag = "12")]
    pub remaining_ms: u64,
}

/// All taps that a sidecar serves now.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct TapOrders {
    /// The taps.
    #[prost(message, repeated, tag = "1")]
    pub orders: Vec<TapOrder>,
}

/// A header of a request.
#[derive(Clone, PartialEq, Eq, prost::Message, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Header {
    /// The name in lower case.
    #[prost(string, tag = "1")]
    pub name: String,
    /// The value, without secrets.
    #[prost(string, tag = "2")]
    pub value: String,
}

/// One request, as a sidecar saw it. All texts are cut, and without control characters and secrets.
#[derive(Clone, PartialEq, Eq, prost::Message, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct TappedRequest {
    /// The start, in milliseconds since 1970.
    #[prost(uint64, tag = "1")]
    pub time_ms: u64,
    /// The side.
    #[prost(enumeration = "Reporter", tag = "2")]
    #[serde(with = "reporter")]
    #[cfg_attr(feature = "schema", schemars(with = "Reporter"))]
    pub reporter: i32,
    /// At the server: the identity of the caller; empty without a certificate.
    #[prost(string, tag = "3")]
    pub peer: String,
    /// The address of the caller.
    #[prost(string, tag = "4")]
    pub peer_address: String,
    /// The service, `namespace/name` at the caller and the name at the server; `-` or empty without one.
    #[prost(string, tag = "5")]
    pub service: String,
    /// Envoy's cluster that took the request.
    #[prost(string, tag = "6")]
    pub backend: String,
    /// The address that answered.
    #[prost(string, tag = "7")]
    pub backend_address: String,
    /// At the caller: the identity that the server has shown.
    #[prost(string, tag = "8")]
    pub server: String,
    /// The method.
    #[prost(string, tag = "9")]
    pub method: String,
    /// The host as the client named it.
    #[prost(string, tag = "10")]
    pub authority: String,
    /// The path as it was sent on, without the query unless asked for.
    #[prost(string, tag = "11")]
    pub path: String,
    /// The HTTP status; 0: no answer.
    #[prost(uint32, tag = "12")]
    pub status: u32,
    /// The status of gRPC.
    #[prost(string, tag = "13")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub grpc_status: String,
    /// Envoy's response flags; empty: none.
    #[prost(string, tag = "14")]
    pub flags: String,
    /// The origin of the answer.
    #[prost(string, tag = "15")]
    pub details: String,
    /// The rule of a policy that decided, `namespace/name/rule`; or `no-allow:` and the policies of which none allowed.
    #[prost(string, tag = "16")]
    pub policy: String,
    /// The rule that took the request.
    #[prost(string, tag = "17")]
    pub route: String,
    /// The duration, in microseconds.
    #[prost(uint64, tag = "18")]
    pub duration_us: u64,
    /// The size of the body of the request, in bytes.
    #[prost(uint64, tag = "19")]
    pub received_bytes: u64,
    /// The size of the body of the response, in bytes.
    #[prost(uint64, tag = "20")]
    pub sent_bytes: u64,
    /// Whether the connection between the sidecars was mutual TLS.
    #[prost(bool, tag = "21")]
    pub mtls: bool,
    /// The headers that were asked for.
    #[prost(message, repeated, tag = "22")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<Header>,
}

/// A request and the taps that want it.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct TapRow {
    /// The numbers of the taps.
    #[prost(uint64, repeated, tag = "1")]
    pub taps: Vec<u64>,
    /// The request.
    #[prost(message, optional, tag = "2")]
    pub request: Option<TappedRequest>,
}

/// Requests beyond the bound of a tap.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct LeftOut {
    /// The number of the tap.
    #[prost(uint64, tag = "1")]
    pub tap: u64,
    /// The number of requests.
    #[prost(uint64, tag = "2")]
    pub count: u64,
}

/// One message of an agent.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct TapReport {
    /// The node id, with the first message of a stream.
    #[prost(string, tag = "1")]
    pub node: String,
    /// Requests.
    #[prost(message, repeated, tag = "2")]
    pub rows: Vec<TapRow>,
    /// Requests that matched and were too many.
    #[prost(message, repeated, tag = "3")]
    pub left_out: Vec<LeftOut>,
    /// The number of requests that the agent could not look at.
    #[prost(uint64, tag = "4")]
    pub lost: u64,
}

/// The side by its name in JSON.
mod reporter {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::edges::Reporter;

    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
    pub(super) fn serialize<S: Serializer>(of: &i32, to: S) -> Result<S::Ok, S::Error> {
        Reporter::try_from(*of)
            .unwrap_or(Reporter::Source)
            .serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<i32, D::Error> {
        Reporter::deserialize(from).map(i32::from)
    }
}
