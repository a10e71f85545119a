//! Renderings in worker processes: our own program run again with nothing in its environment, bounded by time here and by
//! memory, CPU and system calls over there. A process can be killed; a thread can't.
//!
//! A worker makes one rendering after another, but not for ever: whatever a hostile picture may have done to it ends with it. What
//! is admitted at once is measured by the memory that decoding takes, not by the number of pictures.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use imagewell_imaging::Facts;
use imagewell_imaging::transform::Transform;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::Error;
use crate::spool::Content;

/// A rendering waits this long for its turn before the caller is told that the service is busy.
const WAIT_MAX: Duration = Duration::from_secs(10);
/// A rendering is never larger than this.
const OUTPUT_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// The source is handed over in pieces of this size.
const CHUNK_BYTES: usize = 256 * 1024;
/// What a worker takes besides the picture.
const BASE_BYTES: u64 = 16 * 1024 * 1024;
/// A worker that has held more than this is not used again: an allocator gives little back.
const REUSE_BYTES_MAX: u64 = 96 * 1024 * 1024;
/// First byte of a worker's answer: the rendering follows, or a reason that may be shown.
pub const ANSWER_RENDERED: u8 = b'+';
/// See [`ANSWER_RENDERED`].
pub const ANSWER_REFUSED: u8 = b'-';

/// Bounds on rendering.
#[derive(Debug, Clone, Copy)]
pub struct WorkerLimits {
    /// Processes at once.
    pub concurrent_max: usize,
    /// Bytes that all renderings at once may take, by estimate.
    pub memory_bytes_max: u64,
    /// Renderings that wait for their turn; more are told to come back.
    pub queue_max: usize,
    /// Renderings that one process makes before it is replaced.
    pub jobs_max: u32,
    /// A rendering that takes longer is given up, and its process killed.
    pub time_max: Duration,
}

/// Starts worker processes and hands them work.
#[derive(Debug)]
pub struct Workers {
    program: PathBuf,
    limits: WorkerLimits,
    processes: Semaphore,
    /// In MiB.
    memory: Semaphore,
    memory_mib_max: u32,
    waiting: AtomicUsize,
    idle: Mutex<Vec<Worker>>,
}

/// A process that waits for its next picture. Dropped, it is killed.
#[derive(Debug)]
struct Worker {
    child: Child,
    stdin: ChildStdin,
    stdout: ChildStdout,
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
        let memory_mib_max = mib(limits.memory_bytes_max);
        Self {
            program,
            limits,
            processes: Semaphore::new(limits.concurrent_max),
            memory: Semaphore::new(memory_mib_max as usize),
            memory_mib_max,
            waiting: AtomicUsize::new(0),
            idle: Mutex::default(),
        }
    }

    /// What a worker says of its sandbox: empty when it can't even start.
    pub async fn probe(&self) -> String {
        let output =
            Command::new(&self.program).args(["render-worker", "probe"]).env_clear().stderr(Stdio::null()).output().await;
        output.map(|output| String::from_utf8_lossy(&output.stdout).trim().replace('\n', "; ")).unwrap_or_default()
    }

    /// Makes one rendering. `facts` tell how much memory it will take.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the worker refuses the bytes or has to be killed over them, [`Error::Busy`] when too many wait.
    pub async fn render(&self, source: &Content, facts: Option<&Facts>, transform: &Transform) -> Result<Bytes, Error> {
        let bytes = estimate(source, facts);
        let _turn = self.turn(bytes).await?;
        let mut worker = self.take_idle().map_or_else(|| self.start(), Ok)?;
        let mut outcome = self.work(&mut worker, source, transform).await;
        if matches!(outcome, Err(Failed::Died)) && worker.jobs > 0 {
            // It may have been an earlier picture that ended it.
            worker = self.start()?;
            outcome = self.work(&mut worker, source, transform).await;
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
                tracing::warn!(reason, %transform, "a worker ended over an image");
                metrics::counter!("imagewell_workers_lost_total").increment(1);
                Err(Error::invalid(format!("the image can't be rendered: {reason}")))
            }
        }
    }

    /// A place among the processes and in memory, in the order of asking.
    async fn turn(&self, bytes: u64) -> Result<(SemaphorePermit<'_>, SemaphorePermit<'_>), Error> {
        let busy = || Error::Busy { retry_after: Duration::from_secs(1) };
        let mib = mib(bytes).min(self.memory_mib_max);
        if let (Ok(process), Ok(memory)) = (self.processes.try_acquire(), self.memory.try_acquire_many(mib)) {
            return Ok((process, memory));
        }
        let waiting = Waiting::enter(&self.waiting);
        if waiting.before >= self.limits.queue_max {
            metrics::counter!("imagewell_renderings_refused_total").increment(1);
            return Err(busy());
        }
        let permits = async {
            let process = self.processes.acquire().await.ok()?;
            let memory = self.memory.acquire_many(mib).await.ok()?;
            Some((process, memory))
        };
        tokio::time::timeout(WAIT_MAX, permits).await.ok().flatten().ok_or_else(busy)
    }

    /// Ends workers that have waited for longer than this, and says how many: nobody renders now, so nobody needs their memory.
    pub fn end_idle(&self, longer_than: Duration) -> usize {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let before = idle.len();
        idle.retain(|worker| worker.idle_since.elapsed() < longer_than);
        before - idle.len()
    }

    fn take_idle(&self) -> Option<Worker> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    fn start(&self) -> Result<Worker, Error> {
        let mut child = Command::new(&self.program)
            .arg("render-worker")
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
        Ok(Worker { child, stdin, stdout, jobs: 0, idle_since: Instant::now() })
    }

    async fn work(&self, worker: &mut Worker, source: &Content, transform: &Transform) -> Result<(u8, Bytes), Failed> {
        let outcome = tokio::time::timeout(self.limits.time_max, worker.talk(source, transform)).await;
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
    /// Transform and source, each behind its length; the answer's kind, its length, and the answer.
    async fn talk(&mut self, source: &Content, transform: &Transform) -> std::io::Result<(u8, Bytes)> {
        let transform = transform.to_string();
        self.stdin.write_u32(u32::try_from(transform.len()).unwrap_or(u32::MAX)).await?;
        self.stdin.write_all(transform.as_bytes()).await?;
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

/// Counts somebody who waits, for as long as it lives.
struct Waiting<'a> {
    count: &'a AtomicUsize,
    before: usize,
}

impl<'a> Waiting<'a> {
    fn enter(count: &'a AtomicUsize) -> Self {
        Self { count, before: count.fetch_add(1, Ordering::SeqCst) }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The source, the decoded picture at four bytes a pixel, and as much again for what decoders hold beside it: the coefficients of a
/// progressive JPEG, the lines of a PNG.
fn estimate(source: &Content, facts: Option<&Facts>) -> u64 {
    let pixels = facts.map_or(0, |facts| u64::from(facts.width) * u64::from(facts.height));
    BASE_BYTES + source.len() + pixels * 8
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
