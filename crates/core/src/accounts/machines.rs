//! Callers that prove themselves with every request: tills and clients with a secret, bearers of a token. A modern hash is slow
//! on purpose, so a proof that was found right is remembered for as long as its login leads to the same account and secret. What
//! the account may do is another matter, which is looked up again whenever rights in its org change.

use std::net::IpAddr;
use std::sync::Arc;

use quick_cache::sync::Cache;

use super::Accounts;
use super::proofs::{Fingerprint, Proved};
use super::rights::Changed;
use crate::model::{AccountId, AccountKind, Actor, Org, OrgId, OrgReference};
use crate::{Error, db};

/// Proofs and callers held in memory; each is a few hundred bytes.
const CACHED_MAX: usize = 10_000;

/// Somebody whom an outside identity provider vouches for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct OutsideCaller {
    /// Its org.
    pub org: OrgReference,
    /// Who vouches.
    pub issuer: String,
    /// Whom the issuer means.
    pub subject: String,
    /// Names of roles in that org.
    pub roles: Vec<String>,
}

/// What was found right.
#[derive(Debug)]
pub(super) struct Cached {
    proofs: Cache<Fingerprint, Remembered>,
    accounts: Cache<AccountId, Arc<Actor>>,
    outside: Cache<OutsideCaller, Arc<Actor>>,
}

/// A proof that was right, and what it came to when the changes of rights were so many.
#[derive(Debug, Clone)]
struct Remembered {
    proved: Proved,
    actor: Arc<Actor>,
    generation: u64,
}

impl Cached {
    pub(super) fn new() -> Self {
        Self { proofs: Cache::new(CACHED_MAX), accounts: Cache::new(CACHED_MAX), outside: Cache::new(CACHED_MAX) }
    }

    /// Forgets what callers may do. Proofs stay, and are checked against the database at their next use.
    pub(super) fn forget(&self, changed: &Changed) {
        self.accounts.retain(|_, actor| !changed.concerns(actor.org));
        self.outside.retain(|_, actor| !changed.concerns(actor.org));
    }
}

impl Accounts {
    /// The caller whose login and secret these are. `login` may name its org, as in `org/till01`. Many requests at once with one
    /// proof are one attempt.
    ///
    /// # Errors
    /// [`Error::WrongCredentials`], [`Error::TooMany`], [`Error::Busy`].
    pub async fn prove(&self, kind: AccountKind, login: &str, secret: &str, address: IpAddr) -> Result<Arc<Actor>, Error> {
        let fingerprint = self.prover.fingerprint(kind, login, secret);
        let generation = self.generation();
        match self.machines.proofs.get(&fingerprint) {
            Some(remembered) if remembered.generation == generation => return Ok(remembered.actor),
            Some(remembered) => {
                // Whatever has changed may be its secret, or whom its login leads to.
                if self.prover.find_again(kind, login).await? == Some(remembered.proved)
                    && let Some(actor) = self.actor(remembered.proved.account).await?
                {
                    self.prover.note(actor.account, address);
                    self.remember(fingerprint, remembered.proved, &actor, generation);
                    return Ok(actor);
                }
                self.machines.proofs.remove(&fingerprint);
            }
            None => {}
        }
        let proved = Box::pin(self.prover.verify(kind, login, secret, address)).await?;
        let actor = self.actor(proved.account).await?.ok_or(Error::WrongCredentials)?;
        if self.machines.proofs.get(&fingerprint).is_none() {
            tracing::info!(target: "audit", kind = kind.as_str(), login = actor.login, org = actor.org.0, %address, "proved itself");
        }
        self.remember(fingerprint, proved, &actor, generation);
        Ok(actor)
    }

    /// `generation` was counted before any of it was read: if something has changed meanwhile, it is checked again.
    fn remember(&self, fingerprint: Fingerprint, proved: Proved, actor: &Arc<Actor>, generation: u64) {
        self.machines.proofs.insert(fingerprint, Remembered { proved, actor: Arc::clone(actor), generation });
    }

    /// For how long a client's tokens are to live, where that is decided for it.
    ///
    /// # Errors
    /// [`Error::Internal`] when the database can't be read.
    pub async fn token_ttl_seconds(&self, actor: &Actor) -> Result<Option<u64>, Error> {
        let seconds = db::accounts::token_ttl_seconds(&self.database, actor.account).await?;
        Ok(seconds.and_then(|seconds| u64::try_from(seconds).ok()))
    }

    /// The caller that an account is, with its present rights; none when it is gone or disabled.
    ///
    /// # Errors
    /// [`Error::Internal`] when the database can't be read.
    pub async fn actor(&self, account: AccountId) -> Result<Option<Arc<Actor>>, Error> {
        if let Some(actor) = self.machines.accounts.get(&account) {
            return Ok(Some(actor));
        }
        let generation = self.generation();
        let Some(actor) = db::accounts::actor(&self.database, account).await?.map(Arc::new) else { return Ok(None) };
        self.machines.accounts.insert(account, Arc::clone(&actor));
        if self.generation() != generation {
            self.machines.accounts.remove(&account);
        }
        Ok(Some(actor))
    }

    /// The caller that an outside identity provider vouches for: with the rights of the named roles of its org. At its first
    /// request an account is made for it, so that what it stores has an owner.
    ///
    /// # Errors
    /// [`Error::Forbidden`] when there is no such org, or the account was disabled.
    pub async fn outside(&self, caller: OutsideCaller) -> Result<Arc<Actor>, Error> {
        if let Some(actor) = self.machines.outside.get(&caller) {
            return Ok(actor);
        }
        let generation = self.generation();
        let org = db::accounts::find_org(&self.database, &caller.org).await?.ok_or(Error::Forbidden)?;
        let account = self.outside_account(org.id, &caller).await?;
        let actions = db::accounts::actions_of_roles(&self.database, org.id, &caller.roles).await?;
        let (org, org_name) = (org.id, org.name);
        let actor = Arc::new(Actor { org, org_name, account, login: caller.subject.clone(), actions });
        self.machines.outside.insert(caller.clone(), Arc::clone(&actor));
        if self.generation() != generation {
            self.machines.outside.remove(&caller);
        }
        Ok(actor)
    }

    /// The org that is meant, if there is one.
    ///
    /// # Errors
    /// [`Error::Internal`] when the database can't be read.
    pub async fn org(&self, reference: &OrgReference) -> Result<Option<Org>, Error> {
        db::accounts::find_org(&self.database, reference).await
    }

    async fn outside_account(&self, org: OrgId, caller: &OutsideCaller) -> Result<AccountId, Error> {
        let key = format!("{} {}", caller.issuer, caller.subject);
        if let Some(account) = db::accounts::find_outside_account(&self.database, org, &key).await? {
            return Ok(account);
        }
        let (row_key, login, now) = (key.clone(), caller.subject.clone(), self.database.now());
        self.database
            .write(move |connection| {
                Box::pin(async move { db::accounts::insert_outside_account(connection, org, &row_key, &login, now).await })
            })
            .await?;
        tracing::info!(target: "audit", login = caller.subject, org = org.0, issuer = caller.issuer, "first request of an outside caller");
        db::accounts::find_outside_account(&self.database, org, &key).await?.ok_or(Error::Forbidden)
    }
}
