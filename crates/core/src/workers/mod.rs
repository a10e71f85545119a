//! Renderings in worker processes: our own program run again with nothing in its environment, bounded by time here and by
//! memory, CPU and system calls over there. A process can be killed; a thread can't.
//!
//! A worker makes one rendering after another, but not for ever: whatever a hostile picture may have done to it ends with it. What
//! is admitted at once is measured by the memory that decoding takes, not by the number of pictures. The source is opened only when
//! its turn has come and goes to the worker through a pipe, so however many wait, they take neither memory nor disk.

mod process;
mod source;

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use imagewell_imaging::cost::{SlowEncoder, slow_encoder, without_avif};
use imagewell_imaging::look::Look;
use imagewell_imaging::transform::Transform;
use imagewell_imaging::{Facts, Format, Limits};
use tokio::process::Command;
use tokio::sync::OnceCell;

use self::process::{Ending, Process, Urgency};
pub use self::source::{Chunks, Given, Source};
use crate::Error;
use crate::admission::{Admission, AdmissionLimits};
use crate::model::OrgId;

/// What a worker takes besides the picture.
const BASE_BYTES: u64 = 16 * 1024 * 1024;
/// What drawing an SVG takes: its pixels, layers of them, and the document.
const DRAWING_BYTES: u64 = 128 * 1024 * 1024;
/// A worker that has held more than this is not used again: an allocator gives little back.
const REUSE_BYTES_MAX: u64 = 96 * 1024 * 1024;
/// When to ask again for what failed for a passing reason.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// When to ask again where workers have no sandbox: an operator must do something first.
const RETRY_AFTER_SANDBOX: Duration = Duration::from_secs(60);
/// A worker says within this time what its sandbox is made of.
const PROBE_TIME_MAX: Duration = Duration::from_secs(20);
/// First byte of a worker's answer: the rendering follows, or a reason that may be shown.
pub const ANSWER_RENDERED: u8 = b'+';
/// See [`ANSWER_RENDERED`].
pub const ANSWER_REFUSED: u8 = b'-';
/// The job that is no transform: how an image looks from afar.
pub const JOB_LOOK: &str = "look";
/// See [`JOB_LOOK`]: whether an image can be shown. The answer is empty, or the reason why not; broken pixels are refused.
pub const JOB_CHECK: &str = "check";
/// See [`JOB_LOOK`]: an SVG as a PNG.
pub const JOB_RASTERISE: &str = "rasterise";

/// Bounds on rendering.
#[derive(Debug, Clone, Copy)]
pub struct WorkerLimits {
    /// Processes at once. With two or more, an org that waits while another one holds them all gets one more.
    pub concurrent_max: usize,
    /// Bytes that all renderings at once may take, by estimate. The one more may take a quarter of this beyond it.
    pub memory_bytes_max: u64,
    /// Renderings that wait for their turn; more are refused with [`Error::Busy`].
    pub queue_max: usize,
    /// Of these, how many may be one org's; more are refused with [`Error::TooMany`].
    pub queue_per_org_max: usize,
    /// A rendering that waits longer for its turn is refused with [`Error::Busy`].
    pub wait_max: Duration,
    /// Renderings that one process makes before it is replaced.
    pub jobs_max: u32,
    /// A rendering that takes longer is given up, and its process killed.
    pub time_max: Duration,
    /// The same for an SVG that is drawn.
    pub drawing_time_max: Duration,
    /// The same for the look at an image that nobody waits for.
    pub look_time_max: Duration,
    /// Pixels of a rendering as AVIF.
    pub avif_pixels_max: u64,
    /// Pixels of a rendering as WebP without loss.
    pub lossless_webp_pixels_max: u64,
    /// What was refused or took too long is refused for this time without another try.
    pub refused_for: Duration,
    /// Whether pictures are decoded also where the kernel knows neither landlock nor seccomp.
    pub allow_without_sandbox: bool,
    /// Bounds on images and their renderings.
    pub images: Limits,
}

/// Starts worker processes and hands them work.
#[derive(Debug)]
pub struct Workers {
    program: PathBuf,
    limits: WorkerLimits,
    admission: Admission,
    idle: Mutex<Vec<Process>>,
    sandbox: OnceCell<Sandbox>,
    draining: AtomicBool,
}

/// How well a worker is locked in.
#[derive(Debug, Clone)]
pub struct Sandbox {
    /// In words.
    pub description: String,
    /// Whether landlock and seccomp are in force, and nothing that a worker may not do was possible.
    pub holds: bool,
}

/// Why a job has no result.
#[derive(Debug, Clone)]
pub enum Failure {
    /// The picture can't be decoded, or what is asked for may not be made of it. It never will be.
    Refused(String),
    /// Its process ended by its own limits, or took too long. So it will be another time, unless the machine was very busy.
    Overtaxed(String),
    /// Somebody else ended the process: an operator, or a kernel that is out of memory. Another time it may work.
    Killed,
    /// It has nothing to do with the picture: no turn, no process, no bytes.
    Passing(Error),
}

/// What the caller hears.
impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Refused(reason) | Failure::Overtaxed(reason) => Self::invalid(reason),
            Failure::Killed => Self::Busy { retry_after: RETRY_AFTER },
            Failure::Passing(error) => error,
        }
    }
}

/// What a worker is to do for an org.
struct Job<'a> {
    org: OrgId,
    source: &'a dyn Source,
    extra_bytes: u64,
    text: &'a str,
    urgency: Urgency,
    time_max: Duration,
}

impl Workers {
    /// `program` is run as `program render-worker`.
    #[must_use]
    pub fn new(program: PathBuf, limits: WorkerLimits) -> Self {
        let admission = Admission::new(AdmissionLimits {
            concurrent_max: limits.concurrent_max,
            memory_mib_max: mib(limits.memory_bytes_max),
            queue_max: limits.queue_max,
            queue_per_org_max: limits.queue_per_org_max,
            wait_max: limits.wait_max,
        });
        let (sandbox, draining) = (OnceCell::new(), AtomicBool::new(false));
        Self { program, limits, admission, idle: Mutex::default(), sandbox, draining }
    }

    /// What a worker says of its sandbox. It is asked once.
    ///
    /// # Errors
    /// [`Error::Busy`] when no worker can be started.
    pub async fn sandbox(&self) -> Result<&Sandbox, Error> {
        self.sandbox.get_or_try_init(|| self.probe()).await
    }

    async fn probe(&self) -> Result<Sandbox, Error> {
        let mut command = Command::new(&self.program);
        command.args(["render-worker", "probe"]).env_clear().stdin(Stdio::null()).stderr(Stdio::null());
        let said = tokio::time::timeout(PROBE_TIME_MAX, command.kill_on_drop(true).output()).await;
        let description = match said {
            Ok(Ok(output)) => String::from_utf8_lossy(&output.stdout).trim().replace('\n', "; "),
            Ok(Err(_)) | Err(_) => String::new(),
        };
        if description.is_empty() {
            return Err(Error::Busy { retry_after: RETRY_AFTER });
        }
        let holds = !description.contains("not supported") && !description.contains("ALLOWED");
        Ok(Sandbox { description, holds })
    }

    /// Whether pictures may be decoded here.
    async fn check_sandbox(&self) -> Result<(), Error> {
        if self.limits.allow_without_sandbox || self.sandbox().await?.holds {
            return Ok(());
        }
        Err(Error::Busy { retry_after: RETRY_AFTER_SANDBOX })
    }

    /// From now on whatever ends a worker counts as passing: the service is stopping.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
    }

    /// Makes one rendering for an org.
    ///
    /// # Errors
    /// See [`Failure`]. What is dear is refused before it waits for a turn.
    pub async fn render(&self, org: OrgId, source: &dyn Source, transform: &Transform) -> Result<Bytes, Failure> {
        let transform = self.affordable(source.facts(), transform)?;
        let frames = if transform.animate { frames_bytes(source.facts(), &self.limits.images) } else { 0 };
        let text = transform.to_string();
        let time_max = self.limits.time_max;
        self.job(Job { org, source, extra_bytes: frames, text: &text, urgency: Urgency::Awaited, time_max }).await
    }

    /// The transform as it can be made within the time: AVIF gives way where the client reads other formats too.
    fn affordable(&self, facts: Option<&Facts>, transform: &Transform) -> Result<Transform, Failure> {
        let Some((encoder, pixels)) = facts.and_then(|facts| slow_encoder(transform, facts)) else { return Ok(*transform) };
        let (max, setting) = match encoder {
            SlowEncoder::Avif => (self.limits.avif_pixels_max, "workers.avif_pixels_max"),
            SlowEncoder::LosslessWebP => (self.limits.lossless_webp_pixels_max, "workers.lossless_webp_pixels_max"),
        };
        if pixels <= max {
            return Ok(*transform);
        }
        if encoder == SlowEncoder::Avif
            && let Some(others) = without_avif(transform)
        {
            return self.affordable(facts, &others);
        }
        Err(Failure::Refused(format!(
            "the image can't be rendered: {pixels} pixels as {encoder} would take too long, at most {max} are made ({setting}); \
             ask for a smaller size or for another format"
        )))
    }

    /// Looks at an image from afar, when nobody needs the processors for anything else.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn look(&self, org: OrgId, source: &dyn Source) -> Result<Look, Failure> {
        let (urgency, time_max) = (Urgency::Background, self.limits.look_time_max);
        let answer = self.job(Job { org, source, extra_bytes: 0, text: JOB_LOOK, urgency, time_max }).await?;
        let look = std::str::from_utf8(&answer).ok().and_then(|text| text.parse().ok());
        look.ok_or_else(|| Failure::Overtaxed("a worker's answer makes no sense".into()))
    }

    /// Decodes an image that is being uploaded. None when it can be shown; otherwise the reason: its kind has no decoder here.
    ///
    /// # Errors
    /// [`Failure::Refused`] when its pixels are broken; otherwise see [`Failure`].
    pub async fn check(&self, org: OrgId, source: &dyn Source) -> Result<Option<String>, Failure> {
        let (urgency, time_max) = (Urgency::Awaited, self.limits.time_max);
        let answer = self.job(Job { org, source, extra_bytes: 0, text: JOB_CHECK, urgency, time_max }).await?;
        Ok((!answer.is_empty()).then(|| String::from_utf8_lossy(&answer).into_owned()))
    }

    /// Draws an SVG as a PNG.
    ///
    /// # Errors
    /// As [`Error`] says of a [`Failure`].
    pub async fn rasterise(&self, org: OrgId, source: &dyn Source) -> Result<Bytes, Error> {
        let (urgency, time_max) = (Urgency::Awaited, self.limits.drawing_time_max);
        let job = Job { org, source, extra_bytes: DRAWING_BYTES, text: JOB_RASTERISE, urgency, time_max };
        Ok(self.job(job).await?)
    }

    async fn job(&self, job: Job<'_>) -> Result<Bytes, Failure> {
        self.check_sandbox().await.map_err(Failure::Passing)?;
        let bytes = estimate(job.source) + job.extra_bytes;
        let _turn = self.admission.turn(job.org, mib(bytes)).await.map_err(|error| {
            metrics::counter!("imagewell_renderings_refused_total").increment(1);
            Failure::Passing(error)
        })?;
        let until = Instant::now() + job.time_max;
        let (mut worker, reused) = match self.take_idle(job.urgency) {
            Some(worker) => (worker, true),
            None => (self.start(job.urgency)?, false),
        };
        let mut outcome = worker.run(job.source, job.text, job.time_max).await;
        if reused && matches!(outcome, Err(Ending::ByThePicture | Ending::ByOthers(_))) {
            // It may have been an earlier picture that ended it, or it had been killed while it waited.
            worker = self.start(job.urgency)?;
            outcome = worker.run(job.source, job.text, until.saturating_duration_since(Instant::now())).await;
        }
        let answer = outcome.map_err(|ending| self.failure(ending, job.text))?;
        worker.jobs += 1;
        worker.idle_since = Instant::now();
        if worker.jobs < self.limits.jobs_max && bytes <= REUSE_BYTES_MAX {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(worker);
        }
        judge(&answer)
    }

    fn failure(&self, ending: Ending, job: &str) -> Failure {
        let (how, failure) = match ending {
            Ending::NoSource(error) => return Failure::Passing(error),
            Ending::ByOthers(how) => (how, Failure::Killed),
            Ending::ByThePicture => {
                let reason = "decoding it takes more than is allowed";
                (reason.to_owned(), Failure::Overtaxed(format!("the image can't be rendered: {reason}")))
            }
            Ending::Overran(time_max) => {
                let reason = format!("it takes too long, more than {} seconds", time_max.as_secs());
                let advice = "ask for a smaller size or another format";
                let failure = Failure::Overtaxed(format!("the image can't be rendered: {reason}; {advice}"));
                (reason, failure)
            }
        };
        tracing::warn!(how, job, "a worker ended over an image");
        metrics::counter!("imagewell_workers_lost_total").increment(1);
        if self.draining.load(Ordering::SeqCst) {
            return Failure::Passing(Error::Busy { retry_after: RETRY_AFTER });
        }
        failure
    }

    /// Ends workers that have waited for longer than this, and says how many: nobody renders now, so nobody needs their memory.
    pub fn end_idle(&self, longer_than: Duration) -> usize {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let before = idle.len();
        idle.retain(|worker| worker.idle_since.elapsed() < longer_than);
        before - idle.len()
    }

    /// Workers don't change sides: without a privilege nobody becomes less nice again.
    fn take_idle(&self, urgency: Urgency) -> Option<Process> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let last = idle.iter().rposition(|worker| worker.urgency == urgency)?;
        Some(idle.swap_remove(last))
    }

    fn start(&self, urgency: Urgency) -> Result<Process, Failure> {
        Process::start(&self.program, &self.limits.images, urgency).map_err(Failure::Passing)
    }
}

/// The source, the decoded picture at four bytes a pixel, and as much again for what decoders hold beside it: the coefficients of a
/// progressive JPEG, the lines of a PNG, the planes of a HEIC without tiles. JPEG XL is decoded to floating-point planes.
fn estimate(source: &dyn Source) -> u64 {
    let facts = source.facts();
    let pixels = facts.map_or(0, |facts| u64::from(facts.width) * u64::from(facts.height));
    let bytes_a_pixel = if facts.is_some_and(|facts| facts.format == Format::Jxl) { 32 } else { 8 };
    BASE_BYTES + source.size_bytes() + pixels * bytes_a_pixel
}

/// What an animation holds until it is encoded: all of its frames as they come out, and never more than is allowed.
fn frames_bytes(facts: Option<&Facts>, limits: &Limits) -> u64 {
    let pixels = |facts: &Facts| u64::from(facts.frames) * u64::from(facts.width) * u64::from(facts.height);
    facts.filter(|facts| facts.frames > 1).map_or(0, |facts| pixels(facts).min(limits.output_frame_pixels_max) * 4)
}

fn mib(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(1024 * 1024)).unwrap_or(u32::MAX).max(1)
}

fn judge((kind, answer): &(u8, Bytes)) -> Result<Bytes, Failure> {
    match *kind {
        ANSWER_RENDERED => Ok(answer.clone()),
        ANSWER_REFUSED => Err(Failure::Refused(String::from_utf8_lossy(answer).into_owned())),
        _ => Err(Failure::Overtaxed("a worker's answer makes no sense".into())),
    }
}
