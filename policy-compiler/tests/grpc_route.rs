//! `GRPCRoute` beside the goldens: the fields of its type, and a real Envoy.

#![allow(clippy::unwrap_used, reason = "tests")]

mod harness;

use std::collections::BTreeSet;

use anyhow::Result;
use gateway_api::experimental::grpcroutes::GrpcRoute;
use harness::fields;
use harness::running::{Trust, http, mirror_as, serve, start};
use harness::shop;
use heddle_policy_compiler::Compiled;

const ROUTED: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: carts, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: carts}]
  rules:
  - matches: [{method: {service: shop.Carts}}]
    backendRefs: [{name: carts, port: 8001}]
  - matches: [{method: {service: shop.Carts, method: Add}}]
    backendRefs: [{name: carts-v2, port: 8001}]
  - matches: [{method: {type: RegularExpression, method: "Gone|Lost"}}]
    backendRefs: [{name: gone, port: 8001}]
  - matches: [{method: {service: shop.Off}}]
    backendRefs: [{name: carts, port: 8001, weight: 0}]
"#;

/// A client's sidecar, the route, and the services `carts` and `carts-v2` of an address each.
fn routed() -> Compiled {
    let mut text = ROUTED.to_owned();
    for (index, name) in ["carts", "carts-v2"].into_iter().enumerate() {
        let ip = format!("127.94.1.{}", 11 + index);
        text += &shop::service(name, index, ("grpc", 8001), &[&ip]);
    }
    let upstreams = ["shop/carts:8001=127.94.1.5:8001".to_owned()];
    text += &shop::client("127.94.1", &upstreams);
    harness::compiled(&text)
}

#[test]
fn envoy_routes_methods_and_answers_with_codes_of_grpc() -> Result<()> {
    let (trust, folder) = (Trust::new()?, tempfile::tempdir()?);
    for (address, version) in [("127.94.1.11:8001", "v1"), ("127.94.1.12:8001", "v2")] {
        let header = format!("x-version: {version}\r\n");
        serve(address.to_owned(), move |stream| {
            mirror_as(stream, "200 OK", &header);
        })?;
    }
    let none = BTreeSet::new();
    let (client, admin) = (("client", &none), "127.94.1.9:9901");
    let _envoy = start(&routed(), client, &trust, folder.path(), admin, |_| {})?;
    let call = |path: &str| {
        let headers = "content-type: application/grpc\r\n";
        http("127.94.1.5:8001", "POST", path, headers)
    };
    let unimplemented = "grpc-status: 12\r\n";
    let unavailable = "grpc-status: 14\r\n";
    for (path, line) in [
        ("/shop.Carts/Get", "x-version: v1\r\n"),
        ("/shop.Carts/Add", "x-version: v2\r\n"),
        ("/shop.Carts/AddAll", "x-version: v1\r\n"),
        ("/shopXCarts/Get", unimplemented),
        ("/shop.Cart/Get", unimplemented),
        ("/any.Service/Gone", unavailable),
        ("/any.Service/Goner", unimplemented),
        ("/shop.Off/Get", unavailable),
    ] {
        let answer = call(path)?;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{path}: {answer}");
        assert!(answer.contains(line), "{path}: {answer}");
    }
    Ok(())
}

/// The fields of the spec of a route by their beginnings, below `spec`.
const SUPPORTED: [&str; 20] = [
    // It adds Gateways as parents, which belong to other controllers.
    "useDefaultGateways",
    "hostnames[]",
    "parentRefs[].",
    "rules[].name",
    "rules[].sessionPersistence.absoluteTimeout",
    "rules[].sessionPersistence.cookieConfig.",
    "rules[].sessionPersistence.sessionName",
    "rules[].sessionPersistence.type",
    "rules[].matches[].headers[].",
    "rules[].matches[].method.",
    "rules[].filters[].type",
    "rules[].filters[].requestHeaderModifier.",
    "rules[].filters[].requestMirror.",
    "rules[].backendRefs[].group",
    "rules[].backendRefs[].kind",
    "rules[].backendRefs[].n",
    "rules[].backendRefs[].port",
    "rules[].backendRefs[].weight",
    "rules[].backendRefs[].filters[].type",
    "rules[].backendRefs[].filters[].requestHeaderModifier.",
];

/// The fields that make a route unusable. The golden `err/grpc_route/invalid` shows it.
const UNSUPPORTED: [&str; 4] = [
    // As those of an HTTPRoute.
    "rules[].sessionPersistence.idleTimeout",
    "rules[].filters[].extensionRef",
    "rules[].backendRefs[].filters[].extensionRef",
    "rules[].backendRefs[].filters[].requestMirror",
];

#[test]
fn every_field_of_the_type_is_listed() {
    fields::check::<GrpcRoute>(&SUPPORTED, &UNSUPPORTED);
}
