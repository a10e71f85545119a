//! The base64 twin: JSON, forms, multipart text, and what comes back.

use ::base64::Engine as _;
use ::base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use reqwest::StatusCode;
use serde_json::json;

use crate::app::{APP_KEY, Actor, Answer, PERMISSION, TestApp};
use crate::fixtures::{multipart, multipart_type, photograph, png, png_of_bytes};

const PATH: &str = "/opsportal/imageBase64";

async fn send_json(actor: &Actor, body: &serde_json::Value) -> Answer {
    Answer::of(actor.change(PATH).await.json(body)).await
}

#[tokio::test]
async fn base64_text_is_taken_in_every_wrapping() {
    let app = TestApp::start().await;
    let ada = app.actor("ada").await;
    let text = STANDARD.encode(photograph());
    let unpadded = STANDARD_NO_PAD.encode(photograph());
    let mut answers = vec![
        send_json(&ada, &json!({ "appKey": APP_KEY, "permission": PERMISSION, "image": text })).await,
        send_json(&ada, &json!({ "image": unpadded, "permission": PERMISSION, "appKey": APP_KEY, "extra": [1, { "a": null }] }))
            .await,
    ];
    let form = [("image", text.as_str()), ("appKey", APP_KEY), ("permission", PERMISSION), ("isWebix", "0")];
    answers.push(Answer::of(ada.change(PATH).await.form(&form)).await);
    let parts = multipart(&[
        ("appKey", None, APP_KEY.as_bytes()),
        ("permission", None, PERMISSION.as_bytes()),
        ("image", None, text.as_bytes()),
    ]);
    answers.push(Answer::of(ada.change(PATH).await.header("content-type", multipart_type()).body(parts)).await);
    for answer in answers {
        let uuid = answer.uuid();
        assert!(ada.read(&uuid).await.body == photograph());
    }
    let webix = send_json(&ada, &json!({ "appKey": APP_KEY, "permission": PERMISSION, "isWebix": true, "image": text })).await;
    assert_eq!(webix.json()["status"], "server");
}

#[tokio::test]
async fn an_image_reads_back_as_base64() {
    let app = TestApp::start().await;
    let ada = app.actor("ada").await;
    // Three lengths modulo 3, in memory and streamed.
    for size in [1000, 1001, 1002, 1_500_001] {
        let bytes = png_of_bytes(size, 5);
        let uuid = ada.upload(bytes.clone()).await.uuid();
        let answer = Answer::of(ada.get(&format!("{PATH}/{APP_KEY}/{uuid}"))).await;
        assert_eq!(answer.header("content-length"), answer.body.len().to_string());
        assert_eq!(answer.json(), json!({ "status": "success", "data": { "image": STANDARD.encode(bytes) } }));
    }
}

#[tokio::test]
async fn what_is_no_base64_image_is_refused_and_leaves_nothing() {
    let app = TestApp::start().await;
    let ada = app.actor("ada").await;
    let before = app.stored().await;
    let text = STANDARD.encode(png(8, 8, 1));
    let cases = [
        (format!("data:image/png;base64,{text}"), "data URI"),
        ("@@@".into(), "no base64"),
        (format!("{}*", &text[..40]), "no base64"),
        (STANDARD.encode("just text"), "text"),
        (STANDARD.encode(&png(8, 8, 1)[..60]), "truncated"),
        (String::new(), "empty"),
    ];
    for (image, expected) in cases {
        let answer = send_json(&ada, &json!({ "appKey": APP_KEY, "permission": PERMISSION, "image": image })).await;
        let envelope = answer.refused(422, "\"E_INVALIDPARAMS\"");
        assert!(envelope["data"]["reason"].as_str().expect("reason").contains(expected), "{envelope}");
    }
    let envelope = send_json(&ada, &json!({ "permission": PERMISSION })).await.refused(422, "\"E_MISSINGPARAM\"");
    assert_eq!(envelope["data"]["missingParams"], json!(["appKey", "image"]));
    for body in ["", "[]", "{\"image\":", "{\"image\":\"AA", "nonsense"] {
        let request = ada.change(PATH).await.header("content-type", "application/json").body(body);
        Answer::of(request).await.refused(422, "\"E_INVALIDPARAMS\"");
    }
    Answer::of(ada.change(PATH).await.header("content-type", "text/plain").body(text)).await.refused(422, "\"E_INVALIDPARAMS\"");
    assert_eq!(app.stored().await, before);
}

#[tokio::test]
async fn the_limit_counts_decoded_bytes() {
    let app = TestApp::with(&[("opsportal.upload_bytes_max", "100000"), ("uploads.memory_bytes_max", "20000")]).await;
    let ada = app.actor("ada").await;
    let body = |size| json!({ "appKey": APP_KEY, "permission": PERMISSION, "image": STANDARD.encode(png_of_bytes(size, 1)) });
    send_json(&ada, &body(100_000)).await.refused(413, "\"E_TOOLARGE\"");
    send_json(&ada, &body(3_000_000)).await.refused(413, "\"E_TOOLARGE\"");
    assert!(app.stored().await.files.is_empty());
    send_json(&ada, &body(99_999)).await.uuid();
}

#[tokio::test]
async fn rights_are_asked_here_too() {
    let app = TestApp::start().await;
    let body = json!({ "appKey": APP_KEY, "permission": PERMISSION, "image": STANDARD.encode(png(8, 8, 1)) });
    send_json(&app.actor("vera").await, &body).await.refused(403, "\"E_NOTPERMITTED\"");
    send_json(&app.visitor(), &body).await.refused(401, "5");
    Answer::of(app.actor("ada").await.post(PATH).json(&body)).await.refused(403, "\"E_CSRF\"");
    let mut with_token = body.clone();
    let ada = app.actor("ada").await;
    with_token["_csrf"] = ada.csrf().await.into();
    assert!(app.stored().await.files.is_empty());
    assert_eq!(Answer::of(ada.post(PATH).json(&with_token)).await.status, StatusCode::OK);
}

/// Ten million pairs once took a gigabyte, before anybody had asked who sends them.
#[tokio::test]
async fn parameters_are_few_and_short() {
    let app = TestApp::start().await;
    let ada = app.actor("ada").await;
    let before = app.stored().await;
    let text = STANDARD.encode(png(8, 8, 1));
    let form = |body: String| (body, "application/x-www-form-urlencoded");
    let object = |body: String| (body, "application/json");
    let own = format!("appKey={APP_KEY}&permission={PERMISSION}&image=");
    let many = "\"uuid\":0,".repeat(65);
    let long = "x".repeat(40_000);
    for (body, kind) in [
        form("appKey=&".repeat(1_000_000)),
        form(format!("{own}{}&{}", text.replace('+', "%2B"), "uuid=b&".repeat(65))),
        form(format!("appKey={long}&permission={long}&{own}")),
        object(format!("{{{many}\"image\":\"{text}\"}}")),
        object(format!("{{\"appKey\":\"{long}\",\"permission\":\"{long}\",\"image\":\"{text}\"}}")),
        // A text that does not end within its limit.
        object(format!("{{\"image\":\"{text}\",\"appKey\":\"{}\"}}", "x".repeat(100_000))),
    ] {
        let send = |request: reqwest::RequestBuilder| Answer::of(request.header("content-type", kind).body(body.clone()));
        send(ada.post(PATH)).await.refused(403, "\"E_CSRF\"");
        let envelope = send(ada.change(PATH).await).await.refused(422, "\"E_INVALIDPARAMS\"");
        assert!(envelope["data"]["reason"].as_str().expect("reason").contains("64"), "{envelope}");
    }
    let part = ("appKey", None, long.as_bytes());
    for path in [PATH, "/opsportal/image", "/opsportal/file"] {
        let body = multipart(&[part, part]);
        let send =
            |request: reqwest::RequestBuilder| Answer::of(request.header("content-type", multipart_type()).body(body.clone()));
        send(ada.post(path)).await.refused(403, "\"E_CSRF\"");
        send(ada.change(path).await).await.refused(422, "\"E_INVALIDPARAMS\"");
    }
    assert_eq!(app.stored().await, before);
}

/// Who has shown no token in the head is read for 64 KiB, and then refused.
#[tokio::test]
async fn a_token_stands_at_the_beginning_of_a_body() {
    let app = TestApp::start().await;
    let ada = app.actor("ada").await;
    let token = ada.csrf().await;
    let text = STANDARD.encode(png_of_bytes(200_000, 1));
    let own = format!("\"appKey\":\"{APP_KEY}\",\"permission\":\"{PERMISSION}\"");
    let send = |body: String| Answer::of(ada.post(PATH).header("content-type", "application/json").body(body));
    send(format!("{{{own},\"image\":\"{text}\",\"_csrf\":\"{token}\"}}")).await.refused(403, "\"E_CSRF\"");
    assert!(app.stored().await.files.is_empty());
    let uuid = send(format!("{{{own},\"_csrf\":\"{token}\",\"image\":\"{text}\"}}")).await.uuid();
    assert_eq!(ada.read(&uuid).await.body, png_of_bytes(200_000, 1));
    let form = [("_csrf", token.as_str()), ("image", &text), ("appKey", APP_KEY), ("permission", PERMISSION)];
    Answer::of(ada.post(PATH).form(&form)).await.uuid();
}
