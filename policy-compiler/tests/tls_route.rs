//! `TLSRoute` beside the goldens: the fields of its type, the resources that a change touches, and a real Envoy.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod harness;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::sync::Arc;

use anyhow::{Result, ensure};
use gateway_api::experimental::tlsroutes::TlsRoute;
use harness::running::{Trust, connect, serve, start};
use harness::{fields, shop, tls};
use heddle_policy_compiler::world::Port;
use heddle_policy_compiler::{Call, Compiled, NamespacedName, print};
use rustls::ClientConnection;
use rustls::pki_types::ServerName;

const ADDRESSES: [(&str, &str); 2] = [("a", "127.99.4.11"), ("b", "127.99.4.12")];
/// The services that are called, with the name of their port, in the order of their addresses.
const CALLED: [(&str, &str); 4] = [
    ("named", "tcp"),
    ("undeclared", "raw"),
    ("sticky", "tcp"),
    ("free", "tcp"),
];

fn route(name: &str, service: &str, hosts: &str, backends: &str) -> String {
    format!(
        "---
apiVersion: gateway.networking.k8s.io/v1
kind: TLSRoute
metadata: {{name: {name}, namespace: shop}}
spec:
  parentRefs: [{{group: '', kind: Service, name: {service}}}]
  hostnames: [{hosts}]
  rules: [{{backendRefs: [{backends}]}}]
"
    )
}

fn backend(name: &str, weight: u32) -> String {
    format!("{{name: {name}, port: 7001, weight: {weight}}}")
}

/// A client's sidecar, the services `a` and `b` of an address each, and the called ones. Of these all but `free` have these routes.
fn routed(routes: impl Fn(&str) -> String) -> Compiled {
    let mut text = String::new();
    for (index, (name, ip)) in ADDRESSES.into_iter().enumerate() {
        text += &shop::service(name, index, ("tcp", 7001), &[ip]);
    }
    let mut upstreams = Vec::new();
    for (index, (name, port)) in CALLED.into_iter().enumerate() {
        let service = shop::service(name, 10 + index, (port, 7001), &[ADDRESSES[0].1]);
        text += &match name {
            "sticky" => service.replace("clusterIP:", "sessionAffinity: ClientIP, clusterIP:"),
            _ => service,
        };
        if name != "free" {
            text += &routes(name);
        }
        upstreams.push(format!("shop/{name}:7001={}", at(name)));
    }
    text += &shop::client("127.99.4", &upstreams);
    harness::compiled(&text)
}

/// The address at which callers find a service.
fn at(service: &str) -> String {
    let index = CALLED.iter().position(|(name, _)| *name == service);
    format!("127.99.4.{}:7001", 21 + index.unwrap())
}

/// The first bytes of a connection with TLS, with a server name or, for an address, without one.
fn hello(name: &str) -> Result<Vec<u8>> {
    let name = ServerName::try_from(name.to_owned())?;
    let mut client = ClientConnection::new(Arc::new(tls::anonymous(&[])), name)?;
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes)?;
    Ok(bytes)
}

/// The server that a connection with these first bytes reaches, which has received them as they are. Nothing if it is refused.
fn reached(service: &str, sent: &[u8]) -> Result<String> {
    let mut stream = connect(&at(service))?;
    // A refused connection ends, by FIN or by RST.
    let _ = stream.write_all(sent);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let Some((name, received)) = answer.split_first() else {
        return Ok(String::new());
    };
    ensure!(received == sent, "{service}: other bytes arrived");
    Ok(char::from(*name).to_string())
}

/// Whether a connection with TLS does not leave the sidecar, as `heddle why` has it.
fn stopped(compiled: &Compiled, service: &str, name: &str) -> Result<bool> {
    let explanation = compiled.explain(&Call {
        from: NamespacedName::new("shop", "client"),
        host: service.to_owned(),
        port: 7001,
        tls: true,
        method: "GET".to_owned(),
        path: "/".to_owned(),
        headers: vec![("host".to_owned(), name.to_owned())],
    })?;
    Ok(explanation.stopped.is_some())
}

/// The servers that connections with a name reach.
fn shares(service: &str, name: &str) -> Result<BTreeMap<String, u32>> {
    let mut found = BTreeMap::new();
    let hello = hello(name)?;
    for _ in 0..CONNECTIONS {
        *found.entry(reached(service, &hello)?).or_default() += 1;
    }
    Ok(found)
}

const CONNECTIONS: u32 = 600;

/// Five standard deviations are at most 61 of 600.
fn assert_shares(found: &BTreeMap<String, u32>, expected: &[(&str, u32)]) {
    for (name, percent) in expected {
        let count = found.get(*name).copied().unwrap_or_default();
        assert!(
            count.abs_diff(percent * CONNECTIONS / 100) <= 62,
            "{name:?}: {found:?}"
        );
    }
    assert_eq!(found.len(), expected.len(), "{found:?}");
}

fn routes(service: &str) -> String {
    let only = |name| backend(name, 1);
    let both = format!("{}, {}", backend("a", 80), backend("b", 20));
    let part = format!("{}, {}", backend("a", 50), backend("gone", 50));
    [
        ("exact", "one.example", only("a")),
        ("wild", "'*.example'", only("b")),
        ("longer", "'*.two.example'", only("a")),
        ("split", "split.other", both),
        ("part", "part.other", part),
    ]
    .map(|(name, hosts, backends)| route(&format!("{service}-{name}"), service, hosts, &backends))
    .concat()
}

#[test]
fn envoy_sends_connections_by_server_name_and_refuses_all_others() -> Result<()> {
    let (trust, folder) = (Trust::new()?, tempfile::tempdir()?);
    for (name, ip) in ADDRESSES {
        serve(format!("{ip}:7001"), move |stream| {
            let mut bytes = vec![0; 16 << 10];
            let Ok(length) = stream.read(&mut bytes) else {
                return;
            };
            let _ = stream.write_all(name.as_bytes());
            let _ = stream.write_all(&bytes[..length]);
        })?;
    }
    let compiled = routed(routes);
    let none = BTreeSet::new();
    let (client, admin) = (("client", &none), "127.99.4.9:9901");
    let _envoy = start(&compiled, client, &trust, folder.path(), admin, |_| {})?;
    for service in ["named", "undeclared", "sticky"] {
        for (name, expected) in [
            ("one.example", "a"),
            ("two.example", "b"),
            ("x.two.example", "a"),
            ("x.y.two.example", "a"),
            ("three.example", "b"),
            ("example", ""),
            ("one.example.other", ""),
            ("other", ""),
            // An address is not a server name, and clients send none.
            ("192.0.2.1", ""),
        ] {
            let found = reached(service, &hello(name)?)?;
            ensure!(found == expected, "{service} {name}: {found:?}");
            let refused = stopped(&compiled, service, name)?;
            ensure!(refused == expected.is_empty(), "{service} {name}");
        }
        let plain = reached(service, b"GET / HTTP/1.1\r\nhost: one.example\r\n\r\n")?;
        ensure!(plain.is_empty(), "{service}: {plain:?}");
    }
    for name in ["one.example", "other"] {
        ensure!(reached("free", &hello(name)?)? == "a", "{name}");
    }
    ensure!(reached("free", b"hello")? == "a", "plain");
    assert_shares(&shares("named", "split.other")?, &[("a", 80), ("b", 20)]);
    assert_shares(&shares("named", "part.other")?, &[("a", 50), ("", 50)]);
    Ok(())
}

/// The kinds of the resources that differ.
fn changed(before: &Compiled, after: &Compiled) -> Vec<String> {
    let resources = |compiled: &Compiled| {
        let views = harness::views(compiled);
        let all = views.into_values().flat_map(|view| view.resources);
        let all = all.map(|(key, resource)| (key.to_string(), print::to_json(&resource)));
        all.collect::<BTreeMap<_, _>>()
    };
    let (before, after) = (resources(before), resources(after));
    let keys: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let differ = keys
        .into_iter()
        .filter(|key| before.get(*key) != after.get(*key));
    differ.cloned().collect()
}

#[test]
fn the_listener_changes_with_the_names_and_with_nothing_else() {
    let with = |hosts: &'static str, weight: u32| {
        routed(move |service| {
            let backends = format!("{}, {}", backend("a", 1), backend("b", weight));
            match service {
                "named" => route("r", service, hosts, &backends),
                _ => String::new(),
            }
        })
    };
    let first = with("one.example", 1);
    let endpoints = "eds:out|shop/named|7001|shop/r/0/0";
    assert_eq!(changed(&first, &with("one.example", 3)), [endpoints]);
    let names = changed(&first, &with("two.example", 1));
    assert_eq!(names, [format!("lds:dst|{}", at("named"))]);
    // Without the route all is as before it.
    let none = routed(|_| String::new());
    let added = changed(&none, &first);
    let only_of_route =
        |key: &String| key.ends_with("|shop/r/0/0") || **key == format!("lds:dst|{}", at("named"));
    assert!(added.iter().all(only_of_route), "{added:?}");
}

/// `heddle describe` prints these.
#[test]
fn the_rules_of_a_port_are_in_the_order_of_precedence() {
    let compiled = routed(routes);
    let port = Port::try_from(7001_i32).unwrap();
    let rules = compiled.port_rules(&NamespacedName::new("shop", "named"), port);
    let matches = rules.iter().flat_map(|of| &of.entries);
    let matches: Vec<String> = matches.map(|of| of.entry.matcher.to_string()).collect();
    let expected = [
        "TLS one.example",
        "TLS split.other",
        "TLS part.other",
        "TLS *.two.example",
        "TLS *.example",
    ];
    assert_eq!(matches, expected);
}

/// The fields of the spec of a route by their beginnings, below `spec`.
const SUPPORTED: [&str; 5] = [
    "parentRefs[].",
    // It adds Gateways as parents, which belong to other controllers.
    "useDefaultGateways",
    "hostnames[]",
    "rules[].name",
    "rules[].backendRefs[].",
];

#[test]
fn every_field_of_the_type_is_listed() {
    fields::check::<TlsRoute>(&SUPPORTED, &[]);
}
