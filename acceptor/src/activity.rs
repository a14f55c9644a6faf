//! The requests of one connection, and the deadline that applies to it.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use http::{Request, Response};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::service::Service;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::options::Deadlines;
use crate::reasons::Overdue;
use crate::slots::{ConnectionSlot, SlotState};

/// The requests of one connection.
pub(crate) struct Activity {
    slot: Arc<ConnectionSlot>,
    state: Mutex<State>,
    changed: Notify,
}

struct State {
    next: u64,
    /// The running requests by number, with the time of each one's start.
    running: BTreeMap<u64, Instant>,
    /// When the last request ended, or when the connection began.
    since: Instant,
}

impl Activity {
    pub fn new(slot: Arc<ConnectionSlot>) -> Self {
        Self {
            slot,
            state: Mutex::new(State {
                next: 0,
                running: BTreeMap::new(),
                since: Instant::now(),
            }),
            changed: Notify::new(),
        }
    }

    /// Waits until the connection exceeds a deadline.
    pub async fn overdue(&self, deadlines: &Deadlines) -> Overdue {
        loop {
            match self.deadline(deadlines) {
                Some((at, overdue)) if at <= Instant::now() => return overdue,
                Some((at, _)) => tokio::select! {
                    () = sleep_until(at) => {}
                    () = self.changed.notified() => {}
                },
                None => self.changed.notified().await,
            }
        }
    }

    fn deadline(&self, deadlines: &Deadlines) -> Option<(Instant, Overdue)> {
        let state = self.lock();
        match state.running.values().next() {
            // Numbers grow with time, so the first one is the oldest.
            Some(oldest) => Some((*oldest + deadlines.request?, Overdue::Request)),
            None if state.next == 0 => {
                Some((state.since + deadlines.first_request, Overdue::FirstRequest))
            }
            None => Some((state.since + deadlines.idle, Overdue::Idle)),
        }
    }

    fn begin(self: &Arc<Self>) -> RunningRequest {
        let mut state = self.lock();
        let number = state.next;
        state.next += 1;
        state.running.insert(number, Instant::now());
        if state.running.len() == 1 {
            self.slot.set_state(SlotState::Busy);
        }
        drop(state);
        self.changed.notify_one();
        RunningRequest {
            number,
            activity: Arc::clone(self),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request until its response has been written, or is given up.
struct RunningRequest {
    number: u64,
    activity: Arc<Activity>,
}

impl Drop for RunningRequest {
    fn drop(&mut self) {
        let mut state = self.activity.lock();
        state.running.remove(&self.number);
        if state.running.is_empty() {
            state.since = Instant::now();
            self.activity.slot.set_state(SlotState::Quiet);
        }
        drop(state);
        self.activity.changed.notify_one();
    }
}

/// A service with a record of its running requests.
pub(crate) struct Tracked<S> {
    pub inner: S,
    pub activity: Arc<Activity>,
}

impl<S, B> Service<Request<Incoming>> for Tracked<S>
where
    S: Service<Request<Incoming>, Response = Response<B>>,
    S::Future: Send + 'static,
{
    type Response = Response<TrackedBody<B>>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, S::Error>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let running = self.activity.begin();
        let answer = self.inner.call(request);
        Box::pin(async move {
            let response = answer.await?;
            Ok(response.map(|body| TrackedBody {
                inner: Box::pin(body),
                _running: running,
            }))
        })
    }
}

/// A response's body. The request runs until the body is dropped.
pub(crate) struct TrackedBody<B> {
    inner: Pin<Box<B>>,
    _running: RunningRequest,
}

impl<B: Body> Body for TrackedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        self.inner.as_mut().poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
