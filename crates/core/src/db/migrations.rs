//! The schema's history, the same for both databases.
//!
//! It is listed by hand, not by sqlx's macro: that runs at build time and brings sqlx, SQLite and TLS into the build a second time.

use std::borrow::Cow;
use std::sync::LazyLock;
use std::time::Duration;

use sqlx::migrate::{Migrate, MigrateError, Migration, MigrationType, Migrator};
use sqlx::{AssertSqlSafe, SqlSafeStr as _, SqlStr};

use super::indexes::{self, ConcurrentIndex};
use crate::Error;

/// Number, name and SQL. Only ever added to: the checksum of each lies in every database that has taken it.
const HISTORY: [(i64, &str, &str); 16] = [
    (1, "initial", include_str!("../../migrations/0001_initial.sql")),
    (2, "named files", include_str!("../../migrations/0002_named_files.sql")),
    (3, "tickets and avatars", include_str!("../../migrations/0003_tickets_and_avatars.sql")),
    (4, "presets", include_str!("../../migrations/0004_presets.sql")),
    (5, "renderings", include_str!("../../migrations/0005_renderings.sql")),
    (6, "svg", include_str!("../../migrations/0006_svg.sql")),
    (7, "indexes", include_str!("../../migrations/0007_indexes.sql")),
    (8, "nodes", include_str!("../../migrations/0008_nodes.sql")),
    (9, "identity", include_str!("../../migrations/0009_identity.sql")),
    (10, "looks again", include_str!("../../migrations/0010_looks_again.sql")),
    (11, "generations of orgs", include_str!("../../migrations/0011_generations_of_orgs.sql")),
    (12, "scrub", include_str!("../../migrations/0012_scrub.sql")),
    (13, "fences", include_str!("../../migrations/0013_fences.sql")),
    (14, "compatibility", include_str!("../../migrations/0014_compatibility.sql")),
    (15, "hot updates", include_str!("../../migrations/0015_hot_updates.sql")),
    (16, "formats again", include_str!("../../migrations/0016_formats_again.sql")),
];

/// All of it, in order, as SQLite takes it.
static ON_SQLITE: LazyLock<Migrator> = LazyLock::new(|| Migrator::with_migrations(up_to(HISTORY.len())));

/// All of it, in order, as PostgreSQL takes it.
static ON_POSTGRES: LazyLock<Migrator> = LazyLock::new(|| Migrator::with_migrations(up_to_on_postgres(HISTORY.len())));

/// What PostgreSQL builds beside the migrations (see [`indexes`]).
pub(super) static INDEXES: LazyLock<Vec<ConcurrentIndex>> =
    LazyLock::new(|| HISTORY.iter().flat_map(|(.., sql)| indexes::of_migration(sql)).collect());

/// Tries to get a table that others use. Each waits no longer than the connection's `lock_timeout`, so requests are held up no longer either.
const TRIES_MAX: u32 = 60;
const PAUSE: Duration = Duration::from_millis(500);

/// Brings a database to the newest schema, or leaves it at a newer one with which this program works.
///
/// # Errors
/// [`Error::Internal`] when a newer program has been there whose schema this one can't work with, or a statement fails.
pub(super) async fn migrate<DB>(connection: &mut DB::Connection, doing: &str) -> Result<(), Error>
where
    DB: sqlx::Database + sqlx::database::HasStatementCache,
    DB::Connection: Migrate,
    for<'c> &'c mut DB::Connection: sqlx::Executor<'c, Database = DB>,
    DB::Arguments: sqlx::IntoArguments<DB>,
    (i64,): for<'r> sqlx::FromRow<'r, DB::Row> + Send + Unpin,
{
    let mut tries = 1;
    loop {
        let migrations = if DB::NAME == <sqlx::Postgres as sqlx::Database>::NAME { &ON_POSTGRES } else { &ON_SQLITE };
        // `run` would do, but the compiler can't see that its future may change threads.
        match migrations.run_direct(None, connection, false).await {
            Ok(()) => return Ok(()),
            Err(MigrateError::VersionMissing(number)) => {
                let state = schema::<DB>(connection).await.map_err(|error| Error::internal(doing, &error))?;
                if !matches!(state, SchemaState::Compatible(_)) {
                    return Err(Error::Internal { detail: made_by_a_newer(doing, number) });
                }
                warn_of_newer(number);
                return Ok(());
            }
            Err(error) if is_locked(&error) && tries < TRIES_MAX => {
                tracing::info!(tries, "others use what a migration changes: it is tried again");
                tries += 1;
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) => return Err(Error::internal(doing, &error)),
        }
    }
}

/// A newer program has upgraded the database, and this one goes on with it.
pub(super) fn warn_of_newer(number: i64) {
    tracing::warn!(schema = number, ours = newest(), "the database was upgraded by a newer imagewell, with which this one works");
}

/// PostgreSQL's lock_not_available: the migration was undone.
fn is_locked(error: &MigrateError) -> bool {
    let (MigrateError::Execute(cause) | MigrateError::ExecuteMigration(cause, _)) = error else { return false };
    cause.as_database_error().and_then(sqlx::error::DatabaseError::code).is_some_and(|code| code == "55P03")
}

/// The number of the newest schema.
pub(crate) const fn newest() -> i64 {
    HISTORY[HISTORY.len() - 1].0
}

fn made_by_a_newer(doing: &str, number: i64) -> String {
    format!(
        "{doing}: its schema {number} was made by a newer imagewell, and this one only has {}: start that one again, \
         or restore a backup from before",
        newest()
    )
}

/// How a database's schema relates to this program's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SchemaState {
    /// There are no tables of ours.
    Missing,
    /// This many migrations are to be made, at the next start of the service.
    Older(usize),
    /// As this program has it.
    Current,
    /// A newer program has made the migration of this number.
    Newer(i64),
    /// As [`SchemaState::Newer`], and this program works with it all the same.
    Compatible(i64),
}

impl SchemaState {
    fn of(applied: &[i64]) -> Self {
        let known = |number: &i64| HISTORY.iter().any(|(known, ..)| known == number);
        let missing = HISTORY.iter().filter(|(number, ..)| !applied.contains(number)).count();
        match applied.iter().copied().find(|number| !known(number)) {
            Some(number) => Self::Newer(number),
            None if applied.is_empty() => Self::Missing,
            None if missing > 0 => Self::Older(missing),
            None => Self::Current,
        }
    }

    /// A newer schema is one to work with when it says so, and all of ours is in it.
    fn if_compatible(self, number: i64, applied: &[i64], since: Option<i64>) -> Self {
        let is_whole = HISTORY.iter().all(|(number, ..)| applied.contains(number));
        if is_whole && since.is_some_and(|since| since <= newest()) { Self::Compatible(number) } else { self }
    }
}

/// The migrations that a database has taken: of SQLite or PostgreSQL, which say differently that there is no such table.
const APPLIED: &str = "SELECT version FROM _sqlx_migrations ORDER BY version";

/// Which is the oldest schema whose programs work with the present one, where the last migration says so.
const COMPATIBLE_SINCE: &str =
    "SELECT compatible_since FROM schema_compatibility WHERE schema_number = (SELECT MAX(version) FROM _sqlx_migrations)";

/// Looks at a database's schema and leaves it as it is.
///
/// # Errors
/// [`sqlx::Error`] when the database can't be read.
pub(super) async fn schema<DB>(connection: &mut DB::Connection) -> Result<SchemaState, sqlx::Error>
where
    DB: sqlx::Database + sqlx::database::HasStatementCache,
    for<'c> &'c mut DB::Connection: sqlx::Executor<'c, Database = DB>,
    DB::Arguments: sqlx::IntoArguments<DB>,
    (i64,): for<'r> sqlx::FromRow<'r, DB::Row> + Send + Unpin,
{
    let applied: Result<Vec<(i64,)>, _> = sqlx::query_as(APPLIED).persistent(false).fetch_all(&mut *connection).await;
    match applied {
        Ok(applied) => {
            let applied: Vec<i64> = applied.into_iter().map(|(number,)| number).collect();
            let state = SchemaState::of(&applied);
            let SchemaState::Newer(number) = state else { return Ok(state) };
            // A schema without this table allows no older program.
            let since: Result<Vec<(i64,)>, _> = sqlx::query_as(COMPATIBLE_SINCE).persistent(false).fetch_all(connection).await;
            Ok(state.if_compatible(number, &applied, since.unwrap_or_default().first().map(|(since,)| *since)))
        }
        // PostgreSQL's undefined_table, and SQLite's words.
        Err(sqlx::Error::Database(cause))
            if cause.code().as_deref() == Some("42P01") || cause.message().starts_with("no such table") =>
        {
            Ok(SchemaState::Missing)
        }
        Err(error) => Err(error),
    }
}

/// Refuses any other schema than this program's.
///
/// # Errors
/// [`Error::Internal`] says what to do.
pub(super) async fn expect_current<DB>(connection: &mut DB::Connection, doing: &str) -> Result<(), Error>
where
    DB: sqlx::Database + sqlx::database::HasStatementCache,
    for<'c> &'c mut DB::Connection: sqlx::Executor<'c, Database = DB>,
    DB::Arguments: sqlx::IntoArguments<DB>,
    (i64,): for<'r> sqlx::FromRow<'r, DB::Row> + Send + Unpin,
{
    let detail = match schema::<DB>(connection).await.map_err(|error| Error::internal(doing, &error))? {
        SchemaState::Current | SchemaState::Compatible(_) => return Ok(()),
        SchemaState::Missing => format!("{doing}: it holds no data of imagewell; `imagewell serve` makes it at its first start"),
        SchemaState::Older(count) => format!(
            "{doing}: it was made by an older imagewell, and {count} migrations are to be made: make a backup and start \
             `imagewell serve`, which makes them"
        ),
        SchemaState::Newer(number) => made_by_a_newer(doing, number),
    };
    Err(Error::Internal { detail })
}

/// The first so many.
pub(super) fn up_to(count: usize) -> Vec<Migration> {
    let migration = |(number, name, sql): &(i64, &'static str, &'static str)| {
        Migration::new(*number, Cow::Borrowed(name), MigrationType::Simple, SqlStr::from_static(sql), false)
    };
    HISTORY.iter().take(count).map(migration).collect()
}

/// The same, with what is only for PostgreSQL. Each keeps the checksum of its file.
pub(super) fn up_to_on_postgres(count: usize) -> Vec<Migration> {
    let translated = |migration: Migration| Migration {
        sql: AssertSqlSafe(indexes::transactional(migration.sql.as_str())).into_sql_str(),
        ..migration
    };
    up_to(count).into_iter().map(translated).collect()
}

#[cfg(test)]
mod tests {
    use super::{HISTORY, SchemaState};

    #[test]
    fn schemas_are_told_by_the_migrations_that_they_have() {
        let all: Vec<i64> = HISTORY.iter().map(|(number, ..)| *number).collect();
        assert_eq!(SchemaState::of(&[]), SchemaState::Missing);
        assert_eq!(SchemaState::of(&all[..1]), SchemaState::Older(all.len() - 1));
        assert_eq!(SchemaState::of(&all[1..]), SchemaState::Older(1), "one that was left out");
        assert_eq!(SchemaState::of(&all), SchemaState::Current);
        assert_eq!(SchemaState::of(&[&all[..], &[9999]].concat()), SchemaState::Newer(9999));
        assert_eq!(SchemaState::of(&[1, 9999]), SchemaState::Newer(9999));
    }

    #[test]
    fn a_newer_schema_is_worked_with_when_it_says_so_and_ours_is_in_it() {
        let all: Vec<i64> = HISTORY.iter().map(|(number, ..)| *number).collect();
        let (newer, ours) = ([&all[..], &[9999]].concat(), super::newest());
        let of = |applied: &[i64], since| SchemaState::of(applied).if_compatible(9999, applied, since);
        assert_eq!(of(&newer, Some(ours)), SchemaState::Compatible(9999));
        assert_eq!(of(&newer, Some(1)), SchemaState::Compatible(9999));
        assert_eq!(of(&newer, Some(ours + 1)), SchemaState::Newer(9999));
        assert_eq!(of(&newer, None), SchemaState::Newer(9999));
        assert_eq!(of(&newer[1..], Some(1)), SchemaState::Newer(9999), "one of ours is missing");
    }

    /// Or that they shut out the programs before them.
    #[test]
    fn every_migration_says_which_programs_still_work() {
        for (number, name, sql) in HISTORY.iter().filter(|(number, ..)| *number > 14) {
            let says = sql.contains(&format!("UPDATE schema_compatibility SET schema_number = {number}, compatible_since = "));
            assert!(says, "migration {name}: UPDATE schema_compatibility SET schema_number = {number}, compatible_since = …");
        }
    }

    #[test]
    fn every_file_is_listed_under_its_name() {
        let listed: Vec<_> =
            HISTORY.iter().map(|(number, name, _)| format!("{number:04}_{}.sql", name.replace(' ', "_"))).collect();
        let folder = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations")).expect("reads");
        let mut files: Vec<_> = folder.map(|file| file.expect("reads").file_name().into_string().expect("a name")).collect();
        files.sort();
        assert_eq!(listed, files);
    }
}
