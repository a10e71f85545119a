//! PostgreSQL, or an engine that speaks its protocol: a pool of connections, each write in a transaction of its own.
//!
//! The database may restart, fail over or be slow while requests are running. Reads, and the beginning of a write, are tried again
//! for a while. Once a write has begun it is not: it ends in an error, and if its commit was on the way, nobody knows its fate.

use std::ops::{Deref, DerefMut};
use std::str::FromStr as _;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::{ConnectOptions as _, Connection as _, Executor as _, Postgres as Driver};

use super::migrations::{expect_current, migrate};
use super::{Connection, Link, Schema, read_failed, write_failed};
use crate::Error;
use crate::changes::Announcer;
use crate::model::Timestamp;

/// Where nodes tell each other what has changed.
pub(super) const CHANNEL: &str = "imagewell";
/// Bytes of one notification; PostgreSQL takes less than 8000.
const NOTIFICATION_BYTES_MAX: usize = 7000;
/// Connections that listen, count and ask whether the database is there.
const UPKEEP: u32 = 3;
/// A connection that rested for longer is asked whether it is still there.
const RESTED: Duration = Duration::from_secs(1);
/// Before the second try; each later one waits twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// What a caller is told about when to come back.
pub(super) const RETRY_AFTER: Duration = Duration::from_secs(2);

/// What a read does with a connection; more than once if need be.
pub(super) type Attempt<'c, T> = BoxFuture<'c, Result<T, sqlx::Error>>;

/// How long what may take.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For a connection, and for the database to come back.
    pub wait_max: Duration,
    /// For one statement's answer, or one write as a whole.
    pub time_max: Duration,
}

#[derive(Debug)]
pub(super) struct Postgres {
    pool: PgPool,
    /// A few connections that requests can't keep busy: a node that is at its limit must not take itself for cut off.
    upkeep: PgPool,
    patience: Patience,
    announcer: Announcer,
    /// Whether the engine has NOTIFY.
    notifies: bool,
}

impl Postgres {
    pub(super) async fn open(
        url: &str,
        connections_max: u32,
        patience: Patience,
        announcer: Announcer,
        schema: Schema,
    ) -> Result<Self, Error> {
        let (options, doing) = read_url(url)?;
        let mut connection = options.connect().await.map_err(|error| Error::internal(&doing, &error))?;
        refuse_standby(&mut connection).await.map_err(|error| Error::internal(&doing, &error))?;
        if schema == Schema::Newest {
            // Whoever waits for a table is waited for by everybody who comes later.
            let bounded = connection.execute("SET lock_timeout = '2s'").await;
            bounded.map_err(|error| Error::internal(&doing, &error))?;
            migrate::<Driver>(&mut connection, &doing).await?;
        }
        warn_of_lost_commits(&mut connection).await;
        let notifies = notify(&mut connection, "").await.is_ok();
        let _ = connection.close().await;
        Ok(Self::with_pools(&options, connections_max, patience, announcer, notifies))
    }

    /// Opens a database that is there, of exactly this program's schema. Its caller never writes.
    pub(super) async fn look(url: &str, connections_max: u32, patience: Patience) -> Result<Self, Error> {
        let (options, doing) = read_url(url)?;
        let mut connection = options.connect().await.map_err(|error| Error::internal(&doing, &error))?;
        expect_current::<Driver>(&mut connection, &doing).await?;
        let _ = connection.close().await;
        Ok(Self::with_pools(&options, connections_max, patience, Announcer::default(), false))
    }

    fn with_pools(
        options: &PgConnectOptions,
        connections_max: u32,
        patience: Patience,
        announcer: Announcer,
        notifies: bool,
    ) -> Self {
        let pool = |connections_max| {
            PgPoolOptions::new()
                .max_connections(connections_max)
                .acquire_timeout(patience.wait_max)
                .test_before_acquire(false)
                .after_connect(|connection, _| Box::pin(refuse_standby(connection)))
                .before_acquire(|connection, meta| {
                    Box::pin(async move {
                        if meta.idle_for < RESTED {
                            return Ok(true);
                        }
                        Ok(matches!(tokio::time::timeout(RESTED, connection.ping()).await, Ok(Ok(()))))
                    })
                })
                .connect_lazy_with(options.clone())
        };
        let (pool, upkeep) = (pool(connections_max.saturating_sub(UPKEEP).max(1)), pool(UPKEEP));
        Self { pool, upkeep, patience, announcer, notifies }
    }

    pub(super) fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// For listening, which takes a connection for good.
    pub(super) fn upkeep(&self) -> &PgPool {
        &self.upkeep
    }

    pub(super) async fn close(&self) {
        tokio::join!(self.pool.close(), self.upkeep.close());
    }

    /// Whether the engine tells nodes of each other's changes.
    pub(super) fn notifies(&self) -> bool {
        self.notifies
    }

    /// Runs a read, again if the database was away.
    pub(super) async fn read<T: Send>(
        &self,
        upkeep: bool,
        mut attempt: impl for<'c> FnMut(&'c mut PgConnection) -> Attempt<'c, T>,
    ) -> Result<T, Error> {
        let mut tries = Tries::new(self.patience.wait_max);
        loop {
            let once = async {
                let mut connection = Lent::of(if upkeep { &self.upkeep } else { &self.pool }).await?;
                let read = attempt(&mut connection).await;
                connection.settle(&read);
                read
            };
            match tokio::time::timeout(self.patience.time_max + self.patience.wait_max, once).await {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(error)) if is_away(&error) => tries.again(&error).await?,
                Ok(Err(error)) => return Err(read_failed(&error)),
                Err(_) => return Err(too_slow()),
            }
        }
    }

    /// Runs `work` in a transaction and commits it. [`Error::Busy`] says that nothing was committed.
    pub(super) async fn write<T, F>(&self, work: F) -> Result<T, Error>
    where
        T: Send,
        F: for<'c> FnOnce(&'c mut Connection) -> BoxFuture<'c, Result<T, Error>> + Send,
    {
        let lent = self.begin().await?;
        let mut connection = Connection { link: Link::Postgres(lent), changes: Vec::new() };
        let outcome = tokio::time::timeout(self.patience.time_max, work(&mut connection)).await;
        let Connection { link: Link::Postgres(mut lent), changes } = connection else { return Err(too_slow()) };
        let value = match outcome {
            Ok(Ok(value)) => value,
            Ok(Err(error)) => {
                let undone = tokio::time::timeout(RESTED, lent.execute("ROLLBACK")).await;
                lent.settled = matches!(undone, Ok(Ok(_)));
                return Err(error);
            }
            Err(_) => return Err(too_slow()),
        };
        let commit = async {
            if self.notifies() {
                for text in notifications(&changes) {
                    notify(&mut lent, &text).await.map_err(|error| write_failed(&error))?;
                }
            }
            lent.execute("COMMIT").await.map_err(|error| commit_failed(&error))
        };
        let committed = tokio::time::timeout(self.patience.time_max, commit).await;
        lent.settled = matches!(committed, Ok(Ok(_)));
        // Also when nobody knows whether it was committed.
        for change in changes {
            self.announcer.announce(change);
        }
        committed
            .unwrap_or_else(|_| Err(Error::Internal { detail: "the database did not say whether it has committed".into() }))?;
        Ok(value)
    }

    /// A connection inside a transaction.
    async fn begin(&self) -> Result<Lent, Error> {
        let mut tries = Tries::new(self.patience.wait_max);
        loop {
            let begun = async {
                let mut lent = Lent::of(&self.pool).await?;
                lent.execute("BEGIN").await?;
                Ok::<_, sqlx::Error>(lent)
            };
            match tokio::time::timeout(self.patience.time_max + self.patience.wait_max, begun).await {
                Ok(Ok(lent)) => return Ok(lent),
                Ok(Err(error)) if is_away(&error) => tries.again(&error).await?,
                Ok(Err(error)) => return Err(write_failed(&error)),
                Err(_) => return Err(too_slow()),
            }
        }
    }

    /// Says something to all nodes that listen.
    pub(super) async fn tell(&self, text: &str) -> Result<(), Error> {
        let told = async {
            let mut connection = Lent::of(&self.upkeep).await?;
            let told = notify(&mut connection, text).await;
            connection.settle(&told);
            told
        };
        match tokio::time::timeout(self.patience.time_max, told).await {
            Ok(told) => told.map_err(|error| read_failed(&error)),
            Err(_) => Err(too_slow()),
        }
    }

    /// What the server's clock says.
    pub(super) async fn clock(&self) -> Result<Timestamp, Error> {
        let now = "SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS BIGINT)";
        self.read(true, |connection| Box::pin(sqlx::query_scalar::<_, i64>(now).fetch_one(connection))).await.map(Timestamp)
    }

    /// A trivial read, once.
    pub(super) async fn ping(&self) -> Result<(), Error> {
        let ping = async {
            let mut connection = Lent::of(&self.upkeep).await?;
            let done = connection.execute("SELECT 1").await.map(|_| ());
            connection.settle(&done);
            done
        };
        match tokio::time::timeout(self.patience.wait_max, ping).await {
            Ok(done) => done.map_err(|error| read_failed(&error)),
            Err(_) => Err(too_slow()),
        }
    }
}

/// What the URL says, and what is being done in words.
pub(super) fn read_url(url: &str) -> Result<(PgConnectOptions, String), Error> {
    let options = PgConnectOptions::from_str(url).map_err(|error| Error::internal("reading database_url", &error))?;
    let doing = format!(
        "opening the database {} on {}:{}",
        options.get_database().unwrap_or("postgres"),
        options.get_host(),
        options.get_port()
    );
    Ok((options, doing))
}

async fn notify(connection: &mut PgConnection, text: &str) -> Result<(), sqlx::Error> {
    sqlx::query("SELECT pg_notify($1, $2)").bind(CHANNEL).bind(text).execute(connection).await.map(|_| ())
}

/// As few texts as hold all of them, one change a line.
fn notifications(changes: &[crate::changes::Change]) -> Vec<String> {
    let mut texts: Vec<String> = Vec::new();
    for change in changes.iter().map(ToString::to_string) {
        match texts.last_mut() {
            Some(text) if text.len() + change.len() < NOTIFICATION_BYTES_MAX => {
                text.push('\n');
                text.push_str(&change);
            }
            _ => texts.push(change),
        }
    }
    texts
}

/// In a failover the address may lead to the standby before that takes writes. What was begun there would fail, and what is read there may
/// be old.
async fn refuse_standby(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    // Other engines may not know it.
    let standby: Result<bool, _> = sqlx::query_scalar("SELECT pg_is_in_recovery()").fetch_one(connection).await;
    match standby {
        Ok(true) => Err(sqlx::Error::Protocol("the database server is a standby that takes no writes".into())),
        Err(error) if is_away(&error) => Err(error),
        _ => Ok(()),
    }
}

/// A server that says "committed" before it is on the disk breaks what we promise; that is for its operator to decide.
async fn warn_of_lost_commits(connection: &mut PgConnection) {
    for (setting, ask) in [("fsync", "SHOW fsync"), ("synchronous_commit", "SHOW synchronous_commit")] {
        // Other engines may not know it.
        let value: Result<String, _> = sqlx::query_scalar(ask).fetch_one(&mut *connection).await;
        if value.is_ok_and(|value| value == "off") {
            tracing::warn!(setting, "is off in the database: what was acknowledged may be lost when it goes down");
        }
    }
}

/// A connection of the pool that doesn't go back to it unless it is known to be good: after a cancelled, late or broken use it is
/// closed, and the server undoes what it had begun.
#[derive(Debug)]
pub(crate) struct Lent {
    connection: Option<PoolConnection<Driver>>,
    settled: bool,
}

impl Lent {
    async fn of(pool: &PgPool) -> Result<Self, sqlx::Error> {
        Ok(Self { connection: Some(pool.acquire().await?), settled: false })
    }

    /// The connection is good if the server has answered, whatever it said.
    fn settle<T>(&mut self, outcome: &Result<T, sqlx::Error>) {
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

/// Tries until a moment.
struct Tries {
    until: Instant,
    pause: Duration,
}

impl Tries {
    fn new(wait_max: Duration) -> Self {
        Self { until: Instant::now() + wait_max, pause: FIRST_PAUSE }
    }

    /// Waits before the next try; an error when there is no time for one.
    async fn again(&mut self, error: &sqlx::Error) -> Result<(), Error> {
        if Instant::now() + self.pause >= self.until {
            tracing::warn!(%error, "the database is away");
            return Err(Error::Busy { retry_after: RETRY_AFTER });
        }
        metrics::counter!("imagewell_database_retries_total").increment(1);
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        Ok(())
    }
}

fn too_slow() -> Error {
    tracing::warn!("the database takes too long");
    Error::Busy { retry_after: RETRY_AFTER }
}

/// Whether there is no answer to a statement because of the way there, or because the server is starting or going down. The same
/// statement may be answered by another connection.
pub(super) fn is_away(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::PoolTimedOut => true,
        sqlx::Error::Database(cause) => cause.code().is_some_and(|code| {
            // Connection exceptions, server going down or starting, too many connections, a standby that takes no writes.
            code.starts_with("08") || ["57P01", "57P02", "57P03", "53300", "25006"].contains(&code.as_ref())
        }),
        _ => false,
    }
}

/// Whether the database has undone the transaction because of others; it may be tried again.
pub(super) fn is_contention(code: &str) -> bool {
    ["40001", "40P01", "55P03", "57014"].contains(&code)
}

/// The commit was refused, or nobody knows.
fn commit_failed(error: &sqlx::Error) -> Error {
    match error {
        sqlx::Error::Database(_) if !is_away(error) => write_failed(error),
        _ => Error::internal("committing, with unknown outcome", error),
    }
}
