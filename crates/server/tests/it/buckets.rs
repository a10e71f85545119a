//! Buckets that are slow, break off, lie, or are gone: whole images or clean failures, and nothing acknowledged that isn't there.

use std::time::{Duration, Instant};

use imagewell_core::sweep::{self, Mode};
use imagewell_engines::faults::{Behaviour, Proxy};

use crate::app::{Actor, Answer, Data, Outgrown, TestApp, image_path};
use crate::faults::{IMPATIENT, fails_cleanly};
use crate::fixtures::{png, png_of_bytes};

/// More than sockets on the way hold.
const LARGE: usize = 12_000_000;

async fn behind_proxies(settings: &[(&'static str, &'static str)]) -> (TestApp, [Proxy; 2]) {
    let (outgrown, database, store) = Outgrown::behind_proxies();
    let settings: Vec<_> = IMPATIENT.into_iter().chain(settings.iter().copied()).collect();
    (TestApp::on(Data::on(outgrown), &settings).await, [store, database])
}

/// Reads the beginning of an image, looks away for longer than any patience with the store, and then reads the rest.
async fn read_with_a_pause(ada: &Actor, uuid: &str) -> Vec<u8> {
    let mut response = ada.get(&image_path(uuid)).send().await.expect("answers");
    assert_eq!(response.status().as_u16(), 200);
    let mut read = response.chunk().await.expect("a first chunk").expect("bytes").to_vec();
    tokio::time::sleep(Duration::from_secs(3)).await;
    while let Some(chunk) = response.chunk().await.unwrap_or_else(|error| panic!("cut after {} bytes: {error}", read.len())) {
        read.extend_from_slice(&chunk);
    }
    read
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_image_comes_out_whole_however_slow_its_reader_is_and_wherever_its_store_breaks_off() {
    let (app, [store, _database]) = behind_proxies(&[]).await;
    let ada = app.actor("ada").await;
    let bytes = png_of_bytes(LARGE, 1);
    let uuid = ada.upload(bytes.clone()).await.uuid();
    for fault in [Behaviour::Pass, Behaviour::CutAfterReceiving(2_000_000)] {
        store.behave(fault);
        assert!(read_with_a_pause(&ada, &uuid).await == bytes, "{fault:?}: other bytes");
    }
    assert!(store.cut() >= 5, "{} connections were cut", store.cut());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_store_takes_as_long_as_its_bytes_need() {
    // A second for an answer, and two for the bytes.
    let (app, [store, _database]) = behind_proxies(&[("storage.time_seconds_max", "1")]).await;
    let ada = app.actor("ada").await;
    let bytes = png_of_bytes(1_000_000, 1);
    store.behave(Behaviour::SendSlowly(500_000));
    let begun = Instant::now();
    let uuid = ada.upload(bytes.clone()).await.uuid();
    assert!(begun.elapsed() > Duration::from_millis(1500), "the store was not slow");
    assert!(ada.read(&uuid).await.body == bytes);
}

/// As one that is paused: it takes what the systems on the way hold, and is silent then.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_takes_no_more_bytes_is_given_up_however_large_the_part_is() {
    // 8 MB may take half a minute more, if the store goes on taking them.
    let settings =
        [("storage.time_seconds_max", "2"), ("storage.bytes_per_second_min", "262144"), ("storage.part_bytes", "8388608")];
    let (app, [store, _database]) = behind_proxies(&settings).await;
    let ada = app.actor("ada").await;
    for bytes in [png_of_bytes(8_000_000, 1), png_of_bytes(11_000_000, 2)] {
        let (token, before) = (ada.csrf().await, app.stored().await);
        store.behave(Behaviour::StallAfterSending(500_000));
        let begun = Instant::now();
        let refused = Answer::of(ada.uploading(&token, &bytes)).await;
        assert_eq!(refused.status.as_u16(), 503, "{}", refused.text());
        assert!(!refused.header("retry-after").is_empty());
        // Two seconds, and four for what may be on its way unseen; the rest is for a busy machine.
        assert!(begun.elapsed() < Duration::from_secs(20), "it was waited for, for {:?}", begun.elapsed());
        assert_eq!(app.stored().await, before);
        store.behave(Behaviour::Pass);
        assert!(ada.read(&ada.upload(bytes.clone()).await.uuid()).await.body == bytes);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_store_confirms_and_does_not_have_is_not_acknowledged() {
    let (app, [store, _database]) = behind_proxies(&[]).await;
    let (small, middle, large) = (png(8, 8, 1), png_of_bytes(1_000_000, 2), png_of_bytes(11_000_000, 3));
    for (fault, bytes) in [
        (Behaviour::Page, &small),
        (Behaviour::SwallowPuts, &small),
        (Behaviour::SwallowPuts, &middle),
        (Behaviour::Page, &large),
    ] {
        fails_cleanly(&app, &store, fault, bytes).await;
    }
    // What the store says of parts that it never got is its own affair.
    let ada = app.actor("ada").await;
    let (token, before) = (ada.csrf().await, app.stored().await);
    store.behave(Behaviour::SwallowPuts);
    let refused = Answer::of(ada.uploading(&token, &large)).await;
    assert!(refused.status.is_server_error(), "{}", refused.text());
    assert_eq!(app.stored().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_was_deleted_is_told_from_an_image_that_is_not_there() {
    let (app, [store, _database]) = behind_proxies(&[("cache.blob_bytes_max", "0")]).await;
    let ada = app.actor("ada").await;
    let token = ada.csrf().await;
    let uuid = ada.upload(png(8, 8, 1)).await.uuid();
    let before = app.stored().await;
    store.behave(Behaviour::NoBucket);
    for bytes in [png(8, 8, 2), png_of_bytes(11_000_000, 3)] {
        let refused = Answer::of(ada.uploading(&token, &bytes)).await;
        assert_eq!(refused.status.as_u16(), 503, "{}", refused.text());
    }
    assert_eq!(ada.read(&uuid).await.status.as_u16(), 503);
    assert_eq!(Answer::of(ada.get("/readyz?deep")).await.status.as_u16(), 503);
    store.behave(Behaviour::Pass);
    assert_eq!(ada.read(&uuid).await.status.as_u16(), 200);
    assert_eq!(app.stored().await, before);
}

/// Neither the rest of it nor its end gets through: as when the process that sends it is killed.
async fn leave_an_upload_unfinished(app: &TestApp, store: &Proxy) {
    let ada = app.actor("ada").await;
    let token = ada.csrf().await;
    store.behave(Behaviour::SendSlowly(2_000_000));
    let sending = tokio::spawn(async move { Answer::of(ada.uploading(&token, &png_of_bytes(11_000_000, 1))).await });
    let begun = Instant::now();
    while app.data().unfinished().is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(20), "no upload in parts begins");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    store.behave(Behaviour::Away);
    assert_eq!(sending.await.expect("ends").status.as_u16(), 503);
    // Aborting it is tried for a second more, by nobody once the process is gone.
    tokio::time::sleep(Duration::from_secs(4)).await;
    store.behave(Behaviour::Pass);
    assert_eq!(app.data().unfinished().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_that_a_killed_process_has_left_are_removed_by_a_sweep_once_they_are_old() {
    // The store says of each that it began in 2020.
    for (grace, removed) in [("3153600000", 0), ("3600", 1)] {
        let (app, [store, _database]) = behind_proxies(&[("sweep.grace_seconds", grace)]).await;
        leave_an_upload_unfinished(&app, &store).await;
        for (mode, left) in [(Mode::DryRun, 1), (Mode::Remove, 1 - removed)] {
            let swept = sweep::run(&app.service.app, mode, |_| {}).await.expect("sweeps");
            assert_eq!((swept.unfinished, swept.failed), (removed as u64, 0), "{grace} {mode:?}");
            assert_eq!(app.data().unfinished().len(), left, "{grace} {mode:?}");
        }
        app.actor("ada").await.upload(png_of_bytes(11_000_000, 2)).await.uuid();
        assert_eq!(app.data().unfinished().len(), 1 - removed, "{grace}");
    }
}

/// All nodes share them: a balancer that passed over every node at once would end what they still can do.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_store_or_database_is_away_stays_ready_and_says_what_is_away() {
    let (outgrown, database, store) = Outgrown::behind_proxies();
    let app = TestApp::on(Data::on(outgrown), &IMPATIENT).await;
    let ada = app.actor("ada").await;
    let uuid = ada.upload(png(8, 8, 1)).await.uuid();
    assert_eq!(ada.read(&uuid).await.status.as_u16(), 200);
    for (part, proxy, notice) in
        [("store", &store, "the store does not answer"), ("database", &database, "the database does not answer")]
    {
        for fault in [Behaviour::Away, Behaviour::Stall] {
            proxy.behave(fault);
            let begun = Instant::now();
            loop {
                let asked = Instant::now();
                let told = Answer::of(app.visitor().get("/readyz")).await;
                assert_eq!(told.status.as_u16(), 200, "{part} {fault:?}: {}", told.text());
                // Of what a balancer waits for an answer, less than half.
                assert!(asked.elapsed() < Duration::from_secs(2), "{part} {fault:?}: it was waited for");
                if told.text().contains(notice) {
                    break;
                }
                assert!(begun.elapsed() < Duration::from_secs(20), "{part} {fault:?}: {}", told.text());
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            let metrics = Answer::of(app.visitor().get("/metrics")).await;
            assert!(metrics.text().contains("imagewell_shared_up{part="), "{}", metrics.text());
            if part == "store" {
                assert_eq!(ada.read(&uuid).await.status.as_u16(), 200, "bytes in memory are still served");
            }
            assert_eq!(Answer::of(app.visitor().get("/readyz?deep")).await.status.as_u16(), 503, "{part} {fault:?}");
            proxy.behave(Behaviour::Pass);
            let begun = Instant::now();
            while Answer::of(app.visitor().get("/readyz")).await.text() != "ready\n" {
                assert!(begun.elapsed() < Duration::from_secs(20), "{part} {fault:?}: it never comes back");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}
