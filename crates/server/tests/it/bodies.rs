//! Multipart bodies that are broken, endless, cut off or over a cap. Whatever comes, the verdict doesn't depend on how it is cut
//! into packets, and nothing stays behind.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::app::{APP_KEY, Actor, Answer, PERMISSION, TestApp};
use crate::fixtures::{BOUNDARY, multipart, multipart_type, noise, png, png_of_bytes};
use crate::records::eventually;

const IMAGE: &str = "Content-Disposition: form-data; name=\"image\"; filename=\"a.png\"";

fn part(headers: &str, bytes: &[u8]) -> Vec<u8> {
    [format!("--{BOUNDARY}\r\n{headers}\r\n\r\n").as_bytes(), bytes, b"\r\n"].concat()
}

fn closed(parts: &[Vec<u8>]) -> Vec<u8> {
    [parts.concat(), format!("--{BOUNDARY}--\r\n").into_bytes()].concat()
}

/// So many headers of different names.
fn x_headers(count: usize) -> String {
    (0..count).map(|n| format!("\r\nX{n}: y")).collect()
}

fn path() -> String {
    format!("/opsportal/image/{APP_KEY}/{PERMISSION}/0")
}

/// Sends the body in chunks of one size.
async fn send(actor: &Actor, body: Vec<u8>, chunk: usize) -> Answer {
    let chunks: Vec<Result<Vec<u8>, std::io::Error>> = body.chunks(chunk).map(|chunk| Ok(chunk.to_vec())).collect();
    let stream = reqwest::Body::wrap_stream(futures_util::stream::iter(chunks));
    Answer::of(actor.change(&path()).await.header("content-type", multipart_type()).body(stream)).await
}

#[tokio::test]
async fn the_verdict_is_the_same_however_the_body_is_cut() {
    let app = TestApp::start().await;
    let ada = app.actor("ada").await;
    let image = png(8, 8, 1);
    let good = closed(&[part(IMAGE, &image)]);
    let mut near_boundaries = image.clone();
    near_boundaries.extend(format!("\r\n--{}", &BOUNDARY[..5]).repeat(50).into_bytes());
    let refused: Vec<(&str, Vec<u8>)> = vec![
        ("no final boundary", part(IMAGE, &image)),
        ("cut in the file", good[..good.len() - 60].to_vec()),
        ("cut in the headers", good[..30].to_vec()),
        ("empty", Vec::new()),
        (
            "another boundary",
            closed(&[part(IMAGE, &image)]).iter().map(|byte| if *byte == b't' { b'x' } else { *byte }).collect(),
        ),
        ("a part without a name", closed(&[part("Content-Disposition: form-data; filename=\"a.png\"", &image)])),
        ("a part with an empty name", closed(&[part("Content-Disposition: form-data; name=\"\"; filename=\"a.png\"", &image)])),
        ("a part without headers", closed(&[part("X: y", &image)])),
        ("an encoded part", closed(&[part(&format!("{IMAGE}\r\nContent-Transfer-Encoding: base64"), &image)])),
        ("a nested part", closed(&[part(&format!("{IMAGE}\r\nContent-Type: multipart/mixed; boundary=x"), &image)])),
        ("nine headers", closed(&[part(&format!("{IMAGE}{}", x_headers(8)), &image)])),
        ("a long header", closed(&[part(&format!("{IMAGE}\r\nX: {}", "y".repeat(8192)), &image)])),
        (
            "a long name",
            closed(&[part(&format!("Content-Disposition: form-data; name=\"{}\"", "n".repeat(257)), b"x"), part(IMAGE, &image)]),
        ),
        (
            "a long text",
            closed(&[part("Content-Disposition: form-data; name=\"uuid\"", &vec![b'x'; 65_537]), part(IMAGE, &image)]),
        ),
        (
            "65 parts",
            closed(&(0..65).map(|n| part(&format!("Content-Disposition: form-data; name=\"{n}\""), b"x")).collect::<Vec<_>>()),
        ),
    ];
    for (name, body) in refused {
        for chunk in [1, 7, 4096] {
            // One byte a chunk is slow for the long ones and shows nothing more.
            if chunk == 1 && body.len() > 2000 {
                continue;
            }
            let answer = send(&ada, body.clone(), chunk).await;
            let envelope = answer.json();
            assert_eq!(answer.status.as_u16(), 422, "{name} in chunks of {chunk}: {envelope}");
        }
    }
    assert!(app.stored().await.files.is_empty());
    for (name, body) in [
        ("good", good),
        ("eight headers", closed(&[part(&format!("{IMAGE}{}", x_headers(7)), &image)])),
        (
            "a name of 256 bytes",
            closed(&[part(&format!("Content-Disposition: form-data; name=\"{}\"", "n".repeat(256)), b"x"), part(IMAGE, &image)]),
        ),
        (
            "a text of 65536 bytes",
            closed(&[part("Content-Disposition: form-data; name=\"t\"", &vec![b'x'; 65_536]), part(IMAGE, &image)]),
        ),
        (
            "64 parts",
            closed(&[
                (0..63).flat_map(|n| part(&format!("Content-Disposition: form-data; name=\"{n}\""), b"x")).collect(),
                part(IMAGE, &image),
            ]),
        ),
        (
            "a charset field",
            closed(&[part("Content-Disposition: form-data; name=\"_charset_\"", b"utf-16"), part(IMAGE, &image)]),
        ),
        ("near boundaries", closed(&[part(IMAGE, &near_boundaries)])),
    ] {
        for chunk in [7, 4096] {
            assert_eq!(send(&ada, body.clone(), chunk).await.status.as_u16(), 200, "{name} in chunks of {chunk}");
        }
    }
}

#[tokio::test]
async fn nothing_of_an_upload_with_a_broken_end_is_visible() {
    let app = TestApp::start().await;
    let ada = app.actor("ada").await;
    let whole = png_of_bytes(400_000, 1);
    let before = app.stored().await;
    let broken_later = [part(IMAGE, &whole), part(&format!("Content-Disposition: form-data; name=\"x\"{}", x_headers(8)), b"x")];
    for body in [part(IMAGE, &whole), broken_later.concat()] {
        send(&ada, body, 4096).await.refused(422, "\"E_INVALIDPARAMS\"");
    }
    assert_eq!(app.stored().await, before);
}

#[tokio::test]
async fn an_endless_body_ends_at_the_limit_and_the_client_reads_why() {
    let app = TestApp::with(&[("opsportal.upload_bytes_max", "300000")]).await;
    let ada = app.actor("ada").await;
    let before = app.stored().await;
    // In the file, in a file that nobody asked for, in headers.
    let starts = [
        part(IMAGE, &png(8, 8, 1)),
        part("Content-Disposition: form-data; name=\"other\"; filename=\"x\"", b"x"),
        format!("--{BOUNDARY}\r\nX: ").into_bytes(),
    ];
    for (start, status) in starts.into_iter().zip([413, 413, 422]) {
        let start = start[..start.len() - 2].to_vec();
        let filler = noise(64 * 1024, 2);
        let endless = futures_util::stream::iter(
            std::iter::once(start).chain(std::iter::repeat_n(filler, 200)).map(Ok::<_, std::io::Error>),
        );
        let request =
            ada.change(&path()).await.header("content-type", multipart_type()).body(reqwest::Body::wrap_stream(endless));
        assert_eq!(Answer::of(request).await.status.as_u16(), status);
    }
    assert_eq!(app.stored().await, before);
}

/// The cookie of somebody who has just logged in, and a token.
pub async fn session(app: &TestApp, login: &str) -> (String, String) {
    let client = reqwest::Client::new();
    let cookie_of = |answer: &reqwest::Response| {
        answer.headers()["set-cookie"].to_str().expect("text").split(';').next().expect("cookie").to_owned()
    };
    let visitor = client.get(app.url("/csrfToken")).send().await.expect("answers");
    let cookie = cookie_of(&visitor);
    let token: serde_json::Value = visitor.json().await.expect("json");
    let login = client
        .post(app.url("/site/login"))
        .header("cookie", cookie)
        .header("x-csrf-token", token["_csrf"].as_str().expect("token"))
        .json(&serde_json::json!({ "username": login, "password": crate::app::PASSWORD }))
        .send()
        .await
        .expect("answers");
    let cookie = cookie_of(&login);
    let token: serde_json::Value =
        client.get(app.url("/csrfToken")).header("cookie", &cookie).send().await.expect("answers").json().await.expect("json");
    (cookie, token["_csrf"].as_str().expect("token").to_owned())
}

/// A connection with a logged-in cookie and a token, to write bytes to.
pub async fn raw(app: &TestApp) -> (TcpStream, String) {
    let (cookie, token) = session(app, "ada").await;
    let stream = TcpStream::connect(app.address).expect("connects");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("sets");
    let path = path();
    let content_type = multipart_type();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: test\r\nCookie: {cookie}\r\nX-CSRF-Token: {token}\r\nContent-Type: {content_type}\r\n"
    );
    (stream, head)
}

pub fn status_of(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(count) = stream.read(&mut buffer) {
        answer.extend(&buffer[..count]);
        if count == 0 || answer.windows(4).any(|window| window == b"\r\n\r\n") {
            break;
        }
    }
    String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_stops_half_way_leaves_nothing() {
    let app = TestApp::start().await;
    let before = app.stored().await;
    let body = multipart(&[("image", Some("a.png"), &png_of_bytes(500_000, 1))]);
    for share in [1, 50, 99] {
        let (mut stream, head) = raw(&app).await;
        write!(stream, "{head}Content-Length: {}\r\n\r\n", body.len()).expect("writes");
        stream.write_all(&body[..body.len() * share / 100]).expect("writes");
        drop(stream);
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(app.stored().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lying_content_length_is_found_out() {
    let app = TestApp::start().await;
    let before = app.stored().await;
    let body = multipart(&[("image", Some("a.png"), &png_of_bytes(50_000, 1))]);
    // Too short: the body is cut there, so the final boundary is missing.
    let (mut stream, head) = raw(&app).await;
    write!(stream, "{head}Content-Length: {}\r\n\r\n", body.len() - 100).expect("writes");
    stream.write_all(&body).expect("writes");
    assert!(status_of(&mut stream).contains(" 422 "));
    // Absurdly long: refused before anything is sent.
    let (mut stream, head) = raw(&app).await;
    write!(stream, "{head}Content-Length: 99999999999\r\n\r\n").expect("writes");
    stream.write_all(&body[..200]).expect("writes");
    let started = Instant::now();
    assert!(status_of(&mut stream).contains(" 413 "));
    assert!(started.elapsed() < Duration::from_secs(3));
    assert_eq!(app.stored().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_drips_or_stalls_is_given_up_with_408() {
    let settings = [
        ("server.body_idle_timeout_seconds", "1"),
        ("server.body_rate_grace_seconds", "1"),
        ("server.body_bytes_per_second_min", "1000"),
    ];
    let app = TestApp::with(&settings).await;
    let before = app.stored().await;
    let body = multipart(&[("image", Some("a.png"), &png_of_bytes(50_000, 1))]);
    let (mut stalled, head) = raw(&app).await;
    write!(stalled, "{head}Content-Length: {}\r\n\r\n", body.len()).expect("writes");
    stalled.write_all(&body[..1000]).expect("writes");
    let started = Instant::now();
    assert!(status_of(&mut stalled).contains(" 408 "));
    assert!(started.elapsed() < Duration::from_secs(4));

    let (mut dripping, head) = raw(&app).await;
    write!(dripping, "{head}Content-Length: {}\r\n\r\n", body.len()).expect("writes");
    let mut reader = dripping.try_clone().expect("clones");
    let status = std::thread::spawn(move || status_of(&mut reader));
    for byte in body.chunks(20) {
        if dripping.write_all(byte).is_err() || status.is_finished() {
            break;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    assert!(status.join().expect("reads").contains(" 408 "));
    assert!(started.elapsed() < Duration::from_secs(12));
    assert_eq!(app.stored().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_focus_that_does_not_come_is_given_up_with_408() {
    let app = TestApp::with(&[("server.body_idle_timeout_seconds", "1")]).await;
    let uuid = app.actor("ada").await.upload(png(8, 8, 1)).await.uuid();
    let focus = format!("PUT /v1/images/{uuid}/focus");
    for (length, body, status) in [(17, "{\"x\":0.5", " 408 "), (17, "{\"x\":0.5,\"y\":0.5}", " 204 "), (1025, "", " 413 ")] {
        let (mut stream, head) = raw(&app).await;
        let head = head.replacen(&format!("POST {}", path()), &focus, 1).replace(&multipart_type(), "application/json");
        write!(stream, "{head}Content-Length: {length}\r\n\r\n{body}").expect("writes");
        if length > 1024 {
            stream.write_all(&vec![b' '; length]).expect("writes");
        }
        assert!(status_of(&mut stream).contains(status), "{body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_aborted_uploads_leave_no_open_file() {
    let app = TestApp::with(&[("uploads.memory_bytes_max", "1000")]).await;
    let (_, head) = raw(&app).await;
    // Of this service's uploads alone: other tests open files in the same process.
    let folder = app.data_dir().canonicalize().expect("folder").join("spool");
    let open_files = || {
        let links = std::fs::read_dir("/proc/self/fd").expect("folder").flatten().map(|entry| std::fs::read_link(entry.path()));
        links.flatten().filter(|target| target.starts_with(&folder)).count()
    };
    let body = multipart(&[("image", Some("a.png"), &png_of_bytes(20_000, 1))]);
    let begin = |bytes: usize| {
        let mut stream = TcpStream::connect(app.address).expect("connects");
        write!(stream, "{head}Content-Length: {}\r\n\r\n", body.len()).expect("writes");
        stream.write_all(&body[..bytes]).expect("writes");
        stream
    };
    let unfinished = begin(body.len() / 2);
    eventually(async || (open_files() == 1).then_some(())).await;
    for round in 0..1000 {
        drop(begin(body.len() * (round % 100) / 100));
    }
    drop(unfinished);
    eventually(async || (open_files() == 0).then_some(())).await;
    assert!(app.stored().await.files.is_empty());
}
