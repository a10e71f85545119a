//! Records of images, focal points, signed transforms, kept renderings and their bounds.

use std::time::Duration;

use imagewell::signed::{org_secret, sign};
use imagewell_core::model::{KeyPurpose, OrgId, Preset};
use imagewell_core::provision::{self, PresetPlan};
use reqwest::Client;
use serde_json::Value;

use crate::app::{Actor, Answer, TestApp};
use crate::dropbox::{BLUE, GREEN, RED, alike, seen, stripes};
use crate::file_service::{FileAnswer as _, Machine};
use crate::fixtures::{photograph, png, png_claiming};
use crate::native::{basic, handle, problem, show};

pub async fn preset(app: &TestApp, name: &str, steps: &str, prewarm: bool) {
    let preset = PresetPlan { org: "acme".into(), preset: Preset { name: name.into(), steps: steps.into(), prewarm } };
    let plan = provision::Plan { presets: vec![preset], ..provision::Plan::default() };
    provision::apply(&app.service.app, plan).await.expect("applies");
}

async fn record(actor: &Actor, uuid: &str) -> Value {
    let answer = Answer::of(actor.get(&format!("/v1/images/{uuid}"))).await;
    assert_eq!(answer.status.as_u16(), 200, "{}", answer.text());
    answer.json()
}

/// Asks until it is so, for what is made in the background.
pub async fn eventually<T>(mut look: impl AsyncFnMut() -> Option<T>) -> T {
    for _ in 0..400 {
        if let Some(found) = look().await {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("it never came to that");
}

pub fn variants(files: &std::collections::BTreeSet<std::path::PathBuf>) -> usize {
    // One with a # in its name is still being written.
    let is_whole = |file: &std::path::Path| !file.file_name().is_some_and(|name| name.to_string_lossy().contains('#'));
    files.iter().filter(|file| file.to_string_lossy().contains("/variants/") && is_whole(file)).count()
}

#[tokio::test]
async fn a_record_tells_what_is_known_and_soon_what_it_looks_like() {
    let app = TestApp::start().await;
    preset(&app, "card", "w_60,h_40,fit_cover", false).await;
    let (ada, bob, eve) = (app.actor("ada").await, app.actor("bob").await, app.actor("eve").await);
    let uuid = ada.upload(photograph()).await.uuid();
    let looked = eventually(async || {
        let record = record(&ada, &uuid).await;
        (!record["versions"][0]["thumbhash"].is_null()).then_some(record)
    })
    .await;
    let version = &looked["versions"][0];
    assert_eq!((&looked["id"], &looked["version"], &version["number"]), (&uuid.as_str().into(), &1.into(), &1.into()));
    assert_eq!(
        (&version["width"], &version["height"], &version["contentType"]),
        (&512.into(), &512.into(), &"image/jpeg".into())
    );
    assert_eq!(version["sizeBytes"], photograph().len());
    assert!(version["dominantColor"].as_str().expect("colour").starts_with('#'));
    assert!(looked["created"].as_str().expect("time").ends_with('Z'));
    assert_eq!(looked["urls"]["original"], format!("/i/{uuid}@1/original"));
    let card = looked["urls"]["presets"]["card"].as_str().expect("address");
    assert_eq!(seen(&Answer::of(ada.get(card)).await, 0, 0).0, 60);
    let path = format!("/v1/images/{uuid}");
    problem(&Answer::of(bob.get(&path)).await, 403);
    problem(&Answer::of(eve.get(&path)).await, 404);
    problem(&show(&app, None, &path).await, 401);
    problem(&show(&app, None, "/v1/images/nonsense").await, 401);
    problem(&Answer::of(ada.get("/v1/images/73e78929-1e07-4cc5-a738-b54470a7dc8c")).await, 404);
}

#[tokio::test]
async fn what_can_not_be_decoded_is_looked_at_once_and_left() {
    let app = TestApp::start().await;
    let ada = app.actor("ada").await;
    let (broken, good) = (ada.upload(png_claiming(300, 300)).await.uuid(), ada.upload(photograph()).await.uuid());
    eventually(async || (!record(&ada, &good).await["versions"][0]["thumbhash"].is_null()).then_some(())).await;
    let record = record(&ada, &broken).await;
    assert!(record["versions"][0]["thumbhash"].is_null() && record["versions"][0]["dominantColor"].is_null());
    let (left,): (i64,) = app.row("SELECT COUNT(*) FROM versions WHERE looked_us IS NULL").await;
    assert_eq!(left, 0, "nobody looks again and again");
}

/// What an upload left undone is done by the next process.
#[tokio::test]
async fn presets_are_prewarmed_also_after_a_restart() {
    let app = TestApp::with(&[("images.looks", "false")]).await;
    preset(&app, "card", "w_60,h_40,fit_cover", true).await;
    preset(&app, "rare", "w_61", false).await;
    let uuid = app.actor("ada").await.upload(photograph()).await.uuid();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(variants(&app.stored().await.files), 0);
    let app = app.restart(&[("images.looks", "true")]).await;
    let stored = eventually(async || Some(app.stored().await).filter(|stored| variants(&stored.files) == 2)).await;
    let ada = app.actor("ada").await;
    for accept in ["image/webp,*/*", "*/*"] {
        let shown = Answer::of(ada.get(&format!("/i/{uuid}/p_card")).header("accept", accept)).await;
        assert_eq!(shown.status.as_u16(), 200);
    }
    assert_eq!(app.stored().await, stored, "both were there");
}

/// A preset of one side is made under the name under which it is asked for, whatever the bound on the other side.
#[tokio::test]
async fn what_is_prewarmed_is_what_is_asked_for() {
    let app = TestApp::start().await;
    preset(&app, "card", "w_60", true).await;
    preset(&app, "tall", "h_50", true).await;
    let uuid = app.actor("ada").await.upload(photograph()).await.uuid();
    let stored = eventually(async || Some(app.stored().await).filter(|stored| variants(&stored.files) == 4)).await;
    let app = app.restart(&[("images.transform_side_px_max", "2000")]).await;
    let ada = app.actor("ada").await;
    for path in ["p_card", "p_tall", "w_60", "h_50"] {
        for accept in ["image/webp,*/*", "*/*"] {
            let shown = Answer::of(ada.get(&format!("/i/{uuid}/{path}")).header("accept", accept)).await;
            assert_eq!(shown.status.as_u16(), 200, "{path}");
        }
    }
    assert_eq!(app.stored().await, stored, "all were there");
}

/// What is shown changes with the focal point, and no date says so.
#[tokio::test]
async fn a_date_never_keeps_a_rendering_that_has_changed() {
    let app = TestApp::start().await;
    let ada = app.actor("ada").await;
    let uuid = ada.upload(stripes(300, 150)).await.uuid();
    let path = format!("/i/{uuid}/w_40,h_40,fit_cover,f_png");
    let first = Answer::of(ada.get(&path)).await;
    assert!(alike(seen(&first, 20, 20).2, GREEN));
    assert_eq!(first.header("last-modified"), "");
    let date = first.header("date").to_owned();
    let token = ada.csrf().await;
    let focus = ada.request("PUT", &format!("/v1/images/{uuid}/focus")).header("x-csrf-token", token);
    let put = focus.header("content-type", "application/json").body(r#"{"x":0.95,"y":0.5}"#);
    assert_eq!(Answer::of(put).await.status.as_u16(), 204);
    let later = Answer::of(ada.get(&path).header("if-modified-since", &date)).await;
    assert_eq!(later.status.as_u16(), 200);
    assert!(alike(seen(&later, 20, 20).2, BLUE));
    let joined = Answer::of(ada.get(&path).header("range", "bytes=0-9").header("if-range", &date)).await;
    assert_eq!(joined.status.as_u16(), 200, "parts of two renderings make no picture");
    let same = Answer::of(ada.get(&path).header("if-none-match", later.header("etag"))).await;
    assert_eq!(same.status.as_u16(), 304);
}

/// WebP ends at 16383 pixels a side.
#[tokio::test]
async fn a_picture_too_long_for_a_format_comes_in_another_one() {
    let app = TestApp::start().await;
    let ada = app.actor("ada").await;
    let uuid = ada.upload(png(2, 16_384, 1)).await.uuid();
    let get = async |steps: &str| {
        let accept = "image/avif,image/webp,image/*,*/*;q=0.8";
        Answer::of(ada.get(&format!("/i/{uuid}/{steps}")).header("accept", accept)).await
    };
    for (steps, kind) in [("original,sharpen_1", "image/jpeg"), ("w_1", "image/webp"), ("original,f_png", "image/png")] {
        let shown = get(steps).await;
        assert_eq!((shown.status.as_u16(), shown.header("content-type")), (200, kind), "{steps}");
    }
    let before = app.stored().await;
    let reason = problem(&get("original,f_webp").await, 400);
    assert!(reason.contains("16383") && reason.contains("2×16384"), "{reason}");
    assert_eq!(app.stored().await, before);
}

#[tokio::test]
async fn a_focal_point_is_kept_in_view_unless_another_gravity_is_asked_for() {
    let app = TestApp::start().await;
    let (ada, bob) = (app.actor("ada").await, app.actor("bob").await);
    // Red, green and blue from left to right.
    let uuid = ada.upload(stripes(300, 100)).await.uuid();
    let colour = async |steps: &str| seen(&Answer::of(ada.get(&format!("/i/{uuid}/{steps}"))).await, 20, 20).2;
    let square = "w_40,h_40,fit_cover";
    assert!(alike(colour(square).await, GREEN));
    let path = format!("/v1/images/{uuid}/focus");
    let put = async |actor: &Actor, body: &str| {
        let token = actor.csrf().await;
        let request = actor.request("PUT", &path).header("x-csrf-token", token).header("content-type", "application/json");
        Answer::of(request.body(body.to_owned())).await
    };
    assert_eq!(put(&ada, r#"{"x":0.95,"y":0.5}"#).await.status.as_u16(), 204);
    assert!(alike(colour(square).await, BLUE), "at once");
    assert!(alike(colour("w_40,h_40,fit_cover,g_center").await, GREEN));
    assert!(alike(colour("w_40,h_40,fit_cover,g_west").await, RED));
    assert!(alike(colour("w_40,h_40,fit_cover,g_0.1-0.5").await, RED));
    assert_eq!(record(&ada, &uuid).await["focus"], serde_json::json!({"x": 0.95, "y": 0.5}));
    for (body, status) in [("{}", 400), ("{\"x\":1.1,\"y\":0}", 400), ("{\"x\":1,\"y\":0,\"z\":1}", 400), ("no", 400)] {
        problem(&put(&ada, body).await, status);
    }
    problem(&put(&ada, &" ".repeat(2000)).await, 413);
    problem(&put(&bob, r#"{"x":0,"y":0}"#).await, 403);
    problem(&Answer::of(ada.request("PUT", &path).body(r#"{"x":0,"y":0}"#)).await, 403);
    problem(&Answer::of(Client::new().put(app.url(&path)).body("{}")).await, 401);
    assert_eq!(record(&ada, &uuid).await["focus"], serde_json::json!({"x": 0.95, "y": 0.5}), "nothing of that counted");
    let token = ada.csrf().await;
    assert_eq!(Answer::of(ada.request("DELETE", &path).header("x-csrf-token", token)).await.status.as_u16(), 204);
    assert!(alike(colour(square).await, GREEN));
}

#[tokio::test]
async fn a_signature_lets_strangers_have_a_transform_and_with_an_end_a_private_image() {
    let app = TestApp::start().await;
    let till = Machine::till(&app, "till01");
    let id = handle(&till, "a.png", stripes(300, 150)).await;
    let key = app.service.app.keys.current(KeyPurpose::Transforms).expect("key");
    let secret = org_secret(&key, OrgId(100_606));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("time").as_secs();
    let path = format!("/i/{id}/w_50");
    let signed = format!("{path}?sig={}", sign(&secret, &path));
    let until = |seconds: u64| format!("{path}?exp={seconds}&sig={}", sign(&secret, &format!("{path}?exp={seconds}")));

    // A private image: without an end a signature is no right to look.
    problem(&show(&app, None, &signed).await, 401);
    let linked = show(&app, None, &until(now + 60)).await;
    assert_eq!((seen(&linked, 0, 0).0, linked.header("cache-control")), (50, "private, no-cache"));
    let named = until(now + 60).replace("/w_50?", "/w_50/photo.jpg?");
    assert_eq!(seen(&show(&app, None, &named).await, 0, 0).0, 50);
    Answer::of(till.request("PUT", "rewards/a.png/acl").body("PUBLIC")).await.file();
    let before = app.stored().await;
    let good = sign(&secret, &path);
    let foreign = org_secret(&key, OrgId(2));
    for wrong in [
        path.clone(),
        format!("/i/{id}/w_51?sig={good}"),
        format!("/i/{id}@1/w_50?sig={good}"),
        format!("{path}?sig={}", sign(&foreign, &path)),
        format!("{path}?sig={}", &good[..good.len() - 3]),
        format!("{path}?exp={}&sig={good}", now + 60),
        until(now - 1),
        until(now + 8 * 24 * 3600),
    ] {
        problem(&show(&app, None, &wrong).await, 403);
    }
    for malformed in [format!("{path}?sig=%21"), format!("{path}?sig={good}&sig={good}"), format!("{path}?sig={good}&exp=x")] {
        problem(&show(&app, None, &malformed).await, 400);
    }
    assert_eq!(app.stored().await, before);
    assert_eq!(seen(&show(&app, None, &signed).await, 0, 0).0, 50);
    // A new key ends what the old one signed, if that is wanted.
    app.service.app.keys.rotate(KeyPurpose::Transforms, false).await.expect("rotates");
    assert_eq!(seen(&show(&app, None, &signed).await, 0, 0).0, 50);
    app.service.app.keys.rotate(KeyPurpose::Transforms, true).await.expect("rotates");
    problem(&show(&app, None, &signed).await, 403);
}

#[tokio::test]
async fn addresses_of_versions_are_for_ever_where_nothing_else_can_change_them() {
    let app = TestApp::start().await;
    preset(&app, "card", "w_60,h_40,fit_cover", false).await;
    preset(&app, "wide", "w_60", false).await;
    let till = Machine::till(&app, "till01");
    let id = handle(&till, "a.png", stripes(300, 150)).await;
    Answer::of(till.request("PUT", "rewards/a.png/acl").body("PUBLIC")).await.file();
    let caching = async |path: &str| show(&app, Some(basic("reader")), path).await.header("cache-control").to_owned();
    let (for_ever, short) = ("public, max-age=31536000, immutable", "public, max-age=2, stale-while-revalidate=3");
    let record = show(&app, Some(basic("reader")), &format!("/v1/images/{id}")).await.json();
    let card = record["urls"]["presets"]["card"].as_str().expect("address").to_owned();
    for (path, expected) in [
        (card.clone(), for_ever),
        (format!("/i/{id}@1/original"), for_ever),
        (format!("/i/{id}@1/w_70"), for_ever),
        (format!("/i/{id}@1/w_70,h_70,fit_cover,g_north"), for_ever),
        (format!("/i/{id}@1/w_70,h_70,fit_cover"), short),
        (format!("/i/{id}@1/p_wide"), short),
        (format!("/i/{id}/original"), short),
        (format!("/i/{id}/w_70"), short),
        (card.replace("@1", ""), short),
        (card.replace("?v=", "?v=0"), short),
    ] {
        assert_eq!(caching(&path).await, expected, "{path}");
    }
    // What a preset stands for changes: the old address still works, but is no promise any more.
    preset(&app, "card", "w_30", false).await;
    assert_eq!(caching(&card).await, short);
    // A private image is nobody's to keep, and a deleted one is gone from every address.
    Answer::of(till.request("PUT", "rewards/a.png/acl").body("PRIVATE")).await.file();
    assert_eq!(caching(&format!("/i/{id}@1/w_70")).await, "private, no-cache");
    till.send("DELETE", "rewards/a.png").await.file();
    for path in [card, format!("/i/{id}@1/w_70"), format!("/i/{id}/original"), format!("/v1/images/{id}")] {
        problem(&show(&app, Some(basic("reader")), &path).await, 404);
    }
}

#[tokio::test]
async fn purging_removes_renderings_and_nothing_else() {
    let app = TestApp::start().await;
    let (ada, bob) = (app.actor("ada").await, app.actor("bob").await);
    let (one, other) = (ada.upload(stripes(300, 150)).await.uuid(), ada.upload(stripes(200, 150)).await.uuid());
    for path in [format!("/i/{one}/w_50"), format!("/i/{one}/w_51"), format!("/i/{other}/w_50")] {
        assert_eq!(Answer::of(ada.get(&path)).await.status.as_u16(), 200);
    }
    let purge = format!("/v1/images/{one}/variants");
    problem(&Answer::of(ada.request("DELETE", &purge)).await, 403);
    let token = bob.csrf().await;
    problem(&Answer::of(bob.request("DELETE", &purge).header("x-csrf-token", token)).await, 403);
    assert_eq!(variants(&app.stored().await.files), 3);
    let token = ada.csrf().await;
    let purged = Answer::of(ada.request("DELETE", &purge).header("x-csrf-token", token)).await;
    assert_eq!(purged.json(), serde_json::json!({"removed": 2}));
    assert_eq!(variants(&app.stored().await.files), 1);
    assert_eq!(Answer::of(ada.get(&format!("/i/{one}/w_50"))).await.status.as_u16(), 200, "made again");
}

/// Those used longest ago go; what is asked for all the time stays.
#[tokio::test]
async fn kept_renderings_are_bounded_in_bytes() {
    let app = TestApp::with(&[("cache.variant_bytes_max", "60000"), ("images.looks", "false")]).await;
    let ada = app.actor("ada").await;
    let uuid = ada.upload(photograph()).await.uuid();
    let get = async |width: u32| {
        let answer = Answer::of(ada.get(&format!("/i/{uuid}/w_{width},f_png"))).await;
        assert_eq!(answer.status.as_u16(), 200);
        answer.body.len()
    };
    let favourite = "width-60_";
    let mut made = 0;
    for width in 60..76 {
        made += get(width).await;
        get(60).await;
    }
    assert!(made > 120_000, "{made}");
    let kept = async || {
        let files = app.stored().await.files;
        let kept = files.iter().filter(|file| file.to_string_lossy().contains("/variants/"));
        kept.map(|file| (file.to_string_lossy().into_owned(), file.metadata().map_or(0, |meta| meta.len()))).collect::<Vec<_>>()
    };
    let kept = eventually(async || {
        get(60).await;
        Some(kept().await).filter(|kept| kept.iter().map(|(_, len)| len).sum::<u64>() <= 60_000)
    })
    .await;
    assert!(!kept.is_empty() && kept.iter().any(|(name, _)| name.contains(favourite)), "{kept:?}");
}

#[tokio::test]
async fn an_animation_is_shown_as_one_unless_it_is_to_stand_still() {
    let app = TestApp::start().await;
    let ada = app.actor("ada").await;
    let uuid = ada.upload(crate::fixtures::testdata("formats/animated.webp")).await.uuid();
    let frames = async |steps: &str, accept: &str| {
        let answer = Answer::of(ada.get(&format!("/i/{uuid}/{steps}")).header("accept", accept)).await;
        let facts = imagewell_imaging::inspect(std::io::Cursor::new(&answer.body), &imagewell_imaging::Limits::default());
        (answer.header("content-type").to_owned(), facts.expect("image").frames > 1)
    };
    assert_eq!(frames("w_40", "image/webp,*/*").await, ("image/webp".into(), true));
    assert_eq!(frames("w_40", "*/*").await, ("image/gif".into(), true));
    assert_eq!(frames("w_40,still", "image/webp,*/*").await, ("image/webp".into(), false));
    assert_eq!(frames("w_40,f_png", "*/*").await, ("image/png".into(), false));
}

#[tokio::test]
async fn a_rendering_that_would_be_too_large_is_refused_with_the_limit() {
    let app = TestApp::with(&[("images.transform_pixels_max", "10000")]).await;
    let ada = app.actor("ada").await;
    let uuid = ada.upload(stripes(300, 150)).await.uuid();
    let before = app.stored().await;
    let refused = Answer::of(ada.get(&format!("/i/{uuid}/w_101,h_100,fit_cover"))).await;
    assert!(problem(&refused, 422).contains("10100 pixels as a rendering, at most 10000"), "{}", refused.text());
    assert_eq!(app.stored().await, before);
    assert_eq!(Answer::of(ada.get(&format!("/i/{uuid}/w_100,h_100,fit_cover"))).await.status.as_u16(), 200, "at the limit");
}

/// A busy service still serves what it has.
#[tokio::test]
async fn under_overload_new_renderings_wait_their_turn_and_kept_ones_are_served() {
    let mut overload = vec![("workers.concurrent_max", "1"), ("workers.queue_max", "0"), ("images.looks", "false")];
    // What is slow here may take long where the tests run beside others.
    overload.push(("workers.time_seconds_max", "300"));
    let app = TestApp::with(&overload).await;
    let ada = std::sync::Arc::new(app.actor("ada").await);
    let uuid = ada.upload(png(3000, 2500, 1)).await.uuid();
    let path = |steps: &str| format!("/i/{uuid}/{steps}");
    assert_eq!(Answer::of(ada.get(&path("w_20"))).await.status.as_u16(), 200);
    let slow = ada.get(&path("w_800,f_avif"));
    let slow = tokio::spawn(async move { Answer::of(slow).await });
    // It comes first.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut width = 20;
    let refused = eventually(async || {
        width += 1;
        let answer = Answer::of(ada.get(&path(&format!("w_{width}")))).await;
        (answer.status.as_u16() == 429).then_some(answer)
    })
    .await;
    assert!(problem(&refused, 429).contains("too much at once"), "it is its own org that holds the worker");
    assert_eq!(refused.header("retry-after"), "1");
    assert_eq!(Answer::of(ada.get(&path("w_20"))).await.status.as_u16(), 200);
    assert!(!slow.is_finished(), "all that was while the worker was at it");
    assert_eq!(slow.await.expect("answers").status.as_u16(), 200);
    assert_eq!(Answer::of(ada.get(&path("w_10"))).await.status.as_u16(), 200, "and it goes on");
}
