//! Renderings that are kept: a cache, of which nothing that is damaged is served, and nothing stays that belongs to nothing.

use std::path::PathBuf;

use imagewell_core::sweep::{self, Mode};

use crate::app::{Answer, TestApp};
use crate::fixtures::{photograph, png};

const NO_LOOKS: (&str, &str) = ("images.looks", "false");

/// The only rendering's file.
async fn rendering(app: &TestApp) -> PathBuf {
    let files = app.stored().await.files;
    let mut found = files.iter().filter(|file| file.to_string_lossy().contains("/variants/"));
    let rendering = found.next().expect("a rendering").clone();
    assert_eq!(found.next(), None);
    rendering
}

#[tokio::test]
async fn a_damaged_rendering_is_made_again() {
    let mut app = TestApp::with(&[NO_LOOKS]).await;
    let uuid = app.actor("ada").await.upload(photograph()).await.uuid();
    let path = format!("/i/{uuid}/w_60,f_png");
    let good = Answer::of(app.actor("ada").await.get(&path)).await.body;
    let file = rendering(&app).await;
    let whole = std::fs::read(&file).expect("reads");
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    let longer = [&whole[..], b"x"].concat();
    for (damage, bytes) in [
        ("emptied", vec![]),
        ("cut", whole[..500].to_vec()),
        ("cut at its end", good.clone()),
        ("flipped", flipped),
        ("longer", longer),
    ] {
        std::fs::write(&file, bytes).expect("writes");
        // Nothing is in memory then.
        app = app.restart(&[NO_LOOKS]).await;
        let answer = Answer::of(app.actor("ada").await.get(&path)).await;
        assert_eq!(answer.status.as_u16(), 200, "{damage}: {}", answer.text());
        assert!(answer.body == good, "{damage}");
        assert!(std::fs::read(&file).expect("reads") == whole, "{damage}: it is whole again");
    }
    if app.service.app.storage.is_bucket() {
        return;
    }
    // What can't be read is as good as absent.
    std::fs::remove_file(&file).expect("removes");
    std::fs::create_dir(&file).expect("makes");
    std::fs::write(file.join("in the way"), b"").expect("writes");
    app = app.restart(&[NO_LOOKS]).await;
    let answer = Answer::of(app.actor("ada").await.get(&path)).await;
    assert_eq!(answer.status.as_u16(), 200, "{}", answer.text());
    assert!(answer.body == good);
    assert_eq!(Answer::of(app.actor("ada").await.get("/readyz")).await.status.as_u16(), 200, "the disk is as good as before");
    std::fs::remove_dir_all(&file).expect("removes");
}

/// Earlier versions of imagewell stored no digest behind a rendering.
#[tokio::test]
async fn a_rendering_of_an_earlier_version_is_kept_if_it_is_whole() {
    let app = TestApp::with(&[NO_LOOKS]).await;
    let uuid = app.actor("ada").await.upload(photograph()).await.uuid();
    let path = format!("/i/{uuid}/w_60,f_png");
    assert_eq!(Answer::of(app.actor("ada").await.get(&path)).await.status.as_u16(), 200);
    let file = rendering(&app).await;
    // Told apart from one that was made again by its pixels.
    let old = png(100, 100, 7);
    assert_eq!(old.len(), png(100, 100, 7).len());
    std::fs::write(&file, &old).expect("writes");
    app.data().execute("UPDATE variants SET size_bytes = 100000").await;
    let app = app.restart(&[NO_LOOKS]).await;
    let made_again = Answer::of(app.actor("ada").await.get(&path)).await.body;
    assert!(made_again != old, "it is not as long as its row says");
    std::fs::write(&file, &old).expect("writes");
    let sql: &'static str = Box::leak(format!("UPDATE variants SET size_bytes = {}", old.len()).into_boxed_str());
    app.data().execute(sql).await;
    let app = app.restart(&[NO_LOOKS]).await;
    assert!(Answer::of(app.actor("ada").await.get(&path)).await.body == old);
    let sealed = std::fs::read(&file).expect("reads");
    assert!(sealed.len() > old.len() && sealed.starts_with(&old), "it has its digest now");
}

/// As after a crash in the middle of a removal.
#[tokio::test]
async fn renderings_of_a_version_that_is_gone_are_swept() {
    let app = TestApp::with(&[NO_LOOKS, ("sweep.grace_seconds", "0")]).await;
    let ada = app.actor("ada").await;
    let (gone, stays) = (ada.upload(photograph()).await.uuid(), ada.upload(png(50, 50, 1)).await.uuid());
    for path in [format!("/i/{gone}/w_30"), format!("/i/{gone}/w_31"), format!("/i/{stays}/w_30")] {
        assert_eq!(Answer::of(ada.get(&path)).await.status.as_u16(), 200);
    }
    app.data().execute("DELETE FROM versions WHERE width = 512").await;
    sweep::run(&app.service.app, Mode::Remove, |_| {}).await.expect("sweeps");
    rendering(&app).await;
    let (rows,): (i64,) = app.row("SELECT COUNT(*) FROM variants").await;
    assert_eq!(rows, 1);
    if !app.service.app.storage.is_bucket() {
        assert_eq!(std::fs::read_dir(app.blobs().join("variants")).expect("folder").count(), 1);
    }
}

#[tokio::test]
async fn no_empty_folder_of_renderings_stays() {
    let app = TestApp::with(&[NO_LOOKS, ("sweep.grace_seconds", "0"), crate::app::FOLDER]).await;
    let folders = || std::fs::read_dir(app.blobs().join("variants")).expect("folder").count();
    let ada = app.actor("ada").await;
    let uuid = ada.upload(photograph()).await.uuid();
    for path in [format!("/i/{uuid}/w_30"), format!("/i/{uuid}/w_31")] {
        assert_eq!(Answer::of(ada.get(&path)).await.status.as_u16(), 200);
    }
    assert_eq!(folders(), 1);
    let token = ada.csrf().await;
    let purge = ada.request("DELETE", &format!("/v1/images/{uuid}/variants")).header("x-csrf-token", token);
    assert_eq!(Answer::of(purge).await.json(), serde_json::json!({"removed": 2}));
    assert_eq!(folders(), 0);
    app.service.app.storage.probe().await.expect("it is fine");
    assert_eq!(folders(), 0, "trying the store leaves none");
    // Those that earlier versions of imagewell left.
    std::fs::create_dir(app.blobs().join("variants/0d5a2b1c-5f6e-4a3b-8c9d-0123456789ab")).expect("makes");
    sweep::run(&app.service.app, Mode::Remove, |_| {}).await.expect("sweeps");
    assert_eq!(folders(), 0);
    assert_eq!(Answer::of(ada.get(&format!("/i/{uuid}/w_30"))).await.status.as_u16(), 200, "and it is made again");
}
