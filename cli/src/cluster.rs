//! The way to a cluster: one client with timeouts, and calls that cannot hang.

use std::future::Future;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use heddle_policy_compiler::{KindResource, ObjectKind};
use kube::api::{ApiResource, DynamicObject, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{GroupVersionKind, TypeMeta};
use kube::{Api, Client, Config};

/// Where the control plane lives.
pub const NAMESPACE: &str = "heddle-system";
/// The MutatingWebhookConfiguration of the mesh. The control plane keeps its root there, for the API server; every reader of webhooks
/// may read it.
pub const WEBHOOK: &str = "heddle-injector";
/// The longest that one call may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Objects per page of a list.
const PAGE: u32 = 500;

/// Which cluster.
#[derive(Args, Clone, Debug)]
pub struct ClusterArgs {
    /// The context of the kubeconfig; without it the current one, or the pod's own service account.
    #[arg(long, value_name = "NAME", global = true)]
    pub context: Option<String>,
}

impl ClusterArgs {
    /// The address of the cluster and the identity of the caller, with timeouts.
    ///
    /// # Errors
    /// The kubeconfig cannot be read, does not have the context, or there is neither a kubeconfig nor a pod's service account.
    pub async fn config(&self) -> Result<Config> {
        let mut config = match &self.context {
            Some(context) => {
                let options = KubeConfigOptions {
                    context: Some(context.clone()),
                    ..KubeConfigOptions::default()
                };
                let kubeconfig = Kubeconfig::read().context("cannot read the kubeconfig")?;
                Config::from_custom_kubeconfig(kubeconfig, &options)
                    .await
                    .context("cannot use that context")?
            }
            None => Config::infer().await.context(
                "no cluster: neither a kubeconfig nor a pod's service account; set KUBECONFIG",
            )?,
        };
        config.connect_timeout = Some(CONNECT_TIMEOUT);
        config.read_timeout = Some(CALL_TIMEOUT);
        config.write_timeout = Some(CALL_TIMEOUT);
        Ok(config)
    }

    /// A client of that cluster.
    ///
    /// # Errors
    /// The cluster or the identity of the caller is not known, or a certificate or key of the kubeconfig is not usable.
    pub async fn client(&self) -> Result<Client> {
        client_of(self.config().await?)
    }
}

/// A client.
///
/// # Errors
/// A certificate, key or credential of the configuration is not usable.
pub fn client_of(config: Config) -> Result<Client> {
    Client::try_from(config).context("cannot build a client of the cluster")
}

/// A call with a timeout; its error names the purpose.
///
/// # Errors
/// The API server does not answer in time, or refuses the call.
pub async fn call<T>(what: &str, future: impl Future<Output = kube::Result<T>>) -> Result<T> {
    let outcome = tokio::time::timeout(CALL_TIMEOUT, future).await;
    outcome
        .with_context(|| {
            format!(
                "{what}: no answer from the API server in {} s",
                CALL_TIMEOUT.as_secs()
            )
        })?
        .with_context(|| what.to_owned())
}

/// `Ok(None)` where the API server has no such object, or no such kind.
///
/// # Errors
/// The API server does not answer in time, or refuses the call by another status than 404.
pub async fn find<T>(
    what: &str,
    future: impl Future<Output = kube::Result<T>>,
) -> Result<Option<T>> {
    match call(what, future).await {
        Ok(found) => Ok(Some(found)),
        Err(error) if refusal(&error) == Some(404) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The HTTP status with which the API server refused a call.
pub fn refusal(error: &anyhow::Error) -> Option<u16> {
    match error.downcast_ref::<kube::Error>() {
        Some(kube::Error::Api(status)) => Some(status.code),
        _ => None,
    }
}

/// The longest error, in characters. Names and messages in it may come from files and from the cluster.
const MAX_ERROR: usize = 16 << 10;

/// An error in one line, safe to print: an API behind the API server, such as that of metrics, may have written its message. The message
/// is in it once.
pub fn explain(error: &anyhow::Error) -> String {
    let mut parts = Vec::new();
    for cause in error.chain() {
        if let Some(kube::Error::Api(status)) = cause.downcast_ref::<kube::Error>() {
            parts.push(status.message.clone());
            break;
        }
        parts.push(cause.to_string());
    }
    // Some errors repeat their source in their own text.
    parts.dedup_by(|later, earlier| earlier.ends_with(later.as_str()));
    heddle_acceptor::clean(&parts.join(": "), MAX_ERROR)
}

/// `Kind namespace/name`, as messages name an object.
pub fn describe(object: &DynamicObject) -> String {
    let kind = object
        .types
        .as_ref()
        .map_or("object", |types| types.kind.as_str());
    let name = object.metadata.name.as_deref().unwrap_or("?");
    object.metadata.namespace.as_deref().map_or_else(
        || format!("{kind} {name}"),
        |namespace| format!("{kind} {namespace}/{name}"),
    )
}

/// The API of one object, by its own `apiVersion` and `kind`.
///
/// # Errors
/// The object has no `apiVersion` and `kind`, or its `apiVersion` is not a group and a version.
pub fn api_of(client: &Client, object: &DynamicObject) -> Result<Api<DynamicObject>> {
    let types = object
        .types
        .as_ref()
        .context("an object without apiVersion and kind")?;
    let resource = resource_of(types)?;
    let client = client.clone();
    Ok(match &object.metadata.namespace {
        Some(namespace) => Api::namespaced_with(client, namespace, &resource),
        None => Api::all_with(client, &resource),
    })
}

/// The resource of a kind; all kinds that we use have the regular plural.
///
/// # Errors
/// The `apiVersion` is not a group and a version.
pub fn resource_of(types: &TypeMeta) -> Result<ApiResource> {
    Ok(ApiResource::from_gvk(&GroupVersionKind::try_from(types)?))
}

/// All objects of a kind in the cluster (or one namespace), page by page; none where the kind does not exist.
///
/// # Errors
/// The `apiVersion` is not a group and a version, or the API server does not answer, or refuses the list.
pub async fn list(
    client: &Client,
    api_version: &str,
    kind: &str,
    namespace: Option<&str>,
) -> Result<Vec<DynamicObject>> {
    let types = TypeMeta {
        api_version: api_version.to_owned(),
        kind: kind.to_owned(),
    };
    let resource = resource_of(&types)?;
    let api: Api<DynamicObject> = match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    pages(&api, types, &resource.plural).await
}

/// The resource in the newest version that the API server serves; None if it serves none.
///
/// # Errors
/// The API server does not answer, or refuses the discovery.
pub async fn served(client: &Client, resource: &KindResource) -> Result<Option<KindResource>> {
    for resource in resource.versions() {
        let api_version = resource.api_version();
        let what = format!("ask for the kinds of {api_version}");
        let listed = find(&what, client.list_api_group_resources(&api_version)).await?;
        let mut all = listed.iter().flat_map(|list| &list.resources);
        if all.any(|of| of.name == resource.plural) {
            return Ok(Some(resource));
        }
    }
    Ok(None)
}

/// All objects of a kind that the control plane watches; none where the kind does not exist.
///
/// # Errors
/// The API server does not answer, or refuses the list.
pub async fn list_all(
    client: &Client,
    kind: ObjectKind,
    resource: &KindResource,
) -> Result<Vec<DynamicObject>> {
    let served = match resource.older.is_empty() {
        true => None,
        false => served(client, resource).await?,
    };
    let resource = served.as_ref().unwrap_or(resource);
    let gvk = GroupVersionKind::gvk(resource.group, resource.version, kind.api_kind());
    let types = TypeMeta {
        api_version: resource.api_version(),
        kind: kind.api_kind().to_owned(),
    };
    let api_resource = ApiResource::from_gvk_with_plural(&gvk, resource.plural);
    let api = Api::all_with(client.clone(), &api_resource);
    pages(&api, types, resource.plural).await
}

async fn pages(
    api: &Api<DynamicObject>,
    types: TypeMeta,
    plural: &str,
) -> Result<Vec<DynamicObject>> {
    let what = format!("list {plural}");
    let (mut found, mut params) = (Vec::new(), ListParams::default().limit(PAGE));
    loop {
        let Some(page) = find(&what, api.list(&params)).await? else {
            return Ok(found);
        };
        let next = page
            .metadata
            .continue_
            .clone()
            .filter(|token| !token.is_empty());
        // Items of a list come without their type; readers of single objects need it.
        found.extend(page.items.into_iter().map(|item| DynamicObject {
            types: Some(types.clone()),
            ..item
        }));
        match next {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(found),
        }
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;
    use kube::core::Status;

    use super::*;

    #[test]
    fn an_error_is_one_line_without_commands_to_the_terminal() {
        let status = Status::failure("no\n\u{1b}[2Jmetrics\u{9b}31m\u{202e}", "Down");
        let error = anyhow!(kube::Error::Api(Box::new(status))).context("read the metrics API");
        assert_eq!(explain(&error), "read the metrics API: no [2Jmetrics 31m");
    }
}
