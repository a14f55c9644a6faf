//! Objects of declared kinds as they come from the API server.

use heddle_policy_compiler::{Finding, KindResource, KubeObject, ObjectKind, ingest::parse_json};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::APIResourceList;
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, TypeMeta};

use super::{CallError, call};

/// The resource of a kind.
pub(super) fn api_resource(kind: ObjectKind, resource: &KindResource) -> ApiResource {
    let gvk = GroupVersionKind::gvk(resource.group, resource.version, kind.api_kind());
    ApiResource::from_gvk_with_plural(&gvk, resource.plural)
}

/// The API of all objects of a declared kind. They are read untyped, for one object that does not fit its type must not hide all others.
pub(super) fn api(
    client: &Client,
    kind: ObjectKind,
    resource: &KindResource,
) -> Api<DynamicObject> {
    Api::all_with(client.clone(), &api_resource(kind, resource))
}

/// The API of all objects of a type of Kubernetes.
pub(super) fn all<K: kube::Resource<DynamicType = ()>>(
    client: Client,
) -> impl Fn(&KindResource) -> Api<K> {
    move |_| Api::all(client.clone())
}

/// Reads an object of a declared kind.
pub(super) fn declared(
    mut object: DynamicObject,
    kind: ObjectKind,
    resource: &KindResource,
) -> (Vec<KubeObject>, Vec<Finding>) {
    // The items of a list need not have a type.
    object.types = Some(TypeMeta {
        api_version: resource.api_version(),
        kind: kind.api_kind().to_owned(),
    });
    object.metadata.managed_fields = None;
    object.metadata.annotations = None;
    match serde_json::to_value(&object) {
        Ok(value) => parse_json("the API server", value),
        Err(error) => {
            tracing::error!(%error, name = object.metadata.name, "an object is not JSON");
            (Vec::new(), Vec::new())
        }
    }
}

/// The newest version of a resource that the API server serves, by its discovery.
///
/// # Errors
/// When the API server does not answer.
pub(super) async fn served(
    client: &Client,
    resource: &KindResource,
) -> kube::Result<Option<KindResource>> {
    if resource.group.is_empty() {
        let listed = client.list_core_api_resources(resource.version).await;
        return Ok(has(listed, resource)?.then_some(*resource));
    }
    // The client warns of every question for a group that is not there.
    let groups = client.list_api_groups().await?.groups;
    let there = |api_version: &str| {
        let mut versions = groups.iter().flat_map(|group| &group.versions);
        versions.any(|version| version.group_version == api_version)
    };
    for resource in resource.versions() {
        let api_version = resource.api_version();
        if there(&api_version) {
            let listed = client.list_api_group_resources(&api_version).await;
            if has(listed, &resource)? {
                return Ok(Some(resource));
            }
        }
    }
    Ok(None)
}

/// Whether a list of resources has one; there is no such list if the version is gone.
fn has(listed: kube::Result<APIResourceList>, resource: &KindResource) -> kube::Result<bool> {
    match listed {
        Ok(list) => Ok(list.resources.iter().any(|r| r.name == resource.plural)),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
        Err(error) => Err(error),
    }
}

/// The resource in the newest version that the API server serves; as it is if there is none.
///
/// # Errors
/// When the API server does not answer.
pub(super) async fn newest(
    client: &Client,
    resource: &KindResource,
) -> Result<KindResource, CallError> {
    if resource.older.is_empty() {
        return Ok(*resource);
    }
    let served = call(served(client, resource)).await?;
    Ok(served.unwrap_or(*resource))
}
