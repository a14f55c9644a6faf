//! Objects of declared kinds as they come from the API server.

use heddle_policy_compiler::{Finding, KindResource, KubeObject, ObjectKind, ingest::parse_json};
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, TypeMeta};

/// The resource of a kind.
pub(super) fn api_resource(kind: ObjectKind, resource: &KindResource) -> ApiResource {
    let gvk = GroupVersionKind::gvk(resource.group, resource.version, kind.as_str());
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

/// Reads an object of a declared kind.
pub(super) fn declared(
    mut object: DynamicObject,
    kind: ObjectKind,
    resource: &KindResource,
) -> (Vec<KubeObject>, Vec<Finding>) {
    // The items of a list need not have a type.
    object.types = Some(TypeMeta {
        api_version: resource.api_version(),
        kind: kind.as_str().to_owned(),
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

/// Whether the API server serves a resource, by its discovery.
///
/// # Errors
/// When the API server does not answer.
pub(super) async fn is_served(client: &Client, resource: &KindResource) -> kube::Result<bool> {
    let api_version = resource.api_version();
    let listed = if resource.group.is_empty() {
        client.list_core_api_resources(resource.version).await
    } else {
        // The client warns of every question for a group that is not there.
        let groups = client.list_api_groups().await?.groups;
        let mut versions = groups.iter().flat_map(|group| &group.versions);
        if !versions.any(|version| version.group_version == api_version) {
            return Ok(false);
        }
        client.list_api_group_resources(&api_version).await
    };
    match listed {
        Ok(list) => Ok(list.resources.iter().any(|r| r.name == resource.plural)),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
        Err(error) => Err(error),
    }
}
