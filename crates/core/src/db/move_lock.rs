//! One `imagewell migrate` at a time on a database: a lock that ends with the process, however it ends.

use std::path::{Path, PathBuf};

use sqlx::postgres::PgConnection;

use super::{Database, Engine, Place, read_failed};
use crate::Error;
use crate::durable::{LockedFile, lock_file};

/// The lock, until it is dropped. It keeps out who comes second; what is written is guarded by [`super::moves::Claim`], because a
/// connection, and with it the lock, may be lost while the process goes on.
#[derive(Debug)]
#[expect(dead_code, reason = "held until dropped")]
pub(crate) enum MoveLock {
    /// Of a file beside the database.
    File(LockedFile),
    /// Of a transaction that does nothing else, on a connection of its own. A session's lock would stay with the server's connection when a
    /// pooler gives that to others.
    Transaction(Box<PgConnection>),
}

/// Numbered by schema: a database may hold several.
const LOCK: &str = "SELECT pg_try_advisory_xact_lock(hashtextextended('imagewell migrate ' || current_schema(), 0))";

impl MoveLock {
    /// Takes the lock of a database without waiting for it.
    ///
    /// # Errors
    /// [`Error::Invalid`] when another process holds it.
    pub(crate) async fn take(place: &Place, database: &Database) -> Result<Self, Error> {
        match (place, &*database.engine()) {
            (Place::File { file, .. }, _) => of_file(&beside(file)),
            (Place::Server { .. }, Engine::Postgres(postgres)) => {
                let mut connection = postgres.pool().acquire().await.map_err(|error| read_failed(&error))?.detach();
                let begin = ["BEGIN", "SET LOCAL idle_in_transaction_session_timeout = 0"];
                for statement in begin {
                    sqlx::query(statement).execute(&mut connection).await.map_err(|error| read_failed(&error))?;
                }
                let locked: bool =
                    sqlx::query_scalar(LOCK).fetch_one(&mut connection).await.map_err(|error| read_failed(&error))?;
                if locked { Ok(Self::Transaction(Box::new(connection))) } else { Err(in_use()) }
            }
            (Place::Server { .. }, Engine::Sqlite(_)) => unreachable!("the database was opened at this place"),
        }
    }
}

fn beside(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".migrate.lock");
    name.into()
}

fn of_file(path: &Path) -> Result<MoveLock, Error> {
    let locked = lock_file(path).map_err(|error| Error::internal(&format!("locking {}", path.display()), &error))?;
    locked.map(MoveLock::File).ok_or_else(in_use)
}

fn in_use() -> Error {
    Error::invalid(
        "another `imagewell migrate` is at work on this database: let it end, or end it, and then give the command again; it goes on from there",
    )
}
