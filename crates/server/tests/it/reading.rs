//! Who may read an image, and how it looks to those who may not.

use reqwest::StatusCode;

use crate::app::{APP_KEY, Answer, PERMISSION, TestApp, image_path};
use crate::fixtures::{multipart, multipart_type, png};

#[tokio::test]
async fn the_permission_is_looked_at_on_every_read() {
    let app = TestApp::start().await;
    let uuid = app.actor("bob").await.upload(png(8, 8, 1)).await.uuid();
    let cases = [
        ("ada", StatusCode::OK),
        ("vera", StatusCode::OK),
        ("root", StatusCode::OK),
        ("bob", StatusCode::FORBIDDEN),
        ("eve", StatusCode::NOT_FOUND),
        ("oroot", StatusCode::NOT_FOUND),
    ];
    for (login, expected) in cases {
        let actor = app.actor(login).await;
        for path in [image_path(&uuid), format!("/opsportal/imageBase64/{APP_KEY}/{uuid}")] {
            for method in ["GET", "HEAD"] {
                let answer = Answer::of(actor.request(method, &path)).await;
                assert_eq!(answer.status, expected, "{login} {method} {path}");
            }
        }
    }
    let denied = app.actor("bob").await.read(&uuid).await;
    let envelope = denied.refused(403, "\"E_NOTPERMITTED\"");
    assert!(!envelope.to_string().to_lowercase().contains("csrf"));
}

#[tokio::test]
async fn what_is_elsewhere_looks_like_what_does_not_exist() {
    let app = TestApp::start().await;
    let ada = app.actor("ada").await;
    let uuid = ada.upload(png(8, 8, 1)).await.uuid();
    let absent = ada.read("0d5a2b1c-5f6e-4a3b-8c9d-0123456789ab").await.refused(404, "\"E_NOTFOUND\"");
    let paths = [
        format!("/opsportal/image/othertool/{uuid}"),
        format!("/opsportal/file/{APP_KEY}/{uuid}"),
        format!("/opsportal/image/{APP_KEY}/{uuid}.css"),
        format!("/opsportal/image/{APP_KEY}/{uuid}/x.css"),
        format!("/opsportal/image/{APP_KEY}/{}", uuid.replace('-', "")),
        format!("/opsportal/image/{APP_KEY}/..%2F{uuid}"),
        format!("/opsportal/image/..%2F..%2F{APP_KEY}/{uuid}"),
        format!("/opsportal/image/{APP_KEY}/%00"),
        format!("/opsportal/image/{APP_KEY}/%FF"),
        "/opsportal/nothing".to_owned(),
    ];
    for path in paths {
        assert_eq!(Answer::of(ada.get(&path)).await.refused(404, "\"E_NOTFOUND\""), absent, "{path}");
    }
    assert_eq!(app.actor("eve").await.read(&uuid).await.refused(404, "\"E_NOTFOUND\""), absent);
}

#[tokio::test]
async fn readers_need_a_session_and_no_csrf_header() {
    let app = TestApp::start().await;
    let uuid = app.actor("ada").await.upload(png(8, 8, 1)).await.uuid();
    let visitor = app.visitor();
    visitor.read(&uuid).await.refused(401, "5");
    let image = Answer::of(visitor.get(&image_path(&uuid)).header("accept", "image/avif,image/webp,*/*")).await;
    image.refused(401, "5");
    let page = Answer::of(visitor.get(&image_path(&uuid)).header("accept", "text/html,*/*")).await;
    assert_eq!((page.status, page.header("location")), (StatusCode::FOUND, "/site/login"));
    let script = visitor.get(&image_path(&uuid)).header("accept", "text/html").header("x-requested-with", "XMLHttpRequest");
    Answer::of(script).await.refused(401, "5");
}

#[tokio::test]
async fn old_portals_may_switch_either_check_off_but_never_cross_orgs() {
    let settings = [("opsportal.check_permission_on_read", "false"), ("opsportal.check_app_key_on_read", "false")];
    let app = TestApp::with(&settings).await;
    let uuid = app.actor("ada").await.upload(png(8, 8, 1)).await.uuid();
    assert_eq!(app.actor("bob").await.read(&uuid).await.status, StatusCode::OK);
    let elsewhere = format!("/opsportal/image/whatever/{uuid}");
    assert_eq!(Answer::of(app.actor("bob").await.get(&elsewhere)).await.status, StatusCode::OK);
    app.actor("oroot").await.read(&uuid).await.refused(404, "\"E_NOTFOUND\"");
}

#[tokio::test]
async fn another_sites_page_can_not_embed_an_image() {
    let app = TestApp::start().await;
    let ada = app.actor("ada").await;
    let uuid = ada.upload(png(8, 8, 1)).await.uuid();
    let embed = |site: &'static str| {
        ada.get(&image_path(&uuid))
            .header("sec-fetch-site", site)
            .header("sec-fetch-mode", "no-cors")
            .header("sec-fetch-dest", "image")
    };
    assert_eq!(Answer::of(embed("same-origin")).await.status, StatusCode::OK);
    let envelope = Answer::of(embed("cross-site")).await.refused(403, "\"E_NOTPERMITTED\"");
    assert!(!envelope.to_string().to_lowercase().contains("csrf"));
}

#[tokio::test]
async fn a_change_of_rights_acts_at_once() {
    let app = TestApp::start().await;
    let vera = app.actor("vera").await;
    let uuid = app.actor("ada").await.upload(png(8, 8, 1)).await.uuid();
    assert_eq!(vera.read(&uuid).await.status, StatusCode::OK);
    let mut plan = crate::app::plan();
    plan.accounts.retain(|account| account.login == "vera");
    plan.accounts[0].roles = vec!["uploader".into()];
    imagewell_core::provision::apply(&app.service.app, plan.clone()).await.expect("provisions");
    vera.read(&uuid).await.refused(403, "\"E_NOTPERMITTED\"");
    plan.accounts[0].disabled = true;
    imagewell_core::provision::apply(&app.service.app, plan).await.expect("provisions");
    vera.read(&uuid).await.refused(401, "5");
}

/// Row A5 through the front door: login × operation × image, against the rule in longhand.
#[tokio::test]
async fn the_matrix_of_actors_and_images_has_no_wrong_grant() {
    let app = TestApp::start().await;
    let permissions = [PERMISSION, "imagewell.upload", "nobody.holds.this"];
    let mut images = Vec::new();
    for (owner, org) in [("ada", "acme"), ("eve", "other")] {
        let actor = app.actor(owner).await;
        for permission in permissions {
            let body = multipart(&[("image", Some("a.png"), &png(8, 8, images.len() as u64))]);
            let path = format!("/opsportal/image/{APP_KEY}/{permission}/0");
            let request = actor.change(&path).await.header("content-type", multipart_type()).body(body);
            images.push((org, permission, Answer::of(request).await.uuid()));
        }
    }
    let holders: [(&str, &str, &[&str]); 6] = [
        ("ada", "acme", &[PERMISSION, "imagewell.upload"]),
        ("bob", "acme", &["imagewell.upload"]),
        ("vera", "acme", &[PERMISSION]),
        ("root", "acme", &permissions),
        ("eve", "other", &[PERMISSION, "imagewell.upload"]),
        ("oroot", "other", &permissions),
    ];
    for (login, org, held) in holders {
        let actor = app.actor(login).await;
        for (image_org, permission, uuid) in &images {
            let expected = match (org == *image_org, held.contains(permission)) {
                (false, _) => 404,
                (true, false) => 403,
                (true, true) => 200,
            };
            let path = image_path(uuid);
            let requests = [
                actor.get(&path),
                actor.request("HEAD", &path),
                actor.get(&path).header("if-none-match", "\"x\""),
                actor.get(&format!("/opsportal/imageBase64/{APP_KEY}/{uuid}")),
            ];
            for request in requests {
                assert_eq!(Answer::of(request).await.status.as_u16(), expected, "{login} → {image_org} {permission}");
            }
            let part = Answer::of(actor.get(&path).header("range", "bytes=0-0")).await;
            assert_eq!(part.status.as_u16(), if expected == 200 { 206 } else { expected });
        }
    }
}
