//! Load balancing of a `TrafficPolicy`.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::HumanDuration;

/// How a calling sidecar chooses an endpoint, for each request of HTTP and each connection of bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("(self.mode == 'ConsistentHash') == has(self.hash)").message(
        "spec.loadBalancing.hash: it belongs to mode: ConsistentHash, which needs it; add or remove it"
    ),
    validation = Rule::new("!has(self.slowStart) || self.mode == 'RoundRobin' || self.mode == 'LeastRequest'").message(
        "spec.loadBalancing.slowStart: only RoundRobin and LeastRequest can start slowly; remove it"
    )
)]
pub struct LoadBalancing {
    /// How an endpoint is chosen.
    #[serde(default)]
    pub mode: BalanceMode,
    /// The part of a request that leads it to the same endpoint, as long as that is there. Only requests of HTTP have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<BalanceHash>,
    /// How a new endpoint gets its share little by little. Left out: at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow_start: Option<SlowStart>,
}

/// How an endpoint is chosen.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
)]
pub enum BalanceMode {
    /// In turn.
    #[default]
    RoundRobin,
    /// Of two endpoints at random, that with fewer requests under way.
    LeastRequest,
    /// At random.
    Random,
    /// By a hash of the request (Maglev). Of five endpoints a new one takes about a fifth of the requests.
    ConsistentHash,
}

/// The part of a request that is hashed. A request without it goes to any endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("(self.key == 'SourceAddress') != has(self.name)").message(
    "spec.loadBalancing.hash.name: Header, Cookie and QueryParameter have a name, SourceAddress has none; add or remove it"
))]
pub struct BalanceHash {
    /// The kind of part.
    pub key: HashKey,
    /// Its name; that of a header in any case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 256),
        regex(pattern = r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")
    )]
    pub name: Option<String>,
}

/// A kind of part of a request.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum HashKey {
    /// A header.
    Header,
    /// A cookie that the request brings. The sidecar sets none.
    Cookie,
    /// A parameter of the query.
    QueryParameter,
    /// The address of the calling pod.
    SourceAddress,
}

/// A slow start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SlowStart {
    /// How long it takes until a new endpoint has its whole share, from 1s to 1h. It begins with a tenth.
    #[x_kube(validation = Rule::new("duration(self) >= duration('1s') && duration(self) <= duration('1h')").message(
        "spec.loadBalancing.slowStart.window must be from 1s to 1h; write for example 30s"
    ))]
    pub window: HumanDuration,
}
