//! The effects of `TrafficSplit` and `TrafficPolicy` objects on requests, by the answers that a client gets.
#![allow(missing_docs)]

use std::time::Duration;

use anyhow::Result;
use heddle_e2e::{Namespace, Report, Settings, eventually, reviews};
use serde_json::json;

/// Calls of `reviews`, with these flags of the client.
fn calls(ns: &Namespace, count: u64, flags: &[&str], path: &str) -> Result<Report> {
    heddle_e2e::calls(ns, count, flags, &format!("http://reviews{path}"))
}

#[test]
fn a_split_takes_the_requests_that_match_and_keeps_a_user_at_one_backend() -> Result<()> {
    let ns = reviews("matches")?;
    calls(&ns, 1, &[], "/")?;
    ns.put(
        "TrafficSplit",
        "all",
        "{service: reviews, sticky: {header: x-user}, backends: [{service: reviews-v1, weight: 1}, {service: reviews-v2, weight: 1}]}",
    )?;
    ns.put(
        "TrafficSplit",
        "testers",
        "{service: reviews, matches: [{headers: [{name: x-canary, exact: 'yes'}]}, {path: {prefix: /v2}}], backends: [{service: reviews-v2, weight: 1}]}",
    )?;
    let tester = calls(&ns, 30, &["-H=x-canary: yes"], "/")?;
    assert_eq!(tester.version("v2"), 30, "{tester:?}");
    let by_path = calls(&ns, 30, &[], "/v2/books")?;
    assert_eq!(by_path.version("v2"), 30, "{by_path:?}");
    let mut of_users = Vec::new();
    for user in 0..12 {
        let report = calls(&ns, 10, &[&format!("-H=x-user: {user}")], "/")?;
        assert_eq!(report.versions.len(), 1, "user {user}: {report:?}");
        of_users.extend(report.versions.into_keys());
    }
    of_users.sort();
    of_users.dedup();
    assert_eq!(of_users, ["v1", "v2"], "12 users at one backend");
    Ok(())
}

#[test]
fn a_policy_bounds_times_and_counts_changes_headers_and_injects_faults() -> Result<()> {
    let ns = reviews("policy")?;
    calls(&ns, 1, &[], "/")?;
    let policy = |spec: &str| {
        let spec = format!("{{target: {{service: reviews, port: 80}}, {spec}}}");
        ns.put("TrafficPolicy", "reviews", &spec)
    };

    policy("timeouts: {request: 300ms}")?;
    let late = calls(&ns, 5, &[], "/?delay=3s")?;
    assert_eq!(late.status("504"), 5, "{late:?}");

    policy(
        "faults: [{match: {headers: [{name: x-fault, present: true}]}, abort: {status: 418, percent: 100}}]",
    )?;
    let faulty = calls(&ns, 20, &["-H=x-fault: 1"], "/")?;
    assert_eq!(faulty.status("418"), 20, "{faulty:?}");

    policy("headers: {response: {set: [{name: x-version, value: changed}]}}")?;
    let changed = calls(&ns, 20, &[], "/")?;
    assert_eq!(changed.version("changed"), 20, "{changed:?}");

    // Without the fault, the limit of time and the change of before.
    policy("rateLimits: [{match: {method: POST}, requests: 5, per: 1h}]")?;
    let limited = calls(&ns, 40, &["-method=POST", "-H=x-fault: 1"], "/")?;
    // Each of the two servers counts for itself.
    assert!((5..=10).contains(&limited.status("200")), "{limited:?}");
    assert_eq!(
        limited.status("429"),
        40 - limited.status("200"),
        "{limited:?}"
    );
    let others = calls(&ns, 20, &[], "/")?;
    assert_eq!(others.status("200"), 20, "{others:?}");

    policy(
        "outlierEjection: {gatewayErrors: 3, baseTime: 5m}, retries: {conditions: [GatewayError]}",
    )?;
    calls(&ns, 40, &[], "/?status=503")?;
    eventually("an ejected endpoint", Duration::from_secs(30), || {
        Ok((calls(&ns, 20, &[], "/")?.versions.len() == 1).then_some(()))
    })?;

    ns.kubectl.run(&["delete", "trafficpolicy/reviews"])?;
    eventually("the calls of before", Duration::from_secs(60), || {
        let report = calls(&ns, 40, &["-method=POST"], "/")?;
        Ok((report.status("200") == 40 && report.versions.len() == 2).then_some(()))
    })
}

#[test]
fn a_shared_limit_counts_over_all_pods_of_a_service() -> Result<()> {
    let ns = reviews("shared")?;
    ns.kubectl.apply(
        "apiVersion: v1
kind: ConfigMap
metadata: {name: ratelimit}
data: {heddle.yaml: 'domain: heddle'}
---
apiVersion: v1
kind: Service
metadata: {name: ratelimit}
spec:
  selector: {app: ratelimit}
  ports: [{name: grpc, port: 8081}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: ratelimit}
spec:
  selector: {matchLabels: {app: ratelimit}}
  template:
    metadata: {labels: {app: ratelimit}}
    spec:
      containers:
      - name: app
        image: heddle.dev/ratelimit:dev
        imagePullPolicy: IfNotPresent
        env:
        # A ConfigMap has its files a second time, in a folder that begins with a dot.
        - {name: RUNTIME_IGNOREDOTFILES, value: 'true'}
        - {name: USE_STATSD, value: 'false'}
        - {name: RUNTIME_ROOT, value: /data}
        - {name: RUNTIME_SUBDIRECTORY, value: ''}
        - {name: RUNTIME_WATCH_ROOT, value: 'false'}
        ports: [{containerPort: 8081, name: grpc}]
        readinessProbe: {httpGet: {path: /healthcheck, port: 8080}, periodSeconds: 1}
        volumeMounts: [{name: config, mountPath: /data/config}]
      volumes: [{name: config, configMap: {name: ratelimit}}]
",
    )?;
    let rollout = [
        "rollout",
        "status",
        "deployment/ratelimit",
        "--timeout=180s",
    ];
    ns.kubectl.run(&rollout)?;
    let service = json!({"namespace": ns.name, "name": "ratelimit", "port": 8081});
    let limits = json!({"failureMode": "Closed", "timeout": "5s", "server": {"service": service}});
    let _settings = Settings::apply(json!({"rateLimits": limits}))?;
    calls(&ns, 1, &[], "/")?;
    ns.put(
        "TrafficPolicy",
        "reviews",
        "{target: {service: reviews, port: 80}, rateLimits: [{requests: 20, per: 1h, shared: true}]}",
    )?;
    // Once between two of the calls a new period may begin.
    let report = calls(&ns, 60, &["-c=2"], "/")?;
    assert!((20..=40).contains(&report.status("200")), "{report:?}");
    assert_eq!(
        report.status("429"),
        60 - report.status("200"),
        "{report:?}"
    );
    assert_eq!(report.versions.len(), 2, "{report:?}");
    Ok(())
}
