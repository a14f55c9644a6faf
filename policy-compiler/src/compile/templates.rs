//! Inbound configs: pods with equal inputs share one server's side.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use super::applications::Application;
use super::inbound::{InboundInput, inbound, leads};
use super::memo::{ContentInterner, Memo};
use super::report::PolicyFeedback;
use super::server::server;
use super::server_policies::server_policies;
use super::service_targets::service_targets;
use super::telemetry::RuntimeInput;
use super::validated::OfKind;
use crate::kinds::mesh::Settings;
use crate::kinds::policies::auth_policy::Policy;
use crate::kinds::policies::telemetry::TelemetryPolicy;
use crate::kinds::policies::traffic_policy::TargetPolicies;
use crate::resource::Part;
use crate::world::{Labels, NamespacedName, PodTemplate, Port, Service, SpiffeId, selects};

/// The inbound config that pods with equal inputs share, across workloads.
#[derive(Debug)]
pub(crate) struct InboundConfig {
    pub(crate) input: Arc<InboundInput>,
    part: OnceLock<Arc<Part>>,
}

impl InboundConfig {
    pub(crate) fn new(input: &Arc<InboundInput>) -> Self {
        Self {
            input: Arc::clone(input),
            part: OnceLock::new(),
        }
    }

    /// The server's side, but the clusters of the ports.
    pub(crate) fn part(&self, interner: &ContentInterner) -> Arc<Part> {
        let make = || interner.part(&server(&self.input));
        Arc::clone(self.part.get_or_init(make))
    }
}

/// The policies of a namespace for its pods.
pub(crate) struct Policies<'a> {
    pub(crate) auth: Vec<&'a Policy>,
    pub(crate) telemetry: Vec<&'a TelemetryPolicy>,
    /// Those of services, of all namespaces.
    pub(crate) traffic: &'a OfKind<TargetPolicies>,
}

/// The server's side of the pods of a template.
#[derive(Debug)]
pub(crate) struct CompiledTemplate {
    pub(crate) config: Arc<InboundConfig>,
    pub(crate) identity: SpiffeId,
    pub(crate) runtime: RuntimeInput,
    /// The service that leads to each port, for metrics.
    leads: BTreeMap<Port, Arc<str>>,
    /// Feedback to the policies that select the pods.
    pub(crate) feedback: PolicyFeedback,
    /// The services that select the pods.
    pub(crate) services: BTreeSet<NamespacedName>,
}

impl CompiledTemplate {
    /// Compiles a template.
    pub(crate) fn new(
        template: &PodTemplate,
        services: &[&Service],
        policies: &Policies<'_>,
        settings: &Settings,
        inbound_configs: &Memo<Arc<InboundInput>, InboundConfig>,
    ) -> Self {
        let mut feedback = PolicyFeedback::default();
        let targets = service_targets(services, template);
        let traffic = server_policies(&targets, policies.traffic, settings, &mut feedback);
        let authz = &policies.auth;
        let mut input = inbound(template, &targets, authz, &traffic, settings, &mut feedback);
        let runtime = RuntimeInput::new(
            template,
            &policies.telemetry,
            services,
            settings,
            &mut feedback,
        );
        if let Some(origins) = &runtime.traces {
            input.spans = Some(Arc::clone(&settings.span_tags));
            input.origins.extend(origins.iter().cloned());
        }
        Self {
            config: inbound_configs.of(Arc::new(input), InboundConfig::new),
            identity: template.identity(&settings.trust_domain),
            runtime,
            leads: leads(&targets),
            feedback,
            services: services.iter().map(|s| s.name.clone()).collect(),
        }
    }

    /// Whether proxies get the same.
    pub(crate) fn same_config(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.config, &other.config)
            && self.identity == other.identity
            && self.runtime == other.runtime
            && self.leads == other.leads
    }

    /// Whether its other contents are equal, too.
    pub(crate) fn same(&self, other: &Self) -> bool {
        self.same_config(other)
            && self.feedback == other.feedback
            && self.services == other.services
    }

    /// Returns the inputs of the clusters of the ports.
    pub(crate) fn applications(&self) -> impl Iterator<Item = Application> {
        let input = &self.config.input;
        input
            .ports
            .keys()
            .map(|port| Application::new(input, *port, self.leads.get(port)))
    }
}

/// The templates of a workload's proxies: more than one while it is rolled out.
pub(crate) type CompiledTemplates = BTreeMap<Arc<PodTemplate>, Arc<CompiledTemplate>>;

/// From this many pod templates on, an index of the selectors costs less than a look at each service.
const INDEXED: usize = 4;

/// The services of a namespace, to find those that select a pod.
pub(crate) enum BySelector<'a> {
    /// All with a selector, by name.
    List(Vec<&'a Service>),
    /// By one pair of their selector.
    Index(BTreeMap<(&'a str, &'a str), Vec<&'a Service>>),
}

impl<'a> BySelector<'a> {
    /// Prepares for look-ups of so many pod templates.
    pub(crate) fn new(services: impl Iterator<Item = &'a Arc<Service>>, templates: usize) -> Self {
        let services = services.map(|service| &**service);
        match templates {
            0 => Self::List(Vec::new()),
            1..INDEXED => Self::List(services.filter(|s| !s.selector.is_empty()).collect()),
            _ => Self::Index(index(services)),
        }
    }

    /// The services that select pods with these labels, by name.
    pub(crate) fn selecting(&self, labels: &Labels) -> Vec<&'a Service> {
        let selecting = |service: &&Service| selects(&service.selector, labels);
        match self {
            Self::List(services) => services.iter().copied().filter(selecting).collect(),
            Self::Index(index) => {
                let pairs = labels.iter().map(|(key, value)| (&**key, &**value));
                let candidates = pairs.filter_map(|pair| index.get(&pair)).flatten();
                let mut found: Vec<&Service> = candidates.copied().filter(selecting).collect();
                found.sort_by(|a, b| a.name.cmp(&b.name));
                found
            }
        }
    }
}

fn index<'a>(
    services: impl Iterator<Item = &'a Service>,
) -> BTreeMap<(&'a str, &'a str), Vec<&'a Service>> {
    let mut index: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for service in services {
        // The last pair in the order of keys: prefixed keys of tools, which many services share, sort to the front.
        if let Some((key, value)) = service.selector.last_key_value() {
            let pair: (&str, &str) = (key, value);
            index.entry(pair).or_default().push(service);
        }
    }
    index
}
