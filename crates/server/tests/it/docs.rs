//! The documents match the code. `UPDATE_DOCS=1 cargo test -p imagewell docs::` writes the generated ones anew.

use std::collections::BTreeSet;
use std::path::PathBuf;

use imagewell::config;
use imagewell::router::openapi_json;

use crate::app::{Answer, TestApp};

fn document(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").join(name)
}

fn matches(name: &str, generated: &str) {
    let path = document(name);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, generated).expect("writes");
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == generated, "{name} is out of date: UPDATE_DOCS=1 cargo test -p imagewell docs:: writes it anew");
}

#[test]
fn the_settings_reference_is_up_to_date() {
    matches("docs/configuration.md", &config::reference());
}

#[test]
fn the_api_reference_is_up_to_date() {
    matches("docs/openapi.json", &openapi_json());
}

/// The router lists every route on one page; the reference lists the same, apart from the pages for people.
#[tokio::test]
async fn router_and_reference_name_the_same_routes() {
    let source = std::fs::read_to_string(document("crates/server/src/router.rs")).expect("reads");
    let pages = ["/", "/openapi.json", "/assets/{name}", "/demo", "/demo/avatar", "/demo/transforms"];
    let routed: BTreeSet<&str> =
        source.split(".route(").skip(1).filter_map(|rest| rest.split('"').nth(1)).filter(|path| !pages.contains(path)).collect();
    let reference: serde_json::Value = serde_json::from_str(&openapi_json()).expect("json");
    let documented: BTreeSet<&str> = reference["paths"].as_object().expect("paths").keys().map(String::as_str).collect();
    assert_eq!(routed, documented);
    let app = TestApp::start().await;
    for (path, operations) in reference["paths"].as_object().expect("paths") {
        for method in operations.as_object().expect("operations").keys() {
            let answer = Answer::of(app.visitor().request(&method.to_uppercase(), &path.replace(['{', '}'], ""))).await;
            assert_ne!(answer.status.as_u16(), 405, "{method} {path}");
        }
    }
}
