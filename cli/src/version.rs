//! `heddle version`: the versions of this program and of the control plane.

use anyhow::Result;
use clap::Args;
use k8s_openapi::api::apps::v1::Deployment;
use kube::{Api, Client};

use crate::cluster::{self, ClusterArgs, NAMESPACE};
use crate::out::tell;

/// Options of `heddle version`.
#[derive(Args, Debug)]
pub struct VersionArgs {
    /// Only this program; no cluster is asked.
    #[arg(long)]
    client: bool,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Runs the command.
///
/// # Errors
/// Never: an unreachable cluster is a line of the output.
pub async fn run(args: &VersionArgs) -> Result<()> {
    tell!("heddle {}", env!("CARGO_PKG_VERSION"));
    if !args.client {
        let images = match args.cluster.client().await {
            Ok(client) => images(&client).await,
            Err(error) => Err(error),
        };
        match images {
            Ok(images) => tell!("control plane: {images}"),
            Err(error) => tell!("control plane: unknown ({})", cluster::explain(&error)),
        }
    }
    Ok(())
}

/// The images of the control plane's Deployment.
///
/// # Errors
/// The API server does not answer, or refuses the Deployment.
pub async fn images(client: &Client) -> Result<String> {
    let api: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
    let found = cluster::find("get the Deployment", api.get("heddle-operator")).await?;
    let pod = found.and_then(|deployment| deployment.spec?.template.spec);
    let Some(pod) = pod else {
        return Ok("not installed".to_owned());
    };
    let images = pod.containers.into_iter().filter_map(|c| c.image);
    Ok(images.collect::<Vec<_>>().join(", "))
}
