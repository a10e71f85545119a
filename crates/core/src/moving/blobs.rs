//! The bytes: each blob is compared with its digest when it is read, and again when it is read back from where it was written.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _};

use super::{Move, Plan, Progress, Stage};
use crate::db::copying::{self, Snapshot, Table};
use crate::db::query::Value;
use crate::model::BlobKey;
use crate::spool::Spool;
use crate::storage::Storage;
use crate::{Error, db, verify};

/// Blobs that are copied at once.
const BLOBS_AT_ONCE: usize = 4;
/// Blobs between two notes of how far it is.
const PAGE: u32 = 256;
/// Bytes of a blob that are held in memory; what is larger goes through a file.
const MEMORY_BYTES_MAX: usize = 1024 * 1024;

impl Move {
    /// The blobs that the target's rows point at, in the order of their keys.
    pub(super) async fn blobs(&mut self) -> Result<(), Error> {
        self.blobs_in_all = u64::try_from(db::images::blobs_in_all(&self.target).await?).unwrap_or(0);
        loop {
            let after = self.state.position.clone().unwrap_or_default();
            let page = db::images::blobs_to_copy(&self.target, &after, PAGE).await?;
            let Some(last) = page.last().map(|blob| blob.key.as_str().to_owned()) else { return Ok(()) };
            self.copy_blobs(page).await?;
            self.state.position = Some(last);
            self.note(Stage::Copying).await?;
        }
    }

    pub(super) async fn copy_blobs(&mut self, blobs: Vec<db::images::BlobToCopy>) -> Result<(), Error> {
        let copying = blobs.into_iter().map(|blob| {
            let (from, to, plan) = (Arc::clone(&self.from), Arc::clone(&self.to), &self.plan);
            async move { copy_blob(&from, &to, plan, &blob).await.map(|()| blob.size_bytes) }
        });
        let mut copied = futures_util::stream::iter(copying).buffer_unordered(BLOBS_AT_ONCE);
        let (mut done, mut bytes) = (self.summary.blobs, self.summary.bytes);
        while let Some(size_bytes) = copied.try_next().await? {
            done += 1;
            bytes += size_bytes;
            (self.report)(Progress::Blobs { done, bytes, of: self.blobs_in_all.max(done) });
            if let Some(due_seconds) = bytes.checked_div(self.plan.bytes_per_second_max) {
                tokio::time::sleep(Duration::from_secs(due_seconds).saturating_sub(self.begun.elapsed())).await;
            }
        }
        drop(copied);
        (self.summary.blobs, self.summary.bytes) = (done, bytes);
        Ok(())
    }

    /// The bytes of those versions that the target doesn't have: of the others it has the bytes too.
    pub(super) async fn new_blobs(
        &self,
        table: &Table,
        rows: &[Vec<Value<'static>>],
    ) -> Result<Vec<db::images::BlobToCopy>, Error> {
        let keys: Vec<_> = rows.iter().map(|row| copying::key_of(table, row)).collect();
        let mut there = Snapshot::of(&self.target).await?;
        let known = there.of_keys(table, &keys).await?;
        there.end().await?;
        let known: BTreeSet<_> = known.iter().map(|row| copying::key_of(table, row)).collect();
        let new = rows.iter().filter(|row| !known.contains(&copying::key_of(table, row)));
        Ok(new.filter_map(|row| blob_of(table, row)).collect())
    }
}

/// What a version's row says of its bytes.
fn blob_of(table: &Table, row: &[Value<'static>]) -> Option<db::images::BlobToCopy> {
    let text = |name: &str| match &row[table.column(name)] {
        Value::Text(Some(text)) => Some(text.to_string()),
        _ => None,
    };
    let Value::Integer(Some(size)) = row[table.column("size_bytes")] else { return None };
    Some(db::images::BlobToCopy {
        key: BlobKey::from_stored(text("blob_key")?),
        size_bytes: u64::try_from(size).ok()?,
        digest: crate::model::Digest::from_hex(&text("digest")?)?,
        content_type: text("content_type")?,
        inspected: text("format").is_some(),
    })
}

/// Unless the target has it, reads it, compares it with its digest, writes it, and reads it back.
async fn copy_blob(from: &Storage, to: &Storage, plan: &Plan, blob: &db::images::BlobToCopy) -> Result<(), Error> {
    let (key, size_bytes) = (&blob.key, blob.size_bytes);
    if verify::is_whole(to, key, size_bytes, blob.digest).await {
        return Ok(());
    }
    let wrong = |where_: &str| Error::Internal { detail: format!("{} is not what it was in the {where_}", key.as_str()) };
    let mut spool = Spool::new(&plan.spool_folder, MEMORY_BYTES_MAX, u64::MAX);
    if size_bytes > 0 {
        let mut chunks = from.stream(key, 0..size_bytes).await.map_err(|error| match error {
            Error::NotFound => wrong("source: it is gone"),
            other => other,
        })?;
        while let Some(chunk) = chunks.next().await {
            spool.write(&chunk?).await?;
        }
    }
    let spooled = spool.finish().await?;
    if spooled.digest != blob.digest {
        return Err(wrong("source"));
    }
    // Half of it may lie there since a run that was cut off.
    to.delete(key).await?;
    to.put_as(key, &spooled.content, &blob.content_type, blob.inspected).await?;
    if verify::is_whole(to, key, size_bytes, blob.digest).await { Ok(()) } else { Err(wrong("target, after it was written")) }
}
