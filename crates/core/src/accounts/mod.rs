//! Logging in, staying logged in, logging out; machines that prove themselves with every request stand in [`machines`].

mod machines;

pub use machines::OutsideCaller;

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use quick_cache::sync::Cache;

use crate::Error;
use crate::changes::Change;
use crate::db::accounts::Account;
use crate::db::sessions::Session;
use crate::db::{self, Database};
use crate::model::{AccountKind, Actor, SessionToken, SessionTokenHash, Timestamp};
use crate::passwords::{PASSWORD_BYTES_MAX, Passwords};

/// Sessions held in memory; each is a few hundred bytes.
const SESSIONS_CACHED_MAX: usize = 20_000;
/// A session's last use is written down at most this often.
const TOUCH_EVERY: Duration = Duration::from_secs(60);

/// Bounds on sessions and on attempts to log in.
#[derive(Debug, Clone, Copy)]
pub struct SessionLimits {
    /// A session ends when unused for this long.
    pub idle: Duration,
    /// A session ends this long after the login.
    pub absolute: Duration,
    /// Attempts for one account within [`SessionLimits::window`].
    pub attempts_per_account_max: NonZeroU32,
    /// Attempts from one address within [`SessionLimits::window`].
    pub attempts_per_address_max: NonZeroU32,
    /// Attempts come back evenly over this time.
    pub window: Duration,
}

/// A session as it is used: the caller, and until when.
#[derive(Debug)]
struct LiveSession {
    actor: Arc<Actor>,
    last_used_us: AtomicI64,
    expires: Timestamp,
}

/// Sessions and the way to get one.
#[derive(Debug)]
pub struct Accounts {
    database: Database,
    passwords: Passwords,
    limits: SessionLimits,
    by_account: DefaultKeyedRateLimiter<String>,
    by_address: DefaultKeyedRateLimiter<IpAddr>,
    sessions: Cache<SessionTokenHash, Arc<LiveSession>>,
    machines: machines::Cached,
    generation: AtomicI64,
    /// Counts what was heard of sessions that have ended: one that was being read meanwhile may be among them.
    ended: AtomicU64,
}

impl Accounts {
    /// Over a database and a password hasher.
    ///
    /// # Errors
    /// [`Error::Internal`] when the operating system gives no randomness.
    pub fn new(database: Database, passwords: Passwords, limits: SessionLimits) -> Result<Self, Error> {
        let quota = |attempts: NonZeroU32| {
            Quota::with_period(limits.window / attempts.get()).unwrap_or(Quota::per_second(attempts)).allow_burst(attempts)
        };
        Ok(Self {
            database,
            passwords,
            limits,
            by_account: RateLimiter::keyed(quota(limits.attempts_per_account_max)),
            by_address: RateLimiter::keyed(quota(limits.attempts_per_address_max)),
            sessions: Cache::new(SESSIONS_CACHED_MAX),
            machines: machines::Cached::new()?,
            generation: AtomicI64::new(-1),
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
        let account = self.verify(AccountKind::User, login, password, address).await?;
        let actor = db::accounts::actor(&self.database, account.id).await?.ok_or(Error::WrongCredentials)?;
        let token = self.start_session(&actor, previous, lifetime).await?;
        tracing::info!(target: "audit", login = actor.login, org = actor.org.0, %address, "logged in");
        metrics::counter!("imagewell_logins_total", "outcome" => "accepted").increment(1);
        Ok((token, Arc::new(actor)))
    }

    /// Whose login and secret these are. Unknown ones cost the same hash.
    async fn verify(&self, kind: AccountKind, login: &str, secret: &str, address: IpAddr) -> Result<Account, Error> {
        self.count_attempt(login, address)?;
        let mut found = db::accounts::login_candidates(&self.database, kind, login).await?;
        if found.len() > 1 {
            tracing::warn!(target: "audit", login, "several orgs know this login: it must be given as org/login");
            found.clear();
        }
        let account = found.pop().filter(|account| !account.disabled);
        let hash = account.as_ref().map(|account| account.secret_hash.clone());
        let fits = secret.len() <= PASSWORD_BYTES_MAX;
        let secret = if fits { secret.to_owned() } else { String::new() };
        let verified = self.passwords.verify(secret, hash).await? && fits;
        account.filter(|_| verified).ok_or_else(|| {
            tracing::warn!(target: "audit", kind = kind.as_str(), login, %address, "login refused");
            metrics::counter!("imagewell_logins_total", "outcome" => "refused").increment(1);
            Error::WrongCredentials
        })
    }

    fn count_attempt(&self, login: &str, address: IpAddr) -> Result<(), Error> {
        let now = DefaultClock::default().now();
        let allowed = self
            .by_address
            .check_key(&network(address))
            .and_then(|()| self.by_account.check_key(&db::accounts::fold(&login.chars().take(256).collect::<String>())));
        allowed.map_err(|refused| {
            tracing::warn!(target: "audit", login, %address, "login attempts are over the limit");
            metrics::counter!("imagewell_logins_total", "outcome" => "limited").increment(1);
            Error::TooMany { retry_after: refused.wait_time_from(now).max(Duration::from_secs(1)) }
        })
    }

    async fn start_session(
        &self,
        actor: &Actor,
        previous: Option<&SessionToken>,
        lifetime: Option<Duration>,
    ) -> Result<SessionToken, Error> {
        let token = SessionToken::mint()?;
        let (hash, previous) = (token.hash(), previous.map(SessionToken::hash));
        let now = Timestamp::now();
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
        let now = Timestamp::now();
        let last_used = Timestamp(live.last_used_us.load(Ordering::Relaxed));
        if now >= live.expires || now >= last_used.plus(self.limits.idle) {
            self.sessions.remove(&hash);
            return Ok(None);
        }
        if now >= last_used.plus(TOUCH_EVERY) {
            live.last_used_us.store(now.0, Ordering::Relaxed);
            self.touch_in_background(hash, now);
        }
        Ok(Some(Arc::clone(&live.actor)))
    }

    async fn load(&self, hash: SessionTokenHash) -> Result<Option<Arc<LiveSession>>, Error> {
        let (generation, ended) = (self.generation(), self.ended.load(Ordering::SeqCst));
        let Some(session) = db::sessions::find(&self.database, hash).await? else { return Ok(None) };
        let Some(actor) = db::accounts::actor(&self.database, session.account).await? else { return Ok(None) };
        let live = Arc::new(LiveSession {
            actor: Arc::new(actor),
            last_used_us: AtomicI64::new(session.last_used.0),
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

    /// Forgets cached rights when another process changed any, and says whether. Called every second by the background task.
    ///
    /// # Errors
    /// [`Error::Internal`] when the database can't be read; nothing cached is trusted then.
    pub async fn refresh_rights(&self) -> Result<bool, Error> {
        let current = db::accounts::generation(&self.database).await.inspect_err(|_| self.forget_rights())?;
        let changed = self.generation.swap(current, Ordering::SeqCst) != current;
        if changed {
            self.forget_rights();
        }
        Ok(changed)
    }

    /// Counts the changes of rights and rules that this process knows of: what was read between two different values may be old.
    pub(crate) fn generation(&self) -> i64 {
        self.generation.load(Ordering::SeqCst)
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

    pub(crate) fn forget_rights(&self) {
        self.sessions.clear();
        self.machines.clear();
    }

    /// Drops what the attempt counters no longer need.
    pub fn forget_old_attempts(&self) {
        self.by_account.retain_recent();
        self.by_address.retain_recent();
    }

    pub(crate) fn passwords(&self) -> &Passwords {
        &self.passwords
    }

    pub(crate) fn limits(&self) -> SessionLimits {
        self.limits
    }
}

/// What counts as one address: an IPv6 caller owns its whole /64.
#[must_use]
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) & !u128::from(u64::MAX)).into()),
        v4 => v4,
    }
}
