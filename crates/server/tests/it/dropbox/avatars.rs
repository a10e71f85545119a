//! Resources take pictures, show them, keep earlier ones, and go back to the default.

use serde_json::json;

use super::{GREEN, PICTURES, Portal, RED, alike, refused, seen, stripes};
use crate::app::{Answer, TestApp};
use crate::fixtures::png;

fn number(answer: &Answer) -> String {
    assert_eq!(answer.status.as_u16(), 200, "{}", answer.text());
    answer.json()["AvatarVersionID"].as_str().expect("text").to_owned()
}

/// Whether it is drawn by the service: what is stored has a tag.
fn is_default(answer: &Answer) -> bool {
    assert_eq!((answer.status.as_u16(), &answer.header("content-type")[..6]), (200, "image/"));
    answer.header("etag").is_empty()
}

#[tokio::test]
async fn a_resource_takes_a_picture_and_keeps_the_earlier_ones() {
    let app = TestApp::start().await;
    let ada = Portal::user(&app, "ada").await;
    let first = ada.ticket(stripes(90, 90)).await;
    ada.crop(&first, "x=0&y=0&w=100&h=100").await;
    assert_eq!(number(&ada.take("users/ada", &first).await), "1");
    refused(&ada.get(&format!("{PICTURES}/{first}")).await, 404);
    refused(&ada.take("users/ada", &first).await, 404);
    refused(&ada.crop(&first, "x=0&y=0&w=100&h=100").await, 404);
    let avatar = ada.get("/api/users/ada/avatar?size=64").await;
    assert!(alike(seen(&avatar, 32, 32).2, RED), "the crop came along");
    assert!(avatar.header("cache-control").starts_with("private"));

    let second = ada.ticket(stripes(90, 90)).await;
    let by_number =
        ada.change("PUT", "/api/users/ada/avatar").json(&json!({ "PictureID": second.parse::<u64>().expect("number") }));
    assert_eq!(number(&Answer::of(by_number).await), "2");
    assert!(alike(seen(&ada.get("/api/users/ada/avatar?size=64").await, 32, 32).2, GREEN));
    let earlier = ada.get("/api/users/ada/avatars/1.png?size=64").await;
    assert_eq!(earlier.header("content-type"), "image/png");
    assert!(alike(seen(&earlier, 32, 32).2, RED));
    for path in ["1", "1.jpg", "3.png", "x.png", "0.png"] {
        refused(&ada.get(&format!("/api/users/ada/avatars/{path}")).await, 404);
    }
    // Others of the org see it; nobody else does.
    let vera = Portal::user(&app, "vera").await;
    assert!(alike(seen(&vera.get("/api/users/ada/avatar?size=64").await, 32, 32).2, GREEN));
    refused(&Portal::visitor(&app).get("/api/users/ada/avatar").await, 401);
    let elsewhere = Portal::user(&app, "eve").await.get("/api/users/ada/avatar").await;
    assert!(is_default(&elsewhere), "another org's ada is another ada");
}

#[tokio::test]
async fn without_a_picture_there_are_initials_on_a_colour() {
    let app = TestApp::start().await;
    let ada = Portal::user(&app, "ada").await;
    let path = "/api/users/ada.lovelace@example.com/avatar?size=96";
    let drawn = ada.get(path).await;
    assert_eq!((drawn.header("content-type"), drawn.header("vary")), ("image/png", "Accept"));
    let (width, height, corner) = seen(&drawn, 0, 0);
    assert_eq!((width, height), (96, 96));
    let picture = image::load_from_memory(&drawn.body).expect("a picture").into_rgb8();
    let white = picture.pixels().filter(|pixel| pixel.0 == [255; 3]).count();
    assert!((500..2500).contains(&white) && corner != [255; 3], "{white} white pixels of two letters");
    assert_eq!(ada.get(path).await.body, drawn.body, "the same every time");
    assert_ne!(ada.get("/api/apps/ada.lovelace@example.com/avatar?size=96").await.body, drawn.body);
    let asked = async |accept: &str| Answer::of(ada.request("GET", path).header("accept", accept)).await;
    for accept in ["*/*", "image/*", "image/png,image/webp;q=0.8", ""] {
        assert_eq!(asked(accept).await.body, drawn.body, "{accept}");
    }
    let vector = asked("image/avif,image/webp,image/svg+xml,*/*;q=0.8").await;
    assert_eq!(vector.header("content-type"), "image/svg+xml");
    assert!(vector.text().contains("aria-label=\"AL\"") && vector.text().contains("width=\"96\" height=\"96\""));
    assert!(vector.header("content-security-policy").contains("sandbox"));
    refused(&ada.get("/api/users/ada/avatar?size=0").await, 400);
    for path in ["/api/planets/1/avatar", "/api/users/..%2Fx/avatar", "/api/dropbox/1/avatar", "/api/users/%3Cb%3E/avatar"] {
        assert!(matches!(ada.get(path).await.status.as_u16(), 400 | 404), "{path}");
    }
}

#[tokio::test]
async fn a_picture_is_dropped_and_the_earlier_ones_stay() {
    let app = TestApp::start().await;
    let ada = Portal::user(&app, "ada").await;
    let ticket = ada.ticket(stripes(90, 90)).await;
    ada.take("users/ada", &ticket).await;
    refused(&Answer::of(Portal::user(&app, "bob").await.change("DELETE", "/api/users/ada/picture")).await, 403);
    refused(&Answer::of(ada.request("DELETE", "/api/users/ada/picture")).await, 401);
    assert_eq!(Answer::of(ada.change("DELETE", "/api/users/ada/picture")).await.status.as_u16(), 200);
    assert!(is_default(&ada.get("/api/users/ada/avatar").await));
    assert_eq!(ada.get("/api/users/ada/avatars/1.png").await.status.as_u16(), 200);
    assert_eq!(
        Answer::of(ada.change("DELETE", "/api/users/ada/picture")).await.status.as_u16(),
        200,
        "once more changes nothing"
    );
    let ticket = ada.ticket(stripes(90, 90)).await;
    assert_eq!(number(&ada.take("users/ada", &ticket).await), "3");
    assert_eq!(number(&ada.take("users/ada", "").await), "", "none is the default");
    assert!(is_default(&ada.get("/api/users/ada/avatar").await));
}

/// A delete can not lose: who finds the avatar dropped already has nothing to do. On PostgreSQL each takes a number of its own.
#[tokio::test]
async fn many_who_drop_an_avatar_at_once_all_succeed() {
    let app = TestApp::start().await;
    let ada = Portal::user(&app, "ada").await;
    for _ in 0..3 {
        let ticket = ada.ticket(stripes(90, 90)).await;
        ada.take("users/ada", &ticket).await;
        let drops = (0..8).map(|_| Answer::of(ada.change("DELETE", "/api/users/ada/picture")));
        for answer in futures_util::future::join_all(drops).await {
            assert_eq!(answer.status.as_u16(), 200, "{}", answer.text());
        }
        assert!(is_default(&ada.get("/api/users/ada/avatar").await));
    }
}

#[tokio::test]
async fn only_those_who_may_edit_a_resource_and_own_the_picture_take_it() {
    let app = TestApp::start().await;
    let (ada, bob) = (Portal::user(&app, "ada").await, Portal::user(&app, "bob").await);
    let (root, foreign) = (Portal::user(&app, "root").await, Portal::user(&app, "oroot").await);
    let ticket = ada.ticket(stripes(90, 90)).await;
    let before = app.stored().await;
    refused(&ada.take("users/bob", &ticket).await, 403);
    refused(&ada.take("apps/42", &ticket).await, 403);
    refused(&bob.take("users/bob", &ticket).await, 403);
    refused(&foreign.take("users/oroot", &ticket).await, 404);
    refused(&Portal::visitor(&app).take("users/ada", &ticket).await, 401);
    refused(&ada.take("users/ada", "1").await, 404);
    for body in [
        "",
        "{}",
        "{\"PictureID\":null}",
        "{\"PictureID\":true}",
        "{\"PictureID\":\"abc\"}",
        "{\"PictureID\":-1}",
        "{\"PictureID\":1.5}",
    ] {
        refused(&Answer::of(ada.change("PUT", "/api/users/ada/avatar").body(body)).await, 400);
    }
    assert_eq!(app.stored().await, before);
    assert_eq!(ada.get(&format!("{PICTURES}/{ticket}")).await.status.as_u16(), 200, "it still waits");
    assert_eq!(number(&root.take("apps/42", &ticket).await), "1");
    assert_eq!(ada.get("/api/apps/42/avatar?size=32").await.header("content-type"), "image/jpeg");
}

/// Row F17: of many who reach for one picture, one gets it, and the others' resources are as they were.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_two_resources_that_reach_for_one_picture_one_gets_it() {
    let app = TestApp::start().await;
    let root = Portal::user(&app, "root").await;
    for round in 0..8 {
        let ticket = root.ticket(png(16, 16, round)).await;
        let tries = (0..6).map(|index| {
            let (root, ticket) = (root.clone(), ticket.clone());
            tokio::spawn(async move { root.take(&format!("apps/{round}-{index}"), &ticket).await.status.as_u16() })
        });
        let mut statuses: Vec<u16> = Vec::new();
        for outcome in futures_util::future::join_all(tries).await {
            statuses.push(outcome.expect("answers"));
        }
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 404, 404, 404, 404, 404]);
        let mut shown = 0;
        for index in 0..6 {
            let avatar = root.get(&format!("/api/apps/{round}-{index}/avatar?size=16")).await;
            shown += usize::from(!is_default(&avatar));
        }
        assert_eq!(shown, 1);
    }
}

#[tokio::test]
async fn avatars_survive_a_restart_and_the_sweep() {
    let app = TestApp::with(&[("dropbox.ticket_ttl_seconds", "1")]).await;
    let ada = Portal::user(&app, "ada").await;
    let ticket = ada.ticket(stripes(90, 90)).await;
    ada.take("users/ada", &ticket).await;
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    let app = app.restart(&[]).await;
    imagewell_core::sweep::run(&app.service.app, imagewell_core::sweep::Mode::Remove, |_| {}).await.expect("sweeps");
    let ada = Portal::user(&app, "ada").await;
    assert!(alike(seen(&ada.get("/api/users/ada/avatar?size=64").await, 32, 32).2, GREEN));
}

#[tokio::test]
async fn a_person_is_one_resource_by_whatever_name() {
    let app = TestApp::start().await;
    let ada = Portal::user(&app, "ada").await;
    let (id,): (String,) = app.row("SELECT id FROM accounts WHERE login = 'ada' AND kind = 'user' AND org_id = 100606").await;
    for (round, taken_by) in ["users/ADA", "users/ada", &format!("users/{id}")].into_iter().enumerate() {
        let ticket = ada.ticket(stripes(90, 90)).await;
        assert_eq!(number(&ada.take(taken_by, &ticket).await), (round + 1).to_string(), "{taken_by}");
        for name in ["ada", "Ada", "ADA", &id] {
            let shown = ada.get(&format!("/api/users/{name}/avatars/{}.png", round + 1)).await;
            assert_eq!(shown.status.as_u16(), 200, "{name} after {taken_by}");
        }
    }
    assert_eq!(Answer::of(ada.change("DELETE", &format!("/api/users/{id}/picture"))).await.status.as_u16(), 200);
    assert!(is_default(&ada.get("/api/users/ada/avatar").await));
    // Other ids are an application's own.
    let ticket = ada.ticket(stripes(90, 90)).await;
    refused(&ada.take("users/Bob", &ticket).await, 403);
}
