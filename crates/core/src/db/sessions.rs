use super::query::{columns, query, statements};
use super::{Connection, Database};
use crate::Error;
use crate::changes::Change;
use crate::model::{AccountId, SessionTokenHash, Timestamp};

statements! {
    INSERT = "INSERT INTO sessions (token_hash, account_id, created_us, last_used_us, expires_us) VALUES ($1, $2, $3, $3, $4)";
    FIND = "SELECT account_id, last_used_us, expires_us FROM sessions WHERE token_hash = $1";
    TOUCH = "UPDATE sessions SET last_used_us = $2 WHERE token_hash = $1 AND last_used_us < $2";
    DELETE = "DELETE FROM sessions WHERE token_hash = $1";
    DELETE_OF_ACCOUNT = "DELETE FROM sessions WHERE account_id = $1";
    COUNT_ENDED = "SELECT COUNT(*) FROM sessions WHERE expires_us < $1 OR last_used_us < $2";
    DELETE_ENDED = "DELETE FROM sessions WHERE expires_us < $1 OR last_used_us < $2";
}

/// A stored session.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Session {
    pub(crate) account: AccountId,
    pub(crate) last_used: Timestamp,
    pub(crate) expires: Timestamp,
}

columns! {
    struct Row {
        account_id: String,
        last_used_us: i64,
        expires_us: i64,
    }
}

pub(crate) async fn insert(connection: &mut Connection, hash: SessionTokenHash, session: Session) -> Result<(), Error> {
    query(INSERT)
        .bind(hash.to_hex())
        .bind(session.account.0.to_string())
        .bind(session.last_used.0)
        .bind(session.expires.0)
        .execute(connection)
        .await
        .map(|_| ())
}

pub(crate) async fn find(database: &Database, hash: SessionTokenHash) -> Result<Option<Session>, Error> {
    let row: Option<Row> = query(FIND).bind(hash.to_hex()).fetch_optional(database).await?;
    Ok(row.and_then(|row| {
        Some(Session {
            account: AccountId(row.account_id.parse().ok()?),
            last_used: Timestamp(row.last_used_us),
            expires: Timestamp(row.expires_us),
        })
    }))
}

pub(crate) async fn touch(connection: &mut Connection, hash: SessionTokenHash, now: Timestamp) -> Result<(), Error> {
    query(TOUCH).bind(hash.to_hex()).bind(now.0).execute(connection).await.map(|_| ())
}

pub(crate) async fn delete(connection: &mut Connection, hash: SessionTokenHash) -> Result<(), Error> {
    query(DELETE).bind(hash.to_hex()).execute(&mut *connection).await?;
    connection.announce(Change::Session(hash));
    Ok(())
}

pub(crate) async fn delete_of_account(connection: &mut Connection, account: AccountId) -> Result<u64, Error> {
    let done = query(DELETE_OF_ACCOUNT).bind(account.0.to_string()).execute(&mut *connection).await?;
    connection.announce(Change::SessionsOf(account));
    Ok(done)
}

/// Counts sessions past their end or unused since `idle_since`.
pub(crate) async fn count_ended(database: &Database, now: Timestamp, idle_since: Timestamp) -> Result<u64, Error> {
    let count: i64 = query(COUNT_ENDED).bind(now.0).bind(idle_since.0).fetch_value(database).await?;
    Ok(u64::try_from(count).unwrap_or(0))
}

/// Removes what [`count_ended`] counts.
pub(crate) async fn delete_ended(connection: &mut Connection, now: Timestamp, idle_since: Timestamp) -> Result<u64, Error> {
    let done = query(DELETE_ENDED).bind(now.0).bind(idle_since.0).execute(connection).await?;
    Ok(done)
}
