//! HTTP/2's streams: each is a task that ends when nobody takes its answer.

use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::task::AtomicWaker;
use hyper::rt::Executor;

use crate::connection::{LOOK_EVERY, UnderWay};
use crate::pace::{Pace, StreamLag};

tokio::task_local! {
    static STREAM: Arc<Stream>;
}

/// One request and its answer.
#[derive(Debug, Default)]
pub(crate) struct Stream {
    /// Set when the request has begun.
    under_way: OnceLock<UnderWay>,
    /// Bytes of the answer that have been handed on and have not left.
    waiting: AtomicU64,
    /// Bytes of the answer that have left.
    sent: AtomicU64,
    waker: AtomicWaker,
}

impl Stream {
    /// The stream of this task; none for HTTP/1.
    pub(crate) fn current() -> Option<Arc<Self>> {
        STREAM.try_with(Arc::clone).ok()
    }

    /// Keeps the request under way for as long as the stream is there.
    pub(crate) fn hold(&self, under_way: UnderWay) {
        let _ = self.under_way.set(under_way);
    }

    /// So many bytes more are on their way.
    pub(crate) fn add(&self, bytes: u64) {
        self.waiting.fetch_add(bytes, Ordering::Relaxed);
    }

    /// So many of them have left.
    pub(crate) fn sent(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Ordering::Relaxed);
        if let Some(under_way) = self.under_way.get() {
            under_way.activity.answered.fetch_add(bytes, Ordering::Relaxed);
        }
        self.discard(bytes);
    }

    /// So many of them don't wait any more.
    pub(crate) fn discard(&self, bytes: u64) {
        if bytes > 0 && self.waiting.fetch_sub(bytes, Ordering::AcqRel) == bytes {
            self.waker.wake();
        }
    }

    /// Ready when nothing is on its way.
    pub(crate) fn poll_empty(&self, context: &Context<'_>) -> Poll<()> {
        if self.waiting.load(Ordering::Acquire) == 0 {
            return Poll::Ready(());
        }
        self.waker.register(context.waker());
        if self.waiting.load(Ordering::Acquire) == 0 { Poll::Ready(()) } else { Poll::Pending }
    }
}

/// Runs the streams of all connections.
#[derive(Clone)]
pub(crate) struct Streams(pub(crate) Arc<Pace>);

impl<F> Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, serving: F) {
        let stream = Arc::<Stream>::default();
        tokio::spawn(STREAM.scope(Arc::clone(&stream), watched(serving, stream, Arc::clone(&self.0))));
    }
}

/// Serves a stream to its end, and until all of its answer has left.
async fn watched(serving: impl Future<Output = ()>, stream: Arc<Stream>, pace: Arc<Pace>) {
    let mut watch = Watch { lag: StreamLag::default(), looked: Instant::now() };
    {
        let mut serving = pin!(serving);
        loop {
            tokio::select! {
                biased;
                () = serving.as_mut() => break,
                () = tokio::time::sleep(LOOK_EVERY) => if watch.is_over(&stream, &pace) {
                    metrics::counter!("imagewell_responses_given_up_total").increment(1);
                    // Dropped before its end is queued, it is reset, and what was queued is dropped.
                    return;
                },
            }
        }
    }
    loop {
        tokio::select! {
            biased;
            () = std::future::poll_fn(|context| stream.poll_empty(context)) => return,
            () = tokio::time::sleep(LOOK_EVERY) => if watch.is_over(&stream, &pace) {
                metrics::counter!("imagewell_responses_given_up_total").increment(1);
                if let Some(under_way) = stream.under_way.get() {
                    under_way.activity.stuck.store(true, Ordering::Relaxed);
                }
                return;
            },
        }
    }
}

struct Watch {
    lag: StreamLag,
    looked: Instant,
}

impl Watch {
    /// Whether the reader is too far behind.
    fn is_over(&mut self, stream: &Stream, pace: &Pace) -> bool {
        let Some(under_way) = stream.under_way.get() else { return false };
        let elapsed = self.looked.elapsed().min(2 * LOOK_EVERY);
        self.looked = Instant::now();
        // While nothing waits it is us who are slow.
        let elapsed = if stream.waiting.load(Ordering::Relaxed) == 0 { Duration::ZERO } else { elapsed };
        self.lag.add(stream.sent.load(Ordering::Relaxed), elapsed, &under_way.activity, pace)
    }
}
