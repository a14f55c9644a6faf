//! Endpoints of the caller's own zone first: Envoy's zone-aware balancing.

use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::extensions::load_balancing_policies::common::v3 as common;
use envoy_types::pb::envoy::extensions::load_balancing_policies::least_request::v3::LeastRequest;
use envoy_types::pb::envoy::extensions::load_balancing_policies::random::v3::Random;
use envoy_types::pb::envoy::extensions::load_balancing_policies::round_robin::v3::RoundRobin;
use envoy_types::pb::google::protobuf::{Any, UInt64Value};

use super::{any, duration};
use crate::traffic::Balance;

/// Sends everything to the caller's zone while it has a healthy endpoint, else to all zones alike. A sidecar that does not know its zone
/// (older bootstrap, node without the label) sends to all. A hash of the request or client chooses of all zones.
pub(super) fn prefer(cluster: &mut v3::Cluster, balance: &Balance, slow_start: Option<Duration>) {
    let slow_start_config = slow_start.map(|window| common::SlowStartConfig {
        slow_start_window: duration(window),
        ..Default::default()
    });
    let locality_lb_config = Some(own_zone());
    let (name, policy): (&str, Any) = match balance {
        Balance::RoundRobin => {
            let policy = RoundRobin {
                slow_start_config,
                locality_lb_config,
            };
            ("round_robin", any(&policy))
        }
        Balance::LeastRequest => {
            let policy = LeastRequest {
                slow_start_config,
                locality_lb_config,
                ..Default::default()
            };
            ("least_request", any(&policy))
        }
        Balance::Random => ("random", any(&Random { locality_lb_config })),
        Balance::ClientAddress | Balance::RandomByWeight | Balance::Hash(_) => return,
    };
    let policy = core::TypedExtensionConfig {
        name: format!("envoy.load_balancing_policies.{name}"),
        typed_config: Some(policy),
    };
    cluster.load_balancing_policy = Some(v3::LoadBalancingPolicy {
        policies: vec![v3::load_balancing_policy::Policy {
            typed_extension_config: Some(policy),
        }],
    });
}

fn own_zone() -> common::LocalityLbConfig {
    use common::locality_lb_config::{
        LocalityConfigSpecifier, ZoneAwareLbConfig, zone_aware_lb_config::ForceLocalZone,
    };
    let one = super::number(1);
    let config = ZoneAwareLbConfig {
        min_cluster_size: Some(UInt64Value { value: 1 }),
        force_local_zone: Some(ForceLocalZone { min_size: one }),
        ..Default::default()
    };
    common::LocalityLbConfig {
        locality_config_specifier: Some(LocalityConfigSpecifier::ZoneAwareLbConfig(config)),
    }
}
