//! Renderings that are kept, and when they were last used.

use super::query::{Sql, query, statements};
use super::{Connection, Database};
use crate::Error;
use crate::model::{BlobKey, ImageId, Timestamp};

statements! {
    // A rendering of a version that is gone must not be kept: nobody would ever remove it.
    INSERT = "INSERT INTO variants (key, version_blob_key, size_bytes, used_us) \
        SELECT $1, blob_key, $3, $4 FROM versions WHERE blob_key = $2 \
        ON CONFLICT (key) DO UPDATE SET size_bytes = excluded.size_bytes, used_us = excluded.used_us";
    TOUCH = "UPDATE variants SET used_us = $2 WHERE key = $1 AND used_us < $2";
    TOTAL = "SELECT CAST(COALESCE(SUM(size_bytes), 0) AS BIGINT) FROM variants";
    OLDEST = "SELECT key, size_bytes FROM variants ORDER BY used_us LIMIT $1";
    DELETE = "DELETE FROM variants WHERE key = $1";
    OF_VERSION = "SELECT key FROM variants WHERE version_blob_key = $1";
    OF_IMAGE = "SELECT v.key FROM variants v JOIN versions w ON w.blob_key = v.version_blob_key WHERE w.image_id = $1";
    // Without its version nobody counts on it any more.
    EXISTS = "SELECT COUNT(*) FROM variants v JOIN versions w ON w.blob_key = v.version_blob_key WHERE v.key = $1";
    OF_MISSING_VERSIONS = "SELECT key FROM variants WHERE NOT EXISTS (SELECT 1 FROM versions w WHERE w.blob_key = version_blob_key) \
        ORDER BY version_blob_key LIMIT $1";
    SIZE = "SELECT size_bytes FROM variants WHERE key = $1";
}

/// Notes a rendering that was stored. False when its version is gone by now.
pub(crate) async fn insert(
    connection: &mut Connection,
    key: &BlobKey,
    version: &BlobKey,
    size_bytes: u64,
    now: Timestamp,
) -> Result<bool, Error> {
    let done = query(INSERT)
        .bind(key.as_str())
        .bind(version.as_str())
        .bind(i64::try_from(size_bytes).unwrap_or(i64::MAX))
        .bind(now.0)
        .execute(connection)
        .await?;
    Ok(done > 0)
}

/// Notes that it was used.
pub(crate) async fn touch(connection: &mut Connection, key: &BlobKey, now: Timestamp) -> Result<(), Error> {
    query(TOUCH).bind(key.as_str()).bind(now.0).execute(connection).await?;
    Ok(())
}

/// Bytes of all of them.
pub(crate) async fn total_bytes(database: &Database) -> Result<u64, Error> {
    let total: i64 = query(TOTAL).fetch_value(database).await?;
    Ok(u64::try_from(total).unwrap_or(0))
}

/// Those that were used longest ago, with their bytes.
pub(crate) async fn oldest(database: &Database, count: u32) -> Result<Vec<(BlobKey, u64)>, Error> {
    let rows: Vec<(String, i64)> = query(OLDEST).bind(i64::from(count)).fetch_all(database).await?;
    Ok(rows.into_iter().map(|(key, size)| (BlobKey::from_stored(key), u64::try_from(size).unwrap_or(0))).collect())
}

/// Forgets one.
pub(crate) async fn delete(connection: &mut Connection, key: &BlobKey) -> Result<(), Error> {
    query(DELETE).bind(key.as_str()).execute(connection).await?;
    Ok(())
}

/// Those made of these bytes.
pub(crate) async fn of_version(database: &Database, version: &BlobKey) -> Result<Vec<BlobKey>, Error> {
    keys(database, OF_VERSION, version.as_str()).await
}

/// Those of all versions of an image.
pub(crate) async fn of_image(database: &Database, image: ImageId) -> Result<Vec<BlobKey>, Error> {
    keys(database, OF_IMAGE, &image.to_string()).await
}

/// Some of those whose version is gone.
pub(crate) async fn of_missing_versions(database: &Database, count: u32) -> Result<Vec<BlobKey>, Error> {
    let keys: Vec<String> = query(OF_MISSING_VERSIONS).bind(i64::from(count)).fetch_values(database).await?;
    Ok(keys.into_iter().map(BlobKey::from_stored).collect())
}

/// How many bytes of one are stored. None when it has no row.
pub(crate) async fn size_bytes(database: &Database, key: &BlobKey) -> Result<Option<u64>, Error> {
    let size: Option<i64> = query(SIZE).bind(key.as_str()).fetch_optional_value(database).await?;
    Ok(size.map(|size| u64::try_from(size).unwrap_or(0)))
}

/// Whether it is one that is kept, of a version that is there.
pub(crate) async fn exists(database: &Database, key: &BlobKey) -> Result<bool, Error> {
    let count: i64 = query(EXISTS).bind(key.as_str()).fetch_value(database).await?;
    Ok(count > 0)
}

async fn keys(database: &Database, sql: Sql, of: &str) -> Result<Vec<BlobKey>, Error> {
    let keys: Vec<String> = query(sql).bind(of).fetch_values(database).await?;
    Ok(keys.into_iter().map(BlobKey::from_stored).collect())
}
