//! Renderings on their way: each is made once, in a task of its own, for everybody who waits for it.
//!
//! Whoever asks for one that is under way waits for its outcome, its failure too; whoever leaves ends nothing. What was refused, or took
//! too long, is remembered for a while and refused at once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use imagewell_imaging::transform::Transform;
use quick_cache::sync::Cache;
use tracing::Instrument as _;

use crate::app::App;
use crate::fetch::Original;
use crate::leases::Held;
use crate::model::{BlobKey, Image, Version};
use crate::workers::Failure;
use crate::{Error, kept, leases};

/// Failures that are remembered; each is some three hundred bytes.
const REMEMBERED_MAX: usize = 10_000;
/// After so many deaths of a worker over one rendering it was the picture, whatever they looked like.
const KILLED_MAX: u32 = 3;
/// What reading and storing a rendering may take beside waiting for a turn and making it.
const BESIDE_MAX: Duration = Duration::from_secs(5);
/// A node that waits for another one's rendering asks for it so often at first, and then more and more rarely.
const ASKED_FOR_EVERY: Duration = Duration::from_millis(100);
const ASKED_FOR_EVERY_AT_LEAST: Duration = Duration::from_secs(1);

/// What everybody who waits for a rendering gets.
type Outcome = Result<Bytes, Error>;
type UnderWay = Shared<BoxFuture<'static, Outcome>>;

/// Renderings that are being made, and those that can't be.
#[derive(Debug)]
pub(crate) struct Renderings {
    under_way: Mutex<HashMap<BlobKey, UnderWay>>,
    failed: Cache<BlobKey, Failed>,
}

/// What is remembered of a rendering that failed.
#[derive(Debug, Clone)]
struct Failed {
    until: Instant,
    /// Why it can't be made; none as long as it may be tried again.
    reason: Option<Arc<str>>,
    killed: u32,
}

impl Default for Renderings {
    fn default() -> Self {
        Self { under_way: Mutex::default(), failed: Cache::new(REMEMBERED_MAX) }
    }
}

impl Renderings {
    fn remembered(&self, key: &BlobKey) -> Option<Failed> {
        self.failed.get(key).filter(|failed| failed.until > Instant::now())
    }

    /// Why it can't be made, if that is known.
    fn refusal(&self, key: &BlobKey) -> Option<Error> {
        self.remembered(key)?.reason.map(|reason| Error::invalid(&*reason))
    }

    /// Remembers a failure that says something about the picture, and returns what callers hear of it.
    fn failed(&self, key: &BlobKey, failure: Failure, lasts: Duration) -> Error {
        let before = self.remembered(key).map_or(0, |failed| failed.killed);
        let (failure, killed) = match failure {
            Failure::Killed if before + 1 >= KILLED_MAX => {
                let reason = format!("the image can't be rendered: the process ended {KILLED_MAX} times over it");
                (Failure::Overtaxed(reason), 0)
            }
            Failure::Killed => (Failure::Killed, before + 1),
            other => (other, before),
        };
        let reason = match &failure {
            Failure::Refused(reason) | Failure::Overtaxed(reason) => Some(reason.as_str().into()),
            Failure::Killed => None,
            Failure::Passing(_) => return failure.into(),
        };
        self.failed.insert(key.clone(), Failed { until: Instant::now() + lasts, reason, killed });
        failure.into()
    }
}

/// Takes the rendering from the store or makes it, together with all others who ask for it. Nobody waits for longer than a rendering may
/// wait and take.
///
/// # Errors
/// [`Error::Invalid`] when it can't be made; [`Error::Busy`] and [`Error::TooMany`] when it can't be made now.
pub(crate) async fn shared(app: &Arc<App>, image: &Image, transform: &Transform, key: &BlobKey) -> Outcome {
    let limits = &app.options.workers;
    let under_way = {
        let mut all = app.renderings.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        let begin = || begin(app, image, transform, key);
        all.entry(key.clone()).or_insert_with(begin).clone()
    };
    let longest = limits.wait_max + limits.time_max + BESIDE_MAX;
    tokio::time::timeout(longest, under_way).await.unwrap_or(Err(Error::Busy { retry_after: limits.wait_max }))
}

/// Starts a task that ends whether or not somebody waits for it.
fn begin(app: &Arc<App>, image: &Image, transform: &Transform, key: &BlobKey) -> UnderWay {
    let making = Making { app: Arc::clone(app), image: image.clone(), transform: *transform, key: key.clone() };
    let task = tokio::spawn(making.run().in_current_span());
    async move { task.await.unwrap_or_else(|error| Err(Error::internal("rendering", &error))) }.boxed().shared()
}

/// One rendering on its way. Dropped, it is under way no longer.
struct Making {
    app: Arc<App>,
    image: Image,
    transform: Transform,
    key: BlobKey,
}

impl Drop for Making {
    fn drop(&mut self) {
        self.app.renderings.under_way.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

impl Making {
    async fn run(self) -> Outcome {
        let bytes = self.stored_or_made().await?;
        // Before it is under way no longer: nobody finds neither.
        self.app.blobs.insert(self.key.clone(), bytes.clone());
        Ok(bytes)
    }

    async fn stored_or_made(&self) -> Outcome {
        if let Some(bytes) = self.stored().await {
            return Ok(bytes);
        }
        if let Some(refusal) = self.app.renderings.refusal(&self.key) {
            return Err(refusal);
        }
        match self.claimed().await? {
            Claim::Made(bytes) => Ok(bytes),
            Claim::Ours(claim) => {
                let made = self.made().await;
                claim.give_back().await;
                made
            }
        }
    }

    async fn stored(&self) -> Option<Bytes> {
        kept::read(&self.app, &self.key, &self.version().blob).await
    }

    /// Waits until another node has made it, or it is this node's turn.
    async fn claimed(&self) -> Result<Claim, Error> {
        let limits = &self.app.options.workers;
        let lasts = limits.wait_max + limits.time_max;
        let until = tokio::time::Instant::now() + lasts;
        let mut pause = ASKED_FOR_EVERY;
        loop {
            let ours = leases::hold(&self.app, format!("render:{}", self.key.as_str()), lasts).await?;
            // Also with the lease: whoever had it before may have done it in between.
            let stored = if self.app.database.is_shared() { self.stored().await } else { None };
            match (stored, ours) {
                (Some(bytes), ours) => {
                    if let Some(claim) = ours {
                        claim.give_back().await;
                    }
                    return Ok(Claim::Made(bytes));
                }
                (None, Some(claim)) => return Ok(Claim::Ours(claim)),
                (None, None) if tokio::time::Instant::now() >= until => {
                    return Err(Error::Busy { retry_after: limits.wait_max });
                }
                (None, None) => tokio::time::sleep(pause).await,
            }
            pause = (pause * 3 / 2).min(ASKED_FOR_EVERY_AT_LEAST);
        }
    }

    async fn made(&self) -> Outcome {
        let (app, version) = (&self.app, self.version());
        let source = Original { app, version };
        let bytes = match app.workers.render(self.image.org, &source, &self.transform).await {
            Ok(bytes) => bytes,
            Err(failure) => return Err(app.renderings.failed(&self.key, failure, app.options.workers.refused_for)),
        };
        metrics::counter!("imagewell_renderings_total").increment(1);
        kept::store(app, &self.key, &version.blob, &bytes).await;
        Ok(bytes)
    }

    fn version(&self) -> &Version {
        &self.image.version
    }
}

/// Who makes a rendering that isn't there.
enum Claim {
    /// This node, as long as it holds this.
    Ours(Held),
    /// Another one has just done it.
    Made(Bytes),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_says_something_about_the_picture_is_remembered_for_a_while() {
        let hour = Duration::from_secs(3600);
        let renderings = Renderings::default();
        let key = |name: &str| BlobKey::from_stored(format!("variants/x/{name}"));
        let invalid = |error: &Error| matches!(error, Error::Invalid { .. });
        for failure in [Failure::Refused("no".into()), Failure::Overtaxed("no".into())] {
            let key = key("refused");
            assert!(invalid(&renderings.failed(&key, failure, hour)));
            assert!(renderings.refusal(&key).is_some_and(|error| invalid(&error)));
            renderings.failed(&key, Failure::Refused("no".into()), Duration::ZERO);
            assert!(renderings.refusal(&key).is_none(), "its time is over");
        }
        let passing = Failure::Passing(Error::NoSpace);
        assert!(matches!(renderings.failed(&key("passing"), passing, hour), Error::NoSpace));
        assert!(renderings.refusal(&key("passing")).is_none());
        for _ in 0..2 {
            assert!(matches!(renderings.failed(&key("killed"), Failure::Killed, hour), Error::Busy { .. }));
            assert!(renderings.refusal(&key("killed")).is_none());
        }
        assert!(invalid(&renderings.failed(&key("killed"), Failure::Killed, hour)), "the third time");
        assert!(renderings.refusal(&key("killed")).is_some());
    }
}
