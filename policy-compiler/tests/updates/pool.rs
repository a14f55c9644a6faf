//! Objects of three namespaces, several versions of each name.

use std::fs;
use std::path::Path;

use heddle_policy_compiler::{ObjectKind, ObjectRef};
use serde_json::{Value, json};

use crate::cluster::{
    annotated, ending, external_service, http_route, mesh, of_namespace, pod, policy, service,
    slice, split, traffic_policy, version,
};
use crate::policies::{
    backend_policies, policies_of_callers, policies_of_routes, routes_of_connections,
    weighted_routes,
};

pub fn web(app: &str) -> Value {
    json!({ "app": app })
}

pub fn http() -> Value {
    json!([{"name": "http", "port": 80, "protocol": "TCP", "targetPort": "http"}])
}

/// The namespaces of the pool. The first one has addresses `10.0.*.*` and `10.96.0.*`, the others have their number as second or third octet.
pub const NAMESPACES: [&str; 3] = ["shop", "till", "bank"];

/// Objects of every namespace, several versions of each name, with references across the namespaces.
pub fn pool() -> Vec<Value> {
    let mut pool = meshes();
    for (number, namespace) in NAMESPACES.iter().enumerate() {
        let own = objects().into_iter().chain(fields()).chain(goldens());
        pool.extend(own.map(|value| of_namespace(value, namespace, number)));
        pool.extend(crossing(number));
    }
    pool
}

/// Versions that lead to another namespace: its addresses, its pods, its identities, its services.
fn crossing(number: usize) -> Vec<Value> {
    let other = (number + 1) % NAMESPACES.len();
    let (own, there) = (NAMESPACES[number], NAMESPACES[other]);
    let port = || json!({"name": "http", "port": 8080, "protocol": "TCP"});
    let mut crossing = Vec::new();
    for (index, app) in ["a", "b"].into_iter().enumerate() {
        let ip = format!("10.{other}.{index}.0");
        let target = format!("{app}-0");
        crossing.push(service(
            app,
            &format!("10.96.{other}.{}", index + 1),
            web(app),
            http(),
        ));
        crossing.push(pod(&target, app, &ip, true, true));
        crossing.push(pod(&target, app, &ip, false, true));
        let mut named = slice(&format!("{app}-x"), app, port(), &[(&target, &ip, true)]);
        named["endpoints"][0]["targetRef"]["namespace"] = json!(there);
        crossing.push(named.clone());
        named["endpoints"][0]
            .as_object_mut()
            .unwrap()
            .remove("targetRef");
        crossing.push(named.clone());
        named["metadata"]["name"] = json!(format!("{app}-u"));
        crossing.push(named);
        let destinations = format!("{there}/a, {there}/b:80, {own}/*");
        let caller = pod(
            &format!("{app}-1"),
            app,
            &format!("10.{number}.{index}.1"),
            true,
            true,
        );
        crossing.push(annotated(caller, "heddle.dev/destinations", &destinations));
    }
    for (name, action) in [("p", "Allow"), ("q", "Deny")] {
        let from = json!({"identities": [format!("{there}/b")], "namespaces": [own, there]});
        let rules = json!([{"action": action, "from": from}]);
        crossing.push(policy(
            name,
            json!({"target": {"service": "b"}, "rules": rules}),
        ));
    }
    let address = format!("10.96.{other}.1/32");
    let rules = json!([{"action": "Deny", "from": {"ipBlocks": [address]}}]);
    let by_address = json!({"target": {"service": "a"}, "rules": rules});
    crossing.push(policy("p", by_address));
    for name in ["s", "t"] {
        for (service, namespace) in [("a", own), ("b", own), ("a", there), ("b", there)] {
            let parent =
                json!({"group": "", "kind": "Service", "name": service, "namespace": namespace});
            let backend = |name: &str| json!({"name": name, "namespace": there, "port": 80});
            let backends = [json!({"name": "c", "port": 80}), backend("a"), backend("b")];
            crossing.push(http_route(
                name,
                json!({"parentRefs": [parent], "rules": [{"backendRefs": backends}]}),
            ));
        }
    }
    crossing.extend(policies_of_callers(there));
    for (name, protocol, visible_to) in [
        ("stripe", "TLS", json!([there])),
        ("stripe", "HTTP", json!(["*"])),
        ("stripe", "HTTP", json!([there, own])),
        ("second", "HTTP", json!(["*"])),
    ] {
        let ports = json!([{"port": 443, "protocol": protocol}, {"port": 80, "protocol": "HTTP"}]);
        let hosts = json!([
            "api.stripe.com",
            format!("{own}.example.com"),
            "*.example.com"
        ]);
        let spec = json!({"hosts": hosts, "ports": ports, "visibleTo": visible_to});
        let ports = json!([{"port": 443, "protocol": "TCP"}]);
        let addresses = json!(["203.0.113.0/24"]);
        let by_address = json!({"addresses": addresses, "ports": ports, "visibleTo": visible_to});
        crossing.push(external_service("database", by_address));
        crossing.push(external_service(name, spec));
    }
    for value in &mut crossing {
        value["metadata"]["namespace"] = json!(own);
    }
    // Without the first one, the list of namespaces proves nothing.
    for name in ["kube-system", own] {
        let metadata = json!({"name": name});
        crossing.push(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}));
    }
    crossing
}

/// The policies of the golden inputs, so that the pool has objects of every kind. They name services of the pool.
fn goldens() -> Vec<Value> {
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/ok");
    let mut policies = Vec::new();
    for folder in fs::read_dir(goldens).unwrap() {
        for file in fs::read_dir(folder.unwrap().path()).unwrap() {
            let path = file.unwrap().path();
            if path.to_str().unwrap().ends_with(".out.yaml") {
                continue;
            }
            let text = fs::read_to_string(path).unwrap();
            let text = text.replace("reviews", "a").replace("frontend", "b");
            let objects: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap_or_default();
            let kind = |value: &Value| {
                ObjectKind::by_api(value["apiVersion"].as_str()?, value["kind"].as_str()?)
            };
            let policy = |value: &Value| kind(value).is_some_and(ObjectKind::is_policy);
            policies.extend(objects.into_iter().filter(policy));
        }
    }
    for kind in ObjectKind::ALL.iter().filter(|kind| kind.is_policy()) {
        let resource = kind.resource().unwrap().group;
        let of_group = |value: &Value| value["apiVersion"].as_str().unwrap().starts_with(resource);
        let there = policies
            .iter()
            .any(|value| value["kind"] == kind.api_kind() && of_group(value));
        assert!(there, "no golden input has a {}", kind.as_str());
    }
    // The order of a folder is not the same everywhere.
    policies.sort_by_key(ToString::to_string);
    policies
}

/// Settings.
fn meshes() -> Vec<Value> {
    let specs = [
        json!({}),
        json!({"defaultAction": "Deny"}),
        json!({"outbound": "Deny"}),
        json!({"outboundNamespaces": [{"namespace": "shop", "outbound": "Deny"}]}),
        json!({"outbound": "Deny", "outboundNamespaces": [{"namespace": "till", "outbound": "Allow"}]}),
        json!({"outbound": "Deny", "mode": "Strict"}),
        json!({"bypassedNamespaces": [{"namespace": "shop"}]}),
        json!({"outbound": "Deny", "mode": "Strict", "bypassedNamespaces": [{"namespace": "till"}]}),
        json!({"bypassedNamespaces": [{"namespace": "shop"}, {"namespace": "till", "later": true}]}),
        json!({"outbound": "Deny", "mode": "Strict", "plainDestinations": [{"namespace": "shop", "service": "a"}]}),
        json!({"outbound": "Deny", "mode": "Strict", "plainDestinations": [{"namespace": "till"}]}),
        json!({"mode": "Observe"}),
        json!({"mode": "strict"}),
        json!({"trustDomain": "other"}),
        json!({"scope": {"onDemand": "Disabled"}}),
        json!({"telemetry": {"collector": {"service": {"namespace": "shop", "name": "a", "port": 80}}, "tracing": {"percent": 1}}}),
        json!({"telemetry": {"collector": {"service": {"namespace": "till", "name": "b", "port": 80}}}}),
        json!({"rateLimits": {"server": {"service": {"namespace": "shop", "name": "a", "port": 80}}}}),
        json!({"rateLimits": {"server": {"service": {"namespace": "till", "name": "b", "port": 80}}, "failureMode": "Closed"}}),
        json!({"rateLimits": {"server": {"address": {"host": "10.1.1.1"}}, "timeout": "1s"}}),
        json!({"telemetry": {"collector": {"address": {"host": "collector.example"}}}}),
    ];
    specs.into_iter().map(mesh).collect()
}

/// The objects of one namespace.
fn objects() -> Vec<Value> {
    let mut pool = Vec::new();
    let http_port = json!({"name": "http", "port": 8080, "protocol": "TCP"});
    for (index, app) in ["a", "b", "c"].into_iter().enumerate() {
        let ip = format!("10.96.0.{}", index + 1);
        pool.push(service(app, &ip, web(app), http()));
        pool.push(service(
            app,
            &ip,
            web(app),
            json!([{"name": "tcp", "port": 80, "protocol": "TCP", "targetPort": 8080}]),
        ));
        pool.push(service(app, &ip, web(app), json!([{"name": "x", "port": 80, "protocol": "TCP", "targetPort": "http"}, {"name": "http-2", "port": 81, "protocol": "TCP", "targetPort": 9090}])));
        pool.push(service(app, &ip, web("a"), http()));
        pool.push(service(app, "None", web(app), http()));
        pool.push(service(app, &ip, json!({}), http()));
        pool.push(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": app, "namespace": "shop"},
            "spec": {"type": "ExternalName", "externalName": "example.com"}}));
        for number in 0..2 {
            let name = format!("{app}-{number}");
            let ip = format!("10.0.{index}.{number}");
            pool.push(pod(&name, app, &ip, true, true));
            pool.push(pod(&name, app, &ip, true, false));
            pool.push(pod(&name, app, &ip, false, true));
            // Another app's labels under the same name, and another's address.
            pool.push(pod(&name, "b", &ip, true, true));
            pool.push(pod(&name, app, "10.0.9.9", true, true));
            // In its grace period, at its address or at another's; and ended.
            pool.push(ending(pod(&name, app, &ip, true, number == 0)));
            pool.push(ending(pod(&name, app, "10.0.9.9", true, true)));
            let mut ended = pod(&name, app, &ip, true, false);
            ended["status"]["phase"] = json!("Succeeded");
            pool.push(ended);
            pool.push(annotated(
                pod(&name, app, &ip, true, true),
                "heddle.dev/destinations",
                "shop/a, shop/b:80, till/*",
            ));
        }
        let (zero, one) = (format!("{app}-0"), format!("{app}-1"));
        let (ip0, ip1) = (format!("10.0.{index}.0"), format!("10.0.{index}.1"));
        for ready in [[true, true], [true, false], [false, false]] {
            let pods = [
                (zero.as_str(), ip0.as_str(), ready[0]),
                (one.as_str(), ip1.as_str(), ready[1]),
            ];
            for port in [
                http_port.clone(),
                json!({"name": "tcp", "port": 8080, "protocol": "TCP"}),
            ] {
                let slice = slice(&format!("{app}-x"), app, port, &pods);
                pool.push(version(slice.clone(), "8"));
                pool.push(slice);
            }
        }
        pool.push(slice(
            &format!("{app}-y"),
            app,
            http_port.clone(),
            &[("nobody", "192.0.2.7", true)],
        ));
        // Copies of endpoints of other slices, older and newer, and addresses without a target.
        for (text, ready) in [("7", false), ("9", true)] {
            let copies = [(zero.as_str(), ip0.as_str(), ready)];
            let copy = slice(&format!("{app}-z"), app, http_port.clone(), &copies);
            pool.push(version(copy.clone(), text));
            pool.push(copy);
        }
        for ip in [ip1.as_str(), "10.0.9.9"] {
            let mut bare = slice(
                &format!("{app}-u"),
                app,
                http_port.clone(),
                &[("", ip, true)],
            );
            bare["endpoints"][0]
                .as_object_mut()
                .unwrap()
                .remove("targetRef");
            pool.push(bare);
        }
    }
    for name in ["s", "t"] {
        pool.push(split(name, json!({"service": "a", "backends": [{"service": "b", "weight": 1}, {"service": "c", "weight": 1}]})));
        pool.push(split(name, json!({"service": "b", "port": 80, "backends": [{"labels": {"app": "b"}, "weight": 1}, {"service": "a", "weight": 3}]})));
        pool.push(split(name, json!({"service": "a", "backends": []})));
        for sticky in [
            json!({"header": "x-user"}),
            json!({"cookie": {"name": "a"}}),
        ] {
            pool.push(split(name, json!({"service": "a", "sticky": sticky,
                "backends": [{"service": "b", "weight": 1}, {"labels": {"app": "a"}, "weight": 1}]})));
        }
        pool.push(split(
            name,
            json!({"service": "b", "backends": [{"service": "b", "weight": 1}],
            "mirrors": [{"service": "a", "percent": 12.5}, {"labels": {"app": "b"}}]}),
        ));
        pool.push(traffic_policy(
            name,
            json!({"target": {"service": "a"}, "timeouts": {"request": "1s"}}),
        ));
        pool.push(traffic_policy(
            name,
            json!({"target": {"service": "b"}, "timeouts": {"request": "2s", "perTry": "1s"}}),
        ));
        pool.push(traffic_policy(
            name,
            json!({"target": {"service": "a"}, "timeouts": {"idle": "0s"}}),
        ));
        pool.push(traffic_policy(
            name,
            json!({"target": {"service": "a", "port": 80}, "retries": {"conditions": ["Reset"]}}),
        ));
        pool.push(traffic_policy(
            name,
            json!({"target": {"service": "a"}, "limits": {"connections": 9}, "outlierEjection": {"failures": 0},
                "loadBalancing": {"mode": "ConsistentHash", "hash": {"key": "Cookie", "name": "c"}}}),
        ));
        pool.push(traffic_policy(
            name,
            json!({"target": {"service": "b"}, "retries": {"budget": {"percent": 5}}}),
        ));
        pool.push(traffic_policy(
            name,
            json!({"target": {"service": "a"}, "headers": {"request": {"set": [{"name": "x-a", "value": "1"}]}, "response": {"remove": ["x-b"]}}}),
        ));
        pool.push(traffic_policy(
            name,
            json!({"target": {"service": "a"}, "rateLimits": [{"requests": 5, "perCaller": true}]}),
        ));
        pool.push(traffic_policy(
            name,
            json!({"target": {"service": "a"}, "rateLimits": [{"requests": 5, "shared": true}, {"requests": 1}]}),
        ));
        pool.push(traffic_policy(
            name,
            json!({"target": {"externalService": "stripe"}, "timeouts": {"request": "1s"}, "limits": {"connections": 3}}),
        ));
        pool.push(traffic_policy(
            name,
            json!({"target": {"service": "b"}, "overload": {"concurrency": {}, "admission": {}}}),
        ));
        pool.extend(policies_of_routes(name));
        pool.extend(backend_policies(name));
        pool.extend(routes_of_connections(name));
        pool.extend(weighted_routes(name));
        pool.push(split(name, json!({"service": "a", "matches": [{"headers": [{"name": "x", "exact": "y"}]}], "backends": [{"labels": {"app": "a"}, "weight": 1}]})));
    }
    for name in ["p", "q"] {
        pool.push(policy(
            name,
            json!({"target": {"service": "a"}, "rules": [{"from": {"identities": ["shop/b"]}}]}),
        ));
        pool.push(policy(name, json!({"selector": {"matchLabels": {"app": "b"}}, "rules": [{"action": "Deny", "from": {"identities": ["shop/a"]}}]})));
        pool.push(policy(name, json!({"selector": {"matchLabels": {"app": "a"}}, "mtls": {"mode": "Strict"}, "rules": [{"to": {"methods": ["GET"]}}]})));
        pool.push(policy(name, json!({"selector": {"matchLabels": {"app": "c"}}, "mtls": {"mode": "Strict", "ports": [{"port": 81, "mode": "Permissive"}]},
            "rules": [{"to": {"ports": [80]}}, {"action": "Deny", "from": {"namespaces": ["shop"]}, "to": {"ports": [8080]}}]})));
        let rules = json!([{"from": {"identities": ["shop/c"]}}]);
        let target = json!({"service": "a"});
        pool.push(policy(name, json!({"target": target, "rules": rules})));
        pool.push(policy(
            name,
            json!({"mtls": {"mode": if name == "p" { "Strict" } else { "Permissive" }}}),
        ));
        pool.push(policy(
            name,
            json!({"rules": [{"from": {"ipBlocks": ["nonsense"]}}]}),
        ));
    }
    pool.push(json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "namespace": "shop"},
        "spec": {"selector": {"matchLabels": {"app": "b"}}, "template": {"metadata": {"labels": {"app": "b", "heddle.dev/inject": "enabled"}}, "spec": {"containers": [{"name": "app", "image": "x"}]}}}}));
    pool
}

/// More versions of `a` and `b` and their pods: both families, nodes, affinity, names without addresses, and outside addresses.
pub fn fields() -> Vec<Value> {
    let mut fields = Vec::new();
    for (index, app) in ["a", "b"].into_iter().enumerate() {
        let four = format!("10.96.0.{}", index + 1);
        let mut service = service(app, &four, web(app), http());
        service["spec"]["clusterIPs"] = json!([four, format!("fd00:96::{}", index + 1)]);
        fields.push(service.clone());
        service["spec"]["internalTrafficPolicy"] = json!("Local");
        fields.push(service.clone());
        service["spec"]["ports"] =
            json!([{"name": "tcp", "port": 80, "protocol": "TCP", "targetPort": 8080}]);
        service["spec"]["sessionAffinity"] = json!("ClientIP");
        fields.push(service.clone());
        service["spec"] = json!({"type": "ExternalName", "externalName": "elsewhere.example"});
        fields.push(service);
        let target = format!("{app}-0");
        let port = json!({"name": "http", "port": 8080, "protocol": "TCP"});
        for node in ["n", "m"] {
            let six = format!("fd00::{index}:1");
            let mut slice = slice(
                &format!("{app}-v6"),
                app,
                port.clone(),
                &[(&target, &six, true)],
            );
            slice["endpoints"][0]["nodeName"] = json!(node);
            fields.push(slice);
            let mut pod = pod(&target, app, &format!("10.0.{index}.0"), true, true);
            pod["spec"]["nodeName"] = json!(node);
            pod["status"]["podIPs"] = json!([{"ip": format!("10.0.{index}.0")}, {"ip": six}]);
            fields.push(pod);
        }
        let mut outside = slice(&format!("{app}-out"), app, port, &[("", "192.0.2.7", true)]);
        outside["endpoints"][0]
            .as_object_mut()
            .unwrap()
            .remove("targetRef");
        fields.push(outside);
        for ready in [[false, false], [true, false], [false, true], [true, true]] {
            fields.push(on_each_node(&format!("{app}-nodes"), app, ready));
        }
    }
    for (number, node) in ["n", "m"].into_iter().enumerate() {
        fields.push(on_node(&format!("c-{number}"), "c", number, node));
    }
    fields
}

/// A slice of plain endpoints, one on node `n` and one on node `m`.
pub fn on_each_node(name: &str, service: &str, ready: [bool; 2]) -> Value {
    let port = json!({"name": "http", "port": 8080, "protocol": "TCP"});
    let pods = [("", "192.0.2.8", ready[0]), ("", "192.0.2.9", ready[1])];
    let mut slice = slice(name, service, port, &pods);
    for (index, node) in ["n", "m"].into_iter().enumerate() {
        let endpoint = slice["endpoints"][index].as_object_mut().unwrap();
        endpoint.remove("targetRef");
        endpoint.insert("nodeName".to_owned(), json!(node));
    }
    slice
}

/// A pod with a sidecar on a node.
pub fn on_node(name: &str, app: &str, number: usize, node: &str) -> Value {
    let mut pod = pod(name, app, &format!("10.0.2.{number}"), true, true);
    pod["spec"]["nodeName"] = json!(node);
    pod
}

pub fn reference(value: &Value) -> ObjectRef {
    let text = |field: &str| value[field].as_str().unwrap();
    let kind = ObjectKind::by_api(text("apiVersion"), text("kind"));
    let kind = kind.unwrap_or(ObjectKind::Workload);
    let namespace = value["metadata"]["namespace"].as_str().unwrap_or_default();
    ObjectRef::new(kind, namespace, value["metadata"]["name"].as_str().unwrap())
}
