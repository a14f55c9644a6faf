//! The input of the control plane: pods and services of a test, and the endpoints that a cluster would make of them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::{Value, json};

/// The namespace of everything.
pub(crate) const NAMESPACE: &str = "shop";

/// The ports at which every application listens.
pub mod port {
    /// HTTP/1.1 and HTTP/2.
    pub const HTTP: u16 = 8080;
    /// The same again.
    pub const OTHER_HTTP: u16 = 8081;
    /// The same, for gRPC.
    pub const GRPC: u16 = 9090;
    /// The server speaks first: its name, then the client's line back.
    pub const BANNER: u16 = 3306;
    /// Sends back each byte.
    pub const ECHO: u16 = 7000;
    /// The same again.
    pub const OTHER_ECHO: u16 = 7002;
    /// Sends back all bytes after the last one.
    pub const LATE: u16 = 7001;
    /// HTTP/1.1 over the application's own TLS. No pod declares it.
    pub const HTTPS: u16 = 8443;
    /// [`HTTP`] again, at every port between the sidecar's lowest and highest that is not the sidecar's.
    pub fn between() -> impl Iterator<Item = u16> {
        (15000..=15021).filter(|port| !heddle_ports::is_reserved(*port))
    }
    /// [`HTTP`], [`ECHO`] and [`BANNER`] as ports of a service without a declared protocol.
    pub const ANY: [u16; 3] = [180, 17000, 13306];
}

/// The ports of a service by default: name, port, target.
const PORTS: [(&str, u16, u16); 8] = [
    ("http", 80, port::HTTP),
    ("grpc", 90, port::GRPC),
    ("tcp-banner", port::BANNER, port::BANNER),
    ("tcp-echo", port::ECHO, port::ECHO),
    ("tcp-late", port::LATE, port::LATE),
    ("any-http", port::ANY[0], port::HTTP),
    ("any-echo", port::ANY[1], port::ECHO),
    ("any-banner", port::ANY[2], port::BANNER),
];

/// A pod, as the API shows it.
#[derive(Clone, Debug)]
pub struct PodSpec {
    /// `<workload>-<number>`.
    pub name: String,
    /// Its owner.
    pub workload: String,
    /// Its service account.
    pub account: String,
    /// `app: <workload>`, and the labels that a test adds.
    pub labels: BTreeMap<String, String>,
    /// None, but those that a test adds.
    pub annotations: BTreeMap<String, String>,
    /// An address of either family.
    pub ips: Vec<IpAddr>,
    /// Whether it has a sidecar.
    pub meshed: bool,
    /// Whether it is a ready endpoint.
    pub ready: bool,
    /// Whether it is being deleted: it runs on, and takes no new traffic of its services.
    pub terminating: bool,
    /// The addresses at which its application listens.
    pub listens: IpAddr,
    /// Further fields of its application's container, such as probes and lifecycle hooks.
    pub container: Value,
}

impl PodSpec {
    /// A ready pod with a sidecar; workload and account are its name without the number.
    pub fn new(name: &str) -> Self {
        let workload = name.rsplit_once('-').map_or(name, |(workload, _)| workload);
        Self {
            name: name.to_owned(),
            workload: workload.to_owned(),
            account: workload.to_owned(),
            labels: BTreeMap::from([("app".to_owned(), workload.to_owned())]),
            annotations: BTreeMap::new(),
            ips: Vec::new(),
            meshed: true,
            ready: true,
            terminating: false,
            listens: Ipv6Addr::UNSPECIFIED.into(),
            container: Value::Null,
        }
    }

    /// With an application that listens on IPv4 alone.
    #[must_use]
    pub fn ipv4_only(mut self) -> Self {
        self.listens = Ipv4Addr::UNSPECIFIED.into();
        self
    }

    /// The same without a sidecar.
    pub fn plain(name: &str) -> Self {
        Self {
            meshed: false,
            ..Self::new(name)
        }
    }

    /// With this label.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.insert(key.to_owned(), value.to_owned());
        self
    }

    /// With this service account.
    #[must_use]
    pub fn account(mut self, account: &str) -> Self {
        account.clone_into(&mut self.account);
        self
    }

    /// With this annotation.
    #[must_use]
    pub fn annotation(mut self, key: &str, value: &str) -> Self {
        self.annotations.insert(key.to_owned(), value.to_owned());
        self
    }

    /// With these fields of its application's container.
    #[must_use]
    pub fn container(mut self, fields: Value) -> Self {
        self.container = fields;
        self
    }

    fn object(&self) -> Value {
        let ports = [
            ("http", port::HTTP),
            ("http-other", port::OTHER_HTTP),
            ("grpc", port::GRPC),
            ("tcp-banner", port::BANNER),
            ("tcp-echo", port::ECHO),
            ("tcp-other-echo", port::OTHER_ECHO),
            ("tcp-late", port::LATE),
        ];
        let ports = ports.map(|(name, port)| json!({"name": name, "containerPort": port}));
        let mut app = json!({"name": "app", "image": "app", "ports": ports});
        if let (Value::Object(app), Value::Object(further)) = (&mut app, &self.container) {
            app.extend(further.clone());
        }
        let mut containers = vec![app];
        containers.extend(
            self.meshed
                .then(|| json!({"name": "heddle-proxy", "image": "heddle"})),
        );
        let deleted = self.terminating.then_some("2026-01-01T01:00:00Z");
        let owner = json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "name": self.workload, "uid": self.workload, "controller": true});
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": self.name, "namespace": NAMESPACE, "labels": self.labels, "annotations": self.annotations,
                "ownerReferences": [owner], "deletionTimestamp": deleted,
            },
            "spec": {"serviceAccountName": self.account, "containers": containers},
            "status": {
                "phase": "Running",
                "podIP": self.ips.first(),
                "podIPs": self.ips.iter().map(|ip| json!({"ip": ip})).collect::<Vec<_>>(),
                "conditions": [{"type": "Ready", "status": if self.ready { "True" } else { "False" }}],
            },
        })
    }
}

/// A service.
#[derive(Clone, Debug)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// Labels of its pods.
    pub selector: BTreeMap<String, String>,
    /// One of either family; none: headless.
    pub ips: Vec<IpAddr>,
    /// Name, port, target.
    pub ports: Vec<(String, u16, u16)>,
    /// Labels, which mean nothing.
    pub labels: BTreeMap<String, String>,
}

impl Service {
    /// A service of the pods with the label `app: <name>`.
    pub fn new(name: &str) -> Self {
        Self::of(name, "app", name)
    }

    /// A service of the pods with this label.
    pub fn of(name: &str, key: &str, value: &str) -> Self {
        Self {
            name: name.to_owned(),
            selector: BTreeMap::from([(key.to_owned(), value.to_owned())]),
            ips: Vec::new(),
            ports: PORTS
                .iter()
                .map(|(name, port, target)| ((*name).to_owned(), *port, *target))
                .collect(),
            labels: BTreeMap::new(),
        }
    }

    fn object(&self) -> Value {
        let ports: Vec<Value> = self
            .ports
            .iter()
            .map(|(name, port, target)| json!({"name": name, "port": port, "targetPort": target}))
            .collect();
        let ips = if self.ips.is_empty() {
            json!(["None"])
        } else {
            json!(self.ips)
        };
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": self.name, "namespace": NAMESPACE, "labels": self.labels},
            "spec": {"clusterIP": ips.get(0), "clusterIPs": ips, "selector": self.selector, "ports": ports},
        })
    }

    fn selects(&self, pod: &PodSpec) -> bool {
        self.selector
            .iter()
            .all(|(key, value)| pod.labels.get(key) == Some(value))
    }

    /// A slice of either family, as the cluster's own controller makes them.
    fn slices(&self, pods: &BTreeMap<String, PodSpec>) -> Vec<Value> {
        let ports: Vec<Value> = self
            .ports
            .iter()
            .map(|(name, _, target)| json!({"name": name, "port": target, "protocol": "TCP"}))
            .collect();
        let slice = |family: &str, wanted: fn(&IpAddr) -> bool| {
            let endpoints: Vec<Value> = pods
                .values()
                .filter(|pod| self.selects(pod))
                .filter_map(|pod| {
                    let ip = pod.ips.iter().find(|ip| wanted(ip))?;
                    let target = json!({"kind": "Pod", "namespace": NAMESPACE, "name": pod.name});
                    let ready = pod.ready && !pod.terminating;
                    let conditions = json!({"ready": ready, "serving": pod.ready, "terminating": pod.terminating});
                    Some(json!({"addresses": [ip], "conditions": conditions, "targetRef": target}))
                })
                .collect();
            json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": {
                    "name": format!("{}-{}", self.name, family.to_lowercase()),
                    "namespace": NAMESPACE,
                    "labels": {"kubernetes.io/service-name": self.name},
                },
                "addressType": family, "ports": ports, "endpoints": endpoints,
            })
        };
        vec![
            slice("IPv4", IpAddr::is_ipv4),
            slice("IPv6", IpAddr::is_ipv6),
        ]
    }
}

/// All objects.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// Pods by name.
    pub pods: BTreeMap<String, PodSpec>,
    /// Services by name.
    pub services: BTreeMap<String, Service>,
    others: BTreeMap<(String, String), Value>,
    given: u16,
}

impl World {
    /// Adds a service, with addresses of its own.
    pub fn service(&mut self, mut service: Service) {
        service.ips = self.addresses([10, 96], Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, 0));
        self.services.insert(service.name.clone(), service);
    }

    /// Adds a service with the addresses that it has; with none it is headless.
    pub fn service_as_is(&mut self, service: Service) {
        self.services.insert(service.name.clone(), service);
    }

    /// Adds a pod, with addresses of its own.
    pub(crate) fn pod(&mut self, mut pod: PodSpec) -> PodSpec {
        pod.ips = if pod.meshed {
            self.addresses([10, 244], Ipv6Addr::new(0xfd00, 0x244, 0, 0, 0, 0, 0, 0))
        } else {
            let mut ips = self.addresses([10, 244], Ipv6Addr::new(0xfd00, 0x244, 1, 0, 0, 0, 0, 0));
            for ip in &mut ips {
                if let IpAddr::V4(v4) = ip {
                    *ip = Ipv4Addr::from(u32::from(*v4) | 0x100).into();
                }
            }
            ips
        };
        self.pods.insert(pod.name.clone(), pod.clone());
        pod
    }

    /// Sets the one Mesh.
    pub fn mesh(&mut self, spec: Value) {
        self.put("Mesh", "default", spec);
    }

    /// Sets an object of a kind of Heddle.
    pub fn put(&mut self, kind: &str, name: &str, spec: Value) {
        let mut metadata = json!({"name": name});
        if let Some(fields) = metadata.as_object_mut().filter(|_| kind != "Mesh") {
            fields.insert("namespace".to_owned(), json!(NAMESPACE));
        }
        let object = json!({"apiVersion": "heddle.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec});
        self.others
            .insert((kind.to_owned(), name.to_owned()), object);
    }

    /// Takes such an object away.
    pub fn remove(&mut self, kind: &str, name: &str) {
        self.others.remove(&(kind.to_owned(), name.to_owned()));
    }

    /// Divides the calls to a service between two others, in percent.
    pub fn split(&mut self, service: &str, backends: [&str; 2], first: u32) {
        let [a, b] = backends;
        let backends =
            json!([{"service": a, "weight": first}, {"service": b, "weight": 100 - first}]);
        self.put(
            "TrafficSplit",
            service,
            json!({"service": service, "backends": backends}),
        );
    }

    /// Lets only these accounts call the pods of an app (or reports the others, with `Audit`).
    pub fn allow(&mut self, name: &str, app: &str, accounts: &[&str], mode: &str) {
        let identities: BTreeSet<String> = accounts
            .iter()
            .map(|account| format!("{NAMESPACE}/{account}"))
            .collect();
        let spec = json!({
            "selector": {"matchLabels": {"app": app}},
            "mode": mode,
            "rules": [{"from": {"identities": identities}}],
        });
        self.put("AuthPolicy", name, spec);
    }

    /// JSON is YAML; a document each.
    pub(crate) fn documents(&self) -> String {
        let pods = self.pods.values().map(PodSpec::object);
        let services = self.services.values().map(Service::object);
        let slices = self
            .services
            .values()
            .flat_map(|service| service.slices(&self.pods));
        let others = self.others.values().cloned();
        pods.chain(services)
            .chain(slices)
            .chain(others)
            .map(|object| format!("---\n{object}\n"))
            .collect()
    }

    /// The next address of either family; there are enough for some 240 pods and services.
    fn addresses(&mut self, v4: [u8; 2], v6: Ipv6Addr) -> Vec<IpAddr> {
        self.given += 1;
        let number = 9 + self.given;
        let [a, b] = v4;
        let low = u8::try_from(number).unwrap_or(u8::MAX);
        vec![
            Ipv4Addr::new(a, b, 0, low).into(),
            Ipv6Addr::from(u128::from(v6) | u128::from(number)).into(),
        ]
    }
}
