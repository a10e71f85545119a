use super::accounts::Provisioning;
use super::query::{query, statements};
use super::{Connection, Database};
use crate::Error;
use crate::model::{KeyPurpose, SigningKey, Timestamp};

statements! {
    ALL_KEYS = "SELECT id, purpose, secret, created_us, honoured_until_us FROM signing_keys ORDER BY created_us DESC, id";
    COUNT_SIGNING = "SELECT COUNT(*) FROM signing_keys WHERE purpose = $1 AND honoured_until_us IS NULL";
    INSERT_KEY = "INSERT INTO signing_keys (id, purpose, secret, created_us) VALUES ($1, $2, $3, $4)";
    RETIRE = "UPDATE signing_keys SET honoured_until_us = $2 WHERE purpose = $1 \
        AND (honoured_until_us IS NULL OR honoured_until_us > $2)";
    DELETE_ENDED = "DELETE FROM signing_keys WHERE honoured_until_us <= $1";
}

/// Every key, the newest first.
pub(crate) async fn all(database: &Database) -> Result<Vec<SigningKey>, Error> {
    let rows: Vec<(String, String, String, i64, Option<i64>)> = query(ALL_KEYS).fetch_all(database).await?;
    let key = |(id, purpose, secret, created, until): (String, String, String, i64, Option<i64>)| {
        let purpose = KeyPurpose::from_stored(&purpose)?;
        Some(SigningKey { id, purpose, secret, created: Timestamp(created), honoured_until: until.map(Timestamp) })
    };
    Ok(rows.into_iter().filter_map(key).collect())
}

/// Adds a key unless its purpose has one that signs.
pub(crate) async fn insert_first(connection: &mut Connection, key: &SigningKey) -> Result<(), Error> {
    Provisioning(connection).hold_generation().await?;
    let count: i64 = query(COUNT_SIGNING).bind(key.purpose.as_str()).fetch_value(&mut *connection).await?;
    if count == 0 { insert(connection, key).await } else { Ok(()) }
}

/// Makes this the key that signs; those before it are honoured until a moment and no longer.
pub(crate) async fn replace(connection: &mut Connection, key: &SigningKey, honoured_until: Timestamp) -> Result<(), Error> {
    // Another one that takes over at the same time would not see this one, and both would sign.
    Provisioning(connection).hold_generation().await?;
    query(RETIRE).bind(key.purpose.as_str()).bind(honoured_until.0).execute(&mut *connection).await?;
    insert(connection, key).await
}

async fn insert(connection: &mut Connection, key: &SigningKey) -> Result<(), Error> {
    query(INSERT_KEY).bind(&key.id).bind(key.purpose.as_str()).bind(&key.secret).bind(key.created.0).execute(connection).await?;
    Ok(())
}

/// Removes keys that are not honoured any more.
pub(crate) async fn delete_ended(connection: &mut Connection, now: Timestamp) -> Result<u64, Error> {
    let done = query(DELETE_ENDED).bind(now.0).execute(connection).await?;
    Ok(done)
}
