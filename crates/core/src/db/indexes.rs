//! Indexes that PostgreSQL builds while others read and write. In a migration's transaction `CREATE INDEX` keeps every writer of its
//! table out for as long as it takes, and `CONCURRENTLY` is refused in a transaction.
//!
//! A migration marks such a statement with [`MARK`] in the line before it. SQLite, which has one writer anyway, runs it where it stands.
//! On PostgreSQL it is left out there, and built afterwards beside the service. One that was cut off is invalid: it is dropped and built
//! anew. So no statement's answer may depend on such an index, only its speed.

use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _};

/// What stands in the line before a statement.
const MARK: &str = "-- concurrently on PostgreSQL:";
/// What begins a line that only PostgreSQL runs.
const ONLY_POSTGRES: &str = "-- postgres: ";
/// How each marked statement begins.
const CREATE: &str = "CREATE INDEX ";
/// One process at a time builds: the key of its lock. Whoever waited for it in PostgreSQL would be waited for by the build.
const LOCK: &str = "SELECT pg_try_advisory_lock(7593201146108413601)";
const UNLOCK: &str = "SELECT pg_advisory_unlock(7593201146108413601)";
/// Before the next try, of this process or when another one is at it.
const AGAIN_AFTER: Duration = Duration::from_secs(60);

/// An index that is built beside the service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ConcurrentIndex {
    name: String,
    /// What makes it.
    create: String,
}

/// Those that a migration marks.
pub(super) fn of_migration(sql: &str) -> Vec<ConcurrentIndex> {
    let marked = sql.split(MARK).skip(1).filter_map(|rest| rest.split(';').next()?.trim().strip_prefix(CREATE));
    let index = |rest: &str| {
        let create = format!("{CREATE}CONCURRENTLY {}", rest.split_whitespace().collect::<Vec<_>>().join(" "));
        ConcurrentIndex { name: rest.split_whitespace().next().unwrap_or_default().to_owned(), create }
    };
    marked.map(index).collect()
}

/// What PostgreSQL runs of a migration in its transaction.
pub(super) fn transactional(sql: &str) -> String {
    let mut parts = sql.split(MARK);
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        text += part.split_once(';').map_or("", |(_, rest)| rest);
    }
    text.lines().map(|line| line.strip_prefix(ONLY_POSTGRES).unwrap_or(line)).collect::<Vec<_>>().join("\n")
}

/// Builds what is missing in the background, as long as this process runs.
pub(super) fn build_in_background(options: PgConnectOptions, indexes: &'static [ConcurrentIndex]) {
    if indexes.is_empty() {
        return;
    }
    tokio::spawn(async move {
        loop {
            let built = async {
                let mut connection = options.connect().await?;
                let built = build(&mut connection, indexes).await;
                let _ = connection.close().await;
                built
            };
            match built.await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(%error, "an index can't be built now: the service is slower without it; it is tried again");
                }
            }
            tokio::time::sleep(AGAIN_AFTER).await;
        }
    });
}

/// Builds what is missing or was cut off. False when another process is at it.
///
/// # Errors
/// When one can't be built; those before it are there.
async fn build(connection: &mut PgConnection, indexes: &[ConcurrentIndex]) -> Result<bool, sqlx::Error> {
    let mut missing = Vec::new();
    for index in indexes {
        match is_valid(connection, index).await? {
            Some(true) => {}
            state => missing.push((index, state)),
        }
    }
    if missing.is_empty() {
        return Ok(true);
    }
    if !sqlx::query_scalar::<_, bool>(LOCK).fetch_one(&mut *connection).await? {
        return Ok(false);
    }
    // It waits for whoever has begun before it, and nobody waits for it.
    connection.execute("SET lock_timeout = 0; SET statement_timeout = 0").await?;
    for (index, state) in missing {
        if state.is_some() {
            tracing::warn!(index = index.name, "an index that was cut off is dropped, and built anew");
            let drop = format!("DROP INDEX CONCURRENTLY IF EXISTS {}", index.name);
            connection.execute(AssertSqlSafe(drop)).await?;
        }
        tracing::info!(index = index.name, "an index is built; reads and writes go on");
        connection.execute(AssertSqlSafe(index.create.as_str())).await?;
    }
    connection.execute(UNLOCK).await?;
    Ok(true)
}

/// Whether an index is whole. None when there is none.
async fn is_valid(connection: &mut PgConnection, index: &ConcurrentIndex) -> Result<Option<bool>, sqlx::Error> {
    let valid = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass($1)";
    sqlx::query_scalar(valid).bind(&index.name).fetch_optional(connection).await
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use sqlx::{PgPool, Row as _};

    use super::super::migrations::{INDEXES, up_to_on_postgres};
    use super::super::tests::server;
    use super::*;
    use crate::db::Database;

    const MIGRATION: &str = "ALTER TABLE things ADD COLUMN kind TEXT;\n-- postgres: ALTER TABLE things SET (fillfactor = 80);\n\
        -- concurrently on PostgreSQL:\nCREATE INDEX things_by_kind\n    ON things (kind);\nDROP INDEX old;\n";

    #[test]
    fn a_marked_index_is_left_out_of_the_transaction_and_built_concurrently() {
        let index = ConcurrentIndex {
            name: "things_by_kind".into(),
            create: "CREATE INDEX CONCURRENTLY things_by_kind ON things (kind)".into(),
        };
        assert_eq!(of_migration(MIGRATION), [index]);
        let transactional = transactional(MIGRATION);
        assert_eq!(
            transactional.lines().filter(|line| !line.is_empty()).collect::<Vec<_>>(),
            ["ALTER TABLE things ADD COLUMN kind TEXT;", "ALTER TABLE things SET (fillfactor = 80);", "DROP INDEX old;"]
        );
        let plain = "CREATE INDEX a ON b (c);\n-- A word.\nDROP INDEX d;";
        assert_eq!((of_migration(plain), super::transactional(plain)), (Vec::new(), plain.to_owned()));
    }

    /// What is marked and not understood would be made nowhere.
    #[test]
    fn every_mark_in_the_history_is_an_index() {
        let marks: usize = up_to_files().iter().map(|sql| sql.matches(MARK).count()).sum();
        assert_eq!(INDEXES.len(), marks);
    }

    fn up_to_files() -> Vec<String> {
        let folder = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations")).expect("reads");
        folder.map(|file| std::fs::read_to_string(file.expect("reads").path()).expect("reads")).collect()
    }

    async fn things() -> (PgPool, Vec<ConcurrentIndex>) {
        let pool = PgPool::connect(&imagewell_engines::postgres::database()).await.expect("database");
        for sql in ["CREATE TABLE things (kind TEXT)", "INSERT INTO things SELECT 'same' FROM generate_series(1, 1000)"] {
            sqlx::query(sql).execute(&pool).await.expect("makes");
        }
        (pool, of_migration(MIGRATION))
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_index_is_built_beside_writers_by_one_process_alone() {
        let (pool, indexes) = things().await;
        // The build waits for whoever has begun before it.
        let mut writing = pool.begin().await.expect("begins");
        sqlx::query("INSERT INTO things VALUES ('other')").execute(&mut *writing).await.expect("writes");
        let building = tokio::spawn({
            let (pool, indexes) = (pool.clone(), indexes.clone());
            async move { build(&mut pool.acquire().await.expect("connection"), &indexes).await }
        });
        let waits = "SELECT COUNT(*) FROM pg_stat_activity WHERE query LIKE 'CREATE INDEX CONCURRENTLY%' \
            AND datname = current_database() AND wait_event_type = 'Lock'";
        while sqlx::query_scalar::<_, i64>(waits).fetch_one(&pool).await.expect("asks") == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let mut connection = pool.acquire().await.expect("connection");
        assert!(!build(&mut connection, &indexes).await.expect("asks"), "another one is at it");
        connection.execute("SET lock_timeout = '2s'").await.expect("sets");
        connection.execute("INSERT INTO things VALUES ('beside it')").await.expect("nobody waits for the build");
        assert_eq!(is_valid(&mut connection, &indexes[0]).await.expect("asks"), Some(false), "it is not ready yet");
        writing.commit().await.expect("commits");
        assert!(building.await.expect("ends").expect("builds"));
        assert_eq!(is_valid(&mut connection, &indexes[0]).await.expect("asks"), Some(true));
        assert!(build(&mut connection, &indexes).await.expect("finds it"));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_index_whose_build_was_cut_off_is_built_anew() {
        let (pool, indexes) = things().await;
        let mut connection = pool.acquire().await.expect("connection");
        let cut_off = connection.execute("CREATE UNIQUE INDEX CONCURRENTLY things_by_kind ON things (kind)").await;
        assert!(cut_off.is_err());
        assert_eq!(is_valid(&mut connection, &indexes[0]).await.expect("asks"), Some(false));
        assert!(build(&mut connection, &indexes).await.expect("builds"));
        assert_eq!(is_valid(&mut connection, &indexes[0]).await.expect("asks"), Some(true));
    }

    /// As beside a report or a dump: the migration gives up soon, tries again, and whoever only reads never waits for long.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_migration_waits_for_a_table_in_turns_and_readers_get_theirs() {
        let url = imagewell_engines::postgres::database();
        let pool = PgPool::connect(&url).await.expect("database");
        let before = sqlx::migrate::Migrator::with_migrations(up_to_on_postgres(14));
        before.run(&pool).await.expect("migrates");
        let mut dump = pool.begin().await.expect("begins");
        dump.execute("LOCK TABLE variants IN ACCESS SHARE MODE").await.expect("reads");
        let opening = tokio::spawn(async move { Database::open(&server(&url), Arc::default()).await });
        let mut reader = pool.acquire().await.expect("connection");
        // Twice as long as a migration may wait.
        reader.execute("SET statement_timeout = '4s'").await.expect("sets");
        let waits = "SELECT COUNT(*) FROM pg_stat_activity WHERE query LIKE '%DROP INDEX variants_by_use%' \
            AND datname = current_database() AND wait_event_type = 'Lock'";
        let (mut turns, mut waited) = (0, false);
        while turns < 3 {
            let waits: i64 = reader.fetch_one(waits).await.expect("asks").get(0);
            reader
                .execute("SELECT COUNT(*) FROM variants")
                .await
                .expect("a reader never waits for longer than the migration does");
            turns += u32::from(waits > 0 && !waited);
            waited = waits > 0;
            assert!(!opening.is_finished(), "it went on beside the dump");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        dump.rollback().await.expect("ends");
        opening.await.expect("ends").expect("opens");
        let newest: i64 = reader.fetch_one("SELECT MAX(version) FROM _sqlx_migrations").await.expect("asks").get(0);
        assert_eq!(newest, super::super::migrations::newest());
    }
}
