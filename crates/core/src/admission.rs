//! Turns among the workers: so many processes, so much memory, and fair between orgs.
//!
//! Whoever waits, waits in the queue of its org, and the queues take turns: an org that asks for a thousand renderings delays its own,
//! not another's. The one whose turn it is may need more memory than there is; then nobody overtakes it, or it would wait for ever.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::Error;
use crate::model::OrgId;

/// What is told to those who find the queue full.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Bounds on what runs and waits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AdmissionLimits {
    pub(crate) concurrent_max: usize,
    pub(crate) memory_mib_max: u32,
    /// Of all orgs.
    pub(crate) queue_max: usize,
    /// Of one org.
    pub(crate) queue_per_org_max: usize,
    pub(crate) wait_max: Duration,
}

#[derive(Debug)]
pub(crate) struct Admission {
    limits: AdmissionLimits,
    state: Arc<Mutex<State>>,
}

/// A place among the processes and in memory, given back when dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    state: Arc<Mutex<State>>,
    mib: u32,
}

#[derive(Debug)]
struct State {
    processes_free: usize,
    mib_free: u32,
    waiting: usize,
    queues: HashMap<OrgId, VecDeque<Waiter>>,
    /// Orgs that wait, in the order of their turns.
    order: VecDeque<OrgId>,
}

#[derive(Debug)]
struct Waiter {
    mib: u32,
    admitted: oneshot::Sender<Turn>,
}

impl Admission {
    pub(crate) fn new(limits: AdmissionLimits) -> Self {
        let state = State {
            processes_free: limits.concurrent_max,
            mib_free: limits.memory_mib_max,
            waiting: 0,
            queues: HashMap::new(),
            order: VecDeque::new(),
        };
        Self { limits, state: Arc::new(Mutex::new(state)) }
    }

    /// Waits for a turn. What would take more than all memory waits until it is alone.
    ///
    /// # Errors
    /// [`Error::TooMany`] when the org's own queue is full, [`Error::Busy`] when everybody's is or the wait was too long.
    pub(crate) async fn turn(&self, org: OrgId, mib: u32) -> Result<Turn, Error> {
        let mib = mib.min(self.limits.memory_mib_max);
        let admitted = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            if state.waiting == 0 && state.has_room(mib) {
                state.take(mib);
                return Ok(Turn { state: Arc::clone(&self.state), mib });
            }
            state.forget_those_who_left();
            if state.queues.get(&org).map_or(0, VecDeque::len) >= self.limits.queue_per_org_max {
                return Err(Error::TooMany { retry_after: RETRY_AFTER });
            }
            if state.waiting >= self.limits.queue_max {
                return Err(Error::Busy { retry_after: RETRY_AFTER });
            }
            state.enqueue(org, mib)
        };
        match tokio::time::timeout(self.limits.wait_max, admitted).await {
            Ok(Ok(turn)) => Ok(turn),
            _ => Err(Error::Busy { retry_after: RETRY_AFTER }),
        }
    }
}

impl State {
    fn has_room(&self, mib: u32) -> bool {
        self.processes_free > 0 && self.mib_free >= mib
    }

    fn take(&mut self, mib: u32) {
        self.processes_free -= 1;
        self.mib_free -= mib;
    }

    fn enqueue(&mut self, org: OrgId, mib: u32) -> oneshot::Receiver<Turn> {
        let (admitted, receiver) = oneshot::channel();
        let queue = self.queues.entry(org).or_default();
        if queue.is_empty() {
            self.order.push_back(org);
        }
        queue.push_back(Waiter { mib, admitted });
        self.waiting += 1;
        receiver
    }

    /// Callers that have hung up or waited too long hold no place.
    fn forget_those_who_left(&mut self) {
        for queue in self.queues.values_mut() {
            queue.retain(|waiter| !waiter.admitted.is_closed());
        }
        self.queues.retain(|_, queue| !queue.is_empty());
        let queues = &self.queues;
        self.order.retain(|org| queues.contains_key(org));
        self.waiting = self.queues.values().map(VecDeque::len).sum();
    }

    /// The next one whose turn it is, if there is room for it.
    fn next(&mut self) -> Option<Waiter> {
        let org = *self.order.front()?;
        let mib = self.queues.get(&org)?.front()?.mib;
        if !self.has_room(mib) {
            return None;
        }
        self.order.pop_front();
        let queue = self.queues.get_mut(&org)?;
        let waiter = queue.pop_front();
        if queue.is_empty() {
            self.queues.remove(&org);
        } else {
            self.order.push_back(org);
        }
        self.waiting -= 1;
        self.take(mib);
        waiter
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut refused = Vec::new();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.processes_free += 1;
        state.mib_free += self.mib;
        state.forget_those_who_left();
        while let Some(Waiter { mib, admitted }) = state.next() {
            // One that left at this very moment drops its turn, which must wait until the lock is free.
            if let Err(turn) = admitted.send(Turn { state: Arc::clone(&self.state), mib }) {
                refused.push(turn);
            }
        }
        drop(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: AdmissionLimits = AdmissionLimits {
        concurrent_max: 1,
        memory_mib_max: 100,
        queue_max: 12,
        queue_per_org_max: 10,
        wait_max: Duration::from_secs(5),
    };

    /// Lets these ask in this order while one runs, and tells in which order they are admitted.
    async fn admitted(limits: AdmissionLimits, asking: &[(i64, u32)]) -> Vec<i64> {
        let admission = Arc::new(Admission::new(limits));
        let running = admission.turn(OrgId(0), 1).await.expect("room");
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = Vec::new();
        for (org, mib) in asking.iter().copied() {
            let (admission, order) = (Arc::clone(&admission), Arc::clone(&order));
            tasks.push(tokio::spawn(async move {
                let turn = admission.turn(OrgId(org), mib).await.expect("a turn");
                order.lock().expect("lock").push(org);
                tokio::task::yield_now().await;
                drop(turn);
            }));
            tokio::task::yield_now().await;
        }
        drop(running);
        futures_util::future::join_all(tasks).await;
        Arc::try_unwrap(order).expect("all are done").into_inner().expect("lock")
    }

    #[tokio::test]
    async fn orgs_take_turns_however_much_one_asks_for() {
        assert_eq!(admitted(LIMITS, &[(1, 1), (1, 1), (1, 1), (2, 1), (3, 1), (2, 1)]).await, [1, 2, 3, 1, 2, 1]);
    }

    #[tokio::test]
    async fn what_takes_all_memory_is_not_overtaken_for_ever() {
        let limits = AdmissionLimits { concurrent_max: 2, ..LIMITS };
        let admission = Admission::new(limits);
        let small = admission.turn(OrgId(1), 1).await.expect("room");
        let large = admission.turn(OrgId(2), 1000);
        tokio::pin!(large);
        assert!(futures_util::poll!(&mut large).is_pending());
        let later = admission.turn(OrgId(3), 1);
        tokio::pin!(later);
        assert!(futures_util::poll!(&mut later).is_pending(), "there is room, but it isn't its turn");
        drop(small);
        let large = large.await.expect("alone");
        assert!(futures_util::poll!(&mut later).is_pending());
        drop(large);
        later.await.expect("after it");
    }

    #[tokio::test]
    async fn full_queues_say_whose_they_are_and_those_who_leave_hold_no_place() {
        let admission = Admission::new(AdmissionLimits { queue_max: 3, queue_per_org_max: 2, ..LIMITS });
        let _running = admission.turn(OrgId(0), 1).await.expect("room");
        let mut first = Box::pin(admission.turn(OrgId(1), 1));
        let mut second = Box::pin(admission.turn(OrgId(1), 1));
        let mut third = Box::pin(admission.turn(OrgId(2), 1));
        for waiting in [&mut first, &mut second, &mut third] {
            assert!(futures_util::poll!(waiting).is_pending());
        }
        assert!(matches!(admission.turn(OrgId(1), 1).await, Err(Error::TooMany { .. })));
        assert!(matches!(admission.turn(OrgId(3), 1).await, Err(Error::Busy { .. })));
        drop(second);
        assert!(futures_util::poll!(Box::pin(admission.turn(OrgId(3), 1))).is_pending());
    }

    #[tokio::test]
    async fn a_wait_has_an_end() {
        let admission = Admission::new(AdmissionLimits { wait_max: Duration::from_millis(20), ..LIMITS });
        let _running = admission.turn(OrgId(0), 1).await.expect("room");
        assert!(matches!(admission.turn(OrgId(1), 1).await, Err(Error::Busy { .. })));
    }
}
