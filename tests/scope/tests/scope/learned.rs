//! The next pod of a workload starts with the destinations that the first one learned.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use heddle_scope_tests::{Mesh, Pod, PodSpec, Service, eventually, port, scope};

/// A new pod of the workload has the destinations before it has called anybody.
async fn starts_warm(mesh: &mut Mesh, name: &str, learned: &[SocketAddr]) -> Result<Pod> {
    let pod = mesh.pod(PodSpec::new(name)).await?;
    let (_, took) = eventually(
        &format!("{name} has what its workload learned"),
        async || {
            let listeners = pod.envoy.listeners().await?;
            let missing = learned
                .iter()
                .find(|to| !listeners.contains(&format!("dst|{to}")));
            ensure!(
                missing.is_none(),
                "no listener for {missing:?}: {listeners:?}"
            );
            Ok(())
        },
    )
    .await?;
    println!("{name} had all {took:?} after it was ready");
    ensure!(pod.envoy.fetched().await? == 0, "it has called before");
    Ok(pod)
}

async fn calls(pod: &Pod, http: SocketAddr, banner: SocketAddr) -> Result<()> {
    let answer = pod.client.call(http).await?;
    ensure!(
        answer.app == "server-1" && answer.peer.ends_with("/sa/client"),
        "{answer:?}"
    );
    ensure!(pod.client.banner(banner).await? == "server-1");
    Ok(())
}

#[test]
fn the_next_pod_of_a_workload_starts_warm() -> Result<()> {
    scope(async |mesh| {
        let server = mesh.pod(PodSpec::new("server-1")).await?;
        mesh.world.service(Service::new("server"));
        mesh.write()?;
        let one = mesh.pod(PodSpec::new("client-1")).await?;
        mesh.settled(&one.client).await?;
        let (http, banner, pod) = (
            mesh.at("server", 80)?,
            mesh.at("server", port::BANNER)?,
            server.at(port::HTTP)?,
        );
        calls(&one, http, banner).await?;
        one.client.call(pod).await?;
        let learned = [http, banner, pod];

        let two = starts_warm(mesh, "client-2", &learned).await?;
        calls(&two, http, banner).await?;
        ensure!(
            two.envoy.fetched().await? == 0,
            "the first call was fetched"
        );
        // Destinations that the one learns later reach the other too; another workload does not count.
        let later = mesh.at("server", port::ECHO)?;
        two.client.echo(later).await?;
        eventually("the first pod gets it", async || {
            let listeners = one.envoy.listeners().await?;
            ensure!(listeners.contains(&format!("dst|{later}")), "{listeners:?}");
            Ok(())
        })
        .await?;
        let other = mesh.pod(PodSpec::new("other-1")).await?;
        mesh.settled(&other.client).await?;
        let listeners = other.envoy.listeners().await?;
        ensure!(!listeners.contains(&format!("dst|{http}")), "{listeners:?}");

        mesh.delete(one)?;
        let three = starts_warm(mesh, "client-3", &learned).await?;
        calls(&three, http, banner).await?;

        // Scaled to zero, long enough for the control plane to see it.
        mesh.delete(two)?;
        mesh.delete(three)?;
        mesh.settled(&other.client).await?;
        let four = starts_warm(mesh, "client-4", &learned).await?;
        calls(&four, http, banner).await?;

        mesh.delete(four)?;
        mesh.settled(&other.client).await?;
        mesh.kill_control_plane();
        mesh.start_control_plane().await?;
        mesh.settled(&other.client).await?;
        let five = starts_warm(mesh, "client-5", &learned).await?;
        calls(&five, http, banner).await
    })
}
