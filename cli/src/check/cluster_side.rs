//! What the cluster must offer: its version, and the caller's rights.

use anyhow::Result;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use kube::api::PostParams;
use kube::{Api, Client};

use super::Outcome;
use crate::cluster::{self, NAMESPACE};

/// Native sidecars are on by default since 1.29; the CEL that our definitions use is there since 1.30.
const OLDEST_MINOR: u32 = 30;

/// What installing takes: group, resource, namespaced.
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
    vec![
        Outcome::of(version(client).await, "version of Kubernetes"),
        Outcome::of(rights(client).await, "rights to install"),
    ]
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
