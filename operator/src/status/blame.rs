//! The objects that caused a rejection. A proxy rejects a resource; a resource may come from many policies.
//!
//! A proxy's rejection is a claim. It sets an object aside only if the control plane's own Envoy rejects the resource, too, and
//! not many more identities acknowledged it: so no client, honest or not, decides about an object by itself.
//!
//! The suspects are the objects of the rule that Envoy's text names, else all policies of the resource. The mesh is compiled
//! with some of them set aside, and the same Envoy tries the resource that results, until the faulty ones are known.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use heddle_policy_compiler::{ObjectRef, ObjectRejection, PodRef, Resource};
use heddle_xds_server::Name;

use super::observation::{ProxyObservations, RejectedResource};
use super::suspects::{Suspect, faulty, shortened};
use crate::rejections::RejectionStore;
use crate::serving::MeshSource;
use crate::snapshot::Snapshot;
use crate::trials::{ResourceVersion, Trial, Trials, version_of};

/// The facts about rejections.
#[derive(Clone, Copy, Debug)]
pub struct Rejected<'a> {
    /// The newest snapshot.
    pub snapshot: &'a Snapshot,
    /// The proxies that have, or had, a stream here.
    pub observations: &'a ProxyObservations,
    /// Makes the resources of proxies.
    pub mesh: &'a MeshSource,
    /// Tries resources.
    pub trials: &'a Trials,
}

/// Sets aside the objects that cause rejections.
#[derive(Debug, Default)]
pub struct Blamer {
    /// The snapshot of the variants.
    revision: u64,
    /// The resources that would result if only some suspects were in force.
    variants: HashMap<(ResourceVersion, Vec<ObjectRef>), Option<Arc<Resource>>>,
    /// Rejected resources that the control plane's own Envoy accepts.
    unfounded: HashSet<ResourceVersion>,
}

impl Blamer {
    /// Starts a trial of every rejected resource that comes from a policy, and sets aside the objects that cause a failed trial.
    /// `last_good` returns the generation of an object that is known to be good.
    pub fn set_aside(
        &mut self,
        rejected: &Rejected<'_>,
        rejections: &RejectionStore,
        last_good: impl Fn(&ObjectRef) -> Option<i64>,
    ) {
        let Rejected {
            snapshot,
            observations,
            trials,
            ..
        } = *rejected;
        if std::mem::replace(&mut self.revision, snapshot.revision) != snapshot.revision {
            self.variants.clear();
        }
        let proven = |object: &ObjectRef, generation| last_good(object) == Some(generation);
        let (mut tried, mut failed) = (HashSet::new(), HashSet::new());
        for (pod, observation) in observations {
            let identity = identity_of(snapshot, pod);
            for one in &observation.summary.rejected {
                let version = version_of(&one.resource);
                tried.insert(version.clone());
                let (trial, new) = trial_of(trials, &identity, one);
                if new {
                    tracing::warn!(%pod, resource = %one.resource.key, text = shortened(&one.text), "a proxy rejected a resource");
                }
                match trial {
                    // Once for each version, however many proxies reject it.
                    Trial::Rejected(text) if failed.insert(version.clone()) => {
                        if outvoted(&votes(snapshot, observations, &one.resource)) {
                            continue;
                        }
                        let mut search = Search {
                            rejected,
                            who: pod.to_string().into(),
                            identity: &identity,
                            one,
                            variants: &mut self.variants,
                            tried: &mut tried,
                        };
                        let blame = search.blame(&text, proven);
                        note(blame, one, &text, rejections);
                    }
                    Trial::Accepted if self.unfounded.insert(version) => {
                        tracing::warn!(%pod, resource = %one.resource.key, "a proxy rejected a resource that the control plane's own Envoy accepts; the rejection counts for that proxy only");
                    }
                    Trial::Accepted
                    | Trial::Rejected(_)
                    | Trial::Open
                    | Trial::Unavailable
                    | Trial::Needless => {}
                }
            }
        }
        self.unfounded.retain(|version| tried.contains(version));
        trials.retain(&tried);
    }
}

/// Keeps the objects to set aside, and logs the new ones.
fn note(blame: Option<Blame>, one: &RejectedResource, text: &str, rejections: &RejectionStore) {
    let key = &one.resource.key;
    match blame {
        // A trial is open.
        None => {}
        Some(Blame::Objects(found)) => {
            for rejection in found {
                let object = rejection.object.clone();
                let text = rejection.text.clone();
                if rejections.reject(rejection) {
                    tracing::error!(resource = %key, text, "Envoy rejects {object}: it is set aside");
                }
            }
        }
        Some(Blame::Nothing) => {
            tracing::error!(resource = %key, text, "Envoy rejects a resource that no policy caused");
        }
    }
}

/// The cause of a confirmed rejection.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Blame {
    /// These generations of these objects are set aside.
    Objects(Vec<ObjectRejection>),
    /// No policy's present spec caused it: a fault of ours.
    Nothing,
}

/// The search for the faulty objects of one rejected resource.
struct Search<'a> {
    rejected: &'a Rejected<'a>,
    who: Name,
    identity: &'a str,
    one: &'a RejectedResource,
    variants: &'a mut HashMap<(ResourceVersion, Vec<ObjectRef>), Option<Arc<Resource>>>,
    tried: &'a mut HashSet<ResourceVersion>,
}

impl Search<'_> {
    /// Returns the objects to set aside; `None` while a trial is open, or if the proxy would get another resource by now that Envoy accepts.
    fn blame(&mut self, text: &str, proven: impl Fn(&ObjectRef, i64) -> bool) -> Option<Blame> {
        // A proxy answers some time after the faulty object was set aside, and until then it rejects a resource of before.
        self.rejects(&[], &[])??;
        let named = self.one.resource.origins_in(text);
        let policies = self.one.origins.iter();
        let (named, others): (Vec<_>, Vec<_>) = policies.partition(|object| named.contains(object));
        let all = named.iter().chain(&others).copied().collect();
        // The fault may be elsewhere than the text suggests.
        for candidates in [named, all] {
            let suspects = self.suspects(&candidates, text, &proven);
            if suspects.is_empty() || self.rejects(&suspects, &[])?.is_some() {
                continue;
            }
            let found = faulty(&suspects, &mut |some| {
                self.rejects(&suspects, some)
                    .map(|rejection| rejection.is_some())
            })?;
            // Suspects that Envoy rejects only together.
            let found = match found.is_empty() {
                true => suspects
                    .iter()
                    .max_by(|a, b| a.rank(b))
                    .into_iter()
                    .collect(),
                false => found,
            };
            let rejections = found.into_iter().map(|suspect| {
                let alone = self.rejects(&suspects, std::slice::from_ref(suspect));
                let alone = alone.flatten().unwrap_or_else(|| text.into());
                suspect.rejection(&alone)
            });
            return Some(Blame::Objects(rejections.collect()));
        }
        Some(Blame::Nothing)
    }

    fn suspects(
        &self,
        objects: &[&ObjectRef],
        text: &str,
        proven: impl Fn(&ObjectRef, i64) -> bool,
    ) -> Vec<Suspect> {
        let snapshot = self.rejected.snapshot;
        let suspects = objects.iter().filter_map(|object| {
            let mut suspect = Suspect::of(snapshot, object, text)?;
            suspect.unproven = !proven(object, suspect.generation);
            Some(suspect)
        });
        suspects.collect()
    }

    /// Returns Envoy's text if it rejects the resource with only these of the suspects in force (`Some(None)`: it accepts that);
    /// `None` while that is not known.
    fn rejects(&mut self, suspects: &[Suspect], in_force: &[Suspect]) -> Option<Option<Arc<str>>> {
        let Some(variant) = self.variant(suspects, in_force) else {
            // The proxy would not have the resource.
            return Some(None);
        };
        self.tried.insert(version_of(&variant));
        match self.rejected.trials.of(self.identity, &variant).0 {
            Trial::Rejected(text) => Some(Some(text)),
            Trial::Accepted => Some(None),
            Trial::Open | Trial::Unavailable | Trial::Needless => None,
        }
    }

    /// The resource that the proxy would get now with only these of the suspects in force.
    fn variant(&mut self, suspects: &[Suspect], in_force: &[Suspect]) -> Option<Arc<Resource>> {
        let aside = suspects
            .iter()
            .filter(|suspect| !in_force.contains(suspect));
        let objects: Vec<ObjectRef> = aside.clone().map(|one| one.object.clone()).collect();
        let key = (version_of(&self.one.resource), objects);
        if let Some(known) = self.variants.get(&key) {
            return known.clone();
        }
        let Rejected { snapshot, mesh, .. } = *self.rejected;
        let world = snapshot.world.rejecting(aside.map(|one| one.rejection("")));
        let compiled = snapshot.compiled.update(&world);
        let without = Snapshot {
            world,
            compiled,
            ..Snapshot::default()
        };
        let variant = mesh.resource_by(&without, &self.who, &self.one.resource.key);
        self.variants.insert(key, variant.clone());
        variant
    }
}

/// Returns the trial of a rejected resource. A client can ask for any number of resources without policies, and a trial of those sets no
/// object aside.
fn trial_of(trials: &Trials, identity: &str, rejected: &RejectedResource) -> (Trial, bool) {
    match rejected.origins.is_empty() {
        true => trials.needless(&rejected.resource),
        false => trials.of(identity, &rejected.resource),
    }
}

fn identity_of(snapshot: &Snapshot, pod: &PodRef) -> Arc<str> {
    let proxy = snapshot.compiled.proxies.get(pod);
    proxy.map_or_else(
        || pod.to_string().into(),
        |proxy| proxy.identity.as_str().into(),
    )
}

/// Identity and answer (`true`: acknowledged) of every connected proxy that answered for this version of a resource.
fn votes(
    snapshot: &Snapshot,
    observations: &ProxyObservations,
    resource: &Resource,
) -> BTreeSet<(Arc<str>, bool)> {
    observations
        .iter()
        .filter(|(_, observation)| observation.summary.connected)
        .filter_map(|(pod, observation)| {
            Some((
                identity_of(snapshot, pod),
                observation.acknowledged(resource)?,
            ))
        })
        .collect()
}

/// Whether the acknowledgments of others outweigh a failed trial: more identities acknowledged the resource than rejected it, the
/// control plane's own Envoy counted in. Many pods of one identity have one vote.
fn outvoted(votes: &BTreeSet<(Arc<str>, bool)>) -> bool {
    let count = |acknowledged| {
        votes
            .iter()
            .filter(|(_, vote)| *vote == acknowledged)
            .count()
    };
    count(true) > count(false) + 1
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use heddle_policy_compiler::{ObjectKind, ResourceKey, ResourceKind};
    use heddle_xds_server::{OnDemandRequests, ResourceSource, SubscriberId};

    use super::*;

    const WORLD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: web-1, namespace: shop, labels: {app: web}}
spec: {serviceAccountName: web, containers: [{name: app, image: app, ports: [{containerPort: 80}]}, {name: heddle-proxy, image: x}]}
status: {phase: Running, podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}], conditions: [{type: Ready, status: 'True'}]}
---
apiVersion: heddle.dev/v1alpha1
kind: AuthPolicy
metadata: {name: faulty, namespace: shop, generation: 1}
spec: {selector: {matchLabels: {app: web}}, rules: [{to: {ports: [80], headers: [{name: x, regex: '(gold'}]}}]}
---
apiVersion: heddle.dev/v1alpha1
kind: AuthPolicy
metadata: {name: innocent, namespace: shop, generation: 1}
spec: {selector: {matchLabels: {app: web}}, rules: [{to: {ports: [80], methods: [GET]}}]}
";

    /// A proxy rejects a resource of two objects, of which one has been set aside since.
    #[test]
    fn a_rejection_of_before_blames_no_object_that_is_left_in_force() {
        let aside = |name: &str| ObjectRejection {
            object: ObjectRef::new(ObjectKind::AuthPolicy, "shop", name),
            generation: 1,
            text: "missing )".to_owned(),
        };
        let before = Snapshot::of_yaml(WORLD);
        let now = Snapshot::of(before.world.rejecting([aside("faulty")]));
        let none = Snapshot::of(now.world.rejecting([aside("innocent")]));

        let domain = "cluster.local".parse().unwrap();
        let age = Duration::from_secs(60);
        let mesh = MeshSource::new(domain, Arc::default(), age, Arc::default());
        let who: Name = "shop/web-1".into();
        let _ = mesh.view(
            &SubscriberId(Name::clone(&who)),
            &OnDemandRequests::default(),
        );
        let innocent = aside("innocent").object;
        let keys = mesh.versions_by(&before, &who).unwrap().into_keys();
        let mut resources = keys.filter_map(|key| mesh.resource_by(&before, &who, &key));
        let rejected = resources.find(|resource| resource.origins.contains(&innocent));
        let rejected = rejected.unwrap();

        let trials = Trials::new(Some("/no/such/envoy".into()), Path::new("/"));
        trials.decide(&rejected, Trial::Rejected("missing )".into()));
        for snapshot in [&now, &none] {
            let resource = mesh.resource_by(snapshot, &who, &rejected.key);
            trials.decide(&resource.unwrap(), Trial::Accepted);
        }
        let one = RejectedResource {
            origins: rejected.origins.iter().cloned().collect(),
            resource: rejected,
            text: "missing )".into(),
        };
        let blamed = |snapshot: &Snapshot| {
            let rejected = Rejected {
                snapshot,
                observations: &ProxyObservations::default(),
                mesh: &mesh,
                trials: &trials,
            };
            let mut search = Search {
                rejected: &rejected,
                who: Name::clone(&who),
                identity: "shop/web",
                one: &one,
                variants: &mut HashMap::new(),
                tried: &mut HashSet::new(),
            };
            search.blame("missing )", |_, _| false)
        };
        assert_eq!(blamed(&now), None);
    }

    #[test]
    fn only_resources_of_policies_are_tried() {
        let envoy = std::env::current_exe().unwrap();
        let policy = ObjectRef::new(ObjectKind::AuthPolicy, "shop", "a");
        let trials = Trials::new(Some(envoy), &std::env::temp_dir());
        for (name, origins, expected) in [
            ("dst|192.0.2.1:80", vec![], Trial::Needless),
            ("in|80", vec![policy], Trial::Open),
        ] {
            let rejected = RejectedResource {
                resource: Arc::new(Resource {
                    key: ResourceKey::new(ResourceKind::Cluster, name),
                    version: "1".into(),
                    body: bytes::Bytes::new(),
                    requires: Vec::new(),
                    empty: false,
                    origins: BTreeSet::new(),
                    rules: Vec::new(),
                }),
                text: "no".into(),
                origins,
            };
            let trial = trial_of(&trials, "shop/web", &rejected);
            assert_eq!(trial, (expected, true), "{name}");
        }
    }

    #[test]
    fn acknowledgments_of_other_identities_outweigh_a_failed_trial_and_pods_of_one_identity_count_once()
     {
        let votes = |votes: &[(&str, bool)]| {
            let votes = votes
                .iter()
                .map(|(identity, vote)| ((*identity).into(), *vote));
            votes.collect::<BTreeSet<(Arc<str>, bool)>>()
        };
        for (given, expected) in [
            (&[("shop/web", false)][..], false),
            // An identity that acknowledges a broken resource keeps nothing in force.
            (&[("shop/web", false), ("evil/evil", true)], false),
            (
                &[
                    ("shop/web", false),
                    ("evil/evil", true),
                    ("evil/evil", true),
                    ("evil/evil", true),
                ],
                false,
            ),
            (
                &[
                    ("evil/evil", false),
                    ("shop/web", true),
                    ("shop/client", true),
                ],
                false,
            ),
            (
                &[
                    ("evil/evil", false),
                    ("shop/web", true),
                    ("shop/client", true),
                    ("shop/api", true),
                ],
                true,
            ),
            // An identity with both votes counts on both sides.
            (
                &[
                    ("shop/web", false),
                    ("shop/web", true),
                    ("shop/client", true),
                ],
                false,
            ),
        ] {
            assert_eq!(outvoted(&votes(given)), expected, "{given:?}");
        }
    }
}
