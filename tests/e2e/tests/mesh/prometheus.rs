//! A Prometheus in the mesh: sidecars as targets, the rules and the queries of config/monitoring.

use std::time::Duration;

use anyhow::Result;
use heddle_e2e::{Echo, Load, Namespace, Settings, eventually};
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
    scrape_configs: [{{job_name: sidecars, metrics_path: /stats/prometheus, params: {{names: [istio]}}, static_configs: [{{targets: ['{target}:15020', '{caller}:15020']}}]}}]
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
    queries_of_other_tools_have_data(&ns)?;
    // Another identity may not read them.
    let denied = Load::from(&ns.kubectl, "client")
        .flag("-n=3")
        .run(&format!("http://{target}:15020/stats/prometheus"))?;
    assert_eq!(denied.status("200"), 0, "{denied:?}");
    Ok(())
}

/// The metrics of Flagger (`pkg/metrics/observers/istio.go` of 1.36) and the query of Kiali's graph for the calls of a namespace
/// (`graph/telemetry/istio/istio.go` of 2.x) return data. Each query needs the traffic of the last minute.
fn queries_of_other_tools_have_data(ns: &Namespace) -> Result<()> {
    let of_server = format!(
        r#"reporter="destination",destination_workload_namespace="{}",destination_workload=~"server""#,
        ns.name
    );
    let success = format!(
        r#"sum(rate(istio_requests_total{{{of_server},response_code!~"5.*"}}[1m])) / sum(rate(istio_requests_total{{{of_server}}}[1m])) * 100"#
    );
    let duration = format!(
        "histogram_quantile(0.99, sum(rate(istio_request_duration_milliseconds_bucket{{{of_server}}}[1m])) by (le))"
    );
    let graph = format!(
        r#"round(sum(rate(istio_requests_total{{reporter=~"source|waypoint",source_workload_namespace="{}"}}[60s])) by (source_cluster,source_workload_namespace,source_workload,source_canonical_service,source_canonical_revision,destination_cluster,destination_service_namespace,destination_service,destination_service_name,destination_workload_namespace,destination_workload,destination_canonical_service,destination_canonical_revision,request_protocol,response_code,grpc_response_status,response_flags) > 0,0.001)"#,
        ns.name
    );
    for (query, expected) in [
        (&success, "\"100\""),
        (&duration, "\"value\""),
        (&graph, "\"destination_service_name\":\"server\""),
    ] {
        eventually(query, Duration::from_secs(60), || {
            Load::from(&ns.kubectl, "client")
                .flag("-n=20")
                .run("http://server/")?;
            let url = format!(
                "http://127.0.0.1:9090/api/v1/query?query={}",
                encoded(query)
            );
            let answer =
                ns.kubectl
                    .exec("deployment/prometheus", "app", &["wget", "-qO-", &url])?;
            Ok((answer.contains(expected) && !answer.contains("NaN")).then_some(()))
        })?;
    }
    Ok(())
}

/// A text as a part of a URL.
fn encoded(text: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric();
    text.bytes()
        .map(|byte| match plain(&byte) {
            true => char::from(byte).to_string(),
            false => format!("%{byte:02X}"),
        })
        .collect()
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
