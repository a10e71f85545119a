//! Whose a folder of backups is, what is found when its disk is not there or full, and that a look at it makes nothing.

use std::path::Path;

use crate::backups::{done, refused, snapshots, with_accounts};
use crate::doctor::everything;
use crate::fixtures::png_of_bytes;
use crate::mounts::Mounts;
use crate::process::{Process, accounts_on_disk, imagewell, run, text};
use crate::variety::{Variety, sweep_at_once};

fn names(backup: &Path) -> Vec<String> {
    snapshots(backup).iter().map(|path| path.file_name().expect("name").to_string_lossy()[..7].to_owned()).collect()
}

/// Else its snapshots would push those of the service out.
#[tokio::test(flavor = "multi_thread")]
async fn a_drill_does_not_back_up_among_the_snapshots_of_the_service() {
    let (folder, data, backup) = with_accounts();
    done(&data, "backup", &backup, &[]);
    let drill = folder.path().join("drill");
    let restored = done(&drill, "restore", &backup, &[]);
    assert!(restored.contains("still belongs to the service that made it") && restored.contains("--take-over"), "{restored}");
    let said = refused(&drill, "backup", &backup, &[]);
    for part in ["another copy of this data", "name a folder of its own", "--take-over"] {
        assert!(said.contains(part), "{part:?} in {said}");
    }
    assert_eq!(names(&backup), ["000001_"], "nothing was stored");
    done(&data, "backup", &backup, &[]);
    done(&drill, "backup", &folder.path().join("of the drill"), &[]);
    // The service is lost, and what was a drill has replaced it.
    done(&drill, "backup", &backup, &["--take-over"]);
    done(&drill, "backup", &backup, &[]);
    let said = refused(&data, "backup", &backup, &[]);
    assert!(said.contains("another copy of this data"), "{said}");
    assert_eq!(names(&backup), ["000001_", "000002_", "000003_", "000004_"]);
    // An adopted database may be a copy.
    assert!(run(&drill, &["adopt"]).status.success());
    let said = refused(&drill, "backup", &backup, &[]);
    assert!(said.contains("another copy of this data"), "{said}");
    // Other data is refused whatever is asked for.
    let other = folder.path().join("other");
    crate::process::provision(&other);
    let said = refused(&other, "backup", &backup, &["--take-over"]);
    assert!(said.contains("another service's data") && snapshots(&backup).len() == 4, "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_goes_on_by_itself_after_a_move() {
    let (folder, data) = accounts_on_disk();
    let backup = folder.path().join("backup");
    done(&data, "backup", &backup, &[]);
    let there = |name: &str| folder.path().join("there").join(name).display().to_string();
    let (database, store) = (format!("sqlite://{}", there("a.db")), format!("file://{}", there("blobs")));
    let moved = run(&data, &["migrate", "--to-database", &database, "--to-storage", &store]);
    assert!(moved.status.success(), "{}", text(&moved));
    let mut command = imagewell(&data, &["backup", &*backup.to_string_lossy()]);
    let made = command.env("IMAGEWELL_DATABASE_URL", database).env("IMAGEWELL_STORAGE_URL", store).output().expect("runs");
    assert!(made.status.success(), "{}", text(&made));
    assert_eq!(names(&backup), ["000001_", "000002_"]);
}

/// A backup on a machine whose data folder can't be written is better than none.
#[test]
fn a_backup_that_can_not_note_its_folder_is_made_and_says_so() {
    let (folder, data) = accounts_on_disk();
    let backup = folder.path().join("backup");
    // It can be read, and not be written.
    std::os::unix::fs::symlink("/proc/version", data.join("backup-folders")).expect("links");
    let said = done(&data, "backup", &backup, &[]);
    assert!(said.contains("Snapshot 000001_") && said.contains("can't tell whether the disk"), "{said}");
}

/// As long as it is there, whatever is written under the mount point would fill the disk of the system.
#[test]
fn a_backup_whose_disk_is_not_mounted_is_refused_and_writes_nothing() {
    let (folder, data) = accounts_on_disk();
    let (disk, mounts) = (folder.path().join("disk"), Mounts::new());
    std::fs::create_dir(&disk).expect("makes");
    let below = disk.join("backup");
    for (backup, mount_point) in [(&disk, &disk), (&below, &disk)] {
        mounts.mount(mount_point, "size=16M");
        let backup_to = |more: &[&str]| mounts.run(&imagewell(&data, &[&["backup", &*backup.to_string_lossy()], more].concat()));
        let made = backup_to(&[]);
        assert!(made.status.success(), "{}", text(&made));
        mounts.unmount(mount_point);
        for more in [&[][..], &["--take-over"]] {
            let refused = backup_to(more);
            assert!(!refused.status.success() && text(&refused).contains("is its disk mounted?"), "{}", text(&refused));
            assert_eq!(std::fs::read_dir(&disk).expect("folder").count(), 0, "nothing lies under the mount point");
        }
    }
    // The disk was replaced.
    mounts.mount(&disk, "size=16M");
    let anew = mounts.run(&imagewell(&data, &["backup", &*disk.to_string_lossy(), "--anew"]));
    assert!(anew.status.success() && text(&anew).contains("Snapshot 000001_"), "{}", text(&anew));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_finds_its_disk_full_says_so_and_leaves_the_one_before_whole() {
    let (folder, data) = accounts_on_disk();
    let process = Process::serve(&data);
    let ada = process.actor("ada").await;
    ada.upload(png_of_bytes(5000, 1)).await.uuid();
    let (disk, mounts) = (folder.path().join("disk"), Mounts::new());
    std::fs::create_dir(&disk).expect("makes");
    mounts.mount(&disk, "size=24M");
    let backup = disk.join("backup");
    let command =
        |command: &str, more: &[&str]| mounts.run(&imagewell(&data, &[&[command, &*backup.to_string_lossy()], more].concat()));
    let first = command("backup", &[]);
    assert!(first.status.success(), "{}", text(&first));
    for salt in 2..6 {
        ada.upload(png_of_bytes(900_000, salt)).await.uuid();
    }
    // Full within the images, and full within the rows.
    for bytes_left in [3_000_000, 100_000] {
        let ballast = mounts.inside(&disk).join("ballast");
        fill(&ballast, bytes_left);
        let refused = command("backup", &[]);
        assert!(!refused.status.success() && text(&refused).contains("is full"), "{bytes_left}: {}", text(&refused));
        let checked = command("restore", &["--dry-run"]);
        let said = text(&checked);
        assert!(
            checked.status.success() && said.contains("Snapshot 000001_") && said.contains("is whole"),
            "{bytes_left}: {said}"
        );
        std::fs::remove_file(ballast).expect("removes");
    }
    // What is left free for the service is left free.
    let mut reserved = imagewell(&data, &["backup", &*backup.to_string_lossy()]);
    let refused = mounts.run(reserved.env("IMAGEWELL_STORAGE_FREE_BYTES_MIN", "30000000"));
    assert!(!refused.status.success() && text(&refused).contains("storage.free_bytes_min"), "{}", text(&refused));
    let again = command("backup", &[]);
    assert!(again.status.success() && text(&again).contains("5 images"), "{}", text(&again));
    let checked = command("restore", &["--dry-run"]);
    assert!(checked.status.success() && text(&checked).contains("5 blobs"), "{}", text(&checked));
    assert_eq!(names(&mounts.inside(&backup)).len(), 2, "nothing is left of those that were cut off");
    assert!(process.terminate().success());
}

/// Writes a file until only so many bytes are free.
pub fn fill(ballast: &Path, bytes_left: u64) {
    let folder = ballast.parent().expect("parent");
    let stat = rustix::fs::statvfs(folder).expect("asks");
    let bytes = (stat.f_bavail * stat.f_frsize).checked_sub(bytes_left).expect("more is free");
    std::fs::write(ballast, vec![1; usize::try_from(bytes).expect("few")]).expect("writes");
}

/// Neither in the data folder that is named, which may be a mistake, nor beside the data or the backup.
#[tokio::test(flavor = "multi_thread")]
async fn a_look_at_a_backup_makes_and_changes_nothing() {
    let (folder, data, backup) = with_accounts();
    Variety::fill(&data).await;
    sweep_at_once(&data);
    done(&data, "backup", &backup, &[]);
    let nowhere = folder.path().join("nowhere");
    let before = (everything(&data), everything(&backup));
    let said = done(&nowhere, "restore", &backup, &["--dry-run"]);
    assert!(said.contains("It would be restored here") && said.contains("is whole"), "{said}");
    assert!(!nowhere.exists(), "{:?}", everything(&nowhere).keys());
    let said = done(&data, "restore", &backup, &["--dry-run"]);
    assert!(said.contains("It would not be restored here"), "{said}");
    assert!((everything(&data), everything(&backup)) == before, "it has changed something");
    let said = refused(&nowhere, "restore", &nowhere, &["--dry-run"]);
    assert!(said.contains("is no backup") && !nowhere.exists(), "{said}");
}

/// What people call it, and not how tables are named.
#[tokio::test(flavor = "multi_thread")]
async fn a_restore_counts_in_plain_words() {
    let (folder, data, backup) = with_accounts();
    done(&data, "backup", &backup, &[]);
    let said = done(&folder.path().join("there"), "restore", &backup, &[]);
    for words in ["rights of roles", "roles of accounts", "signing keys", "versions of images"] {
        assert!(said.contains(words), "{words:?} in {said}");
    }
    assert!(!said.lines().any(|line| line.starts_with("    ") && line.contains('_')), "{said}");
}
