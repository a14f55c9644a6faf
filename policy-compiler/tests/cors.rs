//! Cross-origin requests with a real Envoy: the caller's sidecar answers preflight requests, and consents to origins of the route alone.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod harness;

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};
use harness::running::{Trust, http, mirror_as, serve, start, status};
use harness::shop;
use heddle_policy_compiler::{Compiled, NamespacedName};

const AT: &str = "127.97.0.5:8001";

fn compiled(filters: &str) -> Result<Compiled> {
    let mut text = format!(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: api, namespace: shop}}
spec:
  parentRefs: [{{group: \"\", kind: Service, name: api}}]
  rules:
  - matches: [{{path: {{value: /users}}}}]
    {filters}
    backendRefs: [{{name: api, port: 8001}}]
  - backendRefs: [{{name: api, port: 8001}}]
"
    );
    text += &shop::traffic_policy(
        "api",
        "faults: [{match: {headers: [{name: x-fault, present: true}]}, abort: {status: 418, percent: 100}}]",
    );
    text += &shop::service("api", 0, ("http", 8001), &["127.97.0.11"]);
    text += &shop::client("127.97.0", &[format!("shop/api:8001={AT}")]);
    let compiled = harness::compiled(&text);
    ensure!(compiled.findings.is_empty(), "{:#?}", compiled.findings);
    Ok(compiled)
}

const CORS: &str = "filters: [{type: CORS, cors: {
      allowOrigins: [\"https://a.test\", \"https://*.b.test:8443\"], allowMethods: [\"*\"], allowHeaders: [X-Token],
      exposeHeaders: [X-Total], allowCredentials: true}}]";

/// The headers about consent in an answer, without the beginnings of their names.
fn consent(answer: &str) -> BTreeMap<String, String> {
    let (head, _) = answer.split_once("\r\n\r\n").unwrap_or((answer, ""));
    let lines = head.lines().filter_map(|line| line.split_once(": "));
    lines
        .filter_map(|(name, value)| {
            let name = name.to_lowercase();
            let name = name.strip_prefix("access-control-")?;
            Some((name.to_owned(), value.to_owned()))
        })
        .collect()
}

#[test]
fn the_sidecar_consents_to_the_origins_of_the_route_alone() -> Result<()> {
    let (trust, folder) = (Trust::new()?, tempfile::tempdir()?);
    serve("127.97.0.11:8001".to_owned(), |stream| {
        mirror_as(stream, "200 OK", "x-application: yes\r\n");
    })?;
    let (compiled, none) = (compiled(CORS)?, BTreeSet::new());
    let client = ("client", &none);
    let _envoy = start(
        &compiled,
        client,
        &trust,
        folder.path(),
        "127.97.0.9:9901",
        |_| {},
    )?;
    let call = |method: &str, path: &str, origin: &str, headers: &str| {
        http(AT, method, path, &format!("origin: {origin}\r\n{headers}"))
    };
    let preflight =
        "access-control-request-method: PUT\r\naccess-control-request-headers: x-token\r\n";

    for origin in ["https://a.test", "https://x.y.b.test:8443"] {
        let answer = call("OPTIONS", "/users/1", origin, preflight)?;
        ensure!(
            status(&answer) == 200 && !answer.contains("x-application"),
            "{answer}"
        );
        let expected = [
            ("allow-credentials", "true"),
            ("allow-headers", "X-Token"),
            ("allow-methods", "PUT"),
            ("allow-origin", origin),
            ("expose-headers", "X-Total"),
            ("max-age", "5"),
        ];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        ensure!(consent(&answer) == BTreeMap::from(expected), "{answer}");
        let answer = call("GET", "/users/1", origin, "")?;
        ensure!(answer.contains("x-application"), "{answer}");
        ensure!(consent(&answer)["allow-origin"] == origin, "{answer}");
    }
    for origin in [
        "https://a.test.evil",
        "http://a.test",
        "https://b.test:8443",
        "https://x.b.test",
        "https://x:1.b.test:8443",
        "null",
    ] {
        let answer = call("OPTIONS", "/users/1", origin, preflight)?;
        ensure!(!answer.contains("x-application"), "{origin}: {answer}");
        ensure!(
            !consent(&answer).contains_key("allow-origin"),
            "{origin}: {answer}"
        );
        let answer = call("GET", "/users/1", origin, "")?;
        ensure!(
            answer.contains("x-application") && consent(&answer).is_empty(),
            "{origin}: {answer}"
        );
    }
    // The application answers for another rule, and a fault can be read by the page that meets it.
    let answer = call("OPTIONS", "/other", "https://a.test", preflight)?;
    ensure!(
        answer.contains("x-application") && consent(&answer).is_empty(),
        "{answer}"
    );
    let answer = call("GET", "/users", "https://a.test", "x-fault: 1\r\n")?;
    ensure!(
        status(&answer) == 418 && consent(&answer)["allow-origin"] == "https://a.test",
        "{answer}"
    );
    let answer = call("GET", "/other", "https://a.test", "x-fault: 1\r\n")?;
    ensure!(
        status(&answer) == 418 && consent(&answer).is_empty(),
        "{answer}"
    );
    Ok(())
}

#[test]
fn cors_changes_no_listener() -> Result<()> {
    let client = NamespacedName::new("shop", "client");
    let listeners = |compiled: &Compiled| harness::listeners(compiled, &client);
    let (with, without) = (listeners(&compiled(CORS)?), listeners(&compiled("")?));
    ensure!(!with.is_empty() && with == without);
    Ok(())
}
