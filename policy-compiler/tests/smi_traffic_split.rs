//! `TrafficSplit` of the Service Mesh Interface beside the goldens: an alias of ours.

#![allow(clippy::unwrap_used, reason = "tests")]

mod harness;

use std::collections::BTreeSet;

use harness::shop;
use heddle_policy_compiler::print;

/// All resources of a client of `a`, which a split divides between `b` and `c`. The name of the kind stands in the names of routes and in
/// origins.
fn resources(port: &str, api_version: &str, backends: &str) -> BTreeSet<String> {
    let mut text = format!(
        "apiVersion: {api_version}\nkind: TrafficSplit\nmetadata: {{name: s, namespace: shop}}\nspec: {{service: a, backends: [{backends}]}}\n"
    );
    for (index, name) in ["a", "b", "c"].into_iter().enumerate() {
        let ip = format!("10.0.0.{index}");
        text += &shop::service(name, index, (port, 8001), &[&ip]);
    }
    text += &shop::client("127.101.0", &["shop/a:8001=127.101.0.5:8001".to_owned()]);
    let views = harness::views(&harness::compiled(&text));
    let all = views.values().flat_map(|view| view.resources.values());
    let text = all.map(|resource| format!("{} {}", resource.key, print::to_json(resource)));
    text.map(|text| text.replace("SmiTrafficSplit", "TrafficSplit"))
        .collect()
}

#[test]
fn a_number_beside_a_quantity_keeps_its_proportion() {
    let ours = "{service: b, weight: 4000}, {service: c, weight: 1}";
    let of_smi = "{service: b, weight: '2000'}, {service: c, weight: 500m}";
    assert_eq!(
        resources("tcp", "split.smi-spec.io/v1alpha1", of_smi),
        resources("tcp", "heddle.dev/v1alpha1", ours)
    );
}

#[test]
fn a_split_of_smi_and_the_equal_one_of_ours_give_the_same_configuration_but_for_the_kind_in_names()
{
    let ours = "{service: b, weight: 75}, {service: c, weight: 25}, {service: a, weight: 0}";
    for port in ["http", "tcp", "x"] {
        let expected = resources(port, "heddle.dev/v1alpha1", ours);
        for (version, backends) in [
            (
                "v1alpha4",
                "{service: b, weight: 75}, {service: c, weight: 25}, {service: a}",
            ),
            (
                "v1alpha3",
                "{service: b, weight: 75}, {service: c.shop, weight: 25}, {service: a, weight: 0}",
            ),
            (
                "v1alpha2",
                "{service: b, weight: 75}, {service: c, weight: 25.0}, {service: a}",
            ),
            (
                "v1alpha1",
                "{service: b, weight: '75'}, {service: c, weight: 25000m}, {service: a, weight: '0'}",
            ),
        ] {
            let api_version = format!("split.smi-spec.io/{version}");
            assert_eq!(
                resources(port, &api_version, backends),
                expected,
                "{port} {version}"
            );
        }
    }
}
