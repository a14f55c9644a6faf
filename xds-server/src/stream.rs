//! One stream: moves messages between tonic and a session, and reports what the session did.
//!
//! The stream of responses is pulled by the connection, so a client that does not read makes us hold no more than
//! what is in flight, and a stream that nobody polls any more is dropped with its connection.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::config::core::v3::node::UserAgentVersionType;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use futures::stream::{self, Stream};
use prost::Message;
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::{Code, Status, Streaming};

use crate::counters::{add, sub};
use crate::progress::{Report, StreamToken};
use crate::resource::View;
use crate::service::Shared;
use crate::session::{Fault, Flavor, Heard, Push, Session};
use crate::source::{NodeInfo, Peer, Refusal, ResourceSource, SubscriberId};

/// A client that opens a stream and says nothing is sent away after this long.
const FIRST_REQUEST: Duration = Duration::from_secs(30);

/// A client that reconnects tells all that it holds within this: it sends its first requests back to back.
const SETTLED: Duration = Duration::from_secs(2);

/// What the two protocols do differently on the wire.
pub(crate) trait Protocol: Send + Sync + 'static {
    const FLAVOR: Flavor;
    type Request: Send + 'static;
    type Response: Message + Send + 'static;
    fn node(request: &Self::Request) -> Option<&Node>;
    fn type_url(request: &Self::Request) -> &str;
    fn hear(session: &mut Session, request: &Self::Request) -> Result<Heard, Fault>;
    fn response(push: Push) -> Self::Response;
}

pub(crate) struct Delta;

impl Protocol for Delta {
    const FLAVOR: Flavor = Flavor::Delta;
    type Request = DeltaDiscoveryRequest;
    type Response = DeltaDiscoveryResponse;

    fn node(request: &Self::Request) -> Option<&Node> {
        request.node.as_ref()
    }
    fn type_url(request: &Self::Request) -> &str {
        &request.type_url
    }
    fn hear(session: &mut Session, request: &Self::Request) -> Result<Heard, Fault> {
        session.delta_request(request)
    }
    fn response(push: Push) -> Self::Response {
        push.into_delta()
    }
}

pub(crate) struct Sotw;

impl Protocol for Sotw {
    const FLAVOR: Flavor = Flavor::Sotw;
    type Request = DiscoveryRequest;
    type Response = DiscoveryResponse;

    fn node(request: &Self::Request) -> Option<&Node> {
        request.node.as_ref()
    }
    fn type_url(request: &Self::Request) -> &str {
        &request.type_url
    }
    fn hear(session: &mut Session, request: &Self::Request) -> Result<Heard, Fault> {
        session.sotw_request(request)
    }
    fn response(push: Push) -> Self::Response {
        push.into_sotw()
    }
}

/// The responses to a stream of requests.
pub(crate) fn responses<P: Protocol, S: ResourceSource>(
    shared: Arc<Shared<S>>,
    peer: Peer,
    inbound: Streaming<P::Request>,
) -> impl Stream<Item = Result<P::Response, Status>> + Send + 'static {
    let (changes, stopping) = (shared.source.changes(), shared.stopping.subscribe());
    let pump = Pump::<P, S> {
        session: Session::new(P::FLAVOR, shared.limits.clone()),
        shared,
        peer,
        inbound,
        changes: Some(changes),
        stopping,
        admitted: None,
        view: None,
        queue: VecDeque::new(),
        unknown_type_logged: false,
        settle_at: Instant::now() + SETTLED,
        over: false,
    };
    stream::unfold(pump, |mut pump| async move {
        let item = pump.next().await?;
        Some((item, pump))
    })
}

struct Pump<P: Protocol, S: ResourceSource> {
    shared: Arc<Shared<S>>,
    session: Session,
    peer: Peer,
    inbound: Streaming<P::Request>,
    /// `None` once the source has gone: then nothing changes any more.
    changes: Option<watch::Receiver<u64>>,
    stopping: watch::Receiver<bool>,
    admitted: Option<Admitted<S>>,
    view: Option<Arc<View>>,
    queue: VecDeque<P::Response>,
    unknown_type_logged: bool,
    settle_at: Instant,
    over: bool,
}

/// The stream speaks for a subscriber; dropping this is how the subscriber disconnects.
struct Admitted<S: ResourceSource> {
    who: SubscriberId,
    token: StreamToken,
    shared: Arc<Shared<S>>,
}

impl<S: ResourceSource> Drop for Admitted<S> {
    fn drop(&mut self) {
        sub(&self.shared.counters.streams_open, 1);
        self.shared.registry.disconnect(&self.who, self.token);
        tracing::info!(subscriber = %self.who, "stream closed");
    }
}

enum Event<R> {
    Request(R),
    Closed,
    Failed(Status),
    Changed,
    SourceGone,
    Settled,
    Stopping,
}

impl<P: Protocol, S: ResourceSource> Pump<P, S> {
    async fn next(&mut self) -> Option<Result<P::Response, Status>> {
        loop {
            if let Some(response) = self.queue.pop_front() {
                return Some(Ok(response));
            }
            if self.over {
                return None;
            }
            let outcome = match self.event().await {
                Event::Request(request) => self.hear(&request),
                Event::Closed => return None,
                Event::Failed(status) => Err(self.inbound_failed(status)?),
                Event::Changed => {
                    self.refresh();
                    Ok(())
                }
                Event::SourceGone => {
                    self.changes = None;
                    Ok(())
                }
                Event::Settled => {
                    self.session.settled();
                    Ok(())
                }
                Event::Stopping => Err(Status::unavailable("the server is shutting down")),
            };
            if let Err(status) = outcome {
                self.over = true;
                self.admitted = None;
                return Some(Err(status));
            }
            self.step();
        }
    }

    async fn event(&mut self) -> Event<P::Request> {
        let admitted = self.admitted.is_some();
        let message = async {
            match admitted {
                true => self.inbound.message().await,
                false => match tokio::time::timeout(FIRST_REQUEST, self.inbound.message()).await {
                    Ok(message) => message,
                    Err(_) => Err(Status::deadline_exceeded("no request on the stream")),
                },
            }
        };
        let (unsettled, settle_at) = (self.session.is_unsettled(), self.settle_at);
        let settled = async {
            match unsettled {
                true => tokio::time::sleep_until(settle_at).await,
                false => std::future::pending().await,
            }
        };
        let changed = async {
            match &mut self.changes {
                Some(changes) => changes.changed().await.is_ok(),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            message = message => match message {
                Ok(Some(request)) => Event::Request(request),
                Ok(None) => Event::Closed,
                Err(status) => Event::Failed(status),
            },
            alive = changed => if alive { Event::Changed } else { Event::SourceGone },
            () = settled => Event::Settled,
            _ = self.stopping.wait_for(|stopping| *stopping) => Event::Stopping,
        }
    }

    fn hear(&mut self, request: &P::Request) -> Result<(), Status> {
        if self.admitted.is_none() {
            self.admit(P::node(request))?;
        }
        let heard = P::hear(&mut self.session, request).map_err(|fault| self.fault(&fault))?;
        let counters = &self.shared.counters;
        match heard.kind {
            Some(kind) if heard.refused => add(counters.nacks.of(kind), 1),
            Some(_) => {}
            None => {
                add(&counters.unknown_types, 1);
                if !std::mem::replace(&mut self.unknown_type_logged, true) {
                    let type_url: String = P::type_url(request).chars().take(200).collect();
                    tracing::warn!(subscriber = %self.name(), type_url, "asked for a type that is not served");
                }
            }
        }
        if heard.wanted_changed || self.view.is_none() {
            self.refresh();
        }
        if heard.wanted_changed {
            self.report(Report {
                wanted: Some(self.session.wanted().clone()),
                ..Report::default()
            });
        }
        Ok(())
    }

    fn admit(&mut self, node: Option<&Node>) -> Result<(), Status> {
        let node = node.map(node_info).unwrap_or_default();
        let shared = &self.shared;
        let who = shared.source.admit(&self.peer, &node).map_err(|refusal| {
            add(&shared.counters.streams_refused, 1);
            tracing::warn!(peer = ?self.peer.address, node = node.id, %refusal, "stream refused");
            match refusal {
                Refusal::Unauthenticated(_) => Status::unauthenticated(refusal.to_string()),
                Refusal::Denied(_) => Status::permission_denied(refusal.to_string()),
                Refusal::Unavailable(_) => Status::unavailable(refusal.to_string()),
            }
        })?;
        add(&shared.counters.streams, 1);
        add(&shared.counters.streams_open, 1);
        tracing::info!(subscriber = %who, peer = ?self.peer.address, node = node.id, flavor = ?P::FLAVOR, "stream opened");
        let token = shared.registry.connect(&who, node, P::FLAVOR);
        self.admitted = Some(Admitted {
            who,
            token,
            shared: Arc::clone(shared),
        });
        Ok(())
    }

    /// Takes the source's newest view. That of before stays if the source knows none.
    fn refresh(&mut self) {
        let Some(admitted) = &self.admitted else {
            return;
        };
        let Some(view) = self
            .shared
            .source
            .view(&admitted.who, self.session.wanted())
        else {
            return;
        };
        if self
            .view
            .as_ref()
            .is_some_and(|old| Arc::ptr_eq(old, &view))
        {
            return;
        }
        self.shared
            .registry
            .prune(&admitted.who, admitted.token, &view);
        self.session.set_view(Arc::clone(&view));
        self.view = Some(view);
    }

    /// Lets the session say what to send, and reports what it did.
    fn step(&mut self) {
        let mut report = Report::default();
        for push in self.session.poll() {
            let kind = push.kind;
            let response = P::response(push);
            let bytes = u64::try_from(response.encoded_len()).unwrap_or(u64::MAX);
            add(self.shared.counters.responses.of(kind), 1);
            add(&self.shared.counters.bytes, bytes);
            report.bytes += bytes;
            report.responses += 1;
            self.queue.push_back(response);
        }
        report.notes = self.session.take_notes();
        self.report(report);
    }

    fn report(&self, report: Report) {
        if let Some(admitted) = &self.admitted {
            self.shared
                .registry
                .report(&admitted.who, admitted.token, report);
        }
    }

    fn fault(&self, fault: &Fault) -> Status {
        add(&self.shared.counters.streams_refused, 1);
        tracing::warn!(subscriber = %self.name(), %fault, "stream refused");
        match fault {
            Fault::NodeChanged => Status::invalid_argument(fault.to_string()),
            Fault::Names => Status::resource_exhausted(fault.to_string()),
        }
    }

    /// A message that can't be decoded is the client's fault and told to it; else the connection is just gone.
    fn inbound_failed(&self, status: Status) -> Option<Status> {
        match status.code() {
            Code::Internal | Code::OutOfRange => {
                add(&self.shared.counters.undecodable, 1);
                add(&self.shared.counters.streams_refused, 1);
                tracing::warn!(subscriber = %self.name(), %status, "undecodable request");
                Some(Status::invalid_argument(status.message().to_owned()))
            }
            Code::DeadlineExceeded => Some(status),
            _ => {
                tracing::debug!(subscriber = %self.name(), %status, "stream broke off");
                None
            }
        }
    }

    fn name(&self) -> String {
        match &self.admitted {
            Some(admitted) => admitted.who.to_string(),
            None => format!("{:?}", self.peer.address),
        }
    }
}

fn node_info(node: &Node) -> NodeInfo {
    let version = match &node.user_agent_version_type {
        Some(UserAgentVersionType::UserAgentVersion(version)) => version.clone(),
        Some(UserAgentVersionType::UserAgentBuildVersion(build)) => match &build.version {
            Some(v) => format!("{}.{}.{}", v.major_number, v.minor_number, v.patch),
            None => String::new(),
        },
        None => String::new(),
    };
    let user_agent = format!("{} {version}", node.user_agent_name)
        .trim()
        .to_owned();
    NodeInfo {
        id: node.id.clone(),
        cluster: node.cluster.clone(),
        user_agent,
    }
}
