//! What goes for good once its time is over: deleted versions past their undo window, pictures that nobody took.

use super::query::{Sql, query};
use super::{Connection, Database};
use crate::Error;
use crate::model::{BlobKey, Timestamp};

/// Rows with bytes that are to be removed. A moment says whose time is over.
pub(crate) trait Doomed: Sized + Send + Sync + 'static {
    /// What they are called in the log.
    const NAME: &'static str;

    /// Some of them, by index.
    fn page(database: &Database, until: Timestamp, count: u32) -> impl Future<Output = Result<Vec<Self>, Error>> + Send;

    /// How many there are, and their bytes.
    fn count(database: &Database, until: Timestamp) -> impl Future<Output = Result<(u64, u64), Error>> + Send;

    /// Removes the rows. False when it came back, or was taken, at the last moment.
    fn forget(&self, connection: &mut Connection, until: Timestamp) -> impl Future<Output = Result<bool, Error>> + Send;

    /// Its bytes.
    fn bytes(&self) -> &DoomedBytes;
}

/// Bytes that lose their row.
#[derive(Debug)]
pub(crate) struct DoomedBytes {
    pub(crate) blob: BlobKey,
    pub(crate) size_bytes: u64,
}

impl DoomedBytes {
    pub(super) fn new(key: String, size: i64) -> Self {
        Self { blob: BlobKey::from_stored(key), size_bytes: u64::try_from(size).unwrap_or(0) }
    }
}

/// For statements that count and add up, until a moment.
pub(super) async fn count_doomed(database: &Database, sql: Sql, until: Timestamp) -> Result<(u64, u64), Error> {
    let (count, bytes): (i64, i64) = query(sql).bind(until.0).fetch_one(database).await?;
    Ok((u64::try_from(count).unwrap_or(0), u64::try_from(bytes).unwrap_or(0)))
}
