//! `heddle uninstall`: takes everything away again, and works with the control plane already gone.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use heddle_crds::{Certificates, HumanDuration};
use kube::Client;
use kube::api::{DeleteParams, DynamicObject};
use serde::Deserialize as _;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::check;
use crate::cluster::{self, ClusterArgs};
use crate::findings::plural;
use crate::manifests;
use crate::out::tell;

/// Between two checks of the remaining objects.
const POLL: Duration = Duration::from_millis(500);
/// So many pods are named.
const NAMED: usize = 10;

/// Options of `heddle uninstall`.
#[derive(Args, Debug)]
pub struct UninstallArgs {
    /// Leave the API definitions, and with them all Mesh, TrafficSplit, TrafficPolicy, AuthPolicy and Telemetry objects.
    #[arg(long)]
    keep_crds: bool,
    /// Confirms that pods with a sidecar lose the control plane.
    #[arg(long)]
    yes: bool,
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
///
/// # Errors
/// Pods have a sidecar, or are not known, and `--yes` was not given; the API server does not answer or refuses a deletion; or an object is
/// still there after the timeout.
pub async fn run(args: &UninstallArgs) -> Result<()> {
    let objects = plan(args.keep_crds)?;
    if args.dry_run {
        for object in &objects {
            tell!("{} would be deleted", cluster::describe(object));
        }
        return Ok(());
    }
    let client = args.cluster.client().await?;
    let remaining = confirmed(&client, args).await?;
    let deadline = Instant::now() + Duration::from_secs(args.timeout);
    for object in &objects {
        delete(&client, object, deadline).await?;
    }
    match &remaining {
        None => tell!("uninstalled"),
        Some(of) => tell!(
            "uninstalled; {} with a sidecar remain, with their last configuration; restart them before {}",
            plural(of.pods.len(), "pod"),
            of.last_end
        ),
    }
    if !args.keep_crds {
        tell!("namespaces keep their label heddle.dev/inject: it is yours");
    }
    Ok(())
}

/// The pods with a sidecar that the control plane leaves behind.
struct Remaining {
    pods: Vec<String>,
    /// The longest life of their certificates.
    lifetime: HumanDuration,
    /// The time at which the last of them has ended.
    last_end: String,
}

/// The pods with a sidecar, which lose the control plane. None: there are none, or with `--yes` they are not known.
///
/// # Errors
/// There are some, or they are not known, and `--yes` was not given.
async fn confirmed(client: &Client, args: &UninstallArgs) -> Result<Option<Remaining>> {
    let remaining = match Remaining::of(client).await {
        Err(error) if args.yes => {
            let error = cluster::explain(&error);
            crate::out::note!("heddle: the pods with a sidecar are not known: {error}");
            None
        }
        remaining => remaining.context(
            "the pods with a sidecar are not known, so nothing was deleted; mend the cause, or add --yes",
        )?,
    };
    if let Some(remaining) = &remaining {
        for line in remaining.warning(args.keep_crds) {
            tell!("{line}");
        }
        ensure!(
            args.yes,
            "nothing was deleted: {} with a sidecar would lose the control plane; restart them without a sidecar first, or add --yes",
            plural(remaining.pods.len(), "pod")
        );
    }
    Ok(remaining)
}

impl Remaining {
    async fn of(client: &Client) -> Result<Option<Self>> {
        let pods = check::strangers(client, None).await?;
        if pods.is_empty() {
            return Ok(None);
        }
        let meshes = cluster::list(client, heddle_crds::API_VERSION, "Mesh", None).await?;
        let named =
            |mesh: &&DynamicObject| mesh.metadata.name.as_deref() == Some(heddle_crds::MESH_NAME);
        let mesh = meshes.iter().find(named);
        let written = mesh.and_then(|mesh| mesh.data.pointer("/spec/certificates"));
        let written = written.and_then(|of| Certificates::deserialize(of).ok());
        let lifetime = written.unwrap_or_default().lifetime;
        // A certificate may have been issued just now.
        let longest = time::Duration::try_from(lifetime.get()).unwrap_or(time::Duration::MAX);
        let last_end = OffsetDateTime::now_utc().saturating_add(longest);
        let last_end = last_end.replace_nanosecond(0)?.format(&Rfc3339)?;
        Ok(Some(Self {
            pods,
            lifetime,
            last_end,
        }))
    }

    /// The effects on the pods, and the way without them.
    fn warning(&self, keep_crds: bool) -> Vec<String> {
        let named: Vec<&str> = self.pods.iter().take(NAMED).map(String::as_str).collect();
        let more = match self.pods.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let objects = match keep_crds {
            true => "",
            false => {
                ", and so are the Mesh and all AuthPolicies, splits, routes and other objects of heddle.dev"
            }
        };
        vec![
            format!(
                "{} with a sidecar lose the control plane: {}{more}",
                plural(self.pods.len(), "pod"),
                named.join(", ")
            ),
            format!(
                "  their certificates are not renewed: each ends within {} (spec.certificates.lifetime), the last at {}; from then on every call \
                 between them by mutual TLS fails",
                self.lifetime, self.last_end
            ),
            "  a sidecar whose container restarts gets no certificate, and its pod no traffic; a pod that is made again has no sidecar, and ports \
             with the mode Strict refuse it"
                .to_owned(),
            format!(
                "  the root and its key are deleted{objects}; to keep the root: heddle ca backup FILE"
            ),
            "  to lose no call, set spec.mode of the Mesh to Permissive first (Observe, if AuthPolicies demand mutual TLS or identities), take \
             the label heddle.dev/inject from the namespaces, and restart these pods (kubectl rollout restart); then uninstall"
                .to_owned(),
        ]
    }
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
                "{what} is still there{}; run heddle uninstall again, or look at its status",
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
    use serde_json::{Value, json};

    use super::*;
    use crate::cluster::{NAMESPACE, WEBHOOK};
    use crate::fake::{Server, pods};

    const PODS: &str = "/api/v1/pods";
    const MESHES: &str = "/apis/heddle.dev/v1alpha1/meshes";

    fn args(yes: bool) -> UninstallArgs {
        UninstallArgs {
            keep_crds: false,
            yes,
            dry_run: false,
            timeout: 60,
            cluster: ClusterArgs { context: None },
        }
    }

    /// A pod with a sidecar.
    fn pod(number: usize) -> Value {
        let root = heddle_identity::Ca::create(&"a".parse().unwrap(), std::time::SystemTime::now());
        let env = json!([{"name": "HEDDLE_TRUST_BUNDLE", "value": root.unwrap().0.trust_bundle()}]);
        json!({
            "metadata": {"namespace": "shop", "name": format!("cart-{number}")},
            "spec": {"containers": [{"name": "app"}], "initContainers": [{"name": "heddle-proxy", "env": env}]},
        })
    }

    #[tokio::test]
    async fn pods_with_a_sidecar_need_a_confirmation() {
        let mesh =
            json!({"metadata": {"name": "default"}, "spec": {"certificates": {"lifetime": "1h"}}});
        let meshes = json!({"kind": "MeshList", "apiVersion": "heddle.dev/v1alpha1", "metadata": {}, "items": [mesh]});
        let all: Vec<Value> = (0..12).map(pod).collect();
        let server = Server::with([(PODS, pods(&all)), (MESHES, meshes)]);
        let client = server.client();
        let refused = confirmed(&client, &args(false)).await;
        let refused = refused.err().unwrap().to_string();
        assert!(
            refused.starts_with("nothing was deleted: 12 pods "),
            "{refused}"
        );
        assert!(refused.ends_with("or add --yes"), "{refused}");
        let remaining = confirmed(&client, &args(true)).await.unwrap().unwrap();
        let warning = remaining.warning(false).join("\n");
        for part in [
            "shop/cart-0, ",
            " and 2 more\n",
            "within 1h ",
            &remaining.last_end,
            "Permissive",
            "heddle ca backup",
            "AuthPolicies,",
        ] {
            assert!(warning.contains(part), "no {part:?} in {warning}");
        }
        let kept = remaining.warning(true).join("\n");
        assert!(!kept.contains("AuthPolicies,"), "{kept}");

        // Without a Mesh the lifetime is that of the default.
        let server = Server::with([(PODS, pods(&[pod(1)]))]);
        let remaining = confirmed(&server.client(), &args(true)).await.unwrap();
        assert_eq!(remaining.unwrap().lifetime, HumanDuration::hours(24));
    }

    #[tokio::test]
    async fn without_a_sidecar_nothing_is_to_confirm_and_unknown_pods_are() {
        let plain =
            json!({"metadata": {"namespace": "shop", "name": "a"}, "spec": {"containers": []}});
        let server = Server::with([(PODS, pods(&[plain]))]);
        let none = confirmed(&server.client(), &args(false)).await.unwrap();
        assert!(none.is_none());
        let unknown = Server::default().client();
        assert!(confirmed(&unknown, &args(false)).await.is_err());
        assert!(confirmed(&unknown, &args(true)).await.unwrap().is_none());
    }

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

    /// The root and its ConfigMap go with their namespace. A webhook with the CA bundle of before would make the next control plane wait
    /// for the lost root.
    #[tokio::test]
    async fn nothing_remembers_the_root_of_a_mesh_after_its_uninstallation() {
        let domain = "cluster.local".parse().unwrap();
        let (root, _) = heddle_identity::Ca::create(&domain, std::time::SystemTime::now()).unwrap();
        let bundle = k8s_openapi::ByteString(root.trust_bundle().as_bytes().to_vec());
        let webhooks = [json!({"name": "inject.heddle.dev", "clientConfig": {"caBundle": bundle}})];
        let webhook = json!({"metadata": {"name": WEBHOOK}, "webhooks": webhooks});
        let webhook_path = format!(
            "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/{WEBHOOK}"
        );
        let namespace = json!({"metadata": {"name": NAMESPACE}});
        let namespace_path = format!("/api/v1/namespaces/{NAMESPACE}");
        for keep_crds in [false, true] {
            let objects = [
                (&*webhook_path, webhook.clone()),
                (&*namespace_path, namespace.clone()),
            ];
            let server = Server::with(objects);
            let client = server.client();
            let known = crate::ca::remembered(&client).await.unwrap();
            assert_eq!(known.as_deref(), Some(root.fingerprint()));
            let deadline = Instant::now() + Duration::from_secs(60);
            for object in plan(keep_crds).unwrap() {
                delete(&client, &object, deadline).await.unwrap();
            }
            assert_eq!(crate::ca::remembered(&client).await.unwrap(), None);
            assert_eq!(server.paths(), [""; 0]);
        }
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
