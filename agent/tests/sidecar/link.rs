//! The network between a sidecar and the control plane, which can fall silent.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

pub struct Link {
    pub address: SocketAddr,
    /// Connections so far.
    pub connections: Arc<AtomicUsize>,
    silenced: watch::Sender<usize>,
}

impl Link {
    pub async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let link = Self {
            address: listener.local_addr().unwrap(),
            connections: Arc::default(),
            silenced: watch::Sender::new(0),
        };
        let (connections, silenced) = (Arc::clone(&link.connections), link.silenced.subscribe());
        tokio::spawn(async move {
            loop {
                let (mut near, _) = listener.accept().await.unwrap();
                let number = connections.fetch_add(1, Ordering::SeqCst) + 1;
                let mut silenced = silenced.clone();
                tokio::spawn(async move {
                    let mut far = TcpStream::connect(target).await.unwrap();
                    let silence =
                        async { silenced.wait_for(|up_to| *up_to >= number).await.map(drop) };
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => return,
                        _ = silence => {}
                    }
                    // Both ends stay open.
                    std::future::pending::<()>().await;
                });
            }
        });
        link
    }

    /// From now on nothing passes over the connections there are, and neither end is told.
    pub fn silence(&self) {
        let connections = self.connections.load(Ordering::SeqCst);
        self.silenced.send_replace(connections);
    }
}
