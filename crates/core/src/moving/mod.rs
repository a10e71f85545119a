//! Moving all data to another database and another store while the service runs.
//!
//! Triggers on the source note what changes. Rows are copied as they were at one moment, then the blobs that they point at, each of which is
//! read back and compared with its digest; then what has changed meanwhile, until that is little. Then the nodes of the source are asked to hold
//! back writes, the source refuses all changes, the rest is copied and counted, and the nodes go on with the target: a request that came in
//! meanwhile has waited a little. Whatever is cut off goes on where it was when it is started again; until the end the source is the truth.

mod blobs;
mod changes;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::Error;
use crate::db::copying::{self, Snapshot, TABLES};
use crate::db::moves::{self, MoveState, Side, Stage};
use crate::db::{self, Database, Refusal, triggers};
use crate::halt::Halt;
use crate::model::Timestamp;
use crate::storage::{self, Storage};

/// Changes that are few enough to be worked off while writes wait.
const FEW: usize = 50;
/// A round that takes no longer is the last one before writes wait.
const SHORT: Duration = Duration::from_secs(2);
/// Rounds before writes have to wait although changes come in as fast as they are copied.
const ROUNDS_MAX: u32 = 10;
/// A node that wasn't seen for longer is gone.
pub(crate) const SEEN_WITHIN: Duration = Duration::from_secs(15);
/// For the last two steps, a second apart.
const CONCLUDED_TRIES_MAX: u32 = 60;
/// For all nodes to hold back writes.
const NODES_MAX: Duration = Duration::from_secs(40);
/// For the whole time that writes wait; nodes go on with the source after that.
const WAITS_MAX: Duration = Duration::from_secs(90);

/// Where from, where to, and how.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The database that is in use.
    pub from_database: db::Place,
    /// The store that is in use.
    pub from_storage: storage::Place,
    /// The database that is to be used: new, or that of a move that was cut off.
    pub to_database: db::Place,
    /// The store that is to be used.
    pub to_storage: storage::Place,
    /// For blobs on their way.
    pub spool_folder: std::path::PathBuf,
    /// Bytes of blobs that are copied in a second at most; 0 for as many as go.
    pub bytes_per_second_max: u64,
}

/// What is going on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// So many rows of this table are copied.
    Rows(&'static str, u64),
    /// So many blobs of so many bytes are copied, of so many that there are.
    Blobs {
        /// Copied and verified.
        done: u64,
        /// Their bytes.
        bytes: u64,
        /// In all, when that was last counted.
        of: u64,
    },
    /// So many changes that came in meanwhile are worked off.
    Changes(u64),
    /// Nodes are asked to hold back writes.
    Waiting,
    /// So long they did.
    Moved(Duration),
}

/// What a move came to.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Rows of each table, the same on both sides.
    pub rows: Vec<(&'static str, u64)>,
    /// Blobs copied and verified by this run.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Nodes that were asked to hold back writes and to go on with the target.
    pub nodes: usize,
}

/// A move under way.
pub struct Move {
    plan: Plan,
    source: Database,
    target: Database,
    from: Arc<Storage>,
    to: Arc<Storage>,
    state: MoveState,
    begun: Instant,
    summary: Summary,
    blobs_in_all: u64,
    report: Box<dyn Fn(Progress) + Send + Sync>,
}

impl std::fmt::Debug for Move {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Move").field("state", &self.state).finish_non_exhaustive()
    }
}

impl Move {
    /// Opens both sides, and finds out how far it is.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the target is in use, or the source has moved already.
    pub async fn open(plan: Plan, report: impl Fn(Progress) + Send + Sync + 'static) -> Result<Self, Error> {
        let halt = Arc::new(Halt::default());
        let source = Database::open(&plan.from_database, Arc::clone(&halt)).await?;
        let target = Database::open(&plan.to_database, Arc::clone(&halt)).await?;
        let reserve = storage::Reserve { bytes_min: 0, inodes_min: 0 };
        let open = |place| Storage::open(place, plan.spool_folder.clone(), Arc::clone(&halt), reserve).map(Arc::new);
        let (from, to) = (open(&plan.from_storage)?, open(&plan.to_storage)?);
        to.probe().await?;
        let state = state(&source, &target).await?;
        let report = Box::new(report);
        let summary = Summary::default();
        let is_live = moves::find(&target, Side::Target).await?.is_some_and(|there| there.stage == Stage::Live);
        let mut opened = Self { plan, source, target, from, to, state, begun: Instant::now(), summary, blobs_in_all: 0, report };
        if is_live {
            // It was cut off between the last two steps.
            opened.conclude().await?;
            return Err(Error::invalid("the data has moved: only the source had not been told yet, and now it knows"));
        }
        Ok(opened)
    }

    /// Copies everything up to the point where writes have to wait for the rest.
    ///
    /// # Errors
    /// What stands in the way; the next run goes on from here.
    pub async fn copy(&mut self) -> Result<(), Error> {
        triggers::allow_changes(&self.source).await?;
        if self.state.position.is_none() {
            triggers::note_changes(&self.source).await?;
            self.note(Stage::Copying).await?;
            self.rows().await?;
            self.state.position = Some(String::new());
            self.note(Stage::Copying).await?;
        }
        self.blobs().await?;
        for _ in 0..ROUNDS_MAX {
            let begun = Instant::now();
            // Writes will have to wait for about as long as this takes.
            if self.round().await? < FEW || begun.elapsed() < SHORT {
                break;
            }
        }
        Ok(())
    }

    /// Makes the nodes hold back writes, copies the rest, counts, and makes the target the truth. `hand_over` is called just before that.
    ///
    /// # Errors
    /// What stands in the way; then the source goes on as before.
    pub async fn cut_over(mut self, hand_over: impl FnOnce() -> Result<(), Error>) -> Result<Summary, Error> {
        (self.report)(Progress::Waiting);
        let begun = Instant::now();
        self.state.waits_until = Timestamp::now().plus(WAITS_MAX);
        self.note(Stage::Waiting).await?;
        if let Err(error) = self.prepare(hand_over).await {
            triggers::allow_changes(&self.source).await?;
            self.note(Stage::Copying).await?;
            return Err(error);
        }
        self.conclude().await?;
        (self.report)(Progress::Moved(begun.elapsed()));
        self.target.close().await;
        Ok(self.summary)
    }

    /// All that can be taken back.
    async fn prepare(&mut self, hand_over: impl FnOnce() -> Result<(), Error>) -> Result<(), Error> {
        self.summary.nodes = self.wait_for_nodes().await?;
        triggers::refuse_changes(&self.source).await?;
        while self.round().await? > 0 {}
        self.count().await?;
        hand_over()
    }

    /// Makes the target the truth, and then tells the source. From the first try on nobody may assume that it has failed, so nothing is taken
    /// back, and the source goes on refusing changes until it is told.
    async fn conclude(&mut self) -> Result<(), Error> {
        let mut tries = 0;
        loop {
            match self.conclude_once().await {
                Err(error) if tries < CONCLUDED_TRIES_MAX => {
                    tries += 1;
                    tracing::warn!(%error, "making the target the truth is tried again");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                concluded => return concluded,
            }
        }
    }

    async fn conclude_once(&mut self) -> Result<(), Error> {
        let live = MoveState { stage: Stage::Live, ..self.state.clone() };
        self.write_target(move |connection| {
            Box::pin(async move {
                copying::raise_generation(connection).await?;
                moves::put(connection, Side::Target, &live).await
            })
        })
        .await?;
        self.note(Stage::Moved).await?;
        // The refusing triggers stay, and with them nothing can be lost that comes late.
        triggers::stop_noting(&self.source).await
    }

    /// Until every node holds back writes. How many there are.
    async fn wait_for_nodes(&self) -> Result<usize, Error> {
        let begun = Instant::now();
        loop {
            // A service on SQLite says that it is there only while it sees that a move is on.
            let asked_for = begun.elapsed() > Duration::from_millis(2500);
            let nodes = moves::nodes(&self.source, Timestamp::now().minus(SEEN_WITHIN)).await?;
            if (asked_for || !nodes.is_empty()) && nodes.iter().all(|(_, waits)| *waits) {
                return Ok(nodes.len());
            }
            if begun.elapsed() > NODES_MAX {
                let slow = nodes.iter().filter(|(_, waits)| !waits).count();
                return Err(Error::invalid(format!(
                    "{slow} nodes did not stop writing in time: try again when there is less to do"
                )));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// All rows as they were at one moment.
    async fn rows(&self) -> Result<(), Error> {
        let mut snapshot = Snapshot::of(&self.source).await?;
        for table in TABLES {
            let (mut after, mut count) = (None, 0);
            loop {
                let page = snapshot.page(table, after.as_ref()).await?;
                let Some(last) = page.last() else { break };
                after = Some(last.clone());
                count += page.len() as u64;
                self.write_target(move |connection| Box::pin(async move { copying::upsert(connection, table, &page).await }))
                    .await?;
                (self.report)(Progress::Rows(table.name, count));
            }
        }
        snapshot.end().await
    }

    /// Both sides must have as many rows of everything.
    async fn count(&mut self) -> Result<(), Error> {
        let (mut source, mut target) = (Snapshot::of(&self.source).await?, Snapshot::of(&self.target).await?);
        for table in TABLES {
            let (here, there) = (source.count(table).await?, target.count(table).await?);
            if here != there {
                let detail = format!("{} has {here} rows in the source and {there} in the target", table.name);
                return Err(Error::Internal { detail });
            }
            self.summary.rows.push((table.name, u64::try_from(here).unwrap_or(0)));
        }
        source.end().await?;
        target.end().await
    }

    /// Writes down on both sides how far it is.
    async fn note(&mut self, stage: Stage) -> Result<(), Error> {
        self.state.stage = stage;
        let (source, target) = (self.state.clone(), MoveState { stage: Stage::Copying, ..self.state.clone() });
        if stage != Stage::Moved {
            self.write_target(move |connection| Box::pin(async move { moves::put(connection, Side::Target, &target).await }))
                .await?;
        }
        self.write_source(move |connection| Box::pin(async move { moves::put(connection, Side::Source, &source).await })).await
    }

    async fn write_source<F>(&self, work: F) -> Result<(), Error>
    where
        F: for<'c> FnOnce(&'c mut db::Connection) -> futures_util::future::BoxFuture<'c, Result<(), Error>> + Send + 'static,
    {
        self.source.write_past_gate(None, work, Refusal::Expected).await
    }

    async fn write_target<F>(&self, work: F) -> Result<(), Error>
    where
        F: for<'c> FnOnce(&'c mut db::Connection) -> futures_util::future::BoxFuture<'c, Result<(), Error>> + Send + 'static,
    {
        self.target.write_past_gate(None, work, Refusal::Expected).await
    }
}

/// How far a move between these two is; a new one when there is none.
async fn state(source: &Database, target: &Database) -> Result<MoveState, Error> {
    let (here, there) = (moves::find(source, Side::Source).await?, moves::find(target, Side::Target).await?);
    match (here, there) {
        (Some(here), _) if here.stage == Stage::Moved => {
            Err(Error::invalid("the source has moved already: database_url and storage_url must name where it is now"))
        }
        (Some(here), Some(there)) if here.id == there.id => Ok(here),
        (Some(_), _) => Err(Error::invalid(
            "the source is being moved to another database: finish that, or cancel it with `imagewell migrate --cancel`",
        )),
        (None, _) if db::accounts::org_count(target).await? > 0 => {
            Err(Error::invalid("the target is in use: it has orgs. A move needs an empty database"))
        }
        (None, _) => Ok(MoveState {
            id: uuid::Uuid::now_v7().to_string(),
            stage: Stage::Copying,
            position: None,
            waits_until: Timestamp(0),
        }),
    }
}

/// Leaves the source as if it had never been moved. What was copied stays where it is.
///
/// # Errors
/// [`Error::Invalid`] when it has moved already.
pub async fn cancel(place: &db::Place) -> Result<(), Error> {
    let source = Database::open(place, Arc::default()).await?;
    match moves::find(&source, Side::Source).await?.map(|state| state.stage) {
        Some(Stage::Moved) => return Err(Error::invalid("the data has moved already, and what came in since then is there")),
        Some(Stage::Waiting) => {
            return Err(Error::invalid(
                "it was cut off while writes waited, and the target may be in use: the command that began it finds out, and goes on or takes it back",
            ));
        }
        _ => {}
    }
    triggers::allow_changes(&source).await?;
    // Before the first change goes unnoted, nothing may be left that a move would go on from.
    source.write_past_gate(None, |connection| Box::pin(moves::delete(connection, Side::Source)), Refusal::Expected).await?;
    triggers::stop_noting(&source).await?;
    source.close().await;
    Ok(())
}
