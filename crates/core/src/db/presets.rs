use super::{Connection, Database, read_failed, statements, write_failed};
use crate::Error;
use crate::model::OrgId;

statements! {
    FIND = "SELECT steps FROM presets WHERE org_id = $1 AND name = $2";
    PUT = "INSERT INTO presets (org_id, name, steps) VALUES ($1, $2, $3) \
        ON CONFLICT (org_id, name) DO UPDATE SET steps = excluded.steps WHERE presets.steps <> excluded.steps";
}

/// The steps that a name stands for in an org.
pub(crate) async fn find(database: &Database, org: OrgId, name: &str) -> Result<Option<String>, Error> {
    sqlx::query_scalar(FIND).bind(org.0).bind(name).fetch_optional(database.reader()).await.map_err(|error| read_failed(&error))
}

/// Gives a name its steps. Whether that changes anything.
pub(crate) async fn put(connection: &mut Connection, org: OrgId, name: &str, steps: &str) -> Result<bool, Error> {
    let done =
        sqlx::query(PUT).bind(org.0).bind(name).bind(steps).execute(connection).await.map_err(|error| write_failed(&error))?;
    Ok(done.rows_affected() > 0)
}
