//! Turns among the workers: so many processes, so much memory, and fair between orgs.
//!
//! Whoever waits, waits in the queue of its org, and the queues take turns: an org that asks for a thousand renderings delays its own,
//! not another's. The one whose turn it is may need more memory than there is; then nobody overtakes it, or it would wait for ever. Only
//! where its own org holds turns it is passed over, because it is those that it waits for.
//!
//! A turn may last longer than others can wait. So where one org holds all turns, or all memory, the first that waits of another org gets
//! a turn beyond them. It has as much memory for itself as all others have together: with less, one org's slow renderings would keep
//! another's largest pictures out. There is never more than one such turn.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::Error;
use crate::model::OrgId;

/// `Retry-After` where the queue is full.
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
    state: Shared,
}

/// Shared with every turn and everybody who waits.
#[derive(Debug, Clone)]
struct Shared(Arc<Mutex<State>>);

/// A place among the processes and in memory, given back when dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    state: Shared,
    org: OrgId,
    mib: u32,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Ordinary,
    /// See [the module](self). Its memory doesn't count with the ordinary turns'.
    Beyond,
}

/// A place in a queue, left when dropped.
#[derive(Debug)]
struct Place {
    state: Shared,
    number: u64,
}

#[derive(Debug)]
struct State {
    limits: AdmissionLimits,
    processes_free: usize,
    mib_free: u32,
    /// Ordinary turns by org; orgs without one are not in it.
    held: HashMap<OrgId, Held>,
    beyond_is_taken: bool,
    /// Orgs that wait, in the order of their turns. None of the queues is empty.
    queues: VecDeque<(OrgId, VecDeque<Waiter>)>,
    next_number: u64,
}

/// What the ordinary turns of one org take.
#[derive(Debug, Clone, Copy, Default)]
struct Held {
    processes: usize,
    mib: u32,
}

#[derive(Debug)]
struct Waiter {
    number: u64,
    mib: u32,
    admitted: oneshot::Sender<Turn>,
}

impl Admission {
    pub(crate) fn new(limits: AdmissionLimits) -> Self {
        let state = State {
            limits,
            processes_free: limits.concurrent_max,
            mib_free: limits.memory_mib_max,
            held: HashMap::new(),
            beyond_is_taken: false,
            queues: VecDeque::new(),
            next_number: 0,
        };
        Self { state: Shared(Arc::new(Mutex::new(state))) }
    }

    /// Waits for a turn. What would take more than all memory waits until it is alone.
    ///
    /// # Errors
    /// [`Error::TooMany`] when it is the org itself that asks too much: its queue is full, more than half of all who wait are its own, or
    /// the wait was too long and most of what it waited for was held by itself. [`Error::Busy`] when others are what is in its way.
    pub(crate) async fn turn(&self, org: OrgId, mib: u32) -> Result<Turn, Error> {
        let (limits, own, all, mut admitted, _place) = {
            let mut state = self.state.lock();
            let (limits, own, all) = (state.limits, state.waiting_of(org), state.waiting());
            let (number, admitted) = state.enqueue(org, mib.min(limits.memory_mib_max));
            let refused = self.state.admit_those_who_fit(&mut state);
            drop(state);
            drop(refused);
            (limits, own, all, admitted, Place { state: self.state.clone(), number })
        };
        if let Ok(turn) = admitted.try_recv() {
            return Ok(turn);
        }
        if own >= limits.queue_per_org_max {
            return Err(Error::TooMany { retry_after: RETRY_AFTER });
        }
        if all < limits.queue_max
            && let Ok(Ok(turn)) = tokio::time::timeout(limits.wait_max, admitted).await
        {
            return Ok(turn);
        }
        let is_its_own_doing = self.state.lock().holds_most(org) || (all >= limits.queue_max && 2 * own > all);
        Err(if is_its_own_doing { Error::TooMany { retry_after: RETRY_AFTER } } else { Error::Busy { retry_after: RETRY_AFTER } })
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Admits those whose turn it is, as long as there is room: after somebody came, left, or gave a turn back. Returns the turns of
    /// those who left at this very moment: they must be dropped when the lock is free.
    fn admit_those_who_fit(&self, state: &mut State) -> Vec<Turn> {
        let mut refused = Vec::new();
        while let Some((org, Waiter { mib, admitted, .. }, kind)) = state.next() {
            if let Err(turn) = admitted.send(Turn { state: self.clone(), org, mib, kind }) {
                refused.push(turn);
            }
        }
        refused
    }
}

impl State {
    fn waiting(&self) -> usize {
        self.queues.iter().map(|(_, queue)| queue.len()).sum()
    }

    fn waiting_of(&self, org: OrgId) -> usize {
        self.queues.iter().find(|(of, _)| *of == org).map_or(0, |(_, queue)| queue.len())
    }

    /// Whether more than half of the processes or of the memory is one org's.
    fn holds_most(&self, org: OrgId) -> bool {
        let Some(held) = self.held.get(&org) else { return false };
        2 * held.processes > self.limits.concurrent_max || held.mib > self.limits.memory_mib_max / 2
    }

    fn has_room(&self, mib: u32) -> bool {
        self.processes_free > 0 && self.mib_free >= mib
    }

    fn enqueue(&mut self, org: OrgId, mib: u32) -> (u64, oneshot::Receiver<Turn>) {
        let (admitted, receiver) = oneshot::channel();
        let number = self.next_number;
        self.next_number += 1;
        let waiter = Waiter { number, mib, admitted };
        match self.queues.iter_mut().find(|(of, _)| *of == org) {
            Some((_, queue)) => queue.push_back(waiter),
            None => self.queues.push_back((org, VecDeque::from([waiter]))),
        }
        (number, receiver)
    }

    /// An admitted waiter is removed from its queue.
    fn leave(&mut self, number: u64) {
        for (_, queue) in &mut self.queues {
            queue.retain(|waiter| waiter.number != number);
        }
        self.queues.retain(|(_, queue)| !queue.is_empty());
    }

    /// Takes the next one out of its queue, if there is room for it.
    fn next(&mut self) -> Option<(OrgId, Waiter, Kind)> {
        if let Some(index) = self.whose_turn() {
            let (org, waiter) = self.take_from(index)?;
            self.processes_free -= 1;
            self.mib_free -= waiter.mib;
            let held = self.held.entry(org).or_default();
            held.processes += 1;
            held.mib += waiter.mib;
            return Some((org, waiter, Kind::Ordinary));
        }
        let (org, waiter) = self.take_from(self.kept_out()?)?;
        self.beyond_is_taken = true;
        Some((org, waiter, Kind::Beyond))
    }

    /// The first queue, if there is room for its front. A front that finds no room because its own org holds turns is passed over: it
    /// waits for them, and others need not.
    fn whose_turn(&self) -> Option<usize> {
        for (index, (org, queue)) in self.queues.iter().enumerate() {
            if queue.front().is_some_and(|waiter| self.has_room(waiter.mib)) {
                return Some(index);
            }
            if !self.held.contains_key(org) {
                return None;
            }
        }
        None
    }

    /// The first queue that another org keeps out by holding every turn or all memory. Those who only wait for somebody before them are
    /// not kept out.
    fn kept_out(&self) -> Option<usize> {
        if self.beyond_is_taken || self.limits.concurrent_max < 2 || self.held.len() != 1 {
            return None;
        }
        self.queues.iter().position(|(org, queue)| {
            !self.held.contains_key(org) && queue.front().is_some_and(|waiter| !self.has_room(waiter.mib))
        })
    }

    /// The first one of a queue, which has its next turn after all others.
    fn take_from(&mut self, index: usize) -> Option<(OrgId, Waiter)> {
        let (org, mut queue) = self.queues.remove(index)?;
        let waiter = queue.pop_front()?;
        if !queue.is_empty() {
            self.queues.push_back((org, queue));
        }
        Some((org, waiter))
    }

    fn give_back(&mut self, org: OrgId, mib: u32, kind: Kind) {
        if kind == Kind::Beyond {
            self.beyond_is_taken = false;
            return;
        }
        self.processes_free += 1;
        self.mib_free += mib;
        if let Some(held) = self.held.get_mut(&org) {
            held.processes -= 1;
            held.mib -= mib;
            if held.processes == 0 {
                self.held.remove(&org);
            }
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = self.state.lock();
        state.give_back(self.org, self.mib, self.kind);
        let refused = self.state.admit_those_who_fit(&mut state);
        drop(state);
        drop(refused);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.state.lock();
        state.leave(self.number);
        let refused = self.state.admit_those_who_fit(&mut state);
        drop(state);
        drop(refused);
    }
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

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
        let limits = AdmissionLimits { concurrent_max: 3, ..LIMITS };
        let admission = Admission::new(limits);
        let small = [admission.turn(OrgId(1), 30).await.expect("room"), admission.turn(OrgId(2), 30).await.expect("room")];
        let large = admission.turn(OrgId(3), 1000);
        tokio::pin!(large);
        assert!(futures_util::poll!(&mut large).is_pending());
        let later = admission.turn(OrgId(4), 1);
        tokio::pin!(later);
        assert!(futures_util::poll!(&mut later).is_pending(), "there is room, but it isn't its turn");
        drop(small);
        let large = large.await.expect("its turn");
        drop(later.await.expect("after it"));
        drop(large);
    }

    /// Else a slow rendering and a large one that waits for it would hold everybody up.
    #[tokio::test]
    async fn what_waits_for_its_own_org_is_in_nobody_elses_way() {
        let admission = Admission::new(AdmissionLimits { concurrent_max: 3, ..LIMITS });
        let slow = admission.turn(OrgId(1), 60).await.expect("room");
        let mut large = Box::pin(admission.turn(OrgId(1), 100));
        assert!(futures_util::poll!(&mut large).is_pending());
        let mut other = Box::pin(admission.turn(OrgId(2), 30));
        let Poll::Ready(Ok(turn)) = futures_util::poll!(&mut other) else {
            panic!("there is room, and that one waits for its own")
        };
        assert!(futures_util::poll!(&mut large).is_pending(), "its own slow one is still there");
        drop(slow);
        large.await.expect("its turn");
        drop(turn);
    }

    /// Turns that last for longer than others wait are no way to keep them out.
    #[tokio::test]
    async fn an_org_that_holds_every_turn_keeps_no_other_out() {
        let admission = Admission::new(AdmissionLimits { concurrent_max: 2, ..LIMITS });
        let held = [admission.turn(OrgId(1), 40).await.expect("room"), admission.turn(OrgId(1), 40).await.expect("room")];
        let mut more = Box::pin(admission.turn(OrgId(1), 1));
        assert!(futures_util::poll!(&mut more).is_pending(), "two are all that one org gets");
        let mut large = Box::pin(admission.turn(OrgId(3), 1000));
        let Poll::Ready(Ok(turn)) = futures_util::poll!(&mut large) else { panic!("at once, whatever it takes") };
        let mut other = Box::pin(admission.turn(OrgId(2), 70));
        assert!(futures_util::poll!(&mut other).is_pending(), "there is one beyond the others");
        drop(turn);
        let other = other.await.expect("the next one of others");
        drop(held);
        more.await.expect("a turn");
        drop(other);
    }

    /// Nor is memory: one large picture leaves a process and no room for another one.
    #[tokio::test]
    async fn an_org_that_holds_the_memory_keeps_no_others_picture_out() {
        let admission = Admission::new(AdmissionLimits { concurrent_max: 2, ..LIMITS });
        let held = admission.turn(OrgId(1), 80).await.expect("room");
        let mut own = Box::pin(admission.turn(OrgId(1), 80));
        assert!(futures_util::poll!(&mut own).is_pending(), "there is no room for two of one org");
        let mut other = Box::pin(admission.turn(OrgId(2), 80));
        let Poll::Ready(Ok(turn)) = futures_util::poll!(&mut other) else { panic!("at once") };
        assert!(futures_util::poll!(&mut own).is_pending());
        drop(turn);
        assert!(futures_util::poll!(&mut own).is_pending(), "that was not its memory");
        drop(held);
        own.await.expect("after its own");
    }

    /// A free process is nobody's who hung up.
    #[tokio::test]
    async fn whoever_leaves_makes_room_for_those_behind_at_once() {
        let limits = AdmissionLimits { concurrent_max: 2, ..LIMITS };
        let admission = Admission::new(limits);
        let running = admission.turn(OrgId(1), 60).await.expect("room");
        let mut large = Box::pin(admission.turn(OrgId(1), 60));
        assert!(futures_util::poll!(&mut large).is_pending(), "both do not fit into the memory");
        let mut behind = Box::pin(admission.turn(OrgId(1), 10));
        assert!(futures_util::poll!(&mut behind).is_pending(), "it isn't its turn");
        drop(large);
        let Poll::Ready(Ok(small)) = futures_util::poll!(&mut behind) else { panic!("the front one has left") };
        drop(small);
        // And who comes after one that left waits for nobody.
        let mut large = Box::pin(admission.turn(OrgId(1), 60));
        assert!(futures_util::poll!(&mut large).is_pending());
        drop(large);
        let mut next = Box::pin(admission.turn(OrgId(1), 10));
        assert!(matches!(futures_util::poll!(&mut next), Poll::Ready(Ok(_))));
        drop(running);
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
    async fn a_wait_has_an_end_and_the_answer_says_whose_turns_it_was_for() {
        let limits = AdmissionLimits { wait_max: Duration::from_millis(20), ..LIMITS };
        let admission = Admission::new(limits);
        let running = admission.turn(OrgId(0), 1).await.expect("room");
        assert!(matches!(admission.turn(OrgId(1), 1).await, Err(Error::Busy { .. })), "another one's");
        assert!(matches!(admission.turn(OrgId(0), 1).await, Err(Error::TooMany { .. })), "its own");
        drop(running);
        let admission = Admission::new(AdmissionLimits { concurrent_max: 3, ..limits });
        let large = admission.turn(OrgId(0), 51).await.expect("room");
        assert!(matches!(admission.turn(OrgId(0), 50).await, Err(Error::TooMany { .. })), "its own, most of the memory");
        drop(large);
        let _shared = [admission.turn(OrgId(0), 50).await.expect("room"), admission.turn(OrgId(1), 50).await.expect("room")];
        assert!(matches!(admission.turn(OrgId(0), 1).await, Err(Error::Busy { .. })), "of both");
    }
}
