//! The part of a sidecar's bootstrap on which resources rely. A bootstrap lasts as long as its pod.

/// The version of the bootstrap. It grows when the control plane may use something that older bootstraps lack.
///
/// 1: RTDS layer [`RUNTIME_LAYER`], cluster [`AGENT`], eviction of idle statistics, verdicts on TCP at the TLS handshake.
/// 2: the origin of spans, statistics about exports.
/// 3: the zone of the node, and the cluster [`LOCAL`] in it.
/// 4: labels of the golden metrics by the agent, their buckets.
/// 5: an agent that takes requests for taps, and a runtime layer by which it can stop them.
pub const BOOTSTRAP_VERSION: u32 = 5;

/// The field of the node's metadata with the bootstrap's version.
pub const BOOTSTRAP_METADATA: &str = "heddle.bootstrap";

/// The cluster of the control plane: ADS and load reports.
pub const CONTROL_PLANE: &str = "heddle-control-plane";
/// The cluster of the agent's SDS.
pub const SDS: &str = "heddle-sds";
/// The cluster of the sidecar's metrics: the agent, which has labels for them. The name is of the time before bootstrap 4: it
/// was Envoy's admin socket itself.
pub const METRICS: &str = "heddle-admin";
/// The cluster of the agent's access log service, for taps.
pub const AGENT: &str = "heddle-agent";

/// The cluster that stands for sidecars of the own zone. It gets no traffic.
pub const LOCAL: &str = "heddle-local";

/// The clusters of the bootstrap.
pub const CLUSTERS: [&str; 5] = [CONTROL_PLANE, SDS, METRICS, AGENT, LOCAL];

/// The runtime layer that comes by RTDS, and the name of its resource. Shares for access log filters are integers in the
/// denominator of the filter: they take an object with numerator and denominator for 0. For traces Envoy reads such an object,
/// and takes an integer for percent.
pub const RUNTIME_LAYER: &str = "heddle";

/// The limit for the program size of regular expressions. Envoy's default of 100 rejects expressions that users do write.
pub const REGEX_PROGRAM_SIZE: (&str, u32) = ("re2.max_program_size.error_level", 100_000);

/// Runtime features that resources rely on, and that a release of Envoy may switch.
pub const RUNTIME_FEATURES: [&str; 3] = [
    // Off by default: the TCP proxy chooses its cluster once the TLS handshake has shown the client's identity.
    "envoy.reloadable_features.tcp_proxy_delay_route_selection",
    // Regular expressions over paths match bytes, as the authorization model does.
    "envoy.reloadable_features.re2_use_latin1_mode",
    // A header in several lines is matched line by line.
    "envoy.reloadable_features.rbac_match_headers_individually",
];
