//! Receipts: the facts of an agent beside the counts of the replica.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use heddle_policy_compiler::PodRef;
use heddle_xds_types::rollout::{EndReport, Receipt, ReceiptsReport, ReleaseReason, VERSION};

use super::tally::Moment;
use super::{Ending, Inner, Withdrawals};

/// Receipts are kept for this long after the end of their pod.
const KEPT: Duration = Duration::from_secs(15 * 60);
/// The receipts that are kept: some 500 bytes each.
const MAX_CLOSED: usize = 2000;
/// So many callers that have not acknowledged are named.
const NAMED: usize = 5;

/// The facts that the agent of a pod has reported.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Facts {
    asked: Option<SystemTime>,
    released: Option<SystemTime>,
    last_request: Option<SystemTime>,
    ended: Option<SystemTime>,
    reason: Option<ReleaseReason>,
}

impl Facts {
    /// A later report has the same facts, by ages that are rounded: each time is kept as it was first reported, but that of
    /// the last request.
    pub(super) fn take(&mut self, report: &EndReport, now: Moment) {
        let at = |ago: Option<u64>| now.at.checked_sub(Duration::from_millis(ago?));
        self.asked = self.asked.or(at(report.asked_ago_ms));
        self.released = self.released.or(at(report.released_ago_ms));
        self.ended = self.ended.or(at(report.ended_ago_ms));
        self.last_request = at(report.last_request_ago_ms).or(self.last_request);
        if self.released.is_some() {
            self.reason = Some(report.reason());
        }
    }
}

impl Withdrawals {
    /// Returns the receipts of all pods that are terminating, or ended in the last quarter of an hour.
    #[must_use]
    pub fn report(&self) -> ReceiptsReport {
        let mut inner = self.lock();
        inner.expire(Instant::now());
        let open = inner.open.iter();
        let open = open.filter_map(|(pod, ending)| ending.receipt(pod));
        let mut receipts: Vec<Receipt> = inner
            .closed
            .iter()
            .map(|(_, receipt)| receipt.clone())
            .chain(open)
            .collect();
        let evicted = inner.evicted;
        drop(inner);
        receipts.sort_by(|a, b| {
            let key = |of: &Receipt| (of.terminating_at, of.namespace.clone(), of.pod.clone());
            key(a).cmp(&key(b))
        });
        ReceiptsReport {
            version: VERSION,
            covered_seconds: self.began.elapsed().min(KEPT).as_secs(),
            receipts,
            evicted,
        }
    }
}

impl Inner {
    /// The pod is gone: its receipt stays.
    pub(super) fn close(&mut self, pod: &PodRef, now: Instant) {
        let ended = self.open.remove(pod);
        let Some(receipt) = ended.and_then(|ending| ending.receipt(pod)) else {
            return;
        };
        self.expire(now);
        if self.closed.len() >= MAX_CLOSED {
            self.evict();
        }
        self.closed.push_back((now, receipt));
    }

    /// Forgets the oldest receipt of the namespace with the most, so that short-lived pods of one take nothing from others.
    fn evict(&mut self) {
        let mut of_namespace = BTreeMap::<&str, usize>::new();
        for (_, receipt) in &self.closed {
            *of_namespace.entry(&receipt.namespace).or_default() += 1;
        }
        let most = of_namespace.into_iter().max_by_key(|(_, count)| *count);
        let oldest = most.and_then(|(most, _)| {
            let mut all = self.closed.iter();
            all.position(|(_, receipt)| receipt.namespace == most)
        });
        if let Some(oldest) = oldest {
            self.closed.remove(oldest);
            self.evicted += 1;
        }
    }

    fn expire(&mut self, now: Instant) {
        let over = |(closed, _): &mut (Instant, Receipt)| now.duration_since(*closed) >= KEPT;
        while self.closed.pop_front_if(over).is_some() {}
    }
}

impl Ending {
    /// The receipt; `None` while the pod is not known to be terminating.
    fn receipt(&self, pod: &PodRef) -> Option<Receipt> {
        let unix = |at: SystemTime| {
            let since = at.duration_since(SystemTime::UNIX_EPOCH);
            u64::try_from(since.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
        };
        let (callers, acknowledged) = self.tally.counts();
        let (facts, missing) = (&self.facts, self.tally.missing().iter());
        Some(Receipt {
            namespace: pod.namespace.to_string(),
            workload: self.workload.name.to_string(),
            pod: pod.name.to_string(),
            uid: self.uid.as_deref().map(str::to_owned),
            terminating_at: unix(self.terminating?.at),
            services: u32::try_from(self.exposure.services.len()).unwrap_or(u32::MAX),
            withdrawn_at: self.tally.withdrawn().map(|at| unix(at.at)),
            callers,
            acknowledged,
            missing: missing.take(NAMED).map(ToString::to_string).collect(),
            acknowledged_at: self.tally.complete().map(|at| unix(at.at)),
            asked_at: facts.asked.map(unix),
            last_request_at: facts.last_request.map(unix),
            released_at: facts.released.map(unix),
            reason: facts.reason,
            ended_at: facts.ended.map(unix),
        })
    }
}

#[cfg(test)]
mod tests {
    use heddle_policy_compiler::WorkloadRef;
    use heddle_xds_server::SubscriberId;

    use super::*;

    fn ended(withdrawals: &Withdrawals, namespace: &str, name: &str, now: Instant) {
        let pod = PodRef::new(namespace, name);
        let mut inner = withdrawals.lock();
        let ending = inner.entry(&pod, &WorkloadRef::new(namespace, "cart"));
        ending.unwrap().terminating = Some(Moment::now());
        inner.close(&pod, now);
    }

    #[test]
    fn receipts_are_bounded_in_number_and_time() {
        let (withdrawals, start) = (Withdrawals::default(), Instant::now());
        // The oldest of all, and of another namespace than the flood.
        ended(&withdrawals, "bank", "first", start);
        for n in 0..MAX_CLOSED + 2 {
            ended(&withdrawals, "shop", &format!("cart-{n}"), start);
        }
        let report = withdrawals.report();
        assert_eq!((report.receipts.len(), report.evicted), (MAX_CLOSED, 3));
        let has = |pod: &str| report.receipts.iter().any(|receipt| receipt.pod == pod);
        assert!(has("first") && !has("cart-2") && has("cart-3"));
        ended(&withdrawals, "shop", "late", start + KEPT);
        let left = withdrawals.report().receipts;
        assert_eq!(left.len(), 1);
        assert_eq!((&*left[0].workload, &*left[0].pod), ("cart", "late"));
    }

    #[test]
    fn a_report_of_an_agent_is_ages_and_the_first_ones_count() {
        let withdrawals = Withdrawals::default();
        let (pod, workload) = (
            PodRef::new("shop", "cart-1"),
            WorkloadRef::new("shop", "cart"),
        );
        let who: SubscriberId = "shop/cart-1".into();
        let report = |last| EndReport {
            asked_ago_ms: Some(2000),
            released_ago_ms: Some(1000),
            last_request_ago_ms: Some(last),
            reason: ReleaseReason::Acknowledged.into(),
            ..EndReport::default()
        };
        withdrawals.take(&who, &pod, &workload, &report(1500));
        assert!(withdrawals.report().receipts.is_empty(), "not terminating");
        let terminating = Some(Moment::now());
        withdrawals.lock().open.get_mut(&pod).unwrap().terminating = terminating;
        let first = withdrawals.report().receipts.remove(0);
        assert_eq!(first.reason, Some(ReleaseReason::Acknowledged));
        let (asked, last) = (first.asked_at.unwrap(), first.last_request_at.unwrap());
        assert_eq!(first.released_at.unwrap() - asked, 1000);
        assert_eq!(last - asked, 500);
        withdrawals.take(&who, &pod, &workload, &report(10));
        let second = withdrawals.report().receipts.remove(0);
        assert_eq!(second.asked_at, first.asked_at);
        assert!(second.last_request_at.unwrap() >= last + 1490);
    }
}
