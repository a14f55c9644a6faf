//! The evaluator of route tables and a real Envoy, held against each other on random tables and random requests.
//! `HEDDLE_ROUTES` is the number of tables.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod harness;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use anyhow::{Result, ensure};
use harness::running::{Trust, connect, http, serve, spawn, start, status};
use heddle_policy_compiler::traffic::{
    Action, Backend, Balance, Forward, HeaderMatcher, HostPattern, Origins, PathMatcher,
    QueryMatcher, Request, RequestMatcher, RouteEntry, RoutePolicy, RouteRule, RouteTable, RuleId,
    TableUpstream, ValueMatcher, VirtualHost, WeightedBackend, evaluate,
};
use heddle_policy_compiler::{
    Compiled, NamespacedName, ObjectKind, ObjectRef, Severity, compile, ingest, print,
};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};

const ENVOY: &str = "127.79.0.2";
const BACKENDS: usize = 4;
const REQUESTS: usize = 25;

fn port_of(index: usize) -> u16 {
    21_001 + u16::try_from(index).unwrap()
}

fn backend(index: usize) -> Backend {
    let port = heddle_policy_compiler::world::Port::METRICS;
    Backend::Service(NamespacedName::new("shop", &format!("b{index}")), port)
}

fn path() -> impl Strategy<Value = String> {
    "(/(a|b|%61)){0,2}/?".prop_map(|path| {
        if path.is_empty() {
            "/".to_owned()
        } else {
            path
        }
    })
}

fn expression() -> impl Strategy<Value = String> {
    prop_oneof!["[ab]", "(a|b)/?", "a+", "%61"]
}

fn matcher() -> impl Strategy<Value = RequestMatcher> {
    let prefix = "(/(a|b)){0,2}";
    let path = prop_oneof![
        2 => Just(PathMatcher::Any),
        2 => path().prop_map(|path| PathMatcher::Exact(path.into())),
        3 => prefix.prop_map(|path| PathMatcher::Prefix(path.into())),
        1 => expression().prop_map(|text| PathMatcher::Regex(format!("/{text}.*").into())),
    ];
    let method = proptest::option::weighted(0.2, prop_oneof!["GET", "POST"]);
    let value = || {
        prop_oneof![
            "[xy]{0,2}".prop_map(|text| ValueMatcher::Exact(text.into())),
            "[xy]{1,2}".prop_map(|text| ValueMatcher::Prefix(text.into())),
            "[xy.][?*+]?[xy]?".prop_map(|text| ValueMatcher::Regex(text.into())),
            Just(ValueMatcher::Present),
            Just(ValueMatcher::Absent),
        ]
    };
    let headers = proptest::collection::btree_map("x-[ab]", value(), 0..3);
    let query = proptest::collection::btree_map("[qr]", value(), 1..3);
    let query = prop_oneof![4 => Just(BTreeMap::new()), 1 => query];
    (path, method, headers, query).prop_map(|(path, method, headers, query)| {
        let header = |(name, value): (String, _)| HeaderMatcher {
            name: name.into(),
            value,
        };
        RequestMatcher {
            path,
            method: method.map(Into::into),
            headers: headers.into_iter().map(header).collect(),
            query: query
                .into_iter()
                .map(|(name, value)| QueryMatcher {
                    name: name.into(),
                    value,
                })
                .collect(),
        }
    })
}

fn action() -> impl Strategy<Value = Action> {
    let shares = proptest::collection::vec((0..=BACKENDS, 0..3_u32), 1..4);
    let forward = shares.prop_map(|shares| {
        let mut seen = BTreeSet::new();
        let shares = shares.into_iter().filter(|(index, _)| seen.insert(*index));
        let mut backends: Vec<WeightedBackend> = shares
            .map(|(index, weight)| WeightedBackend {
                backend: if index == BACKENDS {
                    Backend::Invalid("gone".into())
                } else {
                    backend(index)
                },
                weight,
            })
            .collect();
        if backends.iter().all(|backend| backend.weight == 0) {
            backends[0].weight = 1;
        }
        Action::Forward(Forward { backends })
    });
    let respond = (200..500_u16).prop_map(|status| Action::Respond {
        status,
        body: "own".into(),
    });
    prop_oneof![3 => forward, 1 => respond]
}

fn entries() -> impl Strategy<Value = Vec<RouteEntry>> {
    let rule = (action(), proptest::collection::vec(matcher(), 1..4));
    proptest::collection::vec(rule, 0..5).prop_map(|rules| {
        let of = |(index, (action, matchers)): (usize, (Action, Vec<RequestMatcher>))| {
            let object = ObjectRef {
                kind: ObjectKind::TrafficSplit,
                namespace: "shop".into(),
                name: "s".into(),
            };
            let rule = Arc::new(RouteRule {
                id: RuleId::Declared(object, index),
                action,
                policy: RoutePolicy::default(),
                origins: BTreeSet::new(),
            });
            let entry = move |(alternative, matcher)| RouteEntry {
                matcher,
                alternative,
                rule: Arc::clone(&rule),
            };
            matchers.into_iter().enumerate().map(entry)
        };
        rules.into_iter().enumerate().flat_map(of).collect()
    })
}

fn table() -> impl Strategy<Value = RouteTable> {
    let named = proptest::option::of(entries());
    (entries(), named, 0..10).prop_map(|(any, named, closed)| {
        let mut hosts: Vec<VirtualHost> = named
            .into_iter()
            .map(|entries| VirtualHost {
                domains: vec![HostPattern::Exact("named.test".into())],
                ..VirtualHost::any(entries)
            })
            .collect();
        if closed > 0 {
            hosts.push(VirtualHost::any(any));
        }
        let upstream = |index: usize| TableUpstream {
            backend: backend(index),
            name: format!("b{index}").into(),
            balance: Balance::RoundRobin,
        };
        RouteTable {
            name: "t".into(),
            hosts,
            upstreams: (0..BACKENDS).map(upstream).collect(),
            origins: Origins {
                service: NamespacedName::new("shop", "s"),
                rules: BTreeSet::new(),
            },
        }
    })
}

fn request() -> impl Strategy<Value = Request> {
    let host = prop_oneof!["named\\.test", "Named\\.test", "other\\.test"];
    let parameter = "[qr](=[xy]{0,2})?";
    let query = proptest::collection::vec(parameter, 0..3);
    let query = query.prop_map(|all| match all.is_empty() {
        true => String::new(),
        false => format!("?{}", all.join("&")),
    });
    let query = prop_oneof![3 => query, 1 => Just("?q=/a".to_owned())];
    let headers = proptest::collection::vec(("x-[ab]", "[xy]{0,3}"), 0..4);
    (host, "GET|POST", path(), query, headers).prop_map(|(host, method, path, query, headers)| {
        Request {
            host,
            method,
            path: format!("{path}{query}"),
            headers,
        }
    })
}

/// Answers with its name.
fn named(name: String) -> impl Fn(&mut TcpStream) + Send + Clone {
    move |stream| {
        if harness::running::request(stream).is_none() {
            return;
        }
        let length = name.len();
        let _ = write!(
            stream,
            "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{name}"
        );
    }
}

/// The route configuration of a table; each route names its place in its answers.
fn configuration(table: &RouteTable) -> Value {
    let mut config = print::table_to_json(table);
    config["validate_clusters"] = json!(false);
    let hosts = config["virtual_hosts"].as_array_mut();
    for (host, routes) in hosts.into_iter().flatten().enumerate() {
        let routes = routes["routes"].as_array_mut();
        for (index, route) in routes.into_iter().flatten().enumerate() {
            let header = json!({"key": "x-place", "value": format!("{host}/{index}")});
            route["response_headers_to_add"] = json!([{"header": header}]);
        }
    }
    config
}

fn bootstrap(tables: &[RouteTable]) -> Value {
    let at = |ip: &str, port: u16| json!({"socket_address": {"address": ip, "port_value": port}});
    let listener = |(index, table): (usize, &RouteTable)| {
        let filter =
            json!({"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"});
        let manager = json!({"@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "t", "route_config": configuration(table), "http_filters": [{"name": "router", "typed_config": filter}]});
        json!({"name": index.to_string(), "address": at(ENVOY, port_of(index)), "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}]})
    };
    let cluster = |index: usize| {
        let name = format!("b{index}");
        let endpoint = json!({"endpoint": {"address": at("127.79.0.3", port_of(index))}});
        json!({"name": name, "type": "STATIC", "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]}})
    };
    let listeners: Vec<Value> = tables.iter().enumerate().map(listener).collect();
    let clusters: Vec<Value> = (0..BACKENDS).map(cluster).collect();
    json!({"admin": {"address": at("127.79.0.9", 9901)}, "static_resources": {"listeners": listeners, "clusters": clusters}})
}

/// Status, place of the route, body.
fn send(port: u16, request: &Request) -> Result<(u16, Option<String>, String)> {
    let mut stream = connect(&format!("{ENVOY}:{port}"))?;
    let headers: String = request
        .headers
        .iter()
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .collect();
    write!(
        stream,
        "{} {} HTTP/1.1\r\nhost: {}\r\ncontent-length: 0\r\n{headers}\r\n",
        request.method, request.path, request.host
    )?;
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    // To the end of the body and not of the connection, which Envoy leaves open for a while.
    let (head, body) = loop {
        let text = String::from_utf8_lossy(&answer).into_owned();
        let length = |head: &str| {
            let mut lines = head.lines();
            lines.find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok())
        };
        if let Some((head, body)) = text.split_once("\r\n\r\n")
            && body.len() >= length(head).unwrap_or(0)
        {
            break (head.to_owned(), body.to_owned());
        }
        let read = stream.read(&mut buffer)?;
        ensure!(read > 0, "no answer: {text}");
        answer.extend_from_slice(&buffer[..read]);
    };
    let place = head.lines().find_map(|line| line.strip_prefix("x-place: "));
    Ok((status(&head), place.map(str::to_owned), body))
}

/// The difference between the answer of Envoy and the decision of the evaluator.
fn difference(table: &RouteTable, request: &Request, port: u16) -> Result<Option<String>> {
    let (status, place, body) = send(port, request)?;
    let Some(decision) = evaluate(table, request) else {
        return Ok(
            (status != 404 || place.is_some()).then(|| format!("404, not {status} {place:?}"))
        );
    };
    let mut places = table.hosts.iter().enumerate().flat_map(|(host, of)| {
        let entries = of.entries.iter().enumerate();
        entries.map(move |(index, entry)| (format!("{host}/{index}"), entry))
    });
    let own = places.find(|(_, entry)| std::ptr::eq(*entry, decision.entry));
    let own = own.map(|(place, _)| place);
    if own != place {
        return Ok(Some(format!("{own:?}, not {place:?} with {status} {body}")));
    }
    let right = match &decision.rule().action {
        Action::Respond { status: own, .. } => *own == status,
        Action::Forward(_) => decision.shares().iter().any(|share| match share.upstream {
            Some(upstream) => status == 200 && *upstream.name == *body,
            None => status == 500,
        }),
    };
    Ok((!right).then(|| format!("{:?}, not {status} {body}", decision.shares())))
}

#[test]
fn envoy_and_the_evaluator_agree_on_random_tables() -> Result<()> {
    let count = std::env::var("HEDDLE_ROUTES").ok();
    let count: usize = count.map_or(Ok(60), |count| count.parse())?;
    let mut runner = TestRunner::deterministic();
    let tables: Vec<RouteTable> = (0..count)
        .map(|_| table().new_tree(&mut runner).unwrap().current())
        .collect();
    for index in 0..BACKENDS {
        let at = format!("127.79.0.3:{}", port_of(index));
        serve(at, named(format!("b{index}")))?;
    }
    let folder = tempfile::tempdir()?;
    let _envoy = spawn(
        "routes",
        &bootstrap(&tables),
        &[],
        folder.path(),
        "127.79.0.9:9901",
    )?;
    let mut rules = 0;
    for (index, table) in tables.iter().enumerate() {
        for _ in 0..REQUESTS {
            let request = request().new_tree(&mut runner).unwrap().current();
            rules += usize::from(evaluate(table, &request).is_some());
            let wrong = difference(table, &request, port_of(index))?;
            ensure!(
                wrong.is_none(),
                "{}\n{request:#?}\n{table:#?}",
                wrong.unwrap()
            );
        }
    }
    let all = count * REQUESTS;
    println!("{rules} of {all} requests have a rule");
    ensure!(
        rules * 3 > all,
        "only {rules} of {all} requests have a rule"
    );
    Ok(())
}

/// A client's sidecar, and backends without sidecars.
fn split() -> Result<Compiled> {
    let mut text = String::from(
        "
apiVersion: heddle.dev/v1alpha1
kind: TrafficSplit
metadata: {name: api, namespace: shop}
spec:
  service: api
  matches: [{headers: [{name: x-canary, exact: \"yes\"}]}, {headers: [{name: agent, prefix: test}]}]
  backends: [{service: api-v2, weight: 1}]
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: shop, annotations: {heddle.dev/standalone-app: 127.79.1.4, heddle.dev/standalone-upstreams: \"shop/api:8001=127.79.1.5:8001\"}}
spec: {serviceAccountName: client, containers: [{name: app}]}
status: {podIPs: [{ip: 127.79.1.3}]}
",
    );
    for (index, name) in ["api", "api-v2"].into_iter().enumerate() {
        let ip = format!("127.79.1.{}", 11 + index);
        text += &format!(
            "---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: shop}}
spec: {{clusterIP: 10.96.0.{index}, ports: [{{name: http, port: 8001}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}-1, namespace: shop, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: IPv4
ports: [{{name: http, port: 8001}}]
endpoints: [{{addresses: [{ip}]}}]
"
        );
    }
    let read = ingest::parse_yaml("routes", &text);
    ensure!(read.findings.is_empty(), "{:#?}", read.findings);
    let (world, _) = harness::world(read.objects.into_iter().map(|of| of.object));
    let compiled = compile(&world);
    let errors: Vec<_> = compiled
        .findings
        .iter()
        .filter(|finding| finding.severity == Severity::Error)
        .collect();
    ensure!(errors.is_empty(), "{errors:#?}");
    Ok(compiled)
}

#[test]
fn a_split_takes_the_requests_that_it_matches() -> Result<()> {
    let compiled = split()?;
    let (trust, folder) = (Trust::new()?, tempfile::tempdir()?);
    for (index, name) in ["api", "api-v2"].into_iter().enumerate() {
        serve(
            format!("127.79.1.{}:8001", 11 + index),
            named(name.to_owned()),
        )?;
    }
    let none = BTreeSet::new();
    let client = ("client", &none);
    let _envoy = start(
        &compiled,
        client,
        &trust,
        folder.path(),
        "127.79.1.9:9901",
        |_| {},
    )?;
    for (headers, backend) in [
        ("", "api"),
        ("x-canary: yes\r\n", "api-v2"),
        ("X-Canary: no\r\nx-canary: yes\r\n", "api-v2"),
        ("x-canary: yes, no\r\n", "api"),
        ("agent: tester/1\r\n", "api-v2"),
        ("agent: a-test\r\n", "api"),
    ] {
        let answer = http("127.79.1.5:8001", "GET", "/", headers)?;
        ensure!(
            answer.ends_with(&format!("\r\n\r\n{backend}")),
            "{headers}: {answer}"
        );
    }
    Ok(())
}
