//! The application behind the sidecars: answers every HTTP/1.1 request with the same few bytes.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::place::Place;

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 2\r\n\r\nok";
/// The requests here have a few hundred bytes; beyond this it is something else.
const MAX_HEAD: usize = 16 * 1024;
const IDLE: Duration = Duration::from_secs(300);

/// Serves until the process ends, on a thread and runtime of its own.
///
/// # Errors
/// When the address can't be had.
pub fn start(address: SocketAddr) -> Result<()> {
    start_at(&Place::here(), address)
}

/// The same in another network.
///
/// # Errors
/// When the address can't be had there.
pub fn start_at(place: &Place, address: SocketAddr) -> Result<()> {
    let listener = place.run(|| {
        std::net::TcpListener::bind(address)
            .with_context(|| format!("the application at {address}"))
    })?;
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    std::thread::Builder::new()
        .name("echo".to_owned())
        .spawn(move || {
            runtime.block_on(async {
                if let Err(error) = accept(listener).await {
                    eprintln!("the application at {address} ended: {error:#}");
                }
            });
        })?;
    Ok(())
}

async fn accept(listener: std::net::TcpListener) -> Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(async move {
            // A caller that hangs up is not an event here.
            let _ = answer(stream).await;
        });
    }
}

async fn answer(mut stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut head = Vec::with_capacity(1024);
    loop {
        let read = tokio::time::timeout(IDLE, stream.read_buf(&mut head)).await??;
        if read == 0 || head.len() > MAX_HEAD {
            return Ok(());
        }
        // One request at a time and none with a body: the load generator sends no others.
        if head.ends_with(b"\r\n\r\n") {
            stream.write_all(ANSWER).await?;
            head.clear();
        }
    }
}
