//! What images look like from afar, and which of them nobody has looked at so far.

use imagewell_imaging::look::Look;

use super::images::{Row, select_image};
use super::query::{query, statements};
use super::{Connection, Database};
use crate::Error;
use crate::changes::Change;
use crate::model::{BlobKey, Image, Timestamp};

statements! {
    // The first of each org, then the second of each. The window bounds what is looked through, also where most of it was put off.
    NEXT = select_image!(
        "JOIN (SELECT image_id, number, ROW_NUMBER() OVER (PARTITION BY org_id ORDER BY created_us) AS turn FROM (\
            SELECT w.image_id, w.number, w.created_us, o.org_id FROM versions w JOIN images o ON o.id = w.image_id \
            WHERE w.looked_us IS NULL AND w.format IS NOT NULL AND w.created_us >= $3 AND w.created_us < $4 AND w.deleted_us IS NULL \
            AND (w.look_again_us IS NULL OR w.look_again_us <= $1)) AS part) AS turns \
        ON turns.image_id = v.image_id AND turns.number = v.number ORDER BY turns.turn, v.created_us LIMIT $2");
    AFTER = "SELECT w.created_us FROM versions w WHERE w.looked_us IS NULL AND w.format IS NOT NULL AND w.created_us >= $1 \
        ORDER BY w.created_us LIMIT 1 OFFSET $2";
    TRIES = "SELECT look_tries, look_deaths FROM versions WHERE blob_key = $1 AND looked_us IS NULL";
    SET = "UPDATE versions SET look = $2, looked_us = $3 WHERE blob_key = $1";
    FORMATS_AGAIN = "SELECT format FROM formats_again ORDER BY format";
    PAGE_END = "SELECT MAX(blob_key) FROM (SELECT blob_key FROM versions WHERE blob_key > $1 ORDER BY blob_key LIMIT $2) AS page";
    AGAIN = "UPDATE versions SET looked_us = NULL, look_again_us = NULL, look_tries = 0, look_deaths = 0 \
        WHERE blob_key > $1 AND blob_key <= $2 AND format = $3 AND look IS NULL AND looked_us IS NOT NULL";
    FORMAT_DONE = "DELETE FROM formats_again WHERE format = $1";
    PUT_OFF = "UPDATE versions SET look = $2, look_again_us = $3, look_tries = $4, look_deaths = $5 WHERE blob_key = $1";
}

/// Failures so far to look at a version.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tries {
    /// Of any kind.
    pub(crate) failed: u32,
    /// Those that ended a worker.
    pub(crate) deaths: u32,
}

/// A part of the versions that wait, by the time of their upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) from: Timestamp,
    /// Where the next one begins; none for the last.
    pub(crate) until: Option<Timestamp>,
}

/// The window that begins then, with so many versions at most, whether or not their time has come.
pub(crate) async fn window(database: &Database, from: Timestamp, size: u32) -> Result<Window, Error> {
    let after: Option<i64> = query(AFTER).bind(from.0).bind(i64::from(size)).fetch_optional_value(database).await?;
    // Those of one microsecond stay together.
    let until = after.map(|after| Timestamp(after.max(from.0 + 1)));
    Ok(Window { from, until })
}

/// Versions of a window that wait and whose time has come: the oldest of each org, then the second of each, and so on. A row that can't be
/// read, as one of a newer program, is in nobody else's way.
pub(crate) async fn waiting(database: &Database, now: Timestamp, window: Window, count: u32) -> Result<Vec<Image>, Error> {
    let (from, until) = (window.from.0, window.until.map_or(i64::MAX, |until| until.0));
    let wanted = query(NEXT).bind(now.0).bind(i64::from(count)).bind(from).bind(until);
    let rows: Vec<Row> = wanted.fetch_all(database).await?;
    let read = |row: Row| Image::try_from(row).inspect_err(|error| tracing::warn!(%error, "an image can't be looked at")).ok();
    Ok(rows.into_iter().filter_map(read).collect())
}

/// How often looking at these bytes has failed. None when somebody has looked at them, or they are gone.
pub(crate) async fn tries(database: &Database, blob: &BlobKey) -> Result<Option<Tries>, Error> {
    let row: Option<(i64, i64)> = query(TRIES).bind(blob.as_str()).fetch_optional(database).await?;
    let count = |value: i64| u32::try_from(value).unwrap_or(0);
    Ok(row.map(|(failed, deaths)| Tries { failed: count(failed), deaths: count(deaths) }))
}

/// Formats that have a decoder now and had none when images of them were looked at.
pub(crate) async fn formats_again(database: &Database) -> Result<Vec<String>, Error> {
    let rows: Vec<(String,)> = query(FORMATS_AGAIN).fetch_all(database).await?;
    Ok(rows.into_iter().map(|(format,)| format).collect())
}

/// The last blob of the next so many behind one; none when there are no more.
pub(crate) async fn page_end(database: &Database, behind: &str, count: i64) -> Result<Option<String>, Error> {
    let row: Option<(Option<String>,)> = query(PAGE_END).bind(behind).bind(count).fetch_optional(database).await?;
    Ok(row.and_then(|(end,)| end))
}

/// Forgets that somebody looked at these images of a format and saw nothing.
pub(crate) async fn again(connection: &mut Connection, behind: &str, end: &str, format: &str) -> Result<(), Error> {
    query(AGAIN).bind(behind).bind(end).bind(format).execute(connection).await?;
    Ok(())
}

/// All images of a format have been gone through.
pub(crate) async fn format_done(connection: &mut Connection, format: &str) -> Result<(), Error> {
    query(FORMAT_DONE).bind(format).execute(connection).await?;
    Ok(())
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

/// Notes that it didn't come to an end, what was seen so far if anything was, and from when on it may be tried again.
pub(crate) async fn put_off(
    connection: &mut Connection,
    image: &Image,
    look: Option<&Look>,
    tries: Tries,
    again: Timestamp,
) -> Result<(), Error> {
    query(PUT_OFF)
        .bind(image.version.blob.as_str())
        .bind(look.map(ToString::to_string))
        .bind(again.0)
        .bind(i64::from(tries.failed))
        .bind(i64::from(tries.deaths))
        .execute(&mut *connection)
        .await?;
    if look.is_some() {
        connection.announce(Change::Image(image.id));
    }
    Ok(())
}
