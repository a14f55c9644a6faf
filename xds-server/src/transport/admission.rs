//! The subscriber that a stream speaks for, and the time for which it may.

use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::config::core::v3::node::UserAgentVersionType;
use envoy_types::pb::google::protobuf::value::Kind;
use heddle_acceptor::{ClientText, Link};
use heddle_xds_types::bootstrap::BOOTSTRAP_METADATA;
use tokio::time::Instant;
use tonic::Status;

use crate::progress::counters::add;
use crate::source::{NodeInfo, ResourceSource, StreamRefusal, SubscriberId};

use super::expiry;
use super::grpc::Broken;
use super::shared::Shared;

/// A client that opens a stream and sends nothing is sent away after this long.
pub(crate) const FIRST_REQUEST: Duration = Duration::from_secs(10);

/// The longest name of a client, in characters: a namespace and a pod have 317 at most.
const MAX_NAME: usize = 320;

/// The longest description of a client's program, in characters.
const MAX_USER_AGENT: usize = 80;

/// A stream that was let in.
pub(crate) struct Admission {
    pub who: SubscriberId,
    pub node: NodeInfo,
    /// When the client's certificate runs out.
    pub expires: Option<Instant>,
}

/// Asks the source, by the first request of a stream.
///
/// # Errors
/// The status to end the stream with.
pub(crate) fn admit<S: ResourceSource>(
    shared: &Shared<S>,
    link: &Link,
    node: Option<&Node>,
) -> Result<Admission, Status> {
    let as_sent = node.map_or("", |node| node.id.as_str());
    let (node, peer) = (node.map(node_info).unwrap_or_default(), &link.peer);
    let expires = peer.certificates.first().and_then(expiry::end_of);
    // A resumed TLS session does not verify the certificate again.
    let admitted = match expires.is_some_and(|end| end <= Instant::now()) {
        true => Err(StreamRefusal::Unauthenticated(
            "the certificate has expired".to_owned(),
        )),
        // Cut or cleaned, the id would be another one.
        false if node.id.as_str() != as_sent => Err(StreamRefusal::Denied(format!(
            "the node id is not a name; use {MAX_NAME} printable characters at most"
        ))),
        false => shared.source.admit(peer, &node),
    };
    let who = admitted.map_err(|refusal| {
        add(&shared.counters.streams_refused, 1);
        tracing::warn!(peer = ?peer.address, node = node.id.as_str(), %refusal, "stream refused");
        match refusal {
            StreamRefusal::Unauthenticated(_) => Status::unauthenticated(refusal.to_string()),
            StreamRefusal::Denied(_) => Status::permission_denied(refusal.to_string()),
            StreamRefusal::Unavailable(_) => Status::unavailable(refusal.to_string()),
        }
    })?;
    Ok(Admission { who, node, expires })
}

/// The status for a stream of a client with a certificate that expired while the stream was open.
pub(crate) fn expired() -> Status {
    Status::unauthenticated("the client certificate has expired")
}

/// The status for a client that sent requests that can't be read; `None` if the client is gone.
pub(crate) fn broken<S>(shared: &Shared<S>, stream: &str, broken: &Broken) -> Option<Status> {
    match broken {
        Broken::Undecodable(text) => {
            add(&shared.counters.undecodable, 1);
            add(&shared.counters.streams_refused, 1);
            tracing::warn!(stream, text, "undecodable request");
            Some(Status::invalid_argument(text.clone()))
        }
        Broken::Gone(error) => {
            tracing::debug!(stream, %error, "stream broke off");
            None
        }
    }
}

fn node_info(node: &Node) -> NodeInfo {
    let text = |text: &str| ClientText::new(text, MAX_NAME);
    let version = match &node.user_agent_version_type {
        Some(UserAgentVersionType::UserAgentVersion(version)) => text(version).to_string(),
        Some(UserAgentVersionType::UserAgentBuildVersion(build)) => match &build.version {
            Some(v) => format!("{}.{}.{}", v.major_number, v.minor_number, v.patch),
            None => String::new(),
        },
        None => String::new(),
    };
    let name = text(&node.user_agent_name);
    let metadata = node
        .metadata
        .as_ref()
        .and_then(|metadata| metadata.fields.get(BOOTSTRAP_METADATA));
    let bootstrap = match metadata.and_then(|value| value.kind.as_ref()) {
        Some(Kind::NumberValue(version)) => whole(*version),
        Some(_) | None => 0,
    };
    NodeInfo {
        id: text(&node.id),
        cluster: text(&node.cluster),
        user_agent: ClientText::new(&format!("{name} {version}"), MAX_USER_AGENT),
        bootstrap,
    }
}

/// Returns a client's number as a version: 0 if it is not one.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn whole(number: f64) -> u32 {
    // A cast of floating point saturates.
    number as u32
}
