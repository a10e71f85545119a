//! An S3 server in a thread of this process (s3s-fs), with a bucket for whoever asks.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;

const ACCESS_KEY: &str = "AKIAIMAGEWELLTEST";
const SECRET_KEY: &str = "a-secret-that-everybody-knows";

/// What a program must be told to use a bucket.
#[derive(Debug, Clone)]
pub struct Bucket {
    /// As in `http://127.0.0.1:3900`.
    pub endpoint: String,
    /// Its name.
    pub name: String,
    /// Who may write it.
    pub access_key: &'static str,
    /// How that is proved.
    pub secret_key: &'static str,
    /// Where its objects lie as files.
    pub folder: PathBuf,
}

struct Server {
    address: SocketAddr,
    root: PathBuf,
    /// The end of its input is this process's; then it removes the folder.
    _shell: Child,
}

fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| {
        let root = tempfile::Builder::new().prefix("imagewell-s3-").tempdir().expect("temporary folder").keep();
        let tidy = "trap '' HUP INT TERM; cat; rm -rf \"$0\"";
        let shell = Command::new("sh").args(["-c", tidy]).arg(&root).stdin(Stdio::piped()).spawn().expect("a shell starts");
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        listener.set_nonblocking(true).expect("sets");
        let address = listener.local_addr().expect("address");
        let files = s3s_fs::FileSystem::new(&root).expect("opens");
        std::thread::spawn(move || serve(listener, files));
        Server { address, root, _shell: shell }
    })
}

fn serve(listener: TcpListener, files: s3s_fs::FileSystem) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    let mut builder = S3ServiceBuilder::new(files);
    builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
    let service = builder.build();
    runtime.block_on(async move {
        let listener = tokio::net::TcpListener::from_std(listener).expect("listens");
        while let Ok((socket, _)) = listener.accept().await {
            let service = service.clone();
            // Small answers would wait for the other side's acknowledgement.
            socket.set_nodelay(true).expect("sets");
            tokio::spawn(async move {
                let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(socket), service).await;
            });
        }
    });
}

/// A new, empty bucket.
///
/// # Panics
/// When the server can't be started.
#[must_use]
pub fn bucket() -> Bucket {
    let server = server();
    let name = super::fresh("bucket");
    let folder = server.root.join(&name);
    std::fs::create_dir(&folder).expect("makes");
    Bucket { endpoint: format!("http://{}", server.address), name, access_key: ACCESS_KEY, secret_key: SECRET_KEY, folder }
}
