//! A bypassed namespace: its sidecars enforce nothing, no listener of theirs differs, and no other namespace is changed.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod harness;

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};
use harness::{Seen, compiled, views};
use heddle_crds::{ConditionStatus, ConditionType};
use heddle_policy_compiler::authz::{Request, evaluate};
use heddle_policy_compiler::traffic::RuleId;
use heddle_policy_compiler::world::Port;
use heddle_policy_compiler::{
    Compiled, KubeObject, NamespacedName, ObjectKind, ObjectRef, Resource, ResourceKind, World,
    compile, ingest,
};

/// The settings, with a list of bypassed namespaces.
fn mesh(mode: &str, bypassed: &str) -> KubeObject {
    let text = format!(
        "apiVersion: heddle.dev/v1alpha1\nkind: Mesh\nmetadata: {{name: default}}\nspec: {{mode: {mode}, bypassedNamespaces: [{bypassed}]}}\n"
    );
    let (mut objects, findings) = ingest::parse_yaml("mesh", &text).into_objects();
    assert!(findings.is_empty(), "{findings:#?}");
    objects.remove(0)
}

/// The objects under these settings, without a bypass, with one of the namespace `shop` by an update, and back.
fn switched(objects: &[KubeObject], mode: &str) -> Result<[Compiled; 3]> {
    let mut builder = World::builder();
    for object in objects {
        builder.apply(object.clone());
    }
    builder.apply(mesh(mode, ""));
    let before = compile(&builder.world());
    builder.apply(mesh(mode, "{namespace: shop}"));
    let during = before.update(&builder.world());
    let cold = compile(&builder.world());
    ensure!(bytes(&during) == bytes(&cold), "an update");
    ensure!(during.statuses == cold.statuses && during.findings == cold.findings);
    builder.apply(mesh(mode, ""));
    let after = during.update(&builder.world());
    ensure!(bytes(&after) == bytes(&before), "and back");
    ensure!(after.statuses == before.statuses && after.findings == before.findings);
    Ok([before, during, after])
}

/// The resources of each proxy, with their versions.
fn bytes(compiled: &Compiled) -> BTreeMap<String, Vec<String>> {
    let of = |seen: Seen| {
        let resources = seen.resources.into_iter();
        let texts = resources.map(|(key, resource)| format!("{key:?} {}", resource.version));
        texts.collect()
    };
    let all = views(compiled).into_iter();
    all.map(|(pod, seen)| (pod, of(seen))).collect()
}

#[test]
fn no_listener_differs_by_it_whatever_the_policies() -> Result<()> {
    let mut count = 0;
    let kinds = ["auth_policy", "traffic_policy", "tcp_route"];
    for (file, objects) in harness::cases_without_mesh(&kinds)? {
        let compile = |bypassed| {
            let own = [mesh("Permissive", bypassed)];
            compile(&harness::world(objects.iter().cloned().chain(own)).0)
        };
        let (before, during) = (compile(""), compile("{namespace: shop}"));
        // Where a policy refuses plain text, the listener gets chains for it.
        let closed = closed(&before);
        let during = views(&during);
        for (pod, before) in views(&before) {
            let during = &during[&pod].resources;
            let gone = before.resources.iter().filter(|(key, resource)| {
                key.kind == ResourceKind::Listener
                    && !(closed.contains(&pod) && key.name.starts_with("inbound"))
                    && !denies(resource)
                    && during.get(key).map(|of| &of.version) != Some(&resource.version)
            });
            let gone: Vec<_> = gone.map(|(key, _)| key).collect();
            ensure!(gone.is_empty(), "{}: {pod}: {gone:#?}", file.display());
        }
        count += 1;
    }
    ensure!(count > 15, "{count} cases");
    Ok(())
}

/// Whether a listener only refuses, for all servers deny the caller.
fn denies(listener: &Resource) -> bool {
    let text = harness::readable(listener).to_string();
    let refuses = text.contains("\"cluster\":\"refused\"");
    refuses || text.contains("\"direct_response\":{\"body\"") || text.contains("\"status\":403")
}

/// The pods with a port that refuses plain text.
fn closed(compiled: &Compiled) -> BTreeSet<String> {
    let ports = compiled.served_ports();
    let closed = ports.filter(|port| !port.plain && port.port != Some(Port::METRICS));
    let templates: Vec<_> = closed.map(|port| port.template.workload()).collect();
    let proxies = compiled.proxies.iter();
    let of = proxies.filter(|(_, proxy)| templates.contains(&proxy.workload()));
    of.map(|(pod, _)| pod.to_string()).collect()
}

const POLICIES: &str = "
apiVersion: heddle.dev/v1alpha1
kind: AuthPolicy
metadata: {name: nobody, namespace: shop}
spec: {rules: [{action: Deny}]}
---
apiVersion: heddle.dev/v1alpha1
kind: TrafficSplit
metadata: {name: reviews, namespace: shop}
spec: {service: reviews, backends: [{service: reviews-v1, weight: 1}]}
---
apiVersion: heddle.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: reviews, namespace: shop}
spec: {target: {service: reviews}, timeouts: {request: 7s}, rateLimits: [{requests: 1, per: 1m}], connections: {maxRequests: 1}}
---
apiVersion: v1
kind: Namespace
metadata: {name: till}
---
apiVersion: v1
kind: Pod
metadata: {name: till-0, namespace: till, labels: {app: till}}
spec: {serviceAccountName: till, initContainers: [{name: heddle-proxy, image: heddle/sidecar, restartPolicy: Always}], containers: [{name: app, image: app, ports: [{name: http, containerPort: 8080}]}]}
status: {phase: Running, podIP: 10.0.9.1, podIPs: [{ip: 10.0.9.1}], conditions: [{type: Ready, status: 'True'}]}
---
apiVersion: heddle.dev/v1alpha1
kind: AuthPolicy
metadata: {name: nobody, namespace: till}
spec: {rules: [{action: Deny}]}
";

fn shop() -> Result<Vec<KubeObject>> {
    let mut objects = harness::base()?;
    let (own, findings) = ingest::parse_yaml("own", POLICIES).into_objects();
    ensure!(findings.is_empty(), "{findings:#?}");
    objects.extend(own);
    Ok(objects)
}

fn open(compiled: &Compiled, namespace: &str, pod: &str, port: i32) -> bool {
    let pod = NamespacedName::new(namespace, pod);
    let port = Port::try_from(port).unwrap();
    let request = Request {
        peer: None,
        source: "10.9.9.9".parse().unwrap(),
        port: Some(port),
        http: None,
    };
    evaluate(compiled.authz(&pod, port).unwrap(), &request, false).allowed()
}

fn enforced(compiled: &Compiled, namespace: &str) -> (ConditionStatus, String) {
    let policy = ObjectRef::new(ObjectKind::AuthPolicy, namespace, "nobody");
    let status = &compiled.statuses[&policy];
    let condition = status.condition(ConditionType::Enforced).unwrap();
    (condition.status, condition.reason.clone())
}

#[test]
fn nothing_is_enforced_there_and_all_is_elsewhere() -> Result<()> {
    for mode in ["Permissive", "Strict"] {
        let [before, during, _] = switched(&shop()?, mode)?;
        for (compiled, expected) in [(&before, false), (&during, true)] {
            assert_eq!(open(compiled, "shop", "reviews-v1-abc-x1", 9080), expected);
            assert!(!open(compiled, "till", "till-0", 8080));
            let ports = compiled.served_ports();
            let mut own = ports.filter(|port| {
                *port.template.namespace == *"shop" && port.port.map(|p| p.get()) == Some(9080)
            });
            let unlimited = own.all(|port| {
                assert_eq!(port.plain, expected || mode == "Permissive");
                port.traffic.limits.is_empty()
            });
            assert_eq!(unlimited, expected);
        }
        let enforces = (ConditionStatus::True, "Enforced".to_owned());
        let bypassed = (ConditionStatus::False, "Bypassed".to_owned());
        assert_eq!(enforced(&before, "shop"), enforces);
        assert_eq!(enforced(&during, "shop"), bypassed);
        assert_eq!(enforced(&during, "till"), enforces);
        let named = during.findings.iter().filter(|of| of.code == "Bypassed");
        let named: Vec<String> = named.map(|of| of.object.to_string()).collect();
        let expected = [
            "Mesh default",
            "TrafficSplit shop/reviews",
            "TrafficPolicy shop/reviews",
            "AuthPolicy shop/nobody",
        ];
        assert_eq!(named.len(), expected.len(), "{named:?}");
        assert!(expected.iter().all(|of| named.iter().any(|n| n == of)));
    }
    Ok(())
}

/// Objects of `shop` for its own calls of a service of another namespace, and of another namespace for calls of `shop`.
const OF_CONSUMERS: &str = "
apiVersion: v1
kind: Service
metadata: {name: bank, namespace: bank}
spec: {clusterIP: 10.96.9.9, ports: [{name: http, port: 80}]}
---
apiVersion: heddle.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: out, namespace: shop}
spec: {target: {service: bank, namespace: bank}, timeouts: {request: 7s}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: out, namespace: shop}
spec:
  parentRefs: [{group: '', kind: Service, name: bank, namespace: bank}]
  rules: [{backendRefs: [{name: bank, namespace: bank, port: 80}]}]
---
apiVersion: heddle.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: of-route, namespace: shop}
spec: {target: {route: {kind: HTTPRoute, name: out}}, retries: {attempts: 1}}
---
apiVersion: heddle.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: own, namespace: shop}
spec: {target: {service: reviews}, timeouts: {request: 7s}}
---
apiVersion: heddle.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: in, namespace: till}
spec: {target: {service: reviews, namespace: shop}, timeouts: {request: 3s}}
";

#[test]
fn a_policy_for_services_of_other_namespaces_has_no_effect_there() -> Result<()> {
    let mut objects = harness::base()?;
    let (own, findings) = ingest::parse_yaml("own", OF_CONSUMERS).into_objects();
    ensure!(findings.is_empty(), "{findings:#?}");
    objects.extend(own);
    let [before, during, _] = switched(&objects, "Permissive")?;
    ensure!(before.findings.is_empty(), "{:#?}", before.findings);
    let of_objects = during
        .findings
        .iter()
        .filter(|of| of.code == "Bypassed" && of.object.kind != ObjectKind::Mesh);
    let found: BTreeMap<String, bool> = of_objects
        .map(|of| {
            (
                of.object.to_string(),
                of.message.contains("it has no effect"),
            )
        })
        .collect();
    let expected = [
        ("HTTPRoute shop/out", true),
        ("TrafficPolicy shop/of-route", true),
        ("TrafficPolicy shop/out", true),
        // Callers of other namespaces meet it.
        ("TrafficPolicy shop/own", false),
    ];
    let expected = expected.map(|(name, without)| (name.to_owned(), without));
    assert_eq!(found, BTreeMap::from(expected));
    Ok(())
}

/// The route configurations and clusters of the service for a pod.
fn outbound(compiled: &Compiled, pod: &str) -> Vec<String> {
    let seen = &views(compiled)[pod];
    let own = seen.resources.iter().filter(|(key, _)| {
        key.name.starts_with("out|shop/reviews|9080")
            && matches!(key.kind, ResourceKind::Route | ResourceKind::Cluster)
    });
    own.map(|(key, resource)| format!("{key:?} {}", resource.version))
        .collect()
}

#[test]
fn its_callers_have_no_rules_and_other_callers_keep_them() -> Result<()> {
    let of_kinds = |kinds: &[ObjectKind]| -> Result<Vec<KubeObject>> {
        let all = shop()?.into_iter().filter(|object| match object {
            KubeObject::Declared(declared) => kinds.contains(&declared.object.kind),
            _ => true,
        });
        Ok(all.collect())
    };
    let without = of_kinds(&[])?;
    let with = of_kinds(&[ObjectKind::TrafficSplit, ObjectKind::TrafficPolicy])?;
    let [before, during, _] = switched(&with, "Permissive")?;
    let [_, plain, _] = switched(&without, "Permissive")?;
    let (own, other) = ("shop/frontend-abc-1", "till/till-0");
    assert_ne!(outbound(&before, own), outbound(&during, own));
    assert_eq!(outbound(&plain, own), outbound(&during, own));
    assert!(!outbound(&before, other).is_empty());
    assert_eq!(outbound(&before, other), outbound(&during, other));
    // Calls between sidecars stay mTLS, for a caller without an identity would pass Deny rules of others.
    let seen = &views(&during)[own];
    let cluster = seen.resources.iter().find(|(key, _)| {
        key.kind == ResourceKind::Cluster && &*key.name == "out|shop/reviews|9080"
    });
    let text = serde_json::to_string(&harness::readable(cluster.unwrap().1))?;
    assert!(text.contains("UpstreamTlsContext"), "{text}");
    // People are shown the tables of callers that are not bypassed.
    let service = NamespacedName::new("shop", "reviews");
    let (_, table) = during.route_tables(&service).next().unwrap();
    let ids = table.hosts.iter().flat_map(|host| &host.entries);
    assert!(ids.clone().count() > 0);
    assert!(
        ids.into_iter()
            .all(|entry| matches!(entry.rule.id, RuleId::Declared(..)))
    );
    Ok(())
}

#[test]
fn an_unusable_policy_does_not_close_a_bypassed_namespace_and_closes_it_again() -> Result<()> {
    let broken = "
apiVersion: heddle.dev/v1alpha1
kind: AuthPolicy
metadata: {name: nobody, namespace: shop}
spec: {rules: [{action: Perhaps}]}
";
    let mut objects = harness::base()?;
    objects.extend(ingest::parse_yaml("broken", broken).into_objects().0);
    let [before, during, after] = switched(&objects, "Permissive")?;
    let pod = "reviews-v1-abc-x1";
    assert!(!open(&before, "shop", pod, 9080) && !open(&after, "shop", pod, 9080));
    assert!(open(&during, "shop", pod, 9080));
    assert_eq!(enforced(&during, "shop").1, "Bypassed");
    Ok(())
}

#[test]
fn a_namespace_that_is_missing_is_named() {
    let text = "
apiVersion: v1
kind: Namespace
metadata: {name: kube-system}
---
apiVersion: heddle.dev/v1alpha1
kind: Mesh
metadata: {name: default}
spec: {bypassedNamespaces: [{namespace: shpo}]}
";
    let compiled = compiled(text);
    let [finding] = &*compiled.findings else {
        panic!("{:#?}", compiled.findings)
    };
    assert_eq!(finding.field, "spec.bypassedNamespaces");
    assert!(finding.message.contains("shpo does not exist"), "{finding}");
}
