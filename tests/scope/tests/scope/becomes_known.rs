//! Addresses that become known later.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use heddle_scope_tests::{Client, Load, PodSpec, Service, eventually, port, scope};
use serde_json::json;

/// A service at addresses that were dialled before there was one.
fn late(ips: [&str; 2]) -> Result<Service> {
    Ok(Service {
        ips: ips.iter().map(|ip| ip.parse()).collect::<Result<_, _>>()?,
        ..Service::new("late")
    })
}

async fn is_refused(client: &Client, to: SocketAddr) -> Result<()> {
    let start = Instant::now();
    let answer = client.call(to).await;
    println!("{to} refused after {:?}", start.elapsed());
    ensure!(answer.is_err(), "{to} answers: {answer:?}");
    Ok(())
}

#[test]
fn a_refused_destination_works_once_it_is_known() -> Result<()> {
    scope(async |mesh| {
        mesh.world.mesh(json!({"outbound": "Deny"}));
        let client = mesh.pod(PodSpec::new("client-1")).await?;
        let service = late(["10.200.0.7", "fd00:200::7"])?;
        // Somebody is there; it is the mesh that refuses.
        let _strangers = [
            mesh.stranger("10.200.0.7".parse()?, "stranger")?,
            mesh.stranger("fd00:200::7".parse()?, "stranger")?,
        ];
        mesh.world.service_as_is(service);
        let known = [mesh.at("late", 80)?, mesh.at_v6("late", 80)?];
        let banner = mesh.at("late", port::BANNER)?;
        let service = mesh.world.services.remove("late");
        let other = SocketAddr::new(known[0].ip(), port::HTTP);
        // The second time Envoy does not even ask any more.
        for to in [known[0], known[0], known[1], banner, other] {
            is_refused(&client.client, to).await?;
        }

        let _late = mesh.plain(PodSpec::plain("late-1"))?;
        mesh.world
            .services
            .extend(service.map(|service| (service.name.clone(), service)));
        mesh.write()?;
        for to in known {
            let (answer, took) = eventually("what was refused works", async || {
                client.client.call(to).await
            })
            .await?;
            println!("{to} works {took:?} after it became known");
            ensure!(answer.app == "late-1", "{answer:?}");
            ensure!(
                client
                    .envoy
                    .listeners()
                    .await?
                    .contains(&format!("dst|{to}"))
            );
            let fetched = client.envoy.fetched_to(to).await?;
            client.client.call(to).await?;
            ensure!(
                client.envoy.fetched_to(to).await? == fetched,
                "it has no listener of its own"
            );
        }
        eventually("bytes too", async || client.client.banner(banner).await).await?;
        // Another port of that address is still unknown.
        is_refused(&client.client, other).await
    })
}

#[test]
fn a_passed_through_destination_is_routed_once_it_is_known() -> Result<()> {
    scope(async |mesh| {
        let client = mesh.pod(PodSpec::new("client-1")).await?;
        let _stranger = mesh.stranger("10.200.0.7".parse()?, "stranger")?;
        let mut service = late(["10.200.0.7", "fd00:200::7"])?;
        service.ports = vec![("http".to_owned(), port::HTTP, port::HTTP)];
        let to = "10.200.0.7:8080".parse()?;
        for _ in 0..2 {
            let answer = client.client.call(to).await?;
            ensure!(answer.app == "stranger", "{answer:?}");
        }
        let load = Load::start(&client.client, to, Duration::from_millis(10), |answer| {
            ["stranger", "late-1"].contains(&answer.app.as_str())
        });

        let _late = mesh.plain(PodSpec::plain("late-1"))?;
        mesh.world.service_as_is(service);
        mesh.write()?;
        let answered_by = async |app: &str| {
            let (_, took) = eventually(&format!("{app} answers"), async || {
                let answer = client.client.call(to).await?;
                ensure!(answer.app == app, "{answer:?}");
                Ok(())
            })
            .await?;
            println!("{app} answers after {took:?}");
            anyhow::Ok(())
        };
        answered_by("late-1").await?;
        mesh.world.services.remove("late");
        mesh.write()?;
        answered_by("stranger").await?;
        println!("{:?}", load.stop_without_failure().await?.apps);
        Ok(())
    })
}
