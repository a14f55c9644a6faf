//! `TrafficPolicy`: the resilience of calls to a service.

mod hosts;

use std::collections::BTreeMap;
use std::time::Duration;

use heddle_crds::{ConditionType, TrafficPolicySpec, TrafficTarget, reason};

use crate::finding::{Finding, ObjectRef};
use crate::kinds::called_service::called_service;
use crate::kinds::policies::x_backend_traffic_policy::BackendPolicy;
use crate::kinds::policy::{Attachments, Candidate, ObjectReport, PolicyKind};
use crate::kinds::service_rules::Rules;
use crate::kinds::traffic_policy::{self as groups, PolicyGroups};
use crate::kinds::{DECLARE_HTTP, ValidationError};
use crate::traffic::{
    Balance, Ejection, ExternalHost, ExternalProtocol, HeaderPolicy, HostPolicy, Overload,
    RateLimit, RetryBudget, RoutePolicy, UpstreamPolicy,
};
use crate::validation::ValidationReport;
use crate::validation::inputs::Target;
use crate::world::{NamespacedName, Port, Protocol, Service};

/// The policies of a service: for all its ports, and for single ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ServicePolicies(BTreeMap<Option<Port>, DeclaredPolicy>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct DeclaredPolicy {
    object: ObjectRef,
    groups: PolicyGroups,
}

/// The fields of an object that the pods behind all ports keep, or behind one.
type KeptFields<'a> = (
    Option<Port>,
    &'a ObjectRef,
    Option<&'a [RateLimit]>,
    Option<&'a Overload>,
);

/// The policy of one port: that which names it, and for the other groups of fields that which names the service alone.
#[derive(Clone, Debug, Default)]
pub(crate) struct PortPolicy<'a> {
    groups: PolicyGroups,
    objects: Vec<&'a ObjectRef>,
    /// The budget of the service that the calls end at, of an `XBackendTrafficPolicy`.
    backend: Option<(&'a ObjectRef, RetryBudget)>,
}

impl ServicePolicies {
    /// The policy of a port, as far as it has an effect on callers by its protocol.
    pub(crate) fn of(&self, port: Port, protocol: Protocol) -> PortPolicy<'_> {
        let mut policy = PortPolicy::default();
        let mut all = PolicyGroups::default();
        for key in [Some(port), None] {
            let Some(of) = self.0.get(&key) else { continue };
            all = all.or(&of.groups);
            let groups = all.clone().for_callers(protocol);
            if groups != policy.groups {
                policy.groups = groups;
                policy.objects.push(&of.object);
            }
        }
        policy
    }

    /// The policy of a host outside. None: no policy has an effect on it.
    pub(crate) fn of_host(&self, host: &ExternalHost) -> Option<HostPolicy> {
        let protocol = match host.protocol {
            ExternalProtocol::Http => Protocol::Http,
            ExternalProtocol::Tls => Protocol::Tcp,
        };
        let policy = self.of(host.port, protocol);
        let mut own = HostPolicy {
            headers: policy.headers(&HeaderPolicy::default()),
            idle_timeout: policy.idle_timeout(true),
            objects: policy.objects().cloned().collect(),
            ..Default::default()
        };
        own.upstream.ejection = Ejection::NEVER;
        policy.set_in(&mut own.requests);
        policy.set_in_upstream(&mut own.upstream);
        own.requests.timeouts = own.requests.timeouts.without_zeros();
        if own.upstream.ejection.happens() {
            // A host is the one endpoint of its cluster.
            own.upstream.ejection.max_percent = 100;
        }
        (!own.objects.is_empty()).then_some(own)
    }

    /// The objects of a port: the one that names it, then the one of all ports.
    pub(crate) fn of_port(&self, port: Port) -> impl Iterator<Item = &ObjectRef> {
        let keys = [Some(port), None];
        keys.into_iter()
            .filter_map(|key| Some(&self.0.get(&key)?.object))
    }

    /// The objects that name a budget of retries, with the one port that they name.
    pub(crate) fn named_budgets(&self) -> impl Iterator<Item = (Option<Port>, &ObjectRef)> {
        let named = self
            .0
            .iter()
            .filter(|(_, of)| of.groups.named_budget().is_some());
        named.map(|(port, of)| (*port, &of.object))
    }

    /// The rate limits of the pods behind a port, and the object that sets them.
    pub(crate) fn rate_limits(&self, port: Port) -> Option<(&ObjectRef, &[RateLimit])> {
        self.winner(port, PolicyGroups::rate_limits)
    }

    /// The protection of the pods behind a port from overload, and the object that sets it.
    pub(crate) fn overload(&self, port: Port) -> Option<(&ObjectRef, &Overload)> {
        self.winner(port, PolicyGroups::overload)
    }

    /// A group of fields of a port: that of the policy which names it, else that of the policy of all ports.
    fn winner<'a, T>(
        &'a self,
        port: Port,
        group: impl Fn(&'a PolicyGroups) -> Option<T>,
    ) -> Option<(&'a ObjectRef, T)> {
        let of = |key| {
            let policy = self.0.get(&key)?;
            Some((&policy.object, group(&policy.groups)?))
        };
        of(Some(port)).or_else(|| of(None))
    }

    /// The objects with fields that the pods behind all ports keep, or behind one, and the first of these fields.
    pub(crate) fn at_servers(
        &self,
    ) -> impl Iterator<Item = (Option<Port>, &ObjectRef, &'static str)> {
        let all = self.0.iter();
        all.filter_map(|(port, of)| Some((*port, &of.object, of.groups.at_servers()?)))
    }

    /// Whether the fields that the pods keep differ, or the objects that set them.
    fn server_side_differs(&self, other: &Self) -> bool {
        !self.kept().eq(other.kept())
    }

    fn kept(&self) -> impl Iterator<Item = KeptFields<'_>> {
        self.at_servers().map(|(port, object, _)| {
            let groups = self.0.get(&port).map(|of| &of.groups);
            let limits = groups.and_then(PolicyGroups::rate_limits);
            let overload = groups.and_then(PolicyGroups::overload);
            (port, object, limits, overload)
        })
    }

    /// Returns the policy of all ports, and a sentence on the ports where others win. None: it wins everywhere.
    fn overridden(&self) -> Option<(&ObjectRef, String)> {
        let all = self.0.get(&None)?;
        let mut losses = Vec::new();
        for (port, own) in &self.0 {
            let Some(port) = port else { continue };
            let mut names = own.groups.names();
            names.retain(|name| all.groups.names().contains(name));
            if !names.is_empty() {
                let names = names.join(", ");
                losses.push(format!("{} wins {names} of port {port}", own.object));
            }
        }
        let message = format!("{}, for it names the port", losses.join("; "));
        (!losses.is_empty()).then_some((&all.object, message))
    }
}

impl<'a> PortPolicy<'a> {
    /// The objects that set it.
    pub(crate) fn objects(&self) -> impl Iterator<Item = &ObjectRef> {
        self.objects.iter().copied()
    }

    /// The same for an upstream of a service with this policy as a backend.
    pub(crate) fn at_backend(mut self, policy: Option<&'a BackendPolicy>) -> Self {
        self.backend = policy.and_then(|of| Some((&of.object, of.budget?)));
        self
    }

    /// The objects that set the bounds of the upstream.
    pub(crate) fn upstream_objects(&self) -> impl Iterator<Item = &ObjectRef> {
        let backend = self
            .backend
            .filter(|_| self.groups.named_budget().is_none());
        self.objects().chain(backend.map(|(object, _)| object))
    }

    /// The budget of retries: that which a `TrafficPolicy` names, then that of the backend, then the default one where anything is sent
    /// again that an application may have received. `resent`: the rule has requests sent again by retries of its own, so that a `TrafficPolicy`
    /// sets none of them.
    pub(crate) fn retry_budget(&self, resent: bool) -> Option<RetryBudget> {
        let named = self.groups.named_budget().filter(|_| !resent);
        let backend = self.backend.map(|(_, budget)| budget);
        let resends = resent || self.groups.resends();
        named
            .or(backend)
            .or_else(|| resends.then(groups::default_budget))
    }

    /// Sets its groups in a rule.
    pub(crate) fn set_in(&self, rule: &mut RoutePolicy) {
        self.groups.set_in(rule);
    }

    /// Returns its changes of headers, followed by those of a rule.
    pub(crate) fn headers(&self, rule: &HeaderPolicy) -> HeaderPolicy {
        self.groups
            .headers()
            .map_or_else(|| rule.clone(), |own| own.before(rule))
    }

    /// The same as [`Self::set_in`] for an upstream.
    pub(crate) fn set_in_upstream(&self, upstream: &mut UpstreamPolicy) {
        self.groups.set_in_upstream(upstream);
        if let Some(budget) = self.retry_budget(false) {
            upstream.retry_budget = Some(budget);
        }
    }

    /// How long a connection is kept without a request, by whether an endpoint has no sidecar. None: as without a policy.
    pub(crate) fn idle_timeout(&self, unmeshed: bool) -> Option<Duration> {
        self.groups.idle_timeout(unmeshed)
    }

    /// How an endpoint is chosen. None: as without a policy.
    pub(crate) fn balance(&self) -> Option<&Balance> {
        self.groups.balance()
    }

    /// Whether it concerns upstreams.
    pub(crate) fn governs_upstreams(&self) -> bool {
        self.backend.is_some() || self.groups.governs_upstreams()
    }
}

impl PolicyKind for TrafficPolicySpec {
    type Attachment = ServicePolicies;

    const RULES: Option<Rules<Self::Attachment>> = None;

    const IN_CLUSTERS: bool = true;

    const NO_CONFLICT: Option<&'static str> = Some("no other traffic policy has the same target");

    fn check(policy: &Candidate<'_, Self>, spec: &Self) -> Vec<ValidationError> {
        let mut problems = groups::check(spec);
        match target(policy, spec) {
            Some(Target::External(name)) => problems.extend(hosts::check(policy, spec, &name)),
            Some(Target::Service(service)) => {
                problems.extend(check_service(policy, spec, &service));
                let server = policy.settings.limiter.as_ref();
                problems.extend(groups::check_server(spec, &service, server));
            }
            Some(Target::Pods(_) | Target::Callers(_)) | None => {
                let message = "it names neither a service nor an ExternalService, or both";
                let fix = "name one of service and externalService";
                problems.push(ValidationError::invalid("spec.target", message, fix));
            }
        }
        problems
    }

    fn attach(
        policy: &Candidate<'_, Self>,
        spec: &Self,
        attachments: &mut Attachments<Self>,
        report: &mut ObjectReport<'_>,
    ) {
        let object = &policy.declared.object;
        let Some(target) = target(policy, spec) else {
            return;
        };
        let port = spec.target.port.map(Port::from);
        let attached = attachments.entry(target.clone()).or_default();
        if let Some(winner) = attached.0.get(&port) {
            let (field, subject) = subject(&target, port);
            report.conflict(object, &winner.object, field, &subject);
            return;
        }
        let groups = PolicyGroups::of(object, spec);
        if let Target::External(name) = &target {
            let findings = hosts::without_effect(policy, &groups, name, port);
            report.findings.extend(findings);
        }
        if let Target::Service(service) = &target
            && let Some(service) = policy.lookup.service(service)
        {
            let finding = without_http(object, &groups, service, port);
            report.findings.extend(finding);
            report
                .findings
                .extend(without_pods(object, &groups, service));
        }
        let object = object.clone();
        attached.0.insert(port, DeclaredPolicy { object, groups });
    }

    fn differs_for_servers(old: Option<&ServicePolicies>, new: Option<&ServicePolicies>) -> bool {
        let none = ServicePolicies::default();
        let (old, new) = (old.unwrap_or(&none), new.unwrap_or(&none));
        old.server_side_differs(new)
    }

    fn compare(attachments: &Attachments<Self>, outcome: &mut ValidationReport) {
        for (object, message) in attachments.values().filter_map(ServicePolicies::overridden) {
            if let Some(status) = outcome.statuses.get_mut(object) {
                status.set(
                    ConditionType::Conflicted,
                    false,
                    reason::OVERRIDDEN,
                    message,
                );
            }
        }
    }
}

/// The target of a policy. None: the spec names none or two, which the schema refuses.
fn target(policy: &Candidate<'_, TrafficPolicySpec>, spec: &TrafficPolicySpec) -> Option<Target> {
    let TrafficTarget {
        service,
        external_service,
        ..
    } = &spec.target;
    match (service, external_service) {
        (Some(name), None) => Some(Target::Service(policy.service(name))),
        (None, Some(name)) => Some(Target::External(policy.service(name))),
        (Some(_), Some(_)) | (None, None) => None,
    }
}

/// The field that names a target, and the target in words.
fn subject(target: &Target, port: Option<Port>) -> (&'static str, String) {
    let (field, subject) = match target {
        Target::External(name) => {
            let field = "spec.target.externalService";
            (field, format!("ExternalService {name}"))
        }
        Target::Service(name) => ("spec.target.service", format!("service {name}")),
        Target::Pods(namespace) => ("spec.target", format!("pods of {namespace}")),
        Target::Callers(_) => ("spec.target", "callers".to_owned()),
    };
    match port {
        None => (field, subject),
        Some(port) => ("spec.target.port", format!("port {port} of {subject}")),
    }
}

/// The ports of a service to which its policy does not apply.
fn without_http(
    object: &ObjectRef,
    groups: &PolicyGroups,
    service: &Service,
    port: Option<Port>,
) -> Option<Finding> {
    let ports: Vec<String> = not_http(service, port)
        .map(|port| port.to_string())
        .collect();
    let fields = groups.of_requests();
    if ports.is_empty() || fields.is_empty() {
        return None;
    }
    let message = format!(
        "port {} of service {} does not carry HTTP and has no {}",
        ports.join(", "),
        service.name,
        fields.join(", ")
    );
    let finding = Finding::info(object, "spec.target.service", "NotHttp", message);
    Some(finding.fix(DECLARE_HTTP))
}

/// Sidecars keep the limits of the services that select their pods.
fn without_pods(object: &ObjectRef, groups: &PolicyGroups, service: &Service) -> Option<Finding> {
    let field = groups.at_servers();
    let field = field.filter(|_| service.selector.is_empty())?;
    let message = format!(
        "service {} has no selector, so no sidecar keeps the limits",
        service.name
    );
    let finding = Finding::warning(object, field, "NoPods", message);
    Some(finding.fix("give the service a selector, or limit another service of the pods"))
}

/// The targeted ports that do not carry HTTP.
fn not_http(service: &Service, target: Option<Port>) -> impl Iterator<Item = Port> {
    let ports = service.ports.iter();
    let targeted = ports.filter(move |(number, _)| target.is_none_or(|port| port == **number));
    targeted
        .filter(|(_, port)| port.protocol != Protocol::Http)
        .map(|(number, _)| *number)
}

fn check_service(
    policy: &Candidate<'_, TrafficPolicySpec>,
    spec: &TrafficPolicySpec,
    service: &NamespacedName,
) -> Option<ValidationError> {
    let field = "spec.target.service";
    let service = match called_service(policy, field, &service.name) {
        Err(problem) => return Some(problem),
        Ok(service) => service,
    };
    let name = &service.name;
    let port = spec.target.port.map(Port::from);
    if let Some(port) = port.filter(|port| !service.ports.contains_key(port)) {
        return Some(ValidationError::unresolved(
            reason::PORT_NOT_FOUND,
            "spec.target.port",
            format!("{port} is not a port of service {name}"),
            "name a port of the service, not of its pods",
        ));
    }
    let targeted = port.map_or(service.ports.len(), |_| 1);
    if not_http(service, port).count() < targeted
        || PolicyGroups::of(&policy.declared.object, spec).concerns_bytes()
    {
        return None;
    }
    let (field, subject) = subject(&Target::Service(name.clone()), port);
    Some(ValidationError::invalid(
        field,
        format!("{subject} does not carry HTTP, and the policy has only fields of requests"),
        "declare HTTP by appProtocol or the name of a port",
    ))
}
