//! The end of a pod: the hook is answered once every caller has acknowledged that it has the pod no more.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant, UNIX_EPOCH};

use heddle_xds_types::rollout::{Receipt, ReceiptsReport, ReleaseReason};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::bytes;
use crate::harness::{Fixture, PATIENCE, WORLD};
use crate::schema;

/// The v1 of `reviews` is being deleted, and its endpoints are not ready: as the API server and the controller of slices say.
const ENDING: [(&str, &str); 2] = [
    (
        "addresses: [\"NET.21\"], conditions: {ready: true}",
        "addresses: [\"NET.21\"], conditions: {ready: false, serving: false, terminating: true}",
    ),
    (
        "  name: reviews-v1-1\n  namespace: shop\n",
        "  name: reviews-v1-1\n  namespace: shop\n  deletionTimestamp: \"2026-01-01T00:00:00Z\"\n",
    ),
];

impl Fixture {
    /// Signals the Envoy of an agent: 0 is the frontend's.
    fn signal_envoy(&self, agent: usize, signal: Signal) {
        let agent = self.agents[agent].child.id();
        let children = fs::read_to_string(format!("/proc/{agent}/task/{agent}/children"));
        let envoy = children.unwrap().trim().parse().unwrap();
        kill(Pid::from_raw(envoy), signal).unwrap();
    }

    /// Writes the world again with some texts replaced.
    fn change_world(&self, replacements: &[(&str, &str)]) {
        let mut world = WORLD.to_owned();
        for (from, to) in replacements {
            assert!(world.contains(from), "{from}");
            world = world.replace(from, to);
        }
        self.apply("world.yaml", &world);
    }

    /// Calls the hook of a pod in a thread, as the kubelet does. The answer is its status line.
    fn hook(&self, host: u8) -> std::thread::JoinHandle<String> {
        let at = self.address(host, 15021);
        std::thread::spawn(move || {
            let mut stream = TcpStream::connect(at).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let request = "GET /hooks/pre-stop HTTP/1.1\r\nhost: kubelet\r\n\r\n";
            stream.write_all(request.as_bytes()).unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            text.lines().next().unwrap_or_default().to_owned()
        })
    }

    /// Waits until the receipt of a pod is as wanted, and returns it.
    fn until_receipt(&self, pod: &str, wanted: impl Fn(&Receipt) -> bool) -> Receipt {
        let read = || -> Option<Receipt> {
            let text = fs::read_to_string(self.path("run/receipts.json")).ok()?;
            let report: ReceiptsReport = serde_json::from_str(&text).ok()?;
            report.receipts.into_iter().find(|of| of.pod == pod)
        };
        let holds = || read().is_some_and(|receipt| wanted(&receipt));
        let what = format!("the receipt of {pod}");
        self.eventually_or(&what, holds, || format!("{:#?}", read()));
        schema::file_holds("ReceiptsReport", &self.path("run/receipts.json"));
        read().unwrap()
    }
}

/// In milliseconds, from the removal of the pod on: longer than the least wait of the hook.
const EXCHANGE: u64 = 2000;

pub fn wait_for_every_caller(mesh: &mut Fixture) {
    let _taken = bytes::application(mesh.address(121, bytes::PORT));
    mesh.until_in_sync(&["shop/frontend-1", "shop/reviews-v1-1"]);
    let answers = mesh.requests(20);
    assert!(answers.of("v1") > 0, "{answers:?}");

    let mut exchange = bytes::greeted(mesh.address(52, bytes::PORT)).unwrap();

    // One caller does not acknowledge.
    mesh.signal_envoy(0, Signal::SIGSTOP);
    let hook = mesh.hook(21);
    mesh.change_world(&ENDING);
    let receipt = mesh.until_receipt("reviews-v1-1", |of| of.withdrawn_at.is_some());
    let open = (receipt.acknowledged_at, receipt.released_at);
    assert_eq!(open, (None, None), "{receipt:?}");
    assert_eq!(receipt.missing, ["shop/frontend-1"]);
    assert!(!hook.is_finished());

    mesh.signal_envoy(0, Signal::SIGCONT);
    let removal = UNIX_EPOCH + Duration::from_millis(receipt.withdrawn_at.unwrap());
    let since = removal.elapsed().unwrap_or_default();
    std::thread::sleep(Duration::from_millis(EXCHANGE).saturating_sub(since));
    assert!(bytes::works(&mut exchange));
    drop(exchange);
    assert_eq!(hook.join().unwrap(), "HTTP/1.1 200 OK");
    // From the answer on, on the first request: nothing goes to the pod.
    let answers = mesh.requests(60);
    assert_eq!(answers.of("v2"), 60, "{answers:?}");
    let receipt = mesh.until_receipt("reviews-v1-1", |of| of.released_at.is_some());
    assert_eq!(
        receipt.reason,
        Some(ReleaseReason::Acknowledged),
        "{receipt:?}"
    );
    assert_eq!(
        (&*receipt.namespace, &*receipt.workload),
        ("shop", "reviews-v1-1")
    );
    assert_eq!(
        (receipt.acknowledged, receipt.callers),
        (1, 1),
        "{receipt:?}"
    );
    // Three services have it: reviews, reviews-v1 and db.
    assert_eq!(receipt.services, 3);
    let (acknowledged, released) = (receipt.acknowledged_at, receipt.released_at);
    assert!(released.unwrap() >= acknowledged.unwrap(), "{receipt:?}");
    let since = released.unwrap() - receipt.withdrawn_at.unwrap();
    assert!(
        since >= EXCHANGE,
        "it cut an exchange of bytes: {receipt:?}"
    );
    assert!(receipt.last_request_at <= acknowledged, "{receipt:?}");
}

/// Without a control plane the wait is the fixed one, and the receipt is lost.
pub fn wait_the_fixed_time_without_a_control_plane(mesh: &mut Fixture) {
    mesh.stop_control_plane();
    let begun = Instant::now();
    let hook = mesh.hook(21);
    assert_eq!(hook.join().unwrap(), "HTTP/1.1 200 OK");
    let waited = begun.elapsed();
    assert!(waited >= Duration::from_secs(5), "{waited:?}");
}
