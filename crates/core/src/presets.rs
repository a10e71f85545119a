//! Transforms with a name. What an org has named may be asked for by whoever may see the image; so it is bounded what strangers cost.

use std::sync::Arc;

use crate::app::App;
use crate::grammar::Asked;
use crate::model::{OrgId, Preset};
use crate::{Error, db};

/// All presets of an org, by name. Touches no database when they were asked for before.
///
/// # Errors
/// [`Error::Internal`] when the database can't be read.
pub async fn of_org(app: &App, org: OrgId) -> Result<Arc<[Preset]>, Error> {
    if let Some(presets) = app.presets.get(&org) {
        return Ok(presets);
    }
    let generation = app.accounts.generation();
    let presets: Arc<[Preset]> = db::presets::of_org(&app.database, org).await?.into();
    app.presets.insert(org, Arc::clone(&presets));
    if app.accounts.generation() != generation {
        // They may have changed while they were being read: the next use reads them again.
        app.presets.remove(&org);
    }
    Ok(presets)
}

/// What steps ask for, those of a preset and those of an address, under the bounds of this service.
///
/// # Errors
/// What is wrong with them.
pub fn asked(app: &App, steps: &str) -> Result<Asked, String> {
    Asked::parse(steps, app.options.transform_side_px_max)
}

/// The preset of a name.
///
/// # Errors
/// [`Error::NotFound`] when the org has no such preset.
pub async fn find(app: &App, org: OrgId, name: &str) -> Result<Preset, Error> {
    of_org(app, org).await?.iter().find(|preset| preset.name == name).cloned().ok_or(Error::NotFound)
}
