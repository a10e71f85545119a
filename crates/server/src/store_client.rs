//! The HTTP client of buckets: how long each request may take.
//!
//! A request may take so long until the head of its answer is there. One that sends bytes may take
//! longer, as long as the store goes on taking them: who takes none for that time is given up. The
//! body of an object may take as long as its reader likes: the core watches it where it is read.
//! Every other answer is short, and complete within the same time.

use std::collections::VecDeque;
use std::error::Error as StdError;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, SizeHint};
use object_store::ClientOptions;
use object_store::client::{
    ClientConfigKey, HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody, HttpResponse,
    HttpResponseBody, HttpService,
};
use tokio::time::Instant;

/// Bytes of a body that are handed on at a time: so fine is what is seen of its progress.
const CHUNK_BYTES: usize = 64 * 1024;
/// Bytes that the system may hold after they were handed on, unseen whether they move.
const UNSEEN_BYTES_MAX: usize = 1024 * 1024;
/// For a connection.
const CONNECTED_WITHIN: Duration = Duration::from_secs(3);

/// The bounds on requests.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// For an answer, and for the next bytes that a store takes.
    pub(crate) time_max: Duration,
    /// A request with a body may take so much longer that this rate suffices. At least 1.
    pub(crate) bytes_per_second_min: u64,
}

impl Limits {
    fn time_at_rate(&self, bytes: usize) -> Duration {
        Duration::from_secs((bytes as u64).div_ceil(self.bytes_per_second_min.max(1)))
    }

    /// In all, however steadily it goes on.
    fn time_for(&self, bytes: usize) -> Duration {
        self.time_max + self.time_at_rate(bytes)
    }
}

impl HttpConnector for Limits {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let allow_http = options.get_config_value(&ClientConfigKey::AllowHttp).is_some_and(|allows| allows == "true");
        let client = reqwest::Client::builder()
            .user_agent(concat!("imagewell/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(self.time_max.min(CONNECTED_WITHIN))
            .https_only(!allow_http)
            .http1_only()
            // An object that was compressed on its way would have another length than it says.
            .no_gzip()
            .no_brotli()
            .no_zstd()
            .no_deflate()
            .build();
        let client = client.map_err(|error| object_store::Error::Generic { store: "HTTP client", source: Box::new(error) })?;
        Ok(HttpClient::new(StoreClient { client, limits: *self }))
    }
}

#[derive(Debug)]
struct StoreClient {
    client: reqwest::Client,
    limits: Limits,
}

impl StoreClient {
    async fn answer(&self, request: HttpRequest, progress: &Arc<Progress>) -> Result<HttpResponse, HttpError> {
        let is_object = request.method().as_str() == "GET" && request.uri().query().is_none();
        let (head, body) = request.into_parts();
        let unreadable = |error| HttpError::new(HttpErrorKind::Unknown, error);
        let mut sent = reqwest::Request::new(head.method, head.uri.to_string().parse().map_err(unreadable)?);
        *sent.headers_mut() = head.headers;
        *sent.body_mut() = Some(watched(body, progress).await?);
        let response: hyper::Response<reqwest::Body> = self.client.execute(sent).await.map_err(failed)?.into();
        let (head, body) = response.into_parts();
        let body = HttpResponseBody::new(body.map_err(failed));
        if is_object && head.status.is_success() {
            return Ok(HttpResponse::from_parts(head, body));
        }
        Ok(HttpResponse::from_parts(head, body.bytes().await?.into()))
    }

    /// Until the store has taken nothing, or not answered, for too long.
    async fn answer_in_time(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let latest = Instant::now() + self.limits.time_for(request.body().content_length());
        let progress = Arc::new(Progress::new());
        let answer = self.answer(request, &progress);
        tokio::pin!(answer);
        loop {
            let until = progress.until(self.limits).min(latest);
            if let Ok(answer) = tokio::time::timeout_at(until, &mut answer).await {
                return answer;
            }
            if Instant::now() >= progress.until(self.limits).min(latest) {
                let seconds = self.limits.time_max.as_secs();
                let late =
                    format!("the store took nothing and gave no complete answer within {seconds} s (storage.time_seconds_max)");
                return Err(HttpError::new(HttpErrorKind::Timeout, io::Error::new(io::ErrorKind::TimedOut, late)));
            }
        }
    }
}

impl HttpService for StoreClient {
    // As `async_trait` writes it, which is not worth a dependency.
    fn call<'s, 'f>(&'s self, request: HttpRequest) -> Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'f>>
    where
        's: 'f,
        Self: 'f,
    {
        Box::pin(self.answer_in_time(request))
    }
}

/// How much of a body was handed on, and when the last of it was.
#[derive(Debug)]
struct Progress(Mutex<(Instant, usize)>);

impl Progress {
    fn new() -> Self {
        Self(Mutex::new((Instant::now(), 0)))
    }

    fn handed_on(&self, bytes: usize) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *seen = (Instant::now(), seen.1 + bytes);
    }

    /// When the store must have taken more, or answered.
    fn until(&self, limits: Limits) -> Instant {
        let (last, bytes) = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last + limits.time_max + limits.time_at_rate(bytes.min(UNSEEN_BYTES_MAX))
    }
}

/// A body in small chunks, of which each is noted when the connection takes it.
struct Watched {
    chunks: VecDeque<Bytes>,
    left: u64,
    progress: Arc<Progress>,
}

async fn watched(mut body: HttpRequestBody, progress: &Arc<Progress>) -> Result<reqwest::Body, HttpError> {
    if body.content_length() == 0 {
        return Ok(Bytes::new().into());
    }
    let (left, mut chunks) = (body.content_length() as u64, VecDeque::new());
    // It is in memory.
    while let Some(frame) = body.frame().await {
        let Ok(mut bytes) = frame?.into_data() else { continue };
        while !bytes.is_empty() {
            chunks.push_back(bytes.split_to(bytes.len().min(CHUNK_BYTES)));
        }
    }
    Ok(reqwest::Body::wrap(Watched { chunks, left, progress: Arc::clone(progress) }))
}

impl Body for Watched {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        let Some(chunk) = self.chunks.pop_front() else { return Poll::Ready(None) };
        self.left -= chunk.len() as u64;
        self.progress.handed_on(chunk.len());
        Poll::Ready(Some(Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// What kind of failure it is says whether the same request may be tried again.
fn failed(error: reqwest::Error) -> HttpError {
    let mut kind = match &error {
        late if late.is_timeout() => HttpErrorKind::Timeout,
        away if away.is_connect() => HttpErrorKind::Connect,
        other if other.is_decode() => HttpErrorKind::Decode,
        _ => HttpErrorKind::Unknown,
    };
    let mut cause = error.source();
    while let (HttpErrorKind::Unknown, Some(error)) = (kind, cause) {
        kind = kind_of(error);
        cause = error.source();
    }
    HttpError::new(kind, error)
}

fn kind_of(cause: &(dyn StdError + 'static)) -> HttpErrorKind {
    if let Some(error) = cause.downcast_ref::<hyper::Error>() {
        if error.is_closed() || error.is_incomplete_message() || error.is_body_write_aborted() {
            return HttpErrorKind::Request;
        }
        if error.is_timeout() {
            return HttpErrorKind::Timeout;
        }
    }
    match cause.downcast_ref::<io::Error>().map(io::Error::kind) {
        Some(io::ErrorKind::TimedOut) => HttpErrorKind::Timeout,
        Some(
            io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::UnexpectedEof,
        ) => HttpErrorKind::Interrupted,
        _ => HttpErrorKind::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { time_max: Duration::from_secs(20), bytes_per_second_min: 65_536 };

    #[test]
    fn more_bytes_may_take_longer() {
        for (bytes, seconds) in [(0, 20), (1, 21), (65_536, 21), (65_537, 22), (8 << 20, 148)] {
            assert_eq!(LIMITS.time_for(bytes), Duration::from_secs(seconds), "{bytes}");
        }
    }

    #[test]
    fn who_takes_nothing_more_is_waited_for_no_longer_than_for_what_may_be_unseen() {
        let progress = Progress::new();
        for (bytes, seconds) in [(0, 20), (CHUNK_BYTES, 21), (8 << 20, 36), (100 << 20, 36)] {
            progress.handed_on(bytes);
            let left = progress.until(LIMITS) - Instant::now();
            let expected = Duration::from_secs(seconds);
            assert!(left <= expected && left + Duration::from_secs(1) > expected, "{bytes}: {left:?}");
        }
    }
}
