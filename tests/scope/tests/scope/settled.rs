//! The cluster that passed the first connection on leaves once the destination's own listener takes all others.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use heddle_scope_tests::{
    Answer, Envoy, Load, Mesh, Pod, PodSpec, Service, eventually, exchange, port, scope,
};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Less than the 5 s that a connection waits in vain for its cluster.
const AT_ONCE: Duration = Duration::from_secs(4);

/// Whether a sidecar has the cluster that it asked for by this address, in any hour.
async fn passes_on(envoy: &Envoy, to: SocketAddr) -> Result<bool> {
    let clusters = envoy.clusters().await?;
    Ok(clusters
        .iter()
        .any(|name| name.starts_with(&format!("dst|{to}|"))))
}

async fn listens(envoy: &Envoy, to: SocketAddr) -> Result<bool> {
    Ok(envoy.listeners().await?.contains(&format!("dst|{to}")))
}

/// Returns when all have listeners, and none a cluster.
pub async fn settles(envoy: &Envoy, all: &[SocketAddr]) -> Result<()> {
    for to in all {
        eventually(&format!("{to} settles"), async || {
            ensure!(!passes_on(envoy, *to).await?, "its cluster is there");
            ensure!(listens(envoy, *to).await?, "its listener is not there");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

/// Calls, and is answered without having waited for anything.
async fn at_once(pod: &Pod, to: SocketAddr) -> Result<String> {
    let start = Instant::now();
    let answer = pod.client.call(to).await;
    let took = start.elapsed();
    ensure!(
        took < AT_ONCE,
        "the call of {to} took {took:?}, and came to {answer:?}"
    );
    Ok(answer?.app)
}

#[test]
fn connections_outlast_the_cluster_that_they_began_with() -> Result<()> {
    scope(async |mesh| {
        let client = mesh.pod(PodSpec::new("client-1")).await?;
        let server = mesh.pod(PodSpec::new("server-1")).await?;
        mesh.world.service(Service::new("server"));
        mesh.write()?;
        mesh.settled(&client.client).await?;
        let (http, stream) = (mesh.at("server", 80)?, mesh.at_v6("server", 80)?);
        let (echo, banner) = (
            mesh.at("server", port::ECHO)?,
            mesh.at("server", port::BANNER)?,
        );
        // By the pod's own address too.
        let (late, own) = (mesh.at("server", port::LATE)?, server.at(port::ECHO)?);

        let mut kept = client.client.http(http).await?;
        kept.get("/", "app").await.context("the first request")?;
        let mut streaming = client.client.http(stream).await?;
        let mut ticks = streaming.send("/ticks", "app").await?.into_body();
        let mut bytes = client.client.connect(echo).await?;
        exchange(&mut bytes, b"first").await?;
        let mut pod = client.client.connect(own).await?;
        exchange(&mut pod, b"first").await?;
        let mut greeted = client.client.connect(banner).await?;
        let mut greeting = vec![0; b"server-1\n".len()];
        greeted.read_exact(&mut greeting).await?;
        ensure!(greeting == b"server-1\n", "{greeting:?}");
        let mut half = client.client.connect(late).await?;
        half.write_all(b"all of it").await?;
        let all = [http, stream, echo, banner, late, own];
        eventually("all were passed on", async || {
            let fetched = client.envoy.fetched().await?;
            ensure!(fetched >= 6, "{fetched} were");
            Ok(())
        })
        .await?;

        settles(&client.envoy, &all).await?;
        // Not by the skin of its teeth.
        for turn in 0..20 {
            let again = kept.get("/", "app").await;
            again.with_context(|| format!("turn {turn} of the connection that was kept"))?;
            ticks.frame().await.context("the response ended")??;
            exchange(&mut bytes, b"after").await?;
            exchange(&mut pod, b"after").await?;
            exchange(&mut greeted, b"after").await?;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        half.shutdown().await?;
        let mut back = Vec::new();
        half.read_to_end(&mut back).await?;
        ensure!(back == b"all of it", "{back:?}");
        let again = at_once(&client, http).await;
        ensure!(again.context("a new connection")? == "server-1");
        client.client.echo(echo).await?;
        ensure!(client.client.banner(banner).await? == "server-1");
        ensure!(!passes_on(&client.envoy, http).await?, "it came back");
        Ok(())
    })
}

#[test]
fn no_proxy_lags_behind_because_of_retired_clusters() -> Result<()> {
    scope(async |mesh| {
        let client = mesh.pod(PodSpec::new("client-1")).await?;
        let _server = mesh.pod(PodSpec::new("server-1")).await?;
        mesh.world.service(Service::new("server"));
        mesh.world
            .allow("clients", "server", &["client"], "Enforce");
        mesh.write()?;
        mesh.settled(&client.client).await?;
        let to = mesh.at("server", 80)?;
        let asked = || -> Result<Value> {
            let report = mesh.proxies()?;
            let mut proxies = report.as_array().into_iter().flatten();
            let client = proxies.find(|proxy| {
                let name = proxy.get("proxy").and_then(Value::as_str);
                name.is_some_and(|name| name.ends_with("/client-1"))
            });
            let asked = client.and_then(|proxy| proxy.get("onDemand"));
            Ok(asked.context("no client")?.clone())
        };
        let before_call = asked()?;
        client.client.call(to).await?;
        // The file may be that of before the call.
        eventually("the report has the call", async || {
            ensure!(asked()? != before_call, "still {before_call}");
            Ok(())
        })
        .await?;
        // Calls of before may have come into it at the same time.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let in_sync = || -> Result<()> {
            let report = mesh.proxies()?;
            let mut proxies = report.as_array().into_iter().flatten();
            let all = proxies.all(|proxy| proxy.get("inSync") == Some(&json!(true)));
            ensure!(all, "{report:#}");
            Ok(())
        };
        eventually("all are in sync", async || in_sync()).await?;
        let before = mesh.statuses()?;
        ensure!(before.contains("Programmed"), "{before}");
        while passes_on(&client.envoy, to).await? {
            in_sync()?;
            let now = mesh.statuses()?;
            ensure!(now == before, "{before}\n{now}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        in_sync()?;
        ensure!(mesh.statuses()? == before);
        Ok(())
    })
}

/// A service at an address where somebody answers even without it.
fn beside_a_stranger(mesh: &mut Mesh) -> Result<(SocketAddr, impl Sized + use<>)> {
    let stranger = mesh.stranger("10.200.0.11".parse()?, "stranger")?;
    mesh.world.service_as_is(Service {
        ips: vec!["10.200.0.11".parse()?],
        ports: vec![("http".to_owned(), port::HTTP, port::HTTP)],
        ..Service::new("server")
    });
    mesh.write()?;
    Ok((mesh.at("server", port::HTTP)?, stranger))
}

async fn answers(pod: &Pod, to: SocketAddr, app: &str) -> Result<()> {
    let (_, took) = eventually(&format!("{app} answers"), async || {
        let answer = at_once(pod, to).await?;
        ensure!(answer == app, "{answer}");
        Ok(())
    })
    .await?;
    println!("{app} answers after {took:?}");
    Ok(())
}

fn is_one_of_the_two(answer: &Answer) -> bool {
    ["server-1", "stranger"].contains(&answer.app.as_str())
}

#[test]
fn a_retired_cluster_is_back_when_its_listener_leaves() -> Result<()> {
    scope(async |mesh| {
        let client = mesh.pod(PodSpec::new("client-1")).await?;
        let _server = mesh.pod(PodSpec::new("server-1")).await?;
        let (to, _stranger) = beside_a_stranger(mesh)?;
        mesh.settled(&client.client).await?;
        ensure!(at_once(&client, to).await? == "server-1");
        let load = Load::start(
            &client.client,
            to,
            Duration::from_millis(5),
            is_one_of_the_two,
        );
        for _ in 0..2 {
            settles(&client.envoy, &[to]).await?;
            // Envoy does not ask for the name a second time in this hour.
            let service = mesh.world.services.remove("server");
            mesh.write()?;
            answers(&client, to, "stranger").await?;
            ensure!(passes_on(&client.envoy, to).await?);
            mesh.world
                .services
                .extend(service.map(|service| (service.name.clone(), service)));
            mesh.write()?;
            answers(&client, to, "server-1").await?;
        }
        println!("{:?}", load.stop_without_failure().await?.apps);
        Ok(())
    })
}

#[test]
fn a_retired_cluster_is_refused_at_once_when_its_listener_leaves() -> Result<()> {
    scope(async |mesh| {
        mesh.world.mesh(json!({"outbound": "Deny"}));
        let client = mesh.pod(PodSpec::new("client-1")).await?;
        let _server = mesh.pod(PodSpec::new("server-1")).await?;
        let (to, _stranger) = beside_a_stranger(mesh)?;
        mesh.settled(&client.client).await?;
        ensure!(at_once(&client, to).await? == "server-1");
        settles(&client.envoy, &[to]).await?;
        let service = mesh.world.services.remove("server");
        mesh.write()?;
        eventually("the listener leaves", async || {
            ensure!(!listens(&client.envoy, to).await?);
            Ok(())
        })
        .await?;
        let start = Instant::now();
        ensure!(client.client.call(to).await.is_err(), "somebody answers");
        ensure!(start.elapsed() < AT_ONCE, "{:?}", start.elapsed());
        mesh.world
            .services
            .extend(service.map(|service| (service.name.clone(), service)));
        mesh.write()?;
        answers(&client, to, "server-1").await
    })
}

/// Another control plane, and all that it has to say to the client.
async fn replaced(mesh: &mut Mesh, client: &Pod) -> Result<()> {
    mesh.kill_control_plane();
    client.envoy.disconnected().await?;
    mesh.start_control_plane().await?;
    mesh.settled(&client.client).await
}

#[test]
fn another_control_plane_knows_the_retired_clusters() -> Result<()> {
    scope(async |mesh| {
        let client = mesh.pod(PodSpec::new("client-1")).await?;
        let _server = mesh.pod(PodSpec::new("server-1")).await?;
        let (to, _stranger) = beside_a_stranger(mesh)?;
        mesh.settled(&client.client).await?;
        ensure!(at_once(&client, to).await? == "server-1");
        let mut first = client.client.http(to).await?;
        first.get("/", "app").await?;
        let load = Load::start(
            &client.client,
            to,
            Duration::from_millis(5),
            is_one_of_the_two,
        );
        // Names without time to retire do so with the next one.
        replaced(mesh, &client).await?;
        settles(&client.envoy, &[to]).await?;
        for _ in 0..2 {
            replaced(mesh, &client).await?;
            ensure!(!passes_on(&client.envoy, to).await?, "it came back");
        }
        first.get("/", "app").await?;
        let service = mesh.world.services.remove("server");
        mesh.write()?;
        // Nothing is taken from a sidecar that has just come back, hence not at once.
        answers(&client, to, "stranger").await?;
        mesh.world
            .services
            .extend(service.map(|service| (service.name.clone(), service)));
        mesh.write()?;
        answers(&client, to, "server-1").await?;
        settles(&client.envoy, &[to]).await?;
        println!("{:?}", load.stop_without_failure().await?.apps);
        Ok(())
    })
}
