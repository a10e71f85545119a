//! Renderings that are kept, and when they were last used.

use std::collections::BTreeMap;
use std::time::Duration;

use super::query::{Sql, query, statements};
use super::{Connection, Database, page};
use crate::Error;
use crate::model::{BlobKey, ImageId, Timestamp};

statements! {
    // A rendering of a version that is gone must not be kept: nobody would ever remove it.
    INSERT = "INSERT INTO variants (key, version_blob_key, size_bytes, used_us) \
        SELECT $1, blob_key, $3, $4 FROM versions WHERE blob_key = $2 \
        ON CONFLICT (key) DO UPDATE SET size_bytes = excluded.size_bytes, used_us = excluded.used_us";
    // The order of the locks is that of the keys, and whoever finds a row locked leaves it out: it is but a note.
    TOUCH = "UPDATE variants SET used_us = used.value FROM json_each($1) AS used \
        WHERE variants.key = used.key AND variants.used_us < used.value - $2",
        postgres: "UPDATE variants SET used_us = used.us FROM (SELECT v.key, CAST(u.value AS BIGINT) AS us \
        FROM json_each_text(CAST($1 AS JSON)) AS u JOIN variants v ON v.key = u.key WHERE v.used_us < CAST(u.value AS BIGINT) - $2 \
        ORDER BY v.key FOR NO KEY UPDATE OF v SKIP LOCKED) AS used WHERE variants.key = used.key";
    TOTAL = "SELECT CAST(COALESCE(SUM(size_bytes), 0) AS BIGINT) FROM variants";
    OLDEST = "SELECT key, size_bytes FROM variants ORDER BY used_us LIMIT $1";
    DELETE = "DELETE FROM variants WHERE key IN (SELECT value FROM json_each($1))",
        postgres: "DELETE FROM variants WHERE key IN (SELECT key FROM variants WHERE key IN \
        (SELECT json_array_elements_text(CAST($1 AS JSON))) ORDER BY key FOR UPDATE)";
    OF_VERSION = "SELECT key FROM variants WHERE version_blob_key = $1";
    OF_IMAGE = "SELECT v.key FROM variants v JOIN versions w ON w.blob_key = v.version_blob_key WHERE w.image_id = $1";
    // Without its version nobody counts on it any more.
    EXISTS = "SELECT COUNT(*) FROM variants v JOIN versions w ON w.blob_key = v.version_blob_key WHERE v.key = $1";
    OF_MISSING_VERSIONS = "SELECT key FROM variants WHERE NOT EXISTS (SELECT 1 FROM versions w WHERE w.blob_key = version_blob_key) \
        ORDER BY version_blob_key LIMIT $1";
    SIZE = "SELECT size_bytes FROM variants WHERE key = $1";
}

/// Notes a rendering that was stored. False when its version is gone by now.
pub(crate) async fn insert(
    connection: &mut Connection,
    key: &BlobKey,
    version: &BlobKey,
    size_bytes: u64,
    now: Timestamp,
) -> Result<bool, Error> {
    let done = query(INSERT)
        .bind(key.as_str())
        .bind(version.as_str())
        .bind(i64::try_from(size_bytes).unwrap_or(i64::MAX))
        .bind(now.0)
        .execute(connection)
        .await?;
    Ok(done > 0)
}

/// Notes when each was last used, unless its row says so to within `coarse`. The pages are those of one transaction each.
pub(crate) async fn touch(database: &Database, used: BTreeMap<BlobKey, Timestamp>, coarse: Duration) -> Result<(), Error> {
    let coarse_us = i64::try_from(coarse.as_micros()).unwrap_or(i64::MAX);
    let used: Vec<(BlobKey, Timestamp)> = used.into_iter().collect();
    for rows in used.chunks(page::ROWS_MAX) {
        let rows = page::object(rows.iter().map(|(key, when)| (key.as_str(), when.0)));
        let touch = database
            .write(move |connection| Box::pin(async move { query(TOUCH).bind(rows).bind(coarse_us).execute(connection).await }));
        touch.await?;
    }
    Ok(())
}

/// Bytes of all of them.
pub(crate) async fn total_bytes(database: &Database) -> Result<u64, Error> {
    let total: i64 = query(TOTAL).fetch_value(database).await?;
    Ok(u64::try_from(total).unwrap_or(0))
}

/// Those that were used longest ago, with their bytes. It looks at all rows: an index of times would make each note of a use as dear as an
/// insert, and there are many more notes than evictions.
pub(crate) async fn oldest(database: &Database, count: u32) -> Result<Vec<(BlobKey, u64)>, Error> {
    let rows: Vec<(String, i64)> = query(OLDEST).bind(i64::from(count)).fetch_all(database).await?;
    Ok(rows.into_iter().map(|(key, size)| (BlobKey::from_stored(key), u64::try_from(size).unwrap_or(0))).collect())
}

/// Forgets these. The pages are those of one transaction each.
pub(crate) async fn delete(database: &Database, keys: &[BlobKey]) -> Result<(), Error> {
    let mut keys: Vec<&str> = keys.iter().map(BlobKey::as_str).collect();
    keys.sort_unstable();
    for keys in keys.chunks(page::ROWS_MAX) {
        let keys = page::list(keys.iter().copied());
        let delete =
            database.write(move |connection| Box::pin(async move { query(DELETE).bind(keys).execute(connection).await }));
        delete.await?;
    }
    Ok(())
}

/// Those made of these bytes.
pub(crate) async fn of_version(database: &Database, version: &BlobKey) -> Result<Vec<BlobKey>, Error> {
    keys(database, OF_VERSION, version.as_str()).await
}

/// Those of all versions of an image.
pub(crate) async fn of_image(database: &Database, image: ImageId) -> Result<Vec<BlobKey>, Error> {
    keys(database, OF_IMAGE, &image.to_string()).await
}

/// Some of those whose version is gone.
pub(crate) async fn of_missing_versions(database: &Database, count: u32) -> Result<Vec<BlobKey>, Error> {
    let keys: Vec<String> = query(OF_MISSING_VERSIONS).bind(i64::from(count)).fetch_values(database).await?;
    Ok(keys.into_iter().map(BlobKey::from_stored).collect())
}

/// How many bytes of one are stored. None when it has no row.
pub(crate) async fn size_bytes(database: &Database, key: &BlobKey) -> Result<Option<u64>, Error> {
    let size: Option<i64> = query(SIZE).bind(key.as_str()).fetch_optional_value(database).await?;
    Ok(size.map(|size| u64::try_from(size).unwrap_or(0)))
}

/// Whether it is one that is kept, of a version that is there.
pub(crate) async fn exists(database: &Database, key: &BlobKey) -> Result<bool, Error> {
    let count: i64 = query(EXISTS).bind(key.as_str()).fetch_value(database).await?;
    Ok(count > 0)
}

async fn keys(database: &Database, sql: Sql, of: &str) -> Result<Vec<BlobKey>, Error> {
    let keys: Vec<String> = query(sql).bind(of).fetch_values(database).await?;
    Ok(keys.into_iter().map(BlobKey::from_stored).collect())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use sqlx::PgPool;

    use super::super::tests::{insert_version, server, sqlite_in};
    use super::*;
    use crate::db::leases;

    const VERSION: &str = "rewards/1/a.png";
    /// More than two pages of one statement.
    const COUNT: u8 = 200;
    const ROUNDS: i64 = 5;

    /// In no order of what was inserted first.
    fn keys() -> impl Iterator<Item = BlobKey> {
        (0..COUNT).flat_map(|salt| (0..6_u8).map(move |width| (salt.wrapping_mul(113) ^ (width << 5), salt, width))).map(
            |(mixed, salt, width)| {
                BlobKey::from_stored(format!("variants/{mixed:02x}-{salt:02x}/inside-{width}x{}", "4".repeat(60)))
            },
        )
    }

    async fn filled(database: &Database) {
        insert_version(database, VERSION, 1).await;
        let all: Vec<BlobKey> = keys().collect();
        for some in all.chunks(100) {
            let some = some.to_vec();
            let write = database.write(move |connection| {
                Box::pin(async move {
                    for key in some {
                        insert(connection, &key, &BlobKey::from_stored(VERSION.into()), 1, Timestamp(1)).await?;
                    }
                    Ok(())
                })
            });
            write.await.expect("inserts");
        }
    }

    async fn touched(database: &Database, when: i64, coarse: Duration) {
        touch(database, keys().map(|key| (key, Timestamp(when))).collect(), coarse).await.expect("notes");
    }

    #[tokio::test]
    async fn uses_are_noted_unless_they_are_known_well_enough() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let url = imagewell_engines::postgres::database();
        let postgres = Database::open(&server(&url), Arc::default()).await.expect("opens");
        for database in [sqlite_in(folder.path()).await, postgres] {
            filled(&database).await;
            let minute = Duration::from_secs(60);
            let all = oldest(&database, 10_000).await.expect("reads");
            let used: BTreeMap<_, _> = all[..700].iter().map(|(key, _)| (key.clone(), Timestamp(60_000_002))).collect();
            touch(&database, used.clone(), minute).await.expect("notes");
            // Within the minute, and not there.
            let mut again: BTreeMap<_, _> = used.keys().map(|key| (key.clone(), Timestamp(120_000_002))).collect();
            again.insert(BlobKey::from_stored("variants/gone/\"".into()), Timestamp(1_000_000_000));
            touch(&database, again, minute).await.expect("notes");
            let count = query(Sql::same("SELECT COUNT(*) FROM variants WHERE used_us = $1"));
            let noted: i64 = count.bind(60_000_002).fetch_value(&database).await.expect("counts");
            assert_eq!(noted, 700);
            let left: Vec<_> = oldest(&database, 10_000).await.expect("reads").into_iter().map(|(key, _)| key).collect();
            assert_eq!(left.len(), all.len());
            assert!(left[..all.len() - 700].iter().all(|key| !used.contains_key(key)), "those that were not used come first");
            delete(&database, &left[..600]).await.expect("deletes");
            assert_eq!(oldest(&database, 10_000).await.expect("reads").len(), all.len() - 600);
        }
    }

    /// How many rows of a table were updated, and how many of these in place.
    async fn updates(pool: &PgPool, table: &str, at_least: i64) -> (i64, i64) {
        let counts = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = $1";
        loop {
            let (all, hot): (i64, i64) = sqlx::query_as(counts).bind(table).fetch_one(pool).await.expect("counts");
            // Sessions report what they did up to a second later.
            if all >= at_least {
                return (all, hot);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// As when some of what is kept is asked for: a page has room for a third of its rows once more.
    #[tokio::test]
    async fn notes_of_use_and_leases_are_hot_updates() {
        let url = imagewell_engines::postgres::database();
        let database = Database::open(&server(&url), Arc::default()).await.expect("opens");
        filled(&database).await;
        let pool = PgPool::connect(&url).await.expect("database");
        let some = |when: i64| keys().step_by(4).map(move |key| (key, Timestamp(when))).collect::<BTreeMap<_, _>>();
        let each = some(0).len() as i64;
        touch(&database, some(10), Duration::ZERO).await.expect("notes");
        for round in 1..=2 {
            let take = database.write(move |connection| {
                Box::pin(async move {
                    for number in 0..50 {
                        let name = format!("look:{number}");
                        assert!(leases::take(connection, &name, "node", Timestamp(round), Timestamp(0)).await?);
                    }
                    Ok(())
                })
            });
            take.await.expect("takes");
        }
        let (all, hot) = updates(&pool, "variants", each).await;
        assert!(all == each && hot * 10 >= all * 9, "{hot} of {all} notes of use are HOT");
        let (all, hot) = updates(&pool, "leases", 50).await;
        assert!(all == 50 && hot >= 45, "{hot} of {all} leases are HOT");
        // With an index of what changes none is, or this would show nothing.
        sqlx::query("CREATE INDEX variants_by_use ON variants (used_us)").execute(&pool).await.expect("makes");
        let before = updates(&pool, "variants", each).await;
        touch(&database, some(1000), Duration::ZERO).await.expect("notes");
        let after = updates(&pool, "variants", 2 * each).await;
        assert_eq!((after.0 - before.0, after.1 - before.1), (each, 0));
    }

    /// Several nodes note and remove the same renderings at the same time, and nobody has to give way.
    #[tokio::test(flavor = "multi_thread")]
    async fn nodes_that_note_the_same_uses_do_not_wait_for_each_other() {
        let url = imagewell_engines::postgres::database();
        let database = Database::open(&server(&url), Arc::default()).await.expect("opens");
        filled(&database).await;
        let mut nodes = Vec::new();
        for node in 0..4 {
            let database = database.clone();
            nodes.push(tokio::spawn(async move {
                for round in 1..=ROUNDS {
                    touched(&database, round * 10 + node, Duration::ZERO).await;
                }
            }));
        }
        for node in nodes {
            node.await.expect("notes");
        }
        // Whose row is held is left out.
        let pool = PgPool::connect(&url).await.expect("database");
        let mut holding = pool.begin().await.expect("begins");
        sqlx::query("SELECT 1 FROM variants FOR UPDATE").execute(&mut *holding).await.expect("holds");
        touched(&database, 1000, Duration::ZERO).await;
        holding.rollback().await.expect("lets go");
        let newest = query(Sql::same("SELECT MAX(used_us) FROM variants")).fetch_value::<i64>(&database).await.expect("reads");
        assert!(newest < 1000);
    }
}
