//! Where no rule could ever admit a caller, its sidecar does not hold the destination.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use heddle_scope_tests::{Mesh, Pod, PodSpec, Service, eventually, port, scope};

async fn holds(pod: &Pod, app: &str) -> Result<bool> {
    let clusters = pod.envoy.clusters().await?;
    Ok(clusters
        .iter()
        .any(|name| name.starts_with(&format!("out|shop/{app}|"))))
}

/// HTTP gets 403 and bytes get nothing.
async fn is_refused(pod: &Pod, app: &str, http: SocketAddr, echo: SocketAddr) -> Result<()> {
    let (_, denied) = eventually(&format!("{app} denies requests"), async || {
        let status = pod.client.status(http).await?;
        ensure!(status == 403, "status {status}");
        Ok(())
    })
    .await?;
    let (_, closed) = eventually(&format!("{app} takes no bytes"), async || {
        ensure!(pod.client.echo(echo).await.is_err(), "bytes pass");
        Ok(())
    })
    .await?;
    println!(
        "{app} denied requests of {} after {denied:?}, and took no bytes after {closed:?} more",
        pod.spec.name
    );
    Ok(())
}

/// And once Envoy has drained the old listeners, the sidecar does not hold the destination.
async fn is_left_out(pod: &Pod, app: &str, http: SocketAddr, echo: SocketAddr) -> Result<()> {
    is_refused(pod, app, http, echo).await?;
    let (_, gone) = eventually(&format!("{app} is left out"), async || {
        ensure!(!holds(pod, app).await?, "{:?}", pod.envoy.clusters().await?);
        Ok(())
    })
    .await?;
    println!("{app} left {} after {gone:?} more", pod.spec.name);
    is_refused(pod, app, http, echo).await
}

async fn is_reached(pod: &Pod, app: &str, http: SocketAddr, echo: SocketAddr) -> Result<()> {
    let (_, took) = eventually(&format!("{app} is reached"), async || {
        let answer = pod.client.call(http).await?;
        ensure!(answer.app == format!("{app}-1"), "{answer:?}");
        pod.client.echo(echo).await
    })
    .await?;
    println!("{app} was reached by {} after {took:?}", pod.spec.name);
    Ok(())
}

async fn guarded(mesh: &mut Mesh) -> Result<[Pod; 3]> {
    let pods = [
        mesh.pod(PodSpec::new("client-1")).await?,
        mesh.pod(PodSpec::new("friend-1")).await?,
        mesh.pod(PodSpec::new("secret-1")).await?,
    ];
    mesh.world.service(Service::new("secret"));
    Ok(pods)
}

#[test]
fn unreachable_destinations_are_left_out() -> Result<()> {
    scope(async |mesh| {
        let [client, friend, _secret] = guarded(mesh).await?;
        mesh.world
            .allow("friends", "secret", &["friend"], "Enforce");
        mesh.write()?;
        mesh.settled(&client.client).await?;
        let (http, echo) = (mesh.at("secret", 80)?, mesh.at("secret", port::ECHO)?);
        // From the very first call on.
        let status = client.client.status(http).await?;
        ensure!(status == 403, "status {status}");
        ensure!(client.client.echo(echo).await.is_err(), "bytes pass");
        ensure!(
            !holds(&client, "secret").await?,
            "{:?}",
            client.envoy.clusters().await?
        );
        is_reached(&friend, "secret", http, echo).await?;

        mesh.world
            .allow("friends", "secret", &["friend", "client"], "Enforce");
        mesh.write()?;
        is_reached(&client, "secret", http, echo).await?;
        mesh.world
            .allow("friends", "secret", &["friend"], "Enforce");
        mesh.write()?;
        is_left_out(&client, "secret", http, echo).await?;
        is_reached(&friend, "secret", http, echo).await?;
        mesh.world.remove("AuthPolicy", "friends");
        mesh.write()?;
        is_reached(&client, "secret", http, echo).await
    })
}

#[test]
fn audit_leaves_nothing_out() -> Result<()> {
    scope(async |mesh| {
        let [client, _friend, _secret] = guarded(mesh).await?;
        mesh.world.allow("friends", "secret", &["friend"], "Audit");
        mesh.write()?;
        mesh.settled(&client.client).await?;
        let (http, echo) = (mesh.at("secret", 80)?, mesh.at("secret", port::ECHO)?);
        client.client.call(http).await?;
        client.client.echo(echo).await?;
        ensure!(holds(&client, "secret").await?);
        mesh.world
            .allow("friends", "secret", &["friend"], "Enforce");
        mesh.write()?;
        is_refused(&client, "secret", http, echo).await?;
        mesh.world.allow("friends", "secret", &["friend"], "Audit");
        mesh.write()?;
        is_reached(&client, "secret", http, echo).await
    })
}
