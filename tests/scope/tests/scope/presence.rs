//! A pod is of the mesh until its containers have ended.

use anyhow::{Result, ensure};
use heddle_scope_tests::{PodSpec, Service, eventually, port, scope};
use serde_json::json;

#[test]
fn a_terminating_pod_is_served_and_called_until_it_ends() -> Result<()> {
    scope(async |mesh| {
        mesh.world.mesh(json!({"mode": "Strict"}));
        for name in ["store", "target", "later"] {
            mesh.world.service(Service::new(name));
        }
        let store = mesh.pod(PodSpec::new("store-0")).await?;
        let peer = mesh.pod(PodSpec::new("peer-0")).await?;
        let first = mesh.pod(PodSpec::new("target-1")).await?;
        let target = mesh.at("target", 80)?;
        ensure!(store.client.call(target).await?.app == "target-1");

        // From here on it is in its grace period.
        let deleted = |mesh: &mut heddle_scope_tests::Mesh| {
            if let Some(spec) = mesh.world.pods.get_mut("store-0") {
                spec.terminating = true;
            }
            mesh.write()
        };
        deleted(mesh)?;
        let _second = mesh.pod(PodSpec::new("target-2")).await?;
        mesh.delete(first)?;
        eventually("it calls the new endpoint", async || {
            let answer = store.client.call(target).await?;
            ensure!(answer.app == "target-2", "{answer:?}");
            Ok(())
        })
        .await?;

        // A destination that it never called, and a peer that calls its own address for the first time.
        let _later = mesh.pod(PodSpec::new("later-1")).await?;
        let later = mesh.at("later", 80)?;
        eventually("it calls what is new", async || {
            store.client.call(later).await
        })
        .await?;
        let own = store.at(port::HTTP)?;
        let answer = peer.client.call(own).await?;
        ensure!(answer.peer.ends_with("/sa/peer"), "no mTLS: {answer:?}");

        // It is the only endpoint that answers, and a new policy reaches it.
        let served = mesh.at("store", 80)?;
        ensure!(peer.client.call(served).await?.app == "store-0");
        let deny =
            json!({"selector": {"matchLabels": {"app": "store"}}, "rules": [{"action": "Deny"}]});
        mesh.world.put("AuthPolicy", "nobody", deny);
        mesh.write()?;
        eventually("the policy is enforced", async || {
            let status = peer.client.status(served).await?;
            ensure!(status == 403, "{status}");
            Ok(())
        })
        .await?;
        // Its probes fail by now, as those of most pods that end.
        let ready = |mesh: &mut heddle_scope_tests::Mesh, ready| {
            if let Some(spec) = mesh.world.pods.get_mut("store-0") {
                spec.ready = ready;
            }
            mesh.write()
        };
        ready(mesh, false)?;
        eventually("the status counts it", async || {
            let statuses = mesh.statuses()?;
            let policy = statuses
                .split("\n- ")
                .find(|of| of.contains("name: nobody"));
            let counted = policy.is_some_and(|of| of.contains("proxies: 1/1"));
            ensure!(counted, "{statuses}");
            Ok(())
        })
        .await?;
        ready(mesh, true)?;
        mesh.world.remove("AuthPolicy", "nobody");

        // The control plane restarts, and the sidecar comes back.
        mesh.kill_control_plane();
        store.envoy.disconnected().await?;
        mesh.write()?;
        mesh.start_control_plane().await?;
        eventually("the sidecar is back", async || {
            store.envoy.connected().await
        })
        .await?;
        eventually("the policy is gone", async || {
            let status = peer.client.status(own).await?;
            ensure!(status == 200, "{status}");
            Ok(())
        })
        .await?;
        let proxies = mesh.proxies()?.to_string();
        ensure!(proxies.contains("shop/store-0"), "{proxies}");
        Ok(())
    })
}
