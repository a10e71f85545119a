//! The id that the database shares with its store (see [`crate::identity`]).

use super::query::{query, statements};
use super::{Connection, Database};
use crate::Error;
use crate::model::BlobKey;

statements! {
    FIND = "SELECT id, paired, sweep, sweep_before FROM store_identity WHERE only_row = 1";
    CREATE = "INSERT INTO store_identity (only_row, id, paired) VALUES (1, $1, FALSE) ON CONFLICT (only_row) DO NOTHING";
    REPLACE = "INSERT INTO store_identity (only_row, id, paired) VALUES (1, $1, FALSE) ON CONFLICT (only_row) \
        DO UPDATE SET id = excluded.id, paired = FALSE, sweep = NULL, sweep_before = NULL";
    SET_PAIRED = "UPDATE store_identity SET paired = TRUE WHERE id = $1";
    BEGIN_SWEEP = "UPDATE store_identity SET sweep_before = $3, sweep = $2 WHERE id = $1";
    FIRST_BLOBS = "SELECT blob_key FROM versions ORDER BY blob_key LIMIT $1";
    LAST_BLOBS = "SELECT blob_key FROM versions ORDER BY blob_key DESC LIMIT $1";
}

/// What the database says of its store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) id: String,
    /// Whether the store is known to bear this id.
    pub(crate) paired: bool,
    /// What the latest sweep, and the one before it, marked the store with.
    pub(crate) sweeps: [Option<String>; 2],
}

/// None until a process has first looked at the store.
pub(crate) async fn find(database: &Database) -> Result<Option<Identity>, Error> {
    type Row = (String, bool, Option<String>, Option<String>);
    let row: Option<Row> = query(FIND).fetch_optional(database).await?;
    Ok(row.map(|(id, paired, sweep, before)| Identity { id, paired, sweeps: [sweep, before] }))
}

/// Sets the id unless there is one.
pub(crate) async fn create(connection: &mut Connection, id: &str) -> Result<(), Error> {
    query(CREATE).bind(id).execute(connection).await.map(|_| ())
}

/// Sets another id, which no store bears yet.
pub(crate) async fn replace(connection: &mut Connection, id: &str) -> Result<(), Error> {
    query(REPLACE).bind(id).execute(connection).await.map(|_| ())
}

/// Records that the store bears this id.
pub(crate) async fn set_paired(connection: &mut Connection, id: &str) -> Result<(), Error> {
    query(SET_PAIRED).bind(id).execute(connection).await.map(|_| ())
}

/// Records the mark that a sweep is about to leave on the store, and the one that it found there.
pub(crate) async fn begin_sweep(connection: &mut Connection, id: &str, mark: &str, found: Option<&str>) -> Result<(), Error> {
    query(BEGIN_SWEEP).bind(id).bind(mark).bind(found).execute(connection).await.map(|_| ())
}

/// Keys of a few versions, from both ends of the order of keys.
pub(crate) async fn some_blobs(database: &Database, of_each_end: u32) -> Result<Vec<BlobKey>, Error> {
    let mut keys: Vec<String> = Vec::new();
    for sql in [FIRST_BLOBS, LAST_BLOBS] {
        keys.extend(query(sql).bind(i64::from(of_each_end)).fetch_values::<String>(database).await?);
    }
    keys.sort_unstable();
    keys.dedup();
    Ok(keys.into_iter().map(BlobKey::from_stored).collect())
}
