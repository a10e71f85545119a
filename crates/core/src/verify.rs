//! Reads every stored byte back and compares it with its row.

use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _};
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use crate::app::App;
use crate::db::Database;
use crate::model::{BlobKey, Digest};
use crate::storage::Storage;
use crate::{Error, db, identity};

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
    /// Bytes of the rows that were looked at.
    pub bytes: u64,
    /// Versions whose bytes are gone or differ, by blob key.
    pub broken: Vec<String>,
    /// The key of the last blob that was read: where to go on.
    pub last: String,
}

/// Never more bytes per second than this, on average since it was made. 0 is no bound.
#[derive(Debug)]
pub struct Pace {
    bytes_per_second_max: u64,
    since: Instant,
    bytes: u64,
}

impl Pace {
    /// From now on.
    #[must_use]
    pub fn new(bytes_per_second_max: u64) -> Self {
        Self { bytes_per_second_max, since: Instant::now(), bytes: 0 }
    }

    /// Waits until so many more bytes are due.
    pub async fn wait(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes_per_second_max > 0 {
            let due = self.bytes as f64 / self.bytes_per_second_max as f64;
            let due = Duration::try_from_secs_f64(due).unwrap_or(Duration::MAX);
            tokio::time::sleep(due.saturating_sub(self.since.elapsed())).await;
        }
    }
}

/// Reads all blobs that rows point at, and calls `progress` with the number done.
///
/// # Errors
/// [`Error::Internal`] when the database can't be read; [`Error::Busy`] when the store can't be reached.
pub async fn run(app: &App, mut progress: impl FnMut(u64) + Send) -> Result<Summary, Error> {
    let mut summary = Summary::default();
    run_from(app, &mut summary, 0, |summary| progress(summary.versions)).await?;
    Ok(summary)
}

/// Goes on after `summary.last`, not faster than so many bytes per second (0: as fast as it goes). Whoever stops waiting has in `summary`
/// how far it came, and can go on there.
///
/// # Errors
/// As [`run`].
pub async fn run_from(
    app: &App,
    summary: &mut Summary,
    bytes_per_second_max: u64,
    mut progress: impl FnMut(&Summary) + Send,
) -> Result<(), Error> {
    summary.images = u64::try_from(db::images::total(&app.database).await?).unwrap_or(0);
    let mut pace = Pace::new(bytes_per_second_max);
    // Where there is a pace, it is kept from blob to blob.
    let page_max = if bytes_per_second_max > 0 { 1 } else { PAGE };
    loop {
        let page = db::images::blobs_after(&app.database, &summary.last, page_max).await?;
        let Some(last) = page.last().map(|(key, ..)| key.as_str().to_owned()) else { return Ok(()) };
        let bytes = page.iter().map(|(_, size, _)| size).sum();
        let (read, broken) = read_page(&app.database, &app.storage, page).await?;
        summary.versions += read;
        summary.bytes += bytes;
        summary.broken.extend(broken);
        summary.last = last;
        progress(summary);
        pace.wait(bytes).await;
    }
}

/// How many of these were read, and which are broken. What a running service has removed since their rows were read is neither. A store that
/// can't give back its identity says nothing of its blobs: it is away, unmounted, closed to us, or another one.
async fn read_page(
    database: &Database,
    storage: &Storage,
    page: Vec<(BlobKey, u64, Digest)>,
) -> Result<(u64, Vec<String>), Error> {
    let mut read = page.len() as u64;
    let reading = page.into_iter().map(async |(key, size, digest)| {
        let condition = condition(storage, &key, size, digest).await?;
        Ok::<_, Error>((key, condition))
    });
    let mut conditions = futures_util::stream::iter(reading).buffered(READ_AT_ONCE);
    let mut broken = Vec::new();
    while let Some((key, condition)) = conditions.try_next().await? {
        if condition == Condition::Whole {
            continue;
        }
        // Rows are removed before their bytes.
        if db::images::blob_is_used(database, &key).await? {
            if broken.is_empty() {
                identity::verify(database, storage).await?;
            }
            broken.push(key.as_str().to_owned());
        } else {
            read -= 1;
        }
    }
    Ok((read, broken))
}

/// What the store has under a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Condition {
    /// The bytes that were stored.
    Whole,
    /// Nothing.
    Gone,
    /// Other bytes, or some that the disk can't read any more.
    Changed,
}

/// Reads these bytes and compares them with their digest.
///
/// # Errors
/// [`Error::Busy`] when the store can't be reached: that says nothing of the bytes.
pub(crate) async fn condition(storage: &Storage, key: &BlobKey, size: u64, digest: Digest) -> Result<Condition, Error> {
    match hash(storage, key, size).await {
        Ok((read, hashed)) if read == size && hashed == digest => Ok(Condition::Whole),
        Err(Error::NotFound) => Ok(Condition::Gone),
        Err(error @ Error::Busy { .. }) => Err(error),
        Ok(_) | Err(_) => Ok(Condition::Changed),
    }
}

async fn hash(storage: &Storage, key: &BlobKey, size: u64) -> Result<(u64, Digest), Error> {
    let mut hasher = Sha256::new();
    if size == 0 {
        // A placeholder. No store gives a range of an object without bytes.
        let bytes = storage.read(key).await?;
        hasher.update(&bytes);
        return Ok((bytes.len() as u64, Digest(hasher.finalize().into())));
    }
    let (mut chunks, mut read) = (storage.stream(key, 0..size).await?, 0);
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk?;
        hasher.update(&chunk);
        read += chunk.len() as u64;
    }
    Ok((read, Digest(hasher.finalize().into())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::halt::Halt;
    use crate::spool::Content;
    use crate::storage::{Place, Reserve};

    /// A service that runs beside may remove rows and bytes between the moment when rows are read and the one when bytes are.
    #[tokio::test]
    async fn what_was_removed_meanwhile_is_not_broken_and_what_lost_its_bytes_is() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let place = crate::DatabasePlace::File { file: folder.path().join("a.db"), readers_max: 2 };
        let database = Database::open(&place, std::sync::Arc::default()).await.expect("opens");
        let (kept, removed) = ("rewards/1/kept.png", "dropbox-pictures/1/removed.png");
        db::tests::insert_version(&database, kept, 3).await;
        let reserve = Reserve { bytes_min: 0, inodes_min: 0 };
        let (root, spool) = (folder.path().join("blobs"), folder.path().join("spool"));
        let storage = Storage::open(&Place::Folder(root), spool, std::sync::Arc::new(Halt::default()), reserve).expect("opens");
        identity::pair_anew(&database, &storage).await.expect("pairs");
        let row = |key: &str| (BlobKey::from_stored(key.to_owned()), 3, Digest(Sha256::digest(b"abc").into()));
        let page = || vec![row(removed), row(kept)];

        let (read, broken) = read_page(&database, &storage, page()).await.expect("reads");
        assert_eq!((read, broken), (1, vec![kept.to_owned()]), "its row is there and its bytes are not");
        let content = Content::Memory(b"abc".as_slice().into());
        storage.put_as(&row(kept).0, &content, "image/png", true).await.expect("stores");
        let (read, broken) = read_page(&database, &storage, page()).await.expect("reads");
        assert_eq!((read, broken), (1, Vec::new()));
    }
}
