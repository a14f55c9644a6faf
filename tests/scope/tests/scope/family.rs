//! A call goes to endpoints of the family that was called.

use anyhow::{Result, ensure};
use heddle_scope_tests::{PodSpec, Service, port, scope};

/// The application listens on IPv4 alone; its sidecar accepts connections of both families.
#[test]
fn a_call_by_one_family_never_goes_to_the_other() -> Result<()> {
    scope(async |mesh| {
        for name in ["server", "both"] {
            mesh.world.service(Service::new(name));
        }
        let _server = mesh.pod(PodSpec::new("server-1").ipv4_only()).await?;
        let both = mesh.pod(PodSpec::new("both-1")).await?;
        let plain = mesh.plain(PodSpec::plain("both-2"))?;
        let client = mesh.pod(PodSpec::new("client-1")).await?;
        for service_port in [80, port::ANY[0]] {
            let (four, six) = (
                mesh.at("server", service_port)?,
                mesh.at_v6("server", service_port)?,
            );
            for _ in 0..10 {
                let answer = client.client.call(four).await?;
                ensure!(answer.app == "server-1", "{answer:?}");
                let status = client.client.status(six).await?;
                ensure!(status == 503, "{six} answers {status}");
            }
        }
        client.client.echo(mesh.at("server", port::ECHO)?).await?;
        let echo = client.client.echo(mesh.at_v6("server", port::ECHO)?).await;
        ensure!(echo.is_err(), "bytes by IPv6 reach an application on IPv4");
        for to in [mesh.at("both", 80)?, mesh.at_v6("both", 80)?] {
            for _ in 0..10 {
                client.client.call(to).await?;
            }
        }
        for (cluster, four) in [("out|shop/both|80", true), ("out|shop/both|80|6", false)] {
            let mut expected = Vec::new();
            for ip in both.spec.ips.iter().chain(&plain.spec.ips) {
                expected.extend((ip.is_ipv4() == four).then_some(*ip));
            }
            expected.sort();
            let there = client.envoy.addresses(cluster).await?;
            ensure!(there == expected, "{cluster}: {there:?}, not {expected:?}");
        }
        Ok(())
    })
}
