//! What images look like from afar, and which of them nobody has looked at so far.

use imagewell_imaging::look::Look;

use super::images::{Row, select_image};
use super::{Connection, Database, read_failed, statements, write_failed};
use crate::Error;
use crate::model::{BlobKey, Image, Timestamp};

statements! {
    NEXT = select_image!("WHERE v.looked_us IS NULL AND v.format IS NOT NULL AND v.deleted_us IS NULL \
        ORDER BY v.created_us LIMIT $1");
    SET = "UPDATE versions SET look = $2, looked_us = $3 WHERE blob_key = $1";
}

/// Versions that wait, the oldest first.
pub(crate) async fn waiting(database: &Database, count: u32) -> Result<Vec<Image>, Error> {
    let rows: Vec<Row> =
        sqlx::query_as(NEXT).bind(i64::from(count)).fetch_all(database.reader()).await.map_err(|error| read_failed(&error))?;
    rows.into_iter().map(Image::try_from).collect()
}

/// Notes that somebody looked, and what was seen if anything was.
pub(crate) async fn set(
    connection: &mut Connection,
    version: &BlobKey,
    look: Option<&Look>,
    now: Timestamp,
) -> Result<(), Error> {
    sqlx::query(SET)
        .bind(version.as_str())
        .bind(look.map(ToString::to_string))
        .bind(now.0)
        .execute(connection)
        .await
        .map_err(|error| write_failed(&error))?;
    Ok(())
}
