//! The schema's history, the same for both databases.
//!
//! It is listed by hand, not by sqlx's macro: that runs at build time and brings sqlx, SQLite and TLS into the build a second time.

use std::borrow::Cow;
use std::sync::LazyLock;

use sqlx::SqlStr;
use sqlx::migrate::{Migrate, MigrateError, Migration, MigrationType, Migrator};

use crate::Error;

/// Number, name and SQL. Only ever added to: the checksum of each lies in every database that has taken it.
const HISTORY: [(i64, &str, &str); 11] = [
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
        MigrateError::VersionMissing(number) => {
            let detail = format!(
                "{doing}: its schema {number} was made by a newer imagewell, and this one only has {}: start that one again, \
                 or restore a backup from before",
                HISTORY.len()
            );
            Error::Internal { detail }
        }
        error => Error::internal(doing, &error),
    })
}

/// The number of the newest schema.
pub(crate) const fn newest() -> i64 {
    HISTORY[HISTORY.len() - 1].0
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
    use super::HISTORY;

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
