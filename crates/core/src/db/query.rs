//! A statement with its values, for whichever of the two databases is behind it. Values are BIGINT, TEXT and BOOLEAN, and nothing else.

use std::borrow::Cow;

use sqlx::postgres::PgRow;
use sqlx::sqlite::SqliteRow;
use sqlx::{Arguments as _, Encode, FromRow, Postgres, Sqlite, Type};

use super::{Connection, Database, Engine, Link, read_failed, write_failed};
use crate::Error;

/// What is said to each database: nearly always the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sql {
    pub(super) sqlite: &'static str,
    pub(super) postgres: &'static str,
}

impl Sql {
    pub(super) const fn same(text: &'static str) -> Self {
        Self { sqlite: text, postgres: text }
    }
}

/// Declares the statements of a module and lists them in `ALL`. Where the databases need different words, both stand here.
macro_rules! statements {
    ($($(#[$meta:meta])* $name:ident = $sql:expr $(, postgres: $postgres:expr)?;)*) => {
        $($(#[$meta])* const $name: $crate::db::query::Sql = statements!(@sql $sql $(, $postgres)?);)*
        #[cfg(test)]
        pub(super) const ALL: &[$crate::db::query::Sql] = &[$($name),*];
    };
    (@sql $sql:expr) => { $crate::db::query::Sql::same($sql) };
    (@sql $sqlite:expr, $postgres:expr) => { $crate::db::query::Sql { sqlite: $sqlite, postgres: $postgres } };
}
pub(super) use statements;

/// A value of a column.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Value<'v> {
    Integer(Option<i64>),
    Text(Option<Cow<'v, str>>),
    Boolean(Option<bool>),
}

impl From<i64> for Value<'_> {
    fn from(value: i64) -> Self {
        Self::Integer(Some(value))
    }
}

impl From<Option<i64>> for Value<'_> {
    fn from(value: Option<i64>) -> Self {
        Self::Integer(value)
    }
}

impl From<bool> for Value<'_> {
    fn from(value: bool) -> Self {
        Self::Boolean(Some(value))
    }
}

impl<'v> From<&'v str> for Value<'v> {
    fn from(value: &'v str) -> Self {
        Self::Text(Some(Cow::Borrowed(value)))
    }
}

impl<'v> From<&'v String> for Value<'v> {
    fn from(value: &'v String) -> Self {
        Self::from(value.as_str())
    }
}

impl From<String> for Value<'_> {
    fn from(value: String) -> Self {
        Self::Text(Some(Cow::Owned(value)))
    }
}

impl<'v> From<Option<&'v str>> for Value<'v> {
    fn from(value: Option<&'v str>) -> Self {
        Self::Text(value.map(Cow::Borrowed))
    }
}

impl<'v> From<&'v Option<String>> for Value<'v> {
    fn from(value: &'v Option<String>) -> Self {
        Self::from(value.as_deref())
    }
}

impl From<Option<String>> for Value<'_> {
    fn from(value: Option<String>) -> Self {
        Self::Text(value.map(Cow::Owned))
    }
}

/// What a row becomes, from either database.
pub(super) trait Row: for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow> + Send + Unpin + 'static {}

impl<T> Row for T where T: for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow> + Send + Unpin + 'static {}

/// A struct whose fields are the columns of the same names. sqlx derives that too, but its macros bring all of sqlx into the build twice.
macro_rules! columns {
    ($(#[$about:meta])* $visible:vis struct $name:ident { $($column:ident: $kind:ty,)* }) => {
        $(#[$about])*
        $visible struct $name {
            $($column: $kind,)*
        }

        impl<'r, R: sqlx::Row> sqlx::FromRow<'r, R> for $name
        where
            for<'i> &'i str: sqlx::ColumnIndex<R>,
            $($kind: sqlx::Decode<'r, R::Database> + sqlx::Type<R::Database>,)*
        {
            fn from_row(row: &'r R) -> Result<Self, sqlx::Error> {
                Ok(Self { $($column: row.try_get(stringify!($column))?,)* })
            }
        }
    };
}

pub(super) use columns;

/// Where a statement runs: on any connection that reads, on one that requests can't keep busy, or inside a write.
pub(super) enum On<'c> {
    Reading(&'c Database),
    Upkeep(&'c Database),
    Writing(&'c mut Connection),
}

impl<'c> From<&'c Database> for On<'c> {
    fn from(database: &'c Database) -> Self {
        Self::Reading(database)
    }
}

impl<'c> From<&'c mut Connection> for On<'c> {
    fn from(connection: &'c mut Connection) -> Self {
        Self::Writing(connection)
    }
}

/// Values as a driver takes them.
pub(super) fn arguments<DB>(values: &[Value<'_>]) -> DB::Arguments
where
    DB: sqlx::Database,
    Option<i64>: Encode<'static, DB> + Type<DB>,
    Option<bool>: Encode<'static, DB> + Type<DB>,
    Option<String>: Encode<'static, DB> + Type<DB>,
{
    let mut arguments = DB::Arguments::default();
    for value in values {
        // Numbers, truths and texts can always be written down.
        let _ = match value {
            Value::Integer(value) => arguments.add(*value),
            Value::Text(value) => arguments.add(value.as_deref().map(str::to_owned)),
            Value::Boolean(value) => arguments.add(*value),
        };
    }
    arguments
}

/// A statement and what stands for `$1`, `$2` and so on.
#[derive(Debug)]
pub(super) struct Query<'v> {
    sql: Sql,
    values: Vec<Value<'v>>,
}

/// A statement without values so far.
pub(super) fn query<'v>(sql: Sql) -> Query<'v> {
    Query { sql, values: Vec::new() }
}

/// One `match` over the two databases, for a method of sqlx that all of them have.
macro_rules! fetch {
    ($query:ident, $on:ident, $R:ty, $method:ident) => {
        match $on.into() {
            on @ (On::Reading(database) | On::Upkeep(database)) => match &*database.engine() {
                Engine::Sqlite(sqlite) => {
                    let statement = sqlx::query_as_with::<_, $R, _>($query.sql.sqlite, arguments::<Sqlite>(&$query.values));
                    statement.$method(sqlite.reader()).await.map_err(|error| read_failed(&error))
                }
                Engine::Postgres(postgres) => {
                    let statement = || {
                        let values = arguments::<Postgres>(&$query.values);
                        sqlx::query_as_with::<_, $R, _>($query.sql.postgres, values).persistent(postgres.prepares())
                    };
                    let upkeep = matches!(on, On::Upkeep(_));
                    postgres.read(upkeep, |connection| Box::pin(statement().$method(connection))).await
                }
            },
            On::Writing(connection) => match &mut connection.link {
                Link::Sqlite(link) => {
                    let statement = sqlx::query_as_with::<_, $R, _>($query.sql.sqlite, arguments::<Sqlite>(&$query.values));
                    statement.$method(link).await.map_err(|error| write_failed(&error))
                }
                Link::Postgres(link) => {
                    let statement = sqlx::query_as_with::<_, $R, _>($query.sql.postgres, arguments::<Postgres>(&$query.values));
                    statement.persistent(link.prepares).$method(&mut **link).await.map_err(|error| write_failed(&error))
                }
            },
        }
    };
}

impl<'v> Query<'v> {
    pub(super) fn bind(mut self, value: impl Into<Value<'v>>) -> Self {
        self.values.push(value.into());
        self
    }

    /// PostgreSQL stores no NUL in text, so neither database is asked for it.
    fn check(&self) -> Result<(), Error> {
        let is_storable = |value: &Value<'_>| !matches!(value, Value::Text(Some(text)) if text.contains('\0'));
        if self.values.iter().all(is_storable) {
            return Ok(());
        }
        Err(Error::invalid("text with a NUL character (U+0000) is not accepted"))
    }

    pub(super) async fn fetch_optional<R: Row>(self, on: impl Into<On<'_>>) -> Result<Option<R>, Error> {
        self.check()?;
        fetch!(self, on, R, fetch_optional)
    }

    pub(super) async fn fetch_one<R: Row>(self, on: impl Into<On<'_>>) -> Result<R, Error> {
        self.check()?;
        fetch!(self, on, R, fetch_one)
    }

    pub(super) async fn fetch_all<R: Row>(self, on: impl Into<On<'_>>) -> Result<Vec<R>, Error> {
        self.check()?;
        fetch!(self, on, R, fetch_all)
    }

    /// The only column of the only row.
    pub(super) async fn fetch_value<T>(self, on: impl Into<On<'_>>) -> Result<T, Error>
    where
        (T,): Row,
    {
        self.fetch_one::<(T,)>(on).await.map(|(value,)| value)
    }

    /// The only column of a row, if there is one.
    pub(super) async fn fetch_optional_value<T>(self, on: impl Into<On<'_>>) -> Result<Option<T>, Error>
    where
        (T,): Row,
    {
        Ok(self.fetch_optional::<(T,)>(on).await?.map(|(value,)| value))
    }

    /// The only column of every row.
    pub(super) async fn fetch_values<T>(self, on: impl Into<On<'_>>) -> Result<Vec<T>, Error>
    where
        (T,): Row,
    {
        Ok(self.fetch_all::<(T,)>(on).await?.into_iter().map(|(value,)| value).collect())
    }

    /// How many rows it changed.
    pub(super) async fn execute(self, connection: &mut Connection) -> Result<u64, Error> {
        self.check()?;
        match &mut connection.link {
            Link::Sqlite(link) => {
                let done = sqlx::query_with(self.sql.sqlite, arguments::<Sqlite>(&self.values)).execute(link).await;
                done.map(|done| done.rows_affected()).map_err(|error| write_failed(&error))
            }
            Link::Postgres(link) => {
                let statement = sqlx::query_with(self.sql.postgres, arguments::<Postgres>(&self.values));
                let done = statement.persistent(link.prepares).execute(&mut **link).await;
                done.map(|done| done.rows_affected()).map_err(|error| write_failed(&error))
            }
        }
    }
}
