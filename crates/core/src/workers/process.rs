//! One worker process: how it starts, what is said to it, and why it ended when it gave no answer.
//!
//! It has a process group of its own, so that a Ctrl-C or a service manager's SIGTERM is for the server alone, which drains. A
//! worker ends with its input.

use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt as _;
use imagewell_imaging::Limits;
use rustix::process::{Pid, Signal, setpriority_process};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::{RETRY_AFTER, Source};
use crate::Error;

/// A rendering is never larger than this.
const OUTPUT_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// A worker that has closed its pipes ends within this time; one that doesn't is up to something.
const ENDS_WITHIN: Duration = Duration::from_secs(1);
/// How nice workers of the background are: they get a tenth of what others get where both want it (sched(7)).
const BACKGROUND_NICENESS: i32 = 10;
/// What a process dies of that asked for more memory or CPU time than it may have, made a forbidden call, or has a bug that a picture
/// found. SIGKILL isn't among them: the limit of CPU time sends SIGXCPU first, so it comes from somebody else, as the kernel that is
/// out of memory.
const SIGNALS_OF_ITS_OWN: [Signal; 9] =
    [Signal::ABORT, Signal::BUS, Signal::FPE, Signal::ILL, Signal::SEGV, Signal::SYS, Signal::TRAP, Signal::XCPU, Signal::XFSZ];

/// Who waits for a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Urgency {
    /// A caller.
    Awaited,
    /// Nobody: it is done with what uploads, reads and callers' renderings leave of the processors.
    Background,
}

/// A process that waits for its next job. Dropped, it is killed.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    stdin: ChildStdin,
    stdout: ChildStdout,
    pub(super) urgency: Urgency,
    pub(super) jobs: u32,
    pub(super) idle_since: Instant,
}

/// Why a job has no answer.
#[derive(Debug)]
pub(super) enum Ending {
    /// Its own limits ended the process, or what it said made no sense: the picture did that.
    ByThePicture,
    /// It took longer than this.
    Overran(Duration),
    /// Somebody else ended the process, which says nothing about the picture. How.
    ByOthers(String),
    /// The picture's bytes could not be had.
    NoSource(Error),
}

/// Where a conversation broke off.
enum BrokenOff {
    /// The process closed its pipes.
    Closed,
    /// It says what no worker says.
    Nonsense,
    NoSource(Error),
}

impl From<io::Error> for BrokenOff {
    fn from(_: io::Error) -> Self {
        Self::Closed
    }
}

impl Process {
    /// Starts one. Where that fails there are too few processes, files or bytes of memory, or the program is being replaced.
    ///
    /// # Errors
    /// [`Error::Busy`].
    pub(super) fn start(program: &Path, limits: &Limits, urgency: Urgency) -> Result<Self, Error> {
        let started = Command::new(program)
            .args(["render-worker", "serve", &limits.to_string()])
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .kill_on_drop(true)
            .spawn();
        let mut child = started.map_err(|error| {
            tracing::error!(%error, program = %program.display(), "a worker can't be started; renderings are refused until it can");
            Error::Busy { retry_after: RETRY_AFTER }
        })?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(Error::Internal { detail: "a worker has no pipes".into() });
        };
        if urgency == Urgency::Background
            && let Some(pid) = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?))
        {
            // Where it is not allowed, looking costs others a little more.
            let _ = setpriority_process(Some(pid), BACKGROUND_NICENESS);
        }
        Ok(Self { child, stdin, stdout, urgency, jobs: 0, idle_since: Instant::now() })
    }

    /// Does one job, within so much time. Without an answer the process is over.
    pub(super) async fn run(&mut self, source: &dyn Source, job: &str, time_max: Duration) -> Result<(u8, Bytes), Ending> {
        let mut has_source = false;
        let ending = match tokio::time::timeout(time_max, self.talk(source, job, &mut has_source)).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(BrokenOff::Closed)) => self.ending().await,
            Ok(Err(BrokenOff::Nonsense)) => Ending::ByThePicture,
            Ok(Err(BrokenOff::NoSource(error))) => Ending::NoSource(error),
            Err(_) if has_source => Ending::Overran(time_max),
            // The store is slow, or the machine: a worker reads all there is before it begins.
            Err(_) => Ending::NoSource(Error::Busy { retry_after: RETRY_AFTER }),
        };
        let _ = self.child.start_kill();
        Err(ending)
    }

    /// Job and source, each behind its length; the answer's kind, its length, and the answer.
    async fn talk(&mut self, source: &dyn Source, job: &str, has_source: &mut bool) -> Result<(u8, Bytes), BrokenOff> {
        let mut chunks = source.open().await.map_err(BrokenOff::NoSource)?;
        self.stdin.write_u32(u32::try_from(job.len()).unwrap_or(u32::MAX)).await?;
        self.stdin.write_all(job.as_bytes()).await?;
        let mut missing = source.size_bytes();
        self.stdin.write_u64(missing).await?;
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(BrokenOff::NoSource)?;
            missing = missing.saturating_sub(chunk.len() as u64);
            self.stdin.write_all(&chunk).await?;
        }
        if missing > 0 {
            let detail = format!("{missing} bytes of an image are missing");
            return Err(BrokenOff::NoSource(Error::Internal { detail }));
        }
        self.stdin.flush().await?;
        *has_source = true;
        let kind = self.stdout.read_u8().await?;
        let length = self.stdout.read_u64().await?;
        if length > OUTPUT_BYTES_MAX {
            return Err(BrokenOff::Nonsense);
        }
        let mut answer = Vec::new();
        let read = (&mut self.stdout).take(length).read_to_end(&mut answer).await?;
        if read as u64 == length { Ok((kind, answer.into())) } else { Err(BrokenOff::Closed) }
    }

    /// What a process died of that has closed its pipes.
    async fn ending(&mut self) -> Ending {
        match tokio::time::timeout(ENDS_WITHIN, self.child.wait()).await {
            Ok(Ok(status)) if is_of_its_own(status) => Ending::ByThePicture,
            Ok(Ok(status)) => Ending::ByOthers(status.to_string()),
            Ok(Err(error)) => Ending::ByOthers(error.to_string()),
            Err(_) => Ending::ByThePicture,
        }
    }
}

fn is_of_its_own(status: ExitStatus) -> bool {
    SIGNALS_OF_ITS_OWN.iter().any(|signal| status.signal() == Some(signal.as_raw()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_worker_dies_of_says_whose_doing_it_was() {
        let ended = |signal: Signal| is_of_its_own(ExitStatus::from_raw(signal.as_raw()));
        for own in [Signal::ABORT, Signal::SEGV, Signal::SYS, Signal::XCPU] {
            assert!(ended(own), "{own:?}");
        }
        for others in [Signal::KILL, Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT] {
            assert!(!ended(others), "{others:?}");
        }
        // Exit codes stand in the second byte: a program that is being replaced, or isn't the right one.
        assert!(!is_of_its_own(ExitStatus::from_raw(127 << 8)));
    }
}
