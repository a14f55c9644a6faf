//! The inputs that decide the server's side of a pod: ports, protocols, mTLS, policies, probes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use heddle_crds::{Action, ConditionType, reason};

use super::bounds;
use super::mtls::{plain, refusing};
use super::report::PolicyFeedback;
use super::server_policies::PortServerPolicy;
use super::service_targets::PortReference;
use crate::authz::{Operation, PortAuthz, Rule, RuleAction, Source};
use crate::finding::{Finding, ObjectRef};
use crate::kinds::mesh::Settings;
use crate::kinds::policies::auth_policy::Policy;
use crate::telemetry::{LineFormat, SpanTag};
use crate::traffic::ServerPolicy;
use crate::world::{Capture, PodTemplate, Port, Probe, ProbeKind, Protocol};

/// All inputs of the server's side of a pod, except the services that lead to it. Pods with equal inputs share their resources, across
/// workloads and namespaces.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct InboundInput {
    pub(crate) trust_domain: Arc<str>,
    pub(crate) capture: Capture,
    pub(crate) ports: BTreeMap<Port, InboundPort>,
    /// All ports that are not in `ports`.
    pub(crate) rest: InboundPort,
    pub(crate) probes: Vec<Probe>,
    /// The callers that may read the sidecar's metrics.
    pub(crate) metrics: PortAuthz,
    /// How long an HTTP connection may last.
    pub(crate) max_connection_age: Duration,
    /// The form of the lines of access logs.
    pub(crate) line_format: LineFormat,
    /// The attributes of spans. None: the pod does not trace.
    pub(crate) spans: Option<Arc<[SpanTag]>>,
    pub(crate) origins: BTreeSet<ObjectRef>,
}

impl InboundInput {
    /// Returns the authorization of a port of the application.
    pub(crate) fn authz(&self, port: Port) -> &PortAuthz {
        let named = self.ports.get(&port);
        &named.unwrap_or(&self.rest).authz
    }

    /// Returns the ports that policies alone name and that are judged with all ports that nothing names: those beyond the bound of
    /// [`all_ports`].
    pub(crate) fn beyond(&self, policies: &[&Policy]) -> BTreeSet<Port> {
        let named = policies.iter().flat_map(|policy| policy.ports(true));
        let beyond = named.filter(|port| !self.ports.contains_key(port) && !is_reserved(*port));
        beyond.collect()
    }
}

/// One port of a pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct InboundPort {
    pub(crate) protocol: Protocol,
    /// Whether plain text is accepted beside mTLS.
    pub(crate) plain: bool,
    pub(crate) authz: PortAuthz,
    /// The limits of the services that lead here: requests must pass all of them.
    pub(crate) traffic: ServerPolicy,
    /// The service that leads here, for metrics, where bytes may be refused before they are led to the cluster that has it.
    pub(crate) service: Option<Arc<str>>,
}

impl InboundPort {
    /// The same, but where the namespace is bypassed: then nothing decides. The protocol stays that which the policies need, so that the
    /// listener stays as it is.
    fn unless(self, bypassed: bool) -> Self {
        match bypassed {
            false => self,
            true => Self {
                protocol: self.protocol,
                plain: true,
                authz: PortAuthz::open(),
                traffic: ServerPolicy::default(),
                service: None,
            },
        }
    }
}

/// Whether a port is the sidecar's, where no policy decides.
pub(crate) fn is_reserved(port: Port) -> bool {
    heddle_ports::is_reserved(port.get())
}

/// The protocol of a port of a pod by its services; where none leads to it, by its own name. If some services declare HTTP and others do
/// not, it is detected, so that the clients of neither break. TCP wins over nothing.
pub(crate) fn protocol_of(
    port: Port,
    targets: &BTreeMap<Port, Vec<PortReference<'_>>>,
    template: &PodTemplate,
) -> Protocol {
    match targets.get(&port) {
        Some(references) if mixed(references) => Protocol::Detect,
        Some(references) => references
            .iter()
            .map(|reference| reference.protocol)
            .min()
            .unwrap_or(Protocol::Detect),
        None => {
            let name = template
                .ports
                .iter()
                .find(|p| p.port == port)
                .and_then(|p| p.name.as_deref());
            Protocol::of(None, name)
        }
    }
}

/// Whether some services declare HTTP for a port and others do not.
fn mixed(references: &[PortReference<'_>]) -> bool {
    let http = |reference: &PortReference<'_>| reference.protocol == Protocol::Http;
    references.iter().any(http) && !references.iter().all(http)
}

/// The protocol by which the server's sidecar treats a port.
///
/// Where HTTP is only detected, the bytes pass as they were sent unless a rule or a limit needs HTTP: then HTTP is read where a caller announces it
/// or its first bytes show it. Where services disagree, HTTP is read where it is announced; if a rule or a limit needs
/// HTTP, all is HTTP, for HTTP that a caller sends as TCP would pass it by.
fn treated(declared: Protocol, mixed: bool, needs_http: bool) -> Protocol {
    match (declared, mixed, needs_http) {
        (Protocol::Http, _, _) | (Protocol::Detect, true, true) => Protocol::Http,
        (Protocol::Detect, true, false) | (Protocol::Detect, false, true) => Protocol::Detect,
        (Protocol::Tcp, _, _) | (Protocol::Detect, false, false) => Protocol::Tcp,
    }
}

/// The service that leads to each port, for metrics: the first by name.
pub(crate) fn leads(targets: &BTreeMap<Port, Vec<PortReference<'_>>>) -> BTreeMap<Port, Arc<str>> {
    let first = |references: &[PortReference<'_>]| {
        let names = references
            .iter()
            .map(|reference| &reference.service.name.name);
        names.min().cloned()
    };
    let ports = targets.iter();
    ports
        .filter_map(|(port, references)| Some((*port, first(references)?)))
        .collect()
}

/// Collects the input for the pods of a template, given the port references of the services that select them and the policies of the
/// namespace. Conflicts and rules without effect become feedback for the statuses of their policies.
pub(crate) fn inbound(
    template: &PodTemplate,
    targets: &BTreeMap<Port, Vec<PortReference<'_>>>,
    policies: &[&Policy],
    traffic: &BTreeMap<Port, PortServerPolicy>,
    settings: &Settings,
    feedback: &mut PolicyFeedback,
) -> InboundInput {
    let policies = selecting(policies, template);
    let mut declared: BTreeSet<Port> = template.ports.iter().map(|p| p.port).collect();
    declared.extend(targets.keys());
    let (all, beyond) = all_ports(&declared, &policies, template);
    let leads = leads(targets);
    let port = |port: Option<Port>, feedback: &mut PolicyFeedback| {
        let of = |port| protocol_of(port, targets, template);
        let declared = port.map_or(Protocol::Detect, of);
        let mut plain = plain(port, &policies, settings, template, feedback);
        let mut authz = port_authz(port, &policies, settings);
        if port.is_none() {
            plain &= refusing(&beyond, &policies, settings.mode).is_none();
            authz.close(&of_ports(&beyond, &policies));
        }
        let traffic = port.and_then(|port| traffic.get(&port));
        let needs_http = authz.needs_http() || traffic.is_some();
        let kept = traffic.filter(|_| !settings.observes());
        let mixed = port.is_some_and(|port| targets.get(&port).is_some_and(|all| mixed(all)));
        let protocol = treated(declared, mixed, needs_http);
        let judged = protocol != Protocol::Http && authz.judges_bytes();
        let service = port.filter(|_| judged).and_then(|port| leads.get(&port));
        let inbound = InboundPort {
            protocol,
            plain,
            authz,
            traffic: kept.map(|of| of.policy.clone()).unwrap_or_default(),
            service: service.cloned(),
        };
        inbound.unless(settings.bypasses(&template.namespace))
    };
    let ports = all.into_iter();
    let ports = ports.map(|number| (number, port(Some(number), feedback)));
    let mut ports: BTreeMap<Port, InboundPort> = ports.collect();
    let mut rest = port(None, feedback);
    share_memory(ports.values_mut().chain([&mut rest]));
    report_mixed(targets, &ports, template, feedback);
    let known = (&declared, &beyond);
    report_policies(&policies, (&ports, &rest), known, template, feedback);
    report_reserved(targets, template, feedback);
    InboundInput {
        trust_domain: Arc::clone(&settings.trust_domain),
        capture: template.capture.clone(),
        ports,
        rest,
        probes: requests(&template.probes),
        metrics: metrics_authz(settings),
        max_connection_age: settings.max_connection_age,
        line_format: settings.line_format,
        spans: None,
        origins: origins(&template.namespace, &policies, traffic, settings),
    }
}

/// Reports the rules that a sidecar applies otherwise than they are written. `declared` and `beyond`: see [`all_ports`].
fn report_policies(
    policies: &[&Policy],
    (ports, rest): (&BTreeMap<Port, InboundPort>, &InboundPort),
    (declared, beyond): (&BTreeSet<Port>, &BTreeSet<Port>),
    template: &PodTemplate,
    feedback: &mut PolicyFeedback,
) {
    let all = ports.iter().map(|(number, port)| (Some(*number), port));
    let of_http = all.chain([(None, rest)]);
    let of_http = of_http.filter(|(_, port)| port.protocol != Protocol::Tcp);
    let of_http: Vec<_> = of_http
        .map(|(number, port)| (number, &port.authz))
        .collect();
    for policy in policies {
        report_without_http(policy, ports, declared, template, feedback);
        report_uncaptured(policy, template, feedback);
        bounds::report(policy, &of_http, template, feedback);
        bounds::report_ports(policy, beyond, template, feedback);
    }
}

/// The probes that are requests to the application. The readiness port is the agent's, which answers its own.
fn requests(probes: &[Probe]) -> Vec<Probe> {
    let probes = probes.iter();
    let probes = probes.filter(|p| p.kind != ProbeKind::Tcp && !is_reserved(p.port));
    probes.cloned().collect()
}

/// The objects from which the server's side of a pod comes.
fn origins(
    namespace: &str,
    policies: &[&Policy],
    traffic: &BTreeMap<Port, PortServerPolicy>,
    settings: &Settings,
) -> BTreeSet<ObjectRef> {
    if settings.bypasses(namespace) {
        return settings.origin.iter().cloned().collect();
    }
    let policies = policies.iter().map(|policy| &policy.object);
    let traffic = traffic.values().flat_map(PortServerPolicy::origins);
    let all = policies.chain(traffic).chain(&settings.origin);
    all.cloned().collect()
}

/// Every port that is named: by the pod, its services, its probes and its policies. Of those that policies alone name, the ones beyond the
/// bound are apart: first those of rules in audit, for they must change no verdict, then the higher numbers.
fn all_ports(
    declared: &BTreeSet<Port>,
    policies: &[&Policy],
    template: &PodTemplate,
) -> (BTreeSet<Port>, BTreeSet<Port>) {
    let probed = template.probes.iter().map(|p| p.port);
    let mut all: BTreeSet<Port> = declared.iter().copied().chain(probed).collect();
    let named = |audited| -> BTreeSet<Port> {
        let named = policies.iter().flat_map(|policy| policy.ports(audited));
        let named = named.filter(|port| !all.contains(port) && !is_reserved(*port));
        named.collect()
    };
    let (enforced, audited) = (named(false), named(true));
    let mut undeclared = enforced
        .iter()
        .chain(audited.difference(&enforced))
        .copied();
    let apart: Vec<Port> = undeclared
        .by_ref()
        .take(bounds::MAX_UNDECLARED_PORTS)
        .collect();
    let beyond = undeclared.collect();
    all.extend(apart);
    all.retain(|port| !is_reserved(*port));
    (all, beyond)
}

/// The policies that select the pods of a template.
fn selecting<'a>(policies: &[&'a Policy], template: &PodTemplate) -> Vec<&'a Policy> {
    let policies = policies.iter().filter(|policy| policy.selects(template));
    policies.copied().collect()
}

/// The rules that speak of some ports.
fn of_ports<'a>(ports: &BTreeSet<Port>, policies: &[&'a Policy]) -> Vec<&'a Rule> {
    let rules = policies.iter().flat_map(|policy| &policy.rules);
    let rules = rules.filter(|rule| rule.to.ports.iter().any(|port| ports.contains(port)));
    rules.collect()
}

/// Divides the memory of a sidecar for paths and headers among its ports with HTTP.
fn share_memory<'a>(ports: impl Iterator<Item = &'a mut InboundPort>) {
    let holds =
        |port: &&mut InboundPort| port.protocol != Protocol::Tcp && port.authz.takes_memory();
    let ports: Vec<_> = ports.filter(holds).collect();
    let sharing = ports.len();
    for port in ports {
        port.authz.sharing = sharing;
    }
}

fn port_authz(port: Option<Port>, policies: &[&Policy], settings: &Settings) -> PortAuthz {
    let mut rules: Vec<Rule> = policies
        .iter()
        .flat_map(|p| &p.rules)
        .filter(|rule| rule.to.covers(port))
        .cloned()
        .collect();
    for rule in &mut rules {
        // The port is matched here, once. Requests are matched against the rest of the rule.
        rule.to.ports = Vec::new();
    }
    rules.sort_by(|a, b| a.id.cmp(&b.id));
    PortAuthz {
        rules,
        default_allow: settings.default_allow || settings.observes(),
        sharing: 1,
    }
}

fn metrics_authz(settings: &Settings) -> PortAuthz {
    let rule = Rule {
        id: "mesh/metrics-readers".into(),
        action: RuleAction::from(Action::Allow),
        audit: false,
        from: Source {
            identities: settings.metrics_readers.clone(),
            ..Source::default()
        },
        to: Operation::default(),
    };
    // Without readers there is no rule: one with an empty list would let in everybody.
    let rules = if settings.metrics_readers.is_empty() {
        Vec::new()
    } else {
        vec![rule]
    };
    PortAuthz {
        rules,
        default_allow: false,
        sharing: 1,
    }
}

/// Connections to a port that capture leaves out never reach the sidecar.
fn report_uncaptured(policy: &Policy, template: &PodTemplate, feedback: &mut PolicyFeedback) {
    let decides = |port: Port| {
        let mut rules = policy.rules.iter();
        policy.mtls.is_some() || rules.any(|rule| rule.to.covers(Some(port)))
    };
    let ports = template.uncaptured.iter().filter(|port| decides(**port));
    let ports: Vec<String> = ports.map(ToString::to_string).collect();
    if ports.is_empty() {
        return;
    }
    let message = format!(
        "port {} of {}/{} is left out of capture by heddle.dev/exclude-inbound-ports: the policy decides nothing there, and every caller passes",
        ports.join(", "),
        template.namespace,
        template.owner
    );
    let (object, reason) = (&policy.object, reason::NOT_CAPTURED);
    feedback.condition(object, ConditionType::Enforced, false, reason, &message);
    let finding = Finding::warning(object, "spec", reason, message);
    feedback
        .findings
        .push(finding.fix("remove the port from the annotation of the pods, or select other pods"));
}

/// A service that leads to a port of the sidecar itself. Only the metrics are meant to be called.
fn report_reserved(
    targets: &BTreeMap<Port, Vec<PortReference<'_>>>,
    template: &PodTemplate,
    feedback: &mut PolicyFeedback,
) {
    let own = |port: &Port| is_reserved(*port) && port.get() != heddle_ports::METRICS;
    for (number, references) in targets.iter().filter(|(port, _)| own(port)) {
        for reference in references {
            let object = super::service_ref(&reference.service.name);
            let message = format!(
                "port {} leads to port {number} of {}/{}, which is the sidecar's own: the calls are refused",
                reference.port, template.namespace, template.owner
            );
            let finding = Finding::warning(&object, "spec.ports", "ReservedTargetPort", message);
            feedback
                .findings
                .push(finding.fix("lead it to a port of the application"));
        }
    }
}

/// Reports two services that declare HTTP and TCP for one port, and the effect on their clients.
fn report_mixed(
    targets: &BTreeMap<Port, Vec<PortReference<'_>>>,
    ports: &BTreeMap<Port, InboundPort>,
    template: &PodTemplate,
    feedback: &mut PolicyFeedback,
) {
    for (number, references) in targets {
        let of = |protocol| {
            let of = references
                .iter()
                .filter(move |reference| reference.protocol == protocol);
            of.min_by_key(|reference| (&reference.service.name, reference.port))
        };
        let (Some(http), Some(tcp)) = (of(Protocol::Http), of(Protocol::Tcp)) else {
            continue;
        };
        let (a, b) = (&http.service.name, &tcp.service.name);
        let (owner, namespace) = (&template.owner, &template.namespace);
        let result = match ports.get(number).map(|port| port.protocol) {
            Some(Protocol::Http) => {
                "a policy needs HTTP there, so clients that send anything else are refused"
            }
            Some(Protocol::Detect | Protocol::Tcp) | None => {
                "each client is taken for what its service declares"
            }
        };
        let message = format!(
            "port {number} of {namespace}/{owner} is HTTP by service {a} (port {}) and TCP by service {b} (port {}); {result}",
            http.port, tcp.port
        );
        let object = super::service_ref(b);
        let finding = Finding::warning(&object, "spec.ports", reason::PROTOCOL_CONFLICT, message);
        feedback
            .findings
            .push(finding.fix(
                "declare the same protocol in both services, or lead them to different ports",
            ));
    }
}

/// Reports rules with HTTP fields on a port that carries no HTTP: they do not have the effect that their author expects.
fn report_without_http(
    policy: &Policy,
    ports: &BTreeMap<Port, InboundPort>,
    declared: &BTreeSet<Port>,
    template: &PodTemplate,
    feedback: &mut PolicyFeedback,
) {
    for (index, rule) in policy
        .rules
        .iter()
        .enumerate()
        .filter(|(_, rule)| rule.to.needs_http())
    {
        // A port that only the rule itself names may be anything; one that the pod or a service declares is meant.
        for (number, port) in ports
            .iter()
            .filter(|(number, _)| rule.to.covers(Some(**number)) && declared.contains(number))
        {
            let problem = match port.protocol {
                Protocol::Http => continue,
                Protocol::Tcp => "carries no HTTP",
                Protocol::Detect => {
                    "does not declare a protocol, so that HTTP sent as plain bytes would pass unseen"
                }
            };
            let place = format!("port {number} of {}/{}", template.namespace, template.owner);
            let message = format!("spec.rules[{index}] has HTTP fields, and {place} {problem}");
            feedback.condition(
                &policy.object,
                ConditionType::Enforced,
                false,
                reason::NOT_HTTP,
                &message,
            );
            let finding = Finding::warning(
                &policy.object,
                format!("spec.rules[{index}].to"),
                reason::NOT_HTTP,
                message,
            );
            feedback.findings.push(finding.fix("name the HTTP ports in to.ports, or declare appProtocol: http on the service's port"));
        }
    }
}
