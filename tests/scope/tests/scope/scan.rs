//! A client that knocks at every door.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use heddle_scope_tests::{Client, Load, PodSpec, Service, eventually, scope};
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

const ADDRESSES: u32 = 2_000;
/// Each has eight ports.
const SERVICES: usize = 200;
/// The bound of a workload, and the overflow of one of its proxies.
const DESTINATIONS: usize = 1024 + 256;
const AT_ONCE: usize = 40;
const PATIENCE: Duration = Duration::from_millis(500);
/// KiB. An empty sidecar has some 15 MiB, and an address that is passed through may cost some 20 KiB.
const BOUND: u64 = 100 * 1024;

/// Calls each, some at once, and ignores the outcomes.
async fn knock(client: &Client, doors: impl IntoIterator<Item = SocketAddr>) -> Result<()> {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut knocks = JoinSet::new();
    for to in doors {
        let (client, place) = (client.clone(), Arc::clone(&places).acquire_owned().await?);
        knocks.spawn(async move {
            let _ = timeout(PATIENCE, client.echo(to)).await;
            drop(place);
        });
    }
    while let Some(knock) = knocks.join_next().await {
        knock?;
    }
    Ok(())
}

fn scan(outbound: &'static str) -> Result<()> {
    scope(async |mesh| {
        mesh.world.mesh(json!({"outbound": outbound}));
        let client = mesh.pod(PodSpec::new("client-1")).await?;
        let bystander = mesh.pod(PodSpec::new("bystander-1")).await?;
        let _server = mesh.pod(PodSpec::new("server-1")).await?;
        mesh.world.service(Service::new("server"));
        mesh.write()?;
        mesh.settled(&client.client).await?;
        mesh.settled(&bystander.client).await?;
        let server = mesh.at("server", 80)?;
        let new = mesh.at("server", 90)?;
        let before = client.envoy.private_memory()?;
        let loads = [&client, &bystander].map(|pod| {
            Load::start(&pod.client, server, Duration::from_millis(20), |answer| {
                answer.app == "server-1"
            })
        });

        let start = Instant::now();
        let doors = (0..ADDRESSES).map(|number| {
            let [_, _, high, low] = number.to_be_bytes();
            SocketAddr::from((Ipv4Addr::new(10, 200, 1 + high, low), 9))
        });
        knock(&client.client, doors).await?;
        let took = start.elapsed();
        let after = client.envoy.private_memory()?;
        println!(
            "{outbound}: {ADDRESSES} addresses in {took:?}; private memory {before} KiB, then {after} KiB; {} clusters",
            client.envoy.clusters().await?.len()
        );
        for load in loads {
            println!("{} calls went on", load.stop_without_failure().await?.calls);
        }
        ensure!(after < BOUND, "{after} KiB");
        let start = Instant::now();
        bystander.client.grpc(new).await?;
        println!("a first call of another then took {:?}", start.elapsed());
        // A scanner may have to wait.
        let (_, took) = eventually("a first call of the same", async || {
            client.client.grpc(new).await
        })
        .await?;
        println!("a first call of the same took {took:?}");
        Ok(())
    })
}

#[test]
fn a_scan_is_bounded_where_the_unknown_passes() -> Result<()> {
    scan("Allow")
}

#[test]
fn a_scan_is_bounded_where_the_unknown_is_refused() -> Result<()> {
    scan("Deny")
}

#[test]
fn a_scan_of_services_is_bounded() -> Result<()> {
    scope(async |mesh| {
        let client = mesh.pod(PodSpec::new("client-1")).await?;
        let bystander = mesh.pod(PodSpec::new("bystander-1")).await?;
        let _server = mesh.pod(PodSpec::new("server-1")).await?;
        mesh.world.service(Service::new("server"));
        let services = (0..SERVICES).map(|n| Service::of(&format!("server-{n}"), "app", "server"));
        let services: Vec<Service> = services.collect();
        for service in &services {
            mesh.world.service(service.clone());
        }
        mesh.write()?;
        mesh.settled(&client.client).await?;
        let server = mesh.at("server", 80)?;
        let load = Load::start(
            &client.client,
            server,
            Duration::from_millis(20),
            |answer| answer.app == "server-1",
        );
        let mut doors = Vec::new();
        for service in &services {
            for (_, port, _) in &service.ports {
                doors.push(mesh.at(&service.name, *port)?);
            }
        }
        let held = async || {
            let listeners = client.envoy.listeners().await?;
            anyhow::Ok(
                listeners
                    .iter()
                    .filter(|name| name.starts_with("dst|"))
                    .count(),
            )
        };
        // A sidecar asks for 64 a second, once it has asked for 512.
        let start = Instant::now();
        while held().await? < DESTINATIONS && start.elapsed() < Duration::from_secs(90) {
            knock(&client.client, doors.iter().copied()).await?;
        }
        knock(&client.client, doors.iter().copied()).await?;
        eventually("what is answered is bounded", async || {
            let held = held().await?;
            ensure!(held == DESTINATIONS, "{held} destinations");
            Ok(())
        })
        .await?;
        println!(
            "{DESTINATIONS} destinations after {:?}, {} KiB",
            start.elapsed(),
            client.envoy.private_memory()?
        );
        println!("{} calls went on", load.stop_without_failure().await?.calls);
        bystander.client.call(mesh.at("server-7", 80)?).await?;
        Ok(())
    })
}
