//! A Prometheus in the mesh: sidecars as targets, the rules and the queries of config/monitoring.

use std::time::Duration;

use anyhow::Result;
use heddle_e2e::{Echo, Kubectl, Load, Namespace, Settings, eventually};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::{Value, json};

pub fn prometheus_scrapes_the_sidecars() -> Result<()> {
    let ns = Namespace::meshed("scrape")?;
    let reader = json!({"namespace": ns.name, "serviceAccount": "prometheus"});
    let telemetry = json!({"metricsReaders": [reader], "omitMetricLabels": ["route"]});
    let _settings = Settings::apply(json!({"telemetry": telemetry}))?;
    Echo::new("server").deploy(&ns)?;
    Echo::new("client").deploy(&ns)?;
    Load::from(&ns.kubectl, "client")
        .flag("-n=50")
        .run("http://server/")?;
    let address = |app: &str| {
        let label = format!("app={app}");
        let path = "jsonpath={.items[0].status.podIP}";
        ns.kubectl.run(&["get", "pods", "-l", &label, "-o", path])
    };
    let (target, caller) = (address("server")?, address("client")?);
    let (control_plane, root) = control_plane()?;
    let _binding = Binding::of_prometheus(&ns.name)?;
    // In a block of YAML.
    let rules: String = include_str!("../../../../config/monitoring/rules.yaml")
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
    scrape_configs:
    - {{job_name: sidecars, metrics_path: /stats/prometheus, params: {{names: [istio]}}, static_configs: [{{targets: ['{target}:15020', '{caller}:15020']}}]}}
    - job_name: heddle-control-plane
      scheme: https
      authorization: {{credentials_file: /var/run/secrets/kubernetes.io/serviceaccount/token}}
      tls_config: {{ca_file: /config/root.pem, server_name: heddle.heddle-system.svc}}
      static_configs: [{{targets: [{control_plane}]}}]
  root.pem: |
{root}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: prometheus}}
spec:
  selector: {{matchLabels: {{app: prometheus}}}}
  template:
    metadata: {{labels: {{app: prometheus}}, annotations: {{heddle.dev/exclude-outbound-ports: '15014'}}}}
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
    // Of every replica, by its TLS and the right of the service account.
    for query in [
        "count(up{job=\"heddle-control-plane\"} == 1) == count(up{job=\"heddle-control-plane\"})",
        "sum(heddle_sidecars{state=\"in_sync\"}) > 0",
        "sum(heddle_injections_total{reason=\"injected\"}) > 0",
        "sum(rate(heddle_watch_errors_total[1m])) + sum(rate(heddle_write_errors_total[1m]))",
    ] {
        eventually(query, Duration::from_secs(60), || {
            Ok(has_data(&ns, query)?.then_some(()))
        })?;
    }
    queries_of_other_tools_have_data(&ns)?;
    // Another identity may not read them.
    let denied = Load::from(&ns.kubectl, "client")
        .flag("-n=3")
        .run(&format!("http://{target}:15020/stats/prometheus"))?;
    assert_eq!(denied.status("200"), 0, "{denied:?}");
    Ok(())
}

/// The addresses of the replicas' metrics, and the root that they show, as lines of a block of YAML.
fn control_plane() -> Result<(String, String)> {
    let kubectl = Kubectl::cluster();
    let label = "app.kubernetes.io/component=operator";
    let path = "jsonpath={.items[*].status.podIP}";
    let addresses = kubectl.run(&[
        "-n",
        "heddle-system",
        "get",
        "pods",
        "-l",
        label,
        "-o",
        path,
    ])?;
    let targets = addresses
        .split_whitespace()
        .map(|address| format!("'{address}:15014'"));
    let targets: Vec<String> = targets.collect();
    let path = "go-template={{(index .webhooks 0).clientConfig.caBundle | base64decode}}";
    let webhook = "mutatingwebhookconfiguration/heddle-injector";
    let root = kubectl.run(&["get", webhook, "-o", path])?;
    let root = root.lines().map(|line| format!("    {line}\n")).collect();
    Ok((targets.join(", "), root))
}

/// The right of a namespace's Prometheus to read the metrics of the control plane, until it is dropped.
struct Binding(String);

impl Binding {
    fn of_prometheus(namespace: &str) -> Result<Self> {
        let name = format!("prometheus-{namespace}");
        let account = format!("--serviceaccount={namespace}:prometheus");
        let role = "--clusterrole=heddle-metrics-reader";
        Kubectl::cluster().run(&["create", "clusterrolebinding", &name, role, &account])?;
        Ok(Self(name))
    }
}

impl Drop for Binding {
    fn drop(&mut self) {
        let _ = Kubectl::cluster().output(&["delete", "clusterrolebinding", &self.0]);
    }
}

/// Queries of another tool.
#[derive(Deserialize)]
struct OfTool {
    source: String,
    /// The traffic that they are about.
    traffic: String,
    queries: Vec<String>,
}

/// The queries of Flagger and Kiali for requests inside a namespace return data. Each needs the traffic of the last minute.
fn queries_of_other_tools_have_data(ns: &Namespace) -> Result<()> {
    let text = include_str!("../../../monitoring/kiali_flagger.yaml")
        .replace("NAMESPACE", &ns.name)
        .replace("CLIENT", "client")
        .replace("SERVER", "server")
        .replace("SERVICE", "server")
        .replace("INTERVAL", "1m");
    let tools: Vec<OfTool> = serde_saphyr::from_str(&text)?;
    let of_requests = tools.iter().filter(|tool| tool.traffic == "http");
    for (tool, query) in
        of_requests.flat_map(|tool| tool.queries.iter().map(move |query| (tool, query)))
    {
        let name = format!("{}: {query}", tool.source);
        eventually(&name, Duration::from_secs(60), || {
            Load::from(&ns.kubectl, "client")
                .flag("-n=20")
                .run("http://server/")?;
            Ok(has_data(ns, query)?.then_some(()))
        })?;
    }
    Ok(())
}

/// Whether a query has a value that is a number.
fn has_data(ns: &Namespace, query: &str) -> Result<bool> {
    let url = format!(
        "http://127.0.0.1:9090/api/v1/query?query={}",
        utf8_percent_encode(query, NON_ALPHANUMERIC)
    );
    let answer = ns
        .kubectl
        .exec("deployment/prometheus", "app", &["wget", "-qO-", &url])?;
    let answer: Value = serde_json::from_str(&answer)?;
    let values = answer.pointer("/data/result").and_then(Value::as_array);
    let mut values = values.into_iter().flatten();
    Ok(values.any(|one| one.pointer("/value/1").is_some_and(|value| value != "NaN")))
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
