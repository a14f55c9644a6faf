//! The way of one call: from the caller by rule and backend to the decision of the servers. For `heddle why`.
//!
//! The reference evaluators of `traffic/` and `authz/` decide; nothing here reads a configuration of Envoy.

mod called;
mod described;
mod destination;
mod explanation;
mod outside;
mod ports;
mod servers;

use std::collections::BTreeSet;
use std::net::SocketAddr;

use super::egress::external_listener;
use super::listeners::listener_name;
use super::{Compiled, Proxy};
use crate::finding::ObjectRef;
use crate::traffic::{
    self, Action, Backend, ExternalHost, Forward, HeaderPolicy, HostPolicy, RetryBudget,
    RouteEntry, RouteRule, RuleId, Upstream, evaluate, unrouted,
};
use crate::world::{Capture, Family, NamespacedName, Pod, Port, Protocol, Service};

use called::Called;
pub use described::{DescribedRule, PortRules, admits_all};
pub use explanation::{
    Call, CallRetries, CalledDestination, DecidingRule, ExplainedBackend, Explanation, NamedBy,
    Outcome, OutsideHost, ServerDecision, Servers, Stopped, Unexplained,
};
pub use ports::{MtlsSource, ServedPort};
pub use servers::ReadyEndpoint;
use servers::{Arriving, address};

impl Compiled {
    /// Explains a call: the listener, rule and backends that it gets, and the decisions of the servers.
    ///
    /// # Errors
    /// The caller or the destination is not known.
    pub fn explain(&self, call: &Call) -> Result<Explanation, Unexplained> {
        let pod = self.sender(&call.from)?;
        let proxy = self.proxies.get(&pod.name);
        let called = self.called(call, &pod.name.namespace)?;
        let source = pod.ips.first().copied();
        let mut explanation = Explanation {
            pod: pod.name.clone(),
            workload: pod.template.workload(),
            identity: proxy.map(|proxy| proxy.identity.clone()),
            source,
            to: called.destination(),
            listener: None,
            rule: None,
            backends: Vec::new(),
            stopped: None,
        };
        let host = call.host_header();
        let mut headers = unrouted::routed(&call.headers);
        if !headers.iter().any(|(name, _)| name == "host") {
            headers.push(("host".to_owned(), host.clone()));
        }
        let arriving = Arriving {
            identity: proxy.map(|proxy| &proxy.identity),
            bypassed: self.bypasses(&pod.name.namespace),
            node: pod.node.as_deref(),
            source,
            family: None,
            protocol: Protocol::Detect,
            tls: call.tls,
            scope: None,
            request: traffic::Request {
                host,
                method: call.method.clone(),
                path: call.path.clone(),
                headers,
            },
        };
        self.follow((pod, proxy), &called, arriving, &mut explanation);
        Ok(explanation)
    }

    fn follow<'a>(
        &self,
        (pod, proxy): (&Pod, Option<&'a Proxy>),
        called: &Called<'_>,
        mut arriving: Arriving<'a>,
        explanation: &mut Explanation,
    ) {
        match called {
            Called::Unknown(at) => {
                let refused = proxy.is_some_and(|proxy| self.refuses_unknown(proxy, *at));
                explanation.stopped = refused.then_some(Stopped::UnknownRefused);
            }
            Called::External(host, _) => outside((proxy, host), arriving, explanation),
            Called::Named(_, port, _) => {
                let captured = proxy.filter(|proxy| proxy.on_demand());
                let namespace = &pod.name.namespace;
                let refused = captured.and_then(|_| self.refuses_name(namespace, *port));
                explanation.stopped = refused;
            }
            Called::Pod {
                pod: server,
                port,
                protocol,
            } => {
                arriving.protocol = protocol.announced(port.get());
                arriving.scope = proxy;
                let at = address(server, *port).filter(|_| proxy.is_some());
                explanation.listener = at.map(|at| listener_name(at).into());
                let backend = Backend::Service(server.name.clone(), *port);
                let servers = self.server(&arriving, server, *port);
                by_address(&arriving, vec![whole(backend, servers)], explanation);
            }
            Called::Headless {
                service,
                port,
                protocol,
            } => {
                arriving.protocol = protocol.announced(port.get());
                arriving.scope = proxy;
                let backends = self.whole_service(&arriving, service, *port);
                by_address(&arriving, backends, explanation);
            }
            Called::Service {
                service,
                port,
                protocol,
                second_family,
            } => {
                arriving.protocol = protocol.announced(port.get());
                arriving.family = *second_family;
                let to = (*service, *port);
                match proxy {
                    Some(proxy) => self.by_sidecar((pod, proxy), to, arriving, explanation),
                    None => {
                        explanation.backends = self.whole_service(&arriving, service, *port);
                    }
                }
            }
        }
    }

    /// All requests go to the service, without a rule.
    fn whole_service(
        &self,
        arriving: &Arriving<'_>,
        service: &Service,
        port: Port,
    ) -> Vec<ExplainedBackend> {
        let backend = Backend::Service(service.name.clone(), port);
        let servers = self.servers(arriving, &backend);
        vec![whole(backend, servers)]
    }

    /// A call to a service through the caller's sidecar.
    fn by_sidecar(
        &self,
        (pod, proxy): (&Pod, &Proxy),
        (service, port): (&Service, Port),
        arriving: Arriving<'_>,
        explanation: &mut Explanation,
    ) {
        let name = &service.name;
        let ip = service.cluster_ips.iter();
        let family = arriving.family;
        let ip = ip
            .copied()
            .find(|ip| family.is_none_or(|family| Family::of(*ip) == family));
        let at = match &pod.template.capture {
            Capture::Redirect => ip.map(|ip| SocketAddr::new(ip, port.get())),
            Capture::Standalone(standalone) => {
                standalone.upstreams.get(&(name.clone(), port)).copied()
            }
        };
        explanation.listener = at.map(|at| listener_name(at).into());
        let declared = match &pod.template.capture {
            Capture::Redirect => self.may_have_service(proxy, name, port),
            Capture::Standalone(_) => at.is_some(),
        };
        explanation.stopped = if !declared {
            Some(Stopped::NotDeclared)
        } else if self.refuses(proxy, name, port) {
            Some(Stopped::DeniedByAll)
        } else {
            not_routed(Some(proxy), &arriving)
        };
        let stopped = explanation.stopped.as_ref();
        if stopped.is_some_and(Stopped::before_rules) {
            return;
        }
        if arriving.protocol == Protocol::Http {
            self.by_table((proxy, service, port), arriving, explanation);
            return;
        }
        self.by_connection((proxy, service, port), &arriving, explanation);
    }

    /// Bytes: a rule shifts weight between endpoints.
    fn by_connection(
        &self,
        (proxy, service, port): (&Proxy, &Service, Port),
        arriving: &Arriving<'_>,
        explanation: &mut Explanation,
    ) {
        let name = &service.name;
        let namespace = &proxy.template.namespace;
        let callers = self.validated.consumer(name, port, namespace);
        let rules = self.validated.rules_of_bytes(name, port, callers);
        if rules.is_empty() || self.bypasses(&proxy.template.namespace) {
            explanation.backends = self.whole_service(arriving, service, port);
            return;
        }
        let taken = rules
            .into_iter()
            .find(|entry| arriving.is_named(&entry.matcher));
        let Some(entry) = taken else {
            explanation.stopped.get_or_insert(Stopped::NoServerName);
            return;
        };
        explanation.rule = Some(deciding(&entry.rule, entry.matcher.clone(), None));
        if let Action::Forward(forward) = &entry.rule.action {
            let servers = |backend: &Backend| self.servers(arriving, backend);
            let mut forward = forward.clone();
            forward.divide(|backend| self.is_ready(arriving, backend));
            let backends = forward.weighted().map(|weighted| ExplainedBackend {
                weight: weighted.weight.in_force,
                ..whole(weighted.backend.clone(), servers(&weighted.backend))
            });
            explanation.backends = backends.collect();
        }
    }

    /// Requests: the route table decides.
    fn by_table(
        &self,
        (proxy, service, port): (&Proxy, &Service, Port),
        mut arriving: Arriving<'_>,
        explanation: &mut Explanation,
    ) {
        let caller = self.facet(proxy, arriving.family);
        let side = self.client_side(&service.name, port, &caller);
        let Some(table) = side.and_then(|side| side.table()) else {
            return;
        };
        let sent = arriving.request.clone();
        let stop =
            |explanation: &mut Explanation, stopped| _ = explanation.stopped.get_or_insert(stopped);
        let Some(decision) = evaluate(table, &sent) else {
            stop(explanation, Stopped::NoRule);
            return;
        };
        let declared = self.declared_rule(&service.name, port, decision.entry);
        let own = Some(&*proxy.template.namespace);
        explanation.rule = Some(DecidingRule {
            met: self.met_policies(&service.name, port, own, decision.entry),
            mirrors: declared.mirrors().to_vec(),
            ..decided(&decision, &sent)
        });
        if let Some(answer) = decision.preflight(&sent) {
            let allowed = answer.contains_key("access-control-allow-origin");
            stop(explanation, Stopped::Preflight(allowed));
            return;
        }
        match &decision.rule().action {
            Action::Respond { status, .. } => stop(explanation, Stopped::Answered(*status)),
            Action::Redirect(redirect) => {
                let location = decision.location(&sent).unwrap_or_default();
                let status = redirect.status.code();
                stop(explanation, Stopped::Redirected(status, location));
            }
            Action::Forward(_) => {}
        }
        for share in &decision.possible_shares(&sent) {
            let named = declared.backends().nth(share.place);
            arriving.request = decision.forwarded(share, &sent);
            let servers = match share.upstream {
                Some(_) => self.servers(&arriving, share.backend),
                None => Vec::new(),
            };
            let upstream = share.upstream.and_then(|of| side?.upstream(&of.name));
            let (retry_budget, policies) = upstream.map(bounds).unwrap_or_default();
            explanation.backends.push(ExplainedBackend {
                weight: share.weight,
                headers: share.headers.clone(),
                retry_budget,
                policies,
                ..whole(named.unwrap_or(share.backend).clone(), servers)
            });
        }
    }

    /// The rule of an entry as its object declares it, with the reasons of invalid backends, which route tables do not have.
    fn declared_rule<'a>(
        &'a self,
        service: &NamespacedName,
        port: Port,
        entry: &'a RouteEntry,
    ) -> &'a RouteRule {
        let id = &entry.rule.id;
        let own_callers = id.object().map(|object| &object.namespace);
        let of = |callers| self.validated.rules(service, port, callers);
        let mut rules = of(None).chain(of(own_callers));
        let declared = rules.find(|declared| declared.rule.id == *id);
        &declared.unwrap_or(entry).rule
    }
}

/// A call to a host outside that an object names.
fn outside(
    (proxy, host): (Option<&Proxy>, &ExternalHost),
    mut arriving: Arriving<'_>,
    explanation: &mut Explanation,
) {
    let captured = proxy.filter(|proxy| proxy.on_demand());
    explanation.listener = captured.map(|_| external_listener(host.port.get()));
    arriving.protocol = Protocol::Http;
    let reads = captured.filter(|_| !arriving.tls);
    explanation.stopped = not_routed(reads, &arriving);
    let policy = host.policy.as_ref().filter(|_| captured.is_some());
    explanation.rule = policy.map(|policy| rule_of_host(host, policy, &arriving));
}

/// The policy of a host, as a rule.
fn rule_of_host(host: &ExternalHost, policy: &HostPolicy, arriving: &Arriving<'_>) -> DecidingRule {
    let rule = RouteRule {
        id: RuleId::Declared(host.object.clone(), 0),
        action: Action::Forward(Forward::to(Vec::new())),
        headers: policy.headers.clone(),
        policy: policy.requests.clone(),
        origins: host.origins(),
    };
    let request = &arriving.request;
    let faults = policy.requests.faults.iter();
    let faults = faults.filter(|fault| fault.counts(request));
    let method = (!arriving.tls).then_some(&*request.method);
    DecidingRule {
        faults: faults.cloned().collect(),
        ..deciding(&rule, traffic::RequestMatcher::default(), method)
    }
}

/// The answer of the caller's sidecar to a request that it does not route, on a port that carries HTTP.
fn not_routed(proxy: Option<&Proxy>, arriving: &Arriving<'_>) -> Option<Stopped> {
    if proxy.is_none() || arriving.protocol != Protocol::Http {
        return None;
    }
    match &*arriving.request.method {
        // TLS of the application is not HTTP.
        _ if arriving.tls => Some(Stopped::NotHttp),
        unrouted::CONNECT => Some(Stopped::Connect),
        method => (!unrouted::is_method(method)).then_some(Stopped::UnknownMethod),
    }
}

/// A call by the addresses of pods. The caller's sidecar refuses it if the caller has declared none of them.
fn by_address(
    arriving: &Arriving<'_>,
    backends: Vec<ExplainedBackend>,
    explanation: &mut Explanation,
) {
    let servers = || backends.iter().flat_map(|of| &of.servers);
    let none = servers().all(|of| of.decision == ServerDecision::NotDeclared)
        && servers().next().is_some();
    explanation.stopped =
        not_routed(arriving.scope, arriving).or(none.then_some(Stopped::NotDeclared));
    explanation.backends = backends;
}

/// The bound on retries to an upstream, and the policies that set its bounds.
fn bounds(upstream: &Upstream) -> (Option<RetryBudget>, BTreeSet<ObjectRef>) {
    let objects = upstream.origins.rules.iter();
    let policies = objects.filter(|of| of.kind.is_in_clusters());
    (upstream.retry_budget(), policies.cloned().collect())
}

/// A backend that gets all requests.
fn whole(backend: Backend, servers: Vec<Servers>) -> ExplainedBackend {
    ExplainedBackend {
        backend,
        weight: 1,
        headers: HeaderPolicy::default(),
        retry_budget: None,
        policies: BTreeSet::new(),
        servers,
    }
}

/// The rule of a decision, as it is for the request.
fn decided(decision: &traffic::Decision<'_>, sent: &traffic::Request) -> DecidingRule {
    let (rule, matcher) = (decision.rule(), decision.entry.matcher.clone());
    DecidingRule {
        faults: decision.faults(sent).cloned().collect(),
        sticky: rule.sticky().cloned(),
        session: rule.session().cloned(),
        ..deciding(rule, matcher, Some(&sent.method))
    }
}

/// The rule, as it is for requests with a method. `method` is None for bytes, which are never sent again.
fn deciding(
    rule: &RouteRule,
    matcher: traffic::RequestMatcher,
    method: Option<&str>,
) -> DecidingRule {
    let retries = &rule.policy.retries;
    let retries = method.map(|method| {
        let covered = retries.resend.covers(Some(method)) == Some(true);
        let (resent, withheld) = (retries.resends() && covered, retries.resends() && !covered);
        CallRetries {
            attempts: retries.attempts,
            failures: if resent {
                retries.failures.clone()
            } else {
                BTreeSet::new()
            },
            withheld,
            backoff: retries.waits(resent),
        }
    });
    DecidingRule {
        retries,
        id: rule.id.clone(),
        matcher,
        policy: rule.policy.clone(),
        headers: rule.headers.clone(),
        faults: Vec::new(),
        mirrors: rule.mirrors().to_vec(),
        sticky: None,
        session: None,
        objects: rule.origins.clone(),
        met: Vec::new(),
    }
}
