//! What nothing points at goes, with a reason, after a grace period, and nothing else does.

use std::time::Duration;

use imagewell_core::sweep::{self, Finding, Mode};
use reqwest::StatusCode;

use crate::app::{Answer, Data, FOLDER, TestApp};
use crate::fixtures::png;

async fn findings(app: &TestApp, mode: Mode) -> (sweep::Summary, Vec<String>) {
    let mut lines = Vec::new();
    let summary = sweep::run(&app.service.app, mode, |finding| match finding {
        Finding::Orphan { key, .. } => lines.push(key.as_str().to_owned()),
        Finding::StrayVariant { key, .. } => lines.push(key.as_str().to_owned()),
        Finding::Deleted { key, .. } | Finding::BroughtBack { key } | Finding::Failed { key, .. } => {
            lines.push(key.as_str().to_owned());
        }
        Finding::Leftover { path, .. } => lines.push(path.display().to_string()),
        Finding::Expired { .. }
        | Finding::PastUndo { .. }
        | Finding::EndedSessions(_)
        | Finding::Progress(_)
        | Finding::ClockAhead(_)
        | Finding::Suspicious { .. }
        | Finding::Unfinished { .. } => {}
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
    assert_eq!((real.foreign, app.trash().len()), (1, 1), "what has no row is kept in the trash");
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
    assert_eq!(stopped.bytes, 0, "none of them is moved");
    assert_eq!(app.stored().await, before, "nothing is removed");
    assert!(!findings(&app, Mode::DryRun).await.0.stopped);
    let (confirmed, _) = findings(&app, Mode::RemoveConfirmed).await;
    assert!(!confirmed.stopped && confirmed.orphans == 40, "{confirmed:?}");
    assert_eq!(confirmed.bytes, 40 * "another one's".len() as u64);
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

/// Makes what is in the trash as old as if it had been put there at another time.
fn age_trash(app: &TestApp, seconds: i64) {
    let trash = app.blobs().join(".trash");
    for entry in std::fs::read_dir(&trash).expect("a trash").flatten() {
        let since: i64 = entry.file_name().to_string_lossy().parse().expect("seconds");
        std::fs::rename(entry.path(), trash.join((since - seconds).to_string())).expect("renames");
    }
}

#[tokio::test]
async fn what_is_in_the_trash_comes_back_with_its_row_and_goes_when_its_time_is_over() {
    const OTHER_KEY: &str = "UPDATE versions SET blob_key = blob_key || '.other' WHERE number = 1";
    const ITS_KEY: &str = "UPDATE versions SET blob_key = REPLACE(blob_key, '.other', '')";
    let app = TestApp::with(&[("sweep.grace_seconds", "0"), ("sweep.trash_seconds", "7200")]).await;
    let ada = app.actor("ada").await;
    let uuid = ada.upload(png(8, 8, 1)).await.uuid();
    let folder = app.blobs().join("opsportal-images/100606");
    std::fs::copy(app.stored().await.files.first().expect("a blob"), folder.join("0d5a2b1c-5f6e-4a3b-8c9d-0123456789ab.png"))
        .expect("copies");
    let before = app.stored().await;
    // As a row that an older database lacks, or that was committed when a sweep had taken its blob.
    app.data().execute(OTHER_KEY).await;
    let (trashed, _) = findings(&app, Mode::RemoveConfirmed).await;
    assert_eq!((trashed.orphans, trashed.deleted, app.trash().len()), (2, 0, 2));
    assert!(app.stored().await.files.is_empty());
    app.data().execute(ITS_KEY).await;
    let (dry, _) = findings(&app, Mode::DryRun).await;
    assert_eq!((dry.brought_back, app.trash().len()), (1, 2));
    let (swept, lines) = findings(&app, Mode::Remove).await;
    assert_eq!((swept.brought_back, swept.deleted, lines.len()), (1, 0, 1), "{lines:?}");
    assert_eq!(ada.read(&uuid).await.body, png(8, 8, 1));
    assert_eq!((app.stored().await.files.len(), app.trash().len()), (before.files.len() - 1, 1));

    // The other one, before and after its time; and one whose row comes back after that.
    app.data().execute(OTHER_KEY).await;
    findings(&app, Mode::RemoveConfirmed).await;
    age_trash(&app, 7000);
    assert_eq!(findings(&app, Mode::Remove).await.0.deleted, 0);
    app.data().execute(ITS_KEY).await;
    age_trash(&app, 300);
    let (dry, _) = findings(&app, Mode::DryRun).await;
    assert_eq!((dry.brought_back, dry.deleted, app.trash().len()), (1, 1, 2));
    assert_eq!(app.service.app.restore_trash(|_| {}).await.expect("brings back"), (1, 1));
    let (swept, _) = findings(&app, Mode::Remove).await;
    assert_eq!((swept.brought_back, swept.deleted, app.trash().len()), (0, 1, 0));
    assert_eq!(ada.read(&uuid).await.body, png(8, 8, 1));
}

#[tokio::test]
async fn while_a_sweep_is_stopped_nothing_goes_from_the_trash_for_good() {
    let app = TestApp::with(&[("sweep.grace_seconds", "0"), ("sweep.trash_seconds", "7200")]).await;
    let folder = app.blobs().join("opsportal-images/1");
    std::fs::create_dir_all(&folder).expect("makes");
    for number in 1..=2 {
        std::fs::write(folder.join(format!("0d5a2b1c-5f6e-4a3b-8c9d-01234567890{number}.png")), b"orphan").expect("writes");
        let mode = if number == 1 { Mode::RemoveConfirmed } else { Mode::Remove };
        let (swept, _) = findings(&app, mode).await;
        assert_eq!((swept.stopped, swept.deleted, app.trash().len()), (number == 2, 0, 1));
        age_trash(&app, 8000);
    }
    let told = Answer::of(app.visitor().get("/readyz")).await;
    assert!(told.status == StatusCode::OK && told.text().contains("too many blobs have no row"), "{}", told.text());
    assert_eq!(findings(&app, Mode::RemoveConfirmed).await.0.deleted, 1);
    assert_eq!(Answer::of(app.visitor().get("/readyz")).await.text(), "ready\n");
}

/// A blob that can't be moved ends neither the sweep nor, sweep after sweep, everything behind it.
#[tokio::test]
async fn what_the_store_refuses_to_move_is_counted_and_the_rest_goes_on() {
    let app = TestApp::with(&[FOLDER, ("sweep.grace_seconds", "0"), ("sessions.absolute_seconds", "1")]).await;
    let ada = app.actor("ada").await;
    let uuid = ada.upload(png(8, 8, 1)).await.uuid();
    let orphan = app.blobs().join("opsportal-images/100606/0d5a2b1c-5f6e-4a3b-8c9d-0123456789ab.png");
    std::fs::write(&orphan, b"orphan").expect("writes");
    // Where the folder should be.
    std::fs::write(app.blobs().join(".trash"), b"in the way").expect("writes");
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let (swept, _) = findings(&app, Mode::Remove).await;
    assert_eq!((swept.failed, swept.orphans, swept.sessions), (1, 0, 1), "{swept:?}");
    assert!(orphan.exists());
    std::fs::remove_file(app.blobs().join(".trash")).expect("removes");
    assert_eq!(findings(&app, Mode::Remove).await.0.orphans, 1);
    assert_eq!(app.actor("ada").await.read(&uuid).await.status, StatusCode::OK);
}

/// Every node asks each minute, and the one that has swept is not to sweep again before the others may.
#[tokio::test]
async fn a_node_that_has_swept_waits_for_the_interval_as_the_others_do() {
    let first = TestApp::on(Data::outgrown(), &[]).await;
    let second = first.another_node(&[]).await;
    let mut swept = Vec::new();
    for app in [&first, &first, &second, &first] {
        swept.push(sweep::run_if_due(&app.service.app).await.expect("asks"));
    }
    assert_eq!(swept, [true, false, false, false]);
    first.data().execute("UPDATE leases SET expires_us = 0 WHERE name = 'sweep'").await;
    assert!(sweep::run_if_due(&second.service.app).await.expect("asks"));
}

#[tokio::test]
async fn two_sweeps_of_one_process_do_not_overlap() {
    let app = TestApp::start().await;
    let (one, other) = tokio::join!(sweep::run_if_due(&app.service.app), sweep::run_if_due(&app.service.app));
    let (one, other) = (one.expect("asks"), other.expect("asks"));
    assert!(one != other, "{one} and {other}");
}
