//! The traffic model: which request goes to which backend, and how. Without Kubernetes' types and Envoy's.
//!
//! `kinds` yields rules for the ports of services; `compile/routes.rs` makes a [`RouteTable`] of all rules of a port, and
//! `compile/upstreams.rs` an [`Upstream`] for each backend; `envoy/{route,cluster,endpoint}.rs` lower both. Everything here is plain data
//! with equality and order: equal values make equal bytes.

mod cors;
mod division;
mod evaluate;
mod example;
mod external;
mod faults;
mod filters;
mod matcher;
mod rate_limits;
mod retries;
mod rule;
mod server_name;
mod server_policy;
mod session;
mod sticky;
mod table;
pub(crate) mod unrouted;
mod upstream;
mod upstream_policy;
mod weight;

pub use cors::{Cors, Listed, Origin};
pub use evaluate::{Decision, Request, Share, evaluate};
pub(crate) use external::{
    ExternalAddresses, ExternalHost, ExternalPort, ExternalProtocol, ExternalTls, HostPolicy,
    is_private, undialed,
};
pub use faults::{Abort, Delay, Fault, FaultAnswer};
pub use filters::{
    HeaderChange, HeaderChanges, HeaderPolicy, Millionths, PathRewrite, PresentLines, Redirect,
    RedirectStatus, Rewrite, Scheme,
};
pub use matcher::{
    CookieMatcher, GrpcMethod, GrpcName, HeaderMatcher, PathMatcher, QueryMatcher, RequestMatcher,
    ValueMatcher,
};
pub use rate_limits::{Questions, RateLimit};
pub use retries::{Backoff, Failure, GrpcCode, Resend, Retries, RetryBudget};
pub use rule::{
    Action, Backend, Forward, Mirror, RoutePolicy, RouteRule, RuleId, Timeouts, WeightedBackend,
    WithoutBackend,
};
pub use server_name::ServerName;
pub use server_policy::{AdaptiveConcurrency, AdmissionControl, Overload, ServerPolicy};
pub use session::Session;
pub use sticky::{Sticky, StickyCookie, places};
pub(crate) use table::by_server_name;
pub use table::{HostPattern, Otherwise, RouteEntry, RouteTable, TableUpstream, VirtualHost};
pub use upstream::{
    Alpn, Balance, CONNECT_ATTEMPTS, EndpointAssignment, EndpointGroup, HashKey, Origins, Purpose,
    Upstream, UpstreamHost, UpstreamTls,
};
pub(crate) use upstream_policy::idle_timeout;
pub use upstream_policy::{Connections, Ejection, Limits, UpstreamPolicy};
pub use weight::Weight;
