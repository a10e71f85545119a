//! An S3 server in a thread of this process (s3s-fs), with a bucket for whoever asks.

use std::fmt::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use hyper::service::{Service, service_fn};
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
        let uploads = root.clone();
        std::thread::spawn(move || serve(listener, files, uploads));
        Server { address, root, _shell: shell }
    })
}

fn serve(listener: TcpListener, files: s3s_fs::FileSystem, root: PathBuf) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    let mut builder = S3ServiceBuilder::new(files);
    builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
    let service = builder.build();
    runtime.block_on(async move {
        let listener = tokio::net::TcpListener::from_std(listener).expect("listens");
        while let Ok((socket, _)) = listener.accept().await {
            let (service, root) = (service.clone(), root.clone());
            // Small answers would wait for the other side's acknowledgement.
            socket.set_nodelay(true).expect("sets");
            let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                let asked = request.uri().query().is_some_and(|query| query.split('&').any(|part| part.starts_with("uploads")));
                let bucket = request.uri().path().trim_matches('/').to_owned();
                let (service, root) = (service.clone(), root.clone());
                async move {
                    if asked && request.method() == hyper::Method::GET {
                        return Ok(hyper::Response::new(s3s::Body::from(uploads(&root, &bucket))));
                    }
                    Service::call(&service, request).await
                }
            });
            tokio::spawn(async move {
                let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(socket), service).await;
            });
        }
    });
}

/// What `ListMultipartUploads` answers, which s3s-fs does not know: from the files that it keeps of uploads in parts.
fn uploads(root: &Path, bucket: &str) -> String {
    let mut xml = String::from("<?xml version=\"1.0\"?><ListMultipartUploadsResult><IsTruncated>false</IsTruncated>");
    for (id, key) in unfinished(root, bucket) {
        let begun = "2020-01-01T00:00:00.000Z";
        write!(xml, "<Upload><Initiated>{begun}</Initiated><Key>{key}</Key><UploadId>{id}</UploadId></Upload>").expect("writes");
    }
    xml + "</ListMultipartUploadsResult>"
}

/// Id and key of each upload in parts that has not ended.
fn unfinished(root: &Path, bucket: &str) -> Vec<(String, String)> {
    let files = std::fs::read_dir(root).expect("the server's folder").flatten();
    let parse = |name: String| {
        let (of, rest) = name.strip_prefix(".bucket-")?.split_once(".object-")?;
        let (key, id) = rest.strip_suffix(".metadata.json")?.split_once(".upload-")?;
        (decoded(of)? == bucket).then_some((id.to_owned(), decoded(key)?))
    };
    files.filter_map(|file| parse(file.file_name().into_string().ok()?)).collect()
}

/// Of base64 with the alphabet for URLs and without padding (RFC 4648 §5).
fn decoded(text: &str) -> Option<String> {
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let (mut bytes, mut held, mut bits) = (Vec::new(), 0_u32, 0);
    for character in text.bytes() {
        held = held << 6 | u32::try_from(alphabet.iter().position(|of| *of == character)?).ok()?;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push(u8::try_from(held >> bits & 0xFF).ok()?);
        }
    }
    String::from_utf8(bytes).ok()
}

impl Bucket {
    /// The keys of uploads in parts that have not ended.
    #[must_use]
    pub fn unfinished(&self) -> Vec<String> {
        let root = self.folder.parent().expect("the server's folder");
        unfinished(root, &self.name).into_iter().map(|(_, key)| key).collect()
    }
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
