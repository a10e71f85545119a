//! From a snapshot to a database and a store that hold nothing so far; and the check that this would succeed.
//!
//! Every byte is compared with its digest. Until all of it is there the database is marked, so that
//! no service starts on half of it; what is cut off goes on when the same command is given again.

use std::path::PathBuf;
use std::sync::Arc;

use futures_util::{StreamExt as _, TryStreamExt as _};

use super::manifest::Manifest;
use super::outlook::Outlook;
use super::pruning::manifest_of;
use super::{Damaged, Progress, READERS, leave_out, look_at_store, open_store, tables};
use crate::copy::{self, BLOBS_AT_ONCE, Copied, Known, Limit, PAGE};
use crate::db::copying::{self, Snapshot};
use crate::db::images::BlobToCopy;
use crate::db::moves::{self, MoveState, Side, Stage};
use crate::db::{self, Database, Refusal};
use crate::following::RESTORING;
use crate::model::{Digest, Timestamp};
use crate::storage::backup_folder::{BackupFolder, Scratch, SnapshotFolder};
use crate::storage::{self, Storage};
use crate::verify::{self, Condition};
use crate::{Error, identity};

/// What to restore, and where to.
#[derive(Debug, Clone)]
pub struct RestorePlan {
    /// The folder of the backup.
    pub folder: PathBuf,
    /// The name of a snapshot; without one, the newest.
    pub snapshot: Option<String>,
    /// The database that is configured: without data so far.
    pub to_database: db::Place,
    /// The store that is configured: without blobs so far.
    pub to_storage: storage::Place,
    /// For blobs on their way, and a copy of the snapshot's database.
    pub spool_folder: PathBuf,
    /// Takes a store that holds blobs which the snapshot does not know. They stay, without rows.
    pub keep_store: bool,
    /// Leaves out images whose bytes are damaged in the backup.
    pub without_damaged: bool,
    /// Bytes of blobs that are copied or read in a second at most; 0 for as many as go.
    pub bytes_per_second_max: u64,
}

/// What reading all of a snapshot came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// Whether it could be restored here.
    pub outlook: Outlook,
    /// Blobs that were read.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Those that are not what was backed up.
    pub damaged: Vec<Damaged>,
}

/// What a restore came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// The snapshot's name.
    pub snapshot: String,
    /// What it says of itself.
    pub manifest: Manifest,
    /// What the rows are, and how many, without what was left out.
    pub rows: Vec<(&'static str, u64)>,
    /// Blobs that were copied by this run; others were there already.
    pub copied: u64,
    /// Images that were left out, because their bytes are damaged.
    pub left_out: Vec<Damaged>,
}

/// Reads all of a snapshot, and makes and changes nothing here. For a snapshot of an older imagewell, a copy of its database lies in the
/// system's folder of temporary files meanwhile.
///
/// # Errors
/// [`Error::Invalid`] when there is no snapshot, or its manifest, database or list is damaged.
pub async fn check(plan: RestorePlan, report: impl Fn(Progress) + Send + Sync) -> Result<Checked, Error> {
    let opened = Opened::open_to_look(&plan).await?;
    let outlook = opened.outlook(&plan).await?;
    let mut checked = Checked { outlook, blobs: 0, bytes: 0, damaged: Vec::new() };
    let mut limit = Limit::new(plan.bytes_per_second_max);
    let (of, mut after) = (opened.blob_count().await?, String::new());
    loop {
        let page = db::images::blobs_to_copy(&opened.rows, &after, PAGE).await?;
        let Some(last) = page.last() else { break };
        last.key.as_str().clone_into(&mut after);
        let blobs = &opened.blobs;
        let reading = page.into_iter().map(|blob| async move {
            let condition = verify::condition(blobs, &blob.key, blob.size_bytes, blob.digest).await?;
            Ok::<_, Error>((blob, condition))
        });
        let mut read = futures_util::stream::iter(reading).buffered(BLOBS_AT_ONCE);
        while let Some((blob, condition)) = read.try_next().await? {
            checked.blobs += 1;
            checked.bytes += blob.size_bytes;
            limit.copied(blob.size_bytes).await;
            report(Progress::Blobs { done: checked.blobs, bytes: checked.bytes, of });
            let reason = match condition {
                Condition::Whole => continue,
                Condition::Gone => "it is not in the backup",
                Condition::Changed => "its bytes have changed",
            };
            checked.damaged.push(Damaged { key: blob.key, reason: reason.to_owned() });
        }
    }
    opened.close().await;
    Ok(checked)
}

/// Restores a snapshot.
///
/// # Errors
/// [`Error::Invalid`] when the database or the store is in use, and nothing was changed; or when blobs of the backup are damaged, and what
/// was restored so far serves nobody.
pub async fn restore(plan: RestorePlan, report: impl Fn(Progress) + Send + Sync) -> Result<Restored, Error> {
    let opened = Opened::open_to_restore(&plan).await?;
    let outlook = opened.outlook(&plan).await?;
    if let Some(refusal) = outlook.refusal {
        opened.close().await;
        return Err(Error::Invalid { reason: refusal });
    }
    let target = Database::open(&plan.to_database, Arc::default()).await?;
    let to = open_store(&plan.to_storage, plan.spool_folder.clone())?;
    to.probe().await?;
    mark(&target, &opened.id()).await?;
    let mut then = Snapshot::of(&opened.rows).await?;
    copy::rows(&mut then, &target, None, tables(), |table, rows| report(Progress::Rows(table, rows))).await?;
    let mut there = Snapshot::of(&target).await?;
    copy::count(&mut then, &mut there, tables()).await?;
    there.end().await?;
    then.end().await?;
    let (copied, damaged) = opened.copy_blobs(&to, &plan, &report).await?;
    if !damaged.is_empty() && !plan.without_damaged {
        return Err(unfinished(&damaged));
    }
    leave_out(&target, damaged.iter().map(|damaged| damaged.key.clone()).collect()).await?;
    let rows = counted(&target).await?;
    // Whoever used the store before is refused from now on.
    identity::pair_anew(&target, &to).await?;
    conclude(&target).await?;
    target.close().await;
    let snapshot = opened.snapshot.name().to_owned();
    let manifest = opened.manifest.clone();
    opened.close().await;
    Ok(Restored { snapshot, manifest, rows, copied, left_out: damaged })
}

/// What the rows of a database are, and how many.
async fn counted(database: &Database) -> Result<Vec<(&'static str, u64)>, Error> {
    let (mut rows, mut counts) = (Snapshot::of(database).await?, Vec::new());
    for table in tables() {
        counts.push((table.words, u64::try_from(rows.count(table).await?).unwrap_or(0)));
    }
    rows.end().await?;
    Ok(counts)
}

fn unfinished(damaged: &[Damaged]) -> Error {
    let list: Vec<_> = damaged.iter().map(|damaged| format!("{}: {}", damaged.key.as_str(), damaged.reason)).collect();
    Error::invalid(format!(
        "{} blobs of the backup are damaged, so the restore is not finished, and no service starts on it:\n{}\nPut good copies of these files \
         into the blobs folder of the backup and give the same command again, or leave these images out with --without-damaged",
        damaged.len(),
        list.join("\n")
    ))
}

/// A snapshot whose manifest and database are whole.
pub(super) struct Opened {
    pub(super) folder: BackupFolder,
    pub(super) snapshot: SnapshotFolder,
    pub(super) manifest: Manifest,
    pub(super) rows: Database,
    blobs: Storage,
    spool: PathBuf,
    /// A copy of the database, where one was made.
    #[expect(dead_code, reason = "removed when dropped")]
    scratch: Option<Scratch>,
}

impl Opened {
    /// Works on a copy of the database, which is as it was written whatever becomes of the backup's disk.
    async fn open_to_restore(plan: &RestorePlan) -> Result<Self, Error> {
        let found = Found::choose(plan).await?;
        let scratch = Scratch::in_spool(&plan.spool_folder)?;
        let rows = found.open_copy(&scratch).await?;
        let blobs = open_store(&found.folder.blobs(), plan.spool_folder.clone())?;
        Ok(found.opened(plan, rows, blobs, Some(scratch)))
    }

    /// Makes nothing in the data folder, nor in the backup. A database of an older program has to be brought up to date before it can be
    /// read, so that is done to a copy.
    async fn open_to_look(plan: &RestorePlan) -> Result<Self, Error> {
        let found = Found::choose(plan).await?;
        let (rows, scratch) = if found.manifest.schema == db::newest_schema() {
            found.expect_database(found.snapshot.digest_of_database().await?)?;
            (Database::look_at_sealed(&found.snapshot.database(), READERS).await?, None)
        } else {
            let scratch = Scratch::among_temporary_files()?;
            (found.open_copy(&scratch).await?, Some(scratch))
        };
        let blobs = look_at_store(&found.folder.blobs(), plan.spool_folder.clone())?;
        Ok(found.opened(plan, rows, blobs, scratch))
    }

    pub(super) async fn close(self) {
        self.rows.close().await;
    }

    /// What the target is marked with until all of it is there.
    pub(super) fn id(&self) -> String {
        format!("{RESTORING}{} {}", self.snapshot.name(), self.manifest.database_digest)
    }

    async fn blob_count(&self) -> Result<u64, Error> {
        db::images::blobs_in_all(&self.rows).await.map(|count| u64::try_from(count).unwrap_or(0))
    }

    /// Copies all blobs that the store doesn't have. How many those were, and what the backup can't give back.
    async fn copy_blobs(
        &self,
        to: &Storage,
        plan: &RestorePlan,
        report: &impl Fn(Progress),
    ) -> Result<(u64, Vec<Damaged>), Error> {
        let (of, mut after) = (self.blob_count().await?, String::new());
        let (mut done, mut bytes, mut copied, mut damaged) = (0, 0, 0, Vec::new());
        let mut limit = Limit::new(plan.bytes_per_second_max);
        loop {
            let page = db::images::blobs_to_copy(&self.rows, &after, PAGE).await?;
            let Some(last) = page.last() else { return Ok((copied, damaged)) };
            last.key.as_str().clone_into(&mut after);
            let copying = page.into_iter().map(|blob| async move {
                let outcome = copy::blob(&self.blobs, to, &self.spool, &blob, Known::ByDigest).await?;
                Ok::<(BlobToCopy, Copied), Error>((blob, outcome))
            });
            let mut outcomes = futures_util::stream::iter(copying).buffer_unordered(BLOBS_AT_ONCE);
            while let Some((blob, outcome)) = outcomes.try_next().await? {
                done += 1;
                bytes += blob.size_bytes;
                limit.copied(blob.size_bytes).await;
                report(Progress::Blobs { done, bytes, of });
                let reason = match outcome {
                    Copied::There => continue,
                    Copied::New => {
                        copied += 1;
                        continue;
                    }
                    Copied::Gone => "it is not in the backup".to_owned(),
                    Copied::Damaged(reason) => reason,
                };
                damaged.push(Damaged { key: blob.key, reason });
            }
        }
    }
}

/// A snapshot whose manifest and list are whole.
struct Found {
    folder: BackupFolder,
    snapshot: SnapshotFolder,
    manifest: Manifest,
}

impl Found {
    async fn choose(plan: &RestorePlan) -> Result<Self, Error> {
        let folder = BackupFolder::open_to_read(&plan.folder)?;
        let snapshots = folder.snapshots()?;
        let wanted = |snapshot: &SnapshotFolder| plan.snapshot.as_ref().is_none_or(|name| snapshot.name() == name);
        let names = || snapshots.iter().map(SnapshotFolder::name).collect::<Vec<_>>().join("\n");
        let snapshot = snapshots.iter().rfind(|snapshot| wanted(snapshot)).cloned().ok_or_else(|| match &plan.snapshot {
            Some(name) => Error::invalid(format!("the backup has no snapshot {name}; it has:\n{}", names())),
            None => Error::invalid("the backup has no snapshot that was finished"),
        })?;
        let manifest = manifest_of(&snapshot)?;
        let found = Self { folder, snapshot, manifest };
        if found.snapshot.digest_of_list().await? != found.manifest.list_digest {
            return Err(found.damaged("blobs.sha256"));
        }
        Ok(found)
    }

    fn damaged(&self, what: &str) -> Error {
        let other = "; an older snapshot may be whole: choose it with --snapshot";
        Error::invalid(format!("the snapshot {} is damaged: its {what} is not what was written{other}", self.snapshot.name()))
    }

    fn expect_database(&self, read: (u64, Digest)) -> Result<(), Error> {
        if read == (self.manifest.database_bytes, self.manifest.database_digest) {
            return Ok(());
        }
        Err(self.damaged("database.db"))
    }

    /// Opens a copy of the database, and brings it up to date.
    async fn open_copy(&self, scratch: &Scratch) -> Result<Database, Error> {
        self.expect_database(self.snapshot.copy_database(scratch.path()).await?)?;
        let place = db::Place::File { file: scratch.path(), readers_max: READERS };
        Database::open(&place, Arc::default()).await
    }

    fn opened(self, plan: &RestorePlan, rows: Database, blobs: Storage, scratch: Option<Scratch>) -> Opened {
        let Self { folder, snapshot, manifest } = self;
        Opened { folder, snapshot, manifest, rows, blobs, spool: plan.spool_folder.clone(), scratch }
    }
}

/// No service starts on a database that has this.
async fn mark(target: &Database, id: &str) -> Result<(), Error> {
    let state = MoveState { id: id.to_owned(), stage: Stage::Copying, position: None, waits_until: Timestamp(0) };
    let write = target.write_past_gate(
        None,
        move |connection| Box::pin(async move { moves::put(connection, Side::Target, &state).await }),
        Refusal::Expected,
    );
    write.await
}

/// From now on it is as good as any other database.
async fn conclude(target: &Database) -> Result<(), Error> {
    let now = target.now();
    let write = target.write_past_gate(
        None,
        move |connection| {
            Box::pin(async move {
                copying::raise_generation(connection).await?;
                // What became due since the snapshot is due.
                db::clock::set_seen(connection, now).await?;
                moves::delete(connection, Side::Target).await
            })
        },
        Refusal::Expected,
    );
    write.await
}
