//! Rollouts under load: no request is lost, and none arrives twice. `HEDDLE_ROLLOUT_ROUNDS` chooses the rounds (1 without it).
#![allow(missing_docs)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use heddle_e2e::{Echo, Ledger, Load, Namespace, Report, eventually};
use serde_json::Value;

/// One run of a client takes some 20 s. Between two runs is a pause of some tenths of a second. So much leaves two cores room for the pods
/// that begin and end.
const REQUESTS: &[&str] = &["-n=1000", "-qps=50", "-c=8"];
/// A stream takes two seconds.
const STREAMS: &[&str] = &["-n=100", "-qps=5", "-c=12"];
/// Enough for a cluster of one node.
const REPLICAS: u32 = 3;

/// Each sidecar logs the requests and connections that failed.
const FAILURES: &str = "{apiVersion: heddle.dev/v1alpha1, kind: Telemetry, metadata: {name: failures}, spec: {accessLogs: {percent: 0, failures: {fromStatus: 400}}}}";

/// One of the services: the flags of its client, the address that it calls, and the status of an answer.
struct Service {
    name: &'static str,
    flags: &'static [&'static str],
    amount: &'static [&'static str],
    url: &'static str,
    status: &'static str,
}

const SERVICES: [Service; 4] = [
    Service {
        name: "web",
        flags: &["-method=POST"],
        amount: REQUESTS,
        url: "http://web/",
        status: "200",
    },
    Service {
        name: "rpc",
        flags: &["-proto=grpc"],
        amount: REQUESTS,
        url: "rpc:9090",
        status: "OK",
    },
    Service {
        name: "streams",
        flags: &["-proto=grpc-stream"],
        amount: STREAMS,
        url: "streams:9090",
        status: "OK",
    },
    Service {
        name: "bytes",
        flags: &["-proto=tcp"],
        amount: REQUESTS,
        url: "bytes:3306",
        status: "ok",
    },
];

/// The counts of all clients of a service.
#[derive(Debug, Default)]
struct Sum {
    sent: u64,
    answered: u64,
    samples: Vec<String>,
}

impl Sum {
    fn add(&mut self, report: &Report, status: &str) {
        self.sent += report.count;
        self.answered += report.status(status);
        if report.status(status) < report.count {
            let others = report.statuses.iter().filter(|(of, _)| *of != status);
            self.samples
                .extend(others.map(|(of, count)| format!("{count} of status {of}")));
            self.samples.extend(report.error_samples.iter().cloned());
        }
    }
}

fn rounds() -> Result<u32> {
    match std::env::var("HEDDLE_ROLLOUT_ROUNDS") {
        Ok(rounds) => Ok(rounds.parse()?),
        Err(_) => Ok(1),
    }
}

/// The servers share a folder of the node, in which each writes down the ids of its requests.
fn deploy(ns: &Namespace) -> Result<()> {
    let folder = format!("/var/tmp/heddle-ledger-{}", ns.name);
    for service in &SERVICES {
        ns.kubectl
            .apply(&Echo::new(service.name).replicas(REPLICAS).yaml())?;
        let patch = serde_json::json!({"spec": {"template": {"spec": {
            "containers": [{
                "name": "app",
                "env": [{"name": "LEDGER", "value": "/ledger"}],
                "securityContext": {"runAsUser": 0},
                "volumeMounts": [{"name": "ledger", "mountPath": "/ledger"}],
            }],
            "volumes": [{"name": "ledger", "hostPath": {"path": folder, "type": "DirectoryOrCreate"}}],
        }}}});
        let deployment = format!("deployment/{}", service.name);
        ns.kubectl
            .run(&["patch", &deployment, "-p", &patch.to_string()])?;
        ns.kubectl.apply(&format!(
            "{{apiVersion: policy/v1, kind: PodDisruptionBudget, metadata: {{name: {0}}}, spec: {{maxUnavailable: 1, selector: {{matchLabels: {{app: {0}}}}}}}}}",
            service.name
        ))?;
        rolled_out(ns, service.name)?;
    }
    ns.kubectl.apply(FAILURES)?;
    Echo::new("client").deploy(ns)
}

/// The last lines of the client's sidecar about failures: with flags and times.
fn told_by_the_client(ns: &Namespace) -> Result<String> {
    let args = [
        "logs",
        "deployment/client",
        "-c",
        "heddle-proxy",
        "--tail=40",
    ];
    ns.kubectl.run(&args)
}

fn rolled_out(ns: &Namespace, name: &str) -> Result<()> {
    let deployment = format!("deployment/{name}");
    ns.kubectl
        .run(&["rollout", "status", &deployment, "--timeout=180s"])
        .map(drop)
}

/// Sends until told to stop, in runs of some seconds.
fn load(ns: &Namespace, service: &Service, over: &AtomicBool) -> Result<Sum> {
    let mut sum = Sum::default();
    while !over.load(Ordering::Relaxed) {
        let mut load = Load::from(&ns.kubectl, "client").flag("-ids");
        for flag in service.flags.iter().chain(service.amount) {
            load = load.flag(flag);
        }
        sum.add(&load.run(service.url)?, service.status);
    }
    Ok(sum)
}

fn round(ns: &Namespace) -> Result<()> {
    let each = |action: &dyn Fn(&str) -> Result<()>| {
        SERVICES.iter().try_for_each(|service| action(service.name))
    };
    each(&|name| {
        let deployment = format!("deployment/{name}");
        ns.kubectl
            .run(&["rollout", "restart", &deployment])
            .map(drop)
    })?;
    each(&|name| rolled_out(ns, name))?;
    for replicas in ["1", "3"] {
        each(&|name| {
            let (deployment, replicas) = (
                format!("deployment/{name}"),
                format!("--replicas={replicas}"),
            );
            ns.kubectl.run(&["scale", &deployment, &replicas]).map(drop)
        })?;
        each(&|name| rolled_out(ns, name))?;
    }
    each(&|name| {
        let pods = ns.kubectl.pods(&format!("app={name}"))?;
        let pod = pods.first().context("a pod")?;
        ns.kubectl.run(&["delete", "pod", pod]).map(drop)
    })?;
    each(&|name| rolled_out(ns, name))?;
    // As a drain of their node does it, within their budgets. The node stays open, for it is the only one.
    std::thread::scope(|scope| {
        let evictions = SERVICES.each_ref();
        let evictions = evictions.map(|service| scope.spawn(|| evict_all(ns, service.name)));
        evictions
            .into_iter()
            .try_for_each(|eviction| match eviction.join() {
                Ok(result) => result,
                Err(_) => bail!("an eviction panicked"),
            })
    })?;
    each(&|name| rolled_out(ns, name))
}

fn evict_all(ns: &Namespace, name: &str) -> Result<()> {
    let pods = ns.kubectl.pods(&format!("app={name}"))?;
    pods.iter().try_for_each(|pod| {
        let expected = format!("the eviction of {pod}");
        eventually(&expected, Duration::from_secs(120), || {
            ns.kubectl.evict(pod).map(Some)
        })
    })
}

/// Runs the rounds under load from all clients; returns their counts.
fn under_load(ns: &Namespace, rounds: u32) -> Result<Vec<Sum>> {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let loads: Vec<_> = SERVICES
            .iter()
            .map(|service| scope.spawn(|| load(ns, service, &over)))
            .collect();
        let mut result = Ok(());
        for number in 1..=rounds {
            let begun = Instant::now();
            result = round(ns).with_context(|| format!("round {number}"));
            println!(
                "rollouts: round {number} of {rounds} took {:.0?}",
                begun.elapsed()
            );
            if result.is_err() {
                break;
            }
        }
        over.store(true, Ordering::Relaxed);
        let sums = loads.into_iter().map(|load| match load.join() {
            Ok(sum) => sum,
            Err(_) => bail!("a client panicked"),
        });
        let sums: Result<Vec<Sum>> = sums.collect();
        result.and(sums)
    })
}

fn heddle(args: &[&str]) -> Result<String> {
    let program = std::env::var("HEDDLE").context("HEDDLE names the command")?;
    let output = std::process::Command::new(program).args(args).output()?;
    ensure!(
        output.status.success(),
        "heddle {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}

/// The receipts of a workload, once the pods of the last round have them.
fn receipts(ns: &Namespace, name: &str) -> Result<Vec<Value>> {
    let workload = format!("deploy/{name}");
    let args = [
        "rollout", "receipt", &workload, "-n", &ns.name, "-o", "json",
    ];
    eventually("receipts", Duration::from_secs(60), || {
        let text = heddle(&args)?;
        let document: Value = serde_json::from_str(&text)?;
        let receipts = document
            .pointer("/receipts")
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default();
        Ok(Some(receipts).filter(|all| !all.is_empty()))
    })
}

#[test]
fn rollouts_lose_no_request_and_each_pod_has_a_receipt() -> Result<()> {
    let ns = Namespace::meshed("rollouts")?;
    deploy(&ns)?;
    let rounds = rounds()?;
    let sums = under_load(&ns, rounds)?;
    let (mut answered, mut failed) = (0, Vec::new());
    for (service, sum) in SERVICES.iter().zip(&sums) {
        let lost = sum.sent - sum.answered;
        println!(
            "rollouts: {}: {lost} of {} lost in {rounds} rounds",
            service.name, sum.sent
        );
        answered += sum.answered;
        if lost > 0 {
            failed.push(format!("{}: {sum:?}", service.name));
        }
    }
    // All servers have one folder.
    let Ledger {
        ids, duplicates, ..
    } = Ledger::of(&ns, "deployment/web")?;
    println!("rollouts: {ids} ids at the servers, {duplicates} more than once");
    for service in &SERVICES {
        let all = receipts(&ns, service.name)?;
        let waits = all.iter().filter_map(|of| {
            let time = |field: &str| of[field].as_u64();
            time("sigtermMs")?.checked_sub(time("terminatingMs")?)
        });
        let mut waits: Vec<u64> = waits.collect();
        waits.sort_unstable();
        println!("rollouts: {}: SIGTERM after {waits:?} ms", service.name);
        for receipt in &all {
            if receipt["clean"] == false {
                failed.push(format!("{}: not clean: {receipt}", service.name));
            }
        }
    }
    if !failed.is_empty() {
        eprintln!("{}", told_by_the_client(&ns)?);
        bail!("{failed:#?}");
    }
    assert_eq!((ids, duplicates), (answered, 0));
    Ok(())
}
