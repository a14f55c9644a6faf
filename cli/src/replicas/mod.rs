//! The replicas of the control plane, each asked by itself: through the API server to its admin port.

mod admin;
mod session;
mod token;

use std::future::Future;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use heddle_acceptor::clean;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, Portforwarder};
use kube::{Api, Client, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;

use admin::Trust;
pub use session::{Failure, Session};
use token::Token;

use crate::cluster::{self, ClusterArgs, NAMESPACE, WEBHOOK};

/// The longest reason of a replica, in characters.
const MAX_REASON: usize = 1000;
/// May read how the sidecars stand, and nothing else.
const READER: &str = "heddle-proxy-reader";
/// The port of the control plane for metrics, proxy states and traffic.
const PORT: u16 = 15014;
/// The labels of the pods of the control plane.
pub const REPLICAS: &str = "app.kubernetes.io/name=heddle,app.kubernetes.io/component=operator";
/// For one replica, from the port-forward to the last byte.
const TIMEOUT: Duration = Duration::from_secs(15);
/// The message of the kubelet comes beside the broken connection, in no order.
const AFTERWORD: Duration = Duration::from_secs(1);

/// The answer of one replica.
#[derive(Debug)]
pub struct Replica<T> {
    /// Its pod.
    pub name: String,
    /// The answer, or why it could not be asked.
    pub answer: Result<T, String>,
}

/// Whether a replica was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Asked {
    /// Its pod.
    pub replica: String,
    /// Why it could not be asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Returns the replicas that could not be asked, each with the reason, fit for a terminal.
pub fn unasked(replicas: &[Asked]) -> Vec<String> {
    let unasked = replicas.iter().filter_map(|asked| {
        let reason = format!("{}: {}", asked.replica, asked.error.as_ref()?);
        Some(clean(&reason, MAX_REASON))
    });
    unasked.collect()
}

/// Asks all replicas at once for the JSON at a path. One that fails is part of the answer.
///
/// # Errors
/// The replicas cannot be listed, none is running, or the root or a token for the caller cannot be had.
pub async fn ask_all<T: DeserializeOwned>(
    args: &ClusterArgs,
    path: &str,
) -> Result<Vec<Replica<T>>> {
    let read = |bytes: Bytes| {
        let read = serde_json::from_slice(&bytes);
        read.map_err(|error| {
            format!("its answer cannot be read: it may be of another version: {error}")
        })
    };
    let all = read_all(args, path).await?.into_iter();
    let all = all.map(|replica| Replica {
        name: replica.name,
        answer: replica.answer.and_then(read),
    });
    Ok(all.collect())
}

/// Asks all replicas at once for the bytes at a path. One that fails is part of the answer.
///
/// # Errors
/// The replicas cannot be listed, none is running, or the root or a token for the caller cannot be had.
pub async fn read_all(args: &ClusterArgs, path: &str) -> Result<Vec<Replica<Bytes>>> {
    let way = Way::of(args, READER).await?;
    let running = way.running().await?;
    if running.is_empty() {
        bail!("no replica of the control plane is running; run heddle check");
    }
    let mut asking = JoinSet::new();
    for (name, ready) in running {
        let (way, path) = (way.clone(), path.to_owned());
        asking.spawn(async move {
            let answer = if ready {
                ask(&way, &name, &path).await
            } else {
                // It may still hold streams, so that without it the report is not whole.
                Err(anyhow::anyhow!("it is not ready"))
            };
            Replica {
                name,
                answer: answer.map_err(|error| cluster::explain(&error)),
            }
        });
    }
    let mut replicas = Vec::new();
    while let Some(asked) = asking.join_next().await {
        replicas.push(asked.context("asking a replica failed")?);
    }
    Ok(replicas)
}

async fn ask(way: &Way, pod: &str, path: &str) -> Result<Bytes> {
    let asking = async {
        let (mut forwarder, stream) = way.forward(pod).await?;
        let afterword = forwarder.take_error(PORT);
        let answer = admin::get(stream, &way.trust, &way.token, path).await;
        let answer = match (answer, afterword) {
            (Err(error), Some(afterword)) => {
                match tokio::time::timeout(AFTERWORD, afterword).await {
                    Ok(Some(output)) => Err(error.context(output)),
                    Ok(None) | Err(_) => Err(error),
                }
            }
            (answer, _) => answer,
        };
        forwarder.abort();
        answer
    };
    within(asking).await
}

/// The way to the replicas of a cluster, and the identity of the caller.
#[derive(Clone)]
pub struct Way {
    pods: Api<Pod>,
    trust: Trust,
    token: Token,
}

impl Way {
    /// The way for a caller; one without a token in the kubeconfig asks as a service account of the mesh.
    ///
    /// # Errors
    /// The kubeconfig is not usable, the webhook has no root yet, or the API server gives no token.
    pub async fn of(args: &ClusterArgs, account: &str) -> Result<Self> {
        let config = args.config().await?;
        let client = cluster::client_of(config.clone())?;
        Ok(Self {
            pods: Api::namespaced(client.clone(), NAMESPACE),
            trust: Trust::new(&roots(&client).await?)?,
            token: token::of_caller(&config, &client, account).await?,
        })
    }

    /// The running replicas, and whether each is ready.
    ///
    /// # Errors
    /// The API server does not answer, or refuses the list of pods.
    pub async fn running(&self) -> Result<Vec<(String, bool)>> {
        let params = ListParams::default().labels(REPLICAS);
        let all = self.pods.list(&params);
        let found = cluster::call("list the replicas of the control plane", all).await?;
        let running = found.items.iter().filter(|pod| is_running(pod));
        Ok(running.map(|pod| (pod.name_any(), is_ready(pod))).collect())
    }

    /// A connection to a replica, for questions one after the other.
    ///
    /// # Errors
    /// The API server refuses the port-forward, the replica has no certificate of the root, or there is no connection in time.
    pub async fn session(&self, pod: &str) -> Result<Session> {
        let connecting = async {
            let (forwarder, stream) = self.forward(pod).await?;
            let stream = self.trust.connect(stream).await?;
            let token = Some(self.token.clone());
            Session::new(stream, token, Some(forwarder)).await
        };
        within(connecting).await
    }

    async fn forward(
        &self,
        pod: &str,
    ) -> Result<(
        Portforwarder,
        impl AsyncRead + AsyncWrite + Unpin + Send + use<>,
    )> {
        let mut forwarder = self
            .pods
            .portforward(pod, &[PORT])
            .await
            .context("no port-forward to it (it takes the rights to `get` and `create` pods/portforward in heddle-system)")?;
        let stream = forwarder.take_stream(PORT).context("no stream to it")?;
        Ok((forwarder, stream))
    }
}

async fn within<T>(asking: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(TIMEOUT, asking)
        .await
        .unwrap_or_else(|_| bail!("no answer in {} s", TIMEOUT.as_secs()))
}

/// The roots of the mesh, in PEM.
///
/// # Errors
/// The webhook cannot be read, or has none yet.
pub async fn roots(client: &Client) -> Result<Vec<u8>> {
    let api: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    let webhook = cluster::call("read the root of the mesh", api.get(WEBHOOK)).await?;
    let bundle = webhook
        .webhooks
        .unwrap_or_default()
        .into_iter()
        .find_map(|webhook| webhook.client_config.ca_bundle);
    bundle
        .map(|bundle| bundle.0)
        .filter(|bundle| !bundle.is_empty())
        .with_context(|| format!("the webhook {WEBHOOK} has no CA bundle yet; run heddle check"))
}

fn is_running(pod: &Pod) -> bool {
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    phase == Some("Running")
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    conditions
        .filter(|condition| condition.type_ == "Ready")
        .any(|condition| condition.status == "True")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_running_pods_hold_streams_and_only_ready_ones_answer() {
        let pod = |phase: &str, ready: &str| -> Pod {
            let status = serde_json::json!({"phase": phase, "conditions": [{"type": "Initialized", "status": "True"}, {"type": "Ready", "status": ready}]});
            serde_json::from_value(serde_json::json!({"metadata": {"name": "p"}, "status": status}))
                .unwrap()
        };
        let what = |pod: &Pod| (is_running(pod), is_ready(pod));
        assert_eq!(what(&pod("Running", "True")), (true, true));
        assert_eq!(what(&pod("Running", "False")), (true, false));
        assert_eq!(what(&pod("Pending", "False")), (false, false));
        assert_eq!(what(&Pod::default()), (false, false));
    }
}
