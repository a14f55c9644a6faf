//! The list of kinds, and the properties of each. Code that handles objects kind by kind reads the list.

use heddle_crds::{ForeignKind, Scope, StatusEntries};

/// Runs a macro over the policies of the list of kinds. A row has the name, the role, the scope, the resource of the API server, the field of
/// the world, the type of `spec`, and the fields of `status` that the compiler reads.
///
/// The order is that of validation: a policy may read the attachments of earlier rows.
macro_rules! with_policies {
    ($then:ident $($before:tt)*) => {
        $then! {
            $($before)*
            /// Gateway API's `GRPCRoute`.
            GRPCRoute: Role::Policy, Namespaced, Some(KindResource::foreign(&ForeignKind::GRPC_ROUTE))
                => grpc_routes: heddle_crds::GrpcRouteSpec, [];
            /// Gateway API's `HTTPRoute`.
            HTTPRoute: Role::Policy, Namespaced, Some(KindResource::foreign(&ForeignKind::HTTP_ROUTE))
                => http_routes: heddle_crds::HttpRouteSpec, [];
            /// Gateway API's `TLSRoute`.
            TLSRoute: Role::Policy, Namespaced, Some(KindResource::foreign(&ForeignKind::TLS_ROUTE))
                => tls_routes: heddle_crds::TlsRouteSpec, [];
            /// Gateway API's `TCPRoute`.
            TCPRoute: Role::Policy, Namespaced, Some(KindResource::foreign(&ForeignKind::TCP_ROUTE))
                => tcp_routes: heddle_crds::TcpRouteSpec, [];
            /// Our `TrafficSplit`.
            TrafficSplit: Role::Policy, Namespaced, Some(KindResource::ours("trafficsplits"))
                => splits: heddle_crds::TrafficSplitSpec, ["lastGood", "weights"];
            /// SMI's `TrafficSplit`.
            SmiTrafficSplit: Role::Policy, Namespaced, Some(KindResource::foreign(&ForeignKind::SMI_TRAFFIC_SPLIT))
                => smi_splits: heddle_crds::SmiTrafficSplitSpec, [];
            /// Our `TrafficPolicy`.
            TrafficPolicy: Role::Policy, Namespaced, Some(KindResource::ours("trafficpolicies"))
                => traffic_policies: heddle_crds::TrafficPolicySpec, ["lastGood"];
            /// Gateway API's `XBackendTrafficPolicy`.
            XBackendTrafficPolicy: Role::Policy, Namespaced, Some(KindResource::foreign(&ForeignKind::X_BACKEND_TRAFFIC_POLICY))
                => backend_policies: heddle_crds::XBackendTrafficPolicySpec, [];
            /// Our `AuthPolicy`.
            AuthPolicy: Role::Policy, Namespaced, Some(KindResource::ours("authpolicies"))
                => policies: heddle_crds::AuthPolicySpec, ["lastGood"];
            /// Our `Telemetry`.
            Telemetry: Role::Policy, Namespaced, Some(KindResource::ours("telemetries"))
                => telemetries: heddle_crds::TelemetrySpec, ["lastGood"];
            /// Our `ExternalService`.
            ExternalService: Role::Policy, Namespaced, Some(KindResource::ours("externalservices"))
                => external_services: heddle_crds::ExternalServiceSpec, ["lastGood"];
        }
    };
}
pub(crate) use with_policies;

/// Runs a macro over the list of kinds: the kinds that are not policies, then [`with_policies`]. Only declared kinds have a field of the
/// world, a type of `spec`, and fields of `status`.
///
/// The order of the list is the order of findings and statuses.
macro_rules! with_kinds {
    ($then:ident) => {
        $crate::kind::with_policies! { $then
            /// A source text that yielded no object, for example a file that is not YAML.
            Document: Role::Input(InputKind::Document), Cluster, None;
            /// Our `Mesh`.
            Mesh: Role::Settings, Cluster, Some(KindResource::ours("meshes"))
                => meshes: heddle_crds::MeshSpec, ["lastGood"];
            /// A core `Namespace`.
            Namespace: Role::Input(InputKind::Namespace), Cluster, Some(KindResource::new("", "v1", "namespaces"));
            /// A core `Service`.
            Service: Role::Input(InputKind::Service), Namespaced, Some(KindResource::new("", "v1", "services"));
            /// A discovery `EndpointSlice`.
            EndpointSlice: Role::Input(InputKind::EndpointSlice), Namespaced, Some(KindResource::new("discovery.k8s.io", "v1", "endpointslices"));
            /// A core `Pod`.
            Pod: Role::Input(InputKind::Pod), Namespaced, Some(KindResource::new("", "v1", "pods"));
            /// A workload of any kind, read for its pod template.
            Workload: Role::Input(InputKind::Workload), Namespaced, None;
        }
    };
}
pub(crate) use with_kinds;

/// The use of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// The state of the cluster, read through a type of Kubernetes. The control plane writes no status.
    Input(InputKind),
    /// The settings of the mesh: declared, validated by the compiler, with a status. No proxy is asked about them.
    Settings,
    /// A policy: declared, validated by the compiler, with a status that counts the proxies that run it.
    Policy,
}

/// The kinds of the objects that are the state of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum InputKind {
    /// No kind of Kubernetes: a source text.
    Document,
    /// [`ObjectKind::Namespace`].
    Namespace,
    /// [`ObjectKind::Service`].
    Service,
    /// [`ObjectKind::EndpointSlice`].
    EndpointSlice,
    /// [`ObjectKind::Pod`].
    Pod,
    /// [`ObjectKind::Workload`].
    Workload,
}

/// The resource under which the API server serves a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KindResource {
    /// The API group; empty for the core group.
    pub group: &'static str,
    /// The version that is read.
    pub version: &'static str,
    /// The versions that are read where the API server does not serve that one, the newest first.
    pub older: &'static [&'static str],
    /// The plural, as in URLs and RBAC rules.
    pub plural: &'static str,
    /// Whether a mesh works without the definition of the kind. While it is missing, there are no objects of the kind.
    pub optional: bool,
}

impl KindResource {
    const fn new(group: &'static str, version: &'static str, plural: &'static str) -> Self {
        Self {
            group,
            version,
            older: &[],
            plural,
            optional: false,
        }
    }

    const fn ours(plural: &'static str) -> Self {
        Self::new(heddle_crds::GROUP, heddle_crds::VERSION, plural)
    }

    /// The resource of a kind of another project.
    const fn foreign(of: &ForeignKind) -> Self {
        Self {
            older: of.older,
            ..Self::new(of.group, of.version, of.plural).or_none()
        }
    }

    /// The same resource, without which a mesh works.
    #[must_use]
    pub const fn or_none(self) -> Self {
        Self {
            optional: true,
            ..self
        }
    }

    /// The same resource in each of its versions, the newest first.
    pub fn versions(self) -> impl Iterator<Item = Self> {
        let all = std::iter::once(self.version).chain(self.older.iter().copied());
        all.map(move |version| Self { version, ..self })
    }

    /// Whether this project defines the kind. Then its status has room for the last good spec, and belongs to this control plane alone.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.group == heddle_crds::GROUP
    }

    /// The `apiVersion` of the objects.
    #[must_use]
    pub fn api_version(&self) -> String {
        let slash = if self.group.is_empty() { "" } else { "/" };
        format!("{}{slash}{}", self.group, self.version)
    }
}

macro_rules! object_kinds {
    ($(
        $(#[$doc:meta])*
        $kind:ident: $role:expr, $scope:ident, $resource:expr
            $(=> $field:ident: $spec:ty, [$($input:literal),*])?;
    )*) => {
        /// The kinds of objects the compiler reads or speaks of.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum ObjectKind {
            $($(#[$doc])* $kind,)*
        }

        impl ObjectKind {
            /// Every kind.
            pub const ALL: &[Self] = &[$(Self::$kind),*];

            /// The name, which no other kind has.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$kind => stringify!($kind)),* }
            }

            /// The use of the kind.
            #[must_use]
            pub const fn role(self) -> Role {
                match self { $(Self::$kind => $role),* }
            }

            /// Whether objects live in a namespace.
            #[must_use]
            pub const fn scope(self) -> Scope {
                match self { $(Self::$kind => Scope::$scope),* }
            }

            /// The resource of the API server; `None` for a kind that is neither listed nor watched.
            #[must_use]
            pub const fn resource(self) -> Option<KindResource> {
                match self { $(Self::$kind => $resource),* }
            }

            /// The fields of `status` that the compiler reads.
            #[must_use]
            pub const fn status_inputs(self) -> &'static [&'static str] {
                match self { $(Self::$kind => &[$($($input),*)?]),* }
            }
        }
    };
}
with_kinds!(object_kinds);

impl ObjectKind {
    /// The kind of that name.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        let mut all = Self::ALL.iter().copied();
        all.find(|kind| kind.as_str() == name)
    }

    /// The name in `kind:` of the objects.
    #[must_use]
    pub fn api_kind(self) -> &'static str {
        self.foreign()
            .map_or_else(|| self.as_str(), |foreign| foreign.kind)
    }

    /// The list of the status in which each controller has entries of its own; only kinds of other projects have one.
    #[must_use]
    pub fn status_entries(self) -> Option<&'static StatusEntries> {
        self.foreign()?.entries.as_ref()
    }

    fn foreign(self) -> Option<&'static ForeignKind> {
        let mut foreign = ForeignKind::ALL.iter();
        foreign.find(|foreign| foreign.name == self.as_str())
    }

    /// The watched kind of objects with this `apiVersion` and `kind`.
    #[must_use]
    pub fn by_api(api_version: &str, kind: &str) -> Option<Self> {
        let mut watched = Self::watched();
        let found = watched.find(|(own, resource)| {
            let mut versions = resource.versions();
            own.api_kind() == kind && versions.any(|of| of.api_version() == api_version)
        });
        found.map(|(own, _)| own)
    }

    /// The kinds that the control plane watches, with their resources.
    pub fn watched() -> impl Iterator<Item = (Self, KindResource)> {
        let all = Self::ALL.iter();
        all.filter_map(|kind| Some((*kind, kind.resource()?)))
    }

    /// Whether objects of the kind are declared: they have a spec to validate, and a status.
    #[must_use]
    pub const fn is_declared(self) -> bool {
        match self.role() {
            Role::Settings | Role::Policy => true,
            Role::Input(_) => false,
        }
    }

    /// Whether the kind is declared, and defined by another project.
    #[must_use]
    pub fn is_foreign(self) -> bool {
        self.is_declared() && self.resource().is_some_and(|resource| !resource.is_ours())
    }

    /// Whether proxies run objects of the kind, so that they have `Programmed`.
    #[must_use]
    pub const fn is_policy(self) -> bool {
        matches!(self.role(), Role::Policy)
    }

    /// The namespace of an object, as the API server would have it: none for a cluster-scoped kind, else `default` if none is given.
    #[must_use]
    pub fn namespace_of(self, given: Option<&str>) -> &str {
        match self.scope() {
            Scope::Cluster => "",
            Scope::Namespaced => given.filter(|name| !name.is_empty()).unwrap_or("default"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_agrees_with_the_kinds_of_other_projects() {
        let foreign = ObjectKind::ALL.iter().filter(|kind| kind.is_foreign());
        let listed = foreign.map(|kind| (kind.as_str(), kind.resource()));
        let named = ForeignKind::ALL.iter();
        let named = named.map(|of| (of.name, Some(KindResource::foreign(of))));
        assert!(listed.eq(named));
    }
}
