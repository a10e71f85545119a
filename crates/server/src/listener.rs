//! The accept loop: what `axum::serve` doesn't bound is bounded here. Silent connections, connections
//! in all and from one address; TCP_NODELAY, and an end that loses no request.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use futures_util::FutureExt as _;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio_rustls::TlsAcceptor;

use crate::auth::address::is_trusted;
use crate::clients::Client;
use crate::config::Settings;
use crate::connection::Connections;

/// After a failed accept, such as too many open files, the loop rests for this long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Bytes that the kernel holds of an answer before they can be sent. What a slow reader takes is seen
/// in steps of this size, and one that reads nothing holds no more of the kernel's memory than this.
const UNSENT_BYTES_MAX: u32 = 32 * 1024;

/// Connections that still answer after accepting has stopped.
pub struct Draining(Arc<Connections>);

impl std::fmt::Debug for Draining {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Draining").finish_non_exhaustive()
    }
}

impl Draining {
    /// Waits for them; false when some were cut off.
    pub async fn finish(self, patience: Duration) -> bool {
        self.0.pace.drain();
        self.0.closing.send_replace(true);
        tokio::time::timeout(patience, self.0.closing.closed()).await.is_ok()
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
    let accepting = Accepting { connections: Arc::new(Connections::new(router, settings)), tls };
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
            Ok((stream, peer)) => accepting.spawn(stream, peer, permit.ok()),
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    while let Some(Ok((stream, peer))) = listener.accept().now_or_never() {
        accepting.spawn(stream, peer, None);
    }
    Draining(accepting.connections)
}

struct Accepting {
    connections: Arc<Connections>,
    tls: Option<TlsAcceptor>,
}

impl Accepting {
    fn spawn(&self, stream: TcpStream, peer: SocketAddr, permit: Option<OwnedSemaphorePermit>) {
        let server = &self.connections.settings.server;
        // Behind a proxy are many clients, whose requests are counted instead.
        let client = (!is_trusted(peer.ip(), &server.trusted_proxies)).then(|| self.connections.clients.at(peer.ip()));
        let place = client.as_ref().map(|client| client.connect(server.connections_per_address_max));
        if matches!(place, Some(None)) {
            metrics::counter!("imagewell_connections_refused_total").increment(1);
            // Counted, and no line for each: a stranger would write the log as fast as it connects.
            tracing::debug!(%peer, "too many connections from one address");
            return;
        }
        // From here on draining waits for the connection, also while it is still in its handshake.
        let closing = self.connections.closing.subscribe();
        let (connections, tls) = (Arc::clone(&self.connections), self.tls.clone());
        tokio::spawn(async move {
            let _held = (permit, place);
            begin(&connections, tls, stream, peer, client, closing).await;
        });
    }
}

/// Waits for a first byte and shakes hands, then answers requests.
async fn begin(
    connections: &Arc<Connections>,
    tls: Option<TlsAcceptor>,
    stream: TcpStream,
    peer: SocketAddr,
    client: Option<Arc<Client>>,
    closing: watch::Receiver<bool>,
) {
    // Without this a streamed answer waits for the delayed acknowledgement of its first packet.
    let _ = stream.set_nodelay(true);
    let _ = SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT_BYTES_MAX);
    let header_timeout = Duration::from_secs(connections.settings.server.header_timeout_seconds);
    // hyper's own timeout starts with the first byte; this one is for clients that send none.
    match tokio::time::timeout(header_timeout, stream.peek(&mut [0; 1])).await {
        Ok(Ok(1..)) => {}
        _ => return,
    }
    let Some(tls) = tls else { return connections.serve(stream, peer, client, closing).await };
    match tokio::time::timeout(header_timeout, tls.accept(stream)).await {
        Ok(Ok(stream)) => connections.serve(stream, peer, client, closing).await,
        Ok(Err(error)) => tracing::debug!(%peer, %error, "TLS handshake failed"),
        Err(_) => tracing::debug!(%peer, "TLS handshake took too long"),
    }
}
