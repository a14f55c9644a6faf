//! The existing parts of a service while it is being changed, and its objects. Pure.

use heddle_bench::mesh::{APP_PORT, PODS, PORT, namespace_of, pod_ip, pod_name, service_name};
use heddle_bench::objects::{self, NODE, Ready};
use heddle_bench::random::Random;
use serde_json::{Value, json};

/// Of our own kinds.
pub const GROUP: &str = "heddle.dev/v1alpha1";
/// Labels that splits choose by.
pub const VERSIONS: usize = 3;
const EXTRA_PORT: u16 = 81;
const SERVICES_OF_A_NAMESPACE: usize = 10;

/// The protocol that a port declares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Http,
    Tcp,
    Undeclared,
}

impl Protocol {
    pub fn next(self) -> Self {
        match self {
            Self::Http => Self::Tcp,
            Self::Tcp => Self::Undeclared,
            Self::Undeclared => Self::Http,
        }
    }

    fn put(self, mut port: Value) -> Value {
        let protocol = match self {
            Self::Http => json!("http"),
            Self::Tcp => json!("tcp"),
            Self::Undeclared => Value::Null,
        };
        if let Some(port) = port.as_object_mut() {
            port.insert("appProtocol".to_owned(), protocol);
        }
        port
    }
}

/// A pod.
#[derive(Debug, Clone, Copy)]
pub struct PodState {
    pub exists: bool,
    /// Which of its addresses it has.
    pub address: usize,
    pub version: usize,
    /// Whether its labels are those that the service selects by.
    pub selected: bool,
}

impl PodState {
    /// So many addresses each has in turn; more than a /24 has room for they must not be.
    pub const ADDRESSES: usize = 24;

    pub fn labels(self, service: usize) -> Value {
        let app = if self.selected {
            service_name(service)
        } else {
            "other".to_owned()
        };
        json!({"app": app, "version": format!("v{}", self.version)})
    }

    fn ip(self, service: usize, index: usize) -> String {
        pod_ip(service, index + PODS * self.address)
    }
}

/// A service with its pods and its own split and policy.
#[derive(Debug, Clone)]
pub struct Service {
    pub number: usize,
    pub exists: bool,
    /// Whether it has a second port.
    pub extra: bool,
    pub protocol: Protocol,
    pub pods: [PodState; PODS],
    pub split: bool,
    pub policy: bool,
}

impl Service {
    /// As the mesh is filled, but for the parts that [`super`] takes away.
    pub fn filled(number: usize) -> Self {
        let pod = PodState {
            exists: true,
            address: 0,
            version: 0,
            selected: true,
        };
        Self {
            number,
            exists: true,
            extra: false,
            protocol: Protocol::Http,
            pods: [pod; PODS],
            split: false,
            policy: false,
        }
    }

    /// The service itself.
    pub fn object(&self) -> Value {
        let mut object = objects::service(self.number);
        if let Some(ports) = object.pointer_mut("/spec/ports") {
            *ports = self.ports();
        }
        object
    }

    pub fn ports(&self) -> Value {
        let port = |name: &str, port: u16| json!({"name": name, "port": port, "targetPort": APP_PORT, "protocol": "TCP"});
        let mut ports = vec![self.protocol.put(port("main", PORT))];
        if self.extra {
            ports.push(Protocol::Http.put(port("extra", EXTRA_PORT)));
        }
        Value::Array(ports)
    }

    pub fn slice_ports(&self) -> Value {
        let port = |name: &str| json!({"name": name, "port": APP_PORT, "protocol": "TCP"});
        let mut ports = vec![self.protocol.put(port("main"))];
        if self.extra {
            ports.push(Protocol::Http.put(port("extra")));
        }
        Value::Array(ports)
    }

    pub fn slice(&self, random: &mut Random) -> Value {
        let mut object = objects::slice(self.number, Ready::all());
        if let Some(object) = object.as_object_mut() {
            object.insert("ports".to_owned(), self.slice_ports());
            object.insert("endpoints".to_owned(), self.endpoints(random));
        }
        object
    }

    /// The list of the slice: the pods that are selected, ready or not.
    pub fn endpoints(&self, random: &mut Random) -> Value {
        let namespace = namespace_of(self.number);
        let there = self.pods.iter().enumerate();
        let there = there.filter(|(_, pod)| pod.exists && pod.selected);
        there
            .map(|(index, pod)| {
                let ready = random.below(4) > 0;
                // Some of those that are not ready end, and still answer.
                let ending = !ready && random.below(2) == 0;
                json!({
                    "addresses": [pod.ip(self.number, index)],
                    "conditions": {"ready": ready, "serving": ready || ending, "terminating": ending},
                    "nodeName": NODE,
                    "targetRef": {"kind": "Pod", "namespace": namespace, "name": pod_name(self.number, index)},
                })
            })
            .collect()
    }

    /// A pod and its status.
    pub fn pod(&self, index: usize) -> (Value, Value) {
        let (mut object, mut status) = (
            objects::pod(self.number, index),
            objects::pod_status(self.number, index),
        );
        let Some(pod) = self.pods.get(index) else {
            return (object, status);
        };
        if let (Some(labels), Some(own)) = (
            object
                .pointer_mut("/metadata/labels")
                .and_then(Value::as_object_mut),
            pod.labels(self.number).as_object(),
        ) {
            labels.extend(own.clone());
        }
        let ip = pod.ip(self.number, index);
        for path in ["/status/podIP", "/status/podIPs/0/ip"] {
            if let Some(place) = status.pointer_mut(path) {
                *place = json!(ip);
            }
        }
        (object, status)
    }

    /// Calls go to two others of the namespace, or to two versions of its own pods; or to a service that does not exist.
    pub fn split_object(&self, faulty: bool, random: &mut Random) -> Value {
        let first = self.number / SERVICES_OF_A_NAMESPACE * SERVICES_OF_A_NAMESPACE;
        let at = random.below(SERVICES_OF_A_NAMESPACE - 1);
        let others = [first + at, first + at + 1].map(service_name);
        let weights = [random.below(100) + 1, random.below(100)];
        let backends: Value = if faulty {
            json!([{"service": "ghost", "weight": weights[0]}])
        } else if random.below(3) == 0 {
            json!([{"labels": {"version": "v0"}, "weight": weights[0]},
                {"labels": {"version": "v1"}, "weight": weights[1]}])
        } else {
            let [a, b] = others;
            json!([{"service": a, "weight": weights[0]}, {"service": b, "weight": weights[1]}])
        };
        let name = service_name(self.number);
        json!({
            "apiVersion": GROUP, "kind": "TrafficSplit",
            "metadata": {"name": name, "namespace": namespace_of(self.number)},
            "spec": {"service": name, "backends": backends},
        })
    }

    /// For its pods: anybody by some paths, or some identities; or for a block of
    /// addresses that is none, which only the control plane notices.
    pub fn policy_object(&self, faulty: bool, random: &mut Random, number: usize) -> Value {
        let name = service_name(self.number);
        let rule = if faulty {
            json!({"from": {"ipBlocks": ["10.0.0.0/99"]}})
        } else if random.below(3) == 0 {
            let namespace = namespace_of(self.number);
            let caller = service_name(random.below(SERVICES_OF_A_NAMESPACE));
            json!({"from": {"identities": [format!("{namespace}/{caller}")]}})
        } else {
            json!({"to": {"paths": ["/*", format!("/mark-{number}")]}})
        };
        json!({
            "apiVersion": GROUP, "kind": "AuthPolicy",
            "metadata": {"name": name, "namespace": namespace_of(self.number)},
            "spec": {"selector": {"matchLabels": {"app": name}}, "rules": [rule]},
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn addresses_of_a_services_pods_never_meet() {
        let mut service = Service::filled(300);
        let mut all = BTreeSet::new();
        for address in 0..PodState::ADDRESSES {
            for (index, pod) in service.pods.iter_mut().enumerate() {
                pod.address = address;
                let ip: std::net::Ipv4Addr = pod.ip(300, index).parse().unwrap();
                assert!(all.insert(ip), "{ip}");
            }
        }
        let (pod, status) = service.pod(9);
        assert_eq!(pod["metadata"]["labels"]["version"], "v0");
        assert_eq!(pod["metadata"]["labels"]["heddle.dev/meshed"], "true");
        assert!(all.contains(&status["status"]["podIP"].as_str().unwrap().parse().unwrap()));
    }
}
