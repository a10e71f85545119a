//! How far reading all bytes back has come, and what it found.

use super::query::{columns, query, statements};
use super::{Connection, Database};
use crate::Error;
use crate::model::Timestamp;

statements! {
    FIND = "SELECT position, began_us, blobs, bytes, last_began_us, last_ended_us, last_blobs, last_bytes FROM scrub WHERE id = 1";
    PUT = "INSERT INTO scrub (id, position, began_us, blobs, bytes, last_began_us, last_ended_us, last_blobs, last_bytes) \
        VALUES (1, $1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (id) DO UPDATE SET position = excluded.position, \
        began_us = excluded.began_us, blobs = excluded.blobs, bytes = excluded.bytes, last_began_us = excluded.last_began_us, \
        last_ended_us = excluded.last_ended_us, last_blobs = excluded.last_blobs, last_bytes = excluded.last_bytes";
    DAMAGED = "SELECT blob_key, damage, found_us FROM damaged_blobs ORDER BY blob_key LIMIT $1";
    COUNT_DAMAGED = "SELECT COUNT(*) FROM damaged_blobs";
    INSERT_DAMAGED = "INSERT INTO damaged_blobs (blob_key, damage, found_us) VALUES ($1, $2, $3) \
        ON CONFLICT (blob_key) DO UPDATE SET damage = excluded.damage";
    DELETE_DAMAGED = "DELETE FROM damaged_blobs WHERE blob_key = $1";
}

columns! {
    struct Row {
        position: String,
        began_us: i64,
        blobs: i64,
        bytes: i64,
        last_began_us: Option<i64>,
        last_ended_us: Option<i64>,
        last_blobs: Option<i64>,
        last_bytes: Option<i64>,
    }
}

/// A pass over all bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pass {
    /// When it began.
    pub began: Timestamp,
    /// When its last blob was read.
    pub ended: Timestamp,
    /// Blobs that were read.
    pub blobs: u64,
    /// Bytes that were read.
    pub bytes: u64,
}

/// Where reading is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// The key of the last blob that was read in the pass under way.
    pub position: String,
    /// When that pass began.
    pub began: Timestamp,
    /// Blobs read in it.
    pub blobs: u64,
    /// Bytes read in it.
    pub bytes: u64,
    /// The last whole pass. It is the one under way where they began at the same moment: then nothing is read until the next is due.
    pub last: Option<Pass>,
}

/// A blob that is not as it was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damaged {
    /// Its key.
    pub key: String,
    /// `gone` or `changed`; what the disk can't read any more counts as changed.
    pub damage: String,
    /// When that was found first.
    pub found: Timestamp,
}

fn number(value: i64) -> u64 {
    u64::try_from(value).unwrap_or_default()
}

fn stored(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

impl From<Row> for Progress {
    fn from(row: Row) -> Self {
        let last = || {
            let (began, ended) = (Timestamp(row.last_began_us?), Timestamp(row.last_ended_us?));
            Some(Pass { began, ended, blobs: number(row.last_blobs?), bytes: number(row.last_bytes?) })
        };
        let last = last();
        Self { position: row.position, began: Timestamp(row.began_us), blobs: number(row.blobs), bytes: number(row.bytes), last }
    }
}

/// Where reading is; none when nothing was ever read.
pub(crate) async fn find(database: &Database) -> Result<Option<Progress>, Error> {
    let row: Option<Row> = query(FIND).fetch_optional(database).await?;
    Ok(row.map(Progress::from))
}

/// Notes where reading is.
pub(crate) async fn put(connection: &mut Connection, progress: &Progress) -> Result<(), Error> {
    let last = progress.last;
    query(PUT)
        .bind(&progress.position)
        .bind(progress.began.0)
        .bind(stored(progress.blobs))
        .bind(stored(progress.bytes))
        .bind(last.map(|last| last.began.0))
        .bind(last.map(|last| last.ended.0))
        .bind(last.map(|last| stored(last.blobs)))
        .bind(last.map(|last| stored(last.bytes)))
        .execute(connection)
        .await?;
    Ok(())
}

/// The first so many damaged blobs, by key.
pub(crate) async fn damaged(database: &Database, count: u32) -> Result<Vec<Damaged>, Error> {
    let rows: Vec<(String, String, i64)> = query(DAMAGED).bind(i64::from(count)).fetch_all(database).await?;
    Ok(rows.into_iter().map(|(key, damage, found)| Damaged { key, damage, found: Timestamp(found) }).collect())
}

/// How many blobs are known to be damaged.
pub(crate) async fn count_damaged(database: &Database) -> Result<u64, Error> {
    query(COUNT_DAMAGED).fetch_value(database).await.map(number)
}

/// Notes a damaged blob.
pub(crate) async fn insert_damaged(connection: &mut Connection, key: &str, damage: &str, now: Timestamp) -> Result<(), Error> {
    query(INSERT_DAMAGED).bind(key).bind(damage).bind(now.0).execute(connection).await.map(|_| ())
}

/// Forgets one that is whole again, or gone with its row.
pub(crate) async fn delete_damaged(connection: &mut Connection, key: &str) -> Result<(), Error> {
    query(DELETE_DAMAGED).bind(key).execute(connection).await.map(|_| ())
}
