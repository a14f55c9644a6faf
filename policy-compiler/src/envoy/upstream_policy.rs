//! The bounds on the use of a cluster.

use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::r#type::v3::Percent;

use super::{UNLIMITED, duration, number};
use crate::traffic::{Balance, Ejection, Limits, RetryBudget};

/// How long it may take to make a connection within the mesh.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Replaces Envoy's default limits (1024 connections, 3 retries), which no user asked for.
pub(super) fn breakers(limits: &Limits, budget: Option<&RetryBudget>) -> v3::CircuitBreakers {
    let most = |limit: Option<u32>| number(limit.unwrap_or(UNLIMITED));
    let thresholds = v3::circuit_breakers::Thresholds {
        max_connections: most(limits.connections),
        max_pending_requests: most(limits.pending_requests),
        max_requests: most(limits.requests),
        max_retries: number(1024),
        retry_budget: budget.map(retry_budget),
        ..Default::default()
    };
    v3::CircuitBreakers {
        thresholds: vec![thresholds],
        ..Default::default()
    }
}

/// It takes the place of `max_retries`. Without an interval: with one, a budget bounds nothing.
fn retry_budget(of: &RetryBudget) -> v3::circuit_breakers::thresholds::RetryBudget {
    v3::circuit_breakers::thresholds::RetryBudget {
        budget_percent: percent(of.percent),
        min_retry_concurrency: number(of.minimum),
        ..Default::default()
    }
}

pub(super) fn percent(of: u32) -> Option<Percent> {
    Some(Percent { value: of.into() })
}

/// Failures that the sidecar sees by itself are counted apart from responses of the application. Detection by success rates, which is on
/// by default in Envoy, stays off: it ejects endpoints that work. A single endpoint is never ejected.
pub(super) fn outlier_detection(of: &Ejection) -> Option<v3::OutlierDetection> {
    let row = |count: u32| (count > 0).then_some(count).and_then(number);
    // Envoy's defaults: consecutive 5xx and failures of the sidecar's own are enforced, gateway failures are not.
    let off = |count: u32| (count == 0).then_some(0).and_then(number);
    let on = |count: u32| (count > 0).then_some(100).and_then(number);
    of.happens().then(|| v3::OutlierDetection {
        split_external_local_origin_errors: true,
        consecutive_local_origin_failure: row(of.failures),
        enforcing_consecutive_local_origin_failure: off(of.failures),
        consecutive_gateway_failure: row(of.gateway_errors),
        enforcing_consecutive_gateway_failure: on(of.gateway_errors),
        consecutive_5xx: row(of.server_errors),
        enforcing_consecutive_5xx: off(of.server_errors),
        enforcing_success_rate: number(0),
        enforcing_local_origin_success_rate: number(0),
        interval: duration(of.interval),
        base_ejection_time: duration(of.base),
        max_ejection_percent: number(of.max_percent),
        ..Default::default()
    })
}

/// Asks three times, each after a third of the silence.
pub(super) fn keepalive(silence: Duration) -> v3::UpstreamConnectionOptions {
    let seconds = |time: Duration| number(u32::try_from(time.as_secs()).unwrap_or(u32::MAX));
    v3::UpstreamConnectionOptions {
        tcp_keepalive: Some(core::TcpKeepalive {
            keepalive_probes: number(3),
            keepalive_time: seconds(silence),
            keepalive_interval: seconds(silence / 3),
        }),
        ..Default::default()
    }
}

/// Sets how an endpoint is chosen.
pub(super) fn balance(cluster: &mut v3::Cluster, of: &Balance, slow_start: Option<Duration>) {
    use v3::cluster::{LbConfig, LbPolicy};
    let slow_start_config = slow_start.map(|window| v3::cluster::SlowStartConfig {
        slow_start_window: duration(window),
        ..Default::default()
    });
    let starts_slowly = slow_start_config.is_some();
    let (policy, config) = match of {
        Balance::RoundRobin => {
            let config = v3::cluster::RoundRobinLbConfig { slow_start_config };
            (
                LbPolicy::RoundRobin,
                Some(LbConfig::RoundRobinLbConfig(config)),
            )
        }
        Balance::LeastRequest => {
            let config = v3::cluster::LeastRequestLbConfig {
                slow_start_config,
                ..Default::default()
            };
            (
                LbPolicy::LeastRequest,
                Some(LbConfig::LeastRequestLbConfig(config)),
            )
        }
        Balance::ClientAddress => (LbPolicy::RingHash, None),
        Balance::Random => (LbPolicy::Random, None),
        // Without a hash, Maglev takes a random number in its place.
        Balance::RandomByWeight | Balance::Hash(_) => (LbPolicy::Maglev, None),
    };
    cluster.lb_policy = policy.into();
    cluster.lb_config = config.filter(|_| starts_slowly);
}
