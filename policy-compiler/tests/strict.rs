//! The flip to mutual TLS alone: only the listeners of servers differ, and there only the chains for plain text.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod harness;

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use harness::{Seen, views};
use heddle_crds::MtlsMode;
use heddle_policy_compiler::world::Port;
use heddle_policy_compiler::{
    Compiled, KubeObject, Resource, ResourceKey, ResourceKind, compile, ingest,
};
use rayon::prelude::*;
use serde_json::Value;

fn mesh(mode: &str) -> KubeObject {
    let text = format!(
        "apiVersion: heddle.dev/v1alpha1\nkind: Mesh\nmetadata: {{name: default}}\nspec: {{mode: {mode}}}\n"
    );
    one(&text)
}

/// The object of `heddle mtls strict shop`.
const SHOP: &str = "apiVersion: heddle.dev/v1alpha1\nkind: AuthPolicy\nmetadata: {name: zz-mtls-strict, namespace: shop}\nspec: {mtls: {mode: Strict}}\n";

fn one(text: &str) -> KubeObject {
    let (mut objects, findings) = ingest::parse_yaml("one", text).into_objects();
    assert!(findings.is_empty(), "{findings:#?}");
    objects.remove(0)
}

/// The parts of a listener that may not differ: its filter chains for TLS, and all that is not in chains, without the look at first bytes.
/// Last, that look: if it differs, the listener is replaced, and its connections drain.
fn of_sidecars(listener: &Resource) -> ((BTreeSet<String>, String), String) {
    let mut text = harness::readable(listener);
    let chains = text["filter_chains"].take();
    let chains = chains.as_array().cloned().unwrap_or_default();
    let tls = chains
        .iter()
        .filter(|chain| !chain["transport_socket"].is_null());
    let tls = tls.map(Value::to_string).collect();
    text["filter_chain_matcher"].take();
    text["default_filter_chain"].take();
    let look = ["listener_filters_timeout", "listener_filters"].map(|name| text[name].take());
    ((tls, text.to_string()), format!("{look:?}"))
}

/// Returns the number of listeners that differ in place.
fn differs_only_for_plain_text(before: &Compiled, after: &Compiled) -> Result<usize> {
    let (before, after) = (views(before), views(after));
    let mut flipped = 0;
    for (pod, before) in &before {
        let after = &after[pod];
        // The listener, routes and clusters by which the kubelet's requests pass where no other plain text does.
        let of_node = |key: &&ResourceKey| {
            ["in-node", "in-tls|", "inbound-node"]
                .iter()
                .any(|of| key.name.starts_with(of))
        };
        let keys = |seen: &Seen| -> Vec<ResourceKey> {
            let keys = seen.resources.keys();
            keys.filter(|key| !of_node(key)).cloned().collect()
        };
        ensure!(keys(before) == keys(after), "{pod}");
        ensure!(before.absent == after.absent, "{pod}");
        for (key, old) in before.resources.iter().filter(|(key, _)| !of_node(key)) {
            let new = &after.resources[key];
            if old.version == new.version {
                continue;
            }
            let own = key.kind == ResourceKind::Listener && key.name.starts_with("inbound");
            ensure!(own, "{pod}: {key:?}");
            let (old, new) = (of_sidecars(old), of_sidecars(new));
            ensure!(old.0 == new.0, "{pod}: {key:?}");
            flipped += usize::from(old.1 == new.1);
        }
    }
    Ok(flipped)
}

#[test]
fn a_flip_changes_nothing_that_callers_with_a_sidecar_use() -> Result<()> {
    let kinds = [
        "auth_policy",
        "traffic_policy",
        "traffic_split",
        "tcp_route",
        "http_route",
    ];
    let flip = |(file, objects): &(PathBuf, Vec<KubeObject>)| -> Result<usize> {
        let mut count = 0;
        let of = |own: Vec<KubeObject>| {
            let all = objects.iter().cloned().chain(own);
            compile(&harness::world(all).0)
        };
        let before = of(vec![mesh("Permissive")]);
        for after in [
            of(vec![mesh("Strict")]),
            of(vec![mesh("Permissive"), one(SHOP)]),
        ] {
            let flipped = differs_only_for_plain_text(&before, &after);
            let flipped = flipped.map_err(|error| error.context(file.display().to_string()))?;
            count += flipped;
        }
        Ok(count)
    };
    let cases = harness::cases_without_mesh(&kinds)?;
    let count: Result<usize> = cases.par_iter().map(flip).sum();
    let count = count?;
    ensure!(count > 50, "{count} listeners");
    Ok(())
}

/// Neither pods nor services declare the ports, and only 16 of them are told apart.
fn crowded(strict: bool) -> Compiled {
    let ports: Vec<String> = (9001..=9018).map(|port| port.to_string()).collect();
    let mode = if strict { "Strict" } else { "Permissive" };
    let text = format!(
        "apiVersion: heddle.dev/v1alpha1\nkind: AuthPolicy\nmetadata: {{name: reviews, namespace: shop}}\nspec:\n  \
         selector: {{matchLabels: {{app: reviews}}}}\n  mtls: {{mode: Permissive, ports: [{{port: 9018, mode: {mode}}}]}}\n  \
         rules: [{{action: Deny, from: {{namespaces: [web]}}, to: {{ports: [{}]}}}}]\n",
        ports.join(", ")
    );
    let objects = harness::base().unwrap().into_iter();
    compile(&harness::world(objects.chain([one(&text), mesh("Permissive")])).0)
}

#[test]
fn the_source_of_mtls_has_the_port_that_closes_all_ports_that_nothing_names() {
    for strict in [false, true] {
        let compiled = crowded(strict);
        let served: Vec<_> = compiled.served_ports().collect();
        let of = |port: Option<u16>| {
            let mut all = served.iter();
            let found = all.find(|of| {
                of.template.workload().name.starts_with("reviews") && of.port.map(Port::get) == port
            });
            *found.unwrap()
        };
        let (rest, told_apart) = (of(None), of(Some(9001)));
        assert_eq!(rest.plain, !strict);
        assert_eq!(compiled.accepts_plain_unless_bypassed(&rest), !strict);
        let source = compiled.mtls_source(&rest);
        assert_eq!(source.for_port.map(Port::get), strict.then_some(9018));
        let mode = source.policy.unwrap().1;
        assert_eq!(mode == MtlsMode::Strict, strict);
        let source = compiled.mtls_source(&told_apart);
        assert_eq!(source.for_port, None);
        assert_eq!(source.policy.unwrap().1, MtlsMode::Permissive);
    }
}
