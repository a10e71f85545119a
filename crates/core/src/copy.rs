//! Rows and blobs from one database and store to another: what moving, backing up and restoring have in common.
//!
//! A blob is compared with its digest when it is read, and again when it is read back from where it
//! was written. It replaces what lies under its key in one step, so that nobody ever sees half of it
//! and nothing is removed before it can be replaced.

use std::path::Path;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;

use crate::db::Database;
use crate::db::copying::{self, Snapshot, Table};
use crate::db::images::BlobToCopy;
use crate::db::moves::{self, Claim};
use crate::spool::Spool;
use crate::storage::Storage;
use crate::verify::{self, Condition};
use crate::{Error, db};

/// Blobs that are copied at once.
pub(crate) const BLOBS_AT_ONCE: usize = 4;
/// Blobs whose rows are read at a time, and between two notes of how far it is.
pub(crate) const PAGE: u32 = 256;
/// Bytes of a blob that are held in memory; what is larger goes through a file.
const MEMORY_BYTES_MAX: usize = 1024 * 1024;

/// What became of a blob that was to be copied.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Copied {
    /// It was read, compared, written, and read back.
    New,
    /// The target had it already.
    There,
    /// The source doesn't have it. That is right if its row is gone as well.
    Gone,
    /// The source can't give back what it took: why.
    Damaged(String),
}

/// How it is found out that the target has a blob already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known {
    /// By its digest.
    ByDigest,
    /// By its size, where nothing ever lies under a key but what was whole when it got there.
    BySize,
}

/// Unless the target has it, reads a blob, compares it with its digest, writes it, and reads it back.
///
/// # Errors
/// When the source can't be reached, or the target doesn't take the blob.
pub(crate) async fn blob(
    from: &Storage,
    to: &Storage,
    spool_folder: &Path,
    blob: &BlobToCopy,
    known: Known,
) -> Result<Copied, Error> {
    let BlobToCopy { key, size_bytes, digest, .. } = blob;
    let there = match known {
        Known::ByDigest => verify::condition(to, key, *size_bytes, *digest).await? == Condition::Whole,
        Known::BySize => to.size_of(key).await? == Some(*size_bytes),
    };
    if there {
        return Ok(Copied::There);
    }
    to.check_space(*size_bytes)?;
    let mut spool = Spool::new(spool_folder, MEMORY_BYTES_MAX, u64::MAX);
    match read(from, blob, &mut spool).await? {
        Read::All => {}
        Read::Nothing => return Ok(Copied::Gone),
        Read::Failed(reason) => return Ok(Copied::Damaged(reason)),
    }
    let spooled = spool.finish().await?;
    if spooled.digest != *digest {
        return Ok(Copied::Damaged("its bytes have changed".into()));
    }
    to.replace_as(key, &spooled.content, &blob.content_type, blob.inspected).await?;
    match verify::condition(to, key, *size_bytes, *digest).await? {
        Condition::Whole => Ok(Copied::New),
        _ => Err(Error::Internal { detail: format!("{} is not what it was in the target, after it was written", key.as_str()) }),
    }
}

/// Compares a blob with its digest where source and target are one store: it is there, and nothing is ever written or removed. One that
/// differs is read again, because bytes also change on their way.
///
/// # Errors
/// When the store can't be reached.
pub(crate) async fn in_place(storage: &Storage, blob: &BlobToCopy) -> Result<Copied, Error> {
    let BlobToCopy { key, size_bytes, digest, .. } = blob;
    let mut found = verify::condition(storage, key, *size_bytes, *digest).await?;
    if found == Condition::Changed {
        found = verify::condition(storage, key, *size_bytes, *digest).await?;
    }
    Ok(match found {
        Condition::Whole => Copied::There,
        Condition::Gone => Copied::Gone,
        Condition::Changed => Copied::Damaged("its bytes have changed".into()),
    })
}

enum Read {
    All,
    Nothing,
    Failed(String),
}

/// A store that is away is an error; one that can't give back this blob is a finding.
async fn read(from: &Storage, blob: &BlobToCopy, spool: &mut Spool) -> Result<Read, Error> {
    if blob.size_bytes == 0 {
        // No store gives a range of an object without bytes.
        return found(from.read(&blob.key).await.map(|_| ()));
    }
    let mut chunks = match from.stream(&blob.key, 0..blob.size_bytes).await {
        Ok(chunks) => chunks,
        Err(error) => return found(Err(error)),
    };
    while let Some(chunk) = chunks.next().await {
        match chunk {
            Ok(chunk) => spool.write(&chunk).await?,
            Err(error) => return found(Err(error)),
        }
    }
    Ok(Read::All)
}

fn found(outcome: Result<(), Error>) -> Result<Read, Error> {
    match outcome {
        Ok(()) => Ok(Read::All),
        Err(Error::NotFound) => Ok(Read::Nothing),
        Err(Error::Internal { detail }) => Ok(Read::Failed(detail)),
        Err(other) => Err(other),
    }
}

/// All rows of these tables as they were at one moment, as long as the claim to the target, if there is one, is good.
/// `report` gets what each table's rows are and how many of them are copied.
///
/// # Errors
/// When the source can't be read, or the target not be written.
pub(crate) async fn rows(
    snapshot: &mut Snapshot,
    target: &Database,
    claim: Option<&Claim>,
    tables: impl Iterator<Item = &'static Table>,
    report: impl Fn(&'static str, u64),
) -> Result<(), Error> {
    for table in tables {
        let (mut after, mut count) = (None, 0);
        loop {
            let page = snapshot.page(table, after.as_ref()).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.clone());
            count += page.len() as u64;
            let write = moves::write(target, claim, move |connection| {
                Box::pin(async move { copying::upsert(connection, table, &page).await })
            });
            write.await?;
            report(table.words, count);
        }
    }
    Ok(())
}

/// Both sides must have as many rows of each table. Returns what they are and how many.
///
/// # Errors
/// [`Error::Internal`] names the table where they don't.
pub(crate) async fn count(
    source: &mut Snapshot,
    target: &mut Snapshot,
    tables: impl Iterator<Item = &'static Table>,
) -> Result<Vec<(&'static str, u64)>, Error> {
    let mut counts = Vec::new();
    for table in tables {
        let (here, there) = tokio::try_join!(source.count(table), target.count(table))?;
        if here != there {
            let detail = format!("{} has {here} rows in the source and {there} in the target", table.name);
            return Err(Error::Internal { detail });
        }
        counts.push((table.words, u64::try_from(here).unwrap_or(0)));
    }
    Ok(counts)
}

/// Whether a blob that the source's store doesn't have is gone on purpose: then its row is gone too,
/// because rows are removed before their bytes.
///
/// # Errors
/// When the database can't be asked.
pub(crate) async fn is_gone_on_purpose(source: &Database, blob: &BlobToCopy) -> Result<bool, Error> {
    db::images::blob_is_used(source, &blob.key).await.map(|used| !used)
}

/// Holds copying back to so many bytes in a second.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limit {
    begun: Instant,
    bytes: u64,
    bytes_per_second_max: u64,
}

impl Limit {
    /// From now on; 0 is no limit.
    pub(crate) fn new(bytes_per_second_max: u64) -> Self {
        Self { begun: Instant::now(), bytes: 0, bytes_per_second_max }
    }

    /// Returns when so many bytes more may have been copied.
    pub(crate) async fn copied(&mut self, bytes: u64) {
        self.bytes += bytes;
        if let Some(due_seconds) = self.bytes.checked_div(self.bytes_per_second_max) {
            tokio::time::sleep(Duration::from_secs(due_seconds).saturating_sub(self.begun.elapsed())).await;
        }
    }
}
