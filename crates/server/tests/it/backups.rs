//! Backups of a running service, and what comes back from them.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use crate::app::Outgrown;
use crate::moving::{Load, MIXED, assert_kept};
use crate::operators::{open_to_all, permissions};
use crate::process::{Held, Process, blobs, imagewell, provision, run, share, stay_on_disk, text};
use crate::variety::{SLOWLY, Variety, provision_first_namespace, sweep_at_once};

/// A data folder with accounts, on whatever the tests run on, and where its backup is to be.
pub fn with_accounts() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let folder = tempfile::tempdir().expect("temporary folder");
    let (data, backup) = (folder.path().join("data"), folder.path().join("backup"));
    provision(&data);
    provision_first_namespace(&data);
    (folder, data, backup)
}

/// Runs a command that gets the backup's folder, and expects that it succeeds.
#[track_caller]
pub fn done(data: &Path, command: &str, backup: &Path, more: &[&str]) -> String {
    let output = tried(data, command, backup, more);
    assert!(output.status.success(), "{command}: {}", text(&output));
    text(&output)
}

fn tried(data: &Path, command: &str, backup: &Path, more: &[&str]) -> Output {
    run(data, &[&[command, &*backup.to_string_lossy()], more].concat())
}

/// Expects that it fails.
#[track_caller]
pub fn refused(data: &Path, command: &str, backup: &Path, more: &[&str]) -> String {
    let output = tried(data, command, backup, more);
    assert!(!output.status.success(), "{command}: {}", text(&output));
    text(&output)
}

pub fn snapshots(backup: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(backup.join("snapshots")).expect("snapshots");
    let mut found: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    found.sort();
    found
}

/// The blobs of a backup, in the order of their keys.
fn blobs_of(backup: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> =
        permissions(&backup.join("blobs")).into_iter().map(|(path, _)| path).filter(|path| path.is_file()).collect();
    found.sort();
    found
}

fn flip(file: &Path) {
    let mut bytes = std::fs::read(file).expect("reads");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(file, bytes).expect("writes");
}

/// Serves from what was restored, and compares all of it.
async fn assert_restored(data: &Path, variety: &Variety) {
    let process = Process::serve(data);
    variety.assert_kept_at(&process).await;
    assert!(process.terminate().success());
    let checked = run(data, &["check", "--blobs"]);
    assert!(checked.status.success() && text(&checked).contains("every digest right"), "{}", text(&checked));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_a_busy_service_restores_to_either_database_and_store() {
    let (folder, data, backup) = with_accounts();
    let process = Process::serve(&data);
    let ada = process.actor("ada").await;
    let token = ada.csrf().await;
    let variety = Variety::fill_at(&process).await;
    let load = Load::start(&process, &ada, &token, MIXED);
    let first = done(&data, "backup", &backup, &[]);
    assert!(first.contains("Snapshot 000001_") && first.contains("0 were there already"), "{first}");
    let acknowledged = load.finish().await;
    let second = done(&data, "backup", &backup, &[]);
    let there: usize =
        second.split("back; ").nth(1).and_then(|rest| rest.split(' ').next()).and_then(|n| n.parse().ok()).expect("n");
    assert!(second.contains("Snapshot 000002_") && there >= variety.lasting(), "{second}");
    let checked = done(&data, "restore", &backup, &["--dry-run"]);
    assert!(checked.contains("The backup is whole") && checked.contains("It would not be restored here"), "{checked}");
    let mut listed = Command::new("sha256sum");
    listed.args(["--quiet", "-c"]).arg(snapshots(&backup)[1].join("blobs.sha256")).current_dir(&backup);
    let listed = listed.output().expect("runs");
    assert!(listed.status.success(), "{}", text(&listed));
    assert!(process.terminate().success());

    let (disk, nodes) = (folder.path().join("disk"), folder.path().join("nodes"));
    stay_on_disk(&disk);
    share(&[&nodes]);
    for restored in [&disk, &nodes] {
        let said = done(restored, "restore", &backup, &[]);
        assert!(said.contains("every digest is right"), "{said}");
        assert_restored(restored, &variety).await;
        let again = done(restored, "backup", &backup, &["--take-over"]);
        assert!(again.contains("Copied 0 blobs"), "it goes on with the same backup: {again}");
        let process = Process::serve(restored);
        assert_eq!(
            ada.at_node(&process.url).read(acknowledged.keys().next().expect("one")).await.status.as_u16(),
            401,
            "sessions end"
        );
        assert_kept(&process.actor("ada").await, &acknowledged).await;
    }
}

/// A ticket and a deleted version lose their rows and bytes between the snapshot of the rows and the copying of the blobs.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_sweep_removes_while_blobs_are_copied_is_left_out() {
    let (folder, data, backup) = with_accounts();
    let variety = Variety::fill(&data).await;
    let slowly = ["backup", &*backup.to_string_lossy(), "--bytes-per-second-max", SLOWLY];
    let held = Held::at(imagewell(&data, &slowly), "blobs: ");
    sweep_at_once(&data);
    let made = held.go_on();
    assert!(made.status.success() && text(&made).contains("Left out 2 versions"), "{}", text(&made));
    assert_eq!(blobs_of(&backup).len(), variety.lasting());
    let there = folder.path().join("there");
    let restored = done(&there, "restore", &backup, &[]);
    assert!(restored.contains(&format!("{:>12} versions", variety.lasting())), "{restored}");
    assert!(restored.contains(&format!("{:>12} tickets", 0)), "{restored}");
    assert_restored(&there, &variety).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_is_killed_leaves_the_one_before_whole_and_the_next_goes_on() {
    let (_folder, data, backup) = with_accounts();
    done(&data, "backup", &backup, &[]);
    Variety::fill(&data).await;
    let slowly = ["backup", &*backup.to_string_lossy(), "--bytes-per-second-max", SLOWLY];
    Held::at(imagewell(&data, &slowly), "blobs: ").kill();
    let is_whole = |path: &PathBuf| !path.to_string_lossy().contains('#');
    let copied = blobs_of(&backup).into_iter().filter(is_whole).count();
    // As if it had been killed while it wrote one more.
    let staged = blobs_of(&backup)[0].with_extension("png#7");
    std::fs::write(&staged, b"half").expect("writes");
    assert!(copied > 0 && snapshots(&backup).len() == 2, "one is whole, and one was cut off");
    let checked = done(&data, "restore", &backup, &["--dry-run"]);
    assert!(checked.contains("Snapshot 000001_") && checked.contains("The backup is whole"), "{checked}");
    let again = done(&data, "backup", &backup, &[]);
    assert!(again.contains("Snapshot 000003_") && again.contains(&format!("{copied} were there already")), "{again}");
    let names: Vec<_> =
        snapshots(&backup).iter().map(|path| path.file_name().expect("name").to_string_lossy()[..7].to_owned()).collect();
    assert_eq!(names, ["000001_", "000003_"], "nothing is left of the one that was cut off");
    assert!(blobs_of(&backup).iter().all(is_whole), "nor of what it was writing");
    // What only that one had, because the service has removed it since, goes with it.
    sweep_at_once(&data);
    let slowly = done(&data, "backup", &backup, &["--keep", "1"]);
    assert!(slowly.contains("Removed the old snapshot 000003_") && slowly.contains("Removed 2 blobs"), "{slowly}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_is_found_and_named_and_nothing_is_restored_from_it() {
    let (folder, data, backup) = with_accounts();
    let variety = Variety::fill(&data).await;
    sweep_at_once(&data);
    done(&data, "backup", &backup, &[]);
    let there = folder.path().join("there");
    let snapshot = snapshots(&backup).remove(0);
    for file in ["database.db", "blobs.sha256", "manifest.toml"] {
        flip(&snapshot.join(file));
        for more in [&["--dry-run"][..], &[]] {
            let said = refused(&there, "restore", &backup, more);
            assert!(said.contains("is damaged") && said.contains(file), "{said}");
        }
        flip(&snapshot.join(file));
    }
    let blob = blobs_of(&backup).remove(3);
    let name = blob.strip_prefix(backup.join("blobs")).expect("below").to_string_lossy().into_owned();
    flip(&blob);
    let said = refused(&there, "restore", &backup, &["--dry-run"]);
    assert!(said.contains("1 of ") && said.contains(&format!("{name}: its bytes have changed")), "{said}");
    let said = refused(&there, "restore", &backup, &[]);
    assert!(said.contains(&format!("{name}: its bytes have changed")) && said.contains("no service starts"), "{said}");
    let started = run(&there, &["serve"]);
    assert!(!started.status.success() && text(&started).contains("only half restored"), "{}", text(&started));
    // As the message says: without it the next backup takes it from the store anew.
    std::fs::remove_file(&blob).expect("removes");
    let said = refused(&there, "restore", &backup, &[]);
    assert!(said.contains(&format!("{name}: it is not in the backup")), "{said}");
    let mended = done(&data, "backup", &backup, &[]);
    assert!(mended.contains("Copied 1 blobs"), "{mended}");
    let first = snapshots(&backup)[0].file_name().expect("name").to_string_lossy().into_owned();
    let other = refused(&there, "restore", &backup, &[]);
    assert!(other.contains(&format!("--snapshot {first}")), "{other}");
    done(&there, "restore", &backup, &["--snapshot", &first]);
    assert_restored(&there, &variety).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_images_can_be_left_out_of_a_restore() {
    let (folder, data, backup) = with_accounts();
    let variety = Variety::fill(&data).await;
    sweep_at_once(&data);
    done(&data, "backup", &backup, &[]);
    flip(&blobs_of(&backup)[0]);
    let there = folder.path().join("there");
    let said = done(&there, "restore", &backup, &["--without-damaged"]);
    assert!(said.contains("1 versions were left out") && said.contains("1 versions of the snapshot are missing here"), "{said}");
    assert!(!said.contains("every digest is right"), "{said}");
    assert!(said.contains(&format!("{:>12} versions of images", variety.lasting() - 1)), "{said}");
    let checked = run(&there, &["check", "--blobs"]);
    assert!(checked.status.success(), "{}", text(&checked));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_is_killed_starts_no_service_and_goes_on_when_given_again() {
    let (folder, data, backup) = with_accounts();
    let variety = Variety::fill(&data).await;
    done(&data, "backup", &backup, &[]);
    let there = folder.path().join("there");
    let slowly = ["restore", &*backup.to_string_lossy(), "--bytes-per-second-max", SLOWLY];
    Held::at(imagewell(&there, &slowly), "blobs: ").kill();
    let started = run(&there, &["serve"]);
    assert!(!started.status.success() && text(&started).contains("imagewell restore"), "{}", text(&started));
    done(&there, "restore", &backup, &[]);
    assert_restored(&there, &variety).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_overwrites_nothing_and_says_what_would_be_lost() {
    let (folder, data, backup) = with_accounts();
    Variety::fill(&data).await;
    done(&data, "backup", &backup, &[]);
    let process = Process::serve(&data);
    process.actor("ada").await.upload(crate::fixtures::png_of_bytes(5000, 1)).await.uuid();
    assert!(process.terminate().success());
    let before = blobs_below(&blobs(&data));
    let said = refused(&data, "restore", &backup, &[]);
    for part in
        ["It holds      1 orgs, 4 accounts, 20 images, 20 versions", "The snapshot  1 orgs, 4 accounts, 19 images, 19 versions"]
    {
        assert!(said.contains(part), "{part:?} in {said}");
    }
    assert_eq!(blobs_below(&blobs(&data)), before);
    // The database is lost, and the store has what came in since the backup.
    let without = folder.path().join("without");
    stay_on_disk(&without);
    let store = without.join("blobs/rewards/100606");
    std::fs::create_dir_all(&store).expect("makes");
    std::fs::write(store.join("0d5a2b1c-5f6e-4a3b-8c9d-0123456789ab.png"), b"later").expect("writes");
    let said = refused(&without, "restore", &backup, &[]);
    assert!(said.contains("the store holds 1 blobs") && said.contains("--keep-store"), "{said}");
    assert_eq!(blobs_below(&without.join("blobs")).len(), 1, "nothing was restored");
    done(&without, "restore", &backup, &["--keep-store"]);
    let checked = run(&without, &["check", "--blobs"]);
    assert!(checked.status.success(), "{}", text(&checked));
    assert_eq!(std::fs::read(store.join("0d5a2b1c-5f6e-4a3b-8c9d-0123456789ab.png")).expect("there"), b"later");
}

/// Without what the S3 server keeps for itself.
fn blobs_below(folder: &Path) -> Vec<PathBuf> {
    let is_blob = |path: &Path| path.is_file() && !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
    permissions(folder).into_iter().map(|(path, _)| path).filter(|path| is_blob(path)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn old_snapshots_go_with_what_only_they_needed_unless_the_new_one_holds_far_less() {
    let (_folder, data, backup) = with_accounts();
    let process = Process::serve(&data);
    let till = crate::file_service::Machine::till_at(&process.url, "till01");
    for name in 0..5 {
        till.upload(&format!("{name}.png"), crate::fixtures::png_of_bytes(5000, name)).await;
    }
    done(&data, "backup", &backup, &["--keep", "2"]);
    for name in 1..5 {
        till.send("DELETE", &format!("rewards/{name}.png")).await;
    }
    let swept = imagewell(&data, &["sweep"]).env("IMAGEWELL_SWEEP_UNDO_SECONDS", "0").output().expect("runs");
    assert!(text(&swept).contains("4 deleted versions"), "{}", text(&swept));
    done(&data, "backup", &backup, &["--keep", "2"]);
    assert_eq!(blobs_of(&backup).len(), 5, "the first snapshot still needs them");
    let said = refused(&data, "backup", &backup, &["--keep", "2"]);
    assert!(said.contains("Snapshot 000003_") && said.contains("has 1 versions") && said.contains("has 5"), "{said}");
    assert_eq!((snapshots(&backup).len(), blobs_of(&backup).len()), (3, 5), "nothing has gone");
    let said = done(&data, "backup", &backup, &["--keep", "2", "--prune-anyway"]);
    assert!(said.contains("Removed the old snapshot 000001_") && said.contains("Removed 4 blobs"), "{said}");
    assert_eq!((snapshots(&backup).len(), blobs_of(&backup).len()), (2, 1));
    done(&data, "restore", &backup, &["--dry-run"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_store_has_lost_is_named_and_everything_else_is_backed_up() {
    let (_folder, data, backup) = with_accounts();
    let variety = Variety::fill(&data).await;
    sweep_at_once(&data);
    let lost = blobs_below(&blobs(&data)).into_iter().find(|path| path.to_string_lossy().contains("/aaa/")).expect("one");
    std::fs::remove_file(&lost).expect("removes");
    let name = lost.file_name().expect("name").to_string_lossy().into_owned();
    let said = refused(&data, "backup", &backup, &[]);
    assert!(
        said.contains("1 blobs are not in this backup") && said.contains(&format!("{name}: it is gone from the store")),
        "{said}"
    );
    assert_eq!(blobs_of(&backup).len(), variety.lasting() - 1);
    let said = refused(&data, "restore", &backup, &["--dry-run"]);
    assert!(said.contains(&format!("{name}: it is not in the backup")), "{said}");
}

#[tokio::test]
async fn only_the_owner_reads_a_backup_whatever_the_umask() {
    let (folder, data, backup) = with_accounts();
    stay_on_disk(&folder.path().join("there"));
    Variety::fill(&data).await;
    let to = backup.to_string_lossy();
    for (data, arguments) in [(&data, ["backup", &*to]), (&folder.path().join("there"), ["restore", &*to])] {
        let output = open_to_all(data, &arguments).output().expect("runs");
        assert!(output.status.success(), "{}", text(&output));
    }
    for folder in [&backup, &folder.path().join("there")] {
        for (path, mode) in permissions(folder) {
            assert_eq!(mode, if path.is_dir() { 0o700 } else { 0o600 }, "{} has {mode:o}", path.display());
        }
    }
}

#[tokio::test]
async fn a_backup_of_nothing_and_one_into_other_things_are_refused() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let (data, backup) = (folder.path().join("data"), folder.path().join("backup"));
    stay_on_disk(&data);
    let said = refused(&data, "backup", &backup, &[]);
    assert!(said.contains("does not lead to a database of imagewell") && !data.exists() && !backup.exists(), "{said}");
    provision(&data);
    let said = refused(&data, "backup", folder.path(), &[]);
    assert!(said.contains("holds something else"), "{said}");
    let said = refused(&data, "backup", &data.join("blobs/backup"), &[]);
    assert!(said.contains("among the blobs") && !data.join("blobs/backup").exists(), "{said}");
    let said = refused(&data, "restore", folder.path(), &["--dry-run"]);
    assert!(said.contains("is no backup of imagewell"), "{said}");
    let (other, theirs) = (folder.path().join("other"), folder.path().join("theirs"));
    stay_on_disk(&other);
    provision(&other);
    done(&other, "backup", &theirs, &[]);
    let said = refused(&data, "backup", &theirs, &[]);
    assert!(said.contains("another service's data") && snapshots(&theirs).len() == 1, "{said}");
    std::fs::remove_dir_all(data.join("blobs")).expect("removes");
    let said = refused(&data, "backup", &backup, &[]);
    assert!(said.contains("is its volume mounted?") && !data.join("blobs").exists(), "{said}");
    // A database of PostgreSQL that nobody has used is none either.
    let empty: Arc<Outgrown> = share(&[&folder.path().join("empty")]);
    let said = refused(&folder.path().join("empty"), "backup", &backup, &[]);
    assert!(said.contains("does not lead to a database of imagewell"), "{said}");
    drop(empty);
}
