//! Unused destinations leave the scope.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use heddle_scope_tests::{Load, Mesh, Pod, PodSpec, Service, eventually, exchange, port, scope};
use serde_json::json;

/// Several times as long as a destination may be idle.
const LONG: Duration = Duration::from_secs(15);

async fn leaves(pod: &Pod, to: std::net::SocketAddr) -> Result<()> {
    let listener = format!("dst|{to}");
    let (_, took) = eventually(&format!("{listener} leaves"), async || {
        ensure!(
            !pod.envoy.listeners().await?.contains(&listener),
            "it is there"
        );
        Ok(())
    })
    .await?;
    println!("{listener} left after {took:?}");
    Ok(())
}

/// Destinations leave some seconds after their last use.
async fn forgetful(mesh: &mut Mesh) -> Result<()> {
    mesh.world.mesh(json!({"scope": {"idleAfter": "3s"}}));
    mesh.write()?;
    mesh.kill_control_plane();
    mesh.environment.push(("HEDDLE_LOAD_REPORT_SECONDS", "1"));
    mesh.start_control_plane().await
}

#[test]
fn the_unused_leaves_and_comes_back() -> Result<()> {
    scope(async |mesh| {
        forgetful(mesh).await?;
        // Before the pods: a service that declares the protocols of a running pod's ports changes its listener, which ends the
        // connections that the old one took.
        for name in ["server", "plain"] {
            mesh.world.service(Service::new(name));
        }
        let client = mesh.pod(PodSpec::new("client-1")).await?;
        let server = mesh.pod(PodSpec::new("server-1")).await?;
        let _plain = mesh.plain(PodSpec::plain("plain-1"))?;
        mesh.write()?;
        mesh.settled(&client.client).await?;
        let modified = server
            .envoy
            .sum("listener_manager.listener_modified")
            .await?;
        ensure!(modified == 0, "{modified} listeners of the server changed");
        let (idle, bytes) = (mesh.at("server", 80)?, mesh.at("server", port::BANNER)?);
        let (open, kept, used) = (
            mesh.at("server", port::ECHO)?,
            mesh.at("plain", 80)?,
            mesh.at("plain", 90)?,
        );

        let load = Load::start(&client.client, used, Duration::from_millis(300), |answer| {
            answer.app == "plain-1"
        });
        let mut connection = client.client.connect(open).await?;
        exchange(&mut connection, b"open").await?;
        let mut http = client.client.http(kept).await?;
        http.get("/", "app").await?;
        client.client.call(idle).await?;
        client.client.banner(bytes).await?;
        let start = Instant::now();

        for round in 0..2 {
            leaves(&client, idle).await?;
            leaves(&client, bytes).await?;
            let call = Instant::now();
            client.client.call(idle).await?;
            println!(
                "round {round}: the call after it had left took {:?}",
                call.elapsed()
            );
            ensure!(client.client.banner(bytes).await? == "server-1");
            let listeners = client.envoy.listeners().await?;
            for to in [idle, bytes] {
                ensure!(listeners.contains(&format!("dst|{to}")), "{listeners:?}");
            }
        }
        tokio::time::sleep(LONG.saturating_sub(start.elapsed())).await;
        exchange(&mut connection, b"still open").await?;
        // A connection without a request may be closed; a request on an open one is answered.
        if !http.is_closed() {
            let response = http.send("/", "app").await?;
            ensure!(response.status() == 200, "{}", response.status());
        }
        // Without it Envoy would cut open connections, if only after the drain time.
        let listeners = client.envoy.listeners().await?;
        for to in [open, used] {
            ensure!(
                listeners.contains(&format!("dst|{to}")),
                "what is used left: {listeners:?}"
            );
        }
        load.stop_without_failure().await?;

        drop(connection);
        leaves(&client, open).await?;
        leaves(&client, used).await?;
        client.client.echo(open).await
    })
}

/// A destination reported on reconnect does not count as used.
#[test]
fn the_unused_leaves_after_a_restart_of_the_control_plane() -> Result<()> {
    scope(async |mesh| {
        forgetful(mesh).await?;
        let client = mesh.pod(PodSpec::new("client-1")).await?;
        let _server = mesh.pod(PodSpec::new("server-1")).await?;
        mesh.world.service(Service::new("server"));
        mesh.write()?;
        mesh.settled(&client.client).await?;
        let (idle, used) = (mesh.at("server", 80)?, mesh.at("server", 90)?);
        client.client.call(idle).await?;
        mesh.kill_control_plane();
        client.envoy.disconnected().await?;
        mesh.start_control_plane().await?;
        eventually("the sidecar is back", async || {
            client.envoy.connected().await
        })
        .await?;
        let load = Load::start(&client.client, used, Duration::from_millis(300), |answer| {
            answer.app == "server-1"
        });
        leaves(&client, idle).await?;
        load.stop_without_failure().await?;
        client.client.call(idle).await?;
        Ok(())
    })
}
