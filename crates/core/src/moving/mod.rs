//! Moving all data to another database and another store while the service runs.
//!
//! Triggers on the source note what changes. Rows are copied as they were at one moment, then the blobs that they point at, each of which is
//! read back and compared with its digest; then what has changed meanwhile, until that is little, for which writes are slowed down where they
//! must be. Then all rows are compared, the nodes of the source are asked to hold back writes, the source refuses all changes, the rest is
//! copied and compared, and the nodes go on with the target: a request that came in meanwhile has waited a little. Whatever is cut off goes on
//! where it was when it is started again; until the end the source is the truth.
//!
//! One process at a time moves a database: a lock keeps the second one out, and every write checks that nobody has taken over
//! (see [`crate::db::moves::Claim`]).

mod blobs;
mod cancel;
mod changes;
mod compare;

pub use self::cancel::{Abandoned, cancel};
pub use crate::db::scrub::Damaged;

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;

use self::changes::{Braking, Pace};
use self::compare::Differing;
use crate::copy::{self, Limit};
use crate::db::copying::{self, Snapshot, TABLES};
use crate::db::move_lock::MoveLock;
use crate::db::moves::{self, Claim, MoveState, Side, Stage};
use crate::db::{self, Database, triggers};
use crate::following::RESTORING;
use crate::halt::Halt;
use crate::model::Timestamp;
use crate::storage::{self, Storage};
use crate::{Error, identity};

/// A node that wasn't seen for longer is gone.
pub(crate) const SEEN_WITHIN: Duration = Duration::from_secs(15);
/// For the last two steps, a second apart.
const CONCLUDED_TRIES_MAX: u32 = 60;
/// For all nodes to hold back writes.
const NODES_MAX: Duration = Duration::from_secs(40);
/// For the whole time that writes wait; nodes go on with the source after that,
const WAITS_MAX: Duration = Duration::from_secs(90);
/// so it is given up before.
const PREPARED_WITHIN: Duration = Duration::from_secs(75);
/// For nodes to say that they have gone on with the target.
const FOLLOWED_MAX: Duration = Duration::from_secs(5);

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
    /// Moves although blobs are gone or damaged in the source: their rows are moved, their bytes are not.
    pub without_damaged: bool,
}

/// What is going on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// What they are, and how many rows of them are copied.
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
    /// What they are, and how many rows of them are compared.
    Compared(&'static str, u64),
    /// Changes come in as fast as they are copied, so writes are made to wait now and then.
    Slowed,
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
    /// Blobs that are gone or damaged in the source, and not in the target.
    pub damaged: Vec<Damaged>,
    /// Nodes that were asked to hold back writes and to go on with the target.
    pub nodes: usize,
    /// Of these, how many said that they have.
    pub followed: usize,
}

/// A move under way.
pub struct Move {
    plan: Plan,
    source: Database,
    target: Database,
    #[expect(dead_code, reason = "held until dropped")]
    locks: [MoveLock; 2],
    source_claim: Claim,
    target_claim: Claim,
    from: Arc<Storage>,
    to: Arc<Storage>,
    /// Whether the bytes stay where they are.
    same_store: bool,
    state: MoveState,
    limit: Limit,
    summary: Summary,
    blobs_in_all: u64,
    pace: Pace,
    differing: Differing,
    report: Box<dyn Fn(Progress) + Send + Sync>,
}

impl std::fmt::Debug for Move {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Move").field("state", &self.state).finish_non_exhaustive()
    }
}

/// A newer schema may hold more than this program knows of, and would leave behind.
async fn expect_ours(database: &Database) -> Result<(), Error> {
    let ours = db::newest_schema();
    match db::holdings::schema(database).await? {
        Some(schema) if schema != ours => Err(Error::invalid(format!(
            "a database has schema {schema} and this program moves {ours}: move with the imagewell that serves it"
        ))),
        _ => Ok(()),
    }
}

impl Move {
    /// Opens both sides, and finds out how far it is.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the target is in use, another process is at this move, or the source has moved already.
    pub async fn open(plan: Plan, report: impl Fn(Progress) + Send + Sync + 'static) -> Result<Self, Error> {
        if plan.from_database.is_same(&plan.to_database) {
            return Err(Error::invalid("the target is the database that is in use: a move needs an empty one"));
        }
        let halt = Arc::new(Halt::default());
        let source = Database::open(&plan.from_database, Arc::clone(&halt)).await?;
        expect_ours(&source).await?;
        let source_lock = MoveLock::take(&plan.from_database, &source).await?;
        let target = Database::open(&plan.to_database, Arc::clone(&halt)).await?;
        expect_ours(&target).await?;
        let target_lock = MoveLock::take(&plan.to_database, &target).await?;
        let reserve = storage::Reserve { bytes_min: 0, inodes_min: 0 };
        let open = |place| Storage::open(place, plan.spool_folder.clone(), Arc::clone(&halt), reserve).map(Arc::new);
        let (from, to) = (open(&plan.from_storage)?, open(&plan.to_storage)?);
        let (id, is_new) = state(&source, &target).await.map(|state| (state.id, state.position.is_none()))?;
        identity::settle(&source, &from).await?;
        let same_store = plan.from_storage.is_same(&plan.to_storage) || from.is_same(&to).await?;
        identity::settle_target(&source, &target, &to, same_store, is_new).await?;
        to.probe().await?;
        // The target first: without the source's row nothing has begun.
        let (target_claim, there) = Claim::take(&target, Side::Target, &id).await?;
        let (source_claim, state) = Claim::take(&source, Side::Source, &id).await?;
        if state.stage == Stage::Moved {
            return Err(has_moved());
        }
        name_target(&source, &source_claim, format!("database {} and store {}", plan.to_database.shown(), to.name())).await?;
        let report = Box::new(report);
        let summary = Summary::default();
        let mut opened = Self {
            limit: Limit::new(plan.bytes_per_second_max),
            plan,
            source,
            target,
            locks: [source_lock, target_lock],
            source_claim,
            target_claim,
            from,
            to,
            same_store,
            state,
            summary,
            blobs_in_all: 0,
            pace: Pace::default(),
            differing: Differing::default(),
            report,
        };
        if there.stage == Stage::Live {
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
        let begun = Instant::now();
        let is_new = self.state.position.is_none();
        triggers::allow_changes(&self.source, Some(&self.source_claim)).await?;
        if is_new {
            triggers::note_changes(&self.source, Some(&self.source_claim)).await?;
            self.note(Stage::Copying).await?;
            self.rows().await?;
            self.state.position = Some(String::new());
        }
        self.let_writes_through().await?;
        self.blobs().await?;
        self.retry_damaged().await?;
        self.refuse_damaged().await?;
        if is_new {
            // As long as changes could be noted.
            self.pace.took = begun.elapsed();
        }
        self.catch_up(Braking::Never).await
    }

    /// Compares all rows, slows writes down if it must, then makes the nodes hold them back, copies the rest, compares that, and makes the
    /// target the truth. `hand_over` is called just before that.
    ///
    /// # Errors
    /// What stands in the way; then the source goes on as before.
    pub async fn cut_over(mut self, hand_over: impl FnOnce() -> Result<(), Error>) -> Result<Summary, Error> {
        let compared = Instant::now();
        self.compare_all().await?;
        // As long as changes could be noted.
        self.pace.took = compared.elapsed();
        self.catch_up(Braking::IfNeeded).await?;
        // What a node says from now on answers to what it is asked next.
        self.wait_for_nodes(false).await?;
        (self.report)(Progress::Waiting);
        let begun = Instant::now();
        self.state.waits_until = self.source.now().plus(WAITS_MAX);
        self.note(Stage::Waiting).await?;
        if let Err(error) = self.prepare(hand_over, begun + PREPARED_WITHIN).await {
            triggers::allow_changes(&self.source, Some(&self.source_claim)).await?;
            self.let_writes_through().await?;
            return Err(error);
        }
        self.conclude().await?;
        (self.report)(Progress::Moved(begun.elapsed()));
        self.wait_for_followers().await;
        self.target.close().await;
        Ok(self.summary)
    }

    /// All that can be taken back.
    async fn prepare(&mut self, hand_over: impl FnOnce() -> Result<(), Error>, until: Instant) -> Result<(), Error> {
        let too_long = "the rest took too long while writes waited: give the same command again when there is less to do";
        let in_time = || if Instant::now() < until { Ok(()) } else { Err(Error::invalid(too_long)) };
        self.summary.nodes = self.wait_for_nodes(true).await?;
        triggers::refuse_changes(&self.source, Some(&self.source_claim)).await?;
        while self.round(i64::MAX).await? > 0 {
            in_time()?;
        }
        self.refuse_damaged().await?;
        self.compare_rest().await?;
        if self.same_store {
            identity::take_over_mark(&self.target, &self.to).await?;
        }
        in_time()?;
        hand_over()?;
        self.note(Stage::HandingOver).await
    }

    async fn let_writes_through(&mut self) -> Result<(), Error> {
        self.state.waits_until = Timestamp(0);
        self.note(Stage::Copying).await
    }

    /// Makes the target the truth, and then tells the source. From the first try on nobody may assume that it has failed, so nothing is taken
    /// back, and the source goes on refusing changes until it is told.
    async fn conclude(&mut self) -> Result<(), Error> {
        let mut tries = 0;
        loop {
            match self.conclude_once().await {
                Err(error) if tries < CONCLUDED_TRIES_MAX && !matches!(error, Error::Invalid { .. }) => {
                    tries += 1;
                    tracing::warn!(%error, "making the target the truth is tried again");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                concluded => return concluded,
            }
        }
    }

    async fn conclude_once(&mut self) -> Result<(), Error> {
        let (live, claim) = (MoveState { stage: Stage::Live, ..self.state.clone() }, self.target_claim.clone());
        self.write_target(move |connection| {
            Box::pin(async move {
                copying::raise_generation(connection).await?;
                claim.advance(connection, &live).await
            })
        })
        .await?;
        self.note(Stage::Moved).await?;
        // The refusing triggers stay, and with them nothing can be lost that comes late.
        triggers::stop_noting(&self.source, Some(&self.source_claim)).await
    }

    /// Until every node holds back writes, or none does. How many there are.
    async fn wait_for_nodes(&self, hold_back: bool) -> Result<usize, Error> {
        let begun = Instant::now();
        loop {
            // A service on SQLite says that it is there only while it sees that a move is on.
            let asked_for = !hold_back || begun.elapsed() > Duration::from_millis(2500);
            let nodes = moves::nodes(&self.source, self.source.now().minus(SEEN_WITHIN)).await?;
            let slow = nodes.iter().filter(|(_, waits)| *waits != hold_back).count();
            if (asked_for || !nodes.is_empty()) && slow == 0 {
                return Ok(nodes.len());
            }
            if begun.elapsed() > NODES_MAX {
                let what = if hold_back { "stop" } else { "go on" };
                return Err(Error::invalid(format!(
                    "{slow} nodes did not {what} writing in time: try again when there is less to do"
                )));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// All rows as they were at one moment.
    async fn rows(&self) -> Result<(), Error> {
        let mut snapshot = Snapshot::of(&self.source).await?;
        let report = |table, count| (self.report)(Progress::Rows(table, count));
        copy::rows(&mut snapshot, &self.target, Some(&self.target_claim), TABLES.iter(), report).await?;
        snapshot.end().await
    }

    /// Counts the nodes that say that they have gone on with the target. Those that can't end without a word.
    async fn wait_for_followers(&mut self) {
        let begun = Instant::now();
        while self.summary.followed < self.summary.nodes && begun.elapsed() < FOLLOWED_MAX {
            if let Ok(count) = moves::following(&self.source).await {
                self.summary.followed = usize::try_from(count).unwrap_or(0).min(self.summary.nodes);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Writes down on both sides how far it is.
    async fn note(&mut self, stage: Stage) -> Result<(), Error> {
        self.state.stage = stage;
        let (source, target) = (self.state.clone(), MoveState { stage: Stage::Copying, ..self.state.clone() });
        if stage != Stage::Moved {
            let claim = self.target_claim.clone();
            self.write_target(move |connection| Box::pin(async move { claim.advance(connection, &target).await })).await?;
        }
        let claim = self.source_claim.clone();
        self.write_source(move |connection| Box::pin(async move { claim.advance(connection, &source).await })).await
    }

    async fn write_source<F>(&self, work: F) -> Result<(), Error>
    where
        F: for<'c> FnOnce(&'c mut db::Connection) -> BoxFuture<'c, Result<(), Error>> + Send + 'static,
    {
        moves::write(&self.source, Some(&self.source_claim), work).await
    }

    async fn write_target<F>(&self, work: F) -> Result<(), Error>
    where
        F: for<'c> FnOnce(&'c mut db::Connection) -> BoxFuture<'c, Result<(), Error>> + Send + 'static,
    {
        moves::write(&self.target, Some(&self.target_claim), work).await
    }
}

/// On the source, whose services may have no `moved.toml`.
async fn name_target(source: &Database, claim: &Claim, target: String) -> Result<(), Error> {
    let named = claim.clone();
    let write = moves::write(source, Some(claim), move |connection| {
        Box::pin(async move { named.name_target(connection, &target).await })
    });
    write.await
}

fn has_moved() -> Error {
    Error::invalid("the source has moved already: database_url and storage_url must name where it is now")
}

/// In the id of a move, before the identity of the source's store.
const FROM: &str = " from ";

fn new_id(source: &str) -> String {
    format!("{}{FROM}{source}", uuid::Uuid::now_v7())
}

/// The identity of the store that a move of this id is from. None for moves of versions that did not write it down.
pub(crate) fn source_of(id: &str) -> Option<&str> {
    id.split_once(FROM).map(|(_, source)| source)
}

/// How far a move between these two is; a new one when there is none.
async fn state(source: &Database, target: &Database) -> Result<MoveState, Error> {
    let (here, there) = (moves::find(source, Side::Source).await?, moves::find(target, Side::Target).await?);
    match (here, there) {
        (Some(here), _) if here.stage == Stage::Moved => Err(has_moved()),
        (Some(here), Some(there)) if here.id == there.id => Ok(here),
        (Some(_), _) => Err(Error::invalid(
            "the source is being moved to another database: finish that, or cancel it with `imagewell migrate --cancel`",
        )),
        (None, Some(there)) if there.id.starts_with(RESTORING) => {
            Err(Error::invalid("the target is half of a restore that was cut off. A move needs an empty database"))
        }
        (None, _) if db::accounts::org_count(target).await? > 0 => {
            Err(Error::invalid("the target is in use: it has orgs. A move needs an empty database"))
        }
        (None, _) => Ok(MoveState {
            id: new_id(&identity::id_of(source).await?),
            stage: Stage::Copying,
            position: None,
            waits_until: Timestamp(0),
        }),
    }
}
