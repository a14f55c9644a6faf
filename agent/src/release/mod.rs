//! The end of the application: the kubelet's hook is answered, and with it the signal sent, once no caller has the pod any more.
//!
//! Sidecars outlive the application, but cannot hold back its signal. So injection gives each container a `preStop` hook that
//! the kubelet sends to the agent ([`Hook::hold`]). The agent asks the control plane how far the removal of the pod is
//! (`follow`), watches the requests of callers (`traffic`), and decides within bounds (`decision`).

mod decision;
mod follow;
mod traffic;

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use heddle_acceptor::LogLimit;
use heddle_xds_types::rollout::{EndReport, ReleaseReason};
use tokio::sync::watch;

use crate::settings::Settings;
use decision::{Bounds, Known, Step};
pub(crate) use follow::follow;
pub(crate) use traffic::watch_traffic;

/// The times of the pod's end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Times {
    asked: Option<Instant>,
    /// Only of a pod that ends.
    released: Option<(Instant, ReleaseReason)>,
    /// When the last hook was asked and answered without a control plane: the pod may not end.
    unconfirmed: Option<(Instant, Instant)>,
    ended: Option<Instant>,
}

/// The hooks of the pod's containers, and all that is known about the pod's end.
pub(crate) struct Hook {
    bounds: Bounds,
    /// The hooks that wait for their answer.
    waiting: watch::Sender<usize>,
    known: watch::Sender<Known>,
    times: watch::Sender<Times>,
    last_request: Mutex<Option<Instant>>,
    lines: LogLimit,
}

/// One hook that waits.
struct Waiting<'a>(&'a watch::Sender<usize>);

impl<'a> Waiting<'a> {
    fn new(waiting: &'a watch::Sender<usize>) -> Self {
        waiting.send_modify(|hooks| *hooks += 1);
        Self(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|hooks| *hooks -= 1);
    }
}

impl Hook {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self {
            bounds: Bounds::of(settings.grace),
            waiting: watch::Sender::default(),
            known: watch::Sender::default(),
            times: watch::Sender::default(),
            last_request: Mutex::default(),
            lines: LogLimit::default(),
        }
    }

    /// Returns when the application may end. Anybody can call the hook: the listener bounds the callers, and lets none take the place of
    /// the kubelet.
    pub(crate) async fn hold(&self) {
        let asked = Instant::now();
        let mut known = self.known.subscribe();
        let _waiting = Waiting::new(&self.waiting);
        loop {
            let step = self
                .bounds
                .step(asked, Instant::now(), &known.borrow_and_update());
            match step {
                Step::Release(reason) => {
                    self.release(asked, reason);
                    return;
                }
                Step::Wait(until) => {
                    // Its sender is `self`.
                    let _ = tokio::time::timeout_at(until.into(), known.changed()).await;
                }
            }
        }
    }

    fn release(&self, asked: Instant, reason: ReleaseReason) {
        let waited_ms = u64::try_from(asked.elapsed().as_millis()).unwrap_or(u64::MAX);
        let known = self.known.borrow();
        let counts = known.withdrawal.as_ref();
        let counts = counts.map(|(of, _)| format!("{}/{}", of.acknowledged, of.total));
        drop(known);
        let acknowledged = counts.unwrap_or_default();
        if let Some(suppressed) = self.lines.allow() {
            tracing::info!(%reason, waited_ms, acknowledged, suppressed, "the application may end");
        }
        let now = Instant::now();
        self.times.send_if_modified(|times| match reason {
            ReleaseReason::NotTerminating => false,
            // Anybody can call the hook of a pod that does not end.
            ReleaseReason::NoControlPlane => {
                times.unconfirmed = Some((asked, now));
                false
            }
            _ if times.released.is_some() => false,
            _ => {
                (times.asked, times.released) = (Some(asked), Some((now, reason)));
                true
            }
        });
    }

    /// The agent itself is told to end: the containers of the application have ended.
    pub(crate) fn ended(&self) {
        self.times.send_modify(|times| {
            times.ended.get_or_insert_with(Instant::now);
            if let Some((asked, released)) = times.unconfirmed.take()
                && times.released.is_none()
            {
                let reason = ReleaseReason::NoControlPlane;
                (times.asked, times.released) = (Some(asked), Some((released, reason)));
            }
        });
    }

    /// Whether the end of the pod is of interest: a hook waits, or the pod ends.
    fn is_wanted(&self) -> bool {
        *self.waiting.borrow() > 0 || self.times.borrow().released.is_some()
    }

    async fn until_wanted(&self) {
        let (mut waiting, mut times) = (self.waiting.subscribe(), self.times.subscribe());
        while !self.is_wanted() {
            // Their senders are `self`.
            tokio::select! {
                _ = waiting.changed() => {}
                _ = times.changed() => {}
            }
        }
    }

    fn begun(&self, at: Instant) {
        let mut last = self
            .last_request
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *last = Some(at);
    }

    /// The report to the control plane, now.
    fn report(&self, node: String) -> EndReport {
        let times = *self.times.borrow();
        let last = *self
            .last_request
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let ago = |at: Instant| u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX);
        EndReport {
            node,
            asked_ago_ms: times.asked.map(ago),
            released_ago_ms: times.released.map(|(at, _)| ago(at)),
            last_request_ago_ms: last.map(ago),
            ended_ago_ms: times.ended.map(ago),
            reason: times
                .released
                .map_or(ReleaseReason::Held, |(_, reason)| reason)
                .into(),
        }
    }
}
