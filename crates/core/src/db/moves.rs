//! What is noted of a move to another database and store, and who serves meanwhile.

use super::query::{query, statements};
use super::{Connection, Database};
use crate::Error;
use crate::model::Timestamp;

statements! {
    FIND = "SELECT id, state, position, waits_until_us FROM moves WHERE side = $1";
    PUT = "INSERT INTO moves (side, id, state, position, waits_until_us) VALUES ($1, $2, $3, $4, $5) ON CONFLICT (side) \
        DO UPDATE SET id = excluded.id, state = excluded.state, position = excluded.position, waits_until_us = excluded.waits_until_us";
    DELETE = "DELETE FROM moves WHERE side = $1";
    SEEN = "INSERT INTO nodes (id, seen_us, waits) VALUES ($1, $2, $3) ON CONFLICT (id) \
        DO UPDATE SET seen_us = excluded.seen_us, waits = excluded.waits";
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
    /// As that, and the source may be refusing changes.
    Waiting,
    /// The source is not to be used any more.
    Moved,
    /// The target may be used.
    Live,
}

impl Stage {
    const ALL: [Self; 4] = [Self::Copying, Self::Waiting, Self::Moved, Self::Live];

    fn as_str(self) -> &'static str {
        match self {
            Self::Copying => "copying",
            Self::Waiting => "waiting",
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
    let Some((id, stage, position, until)) = row else { return Ok(None) };
    let stage = Stage::ALL.into_iter().find(|known| known.as_str() == stage);
    let stage = stage.ok_or_else(|| Error::Internal { detail: "a move is in a state that this version doesn't know".into() })?;
    Ok(Some(MoveState { id, stage, position, waits_until: Timestamp(until) }))
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
