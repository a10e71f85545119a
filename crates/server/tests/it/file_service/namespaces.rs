//! Namespaces as provisioned, each with rules of its own.

use imagewell_core::model::{Namespace, NamespaceRules};
use imagewell_core::provision::{self, NamespacePlan};
use imagewell_imaging::Format;
use serde_json::json;

use super::{FileAnswer as _, Machine, open};
use crate::app::{Answer, FOLDER, TestApp, plan};
use crate::fixtures::{photograph, png, png_of_bytes, testdata};

async fn provision(app: &TestApp, rules: NamespaceRules) {
    let mut plan = plan();
    plan.namespaces = vec![NamespacePlan { org: "acme".into(), rules }];
    provision::apply(&app.service.app, plan).await.expect("applies");
}

fn rules(name: &str) -> NamespaceRules {
    NamespaceRules::plain(Namespace::parse(name).expect("name"))
}

async fn upload(machine: &Machine, path: &str, bytes: Vec<u8>) -> Answer {
    Answer::of(machine.request("POST", path).body(bytes)).await
}

#[tokio::test]
async fn a_namespace_is_the_orgs_own_and_names_are_apart() {
    let app = TestApp::start().await;
    let till = Machine::till(&app, "till01");
    upload(&till, "brands/a.png", png(8, 8, 1)).await.failed(404);
    provision(&app, rules("brands")).await;
    let file = upload(&till, "brands/a.png", png(8, 8, 1)).await.file();
    assert!(file["s3_token"].as_str().expect("key").starts_with("brands/100606/"));
    assert_eq!(upload(&till, "rewards/a.png", png(8, 8, 2)).await.file()["version"], 1);
    assert_ne!(till.send("GET", "rewards/a.png").await.file()["file_handle"], file["file_handle"]);
    let other = Machine::till(&app, "till02");
    assert!(upload(&other, "brands/a.png", png(8, 8, 1)).await.failed(404).contains("no such namespace"));
}

#[tokio::test]
async fn it_may_have_limits_formats_and_a_zone_of_its_own() {
    let app = TestApp::start().await;
    let till = Machine::till(&app, "till01");
    let strict = NamespaceRules {
        bytes_max: Some(5000),
        formats: vec![Format::Png, Format::WebP],
        time_zone: Some("+05:30".into()),
        ..rules("brands")
    };
    provision(&app, strict).await;
    let before = app.stored().await;
    assert!(upload(&till, "brands/a.png", png_of_bytes(5000, 1)).await.failed(413).contains("5000"));
    let message = upload(&till, "brands/a.jpg", photograph()).await.failed(400);
    assert!(message.contains("the namespace brands takes PNG, WebP, and the name says JPEG"), "{message}");
    upload(&till, "brands/a.jpg", Vec::new()).await.failed(400);
    assert_eq!(app.stored().await, before);
    upload(&till, "rewards/a.jpg", photograph()).await.file();

    let there = upload(&till, "brands/a.png", png_of_bytes(4999, 1)).await.file();
    let here = upload(&till, "rewards/a.png", png(8, 8, 1)).await.file();
    let read = |file: &serde_json::Value| -> jiff::civil::DateTime {
        jiff::civil::DateTime::strptime("%Y-%m-%d %H:%M:%S", file["last_modified"].as_str().expect("text")).expect("time")
    };
    let apart = read(&there).duration_since(read(&here)).as_secs();
    assert!((19_798..=19_801).contains(&apart), "five and a half hours: {apart}");
    let listed = till.send("GET", "brands/a.png/versions").await.json()["versions"][0]["file"]["last_modified"].clone();
    assert_eq!(listed, there["last_modified"]);

    // A change of the rules acts at once.
    provision(&app, rules("brands")).await;
    upload(&till, "brands/a.jpg", photograph()).await.file();
}

#[tokio::test]
async fn a_verbatim_namespace_keeps_bytes_unseen_and_serves_them_inertly() {
    let app = TestApp::with(&[FOLDER]).await;
    let till = Machine::till(&app, "till01");
    provision(&app, NamespaceRules { verbatim: true, ..rules("raw") }).await;
    let script = b"<script>alert(1)</script>".to_vec();
    let bent = testdata("photos/astronaut-512.jpg")[..1000].to_vec();
    for bytes in [script, bent, b"@/Users/x.png".to_vec(), photograph()] {
        let answer = upload(&till, "raw/a.png", bytes.clone()).await;
        assert_eq!(answer.file()["content_type"], "image/png", "what the name says");
        let read = open(&answer.link()).await;
        assert!(read.body == bytes);
        assert_eq!((read.header("content-type"), read.header("x-content-type-options")), ("image/png", "nosniff"));
        assert!(read.header("content-disposition").starts_with("attachment"), "nobody has looked at it");
        assert!(read.header("content-security-policy").contains("sandbox"));
    }
    assert_eq!(upload(&till, "raw/a.png", Vec::new()).await.file()["fileSize"], json!("0"));
    assert!(upload(&till, "raw/a.exe", photograph()).await.failed(400).contains("extension"));
}
