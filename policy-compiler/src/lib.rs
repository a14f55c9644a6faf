//! The policy compiler: a world in, Envoy resources, statuses and findings out.
//!
//! # Guarantees
//!
//! - An update ([`Compiled::update`]) equals a cold compile in every observable way, and its cost depends on the differences.
//! - Pure and total: no I/O, no clock, no randomness; [`compile()`] cannot fail. A bad object is a [`Finding`] and an [`ObjectStatus`],
//!   and everything else still compiles.
//! - The same [`World`] yields the same bytes, in any order of the objects.
//! - A resource names the resources that must be acknowledged before it ([`Resource::requires`]) and the objects that it comes from
//!   ([`Resource::origins`]).
//!
//! # Deliberately absent
//!
//! A Kubernetes client, an async runtime, the network, files, environment variables.

mod admission;
pub mod authz;
mod called_server;
pub mod compile;
mod dependency;
mod envoy;
mod finding;
pub mod ingest;
pub mod injection;
mod kind;
mod kinds;
mod matching;
pub mod print;
mod probes;
mod resource;
mod settings;
mod status;
mod telemetry;
pub mod traffic;
mod validation;
pub mod world;

pub use compile::{
    Call, CallRetries, CalledDestination, Changes, Compiled, DecidingRule, DescribedRule,
    Destination, DestinationKind, ExplainedBackend, Explanation, Exposure, Family,
    InvalidDestination, MtlsSource, NamedBy, Outcome, OutsideHost, PortRules, Proxy, ReadyEndpoint,
    Recompiled, Replaced, Scope, ServedPort, ServerDecision, Servers, Stopped, Unexplained,
    admits_all, compile, external_routes_port, listener_address, mesh_in_force, on_demand_address,
};
pub use dependency::Dependency;
pub use envoy::trial::trial_bootstrap;
pub use finding::{Finding, ObjectRef, Severity};
pub use ingest::{DeclaredObject, KubeObject, WorkloadTemplate, WorldBuilder};
pub use kind::{InputKind, KindResource, ObjectKind, Role};
pub use kinds::policies::traffic_policy::{MetPolicy, PolicyTarget};
pub use resource::{Part, Resource, ResourceKey, ResourceKind, RuleOrigins, View};
pub use status::{ObjectStatus, ParentRef, ParentStatus};
pub use world::{Bucket, NamespacedName, ObjectRejection, PodRef, Remembered, WorkloadRef, World};
