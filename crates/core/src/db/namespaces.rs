use imagewell_imaging::Format;

use super::query::{query, statements};
use super::{Connection, Database};
use crate::Error;
use crate::model::{Namespace, NamespaceRules, OrgId};

statements! {
    FIND = "SELECT bytes_max, formats, verbatim, time_zone FROM namespaces WHERE org_id = $1 AND name = $2";
    INSERT = "INSERT INTO namespaces (org_id, name) VALUES ($1, $2) ON CONFLICT DO NOTHING";
    UPDATE = "UPDATE namespaces SET bytes_max = $3, formats = $4, verbatim = $5, time_zone = $6 WHERE org_id = $1 AND name = $2";
}

type Row = (Option<i64>, Option<String>, bool, Option<String>);

fn rules(namespace: &Namespace, (bytes_max, formats, verbatim, time_zone): Row) -> NamespaceRules {
    let formats = formats.unwrap_or_default().split(',').filter_map(Format::from_extension).collect();
    NamespaceRules {
        namespace: namespace.clone(),
        bytes_max: bytes_max.and_then(|bytes| u64::try_from(bytes).ok()),
        formats,
        verbatim,
        time_zone,
    }
}

/// What the org has decided for a namespace; none when it has no such namespace.
pub(crate) async fn find(database: &Database, org: OrgId, namespace: &Namespace) -> Result<Option<NamespaceRules>, Error> {
    let row: Option<Row> = query(FIND).bind(org.0).bind(namespace.as_str()).fetch_optional(database).await?;
    Ok(row.map(|row| rules(namespace, row)))
}

/// As [`find`], on the writing connection.
pub(crate) async fn find_in(
    connection: &mut Connection,
    org: OrgId,
    namespace: &Namespace,
) -> Result<Option<NamespaceRules>, Error> {
    let row: Option<Row> = query(FIND).bind(org.0).bind(namespace.as_str()).fetch_optional(connection).await?;
    Ok(row.map(|row| rules(namespace, row)))
}

/// Adds a namespace for which nothing is decided, unless it is there. Whether it is new.
pub(crate) async fn insert(connection: &mut Connection, org: OrgId, namespace: &Namespace) -> Result<bool, Error> {
    let done = query(INSERT).bind(org.0).bind(namespace.as_str()).execute(connection).await?;
    Ok(done > 0)
}

/// Writes down what the org has decided.
pub(crate) async fn update(connection: &mut Connection, org: OrgId, rules: &NamespaceRules) -> Result<(), Error> {
    let formats = rules.formats.iter().map(|format| format.extension()).collect::<Vec<_>>().join(",");
    query(UPDATE)
        .bind(org.0)
        .bind(rules.namespace.as_str())
        .bind(rules.bytes_max.map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX)))
        .bind(if formats.is_empty() { None } else { Some(formats) })
        .bind(rules.verbatim)
        .bind(&rules.time_zone)
        .execute(connection)
        .await?;
    Ok(())
}
