//! Reading an object to its end, however slow its reader and its store are. A store may close a
//! connection that nobody reads from, or break off; what is missing is then asked for by range.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use object_store::path::Path as StorePath;
use object_store::{GetOptions, GetRange, GetResult};
use tokio::time::Instant;

use super::bucket::SigningStore;
use super::local::generic;

/// Between two tries that brought nothing.
const PAUSE: Duration = Duration::from_millis(200);

/// How long somebody waits for a store that sends nothing.
#[derive(Debug, Clone, Copy)]
pub(super) struct Waiting {
    /// For the next bytes of a connection, while somebody wants them.
    pub(super) time_max: Duration,
    /// For all tries that follow each other without a byte.
    pub(super) retry_max: Duration,
}

/// What is left of an object.
struct Rest {
    store: Arc<dyn SigningStore>,
    path: StorePath,
    waiting: Waiting,
    /// The object that was begun; another one under the same key is not mixed with it.
    e_tag: Option<String>,
    left: Range<u64>,
    body: Option<BoxStream<'static, object_store::Result<Bytes>>>,
    /// Since when tries have brought nothing.
    fruitless_since: Option<Instant>,
}

/// Opens an object, or a range of it. Returns how many bytes will come, and them.
pub(super) async fn open(
    store: Arc<dyn SigningStore>,
    path: StorePath,
    range: Option<Range<u64>>,
    waiting: Waiting,
) -> object_store::Result<(u64, BoxStream<'static, object_store::Result<Bytes>>)> {
    let options = GetOptions { range: range.map(GetRange::Bounded), ..GetOptions::default() };
    let opened = store.get_opts(&path, options).await?;
    let (left, e_tag) = (opened.range.clone(), opened.meta.e_tag.clone());
    let len = left.end - left.start;
    let rest = Rest { store, path, waiting, e_tag, left, body: Some(opened.into_stream()), fruitless_since: None };
    let stream =
        futures_util::stream::try_unfold(rest, |mut rest| async move { Ok(rest.next().await?.map(|bytes| (bytes, rest))) });
    Ok((len, stream.boxed()))
}

impl Rest {
    /// The next bytes; none at the end.
    async fn next(&mut self) -> object_store::Result<Option<Bytes>> {
        while !self.left.is_empty() {
            let error = match self.try_next().await {
                Ok(bytes) => {
                    let len = bytes.len() as u64;
                    if len > self.left.end - self.left.start {
                        return Err(generic(std::io::Error::other("the store sends more bytes than it announced")));
                    }
                    if len > 0 {
                        self.left.start += len;
                        self.fruitless_since = None;
                        return Ok(Some(bytes));
                    }
                    continue;
                }
                Err(error) => error,
            };
            self.body = None;
            let since = *self.fruitless_since.get_or_insert_with(Instant::now);
            // What is not there, or not ours, will not be there on the next try.
            if !matches!(error, object_store::Error::Generic { .. }) || since.elapsed() >= self.waiting.retry_max {
                return Err(error);
            }
            tracing::info!(%error, left = self.left.end - self.left.start, "a store broke off: the rest is asked for by range");
            metrics::counter!("imagewell_store_reads_resumed_total").increment(1);
            tokio::time::sleep(PAUSE).await;
        }
        Ok(None)
    }

    async fn try_next(&mut self) -> object_store::Result<Bytes> {
        let body = match &mut self.body {
            Some(body) => body,
            None => {
                let opened = self.reopen().await?;
                self.body.insert(opened.into_stream())
            }
        };
        // Bytes that are there are taken however late their reader comes: the timer is looked at last.
        match tokio::time::timeout(self.waiting.time_max, body.next()).await {
            Ok(Some(bytes)) => bytes,
            Ok(None) => Err(generic(std::io::Error::from(std::io::ErrorKind::UnexpectedEof))),
            Err(_) => Err(generic(std::io::Error::from(std::io::ErrorKind::TimedOut))),
        }
    }

    async fn reopen(&mut self) -> object_store::Result<GetResult> {
        let options = GetOptions { range: Some(GetRange::Bounded(self.left.clone())), ..GetOptions::default() };
        let opened = self.store.get_opts(&self.path, options).await?;
        if opened.meta.e_tag != self.e_tag {
            let source = "it was replaced while it was read".into();
            return Err(object_store::Error::Precondition { path: self.path.to_string(), source });
        }
        Ok(opened)
    }
}
