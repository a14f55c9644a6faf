//! For tests of printers: a text that tries to command the terminal or to forge a line, in every place that somebody else fills.

use heddle_policy_compiler::ingest;
use heddle_xds_types::edges::{Edge, EdgeCounts, EdgesReport, Protocol, Reporter};
use serde_json::{Value, json};

use crate::edges::graph::Graph;
use crate::flows::Flows;
use crate::replicas::Replica;
use crate::sources::{Objects, Outcome};

/// The input of printers, full of one text.
pub struct Hostile {
    /// The text.
    pub text: String,
    /// Objects with the text in their fields, and objects that have it as their name.
    pub outcome: Outcome,
    /// Traffic of the mesh.
    pub graph: Graph,
}

impl Hostile {
    pub fn new(text: &str) -> Self {
        let (mut objects, mut findings) = (Vec::new(), Vec::new());
        for value in self::objects(text) {
            let (read, found) = ingest::parse_json(text, value);
            objects.extend(read);
            findings.extend(found);
        }
        let none = Objects::default();
        let mut outcome = none.with(objects, &Objects::default()).compile();
        outcome.findings.extend(findings);
        outcome.skipped.insert(text.to_owned(), 1);
        Self {
            text: text.to_owned(),
            outcome,
            graph: graph(text),
        }
    }

    /// The text twice.
    pub fn texts(&self) -> Vec<String> {
        vec![self.text.clone(); 2]
    }

    /// Observed flows.
    pub fn flows(&self) -> Flows {
        Flows::of(&self.graph)
    }
}

fn objects(text: &str) -> Vec<Value> {
    let meta = |name: &str| json!({"name": name, "namespace": "shop", "generation": 1});
    let ours = |kind: &str, name: &str, spec: Value| json!({"apiVersion": "heddle.dev/v1alpha1", "kind": kind, "metadata": meta(name), "spec": spec});
    let path = format!("/{text}");
    let headers = json!([{"name": "x-a", "exact": text}]);
    let rules = json!([{"from": {"identities": [text], "namespaces": [text]}, "to": {"paths": [path], "headers": headers}},
        {"from": {"identities": ["shop/api"]}}]);
    let mut all = cluster(text);
    let change = json!({"set": [{"name": "x-a", "value": text}], "remove": [text]});
    let mut route = ours(
        "HTTPRoute",
        "r",
        json!({"parentRefs": [{"group": "", "kind": "Service", "name": "api"}],
        "rules": [{"matches": [{"path": {"value": path}, "headers": [{"name": "x-a", "value": text}]}],
            "filters": [{"type": "RequestHeaderModifier", "requestHeaderModifier": change}],
            "backendRefs": [{"name": text, "port": 80}]}]}),
    );
    route["apiVersion"] = json!("gateway.networking.k8s.io/v1");
    let backends = json!([{"service": "api", "weight": 1}, {"service": text, "weight": 1}, {"labels": {"more": text}, "weight": 1}]);
    let mut split = ours(
        "TrafficSplit",
        "s",
        json!({"service": "api", "matches": [{"path": {"exact": path}, "headers": headers}], "backends": backends}),
    );
    split["status"] = json!({"proxies": text, "conditions": [{"type": "Programmed", "status": "True", "reason": text, "message": text}]});
    all.extend([
        ours(
            "AuthPolicy",
            "p",
            json!({"selector": {"matchLabels": {"app": "api"}}, "rules": rules}),
        ),
        ours(
            "AuthPolicy",
            text,
            json!({"selector": {"matchLabels": {text: text}}, "rules": rules}),
        ),
        ours("AuthPolicy", "unreadable", json!({text: text})),
        split,
        route,
        ours(
            "TrafficPolicy",
            "t",
            json!({"target": {"service": "api"}, "faults": [{"match": {"headers": headers}, "abort": {"status": 503, "percent": 1}}],
            "headers": {"request": change}, "rateLimits": [{"requests": 1, "match": {"headers": headers}}]}),
        ),
        ours(
            "TrafficPolicy",
            "other",
            json!({"target": {"service": text}}),
        ),
        ours(
            "ExternalService",
            "e",
            json!({"hosts": [text], "ports": [{"port": 443, "protocol": text}]}),
        ),
        ours(text, text, json!({})),
    ]);
    all
}

/// A Mesh, services and pods.
fn cluster(text: &str) -> Vec<Value> {
    let meta = |name: &str| json!({"name": name, "namespace": "shop", "generation": 1});
    let port = json!([{"name": "http", "port": 80, "targetPort": 8080}]);
    let service = |name: &str, labels: Value| {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": meta(name),
            "spec": {"clusterIP": "10.96.0.1", "selector": labels, "ports": port}})
    };
    let pod = |name: &str, account: &str, last: u8| {
        json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop", "labels": {"app": "api", "more": text}, "annotations": {"heddle.dev/destinations": text}},
        "spec": {"serviceAccountName": account, "nodeName": text,
            "initContainers": [{"name": "heddle-proxy", "image": text, "restartPolicy": "Always"}],
            "containers": [{"name": text, "image": text, "ports": [{"containerPort": 8080, "name": text}]}]},
        "status": {"phase": "Running", "podIPs": [{"ip": format!("10.0.0.{last}")}], "conditions": [{"type": "Ready", "status": "True"}]}})
    };
    let mut named = pod(text, "api", 3);
    named["metadata"]["namespace"] = json!(text);
    vec![
        json!({"apiVersion": "heddle.dev/v1alpha1", "kind": "Mesh", "metadata": {"name": "default"}, "spec": {}}),
        service("api", json!({"app": "api"})),
        service(text, json!({"app": text})),
        pod("api-0", "api", 1),
        pod("other-0", text, 2),
        named,
    ]
}

fn graph(text: &str) -> Graph {
    let edge = |reporter, name: &str| Edge {
        reporter,
        namespace: name.to_owned(),
        workload: name.to_owned(),
        identity: text.to_owned(),
        peer: text.to_owned(),
        service_namespace: name.to_owned(),
        service: name.to_owned(),
        backend: format!("out|{text}/{text}|80"),
        protocol: Protocol::Http,
        first_seconds_ago: Some(1),
        last_seconds_ago: Some(1),
        counts: EdgeCounts {
            responses: [0, 0, 1, 0, 0, 1],
            failures: 1,
            ..EdgeCounts::default()
        },
    };
    // The second one is of a pod of the objects.
    let edges =
        [Reporter::Source, Reporter::Destination].map(|of| [edge(of, text), edge(of, "shop")]);
    let report = EdgesReport {
        covered_seconds: 10,
        edges: edges.into_iter().flatten().collect(),
        ..EdgesReport::default()
    };
    let replica = |answer| Replica {
        name: text.to_owned(),
        answer,
    };
    Graph::of(vec![replica(Ok(report)), replica(Err(text.to_owned()))])
}
