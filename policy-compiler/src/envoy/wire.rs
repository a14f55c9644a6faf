//! Messages with maps, kept by hand: the generated types have hash maps, whose order (and so the bytes) differs from run to run.
//! Field numbers are those of the Envoy API, and a golden decoded by the real descriptors shows any slip.

use std::collections::BTreeMap;

use envoy_types::pb::envoy::config::rbac::v3 as rbac;
use envoy_types::pb::envoy::config::route::v3 as route;
use envoy_types::pb::google::protobuf::Any;
use prost::Message;

/// `envoy.config.rbac.v3.RBAC`
#[derive(Clone, PartialEq, Message)]
pub(super) struct Rules {
    #[prost(enumeration = "rbac::rbac::Action", tag = "1")]
    pub(super) action: i32,
    #[prost(btree_map = "string, message", tag = "2")]
    pub(super) policies: BTreeMap<String, rbac::Policy>,
}

/// `envoy.extensions.filters.http.rbac.v3.RBAC`
#[derive(Clone, PartialEq, Message)]
pub(super) struct HttpRbac {
    #[prost(message, optional, tag = "1")]
    pub(super) rules: Option<Rules>,
    #[prost(message, optional, tag = "2")]
    pub(super) shadow_rules: Option<Rules>,
    #[prost(string, tag = "3")]
    pub(super) shadow_rules_stat_prefix: String,
    #[prost(string, tag = "6")]
    pub(super) rules_stat_prefix: String,
    #[prost(bool, tag = "7")]
    pub(super) track_per_rule_stats: bool,
}

/// `envoy.extensions.filters.http.rbac.v3.RBACPerRoute`
#[derive(Clone, PartialEq, Message)]
pub(super) struct HttpRbacPerRoute {
    #[prost(message, optional, tag = "2")]
    pub(super) rbac: Option<HttpRbac>,
}

/// `envoy.extensions.filters.network.rbac.v3.RBAC`
#[derive(Clone, PartialEq, Message)]
pub(super) struct NetworkRbac {
    #[prost(message, optional, tag = "1")]
    pub(super) rules: Option<Rules>,
    #[prost(message, optional, tag = "2")]
    pub(super) shadow_rules: Option<Rules>,
    #[prost(string, tag = "3")]
    pub(super) stat_prefix: String,
    #[prost(string, tag = "5")]
    pub(super) shadow_rules_stat_prefix: String,
}

/// `envoy.config.route.v3.RouteConfiguration`
#[derive(Clone, PartialEq, Message)]
pub(super) struct RouteConfiguration {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(message, repeated, tag = "2")]
    pub(super) virtual_hosts: Vec<VirtualHost>,
    #[prost(btree_map = "string, message", tag = "16")]
    pub(super) typed_per_filter_config: BTreeMap<String, Any>,
}

/// `envoy.config.route.v3.VirtualHost`
#[derive(Clone, PartialEq, Message)]
pub(super) struct VirtualHost {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, repeated, tag = "2")]
    pub(super) domains: Vec<String>,
    #[prost(message, repeated, tag = "3")]
    pub(super) routes: Vec<Route>,
}

/// `envoy.config.route.v3.Route`
#[derive(Clone, PartialEq, Message)]
pub(super) struct Route {
    #[prost(message, optional, tag = "1")]
    pub(super) r#match: Option<route::RouteMatch>,
    #[prost(message, optional, tag = "2")]
    pub(super) route: Option<route::RouteAction>,
    #[prost(message, optional, tag = "7")]
    pub(super) direct_response: Option<route::DirectResponseAction>,
    #[prost(btree_map = "string, message", tag = "13")]
    pub(super) typed_per_filter_config: BTreeMap<String, Any>,
    #[prost(string, tag = "14")]
    pub(super) name: String,
}
