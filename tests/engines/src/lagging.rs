//! A proxy in front of PostgreSQL that is late with what listeners are told, and with nothing else.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// How much a growing lag grows at a time.
const LAG_STEP: Duration = Duration::from_millis(500);

/// A running proxy.
#[derive(Debug)]
pub struct LaggingListeners {
    /// Where it listens.
    pub address: SocketAddr,
    lag: watch::Sender<Duration>,
    delivered: Arc<AtomicU64>,
}

impl LaggingListeners {
    /// Starts one in a thread of its own, without a lag, in front of the socket in a folder.
    ///
    /// # Panics
    /// When it can't listen.
    #[must_use]
    pub fn start(folder: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        listener.set_nonblocking(true).expect("sets");
        let address = listener.local_addr().expect("address");
        let (lag, told) = watch::channel(Duration::ZERO);
        let socket = format!("{folder}/.s.PGSQL.5432");
        let delivered = Arc::<AtomicU64>::default();
        let counted = Arc::clone(&delivered);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).expect("listens");
                while let Ok((client, _)) = listener.accept().await {
                    let (socket, told, counted) = (socket.clone(), told.clone(), Arc::clone(&counted));
                    tokio::spawn(async move {
                        if let Ok(server) = UnixStream::connect(socket).await {
                            pass(client, server, told, counted).await;
                        }
                    });
                }
            });
        });
        Self { address, lag, delivered }
    }

    /// From now on listeners are told everything so late.
    ///
    /// # Panics
    /// When its thread is gone.
    pub fn be_late_by(&self, lag: Duration) {
        self.lag.send(lag).expect("it runs");
    }

    /// The lag grows to this, by half a second in each half second, so listeners are never told
    /// nothing for longer than their heartbeats take.
    ///
    /// # Panics
    /// When its thread is gone.
    pub async fn become_late_by(&self, lag: Duration) {
        let mut late = *self.lag.borrow();
        while late < lag {
            late += LAG_STEP;
            self.be_late_by(late);
            tokio::time::sleep(LAG_STEP).await;
        }
    }

    /// How many packets listeners have got so far.
    #[must_use]
    pub fn delivered(&self) -> u64 {
        self.delivered.load(Ordering::SeqCst)
    }
}

/// Until one side ends.
async fn pass(client: TcpStream, server: UnixStream, lag: watch::Receiver<Duration>, delivered: Arc<AtomicU64>) {
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let (found, listens) = watch::channel(false);
    tokio::select! {
        () = send(from_client, to_server, found) => {}
        () = receive(from_server, to_client, listens, lag, &delivered) => {}
    }
}

async fn send(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, listens: watch::Sender<bool>) {
    let mut bytes = vec![0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut bytes).await {
        if bytes[..count].windows(6).any(|word| word == b"LISTEN") {
            listens.send_replace(true);
        }
        if to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}

async fn receive(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    listens: watch::Receiver<bool>,
    lag: watch::Receiver<Duration>,
    delivered: &AtomicU64,
) {
    let (queue, mut queued) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    let told = listens.clone();
    let reading = async move {
        let mut bytes = vec![0; 16 * 1024];
        while let Ok(count @ 1..) = from.read(&mut bytes).await {
            let late = if *listens.borrow() { *lag.borrow() } else { Duration::ZERO };
            if queue.send((Instant::now() + late, bytes[..count].to_vec())).is_err() {
                return;
            }
        }
    };
    let writing = async move {
        while let Some((when, bytes)) = queued.recv().await {
            tokio::time::sleep_until(when).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
            delivered.fetch_add(u64::from(*told.borrow()), Ordering::SeqCst);
        }
    };
    tokio::join!(reading, writing);
}
