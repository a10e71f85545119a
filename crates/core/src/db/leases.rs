use super::Connection;
use super::query::{query, statements};
use crate::Error;
use crate::model::Timestamp;

statements! {
    TAKE = "INSERT INTO leases (name, holder, expires_us) VALUES ($1, $2, $3) ON CONFLICT (name) DO UPDATE \
        SET holder = excluded.holder, expires_us = excluded.expires_us \
        WHERE leases.holder = excluded.holder OR leases.expires_us <= $4";
    GIVE_BACK = "DELETE FROM leases WHERE name = $1 AND holder = $2";
    DELETE_ENDED = "DELETE FROM leases WHERE expires_us <= $1";
}

/// Takes a lease until a moment, or makes it longer. False when somebody else has it.
pub(crate) async fn take(
    connection: &mut Connection,
    name: &str,
    holder: &str,
    until: Timestamp,
    now: Timestamp,
) -> Result<bool, Error> {
    let done = query(TAKE).bind(name).bind(holder).bind(until.0).bind(now.0).execute(connection).await?;
    Ok(done > 0)
}

/// Lets others have it.
pub(crate) async fn give_back(connection: &mut Connection, name: &str, holder: &str) -> Result<(), Error> {
    query(GIVE_BACK).bind(name).bind(holder).execute(connection).await.map(|_| ())
}

/// Forgets those whose time was over at a moment. It looks at all, which are few: an index of their ends would keep PostgreSQL from
/// updating one in place.
pub(crate) async fn delete_ended(connection: &mut Connection, until: Timestamp) -> Result<u64, Error> {
    query(DELETE_ENDED).bind(until.0).execute(connection).await
}
