//! What a serving process does while its data moves elsewhere (see [`crate::moving`]): it says that it is there, holds back writes when asked
//! to, and goes on with the new database and store, or leaves.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::app::App;
use crate::changes::Change;
use crate::db::moves::{self, MoveState, Side, Stage};
use crate::db::{self, Refusal, Shut};
use crate::model::Timestamp;
use crate::moving::SEEN_WITHIN;
use crate::{Error, identity, storage};

/// Finds out where the data has moved to, if this process can know it.
pub struct Whither(Box<dyn Fn() -> Option<(db::Place, storage::Place)> + Send + Sync>);

impl Whither {
    /// By asking this.
    pub fn new(ask: impl Fn() -> Option<(db::Place, storage::Place)> + Send + Sync + 'static) -> Self {
        Self(Box::new(ask))
    }
}

impl fmt::Debug for Whither {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Whither").finish_non_exhaustive()
    }
}

/// Between two looks.
const LOOKED_EVERY: Duration = Duration::from_secs(1);
/// While writes wait.
const LOOKED_EVERY_WHILE_WAITING: Duration = Duration::from_millis(100);
/// Between two words that this process is there.
const SAID_EVERY: Duration = Duration::from_secs(5);
/// For what still runs on the old database.
const OLD_CLOSED_AFTER: Duration = Duration::from_secs(60);

/// What the id of a restore begins with, which is noted like that of a move.
pub(crate) const RESTORING: &str = "restore ";

/// Refuses data that is elsewhere, or not yet here.
///
/// # Errors
/// [`Error::Invalid`] says what to do.
pub(crate) async fn check(database: &db::Database) -> Result<(), Error> {
    if moves::find(database, Side::Source).await?.is_some_and(|state| state.stage == Stage::Moved) {
        // Of a move by an earlier version it is not known.
        let target = moves::target(database).await.unwrap_or_default();
        return Err(Error::invalid(format!(
            "this data has moved to {}: set database_url and storage_url to these. moved.toml in the data folder on the machine of \
             `imagewell migrate` has both, with the settings of the bucket. Nothing serves from here any more",
            target.as_deref().unwrap_or("another database and store")
        )));
    }
    match moves::find(database, Side::Target).await? {
        Some(state) if state.id.starts_with(RESTORING) => Err(Error::invalid(
            "this database is only half restored: give the `imagewell restore` that was cut off again, or start on an empty database and store",
        )),
        Some(state) if state.stage != Stage::Live => {
            Err(Error::invalid("data is still being moved to this database: start when `imagewell migrate` is done"))
        }
        _ => Ok(()),
    }
}

/// How far this process is.
enum Gate {
    Open,
    /// Waiting for writes that run.
    Shutting(Pin<Box<dyn Future<Output = Shut> + Send>>),
    Shut(#[expect(dead_code, reason = "held until dropped")] Shut),
}

/// Until dropped.
pub(crate) async fn run(app: Arc<App>) {
    let (mut gate, mut said, mut state) = (Gate::Open, None::<(Instant, bool)>, None);
    loop {
        // While the database is away, what it said last goes on.
        if let Ok(found) = moves::find(&app.database, Side::Source).await {
            state = found;
        }
        app.note_writes_refused(is_cut_off(state.as_ref(), app.database.now()));
        gate = next(&app, gate, state.as_ref()).await;
        let waits = matches!(gate, Gate::Shut(_));
        if waits && state.as_ref().is_some_and(|state| state.stage == Stage::Moved) {
            let follows = go_on_elsewhere(&app).await;
            // What has waited goes on there, or is told to come back.
            (gate, said, state) = (Gate::Open, None, None);
            if !follows {
                app.moved_away.notify_one();
                return;
            }
            continue;
        }
        let due = said.is_none_or(|(when, said)| when.elapsed() > SAID_EVERY || said != waits);
        if due && (state.is_some() || app.database.is_shared()) && say(&app, waits).await.is_ok() {
            said = Some((Instant::now(), waits));
        }
        let pause = if matches!(gate, Gate::Open) { LOOKED_EVERY } else { LOOKED_EVERY_WHILE_WAITING };
        tokio::time::sleep(pause).await;
    }
}

/// Whether a move has ended without an end while writes waited: what it has made refuse them is still there.
fn is_cut_off(state: Option<&MoveState>, now: Timestamp) -> bool {
    state.is_some_and(|state| matches!(state.stage, Stage::Waiting | Stage::HandingOver) && now >= state.waits_until)
}

async fn next(app: &Arc<App>, gate: Gate, state: Option<&MoveState>) -> Gate {
    let now = app.database.now();
    let shut = state.is_some_and(|state| match state.stage {
        // While it is copied, now and then.
        Stage::Waiting | Stage::HandingOver | Stage::Copying => now < state.waits_until,
        Stage::Moved => true,
        Stage::Live => false,
    });
    match gate {
        _ if !shut => Gate::Open,
        Gate::Open => {
            tracing::info!("the data is moving: writes wait");
            let database = app.database.clone();
            Gate::Shutting(Box::pin(async move { database.shut_gate().await }))
        }
        Gate::Shutting(mut shutting) => match tokio::time::timeout(LOOKED_EVERY_WHILE_WAITING, &mut shutting).await {
            Ok(shut) => Gate::Shut(shut),
            Err(_) => Gate::Shutting(shutting),
        },
        shut @ Gate::Shut(_) => shut,
    }
}

/// Says that this process is there, and whether it holds back writes.
async fn say(app: &App, waits: bool) -> Result<(), Error> {
    let (node, now) = (app.node.clone(), app.database.now());
    app.database
        .write_past_gate(
            None,
            move |connection| {
                Box::pin(async move {
                    moves::seen(connection, &node, now, waits).await?;
                    moves::delete_unseen(connection, now.minus(20 * SEEN_WITHIN)).await
                })
            },
            Refusal::Expected,
        )
        .await
}

/// A node that ends needn't be waited for.
pub(crate) async fn leave(app: &App) {
    if app.database.is_shared() && !app.database.only_looks() {
        let node = app.node.clone();
        let work = app.database.write_past_gate(
            None,
            move |connection| Box::pin(async move { moves::gone(connection, &node).await }),
            Refusal::Expected,
        );
        let _ = tokio::time::timeout(LOOKED_EVERY, work).await;
    }
}

/// The database first, which takes time to open: for as short as possible the two don't belong together.
async fn switch_to(app: &App, database: &db::Place, storage: &storage::Place) -> Result<(), Error> {
    app.database.switch_to(database, Arc::clone(&app.halt)).await?;
    app.storage.switch_to(storage, Arc::clone(&app.halt))?;
    match identity::verify(&app.database, &app.storage).await {
        Err(error @ Error::Invalid { .. }) => Err(error),
        // One of them may be away for a moment.
        _ => Ok(()),
    }
}

/// Opens the new database and store in the place of the old ones. False where they aren't known: then the process leaves, writes are told to come
/// back, and whoever starts it again has the new settings.
async fn go_on_elsewhere(app: &Arc<App>) -> bool {
    let old = app.database.clone_engine();
    let switched = match app.whither.get().and_then(|Whither(ask)| ask()) {
        None => Err(Error::invalid("nobody has told this process where to")),
        Some((database, storage)) => switch_to(app, &database, &storage).await,
    };
    if let Err(error) = switched {
        tracing::warn!(%error, "the data has moved: this process ends, to be started with the new database_url and storage_url");
        app.database.refuse_writes();
        return false;
    }
    app.forget(Change::Everything);
    if let Err(error) = app.refresh_rights().await {
        tracing::warn!(%error, "rights could not be read again");
    }
    tracing::info!(
        "the data has moved, and this process goes on with it: database_url and storage_url must name it before the next start"
    );
    let node = app.node.clone();
    let follows = old.write_past_gate(
        None,
        move |connection| Box::pin(async move { moves::follows(connection, &node).await }),
        Refusal::Expected,
    );
    // `imagewell migrate` waits for that word, and goes without it.
    let _ = tokio::time::timeout(SAID_EVERY, follows).await;
    tokio::spawn(async move {
        tokio::time::sleep(OLD_CLOSED_AFTER).await;
        old.close().await;
    });
    true
}
