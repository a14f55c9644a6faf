//! Changes of headers by a TrafficPolicy with a real Envoy, and by the evaluator.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod harness;

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use harness::running::{Trust, http, mirror_as, serve, start};
use harness::shop;
use heddle_policy_compiler::NamespacedName;
use heddle_policy_compiler::traffic::{Request, evaluate};

const AT: &str = "127.98.0.5:8001";

const HEADERS: &str = "headers: {
  request: {set: [{name: X-Set, value: '100%'}, {name: x-both, value: policy}, {name: x-empty, value: ''}], add: [{name: x-add, value: new}],
    remove: [X-Gone]},
  response: {set: [{name: server, value: shop}], add: [{name: y-add, value: '%PROTOCOL%'}], remove: [y-gone]}}";

/// Another value for one header of the policy, and for one that only the route changes.
const ROUTE: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: api, namespace: shop}
spec:
  parentRefs: [{group: \"\", kind: Service, name: api}]
  rules:
  - matches: [{path: {value: /routed}}]
    filters:
    - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-both, value: route}], remove: [x-own]}}
    backendRefs: [{name: api, port: 8001}]
  - backendRefs: [{name: api, port: 8001}]
";

/// The lines of a head with names in lower case, sorted by name; those with other names are left out.
fn lines(head: &str, names: &[&str]) -> Vec<(String, String)> {
    let lines = head.lines().skip(1).take_while(|line| !line.is_empty());
    let pairs = lines.filter_map(|line| line.split_once(':'));
    let pairs = pairs.map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()));
    let mut found: Vec<_> = pairs.filter(|(name, _)| names.contains(&&**name)).collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}

#[test]
fn applications_and_callers_get_the_headers_of_the_policy_and_then_of_the_route() -> Result<()> {
    let mut text = ROUTE.to_owned() + &shop::traffic_policy("api", HEADERS);
    text += &shop::service("api", 0, ("http", 8001), &["127.98.0.11"]);
    text += &shop::client("127.98.0", &[format!("shop/api:8001={AT}")]);
    let compiled = harness::compiled(&text);
    ensure!(compiled.findings.is_empty(), "{:#?}", compiled.findings);
    serve("127.98.0.11:8001".to_owned(), |stream| {
        mirror_as(
            stream,
            "200 OK",
            "server: own\r\ny-gone: 1\r\ny-add: old\r\n",
        );
    })?;
    let (trust, folder, none) = (Trust::new()?, tempfile::tempdir()?, BTreeSet::new());
    let client = ("client", &none);
    let _envoy = start(
        &compiled,
        client,
        &trust,
        folder.path(),
        "127.98.0.9:9901",
        |_| {},
    )?;

    let service = NamespacedName::new("shop", "api");
    let (_, table) = compiled.route_tables(&service).next().context("no table")?;
    let sent = "x-set: 1\r\nx-add: old\r\nx-gone: 1\r\nx-own: 1\r\nx-both: caller\r\n";
    let of_request = ["x-set", "x-add", "x-gone", "x-own", "x-both", "x-empty"];
    let of_response = ["server", "y-gone", "y-add"];
    for (path, both, own) in [("/", "policy", true), ("/routed", "route", false)] {
        let request = Request {
            host: "api".to_owned(),
            method: "GET".to_owned(),
            path: path.to_owned(),
            headers: lines(&format!("\r\n{sent}"), &of_request),
        };
        let decision = evaluate(table, &request).context("no rule")?;
        let share = decision.shares()[0];
        let mut expected = decision.forwarded(&share, &request).headers;
        expected.sort_by(|a, b| a.0.cmp(&b.0));
        ensure!(expected.contains(&("x-both".to_owned(), both.to_owned())));
        ensure!(expected.iter().any(|(name, _)| name == "x-own") == own);
        let answer = http(AT, "GET", path, sent)?;
        let (head, received) = answer.split_once("\r\n\r\n").context("no head")?;
        ensure!(lines(received, &of_request) == expected, "{path}: {answer}");

        let answered = "\r\nserver: own\r\ny-gone: 1\r\ny-add: old\r\n";
        let answered = lines(answered, &of_response);
        let mut expected = decision.answered(Some(&share), answered);
        expected.sort_by(|a, b| a.0.cmp(&b.0));
        ensure!(expected.contains(&("y-add".to_owned(), "%PROTOCOL%".to_owned())));
        ensure!(lines(head, &of_response) == expected, "{path}: {answer}");
    }
    Ok(())
}
