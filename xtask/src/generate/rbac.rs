//! `config/rbac/kinds_roles.yaml`: rights on our own kinds, for the control plane and for people, and on the kinds of other projects.

use heddle_crds::{ForeignKind, GROUP, Kind, Scope};

use super::{Files, yaml::HEADER};

/// Kinds that let workloads call hosts outside of the mesh: the right to edit a namespace does not cover them.
const EGRESS: [&str; 1] = ["externalservices"];

pub fn files() -> Files {
    let all: Vec<String> = Kind::ALL.iter().map(|kind| kind.plural()).collect();
    let namespaced = Kind::ALL
        .iter()
        .filter(|kind| matches!(kind.scope(), Scope::Namespaced))
        .map(|kind| kind.plural());
    let (egress, namespaced): (Vec<String>, Vec<String>) =
        namespaced.partition(|plural| EGRESS.contains(&plural.as_str()));
    let statuses: Vec<String> = all
        .iter()
        .map(|plural| format!("{plural}/status"))
        .collect();

    let mut text = HEADER.to_owned();
    text.push_str("# The control plane reads the specs, writes the statuses and publishes Events, and does nothing else with these objects.\n");
    text.push_str(&role("heddle-operator-kinds", &[]));
    text.push_str(&rule(GROUP, &all, "get, list, watch"));
    text.push_str(&rule(GROUP, &statuses, "patch"));
    text.push_str("# Kinds of other projects, where they are installed. Of their statuses only the own entries of the list of parents or ancestors change.\n");
    for kind in ForeignKind::ALL {
        let (plural, status) = (kind.plural.to_owned(), format!("{}/status", kind.plural));
        text.push_str(&rule(kind.group, &[plural], "get, list, watch"));
        if kind.entries.is_some() {
            text.push_str(&rule(kind.group, &[status], "update"));
        }
    }
    text.push_str("# Events about these objects, for conditions that turn bad.\n- apiGroups: [events.k8s.io]\n  resources: [events]\n  verbs: [create, patch]\n");
    text.push_str(BINDING);
    text.push_str("---\n# Whoever may view a namespace may view our objects in it; the Mesh may be read with them.\n");
    text.push_str(&role("heddle-view", &["view", "edit", "admin"]));
    text.push_str(&rule(GROUP, &all, "get, list, watch"));
    text.push_str("---\n# Whoever may edit a namespace may edit our objects in it, as with NetworkPolicies. The Mesh is the cluster's.\n");
    text.push_str(&role("heddle-edit", &["edit", "admin"]));
    text.push_str(&rule(GROUP, &namespaced, EDIT));
    text.push_str("---\n# Whoever may run commands in the pods of a namespace may tap them. No object of this kind exists (docs/tap.md).\n");
    text.push_str(&role("heddle-tap", &["edit", "admin"]));
    text.push_str(&rule(GROUP, &["taps".to_owned()], "create"));
    text.push_str("---\n# Whoever may open hosts outside of the mesh to workloads: bound by hand, for `outbound: Deny` would mean nothing otherwise.\n");
    text.push_str(&role("heddle-egress-edit", &[]));
    text.push_str(&rule(GROUP, &egress, EDIT));
    Files::from([("config/rbac/kinds_roles.yaml".to_owned(), text)])
}

const EDIT: &str = "create, update, patch, delete, deletecollection";

const BINDING: &str = "---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  name: heddle-operator-kinds
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: ClusterRole
  name: heddle-operator-kinds
subjects:
- kind: ServiceAccount
  name: heddle-operator
  namespace: heddle-system
";

fn role(name: &str, aggregate_to: &[&str]) -> String {
    let mut text = format!(
        "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata:\n  name: {name}\n"
    );
    if !aggregate_to.is_empty() {
        text.push_str("  labels:\n");
        for target in aggregate_to {
            text.push_str(&format!(
                "    rbac.authorization.k8s.io/aggregate-to-{target}: \"true\"\n"
            ));
        }
    }
    text + "rules:\n"
}

fn rule(group: &str, resources: &[String], verbs: &str) -> String {
    format!(
        "- apiGroups: [{group}]\n  resources: [{}]\n  verbs: [{verbs}]\n",
        resources.join(", ")
    )
}
