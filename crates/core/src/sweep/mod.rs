//! Removes what nothing points at: versions that can't come back, pictures that nobody took, blobs without a row, staging files of a crash,
//! ended sessions. Rows are the truth; whatever is younger than the grace period may still be on its way to one.
//!
//! Nothing is removed unless database and store bear the same identity (see [`crate::identity`]), by a clock that can be trusted (see
//! [`crate::clock`]), and blobs without a row wait in the trash before they go for good.

mod brake;
mod doomed;
mod orphans;
mod trash;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;

pub(crate) use self::doomed::remove_expired;
pub(crate) use self::trash::restore;
use crate::app::App;
use crate::db::files::PastUndo;
use crate::db::tickets::Expired;
use crate::model::{BlobKey, Timestamp};
use crate::{Error, db, identity, kept, leases};

/// Between two looks at progress.
const REPORT_EVERY: u64 = 10_000;
/// Who has it sweeps, and nobody else until it has ended.
const LEASE: &str = "sweep";
const LEASE_LASTS: Duration = Duration::from_secs(120);
/// Who has it removes pictures that nobody took.
const EXPIRED_LEASE: &str = "expired";
/// Rows and their blobs go in pages of this many.
const PAGE: u32 = 256;

/// How sweeping goes.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Between two sweeps in the background.
    pub interval: Duration,
    /// What is younger is left alone. Must be longer than the longest upload.
    pub grace: Duration,
    /// For so long a deleted version can be restored.
    pub undo: Duration,
    /// For so long blobs without a row stay in the trash.
    pub trash: Duration,
    /// A sweep moves at most this share of all blobs to the trash, unless that is confirmed.
    pub orphans_percent_max: u32,
    /// So many orphans are always moved, but for those of a database without any image.
    pub orphans_always: u64,
}

/// Whether to act.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Only say what would be removed.
    DryRun,
    /// Remove it, but for orphans that are suspiciously many.
    Remove,
    /// Remove all of it: an operator has made sure that database and store belong together and that the clock is right.
    RemoveConfirmed,
}

/// Something found, with the reason why it goes.
#[derive(Debug)]
pub enum Finding {
    /// A blob that no version points at, which goes to the trash.
    Orphan {
        /// Its key.
        key: BlobKey,
        /// Its size.
        size_bytes: u64,
        /// Since when it is there.
        modified: Timestamp,
    },
    /// A blob whose time in the trash is over.
    Deleted {
        /// The key that it had.
        key: BlobKey,
        /// Its size.
        size_bytes: u64,
        /// Since when it was in the trash.
        since: Timestamp,
    },
    /// A blob of the trash that a version points at after all.
    BroughtBack {
        /// Its key.
        key: BlobKey,
    },
    /// A rendering that nobody keeps count of.
    StrayVariant {
        /// Its key.
        key: BlobKey,
        /// Its size.
        size_bytes: u64,
    },
    /// A staging file.
    Leftover {
        /// Where.
        path: std::path::PathBuf,
        /// Its size.
        size_bytes: u64,
    },
    /// An upload in parts that nobody finishes.
    Unfinished {
        /// The key that it would have had.
        key: BlobKey,
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
    /// So many of all blobs are orphans that none of them is moved.
    Suspicious {
        /// How many.
        orphans: u64,
        /// Among how many.
        blobs: u64,
    },
    /// The store refuses to move or remove this; the sweep goes on without it.
    Failed {
        /// Its key.
        key: BlobKey,
        /// What the store says.
        why: String,
    },
    /// The clock is so far ahead that things are removed by an earlier time.
    ClockAhead(Duration),
}

/// Hears of each finding.
type Report<'r> = dyn FnMut(&Finding) + Send + 'r;

/// What a sweep came to.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Blobs looked at.
    pub blobs: u64,
    /// Objects of others beside them, which are left alone.
    pub foreign: u64,
    /// Blobs without a row, which go to the trash unless the sweep was stopped.
    pub orphans: u64,
    /// Blobs of the trash whose time was over.
    pub deleted: u64,
    /// Blobs of the trash that have a row after all.
    pub brought_back: u64,
    /// Renderings without a row.
    pub variants: u64,
    /// Staging files.
    pub leftovers: u64,
    /// Uploads in parts that nobody finishes.
    pub unfinished: u64,
    /// Temporary images whose time is over.
    pub expired: u64,
    /// Deleted versions whose undo window is over.
    pub versions: u64,
    /// Ended sessions.
    pub sessions: u64,
    /// Bytes of all that goes: images, versions, orphans, the trash, renderings and leftovers.
    pub bytes: u64,
    /// What the store refused to move or remove.
    pub failed: u64,
    /// Whether the orphans were left alone, because they are suspiciously many.
    pub stopped: bool,
}

/// Set while a sweep of the background runs in this process.
struct Running<'f>(&'f AtomicBool);

impl<'f> Running<'f> {
    fn begin(flag: &'f AtomicBool) -> Option<Self> {
        (!flag.swap(true, Ordering::SeqCst)).then_some(Self(flag))
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

/// Sweeps unless somebody does, or, on a shared database, has done so within the interval. Whether it did.
///
/// # Errors
/// As [`run`].
pub async fn run_if_due(app: &App) -> Result<bool, Error> {
    let Some(_running) = Running::begin(&app.sweeping) else { return Ok(false) };
    let Some(lease) = leases::take_free(app, LEASE.to_owned(), LEASE_LASTS).await? else { return Ok(false) };
    let started = tokio::time::Instant::now();
    let swept = tokio::select! {
        swept = run(app, Mode::Remove, |_| {}) => swept,
        () = leases::keep(LEASE_LASTS, || lease.extend(app, LEASE_LASTS)) => Err(Error::Internal { detail: "another node has begun to sweep".into() }),
    };
    let rest = app.options.sweep.interval.saturating_sub(started.elapsed());
    lease.extend(app, if swept.is_ok() { rest } else { Duration::ZERO }).await?;
    swept.map(|_| true)
}

/// Looks at everything once and tells each finding to `report`.
///
/// # Errors
/// [`Error::Invalid`] when the store does not belong to the database, or the clock can't be trusted: nothing is removed then;
/// [`Error::Busy`] and [`Error::Internal`] when the store or the database fails; the next sweep goes on where this one stopped.
pub async fn run(app: &App, mode: Mode, mut report: impl FnMut(&Finding) + Send) -> Result<Summary, Error> {
    let swept = run_once(app, mode, &mut report).await;
    if mode != Mode::DryRun {
        let why = match &swept {
            Ok(summary) => summary.stopped.then_some("too many blobs have no row"),
            Err(Error::Invalid { reason }) => {
                tracing::error!(reason, "ALARM: nothing is swept");
                Some("another database has swept this store, the store is another one, or the clock is wrong")
            }
            // Which may pass.
            Err(_) => return swept,
        };
        app.note_sweep_stopped(why);
    }
    swept
}

async fn run_once(app: &App, mode: Mode, report: &mut Report<'_>) -> Result<Summary, Error> {
    let mut summary = Summary::default();
    let options = app.options.sweep;
    let now = begin(app, mode, report).await?;
    let (versions, bytes) = doomed::sweep::<PastUndo>(app, mode, now.time.minus(options.undo)).await?;
    report(&Finding::PastUndo { versions, bytes });
    (summary.versions, summary.bytes) = (versions, bytes);
    let (expired, bytes) = doomed::sweep::<Expired>(app, mode, now.time).await?;
    report(&Finding::Expired { images: expired, bytes });
    summary.expired = expired;
    summary.bytes += bytes;
    sweep_blobs(app, mode, now, &mut summary, report).await?;
    if mode != Mode::DryRun {
        kept::remove_of_missing_versions(app).await?;
    }
    sweep_variants(app, mode, now.of_store.minus(options.grace), &mut summary, report).await?;
    if mode != Mode::DryRun {
        app.storage.remove_empty_variant_folders(now.of_store.minus(options.grace)).await?;
    }
    sweep_unfinished(app, mode, now.of_store.minus(options.grace), &mut summary, report).await?;
    for leftover in app.storage.leftovers(now.of_store.minus(options.grace)).await? {
        summary.leftovers += 1;
        summary.bytes += leftover.size_bytes;
        report(&Finding::Leftover { path: leftover.path.clone(), size_bytes: leftover.size_bytes });
        if mode != Mode::DryRun {
            app.storage.remove_leftover(&leftover).await?;
        }
    }
    summary.sessions = sweep_sessions(app, mode, now.time).await?;
    report(&Finding::EndedSessions(summary.sessions));
    if mode != Mode::DryRun {
        end(app, now.time, &summary).await?;
    }
    Ok(summary)
}

/// How late it is for a sweep.
#[derive(Clone, Copy)]
struct Now {
    /// By our clock, as far as it can be trusted.
    time: Timestamp,
    /// For what the store says of its blobs: also not later than by its own clock.
    of_store: Timestamp,
}

/// Makes sure that this store and this clock may be swept by.
async fn begin(app: &App, mode: Mode, report: &mut Report<'_>) -> Result<Now, Error> {
    app.clock.check_offset()?;
    if mode == Mode::RemoveConfirmed {
        app.clock.accept();
    }
    let time = app.clock.trusted();
    if let Some(ahead) = app.clock.is_ahead_by() {
        report(&Finding::ClockAhead(ahead));
    }
    if mode == Mode::DryRun {
        identity::verify(&app.database, &app.storage).await?;
        return Ok(Now { time, of_store: time });
    }
    let confirmed = mode == Mode::RemoveConfirmed;
    let written = identity::begin_sweep(&app.database, &app.storage, confirmed).await?;
    Ok(Now { time, of_store: time.min(written) })
}

/// What is left to do when everything was removed.
async fn end(app: &App, now: Timestamp, summary: &Summary) -> Result<(), Error> {
    app.database
        .write(move |connection| {
            Box::pin(async move {
                db::leases::delete_ended(connection, now.minus(LEASE_LASTS)).await?;
                db::keys::delete_ended(connection, now).await
            })
        })
        .await?;
    app.clock.note().await?;
    tracing::info!(?summary, "swept");
    let trashed = if summary.stopped { 0 } else { summary.orphans };
    let Summary { deleted, brought_back, .. } = *summary;
    if trashed + deleted + brought_back > 0 {
        tracing::warn!(target: "audit", trashed, deleted, brought_back, "blobs were put in the trash, deleted from it, brought back from it");
    }
    metrics::counter!("imagewell_swept_blobs_total").increment(trashed);
    metrics::counter!("imagewell_trash_deleted_total").increment(deleted);
    Ok(())
}

/// Blobs without a row, and the trash.
async fn sweep_blobs(app: &App, mode: Mode, now: Now, summary: &mut Summary, report: &mut Report<'_>) -> Result<(), Error> {
    let options = app.options.sweep;
    let looked = orphans::look(app, now.of_store.minus(options.grace), report).await?;
    (summary.blobs, summary.foreign) = (looked.blobs, looked.foreign);
    let suspicious = mode == Mode::Remove && options.is_suspicious(looked.blobs, looked.orphans);
    if suspicious {
        let (orphans, blobs) = (looked.orphans, looked.blobs);
        report(&Finding::Suspicious { orphans, blobs });
        tracing::error!(
            orphans,
            blobs,
            "ALARM: none of the blobs without a row is removed, because they are suspiciously many. Is this the store of this database, and the \
             newest one? If it is, `imagewell sweep --confirm` removes them"
        );
    }
    summary.stopped = suspicious;
    let orphans_mode = if suspicious { Mode::DryRun } else { mode };
    orphans::put_in_trash(app, orphans_mode, looked, now.time, summary, report).await?;
    // What was put there earlier is as suspicious.
    let trash_until = (!suspicious).then(|| now.time.minus(options.trash));
    trash::empty(app, mode, trash_until, summary, report).await
}

/// A failure that concerns one blob is counted, and the sweep goes on; when the store is away it ends.
fn passing(error: Error, key: &BlobKey, summary: &mut Summary, report: &mut Report<'_>) -> Result<(), Error> {
    let why = match error {
        Error::Internal { detail } => detail,
        other => return Err(other),
    };
    tracing::warn!(key = key.as_str(), why, "the store refuses to move or remove a blob");
    summary.failed += 1;
    report(&Finding::Failed { key: key.clone(), why });
    Ok(())
}

/// Renderings that nobody keeps count of. A crash leaves one between a rendering and its row; earlier versions of imagewell kept no rows of them.
async fn sweep_variants(
    app: &App,
    mode: Mode,
    before: Timestamp,
    summary: &mut Summary,
    report: &mut Report<'_>,
) -> Result<(), Error> {
    let mut listed = app.storage.list_variants();
    while let Some(stored) = listed.next().await {
        let stored = stored?;
        if stored.modified > before || db::variants::exists(&app.database, &stored.key).await? {
            continue;
        }
        if mode != Mode::DryRun
            && let Err(error) = app.storage.delete(&stored.key).await
        {
            passing(error, &stored.key, summary, report)?;
            continue;
        }
        summary.variants += 1;
        summary.bytes += stored.size_bytes;
        report(&Finding::StrayVariant { key: stored.key, size_bytes: stored.size_bytes });
    }
    Ok(())
}

/// What a process that was killed has left of uploads in parts.
async fn sweep_unfinished(
    app: &App,
    mode: Mode,
    before: Timestamp,
    summary: &mut Summary,
    report: &mut Report<'_>,
) -> Result<(), Error> {
    for upload in app.storage.unfinished(before).await? {
        if mode != Mode::DryRun
            && let Err(error) = app.storage.abort(&upload).await
        {
            passing(error, &upload.key, summary, report)?;
            continue;
        }
        summary.unfinished += 1;
        report(&Finding::Unfinished { key: upload.key });
    }
    Ok(())
}

async fn sweep_sessions(app: &App, mode: Mode, now: Timestamp) -> Result<u64, Error> {
    let limits = app.accounts.limits();
    let idle_since = now.minus(limits.idle + limits.touch_every());
    match mode {
        Mode::DryRun => db::sessions::count_ended(&app.database, now, idle_since).await,
        Mode::Remove | Mode::RemoveConfirmed => {
            app.database
                .write(move |connection| Box::pin(async move { db::sessions::delete_ended(connection, now, idle_since).await }))
                .await
        }
    }
}
