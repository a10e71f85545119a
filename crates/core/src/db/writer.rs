//! Group commit: one task owns the one writing connection, takes whatever waits, runs each piece inside a savepoint of a
//! common transaction and answers all of them after the commit. A commit costs a sync; sharing it is what makes
//! `synchronous=FULL` affordable.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use sqlx::error::DatabaseError;
use sqlx::sqlite::{SqliteConnection, SqliteError};
use sqlx::{Connection as _, Executor as _};
use tokio::sync::{mpsc, oneshot};

use super::{Connection, Link, Open, write_failed};
use crate::Error;
use crate::changes::Announcer;
use crate::halt::Halt;

/// Writes that may share one commit.
const BATCH_MAX: usize = 256;
/// Writes that may wait; more make their callers wait.
const QUEUE_MAX: usize = 1024;
/// Commits after which the write-ahead log is copied into the database.
const COMMITS_PER_CHECKPOINT: u32 = 200;
/// The log is copied too when nothing was written for this long.
const IDLE_CHECKPOINT: Duration = Duration::from_secs(2);

/// The queue of the writing task.
#[derive(Debug, Clone)]
pub(crate) struct Writer {
    queue: mpsc::Sender<Request>,
}

enum Request {
    Write(Box<dyn Pending>),
    Close(oneshot::Sender<()>),
}

/// Whether the database may refuse a piece, for a name that is taken, and others must not suffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Then what it did is undone, for which it runs inside a savepoint.
    Expected,
    /// Nothing can be undone, so a failure is one of the whole commit.
    Unexpected,
}

/// A write that waits for its turn and then for its commit.
trait Pending: Send {
    /// What it said of itself.
    fn refusal(&self) -> Refusal;
    /// Runs the work; an error undoes this piece alone.
    fn run<'a>(&'a mut self, connection: &'a mut Connection) -> BoxFuture<'a, Result<(), Failed>>;
    /// Answers with what the work returned, or with the failure of the commit.
    fn answer(self: Box<Self>, commit: Result<(), Error>);
}

/// Whether the transaction as a whole can still be trusted after a piece failed.
enum Failed {
    /// Only this piece: a conflict, a refusal.
    Alone,
    /// SQLite may have rolled back everything. Nothing was synced yet, so nothing has to halt.
    Everything { no_space: bool },
}

struct Work<T, F> {
    work: Option<F>,
    outcome: Option<Result<T, Error>>,
    refusal: Refusal,
    reply: oneshot::Sender<Result<T, Error>>,
    _open: Option<Open>,
}

impl<T, F> Pending for Work<T, F>
where
    T: Send + 'static,
    F: for<'c> FnOnce(&'c mut Connection) -> BoxFuture<'c, Result<T, Error>> + Send + 'static,
{
    fn refusal(&self) -> Refusal {
        self.refusal
    }

    fn run<'a>(&'a mut self, connection: &'a mut Connection) -> BoxFuture<'a, Result<(), Failed>> {
        Box::pin(async move {
            let Some(work) = self.work.take() else { return Ok(()) };
            // A panic between two statements leaves a piece half done, so the whole transaction is rolled back, and the task
            // lives on. Making the future may panic as well as polling it.
            let outcome = AssertUnwindSafe(async { work(connection).await }).catch_unwind().await;
            let outcome = outcome.unwrap_or_else(|_panic| Err(Error::Internal { detail: "a write panicked".into() }));
            let verdict = match &outcome {
                Ok(_) => Ok(()),
                Err(Error::NoSpace) => Err(Failed::Everything { no_space: true }),
                Err(_) if self.refusal == Refusal::Unexpected => Err(Failed::Everything { no_space: false }),
                Err(Error::Internal { .. }) => Err(Failed::Everything { no_space: false }),
                Err(_) => Err(Failed::Alone),
            };
            self.outcome = Some(outcome);
            verdict
        })
    }

    fn answer(self: Box<Self>, commit: Result<(), Error>) {
        let outcome = match (commit, self.outcome) {
            (_, Some(Err(error))) | (Err(error), _) => Err(error),
            (Ok(()), Some(Ok(value))) => Ok(value),
            (Ok(()), None) => Err(Error::Internal { detail: "a write was answered before it ran".into() }),
        };
        // A caller that stopped waiting is no fault: what it wrote is committed all the same.
        let _ = self.reply.send(outcome);
    }
}

impl Writer {
    pub(super) fn start(connection: SqliteConnection, halt: Arc<Halt>, announcer: Announcer) -> Self {
        let (queue, requests) = mpsc::channel(QUEUE_MAX);
        let connection = Connection { link: Link::Sqlite(connection), changes: Vec::new() };
        let served = tokio::spawn(serve(connection, requests, Arc::clone(&halt), announcer));
        tokio::spawn(async move {
            // Without this task nothing can be written, while reads go on: nobody would notice.
            if served.await.is_err_and(|error| error.is_panic()) {
                halt.trip("the task that writes to the database panicked");
            }
        });
        Self { queue }
    }

    /// `open` is held until the commit, also when nobody waits for it any more.
    pub(super) async fn write<T, F>(&self, open: Option<Open>, work: F, refusal: Refusal) -> Result<T, Error>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut Connection) -> BoxFuture<'c, Result<T, Error>> + Send + 'static,
    {
        let (reply, outcome) = oneshot::channel();
        let work = Work { work: Some(work), outcome: None, refusal, reply, _open: open };
        let closed = || Error::Internal { detail: "the database is closed".into() };
        self.queue.send(Request::Write(Box::new(work))).await.map_err(|_| closed())?;
        outcome.await.map_err(|_| closed())?
    }

    pub(super) async fn close(&self) {
        let (reply, done) = oneshot::channel();
        if self.queue.send(Request::Close(reply)).await.is_ok() {
            let _ = done.await;
        }
    }
}

async fn serve(mut connection: Connection, mut requests: mpsc::Receiver<Request>, halt: Arc<Halt>, announcer: Announcer) {
    // What an earlier process has left in the log counts as well.
    let mut commits_since_checkpoint = 1;
    let mut waiting = Vec::with_capacity(BATCH_MAX);
    loop {
        let received = if commits_since_checkpoint == 0 {
            requests.recv_many(&mut waiting, BATCH_MAX).await
        } else {
            match tokio::time::timeout(IDLE_CHECKPOINT, requests.recv_many(&mut waiting, BATCH_MAX)).await {
                Ok(received) => received,
                Err(_idle) => {
                    checkpoint(&mut connection, &halt).await;
                    commits_since_checkpoint = 0;
                    continue;
                }
            }
        };
        let mut closing = None;
        let mut batch = Vec::with_capacity(received);
        for request in waiting.drain(..) {
            match request {
                Request::Write(work) => batch.push(work),
                Request::Close(reply) => closing = Some(reply),
            }
        }
        if !batch.is_empty() {
            commit_batch(&mut connection, batch, &halt, &announcer).await;
            commits_since_checkpoint += 1;
        }
        if commits_since_checkpoint >= COMMITS_PER_CHECKPOINT {
            checkpoint(&mut connection, &halt).await;
            commits_since_checkpoint = 0;
        }
        if received == 0 || closing.is_some() {
            // Closing the last connection removes the log, if all of it could be copied.
            checkpoint(&mut connection, &halt).await;
            if let Link::Sqlite(link) = connection.link {
                let _ = link.close().await;
            }
            if let Some(reply) = closing {
                let _ = reply.send(());
            }
            return;
        }
    }
}

async fn commit_batch(connection: &mut Connection, mut batch: Vec<Box<dyn Pending>>, halt: &Halt, announcer: &Announcer) {
    metrics::histogram!("imagewell_commit_batch_size").record(batch.len() as f64);
    let mut commit = run_batch(connection, &mut batch, halt).await;
    if commit.is_err() {
        // SQLite may have rolled back by itself; then this one fails and that is fine.
        let _ = execute(connection, "ROLLBACK", halt).await;
    } else {
        commit = halt.check();
    }
    // Also of pieces that were undone, which does no harm.
    for change in connection.changes.drain(..) {
        announcer.announce(change);
    }
    for work in batch {
        work.answer(match &commit {
            Ok(()) => Ok(()),
            Err(Error::NoSpace) => Err(Error::NoSpace),
            Err(Error::Busy { retry_after }) => Err(Error::Busy { retry_after: *retry_after }),
            Err(_) => Err(Error::Internal { detail: "the commit failed".into() }),
        });
    }
}

async fn run_batch(connection: &mut Connection, batch: &mut [Box<dyn Pending>], halt: &Halt) -> Result<(), Error> {
    halt.check()?;
    execute(connection, "BEGIN IMMEDIATE", halt).await?;
    for work in batch.iter_mut() {
        let undoable = work.refusal() == Refusal::Expected;
        if undoable {
            execute(connection, "SAVEPOINT piece", halt).await?;
        }
        match work.run(connection).await {
            Ok(()) if undoable => execute(connection, "RELEASE piece", halt).await?,
            Ok(()) => {}
            Err(Failed::Alone) => {
                execute(connection, "ROLLBACK TO piece", halt).await?;
                execute(connection, "RELEASE piece", halt).await?;
            }
            Err(Failed::Everything { no_space: true }) => return Err(Error::NoSpace),
            Err(Failed::Everything { no_space: false }) => {
                return Err(Error::Internal { detail: "another write of the same commit failed".into() });
            }
        }
    }
    execute(connection, "COMMIT", halt).await
}

async fn execute(connection: &mut Connection, sql: &'static str, halt: &Halt) -> Result<(), Error> {
    let Link::Sqlite(link) = &mut connection.link else {
        return Err(Error::Internal { detail: "a queue writes to SQLite alone".into() });
    };
    link.execute(sql).await.map(|_| ()).map_err(|error| {
        trip_on_io_error(&error, halt);
        write_failed(&error)
    })
}

/// Copies the log into the database. Unlike SQLite's automatic one, this one reports a failed sync.
async fn checkpoint(connection: &mut Connection, halt: &Halt) {
    if let Err(error) = execute(connection, "PRAGMA wal_checkpoint(PASSIVE)", halt).await {
        tracing::warn!(%error, "the write-ahead log could not be copied into the database");
    }
}

/// SQLITE_IOERR in any of its forms: after it, what is on the disk is unknown.
fn trip_on_io_error(error: &sqlx::Error, halt: &Halt) {
    if let sqlx::Error::Database(cause) = error
        && primary_code(cause.as_ref()) == Some(10)
    {
        halt.trip(&format!("the database reports {cause}"));
    }
}

/// SQLITE_BUSY in any of its forms: another process holds the lock for longer than is waited.
pub(super) fn is_locked(error: &sqlx::Error) -> bool {
    let sqlx::Error::Database(cause) = error else { return false };
    cause.try_downcast_ref::<SqliteError>().is_some() && primary_code(cause.as_ref()) == Some(5)
}

/// SQLITE_FULL.
pub(super) fn is_full(cause: &dyn DatabaseError) -> bool {
    primary_code(cause) == Some(13)
}

fn primary_code(cause: &dyn DatabaseError) -> Option<i64> {
    cause.code()?.parse::<i64>().ok().map(|extended| extended & 0xFF)
}
