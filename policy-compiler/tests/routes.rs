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
use harness::shop;
use heddle_policy_compiler::traffic::{
    Action, Backend, Balance, CookieMatcher, Edits, Forward, GrpcMethod, GrpcName, HeaderChange,
    HeaderChanges, HeaderMatcher, HostPattern, Origins, PathMatcher, PathRewrite, PresentLines,
    QueryMatcher, Redirect, RedirectStatus, Request, RequestMatcher, Rewrite, RouteEntry,
    RoutePolicy, RouteRule, RouteTable, RuleId, Scheme, Share, TableUpstream, ValueMatcher,
    VirtualHost, WeightedBackend, evaluate,
};
use heddle_policy_compiler::{Compiled, NamespacedName, ObjectKind, ObjectRef, Severity, print};
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

fn grpc_name() -> impl Strategy<Value = GrpcName> {
    prop_oneof![
        Just(GrpcName::Any),
        "[ab]".prop_map(|name| GrpcName::Exact(name.into())),
        expression().prop_map(|text| GrpcName::Regex(text.into())),
    ]
}

fn matcher() -> impl Strategy<Value = RequestMatcher> {
    let prefix = "(/(a|b)){0,2}";
    let path = prop_oneof![
        2 => Just(PathMatcher::Any),
        2 => path().prop_map(|path| PathMatcher::Exact(path.into())),
        3 => prefix.prop_map(|path| PathMatcher::Prefix(path.into())),
        1 => expression().prop_map(|text| PathMatcher::Regex(format!("/{text}.*").into())),
        1 => (grpc_name(), grpc_name()).prop_map(|(service, method)| {
            PathMatcher::Grpc(GrpcMethod { service, method })
        }),
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
    let cookies = proptest::collection::btree_map("[cd]", value(), 1..3);
    let cookies = prop_oneof![4 => Just(BTreeMap::new()), 1 => cookies];
    let all = (path, method, headers, cookies, query);
    all.prop_map(|(path, method, headers, cookies, query)| {
        let header = |(name, value): (String, _)| HeaderMatcher {
            name: name.into(),
            value,
        };
        RequestMatcher {
            path,
            method: method.map(Into::into),
            headers: headers.into_iter().map(header).collect(),
            cookies: cookies
                .into_iter()
                .map(|(name, value)| CookieMatcher {
                    name: name.into(),
                    value,
                })
                .collect(),
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

/// Changes of the headers with some of the names.
fn changes(names: &'static str) -> impl Strategy<Value = HeaderChanges> {
    let present = prop_oneof![
        Just(PresentLines::Keep),
        Just(PresentLines::Remove),
        "[xy%\"\\\\]{0,3}".prop_map(|value| PresentLines::Set(value.into())),
    ];
    let add = proptest::collection::vec("[xy%]{0,3}".prop_map(Arc::from), 0..3);
    let change = (present, add).prop_map(|(present, add)| HeaderChange { present, add });
    proptest::collection::btree_map(names.prop_map(Arc::from), change, 0..3).prop_map(HeaderChanges)
}

fn edits() -> impl Strategy<Value = Edits> {
    let some = (changes("x-[abc]"), changes("y-[ab]"));
    let some = some.prop_map(|(request, response)| Edits { request, response });
    prop_oneof![2 => Just(Edits::default()), 1 => some]
}

fn path_rewrite() -> impl Strategy<Value = Option<PathRewrite>> {
    let full = "/(c|%25|c/d\\$1)".prop_map(|path| PathRewrite::Full(path.into()));
    let prefix = prop_oneof!["", "/c", "/%61/d"];
    let prefix = prefix.prop_map(|path| PathRewrite::Prefix(path.into()));
    proptest::option::weighted(0.5, prop_oneof![full, prefix])
}

fn rewrite() -> impl Strategy<Value = Rewrite> {
    let host = proptest::option::of(Just("other.example".into()));
    let some = (host, path_rewrite()).prop_map(|(host, path)| Rewrite { host, path });
    prop_oneof![2 => Just(Rewrite::default()), 1 => some]
}

fn redirect() -> impl Strategy<Value = Action> {
    let scheme = proptest::option::of(prop_oneof![Just(Scheme::Http), Just(Scheme::Https)]);
    let host = proptest::option::of(Just("other.example".into()));
    let port = prop_oneof![Just(80), Just(443), Just(8080)];
    let port = proptest::option::of(port.prop_map(|port: i32| port.try_into().unwrap()));
    let status = proptest::sample::select(RedirectStatus::ALL.to_vec());
    let all = (scheme, host, port, path_rewrite(), status);
    all.prop_map(|(scheme, host, port, path, status)| {
        Action::Redirect(Redirect {
            scheme,
            host,
            port,
            path,
            status,
        })
    })
}

fn action() -> impl Strategy<Value = Action> {
    let shares = proptest::collection::vec((0..=BACKENDS, 0..3_u32, edits()), 1..4);
    let forward = (shares, rewrite()).prop_map(|(shares, rewrite)| {
        let mut seen = BTreeSet::new();
        let shares = shares.into_iter().filter(|(index, ..)| seen.insert(*index));
        let backends = shares.map(|(index, weight, edits)| WeightedBackend {
            backend: if index == BACKENDS {
                Backend::Invalid(None)
            } else {
                backend(index)
            },
            weight,
            edits,
        });
        Action::Forward(Forward {
            rewrite,
            ..Forward::to(backends.collect())
        })
    });
    let respond = (200..500_u16).prop_map(|status| Action::Respond {
        status,
        body: "own".into(),
    });
    prop_oneof![6 => forward, 2 => redirect(), 1 => respond]
}

/// Whether an action replaces the prefix that the matcher has.
fn replaces_prefix(action: &Action) -> bool {
    let path = match action {
        Action::Forward(forward) => &forward.rewrite.path,
        Action::Redirect(redirect) => &redirect.path,
        Action::Respond { .. } => &None,
    };
    matches!(path, Some(PathRewrite::Prefix(_)))
}

fn entries() -> impl Strategy<Value = Vec<RouteEntry>> {
    let rule = (
        action(),
        edits(),
        proptest::collection::vec(matcher(), 1..4),
    );
    proptest::collection::vec(rule, 0..5).prop_map(|rules| {
        let of =
            |(index, (action, edits, matchers)): (usize, (Action, Edits, Vec<RequestMatcher>))| {
                let object = ObjectRef {
                    kind: ObjectKind::TrafficSplit,
                    namespace: "shop".into(),
                    name: "s".into(),
                };
                let entry_action = action.clone();
                let rule = Arc::new(RouteRule {
                    id: RuleId::Declared(object, index),
                    action,
                    edits,
                    policy: RoutePolicy::default(),
                    origins: BTreeSet::new(),
                });
                let entry = move |(alternative, matcher)| RouteEntry {
                    matcher,
                    alternative,
                    rule: Arc::clone(&rule),
                };
                let prefixes = replaces_prefix(&entry_action);
                let matchers = matchers.into_iter().map(move |matcher| match matcher.path {
                    PathMatcher::Exact(_) | PathMatcher::Regex(_) | PathMatcher::Grpc(_)
                        if prefixes =>
                    {
                        RequestMatcher {
                            path: PathMatcher::Any,
                            ..matcher
                        }
                    }
                    _ => matcher,
                });
                matchers.enumerate().map(entry)
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
        let upstream = |index: usize| {
            let upstream = TableUpstream {
                name: format!("b{index}").into(),
                balance: Balance::RoundRobin,
                ready: true,
            };
            (backend(index), upstream)
        };
        RouteTable {
            name: "t".into(),
            hosts,
            upstreams: (0..BACKENDS).map(upstream).collect(),
            mirrors: BTreeMap::new(),
            origins: Origins {
                service: NamespacedName::new("shop", "s"),
                rules: BTreeSet::new(),
            },
        }
    })
}

fn request() -> impl Strategy<Value = Request> {
    let host = prop_oneof![
        2 => "named\\.test",
        1 => "Named\\.test",
        1 => "other\\.test",
        1 => "other\\.test:(80|443|81)",
        1 => "\\[fd00::1\\](:(80|81))?"
    ];
    let parameter = "[qr](=[xy]{0,2})?";
    let query = proptest::collection::vec(parameter, 0..3);
    let query = query.prop_map(|all| match all.is_empty() {
        true => String::new(),
        false => format!("?{}", all.join("&")),
    });
    let query = prop_oneof![3 => query, 1 => Just("?q=/a".to_owned())];
    let headers = proptest::collection::vec(("x-[ab]", "[xy]{0,3}"), 0..4);
    let pair =
        prop_oneof![6 => "[cd]=[xy]{0,2}", 1 => "[cd]", 1 => "[cd]=\"[xy]?\"", 1 => "[cd]=[xy]?\""];
    let cookies = proptest::collection::vec(pair, 1..4).prop_map(|pairs| pairs.join("; "));
    let cookies = proptest::collection::vec(("cookie", cookies), 1..3);
    let cookies = prop_oneof![2 => Just(Vec::new()), 1 => cookies];
    let headers = (headers, cookies).prop_map(|(mut headers, cookies)| {
        headers.extend(cookies);
        headers
    });
    (host, "GET|POST", path(), query, headers).prop_map(|(host, method, path, query, headers)| {
        Request {
            host,
            method,
            path: format!("{path}{query}"),
            headers,
        }
    })
}

/// The headers of every response of a backend that echoes.
const RESPONSE: [(&str, &str); 2] = [("y-a", "x"), ("y-b", "y")];

/// Answers with its name in a first line, and with the head of the request.
fn echo(name: String) -> impl Fn(&mut TcpStream) + Send + Clone {
    move |stream| {
        let Some(head) = harness::running::request(stream) else {
            return;
        };
        let headers: String = RESPONSE
            .iter()
            .map(|(name, value)| format!("{name}: {value}\r\n"))
            .collect();
        let length = name.len() + 2 + head.len();
        let _ = write!(
            stream,
            "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n{headers}connection: close\r\n\r\n{name}\r\n"
        );
        let _ = stream.write_all(&head);
    }
}

/// The request of an echoed head, with the headers that tests set.
fn echoed(head: &str) -> Option<Request> {
    let mut lines = head.lines();
    let mut first = lines.next()?.split(' ');
    let (method, path) = (first.next()?.to_owned(), first.next()?.to_owned());
    let headers: Vec<(String, String)> = named_headers(head);
    let host = headers.iter().find(|(name, _)| name == "host")?.1.clone();
    Some(Request {
        host,
        method,
        path,
        headers: of_tests(headers),
    })
}

/// The headers of a head, with names in lower case.
fn named_headers(head: &str) -> Vec<(String, String)> {
    let lines = head.lines().skip(1).take_while(|line| !line.is_empty());
    let pairs = lines.filter_map(|line| line.split_once(':'));
    pairs
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect()
}

/// The headers that tests set, by name. The lines of one name keep their order.
fn of_tests(mut headers: Vec<(String, String)>) -> Vec<(String, String)> {
    headers.retain(|(name, _)| ["x-a", "x-b", "x-c", "y-a", "y-b"].contains(&name.as_str()));
    headers.sort_by(|a, b| a.0.cmp(&b.0));
    headers
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
            let mut headers = route["response_headers_to_add"].as_array().cloned();
            headers
                .get_or_insert_default()
                .push(json!({"header": header}));
            route["response_headers_to_add"] = json!(headers);
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

/// Head and body of the answer.
fn send(port: u16, request: &Request) -> Result<(String, String)> {
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
    Ok((head, body))
}

/// The difference between the answer of Envoy and the decision of the evaluator.
fn difference(table: &RouteTable, request: &Request, port: u16) -> Result<Option<String>> {
    let (head, body) = send(port, request)?;
    let (status, headers) = (status(&head), named_headers(&head));
    let header = |name: &str| {
        let found = headers.iter().find(|(own, _)| own == name);
        found.map(|(_, value)| value.clone())
    };
    let place = header("x-place");
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
    let seen = of_tests(headers.clone());
    let answered = |share: Option<&Share<'_>>, headers| {
        let answered = of_tests(decision.answered(share, headers));
        (answered != seen).then(|| format!("{answered:?}, not {seen:?}"))
    };
    let status_only = |own: u16| (own != status).then(|| format!("{own}, not {status}"));
    Ok(match &decision.rule().action {
        Action::Respond { status: own, .. } => {
            status_only(*own).or_else(|| answered(None, Vec::new()))
        }
        Action::Redirect(redirect) => {
            let (own, there) = (decision.location(request), header("location"));
            let location = (own != there).then(|| format!("{own:?}, not {there:?}"));
            let wrong = status_only(redirect.status.code()).or(location);
            wrong.or_else(|| answered(None, Vec::new()))
        }
        Action::Forward(_) if status == 500 => {
            let shares = decision.shares();
            let some = shares.is_empty() || shares.iter().any(|share| share.upstream.is_none());
            (!some).then(|| format!("{shares:?}, not 500"))
        }
        Action::Forward(_) => {
            let (name, head) = body.split_once("\r\n").unwrap_or_default();
            let shares = decision.shares();
            let named = |share: &&Share<'_>| share.upstream.is_some_and(|of| &*of.name == name);
            let Some(share) = shares.iter().find(named) else {
                return Ok(Some(format!("{shares:?}, not {status} {body}")));
            };
            let mut own = decision.forwarded(share, request);
            own.headers = of_tests(own.headers);
            let there = echoed(head);
            let forwarded =
                (Some(&own) != there.as_ref()).then(|| format!("{own:#?}, not {there:#?}"));
            let response = RESPONSE.map(|(name, value)| (name.to_owned(), value.to_owned()));
            forwarded.or_else(|| answered(Some(share), response.to_vec()))
        }
    })
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
        serve(at, echo(format!("b{index}")))?;
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
  matches:
  - headers: [{name: x-canary, exact: \"yes\"}]
  - headers: [{name: agent, prefix: test}]
  - headers: [{name: user-agent, regex: \"(?i).*firefox/1[0-9]{2}.*\"}]
  - cookies: [{name: group, exact: b}]
  - cookies: [{name: group, present: false}, {name: trial, present: true}]
  - {method: POST, path: {prefix: /orders/}}
  - headers: [{name: x-long, regex: \"([a-z]{3}-){70}\"}]
  - path: {exact: /about}
  - path: {regex: \"/items/[0-9]+\"}
  - query: [{name: version, exact: \"2\"}, {name: \"filter[a]\", present: true}]
  backends: [{service: api-v2, weight: 1}]
",
    );
    for (index, name) in ["api", "api-v2"].into_iter().enumerate() {
        let ip = format!("127.79.1.{}", 11 + index);
        text += &shop::service(name, index, ("http", 8001), &[&ip]);
    }
    let upstreams = ["shop/api:8001=127.79.1.5:8001".to_owned()];
    text += &shop::client("127.79.1", &upstreams);
    let compiled = harness::compiled(&text);
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
    let service = NamespacedName::new("shop", "api");
    let (_, table) = compiled.route_tables(&service).next().unwrap();
    for (method, path, headers, backend) in MATCHED {
        let lines = headers.lines().filter_map(|line| line.split_once(": "));
        let lines = lines.map(|(name, value)| (name.to_lowercase(), value.to_owned()));
        let request = Request {
            host: "api".to_owned(),
            method: (*method).to_owned(),
            path: (*path).to_owned(),
            headers: lines.collect(),
        };
        let shares = evaluate(table, &request).unwrap().shares();
        let name = &shares[0].upstream.unwrap().name;
        ensure!(
            **name == format!("out|shop/{backend}|8001"),
            "{path} {headers}: {name}"
        );
        let answer = http("127.79.1.5:8001", method, path, headers)?;
        ensure!(
            answer.ends_with(&format!("\r\n\r\n{backend}")),
            "{path} {headers}: {answer}"
        );
    }
    Ok(())
}

/// Method, path, headers, and the backend that the split sends the request to.
const MATCHED: &[(&str, &str, &str, &str)] = &[
    ("GET", "/", "", "api"),
    ("GET", "/", "x-canary: yes\r\n", "api-v2"),
    ("GET", "/", "X-Canary: no\r\nx-canary: yes\r\n", "api-v2"),
    ("GET", "/", "x-canary: yes, no\r\n", "api"),
    ("GET", "/", "agent: tester/1\r\n", "api-v2"),
    ("GET", "/", "agent: a-test\r\n", "api"),
    ("GET", "/", "User-Agent: Mozilla FireFox/128\r\n", "api-v2"),
    ("GET", "/", "User-Agent: Mozilla FireFox/28\r\n", "api"),
    ("GET", "/", "Cookie: a=1; group=b\r\n", "api-v2"),
    ("GET", "/", "Cookie: group=\"b\"\r\n", "api-v2"),
    ("GET", "/", "Cookie: a=1\r\nCookie: group=b\r\n", "api-v2"),
    ("GET", "/", "Cookie: group=a; group=b\r\n", "api"),
    ("GET", "/", "Cookie: Group=b\r\n", "api"),
    ("GET", "/", "Cookie: trial=\r\n", "api-v2"),
    ("GET", "/", "Cookie: trial=1; group=a\r\n", "api"),
    ("POST", "/orders", "", "api-v2"),
    ("POST", "/orders/1?a=b", "", "api-v2"),
    ("POST", "/orders1", "", "api"),
    ("POST", "//orders", "", "api"),
    ("POST", "/%6frders", "", "api"),
    ("GET", "/orders/1", "", "api"),
    ("GET", "/about?a", "", "api-v2"),
    ("GET", "/about/", "", "api"),
    ("GET", "/items/12?x=1", "", "api-v2"),
    ("GET", "/items/12/a", "", "api"),
    ("GET", "/?filter[a]&version=2", "", "api-v2"),
    ("GET", "/?filter[a]=1&version=2&version=3", "", "api-v2"),
    ("GET", "/?filter[a]=1&version=3&version=2", "", "api"),
    ("GET", "/?version=2", "", "api"),
];

#[test]
fn a_port_takes_a_thousand_splits_and_names_the_others() -> Result<()> {
    let mut text = "apiVersion: v1
kind: Service
metadata: {name: api, namespace: shop}
spec: {clusterIP: 10.96.0.1, ports: [{name: http, port: 8001}]}
"
    .to_owned();
    for index in 0..1002 {
        text += &format!(
            "---
apiVersion: heddle.dev/v1alpha1
kind: TrafficSplit
metadata: {{name: s{index:04}, namespace: shop}}
spec: {{service: api, matches: [{{path: {{exact: /{index}}}}}], backends: [{{service: api, weight: 1}}]}}
"
        );
    }
    let upstreams = ["shop/api:8001=127.79.1.5:8001".to_owned()];
    text += &shop::client("127.79.1", &upstreams);
    let compiled = harness::compiled(&text);
    let refused: Vec<&str> = compiled
        .findings
        .iter()
        .filter(|finding| finding.code == "TooManyRules")
        .map(|finding| &*finding.object.name)
        .collect();
    ensure!(refused == ["s1000", "s1001"], "{refused:?}");
    let service = NamespacedName::new("shop", "api");
    let (_, table) = compiled.route_tables(&service).next().unwrap();
    ensure!(table.hosts[0].entries.len() == 1001);
    Ok(())
}
