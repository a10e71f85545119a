//! Backups of rows and blobs in one folder, made while the service runs, and restored to whichever database and store are configured.
//!
//! The rows are read as they were at one moment and written to an SQLite file, whichever database
//! they come from. Then the blobs that they point at are copied, unless an earlier snapshot has
//! brought them: blobs never change. Only then does the snapshot get its name. What the service has
//! removed meanwhile (a ticket that expired, a version past its undo) is left out of the snapshot,
//! so that each of its rows has its bytes. Renderings are made again and sessions end, so neither is
//! in a backup; keys and hashes of passwords are.

mod manifest;
mod outlook;
mod ownership;
mod pruning;
mod restoring;

use std::path::PathBuf;
use std::sync::Arc;

use futures_util::{StreamExt as _, TryStreamExt as _};

pub use self::manifest::Manifest;
pub use self::outlook::Outlook;
pub use self::pruning::Pruned;
pub use self::restoring::{Checked, RestorePlan, Restored, check, restore};
use crate::copy::{self, BLOBS_AT_ONCE, Copied, Known, Limit, PAGE};
use crate::db::copying::{Snapshot, TABLES, Table};
use crate::db::images::BlobToCopy;
use crate::db::{self, Database, Refusal};
use crate::halt::Halt;
use crate::model::{BlobKey, Digest, Timestamp};
use crate::storage::backup_folder::{self, BackupFolder, SnapshotFolder};
use crate::storage::known_folders::KnownFolders;
use crate::storage::{self, Reserve, Storage};
use crate::{Error, following, identity};

/// Damaged blobs after which a backup is given up: that many are lost with a volume that isn't
/// mounted or by a wrong address, and not by a disk that ages.
const DAMAGED_MAX: usize = 1000;
/// Connections that read the snapshot while it is made.
const READERS: u32 = 2;

/// What to back up, and where to.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The database that is in use.
    pub from_database: db::Place,
    /// The store that is in use.
    pub from_storage: storage::Place,
    /// The folder of the backup, made when absent.
    pub folder: PathBuf,
    /// Takes over the folder of another copy of this data, which this service has replaced.
    pub take_over: bool,
    /// Begins a new backup also in a folder that held one before and is empty now.
    pub anew: bool,
    /// A file of the data folder that names the folders that hold backups of this service.
    pub known_folders: PathBuf,
    /// What a backup leaves free of the disk that it goes to.
    pub reserve: Reserve,
    /// The version of the program, for the manifest.
    pub program: String,
    /// Snapshots that are kept, the new one included; 0 keeps all.
    pub keep: usize,
    /// Removes old snapshots also when the new one holds far less.
    pub prune_anyway: bool,
    /// Bytes of blobs that are copied in a second at most; 0 for as many as go.
    pub bytes_per_second_max: u64,
}

/// What is going on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// What they are, and how many rows of them are copied.
    Rows(&'static str, u64),
    /// So many blobs are copied, or read and compared.
    Blobs {
        /// Dealt with, those that were there already included.
        done: u64,
        /// Bytes that were copied or read.
        bytes: u64,
        /// In all.
        of: u64,
    },
    /// So many blobs that no snapshot needs any more are removed.
    Pruned(u64),
}

/// A blob that can't be had, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damaged {
    /// Its key.
    pub key: BlobKey,
    /// What is wrong with it.
    pub reason: String,
}

/// What a backup came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// The snapshot's name.
    pub snapshot: String,
    /// What it says of itself.
    pub manifest: Manifest,
    /// Blobs that were copied by this run.
    pub copied: u64,
    /// Their bytes.
    pub copied_bytes: u64,
    /// Versions that the service removed while their blobs were copied.
    pub left_out: u64,
    /// What the store could not give back.
    pub damaged: Vec<Damaged>,
    /// What became of old snapshots.
    pub pruned: Pruned,
    /// Why it could not be written down that this folder holds backups, if it couldn't: then nobody notices when its disk is not mounted.
    pub not_noted: Option<String>,
}

/// Makes a snapshot, and removes those that are not to be kept any more.
///
/// # Errors
/// What stands in the way. Earlier snapshots are as they were, and the next run copies no blob again.
pub async fn run(plan: Plan, report: impl Fn(Progress) + Send + Sync) -> Result<Summary, Error> {
    let source = open_source(&plan).await?;
    let known = KnownFolders::at(&plan.known_folders);
    ownership::expect_there(&plan, &known)?;
    let folder = BackupFolder::open_to_write(&plan.folder)?;
    let from = open_store(&plan.from_storage, folder.spool())?;
    ownership::expect_own_data(&source, &folder).await?;
    identity::settle(&source, &from).await?;
    let store = ownership::expect_own_copy(&plan, &source, &folder).await?;
    // A backup without that is better than none.
    let not_noted = known.add(&plan.folder).err().map(|error| error.to_string());
    let unfinished = folder.unfinished()?;
    let mut making = Making::begin(source, from, store, &plan, &folder).await?;
    making.rows(&report).await?;
    making.list().await?;
    making.blobs(&report).await?;
    let mut summary = making.finish(plan.program.clone()).await?;
    summary.not_noted = not_noted;
    summary.pruned = pruning::prune(&plan, &folder, &summary, unfinished, &report).await?;
    Ok(summary)
}

async fn open_source(plan: &Plan) -> Result<Database, Error> {
    let (source, schema) = Database::open_as_it_is(&plan.from_database, Arc::default())
        .await?
        .ok_or_else(|| Error::invalid("database_url does not lead to a database of imagewell: nothing is backed up"))?;
    let ours = db::newest_schema();
    if schema != ours {
        return Err(Error::invalid(format!(
            "the database has schema {schema} and this program works with {ours}: take the backup with the imagewell that serves it"
        )));
    }
    following::check(&source).await?;
    if db::accounts::org_count(&source).await? == 0 {
        return Err(Error::invalid("the database where database_url points is empty: nothing is backed up"));
    }
    if let storage::Place::Folder(store) = &plan.from_storage {
        if !store.is_dir() {
            return Err(Error::invalid(format!("the store {} is not there: is its volume mounted?", store.display())));
        }
        if backup_folder::is_inside(&plan.folder, store) {
            return Err(Error::invalid(
                "the backup would lie among the blobs that it is of: name a folder outside, on another disk",
            ));
        }
    }
    Ok(source)
}

fn open_store(place: &storage::Place, spool: PathBuf) -> Result<Storage, Error> {
    Storage::open(place, spool, Arc::new(Halt::default()), Reserve { bytes_min: 0, inodes_min: 0 })
}

/// A store that is there, for reading: no folder is made.
fn look_at_store(place: &storage::Place, spool: PathBuf) -> Result<Storage, Error> {
    Storage::look(place, spool, Arc::new(Halt::default()), Reserve { bytes_min: 0, inodes_min: 0 })
}

/// Tables that are in a backup. Sessions are not: one that was ended since then must not come back.
fn tables() -> impl Iterator<Item = &'static Table> {
    TABLES.iter().filter(|table| table.name != "sessions")
}

/// A snapshot that is being made.
struct Making {
    source: Database,
    from: Storage,
    /// The identity of that.
    store: String,
    to: Storage,
    spool: PathBuf,
    snapshot: SnapshotFolder,
    database: Database,
    taken: Timestamp,
    limit: Limit,
    copied: u64,
    copied_bytes: u64,
    left_out: u64,
    damaged: Vec<Damaged>,
}

impl Making {
    async fn begin(source: Database, from: Storage, store: String, plan: &Plan, folder: &BackupFolder) -> Result<Self, Error> {
        let (taken, spool) = (source.now(), folder.spool());
        let snapshot = folder.begin(taken)?;
        let place = db::Place::File { file: snapshot.database(), readers_max: READERS };
        Ok(Self {
            source,
            from,
            store,
            to: Storage::open(&folder.blobs(), spool.clone(), Arc::new(Halt::default()), plan.reserve)?,
            spool,
            database: Database::open(&place, Arc::default()).await?,
            snapshot,
            taken,
            limit: Limit::new(plan.bytes_per_second_max),
            copied: 0,
            copied_bytes: 0,
            left_out: 0,
            damaged: Vec::new(),
        })
    }

    /// All rows as they are at one moment.
    async fn rows(&mut self, report: &impl Fn(Progress)) -> Result<(), Error> {
        let mut then = Snapshot::of(&self.source).await?;
        copy::rows(&mut then, &self.database, None, tables(), |table, rows| report(Progress::Rows(table, rows))).await?;
        let mut copied = Snapshot::of(&self.database).await?;
        copy::count(&mut then, &mut copied, tables()).await?;
        copied.end().await?;
        then.end().await
    }

    /// Lists the blobs of its rows, but for damaged ones. What is listed belongs to this snapshot, also when it is cut off.
    async fn list(&self) -> Result<Digest, Error> {
        let (mut list, mut after) = (self.snapshot.write_list()?, String::new());
        let damaged: std::collections::HashSet<_> = self.damaged.iter().map(|damaged| &damaged.key).collect();
        loop {
            let page = db::images::blobs_after(&self.database, &after, PAGE).await?;
            let Some((last, ..)) = page.last() else { return list.finish() };
            last.as_str().clone_into(&mut after);
            for (key, _, digest) in page.iter().filter(|(key, ..)| !damaged.contains(key)) {
                list.add(key, *digest)?;
            }
        }
    }

    async fn blobs(&mut self, report: &impl Fn(Progress)) -> Result<(), Error> {
        let of = u64::try_from(db::images::blobs_in_all(&self.database).await?).unwrap_or(0);
        let (mut after, mut done) = (String::new(), 0);
        loop {
            let page = db::images::blobs_to_copy(&self.database, &after, PAGE).await?;
            let Some(last) = page.last() else { return Ok(()) };
            last.key.as_str().clone_into(&mut after);
            let copied = self.page(page, |bytes| {
                done += 1;
                report(Progress::Blobs { done, bytes, of });
            });
            let gone = copied.await?;
            leave_out(&self.database, gone).await?;
        }
    }

    /// Copies these blobs. Returns those that are gone on purpose; `report` is told of each how many bytes were copied so far.
    async fn page(&mut self, page: Vec<BlobToCopy>, mut report: impl FnMut(u64)) -> Result<Vec<BlobKey>, Error> {
        let (from, to, spool) = (&self.from, &self.to, &self.spool);
        let copying = page.into_iter().map(|blob| async move {
            let copied = copy::blob(from, to, spool, &blob, Known::BySize).await?;
            Ok::<_, Error>((blob, copied))
        });
        let mut copied = futures_util::stream::iter(copying).buffer_unordered(BLOBS_AT_ONCE);
        let mut gone = Vec::new();
        while let Some((blob, copied)) = copied.try_next().await? {
            let reason = match copied {
                Copied::New => {
                    self.copied += 1;
                    self.copied_bytes += blob.size_bytes;
                    self.limit.copied(blob.size_bytes).await;
                    None
                }
                Copied::There => None,
                Copied::Gone if copy::is_gone_on_purpose(&self.source, &blob).await? => {
                    gone.push(blob.key.clone());
                    None
                }
                Copied::Gone => Some("it is gone from the store".to_owned()),
                Copied::Damaged(reason) => Some(reason),
            };
            report(self.copied_bytes);
            self.damaged.extend(reason.map(|reason| Damaged { key: blob.key, reason }));
            if self.damaged.len() > DAMAGED_MAX {
                return Err(Error::invalid(format!(
                    "more than {DAMAGED_MAX} blobs are gone from the store or damaged: is its volume mounted, and is it the store of \
                     this database? `imagewell check --blobs` lists them; this snapshot was given up, earlier ones are whole"
                )));
            }
        }
        self.left_out += gone.len() as u64;
        Ok(gone)
    }

    /// Closes the database, writes the manifest, and gives the snapshot its name.
    async fn finish(self, program: String) -> Result<Summary, Error> {
        let list_digest = self.list().await?;
        let holdings = db::holdings::count(&self.database).await?;
        let lineage = db::holdings::lineage(&self.database).await?;
        self.database.close().await;
        self.source.close().await;
        let (database_bytes, database_digest) = self.snapshot.digest_of_database().await?;
        let manifest = Manifest {
            program,
            schema: db::newest_schema(),
            lineage,
            store: Some(self.store),
            taken: self.taken,
            holdings,
            damaged: self.damaged.len() as u64,
            database_bytes,
            database_digest,
            list_digest,
        };
        let snapshot = self.snapshot.finish(&manifest.to_text())?;
        Ok(Summary {
            snapshot: snapshot.name().to_owned(),
            manifest,
            copied: self.copied,
            copied_bytes: self.copied_bytes,
            left_out: self.left_out,
            damaged: self.damaged,
            pruned: Pruned::default(),
            not_noted: None,
        })
    }
}

/// Removes the rows of blobs that there are none of.
async fn leave_out(database: &Database, keys: Vec<BlobKey>) -> Result<(), Error> {
    if keys.is_empty() {
        return Ok(());
    }
    let write = database.write_past_gate(
        None,
        move |connection| {
            Box::pin(async move {
                for key in &keys {
                    db::holdings::leave_out(connection, key).await?;
                }
                Ok(())
            })
        },
        Refusal::Expected,
    );
    write.await
}
