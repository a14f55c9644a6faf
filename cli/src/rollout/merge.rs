//! The receipts of all replicas as one.

use std::collections::BTreeMap;

use heddle_xds_types::rollout::{Receipt, ReceiptsReport, ReleaseReason};
use k8s_openapi::jiff::Timestamp;
use serde::Serialize;

use crate::replicas::{Asked, Replica};

/// So many callers that have not acknowledged are named.
const NAMED: usize = 5;

/// The ends of pods, all replicas together.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Receipts {
    /// The replicas that were asked.
    pub replicas: Vec<Asked>,
    /// The seconds in which every replica that answered has listened.
    pub covered_seconds: u64,
    /// The pods, the oldest first.
    pub receipts: Vec<PodReceipt>,
}

/// The end of one pod.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PodReceipt {
    /// The namespace of the pod.
    pub namespace: String,
    /// The workload of the pod.
    pub workload: String,
    /// The pod.
    pub pod: String,
    /// Its uid, which distinguishes pods of one name.
    pub uid: Option<String>,
    /// When the first replica learned that the pod is being deleted, in UTC.
    pub terminating: String,
    /// The same, in milliseconds since 1970.
    pub terminating_ms: u64,
    /// The number of services that have the pod.
    pub services: u32,
    /// Since when no configuration of any replica has the pod, in milliseconds since 1970.
    pub withdrawn_ms: Option<u64>,
    /// The number of callers that had, or could have had, the pod.
    pub callers: u32,
    /// The number of callers that acknowledged the removal.
    pub acknowledged: u32,
    /// Some of those that have not.
    pub missing: Vec<String>,
    /// When the last of them acknowledged, in milliseconds since 1970.
    pub acknowledged_ms: Option<u64>,
    /// When the last request or connection from a caller began, in milliseconds since 1970.
    pub last_request_ms: Option<u64>,
    /// When the hook was answered and the kubelet may signal the application, in milliseconds since 1970.
    pub sigterm_ms: Option<u64>,
    /// Why.
    pub reason: Option<ReleaseReason>,
    /// When the containers of the application had ended, in milliseconds since 1970.
    pub ended_ms: Option<u64>,
    /// Whether the application was signalled after every caller had acknowledged, and no request began later. `None`: no
    /// agent has reported.
    pub clean: Option<bool>,
}

impl Receipts {
    /// Adds up the answers.
    pub fn of(replicas: Vec<Replica<ReceiptsReport>>) -> Self {
        let (mut asked, mut pods) = (Vec::new(), BTreeMap::<_, PodReceipt>::new());
        let mut covered: Option<u64> = None;
        for replica in replicas {
            let (report, error) = match replica.answer {
                Ok(report) => (Some(report), None),
                Err(error) => (None, Some(error)),
            };
            asked.push(Asked {
                replica: replica.name,
                error,
            });
            let Some(report) = report else { continue };
            covered =
                Some(covered.map_or(report.covered_seconds, |of| of.min(report.covered_seconds)));
            // A replica has one receipt for each end, so that a second one without a uid is of a later end.
            let mut ends = BTreeMap::<_, usize>::new();
            for receipt in report.receipts {
                let pod = (receipt.namespace.clone(), receipt.pod.clone());
                let pod = (pod, receipt.uid.clone());
                let end = ends.entry(pod.clone()).or_default();
                *end += 1;
                let key = (pod, *end);
                let one = PodReceipt::of(receipt);
                match pods.get_mut(&key) {
                    Some(pod) => pod.add(one),
                    None => _ = pods.insert(key, one),
                }
            }
        }
        let mut receipts: Vec<PodReceipt> = pods.into_values().map(PodReceipt::judged).collect();
        receipts.sort_by(|a, b| (a.terminating_ms, &a.pod).cmp(&(b.terminating_ms, &b.pod)));
        Self {
            replicas: asked,
            covered_seconds: covered.unwrap_or(0),
            receipts,
        }
    }

    /// Keeps those of a namespace, and perhaps of one workload.
    pub fn keep(&mut self, namespace: &str, workload: Option<&str>) {
        self.receipts.retain(|pod| {
            pod.namespace == namespace && workload.is_none_or(|name| pod.workload == name)
        });
    }
}

impl PodReceipt {
    fn of(receipt: Receipt) -> Self {
        Self {
            namespace: receipt.namespace,
            workload: receipt.workload,
            pod: receipt.pod,
            uid: receipt.uid,
            terminating: clock(receipt.terminating_at),
            terminating_ms: receipt.terminating_at,
            services: receipt.services,
            withdrawn_ms: receipt.withdrawn_at,
            callers: receipt.callers,
            acknowledged: receipt.acknowledged,
            missing: receipt.missing,
            acknowledged_ms: receipt.acknowledged_at,
            last_request_ms: receipt.last_request_at,
            sigterm_ms: receipt.released_at,
            reason: receipt.reason,
            ended_ms: receipt.ended_at,
            clean: None,
        }
    }

    /// Adds the receipt of another replica. The times of the agent are at the replicas that it asked.
    fn add(&mut self, other: Self) {
        let both = |one: Option<u64>, other: Option<u64>| Some(one?.max(other?));
        let any = |one: Option<u64>, other: Option<u64>| one.max(other);
        if other.terminating_ms < self.terminating_ms {
            self.terminating_ms = other.terminating_ms;
            self.terminating = other.terminating;
        }
        self.services = self.services.max(other.services);
        self.withdrawn_ms = both(self.withdrawn_ms, other.withdrawn_ms);
        self.acknowledged_ms = both(self.acknowledged_ms, other.acknowledged_ms);
        self.callers += other.callers;
        self.acknowledged += other.acknowledged;
        self.missing.extend(other.missing);
        self.missing.truncate(NAMED);
        self.last_request_ms = any(self.last_request_ms, other.last_request_ms);
        self.sigterm_ms = self.sigterm_ms.or(other.sigterm_ms);
        self.reason = self.reason.or(other.reason);
        self.ended_ms = any(self.ended_ms, other.ended_ms);
    }

    fn judged(mut self) -> Self {
        self.clean = self.sigterm_ms.map(|sigterm| {
            let acknowledged = match self.services {
                0 => true,
                _ => self.acknowledged_ms.is_some_and(|at| at <= sigterm),
            };
            acknowledged && self.last_request_ms.is_none_or(|last| last <= sigterm)
        });
        self
    }

    /// A time as its distance from the beginning.
    pub fn after(&self, at: u64) -> String {
        let (sign, distance) = match at.checked_sub(self.terminating_ms) {
            Some(later) => ('+', later),
            None => ('-', self.terminating_ms - at),
        };
        format!("{sign}{}.{:03} s", distance / 1000, distance % 1000)
    }
}

/// A time for people, in UTC.
fn clock(ms: u64) -> String {
    let time = i64::try_from(ms).ok().map(Timestamp::from_millisecond);
    match time {
        Some(Ok(time)) => time.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string(),
        Some(Err(_)) | None => ms.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receipt(change: impl FnOnce(&mut Receipt)) -> Receipt {
        let mut receipt = Receipt {
            namespace: "shop".to_owned(),
            workload: "cart".to_owned(),
            pod: "cart-1".to_owned(),
            uid: Some("uid-1".to_owned()),
            terminating_at: 1_700_000_000_000,
            services: 1,
            withdrawn_at: Some(1_700_000_000_040),
            callers: 2,
            acknowledged: 2,
            missing: Vec::new(),
            acknowledged_at: Some(1_700_000_000_060),
            asked_at: None,
            last_request_at: None,
            released_at: None,
            reason: None,
            ended_at: None,
        };
        change(&mut receipt);
        receipt
    }

    fn of(receipts: Vec<Receipt>) -> PodReceipt {
        let replicas = receipts.into_iter().map(|receipt| Replica {
            name: "r".to_owned(),
            answer: Ok(ReceiptsReport {
                receipts: vec![receipt],
                ..ReceiptsReport::default()
            }),
        });
        let mut all = Receipts::of(replicas.collect()).receipts;
        assert_eq!(all.len(), 1);
        all.remove(0)
    }

    #[test]
    fn two_ends_of_one_name_are_two_receipts() {
        let ends = |uids: [Option<&str>; 2]| {
            let later = |(uid, number): (Option<&str>, u64)| {
                receipt(|one| {
                    one.uid = uid.map(str::to_owned);
                    one.terminating_at += 60_000 * number;
                    one.callers += u32::try_from(number).unwrap();
                })
            };
            let replica = || Replica {
                name: "r".to_owned(),
                answer: Ok(ReceiptsReport {
                    receipts: uids.into_iter().zip(0..).map(later).collect(),
                    ..ReceiptsReport::default()
                }),
            };
            let receipts = Receipts::of(vec![replica(), replica()]).receipts;
            let callers = receipts.iter().map(|pod| pod.callers);
            callers.collect::<Vec<_>>()
        };
        assert_eq!(ends([Some("uid-1"), Some("uid-2")]), [4, 6]);
        // Of a version without uids, or without Kubernetes.
        assert_eq!(ends([None, None]), [4, 6]);
    }

    #[test]
    fn the_replicas_add_up_and_the_last_one_to_acknowledge_counts() {
        let asked = receipt(|one| {
            one.released_at = Some(1_700_000_001_600);
            one.last_request_at = Some(1_700_000_000_050);
            one.reason = Some(ReleaseReason::Acknowledged);
        });
        let other = receipt(|one| {
            one.terminating_at -= 5;
            (one.callers, one.acknowledged) = (3, 3);
            one.acknowledged_at = Some(1_700_000_001_000);
        });
        let pod = of(vec![asked.clone(), other.clone()]);
        assert_eq!((pod.acknowledged, pod.callers), (5, 5));
        assert_eq!(pod.clean, Some(true));
        assert_eq!(pod.terminating, "2023-11-14T22:13:19.995Z");
        let after = |at: Option<u64>| pod.after(at.unwrap());
        assert_eq!(after(pod.acknowledged_ms), "+1.005 s");
        assert_eq!(after(pod.sigterm_ms), "+1.605 s");
        assert_eq!(pod.after(pod.terminating_ms - 1), "-0.001 s");

        let behind = Receipt {
            acknowledged: 2,
            acknowledged_at: None,
            missing: vec!["shop/frontend-1".to_owned()],
            ..other
        };
        let pod = of(vec![asked.clone(), behind]);
        assert_eq!(
            (pod.acknowledged, pod.callers, pod.clean),
            (4, 5, Some(false))
        );
        assert_eq!(pod.missing, ["shop/frontend-1"]);
        let later = Receipt {
            last_request_at: Some(1_700_000_001_601),
            ..asked
        };
        assert_eq!(
            of(vec![later]).clean,
            Some(false),
            "a request after SIGTERM"
        );
        assert_eq!(
            of(vec![receipt(|_| {})]).clean,
            None,
            "no agent has reported"
        );
    }
}
