//! Changes of destinations in use.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use heddle_scope_tests::{
    Client, Configuration, Envoy, Load, PodSpec, Service, eventually, exchange, port, scope,
};
use http_body_util::BodyExt;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Generous on a busy machine, and less than the 15 s that an updated cluster waits if its endpoints do not come again.
const SOON: Duration = Duration::from_secs(12);
const PAUSE: Duration = Duration::from_millis(10);

#[test]
fn an_updated_cluster_is_in_use_at_once() -> Result<()> {
    scope(async |mesh| {
        let client = mesh.pod(PodSpec::new("client-1")).await?;
        let _first = mesh.pod(PodSpec::new("server-1")).await?;
        // Of another identity, which the cluster has to learn to trust.
        let _second = mesh
            .pod(
                PodSpec::new("server-2")
                    .account("other")
                    .label("app", "waiting"),
            )
            .await?;
        mesh.world.service(Service::new("server"));
        mesh.write()?;
        mesh.settled(&client.client).await?;
        let (http, banner) = (mesh.at("server", 80)?, mesh.at("server", port::BANNER)?);
        ensure!(client.client.banner(banner).await? == "server-1");
        let load = Load::start(&client.client, http, PAUSE, |answer| {
            answer.app.starts_with("server-")
        });

        for (label, wanted) in [("server", true), ("waiting", false), ("server", true)] {
            if let Some(pod) = mesh.world.pods.get_mut("server-2") {
                pod.labels.insert("app".to_owned(), label.to_owned());
            }
            mesh.write()?;
            // Balancing is by chance: twenty calls in a row that miss one of two are one case in a million.
            let (_, took) = eventually("the change shows", async || {
                let mut seen = false;
                for _ in 0..20 {
                    seen |= client.client.call(http).await?.app == "server-2";
                }
                ensure!(seen == wanted, "server-2 answers: {seen}");
                Ok(())
            })
            .await?;
            println!("the change of a cluster in use showed after {took:?}");
            ensure!(took < SOON, "{took:?}");
            eventually("bytes too", async || {
                let mut seen = false;
                for _ in 0..20 {
                    seen |= client.client.banner(banner).await? == "server-2";
                }
                ensure!(seen == wanted, "server-2 greets: {seen}");
                Ok(())
            })
            .await?;
        }
        load.stop_without_failure().await?;
        Ok(())
    })
}

/// Something that goes on until it is told to stop, or breaks.
struct Lasting {
    task: JoinHandle<Result<u64>>,
    stop: watch::Sender<bool>,
}

impl Lasting {
    fn start<F: Future<Output = Result<u64>> + Send + 'static>(
        run: impl FnOnce(watch::Receiver<bool>) -> F,
    ) -> Self {
        let (stop, stopped) = watch::channel(false);
        Self {
            task: tokio::spawn(run(stopped)),
            stop,
        }
    }

    async fn end(self, what: &str) -> Result<u64> {
        self.stop.send_replace(true);
        self.task.await?.with_context(|| format!("{what} broke"))
    }
}

/// One response, read on and on.
async fn stream(client: Client, to: SocketAddr, stopped: watch::Receiver<bool>) -> Result<u64> {
    let mut http = client.http(to).await?;
    let response = http.send("/ticks", "app").await?;
    ensure!(response.status() == 200, "{}", response.status());
    let (mut body, mut frames) = (response.into_body(), 0);
    while !*stopped.borrow() {
        let frame = tokio::time::timeout(Duration::from_secs(5), body.frame())
            .await
            .context("silence")?;
        frame.context("the end")??;
        frames += 1;
    }
    Ok(frames)
}

/// One connection, request by request.
async fn keep_alive(client: Client, to: SocketAddr, stopped: watch::Receiver<bool>) -> Result<u64> {
    let (mut http, mut requests) = (client.http(to).await?, 0);
    while !*stopped.borrow() {
        http.get("/", "app").await?;
        requests += 1;
        tokio::time::sleep(PAUSE).await;
    }
    Ok(requests)
}

/// One connection, byte by byte.
async fn bytes(client: Client, to: SocketAddr, stopped: watch::Receiver<bool>) -> Result<u64> {
    let (mut stream, mut exchanges) = (client.connect(to).await?, 0);
    while !*stopped.borrow() {
        exchange(&mut stream, b"still there?").await?;
        exchanges += 1;
        tokio::time::sleep(PAUSE).await;
    }
    Ok(exchanges)
}

/// The versions of the resources that the sidecar has of these kinds, as [`Configuration`] names them, for a service and its addresses.
async fn versions(envoy: &Envoy, kind: &str, part: &str) -> Result<Configuration> {
    let mut all = envoy.configuration().await?;
    all.retain(|name, _| name.starts_with(kind) && name.contains(part));
    ensure!(!all.is_empty(), "no {kind} {part}");
    Ok(all)
}

#[test]
fn new_weights_cut_nothing() -> Result<()> {
    scope(async |mesh| {
        let client = mesh.pod(PodSpec::new("client-1")).await?;
        let _one = mesh.plain(PodSpec::plain("one-1").label("set", "both"))?;
        let _two = mesh.plain(PodSpec::plain("two-1").label("set", "both"))?;
        for service in [
            Service::new("one"),
            Service::new("two"),
            Service::of("both", "set", "both"),
        ] {
            mesh.world.service(service);
        }
        mesh.world.split("both", ["one", "two"], 100);
        mesh.write()?;
        mesh.settled(&client.client).await?;

        let (http, echo) = (mesh.at("both", 80)?, mesh.at("both", port::ECHO)?);
        // The first connections ever, so that those that were passed on by the second stage last as well.
        let first = |client: &Client| {
            let client = client.clone();
            [
                (
                    "a response",
                    Lasting::start(|stopped| stream(client.clone(), http, stopped)),
                ),
                (
                    "a kept connection",
                    Lasting::start(|stopped| keep_alive(client.clone(), http, stopped)),
                ),
                (
                    "a connection for bytes",
                    Lasting::start(|stopped| bytes(client.clone(), echo, stopped)),
                ),
            ]
        };
        let mut lasting = Vec::from(first(&client.client));
        eventually("both destinations have listeners", async || {
            let listeners = client.envoy.listeners().await?;
            ensure!(
                [http, echo]
                    .iter()
                    .all(|to| listeners.contains(&format!("dst|{to}"))),
                "{listeners:?}"
            );
            Ok(())
        })
        .await?;
        lasting.extend(first(&client.client));
        let load = Load::start(&client.client, http, PAUSE, |answer| {
            ["one-1", "two-1"].contains(&answer.app.as_str())
        });

        let handed = async |to| {
            versions(
                &client.envoy,
                "dynamic_listeners dst|",
                &format!("dst|{to}"),
            )
            .await
        };
        let listeners = [handed(http).await?, handed(echo).await?];
        for change in 1..=20 {
            let before = versions(&client.envoy, "dynamic_route_configs", "shop/both|80").await?;
            mesh.world.split(
                "both",
                ["one", "two"],
                if change == 20 { 0 } else { 100 - 5 * change },
            );
            mesh.write()?;
            eventually("the routes change", async || {
                ensure!(
                    versions(&client.envoy, "dynamic_route_configs", "shop/both|80").await?
                        != before,
                    "still {before:?}"
                );
                Ok(())
            })
            .await?;
        }
        eventually("all new connections go to the second", async || {
            for _ in 0..10 {
                let answer = client.client.call(http).await?;
                ensure!(answer.app == "two-1", "{answer:?}");
            }
            Ok(())
        })
        .await?;
        println!("{:?}", load.stop_without_failure().await?.apps);
        // A changed listener would cut its old connections, if only after long.
        let now = [handed(http).await?, handed(echo).await?];
        ensure!(
            now == listeners,
            "a listener changed: {listeners:?} {now:?}"
        );
        for (what, lasting) in lasting {
            println!("{what} lasted: {}", lasting.end(what).await?);
        }
        Ok(())
    })
}

/// The application's port has one protocol, and then another one, so that its sidecar gets another listener each time.
#[test]
fn a_handshake_outlasts_the_listener_of_the_server() -> Result<()> {
    scope(async |mesh| {
        let client = mesh.pod(PodSpec::new("client-1")).await?;
        let server = mesh.pod(PodSpec::new("server-1")).await?;
        let both = Service::new("server");
        let declared = both
            .ports
            .iter()
            .filter(|(_, port, _)| *port != port::ANY[0]);
        let declared: Vec<_> = declared.cloned().collect();
        mesh.world.service(both.clone());
        // A handshake for each call, and no second attempt.
        let policy = json!({"target": {"service": "server"}, "connections": {"maxRequests": 1}, "retries": {"attempts": 0}});
        mesh.world.put("TrafficPolicy", "server", policy);
        mesh.write()?;
        mesh.settled(&client.client).await?;
        let http = mesh.at("server", 80)?;
        ensure!(client.client.call(http).await?.app == "server-1");
        let load = Load::start(&client.client, http, Duration::ZERO, |answer| {
            answer.app == "server-1"
        });
        let listener = async || versions(&server.envoy, "dynamic_listeners", "inbound").await;
        for change in 0..20 {
            let before = listener().await?;
            if let Some(service) = mesh.world.services.get_mut("server") {
                let ports = if change % 2 == 0 {
                    &declared
                } else {
                    &both.ports
                };
                service.ports.clone_from(ports);
            }
            mesh.write()?;
            eventually("the listener changes", async || {
                ensure!(listener().await? != before, "still {before:?}");
                Ok(())
            })
            .await?;
        }
        println!("{} calls", load.stop_without_failure().await?.calls);
        Ok(())
    })
}
