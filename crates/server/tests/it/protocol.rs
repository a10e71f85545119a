//! HTTP itself: smuggling, silence, too many connections, methods, draining.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use imagewell::serve::Ended;
use reqwest::StatusCode;

use crate::app::{Answer, TestApp};
use crate::fixtures::png;

/// Everything that comes back until the connection ends or two seconds pass.
fn exchange(app: &TestApp, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(app.address).expect("connects");
    stream.set_read_timeout(Some(Duration::from_secs(2))).expect("sets");
    stream.write_all(request).expect("writes");
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        answer.extend(&buffer[..count]);
    }
    String::from_utf8_lossy(&answer).into_owned()
}

/// Row P4: whatever makes two readers disagree on where a request ends gets one answer and the end of the connection. That is a
/// 400, but for a request with both lengths, which is read as chunked.
#[tokio::test(flavor = "multi_thread")]
async fn ambiguous_requests_get_one_400_and_no_second_answer() {
    let app = TestApp::start().await;
    let hidden = "GET /healthz HTTP/1.1\r\nHost: b\r\n\r\n";
    let cases = [
        ("both lengths", "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        ("two lengths", "Content-Length: 0\r\nContent-Length: 40\r\n\r\n"),
        ("a list of lengths", "Content-Length: 0, 40\r\n\r\n"),
        ("a signed length", "Content-Length: +5\r\n\r\nhello"),
        ("an unknown coding", "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
        ("chunked not last", "Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n"),
        ("a space before the colon", "Content-Length : 0\r\n\r\n"),
        ("a folded header", "X: a\r\n Content-Length: 40\r\n\r\n"),
        ("a NUL", "X: a\0b\r\n\r\n"),
    ];
    for (name, rest) in cases {
        let request = format!("POST /csrfToken HTTP/1.1\r\nHost: a\r\n{rest}{hidden}");
        let answer = exchange(&app, request.as_bytes());
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{name}: {answer}");
        let expected = if name == "both lengths" { "HTTP/1.1 405" } else { "HTTP/1.1 400" };
        assert!(answer.starts_with(expected), "{name}: {answer}");
    }
}

/// Row P4, and RFC 9112 §3.2.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_names_one_host() {
    let app = TestApp::start().await;
    for (request, expected) in [
        ("GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n", "HTTP/1.1 400"),
        ("GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\nConnection: close\r\n\r\n", "HTTP/1.1 400"),
        ("GET /healthz HTTP/1.1\r\nHost: a\r\nHost: a\r\nConnection: close\r\n\r\n", "HTTP/1.1 400"),
        ("GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "HTTP/1.1 200"),
        ("GET /healthz HTTP/1.0\r\n\r\n", "HTTP/1.0 200"),
    ] {
        let answer = exchange(&app, request.as_bytes());
        assert!(answer.starts_with(expected), "{request:?}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_and_slow_connections_are_closed() {
    let app = TestApp::with(&[("server.header_timeout_seconds", "1")]).await;
    let preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let settings = "\0\0\0\x04\0\0\0\0\0";
    for start in ["", "P", "PRI ", "GET / HTTP/1.1\r\nHo", &preface[..23], preface, &format!("{preface}{settings}")] {
        let mut stream = TcpStream::connect(app.address).expect("connects");
        stream.set_read_timeout(Some(Duration::from_secs(6))).expect("sets");
        stream.write_all(start.as_bytes()).expect("writes");
        let started = Instant::now();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let waited = started.elapsed();
        assert!((Duration::from_millis(700)..Duration::from_secs(4)).contains(&waited), "{start:?} closed after {waited:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_can_not_take_all_connections() {
    let app = TestApp::with(&[("server.connections_per_address_max", "5")]).await;
    let held: Vec<TcpStream> = (0..5).map(|_| TcpStream::connect(app.address).expect("connects")).collect();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(exchange(&app, b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"), "", "the sixth is closed");
    drop(held);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(exchange(&app, b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").contains("200 OK"));
}

#[tokio::test]
async fn compressed_bodies_and_strange_methods_are_refused() {
    let app = TestApp::start().await;
    let ada = app.actor("ada").await;
    let squeezed = ada.change("/opsportal/image").await.header("content-encoding", "gzip").body(png(8, 8, 1));
    Answer::of(squeezed).await.refused(415, "\"E_UNSUPPORTEDENCODING\"");
    for (method, path) in [
        ("PUT", "/opsportal/image"),
        ("DELETE", "/opsportal/image/a/0d5a2b1c-5f6e-4a3b-8c9d-0123456789ab"),
        ("TRACE", "/csrfToken"),
    ] {
        let answer = Answer::of(ada.request(method, path).header("x-http-method-override", "POST")).await;
        answer.refused(405, "\"E_METHODNOTALLOWED\"");
        assert!(!answer.header("allow").is_empty(), "{method} {path}");
    }
    let outside = Answer::of(ada.get("/nothing")).await;
    assert_eq!((outside.status, outside.header("content-type")), (StatusCode::NOT_FOUND, "application/problem+json"));
    assert!(app.stored().await.files.is_empty());
}

#[tokio::test]
async fn a_head_over_its_limit_is_refused() {
    let app = TestApp::start().await;
    let answer = Answer::of(app.visitor().get("/healthz").header("x-long", "y".repeat(40_000))).await;
    assert_eq!(answer.status, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
}

#[tokio::test]
async fn headers_of_strangers_change_no_answer() {
    let app = TestApp::start().await;
    let plain = Answer::of(app.visitor().get("/site/login").header("accept", "application/json")).await;
    for name in ["x-forwarded-host", "x-forwarded-proto", "x-original-url", "x-rewrite-url", "forwarded", "x-host"] {
        let request = app.visitor().get("/site/login").header("accept", "application/json").header(name, "evil.test/<script>");
        let answer = Answer::of(request).await;
        assert_eq!(answer.status, plain.status);
        assert!(!answer.text().contains("evil.test"), "{name}");
    }
}

#[tokio::test]
async fn operators_see_health_and_metrics_and_strangers_do_not() {
    let app = TestApp::start().await;
    let ada = app.actor("ada").await;
    ada.upload(png(8, 8, 1)).await.uuid();
    assert_eq!(Answer::of(ada.get("/healthz")).await.text(), "ok\n");
    assert_eq!(Answer::of(ada.get("/readyz")).await.text(), "ready\n");
    let metrics = Answer::of(ada.get("/metrics")).await.text();
    for name in
        ["imagewell_http_requests_total", "imagewell_uploads_total", "imagewell_upload_bytes_total", "imagewell_logins_total"]
    {
        assert!(metrics.contains(name), "{name}");
    }
    assert!(metrics.contains("route=\"/opsportal/image/{appKey}/{permission}/{isWebix}\""), "routes, not paths");
    let closed = TestApp::with(&[("server.metrics_allow", "10.0.0.1")]).await;
    assert_eq!(Answer::of(closed.visitor().get("/metrics")).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread")]
async fn draining_loses_no_request() {
    let app = TestApp::start().await;
    let ada = app.actor("ada").await;
    let token = ada.csrf().await;
    let slow_body = futures_util::stream::unfold(0_usize, |sent| async move {
        let body = crate::fixtures::multipart(&[("image", Some("a.png"), &png(8, 8, 1))]);
        tokio::time::sleep(Duration::from_millis(100)).await;
        let chunk = body.get(sent..(sent + body.len() / 10 + 1).min(body.len()))?.to_vec();
        (!chunk.is_empty()).then(|| (Ok::<_, std::io::Error>(chunk.clone()), sent + chunk.len()))
    });
    let path = format!("/opsportal/image/{}/{}/0", crate::app::APP_KEY, crate::app::PERMISSION);
    let request = ada
        .post(&path)
        .header("x-csrf-token", token)
        .header("content-type", crate::fixtures::multipart_type())
        .body(reqwest::Body::wrap_stream(slow_body));
    let uploading = tokio::spawn(Answer::of(request));
    tokio::time::sleep(Duration::from_millis(300)).await;
    let address = app.address;
    assert_eq!(app.stop().await, Ended::Drained);
    uploading.await.expect("ends").uuid();
    assert!(TcpStream::connect(address).is_err(), "nobody listens any more");
}

#[tokio::test]
async fn requests_that_outlast_the_drain_are_cut_off() {
    let app = TestApp::with(&[("server.drain_timeout_seconds", "1")]).await;
    let mut stream = TcpStream::connect(app.address).expect("connects");
    stream.write_all(b"POST /site/login HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n").expect("writes");
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(app.stop().await, Ended::CutOff);
}
