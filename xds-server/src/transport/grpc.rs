//! gRPC streams on HTTP/2, as far as a discovery server needs them: requests in, frames out.
//!
//! There are thousands of streams and most are silent, so nothing is kept that is not in use: no buffers between messages,
//! and a response's memory is free once it is sent.

use std::convert::Infallible;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use futures::Stream;
use http::{HeaderMap, HeaderValue, header};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming};
use prost::Message;
use tonic::Status;

use super::wire::FRAME_HEADER;

/// Why no further request can be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    /// It is the client's fault.
    #[error("{0}")]
    Undecodable(String),
    /// The connection or the stream is gone.
    #[error("{0}")]
    Gone(#[from] hyper::Error),
}

/// The requests of one stream.
pub(crate) struct Requests<M> {
    body: Incoming,
    /// The bytes received of a message that is not complete.
    buffer: BytesMut,
    max_bytes: usize,
    message: PhantomData<fn() -> M>,
}

impl<M: Message + Default> Requests<M> {
    pub fn new(body: Incoming, max_bytes: usize) -> Self {
        Self {
            body,
            buffer: BytesMut::new(),
            max_bytes,
            message: PhantomData,
        }
    }

    /// The next request; `None` once the client has said all. It may be dropped and called again.
    ///
    /// # Errors
    /// After one there is nothing more to read.
    pub async fn next(&mut self) -> Result<Option<M>, Broken> {
        loop {
            if let Some(message) = self.complete()? {
                return Ok(Some(message));
            }
            match self.body.frame().await.transpose()? {
                Some(frame) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(Broken::Undecodable("the request is cut off".to_owned())),
            }
        }
    }

    fn complete(&mut self) -> Result<Option<M>, Broken> {
        let Some((&[compressed, a, b, c, d], rest)) = self.buffer.split_first_chunk() else {
            return Ok(None);
        };
        if compressed != 0 {
            return Err(Broken::Undecodable(
                "compressed requests are not taken".to_owned(),
            ));
        }
        let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        if length > self.max_bytes {
            let text = format!("a request of {length} bytes; {} may be", self.max_bytes);
            return Err(Broken::Undecodable(text));
        }
        let Some(message) = rest.get(..length) else {
            return Ok(None);
        };
        let message = M::decode(message).map_err(|e| Broken::Undecodable(e.to_string()))?;
        self.buffer.advance(FRAME_HEADER + length);
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
        Ok(Some(message))
    }
}

type Frames = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;

/// The body of a response: frames, then how it ended. Dropping it is how a stream ends that the client gave up.
#[derive(Default)]
pub(crate) struct Responses {
    frames: Option<Frames>,
}

impl Responses {
    /// The response with these frames as its body.
    pub fn begin(
        frames: impl Stream<Item = Result<Bytes, Status>> + Send + 'static,
    ) -> http::Response<Self> {
        let body = Self {
            frames: Some(Box::pin(frames)),
        };
        let mut response = http::Response::new(body);
        let grpc = HeaderValue::from_static("application/grpc");
        response.headers_mut().insert(header::CONTENT_TYPE, grpc);
        response
    }
}

impl Body for Responses {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some(frames) = &mut self.frames else {
            return Poll::Ready(None);
        };
        let status = match ready!(frames.as_mut().poll_next(cx)) {
            Some(Ok(frame)) => return Poll::Ready(Some(Ok(Frame::data(frame)))),
            Some(Err(status)) => status,
            None => Status::ok(""),
        };
        self.frames = None;
        let mut trailers = HeaderMap::new();
        if let Err(error) = status.add_header(&mut trailers) {
            tracing::error!(%error, "a status that has no trailers");
        }
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.frames.is_none()
    }
}
