//! The embedded database: one file, a pool to read from and a queue to write through (see [`super::writer`]).

use std::path::Path;
use std::str::FromStr as _;
use std::sync::Arc;
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Connection as _};

use super::migrations::{expect_current, migrate};
use super::writer::Writer;
use super::{Schema, read_failed};
use crate::Error;
use crate::changes::Announcer;
use crate::halt::Halt;

/// Older ones could corrupt the database when the write-ahead log was reset (sqlite.org/wal.html, fixed in this one).
const SQLITE_VERSION_MIN: &str = "3.51.3";

/// Of each connection, in KiB when negative: the inner pages of the indexes of ten million images. It fills as pages are read.
const PAGES_CACHED: &str = "-16384";

/// Bytes that the write-ahead log keeps on disk when it begins anew; a burst may have made it larger.
const LOG_BYTES_KEPT: &str = "67108864";

#[derive(Debug)]
pub(super) struct Sqlite {
    reader: SqlitePool,
    /// None where nothing may be written.
    pub(super) writer: Option<Writer>,
}

impl Sqlite {
    pub(super) async fn open(
        file: &Path,
        readers_max: u32,
        halt: Arc<Halt>,
        announcer: Announcer,
        schema: Schema,
    ) -> Result<Self, Error> {
        let make = schema == Schema::Newest;
        let options = SqliteConnectOptions::from_str("sqlite:")
            .map_err(|error| Error::internal("database options", &error))?
            .filename(file)
            .create_if_missing(make)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(Duration::from_secs(10))
            // The writer checkpoints by itself, because SQLite would swallow a failed sync of an automatic one.
            .pragma("wal_autocheckpoint", "0")
            .pragma("journal_size_limit", LOG_BYTES_KEPT)
            .pragma("cache_size", PAGES_CACHED);
        let doing = format!("opening the database {}", file.display());
        if let Some(folder) = file.parent().filter(|_| make) {
            crate::durable::make_folder(folder).map_err(|error| Error::internal(&doing, &error))?;
        }
        for suffix in ["", "-wal", "-shm"] {
            // SQLite gives a log that it makes the permissions of the database.
            let file = format!("{}{suffix}", file.display());
            crate::durable::make_private(Path::new(&file), make && suffix.is_empty())
                .map_err(|error| Error::internal(&doing, &error))?;
        }
        let mut connection = options.connect().await.map_err(|error| Error::internal(&doing, &error))?;
        check_version(&mut connection).await?;
        if schema == Schema::Newest {
            migrate::<sqlx::Sqlite>(&mut connection, &doing).await?;
        }
        let reader = SqlitePoolOptions::new()
            .max_connections(readers_max)
            .connect_with(options.read_only(true).create_if_missing(false))
            .await
            .map_err(|error| Error::internal(&doing, &error))?;
        Ok(Self { reader, writer: Some(Writer::start(connection, halt, announcer)) })
    }

    /// Opens what is there and leaves it as it is: nothing is made, migrated or written.
    pub(super) async fn look(file: &Path, readers_max: u32) -> Result<Self, Error> {
        let doing = format!("opening the database {}", file.display());
        expect_file(file)?;
        let options = looking(file);
        let mut connection = options.connect().await.map_err(|error| Error::internal(&doing, &error))?;
        let judged = match check_version(&mut connection).await {
            Ok(()) => expect_current::<sqlx::Sqlite>(&mut connection, &doing).await,
            refused => refused,
        };
        if let Err(refused) = judged {
            // Else the process may end before the files of the log are removed again.
            let _ = connection.close().await;
            return Err(refused);
        }
        let looking = Self::looking(options, readers_max, &doing).await;
        let _ = connection.close().await;
        looking
    }

    /// As [`Sqlite::look`], whatever its schema.
    pub(super) async fn look_as_it_is(file: &Path, readers_max: u32) -> Result<Self, Error> {
        Self::looking(looking(file), readers_max, &format!("opening the database {}", file.display())).await
    }

    /// For a file that nobody writes to: SQLite makes no file beside it.
    pub(super) async fn look_at_sealed(file: &Path, readers_max: u32) -> Result<Self, Error> {
        let options = SqliteConnectOptions::new().filename(file).read_only(true).immutable(true);
        Self::looking(options, readers_max, &format!("opening the database {}", file.display())).await
    }

    async fn looking(options: SqliteConnectOptions, readers_max: u32, doing: &str) -> Result<Self, Error> {
        let connected = SqlitePoolOptions::new().max_connections(readers_max).connect_with(options).await;
        connected.map(|reader| Self { reader, writer: None }).map_err(|error| Error::internal(doing, &error))
    }

    pub(super) fn reader(&self) -> &SqlitePool {
        &self.reader
    }

    /// The writer last: only a connection that may write removes the write-ahead log when it is the last.
    pub(super) async fn close(&self) {
        self.reader.close().await;
        if let Some(writer) = &self.writer {
            writer.close().await;
        }
    }
}

/// Refuses a database that isn't there, in words for whoever has mistyped its place.
pub(super) fn expect_file(file: &Path) -> Result<(), Error> {
    if file.exists() {
        return Ok(());
    }
    let detail = format!(
        "there is no database {}: are data_dir and database_url right? `imagewell serve` makes it at its first start",
        file.display()
    );
    Err(Error::Internal { detail })
}

/// For a connection that changes nothing. It may write as far as the file system goes, because a connection that may not would leave
/// files of the write-ahead log behind.
pub(super) fn looking(file: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(file)
        .create_if_missing(false)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(Duration::from_secs(10))
        .pragma("query_only", "ON")
        .pragma("cache_size", PAGES_CACHED)
}

async fn check_version(connection: &mut SqliteConnection) -> Result<(), Error> {
    let version: String =
        sqlx::query_scalar("SELECT sqlite_version()").fetch_one(connection).await.map_err(|error| read_failed(&error))?;
    let parts = |text: &str| text.split('.').map(|part| part.parse::<u32>().unwrap_or(0)).collect::<Vec<_>>();
    if parts(&version) < parts(SQLITE_VERSION_MIN) {
        let detail = format!("SQLite {version} is too old, {SQLITE_VERSION_MIN} is needed");
        return Err(Error::Internal { detail });
    }
    Ok(())
}
