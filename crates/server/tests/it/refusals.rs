//! A refusal arrives, however much of the body is still on its way: the rest is read and thrown away, within bounds.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use axum::http::Request;
use bytes::Bytes;

use crate::app::{Actor, TestApp};
use crate::bodies::{raw, status_of};
use crate::records::eventually;

const MIB: usize = 1 << 20;

fn connect(app: &TestApp) -> TcpStream {
    let stream = TcpStream::connect(app.address).expect("connects");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("sets");
    stream
}

/// Sends a head and all of its body before it reads anything, as old clients do; the head of the answer.
fn send_all(mut stream: TcpStream, head: &str, bytes: usize) -> std::io::Result<String> {
    write!(stream, "{head}Content-Length: {bytes}\r\n\r\n")?;
    let chunk = vec![b'x'; MIB];
    let mut left = bytes;
    while left > 0 {
        let count = left.min(MIB);
        stream.write_all(&chunk[..count])?;
        left -= count;
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.split("\r\n\r\n").next().unwrap_or_default().to_ascii_lowercase())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_arrives_behind_a_large_body_and_the_connection_ends() {
    let app = TestApp::start().await;
    let (_, signed_in) = raw(&app).await;
    let before = app.stored().await;
    let head = |line: &str| format!("{line} HTTP/1.1\r\nHost: test\r\n");
    let cases = [
        (head("POST /nowhere"), 404),
        (head("POST /opsportal/image/"), 403),
        (head("PUT /healthz"), 405),
        (format!("{}Content-Encoding: gzip\r\n", head("POST /opsportal/image")), 415),
        (head("POST /opsportal/imageBase64"), 403),
        (head("POST /api/dropbox/pictures"), 401),
        (head("POST /api/login"), 400),
        (head("POST /site/login"), 413),
        (head("POST /v3/oauth/token/generate"), 413),
        (head("POST /api_gateway/file-service/rewards/a.png"), 401),
        (head("PUT /v1/images/00000000-0000-4000-8000-000000000000/focus"), 401),
        (head("GET /opsportal/image/app/00000000-0000-4000-8000-000000000000"), 401),
        (signed_in.replace("X-CSRF-Token: ", "X-CSRF-Token: wrong"), 403),
        (signed_in, 413),
    ];
    for (head, status) in cases {
        let line = head.lines().next().unwrap_or_default().to_owned();
        let stream = connect(&app);
        // More than sockets hold and more than was read once.
        let sent = tokio::task::spawn_blocking(move || send_all(stream, &head, 24 * MIB)).await.expect("runs");
        let answer = sent.unwrap_or_else(|error| panic!("{line}: {error}"));
        assert!(answer.starts_with(&format!("http/1.1 {status} ")), "{line}: {answer}");
        assert!(answer.contains("\r\nconnection: close"), "{line}: {answer}");
    }
    assert_eq!(app.stored().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_arrives_behind_a_large_body_of_http2() {
    let app = TestApp::start().await;
    let before = app.stored().await;
    let stream = tokio::net::TcpStream::connect(app.address).await.expect("connects");
    let (client, connection) = h2::client::handshake(stream).await.expect("shakes hands");
    let connection = tokio::spawn(connection);
    let mut client = client.ready().await.expect("ready");
    for path in ["/nowhere", "/opsportal/image", "/api_gateway/file-service/rewards/a.png"] {
        let request = Request::post(app.url(path)).body(()).expect("request");
        let (answer, mut body) = client.send_request(request, false).expect("sends");
        for left in (0..8 * MIB).step_by(16 * 1024).rev() {
            body.reserve_capacity(16 * 1024);
            let mut capacity = 0;
            while capacity < 16 * 1024 {
                capacity = std::future::poll_fn(|context| body.poll_capacity(context))
                    .await
                    .unwrap_or_else(|| panic!("{path}: {left} bytes are left"))
                    .unwrap_or_else(|error| panic!("{path}: {left} bytes are left: {error}"));
            }
            body.send_data(Bytes::from(vec![b'x'; 16 * 1024]), left == 0).unwrap_or_else(|error| panic!("{path}: {error}"));
        }
        assert!(answer.await.expect("answers").status().is_client_error(), "{path}");
        // The same connection goes on.
        client = client.ready().await.expect("ready");
    }
    drop(client);
    connection.await.expect("runs").expect("ends without an error");
    assert_eq!(app.stored().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_thrown_away_has_bounds_in_bytes_time_and_number() {
    let app = TestApp::with(&[
        ("server.unread_body_bytes_max", "4194304"),
        ("server.unread_body_idle_timeout_seconds", "1"),
        ("server.unread_bodies_per_address_max", "2"),
    ])
    .await;
    let head = "POST /nowhere HTTP/1.1\r\nHost: test\r\n";
    let stream = connect(&app);
    let sent = tokio::task::spawn_blocking(move || send_all(stream, head, 64 * MIB)).await.expect("runs");
    assert!(sent.is_err(), "64 MiB were taken: {sent:?}");

    // Who stops sending is let go, and until then holds one of the places of its address.
    let begin = || {
        let mut stream = connect(&app);
        write!(stream, "{head}Content-Length: 100000\r\n\r\nx").expect("writes");
        assert!(status_of(&mut stream).contains(" 404 "));
        stream
    };
    let started = Instant::now();
    let mut silent = [begin(), begin()];
    let mut beyond = begin();
    beyond.read_to_end(&mut Vec::new()).expect("closed at once");
    assert!(started.elapsed() < Duration::from_secs(1), "it waited for {:?}", started.elapsed());
    for stream in &mut silent {
        stream.read_to_end(&mut Vec::new()).expect("closed after a second");
    }
    assert!(started.elapsed() < Duration::from_secs(10));
    // The places are free again.
    let stream = connect(&app);
    let sent = tokio::task::spawn_blocking(move || send_all(stream, head, 2 * MIB)).await.expect("runs");
    assert!(sent.expect("arrives").starts_with("http/1.1 404 "));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_would_be_refused_is_not_asked_for() {
    let app = TestApp::start().await;
    let before = app.stored().await;
    let (_, image) = raw(&app).await;
    let file = image.replacen("/opsportal/image/", "/opsportal/file/", 1);
    let base64 = image.replacen(image.lines().next().expect("line"), "POST /opsportal/imageBase64 HTTP/1.1", 1);
    let login = "POST /site/login HTTP/1.1\r\nHost: test\r\n".to_owned();
    for head in [image, file, base64, login] {
        let mut stream = connect(&app);
        write!(stream, "{head}Expect: 100-continue\r\nContent-Length: 99999999\r\n\r\n").expect("writes");
        let status = status_of(&mut stream);
        assert!(status.contains(" 413 "), "{status} came first for {head}");
    }
    assert_eq!(app.stored().await, before);
}

/// A connection stays for further requests where the whole body was wanted, refused or not.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_whose_body_was_read_goes_on() {
    let app = TestApp::start().await;
    let mut stream = connect(&app);
    for _ in 0..2 {
        let body = "{\"email\":\"ada\",\"password\":\"wrong\"}";
        let length = body.len();
        write!(stream, "POST /api/login HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n\r\n{body}").expect("writes");
        assert!(status_of(&mut stream).contains(" 401 "));
    }
    let visitor: Actor = app.visitor();
    eventually(async || visitor.get("/healthz").send().await.is_ok().then_some(())).await;
}
