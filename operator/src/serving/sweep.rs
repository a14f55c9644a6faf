//! Evicts unused destinations, and drops the state of workloads and proxies that are gone.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use heddle_policy_compiler::{Bucket, Compiled, Destination, WorkloadRef, on_demand_address};
use heddle_xds_server::{Name, Registry};
use tokio_util::sync::CancellationToken;

use super::subscribers::ViewInput;
use super::{MeshSource, ServedView, now};
use crate::scope::{Recent, Seconds};
use crate::snapshot::Snapshot;
use crate::tasks::Ended;

/// Old scopes are checked this often at most.
const SWEEP: Duration = Duration::from_secs(10);

/// Seconds for which a workload without a connected pod keeps an unused destination: 30 days.
const ABSENT: Seconds = 30 * 24 * 3600;

fn present(snapshot: &Snapshot) -> HashSet<WorkloadRef> {
    let proxies = snapshot.compiled.proxies.values();
    proxies.map(|proxy| proxy.workload()).collect()
}

impl MeshSource {
    /// Evicts unused destinations, expires overflow names, drops unused parts and forgets absent workloads, until told to
    /// stop.
    ///
    /// # Errors
    /// None; it ends when it is told to.
    pub async fn sweep(self: Arc<Self>, registry: Arc<Registry>, stop: CancellationToken) -> Ended {
        loop {
            let idle = self
                .newest()
                .map_or(SWEEP, |snapshot| snapshot.compiled.idle_after());
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(SWEEP.min(idle / 3).max(Duration::from_millis(200))) => {}
            }
            if let Some(snapshot) = self.newest() {
                self.sweep_once(&snapshot);
            }
            self.retire(&registry);
        }
    }

    /// The workloads that have pods now, wherever their streams are.
    #[must_use]
    pub fn present(&self) -> HashSet<WorkloadRef> {
        self.newest()
            .map(|snapshot| present(&snapshot))
            .unwrap_or_default()
    }

    fn sweep_once(&self, snapshot: &Snapshot) {
        let (now, compiled) = (now(), &snapshot.compiled);
        let idle = snapshot.compiled.idle_after();
        let recent = Recent::at(Bucket::of(idle), now);
        let mut changed = self
            .scopes
            .retain(|destination| compiled.address_of(destination).is_some());
        // The newest load report may be `reported_within` old, and times are truncated to seconds.
        let unused = idle.as_secs() + self.reported_within().as_secs() + 1;
        changed.extend(
            self.scopes
                .sweep(now, unused, |workload, destination, unused| {
                    self.may_go(compiled, workload, destination, unused, |name| {
                        recent.has(name)
                    })
                }),
        );
        let mut subscribers = self.lock();
        for workload in changed {
            subscribers.touch(&ViewInput::Scope(workload));
        }
        let passes = |seen: &Arc<ServedView>| !seen.overflow.is_empty();
        let passing: Vec<Name> = subscribers
            .all
            .iter()
            .filter(|(_, subscriber)| subscriber.seen.as_ref().is_some_and(passes))
            .map(|(name, _)| Name::clone(name))
            .collect();
        for name in passing {
            subscribers.touch_one(&name);
        }
        drop(subscribers);
        self.parts.prune();
        let (absent, forgotten) = self.scopes.forget_absent(&present(snapshot));
        if forgotten > 0 {
            tracing::info!(
                forgotten,
                absent,
                "scopes of workloads without pods were forgotten: the bound is reached"
            );
        }
        self.metrics.scope_absent(absent, forgotten);
        self.metrics.scope_sizes(&self.scopes.sizes());
    }

    /// Returns whether a destination may be evicted. Every connected pod of the workload must have reported its loads
    /// recently, and must not have an on-demand name of a recent time bucket for the address: Envoy requests a name only
    /// once, so it could not request the destination again. Without a connected pod, [`ABSENT`] decides.
    fn may_go(
        &self,
        compiled: &Compiled,
        workload: &WorkloadRef,
        destination: &Destination,
        unused: Seconds,
        recent: impl Fn(&Name) -> bool,
    ) -> bool {
        let subscribers = self.lock();
        let mut there = subscribers
            .of_workload(workload)
            .filter(|subscriber| subscriber.tick.receiver_count() > 0)
            .peekable();
        if there.peek().is_none() {
            return unused >= ABSENT;
        }
        let at = compiled.address_of(destination);
        there.all(|subscriber| {
            let heard = subscriber
                .reported
                .is_some_and(|at| at.elapsed() < self.reported_within());
            let mut names = subscriber.on_demand.clusters.iter();
            let requested = names.any(|name| on_demand_address(name) == at && recent(name));
            heard && !requested
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;
    use crate::scope::{LearnResult, MAX_ABSENT_PER_NAMESPACE, Scopes};

    /// The services `used` and `unused`.
    fn snapshot() -> Snapshot {
        let service = |(number, name)| {
            format!(
                "
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: shop}}
spec: {{clusterIP: 10.96.0.{number}, clusterIPs: [10.96.0.{number}], selector: {{app: {name}}}, ports: [{{name: http, port: 80}}]}}
---"
            )
        };
        let services: String = [(1, "used"), (2, "unused")].map(service).concat();
        Snapshot::of_yaml(&services)
    }

    #[test]
    fn the_metrics_count_the_scopes_that_a_sweep_has_left() {
        let (scopes, metrics) = (Arc::<Scopes>::default(), Arc::<Metrics>::default());
        let domain = "cluster.local".parse().unwrap();
        let interval = Duration::from_secs(10);
        let mesh = MeshSource::new(domain, Arc::clone(&scopes), interval, Arc::clone(&metrics));
        let learn = |workload: &WorkloadRef, service: &str, at: Seconds| {
            let destination = format!("service/shop/{service}:80").parse().unwrap();
            let learned = scopes.learn(workload, &destination, None, at);
            assert_eq!(learned, LearnResult::Now);
        };
        let (cart, gone) = (
            WorkloadRef::new("shop", "cart"),
            WorkloadRef::new("shop", "gone"),
        );
        learn(&cart, "used", now());
        learn(&cart, "unused", now() - ABSENT);
        learn(&cart, "deleted", now());
        learn(&gone, "deleted", now());
        // More workloads than the bound of their namespace.
        for number in 0..MAX_ABSENT_PER_NAMESPACE + 7 {
            learn(
                &WorkloadRef::new("ci", &format!("job-{number}")),
                "used",
                now(),
            );
        }
        let metric = |name: &str| {
            let text = metrics.text().unwrap();
            let mut lines = text.lines();
            lines.find_map(|line| {
                let value = line.strip_prefix(name)?.strip_prefix(' ')?;
                value.parse::<usize>().ok()
            })
        };
        let snapshot = snapshot();
        for forgotten in [7, 7] {
            mesh.sweep_once(&snapshot);
            let left = MAX_ABSENT_PER_NAMESPACE + 1;
            for (name, value) in [
                ("heddle_scope_workloads", left),
                ("heddle_scope_destinations", left),
                ("heddle_scope_largest", 1),
                ("heddle_scope_absent_workloads", left),
                ("heddle_scope_forgotten_workloads_total", forgotten),
            ] {
                assert_eq!(metric(name), Some(value), "{name}");
            }
        }
        let cart = scopes.of(&cart);
        let active: Vec<String> = cart.active.iter().map(ToString::to_string).collect();
        assert_eq!(active, ["service/shop/used:80"]);
    }
}
