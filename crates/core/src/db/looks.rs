//! What images look like from afar, and which of them nobody has looked at so far.

use imagewell_imaging::look::Look;

use super::images::{Row, select_image};
use super::query::{query, statements};
use super::{Connection, Database};
use crate::Error;
use crate::changes::Change;
use crate::model::{BlobKey, Image, Timestamp};

statements! {
    NEXT = select_image!("WHERE v.looked_us IS NULL AND v.format IS NOT NULL AND v.deleted_us IS NULL \
        ORDER BY v.created_us LIMIT $1");
    WAITS = "SELECT COUNT(*) FROM versions WHERE blob_key = $1 AND looked_us IS NULL";
    SET = "UPDATE versions SET look = $2, looked_us = $3 WHERE blob_key = $1";
}

/// Versions that wait, the oldest first.
pub(crate) async fn waiting(database: &Database, count: u32) -> Result<Vec<Image>, Error> {
    let rows: Vec<Row> = query(NEXT).bind(i64::from(count)).fetch_all(database).await?;
    rows.into_iter().map(Image::try_from).collect()
}

/// Whether nobody has looked at these bytes so far.
pub(crate) async fn waits(database: &Database, blob: &BlobKey) -> Result<bool, Error> {
    let count: i64 = query(WAITS).bind(blob.as_str()).fetch_value(database).await?;
    Ok(count > 0)
}

/// Notes that somebody looked, and what was seen if anything was.
pub(crate) async fn set(connection: &mut Connection, image: &Image, look: Option<&Look>, now: Timestamp) -> Result<(), Error> {
    query(SET)
        .bind(image.version.blob.as_str())
        .bind(look.map(ToString::to_string))
        .bind(now.0)
        .execute(&mut *connection)
        .await?;
    connection.announce(Change::Image(image.id));
    Ok(())
}
