//! A proxy in front of a database or a store that can be told to misbehave.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::watch;

/// What the proxy does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    /// Pass everything on.
    Pass,
    /// Cut all connections, and new ones at once.
    Away,
    /// Keep connections, but pass nothing on.
    Stall,
    /// Answer HTTP requests with 503.
    Unavailable,
    /// Cut each connection once so many bytes have gone to the server.
    CutAfterSending(u64),
    /// Cut each connection once so many bytes have come from the server.
    CutAfterReceiving(u64),
    /// Pass nothing more on once so many bytes of a connection have gone to the server, and keep it open.
    StallAfterSending(u64),
    /// Pass on so many bytes a second to the server.
    SendSlowly(u64),
    /// Answer HTTP requests with a page and status 200, as the login page of a network does.
    Page,
    /// Answer HTTP requests as a store does whose bucket was deleted.
    NoBucket,
    /// Answer each PUT with 200 and pass nothing of it on.
    SwallowPuts,
    /// Change one byte, once, of what comes from the server on a connection that has received so many, and pass everything else on.
    FlipOnceAfterReceiving(u64),
}

/// Where everything goes.
#[derive(Debug, Clone)]
pub enum Upstream {
    /// As in `127.0.0.1:3900`.
    Tcp(String),
    /// A socket's path.
    Unix(String),
}

/// A running proxy.
#[derive(Debug)]
pub struct Proxy {
    /// Where it listens.
    pub address: SocketAddr,
    behaviour: watch::Sender<Behaviour>,
    upstream: watch::Sender<Upstream>,
    cut: Arc<AtomicU64>,
    flipped: Arc<AtomicU64>,
}

impl Proxy {
    /// Starts one in a thread of its own.
    ///
    /// # Panics
    /// When it can't listen.
    #[must_use]
    pub fn start(upstream: Upstream) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        listener.set_nonblocking(true).expect("sets");
        let address = listener.local_addr().expect("address");
        let (behaviour, told) = watch::channel(Behaviour::Pass);
        let (upstream, leads_to) = watch::channel(upstream);
        let cut = Arc::new(AtomicU64::new(0));
        let flipped = Arc::new(AtomicU64::new(0));
        let counted = (Arc::clone(&cut), Arc::clone(&flipped));
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).expect("listens");
                while let Ok((client, _)) = listener.accept().await {
                    let (upstream, told, counted) = (leads_to.borrow().clone(), told.clone(), counted.clone());
                    tokio::spawn(async move {
                        client.set_nodelay(true).expect("sets");
                        match upstream {
                            Upstream::Tcp(address) => match TcpStream::connect(address).await {
                                Ok(server) => {
                                    server.set_nodelay(true).expect("sets");
                                    pass(client, server, told, (&counted.0, &counted.1)).await;
                                }
                                Err(_) => drop(client),
                            },
                            Upstream::Unix(path) => match UnixStream::connect(path).await {
                                Ok(server) => pass(client, server, told, (&counted.0, &counted.1)).await,
                                Err(_) => drop(client),
                            },
                        }
                    });
                }
            });
        });
        Self { address, behaviour, upstream, cut, flipped }
    }

    /// From now on it does this, also with connections that are open.
    ///
    /// # Panics
    /// When its thread is gone.
    pub fn behave(&self, behaviour: Behaviour) {
        self.behaviour.send(behaviour).expect("it runs");
    }

    /// New connections go there; those that are open stay where they are.
    ///
    /// # Panics
    /// When its thread is gone.
    pub fn lead_to(&self, upstream: Upstream) {
        self.upstream.send(upstream).expect("it runs");
    }

    /// Whether it has changed a byte.
    #[must_use]
    pub fn has_flipped(&self) -> bool {
        self.flipped.load(Ordering::SeqCst) > 0
    }

    /// How many connections it has cut.
    #[must_use]
    pub fn cut(&self) -> u64 {
        self.cut.load(Ordering::SeqCst)
    }
}

async fn pass(
    mut client: TcpStream,
    mut server: impl AsyncRead + AsyncWrite + Unpin,
    mut told: watch::Receiver<Behaviour>,
    (cut, flipped): (&AtomicU64, &AtomicU64),
) {
    let (mut sent, mut received) = (0_u64, 0_u64);
    let (mut up, mut down) = (vec![0; 16 * 1024], vec![0; 16 * 1024]);
    loop {
        let behaviour = *told.borrow_and_update();
        let enough = match behaviour {
            Behaviour::Away => true,
            Behaviour::CutAfterSending(bytes) => sent >= bytes,
            Behaviour::CutAfterReceiving(bytes) => received >= bytes,
            _ => false,
        };
        if enough {
            cut.fetch_add(1, Ordering::SeqCst);
            // A reset, as when the other side's machine has died.
            let _ = socket_reset(&client);
            return;
        }
        if behaviour == Behaviour::Stall || matches!(behaviour, Behaviour::StallAfterSending(bytes) if sent >= bytes) {
            if told.changed().await.is_err() {
                return;
            }
            continue;
        }
        tokio::select! {
            changed = told.changed() => if changed.is_err() { return },
            count = client.read(&mut up) => match count {
                Ok(count) if count > 0 => {
                    if let Some(answer) = answer(behaviour, &up[..count]) {
                        let _ = client.write_all(answer.as_bytes()).await;
                        let _ = client.shutdown().await;
                        while client.read(&mut up).await.is_ok_and(|count| count > 0) {}
                        return;
                    }
                    if let Behaviour::SendSlowly(rate) = behaviour {
                        tokio::time::sleep(Duration::from_millis(count as u64 * 1000 / rate)).await;
                    }
                    sent += count as u64;
                    if server.write_all(&up[..count]).await.is_err() { return }
                }
                _ => return,
            },
            count = server.read(&mut down) => match count {
                Ok(count) if count > 0 => {
                    received += count as u64;
                    if matches!(behaviour, Behaviour::FlipOnceAfterReceiving(bytes) if received > bytes)
                        && flipped.fetch_add(1, Ordering::SeqCst) == 0
                    {
                        down[count - 1] ^= 1;
                    }
                    if client.write_all(&down[..count]).await.is_err() { return }
                }
                _ => return,
            },
        }
    }
}

/// What the proxy itself answers to the beginning of a request.
fn answer(behaviour: Behaviour, request: &[u8]) -> Option<&'static str> {
    match behaviour {
        Behaviour::Unavailable => Some("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"),
        Behaviour::Page => Some(
            "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\netag: \"x\"\r\nlast-modified: Thu, 26 Nov 2026 10:00:00 GMT\r\n\
             content-length: 13\r\nconnection: close\r\n\r\n<p>Log in</p>",
        ),
        Behaviour::NoBucket => Some(
            "HTTP/1.1 404 Not Found\r\ncontent-type: application/xml\r\ncontent-length: 68\r\nconnection: close\r\n\r\n\
             <Error><Code>NoSuchBucket</Code><Message>no bucket</Message></Error>",
        ),
        Behaviour::SwallowPuts if request.starts_with(b"PUT ") => {
            Some("HTTP/1.1 200 OK\r\netag: \"x\"\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        }
        _ => None,
    }
}

/// Makes closing it a reset.
fn socket_reset(socket: &TcpStream) -> std::io::Result<()> {
    socket.set_zero_linger()
}
