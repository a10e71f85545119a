//! Proving who one is: login and secret → account. Here stand the order of it all and what is remembered of it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;
use tracing::Instrument as _;

use super::attempts::{AttemptLimits, Attempting, Attempts, LoginHash};
use super::known::{KnownPlaces, network, range};
use crate::Error;
use crate::db::accounts::{Account, fold};
use crate::db::{self, Database};
use crate::model::{AccountId, AccountKind};
use crate::passwords::{Asker, PASSWORD_BYTES_MAX, Passwords};

/// No login is longer, so only so many characters of it are told apart.
const LOGIN_CHARACTERS_MAX: usize = 256;

/// A proof, by a keyed hash: memory holds no secret.
pub(super) type Fingerprint = [u8; 32];

/// Which secret an account had when it was proved: a digest of its stored hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SecretVersion([u8; 32]);

impl SecretVersion {
    fn of(account: &Account) -> Self {
        Self(Sha256::digest(account.secret_hash.as_bytes()).into())
    }
}

/// Who was proved, by which of its secrets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Proved {
    pub(super) account: AccountId,
    pub(super) secret: SecretVersion,
}

/// Why nobody was, for all who wait for it.
#[derive(Debug, Clone)]
enum Refused {
    Wrong,
    TooMany(Duration),
    Busy(Duration),
    Invalid(String),
    Fault(String),
}

type Outcome = Result<Proved, Refused>;
/// A proof that is being judged, where it comes from.
type Flight = (Fingerprint, IpAddr);

/// Judges proofs.
#[derive(Debug)]
pub(super) struct Prover {
    database: Database,
    pub(super) passwords: Passwords,
    pub(super) attempts: Attempts,
    known: KnownPlaces,
    key: [u8; 32],
    flights: Mutex<HashMap<Flight, watch::Receiver<Option<Outcome>>>>,
}

/// What is to be judged.
#[derive(Debug, Clone)]
struct Claim {
    kind: AccountKind,
    login: String,
    secret: String,
    address: IpAddr,
}

impl Prover {
    pub(super) fn new(database: Database, passwords: Passwords, limits: AttemptLimits) -> Result<Self, Error> {
        let mut key = [0; 32];
        getrandom::fill(&mut key).map_err(|error| Error::internal("random bytes", &error))?;
        Ok(Self {
            database,
            passwords,
            attempts: Attempts::new(limits),
            known: KnownPlaces::new(limits.known_for),
            key,
            flights: Mutex::default(),
        })
    }

    pub(super) fn fingerprint(&self, kind: AccountKind, login: &str, secret: &str) -> Fingerprint {
        self.keyed_hash(&[kind.as_str(), login, secret])
    }

    fn keyed_hash(&self, parts: &[&str]) -> [u8; 32] {
        let mut mac = <Hmac<Sha256>>::new_from_slice(&self.key).unwrap_or_else(|_| unreachable!("HMAC takes keys of any length"));
        for part in parts {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part.as_bytes());
        }
        mac.finalize().into_bytes().into()
    }

    /// Whose login and secret these are. Many requests at once with one proof from one network are one hash and one attempt, which
    /// goes on when its caller has left: nobody hashes for free by hanging up.
    ///
    /// # Errors
    /// [`Error::WrongCredentials`], [`Error::TooMany`], [`Error::Busy`].
    pub(super) async fn verify(
        self: &Arc<Self>,
        kind: AccountKind,
        login: &str,
        secret: &str,
        address: IpAddr,
    ) -> Result<Proved, Error> {
        let flight = (self.fingerprint(kind, login, secret), network(address));
        let claim = || Claim { kind, login: login.to_owned(), secret: secret.to_owned(), address };
        let mut outcome = self.flight(flight, claim);
        let outcome = outcome.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone());
        match outcome {
            Some(Ok(proved)) => Ok(proved),
            Some(Err(Refused::Wrong)) => Err(Error::WrongCredentials),
            Some(Err(Refused::TooMany(retry_after))) => Err(Error::TooMany { retry_after }),
            Some(Err(Refused::Busy(retry_after))) => Err(Error::Busy { retry_after }),
            Some(Err(Refused::Invalid(reason))) => Err(Error::Invalid { reason }),
            Some(Err(Refused::Fault(detail))) => Err(Error::Internal { detail }),
            None => Err(Error::Internal { detail: "judging a proof broke off".into() }),
        }
    }

    /// Joins those who wait for this proof, or begins to judge it.
    fn flight(self: &Arc<Self>, flight: Flight, claim: impl FnOnce() -> Claim) -> watch::Receiver<Option<Outcome>> {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(outcome) = flights.get(&flight) {
            return outcome.clone();
        }
        let (sender, receiver) = watch::channel(None);
        flights.insert(flight, receiver.clone());
        drop(flights);
        let (prover, claim) = (Arc::clone(self), claim());
        let judging = async move {
            // Leaves the list also when it breaks off.
            let listed = Listed { prover: &prover, flight };
            let outcome = prover.judge(&claim).await;
            sender.send_replace(Some(outcome));
            drop(listed);
        };
        tokio::spawn(judging.in_current_span());
        receiver
    }

    async fn judge(&self, claim: &Claim) -> Outcome {
        let Claim { kind, login, address, .. } = claim;
        let outcome = self.try_out(claim).await;
        let label = match &outcome {
            Ok(_) => "accepted",
            Err(Refused::Wrong) => {
                tracing::warn!(target: "audit", kind = kind.as_str(), login, %address, "login refused");
                "refused"
            }
            Err(Refused::TooMany(_)) => {
                tracing::warn!(target: "audit", kind = kind.as_str(), login, %address, "login attempts are over the limit");
                "limited"
            }
            Err(Refused::Busy(_) | Refused::Invalid(_) | Refused::Fault(_)) => return outcome,
        };
        metrics::counter!("imagewell_logins_total", "outcome" => label).increment(1);
        outcome
    }

    /// Unknown logins cost the same hash, and are told the same.
    async fn try_out(&self, claim: &Claim) -> Outcome {
        let Claim { kind, login, secret, address } = claim;
        let found = self.find(*kind, login).await.map_err(refused)?;
        let account = found.as_ref().map(|account| account.id);
        let known = account.is_some_and(|account| self.known.network(account, *address));
        let (login, local_part) = self.login_hashes(*kind, login);
        let attempting = Attempting { login, local_part, account, network: network(*address), known };
        let attempt = self.attempts.begin(attempting).map_err(Refused::TooMany)?;
        let judged = found.as_ref().filter(|_| !attempt.refused);
        let hash = judged.map(|account| account.secret_hash.clone());
        let fits = secret.len() <= PASSWORD_BYTES_MAX;
        let secret = if fits { secret.clone() } else { String::new() };
        let asker = Asker {
            network: network(*address),
            range: range(*address),
            known: account.is_some_and(|account| self.known.range(account, *address)),
        };
        match (self.passwords.verify(secret, hash, asker).await, judged) {
            // A right secret is not a guess: a disabled till that goes on asking gets the same answer each time.
            (Ok(true), Some(account)) if fits && account.disabled => {
                attempt.give_back();
                Err(Refused::Wrong)
            }
            (Ok(true), Some(account)) if fits => {
                attempt.give_back();
                self.known.note(account.id, *address);
                Ok(Proved { account: account.id, secret: SecretVersion::of(account) })
            }
            (Ok(_), _) => Err(attempt.retry_after.map_or(Refused::Wrong, Refused::TooMany)),
            (Err(error), _) => {
                attempt.give_back();
                Err(refused(error))
            }
        }
    }

    /// The account that has this login. None has it where several orgs know it.
    async fn find(&self, kind: AccountKind, login: &str) -> Result<Option<Account>, Error> {
        let mut found = db::accounts::login_candidates(&self.database, kind, login).await?;
        if found.len() > 1 {
            tracing::warn!(target: "audit", login, "several orgs know this login: it must be given as org/login");
            return Ok(None);
        }
        Ok(found.pop())
    }

    /// The account that this login names now, whichever account proved it before.
    pub(super) async fn find_again(&self, kind: AccountKind, login: &str) -> Result<Option<Proved>, Error> {
        let found = self.find(kind, login).await?.filter(|account| !account.disabled);
        Ok(found.map(|account| Proved { account: account.id, secret: SecretVersion::of(&account) }))
    }

    /// The account has proved itself from there once more.
    pub(super) fn note(&self, account: AccountId, address: IpAddr) {
        self.known.note(account, address);
    }

    /// Of the whole login, and of its part that all spellings have in common.
    fn login_hashes(&self, kind: AccountKind, login: &str) -> (LoginHash, LoginHash) {
        let whole = fold(&login.chars().take(LOGIN_CHARACTERS_MAX).collect::<String>());
        let local_part = local_part(&whole);
        let hash = |purpose: &str, text: &str| {
            let hash = self.keyed_hash(&[purpose, kind.as_str(), text]);
            let mut first = LoginHash::default();
            first.copy_from_slice(&hash[..size_of::<LoginHash>()]);
            first
        };
        (hash("login", &whole), hash("local part", local_part))
    }
}

/// `org/login@domain` → `login`.
fn local_part(login: &str) -> &str {
    let login = login.split_once('/').map_or(login, |(_, login)| login);
    login.split_once('@').map_or(login, |(local, _)| local)
}

fn refused(error: Error) -> Refused {
    match error {
        Error::Busy { retry_after } => Refused::Busy(retry_after),
        Error::Invalid { reason } => Refused::Invalid(reason),
        Error::Internal { detail } => Refused::Fault(detail),
        other => Refused::Fault(other.to_string()),
    }
}

/// A proof among those that are being judged.
struct Listed<'a> {
    prover: &'a Prover,
    flight: Flight,
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        self.prover.flights.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.flight);
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;
    use crate::db::Place;
    use crate::passwords::HashLimits;

    #[test]
    fn spellings_of_a_login_have_a_part_in_common() {
        for login in ["up", "alpha/up", "up@x.test", "alpha/up@x.test"] {
            assert_eq!(local_part(login), "up", "{login}");
        }
        for (login, expected) in [("", ""), ("@", ""), ("a/b/c", "b/c"), ("/", "")] {
            assert_eq!(local_part(login), expected, "{login}");
        }
    }

    /// With one thread for hashing, and three failures for one account and address.
    async fn prover(folder: &std::path::Path) -> Arc<Prover> {
        let place = Place::File { file: folder.join("a.db"), readers_max: 2 };
        let database = Database::open(&place, Arc::default()).await.expect("opens");
        let max = |max| NonZeroU32::new(max).expect("above 0");
        let hour = Duration::from_secs(3600);
        let hashing = HashLimits { concurrent_max: 1, queue_max: 100, queue_per_range_max: 100, wait_max: hour };
        let limits = AttemptLimits {
            per_account_max: max(3),
            per_address_max: max(100),
            per_account_anywhere_max: max(100),
            window: hour,
            known_for: hour,
        };
        let passwords = Passwords::new(8, 1, hashing).expect("costs");
        Arc::new(Prover::new(database, passwords, limits).expect("random bytes"))
    }

    /// Starts to prove so many times, and waits until that many wait for the outcome of so many judgements.
    async fn attempt(prover: &Arc<Prover>, secrets: &[&str], host: u8) -> Vec<tokio::task::JoinHandle<Result<Proved, Error>>> {
        let attempts = secrets.iter().map(|secret| {
            let (prover, secret) = (Arc::clone(prover), (*secret).to_owned());
            let address = IpAddr::from([10, 0, 0, host]);
            tokio::spawn(async move { prover.verify(AccountKind::Till, "till01", &secret, address).await })
        });
        let attempts = attempts.collect();
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        attempts
    }

    #[tokio::test]
    async fn one_wrong_proof_many_times_at_once_is_one_attempt() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let prover = prover(folder.path()).await;
        let busy = prover.passwords.occupy().await;
        let same = attempt(&prover, &["wrong"; 14], 1).await;
        assert_eq!(prover.flights.lock().expect("lock").len(), 1);
        let elsewhere = attempt(&prover, &["wrong"; 14], 2).await;
        assert_eq!(prover.flights.lock().expect("lock").len(), 2, "another network is another's attempt");
        // When a caller hangs up, the attempt goes on for the others and is counted.
        same[0].abort();
        drop(busy);
        for attempt in same.into_iter().skip(1).chain(elsewhere) {
            assert!(matches!(attempt.await.expect("ends"), Err(Error::WrongCredentials)));
        }
        assert_eq!(prover.flights.lock().expect("lock").len(), 0);
        let mut outcomes = Vec::new();
        for secret in ["a", "b", "c", "d"] {
            let attempt = attempt(&prover, &[secret], 1).await.remove(0).await.expect("ends");
            outcomes.push(matches!(attempt, Err(Error::TooMany { .. })));
        }
        assert_eq!(outcomes, [false, false, true, true], "the fourteen were the first of three");
    }
}
