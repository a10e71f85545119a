//! One connection: its requests, and when it ends. A connection ends when no first request comes,
//! when no further one comes, and when nobody reads what is written.

use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, Request, Response, Version, header};
use hyper::body::{Body as _, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tower::ServiceExt as _;

use crate::auth::address::{self, ClientAddress, TooManyRequests, is_trusted};
use crate::clients::{Client, Clients, Place};
use crate::config::Settings;
use crate::pace::{Activity, Lag, Pace};
use crate::paths;
use crate::response_body::ResponseBody;
use crate::streams::{Stream, Streams};
use crate::unread::{RequestBody, Unread};

/// How often it is looked at whether somebody waits for too long. Every limit in seconds is met to
/// within this.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(1);

/// HTTP/2 asks this often whether the other end is still there.
const PING_EVERY: Duration = Duration::from_secs(20);

/// A request of this connection, until its answer has left.
#[derive(Debug)]
pub(crate) struct UnderWay {
    pub(crate) activity: Arc<Activity>,
    _place: Option<Place>,
}

impl UnderWay {
    fn new(activity: &Arc<Activity>, place: Option<Place>) -> Self {
        activity.requests.fetch_add(1, Ordering::Relaxed);
        Self { activity: Arc::clone(activity), _place: place }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.activity.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What all connections share.
pub(crate) struct Connections {
    builder: Builder<Streams>,
    router: Router,
    pub(crate) clients: Arc<Clients>,
    pub(crate) settings: Arc<Settings>,
    pub(crate) pace: Arc<Pace>,
    /// Set once they shall end as soon as their requests are answered.
    pub(crate) closing: watch::Sender<bool>,
}

impl Connections {
    pub(crate) fn new(router: Router, settings: Arc<Settings>) -> Self {
        let pace = Arc::new(Pace::new(&settings));
        Self {
            builder: builder(&settings, Streams(Arc::clone(&pace))),
            router,
            clients: Arc::default(),
            settings,
            pace,
            closing: watch::Sender::new(false),
        }
    }

    /// Answers the requests of a connection. `client` is who has connected, unless that is a trusted
    /// proxy.
    pub(crate) async fn serve<I>(
        self: &Arc<Self>,
        stream: I,
        peer: SocketAddr,
        client: Option<Arc<Client>>,
        mut closing: watch::Receiver<bool>,
    ) where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let activity = Arc::<Activity>::default();
        let socket = TokioIo::new(Socket { stream, activity: Arc::clone(&activity) });
        let caller = Arc::new(Caller { connections: Arc::clone(self), peer: peer.ip(), client, activity: Arc::clone(&activity) });
        let service = service_fn(move |request| Arc::clone(&caller).answer(request));
        let mut connection = pin!(self.builder.serve_connection(socket, service).into_owned());
        let mut watch = Watch::new(activity, self);
        let mut look = pin!(tokio::time::sleep(LOOK_EVERY));
        let mut is_closing = false;
        let mut closing = pin!(closing.wait_for(|closing| *closing));
        let ended = loop {
            tokio::select! {
                biased;
                ended = connection.as_mut() => break ended,
                _ = closing.as_mut(), if !is_closing => {
                    is_closing = true;
                    connection.as_mut().graceful_shutdown();
                }
                () = look.as_mut() => {
                    match watch.look() {
                        Verdict::GoOn => {}
                        Verdict::Finish => connection.as_mut().graceful_shutdown(),
                        Verdict::End(reason) => {
                            tracing::debug!(%peer, reason, "connection ended");
                            return;
                        }
                    }
                    look.as_mut().reset(tokio::time::Instant::now() + LOOK_EVERY);
                }
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%peer, error = %io::Error::other(error), "connection ended early");
        }
    }
}

fn builder(settings: &Settings, streams: Streams) -> Builder<Streams> {
    let server = &settings.server;
    let mut builder = Builder::new(streams);
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(server.header_timeout_seconds))
        .max_buf_size(server.header_bytes_max);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Some(PING_EVERY))
        .max_concurrent_streams(server.http2_streams_max)
        .max_header_list_size(u32::try_from(server.header_bytes_max).unwrap_or(u32::MAX));
    builder
}

/// Whoever sends requests over a connection.
struct Caller {
    connections: Arc<Connections>,
    peer: IpAddr,
    /// None for a trusted proxy, whose requests come from many clients.
    client: Option<Arc<Client>>,
    activity: Arc<Activity>,
}

impl Caller {
    async fn answer(self: Arc<Self>, mut request: Request<Incoming>) -> Result<Response<ResponseBody>, h2::Error> {
        self.activity.asked.store(true, Ordering::Relaxed);
        let stream = Stream::current();
        let (address, client, place) = self.place(&request);
        let is_refused = place.is_err();
        let under_way = UnderWay::new(&self.activity, place.unwrap_or_default());
        if is_refused {
            metrics::counter!("imagewell_requests_refused_total").increment(1);
            if request.version() == Version::HTTP_2 && self.client.is_some() {
                // The client knows that nothing was done and tries again (RFC 9113 §8.7). An answer
                // would be one more for it not to read.
                return Err(h2::Reason::REFUSED_STREAM.into());
            }
            request.extensions_mut().insert(TooManyRequests);
        }
        request.extensions_mut().insert(ClientAddress(address));
        // HTTP/2 says in :authority what HTTP/1.1 says in Host (RFC 9113 §8.3.1); handlers look in one place.
        let authority = request.uri().authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
        if let Some(authority) = authority {
            request.headers_mut().entry(header::HOST).or_insert(authority);
        }
        if let Some(uri) = paths::tidied(request.uri()) {
            *request.uri_mut() = uri;
        }
        let (request, unread) = self.watched(request, client);
        let answering = self.connections.router.clone().oneshot(request);
        let Some(stream) = stream else {
            let mut response = answering.await.unwrap_or_else(|never| match never {});
            if unread.is_some_and(|unread| unread.answered()) {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            return Ok(response.map(|body| ResponseBody::alone(body, under_way)));
        };
        stream.hold(under_way);
        let response = answering.await.unwrap_or_else(|never| match never {});
        if let Some(unread) = unread {
            unread.answered();
        }
        Ok(response.map(|body| ResponseBody::on_stream(body, stream)))
    }

    /// The request as handlers get it, and how much of its body they leave; none when it has no body.
    fn watched(&self, request: Request<Incoming>, client: Arc<Client>) -> (Request<Body>, Option<Arc<Unread>>) {
        if request.body().is_end_stream() {
            return (request.map(Body::new), None);
        }
        let (head, incoming) = request.into_parts();
        let settings = Arc::clone(&self.connections.settings);
        let closing = self.connections.closing.subscribe();
        let (body, unread) = RequestBody::new(incoming, client, settings, closing);
        (Request::from_parts(head, Body::new(body)), Some(unread))
    }

    /// Whose the request is, and its place among those of that client: none for a trusted proxy's
    /// own, an error when there are too many.
    fn place(&self, request: &Request<Incoming>) -> (IpAddr, Arc<Client>, Result<Option<Place>, ()>) {
        let server = &self.connections.settings.server;
        let take = |client: &Arc<Client>| client.request(server.requests_per_address_max).map(Some).ok_or(());
        if let Some(client) = &self.client {
            return (self.peer.to_canonical(), Arc::clone(client), take(client));
        }
        let address = address::of(request.headers(), self.peer, &server.trusted_proxies);
        let client = self.connections.clients.at(address);
        let place = if is_trusted(address, &server.trusted_proxies) { Ok(None) } else { take(&client) };
        (address, client, place)
    }
}

/// What becomes of a connection.
enum Verdict {
    GoOn,
    /// It ends once its requests are answered.
    Finish,
    /// It ends at once, because of this.
    End(&'static str),
}

/// Looks at a connection now and then.
struct Watch {
    activity: Arc<Activity>,
    pace: Arc<Pace>,
    header_timeout: Duration,
    idle_max: Duration,
    began: Instant,
    looked: Instant,
    idle: Duration,
    lag: Lag,
}

impl Watch {
    fn new(activity: Arc<Activity>, connections: &Connections) -> Self {
        let server = &connections.settings.server;
        Self {
            activity,
            pace: Arc::clone(&connections.pace),
            header_timeout: Duration::from_secs(server.header_timeout_seconds),
            idle_max: Duration::from_secs(server.idle_timeout_seconds),
            began: Instant::now(),
            looked: Instant::now(),
            idle: Duration::ZERO,
            lag: Lag::default(),
        }
    }

    fn look(&mut self) -> Verdict {
        let activity = &self.activity;
        let elapsed = self.looked.elapsed().min(2 * LOOK_EVERY);
        self.looked = Instant::now();
        // What tells HTTP/2 from HTTP/1, and HTTP/2 itself, have no time limit of their own.
        if !activity.asked.load(Ordering::Relaxed) && self.began.elapsed() >= self.header_timeout {
            return Verdict::End("no request within server.header_timeout_seconds");
        }
        let blocked = activity.blocked.load(Ordering::Relaxed);
        let waited = if blocked { elapsed } else { Duration::ZERO };
        if self.lag.add(activity.written.load(Ordering::Relaxed), waited, &self.pace) {
            metrics::counter!("imagewell_responses_given_up_total").increment(1);
            return Verdict::End("nobody reads what is written");
        }
        if activity.stuck.load(Ordering::Relaxed) {
            return Verdict::End("nobody takes the end of an answer");
        }
        if activity.requests.load(Ordering::Relaxed) > 0 {
            self.idle = Duration::ZERO;
            return Verdict::GoOn;
        }
        self.idle += elapsed;
        if self.idle >= self.idle_max + self.header_timeout {
            Verdict::End("no request within server.idle_timeout_seconds, and no end")
        } else if self.idle >= self.idle_max {
            Verdict::Finish
        } else {
            Verdict::GoOn
        }
    }
}

/// A connection's bytes, counted.
struct Socket<I> {
    stream: I,
    activity: Arc<Activity>,
}

impl<I> Socket<I> {
    fn note<T>(&self, outcome: &Poll<io::Result<T>>, bytes: impl FnOnce(&T) -> usize) {
        // Its own task alone writes these two.
        match outcome {
            Poll::Pending => self.activity.blocked.store(true, Ordering::Relaxed),
            Poll::Ready(Ok(done)) => {
                self.activity.blocked.store(false, Ordering::Relaxed);
                let written = self.activity.written.load(Ordering::Relaxed) + bytes(done) as u64;
                self.activity.written.store(written, Ordering::Relaxed);
            }
            Poll::Ready(Err(_)) => {}
        }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Socket<I> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Socket<I> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.note(&outcome, |written| *written);
        outcome
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.note(&outcome, |written| *written);
        outcome
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_flush(context);
        self.note(&outcome, |()| 0);
        outcome
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_shutdown(context);
        self.note(&outcome, |()| 0);
        outcome
    }
}
