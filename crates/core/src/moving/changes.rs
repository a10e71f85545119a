//! What has changed since the rows were copied. While it is worked off more comes in, and that must become less: where it doesn't, because the
//! service changes things as fast as they are copied, writes are made to wait now and then.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::{Move, Progress};
use crate::Error;
use crate::db::Database;
use crate::db::copying::{self, Snapshot, TABLES, Table};
use crate::db::moves::{self, Claim, MoveState};
use crate::db::query::Value;
use crate::model::Timestamp;

/// A pass that takes no longer is the last one before all writes wait: those will have to wait for about as long as the next one takes.
const SHORT: Duration = Duration::from_secs(2);
/// The same where it can't be had shorter, since it took a brake to come there or there is hardly anything to do. Requests wait for that too.
const STILL_SHORT: Duration = Duration::from_secs(8);
/// Changes that are hardly any.
const FEW: usize = 50;
/// Of the time that the pass before took.
const CLEARLY_LESS: f64 = 0.75;
/// Passes in a row that don't become shorter, all but the first with the brake on, before it is given up.
const IN_VAIN_MAX: u32 = 3;
/// Writes wait for so long at a time while the brake is on,
const HELD: Duration = Duration::from_secs(4);
/// and are let through for so long between.
const LET_THROUGH: Duration = Duration::from_secs(1);

/// Whether writes may be made to wait now and then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Braking {
    Never,
    IfNeeded,
}

/// How the work on changes goes.
#[derive(Debug)]
pub(super) struct Pace {
    /// Time that the last pass took, or all that was copied before the first one.
    pub(super) took: Duration,
    /// Passes in a row that were long, and did not take clearly less than the one before.
    in_vain: u32,
}

impl Default for Pace {
    fn default() -> Self {
        Self { took: Duration::MAX, in_vain: 0 }
    }
}

impl Pace {
    /// Takes down a pass. Whether what has come in meanwhile is little enough for all writes to wait for it.
    fn is_little_after(&mut self, took: Duration, changes: usize, braked: bool) -> bool {
        let little = took < if braked || changes < FEW { STILL_SHORT } else { SHORT };
        self.in_vain = if !little && took > self.took.mul_f64(CLEARLY_LESS) { self.in_vain + 1 } else { 0 };
        self.took = took;
        little
    }
}

impl Move {
    /// Works off what has changed until that is little, or doesn't become less.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it doesn't become less although the brake is on.
    pub(super) async fn catch_up(&mut self, braking: Braking) -> Result<(), Error> {
        let mut brake = None;
        let caught_up = self.passes(braking, &mut brake).await;
        if let Some(brake) = brake {
            brake.release().await;
        }
        caught_up
    }

    async fn passes(&mut self, braking: Braking, brake: &mut Option<Brake>) -> Result<(), Error> {
        loop {
            if self.pace.in_vain > 0 && braking == Braking::Never {
                return Ok(());
            }
            if self.pace.in_vain > IN_VAIN_MAX {
                return Err(too_many_changes());
            }
            if self.pace.in_vain > 0 && brake.is_none() {
                (self.report)(Progress::Slowed);
                *brake = Some(Brake::put_on(&self.source, &self.source_claim, &self.state));
            }
            let begun = Instant::now();
            let changes = self.pass().await?;
            if self.pace.is_little_after(begun.elapsed(), changes, brake.is_some()) {
                return Ok(());
            }
        }
    }

    /// Works off what had changed when it began. How many changes those were.
    async fn pass(&mut self) -> Result<usize, Error> {
        let mut snapshot = Snapshot::of(&self.source).await?;
        let latest = snapshot.latest_change().await?;
        snapshot.end().await?;
        let mut all = 0;
        loop {
            match self.round(latest).await? {
                0 => return Ok(all),
                some => all += some,
            }
        }
    }

    /// Works off changes that were noted up to this number, blobs before the rows that point at them. How many; there may be more.
    pub(super) async fn round(&mut self, until: i64) -> Result<usize, Error> {
        let mut snapshot = Snapshot::of(&self.source).await?;
        let changes = snapshot.changes(until).await?;
        if changes.numbers.is_empty() {
            return snapshot.end().await.map(|()| 0);
        }
        let mut present: Vec<(&'static Table, Vec<Vec<Value<'static>>>)> = Vec::new();
        let mut absent: Vec<(&'static Table, Vec<Vec<Value<'static>>>)> = Vec::new();
        for (index, keys) in &changes.keys {
            let table = &TABLES[*index];
            let rows = snapshot.of_keys(table, &keys.iter().cloned().collect::<Vec<_>>()).await?;
            let found: BTreeSet<_> = rows.iter().map(|row| copying::key_of(table, row)).collect();
            absent.push((table, keys.difference(&found).cloned().collect()));
            present.push((table, rows));
        }
        snapshot.end().await?;
        for (table, rows) in present.iter().filter(|(table, _)| table.name == "versions") {
            let blobs = self.new_blobs(table, rows).await?;
            self.blobs_in_all = self.summary.blobs + blobs.len() as u64;
            self.copy_blobs(blobs).await?;
        }
        let (changed, removed) = (Arc::new(present), Arc::new(absent));
        let (present, absent) = (Arc::clone(&changed), Arc::clone(&removed));
        self.write_target(move |connection| {
            Box::pin(async move {
                for (table, keys) in absent.iter().rev() {
                    for key in keys {
                        copying::delete(connection, table, key).await?;
                    }
                }
                for (table, rows) in present.iter() {
                    copying::upsert(connection, table, rows).await?;
                }
                Ok(())
            })
        })
        .await?;
        for ((table, rows), (_, keys)) in changed.iter().zip(removed.iter()) {
            let mut all: Vec<_> = rows.iter().map(|row| copying::key_of(table, row)).collect();
            all.extend(keys.iter().cloned());
            self.expect_same(table, all, rows.clone()).await?;
        }
        let (count, numbers) = (changes.numbers.len(), changes.numbers);
        self.write_source(move |connection| Box::pin(async move { copying::forget_changes(connection, &numbers).await })).await?;
        (self.report)(Progress::Changes(count as u64));
        Ok(count)
    }
}

fn too_many_changes() -> Error {
    Error::invalid(
        "changes come in faster than they are copied, although writes are made to wait most of the time: allow more --bytes-per-second-max, or give \
         the same command again when there is less to do; the service goes on as it is",
    )
}

/// Makes the writes of all nodes wait now and then, until it is released or dropped.
struct Brake {
    release: oneshot::Sender<()>,
    pulses: JoinHandle<()>,
}

impl Brake {
    fn put_on(source: &Database, claim: &Claim, state: &MoveState) -> Self {
        let (release, mut released) = oneshot::channel();
        let (source, claim, state) = (source.clone(), claim.clone(), state.clone());
        let pulses = tokio::spawn(async move {
            loop {
                say(&source, &claim, &state, source.now().plus(HELD)).await;
                let ends = tokio::time::timeout(HELD, &mut released).await.is_ok();
                // Said too, because clocks differ.
                say(&source, &claim, &state, Timestamp(0)).await;
                if ends || tokio::time::timeout(LET_THROUGH, &mut released).await.is_ok() {
                    return;
                }
            }
        });
        Self { release, pulses }
    }

    async fn release(self) {
        drop(self.release);
        if let Err(error) = self.pulses.await {
            tracing::warn!(%error, "the brake broke");
        }
    }
}

/// A pulse that isn't heard is made up for by the next one.
async fn say(source: &Database, claim: &Claim, state: &MoveState, waits_until: Timestamp) {
    let (state, held) = (MoveState { waits_until, ..state.clone() }, claim.clone());
    let work =
        moves::write(source, Some(claim), move |connection| Box::pin(async move { held.advance(connection, &state).await }));
    if let Err(error) = work.await {
        tracing::warn!(%error, "nodes could not be asked to hold back writes");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn passes_that_become_shorter_need_no_brake() {
        let mut pace = Pace::default();
        for seconds in [100, 60, 20, 3] {
            assert!(!pace.is_little_after(seconds * SECOND, 1000, false));
            assert_eq!(pace.in_vain, 0);
        }
        assert!(pace.is_little_after(SECOND, 1000, false));
    }

    #[test]
    fn passes_that_stay_as_long_are_counted_until_one_is_shorter() {
        let mut pace = Pace { took: 20 * SECOND, in_vain: 0 };
        for in_vain in 1..=IN_VAIN_MAX + 1 {
            assert!(!pace.is_little_after(20 * SECOND, 1000, in_vain > 1));
            assert_eq!(pace.in_vain, in_vain);
        }
        assert!(!pace.is_little_after(10 * SECOND, 1000, true));
        assert_eq!(pace.in_vain, 0);
    }

    #[test]
    fn what_can_not_be_had_shorter_may_take_longer() {
        for (changes, braked, little) in [(1000, false, false), (1000, true, true), (10, false, true)] {
            assert_eq!(Pace::default().is_little_after(5 * SECOND, changes, braked), little);
        }
        assert!(!Pace::default().is_little_after(60 * SECOND, 10, true), "a few, but large");
    }
}
