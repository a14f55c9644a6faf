//! One discovery stream: moves messages between the connection and a session, and reports the session's progress.
//!
//! The connection pulls the stream of responses. So a client that does not read costs no more memory than the responses
//! in flight, and a stream that is not polled any more is dropped with its connection.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use futures::stream::{self, Stream};
use heddle_acceptor::Link;
use prost::Message;
use tokio::sync::watch;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::progress::convergence::Convergence;
use crate::progress::counters::{add, sub};
use crate::progress::{ProgressChange, StreamToken, SyncStates};
use crate::session::{Fault, Flavor, Heard, Push, Session};
use crate::source::{ResourceSource, SubscriberId};

use super::admission::{self, FIRST_REQUEST};
use super::grpc::{Broken, Requests};
use super::open::OpenStream;
use super::shared::Shared;
use super::wire;

/// A client that reconnects reports all resources that it holds within this time: it sends its first requests back to back.
const RESYNC_TIME: Duration = Duration::from_secs(2);

/// The time between two calls of [`Session::end_route_waits`]: a cluster without endpoints waits for routes twice as long at most. A client
/// that works acknowledges routes within milliseconds. That of a stuck one is less than the 5 s after which a pod ends without an answer of
/// the control plane: from then on, its address may be that of another pod.
const ROUTES_TIME: Duration = Duration::from_secs(2);

/// Above this number of requested names, the view of a client is made with a rest after each, so that a client that asks
/// for thousands, one after another, does not take a core. Changes in the meantime come with the next view.
const RESTLESS_NAMES: usize = 512;
/// The rest for each name asked for: several times the cost of a name in making a view.
const REST_FOR_NAME: Duration = Duration::from_micros(20);

/// The differences of the two protocols on the wire.
pub(crate) trait Protocol: Send + Sync + 'static {
    const FLAVOR: Flavor;
    type Request: Message + Default + 'static;
    fn node(request: &Self::Request) -> Option<&Node>;
    fn type_url(request: &Self::Request) -> &str;
    fn hear(session: &mut Session, request: &Self::Request) -> Result<Heard, Fault>;
}

pub(crate) struct Delta;

impl Protocol for Delta {
    const FLAVOR: Flavor = Flavor::Delta;
    type Request = DeltaDiscoveryRequest;

    fn node(request: &Self::Request) -> Option<&Node> {
        request.node.as_ref()
    }
    fn type_url(request: &Self::Request) -> &str {
        &request.type_url
    }
    fn hear(session: &mut Session, request: &Self::Request) -> Result<Heard, Fault> {
        session.delta_request(request)
    }
}

pub(crate) struct Sotw;

impl Protocol for Sotw {
    const FLAVOR: Flavor = Flavor::Sotw;
    type Request = DiscoveryRequest;

    fn node(request: &Self::Request) -> Option<&Node> {
        request.node.as_ref()
    }
    fn type_url(request: &Self::Request) -> &str {
        &request.type_url
    }
    fn hear(session: &mut Session, request: &Self::Request) -> Result<Heard, Fault> {
        session.sotw_request(request)
    }
}

/// The frames that answer a stream of requests.
pub(crate) fn responses<P: Protocol, S: ResourceSource>(
    shared: Arc<Shared<S>>,
    link: Arc<Link>,
    inbound: Requests<P::Request>,
) -> impl Stream<Item = Result<Bytes, Status>> + Send + 'static {
    let opened = Instant::now();
    let pump = Pump::<P, S> {
        session: Session::new(P::FLAVOR, shared.limits.clone()),
        ending: shared.stopping.child_token(),
        shared,
        link,
        inbound,
        changes: None,
        admitted: None,
        expires: None,
        queue: VecDeque::new(),
        unknown_type_logged: false,
        reported: false,
        view_due: false,
        names_changed: false,
        rests_until: opened,
        scope_changed: false,
        view_changed: false,
        convergence: Convergence::default(),
        routes_due: None,
        opened,
        timer: Box::pin(tokio::time::sleep_until(opened + FIRST_REQUEST)),
        over: false,
    };
    stream::unfold(Box::new(pump), |mut pump| async move {
        let item = pump.next().await?;
        Some((item, pump))
    })
}

struct Pump<P: Protocol, S: ResourceSource> {
    shared: Arc<Shared<S>>,
    session: Session,
    link: Arc<Link>,
    inbound: Requests<P::Request>,
    /// `None` before the stream is admitted, and once the source has gone: then nothing changes any more.
    changes: Option<watch::Receiver<u64>>,
    /// The server stops, or wants this client to go elsewhere.
    ending: CancellationToken,
    admitted: Option<Admitted<S>>,
    expires: Option<Instant>,
    /// One of each kind at most.
    queue: VecDeque<Push>,
    unknown_type_logged: bool,
    /// The client's progress has been published. Before, it would lack the resources that the client has not reported yet.
    reported: bool,
    /// The view is to be fetched again, once the rest after the last time is over.
    view_due: bool,
    /// The client has asked for other names than the view was made for.
    names_changed: bool,
    rests_until: Instant,
    /// The view or the on-demand requests differ from the published ones.
    scope_changed: bool,
    view_changed: bool,
    convergence: Convergence,
    /// The time of the next [`Session::end_route_waits`]. `None`: no cluster waits for routes.
    routes_due: Option<Instant>,
    opened: Instant,
    timer: Pin<Box<Sleep>>,
    over: bool,
}

/// The stream speaks for a subscriber; dropping this is how the subscriber disconnects.
struct Admitted<S: ResourceSource> {
    who: SubscriberId,
    token: StreamToken,
    shared: Arc<Shared<S>>,
    _open: OpenStream,
}

impl<S: ResourceSource> Drop for Admitted<S> {
    fn drop(&mut self) {
        sub(&self.shared.counters.streams_open, 1);
        let resumed = self.shared.registry.disconnect(&self.who, self.token);
        tracing::info!(subscriber = %self.who, resumed, "stream closed");
        if resumed {
            self.shared.source.resumed(&self.who);
        }
    }
}

enum Event<R> {
    Request(R),
    Closed,
    Broken(Broken),
    Changed,
    SourceGone,
    Due(Due),
    Ending,
}

/// The events that a stream waits for by the clock.
#[derive(Clone, Copy)]
enum Due {
    FirstRequest,
    Rested,
    Resynced,
    RoutesLate,
    Expired,
}

impl<P: Protocol, S: ResourceSource> Pump<P, S> {
    async fn next(&mut self) -> Option<Result<Bytes, Status>> {
        loop {
            if let Some(push) = self.queue.pop_front() {
                return Some(Ok(wire::frame(&push, P::FLAVOR)));
            }
            if self.over {
                return None;
            }
            let outcome = match self.event().await {
                Event::Request(request) => self.hear(&request),
                Event::Closed => return None,
                Event::Broken(broken) => {
                    Err(admission::broken(&self.shared, &self.name(), &broken)?)
                }
                Event::Changed => {
                    self.view_due = true;
                    Ok(())
                }
                Event::SourceGone => {
                    self.changes = None;
                    Ok(())
                }
                Event::Due(Due::Resynced) => {
                    self.session.end_resync();
                    Ok(())
                }
                Event::Due(Due::RoutesLate) => {
                    self.routes_due = None;
                    self.session.end_route_waits();
                    Ok(())
                }
                Event::Due(Due::Rested) => Ok(()),
                Event::Due(Due::FirstRequest) => {
                    Err(Status::deadline_exceeded("no request on the stream"))
                }
                Event::Due(Due::Expired) => Err(admission::expired()),
                Event::Ending => Err(self.shared.sent_away()),
            };
            if let Err(status) = outcome {
                self.over = true;
                self.admitted = None;
                return Some(Err(status));
            }
            if self.view_due && Instant::now() >= self.rests_until {
                self.refresh();
            }
            // The old view was made for other names, so its answers about the new ones are not to be sent.
            if !self.names_changed {
                self.step();
            }
        }
    }

    async fn event(&mut self) -> Event<P::Request> {
        let due = self.due();
        if let Some((at, _)) = due
            && self.timer.deadline() != at
        {
            self.timer.as_mut().reset(at);
        }
        let timer = self.timer.as_mut();
        let elapsed = async {
            match due {
                Some((_, due)) => {
                    timer.await;
                    due
                }
                None => std::future::pending().await,
            }
        };
        let changes = &mut self.changes;
        let changed = async {
            match changes {
                Some(changes) => changes.changed().await.is_ok(),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            message = self.inbound.next() => match message {
                Ok(Some(request)) => Event::Request(request),
                Ok(None) => Event::Closed,
                Err(broken) => Event::Broken(broken),
            },
            alive = changed => if alive { Event::Changed } else { Event::SourceGone },
            due = elapsed => Event::Due(due),
            () = self.ending.cancelled() => Event::Ending,
        }
    }

    fn due(&self) -> Option<(Instant, Due)> {
        if self.admitted.is_none() {
            return Some((self.opened + FIRST_REQUEST, Due::FirstRequest));
        }
        let resynced = Some((self.opened + RESYNC_TIME, Due::Resynced));
        let rested = Some((self.rests_until, Due::Rested));
        let routes_late = self.routes_due.map(|at| (at, Due::RoutesLate));
        let expired = self.expires.map(|at| (at, Due::Expired));
        resynced
            .filter(|_| self.session.is_resyncing())
            .into_iter()
            .chain(rested.filter(|_| self.view_due))
            .chain(routes_late)
            .chain(expired)
            .min_by_key(|(at, _)| *at)
    }

    fn hear(&mut self, request: &P::Request) -> Result<(), Status> {
        if self.admitted.is_none() {
            self.admit(P::node(request))?;
        }
        let heard = P::hear(&mut self.session, request).map_err(|fault| self.fault(&fault))?;
        let counters = &self.shared.counters;
        match heard.kind {
            Some(kind) if heard.nacked => add(counters.nacks.get(kind), 1),
            Some(_) => {}
            None => {
                add(&counters.unknown_types, 1);
                if !std::mem::replace(&mut self.unknown_type_logged, true) {
                    let type_url: String = P::type_url(request).chars().take(200).collect();
                    tracing::warn!(subscriber = %self.name(), type_url, "asked for a type that is not served");
                }
            }
        }
        self.scope_changed |= heard.on_demand_changed;
        self.names_changed |= heard.on_demand_changed;
        self.view_due |= heard.on_demand_changed || self.session.view().is_none();
        Ok(())
    }

    fn admit(&mut self, node: Option<&Node>) -> Result<(), Status> {
        let shared = &self.shared;
        let admission = admission::admit(shared, &self.link, node)?;
        let (who, node) = (admission.who, admission.node);
        add(&shared.counters.streams, 1);
        add(&shared.counters.streams_open, 1);
        let peer = self.link.peer.address;
        tracing::info!(subscriber = %who, ?peer, node = node.id.as_str(), flavor = ?P::FLAVOR, "stream opened");
        self.changes = Some(shared.source.subscribe(&who));
        self.expires = admission.expires;
        let link = Arc::clone(&self.link);
        self.admitted = Some(Admitted {
            _open: shared.open.enter(&who, self.ending.clone(), link),
            token: shared.registry.connect(&who, node, P::FLAVOR),
            who,
            shared: Arc::clone(shared),
        });
        Ok(())
    }

    /// Takes the source's newest view. That of before stays if the source has none.
    fn refresh(&mut self) {
        (self.view_due, self.names_changed) = (false, false);
        let Some(admitted) = &self.admitted else {
            return;
        };
        let on_demand = self.session.on_demand();
        let view = self.shared.source.view(&admitted.who, on_demand);
        let names = on_demand.clusters.len();
        if names > RESTLESS_NAMES {
            let names = u32::try_from(names).unwrap_or(u32::MAX);
            self.rests_until = Instant::now() + REST_FOR_NAME * names;
        }
        let Some(view) = view else { return };
        let before = self.session.view();
        if before.is_none_or(|before| !Arc::ptr_eq(before, &view)) {
            self.session.set_view(view);
            (self.view_changed, self.scope_changed) = (true, true);
        }
    }

    /// Sends the next responses of the session, and reports its progress.
    fn step(&mut self) {
        let mut report = ProgressChange::default();
        let counters = &self.shared.counters;
        for push in self.session.poll() {
            let bytes = wire::length(&push, P::FLAVOR);
            add(counters.responses.get(push.kind), 1);
            add(&counters.bytes, bytes);
            counters.push_bytes.observe(bytes);
            report.bytes += bytes;
            report.responses += 1;
            self.queue.push_back(push);
        }
        self.routes_due = match self.session.awaits_routes() {
            true => Some(self.routes_due.unwrap_or(Instant::now() + ROUTES_TIME)),
            false => None,
        };
        let changed = self.session.take_sync_states();
        self.measure();
        if self.reported {
            report.sync_states = SyncStates::Changed(changed);
        } else if self.session.has_reported() {
            self.reported = true;
            self.scope_changed = true;
            report.sync_states = SyncStates::Whole(self.session.unacknowledged());
        }
        if self.reported {
            report.resources = Some(self.session.held_count());
            if std::mem::take(&mut self.scope_changed) {
                let on_demand = Arc::clone(self.session.on_demand());
                report.scope = Some((self.session.view().cloned(), on_demand));
            }
        }
        if let Some(admitted) = &self.admitted {
            let registry = &self.shared.registry;
            registry.report(&admitted.who, admitted.token, report);
        }
    }

    /// How long the client took for the views that it has answered for.
    fn measure(&mut self) {
        let changed = std::mem::take(&mut self.view_changed);
        if !changed && !self.convergence.is_waiting() {
            return;
        }
        let (newest, answered) = (self.session.views(), self.session.answered_views());
        if changed {
            let since = self.session.view().and_then(|view| view.since);
            self.convergence.began(newest, since, answered);
        }
        let (shared, admitted) = (&self.shared, &self.admitted);
        self.convergence
            .reached(answered, &shared.counters.convergence, |view| {
                if let Some(admitted) = admitted {
                    shared.source.converged(&admitted.who, view);
                }
            });
    }

    fn fault(&self, fault: &Fault) -> Status {
        add(&self.shared.counters.streams_refused, 1);
        tracing::warn!(subscriber = %self.name(), %fault, "stream refused");
        match fault {
            Fault::NodeChanged => Status::invalid_argument(fault.to_string()),
            Fault::Names => Status::resource_exhausted(fault.to_string()),
        }
    }

    fn name(&self) -> String {
        match &self.admitted {
            Some(admitted) => admitted.who.to_string(),
            None => format!("{:?}", self.link.peer.address),
        }
    }
}
