//! The `TrafficSplit` of the Service Mesh Interface, in all of its versions.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The spec. The versions differ in the form of weights, and the older two have no matches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SmiSplit {
    /// The service that clients call.
    pub service: String,
    /// The services that share the calls.
    pub backends: Vec<SmiBackend>,
    /// References to groups of HTTP routes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub matches: Option<Vec<Value>>,
}

/// A service with its share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SmiBackend {
    /// The service.
    pub service: String,
    /// The weight: a number, or a quantity of Kubernetes. None is zero.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<Value>,
}
