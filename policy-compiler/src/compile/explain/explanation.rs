//! A call and its explanation, as plain data.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use crate::authz::Decision;
use crate::finding::ObjectRef;
use crate::kinds::policies::traffic_policy::MetPolicy;
use crate::traffic::{
    Backend, Backoff, ExternalHost, ExternalProtocol, Failure, Fault, HeaderPolicy, Mirror,
    Overload, RateLimit, RequestMatcher, RetryBudget, RoutePolicy, RuleId, Session, Sticky,
};
use crate::world::{NamespacedName, PodRef, Port, Protocol, SpiffeId, WorkloadRef};

/// A request as an application sends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The workload that sends it, or one of its pods.
    pub from: WorkloadRef,
    /// The host of the URL: a name, or an address without brackets.
    pub host: String,
    /// The port of the URL.
    pub port: u16,
    /// Whether the application speaks TLS itself, so that sidecars see bytes.
    pub tls: bool,
    /// The method.
    pub method: String,
    /// The path with query.
    pub path: String,
    /// One entry a line, with names in lower case.
    pub headers: Vec<(String, String)>,
}

impl Call {
    /// The value of `Host`: a header of the call, else host and port as an HTTP client writes them.
    pub(super) fn host_header(&self) -> String {
        let mut headers = self.headers.iter();
        if let Some((_, value)) = headers.find(|(name, _)| name == "host") {
            return value.clone();
        }
        let host = match self.host.contains(':') {
            true => format!("[{}]", self.host),
            false => self.host.clone(),
        };
        match (self.port, self.tls) {
            (80, false) | (443, true) => host,
            (port, _) => format!("{host}:{port}"),
        }
    }
}

/// The reason why a call has no explanation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unexplained {
    /// The fault of the call, as "X is not Y".
    pub message: String,
    /// The repair.
    pub fix: String,
}

impl Unexplained {
    pub(super) fn new(message: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            fix: fix.into(),
        }
    }
}

impl fmt::Display for Unexplained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.message, self.fix)
    }
}

impl std::error::Error for Unexplained {}

/// The way of a call through the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The pod that sends it: the first one of the workload.
    pub pod: PodRef,
    /// The workload of that pod.
    pub workload: WorkloadRef,
    /// The identity that its sidecar shows. `None`: it has no sidecar.
    pub identity: Option<SpiffeId>,
    /// The address from which it comes. `None`: not known.
    pub source: Option<IpAddr>,
    /// The destination.
    pub to: CalledDestination,
    /// The listener of the caller's sidecar.
    pub listener: Option<Arc<str>>,
    /// The rule that decides. `None`: no rules hold there.
    pub rule: Option<DecidingRule>,
    /// The backends that have weight.
    pub backends: Vec<ExplainedBackend>,
    /// The reason why the request does not leave the caller's side.
    pub stopped: Option<Stopped>,
}

/// The destination of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CalledDestination {
    /// A port of a service.
    Service(NamespacedName, Port, Protocol),
    /// A port of pods that are called by their own addresses: of one pod, or of those of a headless service.
    Pods(NamespacedName, Port, Protocol),
    /// An address that the mesh does not know.
    Unknown(IpAddr, u16),
    /// A host outside that an `ExternalService` names.
    External(OutsideHost),
    /// A host outside that no `ExternalService` names for this caller, port and protocol; with those that name it otherwise.
    Named(String, u16, BTreeSet<NamedBy>),
}

/// A host outside that an `ExternalService` names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutsideHost {
    /// The name that the call has.
    pub name: String,
    /// The port that is called.
    pub port: Port,
    /// The host as the object declares it, perhaps a wildcard.
    pub declared: Arc<str>,
    /// The object.
    pub object: ObjectRef,
    /// Whether the application speaks TLS itself.
    pub tls: bool,
    /// The port that the sidecar dials by TLS of its own. `None`: bytes leave as the application sends them.
    pub dialed_by_tls: Option<Port>,
}

impl OutsideHost {
    /// A host that an object declares, called by a name.
    pub(super) fn new(host: &ExternalHost, name: &str) -> Self {
        Self {
            name: name.to_owned(),
            port: host.port,
            declared: Arc::clone(&host.host),
            object: host.object.clone(),
            tls: host.protocol == ExternalProtocol::Tls,
            dialed_by_tls: host.tls.as_ref().map(|tls| tls.port),
        }
    }
}

/// An `ExternalService` that names a host for other calls.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NamedBy {
    /// The object.
    pub object: ObjectRef,
    /// A port for which it names the host.
    pub port: Port,
    /// Whether applications speak TLS themselves there.
    pub tls: bool,
    /// Whether the caller may call it there.
    pub visible: bool,
}

/// The rule that decides about a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecidingRule {
    /// Where it is declared.
    pub id: RuleId,
    /// The alternative that matched.
    pub matcher: RequestMatcher,
    /// How the request is sent.
    pub policy: RoutePolicy,
    /// Its changes of headers, for every backend.
    pub headers: HeaderPolicy,
    /// The faults that the request may meet on purpose.
    pub faults: Vec<Fault>,
    /// How the request is sent again. `None`: it is bytes, which are not.
    pub retries: Option<CallRetries>,
    /// The copies of the request.
    pub mirrors: Vec<Mirror>,
    /// How the user of the request keeps the backend.
    pub sticky: Option<Sticky>,
    /// How the requests of a session get the same endpoint.
    pub session: Option<Session>,
    /// The objects that decided it, its policies included.
    pub objects: BTreeSet<ObjectRef>,
    /// The policies of its requests by precedence, on ports with HTTP. Each group of fields is that of the first one that sets it.
    pub met: Vec<MetPolicy>,
}

/// How one request is sent again, its method considered. One that reached no application always is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallRetries {
    /// How often at most.
    pub attempts: u32,
    /// The failures after which it is sent again although an application may have it.
    pub failures: BTreeSet<Failure>,
    /// Whether the rule names failures that do not count, because the method is not idempotent.
    pub withheld: bool,
    /// The wait before it is sent again. `None`: that of Envoy.
    pub backoff: Option<Backoff>,
}

/// A backend with its servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExplainedBackend {
    /// The backend.
    pub backend: Backend,
    /// Its weight, relative to the sum of all.
    pub weight: u32,
    /// Its changes of headers, beside those of the rule.
    pub headers: HeaderPolicy,
    /// The bound on retries to it at the same time, of one caller. None: 1024, and bytes have none.
    pub retry_budget: Option<RetryBudget>,
    /// The policies that set bounds on its use.
    pub policies: BTreeSet<ObjectRef>,
    /// The servers, those with equal decisions together. None: no endpoint takes the request.
    pub servers: Vec<Servers>,
}

/// Servers with equal decisions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Servers {
    /// Their names, or their addresses where no pod has them.
    pub names: BTreeSet<String>,
    /// The port of the workload.
    pub port: Port,
    /// Whether the call arrives by mTLS.
    pub mtls: bool,
    /// The decision.
    pub decision: ServerDecision,
    /// The decision if every rule in audit were enforced, where it differs.
    pub audit: Option<Decision>,
    /// The Allow rules that are enforced there.
    pub allow_rules: Vec<Arc<str>>,
    /// The limits for which the request counts, if it is allowed.
    pub limits: Vec<RateLimit>,
    /// The protection of the servers from overload, if the request is allowed.
    pub overload: Vec<Overload>,
}

/// The decision of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerDecision {
    /// By the policies.
    ByPolicies(Decision),
    /// Plain text is refused: mTLS is demanded.
    PlainTextRefused,
    /// No sidecar decides there.
    NoSidecar,
    /// The port is left out of capture, so that no sidecar decides.
    NotCaptured,
    /// The caller has not declared the address, so its own sidecar refuses the connection.
    NotDeclared,
}

impl ServerDecision {
    /// Whether the request reaches the application.
    #[must_use]
    pub const fn passes(&self) -> bool {
        match self {
            Self::ByPolicies(decision) => decision.allowed(),
            Self::PlainTextRefused | Self::NotDeclared => false,
            Self::NoSidecar | Self::NotCaptured => true,
        }
    }
}

/// The reason why a request does not leave the caller's side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// No rule takes it: status 404.
    NoRule,
    /// The port takes TLS with some server names, and this is not such a connection.
    NoServerName,
    /// A rule answers it with this status.
    Answered(u16),
    /// A rule sends the client elsewhere: status and `Location`.
    Redirected(u16, String),
    /// The caller's sidecar answers the preflight request of a browser with status 200; whether scripts of its origin may read responses.
    Preflight(bool),
    /// Every server denies every request of the caller, so its own sidecar does.
    DeniedByAll,
    /// The caller has not declared the destination.
    NotDeclared,
    /// The mesh does not pass unknown addresses.
    UnknownRefused,
    /// The port carries HTTP, and TLS of the application is not HTTP.
    NotHttp,
    /// CONNECT: status 404.
    Connect,
    /// A method that Envoy does not read over HTTP/1: status 400.
    UnknownMethod,
}

impl Stopped {
    /// Whether the caller's sidecar asks no rule.
    pub(super) const fn before_rules(&self) -> bool {
        match self {
            Self::NotDeclared | Self::NotHttp | Self::Connect | Self::UnknownMethod => true,
            Self::NoRule
            | Self::NoServerName
            | Self::Answered(_)
            | Self::Redirected(..)
            | Self::Preflight(_)
            | Self::DeniedByAll
            | Self::UnknownRefused => false,
        }
    }
}

/// The end of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// Every server that may get the request lets it pass.
    Passes,
    /// It depends on the backend or the server.
    Depends,
    /// Every server denies it.
    Denied,
    /// It does not leave the caller's side.
    Stopped,
    /// No endpoint takes it.
    NoEndpoint,
    /// It leaves the mesh, for a host or an address outside.
    Outside,
}

impl CalledDestination {
    const fn is_outside(&self) -> bool {
        match self {
            Self::Unknown(..) | Self::External(_) | Self::Named(..) => true,
            Self::Service(..) | Self::Pods(..) => false,
        }
    }
}

impl Explanation {
    /// The end of the call.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match self.stopped {
            Some(Stopped::DeniedByAll) => return Outcome::Denied,
            Some(_) => return Outcome::Stopped,
            None if self.to.is_outside() => return Outcome::Outside,
            None => {}
        }
        let all_served = self.backends.iter().all(|of| !of.servers.is_empty());
        let servers = self.backends.iter().flat_map(|of| &of.servers);
        let passing = servers.clone().filter(|of| of.decision.passes()).count();
        match (servers.count(), passing) {
            (0, _) => Outcome::NoEndpoint,
            (all, passing) if passing == all && all_served => Outcome::Passes,
            (_, 0) if all_served => Outcome::Denied,
            _ => Outcome::Depends,
        }
    }
}
