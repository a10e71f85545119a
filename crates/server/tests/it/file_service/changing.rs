//! Versions under concurrency, deletion, restoring and what the sweep does with it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use imagewell_core::sweep::{self, Mode};
use serde_json::json;

use super::{FileAnswer as _, Machine, open};
use crate::app::{Answer, FOLDER, TestApp};
use crate::fixtures::{photograph, png};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn simultaneous_uploads_of_one_name_get_every_number_once() {
    let app = TestApp::start().await;
    let tills = [Machine::till(&app, "till01"), Machine::bearer(&app, &super::token(&app, "backoffice").await)];
    let uploads = (0..60_u64).map(|salt| {
        let machine = tills[usize::from(salt % 2 == 0)].clone();
        tokio::spawn(async move {
            let bytes = if salt % 7 == 0 { Vec::new() } else { png(8, 8, salt) };
            let answer = machine.upload("a.png", bytes.clone()).await;
            let file = answer.file();
            assert!(file["latest_version"].as_u64() >= file["version"].as_u64());
            assert!(open(&answer.link()).await.body == bytes, "each link opens what was sent with it");
            (file["version"].as_u64().expect("number"), file["file_handle"].clone(), file["s3_token"].clone())
        })
    });
    let mut numbers = Vec::new();
    let (mut handles, mut tokens) = (BTreeSet::new(), BTreeSet::new());
    for upload in futures_util::future::join_all(uploads).await {
        let (number, handle, token) = upload.expect("uploads");
        numbers.push(number);
        handles.insert(handle.to_string());
        tokens.insert(token.to_string());
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=60).collect::<Vec<u64>>(), "without gap or repeat");
    assert_eq!((handles.len(), tokens.len()), (1, 60));
    let newest = tills[0].send("GET", "rewards/a.png").await.file();
    assert_eq!((&newest["version"], &newest["latest_version"]), (&json!(60), &json!(60)));
    assert_eq!((app.stored().await.images, app.stored().await.versions), (1, 60));
}

/// A refused upload takes no number.
#[tokio::test]
async fn refused_uploads_leave_no_gap() {
    let app = TestApp::start().await;
    let till = Machine::till(&app, "till01");
    let mut expected = 0;
    for salt in 0..12 {
        if salt % 3 == 0 {
            expected += 1;
            assert_eq!(till.upload("a.png", png(8, 8, salt)).await.file()["version"], expected);
        } else {
            till.upload("a.png", photograph()).await.failed(400);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn readers_never_see_half_a_state() {
    let app = TestApp::start().await;
    let till = Machine::till(&app, "till01");
    let handle = till.upload("a.png", png(8, 8, 0)).await.file()["file_handle"].as_str().expect("handle").to_owned();
    // It goes on until enough was read: on a busy machine readers get few turns.
    let enough = Arc::new(AtomicBool::new(false));
    let writer = {
        let (till, enough) = (till.clone(), Arc::clone(&enough));
        tokio::spawn(async move {
            for salt in 1.. {
                if salt >= 40 && enough.load(Ordering::Relaxed) {
                    return;
                }
                till.upload("a.png", png(8, 8, salt)).await.file();
                if salt % 3 == 0 {
                    till.send("DELETE", "rewards/a.png").await.file();
                    till.send("POST", "rewards/a.png/restore").await.file();
                }
                if salt % 5 == 0 {
                    till.send("DELETE", &format!("rewards/a.png?version={salt}")).await.file();
                }
            }
        })
    };
    let mut seen = 0;
    while !writer.is_finished() {
        for path in ["rewards/a.png".to_owned(), format!("handles/{handle}")] {
            let answer = till.send("GET", &path).await;
            if answer.status.as_u16() == 404 {
                continue;
            }
            let file = answer.file();
            assert_eq!(file["version"], file["latest_version"], "the newest is the newest");
            let read = open(&answer.link()).await;
            // It may have been deleted since; otherwise it is whole and the one that the record speaks of.
            if read.status.as_u16() == 200 {
                assert_eq!(json!(read.body.len().to_string()), file["fileSize"]);
                seen += 1;
                enough.store(seen > 10, Ordering::Relaxed);
            } else {
                assert_eq!(read.status.as_u16(), 404);
            }
        }
    }
    writer.await.expect("writes");
}

#[tokio::test]
async fn a_deletion_can_be_taken_back() {
    let app = TestApp::with(&[FOLDER]).await;
    let till = Machine::till(&app, "till01");
    let mut links = Vec::new();
    for salt in 1..=4 {
        links.push(till.upload("a.png", png(8, 8, salt)).await.link());
    }
    let handle = till.send("GET", "rewards/a.png").await.file()["file_handle"].clone();
    let opens = async || {
        let mut open_ones = Vec::new();
        for (index, link) in links.iter().enumerate() {
            if open(link).await.status.as_u16() == 200 {
                open_ones.push(index + 1);
            }
        }
        open_ones
    };
    let gone = till.send("DELETE", "rewards/a.png?version=4").await;
    assert_eq!(gone.file()["version"], 4);
    assert!(gone.json()["message"].as_str().expect("message").contains("can be restored until 20"));
    assert!(gone.json().get("secureFilePath").is_none());
    assert_eq!(till.send("GET", "rewards/a.png").await.file()["latest_version"], 3, "the one before is the newest now");
    till.send("GET", "rewards/a.png?version=4").await.failed(404);
    till.send("DELETE", "rewards/a.png?version=4").await.failed(404);
    till.send("DELETE", "rewards/a.png?version=2").await.file();
    assert_eq!(opens().await, [1, 3]);
    till.send("DELETE", "rewards/a.png").await.file();
    for path in ["rewards/a.png".to_owned(), format!("handles/{}", handle.as_str().expect("handle"))] {
        till.send("GET", &path).await.failed(404);
    }
    till.send("GET", "rewards/a.png/versions").await.failed(404);
    Answer::of(till.request("PUT", "rewards/a.png/acl").body("PUBLIC")).await.failed(404);
    till.send("DELETE", "rewards/a.png").await.failed(404);
    assert_eq!(opens().await, [0; 0]);

    assert_eq!(till.send("POST", "rewards/a.png/restore").await.file()["version"], 3);
    assert_eq!(opens().await, [1, 3], "what the last deletion took away, and no more");
    assert_eq!(till.send("POST", "rewards/a.png/restore?version=4").await.file()["latest_version"], 4);
    assert_eq!(till.send("POST", "rewards/a.png/restore").await.file()["version"], 4);
    assert_eq!(opens().await, [1, 2, 3, 4]);
    till.send("POST", "rewards/a.png/restore").await.failed(404);

    till.send("DELETE", "rewards/a.png").await.file();
    let next = till.upload("a.png", png(8, 8, 5)).await.file();
    assert_eq!((&next["version"], &next["latest_version"], &next["file_handle"]), (&json!(5), &json!(5), &handle));
    assert_eq!(till.send("GET", "rewards/a.png/versions").await.json()["versions"].as_array().expect("list").len(), 1);
}

#[tokio::test]
async fn after_the_undo_window_the_sweep_removes_the_bytes_and_the_name_keeps_its_number() {
    let app = TestApp::with(&[("sweep.undo_seconds", "1")]).await;
    let till = Machine::till(&app, "till01");
    let first = till.upload("a.png", png(8, 8, 1)).await;
    till.upload("a.png", png(8, 8, 2)).await.file();
    till.upload("b.png", png(8, 8, 3)).await.file();
    till.send("DELETE", "rewards/a.png").await.file();
    let sweep = async |mode| sweep::run(&app.service.app, mode, |_| {}).await.expect("sweeps");
    assert_eq!(sweep(Mode::Remove).await.versions, 0, "the window is open");
    till.send("POST", "rewards/a.png/restore").await.file();
    till.send("DELETE", "rewards/a.png").await.file();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    till.send("POST", "rewards/a.png/restore").await.failed(404);
    till.send("POST", "rewards/a.png/restore?version=1").await.failed(404);

    let (files, dry) = (app.stored().await.files.len(), sweep(Mode::DryRun).await);
    assert_eq!((dry.versions, dry.bytes), (2, (png(8, 8, 1).len() + png(8, 8, 2).len()) as u64));
    assert_eq!(app.stored().await.files.len(), files, "a dry run removes nothing");
    assert_eq!(sweep(Mode::Remove).await.versions, 2);
    let left = app.stored().await;
    assert_eq!((left.images, left.versions, left.files.len()), (2, 1, 1), "the name stays, and the other file");
    assert_eq!(open(&first.link()).await.status.as_u16(), 404);
    let again = till.upload("a.png", png(8, 8, 4)).await.file();
    assert_eq!((&again["version"], &again["file_handle"]), (&json!(3), &first.file()["file_handle"]));
}

/// What a restart finds is what was there, deleted versions and their undo window included.
#[tokio::test]
async fn names_versions_and_deletions_survive_a_restart() {
    let app = TestApp::start().await;
    let till = Machine::till(&app, "till01");
    till.upload("a.png", png(8, 8, 1)).await.file();
    let second = till.upload("a.png", png(8, 8, 2)).await.file();
    till.send("DELETE", "rewards/a.png?version=1").await.file();
    Answer::of(till.request("PUT", "rewards/a.png/acl").body("PUBLIC")).await.file();
    let app = app.restart(&[]).await;
    let till = Machine::till(&app, "till01");
    let mut expected = second.clone();
    expected["acl"] = json!("PUBLIC");
    assert_eq!(till.send("GET", "rewards/a.png").await.file(), expected);
    till.send("GET", "rewards/a.png?version=1").await.failed(404);
    till.send("POST", "rewards/a.png/restore?version=1").await.file();
    assert_eq!(till.upload("a.png", png(8, 8, 3)).await.file()["version"], 3);
}
