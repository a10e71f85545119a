//! PostgreSQL holds something back: a row, a table, a standby's answer, or every answer. Whoever doesn't need that goes on.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use imagewell_engines::failover::Pair;
use sqlx::PgPool;

use crate::app::{Answer, Data, Outgrown, TestApp};
use crate::file_service::{FileAnswer as _, Machine};
use crate::fixtures::png;
use crate::process::{Process, imagewell, provision, share, text};

/// Patience that ends within a test.
const IMPATIENT: [(&str, &str); 5] = [
    // Of these three listen, ask and are asked, and two only read.
    ("database.connections_max", "8"),
    ("database.reads_connections_min", "2"),
    ("database.wait_seconds_max", "3"),
    ("database.time_seconds_max", "2"),
    ("database.lock_seconds_max", "1"),
];

/// Under names of their own.
async fn upload_many(till: Machine, round: u32, count: u32) -> Vec<Answer> {
    let names: Vec<String> = (0..count).map(|salt| format!("{round}-{salt}.png")).collect();
    join_all(names.iter().map(|name| till.upload(name, png(8, 8, 1)))).await
}

async fn sessions(pool: &PgPool, which: &'static str) -> i64 {
    let (count,): (i64,) = sqlx::query_as(which).fetch_one(pool).await.expect("counts");
    count
}

/// What may write at once, of the connections of [`IMPATIENT`].
const WRITERS: i64 = 3;
/// Sessions of the database that wait for what another one holds.
const WAITING: &str = "SELECT COUNT(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
/// Those that wait for a standby.
const COMMITTING: &str = "SELECT COUNT(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'SyncRep'";

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_held_slows_those_who_want_it_and_nobody_else() {
    let app = TestApp::on(Data::outgrown(), &IMPATIENT).await;
    let till = Machine::till(&app, "till01");
    till.upload("a.png", png(8, 8, 1)).await.file();
    till.upload("b.png", png(8, 8, 1)).await.file();
    let pool = PgPool::connect(app.data().database_url()).await.expect("database");
    let mut holding = pool.begin().await.expect("begins");
    sqlx::query("UPDATE images SET last_number = last_number WHERE name = 'a.png'").execute(&mut *holding).await.expect("holds");
    let before = app.stored().await;
    let stuck = tokio::spawn({
        let till = till.clone();
        async move { join_all((0..30).map(|salt| till.upload("a.png", png(8, 8, salt)))).await }
    });
    let mut waited_for_it = 0;
    let mut number = 1;
    while !stuck.is_finished() {
        assert_eq!(till.upload("b.png", png(8, 8, number)).await.file()["version"], number + 1, "another name's upload");
        assert_eq!(till.send("GET", "rewards/b.png/versions").await.status.as_u16(), 200, "a read of the database");
        number += 1;
        waited_for_it = waited_for_it.max(sessions(&pool, WAITING).await);
    }
    assert!(number > 3, "nothing else was done");
    assert_eq!(waited_for_it, 1, "one session at a time waits for the row");
    for answer in stuck.await.expect("ends") {
        assert_eq!(answer.status.as_u16(), 503, "{}", answer.text());
        assert!(!answer.header("retry-after").is_empty());
    }
    holding.rollback().await.expect("gives it back");
    let after = app.stored().await;
    assert_eq!((after.images, after.versions), (before.images, before.versions + i64::from(number as u32) - 1));
    assert_eq!(after.files.len() as i64, before.files.len() as i64 + after.versions - before.versions, "no bytes stay behind");
    assert_eq!(till.upload("a.png", png(8, 8, 2)).await.file()["version"], 2);
}

/// The session of the only one that waits for what another one holds.
const WAITS: &str = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
/// Whether the node of a session has begun something and does not go on.
const IDLES: &str = "SELECT COUNT(*) = 1 FROM pg_stat_activity WHERE pid = $1 AND state = 'idle in transaction'";

async fn idles(pool: &PgPool, session: i32) -> bool {
    sqlx::query_scalar(IDLES).bind(session).fetch_one(pool).await.expect("asks")
}

fn signal(process: &Process, name: &str) {
    let sent = std::process::Command::new("kill").args([name, &process.child.id().to_string()]).status().expect("runs");
    assert!(sent.success());
}

/// As a machine that is paused, or swaps, in the middle of a write. PostgreSQL ends the write in the end; until then those wait who want
/// the same name.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_stopped_while_it_holds_a_row_slows_those_who_want_it_and_nobody_else() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let (here, there) = (folder.path().join("here"), folder.path().join("there"));
    let outgrown = share(&[&here, &there]);
    provision(&here);
    let settings = [
        ("IMAGEWELL_DATABASE_CONNECTIONS_MAX", "8"),
        ("IMAGEWELL_DATABASE_READS_CONNECTIONS_MIN", "2"),
        ("IMAGEWELL_DATABASE_IDLE_TRANSACTION_SECONDS_MAX", "15"),
    ];
    let (stops, goes_on) = (Process::serve_with(&here, &settings), Process::serve_with(&there, &settings));
    let (writer, other) = (Machine::till_at(&stops.url, "till01"), Machine::till_at(&goes_on.url, "till01"));
    for name in ["a.png", "b.png"] {
        other.upload(name, png(8, 8, 1)).await.file();
    }
    // Its write gets as far as the row of the name, and waits for what comes after that.
    let pool = PgPool::connect(outgrown.database_url()).await.expect("database");
    let mut holding = pool.begin().await.expect("begins");
    sqlx::query("LOCK TABLE versions IN SHARE MODE").execute(&mut *holding).await.expect("holds");
    let stopped = tokio::spawn(async move { writer.upload("a.png", png(8, 8, 2)).await });
    let session: i32 = loop {
        if let Some(session) = sqlx::query_scalar(WAITS).fetch_optional(&pool).await.expect("asks") {
            break session;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    signal(&stops, "-STOP");
    holding.rollback().await.expect("lets go");
    while !idles(&pool, session).await {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let stuck = tokio::spawn({
        let other = other.clone();
        async move { join_all((0..20).map(|salt| other.upload("a.png", png(8, 8, salt)))).await }
    });
    let mut number = 1;
    while !stuck.is_finished() {
        assert_eq!(other.upload("b.png", png(8, 8, number)).await.file()["version"], number + 1, "another name's upload");
        assert_eq!(other.send("GET", "rewards/b.png/versions").await.status.as_u16(), 200, "a read of the database");
        number += 1;
    }
    assert!(number > 3 && idles(&pool, session).await, "nothing else was done while the row was held");
    for answer in stuck.await.expect("ends") {
        assert_eq!(answer.status.as_u16(), 503, "{}", answer.text());
    }
    // Then its write is undone, although it stays stopped, and the next one has its number.
    let begun = Instant::now();
    let next = loop {
        let answer = other.upload("a.png", png(8, 8, 3)).await;
        if answer.status.as_u16() == 200 {
            break answer;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "the row is never given back");
    };
    assert_eq!(next.file()["version"], 2);
    signal(&stops, "-CONT");
    let refused = stopped.await.expect("answers");
    assert!(refused.status.is_server_error(), "{}", refused.text());
    let (versions,): (i64,) =
        sqlx::query_as("SELECT COUNT(*) FROM versions v JOIN images i ON i.id = v.image_id WHERE i.name = 'a.png'")
            .fetch_one(&pool)
            .await
            .expect("counts");
    assert_eq!(versions, 2, "nothing of the stopped write is there");
    assert!(goes_on.terminate().success() && stops.terminate().success());
}

/// Whatever waits for a table: callers give up, the server's processes do too, and reads have connections of their own.
#[tokio::test(flavor = "multi_thread")]
async fn writes_that_gave_up_leave_no_process_of_the_server_waiting_and_keep_no_reader_out() {
    // The lock is not what ends first.
    let settings = [&IMPATIENT[..4], &[("database.lock_seconds_max", "60")]].concat();
    let app = TestApp::on(Data::outgrown(), &settings).await;
    let till = Machine::till(&app, "till01");
    till.upload("a.png", png(8, 8, 1)).await.file();
    let pool = PgPool::connect(app.data().database_url()).await.expect("database");
    let mut holding = pool.begin().await.expect("begins");
    sqlx::query("LOCK TABLE versions IN SHARE MODE").execute(&mut *holding).await.expect("holds");
    let mut most = 0;
    for round in 0..3 {
        let stuck = tokio::spawn(upload_many(till.clone(), round, 12));
        while !stuck.is_finished() {
            assert_eq!(till.send("GET", "rewards/a.png/versions").await.status.as_u16(), 200, "a read of the database");
            most = most.max(sessions(&pool, WAITING).await);
        }
        for answer in stuck.await.expect("ends") {
            assert_eq!(answer.status.as_u16(), 503, "{}", answer.text());
        }
    }
    assert!((1..=WRITERS).contains(&most), "{most} sessions wait");
    holding.rollback().await.expect("gives it back");
    till.upload("b.png", png(8, 8, 1)).await.file();
}

/// Commits that wait for a standby are not cancelled, which would make them commits without one, and don't become more and more.
#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_is_away_stops_writes_alone() {
    let pair = tokio::task::spawn_blocking(Pair::start).await.expect("starts");
    let (outgrown, address) = Outgrown::with_standby(&pair);
    let app = TestApp::on(Data::on(outgrown), &IMPATIENT).await;
    let till = Machine::till(&app, "till01");
    till.upload("a.png", png(8, 8, 1)).await.file();
    let pool = PgPool::connect(app.data().database_url()).await.expect("database");
    for sql in ["ALTER SYSTEM SET synchronous_standby_names = 'somebody_who_is_away'", "SELECT pg_reload_conf()"] {
        sqlx::raw_sql(sql).execute(&pool).await.expect("sets");
    }
    while sessions(&pool, "SELECT COUNT(*) FROM pg_stat_replication WHERE sync_state = 'async'").await != 1 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut most = 0;
    for round in 0..2 {
        let stuck = tokio::spawn(upload_many(till.clone(), round, 8));
        while !stuck.is_finished() {
            assert_eq!(till.send("GET", "rewards/a.png/versions").await.status.as_u16(), 200, "a read of the database");
            most = most.max(sessions(&pool, COMMITTING).await);
        }
        for answer in stuck.await.expect("ends") {
            assert!(matches!(answer.status.as_u16(), 500 | 503), "nothing is acknowledged: {}", answer.text());
        }
    }
    assert!((1..=WRITERS).contains(&most), "{most} sessions wait");
    let seen = sessions(&pool, "SELECT COUNT(*) FROM images WHERE name LIKE '%-%'").await;
    assert_eq!(seen, 0, "nothing is committed without the standby");
    for sql in ["ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()"] {
        sqlx::raw_sql(sql).execute(&pool).await.expect("sets");
    }
    let begun = Instant::now();
    while till.upload("b.png", png(8, 8, 1)).await.status.as_u16() != 200 {
        assert!(begun.elapsed() < Duration::from_secs(20), "it never comes back");
    }
    drop((address, pair));
}

#[test]
fn a_server_that_accepts_and_says_nothing_is_told_within_seconds() {
    let mute = TcpListener::bind("127.0.0.1:0").expect("binds");
    let url = format!("postgres://imagewell:hidden@{}/images", mute.local_addr().expect("address"));
    for command in ["serve", "doctor", "provision"] {
        let folder = tempfile::tempdir().expect("temporary folder");
        let plan = folder.path().join("accounts.toml");
        std::fs::write(&plan, "").expect("writes");
        let mut asked = imagewell(&folder.path().join("data"), &[command]);
        if command == "provision" {
            asked.arg(&plan);
        }
        asked.env("IMAGEWELL_DATABASE_URL", &url).env("IMAGEWELL_DATABASE_WAIT_SECONDS_MAX", "1");
        let begun = Instant::now();
        let output = asked.output().expect("runs");
        assert!(begun.elapsed() < Duration::from_secs(30), "{command}");
        assert!(!output.status.success(), "{command}");
        let said = text(&output);
        assert!(said.contains("does not answer within 1 s"), "{command}: {said}");
        assert!(!said.contains("hidden"), "{command}: {said}");
    }
}
