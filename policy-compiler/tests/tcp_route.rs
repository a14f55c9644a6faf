//! `TCPRoute` beside the goldens: the fields of its type, the equal split, and a real Envoy.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod harness;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};

use anyhow::Result;
use gateway_api::experimental::tcproutes::TcpRoute;
use harness::running::{Trust, connect, serve, start};
use harness::{fields, shop};
use heddle_policy_compiler::world::Port;
use heddle_policy_compiler::{Compiled, NamespacedName, print};
use tokio::io::AsyncReadExt;
use tokio::net::TcpSocket;

const ADDRESSES: [(&str, &str); 2] = [("a", "127.99.1.11"), ("b", "127.99.1.12")];

fn route(service: &str, backends: &str) -> String {
    format!(
        "---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {{name: {service}, namespace: shop}}
spec:
  parentRefs: [{{group: '', kind: Service, name: {service}}}]
  rules: [{{backendRefs: [{backends}]}}]
"
    )
}

fn backend(name: &str, weight: u32) -> String {
    format!("{{name: {name}, port: 7001, weight: {weight}}}")
}

/// A client's sidecar, the services `a` and `b` of an address each, and services with routes, each at an address for its callers.
fn routed(routes: &[(&str, &str)]) -> Compiled {
    let mut text = String::new();
    let routed = routes.iter().map(|(name, _)| (*name, ADDRESSES[0].1));
    for (index, (name, ip)) in ADDRESSES.into_iter().chain(routed).enumerate() {
        let service = shop::service(name, index, ("tcp", 7001), &[ip]);
        text += &match name.starts_with("sticky") {
            true => service.replace("clusterIP:", "sessionAffinity: ClientIP, clusterIP:"),
            false => service,
        };
        if name.ends_with("governed") {
            text += &shop::traffic_policy(name, "loadBalancing: {mode: Random}");
        }
    }
    let mut upstreams = Vec::new();
    for (index, (name, backends)) in routes.iter().enumerate() {
        text += &route(name, backends);
        upstreams.push(format!("shop/{name}:7001={}:7001", at(index)));
    }
    text += &shop::client("127.99.1", &upstreams);
    harness::compiled(&text)
}

/// The address at which callers find the service with that route.
fn at(route: usize) -> String {
    format!("127.99.1.{}", 21 + route)
}

/// The answers of many connections: the name of the server, or nothing if the connection is refused.
fn answers(route: usize) -> Result<BTreeMap<String, u32>> {
    let mut found = BTreeMap::new();
    for _ in 0..CONNECTIONS {
        let mut stream = connect(&format!("{}:7001", at(route)))?;
        let mut text = String::new();
        // A refused connection ends, by FIN or by RST.
        let _ = stream.read_to_string(&mut text);
        *found.entry(text).or_default() += 1;
    }
    Ok(found)
}

/// The answer to a connection from a source address.
async fn answer_to(source: u8, route: usize) -> Result<String> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(format!("127.99.2.{source}:0").parse()?)?;
    let mut stream = socket
        .connect(format!("{}:7001", at(route)).parse()?)
        .await?;
    let mut text = String::new();
    let _ = stream.read_to_string(&mut text).await;
    Ok(text)
}

const CONNECTIONS: u32 = 1000;

/// Five standard deviations are at most 8 percent of a thousand.
fn assert_shares(found: &BTreeMap<String, u32>, expected: &[(&str, u32)]) {
    for (name, percent) in expected {
        let count = found.get(*name).copied().unwrap_or_default();
        let percent = percent * CONNECTIONS / 100;
        assert!(count.abs_diff(percent) <= 80, "{name:?}: {found:?}");
    }
    assert_eq!(found.values().sum::<u32>(), CONNECTIONS);
    assert_eq!(found.len(), expected.len(), "{found:?}");
}

#[test]
fn envoy_divides_connections_and_refuses_the_share_of_a_backend_that_does_not_exist() -> Result<()>
{
    let (trust, folder) = (Trust::new()?, tempfile::tempdir()?);
    for (name, ip) in ADDRESSES {
        serve(format!("{ip}:7001"), move |stream| {
            let _ = stream.write_all(name.as_bytes());
        })?;
    }
    let list = |of: &[(&str, u32)]| {
        let of: Vec<String> = of
            .iter()
            .map(|(name, weight)| backend(name, *weight))
            .collect();
        of.join(", ")
    };
    let part = list(&[("a", 40), ("b", 10), ("gone", 50)]);
    let compiled = routed(&[
        ("split", &list(&[("a", 80), ("b", 20)])),
        ("part", &part),
        ("most", &list(&[("a", 1), ("gone", 9)])),
        ("gone-only", &list(&[("gone", 1)])),
        ("closed", &list(&[("a", 0)])),
        ("governed", &part),
        ("sticky", &part),
        ("sticky-governed", &part),
    ]);
    let none = BTreeSet::new();
    let (client, admin) = (("client", &none), "127.99.1.9:9901");
    let _envoy = start(&compiled, client, &trust, folder.path(), admin, |_| {})?;
    assert_shares(&answers(0)?, &[("a", 80), ("b", 20)]);
    assert_shares(&answers(1)?, &[("a", 40), ("b", 10), ("", 50)]);
    assert_shares(&answers(2)?, &[("a", 10), ("", 90)]);
    assert_shares(&answers(3)?, &[("", 100)]);
    assert_shares(&answers(4)?, &[("", 100)]);
    assert_shares(&answers(5)?, &[("a", 40), ("b", 10), ("", 50)]);
    let runtime = tokio::runtime::Runtime::new()?;
    for route in [6, 7] {
        runtime.block_on(assert_half_of_the_sources_is_refused(route))?;
    }
    Ok(())
}

/// A sticky service refuses by source, under every policy. Five standard deviations are 40 sources of 250; the ring adds some.
async fn assert_half_of_the_sources_is_refused(route: usize) -> Result<()> {
    let mut refused = 0_u32;
    for source in 1..=250 {
        let first = answer_to(source, route).await?;
        refused += u32::from(first.is_empty());
        assert_eq!(answer_to(source, route).await?, first, "{route} {source}");
    }
    assert!(refused.abs_diff(125) <= 60, "{route}: {refused}");
    Ok(())
}

#[test]
fn a_route_and_the_equal_split_give_the_same_configuration_but_for_the_kind_in_origins() {
    let resources = |object: &str| {
        let mut text = object.to_owned();
        for (index, name) in ["a", "b", "c"].into_iter().enumerate() {
            let ip = format!("10.0.0.{index}");
            text += &shop::service(name, index, ("tcp", 7001), &[&ip]);
        }
        text += &shop::client("127.99.1", &["shop/a:7001=127.99.1.5:7001".to_owned()]);
        let views = harness::views(&harness::compiled(&text));
        let all = views.values().flat_map(|view| view.resources.values());
        let text = all.map(|resource| format!("{} {}", resource.key, print::to_json(resource)));
        text.collect::<BTreeSet<String>>()
    };
    for [b, c] in [[80, 20], [1, 0]] {
        let backends = format!("{}, {}", backend("b", b), backend("c", c));
        let split = format!(
            "apiVersion: heddle.dev/v1alpha1\nkind: TrafficSplit\nmetadata: {{name: a, namespace: shop}}\nspec: {{service: a, backends: [{{service: b, weight: {b}}}, {{service: c, weight: {c}}}]}}\n"
        );
        assert_eq!(resources(&route("a", &backends)), resources(&split));
    }
}

/// `heddle describe` prints these.
#[test]
fn the_rules_of_a_port_are_those_of_all_callers_and_those_of_other_namespaces() {
    let mut text = shop::service("a", 1, ("tcp", 7001), &[ADDRESSES[0].1]);
    text += &route("a", &backend("a", 1));
    text += &route("a", &backend("a", 2))
        .replace("namespace: shop", "namespace: till")
        .replace("name: a}]\n", "name: a, namespace: shop}]\n")
        .replace("port: 7001,", "port: 7001, namespace: shop,");
    let compiled = harness::compiled(&text);
    let port = Port::try_from(7001_i32).unwrap();
    let rules = compiled.port_rules(&NamespacedName::new("shop", "a"), port);
    let found = rules.iter().map(|of| {
        let ids = of.entries.iter().map(|rule| rule.entry.rule.id.to_string());
        (of.callers.as_deref(), ids.collect::<Vec<_>>())
    });
    let expected = [
        (None, vec!["TCPRoute shop/a/0".to_owned()]),
        (Some("till"), vec!["TCPRoute till/a/0".to_owned()]),
    ];
    assert_eq!(found.collect::<Vec<_>>(), expected);
}

/// The fields of the spec of a route by their beginnings, below `spec`.
const SUPPORTED: [&str; 4] = [
    "parentRefs[].",
    // It adds Gateways as parents, which belong to other controllers.
    "useDefaultGateways",
    "rules[].name",
    "rules[].backendRefs[].",
];

#[test]
fn every_field_of_the_type_is_listed() {
    fields::check::<TcpRoute>(&SUPPORTED, &[]);
}
