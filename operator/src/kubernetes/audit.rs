//! The auditor: lists everything anew from the API server, compiles it from scratch, and holds it against what proxies have
//! acknowledged. It shares nothing with the way that changes take (watches, incremental compiles, streams), so a fault
//! anywhere on that way shows here.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use heddle_crds::Kind;
use heddle_policy_compiler::{KubeObject, World, WorldBuilder, compile};
use heddle_xds_server::{Name, Progress, Registry, ResourceKey, SubscriberId};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Client;
use kube::api::{Api, DynamicObject, ListParams};
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use super::ours::{Ours, ours};
use super::{AuditPlan, CallError, call, strip};
use crate::learned::Learned;
use crate::metrics::Metrics;
use crate::objects::mesh_of;
use crate::picture::Picture;
use crate::serving::MeshSource;
use crate::tasks::{Ended, chain};

const PAGE: u32 = 500;
/// What is wrong is looked at again so often, for the API server's answer and the proxies' are never of the same moment.
const LOOKS: usize = 4;
const BETWEEN: Duration = Duration::from_secs(2);

pub(super) struct Auditor {
    pub(super) client: Client,
    pub(super) mesh: Arc<MeshSource>,
    pub(super) registry: Arc<Registry>,
    pub(super) learned: Arc<Learned>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) plan: AuditPlan,
}

/// What a proxy has otherwise than it should: the resource and the version that it has, none if it lacks it.
type Mismatches = BTreeSet<(ResourceKey, Option<Arc<str>>)>;

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
                        "the audit could not read the cluster; it is left for the next time"
                    );
                }
            }
        }
    }

    /// Returns how many proxies were audited, and how many of their resources were wrong.
    async fn audit(&self, after: &mut Option<Name>) -> Result<(usize, usize), CallError> {
        let chosen = self.choose(after);
        let proxies = chosen.len();
        let mut wrong: BTreeMap<Name, Option<Mismatches>> =
            chosen.into_iter().map(|who| (who, None)).collect();
        for look in 0..LOOKS {
            if look > 0 {
                tokio::time::sleep(BETWEEN).await;
            }
            let truth = self.truth().await?;
            let before = std::mem::take(&mut wrong);
            for (who, known) in before {
                let found = self.compare(&truth, &who);
                // Only what is wrong in the same way at every look is wrong.
                let still: Mismatches = match known {
                    Some(known) => found.intersection(&known).cloned().collect(),
                    None => found,
                };
                if !still.is_empty() {
                    wrong.insert(who, Some(still));
                }
            }
            if wrong.is_empty() {
                break;
            }
        }
        let count = wrong.values().flatten().map(BTreeSet::len).sum();
        for (who, mismatches) in &wrong {
            let names: Vec<String> = mismatches
                .iter()
                .flatten()
                .map(|(key, _)| key.to_string())
                .take(5)
                .collect();
            tracing::error!(
                proxy = &**who,
                resources = names.join(", "),
                "the proxy runs something else than the API server's objects say"
            );
        }
        Ok((proxies, count))
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

    fn compare(&self, truth: &Picture, who: &Name) -> Mismatches {
        let Some(progress) = self
            .registry
            .get(&SubscriberId(Name::clone(who)))
            .filter(|progress| progress.connected)
        else {
            return Mismatches::new();
        };
        let Some(should) = self.mesh.should(truth, who) else {
            return Mismatches::new();
        };
        differences(&should, &progress)
    }

    /// The cluster by the API server's own word.
    async fn truth(&self) -> Result<Picture, CallError> {
        let mut read = Read {
            builder: World::builder(),
            picture: Picture::default(),
        };
        self.list::<core::Pod>(Api::all(self.client.clone()), &mut read, |o| {
            vec![KubeObject::Pod(Arc::new(strip::pod(o)))]
        })
        .await?;
        self.list::<core::Service>(Api::all(self.client.clone()), &mut read, |o| {
            vec![KubeObject::Service(Arc::new(strip::service(o)))]
        })
        .await?;
        self.list::<EndpointSlice>(Api::all(self.client.clone()), &mut read, |o| {
            vec![KubeObject::EndpointSlice(Arc::new(strip::slice(o)))]
        })
        .await?;
        self.list::<core::Namespace>(Api::all(self.client.clone()), &mut read, |o| {
            vec![KubeObject::Namespace(Arc::new(strip::namespace(o)))]
        })
        .await?;
        for kind in Kind::ALL {
            let Ours { resource, types } = Ours::of(*kind);
            let api = Api::<DynamicObject>::all_with(self.client.clone(), &resource);
            self.list(api, &mut read, |object| ours(object, &types).0)
                .await?;
        }
        let Read {
            mut builder,
            mut picture,
        } = read;
        builder.set_refusals(self.learned.all());
        picture.world = builder.world();
        picture.compiled = compile(&picture.world);
        Ok(picture)
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
                if let Some(mesh) = mesh_of(&object) {
                    read.picture.mesh = Arc::new(mesh);
                }
                read.builder.apply(object);
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
    picture: Picture,
}

fn differences(should: &BTreeMap<ResourceKey, Arc<str>>, progress: &Progress) -> Mismatches {
    let mut has: BTreeMap<ResourceKey, Arc<str>> = BTreeMap::new();
    for part in progress.view.iter().flat_map(|view| &view.parts) {
        for resource in part
            .resources
            .iter()
            .filter(|resource| !progress.behind.contains_key(&resource.key))
        {
            has.insert(resource.key.clone(), Arc::clone(&resource.version));
        }
    }
    let lacking = should
        .iter()
        .filter(|(key, version)| has.get(*key) != Some(*version));
    let lacking: Mismatches = lacking
        .map(|(key, _)| (key.clone(), has.get(key).cloned()))
        .collect();
    let surplus = has.iter().filter(|(key, _)| !should.contains_key(*key));
    surplus
        .map(|(key, version)| (key.clone(), Some(Arc::clone(version))))
        .chain(lacking)
        .collect()
}
