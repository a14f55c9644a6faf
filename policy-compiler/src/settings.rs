//! The settings of the mesh in force.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use heddle_crds::{MeshMode, OnDemand};

use crate::called_server::CalledServer;
use crate::finding::ObjectRef;
use crate::telemetry::{AccessLogs, LineFormat, SpanTag};
use crate::traffic::Questions;
use crate::world::{Bucket, DeclaredDestination, NamespacedName, SpiffeId};

/// The settings of the one mesh that counts, or the defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) trust_domain: Arc<str>,
    /// The suffix of the cluster's own names.
    pub(crate) cluster_domain: Arc<str>,
    pub(crate) mode: MeshMode,
    pub(crate) default_allow: bool,
    /// Whether connections to unknown destinations are passed through.
    pub(crate) pass_unknown: bool,
    /// The same for the workloads of single namespaces.
    pub(crate) pass_unknown_of: BTreeMap<Arc<str>, bool>,
    /// The namespaces with sidecars that enforce nothing.
    pub(crate) bypassed: BTreeSet<Arc<str>>,
    pub(crate) on_demand: OnDemand,
    /// The time for which an unused destination stays.
    pub(crate) idle_after: Duration,
    pub(crate) metrics_readers: Vec<SpiffeId>,
    /// The services with endpoints that may be called without a sidecar, if only mTLS and known destinations are allowed. `None`: all.
    pub(crate) plain: Option<Vec<DeclaredDestination>>,
    /// The longest life of an inbound HTTP connection: half of a certificate's lifetime, so that a connection outlasts its certificate
    /// by no more than that.
    pub(crate) max_connection_age: Duration,
    /// The access logs of a pod for which no Telemetry sets others.
    pub(crate) access_logs: Option<AccessLogs>,
    /// The form of the lines of access logs.
    pub(crate) line_format: LineFormat,
    /// The server that takes traces. None: no sidecar traces.
    pub(crate) collector: Option<CalledServer>,
    /// The share of requests that begin a trace in pods for which no Telemetry sets another, in parts of 10,000. None: those pods
    /// do not trace.
    pub(crate) traced: Option<u16>,
    /// The attributes of every span beside Envoy's own.
    pub(crate) span_tags: Arc<[SpanTag]>,
    /// The labels that golden metrics are scraped without, as bits ([`heddle_xds_types::golden::LEFT_OUT`]).
    pub(crate) labels_left_out: u32,
    /// The rate limit service. None: no limit is shared.
    pub(crate) limiter: Option<CalledServer>,
    /// How sidecars ask it.
    pub(crate) questions: Questions,
    /// The object, if there is one.
    pub(crate) origin: Option<ObjectRef>,
}

impl Settings {
    /// The bucket of time in on-demand names.
    pub(crate) const fn bucket(&self) -> Bucket {
        Bucket::of(self.idle_after)
    }

    /// Whether the sidecars of a namespace enforce nothing.
    pub(crate) fn bypasses(&self, namespace: &str) -> bool {
        self.bypassed.contains(namespace)
    }

    /// Whether policies only report, and neither the limits of servers nor `outbound` refuse anything.
    pub(crate) fn observes(&self) -> bool {
        self.mode == MeshMode::Observe
    }

    /// Whether connections of a namespace's workloads to unknown destinations are passed through.
    pub(crate) fn passes_unknown(&self, namespace: &str) -> bool {
        let own = self.pass_unknown_of.get(namespace);
        self.observes() || self.bypasses(namespace) || own.copied().unwrap_or(self.pass_unknown)
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
