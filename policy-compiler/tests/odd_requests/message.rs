//! HTTP/1 messages as bytes on a connection.

use std::io::Read;
use std::net::TcpStream;

use anyhow::{Context, Result, ensure};

/// Names and values as they were written, in order.
type Headers = Vec<(String, Vec<u8>)>;

/// A message, without the framing of its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub line: String,
    pub headers: Headers,
    pub body: Vec<u8>,
    pub trailers: Headers,
}

/// The end of the body of a message that has no length.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Without {
    /// There is no body: a request, or the answer to HEAD.
    Body,
    /// The body ends with the connection.
    Length,
}

/// Bytes of a connection that have not been read as a message yet.
pub struct Reader<'a> {
    stream: &'a mut TcpStream,
    buffer: Vec<u8>,
}

impl<'a> Reader<'a> {
    pub fn new(stream: &'a mut TcpStream) -> Self {
        Self {
            stream,
            buffer: Vec::new(),
        }
    }

    /// Reads one message.
    pub fn message(&mut self, without: Without) -> Result<Message> {
        let line = self.line()?;
        let headers = self.headers()?;
        let value = |name: &str| {
            let named = |(own, _): &&(String, Vec<u8>)| own.eq_ignore_ascii_case(name);
            let found = headers.iter().find(named);
            found.map(|(_, value)| String::from_utf8_lossy(value).into_owned())
        };
        let code = line.strip_prefix("HTTP/").and_then(|rest| rest.get(4..7));
        let bare = code.is_some_and(|code| code.starts_with('1') || ["204", "304"].contains(&code));
        let answer_to_head = without == Without::Body && code.is_some();
        let (mut body, mut trailers) = (Vec::new(), Vec::new());
        if bare || answer_to_head {
            // The length is that of another answer.
        } else if value("transfer-encoding").is_some_and(|value| value.contains("chunked")) {
            (body, trailers) = self.chunks()?;
        } else if let Some(length) = value("content-length") {
            body = self.bytes(length.trim().parse()?)?;
        } else if without == Without::Length {
            while self.more()? {}
            body = std::mem::take(&mut self.buffer);
        }
        Ok(Message {
            line,
            headers,
            body,
            trailers,
        })
    }

    fn chunks(&mut self) -> Result<(Vec<u8>, Headers)> {
        let mut body = Vec::new();
        loop {
            let line = self.line()?;
            let size = line.split(';').next().unwrap_or_default();
            let size = usize::from_str_radix(size.trim(), 16).context(line.clone())?;
            if size == 0 {
                return Ok((body, self.headers()?));
            }
            body.extend(self.bytes(size)?);
            ensure!(self.line()?.is_empty(), "a chunk is longer than it says");
        }
    }

    fn headers(&mut self) -> Result<Headers> {
        let mut headers = Vec::new();
        loop {
            let line = self.raw_line()?;
            if line.is_empty() {
                return Ok(headers);
            }
            let colon = line.iter().position(|byte| *byte == b':');
            let (name, value) = line.split_at(colon.context("a header without colon")?);
            let value = value[1..].trim_ascii().to_vec();
            headers.push((String::from_utf8(name.to_vec())?, value));
        }
    }

    fn line(&mut self) -> Result<String> {
        Ok(String::from_utf8_lossy(&self.raw_line()?).into_owned())
    }

    fn raw_line(&mut self) -> Result<Vec<u8>> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\r\n") {
                let mut line: Vec<u8> = self.buffer.drain(..end + 2).collect();
                line.truncate(end);
                return Ok(line);
            }
            ensure!(self.more()?, "the connection ends within a message");
        }
    }

    fn bytes(&mut self, count: usize) -> Result<Vec<u8>> {
        while self.buffer.len() < count {
            ensure!(self.more()?, "the connection ends within a body");
        }
        Ok(self.buffer.drain(..count).collect())
    }

    /// Reads more; false at the end of the connection.
    fn more(&mut self) -> Result<bool> {
        let mut buffer = [0; 1 << 16];
        let read = self.stream.read(&mut buffer)?;
        self.buffer.extend_from_slice(&buffer[..read]);
        Ok(read > 0)
    }
}
