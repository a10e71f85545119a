//! The bytes: each blob is compared with its digest when it is read, and again when it is read back from where it was written.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::{StreamExt as _, TryStreamExt as _};

use super::{Move, Progress, Stage};
use crate::copy::{self, BLOBS_AT_ONCE, Copied, Known, PAGE};
use crate::db::copying::{self, Snapshot, Table};
use crate::db::query::Value;
use crate::model::BlobKey;
use crate::{Error, db};

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
            async move {
                let copied = copy::blob(&from, &to, &plan.spool_folder, &blob, Known::ByDigest).await?;
                Ok::<_, Error>((blob, copied))
            }
        });
        let mut copied = futures_util::stream::iter(copying).buffer_unordered(BLOBS_AT_ONCE);
        let (mut done, mut bytes) = (self.summary.blobs, self.summary.bytes);
        while let Some((blob, copied)) = copied.try_next().await? {
            judge(&self.source, &blob, copied).await?;
            done += 1;
            bytes += blob.size_bytes;
            (self.report)(Progress::Blobs { done, bytes, of: self.blobs_in_all.max(done) });
            self.limit.copied(blob.size_bytes).await;
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

/// What is gone on purpose is stepped over: a ticket that has expired, a version past its undo. The change that removed its row is noted, and
/// removes the target's.
async fn judge(source: &db::Database, blob: &db::images::BlobToCopy, copied: Copied) -> Result<(), Error> {
    let reason = match copied {
        Copied::New | Copied::There => return Ok(()),
        Copied::Gone if copy::is_gone_on_purpose(source, blob).await? => return Ok(()),
        Copied::Gone => "it is gone".to_owned(),
        Copied::Damaged(reason) => reason,
    };
    Err(Error::Internal { detail: format!("{} is not what it was in the source: {reason}", blob.key.as_str()) })
}
