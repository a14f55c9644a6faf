//! Control planes that end: traffic goes on, and the last good configuration outlives them. No other test runs beside these.
#![allow(missing_docs)]

use anyhow::Result;
use gateway_api::experimental::httproutes::HttpRoute;
use heddle_e2e::{Echo, Expected, Kubectl, Load, Namespace, PARENT, assert_share, reviews};
use kube::CustomResourceExt;

#[test]
fn the_control_plane_dies_while_traffic_flows() -> Result<()> {
    let ns = Namespace::meshed("outage")?;
    Echo::new("server").deploy(&ns)?;
    Echo::new("client").deploy(&ns)?;
    Load::from(&ns.kubectl, "client")
        .flag("-n=10")
        .run("http://server/")?;
    let load = Load::from(&ns.kubectl, "client")
        .flag("-n=2000")
        .flag("-qps=100")
        .flag("-c=4")
        .start("http://server/")?;
    let system = Kubectl::cluster();
    system.run(&[
        "-n",
        "heddle-system",
        "delete",
        "pods",
        "-l",
        "app.kubernetes.io/component=operator",
        "--grace-period=0",
        "--force",
    ])?;
    let report = load.report()?;
    assert_eq!(
        (report.status("200"), report.errors),
        (2000, 0),
        "{report:?}"
    );
    system.run(&[
        "-n",
        "heddle-system",
        "rollout",
        "status",
        "deployment/heddle-operator",
        "--timeout=180s",
    ])?;
    // And it works again: a new pod starts, and its calls go through.
    Echo::new("late").deploy(&ns)?;
    let late = Load::from(&ns.kubectl, "late")
        .flag("-n=20")
        .run("http://server/")?;
    assert_eq!((late.status("200"), late.errors), (20, 0), "{late:?}");
    Ok(())
}

/// A route with a rule for all requests, and another rule before it if there is one.
fn route(weights: [(&str, u32); 2], other: &str) -> String {
    let [(a, wa), (b, wb)] = weights;
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: reviews}}
spec:
  parentRefs: [{{group: '', kind: Service, name: reviews, port: 80}}]
  rules:{other}
  - backendRefs: [{{name: {a}, port: 80, weight: {wa}}}, {{name: {b}, port: 80, weight: {wb}}}]
"
    )
}

#[test]
fn a_route_is_read_once_its_definition_is_there_and_its_last_good_rules_outlive_the_control_plane()
-> Result<()> {
    let ns = reviews("route")?;
    // Other tests may have installed it.
    let definition = "crd/httproutes.gateway.networking.k8s.io";
    Kubectl::cluster().run(&["delete", definition, "--ignore-not-found"])?;
    ns.kubectl
        .define(serde_json::to_value(HttpRoute::crd())?, "v1")?;
    let both = |share| [("reviews-v1", share), ("reviews-v2", 100 - share)];
    ns.kubectl.apply(&route(both(50), ""))?;
    let fine = [
        Expected::new("Accepted", "True").for_reason("Accepted"),
        Expected::new("ResolvedRefs", "True").for_reason("ResolvedRefs"),
        Expected::PROGRAMMED.for_reason("Programmed"),
    ];
    let at_parent =
        |expected: &[Expected]| ns.kubectl.conditions("httproute/reviews", PARENT, expected);
    let load = Load::from(&ns.kubectl, "client")
        .flag("-n=1000")
        .flag("-c=4");
    // The client needs the route once it calls.
    load.run("http://reviews/")?;
    at_parent(&fine)?;
    let report = load.run("http://reviews/")?;
    assert_eq!((report.status("200"), report.errors), (1000, 0));
    assert_share(report.version("v1"), 1000, 0.5);

    let unsupported = "
  - matches: [{path: {value: /later}}]
    filters: [{type: ExtensionRef, extensionRef: {group: example.com, kind: A, name: a}}]";
    ns.kubectl.apply(&route(both(0), unsupported))?;
    let fallen_back = [
        Expected::new("Accepted", "True")
            .for_reason("Accepted")
            .behind(1),
        Expected::new("PartiallyInvalid", "True").for_reason("UnsupportedValue"),
        Expected::new("Programmed", "False").for_reason("UnsupportedValue"),
    ];
    at_parent(&fallen_back)?;
    let restart = |arguments: &[&str]| {
        let operator = ["-n", "heddle-system", "rollout"];
        let all: Vec<&str> = operator.iter().chain(arguments).copied().collect();
        Kubectl::cluster().run(&all)
    };
    restart(&["restart", "deployment/heddle-operator"])?;
    restart(&["status", "deployment/heddle-operator", "--timeout=180s"])?;
    // A pod that no control plane of before has served.
    Echo::new("late").deploy(&ns)?;
    let late = Load::from(&ns.kubectl, "late").flag("-n=1000").flag("-c=4");
    let report = late.run("http://reviews/")?;
    assert_eq!((report.status("200"), report.errors), (1000, 0));
    assert_share(report.version("v1"), 1000, 0.5);
    at_parent(&fallen_back)?;

    ns.kubectl.apply(&route(both(0), ""))?;
    at_parent(&fine)?;
    let report = late.run("http://reviews/")?;
    assert_eq!((report.version("v2"), report.errors), (1000, 0));
    ns.kubectl.run(&["delete", "httproute/reviews"])?;
    Ok(())
}
