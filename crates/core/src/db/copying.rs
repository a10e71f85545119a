//! Rows of any table from one database to another, while the first one is in use (see [`super::triggers`]).

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{AssertSqlSafe, Postgres as PostgresDriver, Row as _, Sqlite as SqliteDriver};

use super::query::{Value, arguments};
use super::{Connection, Database, Engine, Link, read_failed, write_failed};
use crate::Error;

/// Rows that are read and written at a time: far below the values that one statement may have.
const PAGE: usize = 500;
/// Noted changes that are worked off at a time.
const CHANGES: usize = 5000;

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Integer,
    Text,
    Boolean,
}

/// A table, with its columns; the first ones are its key.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) name: &'static str,
    /// What its rows are, for operators.
    pub(crate) words: &'static str,
    pub(super) keys: usize,
    columns: &'static [(&'static str, Kind)],
}

use Kind::{Boolean, Integer, Text};

/// Every table that matters, those that others refer to first. Renderings are made again, and leases end by themselves.
pub(crate) const TABLES: &[Table] = &[
    Table {
        name: "orgs",
        words: "orgs",
        keys: 1,
        columns: &[("id", Integer), ("name", Text), ("accepts_svg", Boolean), ("generation", Integer)],
    },
    Table { name: "roles", words: "roles", keys: 2, columns: &[("org_id", Integer), ("name", Text)] },
    Table {
        name: "role_actions",
        words: "rights of roles",
        keys: 3,
        columns: &[("org_id", Integer), ("role", Text), ("action", Text)],
    },
    Table {
        name: "accounts",
        words: "accounts",
        keys: 1,
        columns: &[
            ("id", Text),
            ("org_id", Integer),
            ("kind", Text),
            ("login", Text),
            ("login_folded", Text),
            ("email_folded", Text),
            ("secret_hash", Text),
            ("disabled", Boolean),
            ("token_ttl_seconds", Integer),
            ("created_us", Integer),
        ],
    },
    Table {
        name: "account_roles",
        words: "roles of accounts",
        keys: 2,
        columns: &[("account_id", Text), ("role", Text), ("org_id", Integer)],
    },
    Table {
        name: "namespaces",
        words: "namespaces",
        keys: 2,
        columns: &[
            ("org_id", Integer),
            ("name", Text),
            ("bytes_max", Integer),
            ("formats", Text),
            ("verbatim", Boolean),
            ("time_zone", Text),
        ],
    },
    Table {
        name: "presets",
        words: "presets",
        keys: 2,
        columns: &[("org_id", Integer), ("name", Text), ("steps", Text), ("prewarm", Boolean)],
    },
    Table {
        name: "signing_keys",
        words: "signing keys",
        keys: 1,
        columns: &[("id", Text), ("purpose", Text), ("secret", Text), ("created_us", Integer), ("honoured_until_us", Integer)],
    },
    Table {
        name: "sessions",
        words: "sessions",
        keys: 1,
        columns: &[
            ("token_hash", Text),
            ("account_id", Text),
            ("created_us", Integer),
            ("last_used_us", Integer),
            ("expires_us", Integer),
        ],
    },
    Table {
        name: "images",
        words: "images",
        keys: 1,
        columns: &[
            ("id", Text),
            ("org_id", Integer),
            ("owner_id", Text),
            ("namespace", Text),
            ("app_key", Text),
            ("permission", Text),
            ("state", Text),
            ("latest_version", Integer),
            ("created_us", Integer),
            ("name", Text),
            ("acl", Text),
            ("last_number", Integer),
            ("crop_x", Integer),
            ("crop_y", Integer),
            ("crop_width", Integer),
            ("crop_height", Integer),
            ("focus_x", Integer),
            ("focus_y", Integer),
        ],
    },
    Table {
        name: "versions",
        words: "versions of images",
        keys: 2,
        columns: &[
            ("image_id", Text),
            ("number", Integer),
            ("blob_key", Text),
            ("size_bytes", Integer),
            ("digest", Text),
            ("content_type", Text),
            ("file_name", Text),
            ("format", Text),
            ("width", Integer),
            ("height", Integer),
            ("frames", Integer),
            ("orientation", Integer),
            ("created_by", Text),
            ("created_us", Integer),
            ("deleted_us", Integer),
            ("attribution_entity_type", Text),
            ("attribution_code", Text),
            ("look", Text),
            ("looked_us", Integer),
            ("look_again_us", Integer),
            ("look_tries", Integer),
            ("look_deaths", Integer),
        ],
    },
    Table {
        name: "tickets",
        words: "tickets of pictures that wait to be taken",
        keys: 1,
        columns: &[("number", Integer), ("image_id", Text), ("org_id", Integer), ("expires_us", Integer)],
    },
    Table {
        name: "ticket_series",
        words: "counters of tickets",
        keys: 1,
        columns: &[("only_row", Integer), ("last_number", Integer)],
    },
    Table {
        name: "avatars",
        words: "avatars",
        keys: 4,
        columns: &[
            ("org_id", Integer),
            ("service", Text),
            ("resource", Text),
            ("number", Integer),
            ("image_id", Text),
            ("created_by", Text),
            ("created_us", Integer),
        ],
    },
    Table {
        name: "access_generation",
        words: "counters of changes to rights",
        keys: 1,
        columns: &[("only_row", Integer), ("value", Integer)],
    },
];

type Values = Vec<Value<'static>>;

impl Table {
    fn columns(&self) -> String {
        self.columns.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
    }

    pub(super) fn key_columns(&self) -> Vec<&'static str> {
        self.columns[..self.keys].iter().map(|(name, _)| *name).collect()
    }

    /// The position of a column.
    pub(crate) fn column(&self, name: &str) -> usize {
        self.columns.iter().position(|(column, _)| *column == name).unwrap_or_else(|| unreachable!("{name} is a column"))
    }

    /// A page of rows in the order of their keys.
    fn page(&self, after: bool) -> String {
        let keys = self.key_columns().join(", ");
        let place = if after { format!(" WHERE ({keys}) > ({})", numbered(1, self.keys)) } else { String::new() };
        format!("SELECT {} FROM {}{place} ORDER BY {keys} LIMIT {PAGE}", self.columns(), self.name)
    }

    /// The rows of these keys, as far as they are there.
    fn of_keys(&self, count: usize) -> String {
        let keys = (0..count).map(|index| format!("({})", numbered(1 + index * self.keys, self.keys))).collect::<Vec<_>>();
        format!("SELECT {} FROM {} WHERE ({}) IN ({})", self.columns(), self.name, self.key_columns().join(", "), in_list(&keys))
    }

    fn delete(&self) -> String {
        let same =
            self.key_columns().iter().enumerate().map(|(index, key)| format!("{key} = ${}", index + 1)).collect::<Vec<_>>();
        format!("DELETE FROM {} WHERE {}", self.name, same.join(" AND "))
    }

    fn upsert(&self, rows: usize) -> String {
        let width = self.columns.len();
        let values = (0..rows).map(|row| format!("({})", numbered(1 + row * width, width))).collect::<Vec<_>>().join(", ");
        let set = self.columns[self.keys..].iter().map(|(name, _)| format!("{name} = excluded.{name}")).collect::<Vec<_>>();
        let change = if set.is_empty() { "NOTHING".to_owned() } else { format!("UPDATE SET {}", set.join(", ")) };
        let keys = self.key_columns().join(", ");
        format!("INSERT INTO {} ({}) VALUES {values} ON CONFLICT ({keys}) DO {change}", self.name, self.columns())
    }

    /// Its columns and their types, as the schema has them.
    #[cfg(test)]
    pub(super) fn described(&self) -> BTreeSet<(String, String)> {
        let kind = |kind| match kind {
            Integer => "bigint",
            Text => "text",
            Boolean => "boolean",
        };
        self.columns.iter().map(|(name, what)| ((*name).to_owned(), kind(*what).to_owned())).collect()
    }

    fn key_of(&self, row: &Values) -> Values {
        row[..self.keys].to_vec()
    }
}

fn numbered(first: usize, count: usize) -> String {
    (first..first + count).map(|number| format!("${number}")).collect::<Vec<_>>().join(", ")
}

/// SQLite wants VALUES where keys have several columns; PostgreSQL takes that too.
fn in_list(keys: &[String]) -> String {
    format!("VALUES {}", keys.join(", "))
}

/// A database as it was at one moment.
pub(crate) enum Snapshot {
    Sqlite(PoolConnection<SqliteDriver>),
    Postgres(PoolConnection<PostgresDriver>),
}

impl Snapshot {
    pub(crate) async fn of(database: &Database) -> Result<Self, Error> {
        let mut snapshot = match &*database.engine() {
            Engine::Sqlite(sqlite) => Self::Sqlite(sqlite.reader().acquire().await.map_err(|error| read_failed(&error))?),
            Engine::Postgres(postgres) => Self::Postgres(postgres.pool().acquire().await.map_err(|error| read_failed(&error))?),
        };
        snapshot.say("BEGIN", "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
        if matches!(snapshot, Self::Postgres(_)) {
            // It holds no row that others wait for, and lasts as long as the other side needs.
            for unbounded in ["SET LOCAL idle_in_transaction_session_timeout = 0", "SET LOCAL statement_timeout = 0"] {
                snapshot.say("", unbounded).await?;
            }
        }
        Ok(snapshot)
    }

    pub(crate) async fn end(mut self) -> Result<(), Error> {
        self.say("COMMIT", "COMMIT").await
    }

    async fn say(&mut self, sqlite: &'static str, postgres: &'static str) -> Result<(), Error> {
        let said = match self {
            Self::Sqlite(connection) => sqlx::query(sqlite).execute(&mut **connection).await.map(|_| ()),
            Self::Postgres(connection) => sqlx::query(postgres).execute(&mut **connection).await.map(|_| ()),
        };
        said.map_err(|error| read_failed(&error))
    }

    async fn rows(&mut self, sql: String, values: &[Value<'_>], kinds: &[(&str, Kind)]) -> Result<Vec<Values>, Error> {
        match self {
            Self::Sqlite(connection) => sqlite_rows(connection, by_place(&sql), values, kinds).await,
            Self::Postgres(connection) => postgres_rows(connection, sql, values, kinds).await,
        }
        .map_err(|error| read_failed(&error))
    }

    /// How many rows a table has.
    pub(crate) async fn count(&mut self, table: &Table) -> Result<i64, Error> {
        self.number(format!("SELECT COUNT(*) FROM {}", table.name)).await
    }

    /// The number of the change that was noted last; 0 when there is none.
    pub(crate) async fn latest_change(&mut self) -> Result<i64, Error> {
        self.number("SELECT COALESCE(MAX(seq), 0) FROM move_log".into()).await
    }

    async fn number(&mut self, sql: String) -> Result<i64, Error> {
        let rows = self.rows(sql, &[], &[("number", Integer)]).await?;
        match rows.first().and_then(|row| row.first()) {
            Some(Value::Integer(Some(number))) => Ok(*number),
            _ => Err(Error::Internal { detail: "a number was asked for and none came".into() }),
        }
    }

    /// The rows after this one, in the order of their keys.
    pub(crate) async fn page(&mut self, table: &Table, after: Option<&Values>) -> Result<Vec<Values>, Error> {
        let key = after.map(|row| table.key_of(row)).unwrap_or_default();
        self.rows(table.page(after.is_some()), &key, table.columns).await
    }

    /// Changes that were noted up to this number, the oldest first: their numbers, and what has changed.
    pub(crate) async fn changes(&mut self, until: i64) -> Result<Changes, Error> {
        let columns = [("seq", Integer), ("name", Text), ("k1", Text), ("k2", Text), ("k3", Text), ("k4", Text)];
        let sql = format!("SELECT seq, table_name, k1, k2, k3, k4 FROM move_log WHERE seq <= $1 ORDER BY seq LIMIT {CHANGES}");
        let mut changes = Changes::default();
        for row in self.rows(sql, &[Value::from(until)], &columns).await? {
            let (Value::Integer(Some(seq)), Value::Text(Some(name))) = (&row[0], &row[1]) else { continue };
            changes.numbers.push(*seq);
            let Some(index) = TABLES.iter().position(|table| table.name == name.as_ref()) else { continue };
            let table = &TABLES[index];
            let key = row[2..2 + table.keys].iter().zip(table.columns).map(|(text, (_, kind))| typed(text, *kind)).collect();
            changes.keys.entry(index).or_default().insert(key);
        }
        Ok(changes)
    }

    /// The rows of these keys, as far as they are there.
    pub(crate) async fn of_keys(&mut self, table: &Table, keys: &[Values]) -> Result<Vec<Values>, Error> {
        let mut found = Vec::new();
        for page in keys.chunks(PAGE) {
            let values: Values = page.iter().flatten().cloned().collect();
            let sql = if matches!(self, Self::Postgres(_)) {
                // Its VALUES would take untyped numbers for text.
                table.of_keys(page.len()).replace("IN (VALUES ", "IN (")
            } else {
                table.of_keys(page.len())
            };
            found.extend(self.rows(sql, &values, table.columns).await?);
        }
        Ok(found)
    }
}

/// What was noted: keys by the table's place in [`TABLES`].
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub(crate) numbers: Vec<i64>,
    pub(crate) keys: BTreeMap<usize, BTreeSet<Values>>,
}

/// A key's column from its text in the log.
fn typed(text: &Value<'static>, kind: Kind) -> Value<'static> {
    match (text, kind) {
        (Value::Text(Some(text)), Integer) => Value::Integer(text.parse().ok()),
        (text, _) => text.clone(),
    }
}

/// The key of a row, as its table has it.
pub(crate) fn key_of(table: &Table, row: &Values) -> Values {
    table.key_of(row)
}

/// Writes rows, whether or not they are there.
pub(crate) async fn upsert(connection: &mut Connection, table: &Table, rows: &[Values]) -> Result<(), Error> {
    for page in rows.chunks(PAGE) {
        let values: Values = page.iter().flatten().cloned().collect();
        run(connection, table.upsert(page.len()), &values).await?;
    }
    Ok(())
}

/// Removes the row of a key.
pub(crate) async fn delete(connection: &mut Connection, table: &Table, key: &Values) -> Result<(), Error> {
    run(connection, table.delete(), key).await
}

/// Forgets noted changes.
pub(crate) async fn forget_changes(connection: &mut Connection, numbers: &[i64]) -> Result<(), Error> {
    for page in numbers.chunks(PAGE) {
        let values: Values = page.iter().map(|number| Value::from(*number)).collect();
        run(connection, format!("DELETE FROM move_log WHERE seq IN ({})", numbered(1, page.len())), &values).await?;
    }
    Ok(())
}

/// Tells every process that caches rights to forget them.
pub(crate) async fn raise_generation(connection: &mut Connection) -> Result<(), Error> {
    super::accounts::Provisioning(connection).raise_generation().await
}

/// The same with values told by their place alone, in which all statements here have them. To SQLite `$1` is a name, and it finds each name by going
/// through all that it knows: with the thousands of values of a page that takes nearly all of the time.
fn by_place(sql: &str) -> String {
    let mut parts = sql.split('$');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        text.push('?');
        text.push_str(part.trim_start_matches(|digit: char| digit.is_ascii_digit()));
    }
    text
}

/// Statements here are made of names in [`TABLES`] and nothing else.
pub(super) async fn run(connection: &mut Connection, sql: String, values: &[Value<'_>]) -> Result<(), Error> {
    let done = match &mut connection.link {
        Link::Sqlite(link) => {
            let statement = sqlx::query_with(AssertSqlSafe(by_place(&sql)), arguments::<SqliteDriver>(values));
            statement.persistent(false).execute(link).await.map(|_| ())
        }
        Link::Postgres(link) => {
            let statement = sqlx::query_with(AssertSqlSafe(sql), arguments::<PostgresDriver>(values));
            statement.persistent(false).execute(&mut **link).await.map(|_| ())
        }
    };
    done.map_err(|error| write_failed(&error))
}

/// One for each database: rows of both have the same methods, but no trait that says so.
macro_rules! rows {
    ($name:ident, $Connection:ty, $Driver:ty, $Row:ty) => {
        async fn $name(
            connection: &mut $Connection,
            sql: String,
            values: &[Value<'_>],
            columns: &[(&str, Kind)],
        ) -> Result<Vec<Values>, sqlx::Error> {
            let query = sqlx::query_with(AssertSqlSafe(sql), arguments::<$Driver>(values)).persistent(false);
            let rows: Vec<$Row> = query.fetch_all(connection).await?;
            let value = |row: &$Row, index: usize, kind: Kind| {
                Ok(match kind {
                    Integer => Value::Integer(row.try_get(index)?),
                    Text => Value::Text(row.try_get::<Option<String>, _>(index)?.map(Cow::Owned)),
                    Boolean => Value::Boolean(row.try_get(index)?),
                })
            };
            rows.iter()
                .map(|row| columns.iter().enumerate().map(|(index, (_, kind))| value(row, index, *kind)).collect())
                .collect()
        }
    };
}

rows!(sqlite_rows, SqliteConnection, SqliteDriver, SqliteRow);
rows!(postgres_rows, PgConnection, PostgresDriver, PgRow);
