//! The rules of ARCHITECTURE.md that a reader of source can check.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("repository")
}

/// Source files below a folder, with their text and their path from the root.
fn sources(folder: &str) -> Vec<(String, String)> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).expect("folder").flatten() {
            let path = entry.path();
            if path.is_dir() {
                if !path.ends_with("target") && !path.ends_with("node_modules") {
                    walk(&path, found);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&root().join(folder), &mut found);
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).expect("reads");
        (path.strip_prefix(root()).expect("inside").to_string_lossy().into_owned(), text)
    };
    found.into_iter().map(read).collect()
}

/// Code without its tests, comments and documentation.
fn code(text: &str) -> String {
    let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

fn nowhere_but(folder: &str, allowed: &[&str], forbidden: &[&str]) {
    for (path, text) in sources(folder) {
        if allowed.iter().any(|prefix| path.starts_with(prefix)) {
            continue;
        }
        let code = code(&text);
        for word in forbidden {
            assert!(!code.contains(word), "{path} must not use {word}");
        }
    }
}

#[test]
fn only_the_server_knows_http_json_and_html() {
    for manifest in ["crates/core/Cargo.toml", "crates/imaging/Cargo.toml", "crates/pixels/Cargo.toml"] {
        let text = std::fs::read_to_string(root().join(manifest)).expect("reads");
        for word in ["axum", "hyper", "http", "serde_json", "maud", "clap", "toml."] {
            assert!(!text.lines().any(|line| line.starts_with(word)), "{manifest} must not depend on {word}");
        }
    }
    for manifest in ["crates/imaging/Cargo.toml", "crates/pixels/Cargo.toml"] {
        let text = std::fs::read_to_string(root().join(manifest)).expect("reads");
        for word in ["tokio", "tracing", "imagewell-core", "object_store", "sqlx"] {
            assert!(!text.lines().any(|line| line.starts_with(word)), "{manifest} must not depend on {word}");
        }
    }
    let core = std::fs::read_to_string(root().join("crates/core/Cargo.toml")).expect("reads");
    assert!(!core.contains("imagewell.workspace"), "core must not depend on the server");
}

#[test]
fn sql_stands_in_the_database_module_alone() {
    nowhere_but("crates/core/src", &["crates/core/src/db/"], &["sqlx", "SELECT ", "INSERT INTO"]);
    nowhere_but("crates/server/src", &[], &["sqlx", "SELECT ", "INSERT INTO"]);
}

#[test]
fn paths_stand_in_storage_spool_and_durable_alone() {
    let allowed = ["storage/", "spool.rs", "durable.rs", "db/plans.rs"].map(|file| format!("crates/core/src/{file}"));
    let allowed = allowed.each_ref().map(String::as_str);
    nowhere_but("crates/core/src", &allowed, &["std::fs", "tokio::fs", "File::"]);
    for crate_of_pictures in ["crates/imaging/src", "crates/pixels/src"] {
        nowhere_but(crate_of_pictures, &[], &["std::fs", "std::env", "std::net", "SystemTime", "Instant"]);
    }
    nowhere_but("crates/server/src/api", &[], &["std::fs", "tokio::fs", "PathBuf"]);
}

#[test]
fn no_api_names_another() {
    let apis: BTreeSet<String> = std::fs::read_dir(root().join("crates/server/src/api"))
        .expect("folder")
        .flatten()
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    for api in &apis {
        for (path, text) in sources(&format!("crates/server/src/api/{api}")) {
            for other in apis.iter().filter(|other| *other != api) {
                assert!(!code(&text).contains(&format!("api::{other}")), "{path} must not name {other}");
            }
        }
    }
}

#[test]
fn files_fit_in_the_head() {
    for (path, text) in sources("crates") {
        assert!(text.lines().count() <= 520, "{path} has {} lines: give it rooms", text.lines().count());
        assert!(
            !path
                .split('/')
                .any(|part| matches!(part.trim_end_matches(".rs"), "util" | "utils" | "common" | "helpers" | "manager"))
        );
    }
}

#[test]
fn nothing_is_left_for_later_and_no_machine_is_named() {
    // Put together here, so that this file doesn't find itself.
    let words =
        [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("unimple", "mented!"), concat!("/ro", "ot/"), concat!("/wo", "rk/")];
    for (path, text) in sources("crates") {
        for word in words {
            assert!(!text.contains(word), "{path} has {word}");
        }
    }
}

#[test]
fn every_test_that_the_trust_table_names_exists() {
    let table = std::fs::read_to_string(root().join("docs/trust.md")).expect("docs/trust.md");
    let all: String = sources("crates").into_iter().map(|(_, text)| text).collect();
    let e2e: String = ["webix.spec.js", "demo.spec.js", "dropbox.spec.js"]
        .map(|name| std::fs::read_to_string(root().join("tests/e2e").join(name)).expect("reads"))
        .concat();
    let clients = std::fs::read_to_string(root().join("tests/clients/clients.py")).expect("reads");
    let mut named = 0;
    for line in table.lines().filter(|line| line.starts_with("| ")) {
        let Some(tests) = line.trim_end_matches('|').rsplit(" | ").next() else { continue };
        for test in tests.split('`').skip(1).step_by(2) {
            let exists = all.contains(&format!("fn {test}("))
                || e2e.contains(&format!("test(\"{test}\""))
                || clients.contains(&format!("def test_{test}("))
                || root().join(test).exists();
            assert!(exists, "docs/trust.md names {test}, which is no test");
            named += 1;
        }
    }
    assert!(named > 90, "only {named} tests are named");
}

#[test]
fn the_changelog_knows_this_version() {
    let changelog = std::fs::read_to_string(root().join("CHANGELOG.md")).expect("CHANGELOG.md");
    assert!(changelog.contains(&format!("## {}", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn every_step_of_the_tests_stands_in_contributing() {
    let steps = std::fs::read_to_string(root().join("scripts/steps")).expect("scripts/steps");
    let contributing = std::fs::read_to_string(root().join("CONTRIBUTING.md")).expect("CONTRIBUTING.md");
    let names: Vec<&str> =
        steps.lines().filter_map(|line| line.strip_prefix("step ")).filter_map(|line| line.split(' ').next()).collect();
    assert!(names.len() > 15, "only {names:?}");
    for name in names {
        assert!(contributing.contains(&format!("`{name}`")), "CONTRIBUTING.md does not say what the step {name} checks");
        assert!(steps.contains(&format!("\nstep_{name}() {{")), "scripts/steps does not say what the step {name} does");
    }
}
