//! Requests that a server's sidecar could not hand to its application go to another endpoint; those that it could are delivered once.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::harness::{Fixture, PATIENCE, WORLD};

/// The header by which the server's sidecar reports it, in an answer of the application itself.
const FORGED: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nx-heddle-unreached: 1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

/// Counts by status; `ours`: with a header of the mesh.
type Answers = BTreeMap<String, usize>;

impl Fixture {
    /// Gives the v1 of `reviews` another application.
    fn application_of_v1(&self, host: u8) {
        let (from, to) = (
            "standalone-app: NET.121",
            format!("standalone-app: NET.{host}"),
        );
        assert!(WORLD.contains(from));
        self.apply("world.yaml", &WORLD.replace(from, &to));
    }

    /// Counts the answers to POST requests of the frontend to `reviews`.
    fn posts(&self, count: usize, answers: &mut Answers) {
        for _ in 0..count {
            let answer = post(self.address(51, 9080)).unwrap();
            *answers.entry(answer).or_default() += 1;
        }
    }
}

fn post(to: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(to)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(
        b"POST / HTTP/1.1\r\nhost: reviews\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
    )?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let ours = if text.contains("x-heddle") {
        " ours"
    } else {
        ""
    };
    let status = text.split(' ').nth(1).unwrap_or_default();
    Ok(format!("{status}{ours}"))
}

/// Answers every request as if it had not come; returns how many came.
fn liar(at: SocketAddr) -> Arc<AtomicUsize> {
    let came = Arc::new(AtomicUsize::new(0));
    let listener = TcpListener::bind(at).unwrap();
    let count = Arc::clone(&came);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
            let mut buffer = [0; 4096];
            if stream.read(&mut buffer).is_ok_and(|read| read > 0) {
                count.fetch_add(1, Ordering::Relaxed);
                let _ = stream.write_all(FORGED);
            }
        }
    });
    came
}

#[test]
fn a_request_that_reached_no_application_goes_to_another_endpoint() {
    let mesh = Fixture::start();
    mesh.until_in_sync(&["shop/frontend-1", "shop/reviews-v1-1"]);
    assert!(mesh.requests(10).of("v1") > 0);

    // Its sidecar takes part, and no application listens. Before the change, in between and after it, nothing is lost.
    mesh.application_of_v1(199);
    let answers = RefCell::new(Answers::new());
    mesh.eventually_or(
        "v1 answers no more",
        || {
            mesh.posts(20, &mut answers.borrow_mut());
            mesh.requests(10).of("v2") == 10
        },
        || format!("{answers:?}"),
    );
    let answers = answers.into_inner();
    assert_eq!(answers.keys().collect::<Vec<_>>(), ["200"], "{answers:?}");
}

#[test]
fn an_application_cannot_have_its_requests_delivered_twice() {
    let mesh = Fixture::start();
    mesh.until_in_sync(&["shop/frontend-1", "shop/reviews-v1-1"]);
    let came = liar(mesh.address(198, 9080));
    mesh.application_of_v1(198);
    let answers = RefCell::new(Answers::new());
    let asked = || came.load(Ordering::Relaxed);
    mesh.eventually("a request came", || {
        mesh.posts(2, &mut answers.borrow_mut());
        asked() > 0
    });
    let mut answers = answers.into_inner();
    mesh.posts(6, &mut answers);
    assert_eq!(answers.get("503"), Some(&asked()), "{answers:?}");
    assert_eq!(answers.keys().collect::<Vec<_>>(), ["200", "503"]);
}
