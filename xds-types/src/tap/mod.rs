//! Taps: live requests of some workloads, from the access log service of each agent by the control plane to the command line.
//!
//! A tap is a lease: it lasts while its owner asks for its rows, and never longer than [`MAX_SECONDS`].

mod api;
pub mod details;
mod secrets;
mod wire;

pub use api::{TapAnswer, TapFilter, TapLine, TapRequest, VERSION};
pub use secrets::{
    REDACTED, SECRET_ENDS, SECRET_NAMES, SECRET_WORDS, is_secret_name, path_without_secrets,
    value_without_secrets,
};
pub use wire::{
    Header, LeftOut, Sides, TapCaller, TapOrder, TapOrders, TapReport, TapRow, TappedRequest,
};

/// The gRPC method of an agent: [`TapReport`]s in, [`TapOrders`] out. It is served beside ADS.
pub const METHOD: &str = "/heddle.tap.v1.Tap/Report";

/// The path of the API of each replica: a [`TapRequest`] is posted, a [`TapAnswer`] comes back.
pub const PATH: &str = crate::api::Endpoint::Tap.path();

/// The resource and the verb of the right to tap a namespace, in the API group `heddle.dev`. No object of the kind exists. The verb is
/// `create`, as for `pods/exec`: the right to read everything is not the right to tap.
pub const RIGHT: (&str, &str) = ("taps", "create");

/// The runtime value that wakes the logger of a sidecar: the share of requests in parts of 10,000.
pub const RUNTIME_KEY: &str = "heddle.tap";

/// The first version of the bootstrap with which a sidecar can be tapped.
pub const BOOTSTRAP: u32 = 5;

/// The request headers that Envoy sends beside those of [`BUILT_IN_HEADERS`]. A logger cannot ask for others without a change of listeners.
pub const HEADERS: [&str; 5] = [
    "accept",
    "content-type",
    "grpc-timeout",
    "traceparent",
    "x-forwarded-proto",
];

/// The request headers that have fields of their own in the access log service.
pub const BUILT_IN_HEADERS: [&str; 4] =
    ["referer", "user-agent", "x-forwarded-for", "x-request-id"];

/// The longest time of a tap, in seconds.
pub const MAX_SECONDS: u64 = 3600;
/// The most requests a second that one sidecar reports for a tap.
pub const MAX_PER_SECOND: u32 = 100;
/// The rows in one message of an agent.
pub const MAX_ROWS_OF_REPORT: usize = 32;
/// The longest path, in characters.
pub const MAX_PATH: usize = 400;
/// The longest other text of a row, in characters.
pub const MAX_TEXT: usize = 256;
/// The headers for which a tap may ask.
pub const MAX_HEADERS: usize = 12;
/// The taps that one sidecar serves at a time.
pub const MAX_ORDERS: usize = 16;
