//! Removes what nothing points at: versions that can't come back, pictures that nobody took, blobs without a row, staging files of a crash, ended sessions. Rows are the truth; whatever
//! is younger than the grace period may still be on its way to one.

use std::time::Duration;

use futures_util::StreamExt as _;

use crate::app::App;
use crate::db::doomed::{Doomed, DoomedBytes};
use crate::db::files::PastUndo;
use crate::db::tickets::Expired;
use crate::model::{BlobKey, Timestamp};
use crate::storage::StoredBlob;
use crate::{Error, db, leases, variant};

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
    /// A sweep removes at most this share of all blobs as orphans, unless that is confirmed.
    pub orphans_percent_max: u32,
    /// So many orphans are always removed, but for those of a database without any image.
    pub orphans_always: u64,
}

impl Options {
    /// Whether so many orphans among so many blobs look like another database's store rather than like what uploads leave behind.
    fn is_suspicious(&self, blobs: u64, orphans: u64) -> bool {
        let share = u128::from(orphans) * 100 > u128::from(blobs) * u128::from(self.orphans_percent_max);
        orphans > 0 && (orphans == blobs || orphans > self.orphans_always) && share
    }
}

/// Whether to act.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Only say what would be removed.
    DryRun,
    /// Remove it, but for orphans that are suspiciously many.
    Remove,
    /// Remove all of it: an operator has made sure that database and store belong together.
    RemoveConfirmed,
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
    /// So many of all blobs are orphans that none of them is removed.
    Suspicious {
        /// How many.
        orphans: u64,
        /// Among how many.
        blobs: u64,
    },
}

/// What a sweep came to.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Blobs looked at.
    pub blobs: u64,
    /// Blobs without a row.
    pub orphans: u64,
    /// Renderings without a row.
    pub variants: u64,
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
    /// Whether the orphans were left alone, because they are suspiciously many.
    pub stopped: bool,
}

/// Sweeps unless another node does, or has done so within the interval.
///
/// # Errors
/// As [`run`].
pub(crate) async fn run_if_due(app: &App) -> Result<(), Error> {
    if !leases::take(app, LEASE.to_owned(), LEASE_LASTS).await? {
        return Ok(());
    }
    let started = tokio::time::Instant::now();
    let renewing = async {
        loop {
            tokio::time::sleep(LEASE_LASTS / 4).await;
            if let Err(error) = leases::take(app, LEASE.to_owned(), LEASE_LASTS).await {
                tracing::warn!(%error, "another node may begin to sweep too");
            }
        }
    };
    let swept = tokio::select! {
        swept = run(app, Mode::Remove, |_| {}) => swept,
        () = renewing => return Ok(()),
    };
    let rest = app.options.sweep.interval.saturating_sub(started.elapsed());
    leases::take(app, LEASE.to_owned(), if swept.is_ok() { rest } else { Duration::ZERO }).await?;
    swept.map(|_| ())
}

/// Looks at everything once and tells each finding to `report`.
///
/// # Errors
/// [`Error::Internal`] when the store or the database fails; the next sweep goes on where this one stopped.
pub async fn run(app: &App, mode: Mode, mut report: impl FnMut(&Finding) + Send) -> Result<Summary, Error> {
    let mut summary = Summary::default();
    let grace = app.options.sweep.grace;
    let now = Timestamp::now();
    let (versions, bytes) = sweep_doomed::<PastUndo>(app, mode, now.minus(app.options.sweep.undo)).await?;
    report(&Finding::PastUndo { versions, bytes });
    (summary.versions, summary.bytes) = (versions, bytes);
    let (expired, bytes) = sweep_doomed::<Expired>(app, mode, now).await?;
    report(&Finding::Expired { images: expired, bytes });
    summary.expired = expired;
    summary.bytes += bytes;
    let blobs_mode = if mode == Mode::Remove && has_suspicious_orphans(app, &mut report).await? { Mode::DryRun } else { mode };
    summary.stopped = blobs_mode != mode;
    sweep_stray(app, blobs_mode, Stored::Blobs, &mut summary, &mut report).await?;
    sweep_stray(app, mode, Stored::Variants, &mut summary, &mut report).await?;
    for leftover in app.storage.leftovers(grace).await? {
        summary.leftovers += 1;
        summary.bytes += leftover.size_bytes;
        report(&Finding::Leftover { path: leftover.path.clone(), size_bytes: leftover.size_bytes });
        if mode != Mode::DryRun {
            app.storage.remove_leftover(&leftover).await?;
        }
    }
    summary.sessions = sweep_sessions(app, mode).await?;
    report(&Finding::EndedSessions(summary.sessions));
    if mode != Mode::DryRun {
        app.database
            .write(move |connection| {
                Box::pin(async move {
                    db::leases::delete_ended(connection, now.minus(LEASE_LASTS)).await?;
                    db::keys::delete_ended(connection, now).await
                })
            })
            .await?;
        tracing::info!(?summary, "swept");
        let removed = if summary.stopped { 0 } else { summary.orphans };
        metrics::counter!("imagewell_swept_blobs_total").increment(removed);
        metrics::gauge!("imagewell_sweep_stopped").set(if summary.stopped { 1.0 } else { 0.0 });
    }
    Ok(summary)
}

/// Looks at all blobs before the first one goes: an empty or older database, or another one's store, makes orphans of what is not lost.
async fn has_suspicious_orphans(app: &App, report: &mut (impl FnMut(&Finding) + Send)) -> Result<bool, Error> {
    let mut looked = Summary::default();
    sweep_stray(app, Mode::DryRun, Stored::Blobs, &mut looked, &mut |_: &Finding| {}).await?;
    let Summary { blobs, orphans, .. } = looked;
    let suspicious = app.options.sweep.is_suspicious(blobs, orphans);
    if suspicious {
        report(&Finding::Suspicious { orphans, blobs });
        tracing::error!(
            orphans,
            blobs,
            "ALARM: none of the blobs without a row is removed, because they are suspiciously many. Is this the store of this database, and the \
             newest one? If it is, `imagewell sweep --confirm` removes them"
        );
    }
    Ok(suspicious)
}

async fn sweep_doomed<T: Doomed>(app: &App, mode: Mode, until: Timestamp) -> Result<(u64, u64), Error> {
    match mode {
        Mode::DryRun => T::count(&app.database, until).await,
        Mode::Remove | Mode::RemoveConfirmed => remove_doomed::<T>(app, until).await,
    }
}

/// Removes pictures that nobody took in time.
pub(crate) async fn remove_expired(app: &App) -> Result<(), Error> {
    if leases::take(app, EXPIRED_LEASE.to_owned(), LEASE_LASTS).await? {
        remove_doomed::<Expired>(app, Timestamp::now()).await?;
    }
    Ok(())
}

/// The rows first, since a row never points at missing bytes; what a crash leaves in between is an orphan. Returns how many, and their
/// bytes.
async fn remove_doomed<T: Doomed>(app: &App, until: Timestamp) -> Result<(u64, u64), Error> {
    let (mut count, mut bytes) = (0, 0);
    loop {
        let page = T::page(&app.database, until, PAGE).await?;
        if page.is_empty() {
            return Ok((count, bytes));
        }
        let removed = app
            .database
            .write(move |connection| {
                Box::pin(async move {
                    let mut removed = Vec::new();
                    for doomed in page {
                        if doomed.forget(connection, until).await? {
                            removed.push(doomed);
                        }
                    }
                    Ok(removed)
                })
            })
            .await?;
        for doomed in &removed {
            let DoomedBytes { blob, size_bytes } = doomed.bytes();
            app.storage.delete(blob).await?;
            variant::remove_of_version(app, blob).await?;
            count += 1;
            bytes += size_bytes;
        }
    }
}

/// What lies in the store.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stored {
    Blobs,
    /// A crash leaves one between a rendering and its row; earlier versions of imagewell kept no rows of them.
    Variants,
}

/// Removes what no row knows and what is too old to be on its way to one.
async fn sweep_stray(
    app: &App,
    mode: Mode,
    what: Stored,
    summary: &mut Summary,
    report: &mut (impl FnMut(&Finding) + Send),
) -> Result<(), Error> {
    let old_enough = Timestamp::now().minus(app.options.sweep.grace);
    let mut listed = match what {
        Stored::Blobs => app.storage.list(),
        Stored::Variants => app.storage.list_variants(),
    };
    while let Some(stored) = listed.next().await {
        let StoredBlob { key, size_bytes, modified } = stored?;
        if what == Stored::Blobs {
            summary.blobs += 1;
            if summary.blobs.is_multiple_of(REPORT_EVERY) {
                report(&Finding::Progress(summary.blobs));
            }
        }
        if modified > old_enough || is_known(app, what, &key).await? {
            continue;
        }
        summary.bytes += size_bytes;
        if mode != Mode::DryRun {
            app.storage.delete(&key).await?;
        }
        if what == Stored::Blobs {
            summary.orphans += 1;
            report(&Finding::Orphan { key, size_bytes, modified });
        } else {
            summary.variants += 1;
            report(&Finding::StrayVariant { key, size_bytes });
        }
    }
    Ok(())
}

async fn is_known(app: &App, what: Stored, key: &BlobKey) -> Result<bool, Error> {
    match what {
        Stored::Blobs => db::images::blob_is_used(&app.database, key).await,
        Stored::Variants => db::variants::exists(&app.database, key).await,
    }
}

async fn sweep_sessions(app: &App, mode: Mode) -> Result<u64, Error> {
    let now = Timestamp::now();
    let idle_since = now.minus(app.accounts.limits().idle);
    match mode {
        Mode::DryRun => db::sessions::count_ended(&app.database, now, idle_since).await,
        Mode::Remove | Mode::RemoveConfirmed => {
            app.database
                .write(move |connection| Box::pin(async move { db::sessions::delete_ended(connection, now, idle_since).await }))
                .await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_looks_like_another_ones_is_left_alone() {
        let hour = Duration::from_secs(3600);
        let options = Options { interval: hour, grace: hour, undo: hour, orphans_percent_max: 5, orphans_always: 100 };
        for (blobs, orphans, expected) in [
            (0, 0, false),
            (1000, 0, false),
            (1000, 50, false),
            (1000, 100, false),
            (1000, 101, true),
            (2020, 101, false),
            (2019, 101, true),
            (40, 39, false),
            (40, 40, true),
            (1, 1, true),
        ] {
            assert_eq!(options.is_suspicious(blobs, orphans), expected, "{orphans} of {blobs}");
        }
    }
}
