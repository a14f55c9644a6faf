//! The HTTP connection manager: secure and, for the application, as good as not there.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Duration;

use envoy_types::pb::envoy::config::common::mutation_rules::v3 as mutation_rules;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::listener::v3 as listener;
use envoy_types::pb::envoy::extensions::filters::http::filter_chain::v3::{
    FilterChain, FilterChainConfig, FilterChainConfigPerRoute,
};
use envoy_types::pb::envoy::extensions::filters::http::on_demand::v3 as on_demand;
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::http::early_header_mutation::header_mutation::v3 as early;
use envoy_types::pb::envoy::extensions::http::header_formatters::preserve_case::v3::PreserveCaseFormatterConfig;
use envoy_types::pb::google::protobuf::Any;

use super::network::{filter, format, on_demand_name};
use super::reporting::Reporting;
use super::tracing::restore_id;
use super::wire::envoy::config::route::v3 as route;
use super::wire::envoy::extensions::filters::network::http_connection_manager::v3;
use super::{ads, any, duration, number, rbac, regex, seconds, truth, unreached};
use crate::traffic::unrouted::UPGRADES;

/// The filter that authorizes callers; routes bring its decisions.
pub(crate) const AUTHZ_FILTER: &str = "authz";
/// The slot for filters that routes bring: faults at the client, rate limits at the server. Without any it costs next to nothing, and no listener changes with them.
pub(crate) const POLICY_FILTER: &str = "policy";
/// The filter that gives a request its own id back after the draw of traces.
const RESTORE_FILTER: &str = "id";
/// The most headers of a request or a response, and their size together. Larger ones are for ports that declare no HTTP: Envoy holds
/// the headers of every request in memory.
pub(super) const MAX_HEADERS: u32 = 2000;
pub(super) const MAX_HEADERS_KB: u32 = 256;
/// The authority of requests of HTTP/1.0 that name none: Envoy demands one. The name never exists (RFC 2606).
const NO_HOST: &str = "none.invalid";
/// Every other `Upgrade` than [`UPGRADES`]: passed on as a request that asks for none, which a server may answer so. A 403 would surprise.
static NO_UPGRADE: LazyLock<String> = LazyLock::new(no_upgrade);

/// The header with the name of the on-demand cluster for the address that was called. No route lets it out.
pub(super) const DESTINATION_HEADER: &str = "x-heddle-destination";
/// The answer to a request for which no address is left.
const REFUSED: &str = "heddle: no address for %REQ(:AUTHORITY)% at %DOWNSTREAM_LOCAL_ADDRESS%: DNS knows none, or outbound is Deny and no ExternalService names this host and port\n";

/// The answer to a request for a host that takes no connection, or has a certificate that is not its own.
const UNCONNECTED: &str =
    "heddle: no connection to %REQ(:AUTHORITY)%: %UPSTREAM_TRANSPORT_FAILURE_REASON%\n";

/// Which way the requests go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// From the application to the mesh.
    Client,
    /// From the application to hosts outside by name, and to other destinations by address. With the format of the bucket in on-demand
    /// names.
    External(&'static str),
    /// From the mesh to the application, over connections that may last for so long.
    Server(Duration),
}

/// Where the routes come from.
pub(crate) enum Routes<'a> {
    /// By RDS, under this name.
    Named(&'a str),
    /// In place: they can never change.
    Inline(Box<route::RouteConfiguration>),
}

impl Routes<'_> {
    fn specifier(self) -> v3::http_connection_manager::RouteSpecifier {
        use v3::http_connection_manager::RouteSpecifier;
        match self {
            Self::Named(name) => RouteSpecifier::Rds(v3::Rds {
                config_source: Some(ads()),
                route_config_name: name.to_owned(),
            }),
            Self::Inline(config) => RouteSpecifier::RouteConfig(*config),
        }
    }
}

/// The network filter.
pub(crate) fn connection_manager(
    side: Side,
    stat_prefix: &str,
    routes: Routes<'_>,
    reporting: &Reporting<'_>,
) -> listener::Filter {
    use v3::http_connection_manager as hcm;
    let (forward, details, max_age) = match side {
        // Headers about certificates from the application are never believed.
        Side::Client | Side::External(_) => (hcm::ForwardClientCertDetails::Sanitize, None, None),
        Side::Server(max_age) => (
            hcm::ForwardClientCertDetails::SanitizeSet,
            Some(hcm::SetCurrentClientCertDetails {
                uri: true,
                ..Default::default()
            }),
            Some(max_age),
        ),
    };
    let mut manager = v3::HttpConnectionManager {
        codec_type: hcm::CodecType::Auto.into(),
        stat_prefix: stat_prefix.to_owned(),
        route_specifier: Some(routes.specifier()),
        http_filters: http_filters(side, reporting.spans.is_some()),
        http_protocol_options: Some(downstream_http1()),
        server_header_transformation: hcm::ServerHeaderTransformation::PassThrough.into(),
        max_request_headers_kb: number(MAX_HEADERS_KB),
        common_http_protocol_options: Some(core::HttpProtocolOptions {
            max_headers_count: number(MAX_HEADERS),
            // Envoy checks a certificate when a connection begins, and never again.
            max_connection_duration: max_age.and_then(duration),
            ..Default::default()
        }),
        // The last response announces the end of the connection: no request is lost on its way.
        http1_safe_max_connection_duration: max_age.is_some(),
        // Streams may be silent for as long as they like.
        stream_idle_timeout: seconds(0),
        // The peer's address is known from the connection; headers about the address are for the application.
        use_remote_address: truth(false),
        skip_xff_append: true,
        // `Expect: 100-continue` is answered by the application, not by us.
        proxy_100_continue: true,
        // A header that the client did not send.
        generate_request_id: truth(false),
        // Paths are not normalized here: the application gets the bytes that were sent, and policies match every spelling (authz::spelling).
        normalize_path: truth(false),
        path_with_escaped_slashes_action: hcm::PathWithEscapedSlashesAction::KeepUnchanged.into(),
        forward_client_cert_details: forward.into(),
        set_current_client_cert_details: details,
        upgrade_configs: upgrades(),
        access_log: reporting.of_requests(),
        local_reply_config: matches!(side, Side::Server(_)).then(unreached::mark),
        ..Default::default()
    };
    by_name(&mut manager, side);
    trace(&mut manager, reporting);
    filter("http", any(&manager))
}

/// The protocols that requests may change to. CONNECT is none of them: Envoy takes any answer of 2xx for an open tunnel, and an application that
/// answers so without a tunnel would read further requests in it, which no policy has judged.
fn upgrades() -> Vec<v3::http_connection_manager::UpgradeConfig> {
    let upgrade = |protocol: &str| v3::http_connection_manager::UpgradeConfig {
        upgrade_type: protocol.to_owned(),
        ..Default::default()
    };
    UPGRADES.into_iter().map(upgrade).collect()
}

/// An expression for all protocols that begin otherwise than each of [`UPGRADES`]: it is in every listener, so it is short, and the first two
/// letters decide.
fn no_upgrade() -> String {
    let begins = UPGRADES.iter().map(|name| name.split_at(1));
    let firsts: String = begins.clone().map(|(first, _)| first).collect();
    let seconds = begins.map(|(first, rest)| {
        let second: String = rest.chars().take(1).collect();
        format!("|{first}[^{second}].*")
    });
    format!("(?i)[^{firsts}].*{}", seconds.collect::<String>())
}

/// Adds the tracer, if the sidecar traces.
fn trace(manager: &mut v3::HttpConnectionManager, reporting: &Reporting<'_>) {
    let mutations = &mut manager.early_header_mutation_extensions;
    mutations.extend(reporting.own_id());
    manager.tracing = reporting.tracer();
}

fn http_filters(side: Side, traces: bool) -> Vec<v3::HttpFilter> {
    use v3::http_filter::ConfigType;
    let filter = |name: &str, config: Any| v3::HttpFilter {
        name: name.to_owned(),
        config_type: Some(ConfigType::TypedConfig(config)),
        ..Default::default()
    };
    // The position in the list is the order in which requests pass them.
    let mut filters = Vec::new();
    if traces {
        filters.push(filter(RESTORE_FILTER, restore_id()));
    }
    match side {
        Side::Client => {}
        Side::External(_) => filters.push(filter("on_demand", any(&fetch_clusters()))),
        Side::Server(_) => filters.push(filter(AUTHZ_FILTER, rbac::closed())),
    }
    filters.push(filter(POLICY_FILTER, any(&FilterChainConfig::default())));
    let router = Router {
        suppress_envoy_headers: true,
        ..Default::default()
    };
    filters.push(filter("router", any(&router)));
    filters
}

/// Prepares for hosts that are called by name beside destinations that are called by address.
fn by_name(manager: &mut v3::HttpConnectionManager, side: Side) {
    let Side::External(time) = side else { return };
    manager.early_header_mutation_extensions = vec![name_destination(time)];
    manager.local_reply_config = Some(explain_refusals());
    // `https` for hosts that are called by TLS of the sidecar.
    manager.scheme_header_transformation = Some(core::SchemeHeaderTransformation {
        match_upstream: true,
        ..Default::default()
    });
}

/// Sets the name of the on-demand cluster in [`DESTINATION_HEADER`], before a route is chosen. A value of the application is lost.
fn name_destination(time: &str) -> core::TypedExtensionConfig {
    let option = core::HeaderValueOption {
        header: Some(core::HeaderValue {
            key: DESTINATION_HEADER.to_owned(),
            value: on_demand_name(time),
            ..Default::default()
        }),
        append_action: core::header_value_option::HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
        ..Default::default()
    };
    let mutation = mutation_rules::HeaderMutation {
        action: Some(mutation_rules::header_mutation::Action::Append(option)),
    };
    let config = early::HeaderMutation {
        mutations: vec![mutation],
    };
    super::extension("destination", any(&config))
}

/// Clusters that a route names are fetched when a request needs them.
fn fetch_clusters() -> on_demand::OnDemand {
    on_demand::OnDemand {
        odcds: Some(on_demand::OnDemandCds {
            source: Some(ads()),
            timeout: seconds(5),
            ..Default::default()
        }),
    }
}

/// Bodies for requests to a cluster without an address, or without a connection, with the reasons.
fn explain_refusals() -> v3::LocalReplyConfig {
    v3::LocalReplyConfig {
        mappers: vec![reply("UH", REFUSED), reply("UF", UNCONNECTED)],
        ..Default::default()
    }
}

/// A body for answers of the sidecar with a flag.
fn reply(flag: &str, body: &str) -> v3::ResponseMapper {
    use envoy_types::pb::envoy::config::accesslog::v3 as accesslog;
    let flags = accesslog::ResponseFlagFilter {
        flags: vec![flag.to_owned()],
    };
    v3::ResponseMapper {
        filter: Some(accesslog::AccessLogFilter {
            filter_specifier: Some(
                accesslog::access_log_filter::FilterSpecifier::ResponseFlagFilter(flags),
            ),
        }),
        body_format_override: Some(format(body)),
        ..Default::default()
    }
}

/// HTTP/1 of clients.
fn downstream_http1() -> core::Http1ProtocolOptions {
    core::Http1ProtocolOptions {
        ignore_http_11_upgrade: vec![regex(NO_UPGRADE.as_str())],
        ..http1_options()
    }
}

/// HTTP/1 as applications really speak it, upstream and downstream.
pub(super) fn http1_options() -> core::Http1ProtocolOptions {
    use core::http1_protocol_options::{HeaderKeyFormat, header_key_format::HeaderFormat};
    let preserve_case = core::TypedExtensionConfig {
        name: "preserve_case".to_owned(),
        typed_config: Some(any(&PreserveCaseFormatterConfig {
            forward_reason_phrase: true,
            ..Default::default()
        })),
    };
    core::Http1ProtocolOptions {
        accept_http_10: true,
        default_host_for_http_10: NO_HOST.to_owned(),
        enable_trailers: true,
        header_key_format: Some(HeaderKeyFormat {
            header_format: Some(HeaderFormat::StatefulFormatter(preserve_case)),
        }),
        ..Default::default()
    }
}

/// Filters for the slot that each connection manager has. Slots of several levels of a route configuration join: Envoy 1.40 runs the filters
/// of the broader level and then those of the narrower one, which replace only filters of the same name. So a narrow slot holds its own
/// filters alone. An older Envoy takes the narrowest slot alone, and would lose the filters of the others.
pub(super) fn policy_slot(
    filters: impl Iterator<Item = core::TypedExtensionConfig>,
) -> BTreeMap<String, Any> {
    let filters: Vec<_> = filters.collect();
    if filters.is_empty() {
        return BTreeMap::new();
    }
    let chain = any(&FilterChainConfigPerRoute {
        filter_chain: Some(FilterChain { filters }),
    });
    BTreeMap::from([(POLICY_FILTER.to_owned(), chain)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upgrades_are_passed_on_or_ignored() {
        let ignored = ::regex::Regex::new(&format!("^(?:{})$", *NO_UPGRADE)).unwrap();
        for protocol in UPGRADES {
            assert!(!ignored.is_match(protocol), "{protocol}");
            assert!(!ignored.is_match(&protocol.to_uppercase()), "{protocol}");
        }
        for protocol in [
            "h2c", "HTTP/2.0", "TLS/1.0", "tcp", "TCP", "irc/6.9", "derp",
        ] {
            assert!(ignored.is_match(protocol), "{protocol}");
        }
    }
}
