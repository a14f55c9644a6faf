//! The content of a change on the wire, so that its arrival is recognized by content and not merely by "something came".

use std::str::FromStr;

use anyhow::{Context, Result, bail};

use crate::sim::response::{ENDPOINTS, ROUTE, Response};
use crate::sim::wire::{each, last, number, text};

/// `HealthStatus`: unknown and healthy.
const HEALTHY: [u64; 2] = [0, 1];

/// A change to wait for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Endpoints with a name that contains the text have exactly so many healthy ones.
    Endpoints {
        /// Part of the resource's name.
        name: String,
        /// How many are healthy.
        healthy: usize,
    },
    /// A route configuration with a name that contains the text splits in these proportions.
    Weights {
        /// Part of the resource's name.
        name: String,
        /// The proportions, in the order of the clusters.
        weights: Vec<u32>,
    },
    /// A resource of any type holds this text.
    Text(String),
}

impl Change {
    /// Whether the response brings the change.
    pub fn is_in(&self, response: &Response<'_>) -> bool {
        let (type_url, part) = match self {
            Self::Endpoints { name, .. } => (ENDPOINTS, name.as_str()),
            Self::Weights { name, .. } => (ROUTE, name.as_str()),
            Self::Text(_) => (response.type_url, ""),
        };
        response.type_url == type_url
            && response
                .resources
                .iter()
                .filter(|resource| resource.name.contains(part))
                .any(|resource| self.holds(resource.body).unwrap_or(false))
    }

    fn holds(&self, body: &[u8]) -> Result<bool> {
        Ok(match self {
            Self::Endpoints { healthy, .. } => healthy_endpoints(body)? == *healthy,
            Self::Weights { weights, .. } => {
                splits(body)?.iter().any(|of| proportional(of, weights))
            }
            Self::Text(text) => body
                .windows(text.len().max(1))
                .any(|window| window == text.as_bytes()),
        })
    }
}

impl FromStr for Change {
    type Err = anyhow::Error;

    /// `endpoints:<part of the name>:<healthy>`, `weights:<part of the name>:<weight>/<weight>...` or `text:<text>`; the
    /// name may hold colons.
    fn from_str(text: &str) -> Result<Self> {
        let (kind, rest) = text
            .split_once(':')
            .context("a change is <kind>:<name>:<what>")?;
        if kind == "text" && !rest.is_empty() {
            return Ok(Self::Text(rest.to_owned()));
        }
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
            _ => bail!("`{kind}` is none of `endpoints`, `weights` and `text`"),
        }
    }
}

/// How many endpoints of a `ClusterLoadAssignment` are healthy.
fn healthy_endpoints(assignment: &[u8]) -> Result<usize> {
    let mut healthy = 0;
    each_healthy(assignment, |_| {
        healthy += 1;
        Ok(())
    })?;
    Ok(healthy)
}

/// Calls with the address of each healthy endpoint of a `ClusterLoadAssignment`.
///
/// # Errors
/// When it is malformed.
pub fn healthy_addresses(assignment: &[u8], mut call: impl FnMut(&str)) -> Result<()> {
    each_healthy(assignment, |endpoint| {
        // Endpoint, Address, SocketAddress, and in it the address.
        let mut inner = endpoint;
        for field in [1, 1, 1, 2] {
            inner = last(inner, field)?.context("an endpoint has no address")?;
        }
        call(text(inner)?);
        Ok(())
    })
}

fn each_healthy<'a>(
    assignment: &'a [u8],
    mut call: impl FnMut(&'a [u8]) -> Result<()>,
) -> Result<()> {
    each(assignment, 2, |locality| {
        each(locality, 2, |endpoint| {
            if HEALTHY.contains(&number(endpoint, 2)?) {
                call(endpoint)?;
            }
            Ok(())
        })
    })
}

/// The weights of each split of a `RouteConfiguration`.
fn splits(routes: &[u8]) -> Result<Vec<Vec<u32>>> {
    let mut found = Vec::new();
    each(routes, 2, |host| {
        each(host, 3, |route| {
            let Some(action) = last(route, 2)? else {
                return Ok(());
            };
            if let Some(weighted) = last(action, 3)? {
                found.push(weights(weighted)?);
            }
            Ok(())
        })
    })?;
    Ok(found)
}

fn weights(weighted: &[u8]) -> Result<Vec<u32>> {
    let mut found = Vec::new();
    each(weighted, 1, |cluster| {
        let weight = last(cluster, 2)?.map_or(Ok(0), |value| number(value, 1))?;
        found.push(u32::try_from(weight)?);
        Ok(())
    })?;
    Ok(found)
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
    use envoy_types::pb::envoy::config::core::v3::HealthStatus;
    use envoy_types::pb::envoy::config::endpoint::v3::{
        ClusterLoadAssignment, LbEndpoint, LocalityLbEndpoints,
    };
    use envoy_types::pb::envoy::config::route::v3::route::Action;
    use envoy_types::pb::envoy::config::route::v3::route_action::ClusterSpecifier;
    use envoy_types::pb::envoy::config::route::v3::weighted_cluster::ClusterWeight;
    use envoy_types::pb::envoy::config::route::v3::{
        Route, RouteAction, RouteConfiguration, VirtualHost, WeightedCluster,
    };
    use envoy_types::pb::google::protobuf::UInt32Value;
    use prost::Message;

    use super::*;
    use crate::sim::response::Resource;

    fn assignment(states: &[HealthStatus]) -> Vec<u8> {
        let endpoint = |state: &HealthStatus| LbEndpoint {
            health_status: (*state).into(),
            ..LbEndpoint::default()
        };
        let locality = LocalityLbEndpoints {
            lb_endpoints: states.iter().map(endpoint).collect(),
            ..LocalityLbEndpoints::default()
        };
        ClusterLoadAssignment {
            cluster_name: "a".to_owned(),
            endpoints: vec![locality.clone(), locality],
            ..ClusterLoadAssignment::default()
        }
        .encode_to_vec()
    }

    fn split(weights: &[u32]) -> Vec<u8> {
        let cluster = |weight: &u32| ClusterWeight {
            name: "a".to_owned(),
            weight: Some(UInt32Value { value: *weight }),
            ..ClusterWeight::default()
        };
        let weighted = WeightedCluster {
            clusters: weights.iter().map(cluster).collect(),
            ..WeightedCluster::default()
        };
        let action = RouteAction {
            cluster_specifier: Some(ClusterSpecifier::WeightedClusters(weighted)),
            ..RouteAction::default()
        };
        let route = Route {
            action: Some(Action::Route(action)),
            ..Route::default()
        };
        let host = VirtualHost {
            routes: vec![route],
            ..VirtualHost::default()
        };
        RouteConfiguration {
            virtual_hosts: vec![host],
            ..RouteConfiguration::default()
        }
        .encode_to_vec()
    }

    fn brings(change: &str, type_url: &str, name: &str, body: &[u8]) -> bool {
        let resource = Resource {
            name,
            body,
            ..Resource::default()
        };
        let response = Response {
            type_url,
            resources: vec![resource],
            ..Response::default()
        };
        change.parse::<Change>().unwrap().is_in(&response)
    }

    #[test]
    fn changes_are_seen_in_what_envoys_own_types_write() {
        use HealthStatus::{Healthy, Unhealthy, Unknown};
        let body = assignment(&[Healthy, Unknown, Unhealthy]);
        assert!(brings("endpoints:a/b:4", ENDPOINTS, "out|a/b|80", &body));
        assert!(!brings("endpoints:a/b:5", ENDPOINTS, "out|a/b|80", &body));
        assert!(!brings("endpoints:a/c:4", ENDPOINTS, "out|a/b|80", &body));
        let body = split(&[75, 25]);
        assert!(brings("weights:b:3/1", ROUTE, "out|a/b|80", &body));
        assert!(!brings("weights:b:1/3", ROUTE, "out|a/b|80", &body));
        assert!(!brings("weights:b:3/1", ENDPOINTS, "out|a/b|80", &body));
        assert!(brings("text:mark-7", ROUTE, "x", b"..mark-7.."));
        assert!(!brings("text:mark-8", ROUTE, "x", b"..mark-7.."));
    }

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
        for text in [
            "",
            "endpoints",
            "endpoints:a",
            "endpoints:a:b",
            "x:a:1",
            "text:",
        ] {
            assert!(text.parse::<Change>().is_err(), "{text}");
        }
    }
}
