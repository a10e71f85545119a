//! Moving all data to another database and store, and back, while requests come in.

use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use imagewell::config::environment_name;

use crate::app::{Actor, Answer, Outgrown, PASSWORD};
use crate::fixtures::png_of_bytes;
use crate::process::{Held, Process, accounts_on_disk, imagewell, provision, run, share, stay_on_disk, text};
use crate::variety::{SLOWLY, Variety, provision_first_namespace, sweep_at_once};

/// What four callers send, and how long each rests between.
#[derive(Clone, Copy)]
pub struct Pace {
    bytes: fn(u64, u64) -> usize,
    rest: Duration,
}

/// Of many sizes, some of which go in parts.
pub const MIXED: Pace = Pace {
    bytes: |salt, round| 3000 + (salt as usize * 7919) % 50_000 + if round % 40 == 9 { 1_200_000 } else { 0 },
    rest: Duration::from_millis(30),
};

/// Uploads and reads; every answer must be good.
pub struct Load {
    stop: Arc<AtomicBool>,
    lanes: Vec<tokio::task::JoinHandle<HashMap<String, Vec<u8>>>>,
}

impl Load {
    pub fn start(process: &Process, ada: &Actor, token: &str, pace: Pace) -> Self {
        let (stop, latest) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(None::<String>)));
        let lanes = (0..4_u64).map(|lane| {
            let (ada, token, stop, latest) =
                (ada.at_node(&process.url), token.to_owned(), Arc::clone(&stop), Arc::clone(&latest));
            tokio::spawn(async move {
                let mut acknowledged = HashMap::new();
                for round in 0_u64.. {
                    if stop.load(Ordering::SeqCst) {
                        break;
                    }
                    let salt = lane * 100_000 + round;
                    let bytes = png_of_bytes((pace.bytes)(salt, round), salt);
                    let uuid = Answer::of(ada.uploading(&token, &bytes)).await.uuid();
                    let before = latest.lock().expect("lock").replace(uuid.clone());
                    if let Some(before) = before {
                        let read = ada.read(&before).await;
                        assert_eq!(read.status.as_u16(), 200, "{}", read.text());
                    }
                    acknowledged.insert(uuid, bytes);
                    tokio::time::sleep(pace.rest).await;
                }
                acknowledged
            })
        });
        Self { lanes: lanes.collect(), stop }
    }

    /// What was acknowledged.
    pub async fn finish(self) -> HashMap<String, Vec<u8>> {
        self.stop.store(true, Ordering::SeqCst);
        let mut all = HashMap::new();
        for lane in self.lanes {
            all.extend(lane.await.expect("every request was answered well"));
        }
        all
    }
}

pub async fn assert_kept(ada: &Actor, acknowledged: &HashMap<String, Vec<u8>>) {
    for (uuid, bytes) in acknowledged {
        assert!(ada.read(uuid).await.body == *bytes, "{uuid}");
    }
}

/// `imagewell migrate` with the settings of a bucket.
pub fn migration(data: &Path, outgrown: &Outgrown, arguments: &[&str]) -> Command {
    let mut command = imagewell(data, &[&["migrate"], arguments].concat());
    for (key, value) in outgrown.settings().into_iter().filter(|(key, _)| key.starts_with("storage.")) {
        command.env(environment_name(key), value);
    }
    command
}

/// The same, to its end.
pub async fn migrate(data: &Path, outgrown: &Outgrown, arguments: &[&str]) -> String {
    let mut command = migration(data, outgrown, arguments);
    let output = tokio::task::spawn_blocking(move || command.stdin(Stdio::null()).output().expect("runs")).await.expect("ends");
    assert!(output.status.success(), "{}", text(&output));
    text(&output)
}

#[tokio::test(flavor = "multi_thread")]
async fn all_data_moves_to_postgresql_and_a_bucket_and_back_without_a_lost_request() {
    let (folder, data) = accounts_on_disk();
    let process = Process::serve(&data);
    let ada = process.actor("ada").await;
    let token = ada.csrf().await;
    let load = Load::start(&process, &ada, &token, MIXED);
    tokio::time::sleep(Duration::from_secs(2)).await;

    let outgrown = Outgrown::new();
    let bucket = outgrown.settings()[1].1.clone();
    let to = ["--to-database", outgrown.database_url(), "--to-storage", &bucket];
    let copied = migrate(&data, &outgrown, &[&to[..], &["--copy-only", "--bytes-per-second-max", "20000000"]].concat()).await;
    assert!(copied.contains("Copied."), "{copied}");
    let moved = migrate(&data, &outgrown, &to).await;
    assert!(moved.contains("every digest right") && moved.contains("writes waited"), "{moved}");
    println!("{moved}");
    // The same process goes on, on the new side.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let acknowledged = load.finish().await;
    assert!(acknowledged.len() > 50, "only {}", acknowledged.len());
    let pool = sqlx::PgPool::connect(outgrown.database_url()).await.expect("database");
    let (images,): (i64,) = sqlx::query_as("SELECT COUNT(*) FROM images").fetch_one(&pool).await.expect("count");
    assert_eq!(usize::try_from(images).expect("count"), acknowledged.len(), "as many as were acknowledged, on the new side");
    assert_kept(&ada, &acknowledged).await;
    assert!(process.terminate().success());

    let refused = run(&data, &["serve"]);
    assert!(text(&refused).contains("has moved") && text(&refused).contains("moved.toml"), "{}", text(&refused));
    for named in [database_name(&outgrown), &outgrown.settings()[1].1] {
        assert!(text(&refused).contains(named), "{named}: {}", text(&refused));
    }
    let mut checked = imagewell(&data, &["check", "--blobs"]);
    for (key, value) in outgrown.settings() {
        checked.env(environment_name(key), value);
    }
    let checked = checked.output().expect("runs");
    assert!(checked.status.success() && text(&checked).contains("every digest right"), "{}", text(&checked));

    // And back: to a file and a folder again, while a node serves from the bucket.
    let back = folder.path().join("back");
    let with_bucket = |arguments: &[&str]| {
        let mut command = imagewell(&back, arguments);
        for (key, value) in outgrown.settings() {
            command.env(environment_name(key), value);
        }
        command
    };
    stay_on_disk(&back);
    let process = Process::start(with_bucket(&["serve"]));
    let ada = ada.at_node(&process.url);
    let load = Load::start(&process, &ada, &token, MIXED);
    let (database, store) =
        (format!("sqlite://{}", back.join("imagewell.db").display()), format!("file://{}", back.join("blobs").display()));
    let mut command = with_bucket(&["migrate", "--to-database", &database, "--to-storage", &store]);
    let output = tokio::task::spawn_blocking(move || command.output().expect("runs")).await.expect("ends");
    assert!(output.status.success(), "{}", text(&output));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let later = load.finish().await;
    assert!(process.terminate().success());
    let process = Process::serve(&back);
    let ada = ada.at_node(&process.url);
    assert_kept(&ada, &acknowledged).await;
    assert_kept(&ada, &later).await;
    let checked = run(&back, &["check", "--blobs"]);
    assert!(checked.status.success(), "{}", text(&checked));
}

/// What comes in must become less at some time, or the move would never end.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_changes_data_as_fast_as_it_is_copied_is_slowed_down() {
    let (_folder, data) = accounts_on_disk();
    let process = Process::serve(&data);
    let ada = process.actor("ada").await;
    let token = ada.csrf().await;
    // Nearly 1 MB in a second, which is more than may be copied.
    let load = Load::start(&process, &ada, &token, Pace { bytes: |_, _| 100_000, rest: Duration::from_millis(400) });
    tokio::time::sleep(Duration::from_secs(2)).await;
    let outgrown = Outgrown::new();
    let to = ["--to-database", outgrown.database_url(), "--to-storage", &outgrown.settings()[1].1];
    let moved = migrate(&data, &outgrown, &[&to[..], &["--bytes-per-second-max", "600000"]].concat()).await;
    assert!(moved.contains("writes are made to wait now and then") && moved.contains("every digest right"), "{moved}");
    let acknowledged = load.finish().await;
    assert_kept(&ada, &acknowledged).await;
}

/// Who changes rows locks tables in an order of the planner's. Two that wait for each other end in an error for one of them, and it must not be a
/// request's.
#[tokio::test(flavor = "multi_thread")]
async fn a_move_from_postgresql_and_writers_never_wait_for_each_other() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let data = folder.path().join("data");
    let source = share(&[&data]);
    provision(&data);
    let pool = sqlx::PgPool::connect(source.database_url()).await.expect("database");
    let stop = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn({
        let stop = Arc::clone(&stop);
        async move {
            let mut rounds = 0;
            while !stop.load(Ordering::SeqCst) {
                let mut transaction = pool.begin().await.expect("begins");
                for table in ["versions", "images", "orgs"] {
                    let lock = format!("LOCK TABLE {table} IN ROW EXCLUSIVE MODE");
                    sqlx::query(sqlx::AssertSqlSafe(lock)).execute(&mut *transaction).await.expect("nobody has to give way");
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                transaction.commit().await.expect("commits");
                rounds += 1;
            }
            rounds
        }
    });
    let move_to = async |name: &str, arguments: &[&str]| {
        let there = folder.path().join(name);
        let (database, store) =
            (format!("sqlite://{}", there.join("imagewell.db").display()), format!("file://{}", there.join("blobs").display()));
        let to = ["migrate", "--to-database", &database, "--to-storage", &store];
        let mut command = imagewell(&data, &[&to[..], arguments].concat());
        let output = tokio::task::spawn_blocking(move || command.output().expect("runs")).await.expect("ends");
        assert!(output.status.success(), "{}", text(&output));
    };
    move_to("one", &["--copy-only"]).await;
    let cancelled = run(&data, &["migrate", "--cancel"]);
    assert!(cancelled.status.success(), "{}", text(&cancelled));
    move_to("other", &[]).await;
    stop.store(true, Ordering::SeqCst);
    assert!(writer.await.expect("every lock was given") > 10);
}

/// A dump or a report reads a table for as long as it likes. Dropping a trigger has to wait for that, but nobody may have to wait for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_move_is_cancelled_beside_a_dump_and_nobody_else_waits() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let data = folder.path().join("data");
    let outgrown = share(&[&data]);
    provision(&data);
    let process = Process::serve(&data);
    let ada = process.actor("ada").await;
    let there = folder.path().join("there");
    let (database, store) =
        (format!("sqlite://{}", there.join("imagewell.db").display()), format!("file://{}", there.join("blobs").display()));
    let copied = run(&data, &["migrate", "--to-database", &database, "--to-storage", &store, "--copy-only"]);
    assert!(copied.status.success(), "{}", text(&copied));
    let pool = sqlx::PgPool::connect(outgrown.database_url()).await.expect("database");
    let mut dump = pool.begin().await.expect("begins");
    sqlx::query("SELECT COUNT(*) FROM orgs").execute(&mut *dump).await.expect("reads");
    let mut command = imagewell(&data, &["migrate", "--cancel"]);
    let cancelling = tokio::task::spawn_blocking(move || command.output().expect("runs"));
    for _ in 0..20 {
        let login = ada.log_in("ada", PASSWORD).await;
        assert_eq!(login.status.as_u16(), 200, "{}", login.text());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(!cancelling.is_finished(), "a trigger was dropped under a reader");
    dump.rollback().await.expect("ends");
    let cancelled = cancelling.await.expect("ends");
    assert!(cancelled.status.success(), "{}", text(&cancelled));
    let left = "SELECT COUNT(*) FROM pg_trigger WHERE tgname LIKE 'move%'";
    let (left,): (i64,) = sqlx::query_as(left).fetch_one(&pool).await.expect("counts");
    assert_eq!(left, 0);
    pool.close().await;
}

/// Of two nodes the one on whose machine the move was made goes on; the other one can't know where to, and ends to be started anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_can_not_follow_holds_back_its_writes_and_ends() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let (here, there) = (folder.path().join("here"), folder.path().join("there"));
    share(&[&here, &there]);
    provision(&here);
    let (follows, mut leaves) = (Process::serve(&here), Process::serve(&there));
    let ada = follows.actor("ada").await;
    let uuid = ada.at_node(&leaves.url).upload(png_of_bytes(5000, 1)).await.uuid();
    let outgrown = Outgrown::new();
    let moved =
        migrate(&here, &outgrown, &["--to-database", outgrown.database_url(), "--to-storage", &outgrown.settings()[1].1]).await;
    assert!(moved.contains("every digest right"), "{moved}");
    assert!(leaves.wait(Duration::from_secs(20)).success(), "{}", leaves.log());
    assert!(leaves.log().contains("this process ends"), "{}", leaves.log());
    // It has no moved.toml, and the database tells where to.
    for command in [&["serve"][..], &["sweep"], &["check"]] {
        let refused = run(&there, command);
        assert!(!refused.status.success(), "{command:?}: {}", text(&refused));
        for named in ["has moved to", database_name(&outgrown), &outgrown.settings()[1].1] {
            assert!(text(&refused).contains(named), "{command:?} {named}: {}", text(&refused));
        }
    }
    assert!(ada.read(&uuid).await.body == png_of_bytes(5000, 1));
    ada.upload(png_of_bytes(5000, 2)).await.uuid();
    let pool = sqlx::PgPool::connect(outgrown.database_url()).await.expect("database");
    let (images,): (i64,) = sqlx::query_as("SELECT COUNT(*) FROM images").fetch_one(&pool).await.expect("count");
    assert_eq!(images, 2, "both on the new side");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_that_is_cut_off_goes_on_and_one_that_is_cancelled_leaves_no_trace() {
    let (folder, data) = accounts_on_disk();
    let process = Process::serve(&data);
    let ada = process.actor("ada").await;
    for salt in 0..300 {
        ada.upload(png_of_bytes(20_000, salt)).await.uuid();
    }
    let outgrown = Outgrown::new();
    let bucket = outgrown.settings()[1].1.clone();
    let to = ["--to-database", outgrown.database_url(), "--to-storage", &bucket];
    let mut command = migration(&data, &outgrown, &[&to[..], &["--bytes-per-second-max", "3000000"]].concat());
    let mut cut_off = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starts");
    let objects = || walkdir(outgrown.blobs());
    while objects() < 100 {
        assert!(cut_off.try_wait().expect("waits").is_none(), "it was too fast to be cut off");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    cut_off.kill().expect("kills");
    cut_off.wait().expect("ends");
    // A service must not start on what is only half there.
    let early = {
        let mut command = imagewell(&folder.path().join("other"), &["check"]);
        for (key, value) in outgrown.settings() {
            command.env(environment_name(key), value);
        }
        text(&command.output().expect("runs"))
    };
    assert!(early.contains("still being moved"), "{early}");
    ada.upload(png_of_bytes(20_000, 1000)).await.uuid();
    // Another target would mix two moves.
    let other = Outgrown::new();
    let mixed = run(
        &data,
        &[
            "migrate",
            "--to-database",
            other.database_url(),
            "--to-storage",
            &format!("file://{}", folder.path().join("x").display()),
        ],
    );
    assert!(!mixed.status.success() && text(&mixed).contains("--cancel"), "{}", text(&mixed));
    let done = migrate(&data, &outgrown, &to).await;
    assert!(done.contains("301 images") && done.contains("301 versions"), "{done}");
    assert_eq!(objects(), 301);
    assert!(process.terminate().success());

    let data = folder.path().join("again");
    stay_on_disk(&data);
    provision(&data);
    let before = schema(&data).await;
    let outgrown = Outgrown::new();
    let bucket = outgrown.settings()[1].1.clone();
    migrate(&data, &outgrown, &["--to-database", outgrown.database_url(), "--to-storage", &bucket, "--copy-only"]).await;
    assert_ne!(schema(&data).await, before);
    // As if it had been killed after the target was made the truth, and before the source was told.
    let (half, told) = (folder.path().join("half"), Outgrown::new());
    stay_on_disk(&half);
    provision(&half);
    let to = ["--to-database", told.database_url(), "--to-storage", &told.settings()[1].1];
    migrate(&half, &told, &[&to[..], &["--copy-only"]].concat()).await;
    let live = sqlx::PgPool::connect(told.database_url()).await.expect("database");
    sqlx::query("UPDATE moves SET state = 'live' WHERE side = 'target'").execute(&live).await.expect("updates");
    let again = migration(&half, &told, &to).output().expect("runs");
    assert!(!again.status.success() && text(&again).contains("now it knows"), "{}", text(&again));
    assert!(text(&run(&half, &["serve"])).contains("has moved"));

    let cancelled = run(&data, &["migrate", "--cancel"]);
    assert!(cancelled.status.success(), "{}", text(&cancelled));
    assert_eq!(schema(&data).await, before);
    let process = Process::serve(&data);
    process.actor("ada").await.upload(png_of_bytes(20_000, 1)).await.uuid();
}

/// `imagewell migrate` to a file and a folder, slowly enough to be held.
pub fn slowly_to(data: &Path, there: &Path, more: &[&str]) -> Command {
    let (database, store) =
        (format!("sqlite://{}", there.join("imagewell.db").display()), format!("file://{}", there.join("blobs").display()));
    let to = ["migrate", "--to-database", &database, "--to-storage", &store, "--bytes-per-second-max", SLOWLY];
    imagewell(data, &[&to[..], more].concat())
}

/// A picture that nobody takes, and a version past its undo, lose their rows and bytes while others are copied. Both once among what is
/// copied first, and once among the changes that come after it.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_sweep_removes_while_blobs_are_copied_does_not_end_a_move() {
    let (folder, data) = accounts_on_disk();
    provision_first_namespace(&data);
    let first = Variety::fill(&data).await;
    let there = folder.path().join("there");
    let copied = Held::at(slowly_to(&data, &there, &["--copy-only"]), "blobs: ");
    sweep_at_once(&data);
    let copied = copied.go_on();
    assert!(copied.status.success(), "{}", text(&copied));

    let second = Variety::fill(&data).await;
    let moved = Held::at(slowly_to(&data, &there, &[]), "blobs: ");
    sweep_at_once(&data);
    let moved = moved.go_on();
    assert!(moved.status.success() && text(&moved).contains("every digest right"), "{}", text(&moved));
    stay_on_disk(&there);
    let checked = run(&there, &["check", "--blobs"]);
    let counts = format!("{} versions, every digest right", first.lasting() + second.lasting());
    assert!(checked.status.success() && text(&checked).contains(&counts), "{}", text(&checked));
}

/// As messages name it.
fn database_name(outgrown: &Outgrown) -> &str {
    let (address, _) = outgrown.database_url().split_once("?host=").expect("a socket");
    address.rsplit('/').next().expect("a name")
}

fn walkdir(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).map(|entries| entries.flatten().collect::<Vec<_>>()).unwrap_or_default();
    let shown = entries.iter().filter(|entry| !entry.file_name().to_string_lossy().starts_with('.'));
    shown.map(|entry| if entry.path().is_dir() { walkdir(&entry.path()) } else { 1 }).sum()
}

/// Tables and triggers of an SQLite file.
async fn schema(data: &Path) -> Vec<(String,)> {
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(data.join("imagewell.db")).read_only(true);
    let pool = sqlx::SqlitePool::connect_with(options).await.expect("database");
    let names = "SELECT name FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%' ORDER BY name";
    let all = sqlx::query_as(names).fetch_all(&pool).await.expect("schema");
    pool.close().await;
    all
}
