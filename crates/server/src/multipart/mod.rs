//! `multipart/form-data` (RFC 7578) through multer, with the caps that multer doesn't have: on parts, on their headers and
//! names, and on text. What the headers of parts say is read here, more tolerantly than by multer.

mod header;

use std::borrow::Cow;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue};
use bytes::Bytes;
use encoding_rs::Encoding;
use futures_util::{Stream, StreamExt as _};
use imagewell_core::Error;

use self::header::Disposition;
use crate::config::Settings;
use crate::intake::Chunks;

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
    /// Its name; empty when it has none.
    pub name: String,
    /// The name of the file. A part without one is text, whatever its name.
    pub file_name: Option<String>,
    field: multer::Field<'static>,
    /// What was read already of its bytes.
    beginning: Option<Bytes>,
    /// Why it can't be used, for whoever wants it.
    fault: Option<&'static str>,
    text_bytes_max: usize,
}

impl Multipart {
    /// Starts on a body.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the request isn't multipart/form-data or its boundary is malformed.
    pub fn new(headers: &HeaderMap, chunks: Chunks, settings: &Settings) -> Result<Self, Error> {
        let content_type = headers.get(CONTENT_TYPE).filter(|value| is_form(value));
        let content_type =
            content_type.ok_or_else(|| Error::invalid("send the upload as multipart/form-data with a boundary"))?;
        let boundary = header::boundary(content_type).ok_or_else(|| Error::invalid("the multipart boundary is malformed"))?;
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

    /// The next part, or none after the final boundary. A file input that was left empty is passed over: it has an empty name and no
    /// bytes.
    ///
    /// # Errors
    /// [`Error::Invalid`] for what breaks the format or a cap, [`Error::Disconnected`] and [`Error::TooSlow`] from the body.
    pub async fn next(&mut self) -> Result<Option<Part>, Error> {
        while let Some(mut part) = self.next_part().await? {
            if part.file_name.as_ref().is_none_or(|name| !name.is_empty()) {
                return Ok(Some(part));
            }
            while let Some(chunk) = part.field.next().await.transpose().map_err(failed)? {
                if !chunk.is_empty() {
                    part.beginning = Some(chunk);
                    return Ok(Some(part));
                }
            }
        }
        Ok(None)
    }

    async fn next_part(&mut self) -> Result<Option<Part>, Error> {
        // Until the next part begins only its headers may pass, and what is left of a boundary line.
        self.budget.store(self.bounds.part_header_bytes_max * 2, Ordering::Relaxed);
        let field = self.inner.next_field().await.map_err(failed)?;
        self.budget.store(usize::MAX, Ordering::Relaxed);
        let Some(field) = field else { return Ok(None) };
        self.parts += 1;
        if self.parts > self.bounds.parts_max {
            return Err(Error::invalid(format!("the body has more than {} parts", self.bounds.parts_max)));
        }
        self.check_size(field.headers())?;
        let Disposition { name, file_name } = Disposition::of(field.headers().get(CONTENT_DISPOSITION));
        if name.len() > self.bounds.name_bytes_max {
            return Err(Error::invalid(format!("a part's name is longer than {} bytes", self.bounds.name_bytes_max)));
        }
        let fault = fault(field.headers());
        Ok(Some(Part { name, file_name, field, beginning: None, fault, text_bytes_max: self.bounds.text_bytes_max }))
    }

    fn check_size(&self, headers: &HeaderMap) -> Result<(), Error> {
        let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
        if headers.len() > self.bounds.part_headers_max || bytes > self.bounds.part_header_bytes_max {
            return Err(Error::invalid("a part has too many or too long headers"));
        }
        Ok(())
    }
}

/// Why a part with such headers can't be used. RFC 7578 §4.7 and §4.3: encodings are history and nesting was never understood alike.
fn fault(headers: &HeaderMap) -> Option<&'static str> {
    let encoding = headers.get("content-transfer-encoding").map(|value| value.as_bytes().trim_ascii().to_ascii_lowercase());
    if encoding.is_some_and(|encoding| !matches!(encoding.as_slice(), b"binary" | b"8bit" | b"7bit")) {
        return Some("a part has a Content-Transfer-Encoding: send its bytes as they are");
    }
    let content_type = headers.get(CONTENT_TYPE).map(|value| value.as_bytes().trim_ascii().to_ascii_lowercase());
    if content_type.is_some_and(|content_type| content_type.starts_with(b"multipart/")) {
        return Some("a part is multipart itself: send one part per file");
    }
    None
}

/// Whether a `Content-Type` is that of a form with parts.
pub fn is_form(content_type: &HeaderValue) -> bool {
    let kind = content_type.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default();
    kind.trim_ascii().eq_ignore_ascii_case(b"multipart/form-data")
}

impl Part {
    /// Its bytes as they come.
    ///
    /// # Errors
    /// [`Error::Invalid`] when they are encoded or parts themselves.
    pub fn chunks(&mut self) -> Result<impl Stream<Item = Result<Bytes, Error>> + Unpin, Error> {
        self.fault.map_or(Ok(()), |fault| Err(Error::invalid(fault)))?;
        Ok(self.unwanted())
    }

    /// Its bytes as text, in the encoding that the part says.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it is longer than allowed or not in that encoding.
    pub async fn text(mut self) -> Result<String, Error> {
        let text_bytes_max = self.text_bytes_max;
        let charset = self.charset();
        let mut text = Vec::new();
        let mut chunks = self.chunks()?;
        while let Some(chunk) = chunks.next().await {
            text.extend_from_slice(&chunk?);
            if text.len() > text_bytes_max {
                return Err(Error::invalid(format!("a text part is longer than {text_bytes_max} bytes")));
            }
        }
        let text = charset.decode_without_bom_handling_and_without_replacement(&text);
        text.map(Cow::into_owned).ok_or_else(|| Error::invalid(format!("a text part is no {}", charset.name())))
    }

    fn charset(&self) -> &'static Encoding {
        header::charset(self.field.headers().get(CONTENT_TYPE))
    }

    /// Its bytes, whatever they are, to read past them.
    pub fn unwanted(&mut self) -> impl Stream<Item = Result<Bytes, Error>> + Unpin {
        let beginning = futures_util::stream::iter(self.beginning.take().map(Ok));
        beginning.chain((&mut self.field).map(|chunk| chunk.map_err(failed)))
    }

    /// Reads past it.
    ///
    /// # Errors
    /// [`Error::Invalid`] for what breaks the format, [`Error::Disconnected`] and [`Error::TooSlow`] from the body.
    pub async fn skip(mut self) -> Result<(), Error> {
        let mut bytes = self.unwanted();
        while let Some(chunk) = bytes.next().await {
            chunk?;
        }
        Ok(())
    }
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
