//! The server's side of a pod that is a client too.

use anyhow::{Context, Result, ensure};
use heddle_scope_tests::{PATIENCE, PodSpec, Service, port, scope};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The record of a ClientHello that offers TLS 1.2 without extensions: an application's own TLS.
fn client_hello() -> Vec<u8> {
    let mut hello = vec![0x03, 0x03];
    hello.extend([7; 32]);
    hello.extend([0, 0, 2, 0x00, 0x2f, 1, 0]);
    let length = u8::try_from(hello.len()).unwrap_or_default();
    let mut record = vec![0x16, 0x03, 0x01, 0, length + 4, 0x01, 0, 0, length];
    record.extend(hello);
    record
}

#[test]
fn a_pod_that_calls_itself_still_serves_others() -> Result<()> {
    scope(async |mesh| {
        let client = mesh.pod(PodSpec::new("client-1")).await?;
        let server = mesh.pod(PodSpec::new("server-1")).await?;
        mesh.world.service(Service::new("server"));
        mesh.write()?;
        mesh.settled(&client.client).await?;
        mesh.settled(&server.client).await?;
        let http = [
            mesh.at("server", 80)?,
            mesh.at_v6("server", 80)?,
            server.at(port::HTTP)?,
            server.at_v6(port::HTTP)?,
        ];
        let banner = [mesh.at("server", port::BANNER)?, server.at(port::BANNER)?];
        let peer = |account: &str| format!("URI=spiffe://cluster.local/ns/shop/sa/{account}");

        // Twice: the first through the second stage, then by the listener.
        for _ in 0..2 {
            for to in http {
                let answer = server
                    .client
                    .call(to)
                    .await
                    .with_context(|| format!("itself, at {to}"))?;
                ensure!(
                    answer.app == "server-1" && answer.peer.ends_with(&peer("server")),
                    "{to}: {answer:?}"
                );
            }
            for to in banner {
                ensure!(server.client.banner(to).await? == "server-1");
            }
        }
        let listeners = server.envoy.listeners().await?;
        for to in http.iter().chain(&banner) {
            ensure!(
                listeners.contains(&format!("dst|{to}")),
                "not learned: {to}"
            );
        }
        for _ in 0..2 {
            for to in http {
                let answer = client
                    .client
                    .call(to)
                    .await
                    .with_context(|| format!("a client, at {to}"))?;
                ensure!(
                    answer.app == "server-1" && answer.peer.ends_with(&peer("client")),
                    "{to}: {answer:?}"
                );
            }
            for to in banner {
                ensure!(client.client.banner(to).await? == "server-1");
            }
            for to in [server.at(port::HTTP)?, server.at_v6(port::HTTP)?] {
                let answer = mesh
                    .outside()
                    .call(to)
                    .await
                    .with_context(|| format!("outside, at {to}"))?;
                ensure!(
                    answer.app == "server-1" && answer.peer.is_empty(),
                    "{to}: {answer:?}"
                );
            }
        }
        Ok(())
    })
}

#[test]
fn callers_without_a_sidecar_speak_as_they_like() -> Result<()> {
    scope(async |mesh| {
        let server = mesh.pod(PodSpec::new("server-1")).await?;
        // Only the ports that the pod names itself declare a protocol.
        let any = |name: &str, at, target| (name.to_owned(), at, target);
        mesh.world.service(Service {
            ports: vec![
                any("any-one", 1, port::HTTP),
                any("any-two", 2, port::ECHO),
                any("any-three", 3, port::BANNER),
            ],
            ..Service::new("server")
        });
        mesh.write()?;
        mesh.settled(&server.client).await?;
        let outside = mesh.outside();
        outside
            .call(server.at(port::HTTP)?)
            .await
            .context("HTTP, not declared")?;
        ensure!(
            outside
                .banner(server.at(port::BANNER)?)
                .await
                .context("a banner, not declared")?
                == "server-1"
        );
        for (at, what, greeting) in [
            (port::OTHER_ECHO, "declared", ""),
            (port::ECHO, "not declared", ""),
            (port::BANNER, "not declared", "server-1\n"),
        ] {
            for bytes in [b"is anybody there".to_vec(), client_hello()] {
                let mut stream = outside.connect(server.at(at)?).await?;
                says(&mut stream, greeting.as_bytes(), &bytes)
                    .await
                    .with_context(|| {
                        format!("{at}, {what}: {}", String::from_utf8_lossy(&bytes))
                    })?;
            }
        }
        Ok(())
    })
}

/// Sends at once, and gets the greeting and the bytes back.
async fn says(stream: &mut TcpStream, greeting: &[u8], bytes: &[u8]) -> Result<()> {
    stream.write_all(bytes).await?;
    let mut back = vec![0; greeting.len() + bytes.len()];
    tokio::time::timeout(PATIENCE, stream.read_exact(&mut back)).await??;
    ensure!(back == [greeting, bytes].concat(), "{back:?}");
    Ok(())
}
