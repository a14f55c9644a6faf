//! `heddle install`: prints or applies the manifests of the control plane.

mod last_applied;

use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use heddle_crds::MeshMode;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::runtime::wait::{await_condition, conditions};
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::cluster::{self, ClusterArgs, NAMESPACE};
use crate::manifests;
use crate::out::tell;

/// Our own name in `managedFields`; fields that the operator writes later (the webhook's `caBundle`) have another owner and are left alone.
const FIELD_MANAGER: &str = "heddle-cli";
const CRD_TIMEOUT: Duration = Duration::from_secs(30);

/// The way from an installation that observes to the live graph.
const NEXT: &str = "next: kubectl label namespace NAMESPACE heddle.dev/inject=enabled
      kubectl -n NAMESPACE rollout restart deployment
      heddle dashboard";

/// Options of `heddle install`.
#[derive(Args, Debug)]
pub struct InstallArgs {
    /// Apply to the cluster. Without it the objects are printed.
    #[arg(long)]
    apply: bool,
    /// With --apply: ask the API server whether it would take the objects, and change nothing.
    #[arg(long, requires = "apply")]
    dry_run: bool,
    /// With --apply: wait until the control plane is ready.
    #[arg(long, requires = "apply", conflicts_with = "dry_run")]
    wait: bool,
    /// How long to wait, in seconds.
    #[arg(long, default_value_t = 120, value_name = "SECONDS")]
    timeout: u64,
    /// Take over fields that another field manager holds.
    #[arg(long, requires = "apply")]
    force: bool,
    /// Begin by looking: the Mesh has mode Observe, in which sidecars accept plain text and policies only report.
    #[arg(long)]
    observe: bool,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Runs the command.
///
/// # Errors
/// The API server does not answer or refuses an object, a field belongs to another field manager, the Mesh has another mode than Observe
/// with `--observe`, or the control plane is not ready in time with `--wait`.
pub async fn run(args: &InstallArgs) -> Result<()> {
    let mut objects = manifests::all()?;
    if !args.apply {
        if args.observe {
            objects.push(first_mesh(true)?);
        }
        crate::out::raw(&manifests::print(&objects)?);
        return Ok(());
    }
    let client = args.cluster.client().await?;
    if args.observe {
        observes(&client).await?;
    }
    if !args.force {
        no_conflicts(&client, &objects).await?;
    }
    let remains = remains(&client).await?;
    let (crds, rest): (Vec<_>, Vec<_>) = objects.into_iter().partition(is_crd);
    // Our own kinds must be served before an object of them can be applied.
    for object in &crds {
        apply(&client, object, args).await?;
    }
    if !args.dry_run {
        for object in &crds {
            established(&client, object).await?;
        }
    }
    // Before the control plane, which makes a Mesh with defaults where there is none.
    default_mesh(&client, args).await?;
    for object in &rest {
        apply(&client, object, args).await?;
    }
    if args.wait {
        rolled_out(&client, Duration::from_secs(args.timeout)).await?;
    }
    if args.observe && !args.dry_run {
        crate::out::say!("{NEXT}");
    }
    match remains.as_slice() {
        [] => {}
        pods => tell!(
            "restart these pods, whose sidecars are of an earlier mesh with another root: {}",
            pods.join(", ")
        ),
    }
    Ok(())
}

/// Pods with a sidecar where no root is left: a new mesh has a new root, which those sidecars do not trust.
async fn remains(client: &Client) -> Result<Vec<String>> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), NAMESPACE);
    let root = cluster::find("get the root", secrets.get(crate::ca::SECRET)).await?;
    match root {
        Some(_) => Ok(Vec::new()),
        None => crate::check::strangers(client, None).await,
    }
}

fn is_crd(object: &DynamicObject) -> bool {
    object
        .types
        .as_ref()
        .is_some_and(|types| types.kind == "CustomResourceDefinition")
}

/// API definitions and rights belong to a version of the control plane, and no other value of them makes sense. So an upgrade
/// takes them over from `kubectl apply -k` of the version before; fields that users adjust, such as images and replicas, it does not take.
fn is_definition(object: &DynamicObject) -> bool {
    let kind = object.types.as_ref().map(|types| types.kind.as_str());
    kind.is_some_and(|kind| {
        matches!(
            kind,
            "CustomResourceDefinition"
                | "ClusterRole"
                | "ClusterRoleBinding"
                | "Role"
                | "RoleBinding"
        )
    })
}

/// Fails before anything is changed if a field of an object belongs to another field manager.
async fn no_conflicts(client: &Client, objects: &[DynamicObject]) -> Result<()> {
    let mut conflicts = Vec::new();
    for object in objects.iter().filter(|object| !is_definition(object)) {
        match patched(client, object, &params(true, false)).await {
            Err(error) if cluster::refusal(&error) == Some(409) => {
                conflicts.push(cluster::explain(&error));
            }
            // The objects are there. Namespaces and kinds that are not there yet are reported as missing; any other error
            // comes again when the object is applied.
            Ok(_) | Err(_) => {}
        }
    }
    if conflicts.is_empty() {
        return Ok(());
    }
    bail!(
        "nothing was changed: {}; add --force, which takes the fields over",
        conflicts.join("; ")
    )
}

fn params(dry_run: bool, force: bool) -> PatchParams {
    PatchParams {
        dry_run,
        force,
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    }
}

async fn patched(
    client: &Client,
    object: &DynamicObject,
    params: &PatchParams,
) -> Result<DynamicObject> {
    let what = format!("apply {}", cluster::describe(object));
    let name = object.metadata.name.as_deref();
    let name = name.context("an object without a name in config/")?;
    let api = cluster::api_of(client, object)?;
    cluster::call(&what, api.patch(name, params, &Patch::Apply(object))).await
}

async fn apply(client: &Client, object: &DynamicObject, args: &InstallArgs) -> Result<()> {
    let what = cluster::describe(object);
    let force = args.force || is_definition(object);
    match patched(client, object, &params(args.dry_run, force)).await {
        Ok(_) if args.dry_run => tell!("{what} would be applied"),
        Ok(live) => {
            let api = cluster::api_of(client, object)?;
            last_applied::keep(&api, object, &live).await?;
            tell!("{what} applied");
        }
        // On a fresh cluster a dry run makes no namespace, so nothing can be tried in it.
        Err(error)
            if args.dry_run
                && object.metadata.namespace.is_some()
                && cluster::refusal(&error) == Some(404) =>
        {
            tell!("{what} (not tried: its namespace is not there yet)");
        }
        Err(error) => return Err(error),
    }
    Ok(())
}

/// The Mesh with which an installation starts. It writes no field that it need not, so that no later manager has a conflict.
fn first_mesh(observe: bool) -> Result<DynamicObject> {
    let mut mesh = manifests::mesh()?;
    let spec = mesh.data.pointer_mut("/spec");
    *spec.context("config/samples/mesh.yaml has no spec")? = match observe {
        true => json!({"mode": MeshMode::Observe}),
        false => json!({}),
    };
    Ok(mesh)
}

/// Fails if there is a Mesh with another mode than Observe: it belongs to the user, and its policies may be relied on.
async fn observes(client: &Client) -> Result<()> {
    let mesh = manifests::mesh()?;
    let what = cluster::describe(&mesh);
    let name = mesh.metadata.name.as_deref().unwrap_or_default();
    let api = cluster::api_of(client, &mesh)?;
    let Some(found) = cluster::find(&format!("get {what}"), api.get(name)).await? else {
        return Ok(());
    };
    let mode = found.data.pointer("/spec/mode").and_then(Value::as_str);
    if mode == Some("Observe") {
        return Ok(());
    }
    bail!(
        "nothing was changed: {what} exists, and its mode is {} and not Observe; leave --observe out, or run kubectl patch mesh {name} --type merge -p '{{\"spec\":{{\"mode\":\"Observe\"}}}}'",
        mode.unwrap_or("the default")
    )
}

/// Creates the Mesh if there is none, so that `kubectl get mesh` shows the settings. An existing one belongs to the user.
async fn default_mesh(client: &Client, args: &InstallArgs) -> Result<()> {
    let mesh = first_mesh(args.observe)?;
    let what = cluster::describe(&mesh);
    if args.dry_run {
        tell!("{what} would be created if it is not there");
        return Ok(());
    }
    let name = mesh.metadata.name.as_deref().unwrap_or_default();
    let api = cluster::api_of(client, &mesh)?;
    if cluster::find(&format!("get {what}"), api.get(name))
        .await?
        .is_some()
    {
        return Ok(());
    }
    let live = patched(client, &mesh, &params(false, false)).await?;
    last_applied::keep(&api, &mesh, &live).await?;
    if args.observe {
        tell!("{what} created: mode Observe, every other setting has its default");
    } else {
        tell!("{what} created: every setting has its default");
    }
    Ok(())
}

async fn established(client: &Client, object: &DynamicObject) -> Result<()> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let name = object
        .metadata
        .name
        .as_deref()
        .context("a CustomResourceDefinition without a name")?;
    let wait = await_condition(api, name, conditions::is_crd_established());
    let outcome = tokio::time::timeout(CRD_TIMEOUT, wait).await;
    outcome.with_context(|| {
        format!(
            "the API server does not serve {name} after {} s",
            CRD_TIMEOUT.as_secs()
        )
    })??;
    Ok(())
}

async fn rolled_out(client: &Client, timeout: Duration) -> Result<()> {
    let api: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
    let wait = await_condition(api, "heddle-operator", |deployment: Option<&Deployment>| {
        deployment.is_some_and(is_rolled_out)
    });
    let outcome = tokio::time::timeout(timeout, wait).await;
    outcome.with_context(|| {
        format!(
            "the control plane is not ready after {} s; run kubectl -n {NAMESPACE} describe pods",
            timeout.as_secs()
        )
    })??;
    tell!("the control plane is ready");
    Ok(())
}

/// Every replica is of the newest generation and available.
fn is_rolled_out(deployment: &Deployment) -> bool {
    let wanted = deployment
        .spec
        .as_ref()
        .and_then(|spec| spec.replicas)
        .unwrap_or(1);
    deployment.status.as_ref().is_some_and(|status| {
        status.observed_generation >= deployment.metadata.generation
            && status.updated_replicas.unwrap_or(0) >= wanted
            && status.available_replicas.unwrap_or(0) >= wanted
            && status.replicas.unwrap_or(0) <= wanted
    })
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use axum::Router;
    use axum::http::StatusCode;
    use axum::response::{IntoResponse, Json};
    use axum::routing::get;
    use heddle_identity::Ca;

    use super::*;

    /// A cluster with or without a root, and with the pods of an earlier mesh.
    fn client(root: Option<Value>, pods: Value) -> Client {
        let root = move || async move {
            let status = json!({"kind": "Status", "status": "Failure", "code": 404, "message": ""});
            match root {
                Some(root) => Json(root).into_response(),
                None => (StatusCode::NOT_FOUND, Json(status)).into_response(),
            }
        };
        let pods = move || async move {
            Json(json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": pods}))
        };
        let secret = format!(
            "/api/v1/namespaces/{NAMESPACE}/secrets/{}",
            crate::ca::SECRET
        );
        let routes = Router::new().route(&secret, get(root));
        Client::new(routes.route("/api/v1/pods", get(pods)), "default")
    }

    fn pod(name: &str, bundle: &str, phase: &str) -> Value {
        let env = json!([{"name": "HEDDLE_TRUST_BUNDLE", "value": bundle}]);
        json!({
            "metadata": {"namespace": "shop", "name": name}, "status": {"phase": phase},
            "spec": {"containers": [{"name": "app"}], "initContainers": [{"name": "heddle-proxy", "env": env}]},
        })
    }

    #[tokio::test]
    async fn pods_of_an_earlier_mesh_are_named_only_where_its_root_is_lost() {
        let (ca, _) = Ca::create(&"a".parse().unwrap(), SystemTime::now()).unwrap();
        let bundle = ca.trust_bundle();
        let unmeshed =
            json!({"metadata": {"namespace": "shop", "name": "plain"}, "spec": {"containers": []}});
        let pods = json!([
            pod("web", bundle, "Running"),
            pod("cart", bundle, "Pending"),
            pod("job", bundle, "Succeeded"),
            unmeshed,
        ]);
        let lost = remains(&client(None, pods.clone())).await.unwrap();
        assert_eq!(lost, ["shop/cart", "shop/web"]);
        let root =
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": crate::ca::SECRET}});
        let kept = remains(&client(Some(root), pods)).await.unwrap();
        assert_eq!(kept, Vec::<String>::new());
        assert_eq!(
            remains(&client(None, json!([]))).await.unwrap(),
            Vec::<String>::new()
        );
    }

    #[tokio::test]
    async fn an_installation_that_observes_leaves_a_mesh_with_another_mode() {
        let path = "/apis/heddle.dev/v1alpha1/meshes/default";
        let with = |spec: Value| {
            let mesh = json!({"apiVersion": "heddle.dev/v1alpha1", "kind": "Mesh", "metadata": {"name": "default"}, "spec": spec});
            let answer = move || async move { Json(mesh) };
            Client::new(Router::new().route(path, get(answer)), "default")
        };
        observes(&with(json!({"mode": "Observe"}))).await.unwrap();
        let refused = observes(&with(json!({"mode": "Strict"}))).await;
        let refused = refused.unwrap_err().to_string();
        assert!(refused.starts_with("nothing was changed: "), "{refused}");
        assert!(refused.contains("its mode is Strict"), "{refused}");
        assert_eq!(first_mesh(true).unwrap().data["spec"]["mode"], "Observe");
        assert_eq!(first_mesh(false).unwrap().data["spec"], json!({}));
    }
}
