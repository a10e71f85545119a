//! Mistakes and circumstances of those who run it: umasks, older programs, processes that were killed.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::fixtures::png;
use crate::process::{Process, accounts_on_disk, imagewell, run, text};

/// Everything below a folder with its permissions.
pub fn permissions(folder: &Path) -> Vec<(PathBuf, u32)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("folder").flatten() {
        let metadata = entry.metadata().expect("metadata");
        found.push((entry.path(), metadata.permissions().mode() & 0o777));
        if metadata.is_dir() {
            found.extend(permissions(&entry.path()));
        }
    }
    found
}

/// With a umask that takes nothing away, as some containers and units have.
pub fn open_to_all(data: &Path, arguments: &[&str]) -> Command {
    let plain = imagewell(data, arguments);
    let mut command = Command::new("sh");
    command.arg("-c").arg("umask 000; exec \"$0\" \"$@\"").arg(plain.get_program()).args(arguments);
    command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?)))).current_dir(data.parent().expect("parent"));
    command
}

async fn upload(process: &Process) {
    let answer = process.actor("ada").await.upload(png(16, 16, 1)).await;
    assert_eq!(answer.status.as_u16(), 200, "{}", answer.text());
}

#[tokio::test]
async fn nobody_else_reads_the_data_whatever_the_umask_and_the_folder() {
    let (_folder, data) = accounts_on_disk();
    // As an operator may have made them, or an earlier version.
    let mode = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("permits");
    mode(&data, 0o755);
    for file in ["imagewell.db", "imagewell.lock"] {
        std::fs::OpenOptions::new().append(true).create(true).open(data.join(file)).expect("opens");
        mode(&data.join(file), 0o644);
    }
    let process = Process::start(open_to_all(&data, &["serve"]));
    upload(&process).await;
    for (path, mode) in permissions(&data) {
        assert_eq!(mode & 0o077, 0, "{} has {mode:o}", path.display());
    }
    assert!(process.log().contains("chmod 700"), "{}", process.log());
    assert!(process.terminate().success());
}

#[tokio::test]
async fn a_clean_stop_empties_the_log_of_the_database() {
    let (_folder, data) = accounts_on_disk();
    let bytes_of_log = || std::fs::metadata(data.join("imagewell.db-wal")).map_or(0, |log| log.len());
    for _ in 0..3 {
        let mut process = Process::serve(&data);
        upload(&process).await;
        process.child.kill().expect("kills");
        process.child.wait().expect("ends");
    }
    assert!(bytes_of_log() > 0);
    assert!(Process::serve(&data).terminate().success());
    assert_eq!(bytes_of_log(), 0);
}

/// The way back after an upgrade, and the node that restarts in the middle of one.
#[tokio::test]
async fn a_newer_schema_that_says_so_is_served_but_neither_copied_nor_changed() {
    let (_folder, data) = accounts_on_disk();
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(data.join("imagewell.db"));
    let pool = sqlx::SqlitePool::connect_with(options).await.expect("database");
    for sql in [
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (9999, 'newer', TRUE, x'00', 0)",
        "UPDATE schema_compatibility SET schema_number = 9999",
        "ALTER TABLE images ADD COLUMN of_a_newer_program TEXT",
    ] {
        sqlx::query(sql).execute(&pool).await.expect("done");
    }
    let process = Process::serve(&data);
    upload(&process).await;
    assert!(process.log().contains("upgraded by a newer imagewell"), "{}", process.log());
    assert!(process.terminate().success());
    for command in [&["check"][..], &["sweep", "--dry-run"]] {
        let done = run(&data, command);
        assert!(done.status.success(), "{command:?}: {}", text(&done));
    }
    let backup = data.parent().expect("parent").join("backup");
    let refused = run(&data, &["backup", &backup.to_string_lossy()]);
    assert!(!refused.status.success() && text(&refused).contains("schema 9999"), "{}", text(&refused));
    // One that shuts older programs out.
    sqlx::query("UPDATE schema_compatibility SET compatible_since = 9999").execute(&pool).await.expect("done");
    pool.close().await;
    let refused = run(&data, &["serve"]);
    assert!(!refused.status.success() && text(&refused).contains("made by a newer imagewell"), "{}", text(&refused));
}

#[tokio::test]
async fn data_of_a_newer_program_is_named_as_such_and_left_alone() {
    let (_folder, data) = accounts_on_disk();
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(data.join("imagewell.db"));
    let pool = sqlx::SqlitePool::connect_with(options).await.expect("database");
    let content = || std::fs::read(data.join("imagewell.db")).expect("reads");
    let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (9999, 'newer', TRUE, x'00', 0)";
    sqlx::query(newer).execute(&pool).await.expect("inserts");
    pool.close().await;
    let before = content();
    for command in ["serve", "check"] {
        let refused = run(&data, &[command]);
        assert!(!refused.status.success());
        let said = text(&refused);
        assert!(said.contains("schema 9999 was made by a newer imagewell"), "{said}");
        assert!(content() == before, "{command} has changed the database");
    }
}
