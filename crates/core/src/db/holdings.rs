//! What a database holds, counted; and images that lose a version because its bytes are lost.

use super::query::{query, statements};
use super::{Connection, Database, files};
use crate::Error;
use crate::model::{BlobKey, ImageId, Timestamp};

statements! {
    HAS_SCHEMA = "SELECT COUNT(*) FROM sqlite_schema WHERE name = '_sqlx_migrations'",
        postgres: "SELECT COUNT(*) FROM pg_class WHERE oid = to_regclass('_sqlx_migrations')";
    SCHEMA = "SELECT MAX(version) FROM _sqlx_migrations";
    COUNT = "SELECT (SELECT COUNT(*) FROM orgs), (SELECT COUNT(*) FROM accounts), (SELECT COUNT(*) FROM images), COUNT(*), \
        CAST(COALESCE(SUM(size_bytes), 0) AS BIGINT), MAX(created_us) FROM versions";
    FIRST_ACCOUNT = "SELECT MIN(id) FROM accounts";
    VERSION_OF_BLOB = "SELECT v.image_id, i.name FROM versions v JOIN images i ON i.id = v.image_id WHERE v.blob_key = $1";
    FORGET_VERSION = "DELETE FROM versions WHERE blob_key = $1";
    COUNT_VERSIONS = "SELECT COUNT(*) FROM versions WHERE image_id = $1";
    FORGET_TICKET = "DELETE FROM tickets WHERE image_id = $1";
    FORGET_AVATAR = "UPDATE avatars SET image_id = NULL WHERE image_id = $1";
    FORGET_IMAGE = "DELETE FROM images WHERE id = $1";
}

/// What a database holds.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Holdings {
    /// Tenants.
    pub orgs: u64,
    /// Users, tills and clients.
    pub accounts: u64,
    /// Images, deleted ones that may come back included.
    pub images: u64,
    /// Their versions, each of which has a blob.
    pub versions: u64,
    /// Bytes of all blobs.
    pub bytes: u64,
    /// When the newest version was uploaded; none when there is none.
    pub newest_upload: Option<Timestamp>,
}

/// The number of the last migration that a database has taken; none for one without tables of ours.
pub(crate) async fn schema(database: &Database) -> Result<Option<i64>, Error> {
    let tables: i64 = query(HAS_SCHEMA).fetch_value(database).await?;
    if tables == 0 {
        return Ok(None);
    }
    query(SCHEMA).fetch_value(database).await
}

/// Counts everything.
pub(crate) async fn count(database: &Database) -> Result<Holdings, Error> {
    type Row = (i64, i64, i64, i64, i64, Option<i64>);
    let (orgs, accounts, images, versions, bytes, newest): Row = query(COUNT).fetch_one(database).await?;
    let count = |number: i64| u64::try_from(number).unwrap_or(0);
    Ok(Holdings {
        orgs: count(orgs),
        accounts: count(accounts),
        images: count(images),
        versions: count(versions),
        bytes: count(bytes),
        newest_upload: newest.map(Timestamp),
    })
}

/// What tells one service's data from another's, and stays when it moves or is restored: the id of its oldest account.
pub(crate) async fn lineage(database: &Database) -> Result<String, Error> {
    let first: Option<String> = query(FIRST_ACCOUNT).fetch_value(database).await?;
    Ok(first.unwrap_or_default())
}

/// Removes the version with these bytes, and with its last one an image that has no name. A name and
/// its numbers stay, and a resource whose avatar it was gets the generated one.
pub(crate) async fn leave_out(connection: &mut Connection, key: &BlobKey) -> Result<(), Error> {
    let row: Option<(String, Option<String>)> =
        query(VERSION_OF_BLOB).bind(key.as_str()).fetch_optional(&mut *connection).await?;
    let Some((image, name)) = row else { return Ok(()) };
    query(FORGET_VERSION).bind(key.as_str()).execute(&mut *connection).await?;
    let left: i64 = query(COUNT_VERSIONS).bind(&image).fetch_value(&mut *connection).await?;
    if left == 0 && name.is_none() {
        for sql in [FORGET_TICKET, FORGET_AVATAR, FORGET_IMAGE] {
            query(sql).bind(&image).execute(&mut *connection).await?;
        }
        return Ok(());
    }
    files::finish(connection, ImageId::parse(&image)?, 1).await.map(|_| ())
}
