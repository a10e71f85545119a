//! What nothing points at goes, with a reason, after a grace period, and nothing else does.

use std::time::Duration;

use imagewell_core::sweep::{self, Finding, Mode};
use reqwest::StatusCode;

use crate::app::{Answer, TestApp};
use crate::fixtures::png;

async fn findings(app: &TestApp, mode: Mode) -> (sweep::Summary, Vec<String>) {
    let mut lines = Vec::new();
    let summary = sweep::run(&app.service.app, mode, |finding| match finding {
        Finding::Orphan { key, .. } => lines.push(key.as_str().to_owned()),
        Finding::StrayVariant { key, .. } => lines.push(key.as_str().to_owned()),
        Finding::Leftover { path, .. } => lines.push(path.display().to_string()),
        Finding::Expired { .. }
        | Finding::PastUndo { .. }
        | Finding::EndedSessions(_)
        | Finding::Progress(_)
        | Finding::Suspicious { .. } => {}
    })
    .await
    .expect("sweeps");
    (summary, lines)
}

#[tokio::test]
async fn orphans_and_leftovers_go_and_images_stay() {
    let app = TestApp::with(&[("sweep.grace_seconds", "1")]).await;
    let ada = app.actor("ada").await;
    let uuid = ada.upload(png(8, 8, 1)).await.uuid();
    let rendered = Answer::of(ada.get(&format!("/i/{uuid}/w_4"))).await;
    assert_eq!(rendered.status, StatusCode::OK);
    let folder = app.blobs().join("opsportal-images/100606");
    // What others put beside ours is not ours to remove, however old.
    std::fs::write(folder.join("notes.png"), b"foreign").expect("writes");
    std::fs::write(app.data_dir().join("spool/notes"), b"foreign").expect("writes");
    let clean = app.stored().await;
    std::fs::write(folder.join("0d5a2b1c-5f6e-4a3b-8c9d-0123456789ab.png"), b"orphan").expect("writes");
    // In a bucket nothing is staged.
    let staged = !app.service.app.storage.is_bucket();
    if staged {
        std::fs::write(folder.join("0d5a2b1c-5f6e-4a3b-8c9d-0123456789ac.png#1"), b"staging").expect("writes");
    }
    std::fs::write(app.data_dir().join("spool/.tmpX"), b"spool").expect("writes");
    let stray = app.blobs().join("variants/0d5a2b1c-5f6e-4a3b-8c9d-0123456789ab");
    std::fs::create_dir_all(&stray).expect("makes");
    std::fs::write(stray.join("inside-4x4_png"), b"rendering").expect("writes");
    let (young, _) = findings(&app, Mode::Remove).await;
    assert_eq!((young.orphans, young.leftovers, young.variants), (0, 0, 0), "the grace period holds");
    tokio::time::sleep(Duration::from_millis(1200)).await;

    let (dry, lines) = findings(&app, Mode::DryRun).await;
    let expected = if staged { (1, 2, 1, 4) } else { (1, 1, 1, 3) };
    assert_eq!((dry.orphans, dry.leftovers, dry.variants, lines.len()), expected, "{lines:?}");
    assert_eq!(dry.bytes, 6 + 5 + 9 + if staged { 7 } else { 0 });
    assert_eq!(app.stored().await.files.len(), clean.files.len() + lines.len(), "a dry run removes nothing");

    let (real, _) = findings(&app, Mode::Remove).await;
    assert_eq!(real, dry);
    assert_eq!(app.stored().await, clean);
    assert_eq!(ada.read(&uuid).await.status, StatusCode::OK);
    assert_eq!(findings(&app, Mode::Remove).await.0.orphans, 0, "a second sweep finds nothing");
}

#[tokio::test]
async fn ended_sessions_go() {
    let app = TestApp::with(&[("sessions.absolute_seconds", "1")]).await;
    app.actor("ada").await;
    assert_eq!(findings(&app, Mode::DryRun).await.0.sessions, 0);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(findings(&app, Mode::DryRun).await.0.sessions, 1);
    assert_eq!(findings(&app, Mode::Remove).await.0.sessions, 1);
    assert_eq!(findings(&app, Mode::Remove).await.0.sessions, 0);
}

#[tokio::test]
async fn the_background_sweep_runs_by_itself() {
    let app = TestApp::with(&[("sweep.grace_seconds", "0"), ("sweep.interval_seconds", "1")]).await;
    app.actor("ada").await.upload(png(8, 8, 1)).await.uuid();
    let folder = app.blobs().join("opsportal-images/1");
    std::fs::create_dir_all(&folder).expect("makes");
    let orphan = folder.join("0d5a2b1c-5f6e-4a3b-8c9d-0123456789ab.png");
    std::fs::write(&orphan, b"orphan").expect("writes");
    for _ in 0..50 {
        if !orphan.exists() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the orphan is still there");
}

/// An empty database, or another one's, makes orphans of all that the store holds.
#[tokio::test]
async fn a_database_that_has_no_row_for_any_blob_removes_none_until_that_is_confirmed() {
    let app = TestApp::with(&[("sweep.grace_seconds", "0")]).await;
    let folder = app.blobs().join("opsportal-images/100606");
    std::fs::create_dir_all(&folder).expect("makes");
    for number in 0..40 {
        std::fs::write(folder.join(format!("0d5a2b1c-5f6e-4a3b-8c9d-0123456789{number:02}.png")), b"another one's")
            .expect("writes");
    }
    let before = app.stored().await;
    let (stopped, _) = findings(&app, Mode::Remove).await;
    assert!(stopped.stopped && stopped.orphans == 40, "{stopped:?}");
    assert_eq!(app.stored().await, before, "nothing is removed");
    assert!(!findings(&app, Mode::DryRun).await.0.stopped);
    let (confirmed, _) = findings(&app, Mode::RemoveConfirmed).await;
    assert!(!confirmed.stopped && confirmed.orphans == 40, "{confirmed:?}");
    assert_eq!(app.stored().await.files.len(), before.files.len() - 40);
}

#[tokio::test]
async fn more_orphans_than_the_share_are_left_alone_and_as_many_go() {
    let limits = [("sweep.grace_seconds", "0"), ("sweep.orphans_always", "2"), ("sweep.orphans_percent_max", "50")];
    let app = TestApp::with(&limits).await;
    let ada = app.actor("ada").await;
    for number in 0..3 {
        ada.upload(png(8, 8, number)).await.uuid();
    }
    let clean = app.stored().await;
    let folder = app.blobs().join("opsportal-images/100606");
    let orphans = |count: u8| {
        for number in 0..count {
            std::fs::write(folder.join(format!("0d5a2b1c-5f6e-4a3b-8c9d-0123456789{number:02}.png")), b"orphan").expect("writes");
        }
    };
    orphans(4);
    let (stopped, _) = findings(&app, Mode::Remove).await;
    assert!(stopped.stopped && stopped.orphans == 4, "four of seven are more than half: {stopped:?}");
    assert_eq!(app.stored().await.files.len(), clean.files.len() + 4);
    std::fs::remove_file(folder.join("0d5a2b1c-5f6e-4a3b-8c9d-012345678903.png")).expect("removes");
    let (swept, _) = findings(&app, Mode::Remove).await;
    assert!(!swept.stopped && swept.orphans == 3, "three of six are half: {swept:?}");
    assert_eq!(app.stored().await, clean);
}

#[tokio::test]
async fn nothing_is_swept_before_the_first_interval_has_passed() {
    let app = TestApp::with(&[("sweep.grace_seconds", "0"), ("sweep.interval_seconds", "3600")]).await;
    app.actor("ada").await.upload(png(8, 8, 1)).await.uuid();
    let folder = app.blobs().join("opsportal-images/1");
    std::fs::create_dir_all(&folder).expect("makes");
    let orphan = folder.join("0d5a2b1c-5f6e-4a3b-8c9d-0123456789ab.png");
    std::fs::write(&orphan, b"orphan").expect("writes");
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert!(orphan.exists(), "a start sweeps nothing");
}
