//! Policies about connections of bytes: a change closes no connection and leaves the listener as it is.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::harness::Fixture;
use crate::programmed;

const GREETING: &[u8] = b"220 hello\r\n";
pub const PORT: u16 = 5432;
const OPEN: usize = 10;
const CHANGES: usize = 100;

fn policy(callers: &[&str]) -> String {
    format!(
        "
apiVersion: heddle.dev/v1alpha1
kind: AuthPolicy
metadata: {{name: db, namespace: shop}}
spec: {{target: {{service: db}}, rules: [{{from: {{identities: [{}]}}}}]}}
",
        callers.join(", ")
    )
}

/// An application that greets and echoes; returns the number of connections that it has taken.
pub fn application(at: SocketAddr) -> Arc<AtomicUsize> {
    let taken = Arc::new(AtomicUsize::new(0));
    let (listener, count) = (TcpListener::bind(at).unwrap(), Arc::clone(&taken));
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            count.fetch_add(1, Ordering::Relaxed);
            std::thread::spawn(move || {
                let mut buffer = [0; 64];
                let _ = stream.write_all(GREETING);
                while let Ok(read @ 1..) = stream.read(&mut buffer) {
                    let _ = stream.write_all(&buffer[..read]);
                }
            });
        }
    });
    taken
}

/// A connection that has heard the greeting, or nothing if it ended before.
pub fn greeted(to: SocketAddr) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(to).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let mut heard = Vec::new();
    let mut buffer = [0; GREETING.len()];
    while heard.len() < GREETING.len() {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => heard.extend_from_slice(&buffer[..read]),
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
                break;
            }
        }
    }
    assert!(heard.is_empty() || heard == GREETING, "{heard:?}");
    (!heard.is_empty()).then_some(stream)
}

/// Whether a connection to an application that echoes still passes bytes both ways.
pub fn works(stream: &mut TcpStream) -> bool {
    let mut echo = [0; 4];
    stream.write_all(b"ping").is_ok() && stream.read_exact(&mut echo).is_ok() && &echo == b"ping"
}

pub fn policies_change_for_new_connections_only(mesh: &Fixture) {
    let taken = application(mesh.address(121, PORT));
    let (by_mesh, by_nobody) = (mesh.address(52, PORT), mesh.address(21, PORT));
    mesh.until_in_sync(&["shop/frontend-1", "shop/reviews-v1-1"]);
    let mut open: Vec<TcpStream> = (0..OPEN).map(|_| greeted(by_mesh).unwrap()).collect();
    // Without an identity, until a policy asks for one.
    open.push(greeted(by_nobody).unwrap());
    assert!(open.iter_mut().all(works));
    let listeners = mesh.listener_changes("reviews-v1-1");

    for change in 1..=CHANGES {
        let other = format!("shop/other-{change}");
        mesh.apply("db.yaml", &policy(&["shop/frontend", &other]));
        mesh.status(
            "AuthPolicy",
            "db",
            programmed(i64::try_from(change).unwrap()),
        );
    }
    let before = taken.load(Ordering::Relaxed);
    assert!(greeted(by_nobody).is_none(), "a denied caller hears");
    assert_eq!(taken.load(Ordering::Relaxed), before);
    assert!(works(&mut greeted(by_mesh).unwrap()));

    mesh.apply("db.yaml", &policy(&["shop/nobody"]));
    let last = i64::try_from(CHANGES + 1).unwrap();
    mesh.status("AuthPolicy", "db", programmed(last));
    assert!(greeted(by_mesh).is_none(), "the newest policy decides");
    mesh.remove("db.yaml", "AuthPolicy", "db");
    mesh.until_in_sync(&["shop/frontend-1", "shop/reviews-v1-1"]);
    assert!(works(&mut greeted(by_nobody).unwrap()));

    let working = open
        .iter_mut()
        .filter_map(|stream| works(stream).then_some(()));
    assert_eq!(working.count(), OPEN + 1, "established connections stay");
    assert_eq!(mesh.listener_changes("reviews-v1-1"), listeners);
}
