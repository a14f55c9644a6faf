//! The matches of splits: the rule that the evaluator names and the backend of a real Envoy, and the number of splits of a port.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::TcpStream;

use anyhow::{Result, ensure};
use heddle_policy_compiler::traffic::{Request, evaluate};
use heddle_policy_compiler::{Compiled, NamespacedName, Severity};

use crate::harness::running::{Trust, http, serve, start};
use crate::harness::{self, shop};

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
    let beyond: Vec<&str> = compiled
        .findings
        .iter()
        .filter(|finding| finding.code == "TooManyRules")
        .map(|finding| &*finding.object.name)
        .collect();
    ensure!(beyond == ["s1000", "s1001"], "{beyond:?}");
    let service = NamespacedName::new("shop", "api");
    let (_, table) = compiled.route_tables(&service).next().unwrap();
    ensure!(table.hosts[0].entries.len() == 1001);
    Ok(())
}
