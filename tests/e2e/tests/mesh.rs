//! Changes of the whole mesh, one test after the other; the last one removes the mesh.
#![allow(missing_docs, clippy::indexing_slicing, reason = "tests may panic")]

#[path = "mesh/adoption.rs"]
mod adoption;

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use anyhow::{Context, Result};
use heddle_e2e::{Echo, Kubectl, Load, Namespace, OwnPorts, eventually};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(120);
/// The label of the control plane's pods.
const OPERATOR: &str = "app.kubernetes.io/component=operator";

/// The settings of the shared mesh, put back when dropped.
struct MeshSettings;

impl MeshSettings {
    fn patch(patch: &str) -> Result<Self> {
        Kubectl::cluster().run(&["patch", "mesh", "default", "--type=merge", "-p", patch])?;
        Ok(Self)
    }
}

impl Drop for MeshSettings {
    fn drop(&mut self) {
        let _ = Kubectl::cluster().output(&[
            "patch",
            "mesh",
            "default",
            "--type=json",
            "-p",
            r#"[{"op": "replace", "path": "/spec", "value": {}}]"#,
        ]);
    }
}

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
    let _settings = MeshSettings::patch(r#"{"spec": {"certificates": {"lifetime": "1m"}}}"#)?;
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
    let settings = r#"{"spec": {"mode": "Observe", "defaultAction": "Deny"}}"#;
    let _settings = MeshSettings::patch(settings)?;
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

fn prometheus_scrapes_the_sidecars() -> Result<()> {
    let ns = Namespace::meshed("scrape")?;
    let _settings = MeshSettings::patch(&format!(
        r#"{{"spec": {{"telemetry": {{"metricsReaders": [{{"namespace": "{}", "serviceAccount": "prometheus"}}]}}}}}}"#,
        ns.name
    ))?;
    Echo::new("server").deploy(&ns)?;
    Echo::new("client").deploy(&ns)?;
    Load::from(&ns.kubectl, "client")
        .flag("-n=50")
        .run("http://server/")?;
    let target = ns.kubectl.run(&[
        "get",
        "pods",
        "-l",
        "app=server",
        "-o",
        "jsonpath={.items[0].status.podIP}",
    ])?;
    // In a block of YAML.
    let rules: String = include_str!("../../../config/monitoring/rules.yaml")
        .lines()
        .map(|line| format!("    {line}\n"))
        .collect();
    ns.kubectl.apply(&format!(
        "apiVersion: v1
kind: ServiceAccount
metadata: {{name: prometheus}}
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: prometheus}}
data:
  rules.yaml: |
{rules}
  prometheus.yml: |
    global: {{scrape_interval: 1s, evaluation_interval: 1s}}
    rule_files: [/config/rules.yaml]
    scrape_configs: [{{job_name: sidecars, metrics_path: /stats/prometheus, static_configs: [{{targets: ['{target}:15020']}}]}}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: prometheus}}
spec:
  selector: {{matchLabels: {{app: prometheus}}}}
  template:
    metadata: {{labels: {{app: prometheus}}}}
    spec:
      serviceAccountName: prometheus
      containers:
      - name: app
        image: heddle.dev/prometheus:dev
        args: [--config.file=/config/prometheus.yml, --storage.tsdb.path=/data]
        volumeMounts: [{{name: config, mountPath: /config}}, {{name: data, mountPath: /data}}]
      volumes: [{{name: config, configMap: {{name: prometheus}}}}, {{name: data, emptyDir: {{}}}}]
"
    ))?;
    ns.kubectl.run(&[
        "rollout",
        "status",
        "deployment/prometheus",
        "--timeout=120s",
    ])?;
    eventually("the edge in Prometheus", Duration::from_secs(60), || {
        let query =
            "http://127.0.0.1:9090/api/v1/query?query=envoy_heddle_request_duration_ms_count";
        let series = ns
            .kubectl
            .exec("deployment/prometheus", "app", &["wget", "-qO-", query])?;
        Ok((series.contains("/sa/client") && series.contains("\"server\"")).then_some(()))
    })?;
    rules_and_queries_have_data(&ns)?;
    // Another identity may not read them.
    let denied = Load::from(&ns.kubectl, "client")
        .flag("-n=3")
        .run(&format!("http://{target}:15020/stats/prometheus"))?;
    assert_eq!(denied.status("200"), 0, "{denied:?}");
    Ok(())
}

/// Prometheus evaluates every rule without an error, and has data for the metrics of the server's sidecar that queries may name.
fn rules_and_queries_have_data(ns: &Namespace) -> Result<()> {
    let ask = |path: &str| -> Result<Value> {
        let url = format!("http://127.0.0.1:9090/api/v1/{path}");
        let answer = ns
            .kubectl
            .exec("deployment/prometheus", "app", &["wget", "-qO-", &url])?;
        Ok(serde_json::from_str(&answer)?)
    };
    eventually("the rules evaluated", Duration::from_secs(60), || {
        let rules = ask("rules")?;
        let groups = rules
            .pointer("/data/groups")
            .and_then(Value::as_array)
            .into_iter()
            .flatten();
        let rules: Vec<&Value> = groups
            .flat_map(|of| of["rules"].as_array().into_iter().flatten())
            .collect();
        let healthy = rules.iter().all(|rule| rule["health"] == "ok");
        Ok((rules.len() > 10 && healthy).then_some(()))
    })?;
    for metric in [
        "envoy_heddle_request_duration_ms_count",
        "envoy_heddle_request_duration_ms_bucket",
        "envoy_control_plane_connected_state",
        "envoy_server_live",
        "envoy_cluster_ssl_certificate_expiration_unix_time_seconds%7Benvoy_tls_certificate=%22workload%22%7D",
    ] {
        eventually(metric, Duration::from_secs(60), || {
            let answer = ask(&format!("query?query={metric}"))?;
            let series = answer
                .pointer("/data/result")
                .and_then(Value::as_array)
                .map_or(0, Vec::len);
            Ok((series > 0).then_some(()))
        })?;
    }
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
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("no sidecar no-such-sidecar"), "{said}");
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

/// `kubectl` in the control plane's own namespace.
fn system(args: &[&str]) -> Result<String> {
    let all: Vec<&str> = ["-n", "heddle-system"]
        .iter()
        .chain(args)
        .copied()
        .collect();
    Kubectl::cluster().run(&all)
}

/// The certificate of the root that is in the Secret; `None` if there is no Secret.
fn root() -> Result<Option<String>> {
    let text = system(&[
        "get",
        "secret",
        "heddle-ca",
        "--ignore-not-found",
        "-o",
        "jsonpath={.data.ca\\.crt}",
    ])?;
    Ok(Some(text).filter(|text| !text.is_empty()))
}

fn scale_operator(replicas: usize) -> Result<()> {
    system(&[
        "scale",
        "deployment/heddle-operator",
        &format!("--replicas={replicas}"),
    ])
    .map(drop)
}

fn calls_pass(ns: &Namespace) -> Result<()> {
    let report = Load::from(&ns.kubectl, "client")
        .flag("-n=50")
        .flag("-keepalive=false")
        .run("http://server/")?;
    anyhow::ensure!(
        (report.status("200"), report.errors) == (50, 0),
        "{report:?}"
    );
    Ok(())
}

/// The root is lost while no replica runs: nothing is issued in its place until the backup is restored. Calls go on.
fn a_lost_root_is_told_and_restored() -> Result<()> {
    let ns = Namespace::meshed("root")?;
    Echo::new("server").deploy(&ns)?;
    Echo::new("client").deploy(&ns)?;
    calls_pass(&ns)?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("root.yaml");
    let backup = file.to_str().context("a path in UTF-8")?;
    heddle(&["ca", "backup", backup])?;
    anyhow::ensure!(
        std::fs::metadata(&file)?.permissions().mode() & 0o777 == 0o600,
        "others can read the backup"
    );
    let again = run_heddle(&["ca", "backup", backup])?;
    anyhow::ensure!(!again.status.success(), "a backup is overwritten");

    // Running replicas put it back.
    let before = root()?.context("no root")?;
    system(&["delete", "secret", "heddle-ca"])?;
    eventually("the root is put back", PATIENCE, || {
        Ok(root()?.filter(|now| *now == before))
    })?;
    heddle(&["check"])?;

    let count = replicas()?.len();
    lose_root(count)?;
    is_told()?;
    anyhow::ensure!(root()?.is_none(), "a new root was made");
    calls_pass(&ns)?;

    heddle(&["ca", "restore", backup])?;
    anyhow::ensure!(root()? == Some(before), "another root was restored");
    let ready = ["rollout", "status", "deployment/heddle-operator"];
    system(&[&ready[..], &["--timeout=120s"]].concat())?;
    // Each replica says it, and not with every attempt.
    let said = operator_log()?.matches(LOST).count();
    anyhow::ensure!((1..=5 * count).contains(&said), "said {said} times");
    heddle(&["check"])?;
    // Pods from before and after trust each other.
    ns.kubectl
        .run(&["rollout", "restart", "deployment/server"])?;
    Echo::new("server").rolled_out(&ns)?;
    calls_pass(&ns)
}

/// The words of a replica that has no root.
const LOST: &str = "no certificate can be issued";

fn operator_log() -> Result<String> {
    system(&["logs", "-l", OPERATOR, "--tail=-1", "--prefix"])
}

fn lose_root(replicas: usize) -> Result<()> {
    scale_operator(0)?;
    eventually("the operator has ended", PATIENCE, || {
        let pods = system(&["get", "pods", "-l", OPERATOR, "-o", "name"])?;
        Ok(pods.trim().is_empty().then_some(()))
    })?;
    system(&["delete", "secret", "heddle-ca"])?;
    scale_operator(replicas)
}

/// In the log, as an Event, and by `heddle check`, each with the fix.
fn is_told() -> Result<()> {
    let log = eventually("the loss is in the log", PATIENCE, || {
        Ok(Some(operator_log()?).filter(|log| log.contains(LOST)))
    })?;
    anyhow::ensure!(log.contains("heddle ca restore"), "{log}");
    eventually("the loss is an Event", PATIENCE, || {
        let of = "--field-selector=involvedObject.name=heddle-ca,reason=RootLost,type=Warning";
        let events = system(&["get", "events", of, "-o", "name"])?;
        Ok((!events.trim().is_empty()).then_some(()))
    })?;
    let check = run_heddle(&["check"])?;
    let said = String::from_utf8_lossy(&check.stdout).into_owned();
    anyhow::ensure!(
        !check.status.success() && said.contains("is lost") && said.contains("heddle ca restore"),
        "{said}"
    );
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
    heddle(&["uninstall"])?;
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

#[test]
fn the_mesh_as_a_whole() -> Result<()> {
    for (name, step) in [
        ("check", check_finds_nothing_wrong as fn() -> Result<()>),
        ("status", proxy_status_asks_every_replica),
        ("edges", edges_come_from_every_replica),
        ("mtls plan", adoption::plan_names_callers_in_plain_text),
        (
            "bug report",
            adoption::a_bug_report_has_all_parts_and_no_secret,
        ),
        (
            "describe",
            adoption::describe_names_rules_sidecars_and_traffic,
        ),
        ("cost", adoption::cost_has_the_requests_of_sidecars),
        ("prometheus", prometheus_scrapes_the_sidecars),
        ("observe", own_ports_refuse_under_observe),
        ("rotation", leaf_rotates_under_load),
        ("root", a_lost_root_is_told_and_restored),
        ("uninstall", uninstall_leaves_nothing_and_traffic_flows),
    ] {
        println!("step {name}");
        step().map_err(|error| error.context(name))?;
    }
    Ok(())
}
