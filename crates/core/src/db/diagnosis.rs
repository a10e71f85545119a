//! What can be said of a database without changing it, whatever its schema.

use sqlx::sqlite::SqliteConnection;
use sqlx::{ConnectOptions as _, Connection as _, Executor as _, PgConnection};

pub use super::migrations::SchemaState;
use super::{Place, connecting, migrations, sqlite};
use crate::Error;
use crate::model::Timestamp;

/// Lines of an integrity check that are read; one is enough to know.
const DAMAGE_SHOWN: usize = 20;

/// What durability rests on in a database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DurabilitySetting {
    /// As the database calls it.
    pub name: &'static str,
    /// What it is.
    pub value: String,
    /// What it has to be.
    pub wanted: &'static str,
    /// Whether what was acknowledged survives the database's death with this value.
    pub is_safe: bool,
}

/// A database as it is found.
#[derive(Debug, Clone)]
pub struct Diagnosis {
    /// As in `SQLite 3.51.3` or `PostgreSQL 15.14`.
    pub engine: String,
    /// How its schema relates to this program's.
    pub schema: SchemaState,
    /// What durability rests on.
    pub settings: Vec<DurabilitySetting>,
    /// Whether it is a standby, which takes no writes.
    pub is_standby: bool,
    /// Microseconds that a database server's clock is ahead of ours. None for the embedded database.
    pub clock_ahead_us: Option<i64>,
    /// Connections that a database server takes in all. None for the embedded database.
    pub connections_max: Option<u32>,
    /// What an integrity check found. None when it was not asked for, or a server does that by itself.
    pub damage: Option<Vec<String>>,
}

/// Looks at a database and leaves it as it is. The integrity check reads all of an SQLite file.
///
/// # Errors
/// [`Error::Internal`] when it isn't there or can't be read.
pub async fn diagnose(place: &Place, check_integrity: bool) -> Result<Diagnosis, Error> {
    match place {
        Place::File { file, .. } => {
            let doing = format!("opening the database {}", file.display());
            sqlite::expect_file(file)?;
            let connection = sqlite::looking(file).connect().await;
            let mut connection = connection.map_err(|error| Error::internal(&doing, &error))?;
            let found = of_file(&mut connection, check_integrity).await.map_err(|error| Error::internal(&doing, &error));
            let _ = connection.close().await;
            found
        }
        Place::Server { url, patience, .. } => {
            let (mut connection, _, doing) = connecting::connect_to_any(url, patience.wait_max).await?;
            let found = connecting::answered(patience.time_max, &doing, of_server(&mut connection)).await;
            let _ = tokio::time::timeout(patience.wait_max, connection.close()).await;
            found
        }
    }
}

async fn of_file(connection: &mut SqliteConnection, check_integrity: bool) -> Result<Diagnosis, sqlx::Error> {
    let version: String = sqlx::query_scalar("SELECT sqlite_version()").fetch_one(&mut *connection).await?;
    let journal: String = sqlx::query_scalar("PRAGMA journal_mode").fetch_one(&mut *connection).await?;
    let synchronous: i64 = sqlx::query_scalar("PRAGMA synchronous").fetch_one(&mut *connection).await?;
    let setting = |name, value: String, wanted| DurabilitySetting { name, is_safe: value == wanted, value, wanted };
    let settings = vec![
        setting("journal_mode", journal, "wal"),
        setting("synchronous", if synchronous == 2 { "full".into() } else { synchronous.to_string() }, "full"),
    ];
    let damage = if check_integrity {
        let found: Vec<String> = sqlx::query_scalar("PRAGMA quick_check(20)").fetch_all(&mut *connection).await?;
        Some(found.into_iter().filter(|line| line != "ok").take(DAMAGE_SHOWN).collect())
    } else {
        None
    };
    Ok(Diagnosis {
        engine: format!("SQLite {version}"),
        schema: migrations::schema::<sqlx::Sqlite>(connection).await?,
        settings,
        is_standby: false,
        clock_ahead_us: None,
        connections_max: None,
        damage,
    })
}

/// What durability rests on in a server. What other engines don't know is left out.
pub(super) async fn durability_of_server(connection: &mut PgConnection) -> Vec<DurabilitySetting> {
    let mut settings = Vec::new();
    for (name, ask) in [("fsync", "SHOW fsync"), ("full_page_writes", "SHOW full_page_writes")] {
        let value = connecting::ask::<String>(connection, ask).await;
        settings.extend(value.ok().map(|value| DurabilitySetting { name, is_safe: value != "off", value, wanted: "on" }));
    }
    let standbys = connecting::ask::<String>(connection, "SHOW synchronous_standby_names").await.unwrap_or_default();
    if let Ok(value) = connecting::ask::<String>(connection, "SHOW synchronous_commit").await {
        // These two don't wait until a standby has written down what they commit, though somebody has named standbys that are to.
        let is_short = !standbys.trim().is_empty() && ["local", "remote_write"].contains(&value.as_str());
        let is_safe = value != "off" && !is_short;
        settings.push(DurabilitySetting { name: "synchronous_commit", value, wanted: "on", is_safe });
    }
    settings
}

async fn of_server(connection: &mut PgConnection) -> Result<Diagnosis, sqlx::Error> {
    let settings = durability_of_server(connection).await;
    let version = connecting::ask::<String>(connection, "SELECT version()").await?;
    let standby = connecting::ask::<bool>(connection, "SELECT pg_is_in_recovery()").await;
    let connections_max = connecting::ask::<String>(connection, "SHOW max_connections").await;
    let before = Timestamp::now().0;
    let clock = "SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS BIGINT)";
    let theirs = connecting::ask::<i64>(connection, clock).await;
    let ours = i64::midpoint(before, Timestamp::now().0);
    // In a transaction: a pooler may change the session between a statement and its values.
    connection.execute("BEGIN").await?;
    let schema = migrations::schema::<sqlx::Postgres>(connection).await?;
    connection.execute("COMMIT").await?;
    Ok(Diagnosis {
        // As in `PostgreSQL 15.14 (Debian …) on x86_64-pc-linux-gnu, compiled by …`.
        engine: version.split(" on ").next().unwrap_or_default().to_owned(),
        schema,
        settings,
        is_standby: standby.unwrap_or(false),
        clock_ahead_us: theirs.ok().map(|theirs| theirs.saturating_sub(ours)),
        connections_max: connections_max.ok().and_then(|text| text.parse().ok()),
        damage: None,
    })
}
