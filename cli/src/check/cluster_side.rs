//! Requirements of the cluster: its version, and the caller's rights.

use anyhow::Result;
use heddle_policy_compiler::{KindResource, ObjectKind};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use kube::api::PostParams;
use kube::{Api, Client};

use super::Outcome;
use crate::cluster::{self, NAMESPACE};

/// Native sidecars are on by default since 1.29; the CEL that our definitions use is there since 1.30.
const OLDEST_MINOR: u32 = 30;

/// The resources that an installation creates: group, resource, namespaced.
const NEEDED: [(&str, &str, bool); 7] = [
    ("", "namespaces", false),
    ("apiextensions.k8s.io", "customresourcedefinitions", false),
    ("rbac.authorization.k8s.io", "clusterroles", false),
    ("rbac.authorization.k8s.io", "clusterrolebindings", false),
    (
        "admissionregistration.k8s.io",
        "mutatingwebhookconfigurations",
        false,
    ),
    ("apps", "deployments", true),
    ("", "services", true),
];

pub(super) async fn all(client: &Client) -> Vec<Outcome> {
    let mut outcomes = vec![
        Outcome::of(version(client).await, "version of Kubernetes"),
        Outcome::of(rights(client).await, "rights to install"),
    ];
    outcomes.extend(optional_kinds(client, ObjectKind::watched()).await);
    outcomes
}

/// Returns for each optional kind whether its definition is installed.
async fn optional_kinds(
    client: &Client,
    kinds: impl Iterator<Item = (ObjectKind, KindResource)>,
) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    for (kind, resource) in kinds.filter(|(_, resource)| resource.optional) {
        let name = format!("{} of {}", kind.api_kind(), resource.api_version());
        let found = optional_kind(client, &resource, &name).await;
        outcomes.push(Outcome::of(found, &name));
    }
    outcomes
}

async fn optional_kind(client: &Client, resource: &KindResource, name: &str) -> Result<Outcome> {
    Ok(match cluster::served(client, resource).await? {
        Some(_) => Outcome::Ok(format!("{name} is installed")),
        None => Outcome::Note(
            format!("{name} is not installed; the mesh works without it"),
            format!("to use it install the definition of {name}; no restart is needed"),
        ),
    })
}

async fn version(client: &Client) -> Result<Outcome> {
    let version = cluster::call("ask for the version", client.apiserver_version()).await?;
    let number = |text: &str| {
        text.chars()
            .take_while(char::is_ascii_digit)
            .collect::<String>()
            .parse::<u32>()
            .unwrap_or(0)
    };
    let (major, minor) = (number(&version.major), number(&version.minor));
    let seen = format!("Kubernetes {}", version.git_version);
    Ok(if (major, minor) >= (1, OLDEST_MINOR) {
        Outcome::Ok(seen)
    } else {
        Outcome::Fail(
            format!("{seen} is too old"),
            format!("upgrade the cluster to 1.{OLDEST_MINOR} or newer"),
        )
    })
}

async fn rights(client: &Client) -> Result<Outcome> {
    let mut missing = Vec::new();
    for (group, resource, namespaced) in NEEDED {
        for verb in ["create", "patch", "delete"] {
            if !allowed(client, group, resource, namespaced, verb).await? {
                missing.push(format!("{verb} {resource}"));
            }
        }
    }
    Ok(if missing.is_empty() {
        Outcome::Ok("you may install and uninstall".to_owned())
    } else {
        Outcome::Note(
            format!("you may not: {}", missing.join(", ")),
            "install as somebody who is bound to cluster-admin".to_owned(),
        )
    })
}

async fn allowed(
    client: &Client,
    group: &str,
    resource: &str,
    namespaced: bool,
    verb: &str,
) -> Result<bool> {
    let attributes = ResourceAttributes {
        group: Some(group.to_owned()),
        resource: Some(resource.to_owned()),
        namespace: namespaced.then(|| NAMESPACE.to_owned()),
        verb: Some(verb.to_owned()),
        ..ResourceAttributes::default()
    };
    let review = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(attributes),
            ..SelfSubjectAccessReviewSpec::default()
        },
        ..SelfSubjectAccessReview::default()
    };
    let api: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let answer = cluster::call(
        "ask for your rights",
        api.create(&PostParams::default(), &review),
    )
    .await?;
    Ok(answer.status.is_some_and(|status| status.allowed))
}

#[cfg(test)]
mod tests {
    use axum::Json;
    use axum::Router;
    use axum::http::StatusCode;
    use axum::response::IntoResponse;
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn optional_kinds_are_reported_as_installed_or_not() {
        let resources = json!({"groupVersion": "heddle.dev/v1alpha1", "resources": [
            {"name": "meshes", "singularName": "", "namespaced": false, "kind": "Mesh", "verbs": ["list"]}]});
        let known = || async move { Json(resources.clone()).into_response() };
        let missing = || async {
            let status = json!({"kind": "Status", "status": "Failure", "code": 404, "message": ""});
            (StatusCode::NOT_FOUND, Json(status)).into_response()
        };
        let routes = Router::new().route("/apis/heddle.dev/v1alpha1", axum::routing::get(known));
        let client = Client::new(routes.fallback(missing), "default");
        let kind = |kind: ObjectKind| (kind, kind.resource().unwrap().or_none());
        let kinds = [ObjectKind::Mesh, ObjectKind::AuthPolicy].map(kind);
        let required = ObjectKind::watched().filter(|(_, resource)| !resource.optional);
        let outcomes = optional_kinds(&client, required.chain(kinds)).await;
        let told: Vec<bool> = outcomes
            .iter()
            .map(|outcome| matches!(outcome, Outcome::Ok(_)))
            .collect();
        assert_eq!(told, [true, false], "the required kinds are left out");
    }
}
