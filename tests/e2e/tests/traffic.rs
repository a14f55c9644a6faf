//! Injection, splits and rollouts, with counted requests.
#![allow(missing_docs)]

use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use heddle_e2e::{Echo, Load, Namespace, assert_share, eventually, reviews};

fn split(weights: [(&str, u32); 2]) -> String {
    let [(a, wa), (b, wb)] = weights;
    format!(
        "apiVersion: heddle.dev/v1alpha1
kind: TrafficSplit
metadata: {{name: reviews}}
spec:
  service: reviews
  backends: [{{service: {a}, weight: {wa}}}, {{service: {b}, weight: {wb}}}]
"
    )
}

#[test]
fn pods_get_a_sidecar_first_and_ready() -> Result<()> {
    let ns = Namespace::meshed("inject")?;
    ns.kubectl.apply(
        "apiVersion: apps/v1
kind: Deployment
metadata: {name: own-init}
spec:
  selector: {matchLabels: {app: own-init}}
  template:
    metadata: {labels: {app: own-init}}
    spec:
      initContainers: [{name: mine, image: 'heddle.dev/echo:dev', command: [/echo, version]}]
      containers: [{name: app, image: 'heddle.dev/echo:dev', ports: [{containerPort: 8080}]}]
",
    )?;
    ns.kubectl
        .run(&["rollout", "status", "deployment/own-init", "--timeout=120s"])?;
    let names = ns.kubectl.run(&[
        "get",
        "pods",
        "-l",
        "app=own-init",
        "-o",
        "jsonpath={.items[0].spec.initContainers[*].name}",
    ])?;
    assert_eq!(names, "heddle-init heddle-proxy mine");

    ns.kubectl.apply("{apiVersion: v1, kind: Pod, metadata: {name: out, labels: {heddle.dev/inject: disabled}}, spec: {containers: [{name: app, image: 'heddle.dev/echo:dev'}]}}")?;
    ns.kubectl.apply("{apiVersion: v1, kind: Pod, metadata: {name: host}, spec: {hostNetwork: true, containers: [{name: app, image: 'heddle.dev/echo:dev', args: ['-http', ':18999', '-grpc', ':18998', '-tcp', ':18997', '-tls', ':18996']}]}}")?;
    for pod in ["pod/out", "pod/host"] {
        assert_eq!(
            ns.kubectl.get(pod)?.pointer("/spec/initContainers"),
            None,
            "{pod} is not to be injected"
        );
    }

    let plain = Namespace::plain("inject-one")?;
    plain.kubectl.apply("{apiVersion: v1, kind: Pod, metadata: {name: one, labels: {heddle.dev/inject: enabled}}, spec: {containers: [{name: app, image: 'heddle.dev/echo:dev'}]}}")?;
    plain.kubectl.wait("condition=Ready", "pod/one")
}

#[test]
fn a_split_is_live_once_it_says_programmed() -> Result<()> {
    let ns = reviews("split")?;
    let load = Load::from(&ns.kubectl, "client")
        .flag("-n=1000")
        .flag("-c=4");
    load.run("http://reviews/")?;
    for (v1, share) in [(95, 0.95), (50, 0.5)] {
        ns.kubectl
            .apply(&split([("reviews-v1", v1), ("reviews-v2", 100 - v1)]))?;
        ns.kubectl.programmed("trafficsplit/reviews")?;
        let report = load.run("http://reviews/")?;
        assert_eq!(
            (report.status("200"), report.errors),
            (1000, 0),
            "{report:?}"
        );
        assert_share(report.version("v1"), 1000, share);
    }
    let table = ns.kubectl.run(&["get", "trafficsplits"])?;
    assert!(table.contains("50/50") && table.contains("1/1"), "{table}");
    // Heddle changes no field of the manifest: applying it again changes nothing.
    let again = ns
        .kubectl
        .apply(&split([("reviews-v1", 50), ("reviews-v2", 50)]))?;
    assert!(again.contains("unchanged"), "{again}");
    Ok(())
}

#[test]
fn a_split_moves_grpc_and_server_first_tcp_too() -> Result<()> {
    let ns = reviews("split-grpc")?;
    ns.kubectl
        .apply(&split([("reviews-v1", 50), ("reviews-v2", 50)]))?;
    ns.kubectl
        .wait("condition=Programmed", "trafficsplit/reviews")?;
    let grpc = Load::from(&ns.kubectl, "client")
        .flag("-proto=grpc")
        .flag("-n=400")
        .flag("-c=4")
        .run("reviews:9090")?;
    assert_eq!(grpc.errors, 0, "{grpc:?}");
    assert_share(grpc.version("v1"), 400, 0.5);
    let tcp = Load::from(&ns.kubectl, "client")
        .flag("-proto=tcp")
        .flag("-n=200")
        .flag("-c=2")
        .run("reviews:3306")?;
    assert_eq!(tcp.errors, 0, "{tcp:?}");
    assert_share(tcp.version("v1"), 200, 0.5);
    Ok(())
}

#[test]
fn a_split_holds_while_a_backend_has_no_ready_pod() -> Result<()> {
    let ns = reviews("split-hold")?;
    ns.kubectl
        .run(&["scale", "deployment/reviews-v2", "--replicas=0"])?;
    eventually("v2 to be gone", Duration::from_secs(60), || {
        Ok(ns.kubectl.pods("version=v2")?.is_empty().then_some(()))
    })?;
    ns.kubectl
        .apply(&split([("reviews-v1", 50), ("reviews-v2", 50)]))?;
    eventually("the reason in the status", Duration::from_secs(30), || {
        let object = ns.kubectl.get("trafficsplit/reviews")?;
        Ok(object.to_string().contains("BackendNotReady").then_some(()))
    })?;
    let report = Load::from(&ns.kubectl, "client")
        .flag("-n=200")
        .run("http://reviews/")?;
    assert_eq!(
        (report.version("v1"), report.errors),
        (200, 0),
        "{report:?}"
    );
    ns.kubectl
        .run(&["scale", "deployment/reviews-v2", "--replicas=1"])?;
    Echo::version("reviews", "v2").rolled_out(&ns)?;
    eventually("the shift by itself", Duration::from_secs(30), || {
        let report = Load::from(&ns.kubectl, "client")
            .flag("-n=100")
            .run("http://reviews/")?;
        Ok((report.version("v2") > 20).then_some(()))
    })
}

#[test]
fn every_way_to_name_a_pod_works() -> Result<()> {
    let ns = Namespace::meshed("names")?;
    ns.kubectl.apply(&Echo::new("db").yaml())?;
    ns.kubectl.apply("{apiVersion: v1, kind: Service, metadata: {name: db-headless}, spec: {clusterIP: None, selector: {app: db}, ports: [{name: http, port: 8080}, {name: mysql, port: 3306}, {name: odd, port: 9090}]}}")?;
    Echo::new("client").deploy(&ns)?;
    Echo::new("db").rolled_out(&ns)?;
    let pod_ip = ns.kubectl.run(&[
        "get",
        "pods",
        "-l",
        "app=db",
        "-o",
        "jsonpath={.items[0].status.podIP}",
    ])?;
    let cluster_ip =
        ns.kubectl
            .run(&["get", "service", "db", "-o", "jsonpath={.spec.clusterIP}"])?;
    let long = format!("db.{}.svc.cluster.local", ns.name);
    let hosts = [
        format!("{cluster_ip}:80"),
        format!("{pod_ip}:8080"),
        "db:80".to_owned(),
        long,
        "db-headless:8080".to_owned(),
    ];
    for host in hosts {
        let report = Load::from(&ns.kubectl, "client")
            .flag("-n=20")
            .run(&format!("http://{host}/"))?;
        assert_eq!(
            (report.status("200"), report.errors),
            (20, 0),
            "{host}: {report:?}"
        );
    }
    for host in [
        format!("{cluster_ip}:3306"),
        format!("{pod_ip}:3306"),
        "db-headless:3306".to_owned(),
    ] {
        let report = Load::from(&ns.kubectl, "client")
            .flag("-proto=tcp")
            .flag("-n=20")
            .run(&host)?;
        assert_eq!(report.errors, 0, "{host}: {report:?}");
    }
    // A pod that calls itself through its own service.
    let own = Load::from(&ns.kubectl, "db")
        .flag("-n=20")
        .run("http://db/")?;
    assert_eq!((own.status("200"), own.errors), (20, 0), "{own:?}");
    Ok(())
}

#[test]
fn a_rolling_restart_under_load() -> Result<()> {
    let ns = Namespace::meshed("rollout")?;
    Echo::new("server").replicas(2).deploy(&ns)?;
    Echo::new("client").deploy(&ns)?;
    let load = Load::from(&ns.kubectl, "client")
        .flag("-n=4000")
        .flag("-qps=100")
        .flag("-c=8")
        .start("http://server/")?;
    ns.kubectl
        .run(&["rollout", "restart", "deployment/server"])?;
    Echo::new("server").rolled_out(&ns)?;
    let report = load.report()?;
    println!(
        "rolling restart: {} of {} requests failed",
        report.count - report.status("200"),
        report.count
    );
    assert_eq!(
        (report.status("200"), report.errors),
        (4000, 0),
        "{report:?}"
    );
    Ok(())
}

#[test]
fn a_plain_job_completes() -> Result<()> {
    let ns = Namespace::meshed("job")?;
    Echo::new("server").deploy(&ns)?;
    ns.kubectl.apply("{apiVersion: batch/v1, kind: Job, metadata: {name: once}, spec: {backoffLimit: 0, template: {spec: {restartPolicy: Never, containers: [{name: app, image: 'heddle.dev/echo:dev', args: [client, '-n=10', 'http://server/']}]}}}}")?;
    ns.kubectl.wait("condition=Complete", "job/once")?;
    let report = ns.kubectl.run(&["logs", "job/once", "-c", "app"])?;
    assert!(
        report.contains("\"200\":10"),
        "the job's calls went through: {report}"
    );
    Ok(())
}

/// Sends a signal to the Envoy of a pod, from the node.
fn signal_envoy(ns: &Namespace, pod: &str, signal: &str) -> Result<()> {
    let uid = ns
        .kubectl
        .run(&["get", "pod", pod, "-o", "jsonpath={.metadata.uid}"])?;
    let node = std::env::var("HEDDLE_E2E_NODE")?;
    let script = format!(
        "for p in $(pgrep -x envoy); do if grep -q {uid} /proc/$p/cgroup /proc/$p/mountinfo; then kill -{signal} $p && echo done; fi; done"
    );
    let mut words = node.split_whitespace();
    let output = Command::new(words.next().unwrap_or("true"))
        .args(words)
        .args(["bash", "-c", &script])
        .output()?;
    anyhow::ensure!(
        String::from_utf8_lossy(&output.stdout).contains("done"),
        "no envoy of {pod} found: {output:?}"
    );
    Ok(())
}

#[test]
fn a_frozen_proxy_keeps_programmed_false_and_is_named() -> Result<()> {
    if std::env::var_os("HEDDLE_E2E_NODE").is_none() {
        anyhow::bail!("HEDDLE_E2E_NODE must say how to run a command on the node");
    }
    let ns = reviews("frozen")?;
    Echo::new("other").deploy(&ns)?;
    for client in ["client", "other"] {
        Load::from(&ns.kubectl, client)
            .flag("-n=10")
            .run("http://reviews/")?;
    }
    ns.kubectl
        .apply(&split([("reviews-v1", 95), ("reviews-v2", 5)]))?;
    ns.kubectl
        .wait("condition=Programmed", "trafficsplit/reviews")?;
    let [other] = &ns.kubectl.pods("app=other")?[..] else {
        anyhow::bail!("one pod of other")
    };
    signal_envoy(&ns, other, "STOP")?;
    ns.kubectl
        .apply(&split([("reviews-v1", 50), ("reviews-v2", 50)]))?;
    let named = eventually(
        "Programmed=False that names the proxy",
        Duration::from_secs(30),
        || {
            let condition = ns.kubectl.condition("trafficsplit/reviews", "Programmed")?;
            Ok(condition.filter(|(status, _, message)| {
                status == "False" && message.contains(other.as_str())
            }))
        },
    );
    signal_envoy(&ns, other, "CONT")?;
    named?;
    ns.kubectl
        .wait("condition=Programmed", "trafficsplit/reviews")
}
