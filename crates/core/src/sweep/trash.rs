//! What becomes of the trash: blobs whose rows are there after all are brought back, and the others go for good when their time is over.

use futures_util::StreamExt as _;

use super::{Finding, Mode, Report, Summary, passing};
use crate::Error;
use crate::app::App;
use crate::db::{self, Database};
use crate::model::{BlobKey, Timestamp};
use crate::storage::{Storage, Trashed};

/// Blobs that are looked up at a time.
const PAGE: usize = 512;

/// Goes through the trash. What was put there before a moment, if one is given, goes for good unless a row points at it.
pub(super) async fn empty(
    app: &App,
    mode: Mode,
    before: Option<Timestamp>,
    summary: &mut Summary,
    report: &mut Report<'_>,
) -> Result<(), Error> {
    let mut pages = app.storage.list_trash().chunks(PAGE);
    while let Some(page) = pages.next().await {
        let page = page.into_iter().collect::<Result<Vec<_>, _>>()?;
        let known = db::images::known_blobs(&app.database, &keys(&page)).await?;
        for blob in page {
            let done = if known.contains(&blob.key) && !app.storage.has(&blob.key).await? {
                bring_back(app, mode, blob, summary, report).await
            } else if before.is_some_and(|before| blob.since <= before) {
                delete(app, mode, blob, summary, report).await
            } else {
                Ok(())
            };
            done?;
        }
    }
    Ok(())
}

async fn bring_back(app: &App, mode: Mode, blob: Trashed, summary: &mut Summary, report: &mut Report<'_>) -> Result<(), Error> {
    if mode != Mode::DryRun {
        match app.storage.bring_back(&blob).await {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            Err(error) => return passing(error, &blob.key, summary, report),
        }
    }
    summary.brought_back += 1;
    report(&Finding::BroughtBack { key: blob.key });
    Ok(())
}

async fn delete(app: &App, mode: Mode, blob: Trashed, summary: &mut Summary, report: &mut Report<'_>) -> Result<(), Error> {
    if mode != Mode::DryRun
        && let Err(error) = app.storage.delete_trashed(&blob).await
    {
        return passing(error, &blob.key, summary, report);
    }
    summary.deleted += 1;
    summary.bytes += blob.size_bytes;
    report(&Finding::Deleted { key: blob.key, size_bytes: blob.size_bytes, since: blob.since });
    Ok(())
}

/// Brings back every blob of the trash that a row points at, and leaves the others there. Returns how many, and how many of the others.
///
/// # Errors
/// [`Error::Busy`] when the store or the database can't be reached.
pub(crate) async fn restore(
    database: &Database,
    storage: &Storage,
    mut report: impl FnMut(&BlobKey),
) -> Result<(u64, u64), Error> {
    let (mut brought_back, mut others) = (0, 0);
    let mut pages = storage.list_trash().chunks(PAGE);
    while let Some(page) = pages.next().await {
        let page = page.into_iter().collect::<Result<Vec<_>, _>>()?;
        let known = db::images::known_blobs(database, &keys(&page)).await?;
        for blob in page {
            if known.contains(&blob.key) && storage.bring_back(&blob).await? {
                brought_back += 1;
                report(&blob.key);
            } else {
                others += 1;
            }
        }
    }
    if brought_back > 0 {
        tracing::warn!(target: "audit", blobs = brought_back, "blobs were brought back from the trash");
    }
    Ok((brought_back, others))
}

fn keys(page: &[Trashed]) -> Vec<BlobKey> {
    page.iter().map(|blob| blob.key.clone()).collect()
}
