//! `Mesh`: settings of the whole.

use std::sync::Arc;
use std::time::Duration;

use heddle_crds::{Action, ConditionType, MESH_NAME, MeshMode, MeshSpec, OnDemand, reason};

use crate::compile::{Addresses, Bucket, Lookup, Outcome};
use crate::finding::ObjectRef;
use crate::kinds::{Problem, judge};
use crate::world::{DeclaredDestination, NamespacedName, SpiffeId, World};

/// What the one mesh that counts says, or the defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) trust_domain: Arc<str>,
    pub(crate) mode: MeshMode,
    pub(crate) default_allow: bool,
    /// Whether destinations that nobody knows are passed through.
    pub(crate) pass_unknown: bool,
    pub(crate) on_demand: OnDemand,
    /// How long a destination stays that is no longer used.
    pub(crate) idle_after: Duration,
    pub(crate) metrics_readers: Vec<SpiffeId>,
    /// The services whose endpoints without a sidecar may be called, where only mTLS and known destinations are allowed; None: all.
    pub(crate) plain: Option<Vec<DeclaredDestination>>,
    /// The object, if there is one.
    pub(crate) origin: Option<ObjectRef>,
}

impl Settings {
    /// The bucket of time in on-demand names.
    pub(crate) const fn bucket(&self) -> Bucket {
        Bucket::of(self.idle_after)
    }

    /// Whether endpoints of a service that have no sidecar may be called, in plain text.
    pub(crate) fn sends_plain(&self, service: &NamespacedName) -> bool {
        self.plain.as_ref().is_none_or(|allowed| {
            allowed.iter().any(|entry| match entry {
                DeclaredDestination::Service(name, _) => name == service,
                DeclaredDestination::Namespace(namespace) => *namespace == service.namespace,
            })
        })
    }
}

/// Judges every `Mesh` and returns what counts.
pub(crate) fn settings(world: &World, addresses: &Addresses) -> (Settings, Outcome) {
    let lookup = Lookup::new(world, addresses);
    let mut outcome = Outcome::default();
    let mut spec = None;
    for (name, declared) in &world.meshes {
        let mut judged = judge(
            declared,
            lookup.refusal(&declared.object),
            check,
            &mut outcome.findings,
        );
        judged
            .status
            .conditions
            .retain(|c| c.kind != ConditionType::ResolvedRefs);
        if **name == *MESH_NAME {
            spec = judged.spec.map(|spec| (spec, declared.object.clone()));
        } else {
            judged.status.set(
                ConditionType::Accepted,
                false,
                reason::NOT_THE_MESH,
                format!("only the Mesh named {MESH_NAME} counts"),
            );
            judged.status.in_force = None;
        }
        outcome
            .statuses
            .insert(declared.object.clone(), judged.status);
    }
    let (spec, origin) = spec.map_or_else(
        || (MeshSpec::default(), None),
        |(spec, object)| (spec, Some(object)),
    );
    let reader = |r: &heddle_crds::ServiceAccountRef| {
        SpiffeId::new(&spec.trust_domain, &r.namespace, &r.service_account)
    };
    let mut metrics_readers: Vec<SpiffeId> =
        spec.telemetry.metrics_readers.iter().map(reader).collect();
    metrics_readers.sort();
    metrics_readers.dedup();
    let settings = Settings {
        trust_domain: spec.trust_domain.as_str().into(),
        mode: spec.mode,
        default_allow: spec.default_action == Action::Allow,
        pass_unknown: spec.outbound == Action::Allow,
        on_demand: spec.scope.on_demand,
        idle_after: spec.scope.idle_after.get(),
        metrics_readers,
        plain: plain(&spec),
        origin,
    };
    (settings, outcome)
}

fn plain(spec: &MeshSpec) -> Option<Vec<DeclaredDestination>> {
    if (spec.mode, spec.outbound) != (MeshMode::Strict, Action::Deny) {
        return None;
    }
    let entry = |entry: &heddle_crds::PlainDestination| match entry.service.as_str() {
        "*" => DeclaredDestination::Namespace(entry.namespace.as_str().into()),
        name => {
            let name = NamespacedName::new(&entry.namespace, name);
            DeclaredDestination::Service(name, None)
        }
    };
    Some(spec.plain_destinations.iter().map(entry).collect())
}

/// The API server has checked the rest by the schema; a file has not been there.
fn check(spec: &MeshSpec) -> Vec<Problem> {
    let clean = |text: &str| {
        !text.is_empty()
            && text
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b))
    };
    let mut problems = Vec::new();
    if !clean(&spec.trust_domain) {
        problems.push(Problem::invalid(
            "spec.trustDomain",
            format!("{:?} is no trust domain", spec.trust_domain),
            "use lower-case letters, digits, dots and dashes",
        ));
    }
    problems
}
