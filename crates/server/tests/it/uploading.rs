//! Uploading an image through the OpsPortal API: order, parameters, rights, and every refusal of its table.

use reqwest::StatusCode;
use reqwest::multipart::{Form, Part};
use serde_json::json;

use crate::app::{APP_KEY, Actor, Answer, PERMISSION, TestApp, image_path};
use crate::fixtures::{self, multipart, multipart_type, photograph, png, png_claiming, png_of_bytes, testdata};

const PARAMETERS: [fixtures::Part<'static>; 2] =
    [("appKey", None, APP_KEY.as_bytes()), ("permission", None, PERMISSION.as_bytes())];

async fn send(actor: &Actor, path: &str, body: Vec<u8>) -> Answer {
    Answer::of(actor.change(path).await.header("content-type", multipart_type()).body(body)).await
}

#[tokio::test]
async fn a_photograph_is_stored_and_comes_back_byte_for_byte() {
    let app = TestApp::start().await;
    let ada = app.actor("ada").await;
    let answer = ada.upload(photograph()).await;
    let uuid = answer.uuid();
    assert_eq!(answer.json(), json!({ "status": "success", "data": { "uuid": uuid } }));
    assert_eq!(uuid, uuid.to_lowercase());
    let read = ada.read(&uuid).await;
    assert_eq!((read.status, read.header("content-type")), (StatusCode::OK, "image/jpeg"));
    assert!(read.body == photograph());
    assert_eq!((app.stored().await.images, app.stored().await.files.len()), (1, 1));
}

#[tokio::test]
async fn parameters_come_from_the_path_the_body_or_the_query() {
    let app = TestApp::start().await;
    let ada = app.actor("ada").await;
    let image: fixtures::Part<'_> = ("image", Some("a.png"), &png(8, 8, 1));
    let in_body = multipart(&[PARAMETERS[0], PARAMETERS[1], ("isWebix", None, b"true"), image]);
    let cases = [
        (format!("/opsportal/image/{APP_KEY}/{PERMISSION}/true"), multipart(&[image])),
        ("/opsportal/image".to_owned(), in_body),
        (format!("/opsportal/image?appKey={APP_KEY}&permission={PERMISSION}&isWebix=1"), multipart(&[image])),
        // Path outweighs body, body outweighs query.
        (
            format!("/opsportal/image/{APP_KEY}/{PERMISSION}/true"),
            multipart(&[("appKey", None, b"x"), ("isWebix", None, b"false"), image]),
        ),
        (
            "/opsportal/image?appKey=x&permission=x&isWebix=".to_owned(),
            multipart(&[PARAMETERS[0], PARAMETERS[1], ("isWebix", None, b"yes"), image]),
        ),
    ];
    for (path, body) in cases {
        let answer = send(&ada, &path, body).await;
        let uuid = answer.uuid();
        assert_eq!(answer.json(), json!({ "status": "server", "data": { "uuid": uuid, "status": "server" } }), "{path}");
        assert_eq!(ada.read(&uuid).await.status, StatusCode::OK, "{path}");
    }
}

#[tokio::test]
async fn a_webix_upload_with_the_file_first_and_extras_behind_is_accepted() {
    let app = TestApp::start().await;
    let ada = app.actor("ada").await;
    let body = multipart(&[
        ("image", Some("photo.jpg"), &photograph()),
        ("image_fullpath", None, b"photo.jpg"),
        ("anything", None, b"x"),
        ("image", Some("second.png"), &png(8, 8, 2)),
        ("other", Some("third.bin"), b"no image"),
    ]);
    let uuid = send(&ada, &format!("/opsportal/image/{APP_KEY}/{PERMISSION}/1"), body).await.uuid();
    assert!(ada.read(&uuid).await.body == photograph(), "of two image parts the first counts");
    assert_eq!(app.stored().await.files.len(), 1, "the others left nothing");
}

#[tokio::test]
async fn image_sent_before_its_parameters_is_refused_and_leaves_nothing() {
    let app = TestApp::start().await;
    let ada = app.actor("ada").await;
    let before = app.stored().await;
    let small = png(8, 8, 1);
    let large = png_of_bytes(300_000, 1);
    for bytes in [&small, &large] {
        let image: fixtures::Part<'_> = ("image", Some("a.png"), bytes);
        let cases: [(Vec<_>, serde_json::Value); 6] = [
            (vec![image, PARAMETERS[0], PARAMETERS[1]], json!(["appKey", "permission"])),
            (vec![PARAMETERS[0], image, PARAMETERS[1]], json!(["permission"])),
            (vec![PARAMETERS[1], image, PARAMETERS[0]], json!(["appKey"])),
            (vec![PARAMETERS[0], PARAMETERS[1]], json!(["image"])),
            (vec![("upload", Some("a.png"), bytes), PARAMETERS[1]], json!(["appKey", "image"])),
            // A part without a file name is text, whatever its name; empty values count as missing.
            (vec![("appKey", None, b""), ("image", None, b"not a file")], json!(["appKey", "permission", "image"])),
        ];
        for (parts, missing) in cases {
            let envelope = send(&ada, "/opsportal/image", multipart(&parts)).await.refused(422, "\"E_MISSINGPARAM\"");
            assert_eq!(envelope["data"]["missingParams"], missing);
        }
    }
    assert_eq!(app.stored().await, before);
}

#[tokio::test]
async fn doubled_and_malformed_parameters_are_refused_and_leave_nothing() {
    let app = TestApp::start().await;
    let ada = app.actor("ada").await;
    let before = app.stored().await;
    let long = "a".repeat(256);
    let image: fixtures::Part<'_> = ("image", Some("a.png"), &png(8, 8, 1));
    let cases: Vec<Vec<fixtures::Part<'_>>> = vec![
        vec![PARAMETERS[0], PARAMETERS[0], PARAMETERS[1], image],
        vec![PARAMETERS[0], PARAMETERS[1], ("permission", None, b"other"), image],
        vec![("appKey", None, b"../../etc"), PARAMETERS[1], image],
        vec![("appKey", None, b".."), PARAMETERS[1], image],
        vec![("appKey", None, b"a/b"), PARAMETERS[1], image],
        vec![("appKey", None, b"a\\b"), PARAMETERS[1], image],
        vec![("appKey", None, b"a\0b"), PARAMETERS[1], image],
        vec![("appKey", None, "a\u{202E}b".as_bytes()), PARAMETERS[1], image],
        vec![("appKey", None, long.as_bytes()), PARAMETERS[1], image],
        vec![PARAMETERS[0], ("permission", None, b"a b"), image],
        vec![PARAMETERS[0], PARAMETERS[1], ("uuid", None, b"not-a-uuid"), image],
        vec![PARAMETERS[0], PARAMETERS[1], ("uuid", None, b"../../../../../../../../../etc/passwd"), image],
        vec![PARAMETERS[0], ("permission", None, b"\xFF\xFE"), image],
    ];
    for parts in cases {
        let envelope = send(&ada, "/opsportal/image", multipart(&parts)).await.refused(422, "\"E_INVALIDPARAMS\"");
        assert!(envelope["data"]["reason"].as_str().expect("reason").len() > 10, "{envelope}");
    }
    for path in ["/opsportal/image/..%2F..%2Fetc/p.view/0", "/opsportal/image/a%00b/p.view/0", "/opsportal/image/a%FF/p.view/0"] {
        send(&ada, path, multipart(&[image])).await.refused(422, "\"E_INVALIDPARAMS\"");
    }
    assert_eq!(app.stored().await, before);
    let longest = &long[1..];
    let parts = [("appKey", None, longest.as_bytes()), PARAMETERS[1], image];
    let uuid = send(&ada, "/opsportal/image", multipart(&parts)).await.uuid();
    assert_eq!(Answer::of(ada.get(&format!("/opsportal/image/{longest}/{uuid}"))).await.status, StatusCode::OK);
}

#[tokio::test]
async fn hostile_file_names_change_nothing() {
    let app = TestApp::start().await;
    let ada = app.actor("ada").await;
    let names = ["../../../../etc/passwd", "a\u{202E}gpj.exe", &"n".repeat(255), "%2e%2e%2fx", "C:\\x", "-rf", "*", "x.svg", ""];
    for name in names {
        let form = Form::new().part("image", Part::bytes(png(8, 8, 9)).file_name(name.to_owned()));
        let path = format!("/opsportal/image/{APP_KEY}/{PERMISSION}/0");
        let answer = Answer::of(ada.change(&path).await.multipart(form)).await;
        let uuid = answer.uuid();
        let read = ada.read(&uuid).await;
        assert_eq!(read.header("content-type"), "image/png");
        assert_eq!(read.header("content-disposition"), format!("inline; filename=\"{uuid}.png\""));
    }
    for file in app.stored().await.files {
        let key = file.strip_prefix(app.blobs()).expect("inside").to_string_lossy().into_owned();
        let parts: Vec<&str> = key.split('/').collect();
        assert!(matches!(parts.as_slice(), ["opsportal-images", "100606", name] if name.len() == 40), "{key}");
    }
}

#[tokio::test]
async fn what_is_no_image_is_refused_with_a_reason_and_leaves_nothing() {
    let app = TestApp::start().await;
    let ada = app.actor("ada").await;
    let before = app.stored().await;
    let jpeg = photograph();
    let mut flipped = png(8, 8, 1);
    let at = flipped.len() - 20;
    flipped[at] ^= 1;
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (Vec::new(), "empty"),
        (b"#!/bin/sh\nrm -rf /".to_vec(), "script"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>".to_vec(), "SVG"),
        (b"<!DOCTYPE html><script>alert(1)</script>".to_vec(), "HTML"),
        (b"%PDF-1.7".to_vec(), "PDF"),
        (jpeg[..jpeg.len() / 2].to_vec(), "truncated"),
        (jpeg[..jpeg.len() - 300].to_vec(), "truncated"),
        (png_claiming(20_000, 20_000), "400000000"),
        (png_claiming(30_001, 1), "30001"),
        (flipped, "checksum"),
        (b"\x89PNG\r\n\x1A\n".to_vec(), "truncated"),
    ];
    for (bytes, expected) in cases {
        let envelope = ada.upload(bytes).await.refused(422, "\"E_INVALIDPARAMS\"");
        let reason = envelope["data"]["reason"].as_str().expect("reason");
        assert!(reason.contains(expected), "{reason} lacks {expected}");
    }
    assert_eq!(app.stored().await, before);
}

#[tokio::test]
async fn every_known_format_is_accepted_and_served_as_what_it_is() {
    let app = TestApp::start().await;
    let ada = app.actor("ada").await;
    for (name, media_type) in [
        ("photos/rocket.jpg", "image/jpeg"),
        ("photos/chelsea.png", "image/png"),
        ("formats/small.avif", "image/avif"),
        ("formats/small.heic", "image/heic"),
        ("formats/small.jxl", "image/jxl"),
    ] {
        let uuid = ada.upload(testdata(name)).await.uuid();
        let read = ada.read(&uuid).await;
        assert_eq!(read.header("content-type"), media_type);
        assert!(read.body == testdata(name), "{name}");
    }
}

#[tokio::test]
async fn exactly_the_limit_is_refused_and_one_byte_less_is_accepted() {
    let app = TestApp::with(&[("opsportal.upload_bytes_max", "200000"), ("uploads.memory_bytes_max", "50000")]).await;
    let ada = app.actor("ada").await;
    let before = app.stored().await;
    for size in [200_000, 200_001, 5_000_000] {
        let envelope = ada.upload(png_of_bytes(size, 3)).await.refused(413, "\"E_TOOLARGE\"");
        assert_eq!(envelope["data"]["maxBytes"], 200_000);
    }
    assert_eq!(app.stored().await, before);
    let bytes = png_of_bytes(199_999, 3);
    let uuid = ada.upload(bytes.clone()).await.uuid();
    assert!(ada.read(&uuid).await.body == bytes);
}

#[tokio::test]
async fn the_default_limit_is_ten_million_bytes() {
    let app = TestApp::start().await;
    let ada = app.actor("ada").await;
    let envelope = ada.upload(png_of_bytes(10_000_000, 4)).await.refused(413, "\"E_TOOLARGE\"");
    assert_eq!(envelope["data"]["maxBytes"], 10_000_000);
    assert!(app.stored().await.files.is_empty());
    let bytes = png_of_bytes(9_999_999, 4);
    let uuid = ada.upload(bytes.clone()).await.uuid();
    assert!(ada.read(&uuid).await.body == bytes);
}

#[tokio::test]
async fn a_chosen_uuid_is_kept_and_the_second_use_of_it_is_refused() {
    let app = TestApp::start().await;
    let ada = app.actor("ada").await;
    let uuid = "0D5A2B1C-5F6E-4A3B-8C9D-0123456789AB";
    let first = png(8, 8, 1);
    let body = |salt| {
        let image: Vec<u8> = png(8, 8, salt);
        multipart(&[PARAMETERS[0], PARAMETERS[1], ("uuid", None, uuid.as_bytes()), ("image", Some("a.png"), &image)])
    };
    assert_eq!(send(&ada, "/opsportal/image", body(1)).await.uuid(), uuid.to_lowercase());
    let stored = app.stored().await;
    send(&ada, "/opsportal/image", body(2)).await.refused(409, "\"E_CONFLICT\"");
    assert_eq!(app.stored().await, stored);
    let read = ada.read(&uuid.to_lowercase()).await;
    assert!(read.body == first, "the first image is untouched");
    assert_eq!(read.header("content-disposition"), format!("inline; filename=\"{}.png\"", uuid.to_lowercase()));
}

/// Row A16: nobody learns, or takes, what another org calls its images.
#[tokio::test]
async fn every_org_has_all_uuids_for_itself() {
    let app = TestApp::start().await;
    let uuid = "0d5a2b1c-5f6e-4a3b-8c9d-0123456789ab";
    let callers = [app.actor("ada").await, app.actor("eve").await];
    let body = |salt| {
        let image: Vec<u8> = png(8, 8, salt);
        multipart(&[PARAMETERS[0], PARAMETERS[1], ("uuid", None, uuid.as_bytes()), ("image", Some("a.png"), &image)])
    };
    let record = async |caller: &Actor| Answer::of(caller.get(&format!("/v1/images/{uuid}"))).await;
    let mut seen = Vec::new();
    for (salt, y, caller) in [(1, 0.1, &callers[0]), (2, 0.2, &callers[1])] {
        caller.read(uuid).await.refused(404, "\"E_NOTFOUND\"");
        assert_eq!(record(caller).await.status, StatusCode::NOT_FOUND);
        assert_eq!(send(caller, "/opsportal/image", body(salt)).await.uuid(), uuid);
        send(caller, "/opsportal/image", body(9)).await.refused(409, "\"E_CONFLICT\"");
        // Twice: from the database and from memory.
        for _ in 0..2 {
            assert!(caller.read(uuid).await.body == png(8, 8, salt));
            let shown = Answer::of(caller.get(&format!("/i/{uuid}/original,f_png"))).await;
            assert_eq!((shown.status, shown.header("content-type")), (StatusCode::OK, "image/png"));
        }
        let version = Answer::of(caller.get(&format!("/i/{uuid}@1/w_4,f_png"))).await;
        assert_eq!(version.status, StatusCode::OK, "{}", version.text());
        let focus = caller.request("PUT", &format!("/v1/images/{uuid}/focus"));
        let focus = focus.header("x-csrf-token", caller.csrf().await).json(&json!({ "x": 0.1, "y": y }));
        assert!(Answer::of(focus).await.status.is_success());
        let record = record(caller).await.json();
        seen.push((record["id"].as_str().expect("id").to_owned(), record["focus"]["y"].as_f64().expect("y")));
        let by_its_own_id = Answer::of(caller.get(&format!("/v1/images/{}", seen[seen.len() - 1].0))).await;
        assert_eq!(by_its_own_id.status, StatusCode::OK, "the record's id means the same image to everybody");
    }
    assert_eq!((seen[0].1, seen[1].1), (0.1, 0.2), "each has a focus of its own");
    assert_ne!(seen[0].0, seen[1].0);
    for (caller, other) in callers.iter().zip([&seen[1].0, &seen[0].0]) {
        caller.read(other).await.refused(404, "\"E_NOTFOUND\"");
        assert_eq!(Answer::of(caller.get(&format!("/i/{other}/original"))).await.status, StatusCode::NOT_FOUND);
    }
    assert_eq!(Answer::of(app.visitor().get(&format!("/i/{uuid}/original"))).await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn of_simultaneous_uploads_with_one_uuid_exactly_one_wins() {
    let app = TestApp::start().await;
    let ada = app.actor("ada").await;
    let token = ada.csrf().await;
    let uploads = (0..20).map(|salt| {
        let image = png(8, 8, salt);
        let body = multipart(&[
            PARAMETERS[0],
            PARAMETERS[1],
            ("uuid", None, b"0d5a2b1c-5f6e-4a3b-8c9d-0123456789ab"),
            ("image", Some("a.png"), &image),
        ]);
        Answer::of(
            ada.post("/opsportal/image").header("x-csrf-token", &token).header("content-type", multipart_type()).body(body),
        )
    });
    let answers = futures_util::future::join_all(uploads).await;
    let won = answers.iter().filter(|answer| answer.status == StatusCode::OK).count();
    let lost = answers.iter().filter(|answer| answer.status == StatusCode::CONFLICT).count();
    assert_eq!((won, lost), (1, 19));
    let stored = app.stored().await;
    assert_eq!((stored.images, stored.versions, stored.files.len()), (1, 1, 1));
}

#[tokio::test]
async fn clients_cannot_set_what_is_ours() {
    let app = TestApp::start().await;
    let ada = app.actor("ada").await;
    let image = png(8, 8, 1);
    let names = [
        "owner_id",
        "state",
        "content_type",
        "size_bytes",
        "id",
        "created_us",
        "blob_key",
        "digest",
        "org_id",
        "format",
        "namespace",
    ];
    let mut parts = vec![PARAMETERS[0], PARAMETERS[1]];
    parts.extend(names.iter().map(|name| (*name, None, b"2".as_slice())));
    parts.push(("image", Some("a.png"), &image));
    let uuid = send(&ada, "/opsportal/image?org_id=2&state=deleted", multipart(&parts)).await.uuid();
    assert!(ada.read(&uuid).await.body == image);
    assert_eq!(app.actor("eve").await.read(&uuid).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn without_the_right_to_upload_nothing_is_read_or_stored() {
    let app = TestApp::start().await;
    let vera = app.actor("vera").await;
    let before = app.stored().await;
    let envelope = vera.upload(png(8, 8, 1)).await.refused(403, "\"E_NOTPERMITTED\"");
    assert_eq!(envelope["mlKey"], "opp.perm.notPermitted");
    assert!(!envelope.to_string().to_lowercase().contains("csrf"));
    // The answer comes although the body never does.
    let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Vec<u8>, std::io::Error>>(1);
    let stuck = reqwest::Body::wrap_stream(futures_util::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|item| (item, receiver))
    }));
    let path = format!("/opsportal/image/{APP_KEY}/{PERMISSION}/0");
    let request = vera.change(&path).await.header("content-type", multipart_type()).body(stuck);
    let answer = tokio::time::timeout(std::time::Duration::from_secs(3), Answer::of(request)).await.expect("answers at once");
    answer.refused(403, "\"E_NOTPERMITTED\"");
    drop(sender);
    assert_eq!(app.stored().await, before);
}

#[tokio::test]
async fn the_csrf_token_may_stand_in_the_query_or_before_the_file() {
    let app = TestApp::start().await;
    let ada = app.actor("ada").await;
    let token = ada.csrf().await;
    let image: fixtures::Part<'_> = ("image", Some("a.png"), &png(8, 8, 1));
    let path = format!("/opsportal/image/{APP_KEY}/{PERMISSION}/0");
    let post = |path: &str, parts: &[fixtures::Part<'_>]| {
        Answer::of(ada.post(path).header("content-type", multipart_type()).body(multipart(parts)))
    };
    post(&format!("{path}?_csrf={token}"), &[image]).await.uuid();
    post(&path, &[("_csrf", None, token.as_bytes()), image]).await.uuid();
    let stored = app.stored().await;
    post(&path, &[image, ("_csrf", None, token.as_bytes())]).await.refused(403, "\"E_CSRF\"");
    post(&path, &[image]).await.refused(403, "\"E_CSRF\"");
    assert_eq!(app.stored().await, stored);
}

#[tokio::test]
async fn csrf_comes_before_the_login_and_the_login_before_the_parameters() {
    let app = TestApp::start().await;
    let visitor = app.visitor();
    let body = || multipart(&[("image", Some("a.png"), b"nothing")]);
    let bare = Answer::of(visitor.post("/opsportal/image").header("content-type", multipart_type()).body(body())).await;
    let envelope = bare.refused(403, "\"E_CSRF\"");
    assert!(envelope.to_string().contains("CSRF"), "clients look for the word");
    let logged_out = send(&visitor, "/opsportal/image", body()).await;
    let envelope = logged_out.refused(401, "5");
    assert_eq!(envelope["message"], "Reauthenticate.");
    assert_eq!(envelope["data"]["authType"], "local");
    assert!(envelope["data"]["data"]["local"]["uri"].is_string());
    let html = visitor.change("/opsportal/image").await.header("accept", "text/html").header("content-type", multipart_type());
    let browser = Answer::of(html.body(body())).await;
    assert_eq!((browser.status, browser.header("location")), (StatusCode::FOUND, "/site/login"));
    assert!(app.stored().await.files.is_empty());
}

#[tokio::test]
async fn a_body_that_is_not_multipart_says_what_to_send() {
    let app = TestApp::start().await;
    let ada = app.actor("ada").await;
    let plain = ada.change("/opsportal/image").await.header("content-type", "image/png").body(png(8, 8, 1));
    let envelope = Answer::of(plain).await.refused(422, "\"E_INVALIDPARAMS\"");
    assert!(envelope["data"]["reason"].as_str().expect("reason").contains("multipart/form-data"));
    let unbounded =
        ada.change("/opsportal/image").await.header("content-type", format!("multipart/form-data; boundary={}", "b".repeat(71)));
    Answer::of(unbounded.body("x")).await.refused(422, "\"E_INVALIDPARAMS\"");
    assert!(app.stored().await.files.is_empty());
}

#[tokio::test]
async fn uploads_survive_a_restart() {
    let app = TestApp::start().await;
    let ada = app.actor("ada").await;
    let uuid = ada.upload(photograph()).await.uuid();
    let app = app.restart(&[]).await;
    let again = app.actor("ada").await;
    assert!(Answer::of(again.get(&image_path(&uuid))).await.body == photograph());
}
