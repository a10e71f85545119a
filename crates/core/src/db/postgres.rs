//! PostgreSQL, or an engine that speaks its protocol: a pool of connections, each write in a transaction of its own.
//!
//! The database may restart, fail over or be slow while requests are running. Reads, and the beginning of a write, are tried again
//! for a while. Once a write has begun it is not: it ends in an error, and if its commit was on the way, nobody knows its fate.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, Postgres as Driver, Row as _};
use tokio::sync::Semaphore;

use super::connecting::{answered, ask, bound, bounds, connect, expect_current_through_pooler, is_current, refuse_standby};
use super::diagnosis::durability_of_server;
use super::lent::{Lent, linger};
use super::migrations::{INDEXES, expect_current, migrate};
use super::{Connection, Link, Schema, indexes, read_failed, write_failed};
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
    /// For a row or a table that another transaction holds.
    pub lock_max: Duration,
    /// Between two statements of one transaction. Then the server ends it: its node hangs, and others wait for what it holds.
    pub idle_max: Duration,
}

/// How many connections there are, and to what.
#[derive(Debug, Clone, Copy)]
pub struct Connections {
    /// In all.
    pub max: u32,
    /// Of these, how many writes leave to reads, so that writes that wait for each other keep no reader out. At least one connection writes.
    pub reads_min: u32,
    /// Whether they lead to a pooler that gives each transaction another session, as PgBouncer in transaction mode does. Then nothing is asked of
    /// a session: no prepared statements, no settings, no LISTEN.
    pub transaction_pooling: bool,
}

#[derive(Debug)]
pub(super) struct Postgres {
    pool: PgPool,
    /// A few connections that requests can't keep busy: a node that is at its limit must not take itself for cut off.
    upkeep: PgPool,
    /// Connections of `pool` that may write at once.
    writes: Arc<Semaphore>,
    patience: Patience,
    transaction_pooling: bool,
    /// What begins a transaction. Its row, if there is one, is the number of the server's process, by which that can be cancelled.
    begin: String,
    announcer: Announcer,
    /// Whether the engine has NOTIFY.
    notifies: bool,
}

impl Postgres {
    pub(super) async fn open(
        url: &str,
        connections: Connections,
        patience: Patience,
        announcer: Announcer,
        schema: Schema,
    ) -> Result<Self, Error> {
        let (mut connection, options, doing) = connect(url, patience.wait_max).await?;
        if schema == Schema::Newest && connections.transaction_pooling {
            expect_current_through_pooler(&mut connection, &doing).await?;
        } else if schema == Schema::Newest && !answered(patience.wait_max, &doing, is_current(&mut connection)).await? {
            // Whoever waits for a table is waited for by everybody who comes later.
            let bounded = connection.execute("SET lock_timeout = '2s'").await;
            bounded.map_err(|error| Error::internal(&doing, &error))?;
            migrate::<Driver>(&mut connection, &doing).await?;
        }
        if schema == Schema::Newest && !connections.transaction_pooling {
            indexes::build_in_background(options.clone(), &INDEXES);
        }
        let asked = async { Ok(connection.execute("SELECT pg_notify('imagewell', '')").await.is_ok()) };
        let notifies = answered(patience.wait_max, &doing, asked).await?;
        let _ = tokio::time::timeout(RESTED, connection.close()).await;
        Ok(Self::with_pools(&options, connections, patience, announcer, notifies))
    }

    /// Opens a database that is there, of exactly this program's schema. Its caller never writes.
    pub(super) async fn look(url: &str, connections: Connections, patience: Patience) -> Result<Self, Error> {
        let (mut connection, options, doing) = connect(url, patience.wait_max).await?;
        if connections.transaction_pooling {
            expect_current_through_pooler(&mut connection, &doing).await?;
        } else {
            expect_current::<Driver>(&mut connection, &doing).await?;
        }
        let _ = tokio::time::timeout(RESTED, connection.close()).await;
        Ok(Self::with_pools(&options, connections, patience, Announcer::default(), false))
    }

    fn with_pools(
        options: &PgConnectOptions,
        connections: Connections,
        patience: Patience,
        announcer: Announcer,
        notifies: bool,
    ) -> Self {
        let Connections { max, reads_min, transaction_pooling } = connections;
        let pool = |connections_max| {
            PgPoolOptions::new()
                .max_connections(connections_max)
                .acquire_timeout(patience.wait_max)
                .test_before_acquire(false)
                .after_connect(move |connection, _| {
                    Box::pin(async move {
                        refuse_standby(connection).await?;
                        if !transaction_pooling {
                            bound(connection, patience).await?;
                        }
                        Ok(())
                    })
                })
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
        let shared = max.saturating_sub(UPKEEP).max(1);
        let writes = Arc::new(Semaphore::new(shared.saturating_sub(reads_min).max(1) as usize));
        let begin = if transaction_pooling {
            bounds(patience)
                .iter()
                .fold("BEGIN".to_owned(), |begin, (name, value)| format!("{begin}; SET LOCAL {name} = {value}"))
        } else {
            "BEGIN; SELECT pg_backend_pid()".to_owned()
        };
        Self { pool: pool(shared), upkeep: pool(UPKEEP), writes, patience, transaction_pooling, begin, announcer, notifies }
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

    /// Whether this node can be told. LISTEN needs a session.
    pub(super) fn listens(&self) -> bool {
        self.notifies && !self.transaction_pooling
    }

    /// How long what may take.
    pub(super) fn patience(&self) -> Patience {
        self.patience
    }

    /// Whether statements may be prepared: they stay in a session.
    pub(super) fn prepares(&self) -> bool {
        !self.transaction_pooling
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
                let read = if self.transaction_pooling {
                    // Else the statement and its values might come to different sessions.
                    connection.execute(AssertSqlSafe(self.begin.as_str())).await?;
                    let read = attempt(&mut connection).await;
                    let ended = connection.execute("COMMIT").await;
                    read.and_then(|read| ended.map(|_| read))
                } else {
                    attempt(&mut connection).await
                };
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
            Err(_) => {
                self.give_up(lent, true);
                return Err(too_slow());
            }
        };
        let commit = async {
            if self.notifies() {
                for text in notifications(&changes) {
                    notify(&mut lent, &text, self.prepares()).await.map_err(|error| write_failed(&error))?;
                }
            }
            lent.execute("COMMIT").await.map_err(|error| commit_failed(&error))
        };
        let committed = tokio::time::timeout(self.patience.time_max, commit).await;
        lent.settled = matches!(committed, Ok(Ok(_)));
        if committed.is_err() {
            // Not cancelled: a commit that waits for a standby would be done without it.
            self.give_up(lent, false);
        }
        // Also when nobody knows whether it was committed.
        for change in changes {
            self.announcer.announce(change);
        }
        committed
            .unwrap_or_else(|_| Err(Error::Internal { detail: "the database did not say whether it has committed".into() }))?;
        Ok(value)
    }

    /// Nobody waits for the server's answer any more. Its connection counts until the server has done with it, so that there are never more
    /// than were asked for.
    fn give_up(&self, lent: Lent, cancels: bool) {
        tokio::spawn(linger(lent, cancels, self.pool.clone(), self.upkeep.clone(), self.patience.time_max));
    }

    /// A connection inside a transaction.
    async fn begin(&self) -> Result<Lent, Error> {
        let writes = tokio::time::timeout(self.patience.wait_max, Arc::clone(&self.writes).acquire_owned());
        let Ok(Ok(writes)) = writes.await else { return Err(too_slow()) };
        let mut tries = Tries::new(self.patience.wait_max);
        loop {
            let begun = async {
                let mut lent = Lent::of(&self.pool).await?;
                lent.begun_by = self.begin_on(&mut lent).await?;
                lent.prepares = self.prepares();
                Ok::<_, sqlx::Error>(lent)
            };
            match tokio::time::timeout(self.patience.time_max + self.patience.wait_max, begun).await {
                Ok(Ok(mut lent)) => {
                    lent.writes = Some(writes);
                    return Ok(lent);
                }
                Ok(Err(error)) if is_away(&error) => tries.again(&error).await?,
                Ok(Err(error)) => return Err(write_failed(&error)),
                Err(_) => return Err(too_slow()),
            }
        }
    }

    /// Begins a transaction, and says which process of the server has it.
    async fn begin_on(&self, connection: &mut PgConnection) -> Result<Option<i32>, sqlx::Error> {
        let row = connection.fetch_optional(AssertSqlSafe(self.begin.as_str())).await?;
        Ok(row.and_then(|row| row.try_get(0).ok()))
    }

    /// Says something to all nodes that listen.
    pub(super) async fn tell(&self, text: &str) -> Result<(), Error> {
        let told = async {
            let mut connection = Lent::of(&self.upkeep).await?;
            // In a transaction, which keeps a pooler from changing the session in between.
            connection.execute("BEGIN").await?;
            let told = notify(&mut connection, text, self.prepares()).await;
            let told = connection.execute("COMMIT").await.and(told);
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
        self.read(true, |connection| Box::pin(ask::<i64>(connection, now))).await.map(Timestamp)
    }

    /// What may lose what this server has committed, as in `fsync=off`.
    pub(super) async fn weak_durability(&self) -> Result<Vec<String>, Error> {
        let settings = self.read(true, |connection| Box::pin(async { Ok(durability_of_server(connection).await) })).await?;
        let weak = settings.into_iter().filter(|setting| !setting.is_safe);
        Ok(weak.map(|setting| format!("{}={}", setting.name, setting.value)).collect())
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

async fn notify(connection: &mut PgConnection, text: &str, prepares: bool) -> Result<(), sqlx::Error> {
    let notify = sqlx::query("SELECT pg_notify($1, $2)").bind(CHANNEL).bind(text);
    notify.persistent(prepares).execute(connection).await.map(|_| ())
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
            // Connection exceptions, server going down or starting, too many connections, a standby that takes no writes, a transaction that
            // was ended because this node hung.
            code.starts_with("08") || ["57P01", "57P02", "57P03", "53300", "25006", "25P03"].contains(&code.as_ref())
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
