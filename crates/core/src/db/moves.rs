//! What is noted of a move to another database and store, and who serves meanwhile.

use futures_util::future::BoxFuture;

use super::query::{query, statements};
use super::{Connection, Database, Refusal};
use crate::Error;
use crate::model::Timestamp;

statements! {
    FIND = "SELECT id, state, position, waits_until_us FROM moves WHERE side = $1";
    PUT = "INSERT INTO moves (side, id, state, position, waits_until_us) VALUES ($1, $2, $3, $4, $5) ON CONFLICT (side) \
        DO UPDATE SET id = excluded.id, state = excluded.state, position = excluded.position, waits_until_us = excluded.waits_until_us";
    DELETE = "DELETE FROM moves WHERE side = $1";
    /// A target that another move has left behind is taken over where it was never used.
    CLAIM = "INSERT INTO moves (side, id, state, waits_until_us, fence) VALUES ($1, $2, 'copying', 0, 1) ON CONFLICT (side) DO UPDATE SET \
        position = CASE WHEN moves.id = excluded.id THEN moves.position END, id = excluded.id, fence = moves.fence + 1 \
        WHERE moves.id = excluded.id OR (moves.side = 'target' AND moves.state = 'copying' AND moves.id NOT LIKE 'restore %') \
        RETURNING id, state, position, waits_until_us, fence";
    SET_TARGET = "UPDATE moves SET target = $4 WHERE side = $1 AND id = $2 AND fence = $3";
    TARGET = "SELECT target FROM moves WHERE side = 'source'";
    HOLD = "UPDATE moves SET fence = fence WHERE side = $1 AND id = $2 AND fence = $3";
    ADVANCE = "UPDATE moves SET state = $4, position = $5, waits_until_us = $6 \
        WHERE side = $1 AND id = $2 AND fence = $3 AND (state NOT IN ('moved', 'live') OR state = $4)";
    SEEN = "INSERT INTO nodes (id, seen_us, waits) VALUES ($1, $2, $3) ON CONFLICT (id) \
        DO UPDATE SET seen_us = excluded.seen_us, waits = excluded.waits";
    FOLLOWS = "UPDATE nodes SET follows = TRUE WHERE id = $1";
    FOLLOWING = "SELECT COUNT(*) FROM nodes WHERE follows";
    GONE = "DELETE FROM nodes WHERE id = $1";
    NODES = "SELECT id, waits FROM nodes WHERE seen_us > $1";
    DELETE_UNSEEN = "DELETE FROM nodes WHERE seen_us <= $1";
}

/// Which end of a move a database is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Source,
    Target,
}

impl Side {
    fn as_str(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Target => "target",
        }
    }
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The source serves as ever, but for nodes holding back all writes until the given moment, if it is to come.
    Copying,
    /// As that, and the source may be refusing changes. The target is not in use yet.
    Waiting,
    /// As that, and only the target knows whether it is in use.
    HandingOver,
    /// The source is not to be used any more.
    Moved,
    /// The target may be used.
    Live,
}

impl Stage {
    const ALL: [Self; 5] = [Self::Copying, Self::Waiting, Self::HandingOver, Self::Moved, Self::Live];

    fn as_str(self) -> &'static str {
        match self {
            Self::Copying => "copying",
            Self::Waiting => "waiting",
            Self::HandingOver => "handing over",
            Self::Moved => "moved",
            Self::Live => "live",
        }
    }
}

/// A move, as one side knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MoveState {
    pub(crate) id: String,
    pub(crate) stage: Stage,
    /// The last blob that was copied; none until all rows have been.
    pub(crate) position: Option<String>,
    pub(crate) waits_until: Timestamp,
}

pub(crate) async fn find(database: &Database, side: Side) -> Result<Option<MoveState>, Error> {
    let row: Option<(String, String, Option<String>, i64)> = query(FIND).bind(side.as_str()).fetch_optional(database).await?;
    row.map(|(id, stage, position, until)| state_of(id, &stage, position, until)).transpose()
}

fn state_of(id: String, stage: &str, position: Option<String>, until: i64) -> Result<MoveState, Error> {
    let stage = Stage::ALL.into_iter().find(|known| known.as_str() == stage);
    let stage = stage.ok_or_else(|| Error::Internal { detail: "a move is in a state that this version doesn't know".into() })?;
    Ok(MoveState { id, stage, position, waits_until: Timestamp(until) })
}

/// The right to write one side of a move. It ends when another process claims that side: each claim has the next fencing number, and
/// whatever is written by an older one fails as a whole. So a process that was paused, or has lost its lock, changes nothing any more.
#[derive(Debug, Clone)]
pub(crate) struct Claim {
    side: Side,
    id: String,
    fence: i64,
}

impl Claim {
    /// Takes one side over from the process that had it, and returns its state there. A move without a state is begun.
    ///
    /// # Errors
    /// [`Error::Invalid`] when another move is noted there.
    pub(crate) async fn take(database: &Database, side: Side, id: &str) -> Result<(Self, MoveState), Error> {
        type Row = (String, String, Option<String>, i64, i64);
        let wanted = id.to_owned();
        let claim = database.write_past_gate(
            None,
            move |connection| {
                Box::pin(async move { query(CLAIM).bind(side.as_str()).bind(wanted).fetch_optional::<Row>(connection).await })
            },
            Refusal::Expected,
        );
        let Some((id, stage, position, until, fence)) = claim.await? else {
            return Err(Error::invalid("another move of this database has begun meanwhile"));
        };
        let state = state_of(id.clone(), &stage, position, until)?;
        Ok((Self { side, id, fence }, state))
    }

    /// Lets a write go on only while this claim is good, and keeps others from claiming until that write is committed.
    ///
    /// # Errors
    /// [`Error::Invalid`] when another process has taken over.
    pub(crate) async fn hold(&self, connection: &mut Connection) -> Result<(), Error> {
        let held = query(HOLD).bind(self.side.as_str()).bind(&self.id).bind(self.fence).execute(connection).await?;
        self.held(held)
    }

    /// Notes what the target is called, for whoever starts on the source when the data has moved.
    ///
    /// # Errors
    /// As [`Claim::hold`].
    pub(crate) async fn name_target(&self, connection: &mut Connection, target: &str) -> Result<(), Error> {
        let name = query(SET_TARGET).bind(self.side.as_str()).bind(&self.id).bind(self.fence);
        self.held(name.bind(target).execute(connection).await?)
    }

    /// Notes how far the move is. What has moved, or is live, stays that.
    ///
    /// # Errors
    /// As [`Claim::hold`].
    pub(crate) async fn advance(&self, connection: &mut Connection, state: &MoveState) -> Result<(), Error> {
        let MoveState { stage, position, waits_until, .. } = state;
        let advance = query(ADVANCE).bind(self.side.as_str()).bind(&self.id).bind(self.fence);
        self.held(advance.bind(stage.as_str()).bind(position).bind(waits_until.0).execute(connection).await?)
    }

    fn held(&self, rows: u64) -> Result<(), Error> {
        if rows == 1 {
            return Ok(());
        }
        let side = self.side.as_str();
        Err(Error::invalid(format!(
            "another `imagewell migrate` has taken this move over, finished or cancelled it: this one changes nothing more ({side})"
        )))
    }
}

/// What the target of this source is called, where that was noted.
pub(crate) async fn target(database: &Database) -> Result<Option<String>, Error> {
    let target: Option<Option<String>> = query(TARGET).fetch_optional_value(database).await?;
    Ok(target.flatten())
}

pub(crate) async fn put(connection: &mut Connection, side: Side, state: &MoveState) -> Result<(), Error> {
    let MoveState { id, stage, position, waits_until } = state;
    let statement = query(PUT).bind(side.as_str()).bind(id).bind(stage.as_str()).bind(position).bind(waits_until.0);
    statement.execute(connection).await.map(|_| ())
}

pub(crate) async fn delete(connection: &mut Connection, side: Side) -> Result<(), Error> {
    query(DELETE).bind(side.as_str()).execute(connection).await.map(|_| ())
}

/// Notes that a node serves, and whether it holds back writes.
pub(crate) async fn seen(connection: &mut Connection, node: &str, now: Timestamp, waits: bool) -> Result<(), Error> {
    query(SEEN).bind(node).bind(now.0).bind(waits).execute(connection).await.map(|_| ())
}

/// Writes past the gate as long as the claim is good. Without one there is no move that another process could be at.
///
/// # Errors
/// As [`Claim::hold`], and what `work` returns.
pub(crate) async fn write<F>(database: &Database, claim: Option<&Claim>, work: F) -> Result<(), Error>
where
    F: for<'c> FnOnce(&'c mut Connection) -> BoxFuture<'c, Result<(), Error>> + Send + 'static,
{
    let claim = claim.cloned();
    let written = database.write_past_gate(
        None,
        move |connection| {
            Box::pin(async move {
                if let Some(claim) = claim {
                    claim.hold(connection).await?;
                }
                work(connection).await
            })
        },
        Refusal::Expected,
    );
    written.await
}

/// Notes that a node has gone on with the target.
pub(crate) async fn follows(connection: &mut Connection, node: &str) -> Result<(), Error> {
    query(FOLLOWS).bind(node).execute(connection).await.map(|_| ())
}

/// How many nodes have gone on with the target.
pub(crate) async fn following(database: &Database) -> Result<i64, Error> {
    query(FOLLOWING).fetch_value(database).await
}

/// A node has ended, or serves from elsewhere.
pub(crate) async fn gone(connection: &mut Connection, node: &str) -> Result<(), Error> {
    query(GONE).bind(node).execute(connection).await.map(|_| ())
}

/// Nodes that were seen since a moment, and whether they hold back writes.
pub(crate) async fn nodes(database: &Database, since: Timestamp) -> Result<Vec<(String, bool)>, Error> {
    query(NODES).bind(since.0).fetch_all(database).await
}

pub(crate) async fn delete_unseen(connection: &mut Connection, since: Timestamp) -> Result<(), Error> {
    query(DELETE_UNSEEN).bind(since.0).execute(connection).await.map(|_| ())
}
