//! Several nodes on one PostgreSQL database and one bucket: what one of them does, the others know.

use std::time::{Duration, Instant};

use imagewell_core::model::KeyPurpose;
use imagewell_engines::lagging::LaggingListeners;
use reqwest::StatusCode;

use crate::app::{Actor, Answer, Data, PASSWORD, PERMISSION, TestApp, image_path};
use crate::dropbox::stripes;
use crate::file_service::{FileAnswer as _, Machine, open};
use crate::fixtures::{photograph, png, png_of_bytes};
use crate::process::{Process, imagewell, provision, share};

/// What is promised of changes that one node makes and another one has in memory.
const FIVE_SECONDS: Duration = Duration::from_secs(5);

async fn two_nodes() -> (TestApp, TestApp) {
    let first = TestApp::on(Data::outgrown(), &[]).await;
    let second = first.another_node(&[]).await;
    (first, second)
}

/// Asks until the answer has this status; longer than promised is too long.
async fn soon(status: u16, ask: impl AsyncFn() -> Answer) -> Duration {
    let begun = Instant::now();
    loop {
        let answer = ask().await;
        if answer.status.as_u16() == status {
            return begun.elapsed();
        }
        assert!(begun.elapsed() < FIVE_SECONDS, "after five seconds it is still {}", answer.status);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_tickets_tokens_and_images_of_one_node_work_on_another() {
    let (first, second) = two_nodes().await;
    let ada = first.actor("ada").await;
    let there = ada.at_node(&second.url(""));
    let uuid = ada.upload(photograph()).await.uuid();
    assert!(there.read(&uuid).await.body == photograph());
    let other = there.upload(png(9, 9, 1)).await.uuid();
    assert!(ada.read(&other).await.body == png(9, 9, 1));

    let till = Machine::till(&first, "till01");
    till.upload("a.png", png(8, 8, 1)).await.file();
    let second_version = Machine::till(&second, "till01").upload("a.png", png(8, 8, 2)).await;
    assert_eq!(second_version.file()["version"], 2);
    assert_eq!(till.send("GET", "rewards/a.png").await.file()["version"], 2);

    let portal = crate::dropbox::Portal::user(&first, "ada").await;
    let ticket = portal.ticket(stripes(60, 60)).await;
    let picture = Answer::of(second.visitor().get(&format!("/api/dropbox/pictures/{ticket}?size=32"))).await;
    assert_eq!(picture.status, StatusCode::OK, "{}", picture.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_node_ends_or_changes_every_node_knows_within_five_seconds() {
    let (first, second) = two_nodes().await;
    let ada = first.actor("ada").await;
    let there = ada.at_node(&second.url(""));
    let uuid = ada.upload(png(8, 8, 1)).await.uuid();
    assert_eq!(there.read(&uuid).await.status, StatusCode::OK, "the second node holds it in memory now");

    // Public, private and deleted: plain addresses are for everybody as long as the file is public.
    let till = Machine::till(&first, "till01");
    let token = till.upload("p.png", png(8, 8, 3)).await.file()["s3_token"].as_str().expect("key").to_owned();
    let plain = second.url(&format!("/imagewell/{token}"));
    assert_eq!(open(&plain).await.status.as_u16(), 403);
    for (acl, status) in [("PUBLIC", 200), ("PRIVATE", 403), ("PUBLIC", 200)] {
        Answer::of(till.request("PUT", "rewards/p.png/acl").body(acl)).await.file();
        soon(status, async || open(&plain).await).await;
    }
    till.send("DELETE", "rewards/p.png").await.file();
    soon(403, async || open(&plain).await).await;

    // Rights, and then the session itself.
    let mut plan = crate::app::plan();
    plan.accounts.clear();
    plan.roles.retain(|role| role.org == "acme" && role.name == "crew");
    plan.roles[0].actions.retain(|action| action.as_str() != PERMISSION);
    imagewell_core::provision::apply(&first.service.app, plan).await.expect("provisions");
    soon(403, async || there.read(&uuid).await).await;
    // Whoever has kept the cookie that a logout takes away.
    let leaving = first.visitor();
    let kept = leaving.log_in("ada", PASSWORD).await.header("set-cookie").split(';').next().unwrap_or_default().to_owned();
    let with_cookie = async || {
        let request = reqwest::Client::new().get(second.url(&image_path(&uuid))).header("cookie", &kept);
        Answer::of(request).await
    };
    assert_eq!(with_cookie().await.status.as_u16(), 403, "the second node knows the session");
    assert_eq!(Answer::of(leaving.change("/site/logout").await).await.status, StatusCode::OK);
    soon(401, with_cookie).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_hears_nothing_knows_it_and_trusts_its_memory_no_longer() {
    let data = Data::outgrown();
    let first = TestApp::on(data, &[]).await;
    let second = first.another_node(&[]).await;
    let pool = sqlx::PgPool::connect(first.data().database_url()).await.expect("database");
    // From now on nobody can listen; those who do are cut off again and again.
    let cutting = tokio::spawn({
        let pool = pool.clone();
        async move {
            loop {
                let listeners = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() \
                    AND query LIKE 'LISTEN%'";
                let _ = sqlx::query(listeners).execute(&pool).await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    });
    let till = Machine::till(&first, "till01");
    let token = till.upload("p.png", png(8, 8, 3)).await.file()["s3_token"].as_str().expect("key").to_owned();
    let plain = second.url(&format!("/imagewell/{token}"));
    for (acl, status) in [("PUBLIC", 200), ("PRIVATE", 403), ("PUBLIC", 200), ("PRIVATE", 403)] {
        Answer::of(till.request("PUT", "rewards/p.png/acl").body(acl)).await.file();
        soon(status, async || open(&plain).await).await;
    }
    cutting.abort();
    pool.close().await;
}

/// A path that stalls, or a node that works off more than it can: notifications arrive each second,
/// and every one is fifteen seconds old. A node that judges by when they arrive trusts its memory,
/// and serves for as long as that what was deleted, made private or logged out.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_notifications_are_late_refuses_within_five_seconds_what_another_has_revoked() {
    const LAG: Duration = Duration::from_secs(15);
    let first = TestApp::on(Data::outgrown(), &[]).await;
    let (before, host) = first.data().database_url().split_once("?host=").expect("a socket");
    let late = LaggingListeners::start(host);
    let database_url = format!("postgres://postgres@{}/{}", late.address, before.rsplit('/').next().expect("name"));
    let second = first.another_node(&[("database_url", &database_url)]).await;
    let till = Machine::till(&first, "till01");
    let mut plain = Vec::new();
    for name in ["deleted.png", "private.png"] {
        let file = till.upload(name, png(8, 8, 3)).await.file();
        Answer::of(till.request("PUT", &format!("rewards/{name}/acl")).body("PUBLIC")).await.file();
        plain.push(second.url(&format!("/imagewell/{}", file["s3_token"].as_str().expect("key"))));
    }
    let leaving = first.visitor();
    let kept = leaving.log_in("ada", PASSWORD).await.header("set-cookie").split(';').next().unwrap_or_default().to_owned();
    let uuid = first.actor("ada").await.upload(png(8, 8, 1)).await.uuid();
    let with_cookie = async || {
        let request = reqwest::Client::new().get(second.url(&image_path(&uuid))).header("cookie", &kept);
        Answer::of(request).await
    };
    late.become_late_by(LAG).await;
    // From now on what arrives was sent when the lag was as long as that, and something arrives each second.
    let (begun, delivered) = (Instant::now(), late.delivered());
    while late.delivered() < delivered + 4 {
        assert!(begun.elapsed() < 2 * LAG, "nothing arrives any more");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for open_now in [open(&plain[0]).await, open(&plain[1]).await, with_cookie().await] {
        assert_eq!(open_now.status.as_u16(), 200, "it has all of them in memory");
    }
    till.send("DELETE", "rewards/deleted.png").await.file();
    Answer::of(till.request("PUT", "rewards/private.png/acl").body("PRIVATE")).await.file();
    assert_eq!(Answer::of(leaving.change("/site/logout").await).await.status, StatusCode::OK);
    let revoked = (soon(403, async || open(&plain[0]).await), soon(403, async || open(&plain[1]).await), soon(401, with_cookie));
    tokio::join!(revoked.0, revoked.1, revoked.2);
}

/// In the middle of an upgrade, a node of the version before restarts.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_starts_again_after_a_newer_one_has_upgraded_the_schema() {
    let first = TestApp::on(Data::outgrown(), &[]).await;
    for sql in [
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (9999, 'newer', TRUE, ''::bytea, 0)",
        "UPDATE schema_compatibility SET schema_number = 9999",
    ] {
        first.data().execute(sql).await;
    }
    let second = first.another_node(&[]).await;
    let uuid = second.actor("ada").await.upload(png(8, 8, 1)).await.uuid();
    assert_eq!(first.actor("ada").await.read(&uuid).await.status, StatusCode::OK);
    first.data().execute("UPDATE schema_compatibility SET compatible_since = 9999").await;
    let refused = first.data().open(&[]).await.err().map(|error| format!("{error:?}")).unwrap_or_default();
    assert!(refused.contains("made by a newer imagewell"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rendering_is_made_once_in_the_cluster() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let data: Vec<_> = ["a", "b", "c"].iter().map(|name| folder.path().join(name)).collect();
    share(&data.iter().map(std::path::PathBuf::as_path).collect::<Vec<_>>());
    provision(&data[0]);
    let nodes: Vec<Process> = data.iter().map(|data| Process::serve(data)).collect();
    let ada = nodes[0].actor("ada").await;
    let uuid = ada.upload(photograph()).await.uuid();
    let path = format!("/i/{uuid}/w_300,h_200,fit_cover");
    let asking = (0..12).map(|index| Answer::of(ada.at_node(&nodes[index % 3].url).get(&path)));
    let answers = futures_util::future::join_all(asking).await;
    assert!(answers.iter().all(|answer| answer.status == StatusCode::OK && answer.body == answers[0].body));
    let mut made = 0.0;
    for node in &nodes {
        made += node.metric("imagewell_renderings_total").await;
    }
    assert!((made - 1.0).abs() < 0.1, "{made} renderings were made");
}

/// The lease of a node that died while it was rendering ends by itself, and another node makes the rendering.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_node_was_at_is_taken_up_by_another() {
    let settings = [("images.looks", "false"), ("workers.wait_seconds_max", "6"), ("workers.time_seconds_max", "6")];
    let app = TestApp::on(Data::outgrown(), &settings).await;
    let ada = app.actor("ada").await;
    let uuid = ada.upload(photograph()).await.uuid();
    let pool = sqlx::PgPool::connect(app.data().database_url()).await.expect("database");
    let rendered = Answer::of(ada.get(&format!("/i/{uuid}/w_77"))).await;
    assert_eq!(rendered.status, StatusCode::OK);
    let (key,): (String,) = sqlx::query_as("SELECT key FROM variants").fetch_one(&pool).await.expect("row");
    let until = imagewell_core::model::Timestamp::now().plus(Duration::from_secs(2));
    let other = key.replace("width-77_", "width-78_");
    assert_ne!(other, key);
    sqlx::query("INSERT INTO leases (name, holder, expires_us) VALUES ($1, 'a dead node', $2)")
        .bind(format!("render:{other}"))
        .bind(until.0)
        .execute(&pool)
        .await
        .expect("inserts");
    let begun = Instant::now();
    let waited = Answer::of(ada.get(&format!("/i/{uuid}/w_78"))).await;
    assert_eq!(waited.status, StatusCode::OK, "{}", waited.text());
    assert!(begun.elapsed() > Duration::from_millis(1500), "it did not wait for the other node");
    let (left,): (i64,) =
        sqlx::query_as("SELECT COUNT(*) FROM leases WHERE name LIKE 'render:%'").fetch_one(&pool).await.expect("row");
    assert_eq!(left, 0, "leases are given back");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_link_of_a_file_in_a_bucket_is_the_buckets_own() {
    let app = TestApp::on(Data::outgrown(), &[("file_service.link_ttl_seconds", "60")]).await;
    let till = Machine::till(&app, "till01");
    let answer = till.upload("a.jpg", photograph()).await;
    let (file, link) = (answer.file(), answer.link());
    let token = file["s3_token"].as_str().expect("key");
    let bucket =
        app.service.settings.service.storage_url.clone().map(|url| imagewell::config::Value::show(&url)).expect("bucket");
    assert_eq!(file["s3_url"], format!("{bucket}/{token}"));
    assert!(app.blobs().join(token).exists());
    assert!(!link.starts_with(&app.url("")) && link.contains(token) && link.contains("X-Amz-Expires=60"), "{link}");
    let read = open(&link).await;
    assert!(read.body == photograph());
    assert_eq!(read.header("content-type"), "image/jpeg", "for those who never ask us");
    let altered = open(&link.replace("X-Amz-Expires=60", "X-Amz-Expires=61")).await;
    assert_eq!(altered.status.as_u16(), 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn large_uploads_go_to_a_bucket_in_parts_and_come_back_whole() {
    let settings = [("opsportal.upload_bytes_max", "40000000"), ("storage.part_bytes", "5242880")];
    let app = TestApp::on(Data::outgrown(), &settings).await;
    let ada = app.actor("ada").await;
    // At the edge of one part, one byte more, and several.
    for (salt, bytes) in [(1, 5_242_880), (2, 5_242_881), (3, 17_000_000)] {
        let picture = png_of_bytes(bytes, salt);
        assert_eq!(picture.len(), bytes);
        let uuid = ada.upload(picture.clone()).await.uuid();
        let read = Answer::of(ada.get(&image_path(&uuid))).await;
        assert!(read.body == picture, "{bytes}");
        let part = Answer::of(ada.get(&image_path(&uuid)).header("range", "bytes=5242870-5242879")).await;
        assert_eq!((part.status.as_u16(), part.body.as_slice()), (206, &picture[5_242_870..5_242_880]));
    }
}

/// A bucket that refuses leaves nothing behind that anybody could see, and says come back.
#[tokio::test(flavor = "multi_thread")]
async fn without_its_store_a_node_is_unready_and_uploads_are_told_to_come_back() {
    let settings = [("storage.endpoint", "http://127.0.0.1:9"), ("storage.retry_seconds_max", "1")];
    let app = TestApp::on(Data::outgrown(), &settings).await;
    let ada = app.actor("ada").await;
    let before = app.stored().await;
    let answer = Answer::of(ada.uploading(&ada.csrf().await, &png(8, 8, 1))).await;
    assert_eq!(answer.status.as_u16(), 503, "{}", answer.text());
    assert!(!answer.header("retry-after").is_empty());
    assert_eq!(app.stored().await, before);
    assert_eq!(Answer::of(app.visitor().get("/readyz")).await.status.as_u16(), 503);
    assert_eq!(Answer::of(app.visitor().get("/healthz")).await.status.as_u16(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn avatars_that_are_taken_on_two_nodes_at_once_get_numbers_of_their_own() {
    let (first, second) = two_nodes().await;
    let (here, there) = (crate::dropbox::Portal::user(&first, "ada").await, crate::dropbox::Portal::user(&second, "ada").await);
    let mut tickets = Vec::new();
    for salt in 0..24 {
        tickets.push(here.ticket(stripes(40 + salt, 40)).await);
    }
    let takes = tickets.iter().enumerate().map(|(index, ticket)| {
        let portal = if index % 2 == 0 { &here } else { &there };
        portal.take("users/ada", ticket)
    });
    for taken in futures_util::future::join_all(takes).await {
        assert_eq!(taken.status, StatusCode::OK, "{}", taken.text());
    }
    let pool = sqlx::PgPool::connect(first.data().database_url()).await.expect("database");
    let (count, last): (i64, i64) =
        sqlx::query_as("SELECT COUNT(*), MAX(number) FROM avatars").fetch_one(&pool).await.expect("row");
    assert_eq!((count, last), (24, 24));
    let (tickets,): (i64,) = sqlx::query_as("SELECT COUNT(*) FROM tickets").fetch_one(&pool).await.expect("row");
    assert_eq!(tickets, 0, "each is used up");
}

/// Nodes that start on an empty database at the same time make one admin and one key for each purpose.
#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_start_together_for_the_first_time_do_not_disturb_each_other() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let data: Vec<_> = ["a", "b", "c"].iter().map(|name| folder.path().join(name)).collect();
    let outgrown = share(&data.iter().map(std::path::PathBuf::as_path).collect::<Vec<_>>());
    let starting = data.iter().map(|data| {
        let data = data.clone();
        tokio::task::spawn_blocking(move || Process::start_and_keep_output(imagewell(&data, &["serve"])))
    });
    let nodes = futures_util::future::join_all(starting).await;
    let mut nodes: Vec<Process> = nodes.into_iter().map(|node| node.expect("starts")).collect();
    // One password is told, in one file, and it is the right one.
    let files: Vec<_> = data.iter().filter_map(|data| std::fs::read_to_string(data.join("first-admin-password")).ok()).collect();
    let [password] = files.as_slice() else { panic!("{} files hold a password", files.len()) };
    for node in &nodes {
        let admin = Actor::at(&node.url);
        assert_eq!(Answer::of(admin.get("/readyz")).await.status, StatusCode::OK);
        assert_eq!(admin.log_in("admin", password.trim_end()).await.status, StatusCode::OK);
    }
    let mut told = 0;
    for node in &mut nodes {
        node.child.kill().expect("ends");
        told += node.output().matches("First start").count();
    }
    assert_eq!(told, 1, "nodes that tell a password");
    let pool = sqlx::PgPool::connect(outgrown.database_url()).await.expect("database");
    let (accounts, keys): (i64, i64) =
        sqlx::query_as("SELECT (SELECT COUNT(*) FROM accounts), (SELECT COUNT(*) FROM signing_keys)")
            .fetch_one(&pool)
            .await
            .expect("row");
    assert_eq!((accounts, keys), (1, 3));
}

/// Two operators who replace a key at the same moment: one of the new ones signs, and the other one has been replaced.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_keys_that_take_over_at_once_one_signs() {
    let (first, second) = two_nodes().await;
    let pool = sqlx::PgPool::connect(first.data().database_url()).await.expect("database");
    // Both have begun, and neither can end, while somebody else holds the counter that they raise at last.
    let mut holding = pool.begin().await.expect("begins");
    sqlx::query("UPDATE access_generation SET value = value").execute(&mut *holding).await.expect("holds");
    let rotate = |node: &TestApp| {
        let app = std::sync::Arc::clone(&node.service.app);
        tokio::spawn(async move { app.keys.rotate(KeyPurpose::Links, false).await })
    };
    let rotating = [rotate(&first), rotate(&second)];
    let waiting = "SELECT COUNT(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
    let begun = Instant::now();
    while sqlx::query_scalar::<_, i64>(waiting).fetch_one(&pool).await.expect("count") < 2 {
        assert!(begun.elapsed() < FIVE_SECONDS, "both must have begun");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    holding.rollback().await.expect("lets go");
    for rotated in rotating {
        rotated.await.expect("ends").expect("rotates");
    }
    let signing = "SELECT COUNT(*) FROM signing_keys WHERE purpose = 'links' AND honoured_until_us IS NULL";
    assert_eq!(sqlx::query_scalar::<_, i64>(signing).fetch_one(&pool).await.expect("count"), 1);
}
