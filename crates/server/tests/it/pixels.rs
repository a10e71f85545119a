//! Uploaded means showable: what is acknowledged has all of its pixels, whatever is wrong with its end.

use reqwest::StatusCode;

use crate::app::{Answer, TestApp};
use crate::fixtures::{photograph, testdata};

/// The file of a rendering in a format that anything can be compared in.
async fn shown(app: &TestApp, uuid: &str) -> Answer {
    let ada = app.actor("ada").await;
    Answer::of(ada.get(&format!("/i/{uuid}/original,still,f_png"))).await
}

#[tokio::test]
async fn a_photo_without_its_end_marker_is_shown_and_kept_as_it_was_sent() {
    let app = TestApp::start().await;
    let ada = app.actor("ada").await;
    let whole = photograph();
    let right = shown(&app, &ada.upload(whole.clone()).await.uuid()).await;
    assert_eq!(right.status, StatusCode::OK);
    for trailer in [&b""[..], &[0; 500], b"\xFF\x07\x40\x11 a film of the scene"] {
        let bytes = [&whole[..whole.len() - 2], trailer].concat();
        let uuid = ada.upload(bytes.clone()).await.uuid();
        assert!(shown(&app, &uuid).await.body == right.body, "{trailer:?}");
        assert!(ada.read(&uuid).await.body == bytes, "{trailer:?}");
    }
}

#[tokio::test]
async fn a_file_that_lacks_pixels_is_refused_and_leaves_nothing() {
    let app = TestApp::start().await;
    let ada = app.actor("ada").await;
    let (photo, tiff) = (photograph(), testdata("formats/tiled.tiff"));
    let before = app.stored().await;
    // The structure of neither says that anything is missing.
    for bytes in [photo[..photo.len() / 2].to_vec(), tiff[..tiff.len() - 200].to_vec()] {
        let envelope = ada.upload(bytes).await.refused(422, "\"E_INVALIDPARAMS\"");
        let reason = envelope["data"]["reason"].as_str().expect("reason").to_owned();
        assert!(reason.contains("truncated") || reason.contains("breaks the rules"), "{reason}");
    }
    // Sound in its structure, and broken inside.
    let mut bitmap = testdata("formats/rle.bmp");
    let pixels = u32::from_le_bytes(bitmap[10..14].try_into().expect("four")) as usize;
    bitmap[pixels..].iter_mut().for_each(|byte| *byte = 0xFF);
    ada.upload(bitmap).await.refused(422, "\"E_INVALIDPARAMS\"");
    assert_eq!(app.stored().await, before);
}

#[tokio::test]
async fn a_kind_without_a_decoder_is_kept_and_named() {
    let app = TestApp::start().await;
    let ada = app.actor("ada").await;
    let mut lossless = photograph();
    let frame = lossless.windows(2).position(|two| matches!(two, [0xFF, 0xC0 | 0xC2])).expect("frame");
    lossless[frame + 1] = 0xC3;
    let uuid = ada.upload(lossless.clone()).await.uuid();
    assert!(ada.read(&uuid).await.body == lossless);
    let answer = shown(&app, &uuid).await;
    assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(answer.text().contains("lossless JPEG is not supported"), "{}", answer.text());
}
