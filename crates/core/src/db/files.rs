//! Named files: versions under one name, and their deletion.
//!
//! Every change begins with a statement that takes hold of the image's row, so that changes of one name follow one another on
//! any database.

use super::doomed::{Doomed, DoomedBytes, count_doomed};
use super::images::{Row, insert_version, select_image};
use super::query::{query, statements};
use super::{Connection, Database};
use crate::Error;
use crate::changes::Change;
use crate::model::{AccountId, Acl, FileName, Image, ImageId, Namespace, OrgId, State, Timestamp};

statements! {
    NEXT_NUMBER = "INSERT INTO images (id, org_id, owner_id, namespace, name, permission, acl, state, latest_version, last_number, \
        created_us) VALUES ($1, $2, $3, $4, $5, $6, 'private', $7, 1, 1, $8) \
        ON CONFLICT (org_id, namespace, name) DO UPDATE SET last_number = images.last_number + 1, \
        latest_version = images.last_number + 1, state = excluded.state \
        RETURNING id, owner_id, acl, last_number, created_us";
    FIND = select_image!("WHERE i.org_id = $1 AND i.namespace = $2 AND i.name = $3 AND v.number = i.latest_version \
        AND v.deleted_us IS NULL");
    FIND_VERSION = select_image!("WHERE i.org_id = $1 AND i.namespace = $2 AND i.name = $3 AND v.number = $4 \
        AND v.deleted_us IS NULL");
    VERSIONS = select_image!("WHERE i.org_id = $1 AND i.namespace = $2 AND i.name = $3 AND v.number < $4 \
        AND v.deleted_us IS NULL ORDER BY v.number DESC LIMIT $5");
    HOLD = "UPDATE images SET last_number = last_number WHERE org_id = $1 AND namespace = $2 AND name = $3 RETURNING id";
    SET_ACL = "UPDATE images SET acl = $4 WHERE org_id = $1 AND namespace = $2 AND name = $3 AND latest_version > 0 RETURNING id";
    DELETE_ALL = "UPDATE versions SET deleted_us = $2 WHERE image_id = $1 AND deleted_us IS NULL";
    DELETE_ONE = "UPDATE versions SET deleted_us = $2 WHERE image_id = $1 AND number = $3 AND deleted_us IS NULL";
    LAST_DELETION = "SELECT MAX(deleted_us) FROM versions WHERE image_id = $1 AND deleted_us > $2";
    RESTORE_ALL = "UPDATE versions SET deleted_us = NULL WHERE image_id = $1 AND deleted_us = $2";
    RESTORE_ONE = "UPDATE versions SET deleted_us = NULL WHERE image_id = $1 AND number = $3 AND deleted_us > $2";
    NEWEST = "SELECT number, size_bytes FROM versions WHERE image_id = $1 AND deleted_us IS NULL ORDER BY number DESC LIMIT 1";
    SET_NEWEST = "UPDATE images SET latest_version = $2, state = $3 WHERE id = $1";
    PAST_UNDO = "SELECT image_id, number, blob_key, size_bytes FROM versions WHERE deleted_us <= $1 ORDER BY deleted_us LIMIT $2";
    COUNT_PAST_UNDO = "SELECT COUNT(*), CAST(COALESCE(SUM(size_bytes), 0) AS BIGINT) FROM versions WHERE deleted_us <= $1";
    FORGET = "DELETE FROM versions WHERE image_id = $1 AND number = $2 AND deleted_us <= $3";
}

/// What names a file inside the service.
#[derive(Debug, Clone)]
pub(crate) struct Address {
    pub(crate) org: OrgId,
    pub(crate) namespace: Namespace,
    pub(crate) name: FileName,
}

/// Without the org.
impl std::fmt::Display for Address {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}/{}", self.namespace.as_str(), self.name.as_str())
    }
}

/// A version that can't come back any more.
#[derive(Debug)]
pub(crate) struct PastUndo {
    image: String,
    number: i64,
    bytes: DoomedBytes,
}

/// Gives the image's version the next number of its name and adds it. The first one of a name makes the name.
pub(crate) async fn add_version(connection: &mut Connection, mut image: Image) -> Result<Image, Error> {
    let (id, owner, acl, number, created): (String, String, String, i64, i64) = query(NEXT_NUMBER)
        .bind(image.id.to_string())
        .bind(image.org.0)
        .bind(image.owner.0.to_string())
        .bind(image.namespace.as_str().to_owned())
        .bind(image.name.as_ref().map(|name| name.as_str().to_owned()))
        .bind(image.permission.as_str().to_owned())
        .bind(image.state.as_str())
        .bind(image.created.0)
        .fetch_one(&mut *connection)
        .await?;
    image.id = ImageId::parse(&id)?;
    image.owner = AccountId(owner.parse().map_err(|error| Error::internal("reading an owner", &error))?);
    image.acl = Acl::from_stored(&acl).ok_or_else(|| Error::Internal { detail: format!("image {id} has the acl {acl}") })?;
    image.created = Timestamp(created);
    image.version.number =
        u32::try_from(number).map_err(|_| Error::invalid("this name has as many versions as there are numbers"))?;
    image.latest_number = image.version.number;
    insert_version(connection, image.id, &image.version).await?;
    if number > 1 {
        connection.announce(Change::Image(image.id));
    }
    Ok(image)
}

/// The newest version, or one of a number, unless it is deleted.
pub(crate) async fn find(database: &Database, address: &Address, number: Option<u32>) -> Result<Option<Image>, Error> {
    let statement = query(if number.is_some() { FIND_VERSION } else { FIND })
        .bind(address.org.0)
        .bind(address.namespace.as_str())
        .bind(address.name.as_str());
    let statement = if let Some(number) = number { statement.bind(i64::from(number)) } else { statement };
    let row: Option<Row> = statement.fetch_optional(database).await?;
    row.map(Image::try_from).transpose()
}

/// Versions below a number, newest first.
pub(crate) async fn versions(database: &Database, address: &Address, below: u32, count: u32) -> Result<Vec<Image>, Error> {
    let rows: Vec<Row> = query(VERSIONS)
        .bind(address.org.0)
        .bind(address.namespace.as_str())
        .bind(address.name.as_str())
        .bind(i64::from(below))
        .bind(i64::from(count))
        .fetch_all(database)
        .await?;
    rows.into_iter().map(Image::try_from).collect()
}

/// Says who may read without a login. None when there is no such file.
pub(crate) async fn set_acl(connection: &mut Connection, address: &Address, acl: Acl) -> Result<Option<ImageId>, Error> {
    let id: Option<String> = query(SET_ACL)
        .bind(address.org.0)
        .bind(address.namespace.as_str())
        .bind(address.name.as_str())
        .bind(acl.as_str())
        .fetch_optional_value(&mut *connection)
        .await?;
    let id = id.map(|id| ImageId::parse(&id)).transpose()?;
    if let Some(id) = id {
        connection.announce(Change::Image(id));
    }
    Ok(id)
}

/// Deletes one version or all of them. None when there is nothing to delete.
pub(crate) async fn delete(
    connection: &mut Connection,
    address: &Address,
    number: Option<u32>,
    now: Timestamp,
) -> Result<Option<ImageId>, Error> {
    let Some(id) = hold(connection, address).await? else { return Ok(None) };
    // Deletions are told apart by their time, so that one of them can be undone.
    let last = last_deletion(connection, id, i64::MIN).await?;
    let time = last.map_or(now.0, |last| now.0.max(last + 1));
    let statement = query(if number.is_some() { DELETE_ONE } else { DELETE_ALL }).bind(id.to_string()).bind(time);
    let statement = if let Some(number) = number { statement.bind(i64::from(number)) } else { statement };
    let done = statement.execute(&mut *connection).await?;
    finish(connection, id, done).await
}

/// Undoes the deletion of one version, or the last deletion. None when nothing was deleted since then.
pub(crate) async fn restore(
    connection: &mut Connection,
    address: &Address,
    number: Option<u32>,
    deleted_since: Timestamp,
) -> Result<Option<ImageId>, Error> {
    let Some(id) = hold(connection, address).await? else { return Ok(None) };
    let statement = if let Some(number) = number {
        query(RESTORE_ONE).bind(id.to_string()).bind(deleted_since.0).bind(i64::from(number))
    } else {
        let Some(last) = last_deletion(connection, id, deleted_since.0).await? else { return Ok(None) };
        query(RESTORE_ALL).bind(id.to_string()).bind(last)
    };
    let done = statement.execute(&mut *connection).await?;
    finish(connection, id, done).await
}

async fn hold(connection: &mut Connection, address: &Address) -> Result<Option<ImageId>, Error> {
    let id: Option<String> = query(HOLD)
        .bind(address.org.0)
        .bind(address.namespace.as_str())
        .bind(address.name.as_str())
        .fetch_optional_value(connection)
        .await?;
    id.map(|id| ImageId::parse(&id).map_err(Error::from)).transpose()
}

async fn last_deletion(connection: &mut Connection, id: ImageId, since: i64) -> Result<Option<i64>, Error> {
    query(LAST_DELETION).bind(id.to_string()).bind(since).fetch_value(connection).await
}

/// Writes down which version is now the newest that can be read.
pub(super) async fn finish(connection: &mut Connection, id: ImageId, changed: u64) -> Result<Option<ImageId>, Error> {
    if changed == 0 {
        return Ok(None);
    }
    let newest: Option<(i64, i64)> = query(NEWEST).bind(id.to_string()).fetch_optional(&mut *connection).await?;
    let (number, state) = match newest {
        Some((number, size)) => (number, State::of_latest(u64::try_from(size).unwrap_or(0))),
        None => (0, State::Deleted),
    };
    query(SET_NEWEST).bind(id.to_string()).bind(number).bind(state.as_str()).execute(&mut *connection).await?;
    connection.announce(Change::Image(id));
    Ok(Some(id))
}

impl Doomed for PastUndo {
    const NAME: &'static str = "deleted versions";

    async fn page(database: &Database, deleted_until: Timestamp, count: u32) -> Result<Vec<Self>, Error> {
        let rows: Vec<(String, i64, String, i64)> =
            query(PAST_UNDO).bind(deleted_until.0).bind(i64::from(count)).fetch_all(database).await?;
        let version = |(image, number, key, size)| Self { image, number, bytes: DoomedBytes::new(key, size) };
        Ok(rows.into_iter().map(version).collect())
    }

    async fn count(database: &Database, deleted_until: Timestamp) -> Result<(u64, u64), Error> {
        count_doomed(database, COUNT_PAST_UNDO, deleted_until).await
    }

    /// The name and its numbers stay.
    async fn forget(&self, connection: &mut Connection, deleted_until: Timestamp) -> Result<bool, Error> {
        let done = query(FORGET).bind(&self.image).bind(self.number).bind(deleted_until.0).execute(connection).await?;
        Ok(done > 0)
    }

    fn bytes(&self) -> &DoomedBytes {
        &self.bytes
    }
}
