//! The schema's history, the same for both databases.
//!
//! It is listed by hand, not by sqlx's macro: that runs at build time and brings sqlx, SQLite and TLS into the build a second time.

use std::borrow::Cow;
use std::sync::LazyLock;

use sqlx::SqlStr;
use sqlx::migrate::{Migrate, MigrateError, Migration, MigrationType, Migrator};

use crate::Error;

/// Number, name and SQL. Only ever added to: the checksum of each lies in every database that has taken it.
const HISTORY: [(i64, &str, &str); 13] = [
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
];

/// All of it, in order.
static MIGRATIONS: LazyLock<Migrator> = LazyLock::new(|| Migrator::with_migrations(up_to(HISTORY.len())));

/// Brings a database to the newest schema.
///
/// # Errors
/// [`Error::Internal`] when a newer program has been there, or a statement fails.
pub(super) async fn migrate<C: Migrate>(connection: &mut C, doing: &str) -> Result<(), Error> {
    // `run` would do, but the compiler can't see that its future may change threads.
    MIGRATIONS.run_direct(None, connection, false).await.map_err(|error| match error {
        MigrateError::VersionMissing(number) => Error::Internal { detail: made_by_a_newer(doing, number) },
        error => Error::internal(doing, &error),
    })
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
}

/// The migrations that a database has taken: of SQLite or PostgreSQL, which say differently that there is no such table.
const APPLIED: &str = "SELECT version FROM _sqlx_migrations ORDER BY version";

/// Looks at a database's schema and leaves it as it is.
///
/// # Errors
/// [`sqlx::Error`] when the database can't be read.
pub(super) async fn schema<DB>(connection: &mut DB::Connection) -> Result<SchemaState, sqlx::Error>
where
    DB: sqlx::Database,
    for<'c> &'c mut DB::Connection: sqlx::Executor<'c, Database = DB>,
    DB::Arguments: sqlx::IntoArguments<DB>,
    (i64,): for<'r> sqlx::FromRow<'r, DB::Row> + Send + Unpin,
{
    let applied: Result<Vec<(i64,)>, _> = sqlx::query_as(APPLIED).fetch_all(connection).await;
    match applied {
        Ok(applied) => Ok(SchemaState::of(&applied.into_iter().map(|(number,)| number).collect::<Vec<_>>())),
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
    DB: sqlx::Database,
    for<'c> &'c mut DB::Connection: sqlx::Executor<'c, Database = DB>,
    DB::Arguments: sqlx::IntoArguments<DB>,
    (i64,): for<'r> sqlx::FromRow<'r, DB::Row> + Send + Unpin,
{
    let detail = match schema::<DB>(connection).await.map_err(|error| Error::internal(doing, &error))? {
        SchemaState::Current => return Ok(()),
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
    fn every_file_is_listed_under_its_name() {
        let listed: Vec<_> =
            HISTORY.iter().map(|(number, name, _)| format!("{number:04}_{}.sql", name.replace(' ', "_"))).collect();
        let folder = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations")).expect("reads");
        let mut files: Vec<_> = folder.map(|file| file.expect("reads").file_name().into_string().expect("a name")).collect();
        files.sort();
        assert_eq!(listed, files);
    }
}
