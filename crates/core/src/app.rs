//! The handles that everything works with, built once.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use imagewell_imaging::Limits;
use quick_cache::sync::Cache;
use tokio::sync::Notify;

use crate::accounts::{Accounts, AttemptLimits, Changed, SessionLimits};
use crate::changes::Change;
use crate::clock::{Clock, ClockLimits};
use crate::db::listening::Hearing;
use crate::db::{self, Database};
use crate::failures::Failures;
use crate::following::Whither;
use crate::halt::Halt;
use crate::kept::Uses;
use crate::keys::Keys;
use crate::looks::Looks;
use crate::model::{BlobKey, Image, ImageId, Namespace, NamespaceRules, OrgId, Preset, Timestamp};
use crate::passwords::{HashLimits, Passwords};
use crate::places::{PlaceLimits, Places};
use crate::rendering::Renderings;
use crate::shared::Shared;
use crate::storage::{self, Reserve, Storage};
use crate::workers::{WorkerLimits, Workers};
use crate::{Error, following, identity, places, scrub, sweep};

/// Everything that the core must be told. The server fills it from its settings.
#[derive(Debug, Clone)]
pub struct Options {
    /// The database.
    pub database: db::Place,
    /// The blobs.
    pub storage: storage::Place,
    /// Uploads that don't fit in memory, on their way.
    pub spool_folder: PathBuf,
    /// Bounds on images.
    pub limits: Limits,
    /// Bytes of one upload held in memory; more go through a file.
    pub upload_memory_bytes_max: usize,
    /// Uploads that are written to disk, inspected or stored at once. All of them together hold so many times
    /// `upload_memory_bytes_max` in memory.
    pub uploads_concurrent_max: usize,
    /// Uploads under way at once, however slow they are.
    pub uploads_open_max: usize,
    /// Of these, how many may be one org's.
    pub uploads_open_per_org_max: usize,
    /// Of these, how many may be one account's.
    pub uploads_open_per_account_max: usize,
    /// What uploads leave free of the local disk.
    pub reserve: Reserve,
    /// Bytes of blobs held in memory for reading.
    pub blob_cache_bytes_max: u64,
    /// A larger blob is not held in memory.
    pub blob_cache_entry_bytes_max: u64,
    /// Images whose records are held in memory.
    pub image_cache_max: usize,
    /// argon2id's memory, in KiB.
    pub password_memory_kib: u32,
    /// argon2id's passes.
    pub password_passes: u32,
    /// Bounds on hashing.
    pub password_turns: HashLimits,
    /// Bounds on sessions.
    pub sessions: SessionLimits,
    /// Bounds on logins that fail.
    pub attempts: AttemptLimits,
    /// The program that workers run: our own.
    pub worker_program: PathBuf,
    /// Bounds on rendering.
    pub workers: WorkerLimits,
    /// Pixels along a side that an address or a preset may ask for.
    pub transform_side_px_max: u32,
    /// Bytes of renderings that are kept; what was used longest ago goes.
    pub variant_bytes_max: u64,
    /// Whether images are looked at and prewarmed in the background.
    pub looks: bool,
    /// How long a look that failed is put off; each further failure makes it four times as long.
    pub looks_pause: Duration,
    /// What sweeping needs to know.
    pub sweep: sweep::Options,
    /// How far clocks are believed.
    pub clock: ClockLimits,
    /// How stored bytes are read back in the background.
    pub scrub: scrub::Options,
    /// Whether to make what is missing.
    pub opening: Opening,
    /// Whether that may be an SQLite file although the blobs are in a bucket, which other nodes may use.
    pub allow_new_file_with_bucket: bool,
}

/// What opening may do to what it opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// Make what is missing and bring the schema up to date.
    Making,
    /// Leave everything as it is, and write nothing afterwards.
    Looking,
}

/// What uploads are told while it is not known whose the store is.
const PAIRED_AGAIN_AFTER: Duration = Duration::from_secs(2);
/// For a last word to the database.
const CLOSING_MAX: Duration = Duration::from_secs(1);
/// Rules of namespaces, and presets, held in memory; each is a hundred bytes.
const NAMESPACES_CACHED_MAX: usize = 10_000;

/// Weighs cached blobs by their bytes.
#[derive(Debug, Clone)]
pub(crate) struct BlobWeight;

impl quick_cache::Weighter<BlobKey, Bytes> for BlobWeight {
    fn weight(&self, key: &BlobKey, bytes: &Bytes) -> u64 {
        (bytes.len() + key.as_str().len() + 128) as u64
    }
}

fn place_limits(options: &Options) -> PlaceLimits {
    PlaceLimits {
        open_max: options.uploads_open_max,
        open_per_org_max: options.uploads_open_per_org_max,
        open_per_account_max: options.uploads_open_per_account_max,
        turns_max: options.uploads_concurrent_max,
        memory_bytes_max: options.upload_memory_bytes_max.saturating_mul(options.uploads_concurrent_max),
        wait_max: places::WAIT_MAX,
    }
}

/// The service. Cheap to share.
#[derive(Debug)]
pub struct App {
    /// The database.
    pub database: Database,
    /// The blobs.
    pub storage: Storage,
    /// Sessions and logins.
    pub accounts: Accounts,
    /// Keys that sign tokens and links.
    pub keys: Keys,
    /// Set after a failed sync.
    pub halt: Arc<Halt>,
    /// Renderers.
    pub workers: Workers,
    pub(crate) uploads: Places,
    pub(crate) namespaces: Cache<(OrgId, Namespace), Arc<NamespaceRules>>,
    pub(crate) presets: Cache<OrgId, Arc<[Preset]>>,
    pub(crate) variant_uses: Uses,
    pub(crate) renderings: Renderings,
    pub(crate) absent_images: Failures<ImageId>,
    pub(crate) absent_blobs: Failures<BlobKey>,
    pub(crate) looks: Looks,
    pub(crate) images: Cache<ImageId, Arc<Image>>,
    pub(crate) blob_owners: Cache<BlobKey, ImageId>,
    pub(crate) blobs: Cache<BlobKey, Bytes, BlobWeight>,
    pub(crate) options: Options,
    /// What this process is called among others on the same database.
    pub(crate) node: String,
    pub(crate) hearing: Hearing,
    pub(crate) whither: OnceLock<Whither>,
    pub(crate) moved_away: Notify,
    /// Whether the store is known to belong to the database. False only after a start during which the store was away.
    pub(crate) paired: AtomicBool,
    watch: identity::Watch,
    pub(crate) clock: Clock,
    /// Whether a sweep of the background runs in this process.
    pub(crate) sweeping: AtomicBool,
    /// Blobs that are known to be damaged.
    pub(crate) damaged_blobs: AtomicU64,
    /// Why the latest sweep has left things alone.
    sweep_stopped: Mutex<Option<&'static str>>,
    writes_refused: AtomicBool,
    pub(crate) shared: Shared,
    /// Held while what has changed of rights is read again: an older reading never follows a newer one.
    refreshing: tokio::sync::Mutex<()>,
}

impl App {
    /// Opens the database and the store.
    ///
    /// # Errors
    /// [`Error::Internal`] says what could not be opened.
    pub async fn open(options: Options) -> Result<Arc<Self>, Error> {
        let store = options.storage.clone();
        let made = options.opening == Opening::Making && !store.is_there();
        let opened = Self::open_both(options).await;
        if opened.is_err() && made {
            store.remove_if_empty();
        }
        opened
    }

    async fn open_both(options: Options) -> Result<Arc<Self>, Error> {
        let halt = Arc::new(Halt::default());
        let looks = options.opening == Opening::Looking;
        let open = if looks { Storage::look } else { Storage::open };
        let storage = open(&options.storage, options.spool_folder.clone(), Arc::clone(&halt), options.reserve)?;
        if !looks && let Some(file) = options.database.new_file() {
            // Before one is made: an operator may put the right one into its place.
            identity::expect_unused(&storage).await?;
            identity::expect_unshared(&storage, file, options.allow_new_file_with_bucket)?;
        }
        let database = match options.opening {
            Opening::Making => Database::open(&options.database, Arc::clone(&halt)).await?,
            Opening::Looking => Database::look(&options.database).await?,
        };
        let assembled = Self::assemble(options, database.clone(), storage, halt).await;
        if assembled.is_err() {
            // SQLite applies a log that stays to whatever database takes the place of this one.
            database.close().await;
        }
        assembled
    }

    async fn assemble(options: Options, database: Database, storage: Storage, halt: Arc<Halt>) -> Result<Arc<Self>, Error> {
        following::check(&database).await?;
        let node = uuid::Uuid::now_v7().to_string();
        let looks = options.opening == Opening::Looking;
        let clock = Clock::open(&database, options.clock).await?;
        // Who only looks pairs nothing.
        let paired = looks || identity::settle_at_start(&database, &storage).await?;
        let (memory_kib, passes) = (options.password_memory_kib, options.password_passes);
        let turns = options.password_turns;
        let passwords = tokio::task::spawn_blocking(move || Passwords::new(memory_kib, passes, turns))
            .await
            .map_err(|error| Error::internal("hashing a password", &error))??;
        let accounts = Accounts::new(database.clone(), passwords, options.sessions, options.attempts)?;
        // The cache is told how many entries to expect; small images of 16 KiB on average.
        let blobs_expected = usize::try_from(options.blob_cache_bytes_max / (16 * 1024)).unwrap_or(usize::MAX).max(16);
        let app = Arc::new(Self {
            accounts,
            keys: if looks { Keys::look(database.clone()).await? } else { Keys::open(database.clone()).await? },
            halt,
            workers: Workers::new(options.worker_program.clone(), options.workers),
            uploads: Places::new(place_limits(&options)),
            namespaces: Cache::new(NAMESPACES_CACHED_MAX),
            presets: Cache::new(NAMESPACES_CACHED_MAX),
            variant_uses: Uses::default(),
            renderings: Renderings::default(),
            absent_images: Failures::default(),
            absent_blobs: Failures::default(),
            looks: Looks::default(),
            images: Cache::new(options.image_cache_max),
            blob_owners: Cache::new(options.image_cache_max),
            blobs: Cache::with_weighter(blobs_expected, options.blob_cache_bytes_max, BlobWeight),
            database,
            storage,
            options,
            hearing: Hearing::new(&node),
            whither: OnceLock::new(),
            moved_away: Notify::new(),
            paired: AtomicBool::new(paired),
            watch: identity::Watch::default(),
            clock,
            sweeping: AtomicBool::new(false),
            damaged_blobs: AtomicU64::new(0),
            shared: Shared::default(),
            sweep_stopped: Mutex::new(None),
            writes_refused: AtomicBool::new(false),
            refreshing: tokio::sync::Mutex::default(),
            node,
        });
        app.refresh_rights().await?;
        let listener = Arc::downgrade(&app);
        app.database.on_change(move |change| {
            if let Some(app) = listener.upgrade() {
                app.forget(change);
            }
        });
        Ok(app)
    }

    /// Forgets what is held in memory of what has changed, also while it is being read.
    pub(crate) fn forget(&self, change: Change) {
        match change {
            Change::Image(id) => {
                self.images.remove(&id);
            }
            Change::Everything => self.images.clear(),
            Change::Session(_) | Change::SessionsOf(_) => {}
        }
        self.accounts.forget(change);
    }

    /// The present moment by which all nodes judge ages: the database's. Asks nobody.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.database.now()
    }

    /// Tells this process how to find out where its data has moved to, should it move. Once.
    pub fn follow(&self, whither: Whither) {
        let _ = self.whither.set(whither);
    }

    /// Returns when the data has moved to where this process can't follow.
    pub async fn moved_away(&self) {
        self.moved_away.notified().await;
    }

    /// Finishes what is queued and closes the database.
    pub async fn close(&self) {
        following::leave(self).await;
        // A minute less is known without it.
        let _ = tokio::time::timeout(CLOSING_MAX, self.clock.note()).await;
        self.database.close().await;
    }

    /// Whether this process can work: for readiness. It says nothing of what all nodes share, for the lack of which no balancer may
    /// pass over all of them at once.
    ///
    /// # Errors
    /// [`Error::Internal`] after a storage failure; [`Error::Busy`] until the store is known to belong to the database;
    /// [`Error::Invalid`] when the clock differs too much from the database's.
    pub fn ready(&self) -> Result<(), Error> {
        self.check_trust()?;
        self.clock.check_offset()
    }

    /// Halts when the store is not any more the one that it was.
    pub(crate) async fn watch_store(&self) {
        if self.paired.load(Ordering::Relaxed)
            && let Err(error) = self.watch.look(&self.database, &self.storage).await
        {
            self.halt.trip(&error.to_string());
        }
    }

    pub(crate) fn note_writes_refused(&self, refused: bool) {
        if self.writes_refused.swap(refused, Ordering::Relaxed) != refused || refused {
            metrics::gauge!("imagewell_move_cut_off").set(if refused { 1.0 } else { 0.0 });
        }
    }

    pub(crate) fn note_sweep_stopped(&self, why: Option<&'static str>) {
        *self.sweep_stopped.lock().unwrap_or_else(PoisonError::into_inner) = why;
        metrics::gauge!("imagewell_sweep_stopped").set(if why.is_some() { 1.0 } else { 0.0 });
    }

    /// What an operator should look at although images can be stored and read; one sentence each, without names or paths.
    #[must_use]
    pub fn notices(&self) -> Vec<String> {
        let mut notices = Vec::new();
        if let Some(why) = *self.sweep_stopped.lock().unwrap_or_else(PoisonError::into_inner) {
            notices.push(format!("sweeping is stopped: {why}; `imagewell doctor` says what to do"));
        }
        let damaged = self.damaged_blobs.load(Ordering::Relaxed);
        if damaged > 0 {
            notices.push(format!("{damaged} stored blobs are damaged: `imagewell doctor` names them"));
        }
        if self.writes_refused.load(Ordering::Relaxed) {
            notices.push(
                "writes may be refused: a move was cut off in its last seconds. Give its `imagewell migrate` again, or \
                 `imagewell migrate --cancel`"
                    .into(),
            );
        }
        notices.extend(self.shared.notices().map(str::to_owned));
        if self.clock.is_ahead_by().is_some() {
            notices.push(
                "removing is delayed: the clock is far ahead of the last time the database was in use. After an outage that passes by itself"
                    .into(),
            );
        }
        notices
    }

    /// Brings back every blob of the trash that a version points at. Returns how many, and how many blobs stay in the trash.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the store does not belong to the database; [`Error::Busy`] when one of them can't be reached.
    pub async fn restore_trash(&self, report: impl FnMut(&BlobKey)) -> Result<(u64, u64), Error> {
        self.verify_identity().await?;
        sweep::restore(&self.database, &self.storage, report).await
    }

    /// Reads again whether the store belongs to the database.
    ///
    /// # Errors
    /// [`Error::Invalid`] says what is wrong and what to do; [`Error::Busy`] when one of them can't be reached.
    pub async fn verify_identity(&self) -> Result<(), Error> {
        identity::verify(&self.database, &self.storage).await.map(|_| ())
    }

    /// Whether the next sweep finds the store as this database's latest one has left it.
    ///
    /// # Errors
    /// As [`App::verify_identity`].
    pub async fn check_sweeps(&self) -> Result<(), Error> {
        identity::expect_own_mark(&self.database, &self.storage).await.map(|_| ())
    }

    /// Whether so many of these blobs have no row that sweeps leave them alone.
    #[must_use]
    pub fn leaves_orphans_alone(&self, blobs: u64, orphans: u64) -> bool {
        self.options.sweep.is_suspicious(blobs, orphans)
    }

    /// Whether what is stored now may be acknowledged. Asked before every upload, so it only looks at memory.
    ///
    /// # Errors
    /// [`Error::Internal`] after a storage failure; [`Error::Busy`] until the store is known to belong to the database.
    pub(crate) fn check_trust(&self) -> Result<(), Error> {
        self.halt.check()?;
        if self.paired.load(Ordering::Relaxed) { Ok(()) } else { Err(Error::Busy { retry_after: PAIRED_AGAIN_AFTER }) }
    }

    /// After a start during which the store was away: asks it again whose it is. Halts when it is another database's.
    pub(crate) async fn pair_when_possible(&self) {
        if self.paired.load(Ordering::Relaxed) {
            return;
        }
        match identity::settle_at_start(&self.database, &self.storage).await {
            Ok(paired) => self.paired.store(paired, Ordering::Relaxed),
            Err(error) => self.halt.trip(&error.to_string()),
        }
    }

    /// Forgets what is cached of rights, rules and keys when any of them changed, here or in another process. A change counts as
    /// known only when all that hangs on it was read: if this breaks off, it is all done again.
    ///
    /// # Errors
    /// [`Error::Internal`] when the database can't be read.
    pub async fn refresh_rights(&self) -> Result<(), Error> {
        // What can't be read again is not trusted.
        self.read_rights_again().await.inspect_err(|_| self.forget_rights(&Changed::Everything))
    }

    async fn read_rights_again(&self) -> Result<(), Error> {
        let _refreshing = self.refreshing.lock().await;
        let Some((counters, changed)) = self.accounts.changes().await? else { return Ok(()) };
        self.forget_rights(&changed);
        self.keys.reload().await?;
        self.accounts.applied(counters);
        Ok(())
    }

    /// Forgets what is cached of rights and rules.
    pub(crate) fn forget_rights(&self, changed: &Changed) {
        self.accounts.forget_rights(changed);
        self.namespaces.retain(|(org, _), _| !changed.concerns(*org));
        self.presets.retain(|org, _| !changed.concerns(*org));
    }
}
