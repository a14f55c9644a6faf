//! Route configurations.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::google::protobuf::Any;
use prost::Message;

use super::hcm::{ALLOW_FILTER, DENY_FILTER};
use super::wire::envoy::config::route::v3;
use super::{endpoint, number, rbac, seconds, string_matcher};
use crate::authz::PortAuthz;

/// Retried by default is only what provably reached no application: safe for every method.
const CLIENT_RETRIES: &str = "connect-failure,refused-stream,reset-before-request";
/// At the server the connection to the application is refused when it is not up; that is for the client's sidecar to see.
const SERVER_RETRIES: &str = "refused-stream,reset-before-request";

/// A share of a route's requests.
pub(crate) struct Target {
    pub(crate) cluster: String,
    pub(crate) weight: u32,
}

/// All requests to these clusters, by weight. One virtual host for every name: what the client dialled decides, not what it says in `Host`.
///
/// `sticky`: clusters that choose by hash get the client's address, which all connections of a pod share.
pub(crate) fn outbound(name: &str, targets: &[Target], sticky: bool) -> v3::RouteConfiguration {
    use v3::route_action::{HashPolicy, hash_policy};
    let mut action = action(cluster_specifier(targets), CLIENT_RETRIES);
    let by_address = hash_policy::ConnectionProperties { source_ip: true };
    action.hash_policy.extend(sticky.then(|| HashPolicy {
        policy_specifier: Some(hash_policy::PolicySpecifier::ConnectionProperties(
            by_address,
        )),
        ..Default::default()
    }));
    elsewhere(&mut action);
    let route = v3::Route {
        r#match: Some(everything()),
        action: Some(v3::route::Action::Route(action)),
        ..Default::default()
    };
    one_host(name, route)
}

/// All requests to the one endpoint of a cluster that is at this address, whatever they say in `Host` or any other header.
pub(crate) fn to_one(cluster: &str, at: SocketAddr) -> v3::RouteConfiguration {
    let specifier = v3::route_action::ClusterSpecifier::Cluster(cluster.to_owned());
    let mut action = action(specifier, CLIENT_RETRIES);
    action.metadata_match = Some(endpoint::only(at));
    let route = v3::Route {
        r#match: Some(everything()),
        action: Some(v3::route::Action::Route(action)),
        ..Default::default()
    };
    one_host(cluster, route)
}

/// All requests refused, in the words of the server's sidecar: it would never let this caller in.
pub(crate) fn forbidden(name: &str) -> v3::RouteConfiguration {
    let route = v3::Route {
        r#match: Some(everything()),
        action: Some(v3::route::Action::DirectResponse(refusal(
            "RBAC: access denied",
        ))),
        ..Default::default()
    };
    one_host(name, route)
}

fn one_host(name: &str, route: v3::Route) -> v3::RouteConfiguration {
    let host = v3::VirtualHost {
        name: "all".to_owned(),
        domains: vec!["*".to_owned()],
        routes: vec![route],
        ..Default::default()
    };
    v3::RouteConfiguration {
        name: name.to_owned(),
        virtual_hosts: vec![host],
        ..Default::default()
    }
}

fn cluster_specifier(targets: &[Target]) -> v3::route_action::ClusterSpecifier {
    use v3::route_action::ClusterSpecifier;
    if let [only] = targets {
        return ClusterSpecifier::Cluster(only.cluster.clone());
    }
    let weight = |target: &Target| v3::weighted_cluster::ClusterWeight {
        name: target.cluster.clone(),
        weight: number(target.weight),
        ..Default::default()
    };
    ClusterSpecifier::WeightedClusters(v3::WeightedCluster {
        clusters: targets.iter().map(weight).collect(),
        ..Default::default()
    })
}

fn action(cluster: v3::route_action::ClusterSpecifier, retry_on: &str) -> v3::RouteAction {
    let retry = v3::RetryPolicy {
        retry_on: retry_on.to_owned(),
        num_retries: number(2),
        ..Default::default()
    };
    // No timeout that nobody asked for: Envoy's default would cut every response at 15 s.
    v3::RouteAction {
        cluster_specifier: Some(cluster),
        timeout: seconds(0),
        retry_policy: Some(retry),
        ..Default::default()
    }
}

/// Retries go to another host, if there is one.
fn elsewhere(action: &mut v3::RouteAction) {
    let Some(retry) = &mut action.retry_policy else {
        return;
    };
    let previous =
        super::empty_any("envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate");
    retry.retry_host_predicate = vec![v3::retry_policy::RetryHostPredicate {
        name: "previous".to_owned(),
        config_type: Some(
            v3::retry_policy::retry_host_predicate::ConfigType::TypedConfig(previous),
        ),
    }];
    retry.host_selection_retry_max_attempts = 3;
}

/// Every path, `*` of `OPTIONS *` included.
fn everything() -> v3::RouteMatch {
    v3::RouteMatch {
        path_specifier: Some(v3::route_match::PathSpecifier::Prefix(String::new())),
        ..Default::default()
    }
}

/// A probe or lifecycle hook of the kubelet: exactly one method and one path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ProbeRoute {
    pub(crate) method: &'static str,
    pub(crate) path: String,
}

impl ProbeRoute {
    pub(crate) fn get(path: &str) -> Self {
        Self {
            method: "GET",
            path: path.to_owned(),
        }
    }
}

/// What becomes of requests that are no probe.
pub(crate) enum Others<'a> {
    /// They go to the application if the policies let them.
    Judged(&'a PortAuthz),
    /// They are refused: this listener takes probes only.
    Refused,
}

/// The routes of one port of a workload. The policies hang on the route configuration, so that a change of theirs drains no connection.
pub(crate) fn inbound(
    name: &str,
    cluster: &str,
    probes: &[ProbeRoute],
    others: &Others<'_>,
) -> Vec<u8> {
    let forward = || {
        let cluster = v3::route_action::ClusterSpecifier::Cluster(cluster.to_owned());
        Some(v3::route::Action::Route(action(cluster, SERVER_RETRIES)))
    };
    let mut routes: Vec<v3::Route> = probes
        .iter()
        .map(|probe| v3::Route {
            name: "probe".to_owned(),
            r#match: Some(exactly(probe)),
            action: forward(),
            typed_per_filter_config: rbac_config(rbac::per_route_off(), rbac::per_route_off()),
            ..Default::default()
        })
        .collect();
    let (last, policies) = match others {
        Others::Judged(authz) => {
            let (deny, allow) = rbac::per_route(authz);
            (
                v3::Route {
                    action: forward(),
                    ..Default::default()
                },
                rbac_config(deny, allow),
            )
        }
        Others::Refused => (
            v3::Route {
                action: Some(v3::route::Action::DirectResponse(refusal(
                    "heddle: only mTLS is accepted here, and the kubelet's probes and lifecycle hooks\n",
                ))),
                ..Default::default()
            },
            BTreeMap::new(),
        ),
    };
    routes.push(v3::Route {
        r#match: Some(everything()),
        name: "all".to_owned(),
        ..last
    });
    configuration(name, routes, policies)
}

/// The sidecar's own metrics, for the readers that the policies name.
pub(crate) fn metrics(name: &str, cluster: &str, authz: &PortAuthz) -> Vec<u8> {
    let to_stats = |path: &str| {
        let mut action = action(
            v3::route_action::ClusterSpecifier::Cluster(cluster.to_owned()),
            SERVER_RETRIES,
        );
        action.prefix_rewrite = "/stats/prometheus".to_owned();
        // The admin interface can stop the process: only reading is let through, and only this path.
        let probe = ProbeRoute::get(path);
        v3::Route {
            name: "metrics".to_owned(),
            r#match: Some(exactly(&probe)),
            action: Some(v3::route::Action::Route(action)),
            ..Default::default()
        }
    };
    let (deny, allow) = rbac::per_route(authz);
    configuration(
        name,
        vec![to_stats("/metrics"), to_stats("/stats/prometheus")],
        rbac_config(deny, allow),
    )
}

fn configuration(name: &str, routes: Vec<v3::Route>, policies: BTreeMap<String, Any>) -> Vec<u8> {
    let host = v3::VirtualHost {
        name: "all".to_owned(),
        domains: vec!["*".to_owned()],
        routes,
        ..Default::default()
    };
    v3::RouteConfiguration {
        name: name.to_owned(),
        virtual_hosts: vec![host],
        typed_per_filter_config: policies,
        ..Default::default()
    }
    .encode_to_vec()
}

fn rbac_config(deny: Any, allow: Any) -> BTreeMap<String, Any> {
    BTreeMap::from([
        (DENY_FILTER.to_owned(), deny),
        (ALLOW_FILTER.to_owned(), allow),
    ])
}

fn exactly(probe: &ProbeRoute) -> v3::RouteMatch {
    use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
    let method = v3::HeaderMatcher {
        name: ":method".to_owned(),
        header_match_specifier: Some(v3::header_matcher::HeaderMatchSpecifier::StringMatch(
            string_matcher(MatchPattern::Exact(probe.method.to_owned())),
        )),
        ..Default::default()
    };
    v3::RouteMatch {
        headers: vec![method],
        // Without the query, which a probe may have.
        path_specifier: Some(v3::route_match::PathSpecifier::Path(probe.path.clone())),
        ..Default::default()
    }
}

fn refusal(text: &str) -> v3::DirectResponseAction {
    let body = core::DataSource {
        specifier: Some(core::data_source::Specifier::InlineString(text.to_owned())),
        ..Default::default()
    };
    v3::DirectResponseAction {
        status: 403,
        body: Some(body),
        ..Default::default()
    }
}
