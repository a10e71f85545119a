//! Turns at the threads that hash. Whoever waits, waits in the queue of its network; the networks of a range take turns, and so
//! do the ranges: whoever sends from ten thousand addresses of one network delays its own logins, not another's. Accounts that have
//! proved themselves from there lately get every second turn for as long as any of them waits, however many strangers do.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::Error;

/// Nobody is told to come back sooner or later than this.
const RETRY_AFTER: std::ops::RangeInclusive<u64> = 1..=60;

/// Bounds on what runs and waits.
#[derive(Debug, Clone, Copy)]
pub struct HashLimits {
    /// Hashes computed at once.
    pub concurrent_max: usize,
    /// Who may wait, of accounts that are known where they come from, and as many of others.
    pub queue_max: usize,
    /// Of these, of one range of addresses.
    pub queue_per_range_max: usize,
    /// For how long.
    pub wait_max: Duration,
}

/// Who waits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asker {
    /// One address, or what counts as one.
    pub(crate) network: IpAddr,
    /// What the network is part of.
    pub(crate) range: IpAddr,
    /// Whether the account has proved itself from there lately.
    pub(crate) known: bool,
}

impl Asker {
    /// This process itself.
    pub(crate) const OURSELVES: Self = {
        let nowhere = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);
        Self { network: nowhere, range: nowhere, known: true }
    };
}

#[derive(Debug)]
pub(super) struct Turns {
    limits: HashLimits,
    state: Arc<Mutex<State>>,
}

/// A place among the threads, given back when dropped.
#[derive(Debug)]
pub(super) struct Turn {
    state: Arc<Mutex<State>>,
    began: Instant,
}

#[derive(Debug)]
struct State {
    free: usize,
    known: Queue,
    others: Queue,
    /// Whose turn it is, if both wait.
    known_next: bool,
    /// What a hash takes, smoothed.
    usual: Duration,
}

/// Ranges in the order of their turns, with those of their networks.
#[derive(Debug, Default)]
struct Queue {
    waiting: usize,
    order: VecDeque<IpAddr>,
    ranges: HashMap<IpAddr, RangeQueue>,
}

#[derive(Debug, Default)]
struct RangeQueue {
    waiting: usize,
    order: VecDeque<IpAddr>,
    networks: HashMap<IpAddr, VecDeque<oneshot::Sender<Turn>>>,
}

impl Turns {
    pub(super) fn new(limits: HashLimits) -> Self {
        let state = State {
            free: limits.concurrent_max,
            known: Queue::default(),
            others: Queue::default(),
            known_next: true,
            usual: Duration::ZERO,
        };
        Self { limits, state: Arc::new(Mutex::new(state)) }
    }

    /// Waits for a turn.
    ///
    /// # Errors
    /// [`Error::Busy`] says when those who wait now will be done: when the queue is full, when the wait was too long, or when it
    /// can't but be.
    pub(super) async fn turn(&self, asker: Asker) -> Result<Turn, Error> {
        let admitted = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            if state.free > 0 {
                state.free -= 1;
                return Ok(Turn { state: Arc::clone(&self.state), began: Instant::now() });
            }
            self.enqueue(&mut state, asker)?
        };
        match tokio::time::timeout(self.limits.wait_max, admitted).await {
            Ok(Ok(turn)) => Ok(turn),
            _ => Err(self.busy(&self.state.lock().unwrap_or_else(PoisonError::into_inner))),
        }
    }

    fn enqueue(&self, state: &mut State, asker: Asker) -> Result<oneshot::Receiver<Turn>, Error> {
        let usual = state.usual;
        let queue = if asker.known { &mut state.known } else { &mut state.others };
        let mut own = queue.waiting_of(asker.range);
        if own >= self.limits.queue_per_range_max || queue.waiting >= self.limits.queue_max {
            queue.forget_those_who_left();
            own = queue.waiting_of(asker.range);
        }
        let hopeless = self.time_for(own, usual) >= self.limits.wait_max;
        if hopeless || own >= self.limits.queue_per_range_max {
            return Err(self.busy(state));
        }
        if queue.waiting >= self.limits.queue_max && !queue.drop_last_of_longest(own) {
            return Err(self.busy(state));
        }
        let (admitted, receiver) = oneshot::channel();
        let queue = if asker.known { &mut state.known } else { &mut state.others };
        queue.push(asker, admitted);
        Ok(receiver)
    }

    /// What so many hashes take.
    fn time_for(&self, hashes: usize, usual: Duration) -> Duration {
        usual * u32::try_from(hashes / self.limits.concurrent_max.max(1)).unwrap_or(u32::MAX)
    }

    fn busy(&self, state: &State) -> Error {
        let wait = self.time_for(state.known.waiting + state.others.waiting, state.usual);
        Error::Busy { retry_after: Duration::from_secs(wait.as_secs().clamp(*RETRY_AFTER.start(), *RETRY_AFTER.end())) }
    }
}

impl State {
    /// The next one whose turn it is, if there is a thread for it. Who has left is passed over.
    fn next(&mut self) -> Option<oneshot::Sender<Turn>> {
        while self.free > 0 {
            let known = if self.known_next { self.known.waiting > 0 } else { self.others.waiting == 0 };
            let queue = if known { &mut self.known } else { &mut self.others };
            let waiter = queue.pop()?;
            if !waiter.is_closed() {
                self.known_next = !known;
                self.free -= 1;
                return Some(waiter);
            }
        }
        None
    }
}

impl Queue {
    fn push(&mut self, asker: Asker, waiter: oneshot::Sender<Turn>) {
        let range = self.ranges.entry(asker.range).or_default();
        if range.waiting == 0 {
            self.order.push_back(asker.range);
        }
        let network = range.networks.entry(asker.network).or_default();
        if network.is_empty() {
            range.order.push_back(asker.network);
        }
        network.push_back(waiter);
        range.waiting += 1;
        self.waiting += 1;
    }

    fn pop(&mut self) -> Option<oneshot::Sender<Turn>> {
        let address = self.order.pop_front()?;
        let range = self.ranges.get_mut(&address)?;
        let waiter = range.pop()?;
        self.waiting -= 1;
        if range.waiting == 0 {
            self.ranges.remove(&address);
        } else {
            self.order.push_back(address);
        }
        Some(waiter)
    }

    fn waiting_of(&self, range: IpAddr) -> usize {
        self.ranges.get(&range).map_or(0, |range| range.waiting)
    }

    /// Those who have waited too long hold no place.
    fn forget_those_who_left(&mut self) {
        for range in self.ranges.values_mut() {
            range.forget_those_who_left();
        }
        self.ranges.retain(|_, range| range.waiting > 0);
        let ranges = &self.ranges;
        self.order.retain(|address| ranges.contains_key(address));
        self.waiting = self.ranges.values().map(|range| range.waiting).sum();
    }

    /// Makes room for a range of which so many wait, at the cost of the range of which most do, if those are more.
    fn drop_last_of_longest(&mut self, own: usize) -> bool {
        let longest = self.ranges.iter().max_by_key(|(_, range)| range.waiting);
        let Some(address) = longest.filter(|(_, range)| range.waiting > own + 1).map(|(address, _)| *address) else {
            return false;
        };
        if let Some(range) = self.ranges.get_mut(&address) {
            range.drop_last_of_longest();
            self.waiting -= 1;
        }
        true
    }
}

impl RangeQueue {
    fn pop(&mut self) -> Option<oneshot::Sender<Turn>> {
        let address = self.order.pop_front()?;
        let network = self.networks.get_mut(&address)?;
        let waiter = network.pop_front()?;
        self.waiting -= 1;
        if network.is_empty() {
            self.networks.remove(&address);
        } else {
            self.order.push_back(address);
        }
        Some(waiter)
    }

    fn forget_those_who_left(&mut self) {
        for network in self.networks.values_mut() {
            network.retain(|waiter| !waiter.is_closed());
        }
        self.networks.retain(|_, network| !network.is_empty());
        let networks = &self.networks;
        self.order.retain(|address| networks.contains_key(address));
        self.waiting = self.networks.values().map(VecDeque::len).sum();
    }

    /// Of the network of which most wait, the one that came last; there are two in the range at least.
    fn drop_last_of_longest(&mut self) {
        let Some((address, network)) = self.networks.iter_mut().max_by_key(|(_, network)| network.len()) else { return };
        let address = *address;
        network.pop_back();
        self.waiting -= 1;
        if network.is_empty() {
            self.networks.remove(&address);
            self.order.retain(|other| *other != address);
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut refused = Vec::new();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.free += 1;
        state.usual = (state.usual * 7 + self.began.elapsed()) / 8;
        while let Some(waiter) = state.next() {
            // One that left at this very moment drops its turn, which must wait until the lock is free.
            if let Err(turn) = waiter.send(Turn { state: Arc::clone(&self.state), began: Instant::now() }) {
                refused.push(turn);
            }
        }
        drop(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: HashLimits =
        HashLimits { concurrent_max: 1, queue_max: 40, queue_per_range_max: 10, wait_max: Duration::from_secs(5) };

    /// `1.2` is host 2 of range 1; with `!` it is known there.
    fn asker(text: &str) -> Asker {
        let (place, known) = text.strip_suffix('!').map_or((text, false), |place| (place, true));
        let (range, host) = place.split_once('.').expect("range.host");
        let [range, host] = [range, host].map(|number| number.parse::<u8>().expect("number"));
        Asker { network: IpAddr::from([10, 0, range, host]), range: IpAddr::from([10, 0, range, 0]), known }
    }

    /// Lets these ask in this order while one runs, and tells in which order they are admitted.
    async fn admitted(limits: HashLimits, asking: &[&'static str]) -> Vec<&'static str> {
        let turns = Arc::new(Turns::new(limits));
        let running = turns.turn(asker("0.0")).await.expect("room");
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = Vec::new();
        for text in asking.iter().copied() {
            let (turns, order) = (Arc::clone(&turns), Arc::clone(&order));
            tasks.push(tokio::spawn(async move {
                let Ok(turn) = turns.turn(asker(text)).await else { return };
                order.lock().expect("lock").push(text);
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
    async fn ranges_take_turns_and_so_do_their_networks() {
        let asking = ["1.1", "1.1", "1.1", "1.2", "2.1", "1.3", "3.1"];
        assert_eq!(admitted(LIMITS, &asking).await, ["1.1", "2.1", "3.1", "1.2", "1.3", "1.1", "1.1"]);
    }

    #[tokio::test]
    async fn accounts_that_are_known_there_get_every_second_turn() {
        let asking = ["1.1", "2.1", "3.1", "4.1", "9.1!", "9.1!"];
        assert_eq!(admitted(LIMITS, &asking).await, ["9.1!", "1.1", "9.1!", "2.1", "3.1", "4.1"]);
    }

    #[tokio::test]
    async fn one_range_fills_its_own_queue_and_makes_room_for_others() {
        let limits = HashLimits { queue_max: 3, queue_per_range_max: 3, ..LIMITS };
        assert_eq!(admitted(limits, &["1.1", "1.1", "1.2", "1.3"]).await, ["1.1", "1.2", "1.1"], "the fourth is refused");
        assert_eq!(admitted(limits, &["1.1", "1.1", "1.1", "2.1"]).await, ["1.1", "2.1", "1.1"], "the third makes room");
        assert_eq!(admitted(limits, &["1.1", "2.1", "3.1", "4.1"]).await, ["1.1", "2.1", "3.1"], "nobody has more than one");
        assert_eq!(admitted(limits, &["1.1", "2.1", "3.1", "4.1!"]).await.len(), 4, "those who are known wait elsewhere");
    }

    #[tokio::test]
    async fn a_wait_has_an_end_and_those_who_left_hold_no_place() {
        let limits = HashLimits { wait_max: Duration::from_millis(20), ..LIMITS };
        let turns = Turns::new(limits);
        let running = turns.turn(asker("0.0")).await.expect("room");
        let Err(Error::Busy { retry_after }) = turns.turn(asker("1.1")).await else { panic!("it was admitted") };
        assert_eq!(retry_after, Duration::from_secs(1));
        drop(running);
        let again = turns.turn(asker("1.1")).await.expect("nobody is there");
        let state = turns.state.lock().expect("lock");
        assert_eq!((state.free, state.others.waiting, state.others.ranges.len()), (0, 0, 0));
        drop(state);
        drop(again);
    }

    #[tokio::test]
    async fn what_can_not_be_in_time_is_told_so_at_once() {
        let turns = Turns::new(LIMITS);
        let running = turns.turn(asker("0.0")).await.expect("room");
        turns.state.lock().expect("lock").usual = Duration::from_secs(3);
        let mut first = Box::pin(turns.turn(asker("1.1")));
        let mut second = Box::pin(turns.turn(asker("1.1")));
        assert!(futures_util::poll!(&mut first).is_pending() && futures_util::poll!(&mut second).is_pending());
        let Err(Error::Busy { retry_after }) = turns.turn(asker("1.2")).await else { panic!("it was admitted") };
        assert_eq!(retry_after, Duration::from_secs(6));
        drop(running);
    }
}
