//! What is known of an image beside its bytes, and what its owner may say of it.

use std::sync::Arc;

use crate::app::App;
use crate::model::{Actor, Image, ImageId, State};
use crate::{Error, access, db, fetch, kept};

/// Versions that a record lists, the newest of them.
const VERSIONS_MAX: u32 = 1000;

/// The image with each of its versions that can be read, the newest first, for callers who may see it. There is at least one.
///
/// # Errors
/// [`Error::NotFound`] for what isn't there, waits for its ticket or is another org's; [`Error::Forbidden`].
pub async fn versions(app: &App, actor: &Actor, id: ImageId) -> Result<Vec<Image>, Error> {
    let mut versions = db::images::versions(&app.database, id, VERSIONS_MAX).await?;
    if versions.first().is_none_or(|image| image.org != actor.org) {
        versions = db::images::versions(&app.database, id.chosen_by(actor.org), VERSIONS_MAX).await?;
    }
    let Some(newest) = versions.first().filter(|image| image.state != State::Temporary) else { return Err(Error::NotFound) };
    access::check(actor, access::Action::View(newest))?;
    Ok(versions)
}

/// Says which place should be seen whatever is cut off, in thousandths of the upright picture's width and height; none takes it back.
///
/// # Errors
/// As [`versions`], and [`Error::Forbidden`] for those who may only look.
pub async fn set_focus(app: &App, actor: &Actor, id: ImageId, focus: Option<(u16, u16)>) -> Result<(), Error> {
    let id = editable(app, actor, id).await?.id;
    app.database.write(move |connection| Box::pin(async move { db::images::set_focus(connection, id, focus).await })).await?;
    tracing::info!(target: "audit", login = actor.login, image = %id, "focal point set");
    Ok(())
}

/// Removes every rendering of an image; they are made again when somebody asks. Returns how many were kept.
///
/// # Errors
/// As [`set_focus`].
pub async fn purge(app: &App, actor: &Actor, id: ImageId) -> Result<usize, Error> {
    let id = editable(app, actor, id).await?.id;
    let count = kept::purge(app, id).await?;
    tracing::info!(target: "audit", login = actor.login, image = %id, count, "renderings purged");
    Ok(count)
}

async fn editable(app: &App, actor: &Actor, id: ImageId) -> Result<Arc<Image>, Error> {
    let image = fetch::called(app, actor.org, id).await?;
    if image.state == State::Temporary {
        return Err(Error::NotFound);
    }
    access::check(actor, access::Action::Edit(&image)).map(|()| image)
}
