//! The sibling for files of any kind.

use reqwest::StatusCode;
use reqwest::multipart::{Form, Part};

use crate::app::{APP_KEY, Actor, Answer, PERMISSION, TestApp};
use crate::fixtures::{multipart, multipart_type, noise};

async fn upload(actor: &Actor, name: &str, bytes: Vec<u8>) -> Answer {
    let form = Form::new().part("file", Part::bytes(bytes).file_name(name.to_owned()));
    Answer::of(actor.change(&format!("/opsportal/file/{APP_KEY}/{PERMISSION}/0")).await.multipart(form)).await
}

#[tokio::test]
async fn any_file_is_kept_unseen_and_only_ever_downloaded() {
    let app = TestApp::start().await;
    let ada = app.actor("ada").await;
    let page = b"<!DOCTYPE html><script>alert(1)</script>".to_vec();
    for (name, bytes, saved_as) in [
        ("report.html", page, "attachment; filename=\"report.html\""),
        ("../../naïve.bin", noise(3_000_000, 1), "attachment; filename=\"na_ve.bin\"; filename*=UTF-8''na%C3%AFve.bin"),
        ("empty.txt", Vec::new(), "attachment; filename=\"empty.txt\""),
    ] {
        let uuid = upload(&ada, name, bytes.clone()).await.uuid();
        let read = Answer::of(ada.get(&format!("/opsportal/file/{APP_KEY}/{uuid}"))).await;
        assert_eq!(read.status, StatusCode::OK);
        assert!(read.body == bytes, "{name}");
        assert_eq!(read.header("content-type"), "application/octet-stream");
        assert_eq!(read.header("content-disposition"), saved_as);
        assert_eq!(read.header("x-content-type-options"), "nosniff");
        assert!(read.header("content-security-policy").contains("sandbox"));
        Answer::of(ada.get(&format!("/opsportal/image/{APP_KEY}/{uuid}"))).await.refused(404, "\"E_NOTFOUND\"");
    }
}

#[tokio::test]
async fn files_have_rights_order_and_limits_like_images() {
    let app = TestApp::with(&[("opsportal.file_bytes_max", "5000")]).await;
    let (ada, bob) = (app.actor("ada").await, app.actor("bob").await);
    upload(&ada, "a", noise(5000, 1)).await.refused(413, "\"E_TOOLARGE\"");
    upload(&app.actor("vera").await, "a", noise(10, 1)).await.refused(403, "\"E_NOTPERMITTED\"");
    let body = multipart(&[("appKey", None, b"a"), ("image", Some("a"), b"x"), ("permission", None, b"b")]);
    let request = ada.change("/opsportal/file").await.header("content-type", multipart_type()).body(body);
    let envelope = Answer::of(request).await.refused(422, "\"E_MISSINGPARAM\"");
    assert_eq!(envelope["data"]["missingParams"], serde_json::json!(["file"]), "parts of other names don't end the parameters");
    assert!(app.stored().await.files.is_empty());
    let uuid = upload(&bob, "a", noise(4999, 1)).await.uuid();
    Answer::of(bob.get(&format!("/opsportal/file/{APP_KEY}/{uuid}"))).await.refused(403, "\"E_NOTPERMITTED\"");
}
