//! One `imagewell migrate` at a time, none that writes after another has taken over, and a way back from a move that was cut off at its end.

use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant};

use imagewell_engines::faults::Behaviour;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool};

use crate::app::{Actor, Answer, Outgrown, PASSWORD};
use crate::fixtures::png_of_bytes;
use crate::moving::{migrate, migration, slowly_to};
use crate::process::{Held, Process, accounts_on_disk, provision, run, share, stay_on_disk, text};

/// One statement on the SQLite file of a data folder, and the text that it returns.
pub async fn ask(data: &Path, sql: &'static str) -> Option<String> {
    let file = SqliteConnectOptions::new().filename(data.join("imagewell.db"));
    let pool = SqlitePool::connect_with(file.busy_timeout(Duration::from_secs(10))).await.expect("database");
    let row: Option<(String,)> = sqlx::query_as(sql).fetch_optional(&pool).await.expect("answers");
    pool.close().await;
    row.map(|(text,)| text)
}

fn assert_refused(output: &Output, why: &str) {
    assert!(!output.status.success() && text(output).contains(why), "{why}: {}", text(output));
}

/// Bytes of an image that is copied first. After the line that says so the move rests for seconds, because of its bound on bytes, so it is
/// never stopped in the middle of a write, which others would have to wait for.
const LARGE: usize = 60_000;

const AT_WORK: &str = "another `imagewell migrate` is at work on this database";

#[tokio::test(flavor = "multi_thread")]
async fn a_second_move_is_refused_while_one_is_under_way() {
    for on_postgresql in [false, true] {
        let folder = tempfile::tempdir().expect("temporary folder");
        let (data, there, other) = (folder.path().join("data"), folder.path().join("there"), folder.path().join("other"));
        let _source = on_postgresql.then(|| share(&[&data]));
        if !on_postgresql {
            stay_on_disk(&data);
        }
        provision(&data);
        let process = Process::serve(&data);
        let ada = process.actor("ada").await;
        let uuid = ada.upload(png_of_bytes(LARGE, 1)).await.uuid();
        let first = Held::at(slowly_to(&data, &there, &[]), "blobs: ");
        for command in [slowly_to(&data, &there, &[]), slowly_to(&data, &other, &["--copy-only"])] {
            let mut command = command;
            assert_refused(&command.output().expect("runs"), AT_WORK);
        }
        assert_refused(&run(&data, &["migrate", "--cancel"]), AT_WORK);
        assert!(!other.exists(), "nothing was made");
        ada.upload(png_of_bytes(5000, 2)).await.uuid();
        let moved = first.go_on();
        assert!(moved.status.success() && text(&moved).contains("every row the same"), "{}", text(&moved));
        assert!(text(&moved).contains("1 services were running, and have gone on"), "{}", text(&moved));
        assert_eq!(ada.read(&uuid).await.body, png_of_bytes(LARGE, 1));
    }
}

/// As one whose connection was cut while it was paused: its lock is gone, and it doesn't know.
#[tokio::test(flavor = "multi_thread")]
async fn a_move_that_was_taken_over_changes_nothing_more() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let (data, there) = (folder.path().join("data"), folder.path().join("there"));
    let source = share(&[&data]);
    provision(&data);
    let process = Process::serve(&data);
    let ada = process.actor("ada").await;
    ada.upload(png_of_bytes(LARGE, 1)).await.uuid();
    let first = Held::at(slowly_to(&data, &there, &[]), "blobs: ");
    let pool = sqlx::PgPool::connect(source.database_url()).await.expect("database");
    let ended = "SELECT COUNT(pg_terminate_backend(pid)) FROM pg_locks WHERE locktype = 'advisory' \
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    let (ended,): (i64,) = sqlx::query_as(ended).fetch_one(&pool).await.expect("ends");
    assert_eq!(ended, 1, "the lock of the one that is held");
    std::fs::remove_file(there.join("imagewell.db.migrate.lock")).expect("removes");
    let last = ada.upload(png_of_bytes(5000, 9)).await.uuid();
    let second = slowly_to(&data, &there, &[]).output().expect("runs");
    assert!(second.status.success() && text(&second).contains("every row the same"), "{}", text(&second));
    let before = ask(&there, "SELECT state || fence FROM moves").await;
    assert_refused(&first.go_on(), "has taken this move over");
    assert_eq!(ask(&there, "SELECT state || fence FROM moves").await, before);
    assert!(before.is_some_and(|before| before.starts_with("live")));
    let (state,): (String,) = sqlx::query_as("SELECT state FROM moves").fetch_one(&pool).await.expect("reads");
    assert_eq!(state, "moved");
    assert_refused(&run(&data, &["migrate", "--cancel"]), "has moved already");
    // The service goes on with the new data.
    let later = ada.upload(png_of_bytes(5000, 10)).await.uuid();
    for (uuid, salt) in [(&last, 9), (&later, 10)] {
        assert_eq!(ada.read(uuid).await.body, png_of_bytes(5000, salt));
    }
    let images = ask(&there, "SELECT CAST(COUNT(*) AS TEXT) FROM images").await;
    assert_eq!(images.as_deref(), Some("3"));
}

/// As many rows on both sides don't make them the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_not_the_same_on_both_sides_ends_a_move() {
    let (folder, data) = accounts_on_disk();
    let process = Process::serve(&data);
    let ada = process.actor("ada").await;
    ada.upload(png_of_bytes(5000, 1)).await.uuid();
    let there = folder.path().join("there");
    let copied = slowly_to(&data, &there, &["--copy-only"]).output().expect("runs");
    assert!(copied.status.success(), "{}", text(&copied));
    ask(&there, "UPDATE images SET permission = 'everybody.may'").await;
    assert_refused(&slowly_to(&data, &there, &[]).output().expect("runs"), "a row of images is not the same in the target");
    assert_eq!(ask(&there, "SELECT state FROM moves").await.as_deref(), Some("copying"));
    // The service goes on as it was, and so it does when the move is given up.
    ada.upload(png_of_bytes(5000, 2)).await.uuid();
    assert!(run(&data, &["migrate", "--cancel"]).status.success());
    assert!(text(&run(&data, &["migrate", "--cancel"])).contains("No move was under way"));
    ada.upload(png_of_bytes(5000, 3)).await.uuid();
}

/// Writes wait at first, because the move may still be under way. As if they had waited.
async fn wait_no_longer(data: &Path) {
    ask(data, "UPDATE moves SET waits_until_us = 0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_killed_while_it_hands_over_can_be_taken_back() {
    let (_folder, data) = accounts_on_disk();
    let (outgrown, database, _store) = Outgrown::behind_proxies();
    let to = ["--to-database", outgrown.database_url(), "--to-storage", &outgrown.settings()[1].1.clone()];
    migrate(&data, &outgrown, &[&to[..], &["--copy-only"]].concat()).await;
    // What it writes last of all can't be written.
    let pool = sqlx::PgPool::connect(outgrown.database_url()).await.expect("database");
    let mut held = pool.begin().await.expect("begins");
    sqlx::query("SELECT value FROM access_generation FOR UPDATE").execute(&mut *held).await.expect("locks");
    let mut cut_off = migration(&data, &outgrown, &to).spawn().expect("starts");
    let begun = Instant::now();
    while ask(&data, "SELECT state FROM moves").await.as_deref() != Some("handing over") {
        assert!(begun.elapsed() < Duration::from_secs(100), "it never hands over");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    cut_off.kill().expect("kills");
    cut_off.wait().expect("ends");
    held.rollback().await.expect("lets go");
    assert!(data.join("moved.toml").exists());

    wait_no_longer(&data).await;
    let process = Process::serve(&data);
    let refused = Actor::at(&process.url).log_in("ada", PASSWORD).await;
    assert_eq!(refused.status.as_u16(), 503, "{}", refused.text());
    let notice = Answer::of(Actor::at(&process.url).get("/readyz")).await.text();
    assert!(notice.contains("a move was cut off"), "{notice}");
    assert!(process.metric("imagewell_move_cut_off").await > 0.5);
    // Only the target knows, and it is away.
    database.behave(Behaviour::Away);
    assert_refused(&run(&data, &["migrate", "--cancel"]), "--abandon-target");
    database.behave(Behaviour::Pass);
    for (state, answer) in [("live", "the target may be in use"), ("copying", "The move is forgotten")] {
        let set = format!("UPDATE moves SET state = '{state}' WHERE side = 'target'");
        sqlx::query(sqlx::AssertSqlSafe(set)).execute(&pool).await.expect("updates");
        let cancelled = run(&data, &["migrate", "--cancel"]);
        assert!(text(&cancelled).contains(answer), "{}", text(&cancelled));
        assert_eq!(cancelled.status.success(), state == "copying");
    }
    assert!(!data.join("moved.toml").exists());
    process.actor("ada").await.upload(png_of_bytes(5000, 1)).await.uuid();
    let begun = Instant::now();
    while process.metric("imagewell_move_cut_off").await > 0.5 {
        assert!(begun.elapsed() < Duration::from_secs(20), "it still says so");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_whose_target_is_lost_is_given_up_only_when_told_so() {
    let (folder, data) = accounts_on_disk();
    let there = folder.path().join("there");
    let copied = slowly_to(&data, &there, &["--copy-only"]).output().expect("runs");
    assert!(copied.status.success(), "{}", text(&copied));
    ask(&data, "UPDATE moves SET state = 'handing over'").await;
    assert_refused(&run(&data, &["migrate", "--cancel"]), "name it with --to-database");
    let wrong = format!("sqlite://{}", folder.path().join("wrong/imagewell.db").display());
    assert_refused(&run(&data, &["migrate", "--cancel", "--to-database", &wrong]), "not the target of this move");
    assert_eq!(ask(&data, "SELECT state FROM moves").await.as_deref(), Some("handing over"));
    let cancelled = run(&data, &["migrate", "--cancel", "--abandon-target"]);
    assert!(cancelled.status.success() && text(&cancelled).contains("Never start a service"), "{}", text(&cancelled));
    assert_eq!(ask(&data, "SELECT state FROM moves").await, None);
    let process = Process::serve(&data);
    process.actor("ada").await.upload(png_of_bytes(5000, 1)).await.uuid();
    // Before the last step nobody has to be asked.
    let other = folder.path().join("other");
    assert!(slowly_to(&data, &other, &["--copy-only"]).output().expect("runs").status.success());
    ask(&data, "UPDATE moves SET state = 'waiting'").await;
    assert!(run(&data, &["migrate", "--cancel"]).status.success());
}

/// What another user's process leaves the service can't read.
#[test]
fn another_user_than_the_services_moves_nothing() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let data = folder.path().join("data");
    std::fs::create_dir(&data).expect("makes");
    // Only root can give a folder away; for others root's own is one.
    let given = std::os::unix::fs::chown(&data, Some(65_534), None).is_ok();
    let data = if given { data } else { "/usr".into() };
    stay_on_disk(&data);
    let there = folder.path().join("there");
    for mut command in [slowly_to(&data, &there, &[]), crate::process::imagewell(&data, &["migrate", "--cancel"])] {
        assert_refused(&command.output().expect("runs"), "belongs to the user");
    }
    assert!(!there.exists() && !data.join("imagewell.db").exists(), "nothing was made");
}
