//! Taps of the subscribers: their views have the runtime value that wakes the logger, and their agents report requests.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use heddle_policy_compiler::{Proxy, WorkloadRef};
use heddle_xds_server::SubscriberId;
use heddle_xds_types::tap::{self, TapOrders, TapReport, TapRequest};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::MeshSource;
use crate::edges::ReportingSidecar;
use crate::tap::{Asked, Covered, TapRefusal};
use crate::tasks::Ended;

/// Taps that are over end within this time.
const SWEEP: Duration = Duration::from_secs(1);
/// Sidecars that are named in an answer; the others are counted.
const MAX_NAMED: usize = 10;

impl MeshSource {
    /// Begins a tap, or keeps it alive, and takes its rows.
    ///
    /// # Errors
    /// When the request is not usable, or there is no room.
    pub fn tap(&self, request: &TapRequest) -> Result<Asked, TapRefusal> {
        let accounts = |namespace: &str, name: &str| self.accounts_of(namespace, name);
        let asked = self.taps.ask(request, accounts)?;
        if asked.changed {
            self.touch_tapped(&asked.covered);
        }
        Ok(asked)
    }

    /// Adds the sidecars that a tap covers to the answer to its owner.
    pub fn tapped_sidecars(&self, asked: &mut Asked) {
        let subscribers = self.lock();
        let connected = subscribers.all.iter().filter(|(_, subscriber)| {
            let workload = subscriber.workload.as_ref();
            subscriber.tick.receiver_count() > 0
                && workload.is_some_and(|workload| asked.covered.has(workload))
        });
        for (name, subscriber) in connected {
            asked.answer.sidecars += 1;
            if subscriber.bootstrap < tap::BOOTSTRAP {
                asked.answer.too_old_count += 1;
                asked.answer.too_old.push(name.to_string());
            }
        }
        drop(subscribers);
        asked.answer.too_old.sort();
        asked.answer.too_old.truncate(MAX_NAMED);
    }

    /// Ends taps that are over, until told to stop.
    ///
    /// # Errors
    /// None; it ends when it is told to.
    pub async fn end_taps(self: Arc<Self>, stop: CancellationToken) -> Ended {
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(SWEEP) => {}
            }
            for covered in self.taps.expire() {
                self.touch_tapped(&covered);
            }
        }
    }

    /// Whether a sidecar sends its requests to its agent.
    pub(super) fn is_tapped(&self, bootstrap: u32, workload: &WorkloadRef) -> bool {
        bootstrap >= tap::BOOTSTRAP && self.taps.covers(workload)
    }

    pub(super) fn taps_of(
        &self,
        who: &SubscriberId,
        report: TapReport,
    ) -> watch::Receiver<Arc<TapOrders>> {
        let snapshot = self.newest();
        let sidecar = snapshot
            .as_ref()
            .and_then(|snapshot| ReportingSidecar::of(who, snapshot));
        let (Some(snapshot), Some(sidecar)) = (snapshot, sidecar) else {
            return watch::Sender::new(Arc::default()).subscribe();
        };
        self.taps.take(&sidecar, report, |address, identity| {
            let ip = address.parse::<SocketAddr>().ok()?.ip();
            let proxy = snapshot.compiled.proxy_at(ip)?;
            // An address alone is not a proof: another pod may have it by now.
            (proxy.identity.as_str() == identity).then(|| proxy.workload().to_string())
        })
    }

    fn touch_tapped(&self, covered: &Covered) {
        let mut subscribers = self.lock();
        let all = subscribers.all.iter().filter(|(_, subscriber)| {
            let workload = subscriber.workload.as_ref();
            workload.is_some_and(|workload| covered.has(workload))
        });
        let names: Vec<_> = all.map(|(name, _)| Arc::clone(name)).collect();
        for name in names {
            subscribers.touch_one(&name);
        }
    }

    /// The service accounts of a workload.
    fn accounts_of(&self, namespace: &str, name: &str) -> Vec<String> {
        let Some(snapshot) = self.newest() else {
            return Vec::new();
        };
        let workload = WorkloadRef::new(namespace, name);
        let proxies = snapshot.compiled.proxies.values();
        let own = proxies.filter(|proxy| proxy.workload() == workload);
        let account = |proxy: &Proxy| {
            let account = proxy.identity.as_str().rsplit_once("/sa/");
            account.map(|(_, account)| account.to_owned())
        };
        let mut accounts: Vec<String> = own.filter_map(account).collect();
        accounts.sort();
        accounts.dedup();
        accounts
    }
}
