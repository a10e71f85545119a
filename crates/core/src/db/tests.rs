//! The same statements on both databases, and data of earlier versions.

use std::path::Path;
use std::time::Duration;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Executor as _};

use super::*;

pub(super) async fn sqlite_in(folder: &Path) -> Database {
    let place = Place::File { file: folder.join("a.db"), readers_max: 2 };
    Database::open(&place, Arc::default()).await.expect("opens")
}

/// A few connections to a PostgreSQL database.
pub(super) fn server(url: &str) -> Place {
    let long = Duration::from_secs(5);
    let patience = Patience { wait_max: long, time_max: long, lock_max: long, idle_max: long };
    let connections = Connections { max: 5, reads_min: 0, transaction_pooling: false };
    Place::Server { url: url.to_owned(), connections, patience }
}

async fn postgres() -> Database {
    let place = server(&imagewell_engines::postgres::database());
    Database::open(&place, Arc::default()).await.expect("opens")
}

pub(super) fn reader(database: &Database) -> sqlx::SqlitePool {
    match &*database.engine() {
        Engine::Sqlite(sqlite) => sqlite.reader().clone(),
        Engine::Postgres(_) => panic!("this is PostgreSQL"),
    }
}

/// An image in an org of its own, with one version of so many bytes.
pub(crate) async fn insert_version(database: &Database, blob_key: &'static str, size_bytes: i64) {
    let (account, image) = ("01a1fc2e-b3ff-7513-b584-b6649bfe564a", "01a1fc2e-b41e-7441-b63c-27c0818eeff9");
    let digest = "0".repeat(64);
    let insert = [
        "INSERT INTO orgs (id, name, accepts_svg) VALUES (1, 'acme', FALSE)".to_owned(),
        format!(
            "INSERT INTO accounts (id, org_id, kind, login, login_folded, secret_hash, disabled, created_us) \
             VALUES ('{account}', 1, 'user', 'ada', 'ada', '', FALSE, 0)"
        ),
        format!(
            "INSERT INTO images (id, org_id, owner_id, namespace, permission, acl, state, latest_version, last_number, created_us) \
             VALUES ('{image}', 1, '{account}', 'rewards', 'crew.view', 'private', 'kept', 1, 1, 0)"
        ),
        format!(
            "INSERT INTO versions (image_id, number, blob_key, size_bytes, digest, content_type, created_by, created_us) \
             VALUES ('{image}', 1, '{blob_key}', {size_bytes}, '{digest}', 'image/png', '{account}', 0)"
        ),
    ];
    execute(database, insert.into()).await;
}

/// Of org 1 so many versions that wait to be looked at, and after them one of org 2.
pub(crate) async fn insert_waiting(database: &Database, many: u32) {
    insert_version(database, "rewards/1/first.png", 1).await;
    let images = "id, org_id, owner_id, namespace, permission, acl, state, latest_version, last_number, created_us";
    let versions = "blob_key, size_bytes, digest, content_type, created_by, image_id, number, created_us, format, width, height, \
        frames, orientation";
    let same = "size_bytes, digest, content_type, created_by";
    let other = "01a1fc2e-b41e-7441-b63c-27c0818eef00";
    let mut statements = vec![
        "INSERT INTO orgs (id, name, accepts_svg) VALUES (2, 'beta', FALSE)".to_owned(),
        format!(
            "INSERT INTO images ({images}) SELECT '{other}', 2, owner_id, namespace, permission, acl, state, 1, 1, 0 FROM images"
        ),
        format!(
            "INSERT INTO versions ({versions}) SELECT 'rewards/2/last.png', {same}, '{other}', 1, 1000000, 'png', 8, 8, 1, 1 \
             FROM versions"
        ),
    ];
    statements.extend((2..many + 2).map(|number| {
        format!(
            "INSERT INTO versions ({versions}) SELECT 'rewards/1/{number}.png', {same}, image_id, {number}, {number}, 'png', 8, 8, 1, \
             1 FROM versions WHERE blob_key = 'rewards/1/first.png'"
        )
    }));
    execute(database, statements).await;
}

/// Writes rows that nothing else makes.
pub(crate) async fn execute(database: &Database, statements: Vec<String>) {
    let write = database.write(move |connection| {
        Box::pin(async move {
            for sql in statements {
                copying::run(connection, sql, &[]).await?;
            }
            Ok(())
        })
    });
    write.await.expect("writes");
}

#[tokio::test]
async fn every_statement_prepares_on_both_databases() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let (sqlite, postgres) = (reader(&sqlite_in(folder.path()).await), postgres().await);
    let postgres = match &*postgres.engine() {
        Engine::Postgres(postgres) => postgres.pool().clone(),
        Engine::Sqlite(_) => panic!("this is SQLite"),
    };
    let all: Vec<query::Sql> = all_statements().iter().flat_map(|(_, statements)| statements.iter().copied()).collect();
    assert!(all.len() > 50);
    let different = all.iter().filter(|sql| sql.sqlite != sql.postgres).count();
    assert!(different <= 5, "{different} statements differ between the databases");
    for sql in all {
        let prepared = sqlite.acquire().await.expect("connection").prepare(sqlx::SqlStr::from_static(sql.sqlite)).await;
        assert!(prepared.is_ok(), "{}: {:?}", sql.sqlite, prepared.err());
        let prepared = postgres.acquire().await.expect("connection").prepare(sqlx::SqlStr::from_static(sql.postgres)).await;
        assert!(prepared.is_ok(), "{}: {:?}", sql.postgres, prepared.err());
    }
}

#[tokio::test]
async fn settings_that_durability_rests_on_are_in_force() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let database = sqlite_in(folder.path()).await;
    let pragmas = database
        .write(|connection| {
            Box::pin(async move {
                let Link::Sqlite(connection) = &mut connection.link else { panic!("this is PostgreSQL") };
                let journal: String =
                    sqlx::query_scalar("PRAGMA journal_mode").fetch_one(&mut *connection).await.expect("journal");
                let synchronous: i64 =
                    sqlx::query_scalar("PRAGMA synchronous").fetch_one(&mut *connection).await.expect("synchronous");
                Ok((journal, synchronous))
            })
        })
        .await
        .expect("writes");
    assert_eq!(pragmas, ("wal".to_owned(), 2), "2 is FULL");
}

/// A panic in one write is that write's failure. What it had done is rolled back, and the next write is committed.
#[tokio::test]
async fn a_write_that_panics_ends_neither_the_writer_nor_later_writes() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let halt = Arc::new(Halt::default());
    let place = Place::File { file: folder.path().join("a.db"), readers_max: 2 };
    let database = Database::open(&place, Arc::clone(&halt)).await.expect("opens");
    let insert = |id: i64, panics: bool| {
        database.write(move |connection| {
            Box::pin(async move {
                let Link::Sqlite(connection) = &mut connection.link else { panic!("this is PostgreSQL") };
                let insert = sqlx::query("INSERT INTO orgs (id, name) VALUES ($1, 'org')").bind(id);
                insert.execute(connection).await.expect("inserts");
                assert!(!panics, "as a fault in a write would");
                Ok(())
            })
        })
    };
    assert!(matches!(insert(1, true).await, Err(Error::Internal { .. })));
    insert(2, false).await.expect("the next write is committed");
    let rows: Vec<(i64,)> = sqlx::query_as("SELECT id FROM orgs").fetch_all(&reader(&database)).await.expect("reads");
    assert_eq!(rows, [(2,)]);
    assert!(!halt.is_tripped());
}

/// A provisioning that takes long, or a tool for backups: the write may be tried again.
#[tokio::test]
async fn a_write_is_busy_while_another_process_holds_the_lock() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let database = sqlite_in(folder.path()).await;
    let pragma = |sql: &'static str| {
        database.write(move |connection| {
            Box::pin(async move {
                let Link::Sqlite(connection) = &mut connection.link else { panic!("this is PostgreSQL") };
                connection.execute(sql).await.map(|_| ()).map_err(|error| write_failed(&error))
            })
        })
    };
    pragma("PRAGMA busy_timeout = 10").await.expect("writes");
    let mut other = SqliteConnectOptions::new().filename(folder.path().join("a.db")).connect().await.expect("opens");
    other.execute("BEGIN IMMEDIATE").await.expect("locks");
    let refused = pragma("DELETE FROM presets").await;
    assert!(matches!(refused, Err(Error::Busy { .. })), "{refused:?}");
    other.execute("ROLLBACK").await.expect("unlocks");
    pragma("DELETE FROM presets").await.expect("writes again");
}

/// A database as the first version made it, with an image in it, opens, and the image can be read.
#[tokio::test]
async fn old_data_opens() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let file = folder.path().join("a.db");
    let options = SqliteConnectOptions::new().filename(&file).create_if_missing(true);
    let mut connection = options.connect().await.expect("opens");
    sqlx::migrate::Migrator::with_migrations(migrations::up_to(1)).run(&mut connection).await.expect("migrates");
    let account = "01a1fc2e-b3ff-7513-b584-b6649bfe564a";
    let image = "01a1fc2e-b41e-7441-b63c-27c0818eeff9";
    let digest = "0".repeat(64);
    for sql in [
        "INSERT INTO orgs (id, name) VALUES (1, 'acme')".to_owned(),
        "INSERT INTO namespaces (org_id, name) VALUES (1, 'rewards')".to_owned(),
        format!(
            "INSERT INTO accounts (id, org_id, kind, login, login_folded, secret_hash, disabled, created_us) \
             VALUES ('{account}', 1, 'user', 'ada', 'ada', '', FALSE, 0)"
        ),
        format!(
            "INSERT INTO images (id, org_id, owner_id, namespace, app_key, permission, state, latest_version, created_us) \
             VALUES ('{image}', 1, '{account}', 'opsportal-images', 'crew', 'crew.view', 'kept', 1, 0)"
        ),
        format!(
            "INSERT INTO versions (image_id, number, blob_key, size_bytes, digest, content_type, format, width, height, frames, \
             orientation, created_by, created_us) VALUES ('{image}', 1, 'opsportal-images/1/x.png', 5, '{digest}', 'image/png', \
             'png', 1, 1, 1, 1, '{account}', 0)"
        ),
    ] {
        sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&mut connection).await.expect("inserts");
    }
    drop(connection);
    let database = sqlite_in(folder.path()).await;
    let id = crate::model::ImageId::parse(image).expect("id");
    let found = images::find(&database, id).await.expect("reads").expect("is there");
    assert_eq!((found.version.number, found.latest_number, found.name), (1, 1, None));
    let namespace = crate::model::Namespace::parse("rewards").expect("name");
    let rules = namespaces::find(&database, OrgId(1), &namespace).await.expect("reads");
    assert_eq!(rules, Some(crate::model::NamespaceRules::plain(namespace)));
}

/// Passing failures once counted as looks; those images are looked at again, and no others.
#[tokio::test]
async fn what_earlier_versions_took_for_a_look_is_looked_at_again() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let file = folder.path().join("a.db");
    let options = SqliteConnectOptions::new().filename(&file).create_if_missing(true);
    let mut connection = options.connect().await.expect("opens");
    sqlx::migrate::Migrator::with_migrations(migrations::up_to(8)).run(&mut connection).await.expect("migrates");
    let account = "01a1fc2e-b3ff-7513-b584-b6649bfe564a";
    let image = "01a1fc2e-b41e-7441-b63c-27c0818eeff9";
    let mut setup = vec![
        "INSERT INTO orgs (id, name) VALUES (1, 'acme')".to_owned(),
        format!(
            "INSERT INTO accounts (id, org_id, kind, login, login_folded, secret_hash, disabled, created_us) \
             VALUES ('{account}', 1, 'user', 'ada', 'ada', '', FALSE, 0)"
        ),
        format!(
            "INSERT INTO images (id, org_id, owner_id, namespace, app_key, permission, state, latest_version, created_us) \
             VALUES ('{image}', 1, '{account}', 'opsportal-images', 'crew', 'crew.view', 'kept', 1, 0)"
        ),
    ];
    for (number, format, look) in [(1, "'png'", "NULL"), (2, "'png'", "'00ff0010'"), (3, "'heic'", "NULL"), (4, "NULL", "NULL")] {
        setup.push(format!(
            "INSERT INTO versions (image_id, number, blob_key, size_bytes, digest, content_type, format, look, looked_us, \
             created_by, created_us) VALUES ('{image}', {number}, '{number}', 5, '', '', {format}, {look}, 7, '{account}', 0)"
        ));
    }
    for sql in setup {
        sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&mut connection).await.expect("inserts");
    }
    drop(connection);
    let reader = reader(&sqlite_in(folder.path()).await);
    let waiting: Vec<i64> =
        sqlx::query_scalar("SELECT number FROM versions WHERE looked_us IS NULL").fetch_all(&reader).await.expect("reads");
    assert_eq!(waiting, [1]);
}

/// A column that a migration adds must not be forgotten when data moves.
#[tokio::test]
async fn a_move_knows_every_column_of_every_table() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let sqlite = reader(&sqlite_in(folder.path()).await);
    let postgres = postgres().await;
    let postgres = match &*postgres.engine() {
        Engine::Postgres(postgres) => postgres.pool().clone(),
        Engine::Sqlite(_) => panic!("this is SQLite"),
    };
    let in_sqlite: Vec<(String, String, String)> = sqlx::query_as(
        "SELECT t.name, c.name, LOWER(c.type) FROM sqlite_schema t JOIN pragma_table_info(t.name) c WHERE t.type = 'table' \
         AND t.name NOT LIKE 'sqlite_%'",
    )
    .fetch_all(&sqlite)
    .await
    .expect("schema");
    let in_postgres: Vec<(String, String, String)> = sqlx::query_as(
        "SELECT CAST(table_name AS TEXT), CAST(column_name AS TEXT), CAST(data_type AS TEXT) FROM information_schema.columns \
         WHERE table_schema = 'public'",
    )
    .fetch_all(&postgres)
    .await
    .expect("schema");
    // What belongs to a cluster and not to its data, and renderings, which are made again.
    let stays = [
        "clock",
        "damaged_blobs",
        "formats_again",
        "leases",
        "moves",
        "nodes",
        "schema_compatibility",
        "scrub",
        "store_identity",
        "variants",
        "_sqlx_migrations",
    ];
    for schema in [in_sqlite, in_postgres] {
        let mut tables: std::collections::BTreeMap<String, std::collections::BTreeSet<(String, String)>> = Default::default();
        for (table, column, kind) in schema.into_iter().filter(|(table, ..)| !stays.contains(&table.as_str())) {
            tables.entry(table).or_default().insert((column, kind));
        }
        let known = copying::TABLES.iter().map(|table| (table.name.to_owned(), table.described())).collect();
        assert_eq!(tables, known);
    }
}

/// As when a node is paused in the middle of a write: what it holds is given back before it goes on, and nothing of it is committed.
#[tokio::test]
async fn a_transaction_whose_node_hangs_gives_back_what_it_holds() {
    let url = imagewell_engines::postgres::database();
    let (short, long) = (Duration::from_millis(300), Duration::from_secs(30));
    let patience = Patience { wait_max: long, time_max: long, lock_max: long, idle_max: short };
    let connections = Connections { max: 8, reads_min: 1, transaction_pooling: false };
    let hanging = Database::open(&Place::Server { url, connections, patience }, Arc::default()).await.expect("opens");
    insert_version(&hanging, "rewards/1/a.png", 1).await;
    let (holds, held) = tokio::sync::oneshot::channel();
    let (goes_on, may) = tokio::sync::oneshot::channel::<()>();
    let database = hanging.clone();
    let write = tokio::spawn(async move {
        let work = database.write(|connection| {
            Box::pin(async move {
                copying::run(connection, "UPDATE orgs SET name = 'lost'".into(), &[]).await?;
                let _ = holds.send(());
                let _ = may.await;
                copying::run(connection, "UPDATE orgs SET name = 'lost too'".into(), &[]).await
            })
        });
        work.await
    });
    held.await.expect("it holds the row");
    let other = hanging.write(|connection| Box::pin(copying::run(connection, "UPDATE orgs SET name = 'won'".into(), &[])));
    other.await.expect("the row is given back");
    let _ = goes_on.send(());
    let outcome = write.await.expect("it ends");
    assert!(matches!(outcome, Err(Error::Busy { .. })), "{outcome:?}");
    let pool = sqlx::PgPool::connect_with(match &*hanging.engine() {
        Engine::Postgres(postgres) => (*postgres.pool().connect_options()).clone(),
        Engine::Sqlite(_) => panic!("this is SQLite"),
    });
    let (name,): (String,) =
        sqlx::query_as("SELECT name FROM orgs").fetch_one(&pool.await.expect("database")).await.expect("row");
    assert_eq!(name, "won");
}
