//! What is wrong with a deployment is found, said with its remedy, and left as it is.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::SystemTime;

use serde_json::Value;

use crate::fixtures::{png, png_of_bytes};
use crate::process::{Process, TWO_DAYS, accounts_on_disk, age, imagewell, provision, run, share, stay_on_disk, text};

/// Commands that only look.
const LOOKING: [&[&str]; 6] =
    [&["doctor"], &["doctor", "--digests"], &["check"], &["check", "--blobs"], &["sweep", "--dry-run"], &["keys", "list"]];

/// Every file and folder below one, with its bytes, permissions and time.
pub fn everything(folder: &Path) -> BTreeMap<PathBuf, (Vec<u8>, u32, SystemTime)> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).expect("folder").flatten() {
        let (path, about) = (entry.path(), entry.metadata().expect("metadata"));
        let bytes = if about.is_dir() {
            found.extend(everything(&path));
            Vec::new()
        } else {
            std::fs::read(&path).expect("reads")
        };
        found.insert(path, (bytes, about.permissions().mode(), about.modified().expect("time")));
    }
    found
}

fn findings(output: &Output) -> Vec<(String, String, String)> {
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", text(output)));
    let all = report["findings"].as_array().expect("findings").iter();
    let word = |finding: &Value, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
    all.map(|finding| {
        assert_eq!(finding["remedy"].is_null(), finding["grade"] == "ok", "what is wrong has a remedy: {finding}");
        (word(finding, "area"), word(finding, "grade"), word(finding, "finding"))
    })
    .collect()
}

/// The one finding with this text, as its area and grade.
fn graded<'f>(findings: &'f [(String, String, String)], part: &str) -> (&'f str, &'f str) {
    let mut with_part = findings.iter().filter(|(.., text)| text.contains(part));
    let found = with_part.next().unwrap_or_else(|| panic!("nothing says {part:?}: {findings:#?}"));
    assert!(with_part.next().is_none(), "{part:?} is said twice: {findings:#?}");
    (&found.0, &found.1)
}

/// Accounts and images on disk, and no process.
async fn deployment(images: u64) -> (tempfile::TempDir, PathBuf) {
    let (folder, data) = accounts_on_disk();
    std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o700)).expect("permits");
    let process = Process::serve(&data);
    let ada = process.actor("ada").await;
    for salt in 0..images {
        ada.upload(png_of_bytes(3000, salt)).await.uuid();
    }
    assert!(process.terminate().success());
    (folder, data)
}

fn blobs_of(data: &Path) -> Vec<PathBuf> {
    let mut blobs: Vec<_> =
        everything(&data.join("blobs/opsportal-images")).into_keys().filter(|path| path.extension().is_some()).collect();
    blobs.sort();
    blobs
}

#[test]
fn looking_at_nothing_makes_nothing() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let (absent, empty) = (folder.path().join("absent"), folder.path().join("empty"));
    std::fs::create_dir(&empty).expect("makes");
    for data in [&absent, &empty] {
        stay_on_disk(data);
        for command in LOOKING {
            let looked = run(data, command);
            assert_eq!(looked.status.code(), Some(1), "{command:?}: {}", text(&looked));
            assert!(text(&looked).contains("there is no "), "{command:?}: {}", text(&looked));
            assert!(!absent.exists() && everything(&empty).is_empty(), "{command:?} has made something");
        }
    }
}

#[tokio::test]
async fn looking_changes_nothing_whether_it_was_stopped_or_killed() {
    let (_folder, data) = deployment(3).await;
    let before = everything(&data);
    for command in LOOKING {
        let looked = run(&data, command);
        assert!(looked.status.success(), "{command:?}: {}", text(&looked));
        assert!(everything(&data) == before, "{command:?} has changed something");
    }
    assert!(text(&run(&data, &["doctor", "--digests"])).contains("3 images, 3 versions, every digest right"));
    // A log that a killed service has left is read as well.
    let mut process = Process::serve(&data);
    process.actor("ada").await.upload(png(8, 8, 9)).await.uuid();
    process.child.kill().expect("kills");
    process.child.wait().expect("ends");
    assert!(std::fs::metadata(data.join("imagewell.db-wal")).expect("a log").len() > 0);
    let looked = text(&run(&data, &["doctor", "--digests"]));
    assert!(looked.contains("4 rows and 4 blobs fit each other") && looked.contains("4 versions, every digest"), "{looked}");
}

#[tokio::test]
async fn data_of_an_older_program_is_named_as_such_and_not_migrated() {
    let (_folder, data) = deployment(1).await;
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(data.join("imagewell.db"));
    let pool = sqlx::SqlitePool::connect_with(options).await.expect("database");
    let newest = "DELETE FROM _sqlx_migrations WHERE version = (SELECT MAX(version) FROM _sqlx_migrations)";
    sqlx::query(newest).execute(&pool).await.expect("deletes");
    pool.close().await;
    let before = everything(&data);
    for command in LOOKING {
        let looked = run(&data, command);
        let said = text(&looked);
        assert!(said.contains("older imagewell") && said.contains("1 migrations are to be made"), "{command:?}: {said}");
        // It is no fault of the deployment, but it can't be swept or listed yet.
        let expected = if ["doctor", "check"].contains(&command[0]) { 0 } else { 1 };
        assert_eq!(looked.status.code(), Some(expected), "{command:?}: {said}");
        assert!(everything(&data) == before, "{command:?} has changed something");
    }
}

#[tokio::test]
async fn rows_without_bytes_and_bytes_without_rows_are_named() {
    let (_folder, data) = deployment(4).await;
    let blobs = blobs_of(&data);
    std::fs::remove_file(&blobs[0]).expect("removes");
    std::fs::write(&blobs[1], b"short").expect("writes");
    let mut bent = std::fs::read(&blobs[2]).expect("reads");
    bent[100] ^= 1;
    std::fs::write(&blobs[2], bent).expect("writes");
    let orphan = blobs[0].with_file_name("0d5a2b1c-5f6e-4a3b-8c9d-0123456789ab.png");
    let young = blobs[0].with_file_name("0d5a2b1c-5f6e-4a3b-8c9d-0123456789ac.png");
    for path in [&orphan, &young] {
        std::fs::write(path, b"nobody's").expect("writes");
    }
    let aged = Command::new("touch").args(["-d", "2 days ago"]).arg(&orphan).status().expect("runs");
    assert!(aged.success());
    let key = |path: &Path| path.strip_prefix(data.join("blobs")).expect("below").to_string_lossy().into_owned();

    let compared = run(&data, &["doctor", "--json"]);
    assert_eq!(compared.status.code(), Some(1));
    let found = findings(&compared);
    assert_eq!(graded(&found, "1 of 4 rows have no bytes"), ("inventory", "fault"));
    assert_eq!(graded(&found, &key(&blobs[0])), ("inventory", "fault"));
    assert_eq!(graded(&found, &key(&blobs[1])), ("inventory", "fault"));
    assert_eq!(graded(&found, "1 of 5 blobs have no row"), ("inventory", "warning"));
    assert_eq!(graded(&found, &key(&orphan)), ("inventory", "warning"));
    let said = text(&compared);
    assert!(!said.contains(&key(&blobs[2])) && !said.contains(&key(&young)), "{said}");

    let read = run(&data, &["doctor", "--json", "--digests"]);
    let broken = findings(&read).into_iter().find(|(area, ..)| area == "blobs").expect("digests were compared").2;
    assert!(broken.contains("3 of 4 are gone or have changed"), "{broken}");
    assert!(blobs[..3].iter().all(|path| broken.contains(&key(path))) && !broken.contains(&key(&blobs[3])), "{broken}");
    // What was read before is not read again.
    let rest = text(&run(&data, &["doctor", "--digests", "--after", &key(&blobs[2])]));
    assert!(rest.contains("1 versions, every digest right"), "{rest}");
    let quick = text(&run(&data, &["doctor", "--quick"]));
    assert!(!quick.contains("inventory") && quick.contains("up to date"), "{quick}");
}

/// A copy has the identity of the original; what they differ in is whose sweep was the latest.
#[tokio::test]
async fn sweeping_that_is_stopped_is_a_fault() {
    let (_folder, data) = deployment(2).await;
    assert!(run(&data, &["sweep"]).status.success());
    let doctor = || findings(&run(&data, &["doctor", "--json"]));
    assert!(!doctor().iter().any(|(area, ..)| area == "sweeps"));
    let identity = data.join("blobs/.imagewell");
    let borne = std::fs::read_to_string(&identity).expect("an identity");
    let others = borne.lines().map(|line| if line.starts_with("sweep") { "sweep = another" } else { line });
    std::fs::write(&identity, others.collect::<Vec<_>>().join("\n") + "\n").expect("writes");
    assert_eq!(graded(&doctor(), "was another database's with the same id"), ("sweeps", "fault"));
    std::fs::write(&identity, borne).expect("writes");
    // Orphans only, as beside an empty database.
    for number in 0..2_u8 {
        let orphan = blobs_of(&data)[0].with_file_name(format!("0d5a2b1c-5f6e-4a3b-8c9d-01234567890{number}.png"));
        std::fs::write(&orphan, b"nobody's").expect("writes");
        age(&orphan, TWO_DAYS);
    }
    let settings = ["doctor", "--json", "--set", "sweep.orphans_always=1"];
    assert_eq!(graded(&findings(&run(&data, &settings)), "2 of 4 blobs have no row"), ("inventory", "fault"));
}

#[tokio::test]
async fn reading_everything_keeps_its_pace_and_says_where_to_go_on() {
    let (_folder, data) = deployment(4).await;
    let paced = ["doctor", "--digests", "--bytes-per-second-max", "1000"];
    let child = imagewell(&data, &paced).stdout(Stdio::piped()).spawn().expect("starts");
    // Four blobs of 3000 bytes would take twelve seconds.
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().expect("runs").success());
    let stopped = child.wait_with_output().expect("ends");
    let said = text(&stopped);
    assert!(stopped.status.success() && said.contains("stopped after "), "{said}");
    let after = said.split("--after '").nth(1).and_then(|rest| rest.split('\'').next()).expect("where to go on");
    let rest = text(&run(&data, &["doctor", "--digests", "--after", after]));
    let read = |text: &str, before: &str| -> u64 {
        text.split(before).next().and_then(|text| text.rsplit(' ').next()?.parse().ok()).expect("a number")
    };
    assert_eq!(read(&said, " versions and") + read(&rest, " versions, every digest"), 4, "{said}{rest}");
}

#[tokio::test]
async fn each_mistake_is_found_with_its_grade() {
    let (_folder, data) = deployment(1).await;
    let asked = |settings: &[(&str, &str)]| {
        let mut command = imagewell(&data, &["doctor", "--json", "--quick"]);
        for (key, value) in settings {
            command.args(["--set", &format!("{key}={value}")]);
        }
        command.output().expect("runs")
    };
    for (settings, part, area, grade) in [
        (&[("server.trusted_proxies", "0.0.0.0/0")][..], "trusts strangers", "settings", "fault"),
        (&[("server.body_timeout_seconds", "86400")], "not longer than an upload", "settings", "fault"),
        (&[("listen", "0.0.0.0:0")], "without TLS", "settings", "warning"),
        (&[("server.trusted_proxies", "10.0.0.1")], "no public_url", "settings", "warning"),
        (&[("server.metrics_allow", "0.0.0.0/0")], "/metrics", "settings", "warning"),
        (&[("sweep.orphans_percent_max", "100")], "orphans_percent_max", "settings", "warning"),
        (&[("opsportal.check_permission_on_read", "false")], "check_permission_on_read", "settings", "warning"),
        (&[("dropbox.csrf_on_writes", "false")], "csrf_on_writes", "settings", "warning"),
        (&[("storage.free_bytes_min", "99999999999999999")], "uploads are refused with 507", "space", "fault"),
        (&[("server.connections_max", "99999999999")], "connections would be refused", "open files", "warning"),
        (&[("cache.blob_bytes_max", "99999999999999999")], "lower cache", "memory", "warning"),
        (&[("tls.certificate_file", "a.pem"), ("tls.private_key_file", "b.pem")], "a.pem", "tls", "fault"),
        (&[("listen", "192.0.2.1:80")], "192.0.2.1:80: ", "listen", "fault"),
        (&[("storage_url", "file:///nowhere/at/all")], "there is no folder /nowhere/at/all", "store", "fault"),
        (&[("database_url", "sqlite:///nowhere/a.db")], "there is no database /nowhere/a.db", "database", "fault"),
    ] {
        let output = asked(settings);
        let found = findings(&output);
        // What is to be lowered stands in the remedy.
        if part == "lower cache" {
            assert!(found.iter().any(|(found, graded, _)| (found.as_str(), graded.as_str()) == (area, grade)), "{found:#?}");
        } else {
            assert_eq!(graded(&found, part), (area, grade), "{settings:?}");
        }
        let has_fault = found.iter().any(|(_, grade, _)| grade == "fault");
        assert_eq!(output.status.code(), Some(i32::from(has_fault)), "{found:#?}");
    }
    let faulty = asked(&[("nothing", "1"), ("images.pixels_max", "many")]);
    assert_eq!(faulty.status.code(), Some(78));
    assert_eq!(findings(&faulty).len(), 2);
}

#[tokio::test]
async fn what_others_may_read_a_clock_that_is_behind_and_names_of_digits_are_found() {
    let (_folder, data) = deployment(0).await;
    let sound = findings(&run(&data, &["doctor", "--json"]));
    assert!(sound.iter().all(|(area, grade, _)| grade == "ok" || area == "settings" || area == "open files"), "{sound:#?}");
    let password = data.join("first-admin-password");
    std::fs::write(&password, "secret\n").expect("writes");
    for (path, mode) in [(&data, 0o755), (&data.join("imagewell.db"), 0o644), (&password, 0o640)] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("permits");
    }
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(data.join("imagewell.db"));
    let pool = sqlx::SqlitePool::connect_with(options).await.expect("database");
    sqlx::query("INSERT INTO orgs (id, name) VALUES (7, '200')").execute(&pool).await.expect("inserts");
    pool.close().await;
    let later = Command::new("touch").args(["-d", "2 days"]).arg(data.join("imagewell.lock")).status().expect("runs");
    assert!(later.success());
    let found = findings(&run(&data, &["doctor", "--json"]));
    for part in ["(mode 755)", "(mode 644)", "(mode 640)"] {
        assert_eq!(graded(&found, part), ("files", "warning"));
    }
    assert_eq!(graded(&found, "password that the first start made"), ("first admin", "warning"));
    assert_eq!(graded(&found, "org 7 is named \"200\""), ("orgs", "warning"));
    assert_eq!(graded(&found, "in the future"), ("clock", "fault"));
    assert!(!text(&run(&data, &["doctor"])).contains("secret"));
}

/// The server of the tests runs without fsync, which is what is to be found.
#[test]
fn a_database_server_that_may_lose_commits_is_named_and_nothing_is_made_in_it() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let data = folder.path().join("data");
    let outgrown = share(&[&data]);
    let looked = run(&data, &["doctor", "--json"]);
    assert_eq!(looked.status.code(), Some(1));
    let found = findings(&looked);
    assert_eq!(graded(&found, "holds no data of imagewell"), ("database", "fault"));
    assert_eq!(graded(&found, "fsync is off"), ("database", "warning"));
    assert_eq!(graded(&found, "takes, keeps and gives back bytes"), ("store", "ok"));
    assert!(
        !data.exists()
            && std::fs::read_dir(outgrown.blobs()).expect("bucket").flatten().all(|entry| {
                // What the probe put there is gone again; the test's store may leave its folders.
                everything(&entry.path()).values().all(|(bytes, ..)| bytes.is_empty())
            })
    );
    provision(&data);
    let looked = run(&data, &["doctor", "--json", "--digests"]);
    assert!(looked.status.success(), "{}", text(&looked));
    assert_eq!(graded(&findings(&looked), "opens and is up to date"), ("database", "ok"));
}

/// It is asked through proxies, so everybody can send something to it.
#[tokio::test]
async fn only_who_has_the_database_is_told_what_arrives() {
    let (_folder, data) = deployment(0).await;
    let process = Process::serve(&data);
    let visitor = crate::app::Actor::at(&process.url);
    let soon = imagewell_core::model::Timestamp::now().0 / 1_000_000 + 30;
    let signature = "A".repeat(43);
    for proof in [String::new(), format!("{soon}.{signature}"), format!("{soon}."), format!("9999999999.{signature}"), ".".into()]
    {
        let answer = crate::app::Answer::of(visitor.post("/v1/doctor").header("x-imagewell-doctor", &proof).body("x")).await;
        assert_eq!(answer.status.as_u16(), 404, "{proof:?}: {}", answer.text());
        assert!(!answer.text().contains("forwardedFor"), "{}", answer.text());
    }
    let asked = run(&data, &["doctor", "--quick", "--json", "--url", &process.url]);
    let found = findings(&asked);
    assert!(asked.status.success(), "{found:#?}");
    assert_eq!(graded(&found, "no proxy is trusted"), ("proxy", "warning"));
    // Another database has other keys.
    let (_other_folder, other) = deployment(0).await;
    let found = findings(&run(&other, &["doctor", "--quick", "--json", "--url", &process.url]));
    assert_eq!(graded(&found, "is not this deployment"), ("proxy", "fault"));
}

/// As the role of the service has it: the server itself may be set well.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_may_lose_what_it_has_committed_is_a_fault() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let data = folder.path().join("data");
    let outgrown = share(&[&data]);
    provision(&data);
    let pool = sqlx::PgPool::connect(outgrown.database_url()).await.expect("database");
    let (name,): (String,) = sqlx::query_as("SELECT current_database()").fetch_one(&pool).await.expect("a name");
    let off = format!("ALTER DATABASE {name} SET synchronous_commit = off");
    sqlx::raw_sql(sqlx::AssertSqlSafe(off)).execute(&pool).await.expect("sets");
    for (allowed, grade, code) in [("false", "fault", 1), ("true", "warning", 0)] {
        let mut command = imagewell(&data, &["doctor", "--json"]);
        command.env("IMAGEWELL_DATABASE_ALLOW_WEAK_DURABILITY", allowed);
        let output = tokio::task::spawn_blocking(move || command.output().expect("runs")).await.expect("ends");
        let findings = findings(&output);
        for setting in ["synchronous_commit is off", "fsync is off"] {
            assert_eq!(graded(&findings, setting), ("database", grade), "allowed: {allowed}");
        }
        assert!(code == 0 || output.status.code() == Some(code), "{}", text(&output));
    }
    // While it runs it is asked again, and counted.
    let process = Process::serve(&data);
    let begun = std::time::Instant::now();
    while process.metric("imagewell_database_weak_durability_settings").await < 2.0 {
        assert!(begun.elapsed() < std::time::Duration::from_secs(20), "no metric");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert!(process.log().contains("synchronous_commit=off"), "{}", process.log());
    pool.close().await;
}
