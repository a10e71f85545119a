//! What an answer leaves unread of its request's body. It is read and thrown away beside the answer:
//! a socket that is closed with unread bytes is reset, and an answer that the client has not read yet
//! is lost with it (RFC 9112 §9.6).

use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures_util::StreamExt as _;
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use tokio::sync::watch;

use crate::clients::Client;
use crate::config::Settings;
use crate::intake::Intake;

/// Once connections shall end, so much time is left for clients to send what nobody wants.
const CLOSING_TIME_MAX: Duration = Duration::from_secs(5);

/// The body of a request. A handler that drops it before its end leaves the rest.
pub(crate) struct RequestBody {
    incoming: Option<Incoming>,
    unread: Arc<Unread>,
}

/// What is left of a request's body, and how it is thrown away.
pub(crate) struct Unread {
    state: Mutex<State>,
    client: Arc<Client>,
    settings: Arc<Settings>,
    closing: watch::Receiver<bool>,
}

enum State {
    /// A handler reads it, or may begin to.
    Reading,
    /// It came in whole, or its client broke it off.
    Over,
    /// A handler dropped it, and there is no answer yet.
    Left(Box<Incoming>),
    /// There is an answer: what is dropped from now on is thrown away at once.
    Answered,
}

impl RequestBody {
    /// The body, and what remembers how much of it is read. `client` is whoever sends it.
    pub(crate) fn new(
        incoming: Incoming,
        client: Arc<Client>,
        settings: Arc<Settings>,
        closing: watch::Receiver<bool>,
    ) -> (Self, Arc<Unread>) {
        let unread = Arc::new(Unread { state: Mutex::new(State::Reading), client, settings, closing });
        (Self { incoming: Some(incoming), unread: Arc::clone(&unread) }, unread)
    }
}

impl hyper::body::Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(incoming) = &mut self.incoming else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(incoming).poll_frame(context));
        if matches!(frame, None | Some(Err(_))) {
            self.incoming = None;
            self.unread.over();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.as_ref().map_or_else(|| SizeHint::with_exact(0), Incoming::size_hint)
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        match self.incoming.take() {
            Some(incoming) if !incoming.is_end_stream() => self.unread.leave(incoming),
            _ => self.unread.over(),
        }
    }
}

impl Unread {
    /// Notes that there is an answer, and throws away what is left of the body. Says whether there was
    /// anything: then the connection cannot be used for a further request.
    pub(crate) fn answered(self: &Arc<Self>) -> bool {
        let before = mem::replace(&mut *self.lock(), State::Answered);
        match before {
            State::Over => false,
            State::Left(incoming) => {
                self.discard(*incoming);
                true
            }
            State::Reading | State::Answered => true,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn over(&self) {
        *self.lock() = State::Over;
    }

    fn leave(self: &Arc<Self>, incoming: Incoming) {
        let mut state = self.lock();
        if matches!(*state, State::Answered) {
            drop(state);
            self.discard(incoming);
        } else {
            *state = State::Left(Box::new(incoming));
        }
    }

    fn discard(self: &Arc<Self>, incoming: Incoming) {
        let Some(place) = self.client.unread_body(self.settings.server.unread_bodies_per_address_max) else {
            return;
        };
        let mut chunks = Intake::unwanted(Body::new(incoming), &self.settings).chunks();
        let mut closing = self.closing.clone();
        tokio::spawn(async move {
            let _place = place;
            let reading = async { while let Some(Ok(_)) = chunks.next().await {} };
            let cut_off = async {
                let _ = closing.wait_for(|closing| *closing).await;
                tokio::time::sleep(CLOSING_TIME_MAX).await;
            };
            tokio::select! {
                () = reading => {}
                () = cut_off => {}
            }
        });
    }
}
