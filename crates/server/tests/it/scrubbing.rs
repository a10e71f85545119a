//! Stored bytes are read back in the background, and what has changed is said until it is mended.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool};

use crate::fixtures::png_of_bytes;
use crate::process::{Process, accounts_on_disk, imagewell, run};

fn serve(data: &Path, settings: &[(&str, &str)]) -> Process {
    let mut command = imagewell(data, &["serve"]);
    command.envs(settings.iter().map(|(name, value)| (format!("IMAGEWELL_SCRUB_{name}"), *value)));
    Process::start(command)
}

/// Four images of 3000 bytes, and their blobs by key.
async fn images(process: &Process, data: &Path) -> Vec<PathBuf> {
    let ada = process.actor("ada").await;
    for salt in 0..4 {
        ada.upload(png_of_bytes(3000, salt)).await.uuid();
    }
    let folder = std::fs::read_dir(data.join("blobs/opsportal-images/100606")).expect("folder");
    let mut blobs: Vec<_> = folder.flatten().map(|entry| entry.path()).collect();
    blobs.sort();
    blobs
}

fn key(path: &Path) -> String {
    format!("opsportal-images/100606/{}", path.file_name().expect("name").to_string_lossy())
}

async fn until_metric(process: &Process, name: &str, wanted: f64) {
    for _ in 0..200 {
        if process.metric(name).await == wanted {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{name} is {} and not {wanted}", process.metric(name).await);
}

/// What doctor says of reading back: its grade and its text.
fn doctor(data: &Path) -> (String, String) {
    let output = run(data, &["doctor", "--quick", "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).expect("json");
    let findings = report["findings"].as_array().expect("findings").iter();
    let ours: Vec<_> = findings.filter(|finding| finding["area"] == "scrub").collect();
    let worst = ours.iter().find(|finding| finding["grade"] == "fault").or(ours.first()).expect("a finding");
    (worst["grade"].as_str().expect("grade").to_owned(), worst["finding"].as_str().expect("finding").to_owned())
}

async fn database(data: &Path) -> SqlitePool {
    SqlitePool::connect_with(SqliteConnectOptions::new().filename(data.join("imagewell.db"))).await.expect("database")
}

#[tokio::test]
async fn damage_is_an_alarm_and_known_until_it_is_mended() {
    let (_folder, data) = accounts_on_disk();
    let process = serve(&data, &[("INTERVAL_SECONDS", "1")]);
    let blobs = images(&process, &data).await;
    let whole = std::fs::read(&blobs[1]).expect("reads");
    let mut bent = whole.clone();
    bent[1000] ^= 1;
    std::fs::write(&blobs[1], bent).expect("writes");
    let lost = std::fs::read(&blobs[2]).expect("reads");
    std::fs::remove_file(&blobs[2]).expect("removes");
    until_metric(&process, "imagewell_damaged_blobs ", 2.0).await;
    let log = process.log();
    for (path, damage) in [(&blobs[1], "changed"), (&blobs[2], "gone")] {
        let alarmed = |line: &&str| line.contains("ALARM") && line.contains(&key(path)) && line.contains(damage);
        assert!(log.lines().any(|line| alarmed(&line)), "{damage}: {log}");
    }
    assert!(!log.contains(&key(&blobs[0])) && !log.contains(&key(&blobs[3])), "{log}");
    let (grade, text) = doctor(&data);
    assert_eq!(grade, "fault", "{text}");
    assert!(text.contains(&format!("{} (changed", key(&blobs[1]))), "{text}");
    assert!(text.contains(&format!("{} (gone", key(&blobs[2]))), "{text}");

    // Nor does a restart make it unknown, long before all is read once more.
    assert!(process.terminate().success());
    let process = serve(&data, &[("INTERVAL_SECONDS", "86400")]);
    until_metric(&process, "imagewell_damaged_blobs ", 2.0).await;
    let ready = reqwest::get(format!("{}/readyz", process.url)).await.expect("answers").text().await.expect("text");
    assert!(ready.contains("2 stored blobs are damaged"), "{ready}");
    assert!(process.terminate().success());
    let process = serve(&data, &[("INTERVAL_SECONDS", "1")]);
    // Else it is 0 before it is known.
    until_metric(&process, "imagewell_damaged_blobs ", 2.0).await;

    std::fs::write(&blobs[1], whole).expect("writes");
    std::fs::write(&blobs[2], lost).expect("writes");
    until_metric(&process, "imagewell_damaged_blobs ", 0.0).await;
    let (grade, text) = doctor(&data);
    assert!(grade == "ok" && text.contains("4 blobs were read back"), "{grade}: {text}");
}

#[tokio::test]
async fn reading_goes_on_where_it_was_and_keeps_its_pace() {
    let (_folder, data) = accounts_on_disk();
    let process = serve(&data, &[("BYTES_PER_SECOND_MAX", "0"), ("INTERVAL_SECONDS", "1")]);
    let blobs = images(&process, &data).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(process.terminate().success());
    let pool = database(&data).await;
    let (noted,): (i64,) = sqlx::query_as("SELECT COUNT(*) FROM scrub").fetch_one(&pool).await.expect("reads");
    assert_eq!(noted, 0, "it was switched off");

    // Half of a pass that began in the future, so that no other one is due after it.
    let later = imagewell_core::model::Timestamp::now().0 + 1_000_000_000;
    sqlx::query("INSERT INTO scrub (id, position, began_us, blobs, bytes) VALUES (1, $1, $2, 2, 6000)")
        .bind(key(&blobs[1]))
        .bind(later)
        .execute(&pool)
        .await
        .expect("inserts");
    pool.close().await;
    let process = serve(&data, &[("BYTES_PER_SECOND_MAX", "1000"), ("INTERVAL_SECONDS", "1")]);
    until_metric(&process, "imagewell_scrubbed_blobs_total ", 1.0).await;
    assert!(process.metric("imagewell_scrub_ended_timestamp_seconds ").await == 0.0, "the second one is due three seconds later");
    for _ in 0..200 {
        if process.metric("imagewell_scrub_ended_timestamp_seconds ").await > 0.0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(process.metric("imagewell_scrubbed_blobs_total ").await, 2.0, "what was read before is not read again");
    assert!(process.terminate().success());
    let pool = database(&data).await;
    let (read,): (i64,) = sqlx::query_as("SELECT last_blobs FROM scrub").fetch_one(&pool).await.expect("reads");
    assert_eq!(read, 4);
    pool.close().await;
}
