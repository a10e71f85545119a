//! Connections that take and give nothing back: answers that nobody reads, streams without a window,
//! silence. Each ends, what it held is given back, and who reads slowly gets everything.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::Request;
use bytes::Bytes;
use futures_util::future::join_all;
use h2::Reason;
use h2::client::{ResponseFuture, SendRequest};
use imagewell::serve::Ended;
use socket2::{Domain, Socket, Type};
use tokio::task::JoinHandle;

use crate::app::{Answer, FOLDER, TestApp, image_path};
use crate::bodies::{session, status_of};
use crate::fixtures::png_of_bytes;
use crate::process::{Process, accounts_on_disk, imagewell};
use crate::records::eventually;

/// Of an image that is streamed from disk.
const LARGE_BYTES: usize = 4_000_000;

/// A service that soon gives up who reads nothing, with two images to read and the cookie for it.
struct Reading {
    app: TestApp,
    cookie: String,
    large: String,
    small: String,
}

impl Reading {
    async fn start(settings: &[(&str, &str)]) -> Self {
        let quick = [FOLDER, ("server.response_idle_timeout_seconds", "1")];
        let app = TestApp::with(&[&quick, settings].concat()).await;
        let ada = app.actor("ada").await;
        let large = image_path(&ada.upload(png_of_bytes(LARGE_BYTES, 1)).await.uuid());
        let small = image_path(&ada.upload(png_of_bytes(20_000, 2)).await.uuid());
        let (cookie, _) = session(&app, "ada").await;
        Self { app, cookie, large, small }
    }

    /// Files of the store that are open.
    fn open_files(&self) -> usize {
        let folder = self.app.blobs().canonicalize().expect("folder");
        let links = std::fs::read_dir("/proc/self/fd").expect("folder").flatten().map(|entry| std::fs::read_link(entry.path()));
        // The folder itself is open for as long as the service runs.
        links.flatten().filter(|target| target.starts_with(&folder) && *target != folder).count()
    }

    /// A connection that has asked for the large image, with a small buffer for what comes.
    fn ask(&self, headers: &str) -> TcpStream {
        let mut stream = narrow(self.app.address);
        let (path, cookie) = (&self.large, &self.cookie);
        write!(stream, "GET {path} HTTP/1.1\r\nHost: a\r\nCookie: {cookie}\r\n{headers}\r\n").expect("writes");
        stream
    }

    fn ask_on(&self, client: &mut SendRequest<Bytes>, path: &str) -> ResponseFuture {
        let uri = self.app.url(path);
        let request = Request::get(uri).header("cookie", &self.cookie).body(()).expect("request");
        client.send_request(request, true).expect("sends").0
    }
}

fn narrow(address: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
    socket.set_recv_buffer_size(64 * 1024).expect("sets");
    socket.connect(&address.into()).expect("connects");
    socket.set_read_timeout(Some(Duration::from_secs(20))).expect("sets");
    socket.into()
}

/// An HTTP/2 client whose streams have this window, and what its connection comes to.
async fn http2(address: SocketAddr, window: u32) -> (SendRequest<Bytes>, JoinHandle<Result<(), h2::Error>>) {
    let stream = tokio::net::TcpStream::connect(address).await.expect("connects");
    stream.set_nodelay(true).expect("sets");
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(window).initial_connection_window_size(16 << 20).initial_max_send_streams(100);
    let (client, connection) = builder.handshake(stream).await.expect("shakes hands");
    let connection = tokio::spawn(connection);
    (client.ready().await.expect("ready"), connection)
}

/// Takes an answer's head and all of its body that comes by itself; how it ends.
async fn untaken(answer: ResponseFuture) -> Result<(), h2::Error> {
    let mut body = answer.await?.into_body();
    while let Some(data) = body.data().await {
        data?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_nobody_reads_are_reset_and_give_back_what_they_held() {
    let reading = Reading::start(&[]).await;
    for window in [0, 1, 70_000] {
        let (mut client, connection) = http2(reading.app.address, window).await;
        let answers: Vec<_> = (0..100).map(|_| reading.ask_on(&mut client, &reading.large)).collect();
        for ended in join_all(answers.into_iter().map(untaken)).await {
            let error = ended.expect_err("nothing was taken");
            assert_eq!((error.reason(), error.is_reset()), (Some(Reason::CANCEL), true), "window {window}: {error}");
        }
        eventually(async || (reading.open_files() == 0).then_some(())).await;
        // Another stream of the same connection is answered.
        let request = Request::get(reading.app.url("/healthz")).body(()).expect("request");
        assert_eq!(client.send_request(request, true).expect("sends").0.await.expect("answers").status(), 200);
        drop(client);
        let _ = connection.await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_leaves_the_end_of_answers_untaken_is_closed() {
    let reading = Reading::start(&[]).await;
    let (mut client, connection) = http2(reading.app.address, 10).await;
    let answer = reading.ask_on(&mut client, &reading.small);
    assert!(untaken(answer).await.is_err());
    drop(client);
    let _ = connection.await.expect("ends");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_stream_is_served_whole_while_others_on_its_connection_are_reset() {
    let reading = Reading::start(&[("server.response_bytes_per_second_min", "20000")]).await;
    let (mut client, _connection) = http2(reading.app.address, 65_535).await;
    let stuck: Vec<_> = (0..3).map(|_| tokio::spawn(untaken(reading.ask_on(&mut client, &reading.large)))).collect();
    let mut body = reading.ask_on(&mut client, &reading.large).await.expect("answers").into_body();
    let mut read = 0;
    while let Some(data) = body.data().await {
        let taken = data.expect("goes on").len();
        read += taken;
        tokio::time::sleep(Duration::from_millis(3)).await;
        let _ = body.flow_control().release_capacity(taken);
    }
    assert_eq!(read, LARGE_BYTES);
    for stuck in stuck {
        assert_eq!(stuck.await.expect("ends").expect_err("reset").reason(), Some(Reason::CANCEL));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_nobody_reads_end_and_give_back_what_they_held() {
    let reading = Reading::start(&[]).await;
    let mut held: Vec<TcpStream> = (0..20).map(|_| reading.ask("")).collect();
    // Also those without a body: more requests than fit in the buffers, whose answers nobody reads.
    let mut pipelining = narrow(reading.app.address);
    pipelining.set_nonblocking(true).expect("sets");
    let requests = "GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n".repeat(1000);
    while pipelining.write(requests.as_bytes()).is_ok() {}
    eventually(async || (reading.open_files() == 20).then_some(())).await;
    eventually(async || (reading.open_files() == 0).then_some(())).await;
    for stream in &mut held {
        let mut read = Vec::new();
        let _ = stream.read_to_end(&mut read);
        assert!(read.len() < LARGE_BYTES, "{} bytes", read.len());
    }
    eventually(async || pipelining.write(b"GET / HTTP/1.1\r\n").is_err_and(|error| is_end(&error)).then_some(())).await;
    assert_eq!(Answer::of(reading.app.visitor().get("/healthz")).await.status, 200);
}

fn is_end(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::BrokenPipe | std::io::ErrorKind::ConnectionReset)
}

/// Reads so many bytes at a time, with so many milliseconds in between; how many come.
fn read_slowly(mut stream: TcpStream, bytes: usize, milliseconds: u64) -> usize {
    let (mut buffer, mut read) = (vec![0; bytes], 0);
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        read += count;
        std::thread::sleep(Duration::from_millis(milliseconds));
    }
    read
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_slowly_gets_everything_and_who_reads_more_slowly_is_given_up() {
    let reading = Reading::start(&[("server.response_bytes_per_second_min", "200000")]).await;
    let steady = reading.ask("Connection: close\r\n");
    let dripping = reading.ask("Connection: close\r\n");
    let steady = tokio::task::spawn_blocking(move || read_slowly(steady, 64 * 1024, 20));
    let dripping = tokio::task::spawn_blocking(move || read_slowly(dripping, 1024, 50));
    assert!(steady.await.expect("reads") > LARGE_BYTES, "head and body");
    let read = dripping.await.expect("reads");
    assert!(read < LARGE_BYTES, "{read} bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_nobody_reads_do_not_hold_up_draining() {
    let settings = [("server.response_idle_timeout_seconds", "60"), ("server.drain_timeout_seconds", "6")];
    let reading = Reading::start(&settings).await;
    let held: Vec<TcpStream> = (0..5).map(|_| reading.ask("")).collect();
    let (mut client, _connection) = http2(reading.app.address, 0).await;
    let answers: Vec<_> = (0..5).map(|_| reading.ask_on(&mut client, &reading.large)).collect();
    eventually(async || (reading.open_files() == 10).then_some(())).await;
    assert_eq!(reading.app.stop().await, Ended::Drained);
    drop((held, answers));
}

/// Whether a connection is ended by the other side, and whether that came after about a second.
#[track_caller]
fn assert_closed(since: Instant, what: &str) {
    let waited = since.elapsed();
    assert!((Duration::from_millis(700)..Duration::from_secs(15)).contains(&waited), "{what} closed after {waited:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_ask_once_and_then_only_ping_are_closed() {
    let app = TestApp::with(&[("server.idle_timeout_seconds", "1"), ("server.header_timeout_seconds", "1")]).await;
    let since = Instant::now();
    let stream = tokio::net::TcpStream::connect(app.address).await.expect("connects");
    let (mut client, mut connection) = h2::client::handshake(stream).await.expect("shakes hands");
    let mut pings = connection.ping_pong().expect("pings");
    let connection = tokio::spawn(connection);
    let request = Request::get(app.url("/healthz")).body(()).expect("request");
    assert_eq!(client.send_request(request, true).expect("sends").0.await.expect("answers").status(), 200);
    let pinging = tokio::spawn(async move {
        while pings.ping(h2::Ping::opaque()).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    let _ = connection.await.expect("ends");
    pinging.await.expect("ends");
    assert_closed(since, "pings");
    // One that neither pings nor answers: the preface, settings, a request, and silence.
    let since = Instant::now();
    let mut silent = TcpStream::connect(app.address).expect("connects");
    silent.set_read_timeout(Some(Duration::from_secs(20))).expect("sets");
    silent.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").expect("writes");
    // GET / of http://a, by HPACK's static table and one literal (RFC 7541 §6).
    silent.write_all(b"\0\0\x06\x01\x05\0\0\0\x01\x82\x84\x86\x41\x01a").expect("writes");
    let mut answer = Vec::new();
    let _ = silent.read_to_end(&mut answer);
    assert!(answer.len() > 100, "it is answered before");
    assert_closed(since, "silence");
    // And HTTP/1.
    let since = Instant::now();
    let mut alive = TcpStream::connect(app.address).expect("connects");
    alive.set_read_timeout(Some(Duration::from_secs(20))).expect("sets");
    alive.write_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n").expect("writes");
    let mut answer = Vec::new();
    let _ = alive.read_to_end(&mut answer);
    assert!(answer.starts_with(b"HTTP/1.1 200"));
    assert_closed(since, "HTTP/1");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_under_way_are_bounded_by_address_and_not_by_connection() {
    let settings = [("server.requests_per_address_max", "4"), ("server.response_idle_timeout_seconds", "60")];
    let reading = Reading::start(&settings).await;
    let (mut first, connection) = http2(reading.app.address, 0).await;
    let (mut second, _connection) = http2(reading.app.address, 0).await;
    let held: Vec<_> = (0..3).map(|_| reading.ask_on(&mut first, &reading.large)).collect();
    let held = join_all(held).await;
    let fourth = reading.ask_on(&mut second, &reading.large).await.expect("answers");
    let refused = reading.ask_on(&mut second, &reading.large).await.expect_err("one too many");
    assert_eq!(refused.reason(), Some(Reason::REFUSED_STREAM));
    for (path, content_type) in [("/healthz", "application/problem+json"), ("/csrfToken", "application/json")] {
        let answer = Answer::of(reading.app.visitor().get(path)).await;
        assert_eq!((answer.status.as_u16(), answer.header("retry-after")), (429, "1"), "{}", answer.text());
        assert_eq!((answer.header("content-type"), answer.header("x-content-type-options")), (content_type, "nosniff"));
    }
    drop((held, first));
    let _ = connection.await;
    let visitor = reading.app.visitor();
    eventually(async || (Answer::of(visitor.get("/healthz")).await.status == 200).then_some(())).await;
    drop(fourth);
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_trusted_proxy_requests_are_bounded_by_the_clients_address() {
    let settings = [
        ("server.trusted_proxies", "127.0.0.1"),
        ("server.requests_per_address_max", "2"),
        ("server.connections_per_address_max", "1"),
        ("server.response_idle_timeout_seconds", "60"),
    ];
    let reading = Reading::start(&settings).await;
    let held: Vec<TcpStream> = (1..3).map(|port| reading.ask(&format!("X-Forwarded-For: 9.9.9.9:{port}\r\n"))).collect();
    eventually(async || (reading.open_files() == 2).then_some(())).await;
    for (forwarded, status) in [
        ("9.9.9.9", " 429 "),
        ("9.9.9.8, 9.9.9.9:77", " 429 "),
        ("9.9.9.9, 9.9.9.8", " 200 "),
        ("[2001:db8::9]:1", " 200 "),
        ("127.0.0.1", " 200 "),
        ("", " 200 "),
    ] {
        let mut stream = reading.ask(&format!("X-Forwarded-For: {forwarded}\r\n"));
        assert!(status_of(&mut stream).contains(status), "{forwarded:?}");
    }
    drop(held);
    eventually(async || (reading.open_files() == 0).then_some(())).await;
    assert!(status_of(&mut reading.ask("X-Forwarded-For: 9.9.9.9\r\n")).contains(" 200 "));
}

/// A TLS connection to a process, by the certificate that it shows, with this protocol.
async fn tls(address: SocketAddr, certificate: &std::path::Path, protocol: &[u8]) -> impl Connected {
    try_tls(address, certificate, protocol).await.expect("shakes hands")
}

/// As `tls`; an error when it shows another certificate.
pub async fn try_tls(address: SocketAddr, certificate: &std::path::Path, protocol: &[u8]) -> std::io::Result<impl Connected> {
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, ServerName};

    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(certificate).expect("certificate")).expect("root");
    let mut config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    let stream = tokio::net::TcpStream::connect(address).await.expect("connects");
    let name = ServerName::try_from("localhost").expect("name");
    tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

pub trait Connected: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static {}

impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static> Connected for T {}

#[tokio::test(flavor = "multi_thread")]
async fn silence_after_the_handshake_of_tls_ends_the_connection() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let (folder, data) = accounts_on_disk();
    let certificate = crate::cli::certificate(folder.path());
    let limits = ["server.header_timeout_seconds=1", "server.idle_timeout_seconds=1"];
    let tls_settings = ["tls.certificate_file=cert.pem", "tls.private_key_file=key.pem"];
    let settings = limits.iter().chain(&tls_settings).flat_map(|setting| ["--set", setting]);
    let process = Process::start(imagewell(&data, &std::iter::once("serve").chain(settings).collect::<Vec<_>>()));
    let address: SocketAddr = process.url.trim_start_matches("https://").parse().expect("address");
    for (protocol, sent) in [("http/1.1", ""), ("http/1.1", "P"), ("h2", ""), ("h2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")] {
        let since = Instant::now();
        let mut stream = tls(address, &certificate, protocol.as_bytes()).await;
        stream.write_all(sent.as_bytes()).await.expect("writes");
        let _ = stream.read_to_end(&mut Vec::new()).await;
        assert_closed(since, &format!("{protocol} {sent:?}"));
    }
    // One that has asked.
    let since = Instant::now();
    let (mut client, connection) = h2::client::handshake(tls(address, &certificate, b"h2").await).await.expect("shakes hands");
    let connection = tokio::spawn(connection);
    let request = Request::get(format!("{}/healthz", process.url)).body(()).expect("request");
    assert_eq!(client.send_request(request, true).expect("sends").0.await.expect("answers").status(), 200);
    let _ = connection.await.expect("ends");
    assert_closed(since, "h2 after a request");
    assert!(process.terminate().success());
}
