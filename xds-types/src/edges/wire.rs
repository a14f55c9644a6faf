//! The reports of agents on the wire: protobuf, package `heddle.telemetry.v1`.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::MAX_TEXT;
use super::counts::{BUCKETS, CLASSES, EdgeCounts};

/// The side of an edge that counts.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    prost::Enumeration,
    Deserialize,
    Serialize,
)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
#[repr(i32)]
pub enum Reporter {
    /// The sidecar of the caller.
    Source = 0,
    /// The sidecar of the server.
    Destination = 1,
}

/// The protocol of an edge.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    prost::Enumeration,
    Deserialize,
    Serialize,
)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
#[repr(i32)]
pub enum Protocol {
    /// Requests.
    Http = 0,
    /// Connections of bytes.
    Tcp = 1,
    /// Requests of gRPC.
    Grpc = 2,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http => "http",
            Self::Tcp => "tcp",
            Self::Grpc => "grpc",
        })
    }
}

/// The name of an edge as one sidecar sees it. The sidecar's own workload and identity are not part of it: the control
/// plane takes them from the certificate and the registered pod.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Message)]
pub struct EdgeName {
    /// The side that counts.
    #[prost(enumeration = "Reporter", tag = "1")]
    pub reporter: i32,
    /// The protocol.
    #[prost(enumeration = "Protocol", tag = "2")]
    pub protocol: i32,
    /// Destination: the SPIFFE id of the caller; empty if it had no certificate. Source: empty.
    #[prost(string, tag = "3")]
    pub peer: String,
    /// The namespace of the service.
    #[prost(string, tag = "4")]
    pub service_namespace: String,
    /// The service; `-` or empty if there is none.
    #[prost(string, tag = "5")]
    pub service: String,
    /// Source: the cluster that answered; empty if none did. Destination: empty.
    #[prost(string, tag = "6")]
    pub backend: String,
}

impl EdgeName {
    /// Returns whether every text is within [`MAX_TEXT`] and looks like a name. People paste names into shells.
    #[must_use]
    pub fn fits(&self) -> bool {
        let of_name = |c: char| c.is_ascii_alphanumeric() || "-._:/|[]".contains(c);
        let names = [&self.peer, &self.service_namespace, &self.service];
        // The name of a cluster has the name of a rule, with spaces.
        let of_cluster = |c: char| of_name(c) || " ,".contains(c);
        names.iter().all(|name| name.chars().all(of_name))
            && self.backend.chars().all(of_cluster)
            && names.iter().all(|name| name.len() <= MAX_TEXT)
            && self.backend.len() <= MAX_TEXT
    }
}

/// The traffic of one edge since the last report.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct EdgeDelta {
    /// The number of the edge on this stream.
    #[prost(uint32, tag = "1")]
    pub id: u32,
    /// The name, with the first delta of the number.
    #[prost(message, optional, tag = "2")]
    pub name: Option<EdgeName>,
    /// Requests by class of response code, as in [`EdgeCounts::responses`], without the zeros at the end.
    #[prost(uint32, repeated, tag = "3")]
    pub responses: Vec<u32>,
    /// [`EdgeCounts::failures`].
    #[prost(uint32, tag = "4")]
    pub failures: u32,
    /// [`EdgeCounts::forbidden`].
    #[prost(uint32, tag = "5")]
    pub forbidden: u32,
    /// Pairs of duration bucket and requests.
    #[prost(uint32, repeated, tag = "6")]
    pub durations: Vec<u32>,
    /// [`EdgeCounts::connections`].
    #[prost(uint32, tag = "7")]
    pub connections: u32,
    /// [`EdgeCounts::received_bytes`].
    #[prost(uint64, tag = "8")]
    pub received_bytes: u64,
    /// [`EdgeCounts::sent_bytes`].
    #[prost(uint64, tag = "9")]
    pub sent_bytes: u64,
    /// [`EdgeCounts::duration_sum_ms`].
    #[prost(uint64, tag = "10")]
    pub duration_sum_ms: u64,
}

impl EdgeDelta {
    /// Returns the message for an edge; `name` is set the first time that the number is used on the stream.
    #[must_use]
    pub fn new(id: u32, name: Option<EdgeName>, counts: &EdgeCounts) -> Self {
        let last = counts.responses.iter().rposition(|count| *count > 0);
        let used = counts.responses.iter().take(last.map_or(0, |at| at + 1));
        let buckets = (0u32..).zip(counts.durations);
        let buckets = buckets.filter(|(_, count)| *count > 0);
        Self {
            id,
            name,
            responses: used.copied().collect(),
            failures: counts.failures,
            forbidden: counts.forbidden,
            durations: buckets.flat_map(|(at, count)| [at, count]).collect(),
            connections: counts.connections,
            received_bytes: counts.received_bytes,
            sent_bytes: counts.sent_bytes,
            duration_sum_ms: counts.duration_sum_ms,
        }
    }

    /// Returns the counts. Classes and buckets that do not exist are left out.
    #[must_use]
    pub fn counts(&self) -> EdgeCounts {
        let (mut responses, mut durations) = ([0; CLASSES], [0; BUCKETS]);
        for (own, count) in responses.iter_mut().zip(&self.responses) {
            *own = *count;
        }
        for pair in self.durations.as_chunks::<2>().0 {
            let bucket = usize::try_from(pair[0]).ok();
            if let Some(own) = bucket.and_then(|at| durations.get_mut(at)) {
                *own = pair[1];
            }
        }
        EdgeCounts {
            responses,
            failures: self.failures,
            forbidden: self.forbidden,
            durations,
            duration_sum_ms: self.duration_sum_ms,
            connections: self.connections,
            received_bytes: self.received_bytes,
            sent_bytes: self.sent_bytes,
        }
    }
}

/// One report of an agent.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct EdgeReport {
    /// The node id, with the first report of a stream.
    #[prost(string, tag = "1")]
    pub node: String,
    /// The edges with traffic since the last report.
    #[prost(message, repeated, tag = "2")]
    pub edges: Vec<EdgeDelta>,
    /// Requests and connections that the agent could not report since the last report.
    #[prost(uint64, tag = "3")]
    pub lost: u64,
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    #[test]
    fn counts_survive_the_wire_in_few_bytes() {
        let mut counts = EdgeCounts {
            responses: [0, 0, 1500, 0, 3, 0],
            forbidden: 3,
            duration_sum_ms: 5900,
            ..EdgeCounts::default()
        };
        (counts.durations[2], counts.durations[3]) = (1400, 103);
        let delta = EdgeDelta::new(7, None, &counts);
        assert_eq!(delta.counts(), counts);
        assert_eq!(EdgeDelta::decode(&*delta.encode_to_vec()).unwrap(), delta);
        assert!(delta.encoded_len() < 30, "{}", delta.encoded_len());
    }

    #[test]
    fn buckets_and_classes_that_do_not_exist_are_left_out() {
        let delta = EdgeDelta {
            responses: vec![1; 40],
            durations: vec![99, 5, 1, 6, 3],
            ..EdgeDelta::default()
        };
        let counts = delta.counts();
        assert_eq!(counts.responses, [1; CLASSES]);
        assert_eq!(counts.durations.iter().sum::<u32>(), 6);
    }
}
