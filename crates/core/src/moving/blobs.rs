//! The bytes: each blob is compared with its digest when it is read, and again when it is read back from where it was written.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::{StreamExt as _, TryStreamExt as _};

use super::{Move, Progress, Stage};
use crate::copy::{self, BLOBS_AT_ONCE, Copied, Known, PAGE};
use crate::db::copying::{self, Snapshot, Table};
use crate::db::query::Value;
use crate::model::{BlobKey, Timestamp};
use crate::storage::Storage;
use crate::{Error, db, identity};

/// Damaged blobs that are named. With more of them the store is not the right one.
const DAMAGED_MAX: u32 = 10_000;

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
            let (from, to, same_store) = (Arc::clone(&self.from), Arc::clone(&self.to), self.same_store);
            let spool_folder = &self.plan.spool_folder;
            async move {
                let copied = if same_store {
                    copy::in_place(&to, &blob).await?
                } else {
                    copy::blob(&from, &to, spool_folder, &blob, Known::ByDigest).await?
                };
                Ok::<_, Error>((blob, copied))
            }
        });
        let mut copied = futures_util::stream::iter(copying).buffer_unordered(BLOBS_AT_ONCE);
        let (mut done, mut bytes, mut damaged) = (self.summary.blobs, self.summary.bytes, Vec::new());
        while let Some((blob, copied)) = copied.try_next().await? {
            if let Some(damage) = damage(&self.source, &self.from, &blob, &copied).await? {
                damaged.push((blob.key.as_str().to_owned(), damage));
                continue;
            }
            done += 1;
            bytes += blob.size_bytes;
            (self.report)(Progress::Blobs { done, bytes, of: self.blobs_in_all.max(done) });
            self.limit.copied(blob.size_bytes).await;
        }
        drop(copied);
        (self.summary.blobs, self.summary.bytes) = (done, bytes);
        self.note_damaged(damaged).await
    }

    /// The target knows them from the start, as if it had found them itself.
    async fn note_damaged(&self, damaged: Vec<(String, &'static str)>) -> Result<(), Error> {
        if damaged.is_empty() {
            return Ok(());
        }
        let now = Timestamp::now();
        self.write_target(move |connection| {
            Box::pin(async move {
                for (key, damage) in &damaged {
                    db::scrub::insert_damaged(connection, key, damage, now).await?;
                }
                Ok(())
            })
        })
        .await
    }

    /// Tries again what was found damaged so far, also by earlier runs.
    pub(super) async fn retry_damaged(&mut self) -> Result<(), Error> {
        for damaged in db::scrub::damaged(&self.target, DAMAGED_MAX).await? {
            let key = damaged.key.clone();
            // Noted again if it is damaged still.
            self.write_target(move |connection| Box::pin(async move { db::scrub::delete_damaged(connection, &key).await }))
                .await?;
            if let Some(blob) = db::images::blob_to_copy(&self.target, &damaged.key).await? {
                self.copy_blobs(vec![blob]).await?;
            }
        }
        Ok(())
    }

    /// What is damaged ends the move, unless that is wanted.
    ///
    /// # Errors
    /// [`Error::Invalid`] names all of them.
    pub(super) async fn refuse_damaged(&mut self) -> Result<(), Error> {
        self.summary.damaged = db::scrub::damaged(&self.target, DAMAGED_MAX).await?;
        let count = self.summary.damaged.len();
        if count >= DAMAGED_MAX as usize {
            return Err(Error::invalid(format!(
                "{count} blobs and more are gone or damaged in the source: is its store the right one?"
            )));
        }
        if count == 0 || self.plan.without_damaged {
            return Ok(());
        }
        let list: Vec<_> = self.summary.damaged.iter().map(|damaged| format!("{}: {}", damaged.key, damaged.damage)).collect();
        Err(Error::invalid(format!(
            "{count} blobs are gone or damaged in the source; all others are copied:\n{}\nPut good copies of these into the source's store, from a \
             backup, and give the same command again; or add --without-damaged, which moves their rows without their bytes",
            list.join("\n")
        )))
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

/// How a blob is damaged; none when it isn't. What is gone on purpose is stepped over: a ticket that has expired, a version past its undo. The
/// change that removed its row is noted, and removes the target's.
///
/// # Errors
/// When the store can't give back its identity either: then that says nothing of the blob.
async fn damage(
    source: &db::Database,
    from: &Storage,
    blob: &db::images::BlobToCopy,
    copied: &Copied,
) -> Result<Option<&'static str>, Error> {
    let damage = match copied {
        Copied::New | Copied::There => return Ok(None),
        Copied::Gone if copy::is_gone_on_purpose(source, blob).await? => return Ok(None),
        Copied::Gone => "gone",
        Copied::Damaged(reason) => {
            tracing::warn!(key = blob.key.as_str(), reason, "a blob of the source is damaged");
            "changed"
        }
    };
    identity::verify(source, from).await?;
    Ok(Some(damage))
}
