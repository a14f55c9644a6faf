//! The groups of a `TrafficPolicy` about upstreams: `outlierEjection`, `limits`, `connections`, `loadBalancing`.

use std::time::Duration;

use heddle_crds::{self as crds, BalanceMode, HumanDuration};

use crate::kinds::ValidationError;
use crate::traffic::{Balance, Connections, Ejection, HashKey, Limits};

pub(super) fn ejection(of: &crds::OutlierEjection) -> Ejection {
    let ejection = Ejection {
        failures: of.failures,
        gateway_errors: of.gateway_errors.unwrap_or_default(),
        server_errors: of.server_errors.unwrap_or_default(),
        interval: of.interval.get(),
        base: of.base_time.get(),
        max_percent: of.max_percent,
    };
    ejection.canonical()
}

pub(super) const fn limits(of: &crds::Limits) -> Limits {
    Limits {
        connections: of.connections,
        pending_requests: of.pending_requests,
        requests: of.requests,
    }
}

/// How connections are made and kept, and how long one is kept without a request.
pub(super) fn connections(of: &crds::Connections) -> (Connections, Option<Duration>) {
    let get = |duration: &Option<HumanDuration>| duration.as_ref().map(HumanDuration::get);
    let connections = Connections {
        connect_timeout: get(&of.connect_timeout),
        max_requests: of.max_requests,
        tcp_keepalive: get(&of.tcp_keepalive),
    };
    (connections, get(&of.idle_timeout))
}

/// How an endpoint is chosen, and how long a new one takes to have its whole share.
pub(super) fn balancing(of: &crds::LoadBalancing) -> (Balance, Option<Duration>) {
    let slow_start = of.slow_start.as_ref().map(|slow| slow.window.get());
    let balance = match (of.mode, &of.hash) {
        (BalanceMode::LeastRequest, _) => Balance::LeastRequest,
        (BalanceMode::Random, _) => Balance::Random,
        (BalanceMode::ConsistentHash, Some(hash)) => Balance::Hash(key(hash)),
        // A schema refuses a hash without a key.
        (BalanceMode::RoundRobin | BalanceMode::ConsistentHash, _) => Balance::RoundRobin,
    };
    (balance, slow_start)
}

fn key(of: &crds::BalanceHash) -> HashKey {
    let name = of.name.as_deref().unwrap_or_default();
    match of.key {
        crds::HashKey::Header => HashKey::Header(name.to_ascii_lowercase().into()),
        crds::HashKey::Cookie => HashKey::Cookie(name.into()),
        crds::HashKey::QueryParameter => HashKey::Query(name.into()),
        crds::HashKey::SourceAddress => HashKey::SourceAddress,
    }
}

pub(super) fn check_balancing(of: &crds::LoadBalancing) -> Vec<ValidationError> {
    let mut problems = Vec::new();
    let mut problem = |field: &str, message: &str, fix| {
        let field = format!("spec.loadBalancing.{field}");
        problems.push(ValidationError::invalid(field, message, fix));
    };
    if (of.mode == BalanceMode::ConsistentHash) != of.hash.is_some() {
        let message = "it belongs to mode: ConsistentHash, which needs it";
        problem("hash", message, "add or remove it");
    }
    if let Some(hash) = &of.hash
        && (hash.key == crds::HashKey::SourceAddress) == hash.name.is_some()
    {
        let message = "Header, Cookie and QueryParameter have a name, SourceAddress has none";
        problem("hash.name", message, "add or remove it");
    }
    let slow = matches!(of.mode, BalanceMode::RoundRobin | BalanceMode::LeastRequest);
    if of.slow_start.is_some() && !slow {
        let message = "only RoundRobin and LeastRequest can start slowly";
        problem("slowStart", message, "remove it, or use another mode");
    }
    problems
}
