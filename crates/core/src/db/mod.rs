//! The only SQL. One module a noun, each with its statements in one list, so that a test can prepare every one of them on both
//! databases.
//!
//! The text of the statements keeps to what SQLite and PostgreSQL share: BIGINT, TEXT and BOOLEAN, values by number. Where they differ, both texts
//! stand beside each other. Reads take any connection; writes run in a transaction, which on SQLite they share (see [`writer`]).

pub(crate) mod accounts;
mod address;
pub(crate) mod avatars;
pub(crate) mod clock;
mod connecting;
pub(crate) mod copying;
pub mod diagnosis;
pub(crate) mod doomed;
pub(crate) mod files;
pub(crate) mod holdings;
pub(crate) mod identity;
pub(crate) mod images;
mod indexes;
pub(crate) mod keys;
pub(crate) mod leases;
mod lent;
pub(crate) mod listening;
pub(crate) mod looks;
mod migrations;
pub(crate) mod move_lock;
pub(crate) mod moves;
pub(crate) mod namespaces;
mod page;
#[cfg(test)]
mod plans;
mod postgres;
pub(crate) mod presets;
pub(crate) mod query;
pub(crate) mod scrub;
pub(crate) mod sessions;
mod sqlite;
#[cfg(test)]
pub(crate) mod tests;
pub(crate) mod tickets;
mod time;
pub(crate) mod triggers;
mod turns;
pub(crate) mod variants;
mod writer;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use futures_util::future::BoxFuture;
use sqlx::sqlite::SqliteConnection;
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

pub use self::address::Address;
pub use self::holdings::Holdings;
pub(crate) use self::migrations::newest as newest_schema;
use self::postgres::Postgres;
pub use self::postgres::{Connections, Patience};
use self::sqlite::Sqlite;
use self::time::DatabaseTime;
pub(crate) use self::turns::Turn;
use self::turns::Turns;
pub(crate) use self::writer::Refusal;
use crate::Error;
use crate::changes::{Announcer, Change};
use crate::durable::is_same_file;
use crate::halt::Halt;
use crate::model::OrgId;

/// Which database.
#[derive(Clone)]
pub enum Place {
    /// An SQLite file, made when absent.
    File {
        /// Where.
        file: PathBuf,
        /// Connections that read.
        readers_max: u32,
    },
    /// A PostgreSQL database that exists.
    Server {
        /// As in `postgres://user:password@host/database`.
        url: String,
        /// How many connections, and to what.
        connections: Connections,
        /// How long what may take.
        patience: Patience,
    },
}

impl Place {
    /// Whether both are one and the same database, as far as their addresses say so.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::File { file: one, .. }, Self::File { file: other, .. }) => is_same_file(one, other),
            (Self::Server { url: one, .. }, Self::Server { url: other, .. }) => one == other,
            _ => false,
        }
    }

    /// The SQLite file that opening it would make.
    pub(crate) fn new_file(&self) -> Option<&Path> {
        match self {
            Self::File { file, .. } => Some(file.as_path()).filter(|file| !file.exists()),
            Self::Server { .. } => None,
        }
    }

    /// What to call it in messages: its file, or its server and name. Never the password.
    pub(crate) fn shown(&self) -> String {
        match self {
            Self::File { file, .. } => file.display().to_string(),
            Self::Server { url, .. } => Address::parse(url).map_or_else(|_| "PostgreSQL".to_owned(), |address| address.shown()),
        }
    }

    /// Refuses an SQLite file that is not there. A server is not asked.
    ///
    /// # Errors
    /// [`Error::Internal`] names the file, and the settings that lead to it.
    pub fn expect(&self) -> Result<(), Error> {
        match self {
            Self::File { file, .. } => sqlite::expect_file(file),
            Self::Server { .. } => Ok(()),
        }
    }
}

/// Without the password.
impl fmt::Debug for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { file, .. } => out.debug_tuple("File").field(file).finish(),
            Self::Server { .. } => out.debug_struct("Server").finish_non_exhaustive(),
        }
    }
}

/// The database. Cheap to share.
#[derive(Debug, Clone)]
pub struct Database {
    engine: Arc<ArcSwap<Engine>>,
    announcer: Announcer,
    gate: Arc<RwLock<()>>,
    refuses: Arc<AtomicBool>,
    time: Arc<DatabaseTime>,
    turns: Arc<Turns>,
    /// Nothing is ever written.
    looks: bool,
}

/// See [`Database::open_gate`].
#[derive(Debug)]
pub(crate) struct Open(#[expect(dead_code, reason = "held until dropped")] OwnedRwLockReadGuard<()>);

/// See [`Database::shut_gate`].
#[derive(Debug)]
pub(crate) struct Shut(#[expect(dead_code, reason = "held until dropped")] OwnedRwLockWriteGuard<()>);

#[derive(Debug)]
enum Engine {
    Sqlite(Sqlite),
    Postgres(Postgres),
}

/// What opening does to the schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Schema {
    /// Makes it, or brings it up to date.
    Newest,
    /// Nothing.
    AsItIs,
}

impl Engine {
    /// Boxed: the compiler can't see by itself that what runs the migrations may change threads.
    fn open(place: &Place, halt: Arc<Halt>, announcer: Announcer, schema: Schema) -> BoxFuture<'static, Result<Self, Error>> {
        match place.clone() {
            Place::File { file, readers_max } => {
                Box::pin(async move { Sqlite::open(&file, readers_max, halt, announcer, schema).await.map(Self::Sqlite) })
            }
            Place::Server { url, connections, patience } => {
                Box::pin(async move { Postgres::open(&url, connections, patience, announcer, schema).await.map(Self::Postgres) })
            }
        }
    }
}

impl Engine {
    /// As [`Engine::open`], without making, migrating or writing anything.
    fn look(place: &Place) -> BoxFuture<'static, Result<Self, Error>> {
        match place.clone() {
            Place::File { file, readers_max } => {
                Box::pin(async move { Sqlite::look(&file, readers_max).await.map(Self::Sqlite) })
            }
            Place::Server { url, connections, patience } => {
                Box::pin(async move { Postgres::look(&url, connections, patience).await.map(Self::Postgres) })
            }
        }
    }
}

/// The connection of a write.
#[derive(Debug)]
pub(crate) struct Connection {
    link: Link,
    changes: Vec<Change>,
}

#[derive(Debug)]
enum Link {
    Sqlite(SqliteConnection),
    Postgres(lent::Lent),
}

impl Connection {
    /// Everybody who holds this in memory is to be told once it is committed.
    pub(super) fn announce(&mut self, change: Change) {
        self.changes.push(change);
    }
}

impl Database {
    /// Opens it and brings its schema up to date.
    ///
    /// # Errors
    /// [`Error::Internal`] when it can't be opened, is newer than this program, or SQLite is too old.
    pub async fn open(place: &Place, halt: Arc<Halt>) -> Result<Self, Error> {
        Self::open_with(place, halt, Schema::Newest).await
    }

    async fn open_with(place: &Place, halt: Arc<Halt>, schema: Schema) -> Result<Self, Error> {
        let announcer = Announcer::default();
        let engine = Engine::open(place, halt, announcer.clone(), schema).await?;
        Self::of(engine, announcer, false).timed().await
    }

    /// Opens a database that is there, of exactly this program's schema, and never writes to it.
    ///
    /// # Errors
    /// [`Error::Internal`] when it isn't there or can't be opened, or its schema is older or newer.
    pub async fn look(place: &Place) -> Result<Self, Error> {
        Self::of(Engine::look(place).await?, Announcer::default(), true).timed().await
    }

    fn of(engine: Engine, announcer: Announcer, looks: bool) -> Self {
        let engine = Arc::new(ArcSwap::from_pointee(engine));
        Self {
            engine,
            announcer,
            gate: Arc::default(),
            refuses: Arc::default(),
            time: Arc::default(),
            turns: Arc::default(),
            looks,
        }
    }

    /// Knows how late it is by the database's clock.
    async fn timed(self) -> Result<Self, Error> {
        self.measure_time().await?;
        Ok(self)
    }

    /// Whether it was opened to be looked at, and is never written to.
    pub(crate) fn only_looks(&self) -> bool {
        self.looks
    }

    /// Opens it without making or changing anything, and says which schema it has: the number of its last migration. None where there is no
    /// database of ours.
    ///
    /// # Errors
    /// [`Error::Internal`] when it can't be opened.
    pub(crate) async fn open_as_it_is(place: &Place, halt: Arc<Halt>) -> Result<Option<(Self, i64)>, Error> {
        if let Place::File { file, .. } = place
            && !file.exists()
        {
            return Ok(None);
        }
        let database = Self::open_with(place, halt, Schema::AsItIs).await?;
        Ok(holdings::schema(&database).await?.map(|schema| (database, schema)))
    }

    /// As [`Database::open_as_it_is`], for a database that is never written to, whatever its schema.
    ///
    /// # Errors
    /// [`Error::Internal`] when it can't be opened.
    pub(crate) async fn look_as_it_is(place: &Place) -> Result<Option<(Self, i64)>, Error> {
        let engine = match place {
            Place::File { file, .. } if !file.exists() => return Ok(None),
            Place::File { file, readers_max } => Engine::Sqlite(Sqlite::look_as_it_is(file, *readers_max).await?),
            Place::Server { .. } => Engine::open(place, Arc::default(), Announcer::default(), Schema::AsItIs).await?,
        };
        let database = Self::of(engine, Announcer::default(), true).timed().await?;
        if let Some(schema) = holdings::schema(&database).await? {
            return Ok(Some((database, schema)));
        }
        database.close().await;
        Ok(None)
    }

    /// Opens an SQLite file of this program's schema that nobody writes to. Nothing is written beside it either, so it may lie on a medium
    /// that can't be written.
    ///
    /// # Errors
    /// [`Error::Internal`] when it can't be opened.
    pub(crate) async fn look_at_sealed(file: &Path, readers_max: u32) -> Result<Self, Error> {
        let engine = Engine::Sqlite(Sqlite::look_at_sealed(file, readers_max).await?);
        Self::of(engine, Announcer::default(), true).timed().await
    }

    fn engine(&self) -> Arc<Engine> {
        self.engine.load_full()
    }

    /// From now on this is told what has changed, by whomever. Once.
    pub(crate) fn on_change(&self, listener: impl Fn(Change) + Send + Sync + 'static) {
        self.announcer.tell(listener);
    }

    /// Whether other processes may serve from it too.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        matches!(&*self.engine(), Engine::Postgres(_))
    }

    /// Runs `work` inside a transaction that it may share with others. Returns after the commit, so that whatever it
    /// returned may be acknowledged. When `work` fails, what it did is undone and the others are not touched. It goes on when its
    /// caller stops waiting.
    ///
    /// [`Error::Busy`] says that nothing was committed.
    pub(crate) async fn write<T, F>(&self, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut Connection) -> BoxFuture<'c, Result<T, Error>> + Send + 'static,
    {
        let open = self.open_gate().await;
        self.write_through(open, work, Refusal::Expected).await
    }

    /// Waits until nobody else in this process writes to the same name: who waited for its row in the database would hold a connection
    /// meanwhile. None where the database has one writer anyway.
    ///
    /// # Errors
    /// [`Error::Busy`] when its turn doesn't come in time.
    pub(crate) async fn turn(&self, org: OrgId, name: &(impl fmt::Display + Sync)) -> Result<Option<Turn>, Error> {
        let wait_max = match &*self.engine() {
            Engine::Sqlite(_) => return Ok(None),
            Engine::Postgres(postgres) => postgres.patience().wait_max,
        };
        Turns::take(&self.turns, (org, name.to_string()), wait_max).await.map(Some)
    }

    /// Until what is returned is dropped, the data doesn't move elsewhere; while it does, this waits. For what writes to the store and
    /// then here.
    pub(crate) async fn open_gate(&self) -> Open {
        Open(Arc::clone(&self.gate).read_owned().await)
    }

    /// Makes all writes wait until what is returned is dropped, and waits for those that run.
    pub(crate) async fn shut_gate(&self) -> Shut {
        Shut(Arc::clone(&self.gate).write_owned().await)
    }

    /// As [`Database::write`], through a gate that is open already. Work that the database can't refuse saves the two statements that
    /// would undo it; if it fails all the same, the whole commit fails with it.
    pub(crate) async fn write_through<T, F>(&self, open: Open, work: F, refusal: Refusal) -> Result<T, Error>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut Connection) -> BoxFuture<'c, Result<T, Error>> + Send + 'static,
    {
        if self.refuses.load(Ordering::SeqCst) {
            return Err(Error::Busy { retry_after: postgres::RETRY_AFTER });
        }
        self.write_past_gate(Some(open), work, refusal).await
    }

    /// For what must be written while everything else waits.
    pub(crate) async fn write_past_gate<T, F>(&self, open: Option<Open>, work: F, refusal: Refusal) -> Result<T, Error>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut Connection) -> BoxFuture<'c, Result<T, Error>> + Send + 'static,
    {
        if self.looks {
            return Err(Error::Internal { detail: "the database was opened to be looked at alone".into() });
        }
        let engine = self.engine();
        if let Engine::Sqlite(sqlite) = &*engine {
            let Some(writer) = &sqlite.writer else { unreachable!("it is there unless `looks`") };
            return writer.write(open, work, refusal).await;
        }
        // It ends although its caller may stop waiting, as the queue of SQLite does it.
        let write = tokio::spawn(async move {
            let Engine::Postgres(postgres) = &*engine else { unreachable!("the other engine has returned") };
            let written = postgres.write(work).await;
            drop(open);
            written
        });
        write.await.map_err(|error| Error::internal("writing the database", &error))?
    }

    /// From now on writes are told to come back.
    pub(crate) fn refuse_writes(&self) {
        self.refuses.store(true, Ordering::SeqCst);
    }

    /// The database as it is now, whatever it is switched to.
    pub(crate) fn clone_engine(&self) -> Self {
        Self { engine: Arc::new(ArcSwap::new(self.engine())), ..self.clone() }
    }

    /// From now on this is another database; what runs on the old one ends there.
    pub(crate) async fn switch_to(&self, place: &Place, halt: Arc<Halt>) -> Result<(), Error> {
        self.engine.store(Arc::new(Engine::open(place, halt, self.announcer.clone(), Schema::Newest).await?));
        // Until it is known, the time of the old one goes on.
        self.measure_time().await.map(|_| ())
    }

    /// Whether a trivial read works now.
    ///
    /// # Errors
    /// [`Error::Internal`] or [`Error::Busy`] when it doesn't.
    pub async fn ping(&self) -> Result<(), Error> {
        match &*self.engine() {
            Engine::Sqlite(sqlite) => {
                sqlx::query("SELECT 1").execute(sqlite.reader()).await.map(|_| ()).map_err(|error| read_failed(&error))
            }
            Engine::Postgres(postgres) => postgres.ping().await,
        }
    }

    /// What may lose what a database server has committed, as in `fsync=off`. Never anything of the embedded database, whose settings are
    /// our own.
    ///
    /// # Errors
    /// [`Error::Busy`] or [`Error::Internal`] when it can't be asked.
    pub(crate) async fn weak_durability(&self) -> Result<Vec<String>, Error> {
        match &*self.engine() {
            Engine::Sqlite(_) => Ok(Vec::new()),
            Engine::Postgres(postgres) => postgres.weak_durability().await,
        }
    }

    /// Finishes what is queued and closes it.
    pub async fn close(&self) {
        match &*self.engine() {
            Engine::Sqlite(sqlite) => sqlite.close().await,
            Engine::Postgres(postgres) => postgres.close().await,
        }
    }
}

/// A read that failed is a fault of ours, unless the database is away.
fn read_failed(error: &sqlx::Error) -> Error {
    failed(error, "reading the database")
}

/// A failed statement of a write, by what it means: the caller's conflict, a full disk, a database that is away, or a fault of ours.
fn write_failed(error: &sqlx::Error) -> Error {
    match error {
        sqlx::Error::Database(cause) if cause.is_unique_violation() => Error::Conflict,
        sqlx::Error::Database(cause) if writer::is_full(cause.as_ref()) || cause.code().as_deref() == Some("53100") => {
            Error::NoSpace
        }
        _ => failed(error, "writing the database"),
    }
}

fn failed(error: &sqlx::Error, doing: &str) -> Error {
    let code = if let sqlx::Error::Database(cause) = error { cause.code() } else { None };
    // Raised by triggers of a move that is over.
    let moved = code.as_deref().is_some_and(|code| ["1811", "P0001"].contains(&code));
    if moved || writer::is_locked(error) || postgres::is_away(error) || code.is_some_and(|code| postgres::is_contention(&code)) {
        tracing::warn!(%error, doing, "the database can't do it now");
        return Error::Busy { retry_after: postgres::RETRY_AFTER };
    }
    Error::internal(doing, error)
}

/// Every statement by its module.
#[cfg(test)]
fn all_statements() -> [(&'static str, &'static [query::Sql]); 17] {
    [
        ("accounts", accounts::ALL),
        ("avatars", avatars::ALL),
        ("clock", clock::ALL),
        ("files", files::ALL),
        ("holdings", holdings::ALL),
        ("identity", identity::ALL),
        ("images", images::ALL),
        ("keys", keys::ALL),
        ("leases", leases::ALL),
        ("looks", looks::ALL),
        ("moves", moves::ALL),
        ("namespaces", namespaces::ALL),
        ("presets", presets::ALL),
        ("scrub", scrub::ALL),
        ("sessions", sessions::ALL),
        ("tickets", tickets::ALL),
        ("variants", variants::ALL),
    ]
}
