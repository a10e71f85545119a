//! How late it was when a process on this database was last known to run (see [`crate::clock`]).

use super::query::{query, statements};
use super::{Connection, Database};
use crate::Error;
use crate::model::Timestamp;

statements! {
    FIND = "SELECT seen_us FROM clock WHERE only_row = 1";
    SET = "INSERT INTO clock (only_row, seen_us) VALUES (1, $1) ON CONFLICT (only_row) DO UPDATE SET seen_us = excluded.seen_us";
    LAST_DELETION = "SELECT deleted_us FROM versions WHERE deleted_us IS NOT NULL ORDER BY deleted_us DESC LIMIT 1";
    LAST_UPLOAD = "SELECT MAX((SELECT i.created_us FROM images i WHERE i.org_id = o.id ORDER BY i.created_us DESC LIMIT 1)) FROM orgs o";
    LAST_SESSION = "SELECT last_used_us FROM sessions ORDER BY last_used_us DESC LIMIT 1";
}

/// When a process was last known to run; none before that was written down.
pub(crate) async fn find(database: &Database) -> Result<Option<Timestamp>, Error> {
    Ok(query(FIND).fetch_optional_value::<i64>(database).await?.map(Timestamp))
}

/// As [`find`], and for data of versions that didn't write it down, when something was last uploaded or deleted, or somebody logged in was active.
pub(crate) async fn seen(database: &Database) -> Result<Option<Timestamp>, Error> {
    if let Some(seen) = find(database).await? {
        return Ok(Some(seen));
    }
    let mut last: Option<i64> = query(LAST_UPLOAD).fetch_value(database).await?;
    for sql in [LAST_DELETION, LAST_SESSION] {
        last = last.max(query(sql).fetch_optional_value::<i64>(database).await?);
    }
    Ok(last.map(Timestamp))
}

/// Writes it down.
pub(crate) async fn set_seen(connection: &mut Connection, seen: Timestamp) -> Result<(), Error> {
    query(SET).bind(seen.0).execute(connection).await.map(|_| ())
}
