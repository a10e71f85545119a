//! Giving a move up: the source goes on as if it had never been moved.

use super::has_moved;
use crate::Error;
use crate::db::move_lock::MoveLock;
use crate::db::moves::{self, Claim, MoveState, Side, Stage};
use crate::db::{self, Database, triggers};

/// What to do where only the target can say whether it is in use.
#[derive(Debug, Clone)]
pub enum Abandoned {
    /// Ask it. Without a place nobody knows which it is, and the move is not given up.
    AskIn(Option<db::Place>),
    /// Don't: an operator knows that it was never used and never will be.
    Unasked,
}

/// Leaves the source as if it had never been moved. What was copied stays where it is. False where no move was noted.
///
/// # Errors
/// [`Error::Invalid`] when it has moved already, or may have, or another process is at it.
pub async fn cancel(place: &db::Place, target: Abandoned) -> Result<bool, Error> {
    let source = Database::open(place, std::sync::Arc::default()).await?;
    let _lock = MoveLock::take(place, &source).await?;
    let claimed = match moves::find(&source, Side::Source).await? {
        Some(found) => Some(Claim::take(&source, Side::Source, &found.id).await?),
        None => None,
    };
    if let Some((_, state)) = &claimed {
        refuse_if_in_use(state, target).await?;
    }
    let claim = claimed.as_ref().map(|(claim, _)| claim);
    triggers::allow_changes(&source, claim).await?;
    // Before the first change goes unnoted, nothing may be left that a move would go on from.
    moves::write(&source, claim, |connection| Box::pin(moves::delete(connection, Side::Source))).await?;
    // Nobody else can be at it: there is no move, and the lock is ours.
    triggers::stop_noting(&source, None).await?;
    source.close().await;
    Ok(claimed.is_some())
}

/// Whoever has claimed the source has made sure that no other process gets further than this stage.
async fn refuse_if_in_use(state: &MoveState, target: Abandoned) -> Result<(), Error> {
    match (state.stage, target) {
        (Stage::Moved | Stage::Live, _) => Err(has_moved()),
        (Stage::Copying | Stage::Waiting, _) => Ok(()),
        (Stage::HandingOver, Abandoned::Unasked) => {
            tracing::warn!(target: "audit", id = state.id, "a move is given up without asking its target whether it is in use");
            Ok(())
        }
        (Stage::HandingOver, Abandoned::AskIn(None)) => Err(Error::invalid(
            "the move was cut off while it handed over, and only the target knows whether it is in use: name it with --to-database, or give the \
             command that began the move again, which goes on or finishes. Where the target is lost and was never used: --cancel --abandon-target",
        )),
        (Stage::HandingOver, Abandoned::AskIn(Some(place))) => ask(state, &place).await,
    }
}

/// From then on no process that was paused can make the target the truth.
async fn ask(state: &MoveState, place: &db::Place) -> Result<(), Error> {
    let asked = async {
        let target = Database::open(place, std::sync::Arc::default()).await?;
        let lock = MoveLock::take(place, &target).await?;
        if moves::find(&target, Side::Target).await?.is_none_or(|there| there.id != state.id) {
            return Err(Error::invalid("that database is not the target of this move"));
        }
        let (_, there) = Claim::take(&target, Side::Target, &state.id).await?;
        drop(lock);
        target.close().await;
        Ok(there.stage)
    };
    match asked.await {
        Ok(Stage::Live) => Err(Error::invalid(
            "the data has moved, and the target may be in use: the command that began the move, given again, tells the source",
        )),
        Ok(_) => Ok(()),
        Err(error) => {
            let why = match &error {
                Error::Internal { detail } => detail.clone(),
                other => other.to_string(),
            };
            Err(Error::invalid(format!(
                "the move was cut off while it handed over, and its target can't be asked whether it is in use ({why}): try again when it answers. \
                 Where it is lost and was never used: --cancel --abandon-target"
            )))
        }
    }
}
