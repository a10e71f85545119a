//! The documents match the code. `UPDATE_DOCS=1 cargo test -p imagewell docs::` writes the generated ones anew.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use imagewell::config::{self, Settings, environment_name};
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

/// Words of the documents and examples of operating that begin like this.
fn words<'t>(text: &'t str, begin: &str) -> Vec<&'t str> {
    let is_part = |character: char| character.is_ascii_alphanumeric() || character == '_';
    text.split(|character| !is_part(character)).filter(|word| word.starts_with(begin)).collect()
}

#[test]
fn what_operators_are_told_exists() {
    let read = |name: &str| std::fs::read_to_string(document(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    let text = read("docs/operating.md");
    let deployed = ["compose.yaml", "imagewell.service", "imagewell.toml"].map(|name| read(&format!("deploy/{name}"))).concat();
    let entries = Settings::entries();
    let variables: BTreeSet<String> = entries.iter().map(|entry| environment_name(&entry.key)).collect();
    let mut named = 0;
    for word in words(&text, "IMAGEWELL_").into_iter().chain(words(&deployed, "IMAGEWELL_")) {
        assert!(variables.contains(word) || variables.contains(word.trim_end_matches("_FILE")), "there is no {word}");
        named += 1;
    }
    let sections: BTreeSet<&str> = entries.iter().filter_map(|entry| Some(entry.key.split_once('.')?.0)).collect();
    for quoted in text.split('`').skip(1).step_by(2) {
        if quoted.split_once('.').is_some_and(|(section, name)| sections.contains(section) && !name.contains(' ')) {
            assert!(entries.iter().any(|entry| entry.key == quoted), "there is no setting {quoted}");
            named += 1;
        }
    }
    assert!(named > 30, "only {named} settings are named");
    let mut settings = Settings::default();
    settings.read_file(&document("deploy/imagewell.toml")).expect("every line is a setting");

    let sources: String = ["crates/core/src", "crates/server/src"].iter().map(|folder| code_below(&document(folder))).collect();
    for metric in words(&text, "imagewell_") {
        assert!(
            metric.starts_with("imagewell_core") || sources.contains(&format!("\"{metric}\"")),
            "there is no metric {metric}"
        );
    }
    let file = document("deploy/nginx.conf").canonicalize().expect("exists");
    let checked =
        Command::new("sh").args(["-c", "PATH=$PATH:/usr/sbin nginx -t -c \"$0\" 2>&1"]).arg(file).output().expect("runs");
    let said = String::from_utf8_lossy(&checked.stdout);
    assert!(said.contains("syntax is ok"), "{said}");
}

/// Who can take how much is told in figures, which are the defaults.
#[test]
fn the_figures_of_the_trust_table_are_the_defaults() {
    let text = std::fs::read_to_string(document("docs/trust.md")).expect("docs/trust.md");
    let Settings { server, uploads, workers, multipart, scrub, .. } = Settings::default();
    let megapixels = |pixels: u64| pixels / 1_000_000;
    let mib = |bytes: u64| bytes / (1024 * 1024);
    let thousands = |number: usize| format!("{},{:03}", number / 1000, number % 1000);
    let upload_bytes = uploads.memory_bytes_max as u64 * uploads.concurrent_max as u64;
    for figure in [
        format!("{} KiB of text and {} parameters a request", multipart.text_bytes_max / 1024, multipart.parts_max),
        format!(
            "{} an address, {} in all; {} s until the first request, {} s idle",
            server.connections_per_address_max,
            thousands(server.connections_max),
            server.header_timeout_seconds,
            server.idle_timeout_seconds
        ),
        format!("| {} an address, behind a trusted proxy the client's", server.requests_per_address_max),
        format!("{} an account, {} an org, {} in all", uploads.open_per_account_max, uploads.open_per_org_max, uploads.open_max),
        format!("| {}, each short", uploads.concurrent_max),
        format!("{} MiB in all, 64 KiB for each once it is slow", mib(upload_bytes)),
        format!(
            "{} KiB a second after {} s, {} s of silence, {} s in all",
            server.body_bytes_per_second_min / 1024,
            server.body_rate_grace_seconds,
            server.body_idle_timeout_seconds,
            server.body_timeout_seconds
        ),
        format!(
            "one org all of them ({}), each for {} s",
            ["none", "one", "two"][workers.concurrent_max],
            workers.time_seconds_max
        ),
        format!("{} MiB for all, by estimate", mib(workers.memory_bytes_max)),
        format!("{}, of which {} for one org, {} s each", workers.queue_max, workers.queue_per_org_max, workers.wait_seconds_max),
        format!(
            "AVIF of {} and lossless WebP of {} megapixels",
            megapixels(workers.avif_pixels_max),
            megapixels(workers.lossless_webp_pixels_max)
        ),
        format!("{} s for an SVG", workers.drawing_seconds_max),
        format!("of low priority, {} s each", workers.look_seconds_max),
        format!("{} MiB a second on one node", mib(scrub.bytes_per_second_max)),
    ] {
        assert!(text.contains(&figure), "docs/trust.md does not say {figure:?}");
    }
}

fn code_below(folder: &Path) -> String {
    let entries = std::fs::read_dir(folder).expect("folder").flatten().map(|entry| entry.path());
    entries
        .map(|path| if path.is_dir() { code_below(&path) } else { std::fs::read_to_string(path).unwrap_or_default() })
        .collect()
}
