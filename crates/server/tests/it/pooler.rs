//! Nodes that reach PostgreSQL through PgBouncer in transaction mode, or as a role that owns nothing.

use std::time::{Duration, Instant};

use imagewell_core::verify;
use imagewell_engines::pgbouncer::PgBouncer;
use sqlx::Executor as _;

use crate::app::{Answer, Data, Outgrown, TestApp, image_path};
use crate::faults::Load;
use crate::file_service::{FileAnswer as _, Machine, open};
use crate::fixtures::png;

async fn pooler(database_url: &str) -> PgBouncer {
    let url = database_url.to_owned();
    tokio::task::spawn_blocking(move || PgBouncer::before(&url)).await.expect("starts")
}

/// Asks until it is so; longer than the promised five seconds is too long.
async fn soon(status: u16, ask: impl AsyncFn() -> Answer) {
    let begun = Instant::now();
    while ask().await.status.as_u16() != status {
        assert!(begun.elapsed() < Duration::from_secs(5), "after five seconds it is not {status}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_serve_through_pgbouncer_in_transaction_mode_and_hear_of_changes_within_five_seconds() {
    let direct = TestApp::on(Data::outgrown(), &[]).await;
    let pooler = pooler(direct.data().database_url()).await;
    let url = pooler.lead_to(direct.data().database_url());
    let pooled = [("database_url", url.as_str()), ("database.transaction_pooling", "true")];
    let (first, second) = (direct.another_node(&pooled).await, direct.another_node(&pooled).await);

    let ada = first.actor("ada").await;
    let there = ada.at_node(&second.url(""));
    let load = Load::start([&ada, &there, &ada, &there, &ada, &there, &ada, &there].into_iter().cloned()).await;
    let (till, elsewhere) = (Machine::till(&first, "till01"), Machine::till(&second, "till01"));
    for number in 1..=20 {
        let (here, there) = (till.upload("a.png", png(8, 8, number)), elsewhere.upload("b.png", png(8, 8, number)));
        let (here, there) = tokio::join!(here, there);
        assert_eq!((&here.file()["version"], &there.file()["version"]), (&number.into(), &number.into()));
    }
    let (kept, refused) = load.finish().await;
    assert_eq!(refused, 0);
    assert!(kept.len() > 20, "{} images", kept.len());
    for (uuid, bytes) in &kept {
        assert!(Answer::of(there.get(&image_path(uuid))).await.body == *bytes, "{uuid}");
    }
    let checked = verify::run(&first.service.app, |_| {}).await.expect("reads");
    assert!(checked.broken.is_empty() && checked.versions >= kept.len() as u64 + 40, "{checked:?}");

    // What one of them changes, the others know: pooled ones by asking, the direct one by listening.
    let token = till.upload("p.png", png(8, 8, 3)).await.file()["s3_token"].as_str().expect("key").to_owned();
    for (acl, status) in [("PUBLIC", 200), ("PRIVATE", 403), ("PUBLIC", 200), ("PRIVATE", 403)] {
        Answer::of(till.request("PUT", "rewards/p.png/acl").body(acl)).await.file();
        for node in [&second, &direct] {
            soon(status, async || open(&node.url(&format!("/imagewell/{token}"))).await).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_are_not_made_through_a_pooler_and_that_is_said() {
    let database_url = imagewell_engines::postgres::database();
    let pooler = pooler(&database_url).await;
    let data = Data::on(Outgrown::in_database(&pooler.lead_to(&database_url)));
    let refused = data.open(&[("database.transaction_pooling", "true")]).await.expect_err("no tables").to_string();
    let refused = format!("{refused} {:?}", data.open(&[("database.transaction_pooling", "true")]).await.expect_err("again"));
    assert!(refused.contains("database.transaction_pooling=false"), "{refused}");
    let pool = sqlx::PgPool::connect(&database_url).await.expect("database");
    let (tables,): (i64,) = sqlx::query_as("SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = 'public'")
        .fetch_one(&pool)
        .await
        .expect("counts");
    assert_eq!(tables, 0);
    pool.close().await;
}

/// With the rights that docs/operating.md names, word for word but for the names.
#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_owns_nothing_serves_with_the_rights_that_the_manual_names() {
    let owner = TestApp::on(Data::outgrown(), &[]).await;
    let pool = sqlx::PgPool::connect(owner.data().database_url()).await.expect("database");
    let (database,): (String,) = sqlx::query_as("SELECT current_database()").fetch_one(&pool).await.expect("a name");
    let role = format!("serves_{database}");
    let manual = include_str!("../../../../docs/operating.md");
    let rights = manual.split("```sql\n").nth(1).and_then(|rest| rest.split("```").next()).expect("statements");
    let rights = rights
        .replace("owner_of_imagewell", "postgres")
        .replace("imagewell", &role)
        .replace("DATABASE images", &format!("DATABASE {database}"));
    sqlx::raw_sql(sqlx::AssertSqlSafe(rights)).execute(&pool).await.expect("grants");
    // As since PostgreSQL 15, where it was not migrated from an older one.
    sqlx::raw_sql("REVOKE CREATE ON SCHEMA public FROM PUBLIC").execute(&pool).await.expect("revokes");
    let url = owner.data().database_url().replace("postgres@", &format!("{role}@"));
    let node = owner.another_node(&[("database_url", &url)]).await;
    let ada = node.actor("ada").await;
    let uuid = ada.upload(png(8, 8, 1)).await.uuid();
    assert!(ada.at_node(&owner.url("")).read(&uuid).await.body == png(8, 8, 1));
    let till = Machine::till(&node, "till01");
    till.upload("a.png", png(8, 8, 1)).await.file();
    assert_eq!(till.send("DELETE", "rewards/a.png").await.status.as_u16(), 200);
    let swept = imagewell_core::sweep::run(&node.service.app, imagewell_core::sweep::Mode::Remove, |_| {}).await;
    assert!(swept.is_ok(), "{swept:?}");
    assert!(
        sqlx::PgPool::connect(&url).await.expect("database").execute("CREATE TABLE more (id INT)").await.is_err(),
        "it may not"
    );
    pool.close().await;
}
