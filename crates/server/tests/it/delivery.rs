//! How images leave: validators, ranges, and headers that make users' bytes inert.

use reqwest::StatusCode;

use crate::app::{APP_KEY, Answer, TestApp, image_path};
use crate::fixtures::{photograph, png, png_of_bytes};

#[tokio::test]
async fn images_carry_the_headers_that_keep_them_inert_and_private() {
    let app = TestApp::start().await;
    let ada = app.actor("ada").await;
    let uuid = ada.upload(photograph()).await.uuid();
    for method in ["GET", "HEAD"] {
        let read = Answer::of(ada.request(method, &image_path(&uuid))).await;
        let expected = [
            ("content-type", "image/jpeg"),
            ("content-length", "61350"),
            ("etag", "\"3e09f4a9840e172fde8c57cd2a4c003bf3d21dffac5486b9f3f8c0d1cc0913a4\""),
            ("cache-control", "private, no-cache"),
            ("x-content-type-options", "nosniff"),
            ("content-security-policy", "default-src 'none'; sandbox; frame-ancestors 'none'"),
            ("cross-origin-resource-policy", "same-origin"),
            ("accept-ranges", "bytes"),
            ("set-cookie", ""),
            ("access-control-allow-origin", ""),
        ];
        for (name, value) in expected {
            assert_eq!(read.header(name), value, "{method} {name}");
        }
        assert!(read.header("content-disposition").starts_with("inline; filename=\""));
        assert!(!read.header("x-request-id").is_empty());
        assert_eq!(read.body.is_empty(), method == "HEAD");
    }
}

#[tokio::test]
async fn caching_and_embedding_follow_their_settings() {
    let settings = [("delivery.private_max_age_seconds", "60"), ("delivery.cross_origin_resource_policy", "cross-origin")];
    let app = TestApp::with(&settings).await;
    let ada = app.actor("ada").await;
    let uuid = ada.upload(photograph()).await.uuid();
    let read =
        Answer::of(ada.get(&image_path(&uuid)).header("sec-fetch-site", "cross-site").header("sec-fetch-mode", "no-cors")).await;
    assert_eq!(
        (read.header("cache-control"), read.header("cross-origin-resource-policy")),
        ("private, max-age=60", "cross-origin")
    );
}

#[tokio::test]
async fn a_known_image_costs_no_bytes() {
    let app = TestApp::start().await;
    let ada = app.actor("ada").await;
    let uuid = ada.upload(photograph()).await.uuid();
    let first = ada.read(&uuid).await;
    let again = Answer::of(ada.get(&image_path(&uuid)).header("if-none-match", first.header("etag"))).await;
    assert_eq!((again.status, again.body.len()), (StatusCode::NOT_MODIFIED, 0));
    for kept in ["etag", "cache-control", "content-security-policy", "last-modified"] {
        assert_eq!(again.header(kept), first.header(kept), "{kept}");
    }
    assert_eq!(again.header("content-type"), "");
    let since = Answer::of(ada.get(&image_path(&uuid)).header("if-modified-since", first.header("last-modified"))).await;
    assert_eq!(since.status, StatusCode::NOT_MODIFIED);
    let other = Answer::of(ada.get(&image_path(&uuid)).header("if-match", "\"x\"")).await;
    assert_eq!(other.status, StatusCode::PRECONDITION_FAILED);
    // A condition is no way around the rights.
    let bob = app.actor("bob").await;
    let denied = Answer::of(bob.get(&image_path(&uuid)).header("if-none-match", first.header("etag"))).await;
    denied.refused(403, "\"E_NOTPERMITTED\"");
}

#[tokio::test]
async fn ranges_give_exactly_their_bytes_from_memory_and_from_disk() {
    let app = TestApp::start().await;
    let ada = app.actor("ada").await;
    for size in [5000, 2_000_003] {
        let bytes = png_of_bytes(size, 7);
        let uuid = ada.upload(bytes.clone()).await.uuid();
        let last = size - 1;
        let cases = [
            ("bytes=0-0".to_owned(), 0..1),
            (format!("bytes=100-{last}"), 100..size),
            (format!("bytes={last}-"), last..size),
            ("bytes=-7".to_owned(), size - 7..size),
            ("bytes=1000-99999999".to_owned(), 1000..size),
        ];
        for (range, expected) in cases {
            let part = Answer::of(ada.get(&image_path(&uuid)).header("range", &range)).await;
            assert_eq!(part.status, StatusCode::PARTIAL_CONTENT, "{range}");
            assert_eq!(part.header("content-range"), format!("bytes {}-{}/{size}", expected.start, expected.end - 1));
            assert_eq!(part.header("content-length"), expected.len().to_string());
            assert!(part.body == bytes[expected], "{range}");
        }
        let past = Answer::of(ada.get(&image_path(&uuid)).header("range", format!("bytes={size}-"))).await;
        assert_eq!((past.status, past.header("content-range")), (StatusCode::RANGE_NOT_SATISFIABLE, &*format!("bytes */{size}")));
        let several = Answer::of(ada.get(&image_path(&uuid)).header("range", "bytes=0-1,5-6")).await;
        assert_eq!(several.status, StatusCode::OK);
        assert!(several.body == bytes);
    }
}

#[tokio::test]
async fn every_answer_forbids_sniffing_and_carries_a_request_id() {
    let app = TestApp::start().await;
    let ada = app.actor("ada").await;
    let uuid = ada.upload(png(8, 8, 1)).await.uuid();
    let image = image_path(&uuid);
    let paths = [
        "/",
        "/site/login",
        "/csrfToken",
        "/healthz",
        "/readyz",
        "/metrics",
        "/openapi.json",
        "/assets/style.css",
        "/assets/none",
        "/nothing",
        "/opsportal/nothing",
        "/opsportal/image",
        &image,
        "/opsportal/image/%FF/x",
        "/demo",
    ];
    for path in paths {
        for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "BREW"] {
            let answer = Answer::of(ada.request(method, path)).await;
            assert_eq!(answer.header("x-content-type-options"), "nosniff", "{method} {path}");
            assert!(!answer.header("content-security-policy").is_empty(), "{method} {path}");
            assert_eq!(answer.header("x-request-id").len(), 32, "{method} {path}");
            if answer.status == StatusCode::METHOD_NOT_ALLOWED {
                assert!(!answer.header("allow").is_empty(), "{method} {path}");
            }
        }
    }
}

#[tokio::test]
async fn a_warm_read_touches_no_database() {
    let app = TestApp::start().await;
    let ada = app.actor("ada").await;
    let uuid = ada.upload(photograph()).await.uuid();
    assert_eq!(ada.read(&uuid).await.status, StatusCode::OK);
    // With the database closed, only what is in memory can answer.
    app.service.app.database.close().await;
    let warm = ada.read(&uuid).await;
    assert_eq!(warm.status, StatusCode::OK);
    assert!(warm.body == photograph());
    let cold = ada.read("0d5a2b1c-5f6e-4a3b-8c9d-0123456789ab").await.refused(500, "\"E_INTERNAL\"");
    assert_eq!(cold["data"]["requestId"].as_str().expect("request id").len(), 32);
    assert!(!cold.to_string().contains("database") && !cold.to_string().contains("pool"));
}

#[tokio::test]
async fn changed_bytes_are_an_alarm_and_never_served() {
    let app = TestApp::with(&[("cache.blob_entry_bytes_max", "10000")]).await;
    let ada = app.actor("ada").await;
    for size in [5000, 2_000_000] {
        let uuid = ada.upload(png_of_bytes(size, 8)).await.uuid();
        for file in app.stored().await.files {
            let mut bytes = std::fs::read(&file).expect("blob");
            let at = bytes.len() / 2;
            bytes[at] ^= 1;
            std::fs::write(&file, bytes).expect("writes");
        }
        let response = ada.get(&image_path(&uuid)).send().await.expect("answers");
        if size == 5000 {
            assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        } else {
            assert!(response.bytes().await.is_err(), "the connection breaks before the last chunk");
        }
        assert!(Answer::of(ada.get(&format!("/opsportal/file/{APP_KEY}/{uuid}"))).await.status == StatusCode::NOT_FOUND);
    }
}
