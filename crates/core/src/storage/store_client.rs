//! The HTTP client of buckets: how long each request may take.
//!
//! A request may take so long until the head of its answer is there, and longer the more bytes it
//! sends. The body of an object may take as long as its reader likes: it is watched where it is read
//! (see [`super::resuming`]). Every other answer is short, and complete within the same time.

use std::io;
use std::pin::Pin;
use std::time::Duration;

use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService, ReqwestConnector,
};

/// The bounds on requests.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Until the head of an answer is there, for a request without a body.
    pub(super) time_max: Duration,
    /// A request with a body may take so much longer that this rate suffices.
    pub(super) bytes_per_second_min: u64,
}

impl Limits {
    fn time_for(&self, bytes: usize) -> Duration {
        let rate = self.bytes_per_second_min.max(1);
        self.time_max + Duration::from_secs((bytes as u64).div_ceil(rate))
    }
}

impl HttpConnector for Limits {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let client = ReqwestConnector::default().connect(options)?;
        Ok(HttpClient::new(StoreClient { client, limits: *self }))
    }
}

#[derive(Debug)]
struct StoreClient {
    client: HttpClient,
    limits: Limits,
}

impl StoreClient {
    async fn answer(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let is_object = request.method().as_str() == "GET" && request.uri().query().is_none();
        let response = self.client.execute(request).await?;
        if is_object && response.status().is_success() {
            return Ok(response);
        }
        let (head, body) = response.into_parts();
        Ok(HttpResponse::from_parts(head, body.bytes().await?.into()))
    }
}

impl HttpService for StoreClient {
    // As `async_trait` writes it, which is not worth a dependency.
    fn call<'s, 'f>(&'s self, request: HttpRequest) -> Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'f>>
    where
        's: 'f,
        Self: 'f,
    {
        let time_max = self.limits.time_for(request.body().content_length());
        Box::pin(async move {
            let answered = tokio::time::timeout(time_max, self.answer(request)).await;
            answered.unwrap_or_else(|_| {
                let late = io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("no complete answer within {} s (storage.time_seconds_max)", time_max.as_secs()),
                );
                Err(HttpError::new(HttpErrorKind::Timeout, late))
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_bytes_may_take_longer() {
        let limits = Limits { time_max: Duration::from_secs(20), bytes_per_second_min: 65_536 };
        for (bytes, seconds) in [(0, 20), (1, 21), (65_536, 21), (65_537, 22), (8 << 20, 148)] {
            assert_eq!(limits.time_for(bytes), Duration::from_secs(seconds), "{bytes}");
        }
    }
}
