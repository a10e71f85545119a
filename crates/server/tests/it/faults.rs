//! The database or the store restarts, is slow, refuses, or loses connections in the middle: requests succeed after a while or fail cleanly, and
//! what was acknowledged is there.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use imagewell_core::verify;
use imagewell_engines::faults::{Behaviour, Proxy};
use imagewell_engines::postgres::SmallDisk;
use tokio::task::JoinHandle;

use crate::app::{Actor, Answer, Data, Outgrown, TestApp};
use crate::fixtures::{png, png_of_bytes};

/// Patience of a second or two, so that tests see its end.
pub const IMPATIENT: [(&str, &str); 6] = [
    ("database.wait_seconds_max", "1"),
    ("database.time_seconds_max", "2"),
    ("storage.retry_seconds_max", "1"),
    ("storage.time_seconds_max", "2"),
    ("storage.part_bytes", "5242880"),
    ("opsportal.upload_bytes_max", "20000000"),
];

async fn behind_proxies(settings: &[(&str, &str)]) -> (TestApp, Proxy, Proxy) {
    let (outgrown, database, store) = Outgrown::behind_proxies();
    (TestApp::on(Data::on(outgrown), settings).await, database, store)
}

async fn send(ada: &Actor, token: &str, bytes: &[u8]) -> Answer {
    Answer::of(ada.uploading(token, bytes)).await
}

pub async fn ready(app: &TestApp) -> u16 {
    Answer::of(app.visitor().get("/readyz?deep")).await.status.as_u16()
}

/// By its uuid, each image that was acknowledged.
type Kept = HashMap<String, Vec<u8>>;

/// Uploads, one after the other for each actor, that go on whatever happens.
pub struct Load {
    stop: Arc<AtomicBool>,
    lanes: Vec<JoinHandle<(Kept, u32)>>,
}

impl Load {
    pub async fn start(actors: impl Iterator<Item = Actor>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut lanes = Vec::new();
        for (number, ada) in (0_u64..).zip(actors) {
            let token = ada.csrf().await;
            lanes.push(tokio::spawn(lane(ada, token, number, Arc::clone(&stop))));
        }
        Self { stop, lanes }
    }

    /// What was acknowledged, and how many uploads were refused.
    pub async fn finish(self) -> (Kept, u32) {
        self.stop.store(true, Ordering::SeqCst);
        let (mut kept, mut refused) = (HashMap::new(), 0);
        for lane in self.lanes {
            let (more, count) = lane.await.expect("every answer is one that is expected");
            kept.extend(more);
            refused += count;
        }
        (kept, refused)
    }
}

async fn lane(ada: Actor, token: String, number: u64, stop: Arc<AtomicBool>) -> (Kept, u32) {
    let (mut kept, mut refused) = (HashMap::new(), 0);
    for round in 0_u64.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let bytes = png_of_bytes(20_000, number * 100_000 + round);
        let answer = send(&ada, &token, &bytes).await;
        match answer.status.as_u16() {
            200 => drop(kept.insert(answer.uuid(), bytes)),
            // 500 too: nobody knows the fate of a commit that broke off.
            status => {
                assert!(matches!(status, 500 | 503), "{status}: {}", answer.text());
                refused += 1;
            }
        }
    }
    (kept, refused)
}

/// What goes wrong is told at once or after the patience that was set, leaves nothing behind, and is over when the fault is.
pub async fn fails_cleanly(app: &TestApp, proxy: &Proxy, fault: Behaviour, bytes: &[u8]) {
    let ada = app.actor("ada").await;
    let token = ada.csrf().await;
    let kept = send(&ada, &token, &png(8, 8, 7)).await.uuid();
    let before = app.stored().await;
    proxy.behave(fault);
    let begun = Instant::now();
    let answer = send(&ada, &token, bytes).await;
    assert_eq!(answer.status.as_u16(), 503, "{fault:?}: {}", answer.text());
    assert!(!answer.header("retry-after").is_empty(), "{fault:?}");
    assert!(begun.elapsed() < Duration::from_secs(12), "{fault:?}: it took {:?}", begun.elapsed());
    proxy.behave(Behaviour::Pass);
    let mut waited = Instant::now();
    while ready(app).await != 200 {
        assert!(waited.elapsed() < Duration::from_secs(10), "{fault:?}: it stays unready");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(app.stored().await, before, "{fault:?}: something stayed behind");
    waited = Instant::now();
    while send(&ada, &token, bytes).await.status.as_u16() != 200 {
        assert!(waited.elapsed() < Duration::from_secs(10), "{fault:?}: it never comes back");
    }
    assert_eq!(ada.read(&kept).await.status.as_u16(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_refuses_hangs_or_breaks_off_leaves_nothing_and_comes_back() {
    let (app, _database, store) = behind_proxies(&IMPATIENT).await;
    let (small, large) = (png_of_bytes(100_000, 1), png_of_bytes(11_000_000, 2));
    for (fault, bytes) in [
        (Behaviour::Unavailable, &small),
        (Behaviour::Away, &small),
        (Behaviour::Stall, &small),
        (Behaviour::CutAfterSending(50_000), &small),
        // In the middle of the parts: those that were sent are taken back.
        (Behaviour::CutAfterSending(3_000_000), &large),
    ] {
        fails_cleanly(&app, &store, fault, bytes).await;
    }
    assert!(store.cut() > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_away_or_hangs_makes_a_node_unready_and_comes_back() {
    let (app, database, _store) = behind_proxies(&IMPATIENT).await;
    for fault in [Behaviour::Away, Behaviour::Stall] {
        let ada = app.actor("ada").await;
        let token = ada.csrf().await;
        let uuid = send(&ada, &token, &png(8, 8, 7)).await.uuid();
        assert_eq!(ada.read(&uuid).await.status.as_u16(), 200);
        database.behave(fault);
        assert_eq!(send(&ada, &token, &png(8, 8, 8)).await.status.as_u16(), 503, "{fault:?}");
        assert_eq!(ready(&app).await, 503, "{fault:?}");
        // Nothing in memory is trusted for long.
        tokio::time::sleep(Duration::from_secs(4)).await;
        assert_eq!(ada.read(&uuid).await.status.as_u16(), 503, "{fault:?}");
        database.behave(Behaviour::Pass);
        let begun = Instant::now();
        while ready(&app).await != 200 || ada.read(&uuid).await.status.as_u16() != 200 {
            assert!(begun.elapsed() < Duration::from_secs(10), "{fault:?}: it never comes back");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        send(&ada, &token, &png(8, 8, 9)).await.uuid();
    }
}

/// A database that restarts within a node's patience is not noticed by anybody.
#[tokio::test(flavor = "multi_thread")]
async fn a_short_absence_of_the_database_is_only_a_short_wait() {
    let (app, database, _store) = behind_proxies(&[]).await;
    let ada = app.actor("ada").await;
    let token = ada.csrf().await;
    database.behave(Behaviour::Away);
    let back = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(1500)).await;
        database.behave(Behaviour::Pass);
        database
    });
    let begun = Instant::now();
    send(&ada, &token, &png(8, 8, 1)).await.uuid();
    assert!(begun.elapsed() > Duration::from_millis(500));
    drop(back.await);
}

/// Connections to both break again and again, at any point of a request.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_breaks_off_what_was_acknowledged_is_there() {
    let (app, database, store) = behind_proxies(&[("sweep.grace_seconds", "0")]).await;
    let ada = app.actor("ada").await;
    let load = Load::start((0..6).map(|_| ada.clone())).await;
    for round in 0..30_u64 {
        tokio::time::sleep(Duration::from_millis(100 + round * 13 % 150)).await;
        let proxy = if round % 3 == 0 { &store } else { &database };
        proxy.behave(Behaviour::CutAfterSending(round * 977 % 9000));
        tokio::time::sleep(Duration::from_millis(20)).await;
        proxy.behave(Behaviour::Pass);
    }
    let (kept, refused) = load.finish().await;
    println!("{} acknowledged, {refused} refused, {} + {} connections cut", kept.len(), database.cut(), store.cut());
    assert!(kept.len() > 50 && database.cut() > 10);
    for (uuid, bytes) in &kept {
        assert!(ada.read(uuid).await.body == *bytes, "{uuid}");
    }
    // A row never points at missing bytes.
    let checked = verify::run(&app.service.app, |_| {}).await.expect("reads");
    assert!(checked.broken.is_empty() && checked.versions >= kept.len() as u64, "{checked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_whose_disk_is_full_takes_no_more_goes_on_reading_and_recovers() {
    let disk = tokio::task::spawn_blocking(|| SmallDisk::start("14M")).await.expect("starts");
    let app = TestApp::on(Data::on(Outgrown::in_database(&disk.database_url)), &[]).await;
    let ada = app.actor("ada").await;
    let token = ada.csrf().await;
    let kept = send(&ada, &token, &png(8, 8, 1)).await.uuid();
    let pool = sqlx::PgPool::connect(&disk.database_url).await.expect("database");
    sqlx::query("CREATE TABLE ballast (filler TEXT)").execute(&pool).await.expect("a table");
    for rows in [100, 1] {
        let fill = format!("INSERT INTO ballast SELECT repeat('x', 1900) FROM generate_series(1, {rows})");
        let full = loop {
            if let Err(error) = sqlx::query(sqlx::AssertSqlSafe(&*fill)).execute(&pool).await {
                break error;
            }
        };
        let code = full.as_database_error().and_then(sqlx::error::DatabaseError::code);
        assert_eq!(code.as_deref(), Some("53100"), "{full}");
    }
    // Pages that were begun before still have room for some rows.
    let mut before = app.stored().await;
    let mut refused = None;
    for round in 0..500 {
        let answer = send(&ada, &token, &png(8, 8, 2)).await;
        if answer.status.as_u16() != 200 {
            refused = Some((round, answer));
            break;
        }
        before = app.stored().await;
    }
    let (taken, refused) = refused.expect("a full disk takes no more");
    assert_eq!(refused.status.as_u16(), 507, "after {taken}: {}", refused.text());
    assert_eq!(app.stored().await, before);
    assert_eq!((ada.read(&kept).await.status.as_u16(), ready(&app).await), (200, 200));
    sqlx::query("DROP TABLE ballast").execute(&pool).await.expect("drops");
    pool.close().await;
    send(&ada, &token, &png(8, 8, 2)).await.uuid();
}

/// PostgreSQL's own words for a deadlock and a serialisation failure, said by a trigger: one statement after the other doesn't run into them.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_in_contention_says_so_and_keeps_nothing() {
    let app = TestApp::on(Data::outgrown(), &[]).await;
    let ada = app.actor("ada").await;
    let token = ada.csrf().await;
    let kept = send(&ada, &token, &png(8, 8, 1)).await.uuid();
    let before = app.stored().await;
    let pool = sqlx::PgPool::connect(app.data().database_url()).await.expect("database");
    for (code, status) in [("40P01", 503), ("40001", 503)] {
        for sql in [
            format!(
                "CREATE OR REPLACE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS \
                 $$BEGIN RAISE EXCEPTION 'as told' USING ERRCODE = '{code}'; END$$"
            ),
            "CREATE OR REPLACE TRIGGER fail BEFORE INSERT ON versions FOR EACH ROW EXECUTE FUNCTION fail()".to_owned(),
        ] {
            sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&pool).await.expect("a trigger");
        }
        assert_eq!(send(&ada, &token, &png(8, 8, 2)).await.status.as_u16(), status, "{code}");
        assert_eq!(ada.read(&kept).await.status.as_u16(), 200, "{code}: reads go on");
        assert_eq!(app.stored().await, before, "{code}");
    }
    sqlx::query("DROP TRIGGER fail ON versions").execute(&pool).await.expect("drops");
    send(&ada, &token, &png(8, 8, 2)).await.uuid();
    pool.close().await;
}
