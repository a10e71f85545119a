//! What has changed since the rows were copied.

use std::collections::BTreeSet;

use super::{Move, Progress};
use crate::Error;
use crate::db::copying::{self, Snapshot, TABLES, Table};
use crate::db::query::Value;

impl Move {
    /// Works off changes that were noted, blobs before the rows that point at them. How many.
    pub(super) async fn round(&mut self) -> Result<usize, Error> {
        let mut snapshot = Snapshot::of(&self.source).await?;
        let changes = snapshot.changes().await?;
        let mut present: Vec<(&'static Table, Vec<Vec<Value<'static>>>)> = Vec::new();
        let mut absent: Vec<(&'static Table, Vec<Vec<Value<'static>>>)> = Vec::new();
        for (index, keys) in &changes.keys {
            let table = &TABLES[*index];
            let rows = snapshot.of_keys(table, &keys.iter().cloned().collect::<Vec<_>>()).await?;
            let found: BTreeSet<_> = rows.iter().map(|row| copying::key_of(table, row)).collect();
            absent.push((table, keys.difference(&found).cloned().collect()));
            present.push((table, rows));
        }
        snapshot.end().await?;
        for (table, rows) in present.iter().filter(|(table, _)| table.name == "versions") {
            let blobs = self.new_blobs(table, rows).await?;
            self.copy_blobs(blobs).await?;
        }
        self.write_target(move |connection| {
            Box::pin(async move {
                for (table, keys) in absent.iter().rev() {
                    for key in keys {
                        copying::delete(connection, table, key).await?;
                    }
                }
                for (table, rows) in &present {
                    copying::upsert(connection, table, rows).await?;
                }
                Ok(())
            })
        })
        .await?;
        let (count, numbers) = (changes.numbers.len(), changes.numbers);
        self.write_source(move |connection| Box::pin(async move { copying::forget_changes(connection, &numbers).await })).await?;
        (self.report)(Progress::Changes(count as u64));
        Ok(count)
    }
}
