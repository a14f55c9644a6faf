//! Taps: live requests from the Envoys by the agents to their owner, without secrets, and off again by themselves.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use heddle_xds_types::edges::Reporter;
use heddle_xds_types::tap::{PATH, Sides, TapAnswer, TapFilter, TapLine, TapRequest};
use serde_json::Value;

use crate::harness::Fixture;
use crate::{callers, programmed, schema};

const PODS: [&str; 2] = ["frontend-1", "reviews-v1-1"];
const SECRETS: &str = "authorization: Bearer SECRET\r\ncookie: session=SECRET\r\nx-api-key: SECRET\r\n\
    user-agent: tap-test\r\naccept: text/html\r\n";

fn request(id: u8) -> TapRequest {
    TapRequest {
        id: format!("{id:032x}"),
        namespace: "shop".to_owned(),
        workload: None,
        filter: TapFilter {
            sides: Some(Sides::Both),
            ..TapFilter::default()
        },
        headers: vec!["user-agent".to_owned()],
        query: false,
        per_second: 100,
        seconds: 600,
        end: false,
    }
}

/// Asks on the socket of the control plane. Returns the status and the body.
fn ask(mesh: &Fixture, request: &TapRequest) -> (String, String) {
    let body = serde_json::to_string(request).unwrap();
    let mut stream = UnixStream::connect(mesh.path("run/tap.sock")).unwrap();
    write!(
        stream,
        "POST {PATH} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap();
    if status == "200" {
        schema::holds("TapRequest", &serde_json::to_string(request).unwrap());
        schema::holds("TapAnswer", body);
    }
    (status.to_owned(), body.to_owned())
}

/// A request of the frontend's application. Only the v1 of the service has a sidecar, so it is repeated until that one answers.
fn call(mesh: &Fixture, path: &str, until: &str) {
    for _ in 0..200 {
        let mut stream = TcpStream::connect(mesh.address(51, 9080)).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nhost: reviews\r\nconnection: close\r\n{SECRETS}\r\n"
        )
        .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        if text.contains(until) {
            return;
        }
    }
    panic!("no answer with {until}");
}

/// Calls and asks until a row is as wanted. Returns it.
fn until_row(
    mesh: &Fixture,
    tap: &TapRequest,
    (path, answer): (&str, &str),
    wanted: impl Fn(&TapLine) -> bool,
) -> TapLine {
    let mut last = String::new();
    for _ in 0..40 {
        call(mesh, path, answer);
        let (status, body) = ask(mesh, tap);
        assert_eq!(status, "200", "{body}");
        assert!(!body.contains("SECRET"), "{body}");
        let answer: TapAnswer = serde_json::from_str(&body).unwrap();
        assert_eq!((answer.sidecars, answer.too_old_count), (2, 0));
        if let Some(row) = answer.rows.into_iter().find(|row| wanted(row)) {
            return row;
        }
        last = body;
    }
    panic!("no such row: {last}");
}

fn reporter(row: &TapLine) -> Reporter {
    Reporter::try_from(row.request.reporter).unwrap()
}

/// The value that wakes the logger of a sidecar, as its Envoy has it.
fn woken(mesh: &Fixture, pod: &str) -> String {
    let mut stream = UnixStream::connect(mesh.path(pod).join("admin.sock")).unwrap();
    stream
        .write_all(b"GET /runtime HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let json: String = text.split_once("\r\n\r\n").unwrap().1.to_owned();
    let start = json.find('{').unwrap();
    let end = json.rfind('}').unwrap();
    let all: Value = serde_json::from_str(&json[start..=end]).unwrap();
    let value = &all["entries"]["heddle.tap"]["final_value"];
    value.as_str().unwrap_or_default().to_owned()
}

pub fn shows_live_requests_and_no_secret(mesh: &mut Fixture) {
    mesh.until_in_sync(&["shop/frontend-1", "shop/reviews-v1-1"]);
    let listeners = PODS.map(|pod| mesh.listener_changes(pod));
    assert_eq!(PODS.map(|pod| woken(mesh, pod)), ["", ""]);

    let tap = request(1);
    let get = ("/items/1?token=SECRET", "v1");
    let of_server = until_row(mesh, &tap, get, |row| {
        reporter(row) == Reporter::Destination
    });
    let frontend = "spiffe://cluster.local/ns/shop/sa/frontend";
    assert_eq!(
        (&*of_server.pod, &*of_server.workload),
        ("reviews-v1-1", "reviews-v1-1")
    );
    let seen = &of_server.request;
    assert_eq!(
        (&*seen.peer, &*seen.service, seen.mtls),
        (frontend, "reviews", true)
    );
    assert_eq!(
        (&*seen.method, &*seen.path, seen.status),
        ("GET", "/items/1", 200)
    );
    assert_eq!((seen.sent_bytes, &*seen.flags, &*seen.policy), (2, "", ""));
    assert!(seen.time_ms > 0 && seen.duration_us > 0 && !seen.peer_address.is_empty());
    assert_eq!(seen.headers.len(), 1, "{:?}", seen.headers);
    assert_eq!(
        (&*seen.headers[0].name, &*seen.headers[0].value),
        ("user-agent", "tap-test")
    );
    let of_client = until_row(mesh, &tap, get, |row| {
        reporter(row) == Reporter::Source && row.request.mtls
    });
    let seen = &of_client.request;
    assert_eq!(
        (&*of_client.pod, &*seen.service),
        ("frontend-1", "shop/reviews")
    );
    assert_eq!(seen.server, "spiffe://cluster.local/ns/shop/sa/reviews");

    assert_eq!(PODS.map(|pod| mesh.listener_changes(pod)), listeners);
    mesh.apply("callers.yaml", &callers("somebody", ""));
    mesh.status("AuthPolicy", "callers", programmed(1));
    let denied = ("/items/1?token=SECRET", "403");
    let denied = until_row(mesh, &tap, denied, |row| {
        row.request.status == 403 && reporter(row) == Reporter::Destination
    });
    assert_eq!(denied.request.policy, "no-allow:shop/callers");
    mesh.apply("callers.yaml", &callers("frontend", ""));
    mesh.status("AuthPolicy", "callers", programmed(2));
    // A policy about callers changes the listeners of the client, which may follow after the servers.
    mesh.until_in_sync(&["shop/frontend-1", "shop/reviews-v1-1"]);
    let listeners = PODS.map(|pod| mesh.listener_changes(pod));

    filters_and_bounds(mesh, &tap);
    assert_eq!(PODS.map(|pod| woken(mesh, pod)), ["10000", "10000"]);
    ends_by_itself(mesh);
    assert_eq!(PODS.map(|pod| mesh.listener_changes(pod)), listeners);
}

/// `other`: a tap that lasts, if it is asked for.
fn filters_and_bounds(mesh: &Fixture, other: &TapRequest) {
    let slow = TapRequest {
        per_second: 1,
        filter: TapFilter {
            path_prefix: Some("/wanted".to_owned()),
            ..TapFilter::default()
        },
        ..request(2)
    };
    ask(mesh, &slow);
    mesh.eventually("requests are left out", || {
        for _ in 0..10 {
            call(mesh, "/wanted/1", "v1");
            call(mesh, "/other", "v1");
        }
        ask(mesh, other);
        let answer: TapAnswer = serde_json::from_str(&ask(mesh, &slow).1).unwrap();
        assert!(
            answer
                .rows
                .iter()
                .all(|row| row.request.path == "/wanted/1")
        );
        answer.left_out > 0
    });
    let refused = TapRequest {
        headers: vec!["authorization".to_owned()],
        ..request(3)
    };
    let (status, text) = ask(mesh, &refused);
    assert_eq!(status, "400");
    assert!(text.contains("carries credentials"), "{text}");
    ask(mesh, other);
    let end = TapRequest { end: true, ..slow };
    assert_eq!(ask(mesh, &end).0, "200");
}

/// As when the command line dies, and as when no control plane comes back.
fn ends_by_itself(mesh: &mut Fixture) {
    mesh.eventually("a tap without an owner ends", || {
        PODS.iter().all(|pod| woken(mesh, pod).is_empty())
    });
    ask(mesh, &request(4));
    mesh.eventually("another one begins", || {
        ask(mesh, &request(4));
        PODS.iter().all(|pod| woken(mesh, pod) == "10000")
    });
    mesh.stop_control_plane();
    mesh.eventually("the agents stop their Envoys", || {
        call(mesh, "/", "v1");
        PODS.iter().all(|pod| woken(mesh, pod) == "0")
    });
    mesh.start_control_plane();
    mesh.until_in_sync(&["shop/frontend-1", "shop/reviews-v1-1"]);
    mesh.eventually("the next control plane has no tap", || {
        PODS.iter().all(|pod| woken(mesh, pod).is_empty())
    });
}
