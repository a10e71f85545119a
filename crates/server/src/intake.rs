//! Request bodies as they come in: with an idle timeout, a minimum rate and a deadline.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt as _};
use http_body_util::BodyExt as _;
use imagewell_core::Error;

use crate::config::Settings;

/// Refuses a declared length that can't be kept within the limit, before anything is read. `overhead` is what the body may be
/// longer than its file. Says how many bytes are declared; 0 when none are.
///
/// # Errors
/// [`Error::TooLarge`].
pub fn check_declared_length(headers: &HeaderMap, bytes_max: u64, overhead: u64) -> Result<u64, Error> {
    let declared = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    let declared = declared.unwrap_or_default();
    if declared >= bytes_max.saturating_add(overhead) { Err(Error::TooLarge { bytes_max }) } else { Ok(declared) }
}

/// How slowly a body may come.
#[derive(Debug, Clone, Copy)]
struct Pace {
    idle_max: Duration,
    total_max: Duration,
    grace: Duration,
    bytes_per_second_min: u64,
}

impl Pace {
    fn of(settings: &Settings) -> Self {
        let server = &settings.server;
        Self {
            idle_max: Duration::from_secs(server.body_idle_timeout_seconds),
            total_max: Duration::from_secs(server.body_timeout_seconds),
            grace: Duration::from_secs(server.body_rate_grace_seconds),
            bytes_per_second_min: server.body_bytes_per_second_min,
        }
    }
}

/// A request body. Its chunks can be handed to a parser while this keeps hold of the rest.
#[derive(Clone)]
pub struct Intake {
    chunks: Arc<Mutex<BoxStream<'static, Result<Bytes, Error>>>>,
}

impl Intake {
    /// Takes a body under the configured pace. Past `body_bytes_max` it is refused, with `named_bytes_max` as the limit that
    /// the client is told: a body is a little longer than the file in it.
    #[must_use]
    pub fn new(body: Body, settings: &Settings, body_bytes_max: u64, named_bytes_max: u64) -> Self {
        Self::paced(body, Pace::of(settings), body_bytes_max, named_bytes_max)
    }

    /// Takes what nobody wants of a body, so that its client gets to read the answer.
    pub(crate) fn unwanted(body: Body, settings: &Settings) -> Self {
        let server = &settings.server;
        let idle_max = Duration::from_secs(server.unread_body_idle_timeout_seconds);
        let bytes_max = server.unread_body_bytes_max;
        Self::paced(body, Pace { idle_max, ..Pace::of(settings) }, bytes_max, bytes_max)
    }

    fn paced(body: Body, pace: Pace, body_bytes_max: u64, named_bytes_max: u64) -> Self {
        Self { chunks: Arc::new(Mutex::new(paced(body, pace, body_bytes_max, named_bytes_max).fuse().boxed())) }
    }

    /// Its chunks, one a poll.
    #[must_use]
    pub fn chunks(&self) -> Chunks {
        Chunks(Arc::clone(&self.chunks))
    }

    /// All of it in memory: for bodies with a small limit.
    ///
    /// # Errors
    /// What the body's chunks say.
    pub async fn whole(&self) -> Result<Bytes, Error> {
        let mut chunks = self.chunks();
        let mut whole = BytesMut::new();
        while let Some(chunk) = chunks.next().await {
            whole.extend_from_slice(&chunk?);
        }
        Ok(whole.freeze())
    }
}

/// See [`Intake::chunks`].
pub struct Chunks(Arc<Mutex<BoxStream<'static, Result<Bytes, Error>>>>);

impl Stream for Chunks {
    type Item = Result<Bytes, Error>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).poll_next_unpin(context)
    }
}

struct Reading {
    body: Body,
    pace: Pace,
    body_bytes_max: u64,
    named_bytes_max: u64,
    started: Instant,
    received: u64,
    waited: Duration,
    over: bool,
}

fn paced(body: Body, pace: Pace, body_bytes_max: u64, named_bytes_max: u64) -> impl Stream<Item = Result<Bytes, Error>> + Send {
    let reading = Reading {
        body,
        pace,
        body_bytes_max,
        named_bytes_max,
        started: Instant::now(),
        received: 0,
        waited: Duration::ZERO,
        over: false,
    };
    futures_util::stream::unfold(reading, |mut reading| async move {
        if reading.over {
            return None;
        }
        let item = reading.next().await?;
        reading.over = matches!(item, Err(Error::TooSlow | Error::Disconnected));
        Some((item, reading))
    })
}

impl Reading {
    async fn next(&mut self) -> Option<Result<Bytes, Error>> {
        loop {
            let left = self.pace.total_max.saturating_sub(self.started.elapsed());
            let before = Instant::now();
            let Ok(frame) = tokio::time::timeout(self.pace.idle_max.min(left), self.body.frame()).await else {
                return Some(Err(Error::TooSlow));
            };
            // Only the time spent waiting for the client counts, not what the disk takes.
            self.waited += before.elapsed();
            let data = match frame? {
                Ok(frame) => frame.into_data(),
                Err(_) => return Some(Err(Error::Disconnected)),
            };
            // Trailers carry nothing that we use.
            let Ok(data) = data else { continue };
            self.received += data.len() as u64;
            if self.received > self.body_bytes_max {
                return Some(Err(Error::TooLarge { bytes_max: self.named_bytes_max }));
            }
            if self.is_too_slow() {
                return Some(Err(Error::TooSlow));
            }
            if !data.is_empty() {
                return Some(Ok(data));
            }
        }
    }

    fn is_too_slow(&self) -> bool {
        let counted = self.waited.saturating_sub(self.pace.grace).as_secs_f64();
        (self.received as f64) < counted * self.pace.bytes_per_second_min as f64
    }
}
