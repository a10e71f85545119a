//! Blobs without a row. Each is looked at twice, since a row may be on its way: once in the listing of the store, and again right before
//! it is moved to the trash.

use futures_util::StreamExt as _;

use super::{Finding, Mode, REPORT_EVERY, Report, Summary, passing};
use crate::app::App;
use crate::model::{BlobKey, Timestamp};
use crate::storage::{Stored, StoredBlob, Trashed};
use crate::{Error, db};

/// Blobs that are looked up at a time.
const PAGE: usize = 512;
/// Orphans that one sweep moves; the next one goes on. Each takes some 150 bytes of memory.
const AT_ONCE_MAX: usize = 100_000;

/// What the first look has found.
#[derive(Debug, Default)]
pub(super) struct Looked {
    pub(super) blobs: u64,
    pub(super) foreign: u64,
    /// How many orphans there are.
    pub(super) orphans: u64,
    /// As many of them as one sweep moves.
    some: Vec<StoredBlob>,
}

/// The first look, at everything that was there before a moment.
pub(super) async fn look(app: &App, before: Timestamp, report: &mut Report<'_>) -> Result<Looked, Error> {
    let mut looked = Looked::default();
    let mut pages = app.storage.list().chunks(PAGE);
    while let Some(page) = pages.next().await {
        let mut old: Vec<StoredBlob> = Vec::new();
        for stored in page {
            let Stored::Blob(blob) = stored? else {
                looked.foreign += 1;
                continue;
            };
            looked.blobs += 1;
            if looked.blobs.is_multiple_of(REPORT_EVERY) {
                report(&Finding::Progress(looked.blobs));
            }
            if blob.modified <= before {
                old.push(blob);
            }
        }
        let keys: Vec<BlobKey> = old.iter().map(|blob| blob.key.clone()).collect();
        let known = db::images::known_blobs(&app.database, &keys).await?;
        for orphan in old.into_iter().filter(|blob| !known.contains(&blob.key)) {
            looked.orphans += 1;
            if looked.some.len() < AT_ONCE_MAX {
                looked.some.push(orphan);
            }
        }
    }
    Ok(looked)
}

/// The second look, at what the first one has found. Moves what still has no row to the trash.
pub(super) async fn put_in_trash(
    app: &App,
    mode: Mode,
    looked: Looked,
    since: Timestamp,
    summary: &mut Summary,
    report: &mut Report<'_>,
) -> Result<(), Error> {
    for StoredBlob { key, size_bytes, modified } in looked.some {
        if mode != Mode::DryRun {
            if db::images::blob_is_used(&app.database, &key).await? {
                continue;
            }
            let blob = Trashed { key: key.clone(), size_bytes, since };
            match app.storage.put_in_trash(&blob).await {
                Ok(true) => {}
                Ok(false) => continue,
                Err(error) => {
                    passing(error, &key, summary, report)?;
                    continue;
                }
            }
        }
        summary.orphans += 1;
        // A sweep that was stopped moves none of them.
        summary.bytes += if summary.stopped { 0 } else { size_bytes };
        report(&Finding::Orphan { key, size_bytes, modified });
    }
    Ok(())
}
