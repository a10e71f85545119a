//! What was acknowledged is kept: through SIGKILL, failed syncs and full disks. Power cuts are replayed by tests/powercut.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::app::{Answer, image_path};
use crate::backup_folders::fill;
use crate::fixtures::{png, png_of_bytes};
use crate::mounts::Mounts;
use crate::process::{PLAN, Process, TWO_DAYS, accounts_on_disk, age, blobs, imagewell, provision, run, stay_on_disk, text};

/// Bytes by uuid, of uploads that were answered with 200.
type Acknowledged = Arc<Mutex<HashMap<String, Vec<u8>>>>;

/// Uploads until the server is gone.
async fn upload_until_killed(process: &Process, acknowledged: &Acknowledged, seed: u64, kill_after: Duration) {
    let ada = process.actor("ada").await;
    let token = ada.csrf().await;
    let uploads = (0..8_u64).map(|lane| {
        let (ada, token, acknowledged) = (ada.clone(), token.clone(), Arc::clone(acknowledged));
        tokio::spawn(async move {
            for round in 0.. {
                let salt = seed * 1_000_000 + lane * 10_000 + round;
                // Small ones, ones beyond the memory bound, and everything between.
                let bytes = png_of_bytes(2000 + (salt as usize * 7919) % 60_000 + if lane == 0 { 1_200_000 } else { 0 }, salt);
                let Ok(response) = ada.uploading(&token, &bytes).send().await else { return };
                if response.status().as_u16() != 200 {
                    return;
                }
                let Ok(answer) = response.json::<serde_json::Value>().await else { return };
                let uuid = answer["data"]["uuid"].as_str().expect("uuid").to_owned();
                acknowledged.lock().expect("lock").insert(uuid, bytes);
            }
        })
    });
    let uploads: Vec<_> = uploads.collect();
    tokio::time::sleep(kill_after).await;
    let killed = Command::new("kill").args(["-KILL", &process.child.id().to_string()]).status().expect("runs");
    assert!(killed.success());
    for upload in uploads {
        upload.await.expect("ends");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_acknowledged_image_survives_sigkill_and_nothing_dangles() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let data = folder.path().join("data");
    provision(&data);
    let acknowledged = Acknowledged::default();
    for round in 0..8 {
        let process = Process::serve(&data);
        upload_until_killed(&process, &acknowledged, round, Duration::from_millis(250 + round * 61 % 400)).await;
        drop(process);
        let checked = run(&data, &["check", "--blobs"]);
        assert!(checked.status.success(), "round {round}: {}", text(&checked));
    }
    let acknowledged = acknowledged.lock().expect("lock").clone();
    assert!(acknowledged.len() > 50, "only {} uploads got through", acknowledged.len());
    let process = Process::serve(&data);
    let ada = process.actor("ada").await;
    for (uuid, bytes) in &acknowledged {
        assert!(ada.read(uuid).await.body == *bytes, "{uuid} is not what was acknowledged");
    }
    drop(process);
    // What the kills left behind goes, and exactly the blobs of rows stay.
    age(&blobs(&data), TWO_DAYS);
    let swept = run(&data, &["sweep"]);
    assert!(swept.status.success(), "{}", text(&swept));
    let checked = text(&run(&data, &["check", "--blobs"]));
    let versions: usize =
        checked.split(" versions").next().and_then(|text| text.rsplit(' ').next()?.parse().ok()).expect("count");
    assert_eq!(count_files(&blobs(&data)), versions);
    assert!(versions >= acknowledged.len());
    println!("{} acknowledged, {versions} stored: {}", acknowledged.len(), text(&swept).lines().last().unwrap_or_default());
}

fn count_files(folder: &Path) -> usize {
    std::fs::read_dir(folder)
        .expect("folder")
        .flatten()
        // The S3 server keeps its own notes under such names.
        .filter(|entry| !entry.file_name().to_string_lossy().starts_with('.'))
        .map(|entry| if entry.path().is_dir() { count_files(&entry.path()) } else { 1 })
        .sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn simultaneous_uploads_share_commits() {
    let (_folder, data) = accounts_on_disk();
    let process = Process::serve(&data);
    let ada = process.actor("ada").await;
    let token = ada.csrf().await;
    let before =
        (process.metric("imagewell_commit_batch_size_count").await, process.metric("imagewell_commit_batch_size_sum").await);
    let uploads = (0..200_u64).map(|salt| Answer::of(ada.uploading(&token, &png(8, 8, salt))));
    for answer in futures_util::future::join_all(uploads).await {
        answer.uuid();
    }
    let commits = process.metric("imagewell_commit_batch_size_count").await - before.0;
    let writes = process.metric("imagewell_commit_batch_size_sum").await - before.1;
    // The service notes some things of its own.
    assert!(writes >= 200.0, "{writes} writes");
    assert!(commits < writes * 0.75, "{commits} commits for {writes} writes");
}

/// Makes every sync fail from now on, as a dying disk does: of all files, or of one.
fn fail_syncs(process: &Process, only: Option<&Path>) -> std::process::Child {
    let mut tracer = Command::new("strace");
    if let Some(file) = only {
        tracer.arg("-P").arg(file.canonicalize().expect("exists"));
    }
    let mut tracer = tracer
        .args(["-f", "-qq", "-e", "trace=fsync,fdatasync", "-e", "inject=fsync,fdatasync:error=EIO", "-o", "/dev/null", "-p"])
        .arg(process.child.id().to_string())
        .stderr(Stdio::piped())
        .spawn()
        .expect("strace runs: apt-get install strace");
    std::thread::sleep(Duration::from_millis(700));
    assert!(tracer.try_wait().expect("waits").is_none(), "strace could not attach");
    tracer
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_failed_sync_nothing_is_acknowledged_and_the_process_exits() {
    for call in ["blobs", "the database's log"] {
        let (_folder, data) = accounts_on_disk();
        let mut process = Process::serve(&data);
        let ada = process.actor("ada").await;
        let token = ada.csrf().await;
        let kept = ada.upload(png(8, 8, 1)).await.uuid();
        let log = data.join("imagewell.db-wal");
        let mut tracer = fail_syncs(&process, (call != "blobs").then_some(log.as_path()));
        let uploads = (0..5_u64).map(|salt| ada.uploading(&token, &png(8, 8, 100 + salt)).send());
        let mut refused = 0;
        for answer in futures_util::future::join_all(uploads).await {
            // Some are told, some find the door closed; nobody gets a 200.
            match answer {
                Ok(answer) => {
                    let (status, text) = (answer.status().as_u16(), answer.text().await.unwrap_or_default());
                    assert!(status >= 500, "{call}: {status} {text}");
                    assert!(!text.contains("sync") && !text.contains("blobs"), "private detail: {text}");
                    refused += 1;
                }
                Err(error) => assert!(error.is_connect() || error.is_request(), "{error}"),
            }
        }
        assert!(refused > 0, "{call}: nobody was told");
        let status = process.wait(Duration::from_secs(10));
        assert_eq!(status.code(), Some(74), "{call}: {}", process.log());
        assert!(process.log().contains("no upload is acknowledged"));
        let _ = tracer.kill();
        let _ = tracer.wait();
        let process = Process::serve(&data);
        let again = process.actor("ada").await;
        assert!(again.read(&kept).await.body == png(8, 8, 1), "{call}");
        again.upload(png(8, 8, 2)).await.uuid();
        let checked = run(&data, &["check", "--blobs"]);
        assert!(checked.status.success(), "{call}: {}", text(&checked));
    }
}

/// The folder as the process sees it, from outside of its namespace.
fn inside(process: &Process, data: &Path) -> PathBuf {
    PathBuf::from(format!("/proc/{}/root{}", process.child.id(), data.display()))
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_disk_as_good_as_full_uploads_wait_and_everything_else_goes_on() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let data = folder.path().join("data");
    let process = Process::serve_on_tmpfs(&data, "size=24M", &[("IMAGEWELL_STORAGE_FREE_BYTES_MIN", "4000000")]);
    let ada = process.actor("ada").await;
    let uuid = ada.upload(png(8, 8, 1)).await.uuid();
    let inside = inside(&process, &data);
    let ballast = inside.join("ballast");
    let files = || count_files(&inside.join("blobs")) + count_files(&inside.join("spool"));
    let before = files();
    std::fs::write(&ballast, vec![1; 22_000_000]).expect("writes");
    for size in [2000, 100_000, 3_000_000] {
        ada.upload(png_of_bytes(size, 5)).await.refused(507, "\"E_NOSPACE\"");
    }
    assert_eq!(files(), before, "nothing is left behind");
    assert!(ada.read(&uuid).await.body == png(8, 8, 1), "reads go on");
    process.actor("bob").await;
    assert_eq!(Answer::of(ada.get("/readyz")).await.status.as_u16(), 200);
    std::fs::remove_file(&ballast).expect("removes");
    ada.upload(png_of_bytes(3_000_000, 5)).await.uuid();
    // The reserve, the upload once, and a little.
    fill(&ballast, 4_000_000 + 3_000_000 + 900_000);
    ada.upload(png_of_bytes(3_000_000, 6)).await.uuid();
    ada.upload(png_of_bytes(3_000_000, 7)).await.refused(507, "\"E_NOSPACE\"");
    assert!(process.terminate().success());
}

/// Not a byte is free, and what is rendered is served all the same.
#[tokio::test(flavor = "multi_thread")]
async fn on_a_full_disk_large_images_are_rendered() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let data = folder.path().join("data");
    let process = Process::serve_on_tmpfs(&data, "size=16M", &[("IMAGEWELL_IMAGES_LOOKS", "false")]);
    let ada = process.actor("ada").await;
    let uuid = ada.upload(png_of_bytes(3_000_000, 1)).await.uuid();
    let mut ballast = std::fs::File::create(inside(&process, &data).join("ballast")).expect("makes");
    let full = loop {
        if let Err(error) = std::io::Write::write_all(&mut ballast, &[1; 4096]) {
            break error;
        }
    };
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    let answer = Answer::of(ada.get(&format!("/i/{uuid}/w_4"))).await;
    assert_eq!(answer.status.as_u16(), 200, "{}", answer.text());
    assert!(process.terminate().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_finds_the_disk_full_is_507_and_leaves_nothing() {
    for options in ["size=12M", "size=64M,nr_inodes=40"] {
        let folder = tempfile::tempdir().expect("temporary folder");
        let data = folder.path().join("data");
        let process = Process::serve_on_tmpfs(&data, options, &[]);
        let ada = process.actor("ada").await;
        let first = ada.upload(png(8, 8, 1)).await.uuid();
        let inside = inside(&process, &data);
        let mut stored = 1;
        let mut answer = ada.upload(png_of_bytes(900_000, 0)).await;
        while answer.status.as_u16() == 200 {
            stored += 1;
            answer = ada.upload(png_of_bytes(900_000, stored)).await;
            assert!(stored < 100, "{options}: never full");
        }
        answer.refused(507, "\"E_NOSPACE\"");
        assert_eq!(count_files(&inside.join("blobs")) as u64, stored, "{options}: a refused upload left bytes");
        assert!(ada.read(&first).await.body == png(8, 8, 1), "{options}");
        let victim = std::fs::read_dir(inside.join("blobs/opsportal-images/100606")).expect("folder").flatten();
        let _ = victim
            .map(|entry| entry.path())
            .filter(|path| path.metadata().is_ok_and(|meta| meta.len() > 500_000))
            .take(3)
            .map(std::fs::remove_file)
            .count();
        assert_eq!(ada.upload(png_of_bytes(900_000, 999)).await.status.as_u16(), 200, "{options}: uploads resume by themselves");
        assert!(Answer::of(ada.get(&image_path(&first))).await.status.is_success());
        drop(process);
    }
}

/// What is stored, and renderings that are kept, would be under the mount point, and gone when the volume is back.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_lies_under_the_mount_point_of_a_volume_that_is_unmounted_while_the_service_runs() {
    for bytes in [0, 2000, 3_000_000] {
        let folder = tempfile::tempdir().expect("temporary folder");
        let (data, mounts) = (folder.path().join("data"), Mounts::new());
        let blobs = data.join("blobs");
        stay_on_disk(&data);
        std::fs::create_dir_all(&blobs).expect("makes");
        mounts.mount(&blobs, "size=16M");
        std::fs::write(folder.path().join("plan.toml"), PLAN).expect("writes");
        let plan = folder.path().join("plan.toml");
        let provisioned = mounts.run(&imagewell(&data, &["provision", &plan.to_string_lossy()]));
        assert!(provisioned.status.success(), "{}", text(&provisioned));
        let mut serve = imagewell(&data, &["serve"]);
        let mut process = Process::start(mounts.enter(serve.env("IMAGEWELL_IMAGES_LOOKS", "false")));
        let ada = process.actor("ada").await;
        let uuid = ada.upload(png(8, 8, 1)).await.uuid();
        assert!(count_files(&mounts.inside(&blobs)) > 0 && count_files(&blobs) == 0, "it is on the volume");
        // From now on it is in memory, so a rendering needs nothing of the volume.
        assert!(ada.read(&uuid).await.body == png(8, 8, 1));
        mounts.unmount(&blobs);
        let status = match bytes {
            0 => Answer::of(ada.get(&format!("/i/{uuid}/w_4"))).await.status,
            bytes => ada.upload(png_of_bytes(bytes, 2)).await.status,
        };
        assert!(bytes == 0 || status.as_u16() == 500, "{bytes}: {status}");
        assert_eq!(process.wait(Duration::from_secs(30)).code(), Some(74), "{bytes}: {}", process.log());
        assert!(process.log().contains("unmounted?") || process.log().contains("Is the volume mounted"), "{}", process.log());
        let left: Vec<_> = std::fs::read_dir(&blobs).expect("folder").collect();
        assert!(left.is_empty(), "{bytes}: {left:?}");
        let started = mounts.run(&imagewell(&data, &["serve"]));
        assert!(!started.status.success() && text(&started).contains("Is the volume mounted"), "{}", text(&started));
        assert_eq!(std::fs::read_dir(&blobs).expect("folder").count(), 0, "{bytes}: a start has made something");
    }
}

/// As docs/operating.md has it: the database first, then the blobs, while uploads go on.
#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_was_taken_while_the_service_ran_can_be_restored() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let (data, restored) = (folder.path().join("data"), folder.path().join("restored"));
    for data in [&data, &restored] {
        stay_on_disk(data);
    }
    provision(&data);
    let process = Process::serve(&data);
    let ada = process.actor("ada").await;
    let mut uuids = Vec::new();
    for salt in 0..10 {
        uuids.push(ada.upload(png(8, 8, salt)).await.uuid());
    }
    let acknowledged = Acknowledged::default();
    let going_on = upload_until_killed(&process, &acknowledged, 3, Duration::from_millis(1500));
    let backing_up = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        std::fs::create_dir(&restored).expect("makes");
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(data.join("imagewell.db"));
        let pool = sqlx::SqlitePool::connect_with(options).await.expect("database");
        let copy = format!("VACUUM INTO '{}'", restored.join("imagewell.db").display());
        sqlx::query(sqlx::AssertSqlSafe(copy)).execute(&pool).await.expect("copies");
        pool.close().await;
        let copied = Command::new("cp").arg("-r").arg(data.join("blobs")).arg(&restored).status().expect("runs");
        assert!(copied.success());
    };
    tokio::join!(going_on, backing_up);
    let checked = run(&restored, &["check", "--blobs"]);
    assert!(checked.status.success() && text(&checked).contains("every digest right"), "{}", text(&checked));
    let process = Process::serve(&restored);
    let ada = process.actor("ada").await;
    for (uuid, salt) in uuids.iter().zip(0..) {
        assert!(ada.read(uuid).await.body == png(8, 8, salt));
    }
}
