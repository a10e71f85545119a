//! Any image at any size, whichever API it came in through, for whoever may see it.

use reqwest::Client;

use crate::app::{Answer, TestApp};
use crate::dropbox::{GREEN, Portal, RED, alike, seen, stripes};
use crate::file_service::{FileAnswer as _, Machine, open, s3_error};
use crate::fixtures::png_claiming;

/// Asserts problem details (RFC 9457) and gives the detail.
#[track_caller]
pub fn problem(answer: &Answer, status: u16) -> String {
    assert_eq!(
        (answer.status.as_u16(), answer.header("content-type")),
        (status, "application/problem+json"),
        "{}",
        answer.text()
    );
    let problem = answer.json();
    assert_eq!(problem["status"], status);
    problem["detail"].as_str().expect("detail").to_owned()
}

pub async fn show(app: &TestApp, header: Option<(&str, String)>, path: &str) -> Answer {
    let request = Client::new().get(app.url(path));
    Answer::of(match header {
        Some((name, value)) => request.header(name, value),
        None => request,
    })
    .await
}

pub fn basic(id: &str) -> (&'static str, String) {
    use base64::Engine as _;
    let credentials = format!("{id}:{}", crate::file_service::PASSWORD_MD5);
    ("authorization", format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(credentials)))
}

pub async fn handle(machine: &Machine, name: &str, bytes: Vec<u8>) -> String {
    machine.upload(name, bytes).await.file()["file_handle"].as_str().expect("handle").to_owned()
}

#[tokio::test]
async fn images_of_every_api_are_shown_at_any_size_to_those_who_may_see_them() {
    let app = TestApp::start().await;
    let (ada, bob, eve) = (app.actor("ada").await, app.actor("bob").await, app.actor("eve").await);
    let portal = ada.upload(stripes(300, 150)).await.uuid();
    let file = handle(&Machine::till(&app, "till01"), "a.png", stripes(300, 150)).await;

    let shown = Answer::of(ada.get(&format!("/i/{portal}/w_100"))).await;
    assert_eq!(seen(&shown, 50, 25), (100, 50, seen(&shown, 50, 25).2));
    assert!(shown.header("cache-control").starts_with("private") && !shown.headers.contains_key("set-cookie"));
    let cover = Answer::of(ada.get(&format!("/i/{portal}/fit_cover,h_80,w_40/any-name.jpg"))).await;
    let (width, height, colour) = seen(&cover, 20, 40);
    assert!((width, height) == (40, 80) && alike(colour, GREEN));
    let by_till = show(&app, Some(basic("reader")), &format!("/i/{file}/w_60,f_png")).await;
    assert_eq!((by_till.header("content-type"), seen(&by_till, 0, 0).0), ("image/png", 60));
    let token = crate::file_service::token(&app, "catalogue").await;
    assert_eq!(show(&app, Some(("x-cap-api-oauth-token", token)), &format!("/i/{file}/original")).await.status.as_u16(), 200);

    let before = app.stored().await;
    problem(&Answer::of(bob.get(&format!("/i/{portal}/w_101"))).await, 403);
    problem(&Answer::of(eve.get(&format!("/i/{portal}/w_101"))).await, 404);
    problem(&Answer::of(ada.get(&format!("/i/{file}/w_101"))).await, 403);
    problem(&show(&app, Some(basic("reader")), &format!("/i/{portal}/w_101")).await, 403);
    problem(&show(&app, Some(basic("till02")), &format!("/i/{file}/w_101")).await, 404);
    for id in [portal.as_str(), file.as_str(), "73e78929-1e07-4cc5-a738-b54470a7dc8c"] {
        problem(&show(&app, None, &format!("/i/{id}/w_101")).await, 401);
    }
    problem(&show(&app, Some(("authorization", "Bearer a.b.c".into())), &format!("/i/{file}/w_101")).await, 401);
    assert_eq!(app.stored().await, before);
}

#[tokio::test]
async fn steps_in_any_order_are_one_rendering_and_nonsense_is_refused() {
    let app = TestApp::start().await;
    let ada = app.actor("ada").await;
    let uuid = ada.upload(stripes(300, 150)).await.uuid();
    let mut tags = std::collections::BTreeSet::new();
    for steps in ["w_50,h_20,fit_cover", "fit_cover,h_20,w_50", "h_20,f_auto,fit_cover,w_50", "w_25,h_10,dpr_2,fit_cover"] {
        tags.insert(Answer::of(ada.get(&format!("/i/{uuid}/{steps}"))).await.header("etag").to_owned());
    }
    assert_eq!(tags.len(), 1);
    let before = app.stored().await;
    assert_eq!(before.files.len(), 2, "the original and one rendering");
    for (steps, reason) in
        [("x_1", "no step"), ("w_0", "pixels"), ("w_5000", "at most 4096"), ("w_1,w_2", "twice"), ("fit_cover", "needs")]
    {
        assert!(problem(&Answer::of(ada.get(&format!("/i/{uuid}/{steps}"))).await, 400).contains(reason), "{steps}");
    }
    for path in ["/i/nonsense/w_1".to_owned(), format!("/i/{uuid}@0/w_1"), format!("/i/{uuid}@x/w_1"), format!("/i/{uuid}@2/w_1")]
    {
        problem(&Answer::of(ada.get(&path)).await, 404);
    }
    assert_eq!(app.stored().await, before);
    let broken = ada.upload(png_claiming(300, 300)).await.uuid();
    assert!(problem(&Answer::of(ada.get(&format!("/i/{broken}/w_10"))).await, 422).contains("can't be rendered"));
}

#[tokio::test]
async fn the_format_is_what_the_client_reads() {
    let app = TestApp::start().await;
    let ada = app.actor("ada").await;
    let uuid = ada.upload(stripes(300, 150)).await.uuid();
    let get = async |accept: &str, steps: &str| Answer::of(ada.get(&format!("/i/{uuid}/{steps}")).header("accept", accept)).await;
    for (accept, steps, expected) in [
        ("*/*", "w_50", "image/jpeg"),
        ("image/webp,*/*", "w_50", "image/webp"),
        ("image/avif,image/webp,*/*", "w_50", "image/webp"),
        ("*/*", "w_50,f_avif", "image/avif"),
        ("*/*", "w_50,f_gif", "image/gif"),
        ("image/png", "w_50", "image/png"),
        ("image/webp", "w_50,f_auto", "image/webp"),
        ("image/png", "w_50,f_jpeg", "image/jpeg"),
        ("image/png", "w_50,f_webp", "image/webp"),
    ] {
        let answer = get(accept, steps).await;
        assert_eq!(answer.header("content-type"), expected, "{accept} {steps}");
        let varies = answer.headers.get_all("vary").iter().any(|value| value == "Accept");
        assert_eq!(varies, !steps.contains("f_") || steps.contains("auto"), "{steps}");
    }
    assert!(get("*/*", "w_300,q_10").await.body.len() < get("*/*", "w_300,q_95").await.body.len());
}

#[tokio::test]
async fn versions_have_addresses_and_deleted_ones_are_gone() {
    let app = TestApp::start().await;
    let till = Machine::till(&app, "till01");
    let id = handle(&till, "a.png", stripes(60, 60)).await;
    till.upload("a.png", stripes(90, 90)).await.file();
    let width = async |version: &str| show(&app, Some(basic("reader")), &format!("/i/{id}{version}/original")).await;
    assert_eq!(
        (seen(&width("").await, 0, 0).0, seen(&width("@1").await, 0, 0).0, seen(&width("@2").await, 0, 0).0),
        (90, 60, 90)
    );
    till.send("DELETE", "rewards/a.png?version=2").await.file();
    assert_eq!(seen(&width("").await, 0, 0).0, 60, "at once");
    problem(&width("@2").await, 404);
    till.send("DELETE", "rewards/a.png").await.file();
    problem(&width("").await, 404);
    problem(&width("@1").await, 404);
}

/// No address that a stranger guesses costs a rendering.
#[tokio::test]
async fn strangers_see_public_images_as_they_are_and_at_no_other_size() {
    let app = TestApp::start().await;
    let till = Machine::till(&app, "till01");
    let id = handle(&till, "a.png", stripes(60, 60)).await;
    problem(&show(&app, None, &format!("/i/{id}/original")).await, 401);
    Answer::of(till.request("PUT", "rewards/a.png/acl").body("PUBLIC")).await.file();
    let public = show(&app, None, &format!("/i/{id}/original")).await;
    assert_eq!((seen(&public, 0, 0).0, public.header("cache-control")), (60, "public, max-age=2, stale-while-revalidate=3"));
    let before = app.stored().await;
    problem(&show(&app, None, &format!("/i/{id}/w_10")).await, 403);
    problem(&show(&app, Some(basic("till02")), &format!("/i/{id}/w_10")).await, 403);
    assert_eq!(app.stored().await, before);
    Answer::of(till.request("PUT", "rewards/a.png/acl").body("PRIVATE")).await.file();
    problem(&show(&app, None, &format!("/i/{id}/original")).await, 401);
}

#[tokio::test]
async fn presets_are_for_everybody_who_may_see_the_image() {
    use imagewell_core::model::Preset;
    use imagewell_core::provision::{self, PresetPlan};
    let app = TestApp::start().await;
    let till = Machine::till(&app, "till01");
    let id = handle(&till, "a.png", stripes(300, 150)).await;
    let card = format!("/i/{id}/p_card");
    problem(&show(&app, Some(basic("reader")), &card).await, 404);
    let provision = async |steps: &str| {
        let preset =
            PresetPlan { org: "acme".into(), preset: Preset { name: "card".into(), steps: steps.into(), prewarm: false } };
        let plan = provision::Plan { presets: vec![preset], ..provision::Plan::default() };
        provision::apply(&app.service.app, plan).await.expect("applies").len()
    };
    assert_eq!(provision("w_60,h_40,fit_cover").await, 1);
    assert_eq!(provision("w_60,h_40,fit_cover").await, 0, "once more changes nothing");
    assert_eq!(seen(&show(&app, Some(basic("reader")), &card).await, 0, 0).0, 60);
    let same = show(&app, Some(basic("reader")), &format!("/i/{id}/h_40,w_60,fit_cover")).await;
    assert_eq!(same.header("etag"), show(&app, Some(basic("reader")), &card).await.header("etag"), "the same rendering");
    problem(&show(&app, None, &card).await, 401);
    Answer::of(till.request("PUT", "rewards/a.png/acl").body("PUBLIC")).await.file();
    assert_eq!(seen(&show(&app, None, &card).await, 0, 0).0, 60);
    problem(&show(&app, None, &format!("/i/{id}/p_other")).await, 404);
    problem(&show(&app, None, &format!("/i/{id}/w_60,h_40,fit_cover")).await, 403);
    // Another org's preset of that name is another one; a change acts at once.
    let theirs = handle(&Machine::till(&app, "till02"), "a.png", stripes(30, 30)).await;
    problem(&show(&app, Some(basic("till02")), &format!("/i/{theirs}/p_card")).await, 404);
    assert_eq!(provision("w_90").await, 1);
    assert_eq!(seen(&show(&app, None, &card).await, 0, 0).0, 90);
}

/// What waits in the dropbox is seen by its number alone; once taken it is an image like any other, and keeps its crop.
#[tokio::test]
async fn temporary_pictures_have_no_address_here_and_crops_are_obeyed() {
    let app = TestApp::start().await;
    let ada = Portal::user(&app, "ada").await;
    let ticket = ada.ticket(stripes(90, 90)).await;
    ada.crop(&ticket, "x=0&y=0&w=100&h=100").await;
    let (id,): (String,) = app.row("SELECT id FROM images").await;
    let root = app.actor("root").await;
    problem(&Answer::of(root.get(&format!("/i/{id}/w_20"))).await, 404);
    ada.take("users/ada", &ticket).await;
    let shown = Answer::of(root.get(&format!("/i/{id}/w_20,h_20,fit_cover"))).await;
    assert!(alike(seen(&shown, 10, 10).2, RED));
}

/// The session of somebody is of no use to a page of another site.
#[tokio::test]
async fn other_sites_can_not_embed_what_is_private() {
    let app = TestApp::start().await;
    let ada = app.actor("ada").await;
    let uuid = ada.upload(stripes(60, 60)).await.uuid();
    let foreign = ada.get(&format!("/i/{uuid}/w_20")).header("sec-fetch-site", "cross-site").header("sec-fetch-mode", "no-cors");
    problem(&Answer::of(foreign).await, 401);
    s3_error(&open(&app.url("/imagewell/opsportal-images/100606/x.png")).await, 403, "AccessDenied");
}
