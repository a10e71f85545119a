//! Making renderings: once for all who wait, whoever leaves; refused where they can't be made, and nothing on disk on their way.

use std::time::Duration;

use crate::app::{Answer, Data, TestApp};
use crate::dropbox::stripes;
use crate::fixtures::{photograph, png_of_bytes};
use crate::native::problem;
use crate::records::eventually;
use crate::workers::{counting_script, script, starts};

const NO_LOOKS: (&str, &str) = ("images.looks", "false");

#[tokio::test(flavor = "multi_thread")]
async fn a_rendering_that_fails_fails_once_for_all_who_wait_and_is_remembered() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let program = counting_script(&folder, "sleep 0.3; kill -SEGV $$");
    let app = TestApp::with_workers(Data::fresh(), &[NO_LOOKS], program).await;
    let ada = app.actor("ada").await;
    let uuid = ada.upload(photograph()).await.uuid();
    let before = app.stored().await;
    let asking = (0..8).map(|_| Answer::of(ada.get(&format!("/i/{uuid}/w_50"))));
    for answer in futures_util::future::join_all(asking).await {
        problem(&answer, 422);
    }
    assert_eq!(starts(&folder), 1, "one worker for all");
    problem(&Answer::of(ada.get(&format!("/i/{uuid}/w_50"))).await, 422);
    assert_eq!(starts(&folder), 1, "it is known");
    problem(&Answer::of(ada.get(&format!("/i/{uuid}/w_51"))).await, 422);
    assert_eq!(starts(&folder), 2, "of another one nothing is known");
    assert_eq!(app.stored().await, before);
}

#[tokio::test]
async fn what_is_remembered_is_tried_again_after_its_time() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let program = counting_script(&folder, "[ $(wc -l < $(dirname $0)/starts) = 1 ] && kill -SEGV $$");
    let app = TestApp::with_workers(Data::fresh(), &[NO_LOOKS, ("workers.refused_seconds", "0")], program).await;
    let ada = app.actor("ada").await;
    let path = format!("/i/{}/w_50", ada.upload(photograph()).await.uuid());
    problem(&Answer::of(ada.get(&path)).await, 422);
    assert_eq!(Answer::of(ada.get(&path)).await.status.as_u16(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_leaves_ends_no_rendering() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let app = TestApp::with_workers(Data::fresh(), &[NO_LOOKS], counting_script(&folder, "sleep 1")).await;
    let ada = app.actor("ada").await;
    let path = format!("/i/{}/w_50", ada.upload(photograph()).await.uuid());
    let impatient = tokio::time::timeout(Duration::from_millis(400), Answer::of(ada.get(&path))).await;
    assert!(impatient.is_err(), "it takes longer");
    assert_eq!(Answer::of(ada.get(&path)).await.status.as_u16(), 200);
    assert_eq!(starts(&folder), 1, "the first one was made to its end");
}

/// A caller that leaves doesn't keep its node's claim on the rendering: another node would wait for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_leaves_keeps_no_other_node_waiting() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let one = TestApp::with_workers(Data::outgrown(), &[NO_LOOKS], counting_script(&folder, "sleep 1")).await;
    let other = one.another_node(&[NO_LOOKS]).await;
    let ada = one.actor("ada").await;
    let path = format!("/i/{}/w_50", ada.upload(photograph()).await.uuid());
    let impatient = tokio::time::timeout(Duration::from_millis(400), Answer::of(ada.get(&path))).await;
    assert!(impatient.is_err(), "it takes longer");
    let there = ada.at_node(&other.url(""));
    let answer = tokio::time::timeout(Duration::from_secs(20), Answer::of(there.get(&path))).await.expect("soon");
    assert_eq!(answer.status.as_u16(), 200, "{}", answer.text());
    let (left,): (i64,) = eventually(async || {
        let left: (i64,) = one.row("SELECT COUNT(*) FROM leases WHERE name LIKE 'render:%'").await;
        Some(left).filter(|(left,)| *left == 0)
    })
    .await;
    assert_eq!(left, 0);
}

#[tokio::test]
async fn what_can_not_be_encoded_in_time_is_refused_at_once_with_what_to_ask_for() {
    let limits =
        [("workers.avif_pixels_max", "400"), ("workers.lossless_webp_pixels_max", "900"), ("delivery.auto_avif", "true")];
    let app = TestApp::with(&[limits[0], limits[1], limits[2], NO_LOOKS]).await;
    let ada = app.actor("ada").await;
    let uuid = ada.upload(stripes(300, 150)).await.uuid();
    let get = async |steps: &str, accept: &str| Answer::of(ada.get(&format!("/i/{uuid}/{steps}")).header("accept", accept)).await;
    let before = app.stored().await;
    let refused = get("w_21,h_20,fit_cover,f_avif", "*/*").await;
    let text = problem(&refused, 422);
    assert!(text.contains("420 pixels as AVIF") && text.contains("at most 400") && text.contains("smaller"), "{text}");
    let text = problem(&get("w_31,h_30,fit_cover,f_webp,lossless", "*/*").await, 422);
    assert!(text.contains("930 pixels as lossless WebP") && text.contains("at most 900"), "{text}");
    assert_eq!(app.stored().await, before);
    let kind = async |steps: &str, accept: &str| {
        let answer = get(steps, accept).await;
        assert_eq!(answer.status.as_u16(), 200, "{}", answer.text());
        answer.header("content-type").to_owned()
    };
    assert_eq!(kind("w_20,h_20,fit_cover,f_avif", "*/*").await, "image/avif", "at the limit");
    assert_eq!(kind("w_30,h_30,fit_cover,f_webp,lossless", "*/*").await, "image/webp", "at the limit");
    let modern = "image/avif,image/webp,*/*";
    assert_eq!(kind("w_20,h_20,fit_cover", modern).await, "image/avif");
    assert_eq!(kind("w_21,h_20,fit_cover", modern).await, "image/webp", "what the client reads as well");
}

/// The original goes from the store to the worker; on its way it takes no disk.
#[tokio::test]
async fn a_large_original_is_rendered_without_a_copy_on_disk() {
    let app = TestApp::with(&[NO_LOOKS]).await;
    let ada = app.actor("ada").await;
    let uuid = ada.upload(png_of_bytes(3_000_000, 1)).await.uuid();
    let spool = app.data_dir().join("spool");
    std::fs::remove_dir(&spool).expect("it is empty");
    std::fs::write(&spool, b"no folder").expect("writes");
    let answer = Answer::of(ada.get(&format!("/i/{uuid}/w_4"))).await;
    assert_eq!(answer.status.as_u16(), 200, "{}", answer.text());
    std::fs::remove_file(&spool).expect("removes");
    std::fs::create_dir(&spool).expect("makes");
}

/// Bytes that have changed since are an alarm, and no picture is made of them.
#[tokio::test]
async fn nothing_is_rendered_of_a_large_original_that_has_changed() {
    let app = TestApp::with(&[NO_LOOKS]).await;
    let ada = app.actor("ada").await;
    let clean = app.stored().await.files;
    let uuid = ada.upload(png_of_bytes(3_000_000, 1)).await.uuid();
    let blob = app.stored().await.files.difference(&clean).next().expect("a blob").clone();
    let mut bytes = std::fs::read(&blob).expect("reads");
    bytes[2_000_000] ^= 1;
    std::fs::write(&blob, &bytes).expect("writes");
    let before = app.stored().await;
    problem(&Answer::of(ada.get(&format!("/i/{uuid}/w_4"))).await, 500);
    assert_eq!(app.stored().await, before);
    bytes[2_000_000] ^= 1;
    std::fs::write(&blob, &bytes).expect("writes");
    assert_eq!(Answer::of(ada.get(&format!("/i/{uuid}/w_4"))).await.status.as_u16(), 200, "that was no verdict");
}

#[tokio::test]
async fn without_a_sandbox_nothing_is_decoded_unless_a_setting_allows_it() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let program = crate::app::program();
    let (probe, real) = ("landlock not supported by this kernel, seccomp enforced", program.display());
    let line = format!("[ \"$2\" = probe ] && echo '{probe}' && exit; exec {real} \"$@\"");
    let data = Data::fresh();
    let strict = [NO_LOOKS, ("workers.allow_without_sandbox", "false")];
    let app = TestApp::with_workers(data.clone(), &strict, script(&folder, &line)).await;
    let ada = app.actor("ada").await;
    let uuid = ada.upload(photograph()).await.uuid();
    let before = app.stored().await;
    let refused = Answer::of(ada.get(&format!("/i/{uuid}/w_50"))).await;
    problem(&refused, 503);
    assert_eq!(refused.header("retry-after"), "60");
    assert!(ada.read(&uuid).await.body == photograph(), "originals are served");
    assert_eq!(app.stored().await, before);
    app.stop().await;
    let lenient = [NO_LOOKS, ("workers.allow_without_sandbox", "true")];
    let app = TestApp::with_workers(data, &lenient, script(&folder, &line)).await;
    assert_eq!(Answer::of(app.actor("ada").await.get(&format!("/i/{uuid}/w_50"))).await.status.as_u16(), 200);
}
