//! A mesh with a fixed scope.

use anyhow::{Result, ensure};
use heddle_scope_tests::{PodSpec, Service, eventually, port, scope};
use serde_json::json;

#[test]
fn with_on_demand_off_a_pod_holds_what_is_declared() -> Result<()> {
    scope(async |mesh| {
        mesh.world.mesh(json!({"scope": {"onDemand": "Disabled"}}));
        for name in ["server", "other"] {
            mesh.world.service(Service::new(name));
        }
        let _server = mesh.pod(PodSpec::new("server-1")).await?;
        let _other = mesh.plain(PodSpec::plain("other-1"))?;
        let client = PodSpec::new("client-1").annotation("heddle.dev/destinations", "shop/server");
        let client = mesh.pod(client).await?;
        let (http, echo, other) = (
            mesh.at("server", 80)?,
            mesh.at("server", port::ECHO)?,
            mesh.at("other", 80)?,
        );
        eventually("what is declared is there", async || {
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
        let answer = client.client.call(http).await?;
        ensure!(
            answer.app == "server-1" && answer.peer.ends_with("/sa/client"),
            "{answer:?}"
        );
        client.client.echo(echo).await?;
        ensure!(client.envoy.fetched().await? == 0, "something was fetched");
        let answer = client.client.call(other).await;
        ensure!(answer.is_err(), "what is not declared answers: {answer:?}");
        let clusters = client.envoy.clusters().await?;
        ensure!(
            !clusters.iter().any(|name| name.contains("shop/other|")),
            "{clusters:?}"
        );
        Ok(())
    })
}
