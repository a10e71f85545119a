//! Uploads that take their time, beside everybody else's.

use std::io::Write as _;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::app::{Actor, TestApp};
use crate::bodies::{raw, status_of};
use crate::file_service::Machine;
use crate::fixtures::{multipart, png, png_of_bytes};

/// More than the places that one account has.
const DRIPPING: usize = 80;

/// Connections that upload so slowly that they are at it for the whole test.
struct Dripping {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<usize>,
}

impl Dripping {
    /// Each has sent the beginning of a file before this returns, and goes on above the minimum rate.
    async fn start(app: &TestApp, connections: usize) -> Self {
        let (_, head) = raw(app).await;
        let body = multipart(&[("image", Some("a.png"), &png_of_bytes(1_000_000, 1))]);
        let mut streams: Vec<TcpStream> = (0..connections)
            .map(|_| {
                let mut stream = TcpStream::connect(app.address).expect("connects");
                write!(stream, "{head}Content-Length: {}\r\n\r\n", body.len()).expect("writes");
                stream.write_all(&body[..4096]).expect("writes");
                stream
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(500)).await;
        let stop = Arc::<AtomicBool>::default();
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            for chunk in body[4096..].chunks(500) {
                streams.retain_mut(|stream| stream.write_all(chunk).is_ok());
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                std::thread::sleep(Duration::from_millis(200));
            }
            streams.len()
        });
        Self { stop, thread }
    }

    /// How many went on to the end.
    fn stop(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("ends")
    }
}

async fn assert_stores(actor: &Actor, salt: u64) {
    let answer = actor.upload(png(8, 8, salt)).await;
    assert_eq!(answer.status.as_u16(), 200, "{}", answer.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_uploads_of_one_account_hold_up_nobody_else() {
    let app = TestApp::start().await;
    let (eve, bob) = (app.actor("eve").await, app.actor("bob").await);
    let tills = [Machine::till(&app, "till01"), Machine::till(&app, "till02")];
    let dripping = Dripping::start(&app, DRIPPING).await;
    for round in 0..10 {
        assert_stores(&eve, round).await;
        assert_stores(&bob, 100 + round).await;
        for till in &tills {
            let answer = till.upload(&format!("{round}.png"), png(8, 8, 200 + round)).await;
            assert_eq!(answer.status.as_u16(), 200, "{}", answer.text());
        }
    }
    assert!(dripping.stop() >= 64, "they were at it all the time");
    let stored = app.stored().await;
    assert_eq!((stored.images, stored.versions), (40, 40), "nothing of theirs");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_has_its_share_waits_for_its_own() {
    let app = TestApp::with(&[("uploads.open_per_account_max", "2")]).await;
    let (ada, eve) = (app.actor("ada").await, app.actor("eve").await);
    let dripping = Dripping::start(&app, 2).await;
    let waiting = tokio::spawn(async move { assert_stores(&ada, 1).await });
    for round in 0..5 {
        assert_stores(&eve, round).await;
    }
    assert!(!waiting.is_finished());
    dripping.stop();
    waiting.await.expect("gets its turn");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_come_but_for_its_end_holds_up_nobody() {
    let app = TestApp::with(&[("uploads.concurrent_max", "1")]).await;
    let eve = app.actor("eve").await;
    let body = multipart(&[("image", Some("a.png"), &png(8, 8, 1)), ("more", None, &[b'x'; 1000])]);
    let (mut stream, head) = raw(&app).await;
    write!(stream, "{head}Content-Length: {}\r\n\r\n", body.len()).expect("writes");
    stream.write_all(&body[..body.len() - 500]).expect("writes");
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_stores(&eve, 2).await;
    stream.write_all(&body[body.len() - 500..]).expect("writes");
    assert!(status_of(&mut stream).contains(" 200 "));
}

/// A phone on a bad network: more than the minimum, and far longer than the grace.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_upload_above_the_minimum_rate_is_stored() {
    let settings = [("server.body_rate_grace_seconds", "1"), ("uploads.memory_bytes_max", "2000")];
    let app = TestApp::with(&settings).await;
    let body = multipart(&[("image", Some("a.png"), &png_of_bytes(9_000, 1))]);
    let (mut stream, head) = raw(&app).await;
    write!(stream, "{head}Content-Length: {}\r\n\r\n", body.len()).expect("writes");
    for chunk in body.chunks(400) {
        stream.write_all(chunk).expect("writes");
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    assert!(status_of(&mut stream).contains(" 200 "));
    assert_eq!(app.stored().await.images, 1);
}
