//! Named files: finding them, saying who may read them, deleting them and taking that back. Storing one is an upload.

use std::sync::Arc;

use crate::app::App;
use crate::db::files::Address;
use crate::model::{Acl, Actor, FileName, Image, ImageId, Namespace, NamespaceRules, OrgId, Timestamp};
use crate::{Error, access, db, fetch};

/// A file as a caller names it. The org is the caller's own.
#[derive(Debug, Clone, Copy)]
pub struct Named<'a> {
    /// In which namespace.
    pub namespace: &'a Namespace,
    /// Under which name.
    pub name: &'a FileName,
}

impl Named<'_> {
    fn address(self, org: OrgId) -> Address {
        Address { org, namespace: self.namespace.clone(), name: self.name.clone() }
    }
}

/// Whether the caller may ask for files at all, or also change them: asked before it learns what exists.
///
/// # Errors
/// [`Error::Forbidden`].
pub fn check_right(actor: &Actor, action: access::Action<'_>) -> Result<(), Error> {
    access::check(actor, action).inspect_err(|_| {
        tracing::warn!(target: "audit", login = actor.login, org = actor.org.0, ?action, "denied");
    })
}

/// What the caller's org has decided for one of its namespaces. Touches no database when it was asked before.
///
/// # Errors
/// [`Error::NotFound`] when it has no such namespace.
pub async fn namespace(app: &App, actor: &Actor, name: &str) -> Result<Arc<NamespaceRules>, Error> {
    let namespace = Namespace::parse(name).map_err(|_| Error::NotFound)?;
    let key = (actor.org, namespace);
    if let Some(rules) = app.namespaces.get(&key) {
        return Ok(rules);
    }
    let generation = app.accounts.generation();
    let rules = db::namespaces::find(&app.database, key.0, &key.1).await?.map(Arc::new).ok_or(Error::NotFound)?;
    app.namespaces.insert(key.clone(), Arc::clone(&rules));
    if app.accounts.generation() != generation {
        // They may have changed while they were being read: the next use reads them again.
        app.namespaces.remove(&key);
    }
    Ok(rules)
}

/// The newest version of a file, or the one of a number.
///
/// # Errors
/// [`Error::Forbidden`]; [`Error::NotFound`] when there is none, or it is deleted.
pub async fn find(app: &App, actor: &Actor, file: Named<'_>, number: Option<u32>) -> Result<Image, Error> {
    check_right(actor, access::Action::ReadFiles)?;
    let image = db::files::find(&app.database, &file.address(actor.org), number).await?.ok_or(Error::NotFound)?;
    access::check(actor, access::Action::View(&image))?;
    Ok(image)
}

/// The newest version of the file with this id.
///
/// # Errors
/// [`Error::Forbidden`]; [`Error::NotFound`] when there is none, it is another org's, has no name, or is deleted.
pub async fn find_by_handle(app: &App, actor: &Actor, id: ImageId) -> Result<Arc<Image>, Error> {
    check_right(actor, access::Action::ReadFiles)?;
    let image = fetch::by_id(app, id).await?;
    if image.name.is_none() {
        return Err(Error::NotFound);
    }
    access::check(actor, access::Action::View(&image))?;
    Ok(image)
}

/// Versions with a number below `below`, newest first, at most `count`.
///
/// # Errors
/// [`Error::Forbidden`]; [`Error::NotFound`] when the file has none that can be read.
pub async fn versions(app: &App, actor: &Actor, file: Named<'_>, below: u32, count: u32) -> Result<Vec<Image>, Error> {
    check_right(actor, access::Action::ReadFiles)?;
    let versions = db::files::versions(&app.database, &file.address(actor.org), below, count).await?;
    if versions.is_empty() {
        // A page past the last one is empty; a file that isn't there is something else.
        find(app, actor, file, None).await?;
    }
    for version in &versions {
        access::check(actor, access::Action::View(version))?;
    }
    Ok(versions)
}

/// Says who may read all versions of a file, now and later ones.
///
/// # Errors
/// [`Error::Forbidden`]; [`Error::NotFound`].
pub async fn set_acl(app: &App, actor: &Actor, file: Named<'_>, acl: Acl) -> Result<Image, Error> {
    check_right(actor, access::Action::WriteFiles)?;
    let address = file.address(actor.org);
    let _turn = app.database.turn(address.org, &address).await?;
    app.database
        .write(move |connection| Box::pin(async move { db::files::set_acl(connection, &address, acl).await }))
        .await?
        .ok_or(Error::NotFound)?;
    changed(actor, file, acl.as_str());
    db::files::find(&app.database, &file.address(actor.org), None).await?.ok_or(Error::NotFound)
}

/// Deletes a file with all its versions, or one version. Until the returned moment [`restore`] takes it back.
///
/// # Errors
/// [`Error::Forbidden`]; [`Error::NotFound`] when it isn't there, or is deleted already.
pub async fn delete(app: &App, actor: &Actor, file: Named<'_>, number: Option<u32>) -> Result<(Image, Timestamp), Error> {
    check_right(actor, access::Action::WriteFiles)?;
    let address = file.address(actor.org);
    let image = db::files::find(&app.database, &address, number).await?.ok_or(Error::NotFound)?;
    let now = app.database.now();
    let _turn = app.database.turn(address.org, &address).await?;
    app.database
        .write(move |connection| Box::pin(async move { db::files::delete(connection, &address, number, now).await }))
        .await?
        .ok_or(Error::NotFound)?;
    changed(actor, file, "deleted");
    Ok((image, now.plus(app.options.sweep.undo)))
}

/// Takes the deletion of a version back, or, without a number, everything that the last deletion took away.
///
/// # Errors
/// [`Error::Forbidden`]; [`Error::NotFound`] when nothing was deleted within the undo window.
pub async fn restore(app: &App, actor: &Actor, file: Named<'_>, number: Option<u32>) -> Result<Image, Error> {
    check_right(actor, access::Action::WriteFiles)?;
    let address = file.address(actor.org);
    let deleted_since = app.database.now().minus(app.options.sweep.undo);
    let _turn = app.database.turn(address.org, &address).await?;
    app.database
        .write(move |connection| Box::pin(async move { db::files::restore(connection, &address, number, deleted_since).await }))
        .await?
        .ok_or(Error::NotFound)?;
    changed(actor, file, "restored");
    db::files::find(&app.database, &file.address(actor.org), number).await?.ok_or(Error::NotFound)
}

fn changed(actor: &Actor, file: Named<'_>, what: &str) {
    let (login, org) = (&actor.login, actor.org.0);
    let (namespace, name) = (file.namespace.as_str(), file.name.as_str());
    tracing::info!(target: "audit", login, org, namespace, name, what, "file changed");
}
