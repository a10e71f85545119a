//! Triggers of a move: they note the key of whatever changes meanwhile, and at the end they refuse changes instead.

use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;

use super::copying::{TABLES, Table, run};
use super::moves::{Claim, write};
use super::{Connection, Database, Link};
use crate::Error;

/// A trigger that is dropped waits no longer for its table: whoever wants that table meanwhile, if only to read, waits behind it.
const LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = 300";
/// Between two tries, in which those who waited have their turn.
const PAUSE: Duration = Duration::from_millis(700);
/// For a table that others hold.
const TRIES_LAST: Duration = Duration::from_secs(20);

/// Begins to note what changes.
pub(crate) async fn note_changes(database: &Database, claim: Option<&Claim>) -> Result<(), Error> {
    write(database, claim, |connection| Box::pin(make_log(connection))).await?;
    for_each_table(database, claim, |connection, table| Box::pin(note(connection, table))).await
}

/// From now on every change is refused, whoever tries it.
pub(crate) async fn refuse_changes(database: &Database, claim: Option<&Claim>) -> Result<(), Error> {
    for_each_table(database, claim, |connection, table| Box::pin(refuse(connection, table))).await
}

/// Lets changes happen again.
pub(crate) async fn allow_changes(database: &Database, claim: Option<&Claim>) -> Result<(), Error> {
    for_each_table(database, claim, |connection, table| Box::pin(drop_trigger(connection, table, "refuse"))).await
}

/// As if nothing had been noted.
pub(crate) async fn stop_noting(database: &Database, claim: Option<&Claim>) -> Result<(), Error> {
    for_each_table(database, claim, |connection, table| Box::pin(drop_trigger(connection, table, "note"))).await?;
    write(database, claim, |connection| Box::pin(run(connection, "DROP TABLE IF EXISTS move_log".into(), &[]))).await
}

type Step = for<'c> fn(&'c mut Connection, &'static Table) -> BoxFuture<'c, Result<(), Error>>;

/// Each in a transaction of its own where a table is locked for as long as that runs: who holds one lock only can't be what another one waits for
/// while it waits itself, so that no request has to give way.
async fn for_each_table(database: &Database, claim: Option<&Claim>, step: Step) -> Result<(), Error> {
    let together = if database.is_shared() { 1 } else { TABLES.len() };
    for tables in TABLES.chunks(together) {
        let begun = Instant::now();
        loop {
            match write(database, claim, move |connection| Box::pin(step_through(connection, tables, step))).await {
                Err(Error::Busy { .. }) if database.is_shared() && begun.elapsed() < TRIES_LAST => {
                    tokio::time::sleep(PAUSE).await;
                }
                Err(Error::Busy { .. }) if database.is_shared() => return Err(held(tables)),
                done => break done?,
            }
        }
    }
    Ok(())
}

fn held(tables: &[Table]) -> Error {
    let names = tables.iter().map(|table| table.name).collect::<Vec<_>>().join(", ");
    Error::Internal {
        detail: format!(
            "the table {names} is held by another session of the database (pg_dump, a report, a transaction that was left open): \
             give the same command again when that is over"
        ),
    }
}

async fn step_through(connection: &mut Connection, tables: &'static [Table], step: Step) -> Result<(), Error> {
    for table in tables {
        step(connection, table).await?;
    }
    Ok(())
}

async fn make_log(connection: &mut Connection) -> Result<(), Error> {
    let columns = "table_name TEXT NOT NULL, k1 TEXT, k2 TEXT, k3 TEXT, k4 TEXT)";
    let seq = match connection.link {
        Link::Sqlite(_) => "INTEGER PRIMARY KEY AUTOINCREMENT",
        Link::Postgres(_) => "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
    };
    run(connection, format!("CREATE TABLE IF NOT EXISTS move_log (seq {seq}, {columns}"), &[]).await
}

async fn note(connection: &mut Connection, table: &Table) -> Result<(), Error> {
    let note = |row: &str| {
        let key = table.key_columns().iter().map(|key| format!("CAST({row}.{key} AS TEXT)")).collect::<Vec<_>>();
        let names = (1..=table.keys).map(|number| format!("k{number}")).collect::<Vec<_>>().join(", ");
        format!("INSERT INTO move_log (table_name, {names}) VALUES ('{}', {});", table.name, key.join(", "))
    };
    trigger(connection, table, "note", "AFTER", &note("NEW"), &note("OLD")).await
}

async fn refuse(connection: &mut Connection, table: &Table) -> Result<(), Error> {
    let refuse = match connection.link {
        Link::Sqlite(_) => "SELECT RAISE(ABORT, 'the data has moved to another database');",
        Link::Postgres(_) => "RAISE EXCEPTION 'the data has moved to another database';",
    };
    trigger(connection, table, "refuse", "BEFORE", refuse, refuse).await
}

async fn trigger(
    connection: &mut Connection,
    table: &Table,
    what: &str,
    when: &str,
    on_new: &str,
    on_old: &str,
) -> Result<(), Error> {
    let name = table.name;
    drop_trigger(connection, table, what).await?;
    if let Link::Sqlite(_) = connection.link {
        for (event, statement) in [("INSERT", on_new), ("UPDATE", on_new), ("DELETE", on_old)] {
            let sql = format!("CREATE TRIGGER move_{what}_{name}_{event} {when} {event} ON {name} BEGIN {statement} END");
            run(connection, sql, &[]).await?;
        }
        return Ok(());
    }
    let body = format!("BEGIN IF TG_OP = 'DELETE' THEN {on_old} ELSE {on_new} END IF; RETURN NULL; END");
    let function = format!("CREATE FUNCTION move_{what}_{name}() RETURNS trigger LANGUAGE plpgsql AS $${body}$$");
    run(connection, function, &[]).await?;
    let events = format!("{when} INSERT OR UPDATE OR DELETE ON {name} FOR EACH ROW EXECUTE FUNCTION move_{what}_{name}()");
    run(connection, format!("CREATE TRIGGER move_{what}_{name} {events}"), &[]).await
}

async fn drop_trigger(connection: &mut Connection, table: &Table, what: &str) -> Result<(), Error> {
    let name = table.name;
    if let Link::Sqlite(_) = connection.link {
        for event in ["INSERT", "UPDATE", "DELETE"] {
            run(connection, format!("DROP TRIGGER IF EXISTS move_{what}_{name}_{event}"), &[]).await?;
        }
        return Ok(());
    }
    // Dropping one that isn't there would wait for the table, too.
    let drop = format!(
        "DO $$ BEGIN IF EXISTS (SELECT 1 FROM pg_trigger WHERE tgname = 'move_{what}_{name}' AND tgrelid = '{name}'::regclass) \
         THEN DROP TRIGGER move_{what}_{name} ON {name}; END IF; END $$"
    );
    run(connection, LOCK_TIMEOUT.into(), &[]).await?;
    run(connection, drop, &[]).await?;
    run(connection, format!("DROP FUNCTION IF EXISTS move_{what}_{name}()"), &[]).await
}
