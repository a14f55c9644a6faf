//! The roles of `config/rbac/` give the control plane only rights that its code uses.

#![allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::path::Path;

use heddle_crds::ForeignKind;
use serde_json::Value;

/// A verb on a resource, with the file and the call that need it. `get` stands beside `list` everywhere, for it reads no more.
const USES: [(&str, &str, &str, &str); 33] = [
    (
        "authpolicies",
        "list",
        "kubernetes/cache.rs",
        "watch_objects(",
    ),
    (
        "authpolicies",
        "watch",
        "kubernetes/cache.rs",
        "watch_objects(",
    ),
    (
        "authpolicies/status",
        "patch",
        "kubernetes/statuses.rs",
        "api.patch_status(",
    ),
    (
        "configmaps",
        "create",
        "kubernetes/sharded.rs",
        "self.api.create(",
    ),
    // Demanded of a client that sets owner references, by the plugin OwnerReferencesPermissionEnforcement.
    (
        "configmaps",
        "delete",
        "kubernetes/peers.rs",
        "owner_references:",
    ),
    (
        "configmaps",
        "list",
        "kubernetes/peers.rs",
        "watch_objects(",
    ),
    (
        "configmaps",
        "patch",
        "kubernetes/peers.rs",
        "api.patch(&name",
    ),
    (
        "configmaps",
        "watch",
        "kubernetes/peers.rs",
        "watch_objects(",
    ),
    (
        "endpointslices",
        "list",
        "kubernetes/cache.rs",
        "follow::<EndpointSlice>",
    ),
    (
        "endpointslices",
        "watch",
        "kubernetes/cache.rs",
        "follow::<EndpointSlice>",
    ),
    (
        "events",
        "create",
        "kubernetes/events.rs",
        "recorder.publish(",
    ),
    // The recorder counts repetitions in the Event that is there.
    (
        "events",
        "patch",
        "kubernetes/events.rs",
        "recorder.publish(",
    ),
    (
        "httproutes",
        "list",
        "kubernetes/cache.rs",
        "watch_objects(",
    ),
    (
        "httproutes",
        "watch",
        "kubernetes/cache.rs",
        "watch_objects(",
    ),
    (
        "httproutes/status",
        "update",
        "kubernetes/parents.rs",
        "api.replace_status(",
    ),
    (
        "leases",
        "create",
        "kubernetes/leader.rs",
        "self.leases.create(",
    ),
    (
        "leases",
        "get",
        "kubernetes/leader.rs",
        "self.leases.get_opt(",
    ),
    (
        "leases",
        "update",
        "kubernetes/leader.rs",
        "self.leases.replace(",
    ),
    // A server-side apply of an object that is not there is judged by both verbs.
    (
        "meshes",
        "create",
        "kubernetes/default_mesh.rs",
        "api.patch(NAME",
    ),
    (
        "meshes",
        "patch",
        "kubernetes/default_mesh.rs",
        "api.patch(NAME",
    ),
    (
        "mutatingwebhookconfigurations",
        "get",
        "kubernetes/ca_bundle.rs",
        "api.get(",
    ),
    (
        "mutatingwebhookconfigurations",
        "patch",
        "kubernetes/ca_bundle.rs",
        "api.patch(",
    ),
    (
        "namespaces",
        "list",
        "kubernetes/cache.rs",
        "follow::<core::Namespace>",
    ),
    (
        "namespaces",
        "watch",
        "kubernetes/cache.rs",
        "follow::<core::Namespace>",
    ),
    (
        "nodes",
        "get",
        "kubernetes/zones.rs",
        "self.nodes.get_metadata(",
    ),
    ("pods", "list", "kubernetes/cache.rs", "follow::<core::Pod>"),
    (
        "pods",
        "watch",
        "kubernetes/cache.rs",
        "follow::<core::Pod>",
    ),
    (
        "secrets",
        "create",
        "kubernetes/root.rs",
        "self.secrets.create(",
    ),
    (
        "secrets",
        "get",
        "kubernetes/root.rs",
        "self.secrets.get_opt(",
    ),
    (
        "services",
        "list",
        "kubernetes/cache.rs",
        "follow::<core::Service>",
    ),
    (
        "services",
        "watch",
        "kubernetes/cache.rs",
        "follow::<core::Service>",
    ),
    (
        "subjectaccessreviews",
        "create",
        "kubernetes/authorize.rs",
        "self.rights.create(",
    ),
    (
        "tokenreviews",
        "create",
        "kubernetes/tokens.rs",
        "reviews.create(",
    ),
];

/// The verbs that the roles bound to the control plane give, by resource. The kinds of the API have equal rights and stand together.
fn granted() -> BTreeSet<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/rbac");
    let mut granted = BTreeSet::new();
    for file in [
        "operator_role.yaml",
        "operator_cluster_role.yaml",
        "kinds_roles.yaml",
    ] {
        let text = std::fs::read_to_string(folder.join(file)).unwrap();
        for document in text.split("\n---\n") {
            let role: Value = serde_saphyr::from_str(document).unwrap();
            let name = role["metadata"]["name"].as_str().unwrap();
            if !name.starts_with("heddle-operator") {
                continue;
            }
            let words = |value: &Value| -> Vec<String> {
                let list = value.as_array().into_iter().flatten();
                list.map(|word| word.as_str().unwrap().to_owned()).collect()
            };
            for rule in role["rules"].as_array().into_iter().flatten() {
                let verbs = words(&rule["verbs"]);
                for resource in words(&rule["resources"]) {
                    let read = verbs.iter().any(|verb| verb == "list");
                    let verbs = verbs.iter().filter(|verb| !(read && *verb == "get"));
                    granted.extend(verbs.map(|verb| (resource.clone(), verb.clone())));
                }
            }
        }
    }
    granted
}

#[test]
fn every_right_of_the_control_plane_is_used() {
    let kinds: Vec<String> = heddle_crds::Kind::ALL
        .iter()
        .map(|kind| kind.plural())
        .collect();
    // The kinds of the API have the same rights.
    let of_kinds = |resource: &str| {
        kinds
            .iter()
            .any(|kind| resource.split('/').next() == Some(kind))
    };
    let mut used = BTreeSet::new();
    for (resource, verb, file, call) in USES {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../operator/src")
            .join(file);
        let source = std::fs::read_to_string(path).unwrap();
        assert!(
            source.contains(call),
            "{verb} {resource}: {file} has no {call:?}"
        );
        if of_kinds(resource) {
            for kind in &kinds {
                let resource = resource.replacen("authpolicies", kind, 1);
                used.insert((resource, verb.to_owned()));
            }
        } else if resource.split('/').next() == Some("httproutes") {
            // Those of other projects, too, but for the status of a kind without entries of controllers.
            let foreign = ForeignKind::ALL.iter();
            for of in foreign.filter(|of| of.entries.is_some() || !resource.contains('/')) {
                let resource = resource.replacen("httproutes", of.plural, 1);
                used.insert((resource, verb.to_owned()));
            }
        } else {
            used.insert((resource.to_owned(), verb.to_owned()));
        }
    }
    assert_eq!(granted(), used);
}
