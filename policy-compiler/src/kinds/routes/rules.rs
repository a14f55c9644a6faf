//! The parts of a rule that kinds of routes share, read without regard to the cluster, and the rule of the traffic model.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::backends::{self, Reference, ReferenceFields};
use super::filters::{self, Filters};
use super::notes::Notes;
use super::{Routed, same, sessions};
use crate::kinds::ValidationError;
use crate::kinds::policy::Candidate;
use crate::traffic::{
    Action, Backend, Forward, HeaderPolicy, Mirror, RequestMatcher, RoutePolicy, RouteRule, RuleId,
    Session, Weight, WeightedBackend, WithoutBackend,
};
use crate::world::{Family, NamespacedName, Port};

/// The largest weight of a backend.
const MAX_WEIGHT: i32 = 1_000_000;

/// A rule of a route.
pub(in crate::kinds) struct Rule {
    /// The alternatives, at least one.
    pub(super) matchers: Vec<RequestMatcher>,
    pub(in crate::kinds) name: Option<Arc<str>>,
    filters: Filters,
    backends: Vec<Weighted>,
    session: Option<Session>,
    pub(in crate::kinds) policy: RoutePolicy,
}

/// A backend: those of all kinds of routes have the same fields.
#[derive(Deserialize)]
struct BackendFields {
    #[serde(flatten)]
    reference: ReferenceFields,
    weight: Option<i32>,
    filters: Option<Vec<Value>>,
}

struct Weighted {
    reference: Reference,
    weight: u32,
    headers: HeaderPolicy,
}

impl Rule {
    /// Reads the sessions of a rule that has its other parts.
    pub(in crate::kinds) fn keep_sessions(
        &mut self,
        field: &str,
        of: Option<&impl Serialize>,
        notes: &mut Notes,
    ) {
        self.session = sessions::session(field, of, self.backends.len(), notes);
        if self.session.is_some() && self.filters.redirect.is_some() {
            let message = "a rule that redirects sends nothing to endpoints";
            let fix = "remove one of the two";
            notes.unsupported(format!("{field}.sessionPersistence"), message, fix);
        }
    }

    /// The number of alternatives for which one of the rule counts.
    pub(super) fn alternatives_each(&self) -> usize {
        let sessions = self.session.as_ref();
        1 + sessions.map_or(0, |_| self.backends.len())
    }

    /// The faults of the references to backends.
    pub(super) fn errors<S>(
        &self,
        policy: &Candidate<'_, S>,
        routed: Routed,
    ) -> impl Iterator<Item = ValidationError> {
        let backends = self.backends.iter().map(|weighted| &weighted.reference);
        let mirrors = self.filters.mirrors.iter().map(|mirror| &mirror.reference);
        let all = backends.chain(mirrors);
        all.filter_map(move |of| backends::resolve(policy, of, routed).err())
    }

    /// The backends with a share of the rule that goes to its other backends, because they have no ready endpoint; for a status. `field`: the field
    /// of the rule. `called`: the families of the addresses that callers dial, each of which has its own endpoints.
    pub(super) fn held<S>(
        &self,
        policy: &Candidate<'_, S>,
        routed: Routed,
        field: &str,
        called: &BTreeSet<Option<Family>>,
    ) -> Vec<String> {
        let weighted = self.backends.iter().filter(|of| of.weight > 0);
        if policy.lookup.offline() || weighted.clone().nth(1).is_none() {
            return Vec::new();
        }
        let sum: u64 = weighted.clone().map(|of| u64::from(of.weight)).sum();
        // An invalid backend is none that waits: its share is answered.
        let services = weighted.filter_map(|of| {
            match backends::resolve(policy, &of.reference, routed).ok()? {
                Backend::Service(name, port) => Some((of.weight, name, port)),
                Backend::Subset(..) | Backend::Invalid(_) => None,
            }
        });
        let services: Vec<(u32, NamespacedName, Port)> = services.collect();
        let is_waiting = |family: Option<Family>, name: &NamespacedName, port: Port| {
            !policy
                .lookup
                .is_ready(policy.settings, (name, port), family)
        };
        // No weight is held where no backend could take it.
        let ready = called.iter().copied().filter(|family| {
            let mut services = services.iter();
            services.any(|(_, name, port)| !is_waiting(*family, name, *port))
        });
        let ready: Vec<Option<Family>> = ready.collect();
        let texts = services.iter().filter_map(|(weight, name, port)| {
            let families = ready.iter().copied();
            let held = families.filter(|family| is_waiting(*family, name, *port));
            let calls = calls_of(&held.collect::<Vec<_>>(), called.len())?;
            Some(format!("{field}: {name}:{port} has no ready endpoint{calls}, so its weight {weight} of {sum} goes to the other backends"))
        });
        texts.collect()
    }

    /// The rule for a port of a parent.
    pub(super) fn route_rule<S>(
        &self,
        policy: &Candidate<'_, S>,
        id: RuleId,
        (parent, routed): (Port, Routed),
    ) -> RouteRule {
        RouteRule {
            id,
            action: match &self.filters.redirect {
                Some(answer) => Action::Redirect(answer.at(parent)),
                None => Action::Forward(self.forward(policy, routed)),
            },
            headers: self.filters.headers.clone(),
            policy: RoutePolicy {
                cors: self.filters.cors.clone(),
                ..self.policy.clone()
            },
            origins: BTreeSet::from([policy.declared.object.clone()]),
        }
    }

    fn forward<S>(&self, policy: &Candidate<'_, S>, routed: Routed) -> Forward {
        let resolve = |reference: &Reference| {
            let backend = backends::resolve(policy, reference, routed);
            backend.unwrap_or_else(|error| Backend::Invalid(Some(error.message.into())))
        };
        let weighted = self.backends.iter().map(|weighted| WeightedBackend {
            backend: resolve(&weighted.reference),
            weight: Weight::of(weighted.weight),
            headers: weighted.headers.clone(),
        });
        let mirrors = self.filters.mirrors.iter().map(|mirror| Mirror {
            backend: resolve(&mirror.reference),
            share: mirror.share,
        });
        Forward {
            backends: weighted.collect(),
            rewrite: self.filters.rewrite.clone(),
            mirrors: mirrors.collect(),
            session: self.session.clone(),
            without_backend: match routed {
                Routed::Requests(without_backend) => without_backend,
                Routed::Tls | Routed::Bytes => WithoutBackend::default(),
            },
            ..Forward::default()
        }
    }
}

/// The calls to addresses of these families, in words, if they are not those of all. None: there are none.
fn calls_of(families: &[Option<Family>], all: usize) -> Option<String> {
    let names = families.iter().flatten().map(|family| family.name());
    let names: Vec<&str> = names.collect();
    match families.len() {
        0 => None,
        some if some == all => Some(String::new()),
        _ => Some(format!(" for calls to {} addresses", names.join(" and "))),
    }
}

/// Reads a rule for connections to a port.
pub(in crate::kinds) fn connections_rule<B: Serialize>(
    field: &str,
    matchers: Vec<RequestMatcher>,
    backends: &[B],
    notes: &mut Notes,
) -> Rule {
    Rule {
        matchers,
        name: None,
        filters: Filters::default(),
        backends: weighted_backends(field, backends, notes),
        session: None,
        policy: RoutePolicy::default(),
    }
}

/// Reads the parts of a rule for requests that kinds of routes share: those after its matches.
pub(in crate::kinds) fn rule<F: Serialize, B: Serialize>(
    field: &str,
    matchers: Vec<RequestMatcher>,
    (filters, backends): (Option<&Vec<F>>, Option<&Vec<B>>),
    notes: &mut Notes,
) -> Rule {
    let filters = filters::of_rule(field, filters, &matchers, notes);
    let backends = backends.map_or(&[][..], Vec::as_slice);
    let backends = weighted_backends(field, backends, notes);
    if filters.redirect.is_some() && !backends.is_empty() {
        let message = "a rule that redirects sends nothing to backends";
        notes.unsupported(
            format!("{field}.backendRefs"),
            message,
            "remove one of the two",
        );
    }
    Rule {
        matchers,
        name: None,
        filters,
        backends,
        session: None,
        policy: RoutePolicy::default(),
    }
}

fn weighted_backends<B: Serialize>(field: &str, of: &[B], notes: &mut Notes) -> Vec<Weighted> {
    let all = of.iter().enumerate();
    all.filter_map(|(index, of)| weighted(format!("{field}.backendRefs[{index}]"), of, notes))
        .collect()
}

fn weighted(field: String, of: &impl Serialize, notes: &mut Notes) -> Option<Weighted> {
    let Some(of) = same::<BackendFields>(of) else {
        notes.unsupported(field, "the backend cannot be read", "remove it");
        return None;
    };
    let headers = filters::of_backend(&field, of.filters.as_ref(), notes);
    let weight = of.weight.unwrap_or(1);
    if !(0..=MAX_WEIGHT).contains(&weight) {
        let message = format!("{weight} is not from 0 to {MAX_WEIGHT}");
        notes.unsupported(format!("{field}.weight"), message, "correct it");
    }
    Some(Weighted {
        reference: of.reference.read(field, notes),
        weight: u32::try_from(weight).unwrap_or_default(),
        headers,
    })
}
