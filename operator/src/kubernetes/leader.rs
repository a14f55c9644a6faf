//! Leader election by a Lease. The leader writes statuses; all replicas serve.

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, PostParams};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{CallError, NAMESPACE, call};
use crate::tasks::{Ended, chain};

const NAME: &str = "heddle-operator";
const DURATION: Duration = Duration::from_secs(15);
/// A leader that cannot renew for this long no longer leads; the others wait for [`DURATION`], which is longer.
const DEADLINE: Duration = Duration::from_secs(10);
const PERIOD: Duration = Duration::from_secs(3);

/// The result of reading the Lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Ours, or free: write it.
    Take,
    /// Somebody else's.
    Wait,
}

/// The last state of another's Lease. Its age counts by our own clock: clocks of nodes differ.
#[derive(Clone, Debug, Default)]
struct Seen {
    version: Option<String>,
    since: Option<Instant>,
}

impl Seen {
    fn step(&mut self, lease: &Lease, me: &str, now: Instant) -> Step {
        let holder = lease
            .spec
            .as_ref()
            .and_then(|spec| spec.holder_identity.as_deref())
            .unwrap_or_default();
        if holder.is_empty() || holder == me {
            return Step::Take;
        }
        if self.version != lease.metadata.resource_version || self.since.is_none() {
            *self = Self {
                version: lease.metadata.resource_version.clone(),
                since: Some(now),
            };
        }
        let over = self
            .since
            .is_some_and(|since| now.duration_since(since) > DURATION);
        if over { Step::Take } else { Step::Wait }
    }
}

/// One replica's part in the election.
pub(super) struct Election {
    leases: Api<Lease>,
    me: String,
    leads: watch::Sender<bool>,
}

impl Election {
    pub(super) fn new(client: &Client, me: String) -> Self {
        Self {
            leases: Api::namespaced(client.clone(), NAMESPACE),
            me,
            leads: watch::Sender::new(false),
        }
    }

    /// Whether this replica leads.
    pub(super) fn leads(&self) -> watch::Receiver<bool> {
        self.leads.subscribe()
    }

    /// Takes part until told to stop, then gives the Lease back.
    pub(super) async fn run(self, stop: CancellationToken) -> Ended {
        let mut seen = Seen::default();
        let mut renewed: Option<Instant> = None;
        loop {
            let began = Instant::now();
            match self.within(left(renewed, began), &mut seen).await {
                // The others count from the write, which is after this moment.
                Ok(true) => renewed = Some(began),
                Ok(false) => renewed = None,
                Err(error) => {
                    tracing::warn!(error = chain(&error), "the Lease could not be renewed")
                }
            }
            self.tell(left(renewed, Instant::now()).is_some());
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(PERIOD) => {}
            }
        }
        if *self.leads.borrow() {
            self.tell(false);
            self.release().await;
        }
        Ok(())
    }

    /// One attempt. Stops to lead in the middle of it when the time that is left is over.
    async fn within(&self, left: Option<Duration>, seen: &mut Seen) -> Result<bool, CallError> {
        let mut attempt = std::pin::pin!(self.attempt(seen));
        if let Some(left) = left {
            match tokio::time::timeout(left, &mut attempt).await {
                Ok(result) => return result,
                Err(_) => self.tell(false),
            }
        }
        attempt.await
    }

    fn tell(&self, leads: bool) {
        if self
            .leads
            .send_if_modified(|now| std::mem::replace(now, leads) != leads)
        {
            tracing::info!(leads, "leadership changed");
        }
    }

    async fn attempt(&self, seen: &mut Seen) -> Result<bool, CallError> {
        let params = PostParams::default();
        let Some(mut lease) = call(self.leases.get_opt(NAME)).await? else {
            let metadata = ObjectMeta {
                name: Some(NAME.to_owned()),
                ..ObjectMeta::default()
            };
            let lease = Lease {
                metadata,
                spec: Some(self.spec(None, &self.me)),
            };
            return won(call(self.leases.create(&params, &lease)).await);
        };
        if seen.step(&lease, &self.me, Instant::now()) == Step::Wait {
            return Ok(false);
        }
        // The resource version goes along, so of two attempts only one wins.
        lease.spec = Some(self.spec(lease.spec.as_ref(), &self.me));
        won(call(self.leases.replace(NAME, &params, &lease)).await)
    }

    fn spec(&self, before: Option<&LeaseSpec>, holder: &str) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        let kept = before.filter(|before| before.holder_identity.as_deref() == Some(holder));
        let transitions = before
            .and_then(|before| before.lease_transitions)
            .unwrap_or(0)
            + i32::from(kept.is_none());
        LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            acquire_time: kept
                .and_then(|kept| kept.acquire_time.clone())
                .or_else(|| Some(now.clone())),
            renew_time: Some(now),
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        }
    }

    async fn release(&self) {
        let released = async {
            let Some(mut lease) = call(self.leases.get_opt(NAME)).await? else {
                return Ok(());
            };
            if lease
                .spec
                .as_ref()
                .and_then(|spec| spec.holder_identity.as_deref())
                == Some(self.me.as_str())
            {
                lease.spec = Some(self.spec(lease.spec.as_ref(), ""));
                call(self.leases.replace(NAME, &PostParams::default(), &lease)).await?;
            }
            Ok::<_, CallError>(())
        };
        if let Err(error) = released.await {
            tracing::warn!(
                error = chain(&error),
                "the Lease could not be released; it expires by itself"
            );
        }
    }
}

/// The time for which a Lease that was renewed then still leads. None: it does not.
fn left(renewed: Option<Instant>, now: Instant) -> Option<Duration> {
    let over = now.duration_since(renewed?);
    DEADLINE.checked_sub(over).filter(|left| !left.is_zero())
}

/// Another was faster: no failure.
fn won<T>(result: Result<T, CallError>) -> Result<bool, CallError> {
    match result {
        Ok(_) => Ok(true),
        Err(error) if error.code() == Some(409) => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(holder: &str, version: &str) -> Lease {
        let metadata = ObjectMeta {
            resource_version: Some(version.to_owned()),
            ..ObjectMeta::default()
        };
        Lease {
            metadata,
            spec: Some(LeaseSpec {
                holder_identity: Some(holder.to_owned()),
                ..LeaseSpec::default()
            }),
        }
    }

    #[test]
    fn a_lease_leads_for_less_time_than_others_wait() {
        let start = Instant::now();
        let at = |seconds| left(Some(start), start + Duration::from_secs(seconds));
        assert_eq!(left(None, start), None);
        assert_eq!(at(0), Some(DEADLINE));
        assert_eq!(at(9), Some(Duration::from_secs(1)));
        assert_eq!(at(10), None);
        assert_eq!(at(11), None);
        assert!(DEADLINE < DURATION);
    }

    /// An API server that never answers.
    async fn silent(_: axum::extract::Request) -> axum::response::Response {
        std::future::pending().await
    }

    #[tokio::test]
    async fn a_leader_that_gets_no_answer_stops_to_lead_in_time() {
        let client = Client::new(axum::Router::new().fallback(silent), "default");
        let election = Election::new(&client, "me".to_owned());
        election.tell(true);
        let (mut leads, mut seen) = (election.leads(), Seen::default());
        let attempt = election.within(Some(Duration::from_millis(10)), &mut seen);
        tokio::select! {
            _ = attempt => panic!("nothing answers"),
            changed = leads.wait_for(|leads| !leads) => assert!(changed.is_ok()),
        }
    }

    #[test]
    fn anothers_lease_is_taken_only_when_it_is_not_renewed() {
        let (mut seen, start) = (Seen::default(), Instant::now());
        let mut at = |holder, version, seconds| {
            seen.step(
                &lease(holder, version),
                "me",
                start + Duration::from_secs(seconds),
            )
        };
        assert_eq!(at("me", "1", 0), Step::Take);
        assert_eq!(at("", "1", 0), Step::Take);
        assert_eq!(at("you", "2", 0), Step::Wait);
        assert_eq!(at("you", "2", 14), Step::Wait);
        assert_eq!(at("you", "3", 14), Step::Wait, "renewed");
        assert_eq!(at("you", "3", 29), Step::Wait);
        assert_eq!(at("you", "3", 30), Step::Take);
    }
}
