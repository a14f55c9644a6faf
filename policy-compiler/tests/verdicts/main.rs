//! The evaluator and real Envoys, held against each other on random rules and random requests: HTTP and plain bytes, with and without an
//! identity, over HTTP/1 and HTTP/2. `HEDDLE_VERDICTS` is the number of requests, `HEDDLE_SEED` repeats a run.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

#[path = "../harness/mod.rs"]
mod harness;
mod names;
mod random;
mod shrink;
mod wire;

use std::collections::BTreeSet;
use std::io::Write;
use std::net::TcpStream;
use std::num::NonZeroU16;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use harness::running::{Trust, echo, serve, spawn, start};
use heddle_crds::reason;
use heddle_policy_compiler::authz::{
    Decision, HttpRequest, PortAuthz, Request, decide, evaluate, received,
};
use heddle_policy_compiler::world::SpiffeId;
use heddle_policy_compiler::{Compiled, NamespacedName, Severity, World, compile, ingest};
use random::{Call, Group, Random};
use rayon::prelude::*;
use serde_json::{Value, json};
use wire::Answer;

const SERVER: &str = "127.78.0.2";
const APPLICATION: &str = "127.78.0.3";
/// The first port of the groups of a run.
const FIRST: u16 = 20_001;
const HTTP_GROUPS: usize = 50;
const TCP_GROUPS: usize = 10;
const CALLS: usize = 5;
const TCP_CALLS: usize = 4;
/// Groups that are asked at the same time: a call waits more than it computes.
const LANES: usize = 12;

/// Callers: the address they come from, and the identity by mTLS.
const PEERS: [(&str, Option<(&str, &str)>); 4] = [
    ("127.78.1.1", None),
    ("127.78.1.2", Some(("shop", "client"))),
    ("127.78.1.3", Some(("other", "x"))),
    ("127.78.2.1", None),
];

/// Where a peer's connections to a port begin.
fn door(peer: usize, port: u16) -> String {
    format!("127.78.{}.1:{port}", 10 + peer)
}

fn is_tcp(group: &Group) -> bool {
    group.calls.iter().any(|call| call.http.is_none())
}

fn port_of(index: usize) -> u16 {
    FIRST + u16::try_from(index).unwrap()
}

fn compiled(groups: &[Group], default_deny: bool) -> Result<Compiled> {
    let ports = groups.iter().enumerate().map(|(index, group)| {
        let port = port_of(index);
        let name = if is_tcp(group) { "tcp" } else { "http" };
        json!({"name": format!("{name}-{port}"), "port": port, "protocol": "TCP", "targetPort": port})
    });
    let action = if default_deny { "Deny" } else { "Allow" };
    let mut objects = vec![
        json!({"apiVersion": "heddle.dev/v1alpha1", "kind": "Mesh", "metadata": {"name": "default", "generation": 1}, "spec": {"defaultAction": action}}),
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "api", "namespace": "shop"},
            "spec": {"clusterIP": "10.96.0.1", "selector": {"app": "api"}, "ports": ports.collect::<Vec<_>>()}}),
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "api", "namespace": "shop", "labels": {"app": "api"}, "annotations": {"heddle.dev/standalone-app": APPLICATION}},
            "spec": {"serviceAccountName": "api", "containers": [{"name": "app"}]}, "status": {"podIPs": [{"ip": SERVER}]}}),
    ];
    objects.extend(groups.iter().enumerate().flat_map(|(index, group)| {
        let port = port_of(index);
        let policy = move |(prefix, audit): (&str, bool)| {
            let rules = group.rules.iter().filter(|rule| rule.audit == audit);
            let rules: Vec<Value> = rules.map(|rule| rule.json(port)).collect();
            let mode = if audit { "Audit" } else { "Enforce" };
            (!rules.is_empty()).then(|| json!({"apiVersion": "heddle.dev/v1alpha1", "kind": "AuthPolicy", "metadata": {"name": format!("{prefix}{port}"), "namespace": "shop", "generation": 1},
                "spec": {"target": {"service": "api"}, "mode": mode, "rules": rules}}))
        };
        [("p", false), ("a", true)].into_iter().filter_map(policy)
    }));
    let mut builder = World::builder();
    for object in objects {
        let (parsed, findings) = ingest::parse_json("verdicts", object);
        ensure!(findings.is_empty(), "{findings:#?}");
        for object in parsed {
            let findings = builder.apply(object);
            ensure!(findings.is_empty(), "{findings:#?}");
        }
    }
    let compiled = compile(&builder.world());
    let errors = compiled.findings.iter().filter(|f| {
        // The groups share the memory of one sidecar. Envoy and the evaluator agree about rules beyond it, too.
        f.severity == Severity::Error && f.code != reason::HEADERS_NOT_MATCHED
    });
    let errors: Vec<_> = errors.collect();
    ensure!(errors.is_empty(), "{errors:#?}");
    Ok(compiled)
}

/// Routes answer instead of the application: only the arrival of a request counts.
fn answer_at_once(value: &mut Value) {
    match value {
        Value::Object(map) => {
            if map
                .get("route")
                .is_some_and(|route| route.get("cluster").is_some())
            {
                map.remove("route");
                map.insert(
                    "direct_response".to_owned(),
                    json!({"status": 200, "body": {"inline_string": "ok"}}),
                );
            }
            map.values_mut().for_each(answer_at_once);
        }
        Value::Array(items) => items.iter_mut().for_each(answer_at_once),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// An Envoy that gives bytes their source address and, where the peer has one, its identity.
fn tunnels(groups: usize, trust: &Trust) -> Result<Value> {
    let (mut listeners, mut clusters) = (Vec::new(), Vec::new());
    for (peer, (source, identity)) in PEERS.iter().enumerate() {
        let socket = match identity {
            None => Value::Null,
            Some((namespace, account)) => {
                let id = SpiffeId::new("cluster.local", namespace, account);
                let (chain, key) = trust.issue(&id)?;
                json!({"name": "tls", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext", "common_tls_context": {
                    "alpn_protocols": ["heddle-http"], "tls_params": {"tls_maximum_protocol_version": "TLSv1_3"},
                    "tls_certificates": [{"certificate_chain": {"inline_string": chain}, "private_key": {"inline_string": key}}]}}})
            }
        };
        for index in 0..groups {
            let port = port_of(index);
            let name = format!("{peer}-{port}");
            let at = |ip: &str, port: u16| json!({"socket_address": {"address": ip, "port_value": port}});
            let mut cluster = json!({"name": name, "type": "STATIC", "upstream_bind_config": {"source_address": {"address": source, "port_value": 0}},
                "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": at(SERVER, port)}}]}]}});
            if !socket.is_null() {
                cluster["transport_socket"] = socket.clone();
            }
            clusters.push(cluster);
            listeners.push(json!({"name": name, "address": at(door(peer, port).split(':').next().unwrap(), port), "filter_chains": [{"filters": [{"name": "tcp", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy", "stat_prefix": "t", "cluster": name}}]}]}));
        }
    }
    Ok(
        json!({"admin": {"address": {"socket_address": {"address": "127.78.0.9", "port_value": 9901}}},
        "static_resources": {"listeners": listeners, "clusters": clusters}}),
    )
}

/// How many connections of bytes the applications have taken.
static TAKEN: AtomicUsize = AtomicUsize::new(0);

/// Greets and echoes.
fn application(stream: &mut TcpStream) {
    TAKEN.fetch_add(1, Ordering::Relaxed);
    let _ = stream.write_all(wire::GREETING);
    echo(stream);
}

/// The call as the evaluator gets it.
fn judged(call: &Call) -> Result<Request> {
    let (source, identity) = PEERS[call.peer];
    let http = call.http.as_ref().map(|http| {
        let trimmed = |value: &str| {
            let blank = [' ', '\t'];
            let kept = if http.version2 {
                value
            } else {
                value.trim_matches(blank)
            };
            kept.to_owned()
        };
        let lines = http.headers.iter().map(|(n, v)| (n.clone(), trimmed(v)));
        let mut headers: Vec<(String, String)> = lines.collect();
        if http.version2 {
            // HTTP/2 may split cookies into lines, and Envoy puts them together again.
            let (cookies, others): (Vec<_>, Vec<_>) =
                headers.into_iter().partition(|(n, _)| n == "cookie");
            headers = others;
            let cookies: Vec<String> = cookies.into_iter().map(|(_, v)| v).collect();
            // It drops an empty one, so that neither the policy nor the application sees it.
            let cookies = Some(cookies.join("; ")).filter(|text| !text.is_empty());
            headers.extend(cookies.map(|text| ("cookie".to_owned(), text)));
        }
        let id = |(namespace, account)| SpiffeId::new("cluster.local", namespace, account);
        let (caller, server) = (identity.map(id), id(("shop", "api")));
        let mut headers = received(&headers, caller.as_ref(), &server);
        headers.push((":authority".to_owned(), http.host.clone()));
        HttpRequest {
            method: http.method.clone(),
            path: http.path.clone(),
            headers,
        }
    });
    Ok(Request {
        peer: identity
            .map(|(namespace, account)| SpiffeId::new("cluster.local", namespace, account)),
        source: source.parse()?,
        port: None,
        http,
    })
}

fn authz(compiled: &Compiled, port: u16) -> Result<&PortAuthz> {
    let port = NonZeroU16::new(port).context("port 0")?;
    compiled
        .authz(&NamespacedName::new("shop", "api"), port.into())
        .context("no authz")
}

/// The decision list judges as the evaluator does, and names a rule of the same action.
fn same_verdicts(authz: &PortAuthz, request: &Request) -> Result<()> {
    for audited in [false, true] {
        let verdict = decide(authz, request, audited).context("no step decides")?;
        let expected = evaluate(authz, request, audited);
        let named = match &expected {
            Decision::AllowedByDefault => &*verdict.name == "default",
            Decision::NoAllowMatched => verdict.name.starts_with("no-allow"),
            Decision::AllowedBy(_) | Decision::DeniedBy(_) => {
                authz.rules.iter().any(|rule| rule.id == verdict.name)
            }
        };
        ensure!(
            named && verdict.allow == expected.allowed(),
            "{expected:?}, {verdict:?}: {request:?} {authz:#?}"
        );
    }
    Ok(())
}

#[derive(Default)]
struct Report {
    passed: usize,
    denied: usize,
    malformed: usize,
    /// Denials of which Envoy named the rule.
    named: usize,
    /// Those of them that were connections of bytes.
    named_bytes: usize,
    /// Connections of bytes that were refused before the application's greeting.
    silent: usize,
    /// Place of the group and of the call, and the difference.
    wrong: Vec<(usize, usize, String)>,
}

impl Report {
    fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.denied += other.denied;
        self.malformed += other.malformed;
        self.named += other.named;
        self.named_bytes += other.named_bytes;
        self.silent += other.silent;
        self.wrong.extend(other.wrong);
    }
}

/// The answers to the calls of a group.
#[derive(Default)]
struct Answers {
    report: Report,
    /// Connections of bytes that reach the application.
    connected: usize,
    /// Place of each call that was judged, and the report of it by the sidecar that is expected, in the order of the calls.
    decisions: Vec<(usize, String)>,
}

/// Sends the calls of a group one after another.
fn ask(index: usize, group: &Group, compiled: &Compiled) -> Result<Answers> {
    let port = port_of(index);
    let authz = authz(compiled, port)?;
    let mut answers = Answers::default();
    let report = &mut answers.report;
    let mut kept = [const { None }; PEERS.len()];
    for (place, call) in group.calls.iter().enumerate() {
        let request = judged(call)?;
        let expected = evaluate(authz, &request, false);
        let silent = names::refused_at_handshake(authz, &request).is_some();
        answers.connected += usize::from(request.http.is_none() && !silent);
        report.silent += usize::from(silent);
        let at = door(call.peer, port);
        let answer = wire::send(&at, call, silent, &mut kept[call.peer])?;
        match answer {
            Answer::Passed => report.passed += 1,
            Answer::Denied => report.denied += 1,
            Answer::Malformed => report.malformed += 1,
        }
        if answer != Answer::Malformed && (answer == Answer::Passed) != expected.allowed() {
            let text = format!("the evaluator: {expected:?}, Envoy: {answer:?}");
            report.wrong.push((index, place, text));
        } else if answer != Answer::Malformed {
            same_verdicts(authz, &request)?;
            let expected = names::expected(authz, &request, answer)?;
            answers.decisions.push((place, expected));
        }
    }
    Ok(answers)
}

/// Sends every call of every group, with two Envoys for all of them.
fn run(groups: &[Group], default_deny: bool, trust: &Trust) -> Result<Report> {
    let compiled = compiled(groups, default_deny)?;
    let folder = tempfile::tempdir()?;
    let none = BTreeSet::new();
    let _server = start(
        &compiled,
        ("api", &none),
        trust,
        folder.path(),
        "127.78.0.8:9901",
        |config| {
            answer_at_once(config);
            names::log(config, folder.path());
        },
    )?;
    let _tunnels = spawn(
        "tunnels",
        &tunnels(groups.len(), trust)?,
        &[],
        folder.path(),
        "127.78.0.9:9901",
    )?;
    let taken = TAKEN.load(Ordering::Relaxed);
    let lanes = rayon::ThreadPoolBuilder::new().num_threads(LANES).build()?;
    let answers: Result<Vec<Answers>> = lanes.install(|| {
        let groups = groups.par_iter().enumerate();
        groups
            .map(|(index, group)| ask(index, group, &compiled))
            .collect()
    });
    let (mut report, mut connected, mut decisions) = (Report::default(), 0, Vec::new());
    for answers in answers? {
        report.add(answers.report);
        connected += answers.connected;
        decisions.push(answers.decisions);
    }
    if !report.wrong.is_empty() {
        return Ok(report);
    }
    let taken = TAKEN.load(Ordering::Relaxed) - taken;
    ensure!(
        taken <= connected,
        "{taken} connections reached the applications, {connected} should have"
    );
    let expected = decisions.iter().map(Vec::len).sum();
    let logged = names::logged(folder.path(), expected)?;
    for (index, calls) in decisions.into_iter().enumerate() {
        let logged = logged.get(&port_of(index)).into_iter().flatten();
        for ((place, expected), told) in calls.into_iter().zip(logged) {
            let refused = told.starts_with("rbac") || told.starts_with("denied:");
            let named = *told == expected && refused;
            report.named += usize::from(named);
            report.named_bytes += usize::from(named && is_tcp(&groups[index]));
            if *told != expected {
                let text = format!("expected {expected}, Envoy: {told}");
                report.wrong.push((index, place, text));
            }
        }
    }
    Ok(report)
}

/// The smallest case that can be found from a failing one.
fn shrunk(case: Group, default_deny: bool, trust: &Trust) -> Result<(Group, String)> {
    let (mut case, mut text) = (case, String::new());
    for _ in 0..60 {
        let mut smaller = shrink::smaller(&case);
        smaller.truncate(HTTP_GROUPS);
        smaller.push(case.clone());
        let report = run(&smaller, default_deny, trust)?;
        let Some((index, _, wrong)) = report.wrong.first() else {
            break;
        };
        text.clone_from(wrong);
        if *index == smaller.len() - 1 {
            break;
        }
        case = smaller.swap_remove(*index);
    }
    Ok((case, text))
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn envoy_and_the_evaluator_agree_on_random_requests() -> Result<()> {
    let wanted = usize::try_from(setting("HEDDLE_VERDICTS").unwrap_or(2_000))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    // A run of every change is the same each time; the long one of `make nightly` looks elsewhere each time.
    let seed = setting("HEDDLE_SEED").unwrap_or(if wanted > 2_000 { now } else { 1 });
    let mut random = Random(seed);
    let trust = Trust::new()?;
    for index in 0..HTTP_GROUPS + TCP_GROUPS + 1 {
        serve(format!("{APPLICATION}:{}", port_of(index)), application)?;
    }
    let mut total = Report::default();
    while total.passed + total.denied < wanted {
        let http = (0..HTTP_GROUPS).map(|_| random::group(&mut random, PEERS.len(), CALLS, true));
        let mut groups: Vec<Group> = http.collect();
        groups.extend(
            (0..TCP_GROUPS).map(|_| random::group(&mut random, PEERS.len(), TCP_CALLS, false)),
        );
        let default_deny = random.chance(30);
        let report = run(&groups, default_deny, &trust)?;
        if let Some((group, call, text)) = report.wrong.first() {
            let mut case = groups[*group].clone();
            case.calls = vec![case.calls[*call].clone()];
            let (case, smaller) = shrunk(case, default_deny, &trust)?;
            anyhow::bail!(
                "{} of the run differ (HEDDLE_SEED={seed}, default deny: {default_deny}): {text}\nthe smallest: {smaller}\n{case:#?}",
                report.wrong.len()
            );
        }
        total.add(report);
    }
    let all = total.passed + total.denied + total.malformed;
    println!(
        "{} passed, {} denied ({} with a name), {} malformed (HEDDLE_SEED={seed})",
        total.passed, total.denied, total.named, total.malformed
    );
    ensure!(
        total.passed * 10 > all && total.denied * 10 > all,
        "one-sided: {} passed, {} denied",
        total.passed,
        total.denied
    );
    ensure!(
        total.named * 5 > total.denied * 4 && total.named_bytes >= total.silent && total.silent > 0,
        "{} of {} denials have a name, {} of connections of bytes",
        total.named,
        total.denied,
        total.named_bytes
    );
    ensure!(
        total.malformed * 5 < all,
        "{} of {all} were malformed",
        total.malformed
    );
    Ok(())
}

/// A Deny rule stops every request that the same Allow rule lets pass.
#[test]
fn a_deny_rule_matches_all_that_the_same_allow_rule_matches() -> Result<()> {
    let seed = setting("HEDDLE_SEED").unwrap_or(1);
    let mut random = Random(seed);
    let (mut allowed, mut denied_only) = (0, 0);
    for _ in 0..6 {
        let mut groups = Vec::new();
        for _ in 0..HTTP_GROUPS {
            let mut group = random::group(&mut random, PEERS.len(), 36, true);
            group.rules.truncate(1);
            group.rules[0].audit = false;
            for deny in [true, false] {
                group.rules[0].deny = deny;
                groups.push(group.clone());
            }
        }
        let compiled = compiled(&groups, false)?;
        for (index, pair) in groups.chunks(2).enumerate() {
            for call in &pair[0].calls {
                let request = judged(call)?;
                let passes = |place: usize| -> Result<bool> {
                    let port = port_of(2 * index + place);
                    Ok(evaluate(authz(&compiled, port)?, &request, false).allowed())
                };
                let (denied, admitted) = (!passes(0)?, passes(1)?);
                ensure!(
                    denied || !admitted,
                    "HEDDLE_SEED={seed}: {:#?} {call:#?}",
                    pair[1].rules
                );
                allowed += usize::from(admitted);
                denied_only += usize::from(denied && !admitted);
            }
        }
    }
    ensure!(
        allowed > 300 && denied_only > 300,
        "{allowed} allowed, {denied_only} denied only"
    );
    Ok(())
}
