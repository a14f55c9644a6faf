//! What a change looks like on the wire, so that its arrival is recognised by content and not merely by "something came".

use std::str::FromStr;

use anyhow::{Context, bail};
use envoy_types::pb::envoy::config::core::v3::HealthStatus;
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::route_action::ClusterSpecifier;
use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryResponse;
use prost::Message;

use crate::sim::proxy::{ENDPOINTS, ROUTE};

/// A change to wait for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Endpoints whose name contains the text have exactly so many healthy ones.
    Endpoints {
        /// Part of the resource's name.
        name: String,
        /// How many are healthy.
        healthy: usize,
    },
    /// A route configuration whose name contains the text splits in these proportions.
    Weights {
        /// Part of the resource's name.
        name: String,
        /// The proportions, in the order of the clusters.
        weights: Vec<u32>,
    },
}

impl Change {
    /// Whether the response brings the change.
    pub fn is_in(&self, response: &DeltaDiscoveryResponse) -> bool {
        let (type_url, part) = match self {
            Self::Endpoints { name, .. } => (ENDPOINTS, name),
            Self::Weights { name, .. } => (ROUTE, name),
        };
        response.type_url == type_url
            && response
                .resources
                .iter()
                .filter(|resource| resource.name.contains(part.as_str()))
                .filter_map(|resource| resource.resource.as_ref())
                .any(|body| self.holds(&body.value))
    }

    fn holds(&self, body: &[u8]) -> bool {
        match self {
            Self::Endpoints { healthy, .. } => {
                ClusterLoadAssignment::decode(body).is_ok_and(|it| healthy_ones(&it) == *healthy)
            }
            Self::Weights { weights, .. } => RouteConfiguration::decode(body)
                .is_ok_and(|it| splits(&it).iter().any(|of| proportional(of, weights))),
        }
    }
}

impl FromStr for Change {
    type Err = anyhow::Error;

    /// `endpoints:<part of the name>:<healthy>` or `weights:<part of the name>:<weight>/<weight>...`; the name may hold colons.
    fn from_str(text: &str) -> anyhow::Result<Self> {
        let (kind, rest) = text
            .split_once(':')
            .context("a change is <kind>:<name>:<what>")?;
        let (name, what) = rest
            .rsplit_once(':')
            .context("a change is <kind>:<name>:<what>")?;
        let name = name.to_owned();
        match kind {
            "endpoints" => Ok(Self::Endpoints {
                name,
                healthy: what.parse()?,
            }),
            "weights" => Ok(Self::Weights {
                name,
                weights: what.split('/').map(str::parse).collect::<Result<_, _>>()?,
            }),
            _ => bail!("`{kind}` is neither `endpoints` nor `weights`"),
        }
    }
}

fn healthy_ones(assignment: &ClusterLoadAssignment) -> usize {
    let healthy = [
        i32::from(HealthStatus::Unknown),
        i32::from(HealthStatus::Healthy),
    ];
    let all = assignment
        .endpoints
        .iter()
        .flat_map(|locality| &locality.lb_endpoints);
    all.filter(|endpoint| healthy.contains(&endpoint.health_status))
        .count()
}

fn splits(routes: &RouteConfiguration) -> Vec<Vec<u32>> {
    let mut found = Vec::new();
    for route in routes.virtual_hosts.iter().flat_map(|host| &host.routes) {
        let Some(Action::Route(action)) = &route.action else {
            continue;
        };
        let Some(ClusterSpecifier::WeightedClusters(weighted)) = &action.cluster_specifier else {
            continue;
        };
        found.push(
            weighted
                .clusters
                .iter()
                .map(|c| c.weight.as_ref().map_or(0, |w| w.value))
                .collect(),
        );
    }
    found
}

/// A control plane may scale weights, not change their proportions.
fn proportional(got: &[u32], wanted: &[u32]) -> bool {
    let sum = |of: &[u32]| of.iter().copied().map(u64::from).sum::<u64>();
    let (all, all_wanted) = (sum(got), sum(wanted));
    all > 0
        && got.len() == wanted.len()
        && got
            .iter()
            .zip(wanted)
            .all(|(a, b)| u64::from(*a) * all_wanted == u64::from(*b) * all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proportions_count() {
        for (got, wanted, want) in [
            (vec![95, 5], vec![95, 5], true),
            (vec![950_000, 50_000], vec![95, 5], true),
            (vec![94, 6], vec![95, 5], false),
            (vec![95], vec![95, 5], false),
            (vec![0, 0], vec![0, 0], false),
        ] {
            assert_eq!(proportional(&got, &wanted), want, "{got:?} {wanted:?}");
        }
    }

    #[test]
    fn changes_are_read() {
        let change: Change = "endpoints:out|a/b|80:9".parse().unwrap();
        assert_eq!(
            change,
            Change::Endpoints {
                name: "out|a/b|80".into(),
                healthy: 9
            }
        );
        let change: Change = "weights:a:b:1/2".parse().unwrap();
        assert_eq!(
            change,
            Change::Weights {
                name: "a:b".into(),
                weights: vec![1, 2]
            }
        );
        for text in ["", "endpoints", "endpoints:a", "endpoints:a:b", "x:a:1"] {
            assert!(text.parse::<Change>().is_err(), "{text}");
        }
    }
}
