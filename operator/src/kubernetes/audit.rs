//! The auditor: lists all objects from the API server, compiles them from scratch, and compares the result with the
//! resources that proxies have acknowledged. It does not use watches, incremental compiles or streams, so it shows a fault
//! in any of them.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, Instant};

use heddle_policy_compiler::{
    InputKind, KindResource, KubeObject, ObjectKind, Role, World, WorldBuilder, compile,
};
use heddle_xds_server::{Name, Progress, Registry, Resource, ResourceKey, SubscriberId};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Client;
use kube::api::{Api, ListParams};
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use super::cache::Cache;
use super::declared::{api, declared, newest};
use super::{AuditPlan, CallError, call, strip};
use crate::metrics::Metrics;
use crate::rejections::RejectionStore;
use crate::serving::MeshSource;
use crate::snapshot::Snapshot;
use crate::tasks::{Ended, chain};

const PAGE: u32 = 500;
/// A mismatch is checked so often, because the answer of the API server and the acknowledgments of the proxies are never
/// of the same moment.
const LOOKS: usize = 4;
const BETWEEN: Duration = Duration::from_secs(2);
/// A failed watch comes back within its longest wait (30 s), and may then have to list all objects again. Until that is
/// over, proxies are late, and not wrong.
const CATCH_UP: Duration = Duration::from_secs(60);
/// A proxy that is late for longer than this is wrong, whether watches failed or not.
const LATE: Duration = Duration::from_secs(600);

pub(super) struct Auditor {
    pub(super) client: Client,
    pub(super) cache: Arc<Cache>,
    pub(super) mesh: Arc<MeshSource>,
    pub(super) registry: Arc<Registry>,
    pub(super) rejections: Arc<RejectionStore>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) plan: AuditPlan,
}

/// The differences between a proxy and its expected view: the acknowledged resource, `None` if the proxy lacks it.
type Mismatches = BTreeMap<ResourceKey, Option<Arc<Resource>>>;

impl Auditor {
    /// Audits again and again, each time other proxies, until told to stop.
    pub(super) async fn run(self, stop: CancellationToken) -> Ended {
        let mut after = None;
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(self.plan.interval) => {}
            }
            let audited = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                audited = self.audit(&mut after) => audited,
            };
            match audited {
                Ok((proxies, wrong)) => self.metrics.audited(proxies, wrong),
                Err(error) => {
                    tracing::warn!(
                        error = chain(&error),
                        "the audit could not read the cluster; it is skipped until the next one"
                    );
                }
            }
        }
    }

    /// Returns how many proxies were audited, and how many of their resources were wrong.
    async fn audit(&self, after: &mut Option<Name>) -> Result<(usize, usize), CallError> {
        let chosen = self.choose(after);
        let (proxies, began) = (chosen.len(), Instant::now());
        let chosen = chosen.into_iter();
        let mut wrong: BTreeMap<Name, Option<Mismatches>> = chosen.map(|who| (who, None)).collect();
        let mut looks = 0;
        loop {
            let truth = match self.truth().await {
                Ok(truth) => truth,
                Err(error) if began.elapsed() >= LATE => return Err(error),
                // An incomplete list proves nothing about the audited proxies.
                Err(error) => {
                    tracing::debug!(error = chain(&error), "the cluster could not be listed");
                    tokio::time::sleep(BETWEEN).await;
                    continue;
                }
            };
            looks += 1;
            let before = std::mem::take(&mut wrong);
            for (who, known) in before {
                let found = self.compare(&truth, &who);
                let still = match known {
                    Some(known) => the_same(known, &found),
                    None => found,
                };
                if !still.is_empty() {
                    wrong.insert(who, Some(still));
                }
            }
            tracing::debug!(looks, late = wrong.len(), "audit check done");
            let late = self.cache.failed_within(CATCH_UP) && began.elapsed() < LATE;
            if wrong.is_empty() || (looks >= LOOKS && !late) {
                break;
            }
            tokio::time::sleep(BETWEEN).await;
        }
        Ok((proxies, confirmed(&wrong)))
    }

    /// The next proxies in the order of names.
    fn choose(&self, after: &mut Option<Name>) -> Vec<Name> {
        let connected = self
            .registry
            .snapshot()
            .into_iter()
            .filter(|(_, progress)| progress.connected);
        let mut names: Vec<Name> = connected.map(|(who, _)| who.0).collect();
        let start = after
            .as_ref()
            .map_or(0, |after| names.partition_point(|name| name <= after));
        let start = start.min(names.len());
        names.rotate_left(start);
        names.truncate(self.plan.proxies);
        *after = names.last().cloned();
        names
    }

    fn compare(&self, truth: &Snapshot, who: &Name) -> Mismatches {
        let Some(progress) = self
            .registry
            .get(&SubscriberId(Name::clone(who)))
            .filter(|progress| progress.connected)
        else {
            return Mismatches::new();
        };
        let Some(should) = self.mesh.versions_by(truth, who) else {
            return Mismatches::new();
        };
        differences(&should, &progress)
    }

    /// The cluster as the API server lists it.
    async fn truth(&self) -> Result<Snapshot, CallError> {
        let mut read = Read {
            builder: World::builder(),
            snapshot: Snapshot::default(),
        };
        for (kind, resource) in ObjectKind::watched() {
            self.read(kind, &resource, &mut read).await?;
        }
        let Read {
            mut builder,
            mut snapshot,
        } = read;
        builder.set_rejections(self.rejections.all());
        snapshot.world = builder.world();
        snapshot.compiled = compile(&snapshot.world);
        snapshot.mesh = Arc::clone(snapshot.compiled.mesh());
        Ok(snapshot)
    }

    async fn read(
        &self,
        kind: ObjectKind,
        resource: &KindResource,
        read: &mut Read,
    ) -> Result<(), CallError> {
        let all = || self.client.clone();
        let listed = match kind.role() {
            Role::Settings | Role::Policy => {
                let resource = &newest(&self.client, resource).await?;
                let api = api(&self.client, kind, resource);
                self.list(api, read, |o| declared(o, kind, resource).0)
                    .await
            }
            Role::Input(InputKind::Pod) => {
                let convert = |o| vec![KubeObject::Pod(Arc::new(strip::pod(o)))];
                self.list::<core::Pod>(Api::all(all()), read, convert).await
            }
            Role::Input(InputKind::Service) => {
                let convert = |o| vec![KubeObject::Service(Arc::new(strip::service(o)))];
                self.list::<core::Service>(Api::all(all()), read, convert)
                    .await
            }
            Role::Input(InputKind::EndpointSlice) => {
                let convert = |o| vec![KubeObject::EndpointSlice(Arc::new(strip::slice(o)))];
                self.list::<EndpointSlice>(Api::all(all()), read, convert)
                    .await
            }
            Role::Input(InputKind::Namespace) => {
                let convert = |o| vec![KubeObject::Namespace(Arc::new(strip::namespace(o)))];
                self.list::<core::Namespace>(Api::all(all()), read, convert)
                    .await
            }
            // They have no resource.
            Role::Input(InputKind::Document | InputKind::Workload) => Ok(()),
        };
        match listed {
            Err(error) if resource.optional && error.code() == Some(404) => Ok(()),
            listed => listed,
        }
    }

    async fn list<K>(
        &self,
        api: Api<K>,
        read: &mut Read,
        convert: impl Fn(K) -> Vec<KubeObject>,
    ) -> Result<(), CallError>
    where
        K: Clone + DeserializeOwned + Debug,
    {
        let mut params = ListParams::default().limit(PAGE);
        loop {
            let list = call(api.list(&params)).await?;
            for object in list.items.into_iter().flat_map(&convert) {
                read.builder.apply(self.cache.last_goods.attach(object));
            }
            match list.metadata.continue_ {
                Some(more) if !more.is_empty() => params = params.continue_token(&more),
                _ => return Ok(()),
            }
        }
    }
}

struct Read {
    builder: WorldBuilder,
    snapshot: Snapshot,
}

/// Logs the proxies with mismatches. Returns the number of their mismatches.
fn confirmed(wrong: &BTreeMap<Name, Option<Mismatches>>) -> usize {
    for (who, mismatches) in wrong {
        let names: Vec<String> = mismatches
            .iter()
            .flat_map(BTreeMap::keys)
            .map(ToString::to_string)
            .take(5)
            .collect();
        tracing::error!(
            proxy = &**who,
            resources = names.join(", "),
            "audit mismatch: the proxy runs resources that differ from the API server's objects"
        );
    }
    wrong.values().flatten().map(BTreeMap::len).sum()
}

/// Keeps only the mismatches found by every check. A proxy that received another resource in between, even with equal
/// content, is still catching up and does not count.
fn the_same(mut known: Mismatches, found: &Mismatches) -> Mismatches {
    known.retain(|key, had| match (had, found.get(key)) {
        (Some(had), Some(Some(has))) => Arc::ptr_eq(had, has),
        (None, Some(None)) => true,
        (None | Some(_), _) => false,
    });
    known
}

fn differences(should: &BTreeMap<ResourceKey, Arc<str>>, progress: &Progress) -> Mismatches {
    let parts = progress.view.iter().flat_map(|view| &view.parts);
    let resources = parts.flat_map(|part| &part.resources);
    let acknowledged =
        resources.filter(|resource| !progress.unacknowledged.contains_key(&resource.key));
    let has: BTreeMap<&ResourceKey, &Arc<Resource>> = acknowledged
        .map(|resource| (&resource.key, resource))
        .collect();
    let lacking = should
        .iter()
        .filter(|(key, version)| has.get(key).map(|has| &has.version) != Some(*version))
        .map(|(key, _)| (key.clone(), has.get(key).map(|has| Arc::clone(has))));
    let surplus = has
        .iter()
        .filter(|(key, _)| !should.contains_key(**key))
        .map(|(key, has)| ((*key).clone(), Some(Arc::clone(has))));
    surplus.chain(lacking).collect()
}

#[cfg(test)]
mod tests {
    use heddle_xds_server::ResourceKind;

    use super::*;

    fn key(name: &str) -> ResourceKey {
        ResourceKey {
            kind: ResourceKind::Cluster,
            name: name.into(),
        }
    }

    fn resource() -> Arc<Resource> {
        Arc::new(Resource {
            key: key("a"),
            version: "1".into(),
            body: Default::default(),
            requires: Vec::new(),
            empty: false,
        })
    }

    #[test]
    fn only_a_resource_kept_between_checks_is_a_mismatch() {
        let (stuck, replaced) = (resource(), resource());
        let known = || {
            let had = [("stuck", Some(&stuck)), ("lacking", None), ("mended", None)];
            let moved = [("moved", Some(&replaced)), ("came", None)];
            let all = had.into_iter().chain(moved);
            all.map(|(name, had)| (key(name), had.cloned())).collect()
        };
        let found = [
            (key("stuck"), Some(Arc::clone(&stuck))),
            (key("lacking"), None),
            // Of the same version as before: it went away from it and came back.
            (key("moved"), Some(resource())),
            (key("came"), Some(resource())),
            (key("new"), None),
        ];
        let still = the_same(known(), &found.into_iter().collect());
        let still: Vec<ResourceKey> = still.into_keys().collect();
        assert_eq!(still, [key("lacking"), key("stuck")]);
        assert!(the_same(known(), &Mismatches::new()).is_empty());
    }
}
