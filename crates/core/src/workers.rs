//! Renderings in worker processes: our own program run again with nothing in its environment, bounded by time here and by
//! memory, CPU and system calls over there. A process can be killed; a thread can't.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use imagewell_imaging::render::Fit;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;
use tokio::sync::Semaphore;

use crate::Error;
use crate::spool::Content;

/// A rendering waits this long for a worker before the caller is told that the service is busy.
const WAIT_MAX: Duration = Duration::from_secs(10);
/// A rendering is never larger than this.
const OUTPUT_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// First byte of a worker's answer: the rendering follows, or a reason that may be shown.
pub const ANSWER_RENDERED: u8 = b'+';
/// See [`ANSWER_RENDERED`].
pub const ANSWER_REFUSED: u8 = b'-';

/// Starts worker processes, few at a time.
#[derive(Debug)]
pub struct Workers {
    program: PathBuf,
    permits: Arc<Semaphore>,
    time_max: Duration,
}

impl Workers {
    /// `program` is run as `program render-worker FIT`; at most `concurrent_max` at once, each for at most `time_max`.
    #[must_use]
    pub fn new(program: PathBuf, concurrent_max: usize, time_max: Duration) -> Self {
        Self { program, permits: Arc::new(Semaphore::new(concurrent_max)), time_max }
    }

    /// What a worker says of its sandbox: empty when it can't even start.
    pub async fn probe(&self) -> String {
        let output =
            Command::new(&self.program).args(["render-worker", "probe"]).env_clear().stderr(Stdio::null()).output().await;
        output.map(|output| String::from_utf8_lossy(&output.stdout).trim().replace('\n', "; ")).unwrap_or_default()
    }

    /// Renders one image in a fresh process.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the worker refuses the bytes or has to be killed over them, [`Error::Busy`] when none is free.
    pub async fn render(&self, source: &Content, fit: Fit) -> Result<Bytes, Error> {
        let waited = tokio::time::timeout(WAIT_MAX, self.permits.acquire()).await;
        let Ok(Ok(_permit)) = waited else { return Err(Error::Busy { retry_after: WAIT_MAX }) };
        let mut child = Command::new(&self.program)
            .arg("render-worker")
            .arg(fit.to_string())
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| Error::internal("starting a worker", &error))?;
        let (Some(mut stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(Error::Internal { detail: "a worker has no pipes".into() });
        };
        let talk = async {
            let feed = async {
                let mut offset = 0;
                while let Ok(chunk) = source.read_at(offset, 1024 * 1024).await {
                    // A worker that refuses early closes its end; its answer says why.
                    if chunk.is_empty() || stdin.write_all(&chunk).await.is_err() {
                        break;
                    }
                    offset += chunk.len() as u64;
                }
                drop(stdin);
            };
            let mut answer = Vec::new();
            let mut stdout = stdout.take(OUTPUT_BYTES_MAX);
            let (read, ()) = tokio::join!(stdout.read_to_end(&mut answer), feed);
            read.map(|_| answer)
        };
        let answer = tokio::time::timeout(self.time_max, talk).await;
        let _ = child.kill().await;
        match answer {
            Ok(Ok(answer)) => judge(answer),
            Ok(Err(error)) => Err(Error::internal("talking to a worker", &error)),
            Err(_) => {
                tracing::warn!("a worker was killed: it took too long");
                Err(Error::invalid("the image takes too long to render"))
            }
        }
    }
}

fn judge(answer: Vec<u8>) -> Result<Bytes, Error> {
    let answer = Bytes::from(answer);
    match answer.first() {
        Some(&ANSWER_RENDERED) => Ok(answer.slice(1..)),
        Some(&ANSWER_REFUSED) => Err(Error::invalid(String::from_utf8_lossy(&answer[1..]))),
        _ => {
            tracing::warn!("a worker died over an image");
            Err(Error::invalid("the image can't be rendered: decoding it takes more than is allowed"))
        }
    }
}
