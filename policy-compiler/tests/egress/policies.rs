//! TrafficPolicies for hosts outside: timeouts, retries, changes of headers and faults of requests, and the ejection of a host that fails.

use std::io::Write;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use heddle_policy_compiler::{Call, Compiled, NamespacedName, ObjectKind, ObjectRef};
use serde_json::{Value, json};

use crate::cluster::{external_service, traffic_policy};
use crate::harness::running::{http, request, serve, status};
use crate::servers::{Names, dns};
use crate::sidecar::{Sidecar, ask};
use crate::{NOTHING, PORT, compiled};

const NAMES: Names = &[
    ("slow.p.example.com", Ipv4Addr::new(127, 96, 5, 11)),
    ("once.p.example.com", Ipv4Addr::new(127, 96, 5, 12)),
    ("down.p.example.com", Ipv4Addr::new(127, 96, 5, 13)),
    ("free.p.example.com", Ipv4Addr::new(127, 96, 5, 14)),
];

/// A server that answers with the status that comes next and the request, and the number of requests so far.
fn server(ip: &str, wait: Duration, statuses: fn(u32) -> u16) -> Result<Arc<AtomicU32>> {
    let count = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&count);
    serve(format!("{ip}:{PORT}"), move |stream| {
        while let Some(seen) = request(stream) {
            let status = statuses(counted.fetch_add(1, Ordering::SeqCst));
            std::thread::sleep(wait);
            let length = seen.len();
            let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n\r\n");
            let _ = stream.write_all(&[head.as_bytes(), &seen].concat());
        }
    })?;
    Ok(count)
}

fn objects(name: &str, fields: Value) -> [Value; 2] {
    let ports = json!([{"port": PORT, "protocol": "HTTP"}]);
    let hosts = json!([format!("{name}.p.example.com")]);
    let mut spec = fields;
    spec["target"] = json!({"externalService": name, "port": PORT});
    [
        external_service(name, json!({"hosts": hosts, "ports": ports})),
        traffic_policy(name, spec),
    ]
}

#[test]
fn calls_to_hosts_outside_have_the_policies_of_their_objects() -> Result<()> {
    let (at, _) = dns(NAMES)?;
    let none = Duration::ZERO;
    let slow = server("127.96.5.11", Duration::from_secs(3), |_| 200)?;
    let once = server(
        "127.96.5.12",
        none,
        |before| if before % 2 == 0 { 503 } else { 200 },
    )?;
    let down = server("127.96.5.13", none, |_| 503)?;
    let _free = server("127.96.5.14", none, |_| 200)?;
    let retries = json!({"attempts": 2, "conditions": ["GatewayError"]});
    let headers = json!({"request": {"set": [{"name": "x-tenant", "value": "shop"}]}});
    let abort = json!({"match": {"headers": [{"name": "x-fault", "exact": "1"}]}, "abort": {"status": 418, "percent": 100}});
    let ejection = json!({"serverErrors": 2, "interval": "100ms", "baseTime": "1h"});
    let all = [
        objects("slow", json!({"timeouts": {"request": "1s"}})),
        objects(
            "once",
            json!({"retries": retries, "headers": headers, "faults": [abort]}),
        ),
        objects(
            "down",
            json!({"outlierEjection": ejection, "retries": {"attempts": 0}}),
        ),
        objects("free", json!({"limits": {"connections": 8}})),
    ];
    let compiled = compiled("Deny", all.as_flattened());
    let sidecar = Sidecar::start(&compiled, "127.96.5.2", at)?;
    let get = |name: &str, headers: &str| {
        let host = format!("{name}.p.example.com");
        let headers = format!("connection: close\r\n{headers}");
        ask(&mut sidecar.connect(NOTHING)?, &host, &headers)
    };

    let explanation = compiled.explain(&Call {
        from: NamespacedName::new("shop", "client"),
        host: "slow.p.example.com".to_owned(),
        port: PORT,
        tls: false,
        method: "GET".to_owned(),
        path: "/x".to_owned(),
        headers: Vec::new(),
    })?;
    let rule = explanation.rule.context("no rule")?;
    ensure!(rule.policy.timeouts.request == Some(Duration::from_secs(1)));
    let policy = ObjectRef::new(ObjectKind::TrafficPolicy, "shop", "slow");
    ensure!(rule.objects.contains(&policy), "{:?}", rule.objects);
    let answer = get("slow", "")?;
    ensure!(status(&answer) == 504, "{answer}");
    ensure!(slow.load(Ordering::SeqCst) == 1);

    let answer = get("once", "")?;
    ensure!(status(&answer) == 200, "{answer}");
    ensure!(once.load(Ordering::SeqCst) == 2);
    ensure!(answer.contains("x-tenant: shop"), "{answer}");
    let answer = get("once", "x-fault: 1\r\n")?;
    ensure!(status(&answer) == 418, "{answer}");
    ensure!(once.load(Ordering::SeqCst) == 2);

    // The only endpoint is ejected by Envoy's main thread, some time after the failures: then calls fail at once.
    let failed = |calls| {
        (0..calls).try_for_each(|_| {
            let answer = get("down", "")?;
            ensure!(status(&answer) == 503, "{answer}");
            Ok(())
        })
    };
    failed(2)?;
    let deadline = Instant::now() + Duration::from_secs(10);
    while !http(&sidecar.admin, "GET", "/clusters", "")?.contains("/failed_outlier_check") {
        ensure!(Instant::now() < deadline, "the endpoint is not ejected");
        std::thread::sleep(Duration::from_millis(10));
    }
    failed(4)?;
    ensure!(down.load(Ordering::SeqCst) == 2, "{down:?}");

    let answer = get("free", "")?;
    ensure!(status(&answer) == 200, "{answer}");
    Ok(())
}

/// A change of a policy, or its end, changes neither a listener nor the name of a cluster, and the end restores the bytes.
#[test]
fn a_policy_changes_routes_and_clusters_alone() {
    let with = objects(
        "free",
        json!({"timeouts": {"request": "1s"}, "limits": {"requests": 1}}),
    );
    let (with, without) = (compiled("Deny", &with), compiled("Deny", &with[..1]));
    let pod = NamespacedName::new("shop", "client");
    let listeners = |of| crate::harness::listeners(of, &pod);
    assert_eq!(listeners(&with), listeners(&without));
    let clusters = |of: &Compiled| -> Vec<_> { of.external_clusters().cloned().collect() };
    assert_eq!(clusters(&with), clusters(&without));
    let policy = ObjectRef::new(ObjectKind::TrafficPolicy, "shop", "free");
    let hosts: Vec<String> = with.external_hosts_of(&policy).into_iter().collect();
    assert_eq!(hosts, [format!("free.p.example.com:{PORT}")]);
    assert!(without.external_hosts_of(&policy).is_empty());
}
