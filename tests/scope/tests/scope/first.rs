//! The first call ever to a destination, and those that follow.

use std::net::SocketAddr;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use heddle_scope_tests::{Client, Envoy, PodSpec, Random, Service, port, scope};

/// How an application speaks.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Speaks {
    Http,
    Grpc,
    ServerFirst,
    ClientFirst,
}

/// The ports of a service, and those of a pod.
const SERVICE: [(u16, Speaks); 7] = [
    (80, Speaks::Http),
    (90, Speaks::Grpc),
    (port::BANNER, Speaks::ServerFirst),
    (port::ECHO, Speaks::ClientFirst),
    (port::ANY[0], Speaks::Http),
    (port::ANY[1], Speaks::ClientFirst),
    (port::ANY[2], Speaks::ServerFirst),
];
const POD: [(u16, Speaks); 4] = [
    (port::HTTP, Speaks::Http),
    (port::GRPC, Speaks::Grpc),
    (port::BANNER, Speaks::ServerFirst),
    (port::ECHO, Speaks::ClientFirst),
];

/// Calls, and checks the pod that answers and, where there is a sidecar, the identity of the caller.
async fn call(
    client: &Client,
    speaks: Speaks,
    to: SocketAddr,
    app: &str,
    meshed: bool,
) -> Result<()> {
    match speaks {
        Speaks::Http | Speaks::Grpc => {
            let answer = match speaks {
                Speaks::Grpc => client.grpc(to).await?,
                _ => client.call(to).await?,
            };
            let peer = "URI=spiffe://cluster.local/ns/shop/sa/client";
            ensure!(answer.app == app, "{answer:?}");
            ensure!(answer.peer.ends_with(peer) == meshed, "{answer:?}");
            ensure!(
                answer.version.contains("2.0") == (speaks == Speaks::Grpc),
                "{answer:?}"
            );
        }
        Speaks::ServerFirst => ensure!(client.banner(to).await? == app),
        Speaks::ClientFirst => client.echo(to).await?,
    }
    Ok(())
}

/// The first call, then three more, which the destination's own listener must take.
async fn first_and_more(
    client: &Client,
    envoy: &Envoy,
    speaks: Speaks,
    to: SocketAddr,
    app: &str,
    meshed: bool,
) -> Result<f64> {
    let what = || format!("{speaks:?} to {app} at {to}");
    let listener = format!("dst|{to}");
    ensure!(
        !envoy.listeners().await?.contains(&listener),
        "known before: {to}"
    );
    let start = Instant::now();
    call(client, speaks, to, app, meshed)
        .await
        .with_context(|| format!("first: {}", what()))?;
    let first = start.elapsed();
    ensure!(envoy.fetched_to(to).await? == 1, "not fetched: {}", what());
    ensure!(
        envoy.listeners().await?.contains(&listener),
        "no listener: {}",
        what()
    );
    let start = Instant::now();
    for _ in 0..3 {
        call(client, speaks, to, app, meshed)
            .await
            .with_context(what)?;
    }
    let next = start.elapsed() / 3;
    ensure!(
        envoy.fetched_to(to).await? == 1,
        "fetched again: {}",
        what()
    );
    let (first, next) = (first.as_secs_f64() * 1e3, next.as_secs_f64() * 1e3);
    println!("first call {first:6.1} ms, then {next:5.1} ms: {}", what());
    Ok(first)
}

fn summary(mut first: Vec<f64>) {
    first.sort_by(f64::total_cmp);
    let at = |share: usize| {
        first
            .get((first.len() - 1) * share / 100)
            .copied()
            .unwrap_or_default()
    };
    println!(
        "{} first calls: min {:.1}, median {:.1}, p90 {:.1}, max {:.1} ms",
        first.len(),
        at(0),
        at(50),
        at(90),
        at(100)
    );
}

#[test]
fn the_first_call_to_a_service_succeeds() -> Result<()> {
    scope(async |mesh| {
        let client = mesh.pod(PodSpec::new("client-1")).await?;
        let _server = mesh.pod(PodSpec::new("server-1")).await?;
        let _plain = mesh.plain(PodSpec::plain("plain-1"))?;
        mesh.world.service(Service::new("server"));
        mesh.world.service(Service::new("plain"));
        mesh.write()?;
        mesh.settled(&client.client).await?;
        let mut first = Vec::new();
        for (at, speaks) in SERVICE {
            for (service, meshed) in [("server", true), ("plain", false)] {
                for to in [mesh.at(service, at)?, mesh.at_v6(service, at)?] {
                    let app = format!("{service}-1");
                    first.push(
                        first_and_more(&client.client, &client.envoy, speaks, to, &app, meshed)
                            .await?,
                    );
                }
            }
        }
        summary(first);
        Ok(())
    })
}

#[test]
fn the_first_call_to_a_pod_succeeds() -> Result<()> {
    scope(async |mesh| {
        let client = mesh.pod(PodSpec::new("client-1")).await?;
        let server = mesh.pod(PodSpec::new("server-1")).await?;
        let headless = mesh.pod(PodSpec::new("headless-1")).await?;
        let plain = mesh.plain(PodSpec::plain("headless-2"))?;
        mesh.world.service_as_is(Service {
            // The target port of a headless service does not matter: its clients dial the target.
            ports: [
                ("http", port::HTTP),
                ("grpc", port::GRPC),
                ("tcp-banner", port::BANNER),
                ("tcp-echo", port::ECHO),
            ]
            .map(|(name, port)| (name.to_owned(), port, port))
            .to_vec(),
            ..Service::new("headless")
        });
        mesh.write()?;
        mesh.settled(&client.client).await?;
        let mut first = Vec::new();
        for (at, speaks) in POD {
            for to in [server.at(at)?, server.at_v6(at)?] {
                first.push(
                    first_and_more(&client.client, &client.envoy, speaks, to, "server-1", true)
                        .await?,
                );
            }
            for to in [headless.at(at)?, headless.at_v6(at)?] {
                first.push(
                    first_and_more(
                        &client.client,
                        &client.envoy,
                        speaks,
                        to,
                        "headless-1",
                        true,
                    )
                    .await?,
                );
            }
            for to in [plain.at(at)?, plain.at_v6(at)?] {
                first.push(
                    first_and_more(
                        &client.client,
                        &client.envoy,
                        speaks,
                        to,
                        "headless-2",
                        false,
                    )
                    .await?,
                );
            }
        }
        summary(first);
        Ok(())
    })
}

#[test]
fn many_at_once_are_one_subscription() -> Result<()> {
    const CONNECTIONS: usize = 200;
    scope(async |mesh| {
        let client = mesh.pod(PodSpec::new("client-1")).await?;
        let _plain = mesh.plain(PodSpec::plain("plain-1"))?;
        mesh.world.service(Service::new("plain"));
        mesh.write()?;
        mesh.settled(&client.client).await?;
        let to = mesh.at("plain", port::BANNER)?;
        let before = client.envoy.answered().await?;
        let start = Instant::now();
        let mut all = tokio::task::JoinSet::new();
        for _ in 0..CONNECTIONS {
            let client = client.client.clone();
            all.spawn(async move { client.banner(to).await });
        }
        while let Some(answer) = all.join_next().await {
            ensure!(answer?? == "plain-1");
        }
        println!("{CONNECTIONS} connections at once: {:?}", start.elapsed());
        let fetched = client.envoy.fetched().await?;
        ensure!(
            fetched > 1,
            "{fetched} of them were first connections: nothing is shown"
        );
        let answered = client.envoy.answered().await? - before;
        let clusters = client.envoy.clusters().await?;
        let asked: Vec<_> = clusters
            .iter()
            .filter(|name| name.starts_with(&format!("dst|{to}|")))
            .collect();
        // Two if the hour turned meanwhile.
        ensure!(
            (1..=2).contains(&asked.len()) && answered == asked.len() as u64,
            "{answered} answers: {asked:?}"
        );
        Ok(())
    })
}

#[test]
fn half_closed_connections_lose_nothing() -> Result<()> {
    scope(async |mesh| {
        let client = mesh.pod(PodSpec::new("client-1")).await?;
        let _server = mesh.pod(PodSpec::new("server-1")).await?;
        let _plain = mesh.plain(PodSpec::plain("plain-1"))?;
        mesh.world.service(Service::new("server"));
        mesh.world.service(Service::new("plain"));
        mesh.write()?;
        mesh.settled(&client.client).await?;
        let sent = Random::new(1).bytes(3 << 20);
        for to in [
            mesh.at("server", port::LATE)?,
            mesh.at_v6("server", port::LATE)?,
            mesh.at("plain", port::LATE)?,
        ] {
            for which in ["first", "second"] {
                let fetched = client.envoy.fetched_to(to).await?;
                ensure!(
                    fetched == u64::from(which == "second"),
                    "{which} to {to}: {fetched} were first connections"
                );
                let back = client
                    .client
                    .half_close(to, &sent)
                    .await
                    .with_context(|| format!("{which} to {to}"))?;
                ensure!(
                    back == sent,
                    "{which} to {to}: {} of {} bytes, or others",
                    back.len(),
                    sent.len()
                );
            }
        }
        Ok(())
    })
}

#[test]
fn a_forged_host_changes_nothing() -> Result<()> {
    scope(async |mesh| {
        let client = mesh.pod(PodSpec::new("client-1")).await?;
        for name in ["one", "two"] {
            mesh.world.service(Service::new(name));
            mesh.write()?;
        }
        let _apps = [
            mesh.plain(PodSpec::plain("one-1"))?,
            mesh.plain(PodSpec::plain("two-1"))?,
        ];
        mesh.settled(&client.client).await?;
        let to = mesh.at("one", 80)?;
        for host in [
            "two",
            "two.shop.svc.cluster.local",
            &mesh.at("two", 80)?.to_string(),
            "nobody.example",
        ] {
            let answer = client.client.call_as(to, host).await?;
            ensure!(answer.app == "one-1" && answer.host == host, "{answer:?}");
        }
        let clusters = client.envoy.clusters().await?;
        ensure!(
            !clusters.iter().any(|name| name.contains("shop/two|")),
            "{clusters:?}"
        );
        Ok(())
    })
}
