//! Taps: live requests of some workloads, for callers that ask for them again and again.
//!
//! A tap is a lease at each replica: it ends when its owner has not asked for some seconds, and when its time is over. Nothing is
//! stored, so a replica that starts again has none. Everything is bounded, and rows beyond a bound are counted.

mod filter;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use heddle_policy_compiler::WorkloadRef;
use heddle_xds_server::SubscriberId;
use heddle_xds_types::tap::{
    LeftOut, TapAnswer, TapLine, TapOrder, TapOrders, TapReport, TapRequest, TappedRequest, VERSION,
};
use tokio::sync::{Notify, watch};

use crate::edges::ReportingSidecar;
use crate::rate::RateLimit;

/// The taps of a replica at a time: as many as a sidecar serves.
const MAX_TAPS: usize = heddle_xds_types::tap::MAX_ORDERS;
/// The taps of one namespace at a time.
const MAX_TAPS_OF_NAMESPACE: usize = 4;
/// Rows of a tap that wait for its owner: 4 MB at most, by the bound on a row.
const MAX_ROWS: usize = 500;
/// Taps that are over by their time and remembered, so that the same one does not begin again.
const MAX_OVER: usize = 256;
/// A tap ends when its owner has not asked for so long.
const LEASE: Duration = Duration::from_secs(10);
/// The messages of one agent that are taken in a [`MESSAGE_WINDOW`]: it sends five a second, and more with many requests.
const MAX_MESSAGES: u32 = 200;
const MESSAGE_WINDOW: Duration = Duration::from_secs(10);

/// Why a tap is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TapRefusal {
    /// A part of the request is not usable.
    #[error("{0}")]
    Invalid(String),
    /// There is no room.
    #[error("{0}")]
    TooMany(String),
}

/// The workloads of a tap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Covered {
    namespace: String,
    workload: Option<String>,
}

impl Covered {
    /// Whether a workload is among them.
    #[must_use]
    pub fn has(&self, workload: &WorkloadRef) -> bool {
        let name = self.workload.as_deref();
        *self.namespace == *workload.namespace && name.is_none_or(|name| *name == *workload.name)
    }
}

#[derive(Debug)]
struct Tap {
    request: TapRequest,
    covered: Covered,
    order: TapOrder,
    /// It ends then.
    until: Instant,
    /// When its owner last asked.
    asked: Instant,
    rows: VecDeque<TapLine>,
    left_out: u64,
    lost: u64,
    news: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Inner {
    last: u64,
    open: BTreeMap<u64, Tap>,
    /// The ids of taps that are over by their time, the oldest first.
    over: VecDeque<String>,
    /// The orders of the workloads with an agent that has a stream.
    orders: HashMap<WorkloadRef, watch::Sender<Arc<TapOrders>>>,
}

/// The taps of this replica.
#[derive(Debug)]
pub struct Taps {
    inner: Mutex<Inner>,
    messages: RateLimit<SubscriberId>,
}

impl Default for Taps {
    fn default() -> Self {
        Self {
            inner: Mutex::default(),
            messages: RateLimit::new(MAX_MESSAGES, MESSAGE_WINDOW),
        }
    }
}

/// The answer to the owner of a tap.
#[derive(Debug)]
pub struct Asked {
    /// The rows, and the counts.
    pub answer: TapAnswer,
    /// Ticks with new rows.
    pub news: Arc<Notify>,
    /// The workloads.
    pub covered: Covered,
    /// Whether the tap has begun or ended by this request.
    pub changed: bool,
}

impl Taps {
    /// Begins a tap, or keeps it alive, and takes its rows. `accounts` returns the service accounts of a workload.
    ///
    /// # Errors
    /// When the request is not usable, or there is no room.
    pub fn ask(
        &self,
        request: &TapRequest,
        accounts: impl Fn(&str, &str) -> Vec<String>,
    ) -> Result<Asked, TapRefusal> {
        self.ask_at(Instant::now(), request, accounts)
    }

    fn ask_at(
        &self,
        now: Instant,
        request: &TapRequest,
        accounts: impl Fn(&str, &str) -> Vec<String>,
    ) -> Result<Asked, TapRefusal> {
        let mut inner = self.lock();
        let known = inner
            .open
            .iter()
            .find(|(_, tap)| tap.request.id == request.id);
        let known = known.map(|(number, _)| *number);
        let number = match known {
            Some(number) => number,
            None => inner.begin(now, request, filter::order(request, accounts))?,
        };
        let Some(tap) = inner.open.get_mut(&number) else {
            return Err(TapRefusal::Invalid("the tap is over".to_owned()));
        };
        if !same(&tap.request, request) {
            let text = "id is that of another tap; make one by chance";
            return Err(TapRefusal::Invalid(text.to_owned()));
        }
        tap.asked = now;
        let asked = Asked {
            answer: TapAnswer {
                version: VERSION,
                rows: tap.rows.drain(..).collect(),
                left_out: tap.left_out,
                lost: tap.lost,
                seconds_left: tap.until.saturating_duration_since(now).as_secs(),
                ..TapAnswer::default()
            },
            news: Arc::clone(&tap.news),
            covered: tap.covered.clone(),
            changed: known.is_none() || request.end,
        };
        if request.end {
            inner.open.remove(&number);
        }
        if asked.changed {
            inner.tell(now);
        }
        Ok(asked)
    }

    /// Whether a tap covers a workload.
    #[must_use]
    pub fn covers(&self, workload: &WorkloadRef) -> bool {
        self.lock().of(workload).next().is_some()
    }

    /// Ends the taps that are over. Returns their workloads.
    pub fn expire(&self) -> Vec<Covered> {
        self.expire_at(Instant::now())
    }

    fn expire_at(&self, now: Instant) -> Vec<Covered> {
        let mut inner = self.lock();
        let over = |tap: &Tap| now >= tap.until || now.duration_since(tap.asked) >= LEASE;
        let ended: Vec<Covered> = inner
            .open
            .values()
            .filter(|tap| over(tap))
            .map(|tap| tap.covered.clone())
            .collect();
        if !ended.is_empty() {
            inner.forget(now);
            inner.open.retain(|_, tap| !over(tap));
            inner.tell(now);
        }
        ended
    }

    /// Takes a report of a sidecar. Returns its orders, with every change. `peer_of` returns the workload at an address that has an
    /// identity.
    pub fn take(
        &self,
        sidecar: &ReportingSidecar,
        report: TapReport,
        peer_of: impl Fn(&str, &str) -> Option<String>,
    ) -> watch::Receiver<Arc<TapOrders>> {
        let is_counted = self.messages.count(sidecar.id.clone());
        let mut inner = self.lock();
        let too_many = match is_counted {
            true => 0,
            false => report.rows.len() as u64,
        };
        for tap in inner.of_mut(&sidecar.workload) {
            tap.lost = tap
                .lost
                .saturating_add(report.lost)
                .saturating_add(too_many);
        }
        for LeftOut { tap, count } in report.left_out {
            if let Some(tap) = inner.tap_of(tap, &sidecar.workload) {
                tap.left_out = tap.left_out.saturating_add(count);
            }
        }
        if is_counted {
            for row in report.rows {
                let Some(request) = row.request else { continue };
                let peer_workload = peer_of(&request.peer_address, &request.peer);
                for number in row.taps.iter().take(MAX_TAPS) {
                    if let Some(tap) = inner.tap_of(*number, &sidecar.workload) {
                        tap.push(line(sidecar, &request, peer_workload.clone(), tap));
                    }
                }
            }
        }
        inner.subscribe(Instant::now(), &sidecar.workload)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic elsewhere leaves the maps whole: every change is a plain insert or remove.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn begin(
        &mut self,
        now: Instant,
        request: &TapRequest,
        order: Result<TapOrder, String>,
    ) -> Result<u64, TapRefusal> {
        let order = order.map_err(TapRefusal::Invalid)?;
        if self.over.contains(&request.id) {
            let text = "the time of the tap is over; begin another one";
            return Err(TapRefusal::Invalid(text.to_owned()));
        }
        let namespace = &request.namespace;
        let all = self.open.values();
        let of_namespace = all
            .filter(|tap| tap.covered.namespace == *namespace)
            .count();
        if of_namespace >= MAX_TAPS_OF_NAMESPACE || self.open.len() >= MAX_TAPS {
            let text = format!(
                "there are {of_namespace} taps of {namespace} and {} in all; {MAX_TAPS_OF_NAMESPACE} and {MAX_TAPS} are allowed: end one",
                self.open.len()
            );
            return Err(TapRefusal::TooMany(text));
        }
        self.last += 1;
        let tap = Tap {
            covered: Covered {
                namespace: namespace.clone(),
                workload: request.workload.clone(),
            },
            order: TapOrder {
                id: self.last,
                ..order
            },
            request: request.clone(),
            until: now + Duration::from_secs(request.seconds),
            asked: now,
            rows: VecDeque::new(),
            left_out: 0,
            lost: 0,
            news: Arc::default(),
        };
        self.open.insert(self.last, tap);
        Ok(self.last)
    }

    /// Keeps taps with a time that is over from beginning again.
    fn forget(&mut self, now: Instant) {
        let over = self.open.values().filter(|tap| now >= tap.until);
        self.over.extend(over.map(|tap| tap.request.id.clone()));
        let beyond = self.over.len().saturating_sub(MAX_OVER);
        self.over.drain(..beyond);
    }

    fn of(&self, workload: &WorkloadRef) -> impl Iterator<Item = &Tap> {
        self.open.values().filter(|tap| tap.covered.has(workload))
    }

    fn of_mut(&mut self, workload: &WorkloadRef) -> impl Iterator<Item = &mut Tap> {
        self.open
            .values_mut()
            .filter(|tap| tap.covered.has(workload))
    }

    /// The tap of a number, if it covers the workload: an agent may name any number.
    fn tap_of(&mut self, number: u64, workload: &WorkloadRef) -> Option<&mut Tap> {
        self.open
            .get_mut(&number)
            .filter(|tap| tap.covered.has(workload))
    }

    fn orders(&self, now: Instant, workload: &WorkloadRef) -> Arc<TapOrders> {
        let orders = self.of(workload).map(|tap| {
            let left = tap.until.saturating_duration_since(now).as_millis();
            TapOrder {
                remaining_ms: u64::try_from(left).unwrap_or(u64::MAX),
                ..tap.order.clone()
            }
        });
        Arc::new(TapOrders {
            orders: orders.collect(),
        })
    }

    fn subscribe(
        &mut self,
        now: Instant,
        workload: &WorkloadRef,
    ) -> watch::Receiver<Arc<TapOrders>> {
        let orders = self.orders(now, workload);
        let sender = self.orders.entry(workload.clone());
        let sender = sender.or_insert_with(|| watch::Sender::new(orders));
        sender.subscribe()
    }

    /// Sends the agents with a stream their taps, after a change.
    fn tell(&mut self, now: Instant) {
        let mut senders = std::mem::take(&mut self.orders);
        senders.retain(|_, sender| sender.receiver_count() > 0);
        for (workload, sender) in &senders {
            let orders = self.orders(now, workload);
            let ids = |orders: &TapOrders| -> Vec<u64> {
                orders.orders.iter().map(|order| order.id).collect()
            };
            sender.send_if_modified(|known| {
                let differs = ids(known) != ids(&orders);
                if differs {
                    *known = orders;
                }
                differs
            });
        }
        self.orders = senders;
    }
}

impl Tap {
    fn push(&mut self, line: TapLine) {
        if self.rows.len() >= MAX_ROWS {
            self.lost = self.lost.saturating_add(1);
            return;
        }
        self.rows.push_back(line);
        self.news.notify_one();
    }
}

/// Whether two requests are of the same tap.
fn same(one: &TapRequest, other: &TapRequest) -> bool {
    let whole = |request: &TapRequest| TapRequest {
        end: false,
        ..request.clone()
    };
    whole(one) == whole(other)
}

/// The row of a tap: another tap of the same sidecar may have asked for more.
fn line(
    sidecar: &ReportingSidecar,
    request: &TappedRequest,
    peer_workload: Option<String>,
    tap: &Tap,
) -> TapLine {
    let mut request = request.clone();
    let order = &tap.order;
    request
        .headers
        .retain(|header| order.headers.contains(&header.name));
    if !order.query
        && let Some(at) = request.path.find('?')
    {
        request.path.truncate(at);
    }
    TapLine {
        namespace: sidecar.workload.namespace.to_string(),
        pod: pod_of(&sidecar.id),
        workload: sidecar.workload.name.to_string(),
        identity: sidecar.identity.clone(),
        peer_workload,
        request,
    }
}

fn pod_of(id: &SubscriberId) -> String {
    let pod = id.as_str().split_once('/');
    pod.map_or_else(String::new, |(_, pod)| pod.to_owned())
}

#[cfg(test)]
mod tests;
