//! `multipart/form-data` (RFC 7578) through multer, with the caps that multer doesn't have: on parts, on their headers and
//! names, and on text.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use axum::http::{HeaderMap, header};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use imagewell_core::Error;

use crate::config::Settings;
use crate::intake::Chunks;

/// Bytes of the longest boundary (RFC 2046 §5.1.1).
const BOUNDARY_BYTES_MAX: usize = 70;

/// A body of parts, read one after the other.
pub struct Multipart {
    inner: multer::Multipart<'static>,
    budget: Arc<AtomicUsize>,
    bounds: Bounds,
    parts: usize,
}

#[derive(Clone, Copy)]
struct Bounds {
    parts_max: usize,
    part_headers_max: usize,
    part_header_bytes_max: usize,
    name_bytes_max: usize,
    text_bytes_max: usize,
}

/// One part. What is not read of it must be skipped before the next one is asked for.
pub struct Part {
    /// Its name, as sent: browsers escape quotes and line breaks in it, and nothing is decoded.
    pub name: String,
    /// The name of the file. A part without one is text, whatever its name.
    pub file_name: Option<String>,
    field: multer::Field<'static>,
    text_bytes_max: usize,
}

impl Multipart {
    /// Starts on a body.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the request isn't multipart/form-data or its boundary is malformed.
    pub fn new(headers: &HeaderMap, chunks: Chunks, settings: &Settings) -> Result<Self, Error> {
        let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let boundary = multer::parse_boundary(content_type)
            .map_err(|_| Error::invalid("send the upload as multipart/form-data with a boundary"))?;
        if !is_boundary(&boundary) {
            return Err(Error::invalid("the multipart boundary is malformed"));
        }
        let multipart = &settings.multipart;
        let bounds = Bounds {
            parts_max: multipart.parts_max,
            part_headers_max: multipart.part_headers_max,
            part_header_bytes_max: multipart.part_header_bytes_max,
            name_bytes_max: multipart.name_bytes_max,
            text_bytes_max: multipart.text_bytes_max,
        };
        let budget = Arc::new(AtomicUsize::new(0));
        let chunks = Metered { chunks, budget: Arc::clone(&budget), yielded: false };
        Ok(Self { inner: multer::Multipart::new(chunks, boundary), budget, bounds, parts: 0 })
    }

    /// The next part, or none after the final boundary.
    ///
    /// # Errors
    /// [`Error::Invalid`] for what breaks the format or a cap, [`Error::Disconnected`] and [`Error::TooSlow`] from the body.
    pub async fn next(&mut self) -> Result<Option<Part>, Error> {
        // Until the next part begins only its headers may pass, and what is left of a boundary line.
        self.budget.store(self.bounds.part_header_bytes_max * 2, Ordering::Relaxed);
        let field = self.inner.next_field().await.map_err(failed)?;
        self.budget.store(usize::MAX, Ordering::Relaxed);
        let Some(field) = field else { return Ok(None) };
        self.parts += 1;
        if self.parts > self.bounds.parts_max {
            return Err(Error::invalid(format!("the body has more than {} parts", self.bounds.parts_max)));
        }
        self.check_headers(field.headers())?;
        let name = field.name().unwrap_or_default().to_owned();
        if name.is_empty() {
            return Err(Error::invalid("a part has no name"));
        }
        if name.len() > self.bounds.name_bytes_max {
            return Err(Error::invalid(format!("a part's name is longer than {} bytes", self.bounds.name_bytes_max)));
        }
        let file_name = field.file_name().map(str::to_owned);
        Ok(Some(Part { name, file_name, field, text_bytes_max: self.bounds.text_bytes_max }))
    }

    fn check_headers(&self, headers: &HeaderMap) -> Result<(), Error> {
        let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
        if headers.len() > self.bounds.part_headers_max || bytes > self.bounds.part_header_bytes_max {
            return Err(Error::invalid("a part has too many or too long headers"));
        }
        // RFC 7578 §4.7 and §4.3: encodings are history and nesting was never understood alike.
        let encoding = headers.get("content-transfer-encoding").and_then(|value| value.to_str().ok());
        if encoding.is_some_and(|encoding| !matches!(encoding.to_ascii_lowercase().as_str(), "binary" | "8bit" | "7bit")) {
            return Err(Error::invalid("a part has a Content-Transfer-Encoding: send its bytes as they are"));
        }
        let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if content_type.trim_start().to_ascii_lowercase().starts_with("multipart/") {
            return Err(Error::invalid("a part is multipart itself: send one part per file"));
        }
        Ok(())
    }
}

impl Part {
    /// Its bytes as they come.
    pub fn chunks(&mut self) -> impl Stream<Item = Result<Bytes, Error>> + Unpin {
        (&mut self.field).map(|chunk| chunk.map_err(failed))
    }

    /// Its bytes as text.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it is longer than allowed or no UTF-8.
    pub async fn text(mut self) -> Result<String, Error> {
        let mut text = Vec::new();
        while let Some(chunk) = self.field.next().await {
            text.extend_from_slice(&chunk.map_err(failed)?);
            if text.len() > self.text_bytes_max {
                return Err(Error::invalid(format!("a text part is longer than {} bytes", self.text_bytes_max)));
            }
        }
        String::from_utf8(text).map_err(|_| Error::invalid("a text part is no UTF-8"))
    }

    /// Reads past it.
    ///
    /// # Errors
    /// As for reading it.
    pub async fn skip(mut self) -> Result<(), Error> {
        while let Some(chunk) = self.field.next().await {
            chunk.map_err(failed)?;
        }
        Ok(())
    }
}

fn is_boundary(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"'()+_,-./:=? ".contains(&byte);
    (1..=BOUNDARY_BYTES_MAX).contains(&text.len()) && text.bytes().all(allowed) && !text.ends_with(' ')
}

fn failed(error: multer::Error) -> Error {
    match error {
        multer::Error::StreamReadFailed(cause) => match cause.downcast::<Error>() {
            Ok(error) => *error,
            Err(_) => Error::Disconnected,
        },
        multer::Error::IncompleteStream | multer::Error::IncompleteFieldData { .. } | multer::Error::IncompleteHeaders => {
            Error::invalid("the multipart body ends before its final boundary")
        }
        _ => Error::invalid("the multipart body is malformed"),
    }
}

/// multer reads its source for as long as it is ready, and reads headers without a bound. This hands out one chunk a poll, and
/// none once the budget for a part's headers is used up.
struct Metered {
    chunks: Chunks,
    budget: Arc<AtomicUsize>,
    yielded: bool,
}

impl Stream for Metered {
    type Item = Result<Bytes, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if std::mem::take(&mut self.yielded) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let budget = self.budget.load(Ordering::Relaxed);
        if budget == 0 {
            return Poll::Ready(Some(Err(Error::invalid("a part's headers are too long or don't end"))));
        }
        let item = std::task::ready!(self.chunks.poll_next_unpin(context));
        if let Some(Ok(chunk)) = &item {
            self.yielded = true;
            if budget != usize::MAX {
                self.budget.store(budget.saturating_sub(chunk.len()), Ordering::Relaxed);
            }
        }
        Poll::Ready(item)
    }
}
