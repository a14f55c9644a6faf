//! The agent with a real stock Envoy against a small control plane with a real CA.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod bounds;
mod hooks;
mod link;
mod plane;
mod pod;
mod resources;

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use heddle_agent::{Settings, Sockets, bootstrap};
use heddle_xds_types::golden;
use link::Link;
use nix::sys::signal::{Signal, kill};
use plane::ZONE;
use tokio::net::TcpSocket;

use pod::{DEADLINE, Pod, alive, envoy, get, until};

async fn started() -> Pod {
    let mut pod = Pod::new().await;
    let mut command = pod.command();
    pod.start(&mut command);
    pod.until_ready().await;
    pod
}

#[test]
fn the_bootstrap_is_valid() {
    let dir = tempfile::tempdir().unwrap();
    let service = "heddle-operator.heddle-system.svc";
    for (host, format, memory, zone) in [
        ("127.0.0.1", "text", None, None),
        ("fd00::1", "json", Some(64 << 20), Some("zone-a")),
        (service, "json", Some(256 << 20), Some("zone-b")),
    ] {
        let settings = Settings::from_env(|name| {
            let value = match name {
                "HEDDLE_CONTROL_PLANE" => host,
                "HEDDLE_LOG_FORMAT" => format,
                "HEDDLE_TRUST_BUNDLE" => "-----BEGIN CERTIFICATE-----",
                "HEDDLE_TRUST_DOMAIN" => "cluster.local",
                "HEDDLE_TOKEN_FILE" | "POD_NAME" | "POD_NAMESPACE" | "POD_SERVICE_ACCOUNT" => "x",
                _ => return None,
            };
            Some(value.to_owned())
        })
        .unwrap();
        let socket = |name| dir.path().join(name);
        let sockets = Sockets {
            sds: &socket("sds"),
            admin: &socket("admin"),
            agent: &socket("agent"),
            metrics: &socket("metrics"),
        };
        let config = bootstrap(&settings, &sockets, memory, zone);
        let path = dir.path().join("envoy.json");
        std::fs::write(&path, serde_json::to_vec(&config).unwrap()).unwrap();
        let output = Command::new(envoy())
            .args(["--mode", "validate", "-c"])
            .arg(&path)
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned()
            + &String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{stderr}");
        assert!(!stderr.to_lowercase().contains("deprecated"), "{stderr}");
        assert!(!stderr.to_lowercase().contains("unknown field"), "{stderr}");
    }
}

#[tokio::test]
async fn ten_thousand_idle_connections_leave_readiness_and_calls_working() {
    assert!(
        heddle_acceptor::raise_open_files().unwrap() > 11_000,
        "the limit of open files is too low for this test; raise it (ulimit -Hn 20000)"
    );
    let mut pod = Pod::new().await;
    let mut command = pod.command_after("ulimit -Sn 1024");
    pod.start(&mut command);
    pod.until_ready().await;
    let mut held = Vec::new();
    for host in (100..108).cycle().take(10_000) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, host], 0).into()).unwrap();
        held.push(socket.connect(pod.ready).await.unwrap());
    }
    for _ in 0..3 {
        assert!(pod.is_ready().await, "{}", pod.log());
        let answer = get(pod.ports.outbound, "/").await.unwrap();
        assert_eq!(answer.status, 200);
    }
    let metrics = get(pod.ports.metrics, "/stats/prometheus").await.unwrap();
    let refused = "heddle_listener_connections_ended_early_total{server=\"readiness\",reason=";
    let counts = metrics
        .body
        .lines()
        .filter_map(|line| line.strip_prefix(refused));
    let counts = counts.filter_map(|line| line.split_once(' ')?.1.parse::<u64>().ok());
    assert!(counts.sum::<u64>() > 9_000, "{}", metrics.body);
    drop(held);
    let log = pod.log();
    assert!(!log.contains("Too many open files"), "{log}");
}

#[tokio::test]
async fn leaves_change_while_requests_flow() {
    let mut pod = Pod::new().await;
    *pod.plane.lifetime.lock().unwrap() = Duration::from_secs(9);
    let mut command = pod.command();
    pod.start(&mut command);
    pod.until_ready().await;
    let mut serials = BTreeSet::new();
    let end = Instant::now() + DEADLINE;
    let mut requests = 0;
    while serials.len() < 4 {
        let answer = get(pod.ports.outbound, "/").await.unwrap();
        assert_eq!(
            (answer.status, answer.body.as_str()),
            (200, "hello"),
            "after {requests} requests\n{}",
            pod.log()
        );
        serials.insert(answer.serial.expect("the inbound side saw a certificate"));
        requests += 1;
        assert!(Instant::now() < end, "{serials:?} in {requests} requests");
    }
    assert!(pod.plane.issued.load(Ordering::SeqCst) >= 4);
    assert!(requests > 50, "only {requests} requests");
    assert!(pod.is_ready().await);
}

#[tokio::test]
async fn nothing_private_is_written_or_logged() {
    let pod = started().await;
    let run = pod.dir.path().join("run");
    assert_eq!(
        std::fs::metadata(&run).unwrap().permissions().mode() & 0o777,
        0o700
    );
    let names: BTreeSet<String> = run
        .read_dir()
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(
        names,
        [
            "admin.sock",
            "agent.sock",
            "envoy.json",
            "metrics.sock",
            "sds.sock"
        ]
        .map(str::to_owned)
        .into()
    );
    for text in [
        std::fs::read_to_string(run.join("envoy.json")).unwrap(),
        pod.log(),
    ] {
        assert!(
            !text.contains("PRIVATE") && !text.contains(plane::TOKEN),
            "{text}"
        );
    }
    let environment = std::fs::read(format!("/proc/{}/environ", pod.envoy_pid())).unwrap();
    assert_eq!(
        String::from_utf8(environment).unwrap(),
        "ID=spiffe://cluster.local/ns/shop/sa/cart\0NS=shop\0OTEL_RESOURCE_ATTRIBUTES=service.name=cart,service.namespace=shop,k8s.namespace.name=shop,k8s.pod.name=cart-0\0WL=cart\0",
        "Envoy gets nothing else of the agent's environment"
    );
    for path in ["/", "/healthz", "/healthz/ready/x"] {
        assert_eq!(get(pod.ready, path).await.unwrap().status, 404);
    }
    let answer = get(pod.ready, "/healthz/ready").await.unwrap();
    assert_eq!((answer.status, answer.body.as_str()), (200, ""));
}

#[tokio::test]
async fn metrics_have_labels_through_the_agent() {
    let pod = started().await;
    get(pod.ports.outbound, "/").await.unwrap();
    let metrics = || async { get(pod.ports.metrics, "/stats/prometheus").await.unwrap() };
    let kept = [
        "envoy_server_live",
        "envoy_heddle_request_duration_ms_count{reporter=\"source\",source_namespace=\"shop\",source_workload=\"cart\",source_principal=\"spiffe://cluster.local/ns/shop/sa/cart\",destination_namespace=\"shop\",destination_service=\"itself\",upstream_cluster=\"/\",protocol=\"http\",response_code=\"200\"} 1",
        "envoy_heddle_request_duration_ms_bucket{reporter=\"destination\",source_principal=\"/\",destination_namespace=\"shop\",destination_workload=\"cart\",",
        "upstream_cluster=\"/\",protocol=\"http\",response_code=\"200\",le=\"30000\"} 1",
        "envoy_heddle_request_failures_total{reporter=\"source\",",
        "envoy_http_downstream_rq_active{envoy_http_conn_manager_prefix=\"outbound\"",
        "envoy_listener_downstream_cx_active{envoy_listener_address=\"inbound\"",
        "envoy_cluster_upstream_cx_active{envoy_cluster_name=\"heddle-control-plane\"",
        "envoy_control_plane_connected_state",
    ];
    // Envoy merges the histograms of its threads every five seconds, and each side counts at a time of its own.
    let has_all = || async {
        let body = metrics().await.body;
        kept.iter().all(|part| body.contains(part))
    };
    until("all metrics", has_all, || pod.log()).await;
    let answer = metrics().await;
    assert_eq!(answer.status, 200);
    assert!(
        !answer.body.contains("envoy_cluster_name=\"app\""),
        "an unused figure is kept: {}",
        answer.body
    );
}

#[tokio::test]
async fn metrics_are_scraped_without_labels_that_a_runtime_value_leaves_out() {
    let left_out = golden::left_out(&["source_principal", "upstream_cluster"]);
    let runtime = resources::runtime(golden::LEFT_OUT, left_out);
    let mut pod = Pod::with(|resources| resources.push(runtime)).await;
    let mut command = pod.command();
    pod.start(&mut command);
    pod.until_ready().await;
    get(pod.ports.outbound, "/").await.unwrap();
    let path = "/stats/prometheus?names=istio&usedonly";
    let metrics = || async { get(pod.ports.metrics, path).await.unwrap().body };
    let counted = || async { metrics().await.contains("le=\"30000\"} 1\n") };
    until("the durations", counted, || pod.log()).await;
    let text = metrics().await;
    for expected in [
        "envoy_heddle_request_duration_ms_count{reporter=\"source\",source_namespace=\"shop\",source_workload=\"cart\",destination_namespace=\"shop\",destination_service=\"itself\",protocol=\"http\",response_code=\"200\"} ",
        "istio_requests_total{reporter=\"source\",source_workload=\"cart\",source_workload_namespace=\"shop\",",
    ] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    let refused = get(pod.ports.metrics, "/stats/prometheus?names=x").await;
    assert_eq!(refused.unwrap().status, 400);
}

/// Counters of requests by path: at most three, over both listeners.
#[tokio::test]
async fn series_of_golden_metrics_are_bounded_over_all_listeners() {
    let pod = started().await;
    for path in 0..6 {
        get(pod.ports.outbound, &format!("/{path}")).await.unwrap();
    }
    let text = get(pod.ports.metrics, "/stats/prometheus").await.unwrap();
    let series = |name: &str| {
        let lines = text.body.lines();
        lines.filter(|line| line.starts_with(name)).count()
    };
    let durations = series("envoy_heddle_request_duration_ms_count{");
    assert_eq!(durations, 3, "{}", text.body);
    assert_eq!(series("envoy_heddle_request_failures_total{"), 3);
}

/// The plane has no runtime resource, and no server is behind the agent's cluster.
#[tokio::test]
async fn the_lasting_parts_of_the_bootstrap_do_not_delay_readiness() {
    let begun = Instant::now();
    let pod = started().await;
    let elapsed = begun.elapsed();
    assert!(elapsed < Duration::from_secs(12), "{elapsed:?}");
    let runtime = pod.admin("/runtime").await;
    for name in [
        "\"heddle\"",
        "envoy.reloadable_features.tcp_proxy_delay_route_selection",
        "re2.max_program_size.error_level",
    ] {
        assert!(runtime.contains(name), "{name}: {runtime}");
    }
    let clusters = pod.admin("/clusters").await;
    assert!(
        clusters.contains("heddle-agent::default_priority"),
        "{clusters}"
    );
    let node = pod.admin("/server_info").await;
    let node: serde_json::Value = serde_json::from_str(&node).unwrap();
    assert_eq!(node["node"]["locality"]["zone"], ZONE);
    assert!(
        clusters.contains("heddle-local::default_priority"),
        "{clusters}"
    );
}

#[tokio::test]
async fn loads_are_reported_to_the_replica_that_serves_ads() {
    let pod = started().await;
    let seen = &pod.plane.seen;
    let counted = |cluster: &str| seen.loads.lock().unwrap().get(cluster).copied() >= Some(1);
    let reported = || async {
        // The traffic of a cluster before its first period is not reported, so one request would prove nothing.
        get(pod.ports.outbound, "/").await.unwrap();
        counted("app") && counted("to-itself")
    };
    until("the loads", reported, || format!("{:?}", seen.loads)).await;
    let connection = seen.streams.lock().unwrap()[0];
    assert_eq!(
        *seen.reporters.lock().unwrap(),
        [("shop/cart-0".to_owned(), connection)]
    );
}

#[tokio::test]
async fn a_control_plane_that_falls_silent_is_left_for_another_connection() {
    let mut pod = Pod::new().await;
    let link = Link::to(pod.plane.ads).await;
    let mut command = pod.command();
    command.env("HEDDLE_ADS_PORT", link.address.port().to_string());
    pod.start(&mut command);
    pod.until_ready().await;
    let seen = &pod.plane.seen;
    let both = |count: usize| {
        let (streams, reporters) = (seen.streams.lock().unwrap(), seen.reporters.lock().unwrap());
        let together = streams.last() == reporters.last().map(|(_, connection)| connection);
        streams.len() >= count && reporters.len() >= count && together
    };
    until("both streams", || async { both(1) }, || pod.log()).await;
    link.silence();
    until("both streams again", || async { both(2) }, || pod.log()).await;
    assert_eq!(link.connections.load(Ordering::SeqCst), 2);
    assert!(pod.is_ready().await, "the pod stays in service");
    assert_eq!(get(pod.ports.outbound, "/").await.unwrap().status, 200);
}

#[tokio::test]
async fn an_expired_token_is_read_anew() {
    let mut pod = Pod::new().await;
    pod.write_token("an-old-token");
    let mut command = pod.command();
    pod.start(&mut command);
    let refused = || async { pod.plane.refused.load(Ordering::SeqCst) >= 2 };
    until("two refusals", refused, || pod.log()).await;
    assert!(!pod.is_ready().await);
    let log = pod.log();
    assert!(
        log.contains("does not accept the pod's token") && log.contains("the token has expired"),
        "{log}"
    );
    assert!(!log.contains("an-old-token"), "{log}");
    pod.write_token(plane::TOKEN);
    pod.until_ready().await;
}

#[tokio::test]
async fn a_control_plane_of_another_root_gets_no_token() {
    let mut pod = Pod::new().await;
    let (stranger, _) = heddle_identity::Ca::create(&plane::domain(), SystemTime::now()).unwrap();
    let mut command = pod.command();
    command
        .env("HEDDLE_TRUST_BUNDLE", stranger.trust_bundle())
        .env("HEDDLE_LOG_FORMAT", "json");
    pod.start(&mut command);
    let tried = || async {
        pod.log()
            .lines()
            .filter(|l| l.contains("no certificate could be had"))
            .count()
            >= 2
    };
    until("two attempts", tried, || pod.log()).await;
    let (issued, refused) = (&pod.plane.issued, &pod.plane.refused);
    assert_eq!(
        (
            issued.load(Ordering::SeqCst),
            refused.load(Ordering::SeqCst)
        ),
        (0, 0),
        "no request came through"
    );
    let log = pod.log();
    let line: serde_json::Value =
        serde_json::from_str(log.lines().find(|l| l.contains("could be had")).unwrap()).unwrap();
    assert_eq!(line["level"], "ERROR");
    assert!(
        line["error"].as_str().unwrap().contains("can't be reached"),
        "{line}"
    );
    // Told to end before Envoy ever ran, it ends at once.
    kill(pod.pid(), Signal::SIGTERM).unwrap();
    assert_eq!(pod.ended().await.code(), Some(0));
}

#[tokio::test]
async fn sigterm_lets_requests_end_and_outbound_work() {
    let mut pod = started().await;
    let outbound = pod.ports.outbound;
    let slow = tokio::spawn(async move { get(outbound, "/slow").await });
    pod.begun.acquire().await.unwrap().forget();
    kill(pod.pid(), Signal::SIGTERM).unwrap();
    until(
        "not ready any more",
        || async { !pod.is_ready().await },
        || pod.log(),
    )
    .await;
    assert_eq!(get(pod.ready, "/healthz/ready").await.unwrap().status, 503);
    // Longer than the quiet time: the slow request alone keeps the sidecar up.
    let end = Instant::now() + Duration::from_secs(3);
    while Instant::now() < end {
        let answer = get(outbound, "/").await.unwrap();
        assert_eq!(answer.status, 200, "{}", pod.log());
        assert!(!answer.close, "outbound is not drained");
    }
    pod.slow.add_permits(1);
    let answer = slow.await.unwrap().unwrap();
    assert_eq!((answer.status, answer.body.as_str()), (200, "hello"));
    let began = Instant::now();
    assert_eq!(pod.ended().await.code(), Some(0), "{}", pod.log());
    assert!(
        began.elapsed() < Duration::from_secs(25),
        "nothing was left to wait for"
    );
}

#[tokio::test]
async fn a_second_sigterm_ends_the_waiting() {
    let mut pod = started().await;
    let outbound = pod.ports.outbound;
    let slow = tokio::spawn(async move { get(outbound, "/slow").await });
    pod.begun.acquire().await.unwrap().forget();
    kill(pod.pid(), Signal::SIGTERM).unwrap();
    until(
        "connections are drained",
        || async { pod.log().contains("connections are drained") },
        || pod.log(),
    )
    .await;
    kill(pod.pid(), Signal::SIGTERM).unwrap();
    assert_eq!(pod.ended().await.code(), Some(0));
    assert!(slow.await.unwrap().map_or(true, |a| a.status != 200));
}

#[tokio::test]
async fn a_killed_envoy_is_started_again_at_once_until_that_becomes_the_rule() {
    let mut pod = started().await;
    let issued = pod.plane.issued.load(Ordering::SeqCst);
    for restarts in 1..=3 {
        let killed = pod.envoy_pid();
        kill(killed, Signal::SIGKILL).unwrap();
        let noticed = || async { pod.log().matches("starting it again").count() == restarts };
        until("the restart", noticed, || pod.log()).await;
        pod.until_ready().await;
        // Ready is said of the new Envoy, never of the one that was killed: the first request passes.
        assert_ne!(pod.envoy_pid(), killed);
        assert_eq!(
            get(pod.ports.outbound, "/").await.unwrap().status,
            200,
            "{}",
            pod.log()
        );
        assert_eq!(pod.plane.seen.streams.lock().unwrap().len(), 1 + restarts);
    }
    assert_eq!(
        pod.plane.issued.load(Ordering::SeqCst),
        issued,
        "the certificate is still there"
    );
    kill(pod.envoy_pid(), Signal::SIGKILL).unwrap();
    assert_eq!(pod.ended().await.code(), Some(137));
    assert!(pod.log().contains("Envoy ended unasked"), "{}", pod.log());
}

#[tokio::test]
async fn envoy_does_not_outlive_the_agent() {
    let mut pod = started().await;
    let child = pod.envoy_pid();
    kill(pod.pid(), Signal::SIGKILL).unwrap();
    pod.ended().await;
    until("Envoy is gone", || async { !alive(child) }, || pod.log()).await;
}

#[tokio::test]
async fn an_envoy_that_is_not_there_is_one_clear_line() {
    let mut pod = Pod::new().await;
    let mut command = pod.command();
    command.env("HEDDLE_ENVOY", "/no/such/envoy");
    pod.start(&mut command);
    assert_eq!(pod.ended().await.code(), Some(1));
    assert!(pod.log().contains("/no/such/envoy"), "{}", pod.log());
}
