//! What a worker works on: the bytes of a picture, opened when a turn has come.

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use imagewell_imaging::Facts;

use crate::Error;
use crate::spool::Content;

/// The source is handed over in pieces of this size.
const CHUNK_BYTES: usize = 256 * 1024;

/// Bytes, a piece at a time.
pub type Chunks = BoxStream<'static, Result<Bytes, Error>>;

/// The bytes of a picture. They are opened once for each worker that is tried on them, and not before there is one.
pub trait Source: Send + Sync {
    /// How many there are: as many as [`Source::open`] gives, or it fails.
    fn size_bytes(&self) -> u64;

    /// What is known of the picture; it tells how much memory a job will take.
    fn facts(&self) -> Option<&Facts>;

    /// All bytes from the start.
    ///
    /// # Errors
    /// Whatever keeps them from being read; it says nothing about the picture.
    fn open(&self) -> BoxFuture<'_, Result<Chunks, Error>>;
}

/// Bytes that are at hand, as those of an upload.
#[derive(Debug, Clone, Copy)]
pub struct Given<'a> {
    /// The bytes.
    pub content: &'a Content,
    /// What is known of them.
    pub facts: Option<&'a Facts>,
}

impl Source for Given<'_> {
    fn size_bytes(&self) -> u64 {
        self.content.len()
    }

    fn facts(&self) -> Option<&Facts> {
        self.facts
    }

    fn open(&self) -> BoxFuture<'_, Result<Chunks, Error>> {
        let content = self.content.clone();
        let chunks = futures_util::stream::try_unfold(0, move |offset| {
            let content = content.clone();
            async move {
                let chunk = content.read_at(offset, CHUNK_BYTES).await;
                let chunk = chunk.map_err(|error| Error::internal("reading an upload back", &error))?;
                let next = offset + chunk.len() as u64;
                Ok(if chunk.is_empty() { None } else { Some((chunk, next)) })
            }
        });
        Box::pin(std::future::ready(Ok(chunks.boxed())))
    }
}
