//! One small HTTP/1.1 request on a connection of its own: readiness, metrics, Envoy's admin socket.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

const TIMEOUT: Duration = Duration::from_secs(10);
const MAX_ANSWER: u64 = 64 << 20;

/// The body of the answer to a GET, if it is 200.
///
/// # Errors
/// When it is anything else, or takes too long.
pub async fn get<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    path: &str,
    headers: &[(&str, &str)],
) -> Result<String> {
    let exchange = async {
        let mut request =
            format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n");
        for (name, value) in headers {
            request += &format!("{name}: {value}\r\n");
        }
        stream.write_all((request + "\r\n").as_bytes()).await?;
        stream.flush().await?;
        let mut answer = Vec::new();
        // A peer that cuts TLS off without a close has sent its answer all the same.
        if let Err(error) = stream.take(MAX_ANSWER).read_to_end(&mut answer).await
            && answer.is_empty()
        {
            return Err(error.into());
        }
        body(&answer)
    };
    tokio::time::timeout(TIMEOUT, exchange)
        .await
        .with_context(|| format!("GET {path}: no answer in {TIMEOUT:?}"))?
        .with_context(|| format!("GET {path}"))
}

fn body(answer: &[u8]) -> Result<String> {
    let text = String::from_utf8_lossy(answer);
    let (head, body) = text.split_once("\r\n\r\n").context("no HTTP answer")?;
    let status = head.lines().next().unwrap_or_default();
    if status.split(' ').nth(1) != Some("200") {
        bail!("{status}: {}", body.trim());
    }
    let chunked = head
        .lines()
        .any(|line| line.eq_ignore_ascii_case("transfer-encoding: chunked"));
    if chunked {
        unchunked(body)
    } else {
        Ok(body.to_owned())
    }
}

fn unchunked(mut body: &str) -> Result<String> {
    let mut out = String::new();
    loop {
        let (size, rest) = body.split_once("\r\n").context("a chunk is cut off")?;
        let size = usize::from_str_radix(size.trim(), 16).context("a chunk's size")?;
        if size == 0 {
            return Ok(out);
        }
        out += rest.get(..size).context("a chunk is cut off")?;
        body = rest
            .get(size..)
            .and_then(|rest| rest.strip_prefix("\r\n"))
            .context("a chunk has no end")?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_come_in_one_piece() {
        let plain = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
        assert_eq!(body(plain).unwrap(), "ok");
        let chunks = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\na\r\n0123456789\r\n0\r\n\r\n";
        assert_eq!(body(chunks).unwrap(), "abc0123456789");
        for bad in ["", "HTTP/1.1 503 no\r\n\r\nnot yet"] {
            assert!(body(bad.as_bytes()).is_err());
        }
        assert!(unchunked("5\r\nab").is_err());
    }
}
