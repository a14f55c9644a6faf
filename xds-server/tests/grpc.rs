//! Python's gRPC finds a service by `xds:///`, over the state-of-the-world protocol.
// Clippy takes only the test functions themselves for tests, not the functions they call.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

mod support;

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use heddle_xds_server::ResourceKind::{Cluster, Endpoints, Listener, Route};
use heddle_xds_server::{Flavor, Security};
use support::resources::{api_listener, cluster, endpoints, key, route};
use support::{Fixture, Process, Running, runs, tool};

const NODE: &str = "shop/grpc-0";

/// Talks with `grpc_client.py`. Its calls have a deadline, so no read waits for ever.
struct Client {
    process: Process,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Client {
    fn start(bootstrap: &str) -> Self {
        let python = tool("HEDDLE_PYTHON", ".cache/venv/bin/python", "python");
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/grpc_client.py");
        let mut command = Command::new(python);
        command
            .arg(script)
            .env("GRPC_XDS_BOOTSTRAP_CONFIG", bootstrap);
        let mut process = Process::start(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
        let lines = BufReader::new(process.child().stdout.take().unwrap()).lines();
        Self { process, lines }
    }

    fn line(&mut self) -> String {
        self.lines.next().unwrap().unwrap()
    }

    fn call(&mut self) -> String {
        writeln!(self.process.child().stdin.as_mut().unwrap()).unwrap();
        self.line()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_finds_a_service() {
    let source = Fixture::new();
    let server = Running::start(&source, Security::Plain, "127.0.0.1:0").await;
    let bootstrap = serde_json::json!({
        "node": {"id": NODE},
        "xds_servers": [{
            "server_uri": server.address.to_string(),
            "channel_creds": [{"type": "insecure"}],
            "server_features": ["xds_v3"],
        }],
    });
    let mut client = Client::start(&bootstrap.to_string());
    let ports: Vec<u16> = client
        .line()
        .split(' ')
        .map(|port| port.parse().unwrap())
        .collect();
    source.put([
        api_listener("svc", "svc"),
        route("svc", "a", "1"),
        cluster("a", 1),
        endpoints("a", ports[0]),
        cluster("b", 1),
        endpoints("b", ports[1]),
    ]);
    assert_eq!(client.call(), "one");
    let all = [
        key(Listener, "svc"),
        key(Route, "svc"),
        key(Cluster, "a"),
        key(Endpoints, "a"),
    ];
    let progress = server
        .until(NODE, "in sync", |p| all.iter().all(|k| runs(p, k)))
        .await;
    assert_eq!(
        (progress.flavor, progress.resources),
        (Flavor::Sotw, 4),
        "only the resources it asked for"
    );

    // Its cluster moves: the client asks for the new one by name, and uses it once it has its endpoints.
    source.put([route("svc", "b", "2")]);
    server
        .until(NODE, "moved", |p| runs(p, &key(Endpoints, "b")))
        .await;
    let answers = std::iter::repeat_with(|| client.call()).take(1000);
    let wrong = answers.take_while(|answer| answer == "one").count();
    assert!(wrong < 1000, "it stayed with the old cluster");

    // Endpoints alone.
    source.put([endpoints("b", ports[0])]);
    let moved = |answer: &String| answer == "two";
    let answers = std::iter::repeat_with(|| client.call()).take(1000);
    assert!(
        answers.take_while(moved).count() < 1000,
        "it stayed with the old endpoints"
    );
    let nacks = server.counters.snapshot().nacks;
    assert_eq!(
        (nacks.cluster, nacks.endpoints, nacks.listener, nacks.route),
        (0, 0, 0, 0)
    );
    server.stop().await;
}
