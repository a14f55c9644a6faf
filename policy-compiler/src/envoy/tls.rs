//! TLS. Keys, certificates and trust come from the agent by SDS and never pass through here.

use std::net::IpAddr;

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3 as tls;

use heddle_xds_types::bootstrap::SDS;

use super::{any, exact, prefix, truth};
use crate::traffic::Alpn;
use crate::world::SpiffeId;

/// The certificates of public authorities in the image of Envoy.
const PUBLIC_AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// The client's side: shows our certificate, takes only these identities.
pub(crate) fn upstream<'a>(
    identities: impl Iterator<Item = &'a SpiffeId>,
    alpn: Alpn,
) -> core::TransportSocket {
    let sans = identities.map(|id| san(exact(id.as_str()))).collect();
    client(common(sans, vec![alpn.as_str().to_owned()]), "")
}

/// The client's side of full handshakes alone. A resumed session shows no certificate: that of the server would not be looked at again; and all
/// names below a wildcard share the sessions of one context, so that one of them would let a server in as another one.
fn client(common: tls::CommonTlsContext, server_name: &str) -> core::TransportSocket {
    socket(any(&tls::UpstreamTlsContext {
        common_tls_context: Some(common),
        sni: server_name.to_owned(),
        max_session_keys: super::number(0),
        ..Default::default()
    }))
}

/// The server's side: demands a certificate of this trust domain. The policies decide about the identities.
pub(crate) fn downstream(trust_domain: &str) -> core::TransportSocket {
    // No ALPN of the server's own: were one chosen, the codec would take it for the HTTP version instead of reading the preface.
    // The offer is still in the ClientHello, where the filter chains match it.
    let common = common(
        vec![san(prefix(format!("spiffe://{trust_domain}/")))],
        Vec::new(),
    );
    let context = tls::DownstreamTlsContext {
        common_tls_context: Some(common),
        require_client_certificate: truth(true),
        // A ticket would admit a client with an expired certificate: only a full handshake shows the expiry.
        session_ticket_keys_type: Some(
            tls::downstream_tls_context::SessionTicketKeysType::DisableStatelessSessionResumption(
                true,
            ),
        ),
        disable_stateful_session_resumption: true,
        ..Default::default()
    };
    socket(any(&context))
}

/// The server's side for the kubelet, which shows no certificate and verifies none.
pub(crate) fn kubelet() -> core::TransportSocket {
    let common = tls::CommonTlsContext {
        tls_certificate_sds_secret_configs: vec![secret("workload")],
        ..Default::default()
    };
    let context = tls::DownstreamTlsContext {
        common_tls_context: Some(common),
        disable_stateful_session_resumption: true,
        session_ticket_keys_type: Some(
            tls::downstream_tls_context::SessionTicketKeysType::DisableStatelessSessionResumption(
                true,
            ),
        ),
        ..Default::default()
    };
    socket(any(&context))
}

/// The client's side towards the application of the same pod: takes any certificate, as the kubelet does.
pub(crate) fn unverified() -> core::TransportSocket {
    client(tls::CommonTlsContext::default(), "")
}

/// The client's side towards a host outside: the certificate must be valid for its name or address; `None` for the name that `Host` has, if
/// the options of the cluster say so. The authorities are those of a text in PEM, or of the sidecar's image. The protocol of the request
/// makes the ALPN.
pub(crate) fn to_host(host: Option<&str>, authorities: Option<&str>) -> core::TransportSocket {
    use core::data_source::Specifier;
    let trusted = match authorities {
        Some(pem) => Specifier::InlineString(pem.to_owned()),
        None => Specifier::Filename(PUBLIC_AUTHORITIES.to_owned()),
    };
    use tls::subject_alt_name_matcher::SanType;
    // A certificate names an address in a way of its own, and the handshake names none (RFC 6066, 3).
    let is_address = host.is_some_and(|host| host.parse::<IpAddr>().is_ok());
    let san_type = if is_address {
        SanType::IpAddress
    } else {
        SanType::Dns
    };
    let san = |host: &str| tls::SubjectAltNameMatcher {
        san_type: san_type.into(),
        matcher: Some(exact(host)),
        ..Default::default()
    };
    let validation = tls::CertificateValidationContext {
        trusted_ca: Some(core::DataSource {
            specifier: Some(trusted),
            ..Default::default()
        }),
        match_typed_subject_alt_names: host.map(san).into_iter().collect(),
        ..Default::default()
    };
    let params = tls::TlsParameters {
        tls_minimum_protocol_version: tls::tls_parameters::TlsProtocol::TlSv12.into(),
        tls_maximum_protocol_version: tls::tls_parameters::TlsProtocol::TlSv13.into(),
        ..Default::default()
    };
    let common = tls::CommonTlsContext {
        tls_params: Some(params),
        validation_context_type: Some(
            tls::common_tls_context::ValidationContextType::ValidationContext(validation),
        ),
        ..Default::default()
    };
    client(common, host.filter(|_| !is_address).unwrap_or_default())
}

/// No TLS.
pub(crate) fn none() -> core::TransportSocket {
    core::TransportSocket {
        name: "plain".to_owned(),
        config_type: Some(core::transport_socket::ConfigType::TypedConfig(
            super::empty_any("envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer"),
        )),
    }
}

fn socket(config: envoy_types::pb::google::protobuf::Any) -> core::TransportSocket {
    core::TransportSocket {
        name: "tls".to_owned(),
        config_type: Some(core::transport_socket::ConfigType::TypedConfig(config)),
    }
}

fn common(
    sans: Vec<tls::SubjectAltNameMatcher>,
    alpn_protocols: Vec<String>,
) -> tls::CommonTlsContext {
    use tls::common_tls_context::{CombinedCertificateValidationContext, ValidationContextType};
    let validation = tls::CertificateValidationContext {
        match_typed_subject_alt_names: sans,
        ..Default::default()
    };
    let combined = CombinedCertificateValidationContext {
        default_validation_context: Some(validation),
        validation_context_sds_secret_config: Some(secret("trust")),
        ..Default::default()
    };
    // Both ends are ours: nothing older than 1.3 has a reason.
    let version = i32::from(tls::tls_parameters::TlsProtocol::TlSv13);
    let params = tls::TlsParameters {
        tls_minimum_protocol_version: version,
        tls_maximum_protocol_version: version,
        ..Default::default()
    };
    tls::CommonTlsContext {
        tls_params: Some(params),
        tls_certificate_sds_secret_configs: vec![secret("workload")],
        alpn_protocols,
        validation_context_type: Some(ValidationContextType::CombinedValidationContext(combined)),
        ..Default::default()
    }
}

fn san(
    matcher: envoy_types::pb::envoy::r#type::matcher::v3::StringMatcher,
) -> tls::SubjectAltNameMatcher {
    tls::SubjectAltNameMatcher {
        san_type: tls::subject_alt_name_matcher::SanType::Uri.into(),
        matcher: Some(matcher),
        ..Default::default()
    }
}

/// A secret from the agent's socket, which is the cluster `heddle-sds` of the bootstrap.
fn secret(name: &str) -> tls::SdsSecretConfig {
    let grpc = core::grpc_service::EnvoyGrpc {
        cluster_name: SDS.to_owned(),
        ..Default::default()
    };
    let service = core::GrpcService {
        target_specifier: Some(core::grpc_service::TargetSpecifier::EnvoyGrpc(grpc)),
        ..Default::default()
    };
    let api = core::ApiConfigSource {
        api_type: core::api_config_source::ApiType::Grpc.into(),
        transport_api_version: core::ApiVersion::V3.into(),
        grpc_services: vec![service],
        ..Default::default()
    };
    let source = core::ConfigSource {
        // Without a key there is nothing to serve: wait, the agent is a process of the same pod.
        initial_fetch_timeout: super::seconds(0),
        resource_api_version: core::ApiVersion::V3.into(),
        config_source_specifier: Some(core::config_source::ConfigSourceSpecifier::ApiConfigSource(
            api,
        )),
        ..Default::default()
    };
    tls::SdsSecretConfig {
        name: name.to_owned(),
        sds_config: Some(source),
    }
}
