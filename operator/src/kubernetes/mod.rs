//! The control plane on Kubernetes: several replicas that all serve, one of which writes statuses.

mod answers;
mod audit;
mod authorize;
mod ca_bundle;
mod cache;
mod cached;
mod claims;
mod declared;
mod default_mesh;
mod definitions;
mod encoded;
mod events;
mod failures;
mod http;
mod kept;
mod last_good;
mod leader;
mod listing;
mod parents;
mod past;
mod peers;
mod rebalance;
mod recent;
mod reviews;
mod root;
mod run;
mod scopes;
mod sharded;
mod statuses;
mod strangers;
mod strip;
#[cfg(test)]
mod tests;
mod tokens;
mod watching;
mod webhook;
mod zones;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use run::{Error, run};

use crate::change_traces::TraceEndpoint;
use crate::listen::Listeners;

/// No call to the API server may take longer.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// The namespace of everything of ours but users' objects.
const NAMESPACE: &str = "heddle-system";

/// The identity of this replica, and its settings; from its environment.
#[derive(Clone, Debug)]
pub struct Options {
    /// This pod's name.
    pub pod: String,
    /// This pod's namespace.
    pub namespace: String,
    /// This pod's address.
    pub ip: Option<IpAddr>,
    /// The image that the webhook puts into pods.
    pub sidecar_image: String,
    /// The address to listen on; all ports are fixed.
    pub listen: IpAddr,
    /// The bounds of the listeners.
    pub listeners: Arc<Listeners>,
    /// How often proxies report their loads.
    pub load_report_interval: Duration,
    /// The Envoy that verifies rejections; none: that of the image.
    pub envoy: Option<PathBuf>,
    /// The collector of traces of changes; none: no traces.
    pub trace_endpoint: Option<TraceEndpoint>,
    /// How often proxies are audited against the objects of the API server.
    pub audit: AuditPlan,
}

/// How often, and how many proxies at a time, are audited against the objects of the API server.
#[derive(Clone, Copy, Debug)]
pub struct AuditPlan {
    /// From the end of one audit to the next.
    pub interval: Duration,
    /// Proxies in one audit.
    pub proxies: usize,
}

/// A call that failed or took too long.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The API server, or the way to it.
    #[error(transparent)]
    Api(#[from] kube::Error),
    /// It did not answer.
    #[error("the API server did not answer within {} s", CALL_TIMEOUT.as_secs())]
    Timeout,
}

impl CallError {
    /// The HTTP status, if the API server gave one.
    #[must_use]
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Api(kube::Error::Api(status)) => Some(status.code),
            Self::Api(_) | Self::Timeout => None,
        }
    }
}

/// Every call goes through here: none may last for ever.
async fn call<T>(future: impl Future<Output = kube::Result<T>>) -> Result<T, CallError> {
    match tokio::time::timeout(CALL_TIMEOUT, future).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(CallError::Timeout),
    }
}
