//! The servers behind a backend, and their decisions.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use super::super::service_targets::target;
use super::super::{Compiled, Proxy};
use super::explanation::{ServerDecision, Servers};
use crate::authz::{HttpRequest, Request, RuleAction, evaluate, received};
use crate::settings::Settings;
use crate::traffic::{self, Backend, Overload, RateLimit, ServerPolicy, UpstreamHost};
use crate::validation::endpoints::{EndpointInputs, ReachableEndpoints, reached};
use crate::validation::facet::{Caller, Node};
use crate::validation::inputs::Reads;
use crate::world::{
    Family, Labels, NamespacedName, Pod, PodRef, Port, Protocol, SpiffeId, in_namespace, selects,
};

/// A request as it arrives at servers.
pub(super) struct Arriving<'a> {
    /// The identity of the caller. `None`: it has no sidecar.
    pub(super) identity: Option<&'a SpiffeId>,
    /// Whether the mesh bypasses the namespace of the caller.
    pub(super) bypassed: bool,
    /// The node of the caller.
    pub(super) node: Option<&'a str>,
    /// The address of the caller. `None`: not known.
    pub(super) source: Option<IpAddr>,
    /// The family of the address that was called. `None`: the first one of the service.
    pub(super) family: Option<Family>,
    /// The protocol of the port that was called.
    pub(super) protocol: Protocol,
    /// Whether it is TLS of the application.
    pub(super) tls: bool,
    /// The caller, where it must have declared each server by its address.
    pub(super) scope: Option<&'a Proxy>,
    /// The request.
    pub(super) request: traffic::Request,
}

/// An endpoint that takes calls.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReadyEndpoint {
    /// Its pod, if it has one.
    pub pod: Option<PodRef>,
    /// Its address; a pod of manifests has none.
    pub at: Option<SocketAddr>,
    /// Whether it is called by mTLS.
    pub meshed: bool,
}

/// One server.
struct Server<'a> {
    pod: Option<&'a Pod>,
    /// The address. `None`: a pod of manifests has none.
    at: Option<SocketAddr>,
    port: Port,
    meshed: bool,
}

impl Compiled {
    /// The servers of a backend with their decisions.
    pub(super) fn servers(&self, arriving: &Arriving<'_>, backend: &Backend) -> Vec<Servers> {
        let servers = match backend {
            Backend::Service(name, port) => self.behind(arriving, name, *port, None),
            Backend::Subset(name, port, labels) => self.behind(arriving, name, *port, Some(labels)),
            Backend::Invalid(_) => Vec::new(),
        };
        self.decided(arriving, servers)
    }

    /// The endpoints of a backend.
    pub(super) fn ready(
        &self,
        arriving: &Arriving<'_>,
        backend: &Backend,
    ) -> BTreeSet<ReadyEndpoint> {
        let servers = match backend {
            Backend::Service(name, port) => self.behind(arriving, name, *port, None),
            Backend::Subset(name, port, labels) => self.behind(arriving, name, *port, Some(labels)),
            Backend::Invalid(_) => Vec::new(),
        };
        let endpoint = |server: Server<'_>| ReadyEndpoint {
            pod: server.pod.map(|pod| pod.name.clone()),
            at: server.at,
            meshed: server.meshed,
        };
        servers.into_iter().map(endpoint).collect()
    }

    /// One pod, called by its own address.
    pub(super) fn server(&self, arriving: &Arriving<'_>, pod: &Pod, port: Port) -> Vec<Servers> {
        let server = Server {
            pod: Some(pod),
            at: address(pod, port),
            port,
            meshed: pod.template.meshed,
        };
        self.decided(arriving, vec![server])
    }

    /// Whether the caller's sidecar sends new requests and connections to a backend: by the same function as its endpoints.
    pub(super) fn is_ready(&self, arriving: &Arriving<'_>, backend: &Backend) -> bool {
        let there = match backend {
            Backend::Service(name, port) => self.reached_by(arriving, name, *port, None),
            Backend::Subset(name, port, labels) => {
                self.reached_by(arriving, name, *port, Some(labels))
            }
            Backend::Invalid(_) => return false,
        };
        there.group(1).is_ready()
    }

    /// The endpoints of a port for the caller.
    fn reached_by(
        &self,
        arriving: &Arriving<'_>,
        name: &NamespacedName,
        port: Port,
        subset: Option<&Labels>,
    ) -> ReachableEndpoints {
        let reads = Reads::default();
        let inputs = EndpointInputs::new(&reads, &self.world, &self.addresses);
        let service = self.world.services.get(name);
        let first = service.and_then(|service| service.families.first().copied());
        let caller = Caller {
            family: arriving.family.or(first),
            node: Node::At(arriving.node),
            bypassed: arriving.bypassed,
        };
        // No sidecar of a caller that has none keeps it from plain text.
        let settings = Settings {
            plain: arriving.identity.and_then(|_| self.settings.plain.clone()),
            ..(*self.settings).clone()
        };
        reached(inputs, &settings, name, port, subset, caller)
    }

    fn behind(
        &self,
        arriving: &Arriving<'_>,
        name: &NamespacedName,
        port: Port,
        subset: Option<&Labels>,
    ) -> Vec<Server<'_>> {
        let hosts = self.reached_by(arriving, name, port, subset).hosts;
        if hosts.is_empty() && self.world.offline {
            return self.of_manifests(name, port, subset);
        }
        let server = |host: &UpstreamHost| {
            let name = self.addresses.pod(host.at.ip().to_canonical());
            let pod = name.and_then(|name| self.world.pods.get(name));
            Some(Server {
                pod: pod.map(|pod| &**pod),
                at: Some(host.at),
                port: Port::try_from(i32::from(host.at.port())).ok()?,
                meshed: !host.plain,
            })
        };
        hosts.iter().filter_map(server).collect()
    }

    /// Manifests have no endpoints: the pod templates that the service selects stand for them.
    fn of_manifests(
        &self,
        name: &NamespacedName,
        port: Port,
        subset: Option<&Labels>,
    ) -> Vec<Server<'_>> {
        let service = self.world.services.get(name);
        let Some((service, port)) = service.and_then(|s| Some((s, s.ports.get(&port)?))) else {
            return Vec::new();
        };
        let pods = in_namespace(&self.world.pods, &service.name.namespace).map(|(_, pod)| &**pod);
        let selected = pods.filter(|pod| {
            let labels = &pod.template.labels;
            selects(&service.selector, labels) && subset.is_none_or(|of| selects(of, labels))
        });
        let servers = selected.filter_map(|pod| {
            Some(Server {
                pod: Some(pod),
                at: None,
                port: target(&port.target, &pod.template)?,
                meshed: pod.template.meshed,
            })
        });
        servers.collect()
    }

    /// The decisions of servers; those with equal ones together.
    fn decided(&self, arriving: &Arriving<'_>, servers: Vec<Server<'_>>) -> Vec<Servers> {
        // The names come last, so that equal decisions are equal until then.
        let mut groups: Vec<(Servers, BTreeSet<String>)> = Vec::new();
        for server in servers {
            let name = match (server.pod, server.at) {
                (Some(pod), _) => pod.name.to_string(),
                (None, at) => at.map(|at| at.to_string()).unwrap_or_default(),
            };
            let decided = self.decision(arriving, &server);
            match groups.iter_mut().find(|(group, _)| *group == decided) {
                Some((_, names)) => _ = names.insert(name),
                None => groups.push((decided, BTreeSet::from([name]))),
            }
        }
        let named = |(servers, names)| Servers { names, ..servers };
        groups.into_iter().map(named).collect()
    }

    fn decision(&self, arriving: &Arriving<'_>, server: &Server<'_>) -> Servers {
        let port = server.port;
        let decided = |mtls, decision| decided(port, mtls, decision);
        let undeclared = |(proxy, at): (&Proxy, SocketAddr)| {
            // Addresses that the mesh does not know need no declaration.
            self.resolve(at).is_some() && !self.may_have(proxy, at)
        };
        if arriving.scope.zip(server.at).is_some_and(undeclared) {
            return decided(arriving.identity.is_some(), ServerDecision::NotDeclared);
        }
        let meshed = server.pod.filter(|_| server.meshed);
        let served = meshed.and_then(|pod| Some((pod, self.compiled_template(&pod.template)?)));
        let Some((pod, served)) = served else {
            return decided(false, ServerDecision::NoSidecar);
        };
        let mtls = arriving.identity.is_some();
        if pod.template.uncaptured.contains(&port) {
            return decided(mtls, ServerDecision::NotCaptured);
        }
        let input = &served.config.input;
        let inbound = input.ports.get(&port).unwrap_or(&input.rest);
        let of_metrics = port == Port::METRICS;
        let (authz, plain) = match of_metrics {
            true => (&input.metrics, false),
            false => (&inbound.authz, inbound.plain),
        };
        if !mtls && !plain {
            return decided(mtls, ServerDecision::PlainTextRefused);
        }
        let http = match inbound.protocol {
            _ if of_metrics => true,
            Protocol::Http => true,
            Protocol::Tcp => false,
            // HTTP is read where a caller announces it, or where plain text shows it.
            Protocol::Detect => !arriving.tls && (!mtls || arriving.protocol != Protocol::Tcp),
        };
        let identity = pod.template.identity(&self.settings.trust_domain);
        let request = arriving.at_server(&identity, port, http);
        let decision = evaluate(authz, &request, false);
        let audit = Some(evaluate(authz, &request, true)).filter(|audit| *audit != decision);
        let allow_rules = authz.rules(RuleAction::Allow, false);
        let counts = http && decision.allowed();
        let (limits, overload) = match counts {
            true => kept(&inbound.traffic, &arriving.request),
            false => Default::default(),
        };
        Servers {
            audit,
            limits,
            overload,
            allow_rules: allow_rules.map(|rule| Arc::clone(&rule.id)).collect(),
            ..decided(mtls, ServerDecision::ByPolicies(decision))
        }
    }
}

/// A decision to which no rule and no limit adds.
const fn decided(port: Port, mtls: bool, decision: ServerDecision) -> Servers {
    Servers {
        names: BTreeSet::new(),
        port,
        mtls,
        decision,
        audit: None,
        allow_rules: Vec::new(),
        limits: Vec::new(),
        overload: Vec::new(),
    }
}

/// The limits for which a request counts, and the protection from overload.
fn kept(policy: &ServerPolicy, request: &traffic::Request) -> (Vec<RateLimit>, Vec<Overload>) {
    let limits = policy.limits.iter().filter(|of| of.counts(request));
    (limits.cloned().collect(), policy.overload.clone())
}

/// The first address of a pod with a port.
pub(super) fn address(pod: &Pod, port: Port) -> Option<SocketAddr> {
    Some(SocketAddr::new(*pod.ips.first()?, port.get()))
}

impl Arriving<'_> {
    /// Whether a matcher of connections takes it, by the server name of its TLS: the host of the call.
    pub(super) fn is_named(&self, matcher: &traffic::RequestMatcher) -> bool {
        let host = &*self.request.host;
        let sent = host.rsplit_once(':').map_or(host, |(name, _)| name);
        let named = matcher.server_name.as_ref();
        named.is_none_or(|name| self.tls && name.takes(sent))
    }

    fn at_server(&self, server: &SpiffeId, port: Port, http: bool) -> Request {
        let traffic::Request {
            host,
            method,
            path,
            headers,
        } = &self.request;
        let headers = received(headers, self.identity, server).into_iter();
        let others = headers.filter(|(name, _)| name != "host");
        let host = ("host".to_owned(), host.clone());
        Request {
            peer: self.identity.cloned(),
            source: self.source.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            port: Some(port),
            http: http.then(|| HttpRequest {
                method: method.clone(),
                path: path.clone(),
                headers: std::iter::once(host).chain(others).collect(),
            }),
        }
    }
}
