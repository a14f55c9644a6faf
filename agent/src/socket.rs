//! The agent's own servers for its Envoy, each on a Unix socket in the private directory.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use heddle_acceptor::{
    Acceptor, Bounds, ConnectionHandler, Deadlines, Http, Listener, Options, Protocol, Security,
};
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

use crate::dir;

/// A server on a socket.
pub(crate) struct Server {
    /// Its name in metrics and errors.
    pub(crate) name: &'static str,
    pub(crate) protocol: Protocol,
    /// The time for a request. `None`: without an end.
    pub(crate) request: Option<Duration>,
}

impl Server {
    /// Serves until the socket fails. An old socket of the same name is replaced.
    pub(crate) async fn serve<H: ConnectionHandler>(self, at: &Path, handler: H) -> Result<()> {
        dir::remove(at)?;
        let listener = UnixListener::bind(at)
            .with_context(|| format!("{} can't be listened on", at.display()))?;
        // The directory keeps other users out already; the socket refuses them even so.
        let listener = Listener::of_user(listener, nix::unistd::geteuid().as_raw());
        let name = self.name;
        let acceptor = Acceptor::new(self.options(), Arc::default());
        let never = CancellationToken::new();
        acceptor
            .serve(listener, Security::Plain, handler, never)
            .await
            .with_context(|| format!("the socket of the {name} failed"))
    }

    /// Envoy keeps few connections: one for the secrets, some for readers of metrics.
    fn options(self) -> Options {
        Options {
            name: self.name,
            bounds: Bounds {
                connections: 64,
                per_source: 64,
                reserved: 0,
                displace_busy: false,
            },
            deadlines: Deadlines {
                request: self.request,
                ..Deadlines::default()
            },
            http: Http {
                protocol: self.protocol,
                ..Http::default()
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body_util::Empty;
    use hyper::body::{Bytes, Incoming};
    use hyper::service::service_fn;
    use hyper::{Request, Response};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;
    use tokio::sync::Semaphore;

    use super::*;

    const BOUND: usize = 64;

    async fn ask(at: &Path) -> UnixStream {
        // The server binds the socket in its own task.
        let mut stream = loop {
            match UnixStream::connect(at).await {
                Ok(stream) => break stream,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        let request = b"GET / HTTP/1.1\r\nhost: agent\r\n\r\n";
        // The server may have closed the connection.
        let _ = stream.write_all(request).await;
        stream
    }

    #[tokio::test]
    async fn a_connection_beyond_the_bound_is_closed_and_the_others_are_answered() {
        let (begun, answers) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
        let handler = {
            let (begun, answers) = (Arc::clone(&begun), Arc::clone(&answers));
            move |_: Arc<heddle_acceptor::Link>| {
                let (begun, answers) = (Arc::clone(&begun), Arc::clone(&answers));
                service_fn(move |_: Request<Incoming>| {
                    let (begun, answers) = (Arc::clone(&begun), Arc::clone(&answers));
                    async move {
                        begun.add_permits(1);
                        answers.acquire().await.unwrap().forget();
                        Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
                    }
                })
            }
        };
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().join("test.sock");
        let server = Server {
            name: "test",
            protocol: Protocol::Http1,
            request: None,
        };
        let path = at.clone();
        let serving = tokio::spawn(async move { server.serve(&path, handler).await });
        let mut streams = Vec::new();
        for _ in 0..BOUND {
            streams.push(ask(&at).await);
        }
        let all = begun.acquire_many(u32::try_from(BOUND).unwrap()).await;
        all.unwrap().forget();
        // A connection with a running request leaves its place to no other.
        let mut beyond = ask(&at).await;
        let mut answer = [0; 64];
        tokio::select! {
            read = beyond.read(&mut answer) => assert_eq!(read.unwrap_or_default(), 0),
            _ = begun.acquire() => panic!("the connection has a place"),
        }
        answers.add_permits(BOUND);
        for mut stream in streams {
            let read = stream.read(&mut answer).await.unwrap();
            assert!(answer[..read].starts_with(b"HTTP/1.1 200"), "{read}");
        }
        // A place is free again.
        let mut next = ask(&at).await;
        answers.add_permits(1);
        let read = next.read(&mut answer).await.unwrap();
        assert!(answer[..read].starts_with(b"HTTP/1.1 200"), "{read}");
        serving.abort();
    }
}
