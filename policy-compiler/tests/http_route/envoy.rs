//! A route on a real Envoy: rewrites, header changes, a redirect, backends that are missing, a mirror that stalls.

use std::collections::BTreeSet;
use std::net::TcpStream;
use std::sync::mpsc::Sender;
use std::thread;
use std::time::Duration;

use anyhow::Result;
use heddle_policy_compiler::Compiled;

use crate::harness::running::{Trust, http, mirror, request, serve, start};
use crate::harness::{self, shop};

const ROUTED: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: api, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: api}]
  rules:
  - matches: [{path: {value: /v1}}]
    filters:
    - {type: RequestMirror, requestMirror: {backendRef: {name: api-v2, port: 8001}}}
    - {type: URLRewrite, urlRewrite: {hostname: inner.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}
    - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-set, value: "100%"}], remove: [x-gone]}}
    - {type: ResponseHeaderModifier, responseHeaderModifier: {add: [{name: x-answer, value: routed}]}}
    backendRefs: [{name: api, port: 8001}]
  - matches: [{path: {value: /moved}}]
    filters: [{type: RequestRedirect, requestRedirect: {scheme: https, hostname: other.example, statusCode: 301}}]
  - matches: [{path: {value: /gone}}]
    backendRefs: [{name: gone, port: 8001}]
  - matches: [{path: {value: /off}}]
    backendRefs: [{name: api, port: 8001, weight: 0}]
"#;

/// A client's sidecar, the route, and the services `api` and `api-v2` of an address each.
fn routed() -> Compiled {
    let mut text = ROUTED.to_owned();
    for (index, name) in ["api", "api-v2"].into_iter().enumerate() {
        let ip = format!("127.92.1.{}", 11 + index);
        text += &shop::service(name, index, ("http", 8001), &[&ip]);
    }
    let upstreams = ["shop/api:8001=127.92.1.5:8001".to_owned()];
    text += &shop::client("127.92.1", &upstreams);
    harness::compiled(&text)
}

/// A mirror takes the head of a request and then stops, for a minute.
fn stalls(copies: &Sender<String>) -> impl Fn(&mut TcpStream) + Send + Clone + use<> {
    let copies = copies.clone();
    move |stream| {
        if let Some(head) = request(stream) {
            let _ = copies.send(String::from_utf8_lossy(&head).into_owned());
        }
        thread::sleep(Duration::from_secs(60));
    }
}

#[test]
fn envoy_routes_as_the_route_says_and_a_stalled_mirror_stalls_no_request() -> Result<()> {
    let (trust, folder) = (Trust::new()?, tempfile::tempdir()?);
    let (copies, copied) = std::sync::mpsc::channel();
    serve("127.92.1.11:8001".to_owned(), mirror)?;
    serve("127.92.1.12:8001".to_owned(), stalls(&copies))?;
    let none = BTreeSet::new();
    let client = ("client", &none);
    let admin = "127.92.1.9:9901";
    let _envoy = start(&routed(), client, &trust, folder.path(), admin, |_| {})?;
    let call = |path: &str| http("127.92.1.5:8001", "GET", path, "x-gone: 1\r\n");

    let answer = call("/v1/a?q=1")?;
    let (head, echoed) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("x-answer: routed"), "{answer}");
    assert!(echoed.starts_with("GET /a?q=1 "), "{answer}");
    let echoed = echoed.to_ascii_lowercase();
    for line in ["host: inner.example", "x-set: 100%"] {
        assert!(echoed.contains(line), "{line}: {answer}");
    }
    assert!(!echoed.contains("x-gone"), "{answer}");
    let copy = copied.recv_timeout(Duration::from_secs(30))?;
    assert!(copy.starts_with("GET /a?q=1 "), "{copy}");

    let answer = call("/moved/b?q=1")?;
    assert!(answer.starts_with("HTTP/1.1 301 "), "{answer}");
    let location = "location: https://other.example/moved/b?q=1\r\n";
    assert!(answer.contains(location), "{answer}");
    for (path, status) in [("/gone", 500), ("/off", 500), ("/v1a", 404), ("/", 404)] {
        let answer = call(path)?;
        let line = format!("HTTP/1.1 {status} ");
        assert!(answer.starts_with(&line), "{path}: {answer}");
    }
    Ok(())
}
