//! Which store belongs to which database. Both bear the same id, and a service refuses to run on two that don't: an empty or older
//! database makes orphans of all images, and a volume that is not mounted looks like a store that has lost them.
//!
//! New databases and stores are paired when both are empty. Data of versions without identities is paired once, when blobs of the
//! database's rows are in the store. Everything else is for an operator to decide, with `imagewell adopt`.
//!
//! A copy of a database has the id of the original. Therefore each sweep leaves a fresh mark on both sides, and the next one compares
//! them: of two databases that use one store, only the first one to sweep goes on sweeping.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;

use crate::Error;
use crate::db::identity::{self as rows, Identity};
use crate::db::{self, Database, Refusal};
use crate::model::Timestamp;
use crate::storage::{Storage, StoreIdentity, Stored};

/// Rows that are looked up in the store, from each end of the order of keys.
const SAMPLE: u32 = 8;
/// Keys of a store that are looked up in databases at a time.
const LOOKED_UP_AT_ONCE: usize = 512;
/// For the store's answer at the start. Afterwards the service starts unready, and asks again.
const START_MAX: Duration = Duration::from_secs(3);

/// How two sides stand to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// Both bear the same id.
    Paired,
    /// Neither holds anything, or the store holds what rows point at: they can be paired.
    Fitting,
    /// The store bears another id.
    Foreign,
    /// The store holds blobs, and the database has no rows.
    OnlyBlobs,
    /// The database has been used with a store that bears its id, and this one bears none.
    Unmarked,
    /// The store bears no id, and of so many blobs so many are not there.
    Missing { looked_for: usize, missing: usize },
}

/// Makes sure that database and store belong together, and pairs them where that is certain.
///
/// # Errors
/// [`Error::Invalid`] says what is wrong and what to do; [`Error::Busy`] when one of them can't be reached.
pub(crate) async fn settle(database: &Database, storage: &Storage) -> Result<(), Error> {
    let identity = own(database).await?;
    let standing = match standing(database, storage, &identity).await? {
        standing @ (Standing::Paired | Standing::Fitting) => standing,
        // Another node that starts for the first time may have written both the identity and an image meanwhile.
        refused => match storage.identity().await? {
            Some(borne) if borne.id == identity.id => Standing::Paired,
            _ => refused,
        },
    };
    match standing {
        Standing::Paired if identity.paired => Ok(()),
        Standing::Paired => set_paired(database, &identity.id).await,
        Standing::Fitting => pair(database, storage, &identity.id).await,
        other => Err(refusal(other, storage)),
    }
}

/// As [`settle`], for a start that doesn't wait for a store that is away. False when it is.
///
/// # Errors
/// As [`settle`], but for the store.
pub(crate) async fn settle_at_start(database: &Database, storage: &Storage) -> Result<bool, Error> {
    match tokio::time::timeout(START_MAX, settle(database, storage)).await {
        Ok(Ok(())) => Ok(true),
        Ok(Err(Error::Busy { .. })) | Err(_) => {
            tracing::warn!("the store does not answer: the service is unready until it is known to belong to this database");
            Ok(false)
        }
        Ok(Err(error)) => Err(error),
    }
}

/// Refuses a store that is in use, for a start that would make the database. A store that is away is judged when it is back.
///
/// # Errors
/// [`Error::Invalid`] says what is wrong and what to do.
pub(crate) async fn expect_unused(storage: &Storage) -> Result<(), Error> {
    let used = async { Ok::<_, Error>(storage.identity().await?.is_some() || storage.holds_anything().await?) };
    match tokio::time::timeout(START_MAX, used).await {
        Ok(Ok(true)) => Err(Error::invalid(format!(
            "there is no database, and the store {} is in use: nothing was made. Are data_dir and database_url right, is the volume of the \
             database mounted, and is its file where it was? A lost one comes back with `imagewell restore`. To begin anew, name an empty \
             store in storage_url",
            storage.name()
        ))),
        Ok(Ok(false) | Err(Error::Busy { .. })) | Err(_) => Ok(()),
        Ok(Err(error)) => Err(error),
    }
}

/// Refuses a bucket for a start that would make an SQLite file: a start that lacks the `database_url` of the nodes that use the
/// bucket would begin a database of its own beside theirs. `allowed` when an operator knows that no other node uses it.
///
/// # Errors
/// [`Error::Invalid`] says what to do.
pub(crate) fn expect_unshared(storage: &Storage, file: &Path, allowed: bool) -> Result<(), Error> {
    if allowed || !storage.is_bucket() {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "there is no database {}, and other nodes may use the bucket {}: nothing was made. Set database_url to the database of those nodes. \
         Where this service alone uses the bucket, with an SQLite file, start it for the first time with \
         database.allow_new_file_with_bucket=true",
        file.display(),
        storage.name()
    )))
}

/// Reads both sides again: a volume can be unmounted while the service runs.
///
/// # Errors
/// As [`settle`].
pub(crate) async fn verify(database: &Database, storage: &Storage) -> Result<StoreIdentity, Error> {
    let identity = own(database).await?;
    match storage.identity().await? {
        Some(borne) if borne.id == identity.id => Ok(borne),
        Some(_) => Err(refusal(Standing::Foreign, storage)),
        None => Err(refusal(Standing::Unmarked, storage)),
    }
}

/// Looks now and then whether the store is still the one that it was: what is stored after its volume was unmounted would be under the
/// mount point, and gone when the volume is back.
#[derive(Debug, Default)]
pub(crate) struct Watch(Mutex<Watched>);

#[derive(Debug, Default)]
struct Watched {
    id: Option<String>,
    /// Looks in a row that found another store.
    misses: u32,
}

impl Watch {
    /// An error says that nothing that is stored from now on may be acknowledged. Only the second look in a row that finds another store
    /// is one: adopting changes both sides one after the other. A store or a database that is away says nothing.
    ///
    /// # Errors
    /// [`Error::Invalid`] says what is wrong.
    pub(crate) async fn look(&self, database: &Database, storage: &Storage) -> Result<(), Error> {
        let Ok(Ok(borne)) = tokio::time::timeout(START_MAX, storage.identity()).await else { return Ok(()) };
        if borne.is_some_and(|borne| self.lock().id.as_ref() == Some(&borne.id)) {
            self.lock().misses = 0;
            return Ok(());
        }
        match verify(database, storage).await {
            Ok(borne) => *self.lock() = Watched { id: Some(borne.id), misses: 0 },
            Err(error @ Error::Invalid { .. }) => {
                let mut watched = self.lock();
                watched.misses += 1;
                if watched.misses > 1 {
                    return Err(error);
                }
            }
            Err(_) => {}
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Watched> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Marks both sides before a sweep removes anything. `confirmed` when an operator knows that nothing else sweeps this store. Returns how
/// late it is by the store's clock.
///
/// # Errors
/// As [`verify`]; [`Error::Invalid`] when the latest mark is not one of this database.
pub(crate) async fn begin_sweep(database: &Database, storage: &Storage, confirmed: bool) -> Result<Timestamp, Error> {
    let borne = if confirmed { verify(database, storage).await? } else { expect_own_mark(database, storage).await? };
    let (id, mark) = (borne.id.clone(), fresh_id());
    let (left, found) = (mark.clone(), borne.sweep.clone());
    database
        .write(move |connection| Box::pin(async move { rows::begin_sweep(connection, &id, &left, found.as_deref()).await }))
        .await?;
    storage.set_identity(&StoreIdentity { sweep: Some(mark), ..borne }).await?;
    storage.identity_written().await
}

/// Whether the latest sweep of the store was this database's.
///
/// # Errors
/// As [`begin_sweep`].
pub(crate) async fn expect_own_mark(database: &Database, storage: &Storage) -> Result<StoreIdentity, Error> {
    let borne = verify(database, storage).await?;
    if own(database).await?.sweeps.contains(&borne.sweep) {
        return Ok(borne);
    }
    Err(Error::invalid(format!(
        "the latest sweep of the store {} was another database's with the same id: this database is older than its store, as a restored \
         backup is, or one of the two is a copy of the other. If this is the right one, and no other uses the store: imagewell sweep --confirm",
        storage.name()
    )))
}

/// For a move: settles the target's database and store, which take nothing that is not in the source.
///
/// # Errors
/// As [`settle`]; [`Error::Invalid`] when the target store holds anything else.
pub(crate) async fn settle_target(
    source: &Database,
    target: &Database,
    to: &Storage,
    same_store: bool,
    is_new: bool,
) -> Result<(), Error> {
    let (from, identity) = (own(source).await?, own(target).await?);
    match to.identity().await? {
        // What has been copied so far.
        Some(borne) if borne.id == identity.id && !is_new => return set_paired(target, &identity.id).await,
        // It may hold more than this database, which has no image, knows of.
        Some(borne) if borne.id == identity.id => {}
        // The store stays, so its identity does.
        Some(borne) if borne.id == from.id && same_store => {
            replace(target, &borne.id).await?;
            return set_paired(target, &borne.id).await;
        }
        // A copy of the source's store.
        Some(borne) if borne.id == from.id => {}
        Some(_) => return Err(target_refused(to, "belongs to another database")),
        None => {}
    }
    let mut pages = to.list().chunks(LOOKED_UP_AT_ONCE);
    while let Some(page) = pages.next().await {
        let mut keys = Vec::with_capacity(page.len());
        for stored in page {
            match stored? {
                Stored::Blob(blob) => keys.push(blob.key),
                Stored::Foreign(_) if !to.is_bucket() => {}
                Stored::Foreign(key) => return Err(holds_more(to, &key)),
            }
        }
        let (mut known, there) = (db::images::known_blobs(source, &keys).await?, db::images::known_blobs(target, &keys).await?);
        known.extend(there);
        if let Some(foreign) = keys.iter().find(|key| !known.contains(*key)) {
            return Err(holds_more(to, foreign.as_str()));
        }
    }
    drop(pages);
    pair(target, to, &identity.id).await
}

fn holds_more(to: &Storage, key: &str) -> Error {
    target_refused(to, &format!("holds {key}, which the source does not have"))
}

fn target_refused(to: &Storage, why: &str) -> Error {
    Error::invalid(format!("the store {} {why}: a move needs an empty one", to.name()))
}

async fn standing(database: &Database, storage: &Storage, identity: &Identity) -> Result<Standing, Error> {
    if let Some(borne) = storage.identity().await? {
        return Ok(if borne.id == identity.id { Standing::Paired } else { Standing::Foreign });
    }
    let sample = rows::some_blobs(database, SAMPLE).await?;
    if sample.is_empty() {
        return Ok(if storage.holds_anything().await? { Standing::OnlyBlobs } else { Standing::Fitting });
    }
    if identity.paired {
        return Ok(Standing::Unmarked);
    }
    let mut missing = 0;
    for key in &sample {
        missing += usize::from(!storage.has(key).await?);
    }
    // A blob that was lost in the past is no reason to refuse all others.
    Ok(if missing * 2 < sample.len() { Standing::Fitting } else { Standing::Missing { looked_for: sample.len(), missing } })
}

fn refusal(standing: Standing, storage: &Storage) -> Error {
    let store = storage.name();
    let what = match standing {
        Standing::Foreign => format!("the store {store} belongs to another database than this one"),
        Standing::OnlyBlobs => format!("the store {store} is in use, and this database has no image in it"),
        Standing::Missing { looked_for, missing } => {
            format!("of {looked_for} images of this database that were looked for, {missing} are not in the store {store}")
        }
        Standing::Unmarked | Standing::Paired | Standing::Fitting => {
            format!("the store {store} lacks the identity of this database (the file or object .imagewell)")
        }
    };
    Error::invalid(format!(
        "{what}. Is the volume mounted, do database_url and storage_url name what belongs together, and is this the newest database? \
         If they do belong together, `imagewell adopt` shows what each of them holds and pairs them"
    ))
}

/// The id that the database shares with its store, made when absent.
///
/// # Errors
/// [`Error::Busy`] when the database can't be reached.
pub(crate) async fn id_of(database: &Database) -> Result<String, Error> {
    own(database).await.map(|identity| identity.id)
}

/// The database's identity, made when absent.
async fn own(database: &Database) -> Result<Identity, Error> {
    if let Some(identity) = rows::find(database).await? {
        return Ok(identity);
    }
    if database.only_looks() {
        return Err(Error::invalid(
            "this database has no identity yet: the next start of the service makes it, and pairs it with its store",
        ));
    }
    let id = fresh_id();
    write(database, move |connection| Box::pin(async move { rows::create(connection, &id).await })).await?;
    // Of several nodes one has made it.
    rows::find(database).await?.ok_or_else(|| Error::Internal { detail: "the database did not keep its identity".into() })
}

/// The store first, so that what a crash leaves can be paired again.
async fn pair(database: &Database, storage: &Storage, id: &str) -> Result<(), Error> {
    storage.set_identity(&StoreIdentity { id: id.to_owned(), sweep: None }).await?;
    set_paired(database, id).await?;
    tracing::info!(target: "audit", store = storage.name(), id, "database and store are paired");
    Ok(())
}

/// Gives both sides a fresh id, whatever they bear. Another database that used the store refuses to, from then on.
///
/// # Errors
/// [`Error::Busy`] when one of them can't be reached.
pub(crate) async fn pair_anew(database: &Database, storage: &Storage) -> Result<(), Error> {
    let id = fresh_id();
    replace(database, &id).await?;
    pair(database, storage, &id).await
}

async fn set_paired(database: &Database, id: &str) -> Result<(), Error> {
    let id = id.to_owned();
    write(database, move |connection| Box::pin(async move { rows::set_paired(connection, &id).await })).await
}

async fn replace(database: &Database, id: &str) -> Result<(), Error> {
    let id = id.to_owned();
    write(database, move |connection| Box::pin(async move { rows::replace(connection, &id).await })).await
}

/// The identity is no part of the data that moves.
async fn write<F>(database: &Database, work: F) -> Result<(), Error>
where
    F: for<'c> FnOnce(&'c mut db::Connection) -> futures_util::future::BoxFuture<'c, Result<(), Error>> + Send + 'static,
{
    database.write_past_gate(None, work, Refusal::Expected).await
}

/// For a move within one store, when the source changes no more: the target's next sweep expects the mark that the source's has left.
///
/// # Errors
/// As [`verify`].
pub(crate) async fn take_over_mark(target: &Database, to: &Storage) -> Result<(), Error> {
    let StoreIdentity { id, sweep } = verify(target, to).await?;
    let Some(mark) = sweep else { return Ok(()) };
    write(target, move |connection| Box::pin(async move { rows::begin_sweep(connection, &id, &mark, None).await })).await
}

fn fresh_id() -> String {
    uuid::Uuid::new_v4().to_string()
}
