//! The control plane goes and comes back.

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Result, ensure};
use heddle_scope_tests::{Load, PodSpec, Service, eventually, exchange, port, scope};

use crate::settled::settles;

/// The names of addresses that no listener has contain the hour: in a new hour the sidecar asks the control plane again.
async fn early_in_the_hour() -> Result<()> {
    const HOUR: u64 = 3600;
    const SCENARIO: u64 = 180;
    let left = HOUR - SystemTime::UNIX_EPOCH.elapsed()?.as_secs() % HOUR;
    if left < SCENARIO {
        tokio::time::sleep(Duration::from_secs(left)).await;
    }
    Ok(())
}

#[test]
fn a_restart_resends_nothing_and_breaks_nothing() -> Result<()> {
    scope(async |mesh| {
        let client = mesh.pod(PodSpec::new("client-1")).await?;
        let _server = mesh.pod(PodSpec::new("server-1")).await?;
        let _more = [
            mesh.plain(PodSpec::plain("plain-1"))?,
            mesh.plain(PodSpec::plain("plain-2"))?,
        ];
        // It joins later.
        if let Some(pod) = mesh.world.pods.get_mut("plain-2") {
            pod.ready = false;
        }
        for name in ["server", "plain", "new"] {
            mesh.world.service(Service::new(name));
        }
        let _new = mesh.plain(PodSpec::plain("new-1"))?;
        mesh.write()?;
        mesh.settled(&client.client).await?;
        early_in_the_hour().await?;
        // The pod of the marker leaves now, and not with the next write: a cluster without endpoints has the timeouts of sidecars.
        mesh.write()?;
        let destinations = [
            mesh.at("server", 80)?,
            mesh.at_v6("server", 80)?,
            mesh.at("plain", 80)?,
        ];
        let (banner, unknown) = (mesh.at("plain", port::BANNER)?, "10.200.0.9:8080".parse()?);
        let _stranger = mesh.stranger("10.200.0.9".parse()?, "stranger")?;
        for to in destinations.into_iter().chain([unknown]) {
            client.client.call(to).await?;
        }
        client.client.banner(banner).await?;
        let mut lasting = client
            .client
            .connect(mesh.at("server", port::ECHO)?)
            .await?;
        exchange(&mut lasting, b"before").await?;
        let load = Load::start(
            &client.client,
            mesh.at("server", 80)?,
            Duration::from_millis(10),
            |answer| answer.app == "server-1",
        );

        // The clusters of the first connections have to be gone by then, for that is a change too.
        let echo = mesh.at("server", port::ECHO)?;
        let settling: Vec<_> = destinations.into_iter().chain([banner, echo]).collect();
        settles(&client.envoy, &settling).await?;
        let before = (
            client.envoy.configuration().await?,
            client.envoy.updates().await?,
            client.envoy.received().await?,
        );
        mesh.kill_control_plane();
        client.envoy.disconnected().await?;
        for to in destinations.into_iter().chain([unknown]) {
            client.client.call(to).await?;
        }
        mesh.start_control_plane().await?;
        let (_, took) = eventually("the sidecar is back", async || {
            client.envoy.connected().await
        })
        .await?;
        println!("connected again after {took:?}");

        // A new endpoint comes after all earlier responses of the control plane.
        if let Some(pod) = mesh.world.pods.get_mut("plain-2") {
            pod.ready = true;
        }
        mesh.write()?;
        let to = mesh.at("plain", 80)?;
        eventually("a new endpoint arrives", async || {
            let answer = client.client.call(to).await?;
            ensure!(answer.app == "plain-2", "{answer:?}");
            Ok(())
        })
        .await?;
        let after = (
            client.envoy.configuration().await?,
            client.envoy.updates().await?,
            client.envoy.received().await?,
        );
        println!(
            "the restart cost {} bytes; responses with clusters and with listeners: {:?}, then {:?}",
            after.2 - before.2,
            before.1,
            after.1
        );
        ensure!(
            after.0 == before.0,
            "the configuration changed:\n{:#?}\n{:#?}",
            before.0,
            after.0
        );
        // One response removes the clusters that the sidecar asks for once more.
        let [clusters, listeners] = before.1;
        ensure!(
            after.1 == before.1 || after.1 == [clusters + 1, listeners],
            "clusters or listeners were sent again"
        );

        let new = mesh.at("new", 80)?;
        client.client.call(new).await?;
        exchange(&mut lasting, b"after").await?;
        load.stop_without_failure().await?;
        Ok(())
    })
}

#[test]
fn a_new_destination_waits_for_the_control_plane() -> Result<()> {
    scope(async |mesh| {
        let client = mesh.pod(PodSpec::new("client-1")).await?;
        let _server = mesh.pod(PodSpec::new("server-1")).await?;
        mesh.world.service(Service::new("server"));
        mesh.write()?;
        mesh.settled(&client.client).await?;
        let (known, new, later) = (
            mesh.at("server", 80)?,
            mesh.at("server", port::BANNER)?,
            mesh.at("server", port::ECHO)?,
        );
        client.client.call(known).await?;
        mesh.kill_control_plane();

        let start = Instant::now();
        ensure!(
            client.client.banner(new).await.is_err(),
            "somebody answers for the control plane"
        );
        println!("a new destination failed after {:?}", start.elapsed());
        client.client.call(known).await?;
        mesh.start_control_plane().await?;
        let (_, took) = eventually("it works", async || client.client.banner(new).await).await?;
        println!("it works {took:?} after the control plane was back");
        client.client.echo(later).await?;
        client.client.call(known).await?;
        Ok(())
    })
}
