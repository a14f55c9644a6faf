//! The views of the callers of pods that end, and the reports of the agents of those pods.

use std::collections::BTreeSet;
use std::sync::Arc;

use heddle_policy_compiler::{Dependency, NamespacedName};
use heddle_xds_server::{Name, OnDemandRequests, SubscriberId, View, Withdrawal};
use heddle_xds_types::rollout::EndReport;
use tokio::sync::watch;

use super::{MeshSource, pod_of};
use crate::edges::ReportingSidecar;
use crate::withdrawals::{Views, Withdrawals};

impl MeshSource {
    /// The ends of pods.
    #[must_use]
    pub fn withdrawals(&self) -> Arc<Withdrawals> {
        Arc::clone(&self.withdrawals)
    }

    pub(super) fn end_of(
        &self,
        who: &SubscriberId,
        report: &EndReport,
    ) -> watch::Receiver<Withdrawal> {
        let snapshot = self.newest();
        let sidecar = snapshot.and_then(|snapshot| ReportingSidecar::of(who, &snapshot));
        let known = pod_of(who.as_str()).zip(sidecar);
        match known {
            Some((pod, of)) => self.withdrawals.take(who, &pod, &of.workload, report),
            None => watch::Sender::new(Withdrawal::default()).subscribe(),
        }
    }
}

impl Views for MeshSource {
    fn viewers(&self, services: &BTreeSet<NamespacedName>) -> BTreeSet<Name> {
        let subscribers = self.lock();
        let all = services
            .iter()
            .flat_map(|service| subscribers.depending(Dependency::Service(service.clone())));
        all.cloned().collect()
    }

    fn expected(&self, who: &Name, on_demand: &Arc<OnDemandRequests>) -> Option<Arc<View>> {
        let seen = Self::expected(self, who, on_demand)?;
        Some(Arc::clone(&seen.wire))
    }
}
