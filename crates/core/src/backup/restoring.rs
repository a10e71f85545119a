//! From a snapshot to a database and a store that hold nothing so far; and the check that this would succeed.
//!
//! Every byte is compared with its digest. Until all of it is there the database is marked, so that
//! no service starts on half of it; what is cut off goes on when the same command is given again.

use std::path::PathBuf;
use std::sync::Arc;

use futures_util::{StreamExt as _, TryStreamExt as _};

use super::manifest::Manifest;
use super::pruning::manifest_of;
use super::{Damaged, Progress, READERS, leave_out, open_store, tables};
use crate::copy::{self, BLOBS_AT_ONCE, Copied, Known, Limit, PAGE};
use crate::db::copying::{self, Snapshot};
use crate::db::images::BlobToCopy;
use crate::db::moves::{self, MoveState, Side, Stage};
use crate::db::{self, Database, Holdings, Refusal};
use crate::following::RESTORING;
use crate::model::Timestamp;
use crate::moving::SEEN_WITHIN;
use crate::storage::backup_folder::{BackupFolder, Scratch, SnapshotFolder};
use crate::storage::{self, Storage, Stored};
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

/// Which snapshot would be restored, and onto what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outlook {
    /// The snapshot's name.
    pub snapshot: String,
    /// What it says of itself.
    pub manifest: Manifest,
    /// What the configured database holds; none where there is no database.
    pub here: Option<Holdings>,
    /// Blobs of the configured store that the snapshot does not know.
    pub unknown_blobs: u64,
    /// Why it can't be restored here.
    pub refusal: Option<String>,
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
    /// Rows of each table.
    pub rows: Vec<(&'static str, u64)>,
    /// Blobs that were copied by this run; others were there already.
    pub copied: u64,
    /// Images that were left out, because their bytes are damaged.
    pub left_out: Vec<Damaged>,
}

/// Reads all of a snapshot and changes nothing.
///
/// # Errors
/// [`Error::Invalid`] when there is no snapshot, or its manifest, database or list is damaged.
pub async fn check(plan: RestorePlan, report: impl Fn(Progress) + Send + Sync) -> Result<Checked, Error> {
    let opened = Opened::open(&plan).await?;
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
    let opened = Opened::open(&plan).await?;
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
    let rows = copy::count(&mut then, &mut there, tables()).await?;
    there.end().await?;
    then.end().await?;
    let (copied, damaged) = opened.copy_blobs(&to, &plan, &report).await?;
    if !damaged.is_empty() && !plan.without_damaged {
        return Err(unfinished(&damaged));
    }
    leave_out(&target, damaged.iter().map(|damaged| damaged.key.clone()).collect()).await?;
    // Whoever used the store before is refused from now on.
    identity::pair_anew(&target, &to).await?;
    conclude(&target).await?;
    target.close().await;
    let snapshot = opened.snapshot.name().to_owned();
    let manifest = opened.manifest.clone();
    opened.close().await;
    Ok(Restored { snapshot, manifest, rows, copied, left_out: damaged })
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
struct Opened {
    folder: BackupFolder,
    snapshot: SnapshotFolder,
    manifest: Manifest,
    rows: Database,
    blobs: Storage,
    spool: PathBuf,
    #[expect(dead_code, reason = "removed when dropped")]
    scratch: Scratch,
}

impl Opened {
    /// Works on a copy of the database: opening one writes to its folder, and may bring it up to date.
    async fn open(plan: &RestorePlan) -> Result<Self, Error> {
        let folder = BackupFolder::open_to_read(&plan.folder)?;
        let snapshots = folder.snapshots()?;
        let wanted = |snapshot: &SnapshotFolder| plan.snapshot.as_ref().is_none_or(|name| snapshot.name() == name);
        let names = || snapshots.iter().map(SnapshotFolder::name).collect::<Vec<_>>().join("\n");
        let snapshot = snapshots.iter().rfind(|snapshot| wanted(snapshot)).cloned().ok_or_else(|| match &plan.snapshot {
            Some(name) => Error::invalid(format!("the backup has no snapshot {name}; it has:\n{}", names())),
            None => Error::invalid("the backup has no snapshot that was finished"),
        })?;
        let manifest = manifest_of(&snapshot)?;
        let damaged = |what: &str| {
            let other = "; an older snapshot may be whole: choose it with --snapshot";
            Error::invalid(format!("the snapshot {} is damaged: its {what} is not what was written{other}", snapshot.name()))
        };
        if snapshot.digest_of_list().await? != manifest.list_digest {
            return Err(damaged("blobs.sha256"));
        }
        let scratch = Scratch::in_spool(&plan.spool_folder)?;
        let copied = snapshot.copy_database(scratch.path()).await?;
        if copied != (manifest.database_bytes, manifest.database_digest) {
            return Err(damaged("database.db"));
        }
        let place = db::Place::File { file: scratch.path(), readers_max: READERS };
        let rows = Database::open(&place, Arc::default()).await?;
        let blobs = open_store(&folder.blobs(), plan.spool_folder.clone())?;
        Ok(Self { folder, snapshot, manifest, rows, blobs, spool: plan.spool_folder.clone(), scratch })
    }

    async fn close(self) {
        self.rows.close().await;
    }

    /// What the target is marked with until all of it is there.
    fn id(&self) -> String {
        format!("{RESTORING}{} {}", self.snapshot.name(), self.manifest.database_digest)
    }

    async fn blob_count(&self) -> Result<u64, Error> {
        db::images::blobs_in_all(&self.rows).await.map(|count| u64::try_from(count).unwrap_or(0))
    }

    /// Looks at the target without changing it.
    async fn outlook(&self, plan: &RestorePlan) -> Result<Outlook, Error> {
        let (here, mut refusal) = self.look_at_database(plan).await?;
        let (unknown_blobs, newest) = self.look_at_store(plan).await?;
        if refusal.is_none() && unknown_blobs > 0 && !plan.keep_store {
            refusal = Some(format!(
                "the store holds {unknown_blobs} blobs that the snapshot does not know, the newest of {}: the images of another database, or \
                 later ones of this. Name an empty store in storage_url; or keep them with --keep-store, without rows, until a sweep \
                 removes them",
                newest.to_seconds()
            ));
        }
        if refusal.is_none() && !plan.keep_store && self.belongs_to_another(plan).await? {
            refusal = Some(
                "the store belongs to a database. Where that one is lost, take its store over with --keep-store; else it is in use: name an \
                 empty store in storage_url"
                    .into(),
            );
        }
        let (snapshot, manifest) = (self.snapshot.name().to_owned(), self.manifest.clone());
        Ok(Outlook { snapshot, manifest, here, unknown_blobs, refusal })
    }

    async fn look_at_database(&self, plan: &RestorePlan) -> Result<(Option<Holdings>, Option<String>), Error> {
        let Some((database, schema)) = Database::open_as_it_is(&plan.to_database, Arc::default()).await? else {
            return Ok((None, None));
        };
        if schema != db::newest_schema() {
            let refusal =
                format!("the database is of another version of imagewell (schema {schema}): name an empty one in database_url");
            return Ok((None, Some(refusal)));
        }
        let here = db::holdings::count(&database).await?;
        let mark = moves::find(&database, Side::Target).await?.map(|mark| mark.id);
        let nodes = moves::nodes(&database, database.now().minus(SEEN_WITHIN)).await?.len();
        database.close().await;
        let refusal = if mark.as_deref() == Some(self.id().as_str()) {
            None
        } else if let Some(mark) = mark {
            let other = mark.strip_prefix(RESTORING).and_then(|rest| rest.split(' ').next());
            Some(match other {
                Some(other) => {
                    format!("the restore of {other} was cut off here: go on with --snapshot {other}, or name an empty database")
                }
                None => {
                    "data is being moved to this database by `imagewell migrate`: name an empty one in database_url".to_owned()
                }
            })
        } else if here.orgs > 0 || here.images > 0 {
            Some(self.what_would_be_lost(here))
        } else if nodes > 0 {
            Some(format!("{nodes} nodes serve from this database: stop them first"))
        } else {
            None
        };
        Ok((Some(here), refusal))
    }

    fn what_would_be_lost(&self, here: Holdings) -> String {
        let then = self.manifest.holdings;
        let newest = |holdings: Holdings| holdings.newest_upload.map_or("none".to_owned(), Timestamp::to_seconds);
        format!(
            "the database is in use, and nothing of it is overwritten.\n\
             It holds      {} orgs, {} accounts, {} images, {} versions; newest upload {}\n\
             The snapshot  {} orgs, {} accounts, {} images, {} versions; newest upload {}\n\
             Stop the service, and name an empty database and store in database_url and storage_url, or move these away first",
            here.orgs,
            here.accounts,
            here.images,
            here.versions,
            newest(here),
            then.orgs,
            then.accounts,
            then.images,
            then.versions,
            newest(then)
        )
    }

    /// Whether the store bears the identity of another database than the one that is configured.
    async fn belongs_to_another(&self, plan: &RestorePlan) -> Result<bool, Error> {
        if matches!(&plan.to_storage, storage::Place::Folder(store) if !store.exists()) {
            return Ok(false);
        }
        let Some(borne) = open_store(&plan.to_storage, plan.spool_folder.clone())?.identity().await? else {
            return Ok(false);
        };
        let Some((database, _)) = Database::open_as_it_is(&plan.to_database, Arc::default()).await? else {
            return Ok(true);
        };
        let own = db::identity::find(&database).await?;
        database.close().await;
        Ok(own.is_none_or(|own| own.id != borne.id))
    }

    /// How many blobs the store has that the snapshot doesn't, and when the newest of them came.
    async fn look_at_store(&self, plan: &RestorePlan) -> Result<(u64, Timestamp), Error> {
        if let storage::Place::Folder(store) = &plan.to_storage {
            if !store.exists() {
                return Ok((0, Timestamp(0)));
            }
            if self.folder.holds(store) {
                return Err(Error::invalid("storage_url points into the backup: name another folder for the store"));
            }
        }
        let store = open_store(&plan.to_storage, plan.spool_folder.clone())?;
        let (mut unknown, mut newest, mut listed) = (0, Timestamp(0), store.list());
        while let Some(stored) = listed.next().await {
            let Stored::Blob(stored) = stored? else { continue };
            if !db::images::blob_is_used(&self.rows, &stored.key).await? {
                unknown += 1;
                newest = newest.max(stored.modified);
            }
        }
        Ok((unknown, newest))
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
