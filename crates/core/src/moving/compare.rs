//! Whether every row is the same on both sides, value by value.
//!
//! All rows are compared while the service goes on changing them, because that takes long where there are many. A row that changes after it
//! was compared is noted, copied, and compared again by [`Move::round`](super::Move::round); one that differs must be among those, and is
//! looked at again when nothing changes any more. Then both sides must also have as many rows of each table, so that none is left over.

use std::collections::{BTreeMap, BTreeSet};

use super::{Move, Progress};
use crate::db::Database;
use crate::db::copying::{self, Snapshot, TABLES, Table};
use crate::db::query::Value;
use crate::{Error, copy};

type Values = Vec<Value<'static>>;

/// Keys of rows that differed, by the table's place in [`TABLES`].
#[derive(Debug, Default)]
pub(super) struct Differing(BTreeMap<usize, BTreeSet<Values>>);

impl Move {
    /// Compares every row as it is when its turn comes.
    pub(super) async fn compare_all(&mut self) -> Result<(), Error> {
        for (index, table) in TABLES.iter().enumerate() {
            let (mut after, mut count) = (None, 0);
            loop {
                let mut snapshot = Snapshot::of(&self.source).await?;
                let page = snapshot.page(table, after.as_ref()).await?;
                snapshot.end().await?;
                let Some(last) = page.last() else { break };
                after = Some(last.clone());
                count += page.len() as u64;
                let keys = page.iter().map(|row| copying::key_of(table, row)).collect();
                let differ = differing(table, keys, page, &self.target).await?;
                if !differ.is_empty() {
                    self.differing.0.entry(index).or_default().extend(differ);
                }
                (self.report)(Progress::Compared(table.words, count));
            }
        }
        Ok(())
    }

    /// Compares what differed, and counts, when nothing changes any more.
    pub(super) async fn compare_rest(&mut self) -> Result<(), Error> {
        for (index, keys) in std::mem::take(&mut self.differing.0) {
            let table = &TABLES[index];
            let keys: Vec<_> = keys.into_iter().collect();
            let mut snapshot = Snapshot::of(&self.source).await?;
            let rows = snapshot.of_keys(table, &keys).await?;
            snapshot.end().await?;
            self.expect_same(table, keys, rows).await?;
        }
        let (mut source, mut target) = (Snapshot::of(&self.source).await?, Snapshot::of(&self.target).await?);
        self.summary.rows = copy::count(&mut source, &mut target, TABLES.iter()).await?;
        source.end().await?;
        target.end().await
    }

    /// The target must have exactly these rows of these keys.
    pub(super) async fn expect_same(&self, table: &'static Table, keys: Vec<Values>, rows: Vec<Values>) -> Result<(), Error> {
        let Some(key) = differing(table, keys, rows, &self.target).await?.into_iter().next() else { return Ok(()) };
        let shown: Vec<_> = key.iter().map(shown).collect();
        let detail = format!("a row of {} is not the same in the target as in the source: {}", table.name, shown.join(", "));
        Err(Error::Internal { detail })
    }
}

/// The keys whose row is not the same in this database, or is in one of both alone.
async fn differing(
    table: &'static Table,
    keys: Vec<Values>,
    rows: Vec<Values>,
    database: &Database,
) -> Result<BTreeSet<Values>, Error> {
    let mut snapshot = Snapshot::of(database).await?;
    let there = snapshot.of_keys(table, &keys).await?;
    snapshot.end().await?;
    let by_key = |rows: Vec<Values>| -> BTreeMap<Values, Values> {
        rows.into_iter().map(|row| (copying::key_of(table, &row), row)).collect()
    };
    let (here, there) = (by_key(rows), by_key(there));
    Ok(keys.into_iter().filter(|key| here.get(key) != there.get(key)).collect())
}

fn shown(value: &Value<'_>) -> String {
    match value {
        Value::Integer(Some(number)) => number.to_string(),
        Value::Text(Some(text)) => text.to_string(),
        Value::Boolean(Some(truth)) => truth.to_string(),
        Value::Integer(None) | Value::Text(None) | Value::Boolean(None) => "NULL".to_owned(),
    }
}
