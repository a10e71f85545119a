//! Places of uploads under way, in shares of accounts and orgs, and turns at what costs the service
//! something.
//!
//! An upload has a place from its first byte until it is stored, and may take its time: clients on a
//! bad network drip for minutes. So there are many places, and neither an account nor an org can have
//! all of them. Writing to disk, inspecting and storing is done in turns, of which there are few. A
//! turn is short, and they go round among orgs. What uploads hold in memory is bounded in sum; what
//! doesn't fit goes to disk.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::Error;
use crate::admission::{self, Admission, AdmissionLimits};
use crate::model::{AccountId, Actor, OrgId};
use crate::spool::Memory;

/// An upload waits this long for its place, and for each turn.
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(20);

/// Bounds on uploads.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PlaceLimits {
    /// Uploads under way, of all orgs, of one org, of one account.
    pub(crate) open_max: usize,
    pub(crate) open_per_org_max: usize,
    pub(crate) open_per_account_max: usize,
    /// Turns at once.
    pub(crate) turns_max: usize,
    /// Bytes that all uploads together hold in memory.
    pub(crate) memory_bytes_max: usize,
    /// For a place, and for each turn.
    pub(crate) wait_max: Duration,
}

#[derive(Debug)]
pub(crate) struct Places {
    accounts: Shares<AccountId>,
    orgs: Shares<OrgId>,
    open: Admission,
    turns: Admission,
    turns_taken: Arc<AtomicUsize>,
    memory: Memory,
    wait_max: Duration,
}

/// A place among the uploads under way, given back when dropped.
#[derive(Debug)]
pub struct Place {
    _open: admission::Turn,
    _org: Share<OrgId>,
    _account: Share<AccountId>,
}

/// A turn at writing, inspecting or storing, given back when dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    _turn: admission::Turn,
    taken: Arc<AtomicUsize>,
}

impl Places {
    pub(crate) fn new(limits: PlaceLimits) -> Self {
        // Who waits has a place in the shares of its account and org, which bound the queues.
        let admission = |concurrent_max| {
            Admission::new(AdmissionLimits {
                concurrent_max,
                memory_mib_max: 0,
                queue_max: usize::MAX,
                queue_per_org_max: usize::MAX,
                wait_max: limits.wait_max,
            })
        };
        Self {
            accounts: Shares::new(limits.open_per_account_max),
            orgs: Shares::new(limits.open_per_org_max),
            open: admission(limits.open_max),
            turns: admission(limits.turns_max),
            turns_taken: Arc::default(),
            memory: Memory::new(limits.memory_bytes_max),
            wait_max: limits.wait_max,
        }
    }

    /// Waits for a place.
    ///
    /// # Errors
    /// [`Error::TooMany`] when the account or the org itself had all of its places for long, [`Error::Busy`] when all together had.
    pub(crate) async fn place(&self, actor: &Actor) -> Result<Place, Error> {
        let until = Instant::now() + self.wait_max;
        let shares = async { (self.accounts.take(actor.account).await, self.orgs.take(actor.org).await) };
        let shares = tokio::time::timeout_at(until, shares).await;
        let (account, org) = shares.map_err(|_| Error::TooMany { retry_after: self.wait_max })?;
        let open = tokio::time::timeout_at(until, self.open.turn(actor.org, 0)).await;
        let open = open.unwrap_or(Err(Error::Busy { retry_after: self.wait_max }))?;
        Ok(Place { _open: open, _org: org, _account: account })
    }

    /// Waits for a turn.
    ///
    /// # Errors
    /// [`Error::Busy`] when the wait was too long.
    pub(crate) async fn turn(&self, org: OrgId) -> Result<Turn, Error> {
        let turn = self.turns.turn(org, 0).await?;
        self.turns_taken.fetch_add(1, Ordering::Relaxed);
        Ok(Turn { _turn: turn, taken: Arc::clone(&self.turns_taken) })
    }

    /// Whether somebody has a turn.
    pub(crate) fn are_busy(&self) -> bool {
        self.turns_taken.load(Ordering::Relaxed) > 0
    }

    /// The memory that uploads share.
    pub(crate) fn memory(&self) -> Memory {
        self.memory.clone()
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

/// As many places for everybody; those who have none are forgotten.
#[derive(Debug)]
struct Shares<K> {
    each_max: usize,
    held: Held<K>,
}

type Held<K> = Arc<Mutex<HashMap<K, Arc<Semaphore>>>>;

/// One place of somebody's share.
#[derive(Debug)]
struct Share<K: Copy + Eq + Hash> {
    held: Held<K>,
    key: K,
    places: Arc<Semaphore>,
    permit: Option<OwnedSemaphorePermit>,
}

impl<K: Copy + Eq + Hash> Shares<K> {
    fn new(each_max: usize) -> Self {
        Self { each_max, held: Arc::default() }
    }

    async fn take(&self, key: K) -> Share<K> {
        let places = {
            let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(held.entry(key).or_insert_with(|| Arc::new(Semaphore::new(self.each_max))))
        };
        // Made before the wait, so that the entry goes too when the caller leaves meanwhile.
        let mut share = Share { held: Arc::clone(&self.held), key, places, permit: None };
        share.permit = Arc::clone(&share.places).acquire_owned().await.ok();
        share
    }
}

impl<K: Copy + Eq + Hash> Drop for Share<K> {
    fn drop(&mut self) {
        self.permit = None;
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        // This one and the map's: nobody else has or waits for a place.
        if Arc::strong_count(&self.places) == 2 {
            held.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::poll;

    use super::*;

    const LIMITS: PlaceLimits = PlaceLimits {
        open_max: 6,
        open_per_org_max: 4,
        open_per_account_max: 3,
        turns_max: 1,
        memory_bytes_max: 1 << 20,
        wait_max: WAIT_MAX,
    };

    fn actor(org: i64, account: u128) -> Actor {
        let account = AccountId(uuid::Uuid::from_u128(account));
        Actor { org: OrgId(org), org_name: String::new(), account, login: String::new(), actions: Default::default() }
    }

    /// Who has asked too much must be told apart from who is in everybody's way: a balancer or a client acts on it.
    #[tokio::test]
    async fn who_has_all_of_its_own_places_is_told_so_and_the_others_that_all_are_taken() {
        let places = Places::new(PlaceLimits { wait_max: Duration::from_millis(20), ..LIMITS });
        let (greedy, colleague, stranger) = (actor(1, 1), actor(1, 2), actor(2, 3));
        let mut held = Vec::new();
        for who in [&greedy, &greedy, &greedy, &colleague] {
            held.push(places.place(who).await.expect("its share"));
        }
        for (who, whose) in [(&greedy, "the account's"), (&colleague, "the org's")] {
            assert!(matches!(places.place(who).await, Err(Error::TooMany { .. })), "{whose} share is used up");
        }
        for _ in 0..2 {
            held.push(places.place(&stranger).await.expect("a free one"));
        }
        assert!(matches!(places.place(&stranger).await, Err(Error::Busy { .. })), "all are taken, and not by this one");
    }

    #[tokio::test]
    async fn neither_an_account_nor_an_org_has_all_places() {
        let places = Places::new(LIMITS);
        let (greedy, other, stranger) = (actor(1, 1), actor(1, 2), actor(2, 3));
        let mut held = Vec::new();
        for _ in 0..3 {
            held.push(places.place(&greedy).await.expect("its share"));
        }
        let mut fourth = pin!(places.place(&greedy));
        assert!(poll!(&mut fourth).is_pending(), "the account has its share");
        held.push(places.place(&other).await.expect("of the same org"));
        let mut fifth = pin!(places.place(&other));
        assert!(poll!(&mut fifth).is_pending(), "the org has its share");
        let mut others = Vec::new();
        for _ in 0..2 {
            others.push(places.place(&stranger).await.expect("of another org"));
        }
        let mut third = pin!(places.place(&stranger));
        assert!(poll!(&mut third).is_pending(), "all have theirs");
        held.remove(0);
        // Nobody gets a place by another one's leaving its share.
        assert!(poll!(&mut fourth).is_pending(), "the org's share went to who waited for it");
        third.await.expect("a place of all");
        held.clear();
        drop((fourth.await.expect("its share again"), fifth.await.expect("its share again"), others));
        assert!(places.accounts.held.lock().expect("lock").is_empty());
        assert!(places.orgs.held.lock().expect("lock").is_empty());
    }

    #[tokio::test]
    async fn turns_are_few_and_tell_whether_somebody_is_at_work() {
        let places = Places::new(LIMITS);
        let held = places.turn(OrgId(1)).await.expect("a turn");
        assert!(places.are_busy());
        let (mut again, mut other) = (pin!(places.turn(OrgId(1))), pin!(places.turn(OrgId(1))));
        assert!(poll!(&mut again).is_pending() && poll!(&mut other).is_pending());
        drop(held);
        drop(again.await.expect("a turn"));
        drop(other.await.expect("a turn"));
        assert!(!places.are_busy());
    }
}
