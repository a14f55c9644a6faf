//! Rules: the actions for requests that match.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::finding::ObjectRef;
use crate::world::{Labels, NamespacedName, Port};

/// Where a rule is declared. The order decides between rules that match equally well.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RuleId {
    /// A rule of an object, by its index.
    Declared(ObjectRef, usize),
    /// The port of a service that no rule takes: all requests go to the service.
    WholeService,
}

impl fmt::Display for RuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Declared(object, rule) => write!(f, "{object}/{rule}"),
            Self::WholeService => f.write_str("whole service"),
        }
    }
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RouteRule {
    /// Where it is declared.
    pub id: RuleId,
    /// The action for the request.
    pub action: Action,
    /// How the request is sent.
    pub policy: RoutePolicy,
    /// The objects that decided the rule, its policies included.
    pub origins: BTreeSet<ObjectRef>,
}

impl RouteRule {
    /// The backends in the order of the rule, those without weight included.
    pub fn backends(&self) -> impl Iterator<Item = &Backend> {
        let backends = match &self.action {
            Action::Forward(forward) => &*forward.backends,
            Action::Respond { .. } => &[],
        };
        backends.iter().map(|weighted| &weighted.backend)
    }
}

/// The action for a request.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// It goes to a backend.
    Forward(Forward),
    /// It is answered by the caller's sidecar.
    Respond {
        /// The status code.
        status: u16,
        /// The body.
        body: Arc<str>,
    },
}

/// Backends by weight.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Forward {
    /// The backends, at least one.
    pub backends: Vec<WeightedBackend>,
}

/// A backend and its share.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WeightedBackend {
    /// The target.
    pub backend: Backend,
    /// The weight in force, relative to the sum of the rule. Zero takes no requests.
    pub weight: u32,
}

/// The target of a share of requests.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Backend {
    /// A port of a service.
    Service(NamespacedName, Port),
    /// The pods behind a port of a service that have these labels.
    Subset(NamespacedName, Port, Labels),
    /// A target that cannot be reached, and the reason. Its share is answered with status 500.
    Invalid(Arc<str>),
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
            Self::Invalid(reason) => write!(f, "invalid: {reason}"),
        }
    }
}

/// How the requests of a rule are sent.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct RoutePolicy {
    /// How long they may take.
    pub timeouts: Timeouts,
}

/// Timeouts of a rule; None: there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timeouts {
    /// From the end of the request to the end of the response, retries included.
    pub request: Option<Duration>,
    /// Of one attempt.
    pub per_try: Option<Duration>,
    /// Without a byte in either direction.
    pub idle: Option<Duration>,
}
