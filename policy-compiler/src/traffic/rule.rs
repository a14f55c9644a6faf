//! Rules: the actions for requests that match.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::cors::Cors;
use super::faults::Fault;
use super::filters::{HeaderPolicy, Millionths, Redirect, Rewrite};
use super::retries::Retries;
use super::session::Session;
use super::sticky::Sticky;
use super::weight::Weight;
use crate::finding::ObjectRef;
use crate::world::{Labels, NamespacedName, Port};

/// Where a rule is declared. The order decides between rules that match equally well.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RuleId {
    /// A rule of a route of Gateway API: the older object comes first.
    Route {
        /// `metadata.creationTimestamp` in seconds since 1970; None in files.
        created: Option<i64>,
        /// The route that declares the rule.
        object: ObjectRef,
        /// The index of the rule among those of the route, from 0.
        index: usize,
        /// The name that the rule has in the route, for policies of this rule alone. Envoy gets the index.
        name: Option<Arc<str>>,
    },
    /// The rule of an object of another kind, by its index. Each of these kinds has one rule: its index is 0.
    Declared(ObjectRef, usize),
    /// The port of a service that no rule takes: all requests go to the service.
    WholeService,
}

impl RuleId {
    /// The object that declares the rule. None: no object does.
    #[must_use]
    pub const fn object(&self) -> Option<&ObjectRef> {
        match self {
            Self::Declared(object, _) | Self::Route { object, .. } => Some(object),
            Self::WholeService => None,
        }
    }

    /// The name of the rule in its route. None: it has none.
    #[must_use]
    pub const fn rule_name(&self) -> Option<&Arc<str>> {
        match self {
            Self::Route { name, .. } => name.as_ref(),
            Self::Declared(..) | Self::WholeService => None,
        }
    }

    /// The object that has this rule alone, so that its name is enough. None: routes have more rules.
    #[must_use]
    pub const fn only_rule_of(&self) -> Option<&ObjectRef> {
        match self {
            Self::Declared(object, _) => Some(object),
            Self::Route { .. } | Self::WholeService => None,
        }
    }
}

impl fmt::Display for RuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Declared(object, rule)
            | Self::Route {
                object,
                index: rule,
                ..
            } => write!(f, "{object}/{rule}"),
            Self::WholeService => f.write_str("whole service"),
        }
    }
}

/// The action for requests that match, with the treatment of requests and responses on their way. The matchers are in [`super::RouteEntry`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RouteRule {
    /// The object that declares the rule, and the place of the rule in it.
    pub id: RuleId,
    /// The action for the request.
    pub action: Action,
    /// Changes of headers, for every backend and for answers of the rule itself.
    pub headers: HeaderPolicy,
    /// Timeouts, retries, faults and CORS of the requests.
    pub policy: RoutePolicy,
    /// The objects that decided the rule, its policies included.
    pub origins: BTreeSet<ObjectRef>,
}

impl RouteRule {
    /// The name that its routes have in Envoy: the rule, and its policies.
    #[must_use]
    pub fn name(&self) -> String {
        let own = self.id.object();
        let policies = self.origins.iter().filter(|object| Some(*object) != own);
        policies.fold(self.id.to_string(), |name, policy| {
            format!("{name}, {policy}")
        })
    }

    /// The backends in the order of the rule, those without weight included.
    pub fn backends(&self) -> impl Iterator<Item = &Backend> {
        let backends = match &self.action {
            Action::Forward(forward) => &*forward.backends,
            Action::Redirect(_) | Action::Respond { .. } => &[],
        };
        backends.iter().map(|weighted| &weighted.backend)
    }

    /// The backends that take requests, in the order of the rule.
    pub(crate) fn takers(&self) -> impl Iterator<Item = &Backend> {
        let forward = match &self.action {
            Action::Forward(forward) => Some(forward),
            Action::Redirect(_) | Action::Respond { .. } => None,
        };
        let weighted = forward.into_iter().flat_map(Forward::weighted);
        weighted.map(|weighted| &weighted.backend)
    }

    /// The copies of requests that are sent to further backends. Answers that the sidecar gives itself have none.
    #[must_use]
    pub fn mirrors(&self) -> &[Mirror] {
        match &self.action {
            Action::Forward(forward) => &forward.mirrors,
            Action::Redirect(_) | Action::Respond { .. } => &[],
        }
    }

    /// How users keep their backend.
    #[must_use]
    pub const fn sticky(&self) -> Option<&Sticky> {
        match &self.action {
            Action::Forward(forward) => forward.sticky.as_ref(),
            Action::Redirect(_) | Action::Respond { .. } => None,
        }
    }

    /// How the requests of a session get the same endpoint.
    #[must_use]
    pub const fn session(&self) -> Option<&Session> {
        match &self.action {
            Action::Forward(forward) => forward.session.as_ref(),
            Action::Redirect(_) | Action::Respond { .. } => None,
        }
    }

    /// The number of alternatives for which one of the rule counts: each place of a sticky cookie is a cluster of a route in Envoy, and each
    /// backend of sessions a route.
    pub(crate) fn alternatives_each(&self) -> usize {
        let sticky = self.sticky().map_or(1, Sticky::alternatives_each);
        let sessions = self.session().map_or(0, |_| self.backends().count());
        sticky + sessions
    }

    /// Whether the caller's sidecar answers requests by itself: all of them, or the share of a backend that is invalid.
    pub fn answers(&self) -> bool {
        let invalid = |backend: &Backend| matches!(backend, Backend::Invalid(_));
        match &self.action {
            Action::Forward(forward) => {
                let mut weighted = forward.weighted().peekable();
                weighted.peek().is_none() || weighted.any(|weighted| invalid(&weighted.backend))
            }
            Action::Redirect(_) | Action::Respond { .. } => true,
        }
    }
}

/// The action for a request.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// The request goes to a backend.
    Forward(Forward),
    /// The caller's sidecar redirects the client to another URI.
    Redirect(Redirect),
    /// The caller's sidecar answers the request.
    Respond {
        /// The status code of HTTP.
        status: u16,
        /// The body of the answer, as text.
        body: Arc<str>,
    },
}

/// The backends of the requests by weight, and the changes and copies of the requests on the way to them.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Forward {
    /// The backends in the order of the rule, those without weight included.
    pub backends: Vec<WeightedBackend>,
    /// The changes of host and path of the request.
    pub rewrite: Rewrite,
    /// The copies of requests that are sent to further backends.
    pub mirrors: Vec<Mirror>,
    /// How users keep their backend. None: each request gets a backend by itself.
    pub sticky: Option<Sticky>,
    /// How the requests of a session get the same endpoint. None: each request gets an endpoint by itself.
    pub session: Option<Session>,
    /// The answer to the share of a backend that cannot be reached, and to all requests if no backend has a weight.
    pub without_backend: WithoutBackend,
}

/// The answer of the caller's sidecar to requests that have no backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum WithoutBackend {
    /// Status 500 of HTTP.
    #[default]
    InternalError,
    /// Status 503, or `UNAVAILABLE` for requests of gRPC.
    Unavailable,
}

impl Forward {
    /// Requests go to these backends as they are.
    #[must_use]
    pub fn to(backends: Vec<WeightedBackend>) -> Self {
        Self {
            backends,
            ..Self::default()
        }
    }

    /// The backends that take requests.
    pub fn weighted(&self) -> impl Iterator<Item = &WeightedBackend> + Clone {
        self.backends
            .iter()
            .filter(|backend| backend.weight.in_force > 0)
    }
}

/// A backend and its share of the requests.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WeightedBackend {
    /// The target of the share.
    pub backend: Backend,
    /// Its weight as declared, and in force.
    pub weight: Weight,
    /// Changes of headers for this backend alone, after those of the rule.
    pub headers: HeaderPolicy,
}

impl WeightedBackend {
    /// A backend that gets requests as they are.
    #[must_use]
    pub fn new(backend: Backend, weight: u32) -> Self {
        Self {
            backend,
            weight: Weight::of(weight),
            headers: HeaderPolicy::default(),
        }
    }
}

/// A copy of requests. The answers are dropped.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mirror {
    /// The target of the copies.
    pub backend: Backend,
    /// The share of requests that are copied.
    pub share: Millionths,
}

/// The target of a share of requests.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Backend {
    /// A port of a service.
    Service(NamespacedName, Port),
    /// The pods behind a port of a service that have these labels.
    Subset(NamespacedName, Port, Labels),
    /// A target that cannot be reached, and the reason. Its share is answered as [`Forward::without_backend`] has it. In a route table it has
    /// no reason, for that changes no byte; the rule as its object declares it has one.
    Invalid(Option<Arc<str>>),
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(name, port) => write!(f, "{name}:{port}"),
            Self::Subset(name, port, labels) => {
                write!(f, "{name}:{port}")?;
                labels
                    .iter()
                    .try_for_each(|(key, value)| write!(f, " {key}={value}"))
            }
            Self::Invalid(None) => f.write_str("invalid"),
            Self::Invalid(Some(reason)) => write!(f, "invalid: {reason}"),
        }
    }
}

/// The treatment of the requests of a rule on their way to any backend.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct RoutePolicy {
    /// The longest times that a request may take.
    pub timeouts: Timeouts,
    /// The requests that are sent again after a failure, and how often.
    pub retries: Retries,
    /// Faults that requests meet on purpose, in this order.
    pub faults: Vec<Fault>,
    /// The cross-origin requests that browsers may make. None: the application answers them.
    pub cors: Option<Cors>,
}

/// Timeouts of a rule; None: there is none. Zero: none, also where the policy of the service has one.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timeouts {
    /// From the end of the request to the end of the response, retries included.
    pub request: Option<Duration>,
    /// From the end of the request to the end of the response, for each attempt alone.
    pub per_try: Option<Duration>,
    /// The longest time without a byte in either direction.
    pub idle: Option<Duration>,
}

impl Timeouts {
    /// Returns these timeouts, and the others where these have none.
    #[must_use]
    pub fn or(&self, others: &Self) -> Self {
        Self {
            request: self.request.or(others.request),
            per_try: self.per_try.or(others.per_try),
            idle: self.idle.or(others.idle),
        }
    }

    /// Returns these timeouts without those of zero, once nothing else is merged in. Without `idle`, the listener's own counts; so that of
    /// zero stays.
    #[must_use]
    pub(crate) fn without_zeros(self) -> Self {
        let positive = |timeout: &Duration| !timeout.is_zero();
        Self {
            request: self.request.filter(positive),
            per_try: self.per_try.filter(positive),
            idle: self.idle,
        }
    }
}
