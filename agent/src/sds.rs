//! Envoy's `SecretDiscoveryService` over a private Unix socket, state of the world and delta.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;

use anyhow::Result;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
};
use envoy_types::pb::envoy::service::secret::v3::secret_discovery_service_server::{
    SecretDiscoveryService, SecretDiscoveryServiceServer,
};
use envoy_types::pb::google::protobuf::Any;
use futures::{Stream, StreamExt};
use heddle_acceptor::{Link, Protocol, clean};
use hyper_util::service::TowerToHyperService;
use prost::Message;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};

use crate::secrets::{Secrets, Versioned};
use crate::socket::Server;

const TYPE_URL: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
/// Envoy answers each response before it gets the next: more than a few waiting is an error of its.
const QUEUE: usize = 4;
/// The longest text of a rejection, in characters.
const MAX_TEXT: usize = 1024;

/// Serves until it fails.
pub(crate) async fn serve(socket: &Path, secrets: watch::Receiver<Secrets>) -> Result<()> {
    let router = Routes::new(SecretDiscoveryServiceServer::new(Sds { secrets }))
        .prepare()
        .into_axum_router();
    let handler = move |_: Arc<Link>| TowerToHyperService::new(router.clone());
    let server = Server {
        name: "secrets",
        protocol: Protocol::Http2,
        // Each of its streams stays open.
        request: None,
    };
    server.serve(socket, handler).await
}

struct Sds {
    secrets: watch::Receiver<Secrets>,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl SecretDiscoveryService for Sds {
    type StreamSecretsStream = Answers<DiscoveryResponse>;
    type DeltaSecretsStream = Answers<DeltaDiscoveryResponse>;

    async fn stream_secrets(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamSecretsStream>, Status> {
        Ok(Response::new(pump(
            request.into_inner(),
            self.secrets.clone(),
            StateOfTheWorld::default(),
        )))
    }

    async fn delta_secrets(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaSecretsStream>, Status> {
        Ok(Response::new(pump(
            request.into_inner(),
            self.secrets.clone(),
            Delta::default(),
        )))
    }

    async fn fetch_secrets(
        &self,
        _: Request<DiscoveryRequest>,
    ) -> Result<Response<DiscoveryResponse>, Status> {
        Err(Status::unimplemented("secrets are streamed"))
    }
}

/// One stream's state: it takes the client's requests, and returns an answer if there is one to send.
trait Session: Send + 'static {
    type Ask: Send + 'static;
    type Answer: Send + 'static;
    fn asked(&mut self, ask: Self::Ask);
    fn answer(&mut self, secrets: &Secrets) -> Option<Self::Answer>;
}

fn pump<S: Session>(
    mut asks: Streaming<S::Ask>,
    mut secrets: watch::Receiver<Secrets>,
    mut session: S,
) -> Answers<S::Answer> {
    let (answers, stream) = mpsc::channel(QUEUE);
    // Ends with the client: its requests end, or the stream of answers is dropped.
    tokio::spawn(async move {
        loop {
            tokio::select! {
                ask = asks.next() => match ask {
                    Some(Ok(ask)) => session.asked(ask),
                    Some(Err(_)) | None => return,
                },
                changed = secrets.changed() => if changed.is_err() { return },
                () = answers.closed() => return,
            }
            let answer = session.answer(&secrets.borrow_and_update());
            if let Some(answer) = answer
                && answers.send(Ok(answer)).await.is_err()
            {
                return;
            }
        }
    });
    Box::pin(ReceiverStream::new(stream))
}

fn rejected(error: Option<&str>) {
    if let Some(error) = error.map(|error| clean(error, MAX_TEXT)) {
        tracing::error!(error, "Envoy rejected the certificate or the trust bundle");
    }
}

fn pack(secret: &Versioned) -> Any {
    Any {
        type_url: TYPE_URL.to_owned(),
        value: secret.secret.encode_to_vec(),
    }
}

#[derive(Default)]
struct StateOfTheWorld {
    wanted: BTreeSet<String>,
    sent: BTreeMap<String, u64>,
    nonce: u64,
}

impl Session for StateOfTheWorld {
    type Ask = DiscoveryRequest;
    type Answer = DiscoveryResponse;

    fn asked(&mut self, ask: DiscoveryRequest) {
        rejected(ask.error_detail.as_ref().map(|e| e.message.as_str()));
        // An answer to an older response than the last one has no new information.
        if !ask.response_nonce.is_empty() && ask.response_nonce != self.nonce.to_string() {
            return;
        }
        let wanted: BTreeSet<String> = ask.resource_names.into_iter().collect();
        if wanted != self.wanted {
            self.wanted = wanted;
            self.sent.clear();
        }
    }

    fn answer(&mut self, secrets: &Secrets) -> Option<DiscoveryResponse> {
        let found: Vec<(&String, &Versioned)> = self
            .wanted
            .iter()
            .filter_map(|n| Some((n, secrets.get(n)?)))
            .collect();
        let versions: BTreeMap<String, u64> = found
            .iter()
            .map(|(n, s)| ((*n).clone(), s.version))
            .collect();
        if versions.is_empty() || versions == self.sent {
            return None;
        }
        let resources = found.iter().map(|(_, s)| pack(s)).collect();
        self.sent = versions;
        self.nonce += 1;
        Some(DiscoveryResponse {
            version_info: self.nonce.to_string(),
            nonce: self.nonce.to_string(),
            type_url: TYPE_URL.to_owned(),
            resources,
            ..Default::default()
        })
    }
}

#[derive(Default)]
struct Delta {
    /// Each name with the version last sent: 0 for none.
    wanted: BTreeMap<String, u64>,
    nonce: u64,
}

impl Session for Delta {
    type Ask = DeltaDiscoveryRequest;
    type Answer = DeltaDiscoveryResponse;

    fn asked(&mut self, ask: DeltaDiscoveryRequest) {
        rejected(ask.error_detail.as_ref().map(|e| e.message.as_str()));
        for name in ask.resource_names_unsubscribe {
            self.wanted.remove(&name);
        }
        // A name that is requested again is answered again, even if the client has its latest version.
        self.wanted.extend(
            ask.resource_names_subscribe
                .into_iter()
                .map(|name| (name, 0)),
        );
    }

    fn answer(&mut self, secrets: &Secrets) -> Option<DeltaDiscoveryResponse> {
        let mut resources = Vec::new();
        for (name, sent) in &mut self.wanted {
            if let Some(secret) = secrets.get(name).filter(|s| s.version != *sent) {
                *sent = secret.version;
                resources.push(Resource {
                    name: name.clone(),
                    version: secret.version.to_string(),
                    resource: Some(pack(secret)),
                    ..Default::default()
                });
            }
        }
        if resources.is_empty() {
            return None;
        }
        self.nonce += 1;
        Some(DeltaDiscoveryResponse {
            nonce: self.nonce.to_string(),
            type_url: TYPE_URL.to_owned(),
            resources,
            ..Default::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secrets::Publisher;

    fn sotw(names: &[&str], nonce: &str) -> DiscoveryRequest {
        DiscoveryRequest {
            resource_names: names.iter().map(|n| (*n).to_owned()).collect(),
            response_nonce: nonce.to_owned(),
            ..Default::default()
        }
    }

    #[test]
    fn state_of_the_world_says_each_thing_once() {
        let publisher = Publisher::new("roots");
        let now = || publisher.subscribe().borrow().clone();
        let mut session = StateOfTheWorld::default();
        session.asked(sotw(&["workload"], ""));
        assert!(session.answer(&now()).is_none(), "there is no leaf yet");
        publisher.publish("chain", "key", "roots");
        assert_eq!(session.answer(&now()).unwrap().resources.len(), 1);
        session.asked(sotw(&["workload"], "1"));
        assert!(session.answer(&now()).is_none(), "an ACK needs no answer");
        session.asked(sotw(&["workload", "trust"], "0"));
        assert!(
            session.answer(&now()).is_none(),
            "a stale nonce says nothing"
        );
        session.asked(sotw(&["workload", "trust", "other"], "1"));
        assert_eq!(session.answer(&now()).unwrap().resources.len(), 2);
        publisher.publish("chain 2", "key 2", "roots");
        assert_eq!(session.answer(&now()).unwrap().nonce, "3");
    }

    #[test]
    fn delta_sends_only_what_changed() {
        let publisher = Publisher::new("roots");
        let now = || publisher.subscribe().borrow().clone();
        let mut session = Delta::default();
        let ask = |names: &[&str]| DeltaDiscoveryRequest {
            resource_names_subscribe: names.iter().map(|n| (*n).to_owned()).collect(),
            ..Default::default()
        };
        session.asked(ask(&["workload", "trust"]));
        assert_eq!(session.answer(&now()).unwrap().resources[0].name, "trust");
        publisher.publish("chain", "key", "roots");
        let answer = session.answer(&now()).unwrap();
        assert_eq!(
            (answer.resources.len(), answer.resources[0].name.as_str()),
            (1, "workload")
        );
        session.asked(ask(&["trust"]));
        assert_eq!(
            session.answer(&now()).unwrap().resources.len(),
            1,
            "a repeated request is answered again"
        );
        publisher.publish("chain", "key", "other roots");
        assert_eq!(session.answer(&now()).unwrap().resources.len(), 2);
    }
}
