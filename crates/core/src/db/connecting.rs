//! Connecting to PostgreSQL: once, with an answer in any case, and what each connection is told before it is used.

use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Executor as _, Postgres as Driver, Row as _};

use super::address::Address;
use super::migrations::{self, SchemaState, expect_current};
use super::postgres::{Patience, is_away};
use crate::Error;

/// Connects once, to a server that takes writes.
pub(super) async fn connect(url: &str, wait_max: Duration) -> Result<(PgConnection, PgConnectOptions, String), Error> {
    let (mut connection, options, doing) = connect_to_any(url, wait_max).await?;
    answered(wait_max, &doing, refuse_standby(&mut connection)).await?;
    Ok((connection, options, doing))
}

/// Connects once, to a standby too. A server that accepts connections and says nothing is one that isn't there.
pub(super) async fn connect_to_any(url: &str, wait_max: Duration) -> Result<(PgConnection, PgConnectOptions, String), Error> {
    let address = Address::parse(url).map_err(|hint| unreadable(&hint))?;
    let options = address.options().map_err(|hint| unreadable(&hint))?.extra_float_digits(None);
    let doing = format!("opening the database {}", address.shown());
    let wait_max = address.connect_timeout().unwrap_or(wait_max);
    let connection = answered(wait_max, &doing, options.connect()).await?;
    Ok((connection, options, doing))
}

/// Waits so long for a server at most.
pub(super) async fn answered<T>(
    wait_max: Duration,
    doing: &str,
    answer: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, Error> {
    match tokio::time::timeout(wait_max, answer).await {
        Ok(answer) => answer.map_err(|error| Error::internal(doing, &error)),
        Err(_) => Err(Error::Internal {
            detail: format!(
                "{doing}: the server does not answer within {} s: is it PostgreSQL that listens there, and does it run?",
                wait_max.as_secs()
            ),
        }),
    }
}

/// Whether there is nothing to migrate: then the tables may be somebody else's, as long as they may be used.
pub(super) async fn is_current(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    match migrations::schema::<Driver>(connection).await? {
        SchemaState::Current => Ok(true),
        SchemaState::Compatible(number) => {
            migrations::warn_of_newer(number);
            Ok(true)
        }
        SchemaState::Missing | SchemaState::Older(_) | SchemaState::Newer(_) => Ok(false),
    }
}

/// A pooler in transaction mode has no session whose lock could keep two nodes from migrating at once.
pub(super) async fn expect_current_through_pooler(connection: &mut PgConnection, doing: &str) -> Result<(), Error> {
    // In a transaction, which keeps the pooler from changing the session in between.
    let _ = connection.execute("BEGIN").await;
    let current = expect_current::<Driver>(connection, doing).await;
    let _ = connection.execute("COMMIT").await;
    current.map_err(|error| match error {
        Error::Internal { detail } => Error::Internal {
            detail: format!(
                "{detail}; tables are not made through a pooler: run `imagewell provision` or `imagewell serve` once with the \
                 address of PostgreSQL itself in database_url, and database.transaction_pooling=false"
            ),
        },
        error => error,
    })
}

/// What the server ends by itself, in milliseconds. Names are PostgreSQL's own.
pub(super) fn bounds(patience: Patience) -> [(&'static str, u128); 3] {
    [
        ("lock_timeout", patience.lock_max.as_millis()),
        ("statement_timeout", patience.time_max.as_millis()),
        ("idle_in_transaction_session_timeout", patience.idle_max.as_millis()),
    ]
}

/// Whatever becomes of this node, the server neither waits for it nor lets others wait for long.
pub(super) async fn bound(connection: &mut PgConnection, patience: Patience) -> Result<(), sqlx::Error> {
    let mut all: Vec<(&str, u128)> = bounds(patience).into();
    // What was sent to a machine that is gone is never acknowledged. Without meaning on a Unix socket.
    all.extend([
        ("tcp_user_timeout", patience.idle_max.as_millis()),
        ("tcp_keepalives_idle", 30),
        ("tcp_keepalives_interval", 10),
        ("tcp_keepalives_count", 3),
    ]);
    let set = |(name, value): &(&str, u128)| format!("SET {name} = {value}");
    let together = all.iter().map(set).collect::<Vec<_>>().join("; ");
    match connection.execute(AssertSqlSafe(together)).await {
        Err(sqlx::Error::Database(_)) => {
            // Other engines may not know all of them.
            for one in &all {
                match connection.execute(AssertSqlSafe(set(one))).await {
                    Ok(_) | Err(sqlx::Error::Database(_)) => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        }
        set => set.map(|_| ()),
    }
}

fn unreadable(hint: &str) -> Error {
    Error::Internal { detail: format!("reading the address of the database: {hint}") }
}

/// The only value of a statement without values, which is not prepared for it.
pub(super) async fn ask<T>(connection: &mut PgConnection, sql: &'static str) -> Result<T, sqlx::Error>
where
    T: for<'r> sqlx::Decode<'r, Driver> + sqlx::Type<Driver>,
{
    connection.fetch_one(sql).await?.try_get(0)
}

/// In a failover the address may lead to the standby before that takes writes. What was begun there would fail, and what is read there may
/// be old.
pub(super) async fn refuse_standby(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    // Other engines may not know it.
    let standby = ask::<bool>(connection, "SELECT pg_is_in_recovery()").await;
    match standby {
        Ok(true) => Err(sqlx::Error::Protocol("the database server is a standby that takes no writes".into())),
        Err(error) if is_away(&error) => Err(error),
        _ => Ok(()),
    }
}
