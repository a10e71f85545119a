//! Renderings in worker processes: our own program run again with nothing in its environment, bounded by time here and by
//! memory, CPU and system calls over there. A process can be killed; a thread can't.
//!
//! A worker makes one rendering after another, but not for ever: whatever a hostile picture may have done to it ends with it. What
//! is admitted at once is measured by the memory that decoding takes, not by the number of pictures.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use imagewell_imaging::look::Look;
use imagewell_imaging::transform::Transform;
use imagewell_imaging::{Facts, Format, Limits};
use rustix::process::{Pid, setpriority_process};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::Error;
use crate::admission::{Admission, AdmissionLimits};
use crate::model::OrgId;
use crate::spool::Content;

/// A rendering is never larger than this.
const OUTPUT_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// The source is handed over in pieces of this size.
const CHUNK_BYTES: usize = 256 * 1024;
/// What a worker takes besides the picture.
const BASE_BYTES: u64 = 16 * 1024 * 1024;
/// What drawing an SVG takes: its pixels, layers of them, and the document.
const DRAWING_BYTES: u64 = 128 * 1024 * 1024;
/// A worker that has held more than this is not used again: an allocator gives little back.
const REUSE_BYTES_MAX: u64 = 96 * 1024 * 1024;
/// First byte of a worker's answer: the rendering follows, or a reason that may be shown.
pub const ANSWER_RENDERED: u8 = b'+';
/// See [`ANSWER_RENDERED`].
pub const ANSWER_REFUSED: u8 = b'-';
/// The job that is no transform: how an image looks from afar.
pub const JOB_LOOK: &str = "look";
/// See [`JOB_LOOK`]: an SVG as a PNG.
pub const JOB_RASTERISE: &str = "rasterise";

/// Bounds on rendering.
#[derive(Debug, Clone, Copy)]
pub struct WorkerLimits {
    /// Processes at once.
    pub concurrent_max: usize,
    /// Bytes that all renderings at once may take, by estimate.
    pub memory_bytes_max: u64,
    /// Renderings that wait for their turn; more are told to come back.
    pub queue_max: usize,
    /// Of these, how many may be one org's.
    pub queue_per_org_max: usize,
    /// A rendering that waits longer for its turn is told to come back.
    pub wait_max: Duration,
    /// Renderings that one process makes before it is replaced.
    pub jobs_max: u32,
    /// A rendering that takes longer is given up, and its process killed.
    pub time_max: Duration,
    /// Bounds on images and their renderings.
    pub images: Limits,
}

/// Who waits for a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Urgency {
    /// A caller.
    Awaited,
    /// Nobody: it is done with what uploads, reads and callers' renderings leave of the processors.
    Background,
}

/// How nice workers of the background are: they get a tenth of what others get where both want it (sched(7)).
const BACKGROUND_NICENESS: i32 = 10;

/// Starts worker processes and hands them work.
#[derive(Debug)]
pub struct Workers {
    program: PathBuf,
    limits: WorkerLimits,
    admission: Admission,
    idle: Mutex<Vec<Worker>>,
}

/// A process that waits for its next picture. Dropped, it is killed.
#[derive(Debug)]
struct Worker {
    child: Child,
    stdin: ChildStdin,
    stdout: ChildStdout,
    urgency: Urgency,
    jobs: u32,
    idle_since: Instant,
}

/// How a job ended that has no answer.
enum Failed {
    /// The process is gone.
    Died,
    /// It took too long.
    Overran,
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
        Self { program, limits, admission, idle: Mutex::default() }
    }

    /// What a worker says of its sandbox: empty when it can't even start.
    pub async fn probe(&self) -> String {
        let output =
            Command::new(&self.program).args(["render-worker", "probe"]).env_clear().stderr(Stdio::null()).output().await;
        output.map(|output| String::from_utf8_lossy(&output.stdout).trim().replace('\n', "; ")).unwrap_or_default()
    }

    /// Makes one rendering for an org. `facts` tell how much memory it will take.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the worker refuses the bytes or has to be killed over them, [`Error::TooMany`] when too many of the org
    /// wait, [`Error::Busy`] when too many wait in all.
    pub async fn render(
        &self,
        org: OrgId,
        source: &Content,
        facts: Option<&Facts>,
        transform: &Transform,
    ) -> Result<Bytes, Error> {
        let frames = if transform.animate { frames_bytes(facts, &self.limits.images) } else { 0 };
        self.job(org, source, facts, frames, &transform.to_string(), Urgency::Awaited).await
    }

    /// Looks at an image from afar, when nobody needs the processors for anything else.
    ///
    /// # Errors
    /// As [`Workers::render`].
    pub async fn look(&self, org: OrgId, source: &Content, facts: Option<&Facts>) -> Result<Look, Error> {
        let answer = self.job(org, source, facts, 0, JOB_LOOK, Urgency::Background).await?;
        let look = std::str::from_utf8(&answer).ok().and_then(|text| text.parse().ok());
        look.ok_or_else(|| Error::Internal { detail: "a worker's answer makes no sense".into() })
    }

    /// Draws an SVG as a PNG.
    ///
    /// # Errors
    /// As [`Workers::render`].
    pub async fn rasterise(&self, org: OrgId, source: &Content) -> Result<Bytes, Error> {
        self.job(org, source, None, DRAWING_BYTES, JOB_RASTERISE, Urgency::Awaited).await
    }

    async fn job(
        &self,
        org: OrgId,
        source: &Content,
        facts: Option<&Facts>,
        extra_bytes: u64,
        job: &str,
        urgency: Urgency,
    ) -> Result<Bytes, Error> {
        let bytes = estimate(source, facts) + extra_bytes;
        let _turn = self.admission.turn(org, mib(bytes)).await.inspect_err(|_| {
            metrics::counter!("imagewell_renderings_refused_total").increment(1);
        })?;
        let mut worker = self.take_idle(urgency).map_or_else(|| self.start(urgency), Ok)?;
        let mut outcome = self.work(&mut worker, source, job).await;
        if matches!(outcome, Err(Failed::Died)) && worker.jobs > 0 {
            // It may have been an earlier picture that ended it.
            worker = self.start(urgency)?;
            outcome = self.work(&mut worker, source, job).await;
        }
        match outcome {
            Ok(answer) => {
                worker.jobs += 1;
                worker.idle_since = Instant::now();
                if worker.jobs < self.limits.jobs_max && bytes <= REUSE_BYTES_MAX {
                    self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(worker);
                }
                judge(&answer)
            }
            Err(failed) => {
                let reason = match failed {
                    Failed::Died => "decoding it takes more than is allowed",
                    Failed::Overran => "it takes too long",
                };
                tracing::warn!(reason, job, "a worker ended over an image");
                metrics::counter!("imagewell_workers_lost_total").increment(1);
                Err(Error::invalid(format!("the image can't be rendered: {reason}")))
            }
        }
    }

    /// Ends workers that have waited for longer than this, and says how many: nobody renders now, so nobody needs their memory.
    pub fn end_idle(&self, longer_than: Duration) -> usize {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let before = idle.len();
        idle.retain(|worker| worker.idle_since.elapsed() < longer_than);
        before - idle.len()
    }

    /// Workers don't change sides: without a privilege nobody becomes less nice again.
    fn take_idle(&self, urgency: Urgency) -> Option<Worker> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let last = idle.iter().rposition(|worker| worker.urgency == urgency)?;
        Some(idle.swap_remove(last))
    }

    fn start(&self, urgency: Urgency) -> Result<Worker, Error> {
        let mut child = Command::new(&self.program)
            .args(["render-worker", "serve", &self.limits.images.to_string()])
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| Error::internal("starting a worker", &error))?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(Error::Internal { detail: "a worker has no pipes".into() });
        };
        if urgency == Urgency::Background
            && let Some(pid) = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?))
        {
            // Where it is not allowed, looking costs others a little more.
            let _ = setpriority_process(Some(pid), BACKGROUND_NICENESS);
        }
        Ok(Worker { child, stdin, stdout, urgency, jobs: 0, idle_since: Instant::now() })
    }

    async fn work(&self, worker: &mut Worker, source: &Content, job: &str) -> Result<(u8, Bytes), Failed> {
        // What others leave may be little.
        let patience = match worker.urgency {
            Urgency::Awaited => self.limits.time_max,
            Urgency::Background => self.limits.time_max.saturating_mul(BACKGROUND_NICENESS.unsigned_abs()),
        };
        let outcome = tokio::time::timeout(patience, worker.talk(source, job)).await;
        if !matches!(outcome, Ok(Ok(_))) {
            let _ = worker.child.start_kill();
        }
        match outcome {
            Ok(answer) => answer.map_err(|_| Failed::Died),
            Err(_) => Err(Failed::Overran),
        }
    }
}

impl Worker {
    /// Job and source, each behind its length; the answer's kind, its length, and the answer.
    async fn talk(&mut self, source: &Content, job: &str) -> std::io::Result<(u8, Bytes)> {
        self.stdin.write_u32(u32::try_from(job.len()).unwrap_or(u32::MAX)).await?;
        self.stdin.write_all(job.as_bytes()).await?;
        self.stdin.write_u64(source.len()).await?;
        let mut offset = 0;
        while offset < source.len() {
            let chunk = source.read_at(offset, CHUNK_BYTES).await?;
            self.stdin.write_all(&chunk).await?;
            offset += chunk.len() as u64;
        }
        self.stdin.flush().await?;
        let kind = self.stdout.read_u8().await?;
        let length = self.stdout.read_u64().await?;
        if length > OUTPUT_BYTES_MAX {
            return Err(std::io::ErrorKind::InvalidData.into());
        }
        let mut answer = Vec::new();
        let read = (&mut self.stdout).take(length).read_to_end(&mut answer).await?;
        if read as u64 == length { Ok((kind, answer.into())) } else { Err(std::io::ErrorKind::UnexpectedEof.into()) }
    }
}

/// The source, the decoded picture at four bytes a pixel, and as much again for what decoders hold beside it: the coefficients of a
/// progressive JPEG, the lines of a PNG. JPEG XL is decoded to floating-point planes.
fn estimate(source: &Content, facts: Option<&Facts>) -> u64 {
    let pixels = facts.map_or(0, |facts| u64::from(facts.width) * u64::from(facts.height));
    let bytes_a_pixel = if facts.is_some_and(|facts| facts.format == Format::Jxl) { 32 } else { 8 };
    BASE_BYTES + source.len() + pixels * bytes_a_pixel
}

/// What an animation holds until it is encoded: all of its frames as they come out, and never more than is allowed.
fn frames_bytes(facts: Option<&Facts>, limits: &Limits) -> u64 {
    let pixels = |facts: &Facts| u64::from(facts.frames) * u64::from(facts.width) * u64::from(facts.height);
    facts.filter(|facts| facts.frames > 1).map_or(0, |facts| pixels(facts).min(limits.output_frame_pixels_max) * 4)
}

fn mib(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(1024 * 1024)).unwrap_or(u32::MAX).max(1)
}

fn judge((kind, answer): &(u8, Bytes)) -> Result<Bytes, Error> {
    match *kind {
        ANSWER_RENDERED => Ok(answer.clone()),
        ANSWER_REFUSED => Err(Error::invalid(String::from_utf8_lossy(answer))),
        _ => Err(Error::Internal { detail: "a worker's answer makes no sense".into() }),
    }
}
