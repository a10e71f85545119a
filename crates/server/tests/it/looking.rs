//! What images look like: made in the background, by turns of orgs, and tried again where something passing was in the way.

use crate::app::{Answer, Data, TestApp};
use crate::fixtures::{photograph, png, testdata};
use crate::native::problem;
use crate::records::{eventually, preset, variants};
use crate::workers::{counting_script, starts};

const OFF: (&str, &str) = ("images.looks", "false");
const AT_ONCE: (&str, &str) = ("images.look_pause_seconds", "0");

/// Versions that somebody has looked at, and those with something to see.
async fn looked(app: &TestApp) -> (i64, i64) {
    app.row("SELECT COUNT(looked_us), COUNT(look) FROM versions").await
}

#[tokio::test]
async fn bytes_that_can_not_be_read_for_a_while_are_looked_at_later() {
    let app = TestApp::with(&[OFF]).await;
    let clean = app.stored().await.files;
    app.actor("ada").await.upload(photograph()).await.uuid();
    let blob = app.stored().await.files.difference(&clean).next().expect("a blob").clone();
    let aside = app.data_dir().join("aside");
    std::fs::rename(&blob, &aside).expect("moves");
    let app = app.restart(&[("images.look_pause_seconds", "1")]).await;
    eventually(async || {
        let (tries,): (i64,) = app.row("SELECT look_tries FROM versions").await;
        (tries > 0).then_some(())
    })
    .await;
    assert_eq!(looked(&app).await, (0, 0), "that was no look");
    std::fs::rename(&aside, &blob).expect("moves");
    eventually(async || (looked(&app).await == (1, 1)).then_some(())).await;
}

#[tokio::test]
async fn a_picture_is_given_up_after_the_third_worker_that_died_over_it() {
    for end in ["SEGV", "KILL"] {
        let folder = tempfile::tempdir().expect("temporary folder");
        let program = counting_script(&folder, &format!("kill -{end} $$"));
        let app = TestApp::with_workers(Data::fresh(), &[AT_ONCE], program).await;
        app.actor("ada").await.upload(photograph()).await.uuid();
        eventually(async || (looked(&app).await == (1, 0)).then_some(())).await;
        assert_eq!(starts(&folder), 3, "{end}");
    }
}

#[tokio::test]
async fn prewarming_that_failed_for_a_passing_reason_is_made_up_for() {
    let folder = tempfile::tempdir().expect("temporary folder");
    // The first worker looks, the second one prewarms and is killed.
    let program = counting_script(&folder, "[ $(wc -l < $(dirname $0)/starts) = 2 ] && kill -KILL $$");
    let app = TestApp::with_workers(Data::fresh(), &[AT_ONCE], program).await;
    preset(&app, "card", "w_60,h_40,fit_cover,f_png", true).await;
    app.actor("ada").await.upload(photograph()).await.uuid();
    eventually(async || (looked(&app).await == (1, 1)).then_some(())).await;
    assert_eq!(variants(&app.stored().await.files), 1);
    let (tries, deaths): (i64, i64) = app.row("SELECT look_tries, look_deaths FROM versions").await;
    assert_eq!((tries, deaths), (1, 0), "the picture is not to blame");
}

#[tokio::test]
async fn orgs_take_turns() {
    let app = TestApp::with(&[OFF]).await;
    let (ada, eve) = (app.actor("ada").await, app.actor("eve").await);
    for salt in 0..5 {
        ada.upload(png(20, 20, salt)).await.uuid();
    }
    eve.upload(png(20, 20, 9)).await.uuid();
    let app = app.restart(&[]).await;
    eventually(async || (looked(&app).await == (6, 6)).then_some(())).await;
    let (before,): (i64,) = app
        .row(
            "SELECT COUNT(*) FROM versions v JOIN images i ON i.id = v.image_id WHERE i.org_id <> 2 AND v.looked_us < \
             (SELECT w.looked_us FROM versions w JOIN images o ON o.id = w.image_id WHERE o.org_id = 2)",
        )
        .await;
    assert_eq!(before, 1, "the oldest of each, then the next of each");
}

/// As after a move of many images, or a mass upload.
#[tokio::test]
async fn an_org_with_more_waiting_than_is_looked_through_at_once_holds_nobody_back() {
    let app = TestApp::with(&[OFF]).await;
    let (ada, eve) = (app.actor("ada").await, app.actor("eve").await);
    ada.upload(png(20, 20, 1)).await.uuid();
    // Older than all others, and without bytes: each of them is tried, and put off.
    let many = "WITH RECURSIVE many(n) AS (SELECT 1000 UNION ALL SELECT n + 1 FROM many WHERE n < 31000) \
        INSERT INTO versions (image_id, number, blob_key, size_bytes, digest, content_type, format, width, height, frames, orientation, \
        created_by, created_us) SELECT v.image_id, n, v.blob_key || '.' || n, v.size_bytes, v.digest, v.content_type, v.format, v.width, \
        v.height, v.frames, v.orientation, v.created_by, n FROM versions v, many";
    app.execute(&[many]).await;
    eve.upload(png(20, 20, 9)).await.uuid();
    let app = app.restart(&[("images.look_pause_seconds", "3600")]).await;
    eventually(async || (looked(&app).await.1 > 0).then_some(())).await;
    let (of_eve,): (i64,) = app
        .row("SELECT COUNT(*) FROM versions v JOIN images i ON i.id = v.image_id WHERE i.org_id = 2 AND v.look IS NOT NULL")
        .await;
    let (tried,): (i64,) = app.row("SELECT COUNT(*) FROM versions WHERE look_tries > 0").await;
    assert!(of_eve == 1 && tried < 1000, "of {tried} others that were tried");
}

/// HEIC is rendered, unless a setting says otherwise; what was stored while it was not is looked at once more.
#[tokio::test]
async fn a_format_that_has_got_a_decoder_is_looked_at_again() {
    let app = TestApp::with(&[("images.heic", "false")]).await;
    let ada = app.actor("ada").await;
    let uuid = ada.upload(testdata("heic/tiles.heic")).await.uuid();
    ada.upload(png(20, 20, 1)).await.uuid();
    eventually(async || (looked(&app).await == (2, 1)).then_some(())).await;
    let path = format!("/i/{uuid}/w_50");
    let refused = problem(&Answer::of(ada.get(&path)).await, 422);
    assert!(refused.contains("images.heic"), "{refused}");
    // As a database of before has it.
    app.execute(&["INSERT INTO formats_again (format) VALUES ('heic')"]).await;
    let app = app.restart(&[]).await;
    eventually(async || (looked(&app).await == (2, 2)).then_some(())).await;
    let (left,): (i64,) = app.row("SELECT COUNT(*) FROM formats_again").await;
    assert_eq!(left, 0);
    let ada = app.actor("ada").await;
    let shown = Answer::of(ada.get(&path)).await;
    assert_eq!((shown.status.as_u16(), shown.header("content-type")), (200, "image/jpeg"));
    let record = Answer::of(ada.get(&format!("/v1/images/{uuid}"))).await.json();
    assert!(record["versions"][0]["dominantColor"].is_string(), "{record}");
}
