//! Reads all stored bytes back in the background, at a gentle pace, so that what a disk has lost is found while a backup still has it.
//!
//! One node does it at a time. How far it is stands in the database, so a restart or another node goes on there. Damage is an alarm in the
//! log, once for each blob and pass, and is kept in the database until the blob is found whole or its row is gone.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use crate::app::App;
pub use crate::db::scrub::{Damaged, Pass, Progress};
use crate::model::{BlobKey, Digest, Timestamp};
use crate::verify::{Condition, Pace, condition};
use crate::{Error, db, identity, leases};

/// Who has it reads.
const LEASE: &str = "scrub";
const LEASE_LASTS: Duration = Duration::from_secs(120);
/// Between two notes of how far it is: each is a commit.
const NOTED_EVERY: Duration = Duration::from_secs(20);
/// Before the first look after a start, and after the store or database was away.
const REST: Duration = Duration::from_secs(60);
const PAGE: u32 = 64;
/// Damaged blobs that are noted; of more, only the log tells.
const DAMAGED_MAX: u32 = 10_000;

/// How reading goes.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Bytes per second that are read of a folder. 0: none at all.
    pub folder_bytes_per_second_max: u64,
    /// As that, of a bucket.
    pub bucket_bytes_per_second_max: u64,
    /// Between the beginnings of two passes.
    pub interval: Duration,
}

/// What is known of the stored bytes.
#[derive(Debug, Clone)]
pub struct Report {
    /// Bytes per second that are read; 0 where that is switched off.
    pub bytes_per_second_max: u64,
    /// Where reading is; none when nothing was ever read.
    pub progress: Option<Progress>,
    /// How many blobs are known to be damaged.
    pub damaged_count: u64,
    /// The first hundred of them, by key.
    pub damaged: Vec<Damaged>,
}

/// What reading in the background has found so far.
///
/// # Errors
/// [`Error::Internal`] when the database can't be read.
pub async fn report(app: &App) -> Result<Report, Error> {
    Ok(Report {
        bytes_per_second_max: bytes_per_second_max(app),
        progress: db::scrub::find(&app.database).await?,
        damaged_count: db::scrub::count_damaged(&app.database).await?,
        damaged: db::scrub::damaged(&app.database, 100).await?,
    })
}

fn bytes_per_second_max(app: &App) -> u64 {
    let options = app.options.scrub;
    if app.storage.is_bucket() { options.bucket_bytes_per_second_max } else { options.folder_bytes_per_second_max }
}

/// Until dropped.
pub(crate) async fn run(app: Arc<App>) {
    let interval = app.options.scrub.interval;
    loop {
        // What an earlier process or another node has found.
        if let Err(error) = show(&app).await {
            tracing::warn!(%error, "what is known of damaged blobs could not be read; it is tried again");
        }
        // Not at once: whoever has started it on the wrong store finds that out first. And what is due is looked for now and then,
        // because another node may be at it, and die.
        tokio::time::sleep(REST.min(interval)).await;
        if bytes_per_second_max(&app) == 0 {
            continue;
        }
        if let Err(error) = read_what_is_due(&app).await {
            tracing::warn!(%error, "stored bytes could not be read back; it is tried again");
        }
    }
}

async fn show(app: &App) -> Result<(), Error> {
    if let Some(last) = db::scrub::find(&app.database).await?.and_then(|progress| progress.last) {
        show_end(last.ended);
    }
    count(app).await
}

fn show_end(ended: Timestamp) {
    metrics::gauge!("imagewell_scrub_ended_timestamp_seconds").set(ended.0 as f64 / 1e6);
}

async fn count(app: &App) -> Result<(), Error> {
    let count = db::scrub::count_damaged(&app.database).await?;
    metrics::gauge!("imagewell_damaged_blobs").set(count as f64);
    app.damaged_blobs.store(count, Ordering::Relaxed);
    Ok(())
}

/// Goes on with the pass under way, or begins one that is due, and reads to its end.
async fn read_what_is_due(app: &App) -> Result<(), Error> {
    let now = app.database.now();
    let found = db::scrub::find(&app.database).await?;
    if found.as_ref().is_some_and(|progress| !is_due(progress, now, app.options.scrub.interval)) {
        return Ok(());
    }
    if !leases::take(app, LEASE.to_owned(), LEASE_LASTS).await? {
        return Ok(());
    }
    let progress = match found {
        Some(progress) if !has_ended(&progress) => progress,
        ended => {
            let last = ended.and_then(|progress| progress.last);
            Progress { position: String::new(), began: now, blobs: 0, bytes: 0, last }
        }
    };
    let mut reading = Reading { app, progress, pace: Pace::new(bytes_per_second_max(app)), known: BTreeSet::new() };
    let read = reading.read_on().await;
    reading.note().await?;
    leases::give_back(app, LEASE.to_owned()).await;
    read
}

fn has_ended(progress: &Progress) -> bool {
    progress.last.is_some_and(|last| last.began == progress.began)
}

/// A clock that was put back makes nothing due, and one that was put forward at most one pass.
fn is_due(progress: &Progress, now: Timestamp, interval: Duration) -> bool {
    !has_ended(progress) || now >= progress.began.plus(interval)
}

/// A pass under way.
struct Reading<'a> {
    app: &'a App,
    progress: Progress,
    pace: Pace,
    /// Blobs that are known to be damaged.
    known: BTreeSet<String>,
}

impl Reading<'_> {
    async fn read_on(&mut self) -> Result<(), Error> {
        let app = self.app;
        self.known = db::scrub::damaged(&app.database, DAMAGED_MAX).await?.into_iter().map(|damaged| damaged.key).collect();
        let mut noted = Instant::now();
        loop {
            let page = db::images::blobs_after(&app.database, &self.progress.position, PAGE).await?;
            if page.is_empty() {
                return self.end().await;
            }
            for (key, size, digest) in page {
                self.read(&key, size, digest).await?;
                if noted.elapsed() >= NOTED_EVERY {
                    self.note().await?;
                    if !leases::take(app, LEASE.to_owned(), LEASE_LASTS).await? {
                        return Ok(());
                    }
                    noted = Instant::now();
                }
            }
        }
    }

    /// Reads one blob. When the store is away it is not passed over.
    async fn read(&mut self, key: &BlobKey, size: u64, digest: Digest) -> Result<(), Error> {
        let found = condition(&self.app.storage, key, size, digest).await?;
        let damage = match &found {
            Condition::Whole => None,
            // Somebody may have deleted it for good meanwhile.
            _ if !db::images::blob_is_used(&self.app.database, key).await? => None,
            Condition::Gone => Some("gone"),
            Condition::Changed => Some("changed"),
        };
        match damage {
            Some(damage) => {
                // A store that can't give back its identity says nothing of its blobs.
                identity::verify(&self.app.database, &self.app.storage).await?;
                self.alarm(key, damage).await?;
            }
            None if self.known.contains(key.as_str()) => self.forget(key.as_str()).await?,
            None => {}
        }
        self.progress.blobs += 1;
        self.progress.bytes += size;
        key.as_str().clone_into(&mut self.progress.position);
        metrics::counter!("imagewell_scrubbed_blobs_total").increment(1);
        metrics::counter!("imagewell_scrubbed_bytes_total").increment(size);
        self.pace.wait(size).await;
        Ok(())
    }

    async fn alarm(&mut self, key: &BlobKey, damage: &'static str) -> Result<(), Error> {
        tracing::error!(
            key = key.as_str(),
            damage,
            "ALARM: stored bytes are not what was stored: restore them from a backup, and look at the disk"
        );
        if damage == "changed" {
            metrics::counter!("imagewell_digest_mismatches_total").increment(1);
        }
        let (known, key) = (self.known.len(), key.as_str().to_owned());
        if known >= DAMAGED_MAX as usize || !self.known.insert(key.clone()) {
            return Ok(());
        }
        let now = self.app.database.now();
        let write = self
            .app
            .database
            .write(move |connection| Box::pin(async move { db::scrub::insert_damaged(connection, &key, damage, now).await }));
        write.await?;
        count(self.app).await
    }

    async fn forget(&mut self, key: &str) -> Result<(), Error> {
        tracing::info!(key, "stored bytes that were damaged are whole again, or gone with their row");
        self.known.remove(key);
        let key = key.to_owned();
        let write =
            self.app.database.write(move |connection| Box::pin(async move { db::scrub::delete_damaged(connection, &key).await }));
        write.await?;
        count(self.app).await
    }

    /// Every blob was read. What is still known as damaged and has no row any more is forgotten.
    async fn end(&mut self) -> Result<(), Error> {
        for key in self.known.clone() {
            if !db::images::blob_is_used(&self.app.database, &BlobKey::from_stored(key.clone())).await? {
                self.forget(&key).await?;
            }
        }
        let Progress { began, blobs, bytes, .. } = self.progress;
        let ended = self.app.database.now();
        self.progress.last = Some(Pass { began, ended, blobs, bytes });
        count(self.app).await?;
        show_end(ended);
        tracing::info!(blobs, bytes, damaged = self.known.len(), "all stored bytes were read back");
        Ok(())
    }

    async fn note(&self) -> Result<(), Error> {
        let progress = self.progress.clone();
        let write =
            self.app.database.write(move |connection| Box::pin(async move { db::scrub::put(connection, &progress).await }));
        write.await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_is_due_an_interval_after_the_last_one_began_and_goes_on_where_it_was() {
        let at = |seconds: i64| Timestamp(seconds * 1_000_000);
        let pass = |began: i64| Some(Pass { began: at(began), ended: at(began + 5), blobs: 1, bytes: 1 });
        let progress = |began: i64, last| Progress { position: "k".into(), began: at(began), blobs: 1, bytes: 1, last };
        for (state, now, due) in [
            (progress(100, None), 101, true),
            (progress(100, pass(20)), 101, true),
            (progress(100, pass(100)), 159, false),
            (progress(100, pass(100)), 160, true),
            (progress(100, pass(100)), 10, false),
        ] {
            assert_eq!(is_due(&state, at(now), Duration::from_secs(60)), due, "{state:?} at {now}");
        }
    }
}
