//! The cost of authorization in a real Envoy: instructions of a request by the number of identities, beside RBAC rules, and memory by the
//! number of Deny paths. Run by hand, with valgrind: `cargo bench -p heddle-policy-compiler --bench authz_cost`.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a measurement"
)]

mod callgrind;
#[path = "../tests/harness/mod.rs"]
mod harness;

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use harness::running::{Envoy, Trust, connect, serve, spawn, start};
use heddle_policy_compiler::world::SpiffeId;
use heddle_policy_compiler::{Compiled, World, compile, ingest};
use serde_json::{Value, json};

const SERVER: &str = "127.79.0.2";
const APPLICATION: &str = "127.79.0.3";
const TUNNELS: &str = "127.79.0.4";
const FIRST: u16 = 21_001;
const IDENTITIES: [usize; 4] = [1, 10, 100, 1_000];
const ROUNDS: usize = 2;
const REQUESTS: usize = 300;

/// The ports of one server; each has the rules of one policy, or no policy.
fn compiled(policies: &[Option<Value>]) -> Result<Compiled> {
    let ports = (FIRST..).zip(policies);
    let service: Vec<Value> = ports
        .clone()
        .map(|(port, _)| json!({"name": format!("http-{port}"), "port": port, "targetPort": port}))
        .collect();
    let mut objects = vec![
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "api", "namespace": "shop"},
            "spec": {"clusterIP": "10.96.0.1", "selector": {"app": "api"}, "ports": service}}),
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "api", "namespace": "shop", "labels": {"app": "api"}, "annotations": {"heddle.dev/standalone-app": APPLICATION}},
            "spec": {"serviceAccountName": "api", "containers": [{"name": "app"}]}, "status": {"podIPs": [{"ip": SERVER}]}}),
    ];
    for (port, rules) in ports {
        let Some(rules) = rules else { continue };
        let mut rules = rules.clone();
        for rule in rules.as_array_mut().unwrap() {
            rule["to"]["ports"] = json!([port]);
        }
        objects.push(json!({"apiVersion": "heddle.dev/v1alpha1", "kind": "AuthPolicy", "metadata": {"name": format!("p{port}"), "namespace": "shop", "generation": 1},
            "spec": {"target": {"service": "api"}, "rules": rules}}));
    }
    let mut builder = World::builder();
    for object in objects {
        let (parsed, findings) = ingest::parse_json("cost", object);
        ensure!(findings.is_empty(), "{findings:#?}");
        parsed.into_iter().for_each(|object| {
            builder.apply(object);
        });
    }
    Ok(compile(&builder.world()))
}

/// The client is the last of them.
fn accounts(count: usize) -> Vec<String> {
    let others = (1..count).map(|n| format!("shop/caller-{n}"));
    others.chain(["shop/client".to_owned()]).collect()
}

fn allow(count: usize) -> Value {
    json!([{"action": "Allow", "from": {"identities": accounts(count)}, "to": {}}])
}

/// The two RBAC filters with rules that the decision list replaced.
fn with_rules(value: &mut Value, port: u16, count: usize) {
    match value {
        Value::Object(map) => {
            let routes = map.get("route_config").and_then(|r| r["name"].as_str());
            if routes == Some(&format!("in|{port}")) {
                let kind = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3";
                let filter = |name: &str| json!({"name": name, "typed_config": {"@type": format!("{kind}.RBAC")}});
                let router = map["http_filters"]
                    .as_array()
                    .unwrap()
                    .last()
                    .unwrap()
                    .clone();
                map["http_filters"] = json!([filter("deny"), filter("allow"), router]);
                let ids = accounts(count).into_iter().map(|account| {
                    let (namespace, account) = account.split_once('/').unwrap();
                    let id = SpiffeId::new("cluster.local", namespace, account);
                    json!({"authenticated": {"principal_name": {"exact": id.as_str()}}})
                });
                let principals = json!([{"or_ids": {"ids": ids.collect::<Vec<_>>()}}]);
                let rules = json!({"policies": {"shop/p/0": {"permissions": [{"any": true}], "principals": principals}}});
                map["route_config"]["typed_per_filter_config"] = json!({
                    "deny": {"@type": format!("{kind}.RBACPerRoute"), "rbac": {}},
                    "allow": {"@type": format!("{kind}.RBACPerRoute"), "rbac": {"rules": rules, "track_per_rule_stats": true}}});
            }
            map.values_mut()
                .for_each(|value| with_rules(value, port, count));
        }
        Value::Array(items) => items
            .iter_mut()
            .for_each(|value| with_rules(value, port, count)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// An Envoy that gives plain bytes the identity of the client.
fn tunnels(ports: usize, trust: &Trust) -> Result<Value> {
    let (chain, key) = trust.issue(&SpiffeId::new("cluster.local", "shop", "client"))?;
    let socket = json!({"name": "tls", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext", "common_tls_context": {
        "alpn_protocols": ["heddle-http"], "tls_params": {"tls_maximum_protocol_version": "TLSv1_3"},
        "tls_certificates": [{"certificate_chain": {"inline_string": chain}, "private_key": {"inline_string": key}}]}}});
    let at = |ip: &str, port: u16| json!({"socket_address": {"address": ip, "port_value": port}});
    let (mut listeners, mut clusters) = (Vec::new(), Vec::new());
    for port in (FIRST..).take(ports) {
        let name = port.to_string();
        clusters.push(json!({"name": name, "type": "STATIC", "transport_socket": socket,
            "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": at(SERVER, port)}}]}]}}));
        listeners.push(json!({"name": name, "address": at(TUNNELS, port), "filter_chains": [{"filters": [{"name": "tcp", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy", "stat_prefix": "t", "cluster": name}}]}]}));
    }
    Ok(
        json!({"admin": {"address": at("127.79.0.9", 9901)}, "static_resources": {"listeners": listeners, "clusters": clusters}}),
    )
}

fn answer(stream: &mut TcpStream) {
    let (mut seen, mut buffer) = (Vec::new(), [0; 4096]);
    while let Ok(n @ 1..) = stream.read(&mut buffer) {
        seen.extend_from_slice(&buffer[..n]);
        while let Some(end) = seen.windows(4).position(|window| window == b"\r\n\r\n") {
            seen.drain(..end + 4);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
        }
    }
}

/// One request on a connection, and whether it passed.
fn ask(stream: &mut TcpStream, path: &str) -> Result<bool> {
    let request = format!("GET {path} HTTP/1.1\r\nhost: api\r\n\r\n");
    let mut buffer = [0; 4096];
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    loop {
        let read = stream.read(&mut buffer);
        let read = read.with_context(|| String::from_utf8_lossy(&answer).into_owned())?;
        ensure!(read > 0, "{path}: closed");
        answer.extend_from_slice(&buffer[..read]);
        if answer.ends_with(b"\r\n\r\nok") {
            return Ok(true);
        }
        if answer.ends_with(b"RBAC: access denied") {
            return Ok(false);
        }
    }
}

fn by_identities(counts: &Path) -> Result<()> {
    let new = IDENTITIES.iter().map(|count| Some(allow(*count)));
    let policies: Vec<Option<Value>> = [None].into_iter().chain(new.clone()).chain(new).collect();
    let (compiled, trust, folder) = (compiled(&policies)?, Trust::new()?, tempfile::tempdir()?);
    for port in (FIRST..).take(policies.len()) {
        serve(format!("{APPLICATION}:{port}"), answer)?;
    }
    let old = FIRST + 1 + u16::try_from(IDENTITIES.len())?;
    let server = start(
        &compiled,
        ("api", &BTreeSet::new()),
        &trust,
        folder.path(),
        "127.79.0.8:9901",
        |config| {
            for (port, count) in (old..).zip(IDENTITIES) {
                with_rules(config, port, count);
            }
        },
    )?;
    let _tunnels = spawn(
        "tunnels",
        &tunnels(policies.len(), &trust)?,
        &[],
        folder.path(),
        "127.79.0.9:9901",
    )?;
    for round in 1..=ROUNDS {
        let mut each = Vec::new();
        for port in (FIRST..).take(policies.len()) {
            let mut stream = callgrind::warm(&format!("{TUNNELS}:{port}"), |stream| {
                ensure!(ask(stream, "/")?, "denied");
                Ok(())
            })?;
            callgrind::begin(&server)?;
            for _ in 0..REQUESTS {
                ask(&mut stream, "/")?;
            }
            each.push(callgrind::end(&server, counts)? as f64 / 1000.0 / REQUESTS as f64);
        }
        print(round, &each);
    }
    Ok(())
}

/// Thousand instructions of the sidecar for a request: without a policy, with the decision lists, and with the rules.
fn print(round: usize, each: &[f64]) {
    let none = each[0];
    println!("round {round}, thousand instructions of the server's sidecar; no policy: {none:.1}");
    for (index, count) in IDENTITIES.iter().enumerate() {
        let (list, rules) = (each[1 + index], each[1 + IDENTITIES.len() + index]);
        println!(
            "{count} identities: decision list {list:.1} ({:+.0} %), rules {rules:.1} ({:+.0} %), rules to list {:.2}",
            100.0 * (list / none - 1.0),
            100.0 * (rules / none - 1.0),
            rules / list
        );
    }
}

/// Private memory of a process in kB.
fn memory(envoy: &Envoy) -> Result<u64> {
    let text = fs::read_to_string(
        Path::new("/proc")
            .join(envoy.id().to_string())
            .join("smaps_rollup"),
    )?;
    let of = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
    };
    Ok(of("Private_Clean:").context("smaps")? + of("Private_Dirty:").context("smaps")?)
}

/// So many Deny paths of this length, in one rule or in rules of one path.
fn deny(count: usize, length: usize, apart: bool) -> Value {
    let path = |n: usize| format!("/{}/{n:04}", "p".repeat(length - 6));
    let paths: Vec<String> = (0..count).map(path).collect();
    if apart {
        paths
            .iter()
            .map(|path| json!({"action": "Deny", "to": {"paths": [path]}}))
            .collect()
    } else {
        json!([{"action": "Deny", "to": {"paths": paths}}])
    }
}

fn memory_by_deny_paths() -> Result<()> {
    serve(format!("{APPLICATION}:{FIRST}"), answer)?;
    let mut empty = 0;
    for (count, length, apart) in [
        (0, 0, false),
        (64, 20, false),
        (64, 100, false),
        (256, 32, false),
        (256, 32, true),
        (512, 32, false),
        (1_024, 32, false),
    ] {
        let policy = (count > 0).then(|| deny(count, length, apart));
        let (compiled, trust, folder) = (compiled(&[policy])?, Trust::new()?, tempfile::tempdir()?);
        let server = start(
            &compiled,
            ("api", &BTreeSet::new()),
            &trust,
            folder.path(),
            "127.79.0.8:9901",
            |_| (),
        )?;
        let _tunnels = spawn(
            "tunnels",
            &tunnels(1, &trust)?,
            &[],
            folder.path(),
            "127.79.0.9:9901",
        )?;
        let at = format!("{TUNNELS}:{FIRST}");
        let mut stream = connect(&at)?;
        for n in 0..200 {
            // Odd; denied only where no spelling is known any more.
            let odd = ["%41", ";x=1", "//", "%20", "/./", "%2f", "Q"][n % 7];
            ask(&mut stream, &format!("/{}{odd}{n}", "p".repeat(n % 30)))?;
        }
        let now = memory(&server)?;
        if count == 0 {
            empty = now;
        }
        let rules = if apart { "rules of one" } else { "one rule" };
        println!(
            "{count} Deny paths of {length} bytes ({rules}): {:.1} MB",
            (now.saturating_sub(empty)) as f64 / 1024.0
        );
    }
    Ok(())
}

fn main() -> Result<()> {
    // Of `cargo test --benches` too, which measures nothing.
    if !std::env::args().any(|argument| argument == "--bench") {
        return Ok(());
    }
    if let Some(counts) = callgrind::counts() {
        return by_identities(&counts);
    }
    callgrind::run()?;
    memory_by_deny_paths()
}
