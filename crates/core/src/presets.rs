//! Transforms with a name. What an org has named may be asked for by whoever may see the image; so it is bounded what strangers cost.

use std::sync::Arc;

use crate::app::App;
use crate::model::OrgId;
use crate::{Error, db};

/// The steps of a preset. Touches no database when it was asked before.
///
/// # Errors
/// [`Error::NotFound`] when the org has no such preset.
pub async fn find(app: &App, org: OrgId, name: &str) -> Result<Arc<str>, Error> {
    let key = (org, name.to_owned());
    if let Some(steps) = app.presets.get(&key) {
        return Ok(steps);
    }
    let generation = app.accounts.generation();
    let steps: Arc<str> = db::presets::find(&app.database, org, name).await?.ok_or(Error::NotFound)?.into();
    app.presets.insert(key.clone(), Arc::clone(&steps));
    if app.accounts.generation() != generation {
        // It may have changed while it was being read: the next use reads it again.
        app.presets.remove(&key);
    }
    Ok(steps)
}
