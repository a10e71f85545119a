//! SVG, where an org accepts it: what it shows is stored, and nothing else of it.

use imagewell_core::model::{Namespace, NamespaceRules};
use imagewell_core::provision::{self, NamespacePlan, Plan};

use crate::app::{Answer, TestApp};
use crate::dropbox::seen;
use crate::file_service::{FileAnswer as _, Machine};
use crate::native::{basic, problem, show};

const LOGO: &str = "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 20 10' onload='alert(1)'>\
    <script>alert(1)</script><rect width='20' height='10' fill='#1f6feb'/></svg>";

async fn accept_svg(app: &TestApp, accepts: bool) -> usize {
    let plan = Plan { accept_svg: vec![("acme".into(), accepts)], ..Plan::default() };
    provision::apply(&app.service.app, plan).await.expect("applies").len()
}

#[tokio::test]
async fn a_drawing_is_stored_as_what_it_shows_where_the_org_accepts_it() {
    let app = TestApp::start().await;
    let (ada, eve) = (app.actor("ada").await, app.actor("eve").await);
    let before = app.stored().await;
    ada.upload(LOGO.into()).await.refused(422, "\"E_INVALIDPARAMS\"");
    assert_eq!(app.stored().await, before);
    assert_eq!((accept_svg(&app, true).await, accept_svg(&app, true).await), (1, 0), "once more changes nothing");
    let uuid = ada.upload(LOGO.into()).await.uuid();
    let read = ada.read(&uuid).await;
    assert_eq!((read.status.as_u16(), read.header("content-type")), (200, "image/png"));
    assert!(!read.body.windows(5).any(|window| window == b"alert"));
    assert_eq!(seen(&read, 1000, 500), (2048, 1024, [0x1F, 0x6F, 0xEB]));
    assert_eq!(seen(&Answer::of(ada.get(&format!("/i/{uuid}/w_64,f_png"))).await, 30, 15), (64, 32, [0x1F, 0x6F, 0xEB]));
    // A file's name says what is stored.
    let till = Machine::till(&app, "till01");
    let handle = till.upload("logo.png", LOGO.into()).await.file()["file_handle"].as_str().expect("handle").to_owned();
    assert_eq!(seen(&show(&app, Some(basic("reader")), &format!("/i/{handle}/w_20")).await, 0, 0).0, 20);
    let before = app.stored().await;
    eve.upload(LOGO.into()).await.refused(422, "\"E_INVALIDPARAMS\"");
    let broken = ada.upload("<svg xmlns='http://www.w3.org/2000/svg'><rect".into()).await.refused(422, "\"E_INVALIDPARAMS\"");
    assert!(broken["data"]["reason"].as_str().expect("reason").contains("can't be drawn"), "{broken}");
    let large =
        format!("<svg xmlns='http://www.w3.org/2000/svg' width='1' height='1'><desc>{}</desc></svg>", "x".repeat(5_000_000));
    ada.upload(large.into()).await.refused(422, "\"E_INVALIDPARAMS\"");
    assert_eq!(app.stored().await, before);
    assert_eq!(accept_svg(&app, false).await, 1);
    ada.upload(LOGO.into()).await.refused(422, "\"E_INVALIDPARAMS\"");
    assert_eq!(app.stored().await, before);
    problem(&show(&app, None, &format!("/i/{uuid}/w_64")).await, 401);
}

/// A few bytes can draw a large picture: what is stored is bounded, and not what was sent.
#[tokio::test]
async fn a_drawing_is_bounded_by_the_bytes_of_its_picture() {
    let app = TestApp::with(&[("workers.drawing_seconds_max", "30")]).await;
    accept_svg(&app, true).await;
    let noise = "<svg xmlns='http://www.w3.org/2000/svg' width='300' height='300'><filter id='f'>\
        <feTurbulence baseFrequency='0.9'/></filter><rect width='60' height='60' filter='url(#f)'/></svg>";
    let rules = NamespaceRules { bytes_max: Some(100_000), ..NamespaceRules::plain(Namespace::parse("rewards").expect("name")) };
    let plan = Plan { namespaces: vec![NamespacePlan { org: "acme".into(), rules }], ..Plan::default() };
    provision::apply(&app.service.app, plan).await.expect("applies");
    let till = Machine::till(&app, "till01");
    let before = app.stored().await;
    assert!(till.upload("noise.png", noise.into()).await.failed(413).contains("100000 bytes"));
    assert_eq!(app.stored().await, before);
    till.upload("logo.png", LOGO.into()).await.file();
}
