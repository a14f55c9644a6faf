//! Reads the requests that Envoy sends: texts are cut and cleaned, and secrets replaced, before anything else sees them.

use std::collections::HashMap;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::address::Address as Socket;
use envoy_types::pb::envoy::config::core::v3::{Address, socket_address::PortSpecifier};
use envoy_types::pb::envoy::data::accesslog::v3::tls_properties::certificate_properties::subject_alt_name::San;
use envoy_types::pb::envoy::data::accesslog::v3::{
    AccessLogCommon, HttpAccessLogEntry, HttpRequestProperties, TlsProperties,
};
use envoy_types::pb::google::protobuf;
use heddle_acceptor::clean;
use heddle_xds_types::denial;
use heddle_xds_types::edges::{PROBE_ROUTE, Reporter};
use heddle_xds_types::tap::{
    HEADERS, Header, MAX_PATH, MAX_TEXT, REDACTED, TappedRequest, details, is_secret_name,
    path_without_secrets, value_without_secrets,
};

/// The longest text of which a part is kept, in bytes. Paths and headers are up to 60 kB.
const MAX_READ: usize = 4 << 10;

/// A request of Envoy's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// Without query and headers.
    pub(super) request: TappedRequest,
    /// The path with its query.
    pub(super) path_with_query: String,
    /// All headers that Envoy sends.
    pub(super) headers: Vec<Header>,
}

impl Seen {
    /// Reads an entry of the access log. `None`: it is a probe of the kubelet.
    pub(super) fn of(reporter: Reporter, entry: HttpAccessLogEntry) -> Option<Self> {
        let common = entry.common_properties.unwrap_or_default();
        if common.route_name == PROBE_ROUTE {
            return None;
        }
        let request = entry.request.unwrap_or_default();
        let response = entry.response.unwrap_or_default();
        let added = common.custom_tags.get(details::TAG);
        let added = details::parse(added.map_or("", String::as_str));
        let peer = peer(common.tls_properties.as_ref());
        let service = match reporter {
            Reporter::Source => service_of(&common.upstream_cluster),
            Reporter::Destination => added.service,
        };
        let decision = denial::decision(&response.response_code_details);
        let policy = decision.unwrap_or(added.policy);
        let tapped = TappedRequest {
            time_ms: common.start_time.as_ref().map_or(0, milliseconds),
            reporter: reporter.into(),
            peer: text(peer),
            peer_address: address(common.downstream_direct_remote_address.as_ref()),
            service: text(service),
            backend: text(&common.upstream_cluster),
            backend_address: address(common.upstream_remote_address.as_ref()),
            server: text(added.server),
            method: text(added.method),
            authority: value(&request.authority),
            path: path(&request.path, false),
            status: response.response_code.map_or(0, |code| code.value),
            grpc_status: text(added.grpc_status),
            flags: text(added.flags),
            details: text(&response.response_code_details),
            policy: text(policy),
            route: text(&common.route_name),
            duration_us: duration(&common).map_or(0, microseconds),
            received_bytes: request.request_body_bytes,
            sent_bytes: response.response_body_bytes,
            mtls: !peer.is_empty() || !added.server.is_empty(),
            headers: Vec::new(),
        };
        Some(Self {
            request: tapped,
            path_with_query: path(&request.path, true),
            headers: headers(&request),
        })
    }
}

/// The identity of the caller.
fn peer(tls: Option<&TlsProperties>) -> &str {
    let peer = tls.and_then(|tls| tls.peer_certificate_properties.as_ref());
    let names = peer.iter().flat_map(|peer| &peer.subject_alt_name);
    let mut names = names.filter_map(|name| match name.san.as_ref()? {
        San::Uri(uri) => Some(uri.as_str()),
        San::Dns(_) => None,
    });
    names.next().unwrap_or_default()
}

/// `namespace/name` in the name of a client's cluster.
fn service_of(cluster: &str) -> &str {
    let mut parts = cluster.split('|');
    match (parts.next(), parts.next()) {
        (Some("out"), Some(service)) => service,
        _ => "",
    }
}

fn headers(request: &HttpRequestProperties) -> Vec<Header> {
    // Addresses of other sites have queries with secrets of theirs.
    let referer = path_without_secrets(bounded(&request.referer), false);
    let built_in = [
        ("referer", &*referer),
        ("user-agent", &*request.user_agent),
        ("x-forwarded-for", &*request.forwarded_for),
        ("x-request-id", &*request.request_id),
    ];
    let others: &HashMap<String, String> = &request.request_headers;
    let others = HEADERS.iter().filter_map(|name| {
        let value = others.get(*name)?;
        Some((*name, &**value))
    });
    let all = built_in.into_iter().chain(others);
    all.filter(|(_, value)| !value.is_empty())
        .map(|(name, text)| Header {
            name: name.to_owned(),
            value: match is_secret_name(name) {
                true => REDACTED.to_owned(),
                false => value(text),
            },
        })
        .collect()
}

fn duration(common: &AccessLogCommon) -> Option<&protobuf::Duration> {
    let to_last_byte = common.time_to_last_downstream_tx_byte.as_ref();
    common.duration.as_ref().or(to_last_byte)
}

fn microseconds(of: &protobuf::Duration) -> u64 {
    let seconds = u64::try_from(of.seconds).unwrap_or_default();
    let duration =
        Duration::from_secs(seconds).as_micros() + u128::from(of.nanos.unsigned_abs()) / 1000;
    u64::try_from(duration).unwrap_or(u64::MAX)
}

fn milliseconds(at: &protobuf::Timestamp) -> u64 {
    let seconds = u64::try_from(at.seconds).unwrap_or_default();
    seconds.saturating_mul(1000) + u64::from(at.nanos.unsigned_abs()) / 1_000_000
}

fn address(of: Option<&Address>) -> String {
    let Some(Socket::SocketAddress(socket)) = of.and_then(|of| of.address.as_ref()) else {
        return String::new();
    };
    let port = match &socket.port_specifier {
        Some(PortSpecifier::PortValue(port)) => *port,
        Some(PortSpecifier::NamedPort(_)) | None => 0,
    };
    match socket.address.contains(':') {
        true => text(&format!("[{}]:{port}", socket.address)),
        false => text(&format!("{}:{port}", socket.address)),
    }
}

fn text(of: &str) -> String {
    clean(of, MAX_TEXT)
}

fn value(of: &str) -> String {
    text(&value_without_secrets(bounded(of)))
}

fn path(of: &str, with_query: bool) -> String {
    clean(&path_without_secrets(bounded(of), with_query), MAX_PATH)
}

/// The part of a text that is looked at.
fn bounded(text: &str) -> &str {
    let end = text.floor_char_boundary(MAX_READ);
    text.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::config::core::v3::SocketAddress;
    use envoy_types::pb::envoy::data::accesslog::v3::HttpResponseProperties;
    use envoy_types::pb::envoy::data::accesslog::v3::tls_properties::CertificateProperties;
    use envoy_types::pb::envoy::data::accesslog::v3::tls_properties::certificate_properties::SubjectAltName;
    use envoy_types::pb::google::protobuf::UInt32Value;

    use super::*;

    const TOKEN: &str = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIn0.SECRET";

    fn entry() -> HttpAccessLogEntry {
        let tag = (details::TAG.to_owned(), "reviews;-;-;-;-;GET".to_owned());
        let socket = SocketAddress {
            address: "10.0.0.9".to_owned(),
            port_specifier: Some(PortSpecifier::PortValue(4711)),
            ..SocketAddress::default()
        };
        let name = SubjectAltName {
            san: Some(San::Uri(
                "spiffe://cluster.local/ns/shop/sa/cart".to_owned(),
            )),
        };
        let common = AccessLogCommon {
            custom_tags: [tag].into(),
            tls_properties: Some(TlsProperties {
                peer_certificate_properties: Some(CertificateProperties {
                    subject_alt_name: vec![name],
                    ..CertificateProperties::default()
                }),
                ..TlsProperties::default()
            }),
            downstream_direct_remote_address: Some(Address {
                address: Some(Socket::SocketAddress(socket)),
            }),
            duration: Some(protobuf::Duration {
                seconds: 1,
                nanos: 5_000,
            }),
            ..AccessLogCommon::default()
        };
        let headers = [
            ("authorization", "SECRET"),
            ("accept", "Bearer SECRET"),
            ("content-type", "a\r\nb"),
        ];
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
        HttpAccessLogEntry {
            common_properties: Some(common),
            request: Some(HttpRequestProperties {
                path: format!("/a/{TOKEN}\u{1b}[2J?page=1&token=SECRET"),
                referer: "https://user:SECRET@site/x?y=SECRET".to_owned(),
                request_headers: headers.into(),
                ..HttpRequestProperties::default()
            }),
            response: Some(HttpResponseProperties {
                response_code: Some(UInt32Value { value: 403 }),
                response_code_details: "rbac_access_denied_matched_policy[shop/d/0]".to_owned(),
                ..HttpResponseProperties::default()
            }),
            ..HttpAccessLogEntry::default()
        }
    }

    #[test]
    fn secrets_and_control_characters_stay_here() {
        let seen = Seen::of(Reporter::Destination, entry()).unwrap();
        let all = format!("{seen:?}");
        assert!(!all.contains("SECRET") && !all.contains('\u{1b}'), "{all}");
        assert_eq!(seen.request.path, "/a/[redacted]");
        assert_eq!(
            seen.path_with_query,
            "/a/[redacted]?page=1&token=[redacted]"
        );
        let header = |name: &str| seen.headers.iter().find(|header| header.name == name);
        assert_eq!(header("authorization"), None);
        assert_eq!(header("accept").unwrap().value, REDACTED);
        assert_eq!(header("content-type").unwrap().value, "a b");
        assert_eq!(
            header("referer").unwrap().value,
            "https://[redacted]@site/x"
        );
        assert!(seen.request.headers.is_empty());
    }

    #[test]
    fn a_request_has_its_ends_and_the_policy_that_denied_it() {
        let request = Seen::of(Reporter::Destination, entry()).unwrap().request;
        assert_eq!(request.peer, "spiffe://cluster.local/ns/shop/sa/cart");
        assert_eq!((&*request.service, &*request.method), ("reviews", "GET"));
        assert_eq!((request.status, &*request.policy), (403, "shop/d/0"));
        assert_eq!((&*request.flags, request.mtls), ("", true));
        assert_eq!(request.peer_address, "10.0.0.9:4711");
        assert_eq!(request.duration_us, 1_000_005);
    }

    #[test]
    fn a_long_path_is_cut_and_probes_are_left_out() {
        let mut long = entry();
        if let Some(request) = &mut long.request {
            request.path = format!("/{}", "ä".repeat(60_000));
        }
        let seen = Seen::of(Reporter::Source, long).unwrap();
        assert_eq!(seen.request.path.chars().count(), MAX_PATH);
        let mut probe = entry();
        if let Some(common) = &mut probe.common_properties {
            common.route_name = PROBE_ROUTE.to_owned();
        }
        assert_eq!(Seen::of(Reporter::Destination, probe), None);
    }

    #[test]
    fn the_cluster_names_the_service_at_the_caller() {
        assert_eq!(service_of("out|shop/reviews-v1|9080"), "shop/reviews-v1");
        assert_eq!(service_of("in|9080"), "");
        assert_eq!(service_of(""), "");
    }
}
