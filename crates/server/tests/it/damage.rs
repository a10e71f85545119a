//! Bytes that are gone or have changed while all data moves, a store that is used on both sides, and stores that are away.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use imagewell::config::environment_name;
use imagewell_core::verify;
use imagewell_engines::faults::Behaviour;

use crate::app::{Data, Outgrown, TestApp, files_below};
use crate::fixtures::png_of_bytes;
use crate::moving::slowly_to;
use crate::process::{Held, Process, accounts_on_disk, imagewell, run, stay_on_disk, text};
use crate::takeover::ask;

/// All blobs of a folder, by their names.
fn blobs_in(folder: &Path) -> Vec<PathBuf> {
    let files = files_below(folder, folder);
    let names = files.iter().map(|file| file.strip_prefix(folder).expect("below").to_owned());
    names.filter(|name| !name.iter().any(|part| part.to_string_lossy().starts_with('.'))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_blob_is_named_and_can_be_left_behind() {
    let (folder, data) = accounts_on_disk();
    let process = Process::serve(&data);
    let ada = process.actor("ada").await;
    let mut uuids = Vec::new();
    for salt in 0..4 {
        uuids.push(ada.upload(png_of_bytes(5000, salt)).await.uuid());
    }
    assert!(process.terminate().success());
    let store = data.join("blobs");
    let [gone, changed, ..] = &blobs_in(&store)[..] else { panic!("four blobs") };
    let good = std::fs::read(store.join(gone)).expect("reads");
    std::fs::remove_file(store.join(gone)).expect("removes");
    let mut bytes = std::fs::read(store.join(changed)).expect("reads");
    bytes[2000] ^= 1;
    std::fs::write(store.join(changed), bytes).expect("writes");

    let there = folder.path().join("there");
    let copy = |more: &[&str]| slowly_to(&data, &there, more).output().expect("runs");
    // All of them at once, again and again, and everything else is copied.
    for _ in 0..2 {
        let refused = copy(&[]);
        let said = text(&refused);
        assert!(!refused.status.success() && said.contains("2 blobs are gone or damaged in the source"), "{said}");
        assert!(said.contains(&format!("{}: gone\n{}: changed", gone.display(), changed.display())), "{said}");
        assert!(said.contains("--without-damaged"), "{said}");
        assert_eq!(blobs_in(&there.join("blobs")).len(), 2);
    }
    // The source is as it was.
    let process = Process::serve(&data);
    process.actor("ada").await.upload(png_of_bytes(5000, 9)).await.uuid();
    assert!(process.terminate().success());
    // One is put back, and the other is left behind.
    std::fs::write(store.join(gone), good).expect("writes");
    let moved = copy(&["--without-damaged"]);
    let said = text(&moved);
    assert!(moved.status.success() && said.contains("every digest right but for 1 blobs"), "{said}");
    assert!(said.contains(&format!("{}: changed\nEnd of the list", changed.display())), "{said}");
    assert_eq!(blobs_in(&there.join("blobs")).len(), 4);
    assert!(store.join(changed).exists(), "nothing is taken from the old store");
    stay_on_disk(&there);
    let checked = text(&run(&there, &["check", "--blobs"]));
    assert!(checked.contains(&changed.display().to_string()), "{checked}");
    let process = Process::serve(&there);
    let ada = process.actor("ada").await;
    let mut read = 0;
    for (uuid, salt) in uuids.iter().zip(0..) {
        read += usize::from(ada.read(uuid).await.body == png_of_bytes(5000, salt));
    }
    assert_eq!(read, 3, "all but one");
    let known = ask(&there, "SELECT damage FROM damaged_blobs").await;
    assert_eq!(known.as_deref(), Some("changed"), "the new service needn't find it first");
}

/// Which files a bucket has, and whether they are still the same ones.
fn inodes(outgrown: &Outgrown) -> BTreeMap<PathBuf, u64> {
    let inode = |file: PathBuf| {
        let inode = outgrown.blobs().join(&file).metadata().expect("there").ino();
        (file, inode)
    };
    blobs_in(outgrown.blobs()).into_iter().map(inode).collect()
}

/// From SQLite and a bucket to PostgreSQL and the same bucket. A byte that flips on its way once made a move delete the only copy.
#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_stays_is_read_and_never_written() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let data = folder.path().join("data");
    let (outgrown, _database, proxy) = Outgrown::behind_proxies();
    stay_on_disk(&data);
    let with_bucket = |arguments: &[&str]| {
        let mut command = imagewell(&data, arguments);
        for (key, value) in outgrown.settings().into_iter().filter(|(key, _)| *key != "database_url") {
            command.env(environment_name(key), value);
        }
        command.env("IMAGEWELL_DATABASE_ALLOW_NEW_FILE_WITH_BUCKET", "true");
        command
    };
    let plan = folder.path().join("accounts.toml");
    std::fs::write(&plan, crate::process::PLAN).expect("writes");
    let provisioned = with_bucket(&["provision", &plan.to_string_lossy()]).output().expect("runs");
    assert!(provisioned.status.success(), "{}", text(&provisioned));
    let process = Process::start(with_bucket(&["serve"]));
    let ada = process.actor("ada").await;
    let uuid = ada.upload(png_of_bytes(200_000, 1)).await.uuid();
    let before = inodes(&outgrown);
    assert_eq!(before.len(), 1);
    proxy.behave(Behaviour::FlipOnceAfterReceiving(100_000));
    let to = ["migrate", "--to-database", outgrown.database_url(), "--to-storage", &outgrown.settings()[1].1];
    let moved = with_bucket(&to).output().expect("runs");
    assert!(moved.status.success() && text(&moved).contains("every digest right."), "{}", text(&moved));
    assert!(proxy.has_flipped());
    assert_eq!(inodes(&outgrown), before, "none was written or removed");
    assert_eq!(ada.read(&uuid).await.body, png_of_bytes(200_000, 1));
}

/// Whoever restored what is named as lost would do so for nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_can_not_be_read_is_not_taken_for_damage() {
    let (outgrown, _database, proxy) = Outgrown::behind_proxies();
    let impatient = [("storage.retry_seconds_max", "1"), ("storage.time_seconds_max", "2")];
    let app = TestApp::on(Data::on(outgrown), &impatient).await;
    let ada = app.actor("ada").await;
    for salt in 0..3 {
        ada.upload(png_of_bytes(5000, salt)).await.uuid();
    }
    for fault in [Behaviour::Away, Behaviour::Unavailable] {
        proxy.behave(fault);
        let refused = verify::run(&app.service.app, |_| {}).await.expect_err("it is away");
        assert!(matches!(refused, imagewell_core::Error::Busy { .. }), "{fault:?}: {refused}");
    }
    proxy.behave(Behaviour::Pass);
    // A bucket that is another one, or was deleted.
    let (bucket, away) = (app.blobs(), app.blobs().with_extension("away"));
    std::fs::rename(&bucket, &away).expect("moves");
    std::fs::create_dir(&bucket).expect("makes");
    let refused = verify::run(&app.service.app, |_| {}).await.expect_err("it is another one").to_string();
    assert!(refused.contains("lacks the identity"), "{refused}");
    std::fs::remove_dir_all(&bucket).expect("removes");
    std::fs::rename(&away, &bucket).expect("moves");
    let summary = verify::run(&app.service.app, |_| {}).await.expect("reads");
    assert_eq!((summary.versions, summary.broken), (3, Vec::new()));
}

/// As a volume that is unmounted while data moves from it.
#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_is_unmounted_is_not_taken_for_damage() {
    let (folder, data) = accounts_on_disk();
    let process = Process::serve(&data);
    let ada = process.actor("ada").await;
    for salt in 0..12 {
        ada.upload(png_of_bytes(5000, salt)).await.uuid();
    }
    assert!(process.terminate().success());
    let there = folder.path().join("there");
    let held = Held::at(slowly_to(&data, &there, &["--without-damaged"]), "blobs: ");
    let (store, away) = (data.join("blobs"), data.join("away"));
    std::fs::rename(&store, &away).expect("moves");
    std::fs::create_dir(&store).expect("makes");
    let moved = held.go_on();
    assert!(!moved.status.success() && text(&moved).contains("Is the volume mounted"), "{}", text(&moved));
    std::fs::remove_dir_all(&store).expect("removes");
    std::fs::rename(&away, &store).expect("moves");
    let moved = slowly_to(&data, &there, &[]).output().expect("runs");
    assert!(moved.status.success() && text(&moved).contains("every digest right."), "{}", text(&moved));
    assert_eq!(blobs_in(&there.join("blobs")).len(), 12);
}
