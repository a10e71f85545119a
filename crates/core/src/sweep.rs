//! Removes what nothing points at: versions that can't come back, pictures that nobody took, blobs without a row, staging files of a crash, ended sessions. Rows are the truth; whatever
//! is younger than the grace period may still be on its way to one.

use std::time::Duration;

use futures_util::StreamExt as _;

use crate::app::App;
use crate::model::{BlobKey, Timestamp};
use crate::{Error, db, files, tickets};

/// Between two looks at progress.
const REPORT_EVERY: u64 = 10_000;

/// How sweeping goes.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Between two sweeps in the background.
    pub interval: Duration,
    /// What is younger is left alone. Must be longer than the longest upload.
    pub grace: Duration,
    /// For so long a deleted version can be restored.
    pub undo: Duration,
}

/// Whether to act.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Only say what would be removed.
    DryRun,
    /// Remove it.
    Remove,
}

/// Something found, with the reason why it goes.
#[derive(Debug)]
pub enum Finding {
    /// A blob that no version points at.
    Orphan {
        /// Its key.
        key: BlobKey,
        /// Its size.
        size_bytes: u64,
        /// Since when it lies there.
        modified: Timestamp,
    },
    /// A staging file.
    Leftover {
        /// Where.
        path: std::path::PathBuf,
        /// Its size.
        size_bytes: u64,
    },
    /// So many temporary images were not taken in time.
    Expired {
        /// How many.
        images: u64,
        /// Their bytes.
        bytes: u64,
    },
    /// So many deleted versions can't come back any more.
    PastUndo {
        /// How many.
        versions: u64,
        /// Their bytes.
        bytes: u64,
    },
    /// So many sessions have ended.
    EndedSessions(u64),
    /// So many blobs were looked at so far.
    Progress(u64),
}

/// What a sweep came to.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Blobs looked at.
    pub blobs: u64,
    /// Blobs without a row.
    pub orphans: u64,
    /// Staging files.
    pub leftovers: u64,
    /// Temporary images whose time is over.
    pub expired: u64,
    /// Deleted versions whose undo window is over.
    pub versions: u64,
    /// Ended sessions.
    pub sessions: u64,
    /// Bytes of images, versions, orphans and leftovers.
    pub bytes: u64,
}

/// Looks at everything once and tells each finding to `report`.
///
/// # Errors
/// [`Error::Internal`] when the store or the database fails; the next sweep goes on where this one stopped.
pub async fn run(app: &App, mode: Mode, mut report: impl FnMut(&Finding) + Send) -> Result<Summary, Error> {
    let mut summary = Summary::default();
    let grace = app.options.sweep.grace;
    let (versions, bytes) = sweep_versions(app, mode).await?;
    report(&Finding::PastUndo { versions, bytes });
    (summary.versions, summary.bytes) = (versions, bytes);
    let (expired, bytes) = sweep_tickets(app, mode).await?;
    report(&Finding::Expired { images: expired, bytes });
    summary.expired = expired;
    summary.bytes += bytes;
    sweep_blobs(app, mode, grace, &mut summary, &mut report).await?;
    for leftover in app.storage.leftovers(grace).await? {
        summary.leftovers += 1;
        summary.bytes += leftover.size_bytes;
        report(&Finding::Leftover { path: leftover.path.clone(), size_bytes: leftover.size_bytes });
        if mode == Mode::Remove {
            app.storage.remove_leftover(&leftover).await?;
        }
    }
    summary.sessions = sweep_sessions(app, mode).await?;
    report(&Finding::EndedSessions(summary.sessions));
    if mode == Mode::Remove {
        let now = Timestamp::now();
        app.database.write(move |connection| Box::pin(async move { db::keys::delete_ended(connection, now).await })).await?;
        tracing::info!(?summary, "swept");
        metrics::counter!("imagewell_swept_blobs_total").increment(summary.orphans);
    }
    Ok(summary)
}

async fn sweep_versions(app: &App, mode: Mode) -> Result<(u64, u64), Error> {
    let undo = app.options.sweep.undo;
    match mode {
        Mode::DryRun => db::files::count_past_undo(&app.database, Timestamp::now().minus(undo)).await,
        Mode::Remove => files::remove_past_undo(app, undo).await,
    }
}

async fn sweep_tickets(app: &App, mode: Mode) -> Result<(u64, u64), Error> {
    match mode {
        Mode::DryRun => db::tickets::count_expired(&app.database, Timestamp::now()).await,
        Mode::Remove => tickets::remove_expired(app).await,
    }
}

async fn sweep_blobs(
    app: &App,
    mode: Mode,
    grace: Duration,
    summary: &mut Summary,
    report: &mut (impl FnMut(&Finding) + Send),
) -> Result<(), Error> {
    let old_enough = Timestamp::now().minus(grace);
    let mut blobs = app.storage.list();
    while let Some(blob) = blobs.next().await {
        let blob = blob?;
        summary.blobs += 1;
        if summary.blobs.is_multiple_of(REPORT_EVERY) {
            report(&Finding::Progress(summary.blobs));
        }
        if blob.modified > old_enough || db::images::blob_is_used(&app.database, &blob.key).await? {
            continue;
        }
        summary.orphans += 1;
        summary.bytes += blob.size_bytes;
        if mode == Mode::Remove {
            app.storage.delete(&blob.key).await?;
        }
        report(&Finding::Orphan { key: blob.key, size_bytes: blob.size_bytes, modified: blob.modified });
    }
    Ok(())
}

async fn sweep_sessions(app: &App, mode: Mode) -> Result<u64, Error> {
    let now = Timestamp::now();
    let idle_since = now.minus(app.accounts.limits().idle);
    match mode {
        Mode::DryRun => db::sessions::count_ended(&app.database, now, idle_since).await,
        Mode::Remove => {
            app.database
                .write(move |connection| Box::pin(async move { db::sessions::delete_ended(connection, now, idle_since).await }))
                .await
        }
    }
}
