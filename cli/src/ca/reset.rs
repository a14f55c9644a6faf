//! `heddle ca reset`: gives up the root while no replica of the operator runs.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use super::{MEMORY, SECRET};
use crate::cluster::{self, NAMESPACE, WEBHOOK};
use crate::out::tell;
use crate::replicas;

const DEPLOYMENT: &str = "heddle-operator";
/// The annotation of the Deployment with its replicas while a reset has scaled it to 0: a reset that was interrupted is repeated with it.
const REPLICAS: &str = "heddle.dev/replicas-before-reset";
/// Between two looks at replicas that are ending.
const POLL: Duration = Duration::from_millis(500);

/// Makes the operator begin with a new root. At `stopped` it has its replicas again, with the root as it was.
///
/// # Errors
/// The root is left alone, or the API server does not answer. Then a repetition restores the replicas.
pub(super) async fn reset(
    client: &Client,
    timeout: Duration,
    stopped: impl Future<Output = ()>,
) -> Result<()> {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
    let deployment = cluster::call("get the operator", deployments.get(DEPLOYMENT)).await?;
    let replicas = replicas(&deployment);
    // A running replica would put the old root back.
    scale(&deployments, 0, replicas).await?;
    let ended = tokio::select! {
        ended = ended(client, timeout) => ended,
        () = stopped => Err(anyhow!("the reset was stopped, so the root was left alone")),
    };
    let forgotten = match ended {
        Ok(()) => forget(client).await,
        Err(error) => Err(error),
    };
    scale(&deployments, replicas, replicas).await?;
    forgotten?;
    tell!("the root is given up; the operator makes a new one as it starts");
    tell!("now restart every pod of the mesh: `heddle check` names those that trust the old root");
    Ok(())
}

/// The replicas that the operator gets back: those of before the reset that left it without one.
fn replicas(deployment: &Deployment) -> i32 {
    let spec = deployment.spec.as_ref();
    match spec.and_then(|spec| spec.replicas).unwrap_or(1) {
        0 => {
            let annotations = deployment.metadata.annotations.as_ref();
            let kept = annotations.and_then(|all| all.get(REPLICAS)?.parse().ok());
            kept.unwrap_or(1).max(1)
        }
        some => some,
    }
}

/// Scales the operator. At 0 the Deployment keeps the replicas that it gets back, in one write with the scale.
async fn scale(deployments: &Api<Deployment>, to: i32, replicas: i32) -> Result<()> {
    let kept = (to == 0).then(|| replicas.to_string());
    let patch = Patch::Merge(json!({
        "metadata": {"annotations": {REPLICAS: kept}}, "spec": {"replicas": to},
    }));
    let params = PatchParams::default();
    let call = deployments.patch(DEPLOYMENT, &params, &patch);
    let scaled = cluster::call("scale the operator", call).await;
    scaled.with_context(|| {
        format!(
            "deployment/{DEPLOYMENT} may be without a replica; repeat heddle ca reset --yes, which scales it to {replicas} at its end, or \
             kubectl -n {NAMESPACE} scale deployment/{DEPLOYMENT} --replicas={replicas}"
        )
    })?;
    tell!("scaled deployment/{DEPLOYMENT} to {to}");
    Ok(())
}

async fn ended(client: &Client, timeout: Duration) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let params = ListParams::default().labels(replicas::REPLICAS);
    let deadline = Instant::now() + timeout;
    loop {
        let left = cluster::call("list the operator's pods", pods.list(&params)).await?;
        if left.items.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!(
                "{} replicas of the operator are still there after {} s, so the root was left alone",
                left.items.len(),
                timeout.as_secs()
            );
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Deletes the root and every memory of it.
async fn forget(client: &Client) -> Result<()> {
    let params = DeleteParams::default();
    let memory: Api<ConfigMap> = Api::namespaced(client.clone(), NAMESPACE);
    cluster::find("forget the root", memory.delete(MEMORY, &params)).await?;
    let webhooks: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    if let Some(present) = cluster::find("get the webhook", webhooks.get(WEBHOOK)).await? {
        let bundles: Vec<Value> = present
            .webhooks
            .iter()
            .flatten()
            .enumerate()
            .filter(|(_, webhook)| webhook.client_config.ca_bundle.is_some())
            .map(|(index, _)| json!({"op": "remove", "path": format!("/webhooks/{index}/clientConfig/caBundle")}))
            .collect();
        let patch: Patch<()> = Patch::Json(serde_json::from_value(Value::Array(bundles))?);
        let params = PatchParams::default();
        let call = webhooks.patch(WEBHOOK, &params, &patch);
        cluster::call("take the CA bundle from the webhook", call).await?;
    }
    cluster::find(
        "delete the root",
        super::secrets(client).delete(SECRET, &params),
    )
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;
    use crate::fake::{Server, pods};

    const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/heddle-system/deployments/heddle-operator";
    const PODS: &str = "/api/v1/namespaces/heddle-system/pods";
    const ROOT: &str = "/api/v1/namespaces/heddle-system/secrets/heddle-ca";
    const LONG: Duration = Duration::from_secs(600);

    /// A cluster with a root, and with so many replicas of the operator that do not end.
    fn cluster(replicas: i32) -> Server {
        Server::with([
            (
                DEPLOYMENTS,
                json!({"metadata": {"name": DEPLOYMENT}, "spec": {"replicas": replicas, "selector": {}, "template": {}}}),
            ),
            (PODS, pods(&[json!({"metadata": {"name": "operator-1"}})])),
            (ROOT, json!({"metadata": {"name": SECRET}})),
        ])
    }

    /// The replicas of the operator, and those that it gets back.
    fn scaled(server: &Server) -> (Option<i64>, Option<String>) {
        let deployment = server.get(DEPLOYMENTS).unwrap_or_default();
        let kept = deployment["metadata"]["annotations"][REPLICAS].as_str();
        (
            deployment["spec"]["replicas"].as_i64(),
            kept.map(str::to_owned),
        )
    }

    #[tokio::test]
    async fn a_stopped_reset_leaves_the_root_and_the_replicas_as_they_were() {
        let server = cluster(3);
        let stopped = reset(&server.client(), LONG, ready(())).await;
        let stopped = stopped.unwrap_err().to_string();
        assert!(stopped.starts_with("the reset was stopped"), "{stopped}");
        assert_eq!(scaled(&server), (Some(3), None));
        assert!(server.get(ROOT).is_some());
    }

    #[tokio::test]
    async fn a_repeated_reset_restores_the_replicas_of_before_the_first_one() {
        let server = cluster(3);
        let client = server.client();
        let lost = tokio::spawn(async move { reset(&client, LONG, pending()).await });
        while scaled(&server).0 != Some(0) {
            tokio::task::yield_now().await;
        }
        lost.abort();
        assert!(lost.await.is_err(), "it was waiting for the replicas");
        assert_eq!(scaled(&server), (Some(0), Some("3".to_owned())));
        server.set(PODS, pods(&[]));
        reset(&server.client(), LONG, pending()).await.unwrap();
        assert_eq!(scaled(&server), (Some(3), None));
        assert!(server.get(ROOT).is_none());
    }

    #[test]
    fn the_kept_number_counts_only_without_replicas() {
        let of = |replicas: i32, kept: &str| {
            let deployment = json!({"metadata": {"annotations": {REPLICAS: kept}},
                "spec": {"replicas": replicas, "selector": {}, "template": {}}});
            super::replicas(&serde_json::from_value(deployment).unwrap())
        };
        assert_eq!(of(5, "3"), 5);
        assert_eq!(of(0, "3"), 3);
        assert_eq!([of(0, "-1"), of(0, "many")], [1, 1]);
    }
}
