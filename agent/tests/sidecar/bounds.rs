//! The bound on the connections of a sidecar.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;

use crate::pod::{Pod, envoy, get, until};

/// The bound of the test.
const BOUND: usize = 40;

/// A program in the place of Envoy. It puts the bound of the test into the bootstrap, where the bootstrap has one, and becomes Envoy.
fn bounded(pod: &Pod) -> PathBuf {
    let path = pod.dir.path().join("envoy.sh");
    let field = "\"max_active_downstream_connections\": *";
    let script = format!(
        "#!/bin/sh\nsed -i 's/\\({field}\\)[0-9][0-9]*/\\1{BOUND}/' \"$2\" || exit 1\nexec '{}' \"$@\"\n",
        envoy().display()
    );
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o700)).unwrap();
    path
}

/// The number of connections that the other end has closed.
fn closed(connections: &[TcpStream]) -> usize {
    let is_open = |connection: &&TcpStream| {
        let read = connection.try_read(&mut [0]);
        read.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
    };
    connections.len() - connections.iter().filter(is_open).count()
}

/// The listener of metrics has connections up to the bound, which is that of all listeners together. Envoy's admin interface is
/// exempt: by it the agent answers the kubelet's probe.
#[tokio::test]
async fn connections_beyond_the_bound_are_closed_and_the_probe_is_answered() {
    let mut pod = Pod::new().await;
    let mut command = pod.command();
    command.env("HEDDLE_ENVOY", bounded(&pod));
    pod.start(&mut command);
    pod.until_ready().await;
    let mut held = Vec::new();
    for _ in 0..2 * BOUND {
        held.push(TcpStream::connect(pod.ports.metrics).await.unwrap());
    }
    let half = || async { closed(&held) == BOUND };
    let log = || format!("{} are closed\n{}", closed(&held), pod.log());
    until("those beyond the bound are closed", half, log).await;

    for listener in [pod.ports.metrics, pod.ports.outbound] {
        let answer = get(listener, "/stats/prometheus").await;
        assert!(answer.is_err(), "{answer:?}");
    }
    assert_eq!(pod.admin("/ready").await, "LIVE\n");
    // The agent keeps an answer of Envoy for 200 ms.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(500) {
        assert!(pod.is_ready().await, "{}", pod.log());
    }
    assert_eq!(closed(&held), BOUND, "those within the bound stay");

    drop(held);
    let answers = || async {
        let metrics = get(pod.ports.metrics, "/stats/prometheus").await;
        let call = get(pod.ports.outbound, "/").await;
        metrics.is_ok_and(|answer| answer.status == 200)
            && call.is_ok_and(|answer| answer.status == 200)
    };
    until("metrics and calls again", answers, || pod.log()).await;
}
