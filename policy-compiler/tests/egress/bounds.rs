//! The bounds of the hosts that a sidecar gets, also from many namespaces.

use std::collections::BTreeSet;

use heddle_policy_compiler::{NamespacedName, ResourceKind, World, compile};
use serde_json::{Value, json};

use crate::cluster::{apply, external_service, pod};
use crate::harness::running::Trust;
use crate::harness::view;

/// A namespace of 1,000 hosts at a port, open to all, with wildcards.
fn namespace(index: usize, port: u16, wildcards: usize) -> impl Iterator<Item = Value> {
    (0..40).map(move |number| {
        let hosts = (0..25).map(|host| {
            let sign = if number * 25 + host < wildcards {
                "*."
            } else {
                ""
            };
            format!("{sign}h{host}.o{number}.n{index}.example.com")
        });
        let hosts: Vec<String> = hosts.collect();
        let ports = json!([{"port": port, "protocol": "HTTP"}]);
        let spec = json!({"hosts": hosts, "ports": ports, "visibleTo": ["*"]});
        let mut object = external_service(&format!("o{number}"), spec);
        object["metadata"]["namespace"] = json!(format!("n{index}"));
        object
    })
}

#[test]
fn a_sidecar_gets_so_many_hosts_and_the_others_are_found() {
    let mut builder = World::builder();
    let client = pod("client", "client", "10.0.0.9", true, true);
    let own = external_service(
        "own",
        json!({"hosts": ["own.example.com"], "ports": [{"port": 80, "protocol": "HTTP"}]}),
    );
    let all = (0..3).flat_map(|index| namespace(index, 80, 0));
    let findings = apply(&mut builder, [client, own].into_iter().chain(all));
    assert!(findings.is_empty(), "{findings:#?}");
    let compiled = compile(&builder.world());
    let view = view(
        &compiled,
        &NamespacedName::new("shop", "client"),
        &BTreeSet::new(),
    );
    let parts = view.unwrap().parts;
    let resources = parts.iter().flat_map(|part| &part.resources);
    let routes = resources.filter(|of| of.key.kind == ResourceKind::Route);
    let rules: usize = routes.map(|of| of.rules.len()).sum();
    assert_eq!(rules, 2000);
    // The findings of other namespaces are about other objects: their own come first.
    let texts = compiled.findings.iter().map(ToString::to_string);
    let texts: Vec<String> = texts
        .filter(|text| text.contains(" shop do not get"))
        .collect();
    let of = |object: &str| texts.iter().filter(|text| text.contains(object)).count();
    assert_eq!(
        (of(" n1/"), of(" n2/"), of("shop/")),
        (1, 40, 0),
        "{texts:?}"
    );
}

#[test]
fn wildcards_and_ports_have_bounds_of_their_own() {
    let mut builder = World::builder();
    let client = pod("client", "client", "10.0.0.9", true, true);
    let ports = (0..150).map(|index| {
        let ports = json!([{"port": 2000 + index, "protocol": "HTTP"}]);
        let spec = json!({"hosts": [format!("p{index}.example.com")], "ports": ports});
        external_service(&format!("p{index:03}"), spec)
    });
    let all = ports.chain(namespace(0, 2000, 200));
    let findings = apply(&mut builder, [client].into_iter().chain(all));
    assert!(findings.is_empty(), "{findings:#?}");
    let compiled = compile(&builder.world());
    let view = view(
        &compiled,
        &NamespacedName::new("shop", "client"),
        &BTreeSet::new(),
    );
    let parts = view.unwrap().parts;
    let resources: Vec<_> = parts.iter().flat_map(|part| &part.resources).collect();
    let listeners = resources
        .iter()
        .filter(|of| of.key.kind == ResourceKind::Listener && of.key.name.starts_with("external|"));
    assert_eq!(listeners.count(), 128);
    let rules = resources.iter().flat_map(|of| &of.rules);
    let wildcards = rules.filter(|rule| rule.id.starts_with("*."));
    assert_eq!(wildcards.count(), 128);
    let own = compiled
        .findings
        .iter()
        .filter(|of| of.object.to_string().contains(" shop/"));
    assert_eq!(own.count(), 22, "{:#?}", compiled.findings);
}

#[test]
fn the_certificates_of_authorities_have_a_bound() {
    let mut builder = World::builder();
    let client = pod("client", "client", "10.0.0.9", true, true);
    let trust = Trust::new().unwrap();
    // The text around a certificate counts.
    let text = format!("{:>60000}\n{}", "", trust.ca());
    let all = (0..5).map(|number| {
        let hosts: Vec<String> = (0..32)
            .map(|host| format!("h{host}.o{number}.example.com"))
            .collect();
        let ports =
            json!([{"port": 80, "protocol": "HTTP", "tls": {"port": 443, "caCertificates": text}}]);
        external_service(
            &format!("o{number}"),
            json!({"hosts": hosts, "ports": ports}),
        )
    });
    let findings = apply(&mut builder, [client].into_iter().chain(all));
    assert!(findings.is_empty(), "{findings:#?}");
    let compiled = compile(&builder.world());
    let view = view(
        &compiled,
        &NamespacedName::new("shop", "client"),
        &BTreeSet::new(),
    );
    let parts = view.unwrap().parts;
    let resources = parts.iter().flat_map(|part| &part.resources);
    let routes = resources.filter(|of| of.key.kind == ResourceKind::Route);
    let rules: usize = routes.map(|of| of.rules.len()).sum();
    assert_eq!(rules, (4 << 20) / text.len());
    assert!(!compiled.findings.is_empty());
}
