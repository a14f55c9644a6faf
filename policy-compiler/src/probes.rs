//! Requests of the kubelet to a pod: probes and lifecycle hooks.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::finding::{Finding, ObjectRef};
use crate::world::{Interner, Port, Probe, ProbeKind};

/// The name of the sidecar's container, regular or init.
pub const PROXY_CONTAINER: &str = "heddle-proxy";

/// One request of the kubelet that uses the network, as Kubernetes describes it.
#[derive(Clone, Copy)]
enum Handler<'a> {
    Http(&'a core::HTTPGetAction),
    Grpc(&'a core::GRPCAction),
    Tcp(&'a core::TCPSocketAction),
}

/// The fix of a port that is not found. The kubelet cannot send such a request either.
const PORT_FIX: &str = "name a port of the same container, or a number";

/// Reads the probes and lifecycle hooks of all containers that have them.
pub(crate) fn probes(
    spec: &core::PodSpec,
    pod: &ObjectRef,
    interner: &mut Interner,
    findings: &mut Vec<Finding>,
) -> Vec<Probe> {
    let mut found = Vec::new();
    for (container, field, handler) in handlers(spec) {
        match read(handler, container, interner) {
            Ok(probe) => found.push(probe),
            Err(reason) => {
                let field = place(container, field);
                let finding = Finding::warning(pod, field, "ProbePortUnknown", reason);
                findings.push(finding.fix(PORT_FIX));
            }
        }
    }
    found.sort();
    found.dedup();
    found
}

/// Returns the ports that the kubelet probes by a mere connection, and a message for each port that cannot be resolved.
#[must_use]
pub fn tcp_probe_ports(spec: &core::PodSpec) -> (BTreeSet<u16>, Vec<String>) {
    let (mut ports, mut unresolved) = (BTreeSet::new(), Vec::new());
    for (container, field, handler) in handlers(spec) {
        let Handler::Tcp(tcp) = handler else { continue };
        match port_of(&tcp.port, container) {
            Ok(port) => _ = ports.insert(port.get()),
            Err(reason) => {
                let place = place(container, field);
                unresolved.push(format!("{place}: {reason}; {PORT_FIX}"));
            }
        }
    }
    (ports, unresolved)
}

/// Returns the field and the port of a probe or hook that a port of the sidecar refuses. The readiness port answers everybody.
pub(crate) fn refused_probe(spec: &core::PodSpec) -> Option<(String, u16)> {
    handlers(spec).find_map(|(container, field, handler)| {
        let port = match handler {
            Handler::Http(http) => port_of(&http.port, container).ok()?.get(),
            Handler::Tcp(tcp) => port_of(&tcp.port, container).ok()?.get(),
            Handler::Grpc(grpc) => u16::try_from(grpc.port).ok()?,
        };
        let refuses = heddle_ports::is_reserved(port) && port != heddle_ports::READINESS;
        refuses.then(|| (place(container, field), port))
    })
}

/// The containers with the application's ports, probes and lifecycle hooks, in the order in which Kubernetes looks for a named port
/// (`FindPort` in `pkg/api/v1/pod/util.go`): containers, then restartable init containers.
pub(crate) fn applications(spec: &core::PodSpec) -> impl Iterator<Item = &core::Container> {
    let sidecars = spec
        .init_containers
        .iter()
        .flatten()
        .filter(|c| c.restart_policy.as_deref() == Some("Always"));
    spec.containers
        .iter()
        .chain(sidecars)
        .filter(|c| c.name != PROXY_CONTAINER)
}

fn place(container: &core::Container, field: &str) -> String {
    let list = if container.restart_policy.is_some() {
        "spec.initContainers"
    } else {
        "spec.containers"
    };
    format!("{list}[{}].{field}", container.name)
}

/// Returns the handlers that use the network; `exec` and `sleep` do not.
fn handlers(
    spec: &core::PodSpec,
) -> impl Iterator<Item = (&core::Container, &'static str, Handler<'_>)> {
    applications(spec).flat_map(|container| {
        let lifecycle = container.lifecycle.as_ref();
        let probes = [
            ("livenessProbe", &container.liveness_probe),
            ("readinessProbe", &container.readiness_probe),
            ("startupProbe", &container.startup_probe),
        ];
        let probes = probes.into_iter().filter_map(|(field, probe)| {
            let probe = probe.as_ref()?;
            let handler = handler(&probe.http_get, &probe.tcp_socket);
            let grpc = probe.grpc.as_ref().map(Handler::Grpc);
            Some((field, handler.or(grpc)?))
        });
        let hooks = [
            (
                "lifecycle.postStart",
                lifecycle.and_then(|l| l.post_start.as_ref()),
            ),
            (
                "lifecycle.preStop",
                lifecycle.and_then(|l| l.pre_stop.as_ref()),
            ),
        ];
        let hooks = hooks.into_iter().filter_map(|(field, hook)| {
            let hook = hook?;
            Some((field, handler(&hook.http_get, &hook.tcp_socket)?))
        });
        let all = probes.chain(hooks);
        all.map(move |(field, handler)| (container, field, handler))
    })
}

/// Returns the request to the pod. With a `host`, the kubelet sends it to that host, and the pod must not open a port for it.
fn handler<'a>(
    http: &'a Option<core::HTTPGetAction>,
    tcp: &'a Option<core::TCPSocketAction>,
) -> Option<Handler<'a>> {
    let here = |host: &Option<String>| host.as_deref().is_none_or(str::is_empty);
    match (http, tcp) {
        (Some(http), _) => here(&http.host).then_some(Handler::Http(http)),
        (None, tcp) => {
            let tcp = tcp.as_ref().filter(|tcp| here(&tcp.host));
            tcp.map(Handler::Tcp)
        }
    }
}

fn read(
    handler: Handler<'_>,
    container: &core::Container,
    interner: &mut Interner,
) -> Result<Probe, String> {
    Ok(match handler {
        Handler::Http(http) => {
            let path = interner.text(&sent_path(http.path.as_deref().unwrap_or_default()));
            Probe {
                port: port_of(&http.port, container)?,
                kind: match http.scheme.as_deref() {
                    Some("HTTPS") => ProbeKind::Https { path },
                    _ => ProbeKind::Http { path },
                },
            }
        }
        Handler::Grpc(grpc) => Probe {
            port: number(grpc.port)?,
            kind: ProbeKind::Grpc,
        },
        Handler::Tcp(tcp) => Probe {
            port: port_of(&tcp.port, container)?,
            kind: ProbeKind::Tcp,
        },
    })
}

fn number(port: i32) -> Result<Port, String> {
    Port::try_from(port).map_err(|n| format!("{n} is not a port"))
}

/// Resolves a port as the kubelet does: a name means a port of the same container, else it may be a number in quotes.
fn port_of(port: &IntOrString, container: &core::Container) -> Result<Port, String> {
    match port {
        IntOrString::Int(port) => number(*port),
        IntOrString::String(name) => {
            let mut ports = container.ports.iter().flatten();
            let named = ports.find(|port| port.name.as_deref() == Some(name));
            let found = named.map(|port| port.container_port);
            match found.or_else(|| name.parse().ok()) {
                Some(port) => number(port),
                None => Err(format!("no port of the container is named {name:?}")),
            }
        }
    }
}

/// The path as the kubelet sends it: path and query of a URL, else the whole text as a path (`formatURL` in
/// `pkg/probe/http/request.go` of Kubernetes, `net/url` of Go).
fn sent_path(declared: &str) -> String {
    let all = || (escaped(declared.as_bytes()), "");
    let (path, query) = url(declared).unwrap_or_else(all);
    let slash = if path.starts_with('/') { "" } else { "/" };
    format!("{slash}{path}{query}")
}

/// The path and the query of a URL; `None` if Go reads none.
fn url(text: &str) -> Option<(String, &str)> {
    let (text, fragment) = text.split_once('#').unwrap_or((text, ""));
    unescaped(fragment)?;
    if text.bytes().any(|b| b.is_ascii_control()) {
        return None;
    }
    let (text, query) = text.split_at(text.find('?').unwrap_or(text.len()));
    let of_scheme = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
    let scheme = text.split_once(':').filter(|(scheme, _)| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic()) && scheme.chars().all(of_scheme)
    });
    let rest = scheme.map_or(text, |(_, rest)| rest);
    let first = rest.split('/').next().unwrap_or_default();
    if first.contains(':') || (scheme.is_some() && !first.is_empty()) {
        return None;
    }
    let authority = rest.strip_prefix("//");
    let path = match authority.filter(|rest| scheme.is_some() || !rest.starts_with('/')) {
        Some(rest) => {
            let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            let host = authority
                .rsplit_once('@')
                .map_or(authority, |(_, host)| host);
            let port = match host.rsplit_once(']') {
                Some((_, port)) => port.strip_prefix(':').or(port.is_empty().then_some(""))?,
                None if host.starts_with('[') => return None,
                None => host.rsplit_once(':').map_or("", |(_, port)| port),
            };
            port.bytes().all(|b| b.is_ascii_digit()).then_some(path)?
        }
        None => rest,
    };
    let decoded = unescaped(path)?;
    let sound = |b: u8| is_plain(b) || b"!'()*[]%".contains(&b);
    let path = match path.bytes().all(sound) {
        true => path.to_owned(),
        false => escaped(&decoded),
    };
    Some((path, query))
}

/// A byte that Go leaves as it is in a path.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@".contains(&byte)
}

fn escaped(path: &[u8]) -> String {
    let mut text = String::with_capacity(path.len());
    for byte in path {
        match is_plain(*byte) {
            true => text.push(char::from(*byte)),
            false => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

/// The bytes of a path; `None` if an escape is none.
fn unescaped(path: &str) -> Option<Vec<u8>> {
    let mut parts = path.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        let sound = digits.bytes().all(|b| b.is_ascii_hexdigit());
        bytes.push(u8::from_str_radix(digits, 16).ok().filter(|_| sound)?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    Some(bytes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::kind::ObjectKind;
    use serde_json::json;

    #[test]
    fn a_path_is_sent_with_its_query() {
        for (declared, sent) in [
            ("", "/"),
            ("live", "/live"),
            ("/a b?full=a%20b&x", "/a%20b?full=a%20b&x"),
            ("/live?", "/live?"),
            ("/live?a?b#c?d", "/live?a?b"),
            ("?a", "/?a"),
            ("/a%2Fb", "/a%2Fb"),
            ("/a b%2Fc", "/a%20b/c"),
            ("/a%zz?b#c", "/a%25zz%3Fb%23c"),
            ("http://10.0.0.1:80/live?x", "/live?x"),
            ("//app/live", "/live"),
            ("///live", "///live"),
            ("//app:x/live", "//app:x/live"),
            ("http://u:pw@app/live", "/live"),
            ("//[::1]/live", "/live"),
            ("//[::1]:80/live", "/live"),
            ("//[::1/live", "//%5B::1/live"),
            ("/live#%zz", "/live%23%25zz"),
            ("/live\t?a", "/live%09%3Fa"),
            ("a:b", "/a:b"),
            ("mailto:x", "/mailto:x"),
            ("/a:b", "/a:b"),
        ] {
            assert_eq!(sent_path(declared), sent, "{declared}");
        }
    }

    #[test]
    fn a_request_of_the_kubelet_to_another_host_opens_no_port_of_the_pod() {
        let spec = json!({"containers": [{
            "name": "app",
            "livenessProbe": {"httpGet": {"host": "192.0.2.1", "port": 8001}},
            "readinessProbe": {"tcpSocket": {"host": "db.example.com", "port": 8002}},
            "startupProbe": {"tcpSocket": {"host": "", "port": 8003}},
            "lifecycle": {
                "preStop": {"httpGet": {"host": "127.0.0.1", "port": 8004}},
                "postStart": {"httpGet": {"port": 8005}},
            },
        }]});
        let spec: core::PodSpec = serde_json::from_value(spec).unwrap();
        let pod = ObjectRef::new(ObjectKind::Pod, "shop", "cart");
        let mut findings = Vec::new();
        let found = probes(&spec, &pod, &mut Interner::default(), &mut findings);
        let ports: Vec<u16> = found.iter().map(|probe| probe.port.get()).collect();
        assert_eq!((ports, findings), (vec![8003, 8005], Vec::new()));
        assert_eq!(tcp_probe_ports(&spec).0, BTreeSet::from([8003]));
    }
}
