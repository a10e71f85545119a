//! The only SQL. One module a noun, each with its statements in one list, so that a test can prepare every one of them.
//!
//! Reads take any connection of a read-only pool. Writes queue for the one writing connection and share its commits
//! (see [`writer`]). The text of the statements keeps to what SQLite and PostgreSQL share.

pub(crate) mod accounts;
pub(crate) mod avatars;
pub(crate) mod doomed;
pub(crate) mod files;
pub(crate) mod images;
pub(crate) mod keys;
pub(crate) mod looks;
pub(crate) mod namespaces;
#[cfg(test)]
mod plans;
pub(crate) mod presets;
pub(crate) mod sessions;
pub(crate) mod tickets;
pub(crate) mod variants;
mod writer;

use std::path::Path;
use std::str::FromStr as _;
use std::sync::Arc;
use std::time::Duration;

use sqlx::ConnectOptions as _;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};

use crate::Error;
use crate::halt::Halt;
use writer::Refusal;
pub(crate) use writer::{Connection, Writer};

/// Older ones could corrupt the database when the write-ahead log was reset (sqlite.org/wal.html, fixed in this one).
const SQLITE_VERSION_MIN: &str = "3.51.3";

/// Of each connection, in KiB when negative: the inner pages of the indexes of ten million images. It fills as pages are read.
const PAGES_CACHED: &str = "-16384";

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("./migrations");

/// Declares the statements of a module and lists them in `ALL`.
macro_rules! statements {
    ($($(#[$meta:meta])* $name:ident = $sql:expr;)*) => {
        $($(#[$meta])* const $name: &str = $sql;)*
        #[cfg(test)]
        pub(super) const ALL: &[&str] = &[$($name),*];
    };
}
pub(crate) use statements;

/// The embedded database: a pool to read from and a queue to write through.
#[derive(Debug, Clone)]
pub struct Database {
    reader: SqlitePool,
    writer: Writer,
}

impl Database {
    /// Opens or makes the database file and brings its schema up to date.
    ///
    /// # Errors
    /// [`Error::Internal`] when the file can't be opened, is newer than this program, or SQLite is too old.
    pub async fn open(file: &Path, readers_max: u32, halt: Arc<Halt>) -> Result<Self, Error> {
        let options = SqliteConnectOptions::from_str("sqlite:")
            .map_err(|error| Error::internal("database options", &error))?
            .filename(file)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(Duration::from_secs(10))
            // The writer checkpoints by itself, because SQLite would swallow a failed sync of an automatic one.
            .pragma("wal_autocheckpoint", "0")
            .pragma("cache_size", PAGES_CACHED);
        let doing = format!("opening the database {}", file.display());
        if let Some(folder) = file.parent() {
            crate::durable::make_folder(folder).map_err(|error| Error::internal(&doing, &error))?;
        }
        let mut connection = options.connect().await.map_err(|error| Error::internal(&doing, &error))?;
        check_version(&mut connection).await?;
        MIGRATIONS.run(&mut connection).await.map_err(|error| Error::internal(&doing, &error))?;
        let reader = SqlitePoolOptions::new()
            .max_connections(readers_max)
            .connect_with(options.read_only(true).create_if_missing(false))
            .await
            .map_err(|error| Error::internal(&doing, &error))?;
        Ok(Self { reader, writer: Writer::start(connection, halt) })
    }

    pub(crate) fn reader(&self) -> &SqlitePool {
        &self.reader
    }

    /// Runs `work` inside a transaction that it may share with others. Returns after the commit, so that whatever it
    /// returned may be acknowledged. When `work` fails, what it did is undone and the others are not touched.
    pub(crate) async fn write<T, F>(&self, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut Connection) -> futures_util::future::BoxFuture<'c, Result<T, Error>> + Send + 'static,
    {
        self.writer.write(work, Refusal::Expected).await
    }

    /// As [`Database::write`], for work that nothing in the database can refuse. It saves the two statements that would undo it; if
    /// it fails all the same, the whole commit fails with it.
    pub(crate) async fn write_unrefusable<T, F>(&self, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut Connection) -> futures_util::future::BoxFuture<'c, Result<T, Error>> + Send + 'static,
    {
        self.writer.write(work, Refusal::Unexpected).await
    }

    /// Whether a trivial read works.
    ///
    /// # Errors
    /// [`Error::Internal`] when it doesn't.
    pub async fn ping(&self) -> Result<(), Error> {
        sqlx::query("SELECT 1").execute(&self.reader).await.map(|_| ()).map_err(|error| read_failed(&error))
    }

    /// Finishes what is queued and closes the file.
    pub async fn close(&self) {
        self.writer.close().await;
        self.reader.close().await;
    }
}

/// A read that failed is a fault of ours.
pub(crate) fn read_failed(error: &sqlx::Error) -> Error {
    Error::internal("reading the database", error)
}

/// A failed statement of a write, by what it means: the caller's conflict, a full disk, or a fault of ours.
pub(crate) fn write_failed(error: &sqlx::Error) -> Error {
    match error {
        sqlx::Error::Database(cause) if cause.is_unique_violation() => Error::Conflict,
        sqlx::Error::Database(cause) if writer::is_full(cause.as_ref()) => Error::NoSpace,
        _ => Error::internal("writing the database", error),
    }
}

async fn check_version(connection: &mut Connection) -> Result<(), Error> {
    let version: String =
        sqlx::query_scalar("SELECT sqlite_version()").fetch_one(connection).await.map_err(|error| read_failed(&error))?;
    let parts = |text: &str| text.split('.').map(|part| part.parse::<u32>().unwrap_or(0)).collect::<Vec<_>>();
    if parts(&version) < parts(SQLITE_VERSION_MIN) {
        let detail = format!("SQLite {version} is too old, {SQLITE_VERSION_MIN} is needed");
        return Err(Error::Internal { detail });
    }
    Ok(())
}

/// Every statement by its module.
#[cfg(test)]
fn all_statements() -> [(&'static str, &'static [&'static str]); 11] {
    [
        ("accounts", accounts::ALL),
        ("avatars", avatars::ALL),
        ("files", files::ALL),
        ("images", images::ALL),
        ("keys", keys::ALL),
        ("looks", looks::ALL),
        ("namespaces", namespaces::ALL),
        ("presets", presets::ALL),
        ("sessions", sessions::ALL),
        ("tickets", tickets::ALL),
        ("variants", variants::ALL),
    ]
}

#[cfg(test)]
mod tests {
    use sqlx::Executor as _;

    use super::*;

    #[tokio::test]
    async fn every_statement_prepares() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let database = Database::open(&folder.path().join("a.db"), 2, Arc::default()).await.expect("opens");
        let all: Vec<&str> = all_statements().iter().flat_map(|(_, statements)| statements.iter().copied()).collect();
        assert!(all.len() > 50);
        for sql in all {
            let prepared = database.reader().acquire().await.expect("connection").prepare(sqlx::SqlStr::from_static(sql)).await;
            assert!(prepared.is_ok(), "{sql}: {:?}", prepared.err());
        }
    }

    #[tokio::test]
    async fn settings_that_durability_rests_on_are_in_force() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let database = Database::open(&folder.path().join("a.db"), 2, Arc::default()).await.expect("opens");
        let pragmas = database
            .write(|connection| {
                Box::pin(async move {
                    let journal: String =
                        sqlx::query_scalar("PRAGMA journal_mode").fetch_one(&mut *connection).await.expect("journal");
                    let synchronous: i64 =
                        sqlx::query_scalar("PRAGMA synchronous").fetch_one(&mut *connection).await.expect("synchronous");
                    Ok((journal, synchronous))
                })
            })
            .await
            .expect("writes");
        assert_eq!(pragmas, ("wal".to_owned(), 2), "2 is FULL");
    }

    /// A database as the first version made it, with an image in it, opens, and the image can be read.
    #[tokio::test]
    async fn old_data_opens() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let file = folder.path().join("a.db");
        let options = SqliteConnectOptions::new().filename(&file).create_if_missing(true);
        let mut connection = options.connect().await.expect("opens");
        let first = MIGRATIONS.iter().take(1).cloned().collect::<Vec<_>>();
        sqlx::migrate::Migrator::with_migrations(first).run(&mut connection).await.expect("migrates");
        let account = "01a1fc2e-b3ff-7513-b584-b6649bfe564a";
        let image = "01a1fc2e-b41e-7441-b63c-27c0818eeff9";
        let digest = "0".repeat(64);
        for sql in [
            "INSERT INTO orgs (id, name) VALUES (1, 'acme')".to_owned(),
            "INSERT INTO namespaces (org_id, name) VALUES (1, 'rewards')".to_owned(),
            format!(
                "INSERT INTO accounts (id, org_id, kind, login, login_folded, secret_hash, disabled, created_us) \
                 VALUES ('{account}', 1, 'user', 'ada', 'ada', '', FALSE, 0)"
            ),
            format!(
                "INSERT INTO images (id, org_id, owner_id, namespace, app_key, permission, state, latest_version, created_us) \
                 VALUES ('{image}', 1, '{account}', 'opsportal-images', 'crew', 'crew.view', 'kept', 1, 0)"
            ),
            format!(
                "INSERT INTO versions (image_id, number, blob_key, size_bytes, digest, content_type, format, width, height, frames, \
                 orientation, created_by, created_us) VALUES ('{image}', 1, 'opsportal-images/1/x.png', 5, '{digest}', 'image/png', \
                 'png', 1, 1, 1, 1, '{account}', 0)"
            ),
        ] {
            sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&mut connection).await.expect("inserts");
        }
        drop(connection);
        let database = Database::open(&file, 2, Arc::default()).await.expect("opens");
        let id = crate::model::ImageId::parse(image).expect("id");
        let found = images::find(&database, id).await.expect("reads").expect("is there");
        assert_eq!((found.version.number, found.latest_number, found.name), (1, 1, None));
        let namespace = crate::model::Namespace::parse("rewards").expect("name");
        let rules = namespaces::find(&database, crate::model::OrgId(1), &namespace).await.expect("reads");
        assert_eq!(rules, Some(crate::model::NamespaceRules::plain(namespace)));
    }
}
