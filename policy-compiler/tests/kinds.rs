//! The list of kinds agrees with the definitions, and each kind is read. A program of its own: the test of `cargo xtask new-kind` builds
//! it again, and with it nothing that it does not need.
#![allow(missing_docs, clippy::panic, clippy::unwrap_used)]

use heddle_policy_compiler::ingest::{parse_json, parse_yaml};
use heddle_policy_compiler::{ObjectKind, ObjectRef, World, compile};
use serde_json::json;

#[test]
fn the_list_agrees_with_the_definitions_of_our_kinds() {
    for kind in heddle_crds::Kind::ALL {
        let listed = ObjectKind::by_name(kind.name());
        let listed = listed.unwrap_or_else(|| panic!("{} is not in the list", kind.name()));
        let resource = listed.resource().map(|r| (r.api_version(), r.plural));
        let plural = kind.plural();
        let defined = (heddle_crds::API_VERSION.to_owned(), plural.as_str());
        assert_eq!(resource, Some(defined));
        assert_eq!(listed.scope(), kind.scope());
        assert!(listed.is_declared());
    }
}

#[test]
fn every_kind_is_read_from_text_and_from_the_api_server() {
    for (kind, resource) in ObjectKind::watched() {
        let value = json!({
            "apiVersion": resource.api_version(), "kind": kind.api_kind(),
            "metadata": {"name": "a", "namespace": "shop", "generation": 2}, "spec": {},
        });
        let name = ObjectRef::new(kind, kind.namespace_of(Some("shop")), "a");
        let text = parse_yaml("all.yaml", &value.to_string());
        let references = text.objects.iter().map(|m| m.object.reference());
        assert_eq!(references.collect::<Vec<_>>(), [Some(name.clone())]);
        let (objects, _) = parse_json("API server", value);
        let mut world = World::builder();
        for object in objects {
            assert_eq!(object.reference().as_ref(), Some(&name));
            world.apply(object);
        }
        let status = |world: &World| {
            let status = compile(world).statuses.get(&name).cloned();
            status.map(|status| status.observed_generation)
        };
        let expected = kind.is_declared().then_some(2);
        assert_eq!(status(&world.world()), expected, "{name}");
        world.remove(&name);
        assert_eq!(status(&world.world()), None, "{name}");
    }
}
