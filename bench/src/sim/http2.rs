//! One gRPC stream on one HTTP/2 connection, as a client's state machine without I/O: bytes in, messages and bytes out.
//!
//! A general HTTP/2 library costs several times the work of a simulated proxy with a message, and the load program shares
//! the cores with the server. Parts that a client with one stream never needs are absent: priorities, pushes, header tables.

use anyhow::{Context, Result, bail};

use super::hpack;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEADER: usize = 9;
const STREAM: u32 = 1;
/// The window with which both sides start until they set another one (RFC 9113, 6.5.2).
const DEFAULT_WINDOW: i64 = 65_535;
/// No client here asks for larger frames, and Envoy does not either.
const MAX_FRAME: usize = 16_384;
/// Envoy's own defaults for the bytes that it lets its peers send unread.
const STREAM_WINDOW: u32 = 16 << 20;
const CONNECTION_WINDOW: u32 = 24 << 20;
/// Above the size of a whole mesh in one response.
const MAX_MESSAGE: usize = 256 << 20;
/// Compressed flag and length, before each gRPC message.
const PREFIX: usize = 5;

mod kind {
    pub(super) const DATA: u8 = 0;
    pub(super) const HEADERS: u8 = 1;
    pub(super) const RESET: u8 = 3;
    pub(super) const SETTINGS: u8 = 4;
    pub(super) const PING: u8 = 6;
    pub(super) const WINDOW_UPDATE: u8 = 8;
    pub(super) const CONTINUATION: u8 = 9;
}

mod flag {
    pub(super) const END_STREAM: u8 = 1;
    pub(super) const ACK: u8 = 1;
    pub(super) const END_HEADERS: u8 = 4;
    pub(super) const PADDED: u8 = 8;
    pub(super) const PRIORITY: u8 = 0x20;
}

/// The connection.
#[derive(Debug)]
pub struct Http2 {
    out: Vec<u8>,
    /// Messages that the server's windows do not admit yet.
    waiting: Vec<u8>,
    connection_window: i64,
    stream_window: i64,
    initial_window: i64,
    max_frame: usize,
    /// Received since the last update of the windows.
    received: u32,
    headers: Vec<u8>,
    ends: bool,
    /// A message of which only a part is here.
    message: Vec<u8>,
}

impl Http2 {
    /// Opens a gRPC call: the bytes to write are in [`Http2::out`].
    pub fn open(authority: &str, path: &str, secure: bool) -> Self {
        let mut connection = Self {
            out: PREFACE.to_vec(),
            waiting: Vec::new(),
            connection_window: DEFAULT_WINDOW,
            stream_window: DEFAULT_WINDOW,
            initial_window: DEFAULT_WINDOW,
            max_frame: MAX_FRAME,
            received: 0,
            headers: Vec::new(),
            ends: false,
            message: Vec::new(),
        };
        let mut settings = Vec::new();
        // No header table, no pushes, and the stream's window.
        for (name, value) in [(1_u16, 0), (2, 0), (4, STREAM_WINDOW)] {
            settings.extend(name.to_be_bytes());
            settings.extend(value.to_be_bytes());
        }
        connection.frame(kind::SETTINGS, 0, 0, &settings);
        let more = CONNECTION_WINDOW - DEFAULT_WINDOW as u32;
        connection.frame(kind::WINDOW_UPDATE, 0, 0, &more.to_be_bytes());
        let headers = hpack::request(authority, path, secure);
        connection.frame(kind::HEADERS, flag::END_HEADERS, STREAM, &headers);
        connection
    }

    /// The bytes to write; the caller clears them once they are written.
    pub fn out(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    /// Queues a message.
    pub fn send(&mut self, message: &[u8]) {
        self.waiting.push(0);
        // A message of 4 GiB is not made here.
        let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
        self.waiting.extend(length.to_be_bytes());
        self.waiting.extend_from_slice(message);
        self.release();
    }

    /// Takes all complete frames of the bytes read, calls with each message, and returns how many bytes are used up.
    ///
    /// # Errors
    /// When the server ends the stream or breaks the protocol, or the call fails.
    pub fn take(
        &mut self,
        input: &[u8],
        mut call: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<usize> {
        let mut rest = input;
        while let Some((header, after)) = rest.split_first_chunk::<HEADER>() {
            let [a, b, c, kind, flags, s0, s1, s2, s3] = *header;
            let length = usize::try_from(u32::from_be_bytes([0, a, b, c]))?;
            let stream = u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]);
            let Some((payload, after)) = after.split_at_checked(length) else {
                break;
            };
            rest = after;
            self.frame_in(kind, flags, stream, payload, &mut call)?;
        }
        Ok(input.len() - rest.len())
    }

    fn frame_in(
        &mut self,
        kind: u8,
        flags: u8,
        stream: u32,
        payload: &[u8],
        call: &mut impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        match kind {
            kind::DATA => {
                let length = payload.len();
                self.data(unpadded(flags, payload)?, call)?;
                self.give_window(length);
                if flags & flag::END_STREAM != 0 {
                    bail!("the server has ended the stream");
                }
            }
            kind::HEADERS => {
                let block = unpadded(flags, payload)?;
                let skip = if flags & flag::PRIORITY != 0 { 5 } else { 0 };
                self.headers = block.get(skip..).context("headers too short")?.to_vec();
                self.ends = flags & flag::END_STREAM != 0;
                self.headers_in(flags)?;
            }
            kind::CONTINUATION => {
                self.headers.extend_from_slice(payload);
                self.headers_in(flags)?;
            }
            kind::RESET if stream == STREAM => {
                bail!("the server has reset the stream (code {})", code(payload));
            }
            kind::SETTINGS if flags & flag::ACK == 0 => self.settings(payload),
            kind::PING if flags & flag::ACK == 0 => {
                self.frame(kind::PING, flag::ACK, 0, payload);
            }
            kind::WINDOW_UPDATE => {
                let window = if stream == 0 {
                    &mut self.connection_window
                } else {
                    &mut self.stream_window
                };
                *window += i64::from(code(payload));
                self.release();
            }
            // A server that goes away ends the stream by itself; the rest does not matter here.
            _ => {}
        }
        Ok(())
    }

    fn headers_in(&mut self, flags: u8) -> Result<()> {
        if flags & flag::END_HEADERS != 0 && self.ends {
            bail!(
                "the server has ended the stream: {}",
                hpack::ending(&self.headers)
            );
        }
        Ok(())
    }

    fn settings(&mut self, payload: &[u8]) {
        for setting in payload.chunks_exact(6) {
            let &[n0, n1, v0, v1, v2, v3] = setting else {
                continue;
            };
            let value = u32::from_be_bytes([v0, v1, v2, v3]);
            match u16::from_be_bytes([n0, n1]) {
                4 => {
                    self.stream_window += i64::from(value) - self.initial_window;
                    self.initial_window = i64::from(value);
                }
                5 => self.max_frame = usize::try_from(value).unwrap_or(MAX_FRAME),
                _ => {}
            }
        }
        self.frame(kind::SETTINGS, flag::ACK, 0, &[]);
        self.release();
    }

    fn data(&mut self, payload: &[u8], call: &mut impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        // Most messages come in one frame, and are read where they are.
        if self.message.is_empty() {
            let used = messages(payload, call)?;
            self.message
                .extend_from_slice(payload.get(used..).unwrap_or_default());
            return Ok(());
        }
        self.message.extend_from_slice(payload);
        let used = messages(&self.message, call)?;
        if used == self.message.len() {
            // The next is small again; a large one's memory is not kept.
            self.message = Vec::new();
        } else {
            self.message.drain(..used);
        }
        Ok(())
    }

    /// Gives received bytes back to the windows, in larger pieces.
    fn give_window(&mut self, length: usize) {
        self.received += u32::try_from(length).unwrap_or(0);
        if self.received >= STREAM_WINDOW / 2 {
            let received = std::mem::take(&mut self.received).to_be_bytes();
            self.frame(kind::WINDOW_UPDATE, 0, 0, &received);
            self.frame(kind::WINDOW_UPDATE, 0, STREAM, &received);
        }
    }

    /// Sends as much of the waiting bytes as the windows admit.
    fn release(&mut self) {
        while !self.waiting.is_empty() {
            let window = self.connection_window.min(self.stream_window).max(0);
            let window = usize::try_from(window).unwrap_or(0);
            let length = self.waiting.len().min(self.max_frame).min(window);
            if length == 0 {
                return;
            }
            let sent = self.waiting.drain(..length).collect::<Vec<u8>>();
            let used = i64::try_from(length).unwrap_or(i64::MAX);
            self.connection_window -= used;
            self.stream_window -= used;
            self.frame(kind::DATA, 0, STREAM, &sent);
        }
    }

    fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let [_, a, b, c] = u32::try_from(payload.len()).unwrap_or(0).to_be_bytes();
        self.out.extend([a, b, c, kind, flags]);
        self.out.extend(stream.to_be_bytes());
        self.out.extend_from_slice(payload);
    }
}

/// Calls with each complete gRPC message; how many bytes they took.
fn messages(bytes: &[u8], call: &mut impl FnMut(&[u8]) -> Result<()>) -> Result<usize> {
    let mut rest = bytes;
    while let Some((prefix, after)) = rest.split_first_chunk::<PREFIX>() {
        let [compressed, a, b, c, d] = *prefix;
        let length = usize::try_from(u32::from_be_bytes([a, b, c, d]))?;
        if compressed != 0 || length > MAX_MESSAGE {
            bail!("this is not an uncompressed gRPC message");
        }
        let Some((message, after)) = after.split_at_checked(length) else {
            break;
        };
        call(message)?;
        rest = after;
    }
    Ok(bytes.len() - rest.len())
}

fn unpadded(flags: u8, payload: &[u8]) -> Result<&[u8]> {
    if flags & flag::PADDED == 0 {
        return Ok(payload);
    }
    let (&padding, rest) = payload.split_first().context("padding of nothing")?;
    let length = rest.len().checked_sub(usize::from(padding));
    length
        .and_then(|length| rest.get(..length))
        .context("more padding than frame")
}

fn code(payload: &[u8]) -> u32 {
    payload
        .first_chunk()
        .map_or(0, |bytes| u32::from_be_bytes(*bytes) & 0x7fff_ffff)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut other = Http2::open("a", "/", false);
        other.out.clear();
        other.frame(kind, flags, stream, payload);
        other.out
    }

    fn message(text: &[u8]) -> Vec<u8> {
        let length = u32::try_from(text.len()).unwrap().to_be_bytes();
        [&[0], length.as_slice(), text].concat()
    }

    fn opened() -> Http2 {
        let mut connection = Http2::open("a", "/", false);
        connection.out().clear();
        connection
    }

    #[test]
    fn messages_come_whole_however_they_are_cut() {
        let long = vec![b'x'; 40_000];
        let all = [message(b"one"), message(&long), message(b"")].concat();
        let frames: Vec<u8> = all
            .chunks(16_000)
            .flat_map(|part| frame(kind::DATA, 0, STREAM, part))
            .collect();
        for step in [1, 7, 4_096, frames.len()] {
            let mut connection = opened();
            let (mut got, mut input) = (Vec::new(), Vec::new());
            for part in frames.chunks(step) {
                input.extend_from_slice(part);
                let used = connection
                    .take(&input, |m| {
                        got.push(m.len());
                        Ok(())
                    })
                    .unwrap();
                input.drain(..used);
            }
            assert_eq!((got, input.len()), (vec![3, 40_000, 0], 0), "step {step}");
        }
    }

    #[test]
    fn nothing_is_sent_beyond_the_servers_windows() {
        let mut connection = opened();
        connection.send(&vec![0; 100_000]);
        let sent = |connection: &mut Http2| {
            let mut total = 0;
            let mut rest = std::mem::take(connection.out());
            while !rest.is_empty() {
                let length =
                    usize::try_from(u32::from_be_bytes([0, rest[0], rest[1], rest[2]])).unwrap();
                assert!(length <= MAX_FRAME);
                if rest[3] == kind::DATA {
                    total += length;
                }
                rest.drain(..HEADER + length);
            }
            total
        };
        assert_eq!(sent(&mut connection), 65_535);
        let more = 1_000_000_u32.to_be_bytes();
        let none = |_: &[u8]| Ok(());
        connection
            .take(&frame(kind::WINDOW_UPDATE, 0, 0, &more), none)
            .unwrap();
        assert_eq!(
            sent(&mut connection),
            0,
            "the stream's own window is used up"
        );
        let larger = [&4_u16.to_be_bytes()[..], &70_000_u32.to_be_bytes()].concat();
        connection
            .take(&frame(kind::SETTINGS, 0, 0, &larger), none)
            .unwrap();
        assert_eq!(sent(&mut connection), 70_000 - 65_535);
        connection
            .take(&frame(kind::WINDOW_UPDATE, 0, STREAM, &more), none)
            .unwrap();
        assert_eq!(sent(&mut connection), 100_005 - 70_000);
    }

    #[test]
    fn pings_are_answered_windows_given_back_and_ends_told() {
        let mut connection = opened();
        let none = |_: &[u8]| Ok(());
        connection
            .take(&frame(kind::PING, 0, 0, b"12345678"), none)
            .unwrap();
        assert_eq!(
            *connection.out(),
            frame(kind::PING, flag::ACK, 0, b"12345678")
        );
        connection.out().clear();
        let part = frame(
            kind::DATA,
            flag::PADDED,
            STREAM,
            &[&[1_u8][..], &message(b""), &[0]].concat(),
        );
        connection.received = STREAM_WINDOW / 2 - 1;
        connection.take(&part, none).unwrap();
        assert_eq!(connection.out().len(), 2 * (HEADER + 4));
        let trailers = frame(
            kind::HEADERS,
            flag::END_HEADERS | flag::END_STREAM,
            STREAM,
            &[&[0x00, 11][..], b"grpc-status", &[1], b"7"].concat(),
        );
        let error = connection.take(&trailers, none).unwrap_err().to_string();
        assert!(error.contains("grpc-status: 7"), "{error}");
        assert!(
            connection
                .take(&frame(kind::RESET, 0, STREAM, &[0, 0, 0, 8]), none)
                .is_err()
        );
    }
}
