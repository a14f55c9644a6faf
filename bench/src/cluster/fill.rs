//! Fills an API server with a mesh, by as many calls at a time as it takes.

use anyhow::Result;
use futures::{StreamExt, TryStreamExt, stream};

use super::Api;
use super::api::{core, group};
use crate::mesh::{Mesh, PODS, namespace_of, pod_name};
use crate::objects::{self, Ready};

/// More do not make a small machine faster.
const AT_ONCE: usize = 48;
/// Services between two lines of progress.
const SAY: usize = 500;

/// Writes everything.
///
/// # Errors
/// When the API server refuses an object.
pub async fn fill(api: &Api, mesh: Mesh) -> Result<()> {
    api.create("/api/v1/nodes", &objects::node()).await?;
    stream::iter(0..mesh.namespaces())
        .map(async |number| {
            let namespace = objects::namespace_object(number);
            api.create("/api/v1/namespaces", &namespace).await
        })
        .buffer_unordered(AT_ONCE)
        .try_for_each(async |_| Ok(()))
        .await?;
    let mut done = 0;
    let mut services = stream::iter(0..mesh.services())
        .map(|service| one(api, service))
        .buffer_unordered(AT_ONCE);
    while let Some(written) = services.next().await {
        written?;
        done += 1;
        if done % SAY == 0 {
            eprintln!("fill: {done} of {} services", mesh.services());
        }
    }
    Ok(())
}

/// A service with its endpoints and pods.
async fn one(api: &Api, service: usize) -> Result<()> {
    let namespace = namespace_of(service);
    let within = |plural| core(&namespace, plural);
    let account = objects::service_account(service);
    api.create(&within("serviceaccounts"), &account).await?;
    api.create(&within("services"), &objects::service(service))
        .await?;
    let slices = group("discovery.k8s.io/v1", &namespace, "endpointslices");
    api.create(&slices, &objects::slice(service, Ready::all()))
        .await?;
    for index in 0..PODS {
        let pods = within("pods");
        let pod = objects::pod(service, index);
        api.create(&pods, &pod).await?;
        let path = format!("{pods}/{}/status", pod_name(service, index));
        api.patch(&path, &objects::pod_status(service, index))
            .await?;
    }
    Ok(())
}
