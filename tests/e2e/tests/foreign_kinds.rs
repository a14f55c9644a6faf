//! Kinds of other projects, beside those that the conformance suite of Gateway API tests.
#![allow(missing_docs)]

use std::time::Duration;

use anyhow::Result;
use gateway_api::experimental::tcproutes::TcpRoute;
use gateway_api::experimental::tlsroutes::TlsRoute;
use gateway_api::experimental::xbackendtrafficpolicies::XBackendTrafficPolicy;
use heddle_e2e::{ANCESTOR, Expected, Load, Namespace, PARENT, eventually, reviews};
use kube::CustomResourceExt;

/// Applies the definition of a kind of Gateway API. The types of some kinds have the version before the one that is read, with the same fields.
fn define<K: CustomResourceExt>(ns: &Namespace, version: &str) -> Result<()> {
    ns.kubectl.define(serde_json::to_value(K::crd())?, version)
}

fn route(weights: [(&str, u32); 2]) -> String {
    let [(a, wa), (b, wb)] = weights;
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {{name: reviews}}
spec:
  parentRefs: [{{group: '', kind: Service, name: reviews, port: 3306}}]
  rules: [{{backendRefs: [{{name: {a}, port: 3306, weight: {wa}}}, {{name: {b}, port: 3306, weight: {wb}}}]}}]
"
    )
}

#[test]
fn a_tcp_route_moves_connections_and_refuses_those_of_a_backend_that_does_not_exist() -> Result<()>
{
    let ns = reviews("tcp-route")?;
    define::<TcpRoute>(&ns, "v1")?;
    let load = Load::from(&ns.kubectl, "client")
        .flag("-proto=tcp")
        .flag("-n=200")
        .flag("-c=2");
    for (weights, refused) in [
        ([("reviews-v1", 0), ("reviews-v2", 1)], 0),
        ([("reviews-v1", 1), ("gone", 0)], 0),
        ([("reviews-v1", 0), ("gone", 1)], 200),
    ] {
        ns.kubectl.apply(&route(weights))?;
        // The client needs the route once it calls.
        load.run("reviews:3306")?;
        ns.kubectl
            .conditions("tcproute/reviews", PARENT, &[Expected::PROGRAMMED])?;
        let report = load.run("reviews:3306")?;
        assert_eq!(report.errors, refused, "{weights:?}: {report:?}");
        let v2 = if weights[1].0 == "gone" { 0 } else { 200 };
        assert_eq!(report.version("v2"), v2, "{weights:?}: {report:?}");
    }
    ns.kubectl.run(&["delete", "tcproute/reviews"])?;
    Ok(())
}

#[test]
fn a_tls_route_goes_by_the_name_of_the_server_and_follows_its_edits() -> Result<()> {
    let ns = reviews("tls-route")?;
    define::<TlsRoute>(&ns, "v1")?;
    let served_by = |version: &str, name: &str, errors: u64| {
        let load = Load::from(&ns.kubectl, "client").flag("-proto=tls");
        let load = load.flag("-n=50").flag(&format!("-sni={name}"));
        let report = load.run("reviews:8443")?;
        assert_eq!(report.errors, errors, "{name}: {report:?}");
        assert_eq!(report.version(version), 50 - errors, "{name}: {report:?}");
        anyhow::Ok(())
    };
    let calls = Load::from(&ns.kubectl, "client").flag("-proto=tls");
    // The client needs the route once it calls.
    calls.run("reviews:8443")?;
    for (one, other) in [("v1", "v2"), ("v2", "v1")] {
        ns.kubectl.apply(&format!(
            "apiVersion: gateway.networking.k8s.io/v1
kind: TLSRoute
metadata: {{name: one}}
spec:
  parentRefs: [{{group: '', kind: Service, name: reviews, port: 8443}}]
  hostnames: [one.example]
  rules: [{{backendRefs: [{{name: reviews-{one}, port: 8443}}]}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TLSRoute
metadata: {{name: others}}
spec:
  parentRefs: [{{group: '', kind: Service, name: reviews, port: 8443}}]
  hostnames: ['*.example']
  rules: [{{backendRefs: [{{name: reviews-{other}, port: 8443}}]}}]
"
        ))?;
        ns.kubectl
            .conditions("tlsroute/one", PARENT, &[Expected::PROGRAMMED])?;
        ns.kubectl
            .conditions("tlsroute/others", PARENT, &[Expected::PROGRAMMED])?;
        served_by(one, "one.example", 0)?;
        served_by(other, "two.example", 0)?;
        // Of no route: refused, as Gateway API answers requests of no route with 404.
        served_by(one, "one.test", 50)?;
    }
    ns.kubectl.run(&["delete", "tlsroute", "--all"])?;
    Ok(())
}

#[test]
fn a_budget_of_retries_of_gateway_api_is_accepted_and_programmed() -> Result<()> {
    let ns = reviews("retry-budget")?;
    define::<XBackendTrafficPolicy>(&ns, "v1alpha1")?;
    let calls = Load::from(&ns.kubectl, "client").flag("-n=50");
    assert_eq!(calls.run("http://reviews/")?.status("200"), 50);
    ns.kubectl.apply(
        "apiVersion: gateway.networking.x-k8s.io/v1alpha1
kind: XBackendTrafficPolicy
metadata: {name: reviews}
spec:
  targetRefs: [{group: '', kind: Service, name: reviews}]
  retryConstraint: {budget: {percent: 10, interval: 10s}, minRetryRate: {count: 20, interval: 1s}}
",
    )?;
    ns.kubectl.conditions(
        "xbackendtrafficpolicy/reviews",
        ANCESTOR,
        &[Expected::PROGRAMMED],
    )?;
    let described = ns
        .kubectl
        .run(&["describe", "xbackendtrafficpolicy/reviews"])?;
    assert!(described.contains("Accepted"), "{described}");
    let report = calls.run("http://reviews/")?;
    assert_eq!((report.status("200"), report.errors), (50, 0), "{report:?}");
    Ok(())
}

/// The definition of the `TrafficSplit` of SMI, in the version that Argo Rollouts and Flagger write.
const SMI: &str = "apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: trafficsplits.split.smi-spec.io}
spec:
  group: split.smi-spec.io
  scope: Namespaced
  names: {kind: TrafficSplit, plural: trafficsplits, singular: trafficsplit}
  versions:
  - name: v1alpha2
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            required: [service, backends]
            properties:
              service: {type: string}
              backends:
                type: array
                items:
                  type: object
                  required: [service]
                  properties: {service: {type: string}, weight: {type: number}}
";

#[test]
fn a_split_of_smi_moves_calls_in_the_version_that_the_cluster_serves() -> Result<()> {
    let ns = reviews("smi")?;
    ns.kubectl.apply(SMI)?;
    let definition = "crd/trafficsplits.split.smi-spec.io";
    ns.kubectl.wait("condition=Established", definition)?;
    let load = Load::from(&ns.kubectl, "client")
        .flag("-n=200")
        .flag("-c=4");
    for (version, weights) in [("v1", [1, 0]), ("v2", [0, 1])] {
        let [v1, v2] = weights;
        ns.kubectl.apply(&format!(
            "apiVersion: split.smi-spec.io/v1alpha2
kind: TrafficSplit
metadata: {{name: rollout}}
spec: {{service: reviews, backends: [{{service: reviews-v1, weight: {v1}}}, {{service: reviews-v2, weight: {v2}}}]}}
"
        ))?;
        // Objects of SMI have no status to wait for.
        eventually("the calls at one version", Duration::from_secs(90), || {
            let report = load.run("http://reviews/")?;
            assert_eq!(report.errors, 0, "{report:?}");
            Ok((report.version(version) == 200).then_some(()))
        })?;
    }
    ns.kubectl.run(&["delete", definition])?;
    Ok(())
}
