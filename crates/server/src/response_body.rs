//! Bodies of answers on their way out. What has left is counted, and a request is under way until
//! the last byte of its answer has left.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use bytes::{Buf, Bytes};
use hyper::body::{Frame, SizeHint};

use crate::connection::UnderWay;
use crate::streams::Stream;

/// An HTTP/2 stream can be reset as long as its end isn't queued. Only answers up to this size are
/// queued with their end, which saves a frame.
const ENDED_AT_ONCE_BYTES_MAX: u64 = 64 * 1024;

/// The body of an answer.
pub(crate) struct ResponseBody {
    body: Body,
    sending: Sending,
}

enum Sending {
    /// Alone on its connection, which is watched as a whole: HTTP/1.
    Connection { _under_way: UnderWay },
    /// Beside others.
    Stream { stream: Arc<Stream>, bytes: u64, at_end: bool },
}

/// Bytes of an answer, counted when HTTP/2 writes them to the socket.
pub(crate) struct Chunk {
    bytes: Bytes,
    stream: Option<Arc<Stream>>,
}

impl ResponseBody {
    /// For a connection that has one answer at a time.
    pub(crate) fn alone(body: Body, under_way: UnderWay) -> Self {
        Self { body, sending: Sending::Connection { _under_way: under_way } }
    }

    /// For a stream among others, which keeps the request under way.
    pub(crate) fn on_stream(body: Body, stream: Arc<Stream>) -> Self {
        Self { body, sending: Sending::Stream { stream, bytes: 0, at_end: false } }
    }
}

impl hyper::body::Body for ResponseBody {
    type Data = Chunk;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Chunk>, axum::Error>>> {
        let this = &mut *self;
        let Sending::Stream { stream, bytes, at_end } = &mut this.sending else {
            let frame = ready!(Pin::new(&mut this.body).poll_frame(context));
            return Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(|bytes| Chunk { bytes, stream: None }))));
        };
        let frame = if *at_end { None } else { ready!(Pin::new(&mut this.body).poll_frame(context)) };
        let Some(frame) = frame else {
            *at_end = true;
            if *bytes > ENDED_AT_ONCE_BYTES_MAX {
                ready!(stream.poll_empty(context));
            }
            return Poll::Ready(None);
        };
        Poll::Ready(Some(frame.map(|frame| {
            frame.map_data(|data| {
                *bytes += data.len() as u64;
                stream.add(data.len() as u64);
                Chunk { bytes: data, stream: Some(Arc::clone(stream)) }
            })
        })))
    }

    fn is_end_stream(&self) -> bool {
        match &self.sending {
            Sending::Stream { bytes, .. } if *bytes > ENDED_AT_ONCE_BYTES_MAX => false,
            _ => self.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Buf for Chunk {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        if let Some(stream) = &self.stream {
            stream.sent(count as u64);
        }
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        if let Some(stream) = self.stream.take() {
            stream.discard(self.bytes.len() as u64);
        }
    }
}
