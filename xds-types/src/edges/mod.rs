//! The traffic of edges: the counts of one edge, the reports of agents on the wire, and the answer of the control plane.
//!
//! An edge is seen from one side. The source's sidecar counts requests to a service, by the backend that answered; the
//! destination's sidecar counts requests from a peer, by the service that they came for.

mod counts;
mod report;
mod wire;

pub use counts::{BOUNDS_MS, BUCKETS, CLASSES, EdgeCounts};
pub use report::{Edge, EdgesReport, Losses, VERSION};
pub use wire::{EdgeDelta, EdgeName, EdgeReport, Protocol, Reporter};

/// The gRPC method by which an agent reports: a stream of [`EdgeReport`] in, nothing out. It is served beside ADS.
pub const METHOD: &str = "/heddle.telemetry.v1.Telemetry/Report";

/// The edges of one sidecar that are counted. Requests of further ones are lost, and counted as such.
pub const MAX_EDGES_OF_SIDECAR: usize = 256;

/// The edges in one message of an agent.
pub const MAX_EDGES_OF_REPORT: usize = 32;

/// The `route` of the kubelet's probes in the golden metrics of a server. They are not traffic of an edge: the sidecar always admits them.
pub const PROBE_ROUTE: &str = "probe";

/// The longest text in the name of an edge, in bytes: a SPIFFE id, or a cluster of Envoy.
pub const MAX_TEXT: usize = 512;
