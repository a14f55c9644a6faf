//! Kinds of other projects, beside those that the conformance suite of Gateway API tests.
#![allow(missing_docs)]

use std::time::Duration;

use anyhow::{Context, Result};
use gateway_api::experimental::tcproutes::TcpRoute;
use heddle_e2e::{Load, eventually, reviews};
use kube::CustomResourceExt;

/// The definition of `TCPRoute` in the version that is read. The types have the version before, with the same fields.
fn definition() -> Result<String> {
    let mut definition = TcpRoute::crd();
    let annotations = definition.metadata.annotations.get_or_insert_default();
    annotations.insert(
        "api-approved.kubernetes.io".to_owned(),
        "unapproved, for tests".to_owned(),
    );
    let version = definition.spec.versions.first_mut();
    version.context("a version")?.name = "v1".to_owned();
    Ok(serde_json::to_string(&definition)?)
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
    ns.kubectl.apply(&definition()?)?;
    ns.kubectl.wait(
        "condition=Established",
        "crd/tcproutes.gateway.networking.k8s.io",
    )?;
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
        let programmed = eventually("Programmed at the parent", Duration::from_secs(90), || {
            let object = ns.kubectl.get("tcproute/reviews")?;
            let generation = object.pointer("/metadata/generation").cloned();
            let conditions = object.pointer("/status/parents/0/conditions").cloned();
            let conditions = conditions.unwrap_or_default();
            let found = conditions.as_array().into_iter().flatten().any(|of| {
                of["type"] == "Programmed"
                    && of["status"] == "True"
                    && Some(&of["observedGeneration"]) == generation.as_ref()
            });
            Ok(found.then_some(()))
        });
        programmed?;
        let report = load.run("reviews:3306")?;
        assert_eq!(report.errors, refused, "{weights:?}: {report:?}");
        let v2 = if weights[1].0 == "gone" { 0 } else { 200 };
        assert_eq!(report.version("v2"), v2, "{weights:?}: {report:?}");
    }
    ns.kubectl.run(&["delete", "tcproute/reviews"])?;
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
