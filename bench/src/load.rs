//! The load generator: HTTP/1.1 over kept connections at a fixed rate, aware of coordinated omission.
//!
//! Open loop: when each request has to go out is fixed before the first one goes. A request that has to wait for a slow
//! answer on its connection is counted from when it should have gone out, so a stall shows in full.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures::future::try_join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::stats::Sample;
use crate::timer::Timer;

const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_HEAD: usize = 16 * 1024;

/// The requests to send, and their rate.
#[derive(Debug, Clone)]
pub struct Load {
    /// Requests a second, over all connections.
    pub rate: u32,
    /// Connections, each with one request at a time.
    pub connections: u32,
    /// Sent first and not counted.
    pub warm_up: Duration,
    /// Counted.
    pub counted: Duration,
    /// The `Host` header.
    pub host: String,
}

/// Times of all counted requests, in microseconds.
#[derive(Debug, Clone)]
pub struct Times {
    /// From when each should have gone out.
    pub scheduled: Sample,
    /// From when each went out.
    pub sent: Sample,
}

#[derive(Debug, Clone, Copy)]
struct Timing {
    scheduled: Duration,
    sent: Duration,
}

impl Load {
    /// Runs against an address, on a thread and runtime of its own. Any answer but 200 is an error, not a figure.
    ///
    /// # Errors
    /// When a request fails.
    pub async fn run(&self, address: SocketAddr) -> Result<Times> {
        let load = self.clone();
        let thread = move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(load.all_connections(address))
        };
        tokio::task::spawn_blocking(thread)
            .await?
            .with_context(|| format!("load on {address}"))
    }

    async fn all_connections(&self, address: SocketAddr) -> Result<Times> {
        // A little later than now, so that all connections stand when the first request is due.
        let start = Instant::now() + Duration::from_millis(200);
        let all =
            try_join_all((0..self.connections).map(|index| self.connection(address, start, index)))
                .await?;
        let micros = |of: fn(&Timing) -> Duration| {
            Sample::new(
                all.iter()
                    .flatten()
                    .map(move |timing| of(timing).as_secs_f64() * 1e6),
            )
        };
        Ok(Times {
            scheduled: micros(|timing| timing.scheduled),
            sent: micros(|timing| timing.sent),
        })
    }

    async fn connection(
        &self,
        address: SocketAddr,
        start: Instant,
        index: u32,
    ) -> Result<Vec<Timing>> {
        let step = Duration::from_secs(1) / self.rate.max(1);
        let period = step * self.connections;
        let mut connection = Connection::open(address, &self.host).await?;
        let mut timer = Timer::new()?;
        let mut timings = Vec::new();
        let mut due = start + step * index;
        let (count_from, end) = (start + self.warm_up, start + self.warm_up + self.counted);
        while due < end {
            timer.until(due).await?;
            let sent = Instant::now();
            tokio::time::timeout(REQUEST_TIMEOUT, connection.call())
                .await
                .context("no answer in time")??;
            let done = Instant::now();
            if due >= count_from {
                timings.push(Timing {
                    scheduled: done - due,
                    sent: done - sent,
                });
            }
            due += period;
        }
        Ok(timings)
    }
}

/// One request, to see whether the way is open.
///
/// # Errors
/// When it is not answered with 200.
pub async fn once(address: SocketAddr, host: &str, within: Duration) -> Result<()> {
    let call = async { Connection::open(address, host).await?.call().await };
    tokio::time::timeout(within, call)
        .await
        .context("no answer in time")?
}

struct Connection {
    stream: TcpStream,
    request: Vec<u8>,
    buffer: Vec<u8>,
}

impl Connection {
    async fn open(address: SocketAddr, host: &str) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let request =
            format!("GET /work HTTP/1.1\r\nhost: {host}\r\nuser-agent: heddle-bench\r\n\r\n")
                .into_bytes();
        Ok(Self {
            stream,
            request,
            buffer: Vec::with_capacity(4096),
        })
    }

    async fn call(&mut self) -> Result<()> {
        self.stream.write_all(&self.request).await?;
        self.buffer.clear();
        loop {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                bail!("the connection was closed");
            }
            if let Some(length) = answer_length(&self.buffer)? {
                match self.buffer.len().cmp(&length) {
                    std::cmp::Ordering::Less => {}
                    std::cmp::Ordering::Equal => return Ok(()),
                    std::cmp::Ordering::Greater => bail!("more came than was announced"),
                }
            }
        }
    }
}

/// The length of head and body, once the head is there.
fn answer_length(bytes: &[u8]) -> Result<Option<usize>> {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        if bytes.len() > MAX_HEAD {
            bail!("the answer's head has no end");
        }
        return Ok(None);
    };
    let head = std::str::from_utf8(bytes.get(..end).unwrap_or_default())?;
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap_or_default();
    if !status.starts_with("HTTP/1.1 200") {
        let body = String::from_utf8_lossy(bytes.get(end + 4..).unwrap_or_default());
        bail!(
            "answered with `{status}`: {}",
            body.chars().take(300).collect::<String>()
        );
    }
    let length = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let (_, length) = length.context("the answer has no content-length")?;
    Ok(Some(end + 4 + length.trim().parse::<usize>()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read() {
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        assert_eq!(answer_length(whole).unwrap(), Some(whole.len()));
        assert_eq!(answer_length(b"HTTP/1.1 200 OK\r\n").unwrap(), None);
        assert!(answer_length(b"HTTP/1.1 503 no\r\ncontent-length: 0\r\n\r\n").is_err());
        assert!(answer_length(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    }

    #[tokio::test]
    async fn sends_at_the_rate_asked_for() {
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        crate::echo::start(port).unwrap();
        let load = Load {
            rate: 200,
            connections: 4,
            warm_up: Duration::from_millis(100),
            counted: Duration::from_millis(500),
            host: "echo".to_owned(),
        };
        let times = load.run(port).await.unwrap();
        assert_eq!((times.scheduled.len(), times.sent.len()), (100, 100));
        assert!(times.scheduled.min() >= times.sent.min());
    }
}
