//! From a world to the resources of every proxy.
//!
//! A unit (`units`) is a memoized function of the inputs that it reads: the splits and the policies of a namespace (`kinds`), the server
//! side of a pod template (`templates`), the callers that a service admits (`caller_filters`), the client side of a service (`clusters`). A
//! recorder (`validation`) gives a unit its inputs and records the reads. An update (`update`) runs the readers of the inputs that differ; a
//! cold compile is an update of nothing. Bytes are made when a view first needs them, and once.

mod applications;
mod bounds;
mod bytes;
mod caller_filters;
mod callers_reach;
mod changes;
mod cluster_inputs;
mod clusters;
mod consumers;
mod differences;
mod egress;
mod explain;
mod exposure;
mod groups;
mod inbound;
mod limiter;
mod listeners;
mod lists;
mod memo;
mod mtls;
mod named_by_address;
mod on_demand;
mod permitted;
mod pods;
mod reach;
mod recipes;
mod reporting;
mod reports;
mod resolved;
mod routes;
mod rule_upstreams;
mod scope;
mod server;
mod server_names;
mod server_policies;
mod server_policy_reach;
mod service_findings;
mod service_targets;
mod telemetry;
mod templates;
mod transport_reach;
mod units;
mod update;
mod upstreams;
mod validated;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use heddle_crds::{MeshSpec, OnDemand};
use imbl::{OrdMap, OrdSet};

use applications::Application;
use caller_filters::CallerFilters;
use clusters::{OutboundPort, OutboundService};
use egress::{Egress, EgressPort};
use facet::{Facet, for_caller};
use inbound::InboundInput;
use listeners::ListenerInput;
use memo::{ContentInterner, Memo};
use named_by_address::NamedByAddress;
use on_demand::OnDemandInput;
use pods::{PodClusterInput, PodEndpointsInput};
pub(crate) use recipes::route_configuration;
use reports::Source;
use telemetry::{CalledHost, RuntimeInput};
use templates::{CompiledTemplate, CompiledTemplates, InboundConfig};
use units::Readers;
use upstreams::ServiceClusters;
use validated::Validated;

pub use changes::{Changes, Recompiled, Replaced};
pub use egress::external_routes_port;
pub use explain::{
    Call, CallRetries, CalledDestination, DecidingRule, DescribedRule, ExplainedBackend,
    Explanation, MtlsSource, NamedBy, Outcome, OutsideHost, PortRules, ReadyEndpoint, ServedPort,
    ServerDecision, Servers, Stopped, Unexplained, admits_all,
};
pub use exposure::Exposure;
pub use on_demand::{listener_address, on_demand_address};
use report::PolicyFeedback;
pub use scope::{Destination, DestinationKind, Family, InvalidDestination, Scope};

use crate::authz::PortAuthz;
use crate::finding::{Finding, ObjectRef};
use crate::kind::ObjectKind;
use crate::kinds::mesh::Settings;
use crate::resource::Part;
use crate::status::ObjectStatus;
use crate::traffic::{Backend, ExternalHost, Otherwise, RouteEntry, RouteTable};
use crate::validation::{Addresses, ValidationReport, addresses, endpoints, facet, report};
use crate::world::{
    Capture, Labels, NamespacedName, PodRef, PodTemplate, Port, SpiffeId, WorkloadRef, World,
};

/// One meshed pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    /// Namespace and name of the pod: the node id is `namespace/name`.
    pub pod: PodRef,
    /// The identity its certificate must show.
    pub identity: SpiffeId,
    /// Whether the pod is Ready by its status in the API, so that it counts for `Programmed`.
    pub ready: bool,
    /// Whether the pod is being deleted. Its proxy is served until its containers have ended.
    pub terminating: bool,
    /// The node of the pod.
    node: Option<Arc<str>>,
    template: Arc<PodTemplate>,
}

impl Proxy {
    /// The workload that people deployed: pods of one workload learn their destinations together.
    #[must_use]
    pub fn workload(&self) -> WorkloadRef {
        self.template.workload()
    }

    /// Whether it is told destinations on demand, for capture brings everything to it.
    #[must_use]
    pub fn on_demand(&self) -> bool {
        self.template.capture == Capture::Redirect
    }
}

/// The result of a compile. The maps are persistent: an old result that is kept costs only the differences.
#[derive(Clone, Debug, Default)]
pub struct Compiled {
    /// Every living meshed pod.
    pub proxies: OrdMap<PodRef, Proxy>,
    /// The desired status of each of our objects.
    pub statuses: OrdMap<ObjectRef, Arc<ObjectStatus>>,
    /// Messages for users, sorted. Findings of ingest are not repeated here.
    pub findings: Arc<[Finding]>,
    changes: Arc<Changes>,
    world: World,
    settings: Arc<Settings>,
    mesh_spec: Arc<MeshSpec>,
    mesh: Arc<ValidationReport>,
    validated: Arc<Validated>,
    /// The proxies by workload and template.
    pods: OrdMap<WorkloadRef, Arc<PodsByTemplate>>,
    /// The living pods without a proxy, by workload and template.
    without_sidecar: OrdMap<WorkloadRef, Arc<PodsByTemplate>>,
    /// Feedback about policies without effect, by namespace.
    reached: OrdMap<Arc<str>, Arc<PolicyFeedback>>,
    served: OrdMap<WorkloadRef, Arc<CompiledTemplates>>,
    caller_filters: OrdMap<NamespacedName, Arc<CallerFilters>>,
    wholes: OrdMap<NamespacedName, Arc<ServiceClusters>>,
    clients: OrdMap<NamespacedName, Arc<OutboundService>>,
    /// The hosts outside the mesh, for the workloads of each namespace that objects name; for all others (`None`).
    egress: OrdMap<Option<Arc<str>>, Arc<Egress>>,
    addresses: Addresses,
    /// The addresses of the services that have a port.
    service_addresses: OrdMap<Port, OrdSet<(IpAddr, NamespacedName)>>,
    named_by_address: NamedByAddress,
    reported: OrdMap<Source, Arc<[Finding]>>,
    readers: Readers,
    /// The listeners that every captured pod has.
    captured: Arc<OnceLock<Arc<Part>>>,
    shared: Arc<Shared>,
}

/// Memo tables of the values that proxies share.
#[derive(Debug, Default)]
struct Shared {
    inbound_configs: Memo<Arc<InboundInput>, InboundConfig>,
    interner: ContentInterner,
    applications: Memo<Application>,
    listeners: Memo<ListenerInput>,
    pod_clusters: Memo<PodClusterInput>,
    pod_endpoints: Memo<PodEndpointsInput>,
    on_demand: Memo<OnDemandInput>,
    runtimes: Memo<RuntimeInput>,
    collectors: Memo<CalledHost>,
    limiters: Memo<CalledHost>,
    external_ports: Memo<Arc<EgressPort>>,
    external_clusters: Memo<ExternalHost>,
}

/// The names of a workload's proxies by template.
type PodsByTemplate = BTreeMap<Arc<PodTemplate>, OrdSet<Arc<str>>>;

impl Compiled {
    /// Compiles a world, given this compile of an earlier one. The result equals a cold compile in every observable way. The cost is
    /// proportional to the differences; every untouched value stays the same `Arc`.
    #[must_use]
    pub fn update(&self, world: &World) -> Self {
        update::update(self, world)
    }

    /// Returns the differences from the compile that this one was updated from.
    #[must_use]
    pub fn changes(&self) -> &Changes {
        &self.changes
    }

    /// Returns the objects that decide a meshed pod's own side. They reach its proxy independently of its scope.
    pub fn origins(&self, pod: &PodRef) -> impl Iterator<Item = &ObjectRef> {
        let served = self
            .proxies
            .get(pod)
            .and_then(|proxy| self.compiled_template(&proxy.template));
        let origins = served.map(|served| {
            served
                .config
                .input
                .origins
                .iter()
                .chain(&served.runtime.origins)
        });
        origins.into_iter().flatten()
    }

    /// Returns the authorization of a port of a meshed pod: for `heddle why`, by [`evaluate`](crate::authz::evaluate).
    #[must_use]
    pub fn authz(&self, pod: &PodRef, port: Port) -> Option<&PortAuthz> {
        let input = &self
            .compiled_template(&self.proxies.get(pod)?.template)?
            .config
            .input;
        Some(if port == Port::METRICS {
            &input.metrics
        } else {
            input.authz(port)
        })
    }

    /// The meshed pod that alone has an address.
    #[must_use]
    pub fn proxy_at(&self, ip: IpAddr) -> Option<&Proxy> {
        self.proxies.get(self.addresses.pod(ip)?)
    }

    /// The services with a client's side: those with a cluster IP.
    pub fn services(&self) -> impl Iterator<Item = &NamespacedName> {
        self.clients.keys()
    }

    /// The route tables of a service, as callers on a node without local endpoints have them: by [`evaluate`](crate::traffic::evaluate), the
    /// rule and the backends of a request. Those of callers of a namespace with routes of its own come after those of all others, with the
    /// namespace. Those of callers of bypassed namespaces have no rules.
    pub fn route_tables(
        &self,
        service: &NamespacedName,
    ) -> impl Iterator<Item = (Option<&Arc<str>>, &RouteTable)> {
        let sides = self
            .clients
            .get(service)
            .into_iter()
            .flat_map(|sides| &**sides);
        let anywhere = sides.filter(|((_, facet), _)| facet.node.is_none() && !facet.bypassed);
        anywhere.filter_map(|((_, facet), side)| Some((facet.namespace.as_ref(), side.table()?)))
    }

    /// Returns the `Mesh` as far as it is in force: its readable fields, the last good spec, or the closed values.
    #[must_use]
    pub const fn mesh(&self) -> &Arc<MeshSpec> {
        &self.mesh_spec
    }

    /// The generation of the Mesh that is in force. `None`: there is none, so that the defaults hold.
    #[must_use]
    pub fn mesh_generation(&self) -> Option<i64> {
        let object = self.settings.origin.as_ref()?;
        let good = self.statuses.get(object)?.in_force.as_ref()?;
        Some(good.generation)
    }

    /// Whether destinations are told on demand, by the settings in force.
    #[must_use]
    pub fn tells_on_demand(&self) -> bool {
        self.settings.on_demand == OnDemand::Enabled
    }

    /// How long a destination that was told on demand stays after its last use: `spec.scope.idleAfter` as far as it is in force.
    #[must_use]
    pub fn idle_after(&self) -> Duration {
        self.settings.idle_after
    }

    /// The on-demand name under which a proxy asks for an address in a [`Bucket`] of time.
    #[must_use]
    pub fn on_demand_name(at: SocketAddr, bucket: &str) -> Arc<str> {
        format!("dst|{at}|{bucket}").into()
    }

    /// Whether this is the compile of a world: only the empty start of an update has a trust domain without a name.
    fn is_compiled(&self) -> bool {
        !self.settings.trust_domain.is_empty()
    }

    fn compiled_template(&self, template: &PodTemplate) -> Option<&Arc<CompiledTemplate>> {
        self.served.get(&template.workload())?.get(template)
    }

    /// A proxy as a caller of a service, by the second family of the service or by the first one (None).
    fn facet(&self, proxy: &Proxy, family: Option<Family>) -> Facet {
        let namespace = Arc::clone(&proxy.template.namespace);
        Facet {
            family,
            node: proxy.node.clone(),
            bypassed: self.settings.bypasses(&namespace),
            namespace: Some(namespace),
        }
    }

    /// Whether the sidecars of a namespace enforce nothing: `spec.bypassedNamespaces` as far as it is in force.
    #[must_use]
    pub fn bypasses(&self, namespace: &str) -> bool {
        self.settings.bypasses(namespace)
    }

    fn client_side(
        &self,
        service: &NamespacedName,
        port: Port,
        caller: &Facet,
    ) -> Option<&Arc<OutboundPort>> {
        for_caller(self.clients.get(service)?, port, caller)
    }

    /// The hosts outside the mesh that the workloads of a namespace call by name.
    fn egress(&self, namespace: &Arc<str>) -> Option<&Arc<Egress>> {
        let own = self.egress.get(&Some(Arc::clone(namespace)));
        own.or_else(|| self.egress.get(&None))
    }

    /// Whether a name is that of an on-demand cluster of a host outside the mesh that a proxy may call.
    #[must_use]
    pub fn is_external_cluster(&self, proxy: &Proxy, name: &str) -> bool {
        let egress = self.egress(&proxy.template.namespace);
        proxy.on_demand() && egress.is_some_and(|egress| egress.has_cluster(name))
    }

    /// The on-demand names of every host outside the mesh. Looks at all of them: for tests and tools.
    pub fn external_clusters(&self) -> impl Iterator<Item = &Arc<str>> {
        self.egress.values().flat_map(|egress| egress.clusters())
    }

    /// The hosts outside that an object declares, or for which it is the policy, each with its port. Looks at all of them.
    #[must_use]
    pub fn external_hosts_of(&self, object: &ObjectRef) -> BTreeSet<String> {
        let hosts = self.egress.values().flat_map(|egress| egress.all());
        let own = hosts.filter(|host| host.origins().contains(object));
        own.map(|host| format!("{}:{}", host.host, host.port))
            .collect()
    }

    fn capture(&self) -> Arc<Part> {
        let make = || {
            let origins = self.settings.origin.iter().cloned().collect();
            Arc::new(listeners::capture_listeners(
                self.settings.bucket(),
                &origins,
            ))
        };
        Arc::clone(self.captured.get_or_init(make))
    }

    /// Returns whether every pod behind a port of a service denies all requests of a caller. With rules, the pods of every backend of
    /// every rule count; a rule that answers by itself denies no caller.
    fn refuses(&self, proxy: &Proxy, service: &NamespacedName, port: Port) -> bool {
        let caller = &proxy.identity;
        let own = &proxy.template.namespace;
        if self.settings.bypasses(own) {
            return self.backend_refuses(caller, service, port, None);
        }
        let callers = self.validated.consumer(service, port, own);
        let rules: Vec<&RouteEntry> = self.validated.rules(service, port, callers).collect();
        let all = rules.iter().any(|entry| entry.matcher.is_any());
        let otherwise = self.validated.otherwise(service, port, callers);
        let not_found = !all && otherwise == Otherwise::NotFound;
        if not_found || rules.iter().any(|entry| entry.rule.answers()) {
            return false;
        }
        let mut backends = rules.iter().flat_map(|entry| entry.rule.backends());
        let refused = backends.all(|backend| match backend {
            Backend::Service(name, port) => self.backend_refuses(caller, name, *port, None),
            Backend::Subset(name, port, labels) => {
                self.backend_refuses(caller, name, *port, Some(labels))
            }
            Backend::Invalid(_) => true,
        });
        refused && (all || self.backend_refuses(caller, service, port, None))
    }

    fn backend_refuses(
        &self,
        caller: &SpiffeId,
        service: &NamespacedName,
        port: Port,
        subset: Option<&Labels>,
    ) -> bool {
        let filter = self
            .caller_filters
            .get(service)
            .and_then(|caller_filters| match subset {
                None => caller_filters.ports.get(&port),
                Some(labels) => caller_filters.subsets.get(&(port, labels.clone())),
            });
        // A pod without a sidecar denies no caller.
        let meshed = |wholes: &Arc<ServiceClusters>| {
            let mut of_port = wholes.iter().filter(|((number, _), _)| *number == port);
            of_port.all(|(_, whole)| !whole.unmeshed)
        };
        filter.is_some_and(|filter| filter.refuses(caller))
            && self.wholes.get(service).is_some_and(meshed)
    }
}

pub(crate) fn service_ref(name: &NamespacedName) -> ObjectRef {
    ObjectRef {
        kind: ObjectKind::Service,
        namespace: Arc::clone(&name.namespace),
        name: Arc::clone(&name.name),
    }
}

/// The spec in force of the `Mesh` of a world, as [`Compiled::mesh`].
#[must_use]
pub fn mesh_in_force(world: &World) -> MeshSpec {
    crate::kinds::mesh::settings(world).1
}

/// Compiles a world.
#[must_use]
pub fn compile(world: &World) -> Compiled {
    Compiled::default().update(world)
}
