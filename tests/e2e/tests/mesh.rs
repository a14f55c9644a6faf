//! Changes of the whole mesh, one test after the other; the last one removes the mesh.
#![allow(missing_docs, clippy::indexing_slicing, reason = "tests may panic")]

#[path = "mesh/adoption.rs"]
mod adoption;
#[path = "mesh/definitions.rs"]
mod definitions;
#[path = "mesh/prometheus.rs"]
mod prometheus;
#[path = "mesh/root.rs"]
mod root;

use std::time::Duration;

use anyhow::Result;
use heddle_e2e::{Echo, Kubectl, Load, Namespace, OwnPorts, Settings, eventually};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::json;

const PATIENCE: Duration = Duration::from_secs(120);
/// The label of the control plane's pods.
const OPERATOR: &str = "app.kubernetes.io/component=operator";

fn run_heddle(args: &[&str]) -> Result<std::process::Output> {
    Ok(std::process::Command::new(std::env::var("HEDDLE")?)
        .args(args)
        .output()?)
}

fn heddle(args: &[&str]) -> Result<String> {
    let output = run_heddle(args)?;
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    anyhow::ensure!(output.status.success(), "heddle {args:?}: {text}");
    Ok(text)
}

fn leaf_rotates_under_load() -> Result<()> {
    let _settings = Settings::apply(json!({"certificates": {"lifetime": "1m"}}))?;
    let ns = Namespace::meshed("rotation")?;
    Echo::new("server").deploy(&ns)?;
    Echo::new("client").deploy(&ns)?;
    let client = format!("issued a certificate pod={}/client-", ns.name);
    let issued = || -> Result<Vec<String>> {
        let logs = ["-n", "heddle-system", "logs", "-l", OPERATOR, "--tail=-1"];
        let logs = Kubectl::cluster().run(&logs)?;
        let lines = logs.lines().filter(|line| line.contains(&client));
        Ok(lines.map(str::to_owned).collect())
    };
    let before = issued()?;
    let nodes = Kubectl::cluster().get("nodes")?;
    // The only node of the cluster of the tests; others may have no zone.
    if let Some(zone) =
        nodes["items"][0]["metadata"]["labels"]["topology.kubernetes.io/zone"].as_str()
    {
        let zone = format!("zone={zone:?}");
        let told = before.iter().all(|line| line.contains(&zone));
        assert!(told && !before.is_empty(), "{zone}: {before:?}");
    }
    let report = Load::from(&ns.kubectl, "client")
        .flag("-n=7500")
        .flag("-qps=100")
        .flag("-c=4")
        .run("http://server/")?;
    assert_eq!(
        (report.status("200"), report.errors),
        (7500, 0),
        "{report:?}"
    );
    assert!(
        issued()?.len() > before.len(),
        "the leaf was rotated during the load"
    );
    Ok(())
}

/// Under Observe, the own ports of a sidecar answer no call either.
fn own_ports_refuse_under_observe() -> Result<()> {
    let _settings = Settings::apply(json!({"mode": "Observe", "defaultAction": "Deny"}))?;
    let ns = Namespace::meshed("own-ports-observe")?;
    Echo::new("server").deploy(&ns)?;
    let ports = OwnPorts::of(&ns, "server", "own-ports-observe-out")?;
    eventually(
        "a plain call that the default denies passes",
        PATIENCE,
        || Ok((ports.call(8080)?.status("200") == 1).then_some(())),
    )?;
    ports.refuse("Observe")?;
    assert_eq!(ports.restarts(&ns)?, 0, "the sidecar was started again");
    Ok(())
}

fn check_finds_nothing_wrong() -> Result<()> {
    let text = heddle(&["check"])?;
    assert!(text.contains("webhook"), "{text}");
    Ok(())
}

/// The output of `heddle proxy status -o json`.
#[derive(Deserialize)]
struct Status {
    complete: bool,
    replicas: Vec<IgnoredAny>,
    proxies: Vec<Sidecar>,
}

#[derive(Deserialize)]
struct Sidecar {
    proxy: String,
    replica: String,
    bytes: u64,
    version: String,
}

/// The replicas of the control plane, as Kubernetes names them.
fn replicas() -> Result<Vec<String>> {
    let names = Kubectl::cluster().run(&[
        "-n",
        "heddle-system",
        "get",
        "pods",
        "-l",
        OPERATOR,
        "--field-selector=status.phase=Running",
        "-o",
        "jsonpath={.items[*].metadata.name}",
    ])?;
    Ok(names.split_whitespace().map(str::to_owned).collect())
}

fn proxy_status_asks_every_replica() -> Result<()> {
    let ns = Namespace::meshed("status")?;
    Echo::new("server").deploy(&ns)?;
    Echo::new("client").deploy(&ns)?;
    Load::from(&ns.kubectl, "client")
        .flag("-n=5")
        .run("http://server/")?;
    let replicas = replicas()?;
    // By its exit code: every sidecar in sync, every replica asked.
    let text = eventually("all in sync", Duration::from_secs(60), || {
        Ok(heddle(&["proxy", "status", "-o", "json"]).ok())
    })?;
    let status: Status = serde_json::from_str(&text)?;
    assert!(status.complete, "{text}");
    assert_eq!(status.replicas.len(), replicas.len(), "{text}");
    let prefix = format!("{}/", ns.name);
    let of_test: Vec<&Sidecar> = status
        .proxies
        .iter()
        .filter(|sidecar| sidecar.proxy.starts_with(&prefix))
        .collect();
    assert_eq!(
        of_test.len(),
        2,
        "each once, whichever replica serves it: {text}"
    );
    for sidecar in of_test {
        assert!(replicas.contains(&sidecar.replica), "{text}");
        assert!(
            sidecar.bytes > 0 && sidecar.version.starts_with("envoy "),
            "{text}"
        );
    }
    let output = run_heddle(&["proxy", "status", "no-such-sidecar"])?;
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("no sidecar no-such-sidecar"), "{stderr}");
    Ok(())
}

/// The output of `heddle edges -o json`.
#[derive(Deserialize)]
struct Graph {
    replicas: Vec<IgnoredAny>,
    edges: Vec<Edge>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Edge {
    source: End,
    destination: End,
    mtls: String,
    success_percent: Option<f64>,
    p99_ms: Option<f64>,
}

#[derive(Deserialize)]
struct End {
    name: String,
}

fn edges_come_from_every_replica() -> Result<()> {
    let ns = Namespace::meshed("edges")?;
    Echo::new("server").deploy(&ns)?;
    Echo::new("client").deploy(&ns)?;
    Load::from(&ns.kubectl, "client")
        .flag("-n=50")
        .run("http://server/")?;
    let args = ["edges", "-n", &ns.name, "--window", "300", "-o", "json"];
    let graph = eventually("the edge", Duration::from_secs(60), || {
        let graph: Graph = serde_json::from_str(&heddle(&args)?)?;
        let there = graph.edges.iter().any(|edge| {
            (&*edge.source.name, &*edge.destination.name) == ("client", "server")
                && (&*edge.mtls, edge.success_percent) == ("yes", Some(100.0))
                && edge.p99_ms.is_some()
        });
        Ok(there.then_some(graph))
    })?;
    assert_eq!(graph.replicas.len(), replicas()?.len());
    let top = heddle(&["top", "services", "-n", &ns.name, "--window", "300"])?;
    assert!(top.contains(&format!("{}/server", ns.name)), "{top}");
    Ok(())
}

fn uninstall_leaves_nothing_and_traffic_flows() -> Result<()> {
    let ns = Namespace::meshed("uninstall")?;
    Echo::new("server").deploy(&ns)?;
    Echo::new("client").deploy(&ns)?;
    Load::from(&ns.kubectl, "client")
        .flag("-n=5")
        .run("http://server/")?;
    let load = Load::from(&ns.kubectl, "client")
        .flag("-n=1500")
        .flag("-qps=100")
        .start("http://server/")?;
    let refused = run_heddle(&["uninstall"])?;
    let named = String::from_utf8_lossy(&refused.stdout).into_owned();
    assert!(!refused.status.success(), "{named}");
    assert!(
        named.contains("with a sidecar lose the control plane"),
        "{named}"
    );
    heddle(&["uninstall", "--yes"])?;
    let report = load.report()?;
    assert_eq!(
        (report.status("200"), report.errors),
        (1500, 0),
        "{report:?}"
    );
    let kinds = "crds,clusterroles,clusterrolebindings,mutatingwebhookconfigurations,namespaces";
    let left = Kubectl::cluster().run(&["get", kinds, "-o", "name"])?;
    let ours: Vec<_> = left
        .lines()
        .filter(|line| line.contains("heddle"))
        .collect();
    assert!(ours.is_empty(), "left behind: {ours:?}");
    // Pods start in a namespace that still has the label: nothing stands in their way.
    Echo::new("unmeshed").deploy(&ns)
}

/// `HEDDLE_E2E_STEP` names the only step to run.
#[test]
fn the_mesh_as_a_whole() -> Result<()> {
    let only = std::env::var("HEDDLE_E2E_STEP").ok();
    let steps = [
        ("check", check_finds_nothing_wrong as fn() -> Result<()>),
        (
            "definitions",
            definitions::a_definition_without_a_field_is_told,
        ),
        ("status", proxy_status_asks_every_replica),
        ("edges", edges_come_from_every_replica),
        ("mtls plan", adoption::plan_names_callers_in_plain_text),
        (
            "mtls strict",
            adoption::a_flip_is_refused_for_a_caller_in_plain_text_and_loses_no_other,
        ),
        (
            "bug report",
            adoption::a_bug_report_has_all_parts_and_no_secret,
        ),
        (
            "describe",
            adoption::describe_names_rules_sidecars_and_traffic,
        ),
        ("cost", adoption::cost_has_the_requests_of_sidecars),
        (
            "bypass",
            adoption::a_bypassed_namespace_enforces_nothing_and_says_so,
        ),
        ("prometheus", prometheus::prometheus_scrapes_the_sidecars),
        ("observe", own_ports_refuse_under_observe),
        ("rotation", leaf_rotates_under_load),
        ("root", root::a_lost_root_is_told_and_restored),
        ("uninstall", uninstall_leaves_nothing_and_traffic_flows),
    ];
    if let Some(only) = &only {
        let known = steps.iter().any(|(name, _)| name == only);
        anyhow::ensure!(known, "{only:?} is not a step");
    }
    for (name, step) in steps {
        if only.as_deref().is_some_and(|only| only != name) {
            continue;
        }
        println!("step {name}");
        step().map_err(|error| error.context(name))?;
    }
    Ok(())
}
