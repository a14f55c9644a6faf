//! The shares of backends in a route: one cluster, or clusters by weight.

use envoy_types::pb::envoy::config::core::v3::TypedExtensionConfig;
use envoy_types::pb::google::protobuf::BoolValue;

use super::hcm::policy_slot;
use super::wire::envoy::config::route::v3;
use super::{number, rewrite, session};
use crate::traffic::{
    Forward, HeaderChange, HeaderPolicy, RouteRule, RouteTable, Sticky, StickyCookie,
    WeightedBackend, places,
};

/// The cluster of backends without an upstream. No such cluster is ever sent.
const NOWHERE: &str = "invalid";
/// The sum of weights by which a hash chooses. It is always the same, so that a hash keeps its place when weights change.
const HASHED: u32 = 1_000_000_000;

/// Whether a backend changes headers, which then has the changes of its rule too.
pub(super) fn has_own_headers(forward: &Forward) -> bool {
    forward
        .weighted()
        .any(|backend| !backend.headers.is_empty())
}

/// The backends that have weight. The share of one without an upstream goes to a cluster that is not there.
pub(super) fn specifier(
    table: &RouteTable,
    rule: &RouteRule,
    forward: &Forward,
) -> v3::route_action::ClusterSpecifier {
    use v3::route_action::ClusterSpecifier;
    use v3::weighted_cluster::RandomValueSpecifier::UseHashPolicy;
    let own_headers = has_own_headers(forward);
    let mut weighted = forward.weighted();
    match (weighted.next(), weighted.next()) {
        (None, _) => return ClusterSpecifier::Cluster(NOWHERE.to_owned()),
        (Some(only), None) if !own_headers => return ClusterSpecifier::Cluster(name(table, only)),
        (Some(_), _) => {}
    }
    let share = |backend: &WeightedBackend, weight: u32, cookie: Option<String>| {
        let mut headers = match own_headers {
            true => rule.headers.around(&backend.headers),
            false => HeaderPolicy::default(),
        };
        if let Some(line) = cookie {
            let header = headers.response.0.entry("set-cookie".into());
            let header: &mut HeaderChange = header.or_default();
            header.add.push(line.into());
        }
        v3::weighted_cluster::ClusterWeight {
            typed_per_filter_config: policy_slot(session_of_share(table, rule, forward, backend)),
            ..cluster(name(table, backend), weight, &headers)
        }
    };
    let weights: Vec<u32> = forward.weighted().map(|of| of.weight.in_force).collect();
    let placed = |whole: u32| forward.weighted().zip(places(&weights, whole));
    let clusters = match &forward.sticky {
        None => forward
            .weighted()
            .map(|of| share(of, of.weight.in_force, None))
            .collect(),
        Some(Sticky::Header(_)) => {
            let shares =
                placed(HASHED).map(|(of, places)| share(of, places.end - places.start, None));
            shares.collect()
        }
        // Each place is drawn alike, and the answer names it.
        Some(Sticky::Cookie(cookie)) => {
            let shares = placed(StickyCookie::PLACES);
            let shares = shares.flat_map(|(of, places)| {
                places.map(move |place| share(of, 1, Some(cookie.line(place))))
            });
            shares.collect()
        }
    };
    let by_hash = matches!(forward.sticky, Some(Sticky::Header(_)));
    ClusterSpecifier::WeightedClusters(v3::WeightedCluster {
        clusters,
        random_value_specifier: by_hash.then_some(UseHashPolicy(BoolValue { value: true })),
        ..Default::default()
    })
}

/// The filter of sessions for a route that sends all requests to one backend.
pub(super) fn session_of_route(
    table: &RouteTable,
    rule: &RouteRule,
) -> Option<TypedExtensionConfig> {
    let mut takers = rule.takers();
    let (only, None) = (takers.next()?, takers.next()) else {
        return None;
    };
    table.upstream(only)?;
    Some(session::filter(rule, rule.session()?, only))
}

/// The same for a share of several. It is alone in the slot of the share: faults and CORS are in that of the route or of the table, which Envoy
/// joins with this one ([`policy_slot`]).
fn session_of_share(
    table: &RouteTable,
    rule: &RouteRule,
    forward: &Forward,
    share: &WeightedBackend,
) -> impl Iterator<Item = TypedExtensionConfig> {
    let several = forward.weighted().nth(1).is_some();
    let known = several && table.upstream(&share.backend).is_some();
    let session = forward.session.as_ref().filter(|_| known);
    let filter = session.map(|session| session::filter(rule, session, &share.backend));
    filter.into_iter()
}

fn name(table: &RouteTable, backend: &WeightedBackend) -> String {
    let upstream = table.upstream(&backend.backend);
    upstream.map_or_else(|| NOWHERE.to_owned(), |upstream| upstream.name.to_string())
}

fn cluster(
    name: String,
    weight: u32,
    headers: &HeaderPolicy,
) -> v3::weighted_cluster::ClusterWeight {
    let (request_headers_to_add, request_headers_to_remove) = rewrite::headers(&headers.request);
    let (response_headers_to_add, response_headers_to_remove) = rewrite::headers(&headers.response);
    v3::weighted_cluster::ClusterWeight {
        name,
        weight: number(weight),
        request_headers_to_add,
        request_headers_to_remove,
        response_headers_to_add,
        response_headers_to_remove,
        ..Default::default()
    }
}
