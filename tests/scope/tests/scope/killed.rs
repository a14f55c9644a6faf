//! An Envoy is killed under load.

use std::time::Duration;

use anyhow::{Result, ensure};
use heddle_scope_tests::{Load, PodSpec, Service, Tally, eventually, scope};

/// The callers, each of which makes one call after the other.
const CALLERS: usize = 4;
const PAUSE: Duration = Duration::from_millis(5);

/// Prints the figures of docs/performance.md: calls that failed, and the time until the sidecar was ready again.
#[test]
fn calls_fail_only_until_a_killed_envoy_is_ready_again() -> Result<()> {
    scope(async |mesh| {
        mesh.world.service(Service::new("server"));
        let client = mesh.pod(PodSpec::new("client-1")).await?;
        let mut servers = [
            mesh.pod(PodSpec::new("server-1")).await?,
            mesh.pod(PodSpec::new("server-2")).await?,
            mesh.pod(PodSpec::new("server-3")).await?,
        ];
        mesh.write()?;
        mesh.settled(&client.client).await?;
        let at = mesh.at("server", 80)?;
        client.client.call(at).await?;
        let loads: Vec<Load> = (0..CALLERS)
            .map(|_| {
                Load::start(&client.client, at, PAUSE, |answer| {
                    answer.app.starts_with("server-")
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_secs(1)).await;

        let back = servers[1].kill_envoy().await?;
        let mut during = Tally::default();
        for load in loads {
            let tally = load.stop().await?;
            during.calls += tally.calls;
            during.failures.extend(tally.failures);
        }
        println!(
            "{} of {} calls to three pods failed; the sidecar was ready again after {} ms",
            during.failures.len(),
            during.calls,
            back.as_millis()
        );
        // Some 0.3 s and two calls on an idle machine.
        ensure!(back < Duration::from_secs(10), "{back:?}");
        ensure!(during.failures.len() < 20, "{:#?}", during.failures);
        // The callers' sidecars have ejected the pod for a while. No call fails until it answers again, and after.
        let after = Load::start(&client.client, at, PAUSE, |answer| {
            answer.app.starts_with("server-")
        });
        eventually("the pod answers again", async || {
            let answer = client.client.call(at).await?;
            ensure!(answer.app == "server-2", "{answer:?}");
            Ok(())
        })
        .await?;
        after.stop_without_failure().await?;
        Ok(())
    })
}
