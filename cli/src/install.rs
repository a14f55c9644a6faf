//! `heddle install`: prints or applies what the control plane needs.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::runtime::wait::{await_condition, conditions};
use kube::{Api, Client};

use crate::cluster::{self, ClusterArgs, NAMESPACE};
use crate::manifests;
use crate::out::say;

/// Our own name in `managedFields`; what the operator writes later (the webhook's `caBundle`) is not ours, and is left alone.
const FIELD_MANAGER: &str = "heddle-cli";
const CRD_TIMEOUT: Duration = Duration::from_secs(30);

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
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Runs the command.
pub async fn run(args: &InstallArgs) -> Result<()> {
    let objects = manifests::all()?;
    if !args.apply {
        crate::out::text(format_args!("{}", manifests::print(&objects)?));
        return Ok(());
    }
    let client = args.cluster.client().await?;
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
    for object in &rest {
        if args.dry_run && is_ours(object) {
            say!(
                "{} (its kind is not installed by a dry run, so it was not tried)",
                cluster::describe(object)
            );
            continue;
        }
        apply(&client, object, args).await?;
    }
    if args.wait {
        rolled_out(&client, Duration::from_secs(args.timeout)).await?;
    }
    Ok(())
}

fn is_crd(object: &DynamicObject) -> bool {
    object
        .types
        .as_ref()
        .is_some_and(|types| types.kind == "CustomResourceDefinition")
}

fn is_ours(object: &DynamicObject) -> bool {
    object
        .types
        .as_ref()
        .is_some_and(|types| types.api_version == heddle_crds::API_VERSION)
}

async fn apply(client: &Client, object: &DynamicObject, args: &InstallArgs) -> Result<()> {
    let what = format!("apply {}", cluster::describe(object));
    let name = object
        .metadata
        .name
        .as_deref()
        .context("an object without a name in config/")?;
    let params = PatchParams {
        dry_run: args.dry_run,
        force: args.force,
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    let api = cluster::api_of(client, object)?;
    let patch = Patch::Apply(object);
    let outcome = cluster::call(&what, api.patch(name, &params, &patch)).await;
    match outcome {
        Ok(_) => say!(
            "{} {}",
            cluster::describe(object),
            if args.dry_run {
                "would be applied"
            } else {
                "applied"
            }
        ),
        // On a fresh cluster a dry run makes no namespace, so nothing can be tried in it.
        Err(error)
            if args.dry_run
                && object.metadata.namespace.is_some()
                && cluster::refusal(&error) == Some(404) =>
        {
            say!(
                "{} (not tried: its namespace is not there yet)",
                cluster::describe(object)
            );
        }
        Err(error) if cluster::refusal(&error) == Some(409) => bail!(
            "{} (fix: --force takes the fields over)",
            cluster::explain(&error)
        ),
        Err(error) => return Err(error),
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
            "the control plane is not ready after {} s (fix: kubectl -n {NAMESPACE} describe pods)",
            timeout.as_secs()
        )
    })??;
    say!("the control plane is ready");
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
