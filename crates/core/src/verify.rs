//! Reads every stored byte back and compares it with its row.

use futures_util::StreamExt as _;
use sha2::{Digest as _, Sha256};

use crate::app::App;
use crate::model::{BlobKey, Digest};
use crate::storage::Storage;
use crate::{Error, db};

const PAGE: u32 = 500;
/// Blobs that are read at once: a store that isn't local takes its time for each.
const READ_AT_ONCE: usize = 8;

/// What reading everything came to.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Images in the database.
    pub images: u64,
    /// Versions whose bytes were read.
    pub versions: u64,
    /// Versions whose bytes are gone or differ, by blob key.
    pub broken: Vec<String>,
}

/// Reads all blobs that rows point at, and calls `progress` with the number done.
///
/// # Errors
/// [`Error::Internal`] when the database can't be read.
pub async fn run(app: &App, mut progress: impl FnMut(u64) + Send) -> Result<Summary, Error> {
    let images = db::images::total(&app.database).await?;
    let mut summary = Summary { images: u64::try_from(images).unwrap_or(0), ..Summary::default() };
    let mut after = String::new();
    loop {
        let page = db::images::blobs_after(&app.database, &after, PAGE).await?;
        let Some((last, ..)) = page.last() else { return Ok(summary) };
        last.as_str().clone_into(&mut after);
        summary.versions += page.len() as u64;
        let reading =
            page.into_iter().map(async |(key, size, digest)| (!is_whole(&app.storage, &key, size, digest).await).then_some(key));
        let broken: Vec<_> =
            futures_util::stream::iter(reading).buffered(READ_AT_ONCE).filter_map(std::future::ready).collect().await;
        summary.broken.extend(broken.iter().map(|key| key.as_str().to_owned()));
        progress(summary.versions);
    }
}

/// Whether these bytes are in the store and have this digest.
pub(crate) async fn is_whole(storage: &Storage, key: &BlobKey, size: u64, digest: Digest) -> bool {
    if size == 0 {
        // A placeholder. No store gives a range of an object without bytes.
        return Digest(Sha256::digest([]).into()) == digest && matches!(storage.read(key).await, Ok(bytes) if bytes.is_empty());
    }
    let Ok(mut chunks) = storage.stream(key, 0..size).await else { return false };
    let (mut hasher, mut read) = (Sha256::new(), 0);
    while let Some(chunk) = chunks.next().await {
        let Ok(chunk) = chunk else { return false };
        hasher.update(&chunk);
        read += chunk.len() as u64;
    }
    read == size && Digest(hasher.finalize().into()) == digest
}
