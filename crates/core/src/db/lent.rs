//! A connection to PostgreSQL that is taken out of its pool, and what becomes of it when nobody waits for its answer any more.

use std::ops::{Deref, DerefMut};
use std::time::{Duration, Instant};

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnection, PgPool};
use sqlx::{Connection as _, Postgres as Driver};
use tokio::sync::OwnedSemaphorePermit;

use super::postgres::is_away;

/// Between two looks whether the server still works for somebody who has given up.
const ASKED_EVERY: Duration = Duration::from_secs(1);

/// Cancels what a process of the server does, and says whether it does something.
const CANCEL: &str = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE pid = $1 AND state <> 'idle'";
/// Says whether a process of the server does something.
const RUNS: &str = "SELECT TRUE FROM pg_stat_activity WHERE pid = $1 AND state <> 'idle'";

/// A connection of the pool that doesn't go back to it unless it is known to be good: after a cancelled, late or broken use it is
/// closed, and the server undoes what it had begun.
#[derive(Debug)]
pub(crate) struct Lent {
    connection: Option<PoolConnection<Driver>>,
    pub(super) settled: bool,
    /// Whether statements are prepared once and stay.
    pub(super) prepares: bool,
    /// The process of the server that has begun a transaction.
    pub(super) begun_by: Option<i32>,
    /// The right to write, of which there are few.
    pub(super) writes: Option<OwnedSemaphorePermit>,
}

impl Lent {
    pub(super) async fn of(pool: &PgPool) -> Result<Self, sqlx::Error> {
        let connection = Some(pool.acquire().await?);
        Ok(Self { connection, settled: false, prepares: true, begun_by: None, writes: None })
    }

    /// The connection is good if the server has answered, whatever it said.
    pub(super) fn settle<T>(&mut self, outcome: &Result<T, sqlx::Error>) {
        self.settled = match outcome {
            Ok(_) | Err(sqlx::Error::RowNotFound) => true,
            Err(error) => !is_away(error),
        };
    }
}

impl Deref for Lent {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        self.connection.as_deref().unwrap_or_else(|| unreachable!("it is taken when dropped"))
    }
}

impl DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.connection.as_deref_mut().unwrap_or_else(|| unreachable!("it is taken when dropped"))
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take().filter(|_| !self.settled) {
            drop(connection.detach());
        }
    }
}

/// Holds a connection that was given up, and its place in the pool, until the server has done with it: else each try of a caller would leave one
/// more process of the server waiting. The server is asked over another connection whether it still works. Where it can't be asked for
/// `unknown_max`, it is taken to be gone.
pub(super) async fn linger(mut lent: Lent, cancels: bool, pool: PgPool, upkeep: PgPool, unknown_max: Duration) {
    let begun_by = lent.begun_by;
    let mut known = Instant::now();
    let mut asks = if cancels { CANCEL } else { RUNS };
    // Comes back when the server has answered everything that it was asked, or the connection is broken.
    let answered = lent.ping();
    tokio::pin!(answered);
    loop {
        if let Some(process) = begun_by {
            let ask = sqlx::query_scalar::<_, bool>(asks).bind(process).fetch_optional(&upkeep);
            match tokio::time::timeout(ASKED_EVERY, ask).await {
                Ok(Ok(Some(_))) => (known, asks) = (Instant::now(), RUNS),
                Ok(Ok(None)) => break,
                _ => {}
            }
        }
        if tokio::time::timeout(ASKED_EVERY, &mut answered).await.is_ok() || pool.is_closed() || known.elapsed() > unknown_max {
            break;
        }
    }
}
