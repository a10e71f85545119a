//! The accept loop: what `axum::serve` doesn't bound is bounded here. Silent connections, slow request heads, connections in
//! all and from one address; TCP_NODELAY, and an end that loses no request.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, header};
use futures_util::FutureExt as _;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use imagewell_core::accounts::network;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt as _;

use crate::auth::address::{Peer, is_trusted};
use crate::config::Settings;

/// After a failed accept, such as too many open files, the loop rests for this long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Connections that still answer after accepting has stopped.
#[derive(Debug)]
pub struct Draining(Arc<Connections>);

impl Draining {
    /// Waits for them; false when some were cut off.
    pub async fn finish(self, patience: Duration) -> bool {
        let graceful = self.0.graceful.lock().unwrap_or_else(PoisonError::into_inner).take();
        match graceful {
            Some(graceful) => tokio::time::timeout(patience, graceful.shutdown()).await.is_ok(),
            None => true,
        }
    }
}

struct Connections {
    graceful: Mutex<Option<GracefulShutdown>>,
    per_address: Mutex<HashMap<IpAddr, usize>>,
    builder: Builder<TokioExecutor>,
    router: Router,
    tls: Option<TlsAcceptor>,
    settings: Arc<Settings>,
}

impl std::fmt::Debug for Connections {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Connections").finish_non_exhaustive()
    }
}

/// Accepts until `stop` is notified, and then whatever the kernel has queued by that time.
pub async fn accept(
    listener: TcpListener,
    router: Router,
    tls: Option<TlsAcceptor>,
    settings: Arc<Settings>,
    stop: Arc<Notify>,
) -> Draining {
    let permits = Arc::new(Semaphore::new(settings.server.connections_max));
    let connections = Arc::new(Connections {
        graceful: Mutex::new(Some(GracefulShutdown::new())),
        per_address: Mutex::default(),
        builder: builder(&settings),
        router,
        tls,
        settings,
    });
    loop {
        let permit = tokio::select! {
            permit = Arc::clone(&permits).acquire_owned() => permit,
            () = stop.notified() => break,
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.notified() => break,
        };
        match accepted {
            Ok((stream, peer)) => connections.spawn(stream, peer, permit.ok()),
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    while let Some(Ok((stream, peer))) = listener.accept().now_or_never() {
        connections.spawn(stream, peer, None);
    }
    Draining(connections)
}

fn builder(settings: &Settings) -> Builder<TokioExecutor> {
    let server = &settings.server;
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(server.header_timeout_seconds))
        .max_buf_size(server.header_bytes_max);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Some(Duration::from_secs(20)))
        .max_concurrent_streams(server.http2_streams_max)
        .max_header_list_size(u32::try_from(server.header_bytes_max).unwrap_or(u32::MAX));
    builder
}

impl Connections {
    fn spawn(self: &Arc<Self>, stream: TcpStream, peer: SocketAddr, permit: Option<tokio::sync::OwnedSemaphorePermit>) {
        let Some(place) = self.take_place(peer.ip()) else {
            metrics::counter!("imagewell_connections_refused_total").increment(1);
            // Counted, and no line for each: a stranger would write the log as fast as it connects.
            tracing::debug!(%peer, "too many connections from one address");
            return;
        };
        // Watched from here on, so that draining waits for a connection that is still in its handshake.
        let watcher = self.graceful.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(GracefulShutdown::watcher);
        let Some(watcher) = watcher else { return };
        let connections = Arc::clone(self);
        tokio::spawn(async move {
            let _held = (permit, place);
            // Without this a streamed answer waits for the delayed acknowledgement of its first packet.
            let _ = stream.set_nodelay(true);
            let header_timeout = Duration::from_secs(connections.settings.server.header_timeout_seconds);
            // hyper's own timeout starts with the first byte; this one is for clients that send none.
            match tokio::time::timeout(header_timeout, stream.peek(&mut [0; 1])).await {
                Ok(Ok(1..)) => {}
                _ => return,
            }
            match &connections.tls {
                None => connections.answer(stream, peer, watcher).await,
                Some(tls) => match tokio::time::timeout(header_timeout, tls.accept(stream)).await {
                    Ok(Ok(stream)) => connections.answer(stream, peer, watcher).await,
                    Ok(Err(error)) => tracing::debug!(%peer, %error, "TLS handshake failed"),
                    Err(_) => tracing::debug!(%peer, "TLS handshake took too long"),
                },
            }
        });
    }

    async fn answer<I>(&self, stream: I, peer: SocketAddr, watcher: Watcher)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let router = self.router.clone();
        let asked = Arc::new(AtomicBool::new(false));
        let has_asked = Arc::clone(&asked);
        let service = hyper::service::service_fn(move |mut request: hyper::Request<Incoming>| {
            has_asked.store(true, Ordering::Relaxed);
            request.extensions_mut().insert(Peer(peer));
            // HTTP/2 says in :authority what HTTP/1.1 says in Host (RFC 9113 §8.3.1); handlers look in one place.
            let authority = request.uri().authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
            if let Some(authority) = authority {
                request.headers_mut().entry(header::HOST).or_insert(authority);
            }
            router.clone().oneshot(request.map(Body::new))
        });
        let connection = self.builder.serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned();
        let mut connection = pin!(watcher.watch(connection));
        // Until its first request: what tells HTTP/2 from HTTP/1, and HTTP/2 itself, have no time limit of their own.
        let header_timeout = Duration::from_secs(self.settings.server.header_timeout_seconds);
        let ended = match tokio::time::timeout(header_timeout, &mut connection).await {
            Ok(ended) => ended,
            Err(_) if asked.load(Ordering::Relaxed) => connection.await,
            Err(_) => {
                tracing::debug!(%peer, "no request within server.header_timeout_seconds");
                return;
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%peer, error = %io::Error::other(error), "connection ended early");
        }
    }

    /// Counts a connection for as long as the returned place is held; none when the address has too many.
    fn take_place(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let server = &self.settings.server;
        if is_trusted(address, &server.trusted_proxies) {
            return Some(Place(None));
        }
        let address = network(address);
        let mut counts = self.per_address.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(address).or_default();
        if *count >= server.connections_per_address_max {
            return None;
        }
        *count += 1;
        Some(Place(Some((Arc::clone(self), address))))
    }
}

/// One connection of an address.
struct Place(Option<(Arc<Connections>, IpAddr)>);

impl Drop for Place {
    fn drop(&mut self) {
        let Some((connections, address)) = &self.0 else { return };
        let mut counts = connections.per_address.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(address);
            }
        }
    }
}
