//! A database and a store are used together only when both bear the same identity. Whatever is refused is left as it is.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use imagewell::serve::{Ended, database_place, storage_place};
use imagewell_core::adopt::{Adoption, Bears};
use imagewell_core::sweep::{self, Mode};
use imagewell_engines::faults::Behaviour;

use crate::app::{Data, Outgrown, TestApp, files_below};
use crate::faults::ready;
use crate::fixtures::png;
use crate::process::{Process, TWO_DAYS, accounts_on_disk, age, run, stay_on_disk, text};

/// Nothing is too young or too many for a sweep.
const EAGER: [(&str, &str); 2] = [("sweep.grace_seconds", "0"), ("sweep.orphans_percent_max", "100")];

/// Data with an image in it, of a service that has ended.
async fn with_image() -> (Arc<Data>, String) {
    let data = Data::fresh();
    let app = TestApp::on(Arc::clone(&data), &[]).await;
    let uuid = app.actor("ada").await.upload(png(8, 8, 1)).await.uuid();
    app.stop().await;
    (data, uuid)
}

fn identity(data: &Data) -> PathBuf {
    data.blobs().join(".imagewell")
}

/// Why a service does not open.
async fn refused(data: &Data, overrides: &[(&str, &str)]) -> String {
    match data.open(overrides).await {
        Ok(_) => panic!("it opens"),
        Err(error) => error.to_string(),
    }
}

fn files(data: &Data) -> Vec<PathBuf> {
    files_below(&data.blobs(), &data.blobs()).into_iter().collect()
}

#[tokio::test]
async fn another_databases_store_is_refused_and_left_as_it_is() {
    let ((one, uuid), (other, _), empty) = (with_image().await, with_image().await, Data::fresh());
    let before = (files(&one), std::fs::read(identity(&one)).expect("an identity"));
    let store = [("storage_url", &*one.storage_url())];
    let why = refused(&other, &store).await;
    assert!(why.contains("belongs to another database") && why.contains("imagewell adopt"), "{why}");
    let why = refused(&empty, &store).await;
    assert!(why.contains("belongs to another database") || why.contains("there is no database"), "{why}");
    assert_eq!((files(&one), std::fs::read(identity(&one)).expect("an identity")), before);
    let app = TestApp::on(one, &[]).await;
    assert_eq!(app.actor("ada").await.read(&uuid).await.body, png(8, 8, 1));
}

#[tokio::test]
async fn a_new_database_takes_no_store_that_is_in_use() {
    let (data, _) = with_image().await;
    std::fs::remove_file(identity(&data)).expect("removes");
    let before = files(&data);
    let empty = Data::fresh();
    let why = refused(&empty, &[("storage_url", &*data.storage_url())]).await;
    assert!(why.contains("is in use, and this database has no image in it") || why.contains("there is no database"), "{why}");
    assert!(files(&data) == before && !identity(&data).exists());
    // Nor does one whose file was emptied.
    let (_folder, data) = accounts_on_disk();
    let blob = data.join("blobs/rewards/1/0d5a2b1c-5f6e-4a3b-8c9d-0123456789ab.png");
    std::fs::create_dir_all(blob.parent().expect("parent")).expect("makes");
    std::fs::write(&blob, b"blob").expect("writes");
    age(&blob, TWO_DAYS);
    std::fs::write(data.join("imagewell.db"), b"").expect("empties");
    for command in [&["serve"][..], &["sweep", "--confirm"], &["check"]] {
        let refused = run(&data, command);
        assert!(!refused.status.success() && text(&refused).contains("another database"), "{}", text(&refused));
        assert!(blob.exists());
    }
}

/// A database that a refused start had made, or whose log it had left, would take the place of the one that is put back.
#[tokio::test]
async fn a_start_without_the_database_makes_none_and_the_one_that_is_put_back_is_whole() {
    let (folder, data) = accounts_on_disk();
    let process = Process::serve(&data);
    let uuid = process.actor("ada").await.upload(png(8, 8, 1)).await.uuid();
    assert!(process.terminate().success());
    let (database, away) = (data.join("imagewell.db"), folder.path().join("away.db"));
    std::fs::rename(&database, &away).expect("moves");
    let before = files_below(&data, &data);
    for command in [&["serve"][..], &["sweep"], &["sweep", "--confirm"], &["sweep", "--restore-trash"], &["adopt", "--confirm"]] {
        let refused = run(&data, command);
        assert!(!refused.status.success() && text(&refused).contains("there is no database"), "{command:?}: {}", text(&refused));
        assert_eq!(files_below(&data, &data), before, "{command:?}");
    }
    // Whatever else a start refuses, no log of its own stays.
    std::fs::copy(&away, &database).expect("copies");
    std::fs::rename(data.join("blobs/.imagewell"), folder.path().join("identity")).expect("moves");
    assert!(!run(&data, &["serve"]).status.success());
    assert!(!data.join("imagewell.db-wal").exists());
    std::fs::rename(folder.path().join("identity"), data.join("blobs/.imagewell")).expect("moves");
    std::fs::rename(&away, &database).expect("moves");
    let process = Process::serve(&data);
    assert_eq!(process.actor("ada").await.read(&uuid).await.body, png(8, 8, 1));
}

/// A mistyped place makes neither data nor a report of success.
#[tokio::test]
async fn commands_for_data_that_is_there_make_none() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let data = folder.path().join("typo");
    stay_on_disk(&data);
    for command in [&["sweep"][..], &["sweep", "--restore-trash"], &["adopt"], &["adopt", "--confirm"]] {
        let refused = run(&data, command);
        assert!(!refused.status.success() && text(&refused).contains("there is no database"), "{command:?}: {}", text(&refused));
        assert!(!data.exists(), "{command:?}");
    }
}

/// As a command in a shell that knows the bucket and not the database.
#[tokio::test]
async fn a_fresh_sqlite_file_does_not_take_the_bucket_of_a_cluster() {
    let data = Data::outgrown();
    let app = TestApp::on(Arc::clone(&data), &[]).await;
    let uuid = app.actor("ada").await.upload(png(8, 8, 1)).await.uuid();
    let why = refused(&data, &[("database_url", "")]).await;
    assert!(why.contains("there is no database") && why.contains("is in use: nothing was made"), "{why}");
    // As a bucket of an earlier version, and as one with objects of other programs.
    let borne = std::fs::read(identity(&data)).expect("an identity");
    std::fs::remove_file(identity(&data)).expect("removes");
    let before = files(&data);
    let why = refused(&data, &[("database_url", "")]).await;
    assert!(why.contains("there is no database"), "{why}");
    assert!(files(&data) == before && !identity(&data).exists());
    std::fs::write(identity(&data), borne).expect("writes");
    assert_eq!(app.actor("ada").await.read(&uuid).await.body, png(8, 8, 1));
    let foreign = Data::outgrown();
    std::fs::write(foreign.blobs().join("readme.txt"), "others").expect("writes");
    assert!(refused(&foreign, &[]).await.contains("is in use"));
}

/// Nodes that have not stored anything yet may be about to use it, with a database that this start does not know.
#[tokio::test]
async fn a_fresh_sqlite_file_takes_an_empty_bucket_only_when_it_is_told_to() {
    let data = Data::outgrown();
    let here = [("database_url", "")];
    let file = data.folder().join("imagewell.db");
    let why = refused(&data, &here).await;
    for said in ["there is no database", "other nodes may use the bucket", "database.allow_new_file_with_bucket=true"] {
        assert!(why.contains(said), "{said}: {why}");
    }
    assert!(files(&data).is_empty() && !identity(&data).exists() && !file.exists(), "something was made");
    // As nodes whose first start comes at the same time.
    let app = TestApp::on(Arc::clone(&data), &[]).await;
    let uuid = app.actor("ada").await.upload(png(8, 8, 1)).await.uuid();
    let told = [here[0], ("database.allow_new_file_with_bucket", "true")];
    assert!(refused(&data, &told).await.contains("is in use: nothing was made"));
    assert_eq!(app.actor("ada").await.read(&uuid).await.body, png(8, 8, 1));
    let alone = Data::outgrown();
    let uuid = TestApp::on(Arc::clone(&alone), &told).await.actor("ada").await.upload(png(8, 8, 2)).await.uuid();
    // Once there is a file, nobody has to be told anything.
    let app = TestApp::on(alone, &here).await;
    assert_eq!(app.actor("ada").await.read(&uuid).await.body, png(8, 8, 2));
}

#[tokio::test]
async fn a_store_that_has_lost_its_identity_is_refused() {
    let (data, uuid) = with_image().await;
    let borne = std::fs::read(identity(&data)).expect("an identity");
    std::fs::remove_file(identity(&data)).expect("removes");
    let why = refused(&data, &[]).await;
    assert!(why.contains("lacks the identity") && why.contains("Is the volume mounted"), "{why}");
    assert!(!identity(&data).exists());
    std::fs::write(identity(&data), "something else").expect("writes");
    assert!(refused(&data, &[]).await.contains("has no line `id = …`"));
    std::fs::write(identity(&data), borne).expect("writes");
    let app = TestApp::on(data, &[]).await;
    assert_eq!(app.actor("ada").await.read(&uuid).await.body, png(8, 8, 1));
}

/// As a database that has taken the migration, and a store that no newer program has seen.
#[tokio::test]
async fn data_from_before_identities_is_paired_once_if_the_blobs_are_there() {
    let (data, uuid) = with_image().await;
    data.execute("DELETE FROM store_identity").await;
    std::fs::remove_file(identity(&data)).expect("removes");
    let (here, away) = (data.blobs().join("opsportal-images"), data.blobs().with_extension("away"));
    std::fs::rename(&here, &away).expect("moves");
    let why = refused(&data, &[]).await;
    assert!(why.contains("of 1 images of this database that were looked for, 1 are not in the store"), "{why}");
    assert!(!identity(&data).exists());
    std::fs::rename(&away, &here).expect("moves");
    let app = TestApp::on(Arc::clone(&data), &[]).await;
    assert_eq!(app.actor("ada").await.read(&uuid).await.body, png(8, 8, 1));
    app.stop().await;
    let borne = std::fs::read(identity(&data)).expect("an identity");
    assert_eq!(TestApp::on(Arc::clone(&data), &[]).await.stop().await, Ended::Drained);
    assert!(std::fs::read(identity(&data)).expect("an identity") == borne, "once");
}

/// Neither is it swept, nor is anything acknowledged that would be under the mount point.
#[tokio::test]
async fn a_store_that_is_unmounted_while_the_service_runs_is_not_used() {
    let app = TestApp::with(&EAGER).await;
    let (data, ada) = (Arc::clone(app.data()), app.actor("ada").await);
    let uuid = ada.upload(png(8, 8, 1)).await.uuid();
    data.execute("UPDATE versions SET deleted_us = 1").await;
    let away = app.blobs().with_extension("away");
    std::fs::rename(app.blobs(), &away).expect("moves");
    std::fs::create_dir(app.blobs()).expect("makes");
    if !app.service.app.storage.is_bucket() {
        // At once, and not only when the next look finds it.
        assert_eq!(ada.upload(png(8, 8, 2)).await.status, 500);
        assert!(app.service.app.halt.is_tripped() && files(&data).is_empty(), "{:?}", files(&data));
    }
    let refused = sweep::run(&app.service.app, Mode::Remove, |_| {}).await.expect_err("is refused").to_string();
    assert!(refused.contains("lacks the identity"), "{refused}");
    // A bucket can't be unmounted, and is looked at less often.
    if !app.service.app.storage.is_bucket() {
        let begun = Instant::now();
        while !app.service.app.halt.is_tripped() {
            assert!(begun.elapsed() < Duration::from_secs(30), "it goes on");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(app.stop().await, Ended::Halted);
    } else {
        app.stop().await;
    }
    std::fs::remove_dir_all(data.blobs()).expect("removes");
    std::fs::rename(&away, data.blobs()).expect("moves");
    data.execute("UPDATE versions SET deleted_us = NULL").await;
    let app = TestApp::on(data, &EAGER).await;
    assert_eq!(app.actor("ada").await.read(&uuid).await.body, png(8, 8, 1));
    sweep::run(&app.service.app, Mode::Remove, |_| {}).await.expect("sweeps again");
}

/// A copy has the same identity. As if it, or the database that a backup was restored over, had swept the store.
#[tokio::test]
async fn of_a_database_and_its_copy_only_the_first_one_to_sweep_goes_on() {
    let app = TestApp::with(&EAGER).await;
    app.actor("ada").await.upload(png(8, 8, 1)).await.uuid();
    sweep::run(&app.service.app, Mode::Remove, |_| {}).await.expect("sweeps");
    sweep::run(&app.service.app, Mode::Remove, |_| {}).await.expect("sweeps again");
    // A crash between the two writes of a mark.
    app.data().execute("UPDATE store_identity SET sweep_before = sweep, sweep = 'not written'").await;
    sweep::run(&app.service.app, Mode::Remove, |_| {}).await.expect("sweeps once more");
    app.data().execute("UPDATE store_identity SET sweep_before = 'older', sweep = 'old'").await;
    let orphan = app.blobs().join("opsportal-images/1/0d5a2b1c-5f6e-4a3b-8c9d-0123456789ab.png");
    std::fs::create_dir_all(orphan.parent().expect("parent")).expect("makes");
    std::fs::write(&orphan, b"the other one's").expect("writes");
    let refused = sweep::run(&app.service.app, Mode::Remove, |_| {}).await.expect_err("is refused").to_string();
    assert!(refused.contains("another database's with the same id"), "{refused}");
    assert!(orphan.exists());
    sweep::run(&app.service.app, Mode::RemoveConfirmed, |_| {}).await.expect("an operator decides");
    assert!(!orphan.exists() && app.trash().len() == 1);
    sweep::run(&app.service.app, Mode::Remove, |_| {}).await.expect("goes on");
}

#[tokio::test]
async fn adopting_says_what_it_would_do_and_asks_where_something_does_not_match() {
    let (_folder, one) = accounts_on_disk();
    let (_other_folder, other) = accounts_on_disk();
    let store = format!("storage_url=file://{}", one.join("blobs").display());
    let orphan = |data: &Path| data.join("blobs/rewards/1/0d5a2b1c-5f6e-4a3b-8c9d-0123456789ab.png");
    std::fs::create_dir_all(orphan(&one).parent().expect("parent")).expect("makes");
    std::fs::write(orphan(&one), b"blob").expect("writes");
    let before = std::fs::read(one.join("blobs/.imagewell")).expect("an identity");
    let asked = run(&other, &["adopt", "--set", &store]);
    let said = text(&asked);
    assert_eq!(asked.status.code(), Some(1));
    for line in ["identity of another database", "1 blobs in the store", "1 blobs without a version", "adopt --confirm"] {
        assert!(said.contains(line), "{line}: {said}");
    }
    assert!(std::fs::read(one.join("blobs/.imagewell")).expect("an identity") == before);
    assert!(text(&run(&one, &["check"])).contains("the store belongs to this database"));

    let adopted = run(&other, &["adopt", "--confirm", "--set", &store]);
    assert!(adopted.status.success() && text(&adopted).contains("Adopted"), "{}", text(&adopted));
    assert!(run(&other, &["check", "--set", &store]).status.success());
    let former = run(&one, &["check"]);
    assert!(!former.status.success() && text(&former).contains("belongs to another database"), "{}", text(&former));
    assert!(orphan(&one).exists());
    // A damaged identity stands in nobody's way either.
    std::fs::write(other.join("blobs/.imagewell"), "torn").expect("writes");
    let asked = run(&other, &["adopt"]);
    assert!(asked.status.code() == Some(1) && text(&asked).contains("can't be read"), "{}", text(&asked));
    assert!(run(&other, &["adopt", "--confirm"]).status.success());
    // Where everything matches nobody is asked.
    std::fs::remove_file(other.join("blobs/.imagewell")).expect("removes");
    let matching = run(&other, &["adopt"]);
    assert!(matching.status.success(), "{}", text(&matching));
}

#[tokio::test]
async fn adopting_brings_back_what_the_trash_has_of_the_database() {
    let app = TestApp::with(&EAGER).await;
    let uuid = app.actor("ada").await.upload(png(8, 8, 1)).await.uuid();
    app.data().execute("UPDATE versions SET blob_key = blob_key || '.other'").await;
    sweep::run(&app.service.app, Mode::Remove, |_| {}).await.expect("sweeps");
    app.data().execute("UPDATE versions SET blob_key = REPLACE(blob_key, '.other', '')").await;
    let settings = &app.service.settings;
    let spool = settings.service.data_dir.join("spool");
    let adoption = Adoption::open(&database_place(settings), &storage_place(settings), spool).await.expect("opens");
    let census = adoption.census(|_| {}).await.expect("counts");
    assert_eq!((census.versions, census.blobs, census.missing(), census.in_trash), (1, 0, 1, 1));
    assert!(!census.matches() && census.bears == Bears::This);
    assert_eq!(adoption.adopt().await.expect("adopts"), 1);
    adoption.close().await;
    assert_eq!(app.actor("ada").await.read(&uuid).await.body, png(8, 8, 1));
    sweep::run(&app.service.app, Mode::Remove, |_| {}).await.expect("the service goes on with the new identity");
}

#[tokio::test]
async fn a_move_takes_no_store_with_anything_that_the_source_lacks() {
    let (folder, data) = accounts_on_disk();
    let (_other_folder, other) = accounts_on_disk();
    let move_to = |store: &Path| {
        let there = folder.path().join(store.file_name().expect("name")).with_extension("there");
        let database = format!("sqlite://{}", there.join("imagewell.db").display());
        run(&data, &["migrate", "--to-database", &database, "--to-storage", &format!("file://{}", store.display())])
    };
    let refused = move_to(&other.join("blobs"));
    assert!(text(&refused).contains("belongs to another database: a move needs an empty one"), "{}", text(&refused));
    let used = folder.path().join("used");
    let blob = used.join("rewards/1/0d5a2b1c-5f6e-4a3b-8c9d-0123456789ab.png");
    std::fs::create_dir_all(blob.parent().expect("parent")).expect("makes");
    std::fs::write(&blob, b"blob").expect("writes");
    let refused = move_to(&used);
    assert!(text(&refused).contains("which the source does not have"), "{}", text(&refused));
    assert!(blob.exists() && !used.join(".imagewell").exists());
    assert!(run(&other, &["check"]).status.success());
    let moved = move_to(&folder.path().join("empty"));
    assert!(moved.status.success(), "{}", text(&moved));
    let (there, store) = (folder.path().join("empty.there"), folder.path().join("empty"));
    stay_on_disk(&there);
    let checked = run(&there, &["check", "--set", &format!("storage_url=file://{}", store.display())]);
    assert!(text(&checked).contains("the store belongs to this database"), "{}", text(&checked));
}

/// A store that bears the target's own identity, from a move that was given up, may have been used by others since.
#[tokio::test]
async fn a_move_takes_no_store_of_its_target_that_holds_more_than_the_source() {
    let (folder, data) = accounts_on_disk();
    let there = folder.path().join("there");
    let store = there.join("blobs");
    let database = format!("sqlite://{}", there.join("imagewell.db").display());
    let to = ["migrate", "--to-database", &database, "--to-storage", &format!("file://{}", store.display())];
    assert!(run(&data, &[&to[..], &["--copy-only"]].concat()).status.success());
    assert!(run(&data, &["migrate", "--cancel"]).status.success());
    let file = sqlx::sqlite::SqliteConnectOptions::new().filename(there.join("imagewell.db")).foreign_keys(false);
    let pool = sqlx::SqlitePool::connect_with(file).await.expect("database");
    for table in ["orgs", "roles", "role_actions", "accounts", "account_roles"] {
        sqlx::query(sqlx::AssertSqlSafe(format!("DELETE FROM {table}"))).execute(&pool).await.expect("empties");
    }
    pool.close().await;
    let blob = store.join("rewards/1/0d5a2b1c-5f6e-4a3b-8c9d-0123456789ab.png");
    std::fs::create_dir_all(blob.parent().expect("parent")).expect("makes");
    std::fs::write(&blob, b"blob").expect("writes");
    let refused = run(&data, &to);
    assert!(!refused.status.success(), "{}", text(&refused));
    assert!(text(&refused).contains("which the source does not have"), "{}", text(&refused));
    assert!(blob.exists());
    std::fs::remove_file(&blob).expect("removes");
    let moved = run(&data, &to);
    assert!(moved.status.success(), "{}", text(&moved));
}

/// The store stays, and so does its identity, with the marks of the source's sweeps.
#[tokio::test]
async fn a_move_to_another_database_takes_the_store_with_it() {
    let (folder, data) = accounts_on_disk();
    for _ in 0..2 {
        assert!(run(&data, &["sweep"]).status.success());
    }
    let store = format!("file://{}", data.join("blobs").display());
    let there = folder.path().join("there");
    let database = format!("sqlite://{}", there.join("imagewell.db").display());
    let moved = run(&data, &["migrate", "--to-database", &database, "--to-storage", &store]);
    assert!(moved.status.success(), "{}", text(&moved));
    stay_on_disk(&there);
    for command in ["check", "sweep"] {
        let used = run(&there, &[command, "--set", &format!("storage_url={store}")]);
        assert!(used.status.success(), "{}", text(&used));
    }
    assert!(text(&run(&data, &["sweep"])).contains("has moved"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_starts_without_its_store_is_unready_until_it_knows_whose_that_is() {
    let (outgrown, _database, store) = Outgrown::behind_proxies();
    store.behave(Behaviour::Away);
    let app = TestApp::on(Data::on(outgrown), &[("storage.retry_seconds_max", "1")]).await;
    assert_eq!(ready(&app).await, 503);
    let ada = app.actor("ada").await;
    assert_eq!(ada.upload(png(8, 8, 1)).await.status.as_u16(), 503);
    assert!(app.stored().await.files.is_empty());
    store.behave(Behaviour::Pass);
    let begun = Instant::now();
    while ready(&app).await != 200 {
        assert!(begun.elapsed() < Duration::from_secs(20), "it never becomes ready");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(identity(app.data()).exists());
    ada.upload(png(8, 8, 1)).await.uuid();
}
