//! `heddle uninstall`: takes everything away again, and works with the control plane already gone.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use kube::Client;
use kube::api::{DeleteParams, DynamicObject};

use crate::cluster::{self, ClusterArgs};
use crate::manifests;
use crate::out::tell;

/// Between two checks of the remaining objects.
const POLL: Duration = Duration::from_millis(500);

/// Options of `heddle uninstall`.
#[derive(Args, Debug)]
pub struct UninstallArgs {
    /// Leave the API definitions, and with them all Mesh, TrafficSplit, TrafficPolicy, AuthPolicy and Telemetry objects.
    #[arg(long)]
    keep_crds: bool,
    /// Only print the objects to delete.
    #[arg(long)]
    dry_run: bool,
    /// How long to wait for everything to be gone, in seconds.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    timeout: u64,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// The order of deletion: objects that could stop others first, namespaces last.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    /// With the webhook gone, pods can start although the control plane no longer answers it.
    Webhook,
    /// The control plane, which writes into the objects of the next stage.
    Workload,
    /// Takes the objects of our kinds along.
    Api,
    /// Takes along the CA's Secret, leases and the replicas' reports, which are in no manifest.
    Namespace,
    ClusterRoles,
}

/// Objects without a stage go with their namespace.
fn stage(kind: &str) -> Option<Stage> {
    match kind {
        "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration" => Some(Stage::Webhook),
        "Deployment" => Some(Stage::Workload),
        "CustomResourceDefinition" => Some(Stage::Api),
        "Namespace" => Some(Stage::Namespace),
        "ClusterRole" | "ClusterRoleBinding" => Some(Stage::ClusterRoles),
        _ => None,
    }
}

/// Runs the command.
pub async fn run(args: &UninstallArgs) -> Result<()> {
    let objects = plan(args.keep_crds)?;
    if args.dry_run {
        for object in &objects {
            tell!("{} would be deleted", cluster::describe(object));
        }
        return Ok(());
    }
    let client = args.cluster.client().await?;
    let deadline = Instant::now() + Duration::from_secs(args.timeout);
    for object in &objects {
        delete(&client, object, deadline).await?;
    }
    tell!(
        "uninstalled; running pods keep their sidecars and their last configuration until they restart"
    );
    if !args.keep_crds {
        tell!("namespaces keep their label heddle.dev/inject: it is yours");
    }
    Ok(())
}

fn plan(keep_crds: bool) -> Result<Vec<DynamicObject>> {
    let staged = manifests::all()?.into_iter().filter_map(|object| {
        let stage = stage(&object.types.as_ref()?.kind)?;
        (!(keep_crds && stage == Stage::Api)).then_some((stage, object))
    });
    let mut staged: Vec<_> = staged.collect();
    staged.sort_by_key(|(stage, _)| *stage);
    Ok(staged.into_iter().map(|(_, object)| object).collect())
}

async fn delete(client: &Client, object: &DynamicObject, deadline: Instant) -> Result<()> {
    let what = cluster::describe(object);
    let name = object
        .metadata
        .name
        .as_deref()
        .context("an object without a name in config/")?;
    let api = cluster::api_of(client, object)?;
    let verb = format!("delete {what}");
    // In the foreground: the Deployment is gone when its pods are.
    if cluster::find(&verb, api.delete(name, &DeleteParams::foreground()))
        .await?
        .is_none()
    {
        tell!("{what} is not there");
        return Ok(());
    }
    loop {
        let Some(left) = cluster::find(&verb, api.get(name)).await? else {
            tell!("{what} deleted");
            return Ok(());
        };
        if Instant::now() > deadline {
            bail!(
                "{what} is still there{} (fix: run heddle uninstall again, or look at its status)",
                why_left(&left)
            );
        }
        tokio::time::sleep(POLL).await;
    }
}

/// The reason, by the API server, for which an object is not deleted yet.
fn why_left(object: &DynamicObject) -> String {
    let finalizers = object.metadata.finalizers.clone().unwrap_or_default();
    let conditions = object
        .data
        .pointer("/status/conditions")
        .and_then(serde_json::Value::as_array);
    let messages = conditions
        .into_iter()
        .flatten()
        .filter(|c| c.get("status").and_then(|s| s.as_str()) == Some("True"));
    let mut reasons: Vec<String> = messages
        .filter_map(|c| c.get("message")?.as_str().map(str::to_owned))
        .collect();
    if !finalizers.is_empty() {
        reasons.push(format!("finalizers {}", finalizers.join(", ")));
    }
    if reasons.is_empty() {
        String::new()
    } else {
        format!(": {}", reasons.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(keep_crds: bool) -> Vec<String> {
        let mut kinds: Vec<String> = plan(keep_crds)
            .unwrap()
            .into_iter()
            .map(|o| o.types.unwrap().kind)
            .collect();
        kinds.dedup();
        kinds
    }

    #[test]
    fn the_webhook_goes_first_and_the_rights_last() {
        let kinds = kinds(false);
        assert_eq!(
            kinds.first().map(String::as_str),
            Some("MutatingWebhookConfiguration")
        );
        let at = |kind: &str| kinds.iter().position(|k| k == kind).unwrap();
        assert!(at("Deployment") < at("CustomResourceDefinition"));
        assert!(at("CustomResourceDefinition") < at("Namespace"));
        assert!(at("Namespace") < at("ClusterRole"));
    }

    #[test]
    fn keep_crds_keeps_the_api() {
        assert!(!kinds(true).contains(&"CustomResourceDefinition".to_owned()));
    }

    #[test]
    fn nothing_of_the_installation_is_forgotten() {
        for object in manifests::all().unwrap() {
            let kind = object.types.unwrap().kind;
            let goes_along = object.metadata.namespace.is_some() || kind == "Mesh";
            assert!(
                stage(&kind).is_some() || goes_along,
                "{kind} would be left behind"
            );
        }
    }
}
