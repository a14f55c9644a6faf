//! An unreadable object, and a name without an object, never open a closed port: after any edit, and after a restart.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod cluster;

use std::collections::BTreeMap;

use cluster::{apply, mesh, pod, policy, service};
use heddle_crds::{ConditionType, Kind};
use heddle_policy_compiler::authz::{Request, evaluate};
use heddle_policy_compiler::{
    Compiled, NamespacedName, ObjectKind, ObjectRef, ObjectRejection, World, WorldBuilder, compile,
};
use serde_json::{Value, json};

/// A mesh of the services `web` and `other` with a pod each, and the given objects of ours.
struct Cluster {
    builder: WorldBuilder,
    compiled: Compiled,
}

impl Cluster {
    fn new(ours: impl IntoIterator<Item = Value>) -> Self {
        let mut builder = World::builder();
        let port = || json!([{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}]);
        apply(
            &mut builder,
            [
                pod("web-0", "web", "10.0.0.1", true, true),
                pod("other-0", "other", "10.0.0.2", true, true),
                service("web", "10.96.0.1", json!({"app": "web"}), port()),
                service("other", "10.96.0.2", json!({"app": "other"}), port()),
            ],
        );
        apply(&mut builder, ours);
        let compiled = compile(&builder.world());
        Self { builder, compiled }
    }

    /// An edit, which compiles as an update and as a restart alike.
    fn edit(&mut self, edit: impl FnOnce(&mut WorldBuilder)) {
        edit(&mut self.builder);
        let world = self.builder.world();
        self.compiled = self.compiled.update(&world);
        let cold = compile(&world);
        assert_eq!(self.compiled.statuses, cold.statuses);
        assert_eq!(self.compiled.findings, cold.findings);
        assert_eq!(self.compiled.mesh(), cold.mesh());
    }

    fn apply(&mut self, object: Value) {
        self.edit(|builder| _ = apply(builder, [object]));
    }

    /// Whether a caller without an identity reaches a pod.
    fn open(&self, pod: &str) -> bool {
        let authz = self
            .compiled
            .authz(&NamespacedName::new("shop", pod), 8080.try_into().unwrap())
            .unwrap();
        let request = Request {
            peer: None,
            source: "10.9.9.9".parse().unwrap(),
            port: Some(8080.try_into().unwrap()),
            http: None,
        };
        evaluate(authz, &request, false).allowed()
    }
}

fn web() -> ObjectRef {
    ObjectRef::new(ObjectKind::AuthPolicy, "shop", "web")
}

/// The object with the status that the control plane writes once all proxies have acknowledged the spec in force.
fn with_status(mut object: Value, compiled: &Compiled, of: &ObjectRef) -> Value {
    let in_force = compiled.statuses[of].in_force.clone().unwrap();
    object["status"] = json!({ "lastGood": in_force });
    object
}

fn spec(service: &str) -> Value {
    json!({"target": {"service": service}, "rules": [{"from": {"identities": ["shop/other"]}}]})
}

#[test]
fn a_policy_outlives_the_service_that_it_names() {
    let external = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"type": "ExternalName", "externalName": "web.example.com"}});
    let without_selector = service("web", "10.96.0.1", json!({}), json!([{"port": 80}]));
    for instead in [None, Some(external), Some(without_selector)] {
        let mut cluster = Cluster::new([policy("web", spec("web"))]);
        assert!(!cluster.open("web-0") && cluster.open("other-0"));
        let remembered = with_status(policy("web", spec("web")), &cluster.compiled, &web());
        cluster.apply(remembered.clone());
        cluster.edit(|builder| {
            let gone = ObjectRef::new(ObjectKind::Service, "shop", "web");
            match &instead {
                None => builder.remove(&gone),
                Some(other) => _ = apply(builder, [other.clone()]),
            }
        });
        assert!(!cluster.open("web-0"), "{instead:?}: the pods of old");
        assert!(cluster.open("other-0"), "{instead:?}: and no other");
        let findings = &cluster.compiled.findings;
        assert!(
            findings.iter().any(|f| f.object == web()),
            "{instead:?}: {findings:?}"
        );
        // The next generation, with another rule, and one that misspells the name.
        for (generation, target) in [(2, "web"), (3, "webb")] {
            let mut next = remembered.clone();
            next["metadata"]["generation"] = json!(generation);
            next["spec"] = spec(target);
            cluster.apply(next);
            assert!(!cluster.open("web-0"), "{target}");
            assert!(cluster.open("other-0"), "{target}");
        }
        // It comes back, and selects other pods.
        let port = json!([{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}]);
        cluster.apply(remembered);
        cluster.apply(service("web", "10.96.0.1", json!({"app": "other"}), port));
        assert!(cluster.open("web-0") && !cluster.open("other-0"));
    }
}

#[test]
fn a_name_that_was_never_there_denies_the_namespace_and_says_so() {
    let cluster = Cluster::new([policy("web", spec("webb"))]);
    assert!(!cluster.open("web-0") && !cluster.open("other-0"));
    let texts: Vec<String> = cluster
        .compiled
        .findings
        .iter()
        .map(ToString::to_string)
        .collect();
    assert!(texts[0].contains("service shop/webb does not exist"));
}

#[test]
fn an_unreadable_mesh_opens_nothing() {
    let closed = json!({"mode": "Strict", "defaultAction": "Deny"});
    let of = ObjectRef::cluster(ObjectKind::Mesh, "default");
    for wrong in [
        json!({"mode": "strict", "defaultAction": "deny"}),
        json!({"mode": "Strict", "defaultAction": "Deny", "retries": {"max": 2}}),
        json!({"Mode": "Strict", "default": "Deny"}),
        json!({"mode": "Strict", "defaultAction": "Deny", "certificates": {"lifetime": "1y"}}),
        json!({"mode": "Strict", "defaultAction": "Deny", "trustDomain": "NO"}),
        json!("Strict"),
    ] {
        // Without a memory, and with one.
        let cluster = Cluster::new([mesh(wrong.clone())]);
        assert!(!cluster.open("web-0"), "{wrong}");
        assert_eq!(format!("{:?}", cluster.compiled.mesh().mode), "Strict");

        let mut cluster = Cluster::new([mesh(closed.clone())]);
        let mut next = with_status(mesh(wrong.clone()), &cluster.compiled, &of);
        next["metadata"]["generation"] = json!(2);
        cluster.apply(next);
        assert!(!cluster.open("web-0"), "{wrong}");
        assert_eq!(format!("{:?}", cluster.compiled.mesh().mode), "Strict");
        let status = &cluster.compiled.statuses[&of];
        assert_eq!(
            status.in_force.as_ref().unwrap().spec["mode"],
            "Strict",
            "the status says what is in force"
        );
    }
}

#[test]
fn an_unreadable_policy_keeps_its_last_good_spec_also_of_the_same_generation() {
    let good = json!({"selector": {"matchLabels": {"app": "web"}}, "rules": [{"from": {"identities": ["shop/other"]}}]});
    let first = Cluster::new([policy("web", good.clone())]);
    for (generation, field) in [(1, "logging"), (2, "logging"), (2, "rulez")] {
        let mut newer = with_status(policy("web", good.clone()), &first.compiled, &web());
        newer["metadata"]["generation"] = json!(generation);
        newer["spec"][field] = json!("Errors");
        let cluster = Cluster::new([newer.clone()]);
        assert!(!cluster.open("web-0") && cluster.open("other-0"), "{field}");
        // Without a last good spec: denied for all callers.
        newer["status"] = Value::Null;
        let cluster = Cluster::new([newer]);
        assert!(!cluster.open("web-0") && cluster.open("other-0"), "{field}");
        let condition = cluster.compiled.statuses[&web()]
            .condition(heddle_crds::ConditionType::Enforced)
            .unwrap()
            .clone();
        assert_eq!(condition.reason, "Denied");
    }
}

#[test]
fn another_trust_domain_than_that_of_the_root_is_refused() {
    let mut cluster = Cluster::new([mesh(json!({"trustDomain": "cluster.local"}))]);
    cluster.edit(|builder| builder.set_trust_domain("cluster.local"));
    let reason = |cluster: &Cluster| {
        let object = ObjectRef::cluster(ObjectKind::Mesh, "default");
        let accepted = &cluster.compiled.statuses[&object].conditions[0];
        (accepted.status.as_str(), accepted.reason.clone())
    };
    assert_eq!(reason(&cluster).0, "True");
    // Deleted and created again, as the immutable field allows.
    cluster.edit(|builder| builder.remove(&ObjectRef::cluster(ObjectKind::Mesh, "default")));
    cluster.apply(mesh(json!({"trustDomain": "other.example"})));
    assert_eq!(reason(&cluster), ("False", "TrustDomainFixed".to_owned()));
    assert_eq!(cluster.compiled.mesh().trust_domain, "cluster.local");
    let identity = cluster.compiled.proxies[&NamespacedName::new("shop", "web-0")]
        .identity
        .clone();
    assert!(
        identity.as_str().starts_with("spiffe://cluster.local/"),
        "{identity}"
    );
    // A new root has the new domain.
    cluster.edit(|builder| builder.set_trust_domain("other.example"));
    assert_eq!(reason(&cluster).0, "True");
    assert_eq!(cluster.compiled.mesh().trust_domain, "other.example");
}

/// The effect of an unreadable value in a field, where the object has no last good spec.
enum Unreadable {
    /// The Mesh has this value instead.
    Closed(&'static str),
    /// The pods that the policy selects are denied.
    Denied,
    /// The field neither opens nor closes anything.
    Harmless,
}

/// Every field of our kinds that takes a word of a list, or a boolean. A new field of that kind needs a line here.
const CHOICES: [(&str, Unreadable); 30] = [
    ("AuthPolicy.mode", Unreadable::Denied),
    ("AuthPolicy.mtls.mode", Unreadable::Denied),
    ("AuthPolicy.mtls.ports[].mode", Unreadable::Denied),
    ("AuthPolicy.rules[].action", Unreadable::Denied),
    (
        "AuthPolicy.rules[].to.headers[].present",
        Unreadable::Denied,
    ),
    ("AuthPolicy.rules[].to.ignoreCase", Unreadable::Denied),
    // An unreadable object names no host.
    ("ExternalService.ports[].protocol", Unreadable::Harmless),
    ("Mesh.defaultAction", Unreadable::Closed("Deny")),
    ("Mesh.mode", Unreadable::Closed("Strict")),
    ("Mesh.outbound", Unreadable::Closed("Deny")),
    (
        "Mesh.outboundNamespaces[].outbound",
        Unreadable::Closed("Deny"),
    ),
    ("Mesh.proxy.logLevel", Unreadable::Harmless),
    // A limit decides no access.
    ("Mesh.rateLimits.failureMode", Unreadable::Harmless),
    ("Mesh.scope.onDemand", Unreadable::Closed("Disabled")),
    ("Mesh.telemetry.accessLogFormat", Unreadable::Harmless),
    ("Mesh.telemetry.accessLogSink", Unreadable::Harmless),
    ("Mesh.telemetry.omitMetricLabels[]", Unreadable::Harmless),
    (
        "TrafficPolicy.faults[].match.headers[].present",
        Unreadable::Harmless,
    ),
    ("TrafficPolicy.loadBalancing.hash.key", Unreadable::Harmless),
    ("TrafficPolicy.loadBalancing.mode", Unreadable::Harmless),
    (
        "TrafficPolicy.rateLimits[].match.headers[].present",
        Unreadable::Harmless,
    ),
    ("TrafficPolicy.rateLimits[].perCaller", Unreadable::Harmless),
    ("TrafficPolicy.rateLimits[].shared", Unreadable::Harmless),
    ("TrafficPolicy.retries.conditions[]", Unreadable::Harmless),
    ("TrafficPolicy.retries.grpcCodes[]", Unreadable::Harmless),
    ("TrafficPolicy.retries.resend", Unreadable::Harmless),
    ("TrafficPolicy.target.route.kind", Unreadable::Harmless),
    (
        "TrafficSplit.matches[].cookies[].present",
        Unreadable::Harmless,
    ),
    (
        "TrafficSplit.matches[].headers[].present",
        Unreadable::Harmless,
    ),
    (
        "TrafficSplit.matches[].query[].present",
        Unreadable::Harmless,
    ),
];

/// Adds the paths of enumerations and booleans below a schema.
fn choices(schema: &Value, path: &str, found: &mut Vec<String>) {
    if schema["enum"].is_array() || schema["type"] == "boolean" {
        found.push(path.to_owned());
    }
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        choices(field, &format!("{path}.{name}"), found);
    }
    for (below, mark) in [("items", "[]"), ("additionalProperties", ".*")] {
        if schema[below].is_object() {
            choices(&schema[below], &format!("{path}{mark}"), found);
        }
    }
}

#[test]
fn every_field_that_opens_is_closed_when_unreadable() {
    let mut found = Vec::new();
    for kind in Kind::ALL {
        let crd = serde_json::to_value(kind.crd()).unwrap();
        let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        choices(&schema["properties"]["spec"], kind.name(), &mut found);
    }
    found.sort();
    let listed: Vec<&str> = CHOICES.iter().map(|(path, _)| *path).collect();
    assert_eq!(found, listed);
    // Valid specs that contain every one of the fields.
    let valid = BTreeMap::from([
        (
            "AuthPolicy",
            json!({"selector": {"matchLabels": {"app": "web"}}, "mode": "Enforce",
                "mtls": {"mode": "Strict", "ports": [{"port": 8080, "mode": "Permissive"}]},
                "rules": [{"action": "Allow",
                    "to": {"paths": ["/a"], "ignoreCase": true, "headers": [{"name": "a", "present": true}]}}]}),
        ),
        (
            "ExternalService",
            json!({"hosts": ["api.example.com"], "ports": [{"port": 443, "protocol": "TLS"}]}),
        ),
        (
            "Mesh",
            json!({"mode": "Permissive", "defaultAction": "Allow", "outbound": "Allow",
                "outboundNamespaces": [{"namespace": "shop", "outbound": "Allow"}], "rateLimits": {"failureMode": "Open"}, "scope": {"onDemand": "Enabled"}, "proxy": {"logLevel": "info"},
                "telemetry": {"accessLogFormat": "JSON", "accessLogSink": "Stdout", "omitMetricLabels": ["route"]}}),
        ),
        (
            "TrafficPolicy",
            json!({"target": {"route": {"kind": "HTTPRoute", "name": "web"}},
                "faults": [{"match": {"headers": [{"name": "a", "present": true}]}, "abort": {"status": 500, "percent": 1}}],
                "loadBalancing": {"mode": "ConsistentHash", "hash": {"key": "SourceAddress"}},
                "rateLimits": [{"match": {"headers": [{"name": "a", "present": true}]}, "requests": 1, "perCaller": true, "shared": true}],
                "retries": {"conditions": ["Reset"], "grpcCodes": ["Internal"], "resend": "All"}}),
        ),
        (
            "TrafficSplit",
            json!({"service": "web", "matches": [{"headers": [{"name": "a", "present": true}],
                    "cookies": [{"name": "a", "present": true}], "query": [{"name": "a", "present": true}]}],
                "backends": [{"service": "web", "weight": 1}]}),
        ),
    ]);
    for (path, effect) in &CHOICES {
        let (kind, field) = path.split_once('.').unwrap();
        let pointer = format!("/{}", field.replace("[]", ".0").replace('.', "/"));
        for wrong in [json!("wrong"), json!(7), json!([]), json!(null)] {
            let mut spec = valid[kind].clone();
            *spec.pointer_mut(&pointer).unwrap() = wrong.clone();
            match effect {
                Unreadable::Denied => {
                    let cluster = Cluster::new([policy("web", spec)]);
                    assert!(!cluster.open("web-0"), "{path}: {wrong}");
                    assert!(cluster.open("other-0"), "{path}: {wrong}");
                }
                Unreadable::Closed(value) => {
                    let cluster = Cluster::new([mesh(spec)]);
                    let mesh = serde_json::to_value(&**cluster.compiled.mesh()).unwrap();
                    assert_eq!(mesh.pointer(&pointer).unwrap(), value, "{path}: {wrong}");
                }
                Unreadable::Harmless => {}
            }
        }
    }
}

#[test]
fn a_mesh_that_envoy_rejects_keeps_its_fields_about_access() {
    let closed = json!({"mode": "Strict", "defaultAction": "Deny", "outbound": "Deny", "scope": {"onDemand": "Disabled"},
        "plainDestinations": [{"namespace": "db", "service": "store"}]});
    let mut cluster = Cluster::new([mesh(closed.clone())]);
    let of = ObjectRef::cluster(ObjectKind::Mesh, "default");
    cluster.edit(|builder| {
        builder.set_rejections([ObjectRejection {
            object: of.clone(),
            generation: 0,
            text: "no".to_owned(),
        }]);
    });
    let in_force = serde_json::to_value(&**cluster.compiled.mesh()).unwrap();
    for (field, value) in closed.as_object().unwrap() {
        let equal = match field.as_str() {
            "scope" => in_force[field]["onDemand"] == value["onDemand"],
            _ => in_force[field] == *value,
        };
        assert!(equal, "{field}: {in_force}");
    }
    let programmed = cluster.compiled.statuses[&of].condition(ConditionType::Programmed);
    assert_eq!(programmed.unwrap().reason, "RejectedByProxy");
}

/// A bypass opens a whole namespace, so that only a readable element of the object itself counts.
#[test]
fn a_faulty_bypass_bypasses_nothing() {
    let closed = json!({"mode": "Strict", "defaultAction": "Deny"});
    let with = |list: &Value| {
        let mut spec = closed.clone();
        spec["bypassedNamespaces"] = list.clone();
        spec
    };
    let good = mesh(with(&json!([{"namespace": "shop"}])));
    let mut cluster = Cluster::new([good.clone()]);
    assert!(cluster.open("web-0"));
    let of = ObjectRef::cluster(ObjectKind::Mesh, "default");
    // The last good spec bypasses the namespace.
    let remembered = with_status(good, &cluster.compiled, &of);
    for faulty in [
        json!([{"namespace": "shop", "until": "2027-01-01T00:00:00Z"}]),
        json!([{"namespace": "shop", "selector": {"app": "web"}}]),
        json!([{"namespace": 7}]),
        json!([{"namespace": null}]),
        json!([{"name": "shop"}]),
        json!([{"namespace": "Shop"}]),
        json!([{"namespace": "*"}]),
        json!([{"namespace": ""}]),
        json!(["shop"]),
        json!([[]]),
        json!({"namespace": "shop"}),
        json!("shop"),
        json!(true),
        json!(null),
    ] {
        let mut edited = remembered.clone();
        edited["spec"] = with(&faulty);
        edited["metadata"]["generation"] = json!(2);
        cluster.apply(edited.clone());
        assert!(!cluster.open("web-0"), "{faulty}");
        let restarted = Cluster::new([edited]);
        assert!(!restarted.open("web-0"), "{faulty}, after a restart");
        cluster.apply(remembered.clone());
        assert!(cluster.open("web-0"));
    }
    // A fault elsewhere brings back nothing that the object does not say itself.
    for (list, open) in [(json!([]), false), (json!([{"namespace": "shop"}]), true)] {
        let mut edited = remembered.clone();
        edited["spec"] = with(&list);
        edited["spec"]["telemetry"] = json!(7);
        edited["metadata"]["generation"] = json!(2);
        cluster.apply(edited);
        assert_eq!(cluster.open("web-0"), open, "{list}");
    }
    let mut edited = remembered.clone();
    edited["spec"] = json!(7);
    cluster.apply(edited);
    assert!(!cluster.open("web-0"));
}
