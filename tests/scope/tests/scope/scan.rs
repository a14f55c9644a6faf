//! A client that knocks at every door.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use heddle_scope_tests::{Load, PodSpec, Service, eventually, scope};
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

const ADDRESSES: u32 = 2_000;
const AT_ONCE: usize = 40;
/// KiB. An empty sidecar has some 15 MiB, and an address that is passed through may cost some 20 KiB.
const BOUND: u64 = 100 * 1024;

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
        let doors = Arc::new(Semaphore::new(AT_ONCE));
        let mut knocks = JoinSet::new();
        for number in 0..ADDRESSES {
            let [_, _, high, low] = number.to_be_bytes();
            let to = SocketAddr::from((Ipv4Addr::new(10, 200, 1 + high, low), 9));
            let (client, permit) = (
                client.client.clone(),
                Arc::clone(&doors).acquire_owned().await?,
            );
            knocks.spawn(async move {
                let _ = client.echo(to).await;
                drop(permit);
            });
        }
        while let Some(knock) = knocks.join_next().await {
            knock?;
        }
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
        // Who knocks at every door may have to wait.
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
