//! How SQLite finds what each statement asks for, written down in `docs/query-plans.md`: whatever grows with the number of images is
//! reached by an index.

use std::fmt::Write as _;
use std::path::Path;

use sqlx::Row as _;

use super::all_statements;
use super::tests::{reader, sqlite_in};

/// Tables that grow with what is stored or asked for, and how statements call them.
const GROWING: [&str; 12] = ["images", "i", "versions", "v", "w", "variants", "sessions", "s", "tickets", "t", "avatars", "a"];

/// Statements that look at all rows on purpose.
const COUNTING: [&str; 5] = [
    "SELECT COUNT(*) FROM images",
    "SELECT COUNT(*) FROM versions",
    "SELECT CAST(COALESCE(SUM(size_bytes), 0) AS BIGINT) FROM variants",
    "SELECT key, size_bytes FROM variants ORDER BY used_us LIMIT $1",
    "SELECT (SELECT COUNT(*) FROM orgs), (SELECT COUNT(*) FROM accounts), (SELECT COUNT(*) FROM images), COUNT(*), \
        CAST(COALESCE(SUM(size_bytes), 0) AS BIGINT), MAX(created_us) FROM versions",
];

#[tokio::test]
async fn whatever_grows_is_reached_by_an_index() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let reader = reader(&sqlite_in(folder.path()).await);
    let mut document = String::from(
        "# Query plans\n\n\
         <!-- UPDATE_DOCS=1 cargo test -p imagewell-core plans writes it anew. -->\n\n\
         Every statement, and how SQLite finds its rows. `SEARCH` goes through an index or a key; a `SCAN` looks at every row, which \
         only happens to tables that stay small, by statements that count or evict, and in the order of an index up to a limit. A test compares this page with the code.\n",
    );
    for (module, statements) in all_statements() {
        let _ = write!(document, "\n## {module}\n");
        for sql in statements {
            let mut plan = Vec::new();
            for part in sql.sqlite.split("; ") {
                let explained = format!("EXPLAIN QUERY PLAN {part}");
                let rows = sqlx::query(sqlx::AssertSqlSafe(explained)).fetch_all(&reader).await.expect("explains");
                plan.extend(rows.iter().map(|row| row.get::<String, _>("detail")));
            }
            let counts = COUNTING.contains(&sql.sqlite);
            for step in &plan {
                let scanned = step.strip_prefix("SCAN ").and_then(|rest| rest.split(' ').next()).unwrap_or_default();
                // In the order of an index, and not further than wanted.
                let stops = step.contains("USING") && sql.sqlite.contains(" LIMIT ");
                assert!(counts || stops || !GROWING.contains(&scanned), "{sql:?}: {step}");
            }
            let words = sql.sqlite.split_whitespace().collect::<Vec<_>>().join(" ");
            let _ = write!(document, "\n```sql\n{words}\n```\n");
            for step in if plan.is_empty() { vec!["the rows that it is given".to_owned()] } else { plan } {
                let _ = writeln!(document, "- {step}");
            }
        }
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/query-plans.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &document).expect("writes");
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == document,
        "docs/query-plans.md is out of date: UPDATE_DOCS=1 cargo test -p imagewell-core plans writes it anew"
    );
}
