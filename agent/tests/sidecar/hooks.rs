//! The hook of the kubelet, beside other clients.

use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpSocket;

use crate::pod::get;
use crate::started;

/// Every client that reaches the pod can call the hook.
#[tokio::test]
async fn strangers_at_the_hook_leave_the_kubelet_its_hook_and_its_probes() {
    let pod = started().await;
    let mut held = Vec::new();
    for n in 0..200_u8 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, 100 + n % 3], 0).into()).unwrap();
        let mut stream = socket.connect(pod.ready).await.unwrap();
        let request = b"GET /hooks/pre-stop HTTP/1.1\r\nhost: stranger\r\n\r\n";
        // One that was made room for may have gone already.
        let _ = stream.write_all(request).await;
        held.push(stream);
    }
    let asked = Instant::now();
    let hooks = (0..4).map(|_| get(pod.ready, "/hooks/pre-stop"));
    let hooks = futures::future::join_all(hooks);
    let probes = async {
        for _ in 0..3 {
            assert!(pod.is_ready().await, "{}", pod.log());
        }
    };
    let (answers, ()) = tokio::join!(hooks, probes);
    for answer in answers {
        assert_eq!(answer.unwrap().status, 200);
    }
    assert!(asked.elapsed() > Duration::from_secs(4), "it did not wait");
    drop(held);
    let log = pod.log();
    let lines = log.matches("the application may end").count();
    assert!(lines <= 30, "{lines} lines");
}
