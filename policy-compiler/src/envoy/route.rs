//! Route configurations.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::LazyLock;

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::route::v3::route_action::RequestMirrorPolicy;
use envoy_types::pb::envoy::r#type::v3::fractional_percent::DenominatorType;
use envoy_types::pb::google::protobuf::Any;
use heddle_xds_types::edges::PROBE_ROUTE;
use prost::Message;

use super::hcm::{AUTHZ_FILTER, policy_slot};
use super::request_match::{header, request_match};
use super::retries::{self, Part, UNSENT};
use super::unreached::UNREACHED;
use super::wire::envoy::config::route::v3;
use super::{
    cors, duration, endpoint, faults, fraction, hash, overload, rate_limits, rbac, rewrite,
    seconds, shared_limits, shares, unreached,
};
use crate::authz::PortAuthz;
use crate::authz::header::names as spellings;
use crate::traffic::unrouted::CLIENT_CERTIFICATE;
use crate::traffic::{
    Action, Forward, HeaderPolicy, HostPattern, Mirror, RouteEntry, RoutePolicy, RouteRule,
    RouteTable, ServerPolicy, Timeouts, ValueMatcher, VirtualHost, WeightedBackend, WithoutBackend,
};

/// CGI-like applications take these names for that of the caller's certificate, which is Envoy's own.
static FORGED: LazyLock<Vec<String>> = LazyLock::new(|| spellings(CLIENT_CERTIFICATE).split_off(1));
/// The application has not got a request that fails in these ways. Envoy counts refused connections among them. The caller's sidecar
/// learns of the last refusal ([`unreached`]).
const SERVER_RETRIES: &str = "refused-stream,reset-before-request";

/// The routes of a table.
pub(crate) fn outbound(table: &RouteTable) -> v3::RouteConfiguration {
    let common = common_policy(table);
    let in_route = common.is_none();
    let routes = |entry: &RouteEntry| {
        let mut routes = routes(table, entry);
        for (route, session) in &mut routes {
            let policy = in_route.then_some(&entry.rule.policy);
            route.typed_per_filter_config = slot(policy, session.take());
        }
        routes.into_iter().map(|(route, _)| route)
    };
    let host = |host: &VirtualHost| v3::VirtualHost {
        name: host_name(host),
        domains: host.domains.iter().map(domain).collect(),
        routes: host.entries.iter().flat_map(&routes).collect(),
        ..Default::default()
    };
    v3::RouteConfiguration {
        name: table.name.to_string(),
        virtual_hosts: table.hosts.iter().map(host).collect(),
        response_headers_to_remove: vec![UNREACHED.to_owned()],
        typed_per_filter_config: slot(common, None),
        ..Default::default()
    }
}

/// The policy of all entries, if all have the same filters.
fn common_policy(table: &RouteTable) -> Option<&RoutePolicy> {
    let mut entries = table.hosts.iter().flat_map(|host| &host.entries);
    let first = &entries.next()?.rule.policy;
    // Timeouts and retries are fields of a route, not filters.
    let RoutePolicy {
        timeouts: _,
        retries: _,
        faults,
        cors,
    } = first;
    let mut policies = entries.map(|entry| &entry.rule.policy);
    let same = policies.all(|of| of.faults == *faults && of.cors == *cors);
    same.then_some(first)
}

/// The filters of a policy, and that of sessions. Beside a common policy, the slot of a route has the filter of its session alone: the others
/// are in the slot of the table, and Envoy joins the two ([`policy_slot`]). A fault does not hide the consent for browsers, which could not read its status then.
pub(super) fn slot(
    policy: Option<&RoutePolicy>,
    session: Option<core::TypedExtensionConfig>,
) -> BTreeMap<String, Any> {
    let faults = policy.into_iter().flat_map(|policy| &policy.faults);
    let faults = faults.enumerate();
    let faults = faults.map(|(index, of)| faults::filter(index, of));
    let cors = policy.and_then(|policy| policy.cors.as_ref()).into_iter();
    let filters = cors.clone().map(|_| cors::filter()).chain(faults);
    let mut slot = policy_slot(filters.chain(session));
    slot.extend(cors.map(|of| (cors::FILTER.to_owned(), cors::policy(of))));
    slot
}

fn of_server(policy: &ServerPolicy) -> BTreeMap<String, Any> {
    let limits = policy.limits.iter().filter(|of| of.shared.is_none());
    let limits = limits.enumerate();
    let limits = limits.map(|(index, of)| rate_limits::filter(index, of));
    // The limits of the pod itself come first: a request beyond them asks nothing.
    let shared = policy
        .questions
        .and_then(|of| shared_limits::filter(&policy.limits, of));
    let overload = policy.overload.iter().enumerate();
    let overload = overload.flat_map(|(index, of)| overload::filters(index, of));
    policy_slot(limits.chain(shared).chain(overload))
}

fn domain(pattern: &HostPattern) -> String {
    match pattern {
        HostPattern::Exact(name) => name.to_string(),
        HostPattern::Any => "*".to_owned(),
    }
}

fn host_name(host: &VirtualHost) -> String {
    match &*host.domains {
        [HostPattern::Any] => "all".to_owned(),
        domains => domains.iter().map(domain).collect::<Vec<_>>().join(","),
    }
}

/// The routes of an entry: one, or one for each part of its requests that is sent again in its own way. Before each are those of users
/// that are known by a cookie, and those of sessions.
fn routes(table: &RouteTable, entry: &RouteEntry) -> Vec<RouteAndSession> {
    let sessions = entry.known_sessions(table).into_iter();
    let known = entry.known_users().into_iter();
    let known: Vec<RouteEntry> = known.chain(sessions.map(|(_, entry)| entry)).collect();
    let parts = parts(entry).iter();
    let routes = parts.flat_map(|part| {
        let entries = known.iter().chain([entry]);
        entries.map(|entry| {
            let session = shares::session_of_route(table, &entry.rule);
            (route(table, entry, *part), session)
        })
    });
    routes.collect()
}

/// A route, and the filter of sessions that it needs.
type RouteAndSession = (v3::Route, Option<core::TypedExtensionConfig>);

fn route(table: &RouteTable, entry: &RouteEntry, part: Part) -> v3::Route {
    let (rule, path) = (&*entry.rule, &entry.matcher.path);
    let mut headers = rule.headers.clone();
    let action = match &rule.action {
        Action::Forward(to) => {
            let mut action = forward(table, rule, to, part);
            rewrite::forward(&mut action, &to.rewrite, path);
            // Then the backends have the changes of the rule with their own.
            if shares::has_own_headers(to) {
                headers = HeaderPolicy::default();
            }
            v3::route::Action::Route(action)
        }
        Action::Redirect(to) => v3::route::Action::Redirect(rewrite::redirect(to, path)),
        Action::Respond { status, body } => {
            v3::route::Action::DirectResponse(response(u32::from(*status), body))
        }
    };
    let mut request = request_match(&entry.matcher);
    if part == Part::Idempotent {
        let methods = ValueMatcher::Regex(retries::idempotent_methods().into());
        request.headers.insert(0, header(":method", &methods));
    }
    let (request_headers_to_add, request_headers_to_remove) = rewrite::headers(&headers.request);
    let (response_headers_to_add, response_headers_to_remove) = rewrite::headers(&headers.response);
    v3::Route {
        name: route_name(rule, part),
        r#match: Some(request),
        action: Some(action),
        request_headers_to_add,
        request_headers_to_remove,
        response_headers_to_add,
        response_headers_to_remove,
        ..Default::default()
    }
}

/// The names of the routes of an entry. A rejection by Envoy that names a route leads to the objects of the rule.
pub(crate) fn names(entry: &RouteEntry) -> impl Iterator<Item = String> {
    let names = parts(entry).iter();
    names.map(|part| route_name(&entry.rule, *part))
}

fn parts(entry: &RouteEntry) -> &'static [Part] {
    match &entry.rule.action {
        Action::Forward(_) => {
            retries::parts(&entry.rule.policy.retries, entry.matcher.method.as_deref())
        }
        Action::Redirect(_) | Action::Respond { .. } => &[Part::Whole],
    }
}

fn route_name(rule: &RouteRule, part: Part) -> String {
    match part {
        Part::Idempotent => format!("{}, idempotent", rule.name()),
        Part::Whole | Part::Others => rule.name(),
    }
}

/// Requests to backends by weight.
fn forward(table: &RouteTable, rule: &RouteRule, forward: &Forward, part: Part) -> v3::RouteAction {
    let upstream = |backend: &WeightedBackend| table.upstream(&backend.backend);
    let upstreams = forward.backends.iter().filter_map(upstream);
    let mut retries = retries::policy(&rule.policy.retries, part);
    // Nothing takes the mark away from the answers of an application without a sidecar.
    if upstreams.clone().any(|upstream| upstream.meshed) {
        unreached::again(&mut retries);
    }
    let mut action = action(shares::specifier(table, rule, forward), retries);
    action.hash_policy = hash::policies(
        upstreams.map(|upstream| &upstream.balance),
        forward.sticky.as_ref(),
    );
    let found = forward.backends.iter().all(|b| upstream(b).is_some());
    if !found || forward.weighted().next().is_none() {
        use v3::route_action::ClusterNotFoundResponseCode as Code;
        let code = match forward.without_backend {
            WithoutBackend::InternalError => Code::InternalServerError,
            WithoutBackend::Unavailable => Code::ServiceUnavailable,
        };
        action.cluster_not_found_response_code = code.into();
    }
    let mirrors = forward.mirrors.iter();
    action.request_mirror_policies = mirrors.filter_map(|of| mirror(table, of)).collect();
    timeouts(&mut action, &rule.policy.timeouts);
    action
}

/// The copy has the `Host` of the request.
fn mirror(table: &RouteTable, mirror: &Mirror) -> Option<RequestMirrorPolicy> {
    Some(RequestMirrorPolicy {
        cluster: table.mirror(&mirror.backend)?.name.to_string(),
        runtime_fraction: Some(core::RuntimeFractionalPercent {
            default_value: fraction(mirror.share.get(), DenominatorType::Million),
            ..Default::default()
        }),
        disable_shadow_host_suffix_append: true,
        ..Default::default()
    })
}

pub(super) fn timeouts(action: &mut v3::RouteAction, timeouts: &Timeouts) {
    if let Some(request) = timeouts.request {
        action.timeout = duration(request);
    }
    action.idle_timeout = timeouts.idle.and_then(duration);
    if let Some(retry) = &mut action.retry_policy {
        let per_try = timeouts.per_try.filter(|per_try| !per_try.is_zero());
        retry.per_try_timeout = per_try.and_then(duration);
    }
}

/// Routes all requests to the one endpoint of a cluster that is at this address, independently of `Host` and all other headers.
pub(crate) fn to_one(cluster: &str, at: SocketAddr, is_meshed: bool) -> v3::RouteConfiguration {
    let specifier = v3::route_action::ClusterSpecifier::Cluster(cluster.to_owned());
    let mut retries = retries::in_place(UNSENT);
    if is_meshed {
        unreached::again(&mut retries);
    }
    let mut action = action(specifier, retries);
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
        action: Some(v3::route::Action::DirectResponse(rejection(
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
        response_headers_to_remove: vec![UNREACHED.to_owned()],
        ..Default::default()
    }
}

pub(super) fn action(
    cluster: v3::route_action::ClusterSpecifier,
    retries: v3::RetryPolicy,
) -> v3::RouteAction {
    // No timeout by default: Envoy's own would cut every response at 15 s.
    v3::RouteAction {
        cluster_specifier: Some(cluster),
        timeout: seconds(0),
        retry_policy: Some(retries),
        ..Default::default()
    }
}

/// Every path.
pub(super) fn everything() -> v3::RouteMatch {
    v3::RouteMatch {
        path_specifier: Some(v3::route_match::PathSpecifier::Prefix(String::new())),
        ..Default::default()
    }
}

/// A probe or lifecycle hook of the kubelet: exactly one method, and one path with its query.
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

/// The action for requests that are not probes.
pub(crate) enum Others<'a> {
    /// They go to the application if both kinds of policies let them.
    Judged(&'a PortAuthz, &'a ServerPolicy),
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
        let retries = retries::in_place(SERVER_RETRIES);
        Some(v3::route::Action::Route(action(cluster, retries)))
    };
    let probe = |probe: &ProbeRoute| v3::Route {
        name: PROBE_ROUTE.to_owned(),
        r#match: Some(exactly(probe)),
        action: forward(),
        typed_per_filter_config: authz_config(rbac::off()),
        ..Default::default()
    };
    let mut routes: Vec<v3::Route> = probes.iter().map(probe).collect();
    let (last, authz) = match others {
        Others::Judged(authz, policy) => (
            v3::Route {
                name: policy.route_name(),
                action: forward(),
                // Not for probes: a pod must not die because it is busy.
                typed_per_filter_config: of_server(policy),
                ..Default::default()
            },
            rbac::per_route(authz),
        ),
        Others::Refused => (
            v3::Route {
                name: "all".to_owned(),
                action: Some(v3::route::Action::DirectResponse(rejection(
                    "heddle: only mTLS is accepted here, and the kubelet's probes and lifecycle hooks\n",
                ))),
                ..Default::default()
            },
            rbac::off(),
        ),
    };
    routes.push(v3::Route {
        r#match: Some(everything()),
        ..last
    });
    configuration(name, routes, authz_config(authz))
}

/// The sidecar's own metrics, for the readers that the policies name.
pub(crate) fn metrics(name: &str, cluster: &str, authz: &PortAuthz) -> Vec<u8> {
    let to_stats = |path: &str| {
        let mut action = action(
            v3::route_action::ClusterSpecifier::Cluster(cluster.to_owned()),
            retries::in_place(SERVER_RETRIES),
        );
        action.prefix_rewrite = "/stats/prometheus".to_owned();
        // In pods with a bootstrap of before version 4 this is the admin interface, which can stop the process: only reading is let
        // through, and only this path.
        v3::Route {
            name: "metrics".to_owned(),
            r#match: Some(with_any_query("GET", path)),
            action: Some(v3::route::Action::Route(action)),
            ..Default::default()
        }
    };
    configuration(
        name,
        vec![to_stats("/metrics"), to_stats("/stats/prometheus")],
        authz_config(rbac::per_route(authz)),
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
        response_headers_to_remove: vec![UNREACHED.to_owned()],
        typed_per_filter_config: policies,
        request_headers_to_remove: FORGED.clone(),
        ..Default::default()
    }
    .encode_to_vec()
}

fn authz_config(config: Any) -> BTreeMap<String, Any> {
    BTreeMap::from([(AUTHZ_FILTER.to_owned(), config)])
}

/// The requests of a probe, and no other ones: a client with the address of the node chooses no query.
fn exactly(probe: &ProbeRoute) -> v3::RouteMatch {
    let path = probe.path.split('?').next().unwrap_or_default();
    let mut found = with_any_query(probe.method, path);
    let whole = ValueMatcher::Exact(probe.path.as_str().into());
    found.headers.push(header(":path", &whole));
    found
}

fn with_any_query(method: &str, path: &str) -> v3::RouteMatch {
    v3::RouteMatch {
        headers: vec![header(":method", &ValueMatcher::Exact(method.into()))],
        // Envoy compares it without the query.
        path_specifier: Some(v3::route_match::PathSpecifier::Path(path.to_owned())),
        ..Default::default()
    }
}

fn rejection(text: &str) -> v3::DirectResponseAction {
    response(403, text)
}

fn response(status: u32, text: &str) -> v3::DirectResponseAction {
    let body = core::DataSource {
        specifier: Some(core::data_source::Specifier::InlineString(text.to_owned())),
        ..Default::default()
    };
    v3::DirectResponseAction {
        status,
        body: Some(body),
        ..Default::default()
    }
}
