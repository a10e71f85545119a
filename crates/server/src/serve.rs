//! From settings to a running service, and its orderly end.

use std::fmt;
use std::net::SocketAddr;
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use imagewell_core::accounts::{AttemptLimits, SessionLimits};
use imagewell_core::app::{Opening, Options};
use imagewell_core::passwords::HashLimits;
use imagewell_core::storage::{self, BucketPlace, Reserve, StoreHttp};
use imagewell_core::workers::WorkerLimits;
use imagewell_core::{App, ClockLimits, Connections, DatabasePlace, Error, Patience, scrub, sweep};
use imagewell_imaging::Limits;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;

use crate::auth::provider::Provider;
use crate::auth::tokens::TokenKeys;
use crate::config::{DatabaseUrl, Settings, StorageUrl};
use crate::listener::{self, Draining};
use crate::pages::DemoPage;
use crate::tls::Certificates;
use crate::{moved, router, store_client, telemetry};

/// What handlers work with. Cheap to clone: every request does, several times.
#[derive(Clone)]
pub struct Service(Arc<Parts>);

/// What a [`Service`] holds.
#[derive(Clone)]
pub struct Parts {
    /// The core.
    pub app: Arc<App>,
    /// Keys of tokens, ready for use.
    pub token_keys: Arc<TokenKeys>,
    /// The outside identity provider, if there is one.
    pub provider: Option<Arc<Provider>>,
    /// The settings in force.
    pub settings: Arc<Settings>,
    /// Renders `/metrics`.
    pub metrics: PrometheusHandle,
    /// Set by SIGTERM: `/readyz` fails from then on.
    pub draining: Arc<AtomicBool>,
    /// What the demo shows; none otherwise.
    pub demo: Option<Arc<DemoPage>>,
}

impl Deref for Service {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

impl fmt::Debug for Service {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Service").finish_non_exhaustive()
    }
}

/// How serving ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// By request, with every running request answered.
    Drained,
    /// By request, but some requests were cut off at the drain timeout.
    CutOff,
    /// By a storage failure.
    Halted,
}

impl Service {
    /// Opens the core with what the settings say. `program` is run for workers: our own.
    ///
    /// # Errors
    /// What could not be opened.
    pub async fn open(settings: Settings, program: PathBuf) -> Result<Self, Error> {
        Self::opened(settings, program, Opening::Making).await
    }

    /// Opens the core as it is, for a command that only looks: nothing is made, migrated or written.
    ///
    /// # Errors
    /// What is not there, can't be opened, or has another schema than this program's.
    pub async fn look(settings: Settings, program: PathBuf) -> Result<Self, Error> {
        Self::opened(settings, program, Opening::Looking).await
    }

    async fn opened(settings: Settings, program: PathBuf, opening: Opening) -> Result<Self, Error> {
        let provider = Provider::new(&settings.identity_provider)?.map(Arc::new);
        let app = App::open(Options { opening, ..options(&settings, program) }).await?;
        app.follow(moved::whither(&settings));
        Ok(Self(Arc::new(Parts {
            app,
            token_keys: Arc::default(),
            provider,
            settings: Arc::new(settings),
            metrics: telemetry::metrics_handle(),
            draining: Arc::default(),
            demo: None,
        })))
    }

    /// The same service with the demo's page.
    #[must_use]
    pub fn with_demo(&self, demo: DemoPage) -> Self {
        Self(Arc::new(Parts { demo: Some(Arc::new(demo)), ..Parts::clone(self) }))
    }

    /// Whether this process can work.
    ///
    /// # Errors
    /// What stands in the way.
    pub fn ready(&self) -> Result<(), Error> {
        if self.draining.load(Ordering::SeqCst) {
            return Err(Error::Busy { retry_after: Duration::from_secs(1) });
        }
        self.app.ready()
    }

    /// Whether database and store answer too.
    ///
    /// # Errors
    /// What stands in the way.
    pub async fn ready_with_all(&self) -> Result<(), Error> {
        self.ready()?;
        self.app.ready_with_all().await
    }
}

fn options(settings: &Settings, worker_program: PathBuf) -> Options {
    Options {
        database: database_place(settings),
        storage: storage_place(settings),
        spool_folder: settings.service.data_dir.join("spool"),
        limits: limits(settings),
        upload_memory_bytes_max: settings.uploads.memory_bytes_max,
        uploads_concurrent_max: settings.uploads.concurrent_max,
        uploads_open_max: settings.uploads.open_max,
        uploads_open_per_org_max: settings.uploads.open_per_org_max,
        uploads_open_per_account_max: settings.uploads.open_per_account_max,
        reserve: Reserve { bytes_min: settings.storage.free_bytes_min, inodes_min: settings.storage.free_inodes_min },
        blob_cache_bytes_max: settings.cache.blob_bytes_max,
        blob_cache_entry_bytes_max: settings.cache.blob_entry_bytes_max,
        image_cache_max: settings.cache.images_max,
        password_memory_kib: settings.passwords.memory_kib,
        password_passes: settings.passwords.passes,
        password_turns: HashLimits {
            concurrent_max: settings.passwords.concurrent_max,
            queue_max: settings.passwords.queue_max,
            queue_per_range_max: settings.passwords.queue_per_range_max,
            wait_max: Duration::from_secs(settings.passwords.wait_seconds_max),
        },
        sessions: SessionLimits {
            idle: Duration::from_secs(settings.sessions.idle_seconds),
            absolute: Duration::from_secs(settings.sessions.absolute_seconds),
        },
        attempts: attempts(settings),
        worker_program,
        workers: worker_limits(settings),
        transform_side_px_max: settings.images.transform_side_px_max,
        variant_bytes_max: settings.cache.variant_bytes_max,
        looks: settings.images.looks,
        looks_pause: Duration::from_secs(settings.images.look_pause_seconds),
        sweep: sweep::Options {
            interval: Duration::from_secs(settings.sweep.interval_seconds),
            grace: Duration::from_secs(settings.sweep.grace_seconds),
            undo: Duration::from_secs(settings.sweep.undo_seconds),
            trash: Duration::from_secs(settings.sweep.trash_seconds),
            orphans_percent_max: settings.sweep.orphans_percent_max,
            orphans_always: settings.sweep.orphans_always,
        },
        clock: ClockLimits {
            jump_max: Duration::from_secs(settings.sweep.clock_jump_seconds_max),
            offset_max: Duration::from_secs(settings.sweep.clock_offset_seconds_max),
        },
        scrub: scrub::Options {
            folder_bytes_per_second_max: settings.scrub.bytes_per_second_max,
            bucket_bytes_per_second_max: settings.scrub.bucket_bytes_per_second_max,
            interval: Duration::from_secs(settings.scrub.interval_seconds),
        },
        opening: Opening::Making,
        allow_new_file_with_bucket: settings.database.allow_new_file_with_bucket,
    }
}

fn attempts(settings: &Settings) -> AttemptLimits {
    let login = &settings.login;
    AttemptLimits {
        per_account_max: login.attempts_per_account_max,
        per_address_max: login.attempts_per_address_max,
        per_account_anywhere_max: login.attempts_per_account_anywhere_max,
        window: Duration::from_secs(login.window_seconds.get().into()),
        known_for: Duration::from_secs(login.known_address_seconds),
    }
}

/// The bounds on workers.
#[must_use]
pub fn worker_limits(settings: &Settings) -> WorkerLimits {
    let workers = &settings.workers;
    WorkerLimits {
        concurrent_max: workers.concurrent_max,
        memory_bytes_max: workers.memory_bytes_max,
        queue_max: workers.queue_max,
        queue_per_org_max: workers.queue_per_org_max,
        wait_max: Duration::from_secs(workers.wait_seconds_max),
        jobs_max: workers.jobs_max.get(),
        time_max: Duration::from_secs(workers.time_seconds_max),
        drawing_time_max: Duration::from_secs(workers.drawing_seconds_max),
        look_time_max: Duration::from_secs(workers.look_seconds_max),
        avif_pixels_max: workers.avif_pixels_max,
        lossless_webp_pixels_max: workers.lossless_webp_pixels_max,
        refused_for: Duration::from_secs(workers.refused_seconds),
        allow_without_sandbox: workers.allow_without_sandbox,
        images: limits(settings),
    }
}

/// Files that may be open at once: each connection and what it is answered from, uploads, pipes of workers, the database.
#[must_use]
pub fn open_files_needed(settings: &Settings) -> u64 {
    let connections = 2 * settings.server.connections_max;
    let work = settings.uploads.open_max + 8 * settings.workers.concurrent_max;
    let database = 3 * settings.database.readers_max.get().max(settings.database.connections_max.get());
    (connections + work + 64) as u64 + u64::from(database)
}

/// Where the database is, and how to use it.
#[must_use]
pub fn database_place(settings: &Settings) -> DatabasePlace {
    let database = &settings.database;
    match settings.database_url() {
        DatabaseUrl::File(file) => DatabasePlace::File { file, readers_max: database.readers_max.get() },
        DatabaseUrl::Postgres(url) => DatabasePlace::Server {
            url,
            connections: Connections {
                max: database.connections_max.get(),
                reads_min: database.reads_connections_min,
                transaction_pooling: database.transaction_pooling,
            },
            patience: Patience {
                wait_max: Duration::from_secs(database.wait_seconds_max),
                time_max: Duration::from_secs(database.time_seconds_max),
                lock_max: Duration::from_secs(database.lock_seconds_max.get().into()),
                idle_max: Duration::from_secs(database.idle_transaction_seconds_max.get().into()),
            },
        },
    }
}

/// Where the blobs are, and how to use them.
#[must_use]
pub fn storage_place(settings: &Settings) -> storage::Place {
    let storage = &settings.storage;
    match settings.storage_url() {
        StorageUrl::Folder(folder) => storage::Place::Folder(folder),
        StorageUrl::Bucket(url) => storage::Place::Bucket(Box::new(BucketPlace {
            url,
            endpoint: storage.endpoint.clone(),
            region: storage.region.clone(),
            access_key_id: storage.access_key_id.clone(),
            secret_access_key: storage.secret_access_key.0.clone(),
            part_bytes: storage.part_bytes,
            time_max: Duration::from_secs(storage.time_seconds_max),
            retry_max: Duration::from_secs(storage.retry_seconds_max),
            http: StoreHttp::new(store_client::Limits {
                time_max: Duration::from_secs(storage.time_seconds_max),
                bytes_per_second_min: storage.bytes_per_second_min,
            }),
        })),
    }
}

/// The bounds on images.
#[must_use]
pub fn limits(settings: &Settings) -> Limits {
    let images = &settings.images;
    Limits {
        pixels_max: images.pixels_max,
        side_px_max: images.side_px_max,
        frames_max: images.frames_max,
        frame_pixels_max: images.frame_pixels_max,
        output_pixels_max: images.transform_pixels_max,
        output_frame_pixels_max: images.transform_frame_pixels_max,
        metadata_bytes_max: images.metadata_bytes_max,
        heic: images.heic,
    }
}

/// A service that accepts connections.
#[derive(Debug)]
pub struct Running {
    /// Where it listens.
    pub address: SocketAddr,
    service: Service,
    certificates: Option<Arc<Certificates>>,
    accepting: tokio::task::JoinHandle<Draining>,
    stop: Arc<tokio::sync::Notify>,
    background: tokio::task::JoinHandle<()>,
}

/// Binds the address and starts accepting.
///
/// # Errors
/// [`Error::Internal`] when the address is taken or the certificate can't be read.
pub async fn start(service: Service) -> Result<Running, Error> {
    let certificates = Certificates::open(&service.settings.tls)?.map(Arc::new);
    let tls = certificates.as_ref().map(Certificates::acceptor);
    let listen = service.settings.service.listen;
    let listener = TcpListener::bind(listen)
        .await
        .map_err(|error| Error::internal(&format!("listening on {listen} (--listen chooses another)"), &error))?;
    let address = listener.local_addr().map_err(|error| Error::internal("listening", &error))?;
    let stop = Arc::new(tokio::sync::Notify::new());
    let router = router::router(service.clone());
    let accepting = tokio::spawn(listener::accept(listener, router, tls, Arc::clone(&service.settings), Arc::clone(&stop)));
    let background = tokio::spawn(Arc::clone(&service.app).run_in_background());
    if let Some(certificates) = &certificates {
        tokio::spawn(Arc::clone(certificates).keep_fresh());
    }
    tokio::spawn(telemetry::keep_metrics_small(service.metrics.clone()));
    tokio::spawn(report_sandbox(Arc::clone(&service.app), service.settings.workers.allow_without_sandbox));
    Ok(Running { address, service, certificates, accepting, stop, background })
}

/// How long a service whose storage failed waits for its error answers to leave. No answer acknowledges anything any more.
const HALT_PATIENCE: Duration = Duration::from_secs(3);

/// Says at start how well hostile pictures are locked in.
async fn report_sandbox(app: Arc<App>, allowed_without: bool) {
    let sandbox = app.workers.sandbox().await;
    let holds = sandbox.as_ref().is_ok_and(|sandbox| sandbox.holds);
    metrics::gauge!("imagewell_workers_sandboxed").set(if holds { 1.0 } else { 0.0 });
    match sandbox {
        Ok(sandbox) if sandbox.holds => tracing::info!(sandbox = sandbox.description, "workers are sandboxed"),
        Ok(sandbox) if allowed_without => {
            tracing::warn!(
                sandbox = sandbox.description,
                "workers that decode images are not fully sandboxed, as the settings allow"
            );
        }
        Ok(sandbox) => tracing::error!(
            sandbox = sandbox.description,
            "no image is rendered: this system can't sandbox workers that decode images. Use a kernel with landlock and seccomp, or set \
             workers.allow_without_sandbox where every image is trusted"
        ),
        Err(error) => tracing::error!(%error, "workers that decode images can't be started"),
    }
}

impl Running {
    /// The certificates that are shown; none without TLS.
    #[must_use]
    pub fn certificates(&self) -> Option<Arc<Certificates>> {
        self.certificates.clone()
    }

    /// Serves until `signal` completes or storage fails, then answers what is running and closes the database.
    pub async fn until(self, signal: impl Future<Output = ()>) -> Ended {
        let halted = tokio::select! {
            () = signal => false,
            () = self.service.app.moved_away() => false,
            () = self.service.app.halt.wait() => true,
        };
        self.service.draining.store(true, Ordering::SeqCst);
        self.service.app.workers.drain();
        let server = &self.service.settings.server;
        if !halted && server.drain_delay_seconds > 0 {
            tracing::info!(seconds = server.drain_delay_seconds, "unready: waiting for the balancer to notice");
            tokio::time::sleep(Duration::from_secs(server.drain_delay_seconds)).await;
        }
        self.stop.notify_one();
        let patience = if halted { HALT_PATIENCE } else { Duration::from_secs(server.drain_timeout_seconds) };
        let drained = match self.accepting.await {
            Ok(draining) => draining.finish(patience).await,
            Err(_) => false,
        };
        self.background.abort();
        if halted {
            return Ended::Halted;
        }
        self.service.app.close().await;
        if drained { Ended::Drained } else { Ended::CutOff }
    }
}
