//! Logging in, staying logged in, logging out; machines that prove themselves with every request stand in [`machines`].

mod attempts;
mod known;
mod machines;
mod proofs;
mod rights;

pub use attempts::AttemptLimits;
pub use known::{network, range};
pub use machines::OutsideCaller;
pub(crate) use rights::Changed;

use std::net::IpAddr;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use quick_cache::sync::Cache;

use crate::Error;
use crate::changes::Change;
use crate::db::sessions::Session;
use crate::db::{self, Database};
use crate::model::{AccountKind, Actor, SessionToken, SessionTokenHash, Timestamp};
use crate::passwords::Passwords;
use proofs::Prover;
use rights::Counters;

/// Sessions held in memory; each is a few hundred bytes.
const SESSIONS_CACHED_MAX: usize = 20_000;
/// A session's last use is written down at most this often, and four times within the time after which it would end.
const TOUCH_EVERY_MAX: Duration = Duration::from_secs(60);

/// Bounds on sessions.
#[derive(Debug, Clone, Copy)]
pub struct SessionLimits {
    /// A session ends when unused for this long.
    pub idle: Duration,
    /// A session ends this long after the login.
    pub absolute: Duration,
}

impl SessionLimits {
    /// A session's last use is written down at most this often: the note may be older than the use by so much.
    pub(crate) fn touch_every(&self) -> Duration {
        TOUCH_EVERY_MAX.min(self.idle / 4)
    }
}

/// A session as it is used: the caller, and until when.
#[derive(Debug)]
struct LiveSession {
    actor: Arc<Actor>,
    last_used_us: AtomicI64,
    /// The last use that is written down, or being written.
    touched_us: AtomicI64,
    expires: Timestamp,
}

/// Sessions and the way to get one.
#[derive(Debug)]
pub struct Accounts {
    database: Database,
    prover: Arc<Prover>,
    limits: SessionLimits,
    sessions: Cache<SessionTokenHash, Arc<LiveSession>>,
    machines: machines::Cached,
    /// Counts how often rights were forgotten.
    generation: AtomicU64,
    /// The changes that are known here, with all that hangs on them.
    applied: Mutex<Option<Counters>>,
    /// Counts what was heard of sessions that have ended: one that was being read meanwhile may be among them.
    ended: AtomicU64,
}

impl Accounts {
    /// Over a database and a password hasher.
    ///
    /// # Errors
    /// [`Error::Internal`] when the operating system gives no randomness.
    pub fn new(database: Database, passwords: Passwords, limits: SessionLimits, attempts: AttemptLimits) -> Result<Self, Error> {
        Ok(Self {
            prover: Arc::new(Prover::new(database.clone(), passwords, attempts)?),
            database,
            limits,
            sessions: Cache::new(SESSIONS_CACHED_MAX),
            machines: machines::Cached::new(),
            generation: AtomicU64::new(0),
            applied: Mutex::default(),
            ended: AtomicU64::new(0),
        })
    }

    /// Checks name and password and starts a session. `login` is a login or an e-mail address, or `org/login` where several
    /// orgs know the same one. A session that the caller had before ends. The new one ends after `lifetime`, if that is given.
    ///
    /// # Errors
    /// [`Error::WrongCredentials`], [`Error::TooMany`], [`Error::Busy`].
    pub async fn log_in(
        &self,
        login: &str,
        password: &str,
        address: IpAddr,
        previous: Option<&SessionToken>,
        lifetime: Option<Duration>,
    ) -> Result<(SessionToken, Arc<Actor>), Error> {
        let proved = self.prover.verify(AccountKind::User, login, password, address).await?;
        let actor = db::accounts::actor(&self.database, proved.account).await?.ok_or(Error::WrongCredentials)?;
        let token = self.start_session(&actor, previous, lifetime).await?;
        tracing::info!(target: "audit", login = actor.login, org = actor.org.0, %address, "logged in");
        Ok((token, Arc::new(actor)))
    }

    async fn start_session(
        &self,
        actor: &Actor,
        previous: Option<&SessionToken>,
        lifetime: Option<Duration>,
    ) -> Result<SessionToken, Error> {
        let token = SessionToken::mint()?;
        let (hash, previous) = (token.hash(), previous.map(SessionToken::hash));
        let now = self.database.now();
        let session =
            Session { account: actor.account, last_used: now, expires: now.plus(lifetime.unwrap_or(self.limits.absolute)) };
        self.database
            .write(move |connection| {
                Box::pin(async move {
                    if let Some(previous) = previous {
                        db::sessions::delete(connection, previous).await?;
                    }
                    db::sessions::insert(connection, hash, session).await
                })
            })
            .await?;
        Ok(token)
    }

    /// A session for the same caller in the place of one that is still good.
    ///
    /// # Errors
    /// [`Error::Unauthenticated`] when it isn't.
    pub async fn renew(&self, token: &SessionToken, lifetime: Duration) -> Result<(SessionToken, Arc<Actor>), Error> {
        let actor = self.session(token).await?.ok_or(Error::Unauthenticated)?;
        let renewed = self.start_session(&actor, Some(token), Some(lifetime)).await?;
        Ok((renewed, actor))
    }

    /// The caller that a session belongs to, or none when it has ended. Warm sessions touch no database.
    ///
    /// # Errors
    /// [`Error::Internal`] when the database can't be read.
    pub async fn session(&self, token: &SessionToken) -> Result<Option<Arc<Actor>>, Error> {
        let hash = token.hash();
        let live = match self.sessions.get(&hash) {
            Some(live) => live,
            None => match Box::pin(self.load(hash)).await? {
                Some(live) => live,
                None => return Ok(None),
            },
        };
        let now = self.database.now();
        if !self.has_ended(&live, now) {
            self.note_use(hash, &live, now);
            return Ok(Some(Arc::clone(&live.actor)));
        }
        self.sessions.remove(&hash);
        // It may have been used elsewhere meanwhile, where another node has written it down.
        let again = if now < live.expires { Box::pin(self.load(hash)).await? } else { None };
        Ok(again.filter(|live| !self.has_ended(live, now)).map(|live| {
            self.note_use(hash, &live, now);
            Arc::clone(&live.actor)
        }))
    }

    fn has_ended(&self, live: &LiveSession, now: Timestamp) -> bool {
        now >= live.expires || now >= Timestamp(live.last_used_us.load(Ordering::Relaxed)).plus(self.limits.idle)
    }

    fn note_use(&self, hash: SessionTokenHash, live: &LiveSession, now: Timestamp) {
        live.last_used_us.store(now.0, Ordering::Relaxed);
        if now >= Timestamp(live.touched_us.load(Ordering::Relaxed)).plus(self.limits.touch_every()) {
            live.touched_us.store(now.0, Ordering::Relaxed);
            self.touch_in_background(hash, now);
        }
    }

    async fn load(&self, hash: SessionTokenHash) -> Result<Option<Arc<LiveSession>>, Error> {
        let (generation, ended) = (self.generation(), self.ended.load(Ordering::SeqCst));
        let Some(session) = db::sessions::find(&self.database, hash).await? else { return Ok(None) };
        let Some(actor) = db::accounts::actor(&self.database, session.account).await? else { return Ok(None) };
        let live = Arc::new(LiveSession {
            actor: Arc::new(actor),
            last_used_us: AtomicI64::new(session.last_used.0),
            touched_us: AtomicI64::new(session.last_used.0),
            expires: session.expires,
        });
        self.sessions.insert(hash, Arc::clone(&live));
        if self.generation() != generation || self.ended.load(Ordering::SeqCst) != ended {
            // Rights changed, or a session ended, while this one was being read: the next use reads it again.
            self.sessions.remove(&hash);
        }
        Ok(Some(live))
    }

    fn touch_in_background(&self, hash: SessionTokenHash, now: Timestamp) {
        let database = self.database.clone();
        tokio::spawn(async move {
            let touched =
                database.write(move |connection| Box::pin(async move { db::sessions::touch(connection, hash, now).await })).await;
            if let Err(error) = touched {
                tracing::warn!(%error, "a session's last use could not be written down");
            }
        });
    }

    /// Ends one session at once.
    ///
    /// # Errors
    /// [`Error::Internal`] when that can't be stored.
    pub async fn log_out(&self, token: &SessionToken) -> Result<(), Error> {
        let hash = token.hash();
        self.database.write(move |connection| Box::pin(async move { db::sessions::delete(connection, hash).await })).await
    }

    /// Ends all sessions of an account at once and says how many there were.
    ///
    /// # Errors
    /// [`Error::Internal`] when that can't be stored.
    pub async fn log_out_everywhere(&self, actor: &Actor) -> Result<u64, Error> {
        let account = actor.account;
        let ended = self
            .database
            .write(move |connection| Box::pin(async move { db::sessions::delete_of_account(connection, account).await }))
            .await?;
        tracing::info!(target: "audit", login = actor.login, ended, "logged out everywhere");
        Ok(ended)
    }

    /// Forgets what is held in memory of what has changed.
    pub(crate) fn forget(&self, change: Change) {
        if !matches!(change, Change::Image(_)) {
            self.ended.fetch_add(1, Ordering::SeqCst);
        }
        match change {
            Change::Session(hash) => {
                self.sessions.remove(&hash);
            }
            Change::SessionsOf(account) => self.sessions.retain(|_, live| live.actor.account != account),
            Change::Everything => self.sessions.clear(),
            Change::Image(_) => {}
        }
    }

    /// Drops what the attempt counters no longer need.
    pub fn forget_old_attempts(&self) {
        self.prover.attempts.forget_old();
    }

    pub(crate) fn passwords(&self) -> &Passwords {
        &self.prover.passwords
    }

    pub(crate) fn limits(&self) -> SessionLimits {
        self.limits
    }
}
