//! A way to a server that can be cut: TCP connections are passed on as they are, TLS and all, until they are ended at once.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// The state of the way.
#[derive(Debug, Clone, Copy)]
struct Way {
    open: bool,
    /// Grows with each cut: connections of before are ended.
    cuts: u64,
}

/// The way to one server; dropped, it takes no more connections and ends those that are there.
#[derive(Debug)]
pub struct Cutter {
    /// Where it listens.
    pub address: SocketAddr,
    way: watch::Sender<Way>,
    ended: Arc<AtomicU64>,
}

impl Cutter {
    /// Leads to this server.
    ///
    /// # Errors
    /// When there is no port to be had.
    pub async fn start(to: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (way, seen) = watch::channel(Way {
            open: true,
            cuts: 0,
        });
        let ended = Arc::new(AtomicU64::new(0));
        let address = listener.local_addr()?;
        tokio::spawn(accept(listener, to, seen, Arc::clone(&ended)));
        Ok(Self {
            address,
            way,
            ended,
        })
    }

    /// Ends all connections; others may be made at once.
    pub fn cut(&self) {
        self.way.send_modify(|way| way.cuts += 1);
    }

    /// Ends all connections, and every new one as soon as it is made.
    pub fn shut(&self) {
        self.way.send_modify(|way| {
            way.open = false;
            way.cuts += 1;
        });
    }

    /// Lets connections pass again.
    pub fn open(&self) {
        self.way.send_modify(|way| way.open = true);
    }

    /// Connections that were ended in the middle so far.
    pub fn ended(&self) -> u64 {
        self.ended.load(Ordering::Relaxed)
    }
}

async fn accept(
    listener: TcpListener,
    to: SocketAddr,
    mut way: watch::Receiver<Way>,
    ended: Arc<AtomicU64>,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            // Only the sender's end is of interest here.
            over = way.changed() => match over {
                Ok(()) => continue,
                Err(_) => return,
            },
        };
        match accepted {
            Ok((from, _)) if way.borrow().open => {
                tokio::spawn(pass(from, to, way.clone(), Arc::clone(&ended)));
            }
            // Dropped, it is closed.
            Ok(_) => {}
            Err(error) => {
                eprintln!("the way to {to} takes no more connections: {error}");
                return;
            }
        }
    }
}

async fn pass(
    mut from: TcpStream,
    to: SocketAddr,
    mut way: watch::Receiver<Way>,
    ended: Arc<AtomicU64>,
) {
    let cuts = way.borrow().cuts;
    let Ok(mut to) = TcpStream::connect(to).await else {
        return;
    };
    // Without delays of its own.
    if from.set_nodelay(true).and(to.set_nodelay(true)).is_err() {
        return;
    }
    tokio::select! {
        // A failure on either side ends the other; there is nothing else to do.
        _ = copy_bidirectional(&mut from, &mut to) => {}
        // An error means that the way itself is gone.
        _ = way.wait_for(|way| way.cuts != cuts) => {
            ended.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const WITHIN: Duration = Duration::from_secs(10);

    async fn greeted(at: SocketAddr) -> Option<TcpStream> {
        let mut stream = TcpStream::connect(at).await.unwrap();
        let mut byte = [0];
        let read = tokio::time::timeout(WITHIN, stream.read_exact(&mut byte)).await;
        read.unwrap().ok().map(|_| stream)
    }

    #[tokio::test]
    async fn connections_pass_until_they_are_cut() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let cutter = Cutter::start(server.local_addr().unwrap()).await.unwrap();
        tokio::spawn(async move {
            let mut kept = Vec::new();
            while let Ok((mut stream, _)) = server.accept().await {
                stream.write_all(b"x").await.unwrap();
                kept.push(stream);
            }
        });
        let mut first = greeted(cutter.address).await.expect("it is open");
        cutter.cut();
        let rest = tokio::time::timeout(WITHIN, first.read(&mut [0])).await;
        // Either a proper end or a reset.
        assert!(matches!(rest.unwrap(), Ok(0) | Err(_)));
        assert_eq!(cutter.ended(), 1);
        assert!(greeted(cutter.address).await.is_some(), "still open");
        cutter.shut();
        assert!(greeted(cutter.address).await.is_none());
        cutter.open();
        assert!(greeted(cutter.address).await.is_some());
    }
}
