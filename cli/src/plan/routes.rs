//! Requests that take another way after a change: other backends or weights, another answer, no endpoint.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use heddle_policy_compiler::traffic::{Request, RouteTable};
use heddle_policy_compiler::world::{Protocol, Service};
use heddle_policy_compiler::{
    Call, Compiled, ExplainedBackend, Explanation, NamespacedName, Stopped, WorkloadRef,
};

use super::report::Rerouted;
use crate::flows::{Flow, Flows};
use crate::sources::Outcome;
use crate::why;

/// The most requests that are tried at a service port.
const MAX_REQUESTS: usize = 200;

/// Compares the ways of requests to the services that are there before.
pub fn compare(before: &Outcome, after: &Outcome, flows: &Flows) -> Vec<Rerouted> {
    let callers = callers(&before.compiled, &after.compiled);
    let mut found = Vec::new();
    for (name, service) in before.world.services() {
        let differs = tables(&before.compiled, name) != tables(&after.compiled, name);
        let requests = match differs {
            true => requests(&[&before.compiled, &after.compiled], name),
            false => vec![usual(name)],
        };
        let own = callers
            .get_key_value(&name.namespace)
            .or_else(|| callers.first_key_value());
        let chosen: Vec<(&Arc<str>, &WorkloadRef)> = match differs {
            true => callers.iter().collect(),
            false => own.into_iter().collect(),
        };
        let first = found.len();
        for port in service.ports.values() {
            let http = port.protocol == Protocol::Http;
            let requests = requests.iter().take(if http { MAX_REQUESTS } else { 1 });
            for request in requests {
                for (namespace, caller) in &chosen {
                    let call = call(caller, service, port.port.get(), request);
                    let old = Way::of(&before.compiled, &call);
                    let new = Way::of(&after.compiled, &call);
                    if old != new {
                        let text = if http {
                            in_words(request)
                        } else {
                            "a connection".to_owned()
                        };
                        add(&mut found, first, namespace, &call, (text, old, new));
                    }
                }
            }
        }
    }
    for rerouted in &mut found {
        rerouted.observed_per_second = rate(flows, rerouted);
    }
    found.sort_by_key(|rerouted| (!rerouted.cut, rerouted.observed_per_second.is_none()));
    found
}

/// A workload with a sidecar in each namespace: routes can differ between the namespaces of callers only.
fn callers(before: &Compiled, after: &Compiled) -> BTreeMap<Arc<str>, WorkloadRef> {
    let mut callers = BTreeMap::new();
    let both = before.proxies.values();
    for proxy in both.filter(|proxy| after.proxies.contains_key(&proxy.pod)) {
        let namespace = Arc::clone(&proxy.pod.namespace);
        callers
            .entry(namespace)
            .or_insert_with(|| proxy.pod.clone());
    }
    callers
}

fn tables<'a>(
    compiled: &'a Compiled,
    service: &NamespacedName,
) -> Vec<(Option<&'a Arc<str>>, &'a RouteTable)> {
    compiled.route_tables(service).collect()
}

fn host(service: &NamespacedName) -> String {
    format!("{}.{}", service.name, service.namespace)
}

fn usual(service: &NamespacedName) -> Request {
    Request {
        host: host(service),
        method: "GET".to_owned(),
        path: "/".to_owned(),
        headers: Vec::new(),
    }
}

/// A request for each alternative of each rule.
fn requests(all: &[&Compiled], service: &NamespacedName) -> Vec<Request> {
    let host = host(service);
    let mut requests = vec![usual(service)];
    for compiled in all {
        for (_, table) in compiled.route_tables(service) {
            let entries = table.hosts.iter().flat_map(|of| &of.entries);
            let examples = entries.filter_map(|entry| entry.matcher.example(&host));
            let examples = examples.map(|mut request| {
                request.headers.retain(|(name, _)| name != "host");
                request
            });
            for request in examples {
                if !requests.contains(&request) {
                    requests.push(request);
                }
            }
        }
    }
    requests
}

fn call(from: &WorkloadRef, service: &Service, port: u16, request: &Request) -> Call {
    Call {
        from: from.clone(),
        host: host(&service.name),
        port,
        tls: false,
        method: request.method.clone(),
        path: request.path.clone(),
        headers: request.headers.clone(),
    }
}

fn in_words(request: &Request) -> String {
    let headers = request.headers.iter();
    let headers: String = headers
        .map(|(name, value)| format!(", {name}: {value}"))
        .collect();
    format!("{} {}{headers}", request.method, request.path)
}

/// The way of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Way {
    text: String,
    /// Whether it can reach an application.
    arrives: bool,
}

impl Way {
    fn of(compiled: &Compiled, call: &Call) -> Self {
        match compiled.explain(call) {
            Ok(explanation) => Self::explained(&explanation),
            Err(unexplained) => Self {
                text: unexplained.message,
                arrives: false,
            },
        }
    }

    fn explained(explanation: &Explanation) -> Self {
        // Permissions are judged at the servers.
        let stopped = explanation.stopped.as_ref();
        if let Some(stopped) = stopped.filter(|stopped| **stopped != Stopped::DeniedByAll) {
            return Self {
                text: why::stop(stopped),
                arrives: false,
            };
        }
        let backends = &explanation.backends;
        let sum = backends.iter().map(|of| u64::from(of.weight)).sum();
        let mut shares: Vec<String> = backends.iter().map(|of| share(of, sum)).collect();
        shares.sort();
        Self {
            text: shares.join(", "),
            arrives: backends.iter().any(|of| !of.servers.is_empty()),
        }
    }
}

fn share(of: &ExplainedBackend, sum: u64) -> String {
    let none = match of.servers.is_empty() {
        true => " (no endpoint)",
        false => "",
    };
    format!("{} {}{none}", why::share(of.weight, sum), of.backend)
}

/// Adds a namespace to an equal entry of the service, or an entry.
fn add(
    found: &mut Vec<Rerouted>,
    first: usize,
    namespace: &str,
    call: &Call,
    (request, before, after): (String, Way, Way),
) {
    let mut of_service = found.iter_mut().skip(first);
    let known = of_service.find(|other| {
        let own = (call.port, &request, &before.text, &after.text);
        own == (other.port, &other.request, &other.before, &other.after)
    });
    if let Some(known) = known {
        known.caller_namespaces.push(namespace.to_owned());
        return;
    }
    let (name, namespace_of_service) = call.host.split_once('.').unwrap_or_default();
    found.push(Rerouted {
        service: format!("{namespace_of_service}/{name}"),
        port: call.port,
        request,
        caller_namespaces: vec![namespace.to_owned()],
        cut: before.arrives && !after.arrives,
        before: before.text,
        after: after.text,
        observed_per_second: None,
    });
}

/// The observed traffic from the namespaces of callers to the service.
fn rate(flows: &Flows, rerouted: &Rerouted) -> Option<f64> {
    let namespaces: BTreeSet<&str> = rerouted
        .caller_namespaces
        .iter()
        .map(String::as_str)
        .collect();
    let to = |flow: &&Flow| {
        let destination = &flow.destination;
        format!("{}/{}", destination.namespace, destination.name) == rerouted.service
            && namespaces.contains(&*flow.source.namespace)
            && flow.port.is_none_or(|port| port == rerouted.port)
    };
    let rates: Vec<f64> = flows.all.iter().filter(to).map(Flow::rate).collect();
    (!rates.is_empty()).then(|| rates.iter().sum())
}
