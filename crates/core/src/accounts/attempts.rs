//! Bounds on failed attempts to prove who one is. Right proofs are never counted: an attempt is charged before its secret is
//! hashed, so that many at once can't pass the bound together, and what was right is given back.
//!
//! What a caller is told may depend on what it typed and where it is, but never on whether such an account exists. So the bounds
//! that answer "too many" go by the text of the login. Those of the account that was found, whatever the spelling, are silent:
//! past them every secret is wrong.

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::known::range;
use crate::model::AccountId;

/// Bounds on failed attempts.
#[derive(Debug, Clone, Copy)]
pub struct AttemptLimits {
    /// For one account, and for one login, from one network within [`AttemptLimits::window`].
    pub per_account_max: NonZeroU32,
    /// From one network within [`AttemptLimits::window`], for whatever accounts.
    pub per_address_max: NonZeroU32,
    /// For one account, and for one login, from all networks together within [`AttemptLimits::window`]. The networks of one range (see
    /// [`range`]) have a quarter of it: who owns a range keeps nobody out who is elsewhere.
    pub per_account_anywhere_max: NonZeroU32,
    /// Attempts come back evenly over this time.
    pub window: Duration,
    /// For how long a network is known from which an account has proved itself: failures from elsewhere don't count there.
    pub known_for: Duration,
}

/// A login as it was typed, by a keyed hash.
pub(super) type LoginHash = [u8; 16];

/// Who attempts, as whom, and from where.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attempting {
    /// The whole text.
    pub(super) login: LoginHash,
    /// The text without an org in front of it and a domain behind it: what the spellings of a login have in common.
    pub(super) local_part: LoginHash,
    /// The account that has this login, if there is one.
    pub(super) account: Option<AccountId>,
    /// See [`super::network`].
    pub(super) network: IpAddr,
    /// Whether this account has proved itself from this network lately.
    pub(super) known: bool,
}

/// What failures are counted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Subject {
    Network(IpAddr),
    LoginFrom(LoginHash, IpAddr),
    LoginFromRange(LoginHash, IpAddr),
    Login(LoginHash),
    AccountFrom(AccountId, IpAddr),
    AccountFromRange(AccountId, IpAddr),
    Account(AccountId),
}

/// Of the attempts for one account from anywhere, one range of addresses has this part.
const RANGE_PART: u32 = 4;

/// Counts failures.
#[derive(Debug)]
pub(super) struct Attempts {
    limits: AttemptLimits,
    /// When each subject will have all its attempts back (the generic cell rate algorithm, ITU-T I.371).
    full_again: Mutex<HashMap<Subject, Instant>>,
}

/// An attempt under way. It counts as failed unless [`Attempt::give_back`] is called.
#[derive(Debug)]
#[must_use = "what turns out right is given back"]
pub(super) struct Attempt<'a> {
    attempts: &'a Attempts,
    charged: Vec<Subject>,
    /// The account's own bound is reached: no secret is right.
    pub(super) refused: bool,
    /// A bound on what was typed is reached, which is forgiven if the secret is right: try again after this time.
    pub(super) retry_after: Option<Duration>,
}

impl Attempts {
    pub(super) fn new(limits: AttemptLimits) -> Self {
        Self { limits, full_again: Mutex::default() }
    }

    /// Charges an attempt.
    ///
    /// # Errors
    /// How long to wait, when too many have failed.
    pub(super) fn begin(&self, who: Attempting) -> Result<Attempt<'_>, Duration> {
        let Attempting { login, local_part, account, network, known } = who;
        let now = Instant::now();
        let mut full_again = self.full_again.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = |subject: &Subject| self.wait(full_again.get(subject).copied(), *subject, now);
        let told = [
            Subject::Network(network),
            Subject::LoginFrom(local_part, network),
            Subject::LoginFromRange(login, range(network)),
            Subject::Login(login),
        ];
        let retry_after = told.iter().filter_map(wait).max();
        if let Some(retry_after) = retry_after.filter(|_| !known) {
            return Err(retry_after);
        }
        let silent = account.map(|account| {
            let around = Subject::AccountFromRange(account, range(network));
            [Subject::AccountFrom(account, network), around, Subject::Account(account)]
        });
        let refused = silent.is_some_and(|[here, around, anywhere]| {
            wait(&here).is_some() || (!known && (wait(&around).is_some() || wait(&anywhere).is_some()))
        });
        let subjects = told.into_iter().chain(silent.into_iter().flatten());
        // What was refused by a bound of its range doesn't count for everybody.
        let counts = |subject: &Subject| !(refused && matches!(subject, Subject::Account(_)));
        let charged: Vec<Subject> = subjects.filter(|subject| wait(subject).is_none() && counts(subject)).collect();
        for subject in &charged {
            let full = full_again.entry(*subject).or_insert(now);
            *full = (*full).max(now) + self.period(*subject);
        }
        drop(full_again);
        Ok(Attempt { attempts: self, charged, refused, retry_after })
    }

    /// How long until one more attempt is free; none when one is.
    fn wait(&self, full_again: Option<Instant>, subject: Subject, now: Instant) -> Option<Duration> {
        let full = full_again?.max(now) + self.period(subject);
        let wait = full.duration_since(now).saturating_sub(self.limits.window);
        (!wait.is_zero()).then_some(wait)
    }

    /// One attempt comes back in this time.
    fn period(&self, subject: Subject) -> Duration {
        let max = match subject {
            Subject::Network(_) => self.limits.per_address_max,
            Subject::LoginFrom(..) | Subject::AccountFrom(..) => self.limits.per_account_max,
            Subject::LoginFromRange(..) | Subject::AccountFromRange(..) => self.per_range_max(),
            Subject::Login(_) | Subject::Account(_) => self.limits.per_account_anywhere_max,
        };
        self.limits.window / max.get()
    }

    /// No less than one network has.
    fn per_range_max(&self) -> NonZeroU32 {
        let part = NonZeroU32::new(self.limits.per_account_anywhere_max.get() / RANGE_PART).unwrap_or(NonZeroU32::MIN);
        part.max(self.limits.per_account_max)
    }

    /// Drops what has all its attempts back.
    pub(super) fn forget_old(&self) {
        let now = Instant::now();
        self.full_again.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, full| *full > now);
    }
}

impl Attempt<'_> {
    /// It was right, or nothing was tried after all.
    pub(super) fn give_back(self) {
        let mut full_again = self.attempts.full_again.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        for subject in &self.charged {
            let Some(full) = full_again.get_mut(subject) else { continue };
            match full.checked_sub(self.attempts.period(*subject)) {
                Some(earlier) if earlier > now => *full = earlier,
                // As if there had been nothing, so that waiting in vain takes no memory.
                _ => {
                    full_again.remove(subject);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempts(per_account: u32, per_address: u32, anywhere: u32) -> Attempts {
        let max = |max| NonZeroU32::new(max).expect("above 0");
        Attempts::new(AttemptLimits {
            per_account_max: max(per_account),
            per_address_max: max(per_address),
            per_account_anywhere_max: max(anywhere),
            window: Duration::from_secs(3600),
            known_for: Duration::from_secs(3600),
        })
    }

    fn who(login: u8, account: Option<AccountId>, host: u8) -> Attempting {
        let network = IpAddr::from([10, 0, host, 1]);
        Attempting { login: [login; 16], local_part: [login; 16], account, network, known: false }
    }

    /// Fails so often, and says what became of it: "wrong", "refused" whatever the secret is, or "told" to wait.
    fn fail(attempts: &Attempts, who: Attempting, count: u32) -> Vec<&'static str> {
        (0..count)
            .map(|_| attempts.begin(who).map_or("told", |attempt| if attempt.refused { "refused" } else { "wrong" }))
            .collect()
    }

    #[test]
    fn what_is_told_does_not_depend_on_the_account() {
        let account = AccountId::mint();
        for found in [None, Some(account)] {
            let attempts = attempts(2, 9, 9);
            assert_eq!(fail(&attempts, who(1, found, 1), 3), ["wrong", "wrong", "told"], "{found:?}");
        }
        // Another spelling of the same account: nobody is told, and no secret is right.
        let attempts = attempts(2, 9, 9);
        assert_eq!(fail(&attempts, who(1, Some(account), 1), 2), ["wrong", "wrong"]);
        assert_eq!(fail(&attempts, who(2, Some(account), 1), 2), ["refused", "refused"]);
        assert_eq!(fail(&attempts, who(3, Some(account), 2), 1), ["wrong"], "elsewhere it is another's");
    }

    #[test]
    fn networks_and_accounts_have_bounds_of_their_own() {
        let attempts = attempts(2, 3, 4);
        assert_eq!([1, 2, 3, 4].map(|login| fail(&attempts, who(login, None, 1), 1)[0]), ["wrong", "wrong", "wrong", "told"]);
        let account = Some(AccountId::mint());
        assert_eq!(fail(&attempts, who(9, account, 2), 2), ["wrong", "wrong"]);
        assert_eq!(fail(&attempts, who(9, account, 3), 2), ["wrong", "wrong"]);
        assert_eq!(fail(&attempts, who(9, account, 4), 1), ["told"], "from anywhere");
        assert_eq!(fail(&attempts, Attempting { known: true, ..who(9, account, 5) }, 3), ["wrong", "wrong", "refused"]);
    }

    #[test]
    fn one_range_of_addresses_keeps_nobody_out_who_is_elsewhere() {
        let attempts = attempts(2, 1000, 12);
        for account in [None, Some(AccountId::mint())] {
            let login = if account.is_some() { 1 } else { 2 };
            for host in 1..100 {
                let network = IpAddr::from([10, 1, 1, host]);
                let _ = fail(&attempts, Attempting { network, ..who(login, account, 0) }, 2);
            }
            assert_eq!(fail(&attempts, who(login, account, 2), 2), ["wrong", "wrong"]);
            // Nor by other spellings of it.
            for spelling in 10..40 {
                let _ =
                    fail(&attempts, Attempting { network: IpAddr::from([10, 1, 1, spelling]), ..who(spelling, account, 0) }, 2);
            }
            assert_eq!(fail(&attempts, who(login, account, 3), 2), ["wrong", "wrong"]);
        }
    }

    #[test]
    fn what_was_right_is_given_back_and_many_at_once_are_counted() {
        let attempts = attempts(2, 9, 9);
        let account = Some(AccountId::mint());
        for _ in 0..10 {
            attempts.begin(who(1, account, 1)).expect("free").give_back();
        }
        let both = [attempts.begin(who(1, account, 1)).expect("free"), attempts.begin(who(1, account, 1)).expect("free")];
        let wait = attempts.begin(who(1, account, 1)).expect_err("two are under way");
        assert!(wait <= Duration::from_secs(1800) && wait > Duration::from_secs(1700), "{wait:?}");
        both.into_iter().for_each(Attempt::give_back);
        assert_eq!(attempts.full_again.lock().expect("lock").len(), 0);
    }
}
