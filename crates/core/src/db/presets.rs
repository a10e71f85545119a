use super::query::{query, statements};
use super::{Connection, Database};
use crate::Error;
use crate::model::{OrgId, Preset};

statements! {
    OF_ORG = "SELECT name, steps, prewarm FROM presets WHERE org_id = $1 ORDER BY name";
    PUT = "INSERT INTO presets (org_id, name, steps, prewarm) VALUES ($1, $2, $3, $4) \
        ON CONFLICT (org_id, name) DO UPDATE SET steps = excluded.steps, prewarm = excluded.prewarm \
        WHERE presets.steps <> excluded.steps OR presets.prewarm <> excluded.prewarm";
}

/// All of an org's, by name.
pub(crate) async fn of_org(database: &Database, org: OrgId) -> Result<Vec<Preset>, Error> {
    let rows: Vec<(String, String, bool)> = query(OF_ORG).bind(org.0).fetch_all(database).await?;
    Ok(rows.into_iter().map(|(name, steps, prewarm)| Preset { name, steps, prewarm }).collect())
}

/// Gives a name its steps. Whether that changes anything.
pub(crate) async fn put(connection: &mut Connection, org: OrgId, preset: &Preset) -> Result<bool, Error> {
    let done = query(PUT).bind(org.0).bind(&preset.name).bind(&preset.steps).bind(preset.prewarm).execute(connection).await?;
    Ok(done > 0)
}
