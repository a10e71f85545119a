//! Clocks that jump, and clocks of nodes that differ from the database's, remove nothing and end nothing.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use imagewell_core::sweep::{self, Finding, Mode};

use crate::app::{Actor, Answer, Data, PASSWORD, TestApp};
use crate::dropbox::{PICTURES, Portal, stripes};
use crate::file_service::{FileAnswer as _, Machine};
use crate::fixtures::png;
use crate::process::{PLAN, Process, imagewell, share, text};

/// As seen from a clock that is eight days ahead: what is written down of the present moves back instead.
const EIGHT_DAYS_AGO: [&str; 2] =
    ["UPDATE versions SET deleted_us = deleted_us - 691200000000", "UPDATE clock SET seen_us = seen_us - 691200000000"];
const CLOCK_IS_RIGHT: &str = "UPDATE versions SET deleted_us = deleted_us + 691200000000";

/// Data with a file that was deleted just now, of a service that has ended.
async fn with_deleted_file() -> Arc<Data> {
    let data = Data::fresh();
    let app = TestApp::on(Arc::clone(&data), &[]).await;
    let till = Machine::till(&app, "till01");
    till.upload("a.png", png(8, 8, 1)).await.file();
    till.send("DELETE", "rewards/a.png").await.file();
    app.stop().await;
    data
}

async fn removed(app: &TestApp, mode: Mode) -> (u64, bool) {
    let mut ahead = false;
    let swept = sweep::run(&app.service.app, mode, |finding| ahead |= matches!(finding, Finding::ClockAhead(_))).await;
    (swept.expect("sweeps").versions, ahead)
}

#[tokio::test]
async fn a_start_eight_days_ahead_removes_nothing_that_was_deleted_a_minute_before() {
    let data = with_deleted_file().await;
    for sql in EIGHT_DAYS_AGO {
        data.execute(sql).await;
    }
    let app = TestApp::on(Arc::clone(&data), &[]).await;
    for mode in [Mode::DryRun, Mode::Remove] {
        assert_eq!(removed(&app, mode).await, (0, true), "{mode:?}");
    }
    let told = Answer::of(app.visitor().get("/readyz")).await;
    assert!(told.status.as_u16() == 200 && told.text().contains("removing is delayed"), "{}", told.text());
    // A restart is no reason to believe it.
    let app = app.restart(&[]).await;
    assert_eq!(removed(&app, Mode::Remove).await, (0, true));
    data.execute(CLOCK_IS_RIGHT).await;
    let restored = Machine::till(&app, "till01").send("POST", "rewards/a.png/restore").await;
    assert_eq!(restored.status.as_u16(), 200, "{}", restored.text());
    assert_eq!(Machine::till(&app, "till01").send("GET", "rewards/a.png").await.status.as_u16(), 200);
}

#[tokio::test]
async fn what_is_due_by_a_clock_that_is_right_goes() {
    let data = with_deleted_file().await;
    data.execute(EIGHT_DAYS_AGO[0]).await;
    let app = TestApp::on(Arc::clone(&data), &[]).await;
    assert_eq!(removed(&app, Mode::Remove).await, (1, false));
    app.stop().await;
    // Nothing ran for eight days: an operator knows that.
    let data = with_deleted_file().await;
    for sql in EIGHT_DAYS_AGO {
        data.execute(sql).await;
    }
    let app = TestApp::on(data, &[]).await;
    assert_eq!(removed(&app, Mode::Remove).await, (0, true));
    assert_eq!(removed(&app, Mode::RemoveConfirmed).await, (1, false));
    assert_eq!(Answer::of(app.visitor().get("/readyz")).await.text(), "ready\n");
}

/// Earlier versions did not write down when they ran; what they did last tells it.
#[tokio::test]
async fn data_of_earlier_versions_is_as_safe_from_a_clock_that_is_ahead() {
    let data = with_deleted_file().await;
    data.execute(EIGHT_DAYS_AGO[0]).await;
    data.execute("UPDATE images SET created_us = created_us - 691200000000").await;
    data.execute("DELETE FROM clock").await;
    data.execute("DELETE FROM sessions").await;
    let app = TestApp::on(Arc::clone(&data), &[]).await;
    assert_eq!(removed(&app, Mode::Remove).await, (0, true));
}

/// The database's clock, which is a function that a schema before the system's can have too.
#[tokio::test]
async fn a_node_whose_clock_differs_from_the_databases_sweeps_nothing() {
    for (seconds, refuses) in [("30", false), ("90", true), ("-90", true)] {
        let data = Data::outgrown();
        let pool = sqlx::PgPool::connect(data.database_url()).await.expect("database");
        let (database,): (String,) = sqlx::query_as("SELECT current_database()::text").fetch_one(&pool).await.expect("name");
        for sql in [
            format!(
                "CREATE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS \
                 $$SELECT pg_catalog.clock_timestamp() + INTERVAL '{seconds} seconds'$$"
            ),
            format!("ALTER DATABASE \"{database}\" SET search_path = public, pg_catalog"),
        ] {
            sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&pool).await.expect("done");
        }
        pool.close().await;
        let app = TestApp::on(data, &[("sweep.grace_seconds", "0")]).await;
        app.actor("ada").await.upload(png(8, 8, 1)).await.uuid();
        let orphan = app.blobs().join("opsportal-images/1/0d5a2b1c-5f6e-4a3b-8c9d-0123456789ab.png");
        std::fs::create_dir_all(orphan.parent().expect("parent")).expect("makes");
        std::fs::write(&orphan, b"orphan").expect("writes");
        let swept = sweep::run(&app.service.app, Mode::Remove, |_| {}).await;
        let told = Answer::of(app.visitor().get("/readyz")).await.text();
        if refuses {
            let why = swept.expect_err("is refused").to_string();
            assert!(why.contains("clock differs from the database's"), "{seconds}: {why}");
            assert!(orphan.exists() && told.contains("not ready"), "{seconds}: {told}");
        } else {
            assert_eq!((swept.expect("sweeps").orphans, orphan.exists(), told.as_str()), (1, false, "ready\n"));
        }
    }
}

/// Debian's library, which gives a process another time.
fn libfaketime() -> PathBuf {
    let folders = std::fs::read_dir("/usr/lib").expect("folder").flatten();
    let file = folders.map(|folder| folder.path().join("faketime/libfaketimeMT.so.1")).find(|file| file.exists());
    file.expect("the package libfaketime")
}

/// A node that is eight days ahead, on the same database and store as one whose clock is right: the time is the database's. The store is a
/// folder, since a bucket refuses whoever is off by so much.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_clock_is_eight_days_ahead_loses_and_ends_nothing() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let (right, ahead) = (folder.path().join("a"), folder.path().join("b"));
    share(&[&right, &ahead]);
    let store = folder.path().join("store");
    let on_store = |data: &std::path::Path, arguments: &[&str]| {
        let mut command = imagewell(data, arguments);
        command.env("IMAGEWELL_STORAGE_URL", format!("file://{}", store.display()));
        command
    };
    let plan = folder.path().join("plan.toml");
    std::fs::write(&plan, PLAN).expect("writes");
    let made = on_store(&right, &["provision", &plan.to_string_lossy()]).output().expect("runs");
    assert!(made.status.success(), "{}", text(&made));
    let first = Process::start(on_store(&right, &["serve"]));
    let ada = first.actor("ada").await;
    let mut uploaded = vec![ada.upload(png(8, 8, 1)).await.uuid()];
    let till = Machine::till_at(&first.url, "till01");
    till.upload("a.png", png(8, 8, 1)).await.file();
    till.send("DELETE", "rewards/a.png").await.file();
    let mut portal = Portal::at(&first.url);
    assert_eq!(portal.log_in("ada", PASSWORD).await.status.as_u16(), 200);
    let ticket = portal.ticket(stripes(60, 60)).await;
    let generate = |node: &Process| {
        let body = serde_json::json!({ "key": "backoffice", "secret": "canary-secret-1" });
        Actor::at(&node.url).post("/v3/oauth/token/generate").json(&body)
    };
    let token = |answer: Answer| answer.json()["data"]["accessToken"].as_str().expect("a token").to_owned();
    let of_first = token(Answer::of(generate(&first)).await);

    let mut command = on_store(&ahead, &["serve"]);
    command
        .env("LD_PRELOAD", libfaketime())
        .env("FAKETIME", "+8d")
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .env("DONT_FAKE_MONOTONIC", "1")
        .env("IMAGEWELL_SWEEP_INTERVAL_SECONDS", "1");
    let second = Process::start(command);
    let begun = std::time::Instant::now();
    while (second.metric("imagewell_clock_offset_seconds").await + 691_200.0).abs() > 3600.0 {
        assert!(begun.elapsed() < Duration::from_secs(30), "the second node's clock must be eight days ahead, and say so");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(Answer::of(Actor::at(&second.url).get("/readyz")).await.status.as_u16(), 503);
    assert_eq!(Answer::of(Actor::at(&first.url).get("/readyz")).await.status.as_u16(), 200);

    // Sessions, tokens and pictures of the one are good at the other.
    let there = ada.at_node(&second.url);
    assert_eq!(there.read(&uploaded[0]).await.status.as_u16(), 200);
    uploaded.push(there.upload(png(8, 8, 2)).await.uuid());
    let of_second = token(Answer::of(generate(&second)).await);
    for (node, token) in [(&second, &of_first), (&first, &of_second)] {
        let path = format!("{}/api_gateway/file-service/rewards/none.png", node.url);
        let asked = Answer::of(reqwest::Client::new().get(path).bearer_auth(token)).await;
        assert_eq!(asked.status.as_u16(), 404, "{}", asked.text());
    }
    let eve = second.actor("ada").await;
    assert_eq!(eve.at_node(&first.url).read(&uploaded[0]).await.status.as_u16(), 200);
    for node in [&second, &first] {
        let picture = Answer::of(Actor::at(&node.url).get(&format!("{PICTURES}/{ticket}?size=32"))).await;
        assert_eq!(picture.status.as_u16(), 200, "{}", picture.text());
    }

    // It sweeps each second, and each tenth second what nobody took; meanwhile images are stored.
    let begun = std::time::Instant::now();
    while begun.elapsed() < Duration::from_secs(12) {
        uploaded.push(ada.upload(png(8, 8, 3)).await.uuid());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(second.log().contains("nothing is swept"), "{}", second.log());
    for uuid in &uploaded {
        assert_eq!(ada.read(uuid).await.status.as_u16(), 200);
    }
    let restored = Machine::till_at(&second.url, "till01").send("POST", "rewards/a.png/restore").await;
    assert_eq!(restored.status.as_u16(), 200, "{}", restored.text());
}
